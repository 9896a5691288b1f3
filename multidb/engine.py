"""The imperative shell: the only module that holds a session and a plan at once.

Reading, planning and applying go server by server, side by side; on one server the statements run in order. Nothing is
printed here: callers get values, and hear of progress through a callback.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from multidb import manifest
from multidb.closure import closures
from multidb.container import Container
from multidb.deployment import Deployment, app_env, containers, named, shipped_templates
from multidb.errors import (
    ArchiveError,
    Conflict,
    MultidbError,
    PartlyApplied,
    Refused,
    ServerDown,
    ServerError,
    ServerSlow,
    StalePlan,
    StatementFailed,
    UsageError,
)
from multidb.model import (
    Action,
    App,
    Archive,
    Change,
    Finding,
    Inspection,
    Isolation,
    Level,
    Progress,
    Project,
    Provisioner,
    Server,
    Session,
    StoreContext,
    Tenant,
    listed,
    unwatched,
)
from multidb.plan import LOST, Plan, ServerPlan, diff, in_order, without_half_apps
from multidb.provisioners import STORES, provisioner
from multidb.runtime import Runtime, ServerState, ServerStatus, open_runtime
from multidb.secrets import Secret, SecretRef, generate, redact
from multidb.state import ProjectState, holder
from multidb.tombstone import tombstones

__all__ = [
    "AppConnections",
    "Engine",
    "Failure",
    "Report",
    "Scope",
    "ServerReport",
    "load_deployment",
    "load_project",
    "not_running",
    "store_schemas",
]

_SERVERS_AT_ONCE = 8
_PATIENCE = 30.0  # seconds that one other run may hold a server before this one gives up its turn


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of the manifest a command is about, and what it may do.

    Args:
        apps: only these apps; None means all.
        stores: only these stores; None means all.
        adopt: apps whose unmarked resources are taken over.
        regenerate: apps that get new credentials where theirs are lost.
        deep: also look inside every app's database.
        closing: also what closes a server to everybody who was not let in by name, and not only to apps; None: as a
            plan shows it, and where nobody has agreed to a plan, only on servers that are the project's own.
    """

    apps: frozenset[str] | None = None
    stores: frozenset[str] | None = None
    adopt: frozenset[str] = frozenset()
    regenerate: frozenset[str] = frozenset()
    deep: bool = True
    closing: bool | None = None

    def wants(self, app: App) -> bool:
        """Whether the app is in scope."""
        return self.apps is None or app.id in self.apps


@dataclass(frozen=True, slots=True)
class Failure:
    """A change that could not be made, and why."""

    change: Change
    error: MultidbError


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What an apply did on one server. A change is in exactly one of `done`, `failures`, `not_tried`.

    What fails for one app costs the changes of that app that were still to come, and nobody else's. `error` is why the
    server as a whole was not finished: it could not be had, or it failed in something that is no single app's.
    """

    server: str
    store: str
    done: tuple[Change, ...] = ()
    failures: tuple[Failure, ...] = ()
    not_tried: tuple[Change, ...] = ()
    error: MultidbError | None = None
    unread: Mapping[str, MultidbError] = field(default_factory=dict)  # apps whose place could not be read

    @property
    def failed(self) -> Change | None:
        """The first change that could not be made."""
        return self.failures[0].change if self.failures else None

    @property
    def errors(self) -> tuple[MultidbError, ...]:
        """Everything that went wrong here, once each."""
        found = [*(failure.error for failure in self.failures), *self.unread.values()]
        return tuple(dict.fromkeys([*found, self.error] if self.error is not None else found))


@dataclass(frozen=True, slots=True)
class Report:
    """What an apply did."""

    plan: Plan
    servers: tuple[ServerReport, ...]

    @property
    def done(self) -> tuple[Change, ...]:
        """Every change that is now in effect."""
        return tuple(change for server in self.servers for change in server.done)

    def error(self) -> MultidbError | None:
        """None when everything was done; `PartlyApplied` when some was; else the first error."""
        errors = [(server.server, error) for server in self.servers for error in server.errors]
        if not errors:
            return None
        if not self.done:
            return errors[0][1]
        left = sum(len(server.not_tried) for server in self.servers)
        return PartlyApplied(
            "; ".join(f"{server}: {error}" for server, error in errors),
            hint=f"{len(self.done)} changes done, {left} not tried; correct the cause, then: multidb apply",
        )


@dataclass(frozen=True, slots=True)
class AppConnections:
    """How one app reaches its stores: the variables of its env file, how real the wall is on each store, and what the
    app has there (``role lernmi_user``).
    """

    app: str
    env: Mapping[str, str | Secret]
    isolation: Mapping[str, tuple[Isolation, str]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def store_schemas() -> dict[str, manifest.StoreSchema]:
    """What the manifest has to know of each store, taken from the provisioners."""
    return {name: manifest.StoreSchema.of(provisioner(name)) for name in STORES}


def load_project(path: Path, overlay: str | None = None) -> Project:
    """Reads and checks the manifest. `ManifestError` lists every problem at once."""
    from multidb.runtime.external import ExternalServer

    removed = {app: each.removed for app, each in tombstones(ProjectState(path.parent)).items()}
    return manifest.load(path, store_schemas(), external=ExternalServer, overlay=overlay, removed=removed)


def load_deployment(path: Path, overlay: str | None = None) -> Deployment:
    """The files of the manifest's deployment. `ManifestError` as for `load_project`."""
    project = load_project(path, overlay)
    return Deployment(project, ProjectState(Path(project.root)), shipped_templates())


