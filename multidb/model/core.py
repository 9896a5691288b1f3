"""The words of multidb as frozen values: apps, servers, resources, changes, statements. No I/O, no driver.

``Resource`` is the hinge of the whole: a manifest becomes *desired* resources, a server becomes *live* resources, and
`multidb.plan.diff` compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self

from multidb.errors import MultidbError
from multidb.model.options import AppBackup, AppDeploy, ContainerOptions, Rotating, Section, StoreOwned
from multidb.model.usage import Quota
from multidb.secrets import Alternate, Secret, SecretRef, SecretStore

if TYPE_CHECKING:
    from multidb.model.moving import Move

__all__ = [
    "Action",
    "Alternates",
    "App",
    "AppMode",
    "Cause",
    "Change",
    "DerivedName",
    "Endpoint",
    "Facts",
    "FieldChange",
    "Finding",
    "Inspection",
    "Isolation",
    "Level",
    "Owner",
    "PROGRESS_TIMEOUT",
    "Progress",
    "Resource",
    "Server",
    "Statement",
    "StoreContext",
    "Tenant",
    "serves",
    "unwatched",
]


PROGRESS_TIMEOUT: Final = 600.0  # seconds


class Progress(Protocol):
    """Told about work that may last: `subject` (a server, an app, a file), what is going on, and how far it is."""

    def __call__(self, subject: str, message: str, done: float | None = None, total: float | None = None) -> None: ...


def unwatched(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    """A `Progress` that nobody watches."""


class Isolation(StrEnum):
    """How real the wall around an app is on one store."""

    ENFORCED = "enforced"  # the server refuses
    PARTIAL = "partial"  # the server refuses most things; docs/security.md says which not
    NAMING_ONLY = "naming-only"  # a convention; any app can reach any other


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Whose a resource is, as written on the server itself."""

    project: str
    app: str

    def __str__(self) -> str:
        return f"{self.project}/{self.app}"


class AppMode(StrEnum):
    """How far the manifest decides what an app has in a store."""

    OBSERVE = "observe"  # what differs is said, and nothing is changed
    ADDITIVE = "additive"  # what is missing is made and granted; what multidb has not made is left as it is
    AUTHORITATIVE = "authoritative"  # what is there is made what the manifest says


