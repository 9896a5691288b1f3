"""What an app has on a Postgres server, as values: the kinds of resources, names, secrets. Pure.

All comparisons are made on these dataclasses: `catalog` turns what a server says into the same classes, normalised, so
that two equal resources mean that nothing has to be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Self

from multidb.model import Alternates, App, DerivedName, Facts, Owner, Resource
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.databases import database_names, home
from multidb.provisioners.postgres.provision.options import (
    NAME_LIMIT,
    STORE,
    AppOptions,
    Reader,
)
from multidb.provisioners.postgres.provision.roles import READER, AppNames, reader_purpose, slot_of
from multidb.secrets import Alternate, SecretRef, SecretSpec

__all__ = [
    "LARGE_OBJECTS",
    "MAINTAIN_SINCE",
    "PRIMARY",
    "STANDBY",
    "MIGRATE_CONNECTIONS",
    "MANAGED_SETTINGS",
    "PUBLIC",
    "PURPOSES",
    "RESERVED",
    "SEARCH_PATH",
    "Access",
    "AppSchema",
    "Database",
    "Extension",
    "Interior",
    "Membership",
    "PostgresFacts",
    "PeerRole",
    "ReaderRole",
    "Reading",
    "Role",
    "SecondLogin",
    "ServerDatabase",
    "ServerDatabaseFacts",
    "Settings",
    "alternates",
    "derived_names",
    "only_reads",
    "password_ref",
    "purposes",
    "reading_variables",
    "secrets",
    "verifier_ref",
]

PUBLIC = "public"  # the grantee that is everybody; Postgres reserves this name, so no role can have it
PURPOSES = ("user", "readonly", "migrate")
"""What an app has logins for; the last where its roles are split."""
MIGRATE_CONNECTIONS = 5
"""How many an app's login for migrations may have."""
MAINTAIN_SINCE = 170000
"""The server version that has a right to maintain a table without owning it."""
LARGE_OBJECTS = {
    "lo_creat": "lo_creat(integer)",
    "lo_create": "lo_create(oid)",
    "lo_from_bytea": "lo_from_bytea(oid, bytea)",
}
"""The server's functions that make a large object, which takes no other right, and their signatures."""
RESERVED = ("postgres", "template0", "template1", "pg_*")  # names that the server keeps for itself


STANDBY: Final = "is a standby, where nothing can be changed"
PRIMARY: Final = "name the primary server in the manifest"


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that the server's machine has, whether or not any database uses it."""

    version: str
    trusted: bool  # may be created by who may create objects in the database
    schema: str | None  # the only schema it can live in; None: any


@dataclass(frozen=True, slots=True)
class ServerDatabaseFacts:
    """A database of the server's own (``postgres``, ``template1``), to which no app should be able to connect."""

    name: str
    owner: str
    open: bool  # everybody may connect
    closable: bool  # the admin has the right to change that


@dataclass(frozen=True, slots=True)
class SecondLogin:
    """An app's second login, by its mark, and which of the two may log in."""

    owner: Owner
    first_on: bool
    second_on: bool


@dataclass(frozen=True)
class PostgresFacts(Facts):
    """A Postgres server, as its admin login sees it."""

    number: int  # server_version_num: 180006
    admin: str
    superuser: bool
    createrole: bool
    createdb: bool
    standby: bool = False  # it follows another server, and takes no writes
    service: str = ""  # "rds", "cloudsql" or "azure": a managed service, whose admin is no superuser
    max_connections: int = 100
    reserved_connections: int = 3
    server_databases: tuple[ServerDatabaseFacts, ...] = ()
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    seconds: tuple[SecondLogin, ...] = ()
    reader_roles: tuple[ReaderRole, ...] = ()
    peer_roles: tuple[PeerRole, ...] = ()
    schemas: tuple[AppSchema, ...] = ()
    test_databases: tuple[Owner, ...] = ()  # of whom there is one, whether or not the manifest still asks for it
    stale_collations: tuple[str, ...] = ()  # databases made under another version of the system's collations

    @property
    def membership_options(self) -> bool:
        """Whether a membership says if it is inherited and may be switched to (``WITH INHERIT .., SET ..``)."""
        return self.number >= 160000


