"""A change, as the SQL that an operator could paste into psql. Pure: no driver, no connection.

Everything that does not have to stand alone is `atomic`, so a session may send it in one transaction with its
neighbours. The order of the ranks does the rest: all roles, then the databases, then who may enter them, then the
inside of each, in one transaction per database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from multidb.errors import NotAllowed, ServerError
from multidb.model import Action, Change, Owner, Statement, StoreContext
from multidb.provisioners.postgres.provision.resources import (
    LARGE_OBJECTS,
    PUBLIC,
    Access,
    Database,
    Interior,
    Membership,
    PostgresFacts,
    Reading,
    Role,
    ServerDatabase,
    Settings,
    verifier_ref,
)
from multidb.provisioners.postgres.provision.roles import ATTRIBUTES, AppNames
from multidb.provisioners.postgres.provision.setting_values import stored_values

__all__ = [
    "MARK_PREFIX",
    "NOTHING_PREPARED",
    "RESTORED",
    "UNFINISHED",
    "assignment",
    "ending_sessions",
    "identifier",
    "literal",
    "mark",
    "statements",
    "variable",
]

_OF_OTHERS = {
    "TABLES": "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER",
    "SEQUENCES": "SELECT, USAGE, UPDATE",
    "ROUTINES": "EXECUTE",
}
"""What an app's owner is given on what is another's and stays so."""
UNFINISHED = "unfinished"  # stands in a database's mark until its inside is done
RESTORED = "0" * 8  # the revision of an inside that came back with the rights it had: what is missing is added, no more
MARK_PREFIX = "multidb:"
_GRANT_OPTION = "GRANT OPTION FOR "
# Versions in which the script of an extension could replace an object that somebody else had made.
_REPLACING = ((130000, 130008), (140000, 140005))
_ENDING = 2000  # milliseconds that a session is given to end


NOTHING_PREPARED = (
    "LOCK TABLE pg_proc, pg_operator, pg_cast, pg_type IN SHARE ROW EXCLUSIVE MODE",
    "SELECT CAST('the schema public holds ' || count(*) || ' functions, operators or types that no extension brought, "
    "and the script of an extension could call them' AS int) FROM "
    "(SELECT 1255 AS class, oid FROM pg_proc WHERE pronamespace = to_regnamespace('public') "
    "UNION ALL SELECT 2617, oid FROM pg_operator WHERE oprnamespace = to_regnamespace('public') "
    "UNION ALL SELECT 1247, oid FROM pg_type WHERE typnamespace = to_regnamespace('public') AND typrelid = 0 "
    "AND typelem = 0) o "
    "WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e') "
    "HAVING count(*) > 0",
)
"""Fails, in the transaction of a CREATE EXTENSION, when the app has put something where the extension's script looks
for functions; and keeps it from doing so until the transaction ends."""


def identifier(name: str) -> str:
    """`name` as SQL reads it back unchanged, whatever characters it has."""
    if "\0" in name:
        raise ValueError("a name in Postgres cannot contain the NUL character")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a string constant, whatever ``standard_conforming_strings`` says."""
    if "\0" in text:
        raise ValueError("a text in Postgres cannot contain the NUL character")
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def variable(name: str) -> str:
    """The name of a setting as SQL reads it back; ``my.own`` has two parts.

    Raises:
        ValueError: a part is empty: no statement can name it.
    """
    parts = name.split(".")
    if not all(parts):
        raise ValueError(f"{name!r} is no name of a setting")
    return ".".join(map(identifier, parts))


def assignment(name: str, value: str | None) -> str:
    """What comes after ``ALTER ROLE ...`` to give a setting a stored value again; None: to give it none.

    Raises:
        ValueError: no statement can.
    """
    values = [] if value is None else stored_values(name, value)
    return f"SET {variable(name)} = {', '.join(map(literal, values))}" if values else f"RESET {variable(name)}"


