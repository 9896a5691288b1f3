"""A project's servers, with what is recorded of them: sessions, what the stores are told, and the apps that they serve.

`Fleet.ask` and `Fleet.on_servers` are the one way to work on several servers: side by side, and what one server refuses
costs no other its answer. Everything that works on servers is built on it, plans and applies (`engine`) among the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from multidb.admin_credentials import other_password
from multidb.alternation import alternates_on
from multidb.closure import closures
from multidb.concurrency import side_by_side
from multidb.errors import ArchiveError, AuthenticationFailed, MultidbError, ServerDown, ServerSlow, UsageError
from multidb.model import (
    App,
    AppMode,
    Archive,
    ContinuousArchive,
    Facts,
    Progress,
    Project,
    Server,
    Session,
    StoreContext,
    Tenant,
    unwatched,
)
from multidb.numbers import numbers_on
from multidb.provisioners import provisioner
from multidb.read_only import read_only_on
from multidb.runtime import Runtime, ServerState, ServerStatus, open_runtime
from multidb.secrets import Alternate, Secret, SecretRef
from multidb.state import ProjectState, holder
from multidb.state_stores import open_state
from multidb.tombstone import ways_of_removed

__all__ = ["LOCK_TIMEOUT", "SERVERS_AT_ONCE", "Answer", "Fleet", "Scope"]

T = TypeVar("T")

SERVERS_AT_ONCE = 8
LOCK_TIMEOUT = 30.0  # seconds that one other run may hold a server before this one gives up its turn


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of the manifest a command is about, and what it may do.

    Args:
        apps: only these apps; None means all.
        stores: only these stores; None means all.
        adopt: apps whose unmarked resources are taken over.
        regenerate: apps that get new credentials where theirs are lost.
        deep: also look inside every app's database.
        left_open: servers on which nothing is done by which others may lose something, and not only apps (see
            `Resource.closing`), because somebody was asked and did not agree. Where nobody was asked, `Engine.apply`
            does it only on servers that are the project's own.
        moving: apps that are looked at as if they were on their way to where the manifest has them.
        idle: also servers that no app uses, of those that the manifest names. They are asked and never changed.
    """

    apps: frozenset[str] | None = None
    stores: frozenset[str] | None = None
    adopt: frozenset[str] = frozenset()
    regenerate: frozenset[str] = frozenset()
    deep: bool = True
    left_open: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    idle: bool = False

    def wants(self, app: App) -> bool:
        """Whether the app is in scope."""
        return self.apps is None or app.id in self.apps


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of work on one server: exactly one of a value, an error, or the reason why this machine skips it.

    Args:
        name: the server's name.
        apps: the apps in scope that it serves, in the order of the manifest.
        server: the server; None where it has no address, because it was not started or is skipped here.
        value: what the work gave; None where `error` or `skipped` is set.
    """

    name: str
    store: str
    apps: tuple[App, ...]
    server: Server | None = None
    value: T | None = None
    error: MultidbError | None = None
    skipped: str = ""

    @property
    def app_ids(self) -> tuple[str, ...]:
        """The ids of `apps`."""
        return tuple(app.id for app in self.apps)


class Fleet:
    """The servers of one project.

    Args:
        project: the checked manifest.
        state: what is remembered of it, with its secrets; by default where the manifest says.
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
        self.state = state or open_state(project)
        self.runtime = runtime or open_runtime(project, self.state)
        self.progress = progress
        self._command = command
        self._kept: dict[str, Session] | None = None
        self._closing = ExitStack()  # has what is kept
        self._facts: dict[str, Facts] = {}  # by server, as last read

    # Work on every server in scope

    def ask(
        self, scope: Scope, work: Callable[[Server, Session, StoreContext], T], doing: str = "reading"
    ) -> list[Answer[T]]:
        """`work` with a session of the admin's on every server in scope.

        Args:
            doing: what progress is told of it.
        """

        def asked(server: Server) -> T:
            self.progress(server.name, doing)
            with self.open(server) as session:
                return work(server, session, self.context(server, session))

        return self.on_servers(scope, asked)

    def on_servers(self, scope: Scope, work: Callable[[Server], T]) -> list[Answer[T]]:
        """`work` on every server in scope, side by side. Servers that nobody can be asked come last, each with its
        error or the reason why it is skipped.
        """
        servers = self.servers(scope)
        answers = side_by_side(lambda server: self._answer(server, scope, work), servers, at_once=SERVERS_AT_ONCE)
        return [*answers, *(_of_missing(status, users) for status, users in self.missing(scope))]

    def _answer(self, server: Server, scope: Scope, work: Callable[[Server], T]) -> Answer[T]:
        apps = tuple(filter(scope.wants, self.apps_of(server)))
        try:
            return Answer(server.name, server.store, apps, server, work(server))
        except MultidbError as error:
            return Answer(server.name, server.store, apps, server, error=error)

    def missing(self, scope: Scope) -> Iterator[tuple[ServerStatus, tuple[App, ...]]]:
        """The servers that were not started, or are not to be had here, with the apps in scope that want them."""
        missing = self.runtime.missing()
        apps = [app for app in self.project.apps.values() if missing and scope.wants(app)]
        names = {app.id: set(self.runtime.names_for(app)) for app in apps}
        for status in missing:
            users = tuple(app for app in apps if status.name in names[app.id])
            if users and (scope.stores is None or status.store in scope.stores):
                yield status, users

    # Apps and servers

    def require(self, scope: Scope) -> None:
        """`UsageError` when the scope names an app that is not in the manifest."""
        for app in sorted((scope.apps or frozenset()) | scope.adopt | scope.regenerate):
            self.app(app)

    def app(self, name: str) -> App:
        """The app of this name. `UsageError` where the manifest has none."""
        try:
            return self.project.apps[name]
        except KeyError:
            if name in self.project.removed:
                raise UsageError(
                    f"app {name} was {self.project.removed[name].where}", hint=ways_of_removed(name)
                ) from None
            known = ", ".join(self.project.apps) or "none yet"
            raise UsageError(
                f"there is no app {name!r}",
                where=self.project.file,
                hint=f"apps: {known}; add it: multidb add-app {name}",
            ) from None

    def servers(self, scope: Scope) -> list[Server]:
        """The servers with an address that serve an app in scope; with ``scope.idle`` also those that serve none."""
        return [
            server
            for server in self.runtime.servers()
            if (scope.stores is None or server.store in scope.stores)
            and (any(map(scope.wants, apps := self.apps_of(server))) or (scope.idle and not apps))
        ]

    def sparing_others(self, scope: Scope) -> Scope:
        """The scope for work that nobody was asked about: on servers that are not the project's own, what others may
        lose something by is left as it is."""
        if self.project.runtime.starts_servers:
            return scope
        return replace(scope, left_open=frozenset(server.name for server in self.servers(scope)))

    def apps_of(self, server: Server) -> list[App]:
        """The apps that the server serves, in the order of the manifest."""
        apps = self.project.apps_with(server.store)
        return [app for app in apps if server.serves(app.id)]

    def start(self, app: str) -> list[ServerStatus]:
        """Starts the servers that `app` uses, where they are ours to start. What runs already is left alone."""
        names = self.runtime.names_for(self.app(app))
        return self.runtime.up(self.progress, names) if names else []

    # Sessions

    def open(self, server: Server) -> AbstractContextManager[Session]:
        """A session with the admin's login, for a ``with`` block. `ServerError` when it cannot be had."""
        if self._kept is None:
            return self._connect(server)
        if server.name not in self._kept:
            self._kept[server.name] = self._closing.enter_context(self._connect(server))
        return nullcontext(self._kept[server.name])

    @contextmanager
    def keeping_open(self) -> Iterator[None]:
        """In the block a session stays open once it is, so that a plan, its apply and an env file log in only once."""
        self._kept = {}
        try:
            with self._closing:
                yield
        finally:
            self._kept = None

    @contextmanager
    def locked(self, server: Server) -> Iterator[Session]:
        """A session, with every other run kept from changing the server. `Locked` when one is at it for so long that
        this one does not wait for its turn any more."""
        with ExitStack() as stack:
            stack.enter_context(self.turn(server))
            session = stack.enter_context(self.open(server))
            stack.enter_context(session.lock(self.project.name, f"multidb {self._command} by {holder('')['user']}"))
            yield session

    def archive(self, server: Server, *, may_stop: bool = True) -> Archive:
        """The data of the server's apps, coming and going. `ArchiveError` where the store has no backups.

        Args:
            may_stop: whether the server may be stopped for it, where the runtime can and the manifest asks for it.
        """
        store = provisioner(server.store)
        if store.archive is None:
            raise ArchiveError(f"{store.title} has no backups", where=str(server))
        take_offline = self.runtime.take_offline(server) if may_stop else None
        return store.archive(self._timed(server), self._admin_let_in(server), self._application, take_offline)

    def continuous(self, server: Server) -> ContinuousArchive | None:
        """What the server writes, to be taken away as it comes; None where its store has no such log."""
        store = provisioner(server.store)
        if store.continuous is None:
            return None
        return store.continuous(self._timed(server), self._admin_let_in(server), self._application)

    def suspend(self, app: App, server: Server) -> StoreContext:
        """Turns the app's logins on the server off and ends their sessions; `Engine.apply` turns them on again.

        Returns:
            What the store's pure functions were told of the server meanwhile.
        """
        with self.locked(server) as session:
            context = self.context(server, session)
            for _ in session.run(session.suspension(app, context), self.state.secrets):
                pass
        return context

    @property
    def _application(self) -> str:
        return f"multidb {self._command} {holder('')['user']}"

    def _connect(self, server: Server) -> Session:
        """A session with the admin's password; with the other of two while one replaces the other."""
        try:
            return self.connect_with(server, self.runtime.admin(server))
        except AuthenticationFailed:
            other = None if server.external else other_password(self.state, server.name, server.store)
            if other is None:
                raise
            return self.connect_with(server, other)

    def connect_with(self, server: Server, admin: Secret | None) -> Session:
        """A session with this password of the admin's. `AuthenticationFailed` where the server takes another one."""
        return provisioner(server.store).connect(self._timed(server), admin, self._application)

    def _admin_let_in(self, server: Server) -> Secret | None:
        """The admin's password; of two while one replaces the other, the one that the server takes."""
        admin = self.runtime.admin(server)
        other = None if server.external else other_password(self.state, server.name, server.store)
        if other is None:
            return admin
        try:
            with self.connect_with(server, admin):
                return admin
        except AuthenticationFailed:
            return other

    def _timed(self, server: Server) -> Server:
        return replace(server, progress_timeout=self.project.progress_timeout)

    def turn(self, server: Server) -> AbstractContextManager[None]:
        """Keeps the project's other runs from changing the server; `locked` does so for a session."""

        def waiting(who: str) -> None:
            self.progress(server.name, f"waiting for {who}")

        return self.state.lock(f"apply-{server.name}", f"multidb {self._command}", LOCK_TIMEOUT, waiting)

    # What the stores' pure functions are told

    def context(self, server: Server, session: Session) -> StoreContext:
        """What the pure functions of the server's store are told."""
        store, apps = provisioner(server.store), self.apps_of(server)
        self._facts[server.name] = session.facts
        recorded = self.numbers(server)
        numbers = store.allocate(apps, session.facts, recorded) if store.allocate else {}
        context = self._context(server, session.facts, {**recorded, **numbers})
        seen = store.alternates(session.facts, self.project.name) if store.alternates else {}
        return replace(context, alternates={**seen, **context.alternates})

    def recorded_context(self, server: Server) -> StoreContext:
        """As `context`, from what this fleet has learned of the server already; asks it only the first time.

        Where the admin is not let in, or has no password here, the manifest and the records have to do (`facts` is
        None). A server that does not answer at all is another matter: `ServerDown`, `ServerSlow`.
        """
        if server.name not in self._facts:
            try:
                return self._ask(server)
            except (ServerDown, ServerSlow):
                raise
            except MultidbError:
                return self._context(server, None, self.numbers(server))
        return self._context(server, self._facts[server.name], self.numbers(server))

    def known_context(self, server: Server, facts: Facts | None = None) -> StoreContext:
        """As `context`, from the manifest and the records; asks nobody.

        Args:
            facts: of the server, as it says them; None: what this fleet has learned of it, if anything.
        """
        return self._context(server, facts or self._facts.get(server.name), self.numbers(server))

    def contexts(self, servers: Sequence[Server]) -> dict[str, StoreContext | MultidbError]:
        """By the server's name what its store is told, each server asked once; or why it cannot be asked."""

        def asked(server: Server) -> StoreContext | MultidbError:
            try:
                return self._ask(server)
            except MultidbError as error:
                return error

        answers = side_by_side(asked, servers, at_once=SERVERS_AT_ONCE)
        return {server.name: answer for server, answer in zip(servers, answers, strict=True)}

    def numbers(self, server: Server) -> dict[str, int]:
        """By app, the numbers that are recorded for the server."""
        return numbers_on(self.state, server.name)

    def read_only(self, store: str) -> frozenset[str]:
        """The apps that are read-only on the store because of their quota."""
        return read_only_on(self.state, store)

    def secret(self, ref: SecretRef) -> Secret:
        """The secret of this name. `UsageError` where it was never made."""
        secret = self.state.secrets.get(ref)
        if secret is None:
            app = self.project.apps.get(ref.owner)
            if app is not None and app.mode(ref.store) is AppMode.OBSERVE:
                raise UsageError(
                    f"multidb has no login of it on {ref.store}, where it is only observed",
                    where=f"app {ref.owner}",
                    hint=f"let multidb make one: mode: additive in its entry, then: multidb apply --app {ref.owner}",
                )
            raise UsageError(
                f"there is no credential {ref}",
                where=f"app {ref.owner}",
                hint=f"where the app is new: multidb apply --app {ref.owner}; else take its secrets from where it was "
                f"applied, or make new ones: multidb apply --regenerate {ref.owner}",
            )
        return secret

    def _ask(self, server: Server) -> StoreContext:
        with self.open(server) as session:
            return self.context(server, session)

    def _context(self, server: Server, facts: Facts | None, numbers: Mapping[str, int]) -> StoreContext:
        spec, closed = self.project.spec_of(server.name, server.store, server.app), closures(self.state)
        return StoreContext(
            self.project.name,
            facts,
            spec.options if spec else None,
            numbers,
            server,
            read_only=frozenset(filter(server.serves, self.read_only(server.store))),
            known=spec.known if spec else frozenset(),
            closed=frozenset(closed),
            moving=frozenset(app for app, closure in closed.items() if closure.move is not None),
            alternates=alternates_on(self.state, server.store),
            configured=self.project.runtime.configures_servers,
        )

    # Apps as they come by themselves

    def tenants(self, scope: Scope) -> tuple[list[Tenant], dict[str, MultidbError]]:
        """Every app in scope on each of its servers, with its own credentials; and per server why it has none.

        A server that does not let the admin in is no reason to leave its apps out: what they are told by the manifest
        and the records is enough to try, mostly.
        """
        tenants: list[Tenant] = []
        errors: dict[str, MultidbError] = {}
        servers = self.servers(scope)
        for server, context in zip(servers, self.contexts(servers).values(), strict=True):
            if isinstance(context, MultidbError):
                context = self._context(server, None, self.numbers(server))
            there, missing = self.tenants_of(server, context, scope)
            tenants += there
            for error in missing.values():
                errors[server.name] = error
        return tenants, errors

    def tenants_of(
        self, server: Server, context: StoreContext, scope: Scope
    ) -> tuple[list[Tenant], dict[str, MultidbError]]:
        """The apps in scope on one server, and by app why one has nothing to come with. One that is only observed and
        has no login of ours is neither."""
        tenants: list[Tenant] = []
        errors: dict[str, MultidbError] = {}
        for app in filter(scope.wants, self.apps_of(server)):
            try:
                env = provisioner(server.store).env(app, context, server.endpoint, self.secret)
            except (MultidbError, LookupError) as error:
                if app.mode(server.store) is AppMode.OBSERVE:
                    continue
                errors[app.id] = error if isinstance(error, MultidbError) else _never_applied(app)
            else:
                tenants.append(Tenant(app, server, context, env))
        return tenants, errors

    def tenant_with(self, server: Server, context: StoreContext, app: App, alternate: Alternate) -> Tenant:
        """The app as it comes with one of its two credentials, whichever its variables have.

        Raises:
            UsageError: it was never made.
        """
        alternates = replace(context.alternates_of(app.id), current=alternate)
        with_it = replace(context, alternates={**context.alternates, app.id: alternates})
        return Tenant(app, server, with_it, provisioner(server.store).env(app, with_it, server.endpoint, self.secret))


def _of_missing(status: ServerStatus, users: tuple[App, ...]) -> Answer[Any]:
    if status.state is ServerState.SKIPPED:
        return Answer(status.name, status.store, users, skipped=status.message)
    return Answer(status.name, status.store, users, error=status.not_running())


def _never_applied(app: App) -> UsageError:
    return UsageError(
        "nothing was made for it yet", where=f"app {app.id}", hint=f"make it: multidb apply --app {app.id}"
    )
