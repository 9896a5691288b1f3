"""What a store is to the engine: a record of pure functions, and sessions that have all the effects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from multidb.model.address import Address
from multidb.model.admin_password import AdminPassword
from multidb.model.archive import Archive, TakeOffline
from multidb.model.audit import Probe, Search
from multidb.model.client import AppAccess, AppClient
from multidb.model.container import Containers, Pooler
from multidb.model.continuous import ContinuousArchive, ForeignArchive
from multidb.model.core import (
    Alternates,
    App,
    Change,
    DerivedName,
    Endpoint,
    Facts,
    Finding,
    Inspection,
    Isolation,
    Resource,
    Server,
    Statement,
    StoreContext,
    Tenant,
)
from multidb.model.health import Health
from multidb.model.hosting import HostedServer, Hosting
from multidb.model.importing import ImportOptions, ImportSource, SourceLocation
from multidb.model.options import ContainerOptions, RuntimeKind, Section
from multidb.model.question import Querying
from multidb.model.refusal import Refusal
from multidb.model.scanning import Scanning
from multidb.model.usage import CredentialUse, ServerUsage
from multidb.secrets import Alternate, Secret, SecretRef, SecretSpec, SecretStore
from multidb.state_store import StateStore

__all__ = ["Provisioner", "Session", "SharingSession"]


class Session(Protocol):
    """All effects on one server. Opened by ``Provisioner.connect``, used as a context manager, used by one thread."""

    @property
    def facts(self) -> Facts:
        """What the server is and can do (a subclass of `Facts`), read when the session was opened."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        """The live resources: those named in `desired`, and any other that carries this project's mark or is an edge
        (a grant, a membership) on one of them. Changes nothing, takes no lock. An app whose own place cannot be read
        is noted in ``Inspection.unread``, and costs the others nothing."""

    def lock(self, project: str, holder: str) -> AbstractContextManager[None]:
        """Keeps other applies of the project away from this server; `Locked` says who holds it and since when.
        A holder that dies loses the lock."""

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """Sends the statements in order and yields how many are durable after each step; retries what is retryable;
        raises `StatementFailed` at the first real failure, which says whether the server goes on answering. Neighbours
        that have nothing to do with each other may be sent at the same time, so some of those that follow the one that
        failed may have been done."""

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        """What the admin's login may do on the server, and what it lacks for `apps`, each under the server's name: an
        error is what an apply would fail by, a warning what costs something. Changes nothing. A server that is too
        old, or a login that can do nothing at all, is an error of ``Provisioner.connect`` already."""

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        """What the server and each of `apps` use now. Bulk queries: their number does not grow with the apps, except
        that what only the inside of a database tells takes one round trip for each of them."""

    def search(self, inspection: Inspection) -> Search:
        """Everything on the server that opens a wall around one of the apps, whoever made it, with the catalogs that
        were searched for it. Changes nothing."""

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        """Who uses credentials of apps now, as far as the server tells (`Provisioner.tells_use`): by app the sessions,
        by login and address. One question, however many apps there are.

        Args:
            credentials: by app, which of its two. An app whose credential nobody uses may be left out of the answer.
        """

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        """What stands on the server under this project's mark and belongs to none of the `known` apps: by app, each
        thing by kind and name (``role lernmi_user``). Bulk queries."""

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        """What turns the app's logins off and ends their sessions; nothing when that is so already. Data stays."""

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        """What drops everything of the app that carries our mark, as it stands now: dependents in other databases,
        prepared transactions and sessions included. Nothing when there is nothing left, so that it can be asked
        again after an interruption. What carries no mark of ours is never in it."""


@runtime_checkable
class SharingSession(Protocol):
    """A session of a store in which apps can share a place that is no app's."""

    def vacant(self, context: StoreContext, names: Collection[str]) -> Collection[str]:
        """Those of the names from `Session.orphans` that are no app's: all that is there under them was shared by apps,
        each of which has left. It has no login, so there is nothing to turn off or on again."""