class Engine:
    """Brings servers to the manifest of one project.

    Args:
        project: the checked manifest.
        state: its ``.multidb/`` folder.
        runtime: where its servers come from; by default what the manifest says.
        progress: told about work that may last.
        command: how this run calls itself towards servers and other runs (``apply``).
    """

    def __init__(
        self,
        project: Project,
        state: ProjectState | None = None,
        *,
        runtime: Runtime | None = None,
        progress: Progress = unwatched,
        command: str = "multidb",
    ) -> None:
        self.project = project
        self.state = state or ProjectState(Path(project.root))
        self.runtime = runtime or open_runtime(project, self.state)
        self._progress = progress
        self._command = command
        self._stopping = threading.Event()
        self._kept: dict[str, Session] | None = None
        self._facts: dict[str, Any] = {}  # by server, as last read

    def plan(self, scope: Scope | None = None) -> Plan:
        """What would change. Takes no lock and changes no server; one that cannot be read is in `Plan.errors`.

        What the servers say already and is not known here (numbers, after the state was lost) is written down; so are
        verifiers of the apps that the scope names, where they are not of the passwords beside them.
        """
        scope = scope or Scope()
        self.require(scope)
        self._refit(scope)
        servers = self.servers(scope)
        plans = self.side_by_side(lambda server: self._plan_server(server, scope), servers)
        return Plan(self.project.name, (*plans, *self._missing(scope)), tuple(self._warnings(scope, plans)))

    def apply(self, scope: Scope | None = None, plan: Plan | None = None) -> Report:
        """Makes the changes: lock each server, read it again, run, read once more to prove that they took effect.

        Args:
            plan: the plan that was agreed to, made with the same scope; None: what is to be done is decided when the
                server's lock is held, so that nothing is stale, however many runs wait for their turn.

        Raises:
            Conflict: something in the way that is not ours; nothing was changed.

        A server that has moved on since `plan`, is locked by another run or fails is in the report; the others go on.
        So do the other apps of a server that refuses something of one app.
        """
        scope = scope or Scope()
        agreed = plan is not None
        if not agreed and scope.closing is None and self.project.runtime == "external":
            scope = replace(scope, closing=False)
        plan = plan or self.plan(scope)
        self._refuse_conflicts(plan)
        servers = {server.name: server for server in self.servers(scope)}
        todo = [server for server in plan.servers if server.changes or server.error is not None or server.unread]

        def work(each: ServerPlan) -> ServerReport:
            return self._apply_server(servers.get(each.server), each, scope, agreed=agreed)

        return Report(plan, tuple(self.side_by_side(work, todo)))

    def connections(self, app: str, stores: Iterable[str] | None = None) -> AppConnections:
        """The variables with which an app reaches its stores, secrets included.

        Raises:
            UsageError: no such app, or it has no credentials yet.
            ServerError: a server has to be asked for something and does not answer.
        """
        ((_, found),) = self.connections_of([app], stores)
        if isinstance(found, MultidbError):
            raise found
        return found

    def connections_of(
        self, apps: Sequence[str], stores: Iterable[str] | None = None
    ) -> Iterator[tuple[str, AppConnections | MultidbError]]:
        """As `connections`, for each of many apps, or why it has none. A server is asked once, however many it serves.

        Raises:
            UsageError: no such app.
        """
        entries = [self._app(name) for name in apps]
        wanted = None if stores is None else frozenset(stores)
        serving: dict[tuple[str, str | None], list[Server]] = {}
        for server in self.runtime.servers():
            serving.setdefault((server.store, server.app), []).append(server)

        def servers_of(entry: App) -> list[Server]:
            chosen = [store for store in entry.stores if wanted is None or store in wanted]
            return [each for store in chosen for app in (None, entry.id) for each in serving.get((store, app), ())]

        asked = {server.name: server for entry in entries for server in servers_of(entry)}
        contexts = dict(zip(asked, self.side_by_side(self._ask_quietly, list(asked.values())), strict=True))
        for entry in entries:
            try:
                yield entry.id, self._connections(entry, [(each, contexts[each.name]) for each in servers_of(entry)])
            except MultidbError as error:
                yield entry.id, error

    def _connections(self, app: App, servers: Sequence[tuple[Server, StoreContext | MultidbError]]) -> AppConnections:
        env: dict[str, str | Secret] = {**named(self.project, app)}
        isolation: dict[str, tuple[Isolation, str]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for server, context in servers:
            if isinstance(context, MultidbError):
                raise context
            store = provisioner(server.store)
            env |= self._env(app, server, context)
            isolation[server.store] = store.isolation(app, context.facts)
            having = [resource for resource in store.desired([app], context) if not resource.edge]
            names[server.store] = tuple(f"{each.kind} {each.name}" for each in having if each.app == app.id)
        return AppConnections(app.id, env, isolation, names)

    def names(self, app: str) -> dict[str, tuple[str, ...]]:
        """What the app has, by store, as it is to be: ``role lernmi_user``. Needs none of its credentials.

        Raises:
            UsageError: no such app.
            ServerError: a server does not answer.
        """
        entry, found = self._app(app), {}
        for server in self.servers(Scope(apps=frozenset({app}))):
            having = provisioner(server.store).desired([entry], self._ask(server))
            found[server.store] = tuple(f"{each.kind} {each.name}" for each in having if each.app == app)
        return found

    def start(self, app: str) -> list[ServerStatus]:
        """Starts the servers that `app` uses, where they are ours to start. What runs already is left alone."""
        names = self.runtime.names_for(self._app(app))
        return self.runtime.up(self._progress, names) if names else []

    def advice(self) -> list[Finding]:
        """What each server's limits mean for the apps of the manifest; of one that does not let us in, why."""
        return [finding for each in self._asked() for finding in each]

    def versions(self, store: str) -> list[int]:
        """The major version of every reachable server of `store`."""
        plans = self.plan(Scope(stores=frozenset({store}), deep=False)).servers
        found = [re.search(r"(\d+)", plan.version) for plan in plans]
        return [int(match[1]) for match in found if match]

    @contextmanager
    def keeping_open(self) -> Iterator[None]:
        """In the block a session stays open once it is, so that a plan, its apply and an env file log in only once."""
        self._kept = {}
        try:
            yield
        finally:
            kept, self._kept = self._kept, None
            for session in kept.values():
                session.__exit__(None, None, None)

    def stop(self) -> None:
        """Asks a running apply to end after the statement in flight; what was not run is reported as not tried."""
        self._stopping.set()

    # What other work on the servers is built on

    def require(self, scope: Scope) -> None:
        """`UsageError` when the scope names an app that is not in the manifest."""
        for app in sorted((scope.apps or frozenset()) | scope.adopt | scope.regenerate):
            self._app(app)

    def servers(self, scope: Scope) -> list[Server]:
        """The servers with an address that serve an app in scope."""
        return [
            server
            for server in self.runtime.servers()
            if (scope.stores is None or server.store in scope.stores)
            and any(scope.wants(app) for app in self.apps_of(server))
        ]

    def lacking(self, scope: Scope) -> list[tuple[ServerStatus, tuple[App, ...]]]:
        """The servers that nobody can be asked (not started, or not to be had here), with the apps that want them."""
        apps = [app for app in self.project.apps.values() if scope.wants(app)]
        wanted = {app.id: set(self.runtime.names_for(app)) for app in apps}
        found = [
            (status, tuple(app for app in apps if status.name in wanted[app.id]))
            for status in self.runtime.missing()
            if scope.stores is None or status.store in scope.stores
        ]
        return [(status, users) for status, users in found if users]

    def apps_of(self, server: Server) -> list[App]:
        """The apps that the server serves, in the order of the manifest."""
        apps = self.project.apps_with(server.store)
        return [app for app in apps if server.app in (None, app.id)]

    def open(self, server: Server) -> AbstractContextManager[Session]:
        """A session with the admin's login, for a ``with`` block. `ServerError` when it cannot be had."""
        if self._kept is None:
            return self._connect(server)
        if server.name not in self._kept:
            self._kept[server.name] = self._connect(server).__enter__()
        return nullcontext(self._kept[server.name])

    @contextmanager
    def locked(self, server: Server) -> Iterator[Session]:
        """A session, with every other run kept from changing the server. `Locked` when one is at it for so long that
        this one does not wait for its turn any more."""
        with ExitStack() as stack:
            stack.enter_context(self._turn(server))
            session = stack.enter_context(self.open(server))
            stack.enter_context(session.lock(self.project.name, f"multidb {self._command} by {holder('')['user']}"))
            yield session

    def _turn(self, server: Server) -> AbstractContextManager[None]:
        def waiting(who: str) -> None:
            self._progress(server.name, f"waiting for {who}")

        return self.state.lock(f"apply-{server.name}", f"multidb {self._command}", _PATIENCE, waiting)

    def suspend(self, app: App, server: Server) -> StoreContext:
        """Turns the app's logins on the server off and ends their sessions; `apply` turns them on again. What the
        store's pure functions were told of the server meanwhile."""
        with self.locked(server) as session:
            context = self.context(server, session)
            for _ in session.run(session.suspension(app, context), self.state.secrets):
                pass
        return context

    def context(self, server: Server, session: Session) -> StoreContext:
        """What the pure functions of the server's store are told."""
        store, apps = provisioner(server.store), self.apps_of(server)
        self._facts[server.name] = session.facts
        recorded = self._numbers(server)
        numbers = store.allocate(apps, session.facts, recorded) if store.allocate else {}
        return self._context(server, session.facts, {**recorded, **numbers})

    def restricted(self, store: str) -> frozenset[str]:
        """The apps that are read-only on the store because of their quota."""
        return frozenset(self.state.read("restricted").get(store, ()))

    def tenants(self, scope: Scope) -> tuple[list[Tenant], dict[str, MultidbError]]:
        """Every app in scope on each of its servers, with its own credentials; and per server why it has none.

        A server that does not let the admin in is no reason to leave its apps out: what they are told by the manifest
        and the records is enough to try, mostly.
        """
        found: list[Tenant] = []
        errors: dict[str, MultidbError] = {}
        servers = self.servers(scope)
        for server, context in zip(servers, self.side_by_side(self._ask_or_recall, servers), strict=True):
            there, missing = self.tenants_of(server, context, scope)
            found += there
            for error in missing.values():
                errors[server.name] = error
        return found, errors

    def tenants_of(
        self, server: Server, context: StoreContext, scope: Scope
    ) -> tuple[list[Tenant], dict[str, MultidbError]]:
        """The apps in scope on one server, and by app why one has nothing to come with."""
        found: list[Tenant] = []
        errors: dict[str, MultidbError] = {}
        for app in filter(scope.wants, self.apps_of(server)):
            try:
                env = provisioner(server.store).env(app, context, server.endpoint, self._secret)
            except (MultidbError, LookupError) as error:
                errors[app.id] = error if isinstance(error, MultidbError) else self._never_applied(app)
            else:
                found.append(Tenant(app, server, context, env))
        return found, errors

    def known(self, server: Server) -> StoreContext:
        """As `context`, from what this engine has learned of the server already; asks it only the first time.

        Where the admin is not let in, or has no password here, the manifest and the records have to do (`facts` is
        None). A server that does not answer at all is another matter: `ServerDown`, `ServerSlow`.
        """
        if server.name not in self._facts:
            try:
                return self._ask(server)
            except (ServerDown, ServerSlow):
                raise
            except MultidbError:
                return self._recall(server, None)
        return self._recall(server, self._facts[server.name])

    def archive(self, server: Server, *, may_stop: bool = True) -> Archive:
        """The data of the server's apps, coming and going. `ArchiveError` where the store has no backups.

        Args:
            may_stop: whether the server may be stopped for it, where the runtime can and the manifest asks for it.
        """
        store = provisioner(server.store)
        if store.archive is None:
            raise ArchiveError(f"{store.title} has no backups", where=str(server))
        application = f"multidb {self._command} {holder('')['user']}"
        take_offline = self.runtime.take_offline(server) if may_stop else None
        return store.archive(server, self.runtime.admin(server), application, take_offline)

    def side_by_side(
        self, work: Callable[[Any], Any], items: Sequence[Any], at_once: int = _SERVERS_AT_ONCE
    ) -> list[Any]:
        """`work` done for each of `items`, at most `at_once` at a time; the results in their order."""
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(len(items), at_once)) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            except KeyboardInterrupt:
                self._stopping.set()
                raise

    # Planning one server

    def _plan_server(self, server: Server, scope: Scope) -> ServerPlan:
        try:
            self._progress(server.name, "reading")
            with self.open(server) as session:
                planned = self._read(server, session, scope)
                if scope.apps is None and server.app is None:
                    planned = replace(planned, orphans=self._orphans_in(server, session))
                return planned
        except (ServerError, Refused) as error:
            return ServerPlan(server.name, server.store, error=error)

    def _read(self, server: Server, session: Session, scope: Scope) -> ServerPlan:
        store = provisioner(server.store)
        everyone = self.apps_of(server)
        context = self.context(server, session)
        apps = [app for app in everyone if scope.wants(app)]
        desired = tuple(store.desired(apps, context))
        inspection = Inspection(context, apps, desired, self.state.secrets, scope.deep)
        live = session.inspect(inspection)
        unread: dict[str, ServerError] = dict(inspection.unread)
        known = [change for change in diff(desired, live, scope.adopt) if change.resource.app not in unread]
        if scope.closing is False:
            known = [change for change in known if not change.resource.closing]
        changes = in_order(without_half_apps(self._refuse_lost(change, scope) for change in known))
        written = [_with_statements(change, store, context, unread) for change in changes]
        unsettled = {*unread, *(change.resource.app for change in changes)}
        self._recall_numbers(server, context, {app.id for app in apps} - unsettled)
        return ServerPlan(
            server.name,
            server.store,
            f"{session.facts.product} {session.facts.version}",
            {app.id: store.isolation(app, session.facts) for app in apps},
            tuple(change for change in written if change.resource.app not in unread),
            unread=unread,
            notes=tuple(store.caveats(session.facts)) if store.caveats else (),
        )

    def _recall_numbers(self, server: Server, context: StoreContext, settled: AbstractSet[str | None]) -> None:
        """Writes down the numbers of the apps that are on the server as the manifest says: a state that was lost, or is
        an old copy, comes right by it."""
        recorded = self._numbers(server)
        stand = {app: number for app, number in context.numbers.items() if app in settled}
        if stand.items() <= recorded.items():
            return
        with suppress(UsageError), self.state.change("numbers") as section:  # a plan does without
            held = section.setdefault(server.name, {})
            gone = {app for app, number in held.items() if app not in stand and number and number in stand.values()}
            section[server.name] = {app: number for app, number in held.items() if app not in gone} | stand

    def _refit(self, scope: Scope) -> None:
        """Makes the verifiers anew that are not of the passwords beside them (one of the two is from an old copy), so
        that the plan sees what the server lacks. Only of apps that the scope names: it takes a while for each."""
        made: dict[SecretRef, Secret] = {}
        for app in self.project.apps.values() if scope.apps is not None else ():
            stores = [
                store for store in app.stores if scope.wants(app) and (scope.stores is None or store in scope.stores)
            ]
            for spec in (each for store in stores for each in provisioner(store).secrets(app)):
                source = self.state.secrets.get(spec.source) if spec.source is not None else None
                derived = self.state.secrets.get(spec.ref)
                if source is None or derived is None or spec.derive is None:
                    continue
                if not spec.is_of(source.reveal(), derived.reveal()):
                    made[spec.ref] = Secret(spec.derive(source.reveal()))
        if made:
            self.state.secrets.put(made)

    def _numbers(self, server: Server) -> dict[str, int]:
        return dict(self.state.read("numbers").get(server.name, {}))

    def _refuse_lost(self, change: Change, scope: Scope) -> Change:
        lost = [each.field for each in change.fields if each.old == LOST]
        app = change.resource.app
        if not lost or app in scope.regenerate or app in scope.adopt:
            return change
        return replace(
            change,
            action=Action.CONFLICT,
            reason=f"the {lost[0]} of {change.resource.kind} {change.resource.name} is not in the secret store; "
            f"restore .multidb/secrets.json, or make new credentials: multidb apply --regenerate {app}",
        )

    def orphans(self, servers: Sequence[Server] | None = None) -> dict[str, dict[str, Sequence[str]]]:
        """What servers have under the project's mark of apps that are neither in the manifest nor removed: by app and
        store. A server that cannot be asked has nothing to say; one of a single app has none.

        Args:
            servers: None: all that there are, whether or not an app uses them.
        """
        asked = [each for each in (self.runtime.servers() if servers is None else servers) if each.app is None]
        return _by_app(asked, self.side_by_side(self._orphans_on, asked))

    def _orphans_on(self, server: Server) -> Mapping[str, Sequence[str]]:
        try:
            with self.open(server) as session:
                return self._orphans_in(server, session)
        except MultidbError:
            return {}

    def _orphans_in(self, server: Server, session: Session) -> Mapping[str, Sequence[str]]:
        known = {*self.project.apps, *self.project.removed}
        found = session.orphans(self._context(server, session.facts, self._numbers(server)), known)
        return {app: things for app, things in found.items() if manifest.is_app_id(app)}  # a mark is only a text

    def _warnings(self, scope: Scope, plans: Sequence[ServerPlan]) -> Iterator[Finding]:
        """What an apply leaves as it is, though it is not as it should be for good."""
        for app, where in self.project.returned.items():
            if scope.apps is None:
                message = f"{self.project.removed[app].where}, and the manifest has it again ({where}); it stays off"
                yield Finding(Level.WARNING, f"app {app}", f"was {message}", _ways_of_removed(app))
        if scope.apps is None:
            read = {plan.server for plan in plans}
            idle = [each for each in self.runtime.servers() if each.name not in read]
            wanted = [each for each in idle if scope.stores is None or each.store in scope.stores]
            yield from _orphaned(plans, self.orphans(wanted))
        for app, closure in closures(self.state).items():
            if app in self.project.apps and scope.wants(self.project.apps[app]):
                yield Finding(Level.WARNING, f"app {app}", closure.why, closure.way_on)

    def _missing(self, scope: Scope) -> Iterable[ServerPlan]:
        """Servers that the manifest asks for and that nobody can be asked: skipped here, or not started yet."""
        for status, _ in self.lacking(scope):
            if status.state is ServerState.SKIPPED:
                yield ServerPlan(status.name, status.store, skipped=status.message)
            else:
                yield ServerPlan(status.name, status.store, error=not_running(status))

    # Applying to one server

    def _apply_server(self, server: Server | None, planned: ServerPlan, scope: Scope, *, agreed: bool) -> ServerReport:
        nothing = ServerReport(planned.server, planned.store, not_tried=planned.changes)
        if server is None or planned.error is not None:
            return replace(nothing, error=planned.error)
        try:
            with self.locked(server) as session:
                self._refuse_removed(scope)
                fresh = self._read(server, session, scope)
                if not agreed:
                    self._refuse_conflicts(Plan(self.project.name, (fresh,)))
                elif not planned.covers(fresh):
                    raise StalePlan(
                        "it has changed since the plan was made", where=str(server), hint="run the command again"
                    )
                self._record(server, session)
                report = replace(self._run(server, session, scope, fresh.changes), unread=fresh.unread)
                return self._proved(server, session, scope, report) if report.error is None else report
        except MultidbError as error:  # whatever it is, it must not cost the other servers their report
            return replace(nothing, error=error)

    def _refuse_removed(self, scope: Scope) -> None:
        """The manifest was read before the lock was ours: its logins must not come on again."""
        removed = tombstones(self.state)
        for app in self.project.apps.values():
            if scope.wants(app) and app.id in removed and removed[app.id].removed.settled:
                raise StalePlan("it was removed meanwhile", where=f"app {app.id}", hint="run the command again")

    def _record(self, server: Server, session: Session) -> None:
        """Writes down durable choices before the first statement that relies on them."""
        numbers = self.context(server, session).numbers
        if numbers and numbers != self._numbers(server):
            with self.state.change("numbers") as section:
                section[server.name] = dict(numbers)

    def _run(self, server: Server, session: Session, scope: Scope, changes: Sequence[Change]) -> ServerReport:
        """Makes the changes. Where one app's is refused, the server is read again and the others' are made."""
        self._ensure_secrets(provisioner(server.store), changes)
        report = self._run_once(server, session, changes)
        while report.failures and report.error is None:
            spoilt = {failure.change.resource.app for failure in report.failures}
            withheld = tuple(change for change in report.not_tried if change.resource.app in spoilt)
            others = [change for change in report.not_tried if change.resource.app not in spoilt]
            if not others:
                break
            try:
                left = {change.resource.key: change for change in self._read(server, session, scope).changes}
            except (ServerError, Refused) as error:
                return replace(report, error=error)
            # What was on its way when another's failed may have been done.
            also = tuple(change for change in others if change.resource.key not in left)
            keys = {change.resource.key for change in others}
            again = [left[key] for key in left if key in keys and left[key].action is not Action.CONFLICT]
            following = self._run_once(server, session, again)
            report = replace(
                following,
                done=(*report.done, *also, *following.done),
                failures=(*report.failures, *following.failures),
                not_tried=(*withheld, *following.not_tried),
            )
        return report

    def _run_once(self, server: Server, session: Session, changes: Sequence[Change]) -> ServerReport:
        """Makes the changes up to the first that fails. No `error` when it is a single app's and others can go on."""
        statements = [statement for change in changes for statement in change.statements]
        durable, error, failing = 0, None, -1
        try:
            for durable in session.run(statements, self.state.secrets):
                self._progress(server.name, "applying", durable, len(statements))
                if self._stopping.is_set() and durable < len(statements):
                    raise StatementFailed("stopped on request", index=-1, durable=durable, where=str(server))
        except StatementFailed as failure:
            durable, failing, error = failure.durable, failure.index, failure
        return _account(server, changes, durable, failing, error)

    def _proved(self, server: Server, session: Session, scope: Scope, report: ServerReport) -> ServerReport:
        """Reads the server once more: some servers answer a statement with success and change nothing."""
        self._progress(server.name, "checking")
        try:
            proof = self._read(server, session, scope)
        except (ServerError, Refused) as unproved:  # what the server has answered for is done all the same
            return replace(report, error=unproved)
        report = replace(report, unread={**report.unread, **proof.unread})
        told = {failure.change.resource.app for failure in report.failures}
        left = [change for change in proof.changes if change.resource.app not in told]
        if not left:
            return report
        names = {change.resource.key for change in left}
        what = ", ".join(f"{change.resource.kind} {change.resource.name}" for change in left[:3])
        error = ServerError(
            f"the server accepted the statements, yet {what} is not as the manifest says",
            where=str(server),
            hint="multidb plan shows what is left; the admin login may lack a right (multidb doctor)",
        )
        untrue = [Failure(change, error) for change in report.done if change.resource.key in names]
        done = tuple(change for change in report.done if change.resource.key not in names)
        return replace(report, done=done, failures=(*report.failures, *untrue[:1]), error=error)

    def _ensure_secrets(self, store: Provisioner, changes: Sequence[Change]) -> None:
        """Generates, in one write, the secrets that the store does not hold of apps whose statements bind some."""
        owners = {ref.owner for change in changes for statement in change.statements for _, ref in statement.binds}
        specs = [spec for app in self.project.apps.values() if app.id in owners for spec in store.secrets(app)]
        missing = {spec.ref for spec in specs if self.state.secrets.get(spec.ref) is None}
        made = {spec.ref: generate() for spec in specs if spec.source is None and spec.ref in missing}
        for spec in specs:
            source = spec.source and (made.get(spec.source) or self.state.secrets.get(spec.source))
            if source and spec.derive is not None and (spec.ref in missing or spec.source in made):
                made[spec.ref] = Secret(spec.derive(source.reveal()))
        if made:
            self.state.secrets.put(made)

    def _env(self, app: App, server: Server, context: StoreContext) -> Mapping[str, str | Secret]:
        """The app's variables for one server: as it is seen by the app, which in containers is not how we see it."""
        if self.project.runtime == "compose":
            container = self._containers.get(server.name)
            if container is not None:
                return app_env(self.project, app, container, context, self._secret)
        return provisioner(server.store).env(app, context, self.runtime.app_endpoint(server), self._secret)

    # Servers, apps, secrets

    @cached_property
    def _containers(self) -> Mapping[str, Container]:
        """The project's containers by the name of the server that runs in each."""
        return {container.server: container for container in containers(self.project)}

    def _app(self, name: str) -> App:
        try:
            return self.project.apps[name]
        except KeyError:
            if name in self.project.removed:
                raise UsageError(
                    f"app {name} was {self.project.removed[name].where}", hint=_ways_of_removed(name)
                ) from None
            known = ", ".join(self.project.apps) or "none yet"
            raise UsageError(
                f"there is no app {name!r}",
                where=self.project.file,
                hint=f"apps: {known}; add it: multidb add-app {name}",
            ) from None

    def _connect(self, server: Server) -> Session:
        admin = self.runtime.admin(server)
        return provisioner(server.store).connect(server, admin, f"multidb {self._command} {holder('')['user']}")

    def _ask(self, server: Server) -> StoreContext:
        with self.open(server) as session:
            return self.context(server, session)

    def _ask_quietly(self, server: Server) -> StoreContext | MultidbError:
        try:
            return self._ask(server)
        except MultidbError as error:
            return error

    def _ask_or_recall(self, server: Server) -> StoreContext:
        try:
            return self._ask(server)
        except MultidbError:
            return self._recall(server, None)

    def _recall(self, server: Server, facts: Any) -> StoreContext:
        return self._context(server, facts, self._numbers(server))

    def _context(self, server: Server, facts: Any, numbers: Mapping[str, int]) -> StoreContext:
        return StoreContext(
            self.project.name,
            facts,
            self.project.servers.get(server.store),
            numbers,
            server,
            restricted=self.restricted(server.store),
            known=self.project.known.get(server.store, frozenset()),
            closed=frozenset(closures(self.state)),
        )

    def _never_applied(self, app: App) -> UsageError:
        return UsageError(
            "nothing was made for it yet", where=f"app {app.id}", hint=f"make it: multidb apply --app {app.id}"
        )

    def _asked(self) -> list[Sequence[Finding]]:
        def ask(server: Server) -> Sequence[Finding]:
            store = provisioner(server.store)
            apps = self.apps_of(server)
            try:
                with self.open(server) as session:
                    return store.advise(apps, self.context(server, session)) if store.advise else ()
            except ServerError as error:
                return (Finding(Level.ERROR, server.name, error.message, error.hint or ""),)

        return self.side_by_side(ask, self.servers(Scope()))

    def _secret(self, ref: SecretRef) -> Secret:
        secret = self.state.secrets.get(ref)
        if secret is None:
            raise UsageError(
                f"there is no credential {ref}",
                where=f"app {ref.owner}",
                hint=f"make it: multidb apply --app {ref.owner}",
            )
        return secret

    def _refuse_conflicts(self, plan: Plan) -> None:
        if not plan.conflicts:
            return
        raise Conflict(
            "; ".join(dict.fromkeys(change.reason for change in plan.conflicts)),
            where=", ".join(dict.fromkeys(f"server {change.server}" for change in plan.conflicts)),
            hint="; ".join(dict.fromkeys(_way_out(change) for change in plan.conflicts)),
        )


