"""What a Postgres server should have for its apps, as resources. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from multidb.model import Alternates, App, Owner, Resource, StoreContext
from multidb.provisioners.postgres.provision.databases import Home, database_names, home
from multidb.provisioners.postgres.provision.options import (
    EXTENSION_SCHEMA,
    STORE,
    AppOptions,
    ServerOptions,
    duration_text,
)
from multidb.provisioners.postgres.provision.resources import (
    LARGE_OBJECTS,
    MAINTAIN_SINCE,
    MIGRATE_CONNECTIONS,
    SEARCH_PATH,
    Access,
    Database,
    Interior,
    Membership,
    PostgresFacts,
    Reading,
    Role,
    ServerDatabase,
    Settings,
    derived_names,
    only_reads,
    purposes,
)
from multidb.provisioners.postgres.provision.roles import READER, READS, AppNames, reader_purpose, slot_of
from multidb.provisioners.postgres.provision.shared_resources import (
    Schema,
    SharedAccess,
    SharedDatabase,
    SharedInterior,
)
from multidb.secrets import Alternate

__all__ = ["desired"]

_READS = "login of a reader"


def desired(apps: Sequence[App], context: StoreContext) -> tuple[Resource, ...]:
    """What the server should have: its own databases closed, and for each app its roles, database and what is in it."""
    facts, options = PostgresFacts.of(context.facts), ServerOptions.of(context.options)
    closable = [database for database in facts.server_databases if database.closable and options.close_defaults]
    resources: list[Resource] = [ServerDatabase(name=database.name) for database in closable]
    resources += _shared(apps, context, facts)
    for app in apps:
        resources += _of_app(app, context, facts)
        resources += _former_readers(app, context, facts)
        resources += _former_test_database(app, apps, context, facts)
    resources += _peers(apps, context, facts)
    return tuple(resources)


def _shared(apps: Sequence[App], context: StoreContext, facts: PostgresFacts) -> Iterator[Resource]:
    """The databases in which apps have a schema each: nobody's of them, whichever are asked for. One in which the admin
    begins is none (`requirements`)."""
    none = {database.name for database in facts.server_databases}
    for name in sorted({place.database for app in apps if (place := home(app)).schema is not None} - none):
        yield SharedDatabase(name=name, owner=Owner(context.project, name), belongs_to=facts.admin)
        nobodys: frozenset[tuple[str, str]] = frozenset()
        large_objects = nobodys if facts.superuser else None
        yield SharedInterior(name=name, belongs_to=facts.admin, large_objects=large_objects)


def _peers(apps: Sequence[App], context: StoreContext, facts: PostgresFacts) -> Iterator[Reading]:
    """What apps may read of others' schemas, where these are asked for, too, or on the server: none that the manifest
    does not say (any more)."""
    on_server = {one.owner.app: Home(one.database, one.schema) for one in facts.schemas}
    homes = on_server | {app.id: home(app) for app in apps}
    for app in apps:
        names, place, reads = AppNames.of(app.id), home(app), AppOptions.of(app.stores[STORE]).reads
        former = [
            role.name.removeprefix(names.peer(""))
            for role in facts.peer_roles
            if role.owner == Owner(context.project, app.id)
        ]
        for other in sorted({*reads, *former}) if place.schema is not None else ():
            # What was read is where the other one is, though the manifest may have it elsewhere by now.
            there = homes.get(other) if other in reads else on_server.get(other) or homes.get(other)
            if there is None or there.schema is None or there.database != place.database:
                continue  # nothing of it can be read
            yield Reading(
                name=f"{app.id} of {other}",
                app=app.id,
                role=names.peer(other),
                tables=frozenset({(there.schema, "*")} if other in reads else ()),
                database=place.database,
                tables_owner=AppNames.of(other).owner,
                schemas=frozenset({there.schema}),
            )


def _former_test_database(
    app: App, apps: Sequence[App], context: StoreContext, facts: PostgresFacts
) -> Iterator[Resource]:
    """A test database that the manifest asks for no more: it is there, and nobody may enter it."""
    owner, name = Owner(context.project, app.id), AppNames.of(app.id).test_database
    if owner in facts.test_databases and name not in {name for one in apps for name in database_names(one)}:
        yield Database(name=name, app=app.id, owner=owner, belongs_to=facts.admin)
        yield Access(name=name, app=app.id, privileges=frozenset())


def _former_readers(app: App, context: StoreContext, facts: PostgresFacts) -> Iterator[Resource]:
    """Readers that the manifest does not have any more, or not by table: their logins are off, and the role that had
    their rights by table has none."""
    owner, names = Owner(context.project, app.id), AppNames.of(app.id)
    taken = {name.name for name in derived_names(app)}
    by_table = {names.reads(name) for name in _by_table(home(app), names, AppOptions.of(app.stores[STORE]))}
    for role in facts.reader_roles:
        if role.owner != owner:
            continue
        reader = role.name.removeprefix(f"{app.id}_")
        if role.login and role.name not in taken:
            limit = role.connection_limit
            yield Role(name=role.name, app=app.id, owner=owner, connection_limit=limit, secret=reader, purpose=_READS)
        elif not role.login and role.name not in by_table:
            yield _reading(names, app, home(app).database, reader.removeprefix(READS), frozenset())


def _of_app(app: App, context: StoreContext, facts: PostgresFacts) -> Iterator[Resource]:
    options, names, owner = AppOptions.of(app.stores[STORE]), AppNames.of(app.id), Owner(context.project, app.id)
    read_only, alternates = app.id in context.read_only, context.alternates_of(app.id)
    yield from _roles(app, names, owner, options, alternates, login=app.id not in context.closed)
    if read_only:
        yield Role(name=names.over_quota, app=app.id, owner=owner, purpose="reads and deletes, over its quota")
    yield from _memberships(app, names, options, facts, alternates, read_only=read_only)
    place = home(app)
    if place.schema is not None:
        yield from _of_schema(app, place, owner, options, facts, alternates, read_only=read_only)
    for database in database_names(app):
        yield Database(name=database, app=app.id, owner=owner, belongs_to=facts.admin, locale=options.locale)
        inside = Home(database)
        yield Access(name=database, app=app.id, privileges=_database_privileges(inside, names, options, alternates))
        yield from _settings(app, inside, options, alternates, read_only=read_only)
        yield _interior(app, inside, options, facts, alternates, read_only=read_only)
    for reader, tables in _by_table(place, names, options).items():
        yield _reading(names, app, place.database, reader, tables)


def _of_schema(
    app: App,
    place: Home,
    owner: Owner,
    options: AppOptions,
    facts: PostgresFacts,
    alternates: Alternates,
    *,
    read_only: bool,
) -> Iterator[Resource]:
    """What the app has in a database that it shares."""
    names = AppNames.of(app.id)
    assert place.schema is not None
    in_database = f"{app.id} in {place.database}"
    # Who may make schemas could make one in which the others' logins look names up.
    privileges = _database_privileges(place, names, options, alternates) - {(names.owner, "CREATE")}
    yield SharedAccess(name=in_database, app=app.id, database=place.database, privileges=privileges)
    yield from _settings(app, place, options, alternates, read_only=read_only)
    yield Schema(
        name=f"{place.schema} in {place.database}",
        app=app.id,
        owner=owner,
        database=place.database,
        schema=place.schema,
        belongs_to=facts.admin,
    )
    yield _interior(app, place, options, facts, alternates, read_only=read_only)


def _reading(names: AppNames, app: App, database: str, reader: str, tables: frozenset[tuple[str, str]]) -> Reading:
    shared = home(app).schema
    return Reading(
        name=f"{reader} in {database}" if shared is None else f"{app.id} {reader} in {database}",
        app=app.id,
        role=names.reads(reader),
        tables=tables,
        database=database,
        tables_owner=names.owner,
        schemas=frozenset({shared or "public"}),
    )


def _roles(
    app: App, names: AppNames, owner: Owner, options: AppOptions, alternates: Alternates, *, login: bool
) -> Iterator[Role]:
    place = home(app)
    there = str(place) if place.schema is not None else None
    yield Role(name=names.owner, app=app.id, owner=owner, purpose=_owning(place), home=there)
    for name, purpose in ((names.rw, "reads and writes"), (names.ro, "reads")):
        yield Role(name=name, app=app.id, owner=owner, purpose=purpose)
    for reader in _by_table(home(app), names, options):
        yield Role(name=names.reads(reader), app=app.id, owner=owner, purpose="reads some tables")
    for other in options.reads:
        yield Role(name=names.peer(other), app=app.id, owner=owner, purpose=f"reads {other}")
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


def _owning(place: Home) -> str:
    """What the mark of the owner role says, by which others know where the app's schema is (`server_facts`)."""
    return "owns what is in the database" if place.schema is None else f"owns schema {place.schema} of {place.database}"


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
            by_table = reader in _by_table(home(app), names, options)
            yield member_of(names.reads(reader) if by_table else names.ro, login, inherit=True, set_role=False)
        elif purpose == "user" and split:
            yield member_of(writer, login, inherit=True, set_role=False)
        else:
            yield member_of(owner, login, inherit=False, set_role=True)
    if read_only:
        yield member_of(names.ro, names.over_quota, inherit=True, set_role=False)
    for other in options.reads:
        for reading in (owner, names.rw, names.ro) if not read_only else (names.over_quota, names.rw, names.ro):
            yield member_of(names.peer(other), reading, inherit=True, set_role=False)
    if not facts.superuser:  # who is no superuser can give things to a role only as its member
        yield member_of(names.owner, facts.admin, inherit=True, set_role=True)