@dataclass(frozen=True, slots=True)
class App:
    """One tenant. `stores` has, by the name of each store that it uses, its options there, as that store's own
    `Section` (``AppOptions.of(app.stores[STORE])``)."""

    id: str
    tenant_id: str
    stores: Mapping[str, Section]
    labels: Mapping[str, str] = field(default_factory=dict)
    where: str = ""  # file:line:column of its entry in the manifest
    quota: Mapping[str, Quota] = field(default_factory=dict)  # by store
    backup: AppBackup = field(default_factory=AppBackup)  # what differs from the project's backup section
    deploy: AppDeploy = field(default_factory=AppDeploy)  # how its own container is run
    rotate: Rotating = None  # how old its credentials may become; None: as the project says
    files: Mapping[str, str] = field(default_factory=dict)  # by name in its sets, where some of its files are
    modes: Mapping[str, AppMode] = field(default_factory=dict)  # by store, where it is not authoritative

    def mode(self, store: str) -> AppMode:
        """How far the manifest decides there."""
        return self.modes.get(store, AppMode.AUTHORITATIVE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, as multidb reaches it. `path` is set instead of `host` for a store kept in a local folder.

    `params` are the driver's own connection options (``sslmode``, ``ca_file``, ``grpc_port`` ...), never a secret.
    """

    host: str = ""
    port: int = 0
    user: str = ""
    path: str = ""
    database: str = ""  # maintenance database, where the store has one
    tls: bool = False
    params: Mapping[str, str] = field(default_factory=dict)
    pooler: Endpoint | None = None  # what keeps connections to it, for what can go through that

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Server:
    """A running instance of a store, and the apps that it serves. A store may have several.

    The admin's password is not here; ``Runtime.admin(server)`` gives it.
    """

    name: str  # "postgres", "neo4j-lernmi"
    store: str
    endpoint: Endpoint
    app: str | None = None  # the app that has the server to itself (a store without databases); None: apps share it
    timeout: float = 10.0  # seconds that one connection attempt or one round trip of a check may take
    progress_timeout: float = field(default=PROGRESS_TIMEOUT, compare=False)  # seconds: see `Project.progress_timeout`
    scratch: bool = False  # a second one that no app knows, to load a backup into: see ``Runtime.scratch``
    kept: bool = False  # a scratch server that is there for the next one, too, and so has to be emptied
    # Compose's project and service, where it runs in a container of this machine.
    container: tuple[str, str] | None = field(default=None, compare=False, repr=False)
    # Where several servers share the apps of a store, those of this one; None: all that have no server to themselves.
    apps: frozenset[str] | None = None
    external: bool = field(default=False, compare=False)  # it exists already: multidb neither starts nor stops it

    def serves(self, app: str) -> bool:
        """Whether the app, which uses its store, has its place here."""
        return serves(app, self.app, self.apps)

    @property
    def start_hint(self) -> str:
        """What to do about it while it does not run."""
        if not self.external:
            return "start it: multidb up"
        if self.endpoint.path:
            return f"make it: multidb apply; or correct external.{self.name}.path in the manifest"
        return f"start it where it runs, or correct external.{self.name}.url in the manifest"

    @property
    def restart_hint(self) -> str:
        """How it is started anew."""
        return "restart it where it runs" if self.external else f"restart it: multidb restart {self.name}"

    def tls_hint(self, reason: str) -> str:
        """What to do about a TLS connection that fails, by why OpenSSL says that it does."""
        lowered = reason.lower()
        if not self.external:
            return "make its certificate anew: multidb rotate --certificates; then run the command again"
        if "expired" in lowered:
            return "give the server a certificate that has not expired, then run the command again"
        if "mismatch" in lowered or "does not match" in lowered:
            return (
                f"name the server in external.{self.name}.url as its certificate does, or give it one for that name; "
                "then run the command again"
            )
        return (
            f"name the authority of the server's certificate: external.{self.name}.ca_file; see that the certificate "
            "has not expired, and that the server speaks TLS; then run the command again"
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.endpoint})"


def serves(app: str, only: str | None, apps: frozenset[str] | None) -> bool:
    """Whether an app has its place on a server that is of the `only` one, or of these `apps`; None: of any."""
    return app == only if only is not None else apps is None or app in apps


@dataclass(frozen=True, slots=True)
class Facts(StoreOwned):
    """What a server really is, probed on connect. Each store extends it with its own abilities."""

    product: str  # "PostgreSQL", "Valkey"
    version: str  # as the server says it


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something that exists on a server for an app. Two equal resources mean: no change.

    Subclasses add the fields that are compared, all hashable and printable, none of them secret. A field that must not
    take part is declared with ``field(compare=False)``.
    """

    kind: ClassVar[str]
    rank: ClassVar[int]  # order of creation on a server
    marked: ClassVar[bool] = False  # carries an owner mark on the server; unmarked under our name: Conflict
    edge: ClassVar[bool] = False  # a grant, a membership: one too many is drift, and is taken away
    step: ClassVar[bool] = False  # of changing others: that it has to be done is nobody's doing
    closing: ClassVar[str] = ""  # what everybody on the server loses by it, also who is no app's
    leaves_known: ClassVar[bool] = False  # but not the accounts under `known`: they are given what everybody had
    immutable: ClassVar[frozenset[str]] = frozenset()  # fields that the server cannot change in place: Conflict
    ways_out: ClassVar[str] = ""  # what a person can do about such a conflict

    name: str
    app: str | None = None  # None: it belongs to the server as a whole
    owner: Owner | None = None  # the mark: desired, or read from the server

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it on its server."""
        return (self.kind, self.name)

    @property
    def holder(self) -> tuple[str, str] | None:
        """The key of what it is given to, where that is a resource of its own; None: it stands alone."""
        return None

    def added_to(self, live: Self) -> Self | None:
        """What is wanted beside what is there, where nothing of that may be taken: it is left as it is. None: nothing
        can be said of it, such as what password somebody else's login should have."""
        return dataclasses.replace(live, app=self.app)

    def compared(self) -> dict[str, object]:
        """The fields that take part in the comparison, by name, without the identity."""
        skip = {"name", "app"}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare and f.name not in skip}


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    CONFLICT = "conflict"


