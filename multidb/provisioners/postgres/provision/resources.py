"""What an app gets on a Postgres server, as values: names, secrets, desired resources, environment. Pure.

All comparisons are made on these dataclasses: `catalog` turns what a server says into the same classes, normalised, so
that two equal resources mean that nothing has to be done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from multidb.model import Alternates, App, DerivedName, Facts, Owner, Resource, StoreContext
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.databases import database_names
from multidb.provisioners.postgres.provision.options import (
    NAME_LIMIT,
    STORE,
    AppOptions,
    Reader,
    ServerOptions,
    duration_text,
)
from multidb.provisioners.postgres.provision.roles import READER, AppNames, reader_purpose, slot_of
from multidb.secrets import Alternate, SecretRef, SecretSpec

__all__ = [
    "LARGE_OBJECTS",
    "MAINTAIN_SINCE",
    "MIGRATE_CONNECTIONS",
    "MANAGED_SETTINGS",
    "PUBLIC",
    "PURPOSES",
    "RESERVED",
    "Access",
    "Database",
    "Extension",
    "Interior",
    "Membership",
    "PostgresFacts",
    "ReaderLogin",
    "Reading",
    "Role",
    "SecondLogin",
    "ServerDatabase",
    "ServerDatabaseFacts",
    "Settings",
    "alternates",
    "derived_names",
    "desired",
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
_READS = "login of a reader"
MAINTAIN_SINCE = 170000
"""The server version that has a right to maintain a table without owning it."""
LARGE_OBJECTS = {
    "lo_creat": "lo_creat(integer)",
    "lo_create": "lo_create(oid)",
    "lo_from_bytea": "lo_from_bytea(oid, bytea)",
}
"""The server's functions that make a large object, which takes no other right, and their signatures."""
RESERVED = ("postgres", "template0", "template1", "pg_*")  # names that the server keeps for itself


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
    service: str = ""  # "rds", "cloudsql" or "azure": a managed service, whose admin is no superuser
    max_connections: int = 100
    reserved_connections: int = 3
    server_databases: tuple[ServerDatabaseFacts, ...] = ()
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    seconds: tuple[SecondLogin, ...] = ()
    reader_logins: tuple[ReaderLogin, ...] = ()
    stale_collations: tuple[str, ...] = ()  # databases made under another version of the system's collations

    @property
    def membership_options(self) -> bool:
        """Whether a membership says if it is inherited and may be switched to (``WITH INHERIT .., SET ..``)."""
        return self.number >= 160000


@dataclass(frozen=True, slots=True)
class ReaderLogin:
    """A login of a reader that is on, by its mark, whether or not the manifest still has it."""

    owner: Owner
    name: str
    connection_limit: int


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
    on_members: frozenset[tuple[str, str]] = frozenset()
    """(DELETE, quoted name) that `read_only_role` holds on tables of extensions: nothing gives it any, but earlier
    versions did, with a right on all tables of a schema."""

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
    databases = {
        name: "the database" if name == names.database else "the test database" for name in database_names(app)
    }
    return (
        *(
            DerivedName("postgres database", name, NAME_LIMIT, f"{what} of {app.id}")
            for name, what in databases.items()
        ),
        *(DerivedName("postgres role", name, NAME_LIMIT, f"{what} of {app.id}") for name, what in roles.items()),
    )


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


def _by_table(database: str, names: AppNames, options: AppOptions) -> Mapping[str, frozenset[tuple[str, str]]]:
    """By reader that reads some tables of a database only, these; tests' own is none of theirs."""
    if database != names.database:
        return {}
    return {
        reader: frozenset(_parted(table) for table in chosen.tables)
        for reader, chosen in options.readers.items()
        if not isinstance(chosen.tables, str)
    }


def _parted(table: str) -> tuple[str, str]:
    schema, _, name = table.partition(".")
    return schema, name


def _readers(app: App) -> Mapping[str, Reader]:
    options = app.stores.get(STORE)
    return options.readers if isinstance(options, AppOptions) else {}


def only_reads(purpose: str) -> bool:
    """Whether a login is for reading alone."""
    return purpose == "readonly" or purpose.startswith(READER)


# ------------------------------------------------------------------------------------------------- desired resources


def desired(apps: Sequence[App], context: StoreContext) -> tuple[Resource, ...]:
    """What the server should have: its own databases closed, and for each app its roles, database and what is in it."""
    facts, options = PostgresFacts.of(context.facts), ServerOptions.of(context.options)
    closable = [database for database in facts.server_databases if database.closable and options.close_defaults]
    resources: list[Resource] = [ServerDatabase(name=database.name) for database in closable]
    for app in apps:
        resources += _of_app(app, context, facts)
        resources += _former_readers(app, context, facts)
    return tuple(resources)