def _database_privileges(
    place: Home, names: AppNames, options: AppOptions, alternates: Alternates
) -> frozenset[tuple[str, str]]:
    becoming_owner = "migrate" if options.roles == "split" else "user"
    # A login that becomes the owner inherits nothing, and connects before it does.
    logins = (names.login(slot_of(becoming_owner, alternate)) for alternate in alternates.made)
    return frozenset(
        {
            *((names.reads(reader), "CONNECT") for reader in _by_table(place, names, options)),
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
    app: App, place: Home, options: AppOptions, alternates: Alternates, *, read_only: bool
) -> Iterator[Settings]:
    names = AppNames.of(app.id)
    limits = {
        ("statement_timeout", duration_text(options.statement_timeout)),
        ("idle_in_transaction_session_timeout", duration_text(options.idle_in_transaction_session_timeout)),
    }
    become_owner = ("role", names.over_quota if read_only else names.owner)
    split = options.roles == "split"
    path = set() if place.schema is None else {(SEARCH_PATH, f"{place.schema}, {EXTENSION_SCHEMA}")}
    values = {
        "user": limits if split else limits | {become_owner},
        "readonly": limits | {("default_transaction_read_only", "on")},
        "migrate": {become_owner},
    }
    reading = values["readonly"]
    for alternate, purpose in _made(options, alternates):
        role = names.login(slot_of(purpose, alternate))
        yield Settings(
            name=f"{role} in {place.database}",
            app=app.id,
            role=role,
            database=place.database,
            values=frozenset(values.get(purpose, reading) | path),
        )


def _interior(
    app: App, place: Home, options: AppOptions, facts: PostgresFacts, alternates: Alternates, *, read_only: bool
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
    if place.schema is None:
        schema_privileges |= {
            (names.reads(reader), "USAGE")
            for reader, tables in _by_table(place, names, options).items()
            if any(schema == "public" for schema, _ in tables)
        }
    else:
        schema_privileges |= {(names.owner, "USAGE"), (names.owner, "CREATE")}
    extensions = frozenset(options.extensions)
    callers = (names.owner, rw, names.over_quota) if read_only else (names.owner, rw)
    large_objects = frozenset((function, caller) for function in LARGE_OBJECTS for caller in callers)
    own = facts.superuser and place.schema is None  # whether they are the app's to make
    parts: list[object] = [names.owner, sorted(schema_privileges), sorted(default_privileges), sorted(extensions)]
    recipe = repr((*parts, sorted(large_objects)) if own else tuple(parts))
    return Interior(
        name=place.database if place.schema is None else f"{place.schema} in {place.database}",
        app=app.id,
        role=names.owner,
        readers=ro,
        writers=rw,
        schema_owner=names.owner if place.schema is None else facts.admin,
        schema_privileges=schema_privileges,
        default_privileges=default_privileges,
        extensions=extensions,
        large_objects=large_objects if own else None,
        schema=place.schema,
        database="" if place.schema is None else place.database,
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


def _by_table(place: Home, names: AppNames, options: AppOptions) -> Mapping[str, frozenset[tuple[str, str]]]:
    """By reader that reads some tables of a database only, these; tests' own is none of theirs."""
    if place.schema is None and place.database != names.database:
        return {}
    return {
        reader: frozenset(_parted(table) for table in chosen.tables)
        for reader, chosen in options.readers.items()
        if not isinstance(chosen.tables, str)
    }


def _parted(table: str) -> tuple[str, str]:
    schema, _, name = table.partition(".")
    return schema, name
