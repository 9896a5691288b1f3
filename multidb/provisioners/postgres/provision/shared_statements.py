"""Statements for a database that several apps share, and for the schema that each has there. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multidb.errors import NotAllowed
from multidb.model import Action, Change, Statement
from multidb.provisioners.postgres.provision.interior_statements import large_object_statements
from multidb.provisioners.postgres.provision.marks import UNFINISHED, mark
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA
from multidb.provisioners.postgres.provision.privileges import adjustments
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import PUBLIC, PostgresFacts
from multidb.provisioners.postgres.provision.shared_resources import (
    SHARED,
    Schema,
    SharedAccess,
    SharedDatabase,
    SharedInterior,
    unfinished_name,
)

__all__ = ["shared_access", "shared_database", "shared_interior", "shared_schema"]


def shared_database(change: Change, database: SharedDatabase) -> tuple[Statement, ...]:
    """A new one gets its name when nobody but the admin may enter it and its mark says whose it is."""
    assert database.owner is not None
    name, first = identifier(database.name), identifier(unfinished_name(database.name))
    if change.action is Action.CREATE or change.changed("finished"):
        making = f"CREATE DATABASE {first} TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false"
        finishing = (
            f"REVOKE ALL ON DATABASE {first} FROM PUBLIC",
            f"COMMENT ON DATABASE {first} IS {literal(mark(database.owner, SHARED))}",
            f"ALTER DATABASE {first} RENAME TO {name}",
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS true",
        )
        made = (Statement(making),) if change.action is Action.CREATE else ()
        return (*made, *(Statement(line, atomic=True) for line in finishing))
    return tuple(Statement(line, atomic=True) for line in _mended(change, database))


def _mended(change: Change, database: SharedDatabase) -> Iterator[str]:
    name = identifier(database.name)
    if change.changed("belongs_to"):
        yield f"ALTER DATABASE {name} OWNER TO {identifier(database.belongs_to)}"
    if change.changed("template"):
        yield f"ALTER DATABASE {name} IS_TEMPLATE false"
    if change.changed("vacant"):
        assert database.owner is not None
        yield f"COMMENT ON DATABASE {name} IS {literal(mark(database.owner, SHARED))}"
    if change.changed("connection_limit"):
        yield f"ALTER DATABASE {name} CONNECTION LIMIT {database.connection_limit}"
    if isinstance(change.live, SharedDatabase):
        yield from adjustments(f"ON DATABASE {name}", change.live.strangers, database.strangers)
    if change.changed("allow_connections"):
        yield f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"


def shared_access(change: Change, access: SharedAccess) -> Iterator[str]:
    held = change.live.privileges if isinstance(change.live, SharedAccess) else frozenset()
    yield from adjustments(f"ON DATABASE {identifier(access.database)}", held, access.privileges)


def shared_interior(change: Change, interior: SharedInterior, facts: PostgresFacts) -> Iterator[str]:
    """Nobody makes anything in schema public, which every database has, or among the extensions."""
    live = change.live if isinstance(change.live, SharedInterior) else None
    held = live.public if live is not None else frozenset({(PUBLIC, "CREATE"), (PUBLIC, "USAGE")})
    if held != interior.public and facts.number < 150000 and not facts.superuser:
        raise NotAllowed(
            f"cannot close schema public of {interior.name} to everybody",
            hint=f"before Postgres 15 that takes a superuser, and {facts.admin} is none: "
            "use one as the admin login, or a newer server",
        )
    yield from adjustments("ON SCHEMA public", held, interior.public)
    schema = identifier(EXTENSION_SCHEMA)
    in_extensions = live.extensions if live is not None else frozenset()
    if live is None or live.belongs_to is None:
        yield f"CREATE SCHEMA {schema}"
        in_extensions = frozenset()
    elif live.belongs_to != interior.belongs_to:
        assert interior.belongs_to is not None
        yield f"ALTER SCHEMA {schema} OWNER TO {identifier(interior.belongs_to)}"
    yield from adjustments(f"ON SCHEMA {schema}", in_extensions, interior.extensions)
    yield from large_object_statements(live.large_objects if live is not None else None, interior.large_objects)


def shared_schema(change: Change, schema: Schema) -> Iterator[str]:
    """The schema itself; what is in it, and who may do what there, is `Interior`'s."""
    assert schema.owner is not None
    name = identifier(schema.schema)
    if change.action is Action.CREATE:
        yield f"CREATE SCHEMA {name}"
    elif change.changed("belongs_to"):
        yield f"ALTER SCHEMA {name} OWNER TO {identifier(schema.belongs_to)}"
    if change.changed("owner"):
        yield f"COMMENT ON SCHEMA {name} IS {literal(mark(schema.owner, UNFINISHED))}"
