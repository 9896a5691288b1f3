"""Statements for the inside of an app's database: who owns what is there, and who may do what with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from multidb.errors import NotAllowed, ServerError
from multidb.model import Change, Owner, StoreContext
from multidb.provisioners.postgres.provision.marks import RESTORED, mark
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA
from multidb.provisioners.postgres.provision.privileges import adjustments, grouped, joining_login, leaving_login
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import (
    LARGE_OBJECTS,
    PUBLIC,
    Interior,
    PostgresFacts,
    Reading,
)
from multidb.provisioners.postgres.provision.roles import AppNames

__all__ = ["NOTHING_PREPARED", "interior_statements", "large_object_statements", "reading_statements"]


_OF_OTHERS = {
    "TABLES": "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER",
    "SEQUENCES": "SELECT, USAGE, UPDATE",
    "ROUTINES": "EXECUTE",
}
"""What an app's owner is given on what is another's and stays so."""
# Versions in which the script of an extension could replace an object that somebody else had made.
_REPLACING = ((130000, 130008), (140000, 140005))
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


def interior_statements(change: Change, interior: Interior, context: StoreContext) -> Iterator[str]:
    live, facts = change.live if isinstance(change.live, Interior) else None, PostgresFacts.of(context.facts)
    yield from _schema(live, interior, facts)
    yield from _objects(live, interior, facts)  # after the schema: the owner must be allowed to have things there
    yield from _default_privileges(live, interior, facts)
    if interior.schema is None:
        yield from large_object_statements(live.large_objects if live is not None else None, interior.large_objects)
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
        on = f"SCHEMA {identifier(interior.schema)}" if interior.schema else f"DATABASE {identifier(interior.name)}"
        yield f"COMMENT ON {on} IS {literal(text)}"


def reading_statements(change: Change, reading: Reading) -> Iterator[str]:
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
        yield joining_login(login, facts)
    for kind, name in sorted(live.misowned, key=lambda entry: (entry[0] != "SCHEMA", entry)):
        yield f"ALTER {kind} {name} OWNER TO {identifier(live.role)}"
    for login in joining:
        yield leaving_login(login, facts)


def _schema(live: Interior | None, interior: Interior, facts: PostgresFacts) -> Iterator[str]:
    if interior.schema is not None:  # whose owner is the admin: `Schema`
        held = live.schema_privileges if live is not None else frozenset()
        yield from adjustments(f"ON SCHEMA {identifier(interior.schema)}", held, interior.schema_privileges)
        return
    owner = identifier(interior.role)
    if live is not None and live.schema_owner is None:
        yield f"CREATE SCHEMA public AUTHORIZATION {owner}"
        held = frozenset()
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
    yield from adjustments("ON SCHEMA public", held, interior.schema_privileges)


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
            yield joining_login(maker, facts)
        start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {identifier(maker)}"
        for kind, grantees, privileges in _by_kind(had - desired):
            yield f"{start} REVOKE {privileges} ON {kind} FROM {grantees}"
        for kind, grantees, privileges in _by_kind(desired - had):
            yield f"{start} GRANT {privileges} ON {kind} TO {grantees}"
        if joining:
            yield leaving_login(maker, facts)


def _maintaining(live: Interior, interior: Interior) -> Iterator[str]:
    """The tables of before the app's logins could be given MAINTAIN. What came back from a set has the rights that it
    had, and what is taken over gets all of them."""
    right = (interior.role, "TABLES", interior.writers, "MAINTAIN")
    if live.revision in ("", RESTORED) or right not in interior.default_privileges - live.default_privileges:
        return
    for tables in _existing(live, "TABLES"):
        yield f"GRANT MAINTAIN ON {tables} TO {identifier(interior.writers)}"


def large_object_statements(
    live: frozenset[tuple[str, str]] | None, desired: frozenset[tuple[str, str]] | None
) -> Iterator[str]:
    """A large object can be made by whoever may call one of three functions: everybody, the read-only login too.

    Args:
        live: (function, grantee); None: as a new database has them.
        desired: likewise; None: they are left as they are.
    """
    if desired is None:
        return
    held = live if live is not None else frozenset((function, PUBLIC) for function in LARGE_OBJECTS)
    alike: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
    for name, signature in sorted(LARGE_OBJECTS.items()):
        had, to_have = (frozenset(to for of, to in side if of == name) for side in (held, desired))
        alike.setdefault((had, to_have), []).append(f"pg_catalog.{signature}")
    for (had, to_have), functions in alike.items():
        both = (frozenset((grantee, "EXECUTE") for grantee in grantees) for grantees in (had, to_have))
        yield from adjustments(f"ON FUNCTION {', '.join(functions)}", *both)


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
        for grantees, shared in grouped((grantee, privilege) for _, grantee, privilege in entries):
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
            f"in database {interior.scope}, or use a superuser as the admin login",
        )
    if interior.schema is not None:
        # Nobody but the admin has ever made anything where the script works and looks names up.
        where = "" if extension.schema is not None else f" SCHEMA {identifier(EXTENSION_SCHEMA)}"
        yield f"CREATE EXTENSION IF NOT EXISTS {identifier(name)}{where} CASCADE"
        return
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