@dataclass(frozen=True, slots=True)
class ReaderRole:
    """A login of a reader that is on, or the role with its rights by table: by its mark, whether or not the manifest
    still has it."""

    owner: Owner
    name: str
    login: bool
    connection_limit: int


@dataclass(frozen=True, slots=True)
class AppSchema:
    """Where an app has its schema, by the mark of its owner role."""

    owner: Owner
    schema: str
    database: str


@dataclass(frozen=True, slots=True)
class PeerRole:
    """The role by which an app reads another one's schema, by its mark: whether or not the manifest still has that."""

    owner: Owner
    name: str


@dataclass(frozen=True, kw_only=True)
class ServerDatabase(Resource):
    """A database of the server's own, closed to everybody who was not let in by name."""

    kind: ClassVar[str] = "server database"
    rank: ClassVar[int] = 10
    closing: ClassVar[str] = "closed to every login that was not let in by name, also those of others"
    leaves_known: ClassVar[bool] = True

    public: frozenset[str] = frozenset()  # what everybody may do there
    admin_connects: bool = True  # also when everybody else may not
    heirs: frozenset[str] = field(default=frozenset(), compare=False)  # known accounts, which keep what everybody had


@dataclass(frozen=True, kw_only=True)
class Role(Resource):
    """A role or a login. `password` is ``"current"`` when the server holds the one that multidb gave."""

    kind: ClassVar[str] = "role"
    rank: ClassVar[int] = 20
    marked: ClassVar[bool] = True

    login: bool = False
    inherit: bool = True
    superuser: bool = False
    createdb: bool = False
    createrole: bool = False
    replication: bool = False
    bypassrls: bool = False
    connection_limit: int = -1
    valid_until: str | None = None
    password: str | None = None  # current, other, none (a login without one), lost (ours is not in the secret store)
    secret: str = field(default="", compare=False)  # name of the password in the secret store
    purpose: str = field(default="", compare=False)
    home: str | None = None  # of an owner role: its schema in a database that apps share, as its mark says it

    def added_to(self, live: Self) -> None:
        """Whoever has made it has given its credentials to somebody."""


@dataclass(frozen=True, kw_only=True)
class Membership(Resource):
    """`member` belongs to `role`. Before Postgres 16 the options are None: the server does not have them."""

    kind: ClassVar[str] = "membership"
    rank: ClassVar[int] = 30
    edge: ClassVar[bool] = True

    role: str
    member: str
    admin: bool = False
    inherit: bool | None = None
    set_role: bool | None = None
    grantors: tuple[str, ...] = field(default=(), compare=False)  # who gave it, one grant each

    @property
    def holder(self) -> tuple[str, str]:
        return (Role.kind, self.member)


@dataclass(frozen=True, kw_only=True)
class Database(Resource):
    """An app's database. It belongs to the platform's admin, so that the app cannot reopen it to others."""

    kind: ClassVar[str] = "database"
    rank: ClassVar[int] = 40
    marked: ClassVar[bool] = True

    belongs_to: str
    connection_limit: int = -1
    template: bool = False
    locale: str | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Access(Resource):
    """Who may do what on a database as a whole: pairs of grantee and privilege, beside its owner's own."""

    kind: ClassVar[str] = "access to database"
    rank: ClassVar[int] = 50

    allow_connections: bool = True
    privileges: frozenset[tuple[str, str]]

    def added_to(self, live: Self) -> Self:
        return replace(live, app=self.app, privileges=self.privileges | live.privileges)


@dataclass(frozen=True, kw_only=True)
class Settings(Resource):
    """What is set for a login when it connects to the app's database. Other settings than ours are left alone."""

    kind: ClassVar[str] = "settings of login"
    rank: ClassVar[int] = 50

    role: str
    database: str
    values: frozenset[tuple[str, str]]
    unlike: frozenset[tuple[bool, str, str | None]] = frozenset()
    """(in this database or everywhere, name, value) of other settings that the login in the app's variables has and
    this one has not; no value: this one has it alone. Only while both are to work, since either may be come with."""

    @property
    def holder(self) -> tuple[str, str]:
        return (Role.kind, self.role)


MANAGED_SETTINGS = frozenset(
    {"role", "statement_timeout", "idle_in_transaction_session_timeout", "default_transaction_read_only"}
)
SEARCH_PATH = "search_path"
"""Managed for logins in a shared database: where they look names up."""