def _ways_of_removed(app: str) -> str:
    return f"bring it back: multidb undo-remove {app}; or end it for good: multidb purge {app}"


def _by_app(
    servers: Sequence[Server], found: Sequence[Mapping[str, Sequence[str]]]
) -> dict[str, dict[str, Sequence[str]]]:
    orphans: dict[str, dict[str, Sequence[str]]] = {}
    for server, of_server in zip(servers, found, strict=True):
        for app, things in of_server.items():
            orphans.setdefault(app, {})[server.store] = things
    return orphans


def _orphaned(plans: Sequence[ServerPlan], elsewhere: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[Finding]:
    """What bears the project's mark and belongs to no app, with the commands that turn it off or end it."""
    things: dict[str, list[str]] = {}
    for plan in plans:
        for app, found in plan.orphans.items():
            things.setdefault(app, []).extend(found)
    for app, of_stores in elsewhere.items():
        for found in of_stores.values():
            things.setdefault(app, []).extend(found)
    for app, found in sorted(things.items()):
        message = f"is on the servers and not in the manifest: {listed(found, 4)}"
        fix = f"put its entry back; or turn it off: multidb remove-app {app}; or end it for good: multidb purge {app}"
        yield Finding(Level.WARNING, f"app {app}", message, fix)


def not_running(status: ServerStatus) -> ServerDown:
    """What is wrong with a server that was not started, or that cannot be."""
    if status.error is not None:
        return ServerDown(status.error.message, where=f"server {status.name}", hint=status.error.hint)
    return ServerDown("is not running", where=f"server {status.name}", hint="start it: multidb up")


def _way_out(conflict: Change) -> str:
    """What to do about a conflict: each kind has its own way, and none that the next command would refuse."""
    app, want, have = conflict.resource.app, conflict.desired, conflict.live
    if any(field.old == LOST for field in conflict.fields):
        return f"restore the file, or make new credentials: multidb apply --regenerate {app}"
    if want is None or have is None or have.owner == want.owner:
        return f"the server is as it was; change {app} in the manifest to fit it"
    if have.owner is not None:
        return f"give {app} another name in the manifest, or have {have.owner.project} let go of it first"
    return f"take it over: multidb apply --adopt {app}; or give the app another name in the manifest"


def _with_statements(
    change: Change, store: Provisioner, context: StoreContext, unread: dict[str, ServerError]
) -> Change:
    """The change with what makes it; in `unread`, why that cannot be said for its app."""
    assert context.server is not None
    change = replace(change, store=store.name, server=context.server.name)
    if change.action is Action.CONFLICT:
        return change
    app = change.resource.app or ""
    try:
        return replace(change, statements=tuple(replace(each, app=app) for each in store.statements(change, context)))
    except ServerError as error:
        if not app:
            raise
        error.where = error.where or f"app {app} on {context.server}"
        unread[app] = error
        return change


def _account(
    server: Server, changes: Sequence[Change], durable: int, failing: int, error: StatementFailed | None
) -> ServerReport:
    """Sorts the changes into done, failed and not tried by how far the statements got."""
    done: list[Change] = []
    failures: list[Failure] = []
    not_tried: list[Change] = []
    position = 0
    if error is not None:
        error.message = redact(error.message)
    for change in changes:
        end = position + len(change.statements)
        if end <= durable:
            done.append(change)
        elif error is not None and position <= failing < end:
            failures.append(Failure(change, error))
        else:
            not_tried.append(change)
        position = end
    # Where the server itself goes on, what is one app's is that app's alone.
    contained = error is not None and error.refused and bool(failures) and failures[0].change.resource.app is not None
    whole = None if contained else error
    return ServerReport(server.name, server.store, tuple(done), tuple(failures), tuple(not_tried), whole)