def _former_readers(app: App, context: StoreContext, facts: PostgresFacts) -> Iterator[Role]:
    """Logins of readers that the manifest does not have any more: off. What they may read stays, for nobody."""
    owner, names = Owner(context.project, app.id), {name.name for name in derived_names(app)}
    for login in facts.reader_logins:
        if login.owner == owner and login.name not in names:
            slot = login.name.removeprefix(f"{app.id}_")
            limit = login.connection_limit
            yield Role(name=login.name, app=app.id, owner=owner, connection_limit=limit, secret=slot, purpose=_READS)


def _of_app(app: App, context: StoreContext, facts: PostgresFacts) -> Iterator[Resource]:
    options, names, owner = AppOptions.of(app.stores[STORE]), AppNames.of(app.id), Owner(context.project, app.id)
    read_only, alternates = app.id in context.read_only, context.alternates_of(app.id)
    yield from _roles(app, names, owner, options, alternates, login=app.id not in context.closed)
    if read_only:
        yield Role(name=names.over_quota, app=app.id, owner=owner, purpose="reads and deletes, over its quota")
    yield from _memberships(app, names, options, facts, alternates, read_only=read_only)
    for database in database_names(app):
        yield Database(name=database, app=app.id, owner=owner, belongs_to=facts.admin, locale=options.locale)
        yield Access(name=database, app=app.id, privileges=_database_privileges(database, names, options, alternates))
        yield from _settings(app, database, options, alternates, read_only=read_only)
        yield _interior(app, database, options, facts, alternates, read_only=read_only)
    for reader, tables in _by_table(names.database, names, options).items():
        yield Reading(
            name=f"{reader} in {names.database}",
            app=app.id,
            role=names.reads(reader),
            tables=tables,
            database=names.database,
            tables_owner=names.owner,
        )


def _roles(
    app: App, names: AppNames, owner: Owner, options: AppOptions, alternates: Alternates, *, login: bool
) -> Iterator[Role]:
    for name, purpose in (
        (names.owner, "owns what is in the database"),
        (names.rw, "reads and writes"),
        (names.ro, "reads"),
    ):
        yield Role(name=name, app=app.id, owner=owner, purpose=purpose)
    for reader in _by_table(names.database, names, options):
        yield Role(name=names.reads(reader), app=app.id, owner=owner, purpose="reads some tables")
    split = options.roles == "split"
    limits = {
        "user": options.connection_limit,
        "readonly": options.readonly_connection_limit,
        "migrate": MIGRATE_CONNECTIONS,
        **{reader_purpose(reader): chosen.connection_limit for reader, chosen in options.readers.items()},
    }
    words = {"user": "login of the app", "readonly": "read-only login", "migrate": "login for migrations"}
    for alternate, purpose in _made(options, alternates):
        slot, works = slot_of(purpose, alternate), alternate in alternates.working
        yield Role(
            name=names.login(slot),
            app=app.id,
            owner=owner,
            login=login and works,
            # A login that becomes the owner does so by SET ROLE only: what it makes belongs to the owner, or fails.
            inherit=only_reads(purpose) or (purpose == "user" and split),
            connection_limit=limits[purpose],
            password="current" if works else None,
            secret=slot,
            purpose=words.get(purpose, _READS),
        )


def _made(options: AppOptions, alternates: Alternates) -> Iterator[tuple[Alternate, str]]:
    """The logins that there are: the alternate and the purpose of each."""
    yield from ((alternate, purpose) for alternate in alternates.made for purpose in purposes(options))


def _memberships(
    app: App, names: AppNames, options: AppOptions, facts: PostgresFacts, alternates: Alternates, *, read_only: bool
) -> Iterator[Membership]:
    def member_of(role: str, member: str, *, inherit: bool, set_role: bool) -> Membership:
        known = facts.membership_options
        return Membership(
            name=f"{member} in {role}",
            app=app.id,
            role=role,
            member=member,
            inherit=inherit if known else None,
            set_role=set_role if known else None,
        )

    # Over its quota, an app keeps its logins and loses what they belong to, so that nothing of its own has to change.
    owner, writer = (names.over_quota, names.over_quota) if read_only else (names.owner, names.rw)
    split = options.roles == "split"
    for alternate, purpose in _made(options, alternates):
        login = names.login(slot_of(purpose, alternate))
        if only_reads(purpose):
            reader = purpose.removeprefix(READER)
            by_table = reader in _by_table(names.database, names, options)
            yield member_of(names.reads(reader) if by_table else names.ro, login, inherit=True, set_role=False)
        elif purpose == "user" and split:
            yield member_of(writer, login, inherit=True, set_role=False)
        else:
            yield member_of(owner, login, inherit=False, set_role=True)
    if read_only:
        yield member_of(names.ro, names.over_quota, inherit=True, set_role=False)
    if not facts.superuser:  # who is no superuser can give things to a role only as its member
        yield member_of(names.owner, facts.admin, inherit=True, set_role=True)