@dataclass(frozen=True, kw_only=True)
class Interior(Resource):
    """The inside of an app's database, one transaction's work.

    `revision` names what was last brought about there; it stands in the database's comment and is written in the same
    transaction, so one look at the shared catalogs tells which databases are unfinished or out of date.
    """

    kind: ClassVar[str] = "rights inside database"
    rank: ClassVar[int] = 60

    role: str  # owner of everything inside
    readers: str
    writers: str
    schema_owner: str | None  # of schema public; None: there is no such schema
    schema_privileges: frozenset[tuple[str, str]]
    default_privileges: frozenset[tuple[str, str, str, str]]
    """(role, TABLES, grantee, privilege) on what the role will make: the owner, and each login that may make things."""
    extensions: frozenset[str]
    large_objects: frozenset[tuple[str, str]] | None = None
    """(function, grantee) of those that make large objects, which everybody may call by default, the read-only login
    too; None where the admin is no superuser, and cannot change that."""
    misowned: frozenset[tuple[str, str]] = frozenset()  # (TABLE, its quoted name): objects of another owner
    misowners: frozenset[str] = field(default=frozenset(), compare=False)  # the owners of these
    revision: str
    schemas: tuple[str, ...] = field(default=(), compare=False)  # quoted names of the app's schemas
    makers: tuple[str, ...] = field(default=(), compare=False)  # the roles of `default_privileges`, the owner first
    read_only_role: str = field(default="", compare=False)  # the role of an app over its quota
    beside: tuple[tuple[str, str, tuple[str, ...]], ...] = field(default=(), compare=False)
    """(schema, TABLES, quoted names) where an extension has tables (SEQUENCES, ROUTINES), too: those of the app."""
    schema: str | None = field(default=None, compare=False)  # the app's own in a shared database; None: public
    database: str = field(default="", compare=False)  # the shared one; empty: that of its name
    on_members: frozenset[tuple[str, str]] = frozenset()
    """(DELETE, quoted name) that `read_only_role` holds on tables of extensions: nothing gives it any, but earlier
    versions did, with a right on all tables of a schema."""

    @property
    def scope(self) -> str:
        """The database that it is the inside of, or of a part of that."""
        return self.database or self.name

    def added_to(self, live: Self) -> Self:
        """What has another owner keeps it, and the app's owner is let in."""
        in_schema = self.schema_privileges | live.schema_privileges
        if live.schema_owner != self.role:
            in_schema |= {(self.role, "USAGE"), (self.role, "CREATE")}
        makers = (self.large_objects or frozenset()) | (live.large_objects or frozenset())
        return replace(
            self,
            schema_owner=live.schema_owner,
            schema_privileges=in_schema,
            default_privileges=self.default_privileges | live.default_privileges,
            extensions=self.extensions | live.extensions,
            large_objects=None if self.large_objects is None else makers,
            misowned=live.misowned,
            on_members=live.on_members,
            revision=live.revision,
        )


@dataclass(frozen=True, kw_only=True)
class Reading(Resource):
    """What a reader may read in a database, by table: its role has that, and nothing else."""

    kind: ClassVar[str] = "reader's rights"
    rank: ClassVar[int] = 70

    role: str
    tables: frozenset[tuple[str, str]]
    """(schema, table), or * for all of a schema, also later ones. Live: what it may read, and what is not there."""
    surplus: frozenset[tuple[str, str]] = frozenset()
    """(schema, table) on which it has another right; no table: on the schema; *: on what the owner makes there."""
    database: str = field(default="", compare=False)
    tables_owner: str = field(default="", compare=False)
    lacking: tuple[tuple[str, str], ...] = field(default=(), compare=False)  # the tables that it may not read
    schemas: frozenset[str] = field(default=frozenset({"public"}), compare=False)  # of `tables`, those that are there

    def added_to(self, live: Self) -> Self:
        """What it may read besides, it keeps."""
        return replace(self, surplus=live.surplus)


# ---------------------------------------------------------------------------------------------------- names, secrets