def mark(owner: Owner, tail: str) -> str:
    """The comment that says whose a role or database is. Every login can read it."""
    return f"{MARK_PREFIX}{owner} {tail}".rstrip()


def statements(change: Change, context: StoreContext) -> tuple[Statement, ...]:
    """What removes the difference `change`, in order. A conflict has none.

    Raises:
        ServerError: the server's machine lacks an extension that is to be created.
        NotAllowed: the admin login cannot create it, or cannot own the app's schema.
    """
    if change.action is Action.CONFLICT:
        return ()
    facts = PostgresFacts.of(context.facts)
    match change.resource:
        case ServerDatabase() as database:
            return _atomic(_server_database(change, database, facts))
        case Role() as role:
            return tuple(_role(change, role, facts))
        case Membership() as membership:
            return _atomic(_membership(change, membership, facts))
        case Database() as database:
            return _database(change, database)
        case Access() as access:
            return _atomic(_access(change, access, context))
        case Settings() as settings:
            return (*_atomic(_settings(change, settings)), *_anew(change, settings, facts))
        case Interior() as interior:
            return _atomic(_interior(change, interior, context), scope=interior.name)
        case Reading() as reading:
            return _atomic(_reading(change, reading), scope=reading.database)
    raise TypeError(f"not a Postgres resource: {change.resource!r}")


def _atomic(lines: Iterable[str], scope: str = "") -> tuple[Statement, ...]:
    return tuple(Statement(line, scope=scope, atomic=True) for line in lines)


def _grantee(name: str) -> str:
    return "PUBLIC" if name == PUBLIC else identifier(name)


def _server_database(change: Change, database: ServerDatabase, facts: PostgresFacts) -> Iterator[str]:
    name = identifier(database.name)
    if change.changed("admin_connects"):
        yield f"GRANT CONNECT ON DATABASE {name} TO {identifier(facts.admin)}"
    if change.changed("public"):
        live = change.live
        if isinstance(live, ServerDatabase) and live.heirs and live.public:  # in one transaction with the next
            heirs = ", ".join(map(identifier, sorted(live.heirs)))
            yield f"GRANT {', '.join(sorted(live.public))} ON DATABASE {name} TO {heirs}"
        yield f"REVOKE CONNECT, CREATE, TEMPORARY ON DATABASE {name} FROM PUBLIC"


# ----------------------------------------------------------------------------------------------- roles, memberships


def _role(change: Change, role: Role, facts: PostgresFacts) -> Iterator[Statement]:
    name = identifier(role.name)
    assert role.owner is not None
    assert role.app is not None
    comment = f"COMMENT ON ROLE {name} IS {literal(mark(role.owner, role.purpose))}"
    turned_on, turned_off = (change.changed("login") and role.login is on for on in (True, False))
    # Who is no superuser cannot read what password a login has that was off.
    sends_password = role.password is not None and (change.changed("password") or (turned_on and not facts.superuser))
    binds = (("verifier", verifier_ref(role.app, role.secret)),) if sends_password else ()
    # Only what changes is named: naming SUPERUSER at all takes a superuser.
    if change.action is Action.CREATE:
        named = [known for known in ATTRIBUTES if known.field == "login" or getattr(role, known.field) != known.default]
        words = [] if role.connection_limit < 0 else [f"CONNECTION LIMIT {role.connection_limit}"]
    else:
        named = [known for known in ATTRIBUTES if change.changed(known.field)]
        retired = turned_off and _is_retired(change, role)
        limited = change.changed("connection_limit") or retired
        words = [f"CONNECTION LIMIT {role.connection_limit}"] if limited else []
        words += ["VALID UNTIL 'infinity'"] if change.changed("valid_until") else []
        loses_password = change.changed("password") or retired
        words += ["PASSWORD NULL"] if loses_password and not sends_password else []
    words += ["PASSWORD :'verifier'"] if sends_password else []
    words = [*(known.word(getattr(role, known.field)) for known in named), *words]
    verb = "CREATE" if change.action is Action.CREATE else "ALTER"
    making = [Statement(f"{verb} ROLE {name} {' '.join(words)}", binds, atomic=True)] if words else []
    if change.action is Action.UPDATE and turned_off and _is_retired(change, role):
        # Nobody comes in by it from the first of these on, and what says that it is off comes last: whoever finds a
        # login that is on after a run was killed ends the sessions that it still has.
        shut = Statement(f"ALTER ROLE {name} CONNECTION LIMIT 0 PASSWORD NULL", atomic=True)
        yield from ending_sessions([role.name], facts, [shut])
    yield from making
    if change.changed("owner"):
        yield Statement(comment, atomic=True)


