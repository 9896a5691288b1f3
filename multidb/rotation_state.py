"""How far the rotation of an app's credentials is, store by store, and who comes with which of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from multidb.alternation import Alternation, RotationPhase, alternations
from multidb.concurrency import side_by_side
from multidb.credentials import issued_at
from multidb.errors import MultidbError
from multidb.fleet import SERVERS_AT_ONCE, Fleet, Scope
from multidb.model import (
    CredentialUse,
    Server,
    counted,
    listed,
    moment_in_words,
)
from multidb.provisioners import provisioner
from multidb.secrets import Alternate

__all__ = [
    "BOTH_WORK",
    "Place",
    "Standing",
    "StoreUse",
    "UnknownUse",
    "recorded_standings",
    "standings",
    "use_in_words",
    "uses_in_words",
    "uses_of",
]

BOTH_WORK: Final = (RotationPhase.PREPARED, RotationPhase.REVERTED)
"""The phases in which both credentials work, and nothing is half done."""
Place = tuple[str, str]
"""An app and a store."""


@dataclasses.dataclass(frozen=True, slots=True)
class UnknownUse:
    """A store that cannot tell who uses a credential, and since when the app's variables have another one."""

    since: datetime


StoreUse = Sequence[CredentialUse] | UnknownUse
"""Who uses a credential that is to be turned off."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How an app's credentials stand on one store.

    Args:
        alternation: what was recorded of their rotation; None: they were never rotated.
        issued: when those were made that the app's variables have; None: before that was recorded.
        use: who uses the other ones; None: they do not work.
    """

    alternation: Alternation | None
    issued: datetime | None
    use: StoreUse | None

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        alternation = self.alternation
        uses = self.use if self.use is not None and not isinstance(self.use, UnknownUse) else ()
        return {
            "current": (alternation.current if alternation is not None else Alternate.FIRST).value,
            "phase": alternation.phase.value if alternation is not None else None,
            "since": alternation.since.isoformat(timespec="seconds") if alternation is not None else None,
            "issued_at": self.issued.isoformat(timespec="seconds") if self.issued is not None else None,
            "former_used_by": [
                {
                    "login": use.login,
                    "sessions": use.sessions,
                    "address": use.address or None,
                    "since": use.since.isoformat(timespec="seconds") if use.since is not None else None,
                }
                for use in uses
            ],
        }


def standings(fleet: Fleet, app_id: str) -> dict[str, Standing]:
    """How an app's credentials stand, by store; who uses one that is to be turned off is asked of the servers.

    Raises:
        UsageError: no such app.
        ServerError: a server does not answer.
    """
    fleet.app(app_id)
    known = alternations(fleet.state)
    servers = {server.store: server for server in fleet.servers(Scope(apps=frozenset({app_id})))}
    entries = {store: known[app_id, store] for store in servers if (app_id, store) in known}
    asked = {(app_id, store): (servers[store], entry) for store, entry in entries.items() if entry.phase in BOTH_WORK}
    uses = uses_of(fleet, asked)
    stands: dict[str, Standing] = {}
    for store in servers:
        use = uses.get((app_id, store))
        if isinstance(use, MultidbError):
            raise use
        stands[store] = Standing(entries.get(store), issued_at(fleet.state, app_id, store), use)
    return stands


def recorded_standings(fleet: Fleet, app_id: str) -> dict[str, Standing]:
    """As `standings`, from the records alone: who uses what is not asked.

    Raises:
        UsageError: no such app.
    """
    app, known = fleet.app(app_id), alternations(fleet.state)
    return {
        store: Standing(known.get((app_id, store)), issued_at(fleet.state, app_id, store), None) for store in app.stores
    }


def uses_of(fleet: Fleet, places: Mapping[Place, tuple[Server, Alternation]]) -> dict[Place, StoreUse | MultidbError]:
    """Who uses the credential that is not in an app's variables, by app and store; each server is asked once."""
    by_server: dict[str, list[Place]] = {}
    for place, (server, _) in places.items():
        by_server.setdefault(server.name, []).append(place)

    def asked(of_server: list[Place]) -> dict[Place, StoreUse | MultidbError]:
        server, _ = places[of_server[0]]
        if not provisioner(server.store).tells_use:
            return {place: UnknownUse(places[place][1].since) for place in of_server}
        former = {place[0]: places[place][1].current.other for place in of_server}
        try:
            with fleet.open(server) as session:
                uses = session.in_use(former)
        except MultidbError as error:
            return dict.fromkeys(of_server, error)
        return {place: tuple(uses.get(place[0], ())) for place in of_server}

    answers = side_by_side(asked, list(by_server.values()), at_once=SERVERS_AT_ONCE)
    return {place: answer for of_server in answers for place, answer in of_server.items()}


def uses_in_words(store: str, use: StoreUse) -> str:
    """Who uses a credential on a store, as part of a sentence."""
    return f"{store}: {use_in_words(use)}"


def use_in_words(use: StoreUse) -> str:
    """As `uses_in_words`, where the store is said already."""
    if isinstance(use, UnknownUse):
        return f"nobody can tell who uses them; the app has others since {moment_in_words(use.since)}"
    sessions = sum(one.sessions for one in use)
    addresses = sorted({one.address for one in use if one.address})
    began = min((one.since for one in use if one.since is not None), default=None)
    origin = f" from {listed(addresses, 4)}" if addresses else ""
    since = f", the oldest since {moment_in_words(began)}" if began is not None else ""
    return f"{counted(sessions, 'session')}{origin}{since}"