def derived_names(app: App) -> tuple[DerivedName, ...]:
    """Every name that the app takes on a server, now or when its credentials are rotated."""
    names = AppNames.of(app.id)
    roles = {
        names.owner: "the owner role",
        names.rw: "the read-write role",
        names.ro: "the read-only role",
        names.user: "the login",
        names.user_b: "the login that a rotation switches to",
        names.readonly: "the read-only login",
        names.readonly_b: "the read-only login that a rotation switches to",
        names.migrate: "the migration login",
        names.migrate_b: "the migration login that a rotation switches to",
        names.over_quota: "the role over its quota",
    }
    for reader in _readers(app):
        purpose = reader_purpose(reader)
        roles |= {
            names.reads(reader): f"the role of the reader {reader}",
            names.login(purpose): f"the login of the reader {reader}",
            names.login(slot_of(purpose, Alternate.SECOND)): f"the login of the reader {reader} that a rotation makes",
        }
    for other in _peers(app):
        roles[names.peer(other)] = f"the role that reads {other}"
    databases = {
        name: "the database" if name == names.database else "the test database" for name in database_names(app)
    }
    return (
        *(
            DerivedName("postgres database", name, NAME_LIMIT, f"{what} of {app.id}")
            for name, what in databases.items()
        ),
        *(DerivedName("postgres role", name, NAME_LIMIT, f"{what} of {app.id}") for name, what in roles.items()),
        *_derived_schema(app),
    )


def _derived_schema(app: App) -> Iterator[DerivedName]:
    place = home(app)
    if place.schema is not None:
        space = f"postgres schema in {place.database}"
        yield DerivedName(space, place.schema, NAME_LIMIT, f"the schema in {place.database} of {app.id}")


def password_ref(app_id: str, login: str) -> SecretRef:
    """Where the password of the login slot (``user``, ``readonly``, ``migrate``, ``user_b`` ...) is kept."""
    return SecretRef(app_id, STORE, login)


def verifier_ref(app_id: str, login: str) -> SecretRef:
    """Where the verifier is kept that was sent to the server for that password."""
    return SecretRef(app_id, STORE, f"{login}_verifier")


def secrets(app: App) -> tuple[SecretSpec, ...]:
    """A password for each login, and the verifier made of it, which is all that the server is told."""
    specs: list[SecretSpec] = []
    for alternate in Alternate:
        for purpose in purposes(AppOptions.of(app.stores[STORE])):
            slot = slot_of(purpose, alternate)
            password, verifier = password_ref(app.id, slot), verifier_ref(app.id, slot)
            specs += [
                SecretSpec(password, alternate=alternate),
                SecretSpec(verifier, password, scram.verifier, scram.matches, alternate),
            ]
    return tuple(specs)


def purposes(options: AppOptions) -> tuple[str, ...]:
    """What the app has logins for."""
    usual = PURPOSES if options.roles == "split" else PURPOSES[:2]
    return (*usual, *map(reader_purpose, options.readers))


def _peers(app: App) -> tuple[str, ...]:
    options = app.stores.get(STORE)
    return options.reads if isinstance(options, AppOptions) else ()


def _readers(app: App) -> Mapping[str, Reader]:
    options = app.stores.get(STORE)
    return options.readers if isinstance(options, AppOptions) else {}


def only_reads(purpose: str) -> bool:
    """Whether a login is for reading alone."""
    return purpose == "readonly" or purpose.startswith(READER)


def reading_variables(app: App) -> Mapping[str, str]:
    """By variable, the purpose of the login that only reads and that it is the address of."""
    prefix = app.id.upper()
    readers = {f"{prefix}_DB_READER_{reader.upper()}_URL": reader_purpose(reader) for reader in _readers(app)}
    return {f"{prefix}_DB_READONLY_URL": "readonly", **readers}


def alternates(facts: Facts, project: str) -> dict[str, Alternates]:
    """By app of the project that has a second login, what its two logins say. Of two that are on, nobody can tell
    which the app has; either may be the one in its variables. Of two that are off, it had the first."""
    seconds = (second for second in PostgresFacts.of(facts).seconds if second.owner.project == project)
    return {second.owner.app: _alternates(second) for second in seconds}


def _alternates(second: SecondLogin) -> Alternates:
    on = {Alternate.FIRST: second.first_on, Alternate.SECOND: second.second_on}
    working = frozenset(alternate for alternate, is_on in on.items() if is_on) or frozenset({Alternate.FIRST})
    current = Alternate.SECOND if working == {Alternate.SECOND} else Alternate.FIRST
    return Alternates(current, working, tuple(Alternate))
