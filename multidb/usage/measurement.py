"""Asks every server what its apps use: one session each, bulk queries, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from multidb.errors import Locked, UsageError
from multidb.fleet import Answer, Fleet, Scope
from multidb.model import App, Server, ServerUsage
from multidb.usage.history import History, Look
from multidb.usage.report import Growth, ServerSeen, StoreUsage, UsageReport

__all__ = ["look"]


def look(fleet: Fleet, scope: Scope | None = None, *, keep: bool = True) -> UsageReport:
    """What the apps in scope use now, and how that has grown since the last look that was kept.

    Args:
        keep: write this look to the history; only one that covers every app and store is.

    Raises:
        UsageError: an app of the scope is not in the manifest.

    A server that cannot be asked is in `UsageReport.servers` with its error.
    """
    scope = scope or Scope()
    fleet.require(scope)
    now, history = datetime.now(UTC), History(fleet.state)
    looks, note = history.looks()

    def apps_on(server: Server) -> Sequence[App]:
        return [app for app in fleet.apps_of(server) if scope.wants(app)]

    answers = fleet.ask(scope, lambda server, session, context: session.usage(context, apps_on(server)), "counting")
    earlier = looks[-1] if looks else None
    stores = [used for answer in answers for used in _of_apps(fleet, answer, earlier)]
    order = {app: place for place, app in enumerate(fleet.project.apps)}
    stores.sort(key=lambda used: order[used.app])
    servers = tuple(
        ServerSeen(answer.name, answer.store, answer.value, answer.error, answer.app_ids)
        for answer in answers
        if not answer.skipped  # one that cannot be had on this machine has nothing to tell
    )
    if keep and scope.apps is None and scope.stores is None:
        try:
            history.add(_sizes(now, stores))
        except (Locked, UsageError) as error:  # a look is shown, whether or not it can be kept
            note = note or f"{error.sentence()}; these sizes are not kept"
    return UsageReport(fleet.project.name, now, tuple(stores), servers, (note,) if note else ())


def _of_apps(fleet: Fleet, answer: Answer[ServerUsage], earlier: Look | None) -> Iterator[StoreUsage]:
    read_only = fleet.read_only(answer.store)
    for app in answer.apps:
        usage = answer.value.apps.get(app.id) if answer.value else None
        if usage is None:
            continue
        quota, growth = app.quota.get(answer.store), _growth(earlier, app.id, answer.store, usage.size)
        yield StoreUsage(app.id, answer.store, answer.name, usage, quota, growth, app.id in read_only)


def _growth(earlier: Look | None, app: str, store: str, size: int | None) -> Growth | None:
    before = earlier.size(app, store) if earlier else None
    if earlier is None or before is None or size is None:
        return None
    return Growth(size - before, earlier.at)


def _sizes(at: datetime, stores: Iterable[StoreUsage]) -> Look:
    sizes: dict[str, dict[str, int]] = {}
    for used in stores:
        if used.usage.size is not None:
            sizes.setdefault(used.app, {})[used.store] = used.usage.size
    return Look(at, sizes)
