"""What an app has at this moment, for whoever is about to put something else in its place: on which servers, whether
there is data, what is bound to it, and the safety set that is made of it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multidb.backup.creation import ServerContexts, make_sets
from multidb.backup.sets import BackupSet, Reason
from multidb.engine import Engine
from multidb.errors import ArchiveError, Refused, first_hint
from multidb.fleet import Scope
from multidb.model import App, BoundArchive, Progress, Server, StoreContext

__all__ = ["contexts_of", "occupied", "require_unbound", "require_unbound_at", "safety_set"]


def contexts_of(engine: Engine, app: App, stores: Sequence[str], where: str) -> dict[str, tuple[Server, StoreContext]]:
    """By store, the app's server and what the store's functions are told of it.

    Raises:
        Refused: this machine has no such server.
        ServerError: one cannot be asked.
    """
    known = ServerContexts(engine.fleet, Scope(frozenset({app.id}), frozenset(stores)))
    contexts = {}
    for store in stores:
        context = known.of(app, store)
        if context is None:
            raise Refused(
                f"this machine has no {store} to restore it on", where=where, hint="leave it out: --store ..."
            )
        contexts[store] = context
    return contexts


def occupied(engine: Engine, app: App, stores: Sequence[str]) -> list[str]:
    """Those of the stores where the app has data now.

    Raises:
        ServerError, Refused: a server cannot be asked, or not be had here.
    """
    occupied_stores = []
    for store, (server, context) in contexts_of(engine, app, stores, f"app {app.id}").items():
        with engine.fleet.archive(server) as archive:
            if not archive.is_empty(archive.live(app, context)):
                occupied_stores.append(store)
    return occupied_stores


def require_unbound(engine: Engine, app: App, stores: Sequence[str]) -> None:
    """Refuses what a restore into these stores would refuse, for who changes something else before it.

    Raises:
        Refused: something is bound to what the app has there now, and would be lost with it.
        ServerError: a server cannot be asked.
    """
    require_unbound_at(engine, app, contexts_of(engine, app, stores, f"app {app.id}"))


def require_unbound_at(engine: Engine, app: App, contexts: Mapping[str, tuple[Server, StoreContext]]) -> None:
    for server, context in contexts.values():
        archive = engine.fleet.archive(server)
        if isinstance(archive, BoundArchive):  # the others stay closed: one may be open already, and take no second
            with archive:
                archive.require_unbound(app, context)


def safety_set(
    engine: Engine, app_id: str, occupied: Sequence[str], progress: Progress, *, files: bool = False
) -> BackupSet:
    """A set of what the app has now, before it goes.

    Raises:
        ArchiveError: it could not be made.
    """
    scope = Scope(frozenset({app_id}), frozenset(occupied))
    (made,) = make_sets(engine, scope, files=files, reason=Reason.SAFETY, progress=progress)
    if made.made is None:
        why = "; ".join(f"{name}: {error}" for name, error in made.errors.items())
        raise ArchiveError(
            f"what it has now could not be backed up first: {why}",
            where=f"app {app_id}",
            hint=f"nothing was changed; {first_hint(made.errors.values(), 'correct the cause')}; or go without: "
            "--no-safety-set",
        )
    return made.made
