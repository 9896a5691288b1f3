"""What is tried on a wall, as text: an act, and those between apps that share a database. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA

__all__ = [
    "BETWEEN_SCHEMAS",
    "CREATE_TRUSTED",
    "IN_A_SCHEMA",
    "LARGE_OBJECTS",
    "READS",
    "SHOWN",
    "TRUSTED",
    "UNTRUSTED",
    "Act",
]

SHOWN: Final = 160  # characters of what a server said that are kept


@dataclass(frozen=True, slots=True)
class Act:
    """One attempt, as text in which ``{b}`` is the victim (or an app's own name, for the control) as an identifier
    begins, ``{a}`` the attacker, ``{login}`` the login, and ``{pid}`` a session of the victim.

    Args:
        control: the same act on the attacker's own things, which must work; None where no app may do it at all.
        owning: tried only with the login that owns what it makes, because its control is.
        done: errors that only come once the server has agreed, so that they count as success.
        transaction: False for what no transaction may hold; it then fails by itself, for a reason in `done`.
        counts: the act is a question, and only an answer other than 0 is success.
        grows: its control makes something, which an app over its quota may not, so that it is not tried then.
        harmless: errors of the control that only come once the server has agreed to it.
        since: the first server version that can be asked.
    """

    name: str
    text: str
    control: str | None = None
    owning: bool = False
    done: frozenset[str] = frozenset()
    transaction: bool = True
    counts: bool = False
    grows: bool = False
    harmless: frozenset[str] = frozenset()
    since: int = 0


# `what` is raised as a refusal where this machine has no such extension: there is nothing that it may then.
_EXTENSION = (
    "DO $$ DECLARE name text; BEGIN SELECT v.name INTO name FROM pg_available_extension_versions v "
    "WHERE {condition} AND v.requires IS NULL AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = v.name) "
    "ORDER BY v.name LIMIT 1; IF name IS NULL THEN {none} END IF; EXECUTE format('CREATE EXTENSION %I', name); END $$"
)
_NOTHING_TO_MAKE = "RAISE insufficient_privilege USING MESSAGE = 'this machine has none';"
UNTRUSTED = _EXTENSION.replace("{condition}", "v.superuser AND NOT v.trusted").replace("{none}", _NOTHING_TO_MAKE)
TRUSTED = _EXTENSION.replace("{condition}", "v.trusted").replace("{none}", "RETURN;")
CREATE_TRUSTED: Final = Act("CREATE EXTENSION, trusted", TRUSTED.replace("RETURN;", _NOTHING_TO_MAKE))

# Closed where the admin is a superuser; elsewhere `isolation` says that it is open.
LARGE_OBJECTS = tuple(
    Act(f"make a large object with the read-only login: {name}", f"SELECT {call}")
    for name, call in (
        ("lo_creat", "lo_creat(-1)"),
        ("lo_create", "lo_create(0)"),
        ("lo_from_bytea", "lo_from_bytea(0, '')"),
    )
)

# Every relation of the victim's schema that there is, by a right on it and on the schema.
_OF_ITS_TABLES: Final = (
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {b_schema_text} "
    "AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND has_schema_privilege(current_user, n.oid, 'USAGE') AND "
)
_ITS_SCHEMA: Final = "SELECT count(*) FROM pg_namespace n WHERE n.nspname = {b_schema_text}"
_FUNCTION: Final = "CREATE FUNCTION {schema}.multidb_audit() RETURNS int LANGUAGE sql AS 'SELECT 1'"


def _function(schema: str) -> str:
    return _FUNCTION.replace("{schema}", schema)


READS: Final = frozenset({"enter its schema", "read its tables"})
"""Acts that work where the manifest lets an app read the other (``reads``)."""

BETWEEN_SCHEMAS: Final = (
    Act("enter its schema", f"{_ITS_SCHEMA} AND has_schema_privilege(current_user, n.oid, 'USAGE')", counts=True),
    Act(
        "read its tables",
        f"{_OF_ITS_TABLES}has_any_column_privilege(current_user, c.oid, 'SELECT')",
        counts=True,
    ),
    Act(
        "write its tables",
        f"{_OF_ITS_TABLES}(has_any_column_privilege(current_user, c.oid, 'INSERT, UPDATE, REFERENCES') "
        "OR has_table_privilege(current_user, c.oid, 'DELETE, TRUNCATE, TRIGGER'))",
        counts=True,
    ),
    Act("own its tables", f"{_OF_ITS_TABLES}pg_has_role(current_user, c.relowner, 'MEMBER')", counts=True),
    Act(
        "call its functions",
        "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        "WHERE n.nspname = {b_schema_text} AND has_schema_privilege(current_user, n.oid, 'USAGE') "
        "AND has_function_privilege(current_user, p.oid, 'EXECUTE')",
        counts=True,
    ),
    Act(
        "create in its schema",
        "CREATE TABLE {b_schema}.multidb_audit (a int)",
        "CREATE TABLE {a_schema}.multidb_audit (a int)",
        owning=True,
        grows=True,
    ),
    Act(
        "put a function before its own",
        _function("{b_schema}"),
        _function("{a_schema}"),
        owning=True,
        grows=True,
    ),
    Act("own its schema", "COMMENT ON SCHEMA {b_schema} IS NULL", owning=True),
    Act("let itself into its schema", "GRANT USAGE ON SCHEMA {b_schema} TO {login}", owning=True),
    Act(
        "give itself what it will make",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {b_owner} GRANT ALL ON TABLES TO {login}",
        owning=True,
    ),
    Act(
        "look into its temporary tables",
        "SELECT count(*) FROM pg_namespace n WHERE n.nspname ~ '^pg_temp_' AND n.oid <> pg_my_temp_schema() "
        "AND has_schema_privilege(current_user, n.oid, 'USAGE')",
        counts=True,
    ),
)
"""What an app tries on another one with a schema in the same database."""

IN_A_SCHEMA: Final = (
    Act("CREATE SCHEMA", "CREATE SCHEMA multidb_audit"),
    *(
        Act(
            f"put a function where all look ({schema})",
            _function(schema),
            _function("{a_schema}"),
            True,
            grows=True,
        )
        for schema in (EXTENSION_SCHEMA, "public")
    ),
    Act("own the schema", "ALTER SCHEMA {a_schema} RENAME TO multidb_audit"),
    Act("let others into the schema", "GRANT USAGE ON SCHEMA {a_schema} TO PUBLIC"),
)
"""What no app with a schema in a shared database may do at all."""
