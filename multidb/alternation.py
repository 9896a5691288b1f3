"""Which of an app's two credentials on each of its stores works: what a rotation has come to, step by step.

It stands in the section ``alternation`` of the project's state, and every plan reads it. So whatever is run while a
rotation is under way leaves both credentials as they are, and a rotation that was interrupted is gone on with by the
next apply. An app that was never rotated has no entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from multidb.document import moment
from multidb.errors import Refused
from multidb.model import Alternates, listed
from multidb.secrets import Alternate
from multidb.state import ProjectState

__all__ = [
    "Alternation",
    "RotationPhase",
    "alternates_on",
    "alternations",
    "forget_alternations",
    "recall_alternations",
    "record_alternation",
    "require_not_rotating",
]

_SECTION = "alternation"


class RotationPhase(StrEnum):
    """How far a rotation has come. Both credentials work until it is finishing."""

    PREPARING = "preparing"  # the app's variables have the old one; the new one is being made
    PREPARED = "prepared"  # its variables have the new one
    REVERTED = "reverted"  # its variables have the old one again
    FINISHING = "finishing"  # the other one is being turned off
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Alternation:
    """An app's two credentials on one store.

    Args:
        current: the one in the app's variables.
        since: when the phase began, in UTC.
        issued: when each was made, as far as that is known, in UTC.
        serials: as `Alternates.serials`.
    """

    app: str
    store: str
    current: Alternate
    phase: RotationPhase
    since: datetime
    issued: Mapping[Alternate, datetime]
    serials: Mapping[Alternate, int] = field(default_factory=dict)

    @property
    def alternates(self) -> Alternates:
        """What the store is told of it."""
        both = self.phase not in (RotationPhase.FINISHING, RotationPhase.DONE)
        working = frozenset(Alternate) if both else frozenset({self.current})
        return Alternates(self.current, working, tuple(Alternate), self.serials)

    @property
    def under_way(self) -> bool:
        """Whether there is something left to do."""
        return self.phase is not RotationPhase.DONE


def alternations(state: ProjectState) -> dict[tuple[str, str], Alternation]:
    """Every one that is recorded, by app and store.

    Raises:
        UsageError: the state cannot be understood.
    """
    of_apps = state.entries(_SECTION, "rotations", _of_app)
    return {(app, store): entry for app, stores in of_apps.items() for store, entry in stores.items()}


def _of_app(app: str, stores: Mapping[str, Any]) -> dict[str, Alternation]:
    return {
        store: Alternation(
            app,
            store,
            Alternate(entry["current"]),
            RotationPhase(entry["phase"]),
            moment(entry["since"]),
            {Alternate(of): moment(when) for of, when in entry["issued"].items()},
            {Alternate(of): serial for of, serial in entry.get("serials", {}).items()},
        )
        for store, entry in stores.items()
    }


def alternates_on(state: ProjectState, store: str) -> dict[str, Alternates]:
    """What one store is told: by app that was rotated there, or is being."""
    return {app: entry.alternates for (app, of), entry in alternations(state).items() if of == store}


def record_alternation(state: ProjectState, entries: Iterable[Alternation]) -> None:
    """Writes these down, in one write, in place of earlier ones of the same app and store."""
    with state.change(_SECTION) as section:
        for entry in entries:
            section.setdefault(entry.app, {})[entry.store] = {
                "current": entry.current.value,
                "phase": entry.phase.value,
                "since": entry.since.isoformat(timespec="seconds"),
                "issued": {of.value: when.isoformat(timespec="seconds") for of, when in entry.issued.items()},
                "serials": {of.value: serial for of, serial in entry.serials.items()},
            }


def recall_alternations(state: ProjectState, store: str, seen: Mapping[str, Alternates], now: datetime) -> None:
    """Writes down what a server says of apps of which nothing is recorded: the state was lost, or is an old copy."""
    known = alternations(state)
    record_alternation(
        state,
        [
            Alternation(
                app,
                store,
                alternates.current,
                RotationPhase.PREPARED if len(alternates.working) > 1 else RotationPhase.DONE,
                now,
                {},
                alternates.serials,
            )
            for app, alternates in seen.items()
            if (app, store) not in known
        ],
    )


def forget_alternations(state: ProjectState, app: str) -> None:
    """Nothing is known of an app that is gone: another may take its name."""
    if app in state.read(_SECTION):
        with state.change(_SECTION) as section:
            section.pop(app, None)


def require_not_rotating(state: ProjectState, app: str) -> None:
    """`Refused` while two credentials of the app work: which of them its clients have, nobody could tell any more."""
    stores = [store for (of, store), entry in alternations(state).items() if of == app and entry.under_way]
    if stores:
        raise Refused(
            f"its credentials on {listed(stores)} are being rotated",
            where=f"app {app}",
            hint=f"finish that first: multidb rotate {app} --finish; or go back: multidb rotate {app} --abort --force",
        )
