"""The making of apps' credentials: generated where a statement needs one, derived where a server keeps a verifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from multidb.alternation import Alternation, alternations
from multidb.fleet import Fleet, Scope
from multidb.model import App, Change, Provisioner
from multidb.provisioners import provisioner
from multidb.secrets import Secret, SecretRef, SecretSpec, generate
from multidb.state import ProjectState

__all__ = [
    "FIRST_ISSUED",
    "ISSUED",
    "CredentialAge",
    "credential_ages",
    "ensure_secrets",
    "issued_at",
    "make_anew",
    "refit_verifiers",
]

ISSUED: Final = "issued"
"""The state's section with the moment at which each app last got a credential."""
FIRST_ISSUED: Final = "first_issued"
"""The state's section with the moment at which each app got its first one: since when there has been something to back
up. Not of an app that had one before that was written down."""


def ensure_secrets(fleet: Fleet, store: Provisioner, changes: Sequence[Change]) -> None:
    """Generates, in one write, the secrets that statements bind and the store does not hold, with what they are made
    of."""
    bound = {ref for change in changes for statement in change.statements for _, ref in statement.binds}
    owners = {ref.owner for ref in bound}
    all_specs = [spec for app in fleet.project.apps.values() if app.id in owners for spec in store.secrets(app)]
    bound |= {spec.source for spec in all_specs if spec.source is not None and spec.ref in bound}
    specs = [spec for spec in all_specs if spec.ref in bound]
    missing = {spec.ref for spec in specs if fleet.state.secrets.get(spec.ref) is None}
    made = {spec.ref: generate() for spec in specs if spec.source is None and spec.ref in missing}
    for spec in specs:
        source = spec.source and (made.get(spec.source) or fleet.state.secrets.get(spec.source))
        if source and spec.derive is not None and (spec.ref in missing or spec.source in made):
            made[spec.ref] = Secret(spec.derive(source.reveal()))
    if made:
        fleet.state.secrets.put(made)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with fleet.state.change(ISSUED) as issued:
            new = {ref.owner for ref in made if ref.owner not in issued}
            issued.update({ref.owner: now for ref in made})
        with fleet.state.change(FIRST_ISSUED) as first_issued:
            first_issued.update(dict.fromkeys(new, now))


def make_anew(state: ProjectState, specs: Iterable[SecretSpec]) -> None:
    """Generates these secrets in one write, in place of those that there were.

    Args:
        specs: each after what it is made of.
    """
    made: dict[SecretRef, Secret] = {}
    for spec in specs:
        state.secrets.get(spec.ref)  # a store takes a value in place of one that was read only
        source = made.get(spec.source) if spec.source is not None else None
        made[spec.ref] = Secret(spec.derive(source.reveal())) if source is not None and spec.derive else generate()
    state.secrets.put(made)


def issued_at(state: ProjectState, app: str, store: str) -> datetime | None:
    """When the credential was made that the app's variables have for a store; None: before that was recorded.

    Raises:
        UsageError: the state cannot be understood.
    """
    return _issued(alternations(state).get((app, store)), state.read(ISSUED).get(app))


@dataclass(frozen=True, slots=True)
class CredentialAge:
    """What is recorded of an app's credentials on one store.

    Args:
        issued: when those were made that the app's variables have; None: before that was recorded.
        alternation: how far their rotation has come; None: they were never rotated.
    """

    issued: datetime | None = None
    alternation: Alternation | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether there is something left to do of a rotation."""
        return self.alternation is not None and self.alternation.under_way


def credential_ages(state: ProjectState, apps: Iterable[App]) -> dict[tuple[str, str], CredentialAge]:
    """By app and store, what is recorded of their credentials; the state is read once.

    Raises:
        UsageError: the state cannot be understood.
    """
    entries, issued = alternations(state), state.read(ISSUED)
    places = ((app.id, store) for app in apps for store in app.stores)
    return {
        place: CredentialAge(_issued(entries.get(place), issued.get(place[0])), entries.get(place)) for place in places
    }


def _issued(entry: Alternation | None, of_app: str | None) -> datetime | None:
    """The moment of the credential that works, by its rotation, or as the app's newest where there was none."""
    if entry is not None:
        return entry.issued.get(entry.current)
    return datetime.fromisoformat(of_app) if of_app is not None else None


def refit_verifiers(fleet: Fleet, scope: Scope) -> None:
    """Makes the verifiers anew that are not of the passwords beside them (one of the two is from an old copy), so
    that the plan sees what the server lacks. Only of apps that the scope names: it takes a while for each."""
    made: dict[SecretRef, Secret] = {}
    for app in fleet.project.apps.values() if scope.apps is not None else ():
        stores = [store for store in app.stores if scope.wants(app) and (scope.stores is None or store in scope.stores)]
        for spec in (spec for store in stores for spec in provisioner(store).secrets(app)):
            source = fleet.state.secrets.get(spec.source) if spec.source is not None else None
            derived = fleet.state.secrets.get(spec.ref)
            if source is None or derived is None or spec.derive is None:
                continue
            if not spec.is_of(source.reveal(), derived.reveal()):
                made[spec.ref] = Secret(spec.derive(source.reveal()))
    if made:
        fleet.state.secrets.put(made)