def _is_retired(change: Change, role: Role) -> bool:
    """Whether it is a login whose other one has taken its place: what it has open ends with it."""
    return isinstance(change.live, Role) and change.live.login and bool(role.secret) and role.password is None


def _membership(change: Change, membership: Membership, facts: PostgresFacts) -> Iterator[str]:
    role, member = identifier(membership.role), identifier(membership.member)
    live, desired = change.live, change.desired
    if isinstance(live, Membership) and membership.member != facts.admin:
        # Each grantor's grant stands by itself since Postgres 16; before, there is one and nobody asks whose.
        if facts.membership_options:
            for grantor in live.grantors:
                yield f"REVOKE {role} FROM {member} GRANTED BY {identifier(grantor)} CASCADE"
        else:
            yield f"REVOKE {role} FROM {member} CASCADE"
    if isinstance(desired, Membership):
        yield f"GRANT {role} TO {member}{_membership_options(desired)}"


def _membership_options(membership: Membership) -> str:
    if membership.inherit is None or membership.set_role is None:
        return ""
    return f" WITH INHERIT {str(membership.inherit).upper()}, SET {str(membership.set_role).upper()}"


# -------------------------------------------------------------------------------------------------------- databases


def _database(change: Change, database: Database) -> tuple[Statement, ...]:
    name = identifier(database.name)
    assert database.owner is not None
    if change.action is Action.CREATE:
        # template0: nobody can be connected to it, and it has no local additions. Nobody may enter before the
        # privileges are in place.
        locale = f" LOCALE {literal(database.locale)}" if database.locale else ""
        text = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'{locale} ALLOW_CONNECTIONS false"
        return (Statement(text),)
    lines = []
    if change.changed("belongs_to"):
        lines.append(f"ALTER DATABASE {name} OWNER TO {identifier(database.belongs_to)}")
    if change.changed("template"):
        lines.append(f"ALTER DATABASE {name} IS_TEMPLATE false")
    if change.changed("connection_limit"):
        lines.append(f"ALTER DATABASE {name} CONNECTION LIMIT {database.connection_limit}")
    if change.changed("owner"):
        lines.append(f"COMMENT ON DATABASE {name} IS {literal(mark(database.owner, UNFINISHED))}")
    return _atomic(lines)


def _access(change: Change, access: Access, context: StoreContext) -> Iterator[str]:
    name = identifier(access.name)
    live = change.live
    if isinstance(live, Access):
        held = live.privileges
    else:
        assert access.app is not None
        yield f"COMMENT ON DATABASE {name} IS {literal(mark(Owner(context.project, access.app), UNFINISHED))}"
        held = frozenset({(PUBLIC, "CONNECT"), (PUBLIC, "TEMPORARY")})  # what a new database has
    yield from _adjust(f"ON DATABASE {name}", held, access.privileges)
    if change.changed("allow_connections"):
        yield f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"


