"""Orphans: what servers have under the project's mark of apps that are in no manifest, and what came of those apps; and
what they have of apps whose entry names another server's store only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from multidb.closure import Closure, closures, kept_off
from multidb.concurrency import side_by_side
from multidb.errors import Locked, MultidbError, UsageError
from multidb.fleet import SERVERS_AT_ONCE, Fleet
from multidb.manifest import is_app_id
from multidb.model import App, Finding, Isolation, Level, Project, Server, Session, SharingSession, listed
from multidb.plan import ServerPlan
from multidb.provisioners import provisioner
from multidb.renames import former_names, outdated_names, renamed_since, renames, ways_of_outdated
from multidb.tombstone import Tombstone, tombstones, ways_of_removed, write_tombstone

__all__ = [
    "left_of",
    "orphan",
    "orphan_findings",
    "orphans",
    "unlisted_in",
    "vacant",
    "ways_of_vacant",
    "with_left",
]


def orphans(fleet: Fleet, servers: Sequence[Server] | None = None) -> dict[str, dict[str, Sequence[str]]]:
    """What servers have under the project's mark of apps that are neither in the manifest nor removed: by app and
    store. A server that cannot be asked has nothing to say; one of a single app is that app's, whole.

    Args:
        servers: None: all that there are, whether or not an app uses them.
    """
    things = _unlisted(fleet, fleet.runtime.servers() if servers is None else servers)
    return {app: of_app for app, of_app in things.items() if app not in fleet.project.apps}


def left_of(fleet: Fleet, app: App) -> dict[str, Sequence[str]]:
    """What servers have under the mark of an app, by store, of those stores that its entry does not name (any more). A
    server that cannot be asked has nothing to say."""
    others = [server for server in fleet.runtime.servers() if server.store not in app.stores]
    known = _known(fleet) - {app.id}
    return _things(fleet, others, lambda _: known).get(app.id, {})


def with_left(app: App, left: Iterable[str]) -> App:
    """The app with these stores too, which its entry does not name: for what ends all that it has."""
    return replace(app, stores={**app.stores, **{store: provisioner(store).app_options() for store in left}})


def unlisted_in(fleet: Fleet, server: Server, session: Session) -> Mapping[str, Sequence[str]]:
    """What a server has under the project's mark, by app, of apps that are not removed and whose entry, if they have
    one, does not name its store."""
    return _things_in(fleet, server, session, _known(fleet, server.store))


def _unlisted(fleet: Fleet, servers: Sequence[Server]) -> dict[str, dict[str, Sequence[str]]]:
    """As `unlisted_in`, of these servers: by app and store."""
    return _things(fleet, servers, lambda server: _known(fleet, server.store))


def _things(
    fleet: Fleet, servers: Sequence[Server], known: Callable[[Server], Collection[str]]
) -> dict[str, dict[str, Sequence[str]]]:
    def asked(server: Server) -> Mapping[str, Sequence[str]]:
        try:
            with fleet.open(server) as session:
                return _things_in(fleet, server, session, known(server))
        except MultidbError:
            return {}

    shared = [server for server in servers if server.app is None]
    things: dict[str, dict[str, Sequence[str]]] = {}
    for server in servers:
        if server.app is not None and server.app not in known(server):
            things.setdefault(server.app, {})[server.store] = [f"server {server.name}"]
    for server, of_server in zip(shared, side_by_side(asked, shared, at_once=SERVERS_AT_ONCE), strict=True):
        for app, of_app in of_server.items():
            things.setdefault(app, {})[server.store] = of_app
    return things


def _things_in(fleet: Fleet, server: Server, session: Session, known: Collection[str]) -> Mapping[str, Sequence[str]]:
    things = session.orphans(fleet.known_context(server, session.facts), known)
    return {app: of_app for app, of_app in things.items() if is_app_id(app)}  # a mark is only a text


def _known(fleet: Fleet, store: str | None = None) -> set[str]:
    """The apps that have something there with good reason.

    Args:
        store: whose server it is: apps in the manifest have to name it; None: any.
    """
    under_way = {app for rename in renames(fleet.state).values() for app in (rename.old, rename.new)}
    named = (app.id for app in fleet.project.apps.values() if store is None or store in app.stores)
    return {*named, *fleet.project.removed, *under_way}


def vacant(fleet: Fleet, things: Mapping[str, Mapping[str, Sequence[str]]]) -> Collection[str]:
    """Those of the orphans that are no app's: all that is there was shared by apps, each of which has left. A server
    that cannot be asked knows of none.

    Args:
        things: what there is of each, as `orphans` gives it.
    """

    def asked(server: Server) -> Collection[str]:
        try:
            with fleet.open(server) as session:
                if not isinstance(session, SharingSession):
                    return ()
                return session.vacant(fleet.known_context(server, session.facts), things)
        except MultidbError:
            return ()

    stores = {store for of_stores in things.values() for store in of_stores}
    shared = [server for server in fleet.runtime.servers() if server.app is None and server.store in stores]
    answers = side_by_side(asked, shared, at_once=SERVERS_AT_ONCE)
    empty = {(server.store, name) for server, names in zip(shared, answers, strict=True) for name in names}
    return [app for app, of_stores in things.items() if all((store, app) in empty for store in of_stores)]


def orphan(project: Project, app_id: str, stores: Iterable[str]) -> App:
    """An app that is on the servers only: what it had in the manifest is not known, so it is taken for the least."""
    options = {store: provisioner(store).app_options() for store in stores}
    return App(app_id, app_id, options, where=f"{Path(project.root) / project.file}:1:1")


def orphan_findings(fleet: Fleet, plans: Sequence[ServerPlan], stores: Collection[str] | None) -> Iterator[Finding]:
    """A warning for each orphan of a plan of all apps, and of the servers of these stores that no plan is for.

    One that the servers know as removed gets its tombstone back where all stores were asked: the state was lost, or is
    an old copy.

    Args:
        stores: the only ones that the plan is about; None: all.
    """
    planned = {plan.server for plan in plans}
    idle = [server for server in fleet.runtime.servers() if server.name not in planned]
    things = _unlisted(fleet, [server for server in idle if stores is None or server.store in stores])
    for plan in plans:
        for app, of_app in plan.orphans.items():
            of_stores = things.setdefault(app, {})
            of_stores[plan.store] = [*of_stores.get(plan.store, ()), *of_app]
    yield from (_left(app, things.pop(app)) for app in sorted(things.keys() & fleet.project.apps.keys()))
    unread = stores is not None or any(plan.error is not None for plan in plans)
    empty = vacant(fleet, things)
    recalled = () if unread else _recall_removed(fleet, things.keys() - set(empty))
    outdated = outdated_names(fleet.project.apps, former_names(fleet.state))
    renamed = {name.new: name for name in outdated.values()}
    closed = closures(fleet.state)
    taken = {change.resource.name for plan in plans for change in plan.changes if change.resource.app is None}
    for app in sorted(things):
        if app in renamed:
            yield Finding(Level.WARNING, f"app {app}", renamed_since(renamed[app]), ways_of_outdated(renamed[app]))
        elif app in empty:
            if app not in taken:  # an apply gives it to an app
                yield _vacant(app, _all_of(things[app]))
        elif app in recalled:
            yield _removed_before(app)
        else:
            yield _orphaned(app, _all_of(things[app]), closed.get(app))


def _recall_removed(fleet: Fleet, apps: Collection[str]) -> Collection[str]:
    """Writes tombstones for the orphans that the servers know as removed. What another command is at is left to that
    one, and what one that died has kept off to the one that goes on: the manifest of another folder may have the app.

    Returns:
        The apps for which it did.
    """
    if not apps:
        return ()
    with ExitStack() as stack, suppress(Locked, UsageError):  # a plan does without
        taken = [app for app in apps if _taken(fleet, stack, app)]
        free = set(taken) - tombstones(fleet.state).keys() - kept_off(fleet.state)
        removed = _removed(fleet, free) if free else {}
        if removed and _others_work(fleet):
            return ()
        for app, stores in removed.items():
            write_tombstone(fleet.state, Tombstone.recalled(app, stores, fleet.project.file, datetime.now(UTC)))
        return removed
    return ()


def _taken(fleet: Fleet, stack: ExitStack, app: str) -> bool:
    """Whether the app's lock is ours from here on."""
    try:
        stack.enter_context(fleet.state.lock_apps([app], "multidb plan"))
    except Locked:
        return False
    return True