class Cause(StrEnum):
    """What has changed since the resource was last as it was asked for."""

    MANIFEST = "manifest"  # what is asked for; the server is as it was
    SERVER = "server"  # the server, by somebody else; what is asked for is as it was
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that differs: what the server has, what the manifest wants."""

    field: str
    old: object
    new: object


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing sent to a server, as an operator could paste it.

    `text` is exactly what is sent. A secret stands in it as a parameter in the store's own syntax (``:'verifier'`` for
    psql, ``$password`` for Cypher ...); `binds` says which secret each parameter is, and the session puts the value in
    when it sends the statement. So no text ever contains a secret.
    """

    text: str
    binds: tuple[tuple[str, SecretRef], ...] = ()
    scope: str = ""  # the database (or DB number) it runs in; empty: the store's maintenance place
    atomic: bool = False  # may share one transaction with its neighbours of the same scope
    app: str = ""  # whose place it is about; empty: the server's as a whole
    ends_sessions: bool = False  # a session of `app` that it would have to wait for is ended


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between the manifest and a server, with the statements that remove it."""

    action: Action
    desired: Resource | None
    live: Resource | None
    fields: tuple[FieldChange, ...] = ()
    reason: str = ""  # for a conflict: why, and the ways out
    statements: tuple[Statement, ...] = ()
    store: str = ""
    server: str = ""
    cause: Cause | None = None  # None: nobody knows

    @property
    def resource(self) -> Resource:
        """The resource that the change is about: the desired one, else the live one."""
        resource = self.desired if self.desired is not None else self.live
        assert resource is not None
        return resource

    def changed(self, *names: str) -> bool:
        """Whether any of the named fields changes. A creation changes every field."""
        return self.action is Action.CREATE or any(change.field in names for change in self.fields)


@dataclass(frozen=True, slots=True)
class DerivedName:
    """A name that an app takes on a server. `space` tells names that may not be equal from names that may."""

    space: str  # "postgres database", "postgres role"
    name: str
    limit: int  # longest allowed, in bytes
    what: str = ""  # for the message: "the read-only login of lernmi"


@dataclass(frozen=True, slots=True)
class Alternates:
    """Which of an app's two credentials on a store there are (see `multidb.alternation`).

    Args:
        current: the one in the app's variables.
        working: those that the server takes: both while a rotation is under way.
        made: those that the server knows. One that does not work any more is turned off.
        serials: what tells a credential that a rotation has made from each that the app had before, however long ago:
            milliseconds since 1970. The one that an app begins with has none.
    """

    current: Alternate = Alternate.FIRST
    working: frozenset[Alternate] = frozenset({Alternate.FIRST})
    made: tuple[Alternate, ...] = (Alternate.FIRST,)
    serials: Mapping[Alternate, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoreContext:
    """What a store's pure functions may know beside the app: the project, the server's facts, what is recorded.

    `numbers` are durable choices made once per app (Redis DB numbers), by app id. `facts` is None where the server
    was not asked, `options` where the manifest says nothing of it (see `ContainerOptions.of`).
    """

    project: str
    facts: Facts | None
    options: ContainerOptions | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    server: Server | None = None
    read_only: frozenset[str] = frozenset()  # apps over their quota, which may read and delete and not grow
    known: frozenset[str] = frozenset()  # accounts of this store that the manifest names beside the apps' own
    closed: frozenset[str] = frozenset()  # apps whose logins are meant to be off: `multidb.closure`
    moving: frozenset[str] = frozenset()  # apps on their way to where the manifest has them: `multidb.moves`
    configured: bool = False  # the server's configuration is multidb's alone
    alternates: Mapping[str, Alternates] = field(default_factory=dict)  # by app that was rotated, or is being

    def alternates_of(self, app: str) -> Alternates:
        """The app's; of one that was never rotated, the first alone."""
        return self.alternates.get(app) or Alternates()


@dataclass(frozen=True, slots=True)
class Tenant:
    """One app on one server, as the app itself comes: with its own variables, and no admin's.

    `env` is what the app's env file says, with the address by which multidb reaches the server.
    """

    app: App
    server: Server
    context: StoreContext
    env: Mapping[str, str | Secret]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a session is asked to read.

    Args:
        context: as for `desired`.
        apps: the apps whose resources matter (already limited by ``--app``).
        desired: the desired resources; live ones of the same name are wanted back, whoever owns them.
        secrets: to tell whether the server still holds the credential that multidb gave (read only).
        deep: also look inside each app's database; False reads only what one query can tell about all apps.
        unread: filled by the session: the apps whose place could not be read while the server answers, and why.
        moves: filled by the session: those among them that have another place there than the manifest gives them.
    """

    context: StoreContext
    apps: Sequence[App]
    desired: Sequence[Resource]
    secrets: SecretStore
    deep: bool = True
    unread: dict[str, MultidbError] = field(default_factory=dict, compare=False)
    moves: dict[str, Move] = field(default_factory=dict, compare=False)


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `multidb doctor` has to say: about what, what it is, and what would mend it."""

    level: Level
    subject: str
    message: str
    fix: str = ""