def _database_privileges(
    database: str, names: AppNames, options: AppOptions, alternates: Alternates
) -> frozenset[tuple[str, str]]:
    becoming_owner = "migrate" if options.roles == "split" else "user"
    # A login that becomes the owner inherits nothing, and connects before it does.
    logins = (names.login(slot_of(becoming_owner, alternate)) for alternate in alternates.made)
    return frozenset(
        {
            *((names.reads(reader), "CONNECT") for reader in _by_table(database, names, options)),
            *((login, "CONNECT") for login in logins),
            (names.owner, "CONNECT"),
            (names.owner, "CREATE"),
            (names.owner, "TEMPORARY"),
            (names.rw, "CONNECT"),
            (names.rw, "TEMPORARY"),
            (names.ro, "CONNECT"),
        }
    )


def _settings(
    app: App, database: str, options: AppOptions, alternates: Alternates, *, read_only: bool
) -> Iterator[Settings]:
    names = AppNames.of(app.id)
    limits = {
        ("statement_timeout", duration_text(options.statement_timeout)),
        ("idle_in_transaction_session_timeout", duration_text(options.idle_in_transaction_session_timeout)),
    }
    become_owner = ("role", names.over_quota if read_only else names.owner)
    split = options.roles == "split"
    values = {
        "user": limits if split else limits | {become_owner},
        "readonly": limits | {("default_transaction_read_only", "on")},
        "migrate": {become_owner},
    }
    reading = values["readonly"]
    for alternate, purpose in _made(options, alternates):
        role = names.login(slot_of(purpose, alternate))
        yield Settings(
            name=f"{role} in {database}",
            app=app.id,
            role=role,
            database=database,
            values=frozenset(values.get(purpose, reading)),
        )


def _interior(
    app: App, database: str, options: AppOptions, facts: PostgresFacts, alternates: Alternates, *, read_only: bool
) -> Interior:
    names = AppNames.of(app.id)
    rw, ro = names.rw, names.ro
    split = options.roles == "split"
    # A login that does not become the owner owns what it makes, where it was let into a schema, until the next apply.
    makers: tuple[str, ...] = (names.owner,)
    if split:
        writing = [entry for entry in _made(options, alternates) if not only_reads(entry[1])]
        makers += tuple(names.login(slot_of(purpose, alternate)) for alternate, purpose in writing)
    default_privileges = frozenset(
        (maker, *entry) for maker in makers for entry in _default_privileges(maker, names, options, facts, read_only)
    )
    schema_privileges = frozenset({(rw, "USAGE"), (ro, "USAGE")})
    schema_privileges |= {
        (names.reads(reader), "USAGE")
        for reader, tables in _by_table(database, names, options).items()
        if any(schema == "public" for schema, _ in tables)
    }
    extensions = frozenset(options.extensions)
    callers = (names.owner, rw, names.over_quota) if read_only else (names.owner, rw)
    large_objects = frozenset((function, caller) for function in LARGE_OBJECTS for caller in callers)
    parts: list[object] = [names.owner, sorted(schema_privileges), sorted(default_privileges), sorted(extensions)]
    recipe = repr((*parts, sorted(large_objects)) if facts.superuser else tuple(parts))
    return Interior(
        name=database,
        app=app.id,
        role=names.owner,
        readers=ro,
        writers=rw,
        schema_owner=names.owner,
        schema_privileges=schema_privileges,
        default_privileges=default_privileges,
        extensions=extensions,
        large_objects=large_objects if facts.superuser else None,
        makers=makers,
        read_only_role=names.over_quota,
        revision=hashlib.sha256(recipe.encode()).hexdigest()[:8],
    )


def _default_privileges(
    maker: str, names: AppNames, options: AppOptions, facts: PostgresFacts, read_only: bool
) -> Iterator[tuple[str, str, str]]:
    """(TABLES, grantee, privilege) on what `maker` will make: the same whoever makes it, so that nothing changes for
    the others when an apply gives it to the owner. Types need none: everybody may use them."""
    # One right for REFRESH, VACUUM, ANALYZE, REINDEX and CLUSTER. Who is over its quota has it not: most of them write.
    maintain = ("MAINTAIN",) if facts.number >= MAINTAIN_SINCE else ()
    rights = {
        "TABLES": ("SELECT", "INSERT", "UPDATE", "DELETE", *maintain),
        "SEQUENCES": ("SELECT", "USAGE", "UPDATE"),
        "FUNCTIONS": ("EXECUTE",),
        "SCHEMAS": ("USAGE",),
    }
    yield from ((kind, names.rw, right) for kind, held in rights.items() for right in held)
    reading = {"TABLES": "SELECT", "SEQUENCES": "SELECT", "FUNCTIONS": "EXECUTE", "SCHEMAS": "USAGE"}
    yield from ((kind, names.ro, right) for kind, right in reading.items())
    if maker != names.owner:  # which holds on it all that it would, had it made it
        more = {"TABLES": ("TRUNCATE", "REFERENCES", "TRIGGER"), "SCHEMAS": ("CREATE",)}
        yield from ((kind, names.owner, right) for kind in rights for right in (*rights[kind], *more.get(kind, ())))
    if read_only:
        deleting = ("DELETE",) if options.roles == "split" else ("DELETE", "TRUNCATE")
        yield from (("TABLES", names.over_quota, right) for right in deleting)


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
