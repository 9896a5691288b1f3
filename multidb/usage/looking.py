"""Asks every server what its apps use: one session each, bulk queries, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from multidb.engine import Engine, Scope, not_running
from multidb.errors import MultidbError, UsageError
from multidb.model import App, Progress, Server
from multidb.runtime import ServerState
from multidb.usage.history import History, Look
from multidb.usage.report import Growth, ServerSeen, StoreUsage, UsageReport

__all__ = ["look"]


def look(engine: Engine, scope: Scope | None = None, *, progress: Progress, keep: bool = True) -> UsageReport:
    """What the apps in scope use now, and how that has grown since the last look that was kept.

    Args:
        keep: write this look to the history; only one that covers every app and store is.

    Raises:
        UsageError: an app of the scope is not in the manifest.

    A server that cannot be asked is in `UsageReport.servers` with its error.
    """
    scope = scope or Scope()
    engine.require(scope)
    now, history = datetime.now(UTC), History(engine.state)
    looks, note = history.looks()
    asked = engine.servers(scope)
    seen = engine.side_by_side(lambda server: _ask(engine, server, scope, progress), asked)
    earlier = looks[-1] if looks else None
    stores = [
        each
        for server, answer in zip(asked, seen, strict=True)
        for each in _of_apps(engine, server, answer, scope, earlier)
    ]
    order = {app: place for place, app in enumerate(engine.project.apps)}
    stores.sort(key=lambda each: order[each.app])
    servers = (*seen, *_missing(engine, scope))
    if keep and scope.apps is None and scope.stores is None:
        try:
            history.add(_sizes(now, stores))
        except UsageError as error:  # a look is shown, whether or not it can be kept
            note = note or f"{error.sentence()}; these sizes are not kept"
    return UsageReport(engine.project.name, now, tuple(stores), servers, (note,) if note else ())


def _ask(engine: Engine, server: Server, scope: Scope, progress: Progress) -> ServerSeen:
    apps: Sequence[App] = [app for app in engine.apps_of(server) if scope.wants(app)]
    progress(server.name, "counting")
    try:
        with engine.open(server) as session:
            usage = session.usage(engine.context(server, session), apps)
            return ServerSeen(server.name, server.store, usage)
    except MultidbError as error:
        return ServerSeen(server.name, server.store, error=error)


def _of_apps(
    engine: Engine, server: Server, seen: ServerSeen, scope: Scope, earlier: Look | None
) -> Iterator[StoreUsage]:
    restricted = engine.restricted(server.store)
    for app in engine.apps_of(server) if seen.usage else ():
        usage = seen.usage.apps.get(app.id) if seen.usage and scope.wants(app) else None
        if usage is None:
            continue
        quota, growth = app.quota.get(server.store), _growth(earlier, app.id, server.store, usage.size)
        yield StoreUsage(app.id, server.store, server.name, usage, quota, growth, app.id in restricted)


def _growth(earlier: Look | None, app: str, store: str, size: int | None) -> Growth | None:
    before = earlier.size(app, store) if earlier else None
    if earlier is None or before is None or size is None:
        return None
    return Growth(size - before, earlier.at)


def _missing(engine: Engine, scope: Scope) -> Iterator[ServerSeen]:
    """The servers that do not run; one that cannot be had on this machine has nothing to tell."""
    for status, _ in engine.lacking(scope):
        if status.state is not ServerState.SKIPPED:
            yield ServerSeen(status.name, status.store, error=not_running(status))


def _sizes(at: datetime, stores: Iterable[StoreUsage]) -> Look:
    sizes: dict[str, dict[str, int]] = {}
    for each in stores:
        if each.usage.size is not None:
            sizes.setdefault(each.app, {})[each.store] = each.usage.size
    return Look(at, sizes)