def _adjust(what: str, held: frozenset[tuple[str, str]], desired: frozenset[tuple[str, str]]) -> Iterator[str]:
    """Revokes what is held and not wanted, grants what is wanted and not held, and touches nothing else."""
    surplus = held - desired
    options = {(to, right.removeprefix(_GRANT_OPTION)) for to, right in surplus if right.startswith(_GRANT_OPTION)}
    for grantees, privileges in _alike(options):
        yield f"REVOKE {_GRANT_OPTION}{privileges} {what} FROM {grantees} CASCADE"
    for grantees, privileges in _alike(pair for pair in surplus if not pair[1].startswith(_GRANT_OPTION)):
        yield f"REVOKE {privileges} {what} FROM {grantees}"
    for grantees, privileges in _alike(desired - held):
        yield f"GRANT {privileges} {what} TO {grantees}"


def _alike(privileges: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Lists of grantees, with the list of privileges that each of them has alike, as SQL writes them."""
    by_grantee: dict[str, list[str]] = {}
    for grantee, privilege in sorted(privileges):
        by_grantee.setdefault(grantee, []).append(privilege)
    alike: dict[str, list[str]] = {}
    for grantee, held in by_grantee.items():
        alike.setdefault(", ".join(held), []).append(_grantee(grantee))
    for shared, grantees in alike.items():
        yield ", ".join(grantees), shared


def _settings(change: Change, settings: Settings) -> Iterator[str]:
    live = change.live
    held = live.values if isinstance(live, Settings) else frozenset()
    where = f"ALTER ROLE {identifier(settings.role)} IN DATABASE {identifier(settings.database)}"
    desired = dict(settings.values)
    for name, _ in sorted(held - settings.values):
        if name not in desired:
            yield f"{where} RESET {name}"
    for name, value in sorted(settings.values - held):
        yield f"{where} SET {name} = {literal(value)}"
    if isinstance(live, Settings):
        yield from _likened(live)


def _likened(live: Settings) -> Iterator[str]:
    """What gives a login the settings that its app has made for the other one of its purpose."""
    for here, name, value in sorted(live.unlike, key=lambda entry: (entry[0], entry[1])):
        scope = f" IN DATABASE {identifier(live.database)}" if here else ""
        yield f"ALTER ROLE {identifier(live.role)}{scope} {assignment(name, value)}"


def _anew(change: Change, settings: Settings, facts: PostgresFacts) -> Iterator[Statement]:
    """A session stays what it became when it began, so a login that becomes another role has to begin anew."""
    held, desired = (
        dict(side.values).get("role") if isinstance(side, Settings) else None for side in (change.live, settings)
    )
    if held is not None and held != desired:
        yield from ending_sessions([settings.role], facts)


def ending_sessions(
    logins: Sequence[str], facts: PostgresFacts, shutting: Sequence[Statement] = ()
) -> Iterator[Statement]:
    """What ends the sessions of logins, wherever they are.

    Args:
        shutting: what keeps them from coming back. Their sessions end first, which may hold a lock on it, and once more
            after it.
    """
    # Who is no superuser ends sessions of roles that it belongs to; it administers the app's, so it may join them.
    joining = () if facts.superuser else logins
    for login in joining:
        yield Statement(_joined(login, facts))
    named = ", ".join(map(literal, logins))
    # A session is told to end, and takes a moment; what comes after this may need it gone.
    ending = f", {_ENDING}" if facts.number >= 140000 else ""
    sessions = f"FROM pg_stat_activity WHERE usename IN ({named}) AND pid <> pg_backend_pid()"
    yield Statement(f"SELECT pg_terminate_backend(pid{ending}) {sessions}")
    if shutting:
        yield from shutting
        yield Statement(f"SELECT pg_terminate_backend(pid{ending}) {sessions}")
    for login in joining:
        yield Statement(_left(login, facts))


def _joined(login: str, facts: PostgresFacts) -> str:
    """What makes the admin a member of an app's login, so that it may do what that one may."""
    option = " WITH INHERIT TRUE" if facts.membership_options else ""
    return f"GRANT {identifier(login)} TO {identifier(facts.admin)}{option}"


def _left(login: str, facts: PostgresFacts) -> str:
    by = f" GRANTED BY {identifier(facts.admin)}" if facts.membership_options else ""
    return f"REVOKE {identifier(login)} FROM {identifier(facts.admin)}{by}"


# --------------------------------------------------------------------------------------------------------- interior


def _interior(change: Change, interior: Interior, context: StoreContext) -> Iterator[str]:
    live, facts = change.live if isinstance(change.live, Interior) else None, PostgresFacts.of(context.facts)
    yield from _schema(live, interior, facts)
    yield from _objects(live, interior, facts)  # after the schema: the owner must be allowed to have things there
    yield from _default_privileges(live, interior, facts)
    yield from _large_objects(live, interior)
    if live is not None and not live.revision:
        yield from _existing_objects(live, interior)
    for name in sorted(interior.extensions - (live.extensions if live else frozenset())):
        yield from _create_extension(name, interior, facts, new=live is None)
    if live is not None:
        yield from _maintaining(live, interior)
        yield from _deleting(live, interior)
        yield from _off_members(live, interior)
    if change.changed("revision"):
        assert interior.app is not None
        text = mark(Owner(context.project, interior.app), interior.revision)
        yield f"COMMENT ON DATABASE {identifier(interior.name)} IS {literal(text)}"


def _reading(change: Change, reading: Reading) -> Iterator[str]:
    """What a reader by table is given, and what is taken from it: of what is there. A new database has no tables."""
    role = identifier(reading.role)
    live = change.live if isinstance(change.live, Reading) else replace(reading, tables=frozenset())
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {identifier(reading.tables_owner)} IN SCHEMA"
    given = {table for table in reading.tables if table[0] in live.schemas}
    taken = live.surplus - reading.surplus
    for schema, table in sorted(taken):
        if table == "*":
            yield f"{later} {identifier(schema)} REVOKE ALL ON TABLES FROM {role}"
        elif table:
            yield f"REVOKE ALL ON TABLE {identifier(schema)}.{identifier(table)} FROM {role}"
        else:
            yield f"REVOKE ALL ON SCHEMA {identifier(schema)} FROM {role}"
    # What is taken from a table or a schema goes whole, so that what it is to have there is given again.
    readable = {(schema, table) for schema, table in taken if table and table != "*"}
    readable = {(schema, table) for schema, table in readable if {(schema, "*"), (schema, table)} & given}
    for schema in sorted({schema for schema, _ in given} - {"public"}):
        yield f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {role}"
    if tables := sorted({*live.lacking, *readable}):
        named = ", ".join(f"{identifier(schema)}.{identifier(table)}" for schema, table in tables)
        yield f"GRANT SELECT ON TABLE {named} TO {role}"
    for schema in sorted({schema for schema, table in given if table == "*"}):
        yield f"{later} {identifier(schema)} GRANT SELECT ON TABLES TO {role}"


def _objects(live: Interior | None, interior: Interior, facts: PostgresFacts) -> Iterator[str]:
    """Objects of another owner: each by name, since REASSIGN OWNED would also move what that role owns elsewhere."""
    if live is None or not live.misowned - interior.misowned:
        return
    assert live.app is not None
    # Who is no superuser takes things from roles that it belongs to; it administers the app's, so it may join them.
    joining = () if facts.superuser else sorted(live.misowners & AppNames.of(live.app).logins)
    for login in joining:
        yield _joined(login, facts)
    for kind, name in sorted(live.misowned, key=lambda entry: (entry[0] != "SCHEMA", entry)):
        yield f"ALTER {kind} {name} OWNER TO {identifier(live.role)}"
    for login in joining:
        yield _left(login, facts)


def _schema(live: Interior | None, interior: Interior, facts: PostgresFacts) -> Iterator[str]:
    owner = identifier(interior.role)
    if live is not None and live.schema_owner is None:
        yield f"CREATE SCHEMA public AUTHORIZATION {owner}"
        held: frozenset[tuple[str, str]] = frozenset()
    elif live is None or live.schema_owner != interior.schema_owner:
        if facts.number < 150000 and not facts.superuser:
            raise NotAllowed(
                f"cannot give schema public of {interior.name} to {interior.role}",
                hint=f"before Postgres 15 that takes a superuser, and {facts.admin} is none: "
                "use one as the admin login, or a newer server",
            )
        yield f"ALTER SCHEMA public OWNER TO {owner}"
        # What everybody holds in a new database: CREATE as well before Postgres 15, and revoking it twice does no harm.
        held = live.schema_privileges if live else frozenset({(PUBLIC, "CREATE"), (PUBLIC, "USAGE")})
    else:
        held = live.schema_privileges
    yield from _adjust("ON SCHEMA public", held, interior.schema_privileges)


def _default_privileges(live: Interior | None, interior: Interior, facts: PostgresFacts) -> Iterator[str]:
    # By default everybody may execute every new function; only the form without IN SCHEMA can take that away.
    everybodys = frozenset((maker, "FUNCTIONS", PUBLIC, "EXECUTE") for maker in interior.makers)
    held = live.default_privileges if live else everybodys
    for maker in interior.makers:
        had, desired = (
            {entry[1:] for entry in entries if entry[0] == maker} for entries in (held, interior.default_privileges)
        )
        if had == desired:
            continue
        # Who is no superuser belongs to the owner, and changes what a login gives as a member of that login.
        joining = maker != interior.role and not facts.superuser
        if joining:
            yield _joined(maker, facts)
        start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {identifier(maker)}"
        for kind, grantees, privileges in _by_kind(had - desired):
            yield f"{start} REVOKE {privileges} ON {kind} FROM {grantees}"
        for kind, grantees, privileges in _by_kind(desired - had):
            yield f"{start} GRANT {privileges} ON {kind} TO {grantees}"
        if joining:
            yield _left(maker, facts)


def _maintaining(live: Interior, interior: Interior) -> Iterator[str]:
    """The tables of before the app's logins could be given MAINTAIN. What came back from a set has the rights that it
    had, and what is taken over gets all of them."""
    right = (interior.role, "TABLES", interior.writers, "MAINTAIN")
    if live.revision in ("", RESTORED) or right not in interior.default_privileges - live.default_privileges:
        return
    for tables in _existing(live, "TABLES"):
        yield f"GRANT MAINTAIN ON {tables} TO {identifier(interior.writers)}"


def _large_objects(live: Interior | None, interior: Interior) -> Iterator[str]:
    """A large object can be made by whoever may call one of three functions: everybody, the read-only login too."""
    if interior.large_objects is None:
        return
    everybodys = frozenset((function, PUBLIC) for function in LARGE_OBJECTS)
    held = live.large_objects if live is not None and live.large_objects is not None else everybodys
    alike: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
    for function, signature in sorted(LARGE_OBJECTS.items()):
        had, desired = (frozenset(to for of, to in side if of == function) for side in (held, interior.large_objects))
        alike.setdefault((had, desired), []).append(f"pg_catalog.{signature}")
    for (had, desired), functions in alike.items():
        both = (frozenset((grantee, "EXECUTE") for grantee in grantees) for grantees in (had, desired))
        yield from _adjust(f"ON FUNCTION {', '.join(functions)}", *both)


def _deleting(live: Interior, interior: Interior) -> Iterator[str]:
    """An app over its quota may delete from the tables that it has; once it is no more, nothing of that is left."""
    held, desired = (
        {
            right
            for role, _, to, right in side.default_privileges
            if (role, to) == (interior.role, interior.read_only_role)
        }
        for side in (live, interior)
    )
    if held == desired:
        return
    verb, rights, to = ("GRANT", desired, "TO") if desired else ("REVOKE", held, "FROM")
    for tables in _existing(live, "TABLES"):
        yield f"{verb} {', '.join(sorted(rights))} ON {tables} {to} {identifier(interior.read_only_role)}"


def _off_members(live: Interior, interior: Interior) -> Iterator[str]:
    """What an earlier version has given the role over its quota on tables of extensions."""
    for table in sorted({table for _, table in live.on_members}):
        rights = sorted(right for right, of in live.on_members if of == table)
        yield f"REVOKE {', '.join(rights)} ON TABLE {table} FROM {identifier(interior.read_only_role)}"


def _by_kind(privileges: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    for kind, entries in groupby(sorted(privileges), key=lambda entry: entry[0]):
        for grantees, shared in _alike((grantee, privilege) for _, grantee, privilege in entries):
            yield kind, grantees, shared


def _create_extension(name: str, interior: Interior, facts: PostgresFacts, *, new: bool) -> Iterator[str]:
    """What makes an extension in the schema that belongs to the app.

    Args:
        new: no app has had the database yet.
    """
    extension = facts.extensions.get(name)
    if extension is None:
        raise ServerError(
            f"the server has no extension {name}, which {interior.app} wants",
            hint="install it on the server's machine or choose an image that has it; "
            "SELECT name FROM pg_available_extensions lists what is there",
        )
    if not (facts.superuser or extension.trusted or facts.service):
        raise NotAllowed(
            f"{facts.admin} may not create the extension {name}, which {interior.app} wants",
            hint=f"the server has it, but it takes a superuser: let one run CREATE EXTENSION {identifier(name)} "
            f"in database {interior.name}, or use a superuser as the admin login",
        )
    if not new and any(first <= facts.number < safe for first, safe in _REPLACING):
        raise NotAllowed(
            f"Postgres {facts.version} lets the script of an extension replace what {interior.app} has made "
            "(CVE-2022-2625), so it cannot be created safely any longer",
            hint="update the server to 13.8, 14.5 or newer, then run the command again",
        )
    if not new and not extension.trusted and facts.superuser:
        yield from NOTHING_PREPARED
    # An extension that can live in one schema only does not take another.
    schema = " SCHEMA public" if extension.schema is None else ""
    yield f"CREATE EXTENSION IF NOT EXISTS {identifier(name)}{schema} CASCADE"


def _existing_objects(live: Interior, interior: Interior) -> Iterator[str]:
    """Default privileges never reach what exists already."""
    for schema in live.schemas:
        yield f"GRANT USAGE ON SCHEMA {schema} TO {identifier(interior.readers)}, {identifier(interior.writers)}"
        if interior.misowned:
            yield f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {identifier(interior.role)}"
    defaults = (entry for entry in interior.default_privileges if entry[2] != PUBLIC)  # of another's, what stays
    of_owner = (entry[1:] for entry in defaults if entry[0] == interior.role)
    for kind, grantees, privileges in _by_kind(of_owner):
        if kind != "SCHEMAS":
            for things in _existing(live, "ROUTINES" if kind == "FUNCTIONS" else kind):
                yield f"GRANT {privileges} ON {things} TO {grantees}"
    for kind, privileges in _OF_OTHERS.items() if interior.misowned else ():  # which stay theirs
        for things in _existing(live, kind):
            yield f"GRANT {privileges} ON {things} TO {identifier(interior.role)}"


def _existing(live: Interior, kind: str) -> Iterator[str]:
    """What of a kind there is of the app's, as GRANT calls it: all that a schema has; where an extension has put some
    there, which it may keep to itself, by name."""
    beside = {schema: names for schema, of, names in live.beside if of == kind}
    for schema in live.schemas:
        if schema not in beside:
            yield f"ALL {kind} IN SCHEMA {schema}"
        elif beside[schema]:
            yield f"{kind.removesuffix('S')} {', '.join(beside[schema])}"
