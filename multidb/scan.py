"""Servers that exist already, read for what could be an app's place, and the entries that a manifest would have of it.

Nothing is changed, on no server. What a server or an app has named is data: it becomes an entry only where the
manifest's own checks take it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multidb.errors import ManifestError, MultidbError, UsageError
from multidb.fleet import Answer, Fleet, Scope
from multidb.model import AppMode, ExistingPlace, Project, Server
from multidb.provisioners import known_stores, provisioner

__all__ = ["Scan", "ScannedServer", "scan"]

Load = Callable[[Mapping[str, Mapping[str, Any]]], Project]
"""Reads and checks the manifest with more apps."""


@dataclass(frozen=True, slots=True)
class ScannedServer:
    """One server, and what is there.

    Args:
        error: why it could not be read.
        skipped: why this machine cannot have it.
    """

    server: str
    store: str
    product: str = ""
    places: tuple[ExistingPlace, ...] = ()
    error: MultidbError | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is there.

    Args:
        entries: by app, what a manifest would say of it.
        managed: apps of the manifest that have a place of their own already.
    """

    servers: tuple[ScannedServer, ...]
    entries: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    managed: tuple[str, ...] = ()

    @property
    def unplaced(self) -> Iterator[tuple[ScannedServer, ExistingPlace]]:
        """What is no app's, with the reason."""
        return ((server, place) for server in self.servers for place in server.places if place.reason)

    @property
    def accounts(self) -> dict[str, list[str]]:
        """By store, the accounts that use places of the entries and are none of the apps' own."""
        accounts: dict[str, set[str]] = {}
        for server in self.servers:
            for place in server.places:
                if place.app in self.entries and not place.reason:
                    accounts.setdefault(server.store, set()).update(place.accounts)
        return {store: sorted(names) for store, names in accounts.items() if names}


def scan(fleet: Fleet, mode: AppMode, load: Load) -> Scan:
    """Reads every server that the manifest names, and says what entries would be made of it.

    Args:
        mode: of the entries.
        load: to see whether a manifest takes them; what it does not take is no app's.
    """
    answers = fleet.on_servers(Scope(idle=True), lambda server: _read(fleet, server))
    project = fleet.project
    known = {*project.apps, *project.removed}
    servers = [_scanned(answer, known) for answer in answers]
    telling = [server for server in servers if not _by_prefix(server.store)]
    elsewhere = {place.app for server in telling for place in server.places if place.app}
    servers = [_scanned(answer, known | elsewhere) for answer in answers]
    servers = [_with_places(server, (_of_others(place, project) for place in server.places)) for server in servers]
    managed = {place.app for server in servers for place in server.places if place.app in project.apps}
    entries, refused = _taken(_entries(servers, project, mode), load)
    servers = [_without(server, refused) for server in servers]
    return Scan(tuple(servers), entries, tuple(sorted(managed)))


def _by_prefix(store: str) -> bool:
    """Whether the store tells apps by the beginning of names alone."""
    scanning = provisioner(store).scanning
    return scanning is not None and scanning.prefixed


def _read(fleet: Fleet, server: Server) -> tuple[str, Any]:
    scanning = provisioner(server.store).scanning
    if scanning is None:
        return "", None
    fleet.progress(server.name, "reading")
    with fleet.open(server) as session:
        return f"{session.facts.product} {session.facts.version}", scanning.read(session)


def _scanned(answer: Answer[tuple[str, Any]], known: Collection[str]) -> ScannedServer:
    scanned = ScannedServer(answer.name, answer.store, error=answer.error, skipped=answer.skipped)
    scanning = provisioner(answer.store).scanning
    if answer.value is None or scanning is None:
        return scanned
    product, read = answer.value
    return replace(scanned, product=product, places=tuple(scanning.places(read, known)))


def _of_others(place: ExistingPlace, project: Project) -> ExistingPlace:
    """What carries a mark, or has the name of a removed app, is not there to be taken."""
    if place.reason or place.app in project.apps:
        return place
    if place.owner is not None and place.owner.project != project.name:
        return replace(place, app="", reason=f"it belongs to {place.owner}, which another manifest manages")
    if place.app in project.removed or place.owner is not None:
        reason = (
            f"it is of {place.app}, which is not in the manifest any more: multidb undo-remove or purge {place.app}"
        )
        return replace(place, app="", reason=reason)
    return place


def _entries(servers: Sequence[ScannedServer], project: Project, mode: AppMode) -> dict[str, dict[str, Any]]:
    """By app that is not in the manifest, its entry."""
    by_app: dict[str, dict[str, list[ExistingPlace]]] = {}
    for server in servers:
        for place in server.places:
            if place.app and not place.reason and place.app not in project.apps:
                by_app.setdefault(place.app, {}).setdefault(server.store, []).append(place)
    order = list(known_stores())
    entries: dict[str, dict[str, Any]] = {}
    for app in sorted(by_app):
        stores = sorted(by_app[app], key=order.index)
        entry: dict[str, Any] = {"stores": stores}
        entry |= {"mode": mode.value} if mode is not AppMode.AUTHORITATIVE else {}
        for store in stores:
            scanning = provisioner(store).scanning
            assert scanning is not None
            existing = by_app[app][store]
            options = scanning.options(existing) if scanning.options is not None else existing[0].options
            entry |= {store: dict(options)} if options else {}
        entries[app] = entry
    return entries


def _taken(entries: Mapping[str, dict[str, Any]], load: Load) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The entries that the manifest takes, and by app why it does not take the others: found by halves, so that one
    that is wrong among many costs few looks."""
    if not entries:
        return {}, {}
    taken: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    todo = [list(entries)]
    while todo:
        part = todo.pop()
        try:
            load(taken | {app: entries[app] for app in part})
        except (ManifestError, UsageError) as error:
            if len(part) == 1:
                refused[part[0]] = _why(error)
            else:
                todo += [part[len(part) // 2 :], part[: len(part) // 2]]
        else:
            taken |= {app: entries[app] for app in part}
    return dict(sorted(taken.items())), refused


def _why(error: ManifestError | UsageError) -> str:
    if isinstance(error, ManifestError):
        return "; ".join(problem.message for problem in error.problems[:2])
    return error.message


def _without(server: ScannedServer, refused: Mapping[str, str]) -> ScannedServer:
    places = (
        replace(place, reason=refused[place.app]) if place.app in refused and not place.reason else place
        for place in server.places
    )
    return _with_places(server, places)


def _with_places(server: ScannedServer, places: Iterable[ExistingPlace]) -> ScannedServer:
    return replace(server, places=tuple(places))