@dataclass(frozen=True, slots=True)
class Provisioner:
    """A store, as the engine sees it: a record of pure functions, and one that opens a session."""

    name: str
    title: str
    app_options: type[Section]  # what ``apps.<app>.<store>`` may say
    server_options: type[ContainerOptions]  # what ``servers.<store>`` may say
    derived_names: Callable[[App], Sequence[DerivedName]]
    secrets: Callable[[App], Sequence[SecretSpec]]
    desired: Callable[[Sequence[App], StoreContext], Sequence[Resource]]
    statements: Callable[[Change, StoreContext], Sequence[Statement]]
    env: Callable[[App, StoreContext, Endpoint, Callable[[SecretRef], Secret]], Mapping[str, str | Secret]]
    isolation: Callable[[App, Facts], tuple[Isolation, str]]  # (level, why) from the server's facts
    connect: Callable[[Server, Secret | None, str], Session]  # (server, admin password, application name)
    env_asks: Callable[[App, StoreContext], bool] = lambda app, context: False
    """(app, context without facts) -> whether `env` has to know what the server is, beside the manifest and the
    records."""
    check_health: Callable[[Tenant, bool], Health] | None = None
    """(tenant, may write) -> health, tried as the app: can it connect, is its place there, can it write and read.

    Leaves nothing behind and lasts at most about ``tenant.server.timeout``. Raises only `ServerError`, which means
    unhealthy; `AuthenticationFailed` when and only when the server does not let the app's login in (how the removal of
    an app proves that its credentials are dead). Runs in any thread, many at once."""
    client: Callable[[Tenant, AppAccess], AppClient] | None = None
    """(tenant, what for) -> how a person works there as the app; `UsageError` where that cannot be had."""
    querying: Querying | None = None
    """How apps' places are asked a read-only question; None: they cannot be."""
    probe: Callable[[Tenant, Sequence[Tenant]], Iterable[Probe]] | None = None
    """(attacker, victims) -> what came of trying every wall of the store with the attacker's credentials. Harmless
    even where it succeeds; every act has its positive control. Raises only `ServerError`."""
    archive: Callable[[Server, Secret | None, str, TakeOffline | None], Archive] | None = None
    """(server, admin password, application name, how to stop it where that may be) -> its data coming and going; None:
    the store has no backups."""
    source: Callable[[SourceLocation, ImportOptions], ImportSource] | None = None
    """(where, what of it) -> data that is elsewhere, for the store's archive, which then is an `ImportArchive`; touches
    nothing yet. None: nothing can be imported into the store."""
    source_options: tuple[str, ...] = ()
    """Which of `ImportOptions` its sources understand: ``pattern``, ``prefix``, ``name``."""
    continuous: Callable[[Server, Secret | None, str], ContinuousArchive] | None = None
    """(server, admin password, application name) -> what it writes, taken away as it comes; None: the store's servers
    have no log that an app could be brought to a moment by."""
    foreign_archives: Mapping[str, Callable[[Path, Mapping[str, object]], ForeignArchive]] = field(default_factory=dict)
    """By the word for another archiving tool: (folder, `ContinuousArchive.details` of the server where it can be asked)
    -> what that tool has of a server. ``restore APP --at MOMENT --from TOOL:FOLDER`` reads it."""
    allocate: Callable[[Sequence[App], Facts, Mapping[str, int]], Mapping[str, int]] | None = None
    """(apps, facts, recorded numbers) -> numbers by app id, for stores that hand out numbers."""
    reserved: tuple[str, ...] = ()
    """Names that the server keeps for itself, as shell patterns (``pg_*``): no app id and no derived name is one."""
    profiles: tuple[str, ...] = ()
    """What an app's option ``profile`` of the store may be: libraries and applications that it knows the needs of."""
    shared_options: tuple[str, ...] = ()
    """Lists among an app's options through which it reaches other apps (``channels``): no clone gets its original's."""
    own_options: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda options, app: {}
    """(an app's options as the manifest has them, the id of another app) -> those that no two apps can have alike, as
    the other app has them where it is the same otherwise: a clone, or the app under another name."""
    placed: Callable[[App, Mapping[str, Any]], App] | None = None
    """(app, options of a place as a `Move` has them) -> the app with that place; None: its apps have one kind of place,
    and its sessions are no `MovingSession`."""
    check: Callable[[Sequence[App]], Iterable[tuple[App, str]]] | None = None
    """What only a look at all apps of the manifest can tell: the app, and what is wrong with it."""
    own: tuple[str, ...] = ()
    """Accounts that multidb or the server makes for itself, as shell patterns: none can be named under ``known``."""
    processes: Callable[[Hosting], Sequence[HostedServer]] | None = None
    """The servers that it needs as processes of this machine; None for a store that cannot be run as one."""
    address: type[Address] | None = None
    """The model of ``external.<store>``; None for a store whose servers multidb always runs itself."""
    containers: Containers | None = None
    """The servers that it needs as containers; None for a store that cannot be run in one."""
    poolers: tuple[Pooler, ...] = ()
    """What can stand before its shared servers, where they are containers: a profile of the manifest each."""
    rotates: Callable[[App, Facts], str] = lambda app, facts: "it has one credential for each app"
    """(app, facts) -> why the app's credentials cannot be rotated there with no downtime; nothing where they can. Where
    they can, `desired` and `env` go by ``StoreContext.alternates``, and `secrets` has specs of both alternates."""
    alternates: Callable[[Facts, str], Mapping[str, Alternates]] | None = None
    """(facts, project) -> by app, which of its two credentials the server knows and takes, where it knows a second:
    for a state that was lost."""
    tells_use: bool = True
    """Whether the server knows who uses a credential: false of one that has no sessions."""
    admin_password: AdminPassword | None = None
    """How the password of its servers' admin is replaced; None: it is not."""
    templates: Path | None = None
    """A folder with the templates of its containers (``services/<store>.yml.j2``), for a store that does not come with
    multidb."""
    tables: bool = False
    """Whether its archive is a `TableArchive`."""
    scripts: bool = False
    """Whether its archive is a `ScriptArchive`; of the app's stores, the first such one runs its masking script."""
    examine: Callable[[Sequence[Server], Sequence[int]], Iterable[Finding]] | None = None
    """(servers, their major versions as far as they can be asked) -> what else has to be there for the work on them,
    beside the servers themselves (client tools), found or not."""
    statement_end: str = ""
    """What an operator types after a statement (``;``), where the store's own client asks for it."""
    state_store: Callable[[Callable[[], tuple[Server, Secret | None]], str, str], StateStore] | None = None
    """(what gives the server and its admin's password, the project's name, application name) -> a place for the
    project's state there, which no app can enter; touches nothing yet. None: the store has no such place."""
    refusals: Callable[[Session, App], Sequence[Refusal]] | None = None
    """(session, app) -> what the server itself keeps of what it refused the app; it is asked nothing of the app's."""
    logged_refusals: Callable[[App, Iterable[str]], Sequence[Refusal]] | None = None
    """(app, lines of the server's log) -> the same, for a store whose servers only write it there."""
    scanning: Scanning | None = None
    """How servers are searched for what is there already; None: they are not."""
    advise: Callable[[Sequence[App], StoreContext], Sequence[Finding]] | None = None
    """What the server's limits mean for these apps (connections, DB numbers, collections), good news included."""
    caveats: Callable[[Facts], Sequence[str]] | None = None
    """(facts) -> what an operator has to know of the server itself before anything is changed on it, as sentences."""

    @property
    def runtimes(self) -> frozenset[RuntimeKind]:
        """The runtimes that can serve it."""
        serving = {
            RuntimeKind.EMBEDDED: self.processes,
            RuntimeKind.COMPOSE: self.containers,
            RuntimeKind.EXTERNAL: self.address,
        }
        return frozenset(kind for kind, way in serving.items() if way is not None)