def _others_work(fleet: Fleet) -> bool:
    """Whether a run makes or changes what apps have on a server, or makes a set: it may have no login on right then."""
    return any(lock.name == "backup" or lock.name.startswith("apply-") for lock in fleet.state.store.locks())


@dataclass(frozen=True, slots=True)
class _OrphanAnswer:
    """What a server knows of an orphan: whether it has something of it, tells logins that are off from others, and has
    none of the app that is on."""

    store: str
    there: bool
    tells: bool
    off: bool


def _removed(fleet: Fleet, apps: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Those of the orphans whose logins are off wherever there are any, as they are once an app was removed, each with
    the stores that have something of it. None while a server cannot be asked; none of which only stores know that do
    not tell on from off.
    """

    def asked(server: Server) -> dict[str, _OrphanAnswer]:
        with fleet.open(server) as session:
            there, context = unlisted_in(fleet, server, session), fleet.context(server, session)
            states = {}
            for app_id in apps:
                app = orphan(fleet.project, app_id, [server.store])
                level, _ = provisioner(server.store).isolation(app, session.facts)
                off = not session.suspension(app, context)
                states[app_id] = _OrphanAnswer(server.store, app_id in there, level is not Isolation.NAMING_ONLY, off)
            return states

    shared = [server for server in fleet.runtime.servers() if server.app is None]
    try:
        answers = side_by_side(asked, shared, at_once=SERVERS_AT_ONCE)
    except MultidbError:
        return {}
    removed = {}
    for app_id in apps:
        states = [answer[app_id] for answer in answers]
        if all(state.off for state in states) and any(state.there and state.tells for state in states):
            removed[app_id] = tuple(dict.fromkeys(state.store for state in states if state.there))
    return removed


def _all_of(of_stores: Mapping[str, Sequence[str]]) -> list[str]:
    return [thing for of_store in of_stores.values() for thing in of_store]


def _vacant(name: str, things: Sequence[str]) -> Finding:
    message = f"no app has a place any more in what apps shared: {listed(things, 4)}"
    return Finding(Level.WARNING, name, message, ways_of_vacant(name))


def ways_of_vacant(name: str) -> str:
    """The commands for what apps shared and have all left."""
    return f"give an app a place there; or drop it for good: multidb purge {name}"


def _orphaned(app: str, things: Sequence[str], closure: Closure | None) -> Finding:
    """With the commands that turn it off or end it."""
    message = f"is on the servers and not in the manifest: {listed(things, 4)}"
    if closure is not None:
        fix = f"put its entry back, and {closure.way_on}"
        return Finding(Level.WARNING, f"app {app}", f"{message}; {closure.why}", fix)
    fix = f"put its entry back; or turn it off: multidb remove-app {app}; or end it for good: multidb purge {app}"
    return Finding(Level.WARNING, f"app {app}", message, fix)


def _left(app: str, of_stores: Mapping[str, Sequence[str]]) -> Finding:
    """With the commands that bring it back into sight, or end it with the app. Nothing is wrong where that is meant."""
    stores = ", ".join(of_stores)
    message = (
        f"still has {listed(_all_of(of_stores), 4)} on {stores}, which its entry does not name: its sets, its health "
        "and plans leave that out, and its credentials may work there"
    )
    fix = (
        f"put {stores} back into apps.{app}.stores; or end it with the app: multidb remove-app {app}, whose final set "
        f"has it, and multidb purge {app}"
    )
    return Finding(Level.OK, f"app {app}", message, fix)


def _removed_before(app: str) -> Finding:
    message = "was removed, and .multidb/ had lost it: it is written down again, as removed today"
    return Finding(Level.WARNING, f"app {app}", message, ways_of_removed(app))
