"""What an admin's login may send to an app's database, outside of backups: a closed list. Pure.

A statement there must not call anything that an app has made: no function, view, operator, cast, policy or constraint.
Each form on the list says why it does not. A statement has to be of one of these forms from its first character to its
last, with every name and text in quotes, so that a name out of a catalog cannot become a statement of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from multidb.errors import NotAllowed
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.isolation import inventory
from multidb.provisioners.postgres.observe import usage
from multidb.provisioners.postgres.provision import (
    existing,
    interior,
    mentions,
    move_survey,
    reading,
    shared_catalog,
    summary,
)
from multidb.provisioners.postgres.provision.interior_statements import NOTHING_PREPARED
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA

__all__ = ["FORMS", "QUERIES", "Form", "require"]

# As the server quotes a name (quote_ident), or as `identifier` does.
_NAME: Final = r'(?:"(?:[^"\0]|"")+"|[a-z_][a-z0-9_$]*)'
_PATH: Final = rf"{_NAME}(?:\.{_NAME})?"
_NAMES: Final = rf"(?:PUBLIC|{_NAME})(?:, (?:PUBLIC|{_NAME}))*"
_RIGHTS: Final = "[A-Z]+(?: [A-Z]+)*(?:, [A-Z]+(?: [A-Z]+)*)*"
_TEXT: Final = r"(?:'(?:[^'\\\0]|'')*'|E'(?:[^'\\\0]|''|\\\\)*')"
_ARGUMENTS: Final = r"""(?:[^"';$\0]|"(?:[^"\0]|"")*")*"""
_MAKERS: Final = r"pg_catalog\.lo_[a-z_]+\([a-z, ]+\)(?:, pg_catalog\.lo_[a-z_]+\([a-z, ]+\))*"
_OWNED: Final = "TABLE|SEQUENCE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|TYPE|DOMAIN|SCHEMA"


@dataclass(frozen=True, slots=True)
class Form:
    """A form of statements, and why none of them calls what an app has made.

    Args:
        title: as decision 20 lists it.
    """

    title: str
    pattern: str
    why: str


_CATALOG_ONLY = "changes rows of catalogs and reads catalogs only"

FORMS: Final = (
    Form(
        "GRANT/REVOKE .. ON SCHEMA, ON ALL TABLES/SEQUENCES/ROUTINES IN SCHEMA",
        rf"(?:GRANT|REVOKE) {_RIGHTS} ON "
        rf"(?:SCHEMA|ALL TABLES IN SCHEMA|ALL SEQUENCES IN SCHEMA|ALL ROUTINES IN SCHEMA) {_NAME} "
        rf"(?:TO|FROM) {_NAMES}(?: CASCADE)?",
        _CATALOG_ONLY,
    ),
    Form(
        "GRANT/REVOKE .. ON TABLE/SEQUENCE",
        rf"(?:GRANT|REVOKE) {_RIGHTS} ON (?:TABLE|SEQUENCE) {_PATH}(?:, {_PATH})* (?:TO|FROM) {_NAMES}",
        _CATALOG_ONLY,
    ),
    Form(  # one or more: what is between two looks like arguments
        "GRANT EXECUTE ON ROUTINE",
        rf"GRANT EXECUTE ON ROUTINE {_PATH}\({_ARGUMENTS}\) TO {_NAMES}",
        f"{_CATALOG_ONLY}; types are found by name",
    ),
    Form(
        "GRANT/REVOKE EXECUTE ON FUNCTION pg_catalog.lo_..",
        rf"(?:GRANT|REVOKE) EXECUTE ON FUNCTION {_MAKERS} (?:TO|FROM) {_NAMES}",
        f"{_CATALOG_ONLY}; the functions are the server's own, and are not called",
    ),
    Form(
        "ALTER DEFAULT PRIVILEGES FOR ROLE [IN SCHEMA]",
        rf"ALTER DEFAULT PRIVILEGES FOR ROLE {_NAME}(?: IN SCHEMA {_NAME})? "
        rf"(?:GRANT|REVOKE) {_RIGHTS} ON [A-Z]+ (?:TO|FROM) {_NAMES}",
        _CATALOG_ONLY,
    ),
    Form("GRANT role TO role [WITH INHERIT TRUE]", rf"GRANT {_NAME} TO {_NAME}(?: WITH INHERIT TRUE)?", _CATALOG_ONLY),
    Form(
        "REVOKE role FROM role [GRANTED BY role]",
        rf"REVOKE {_NAME} FROM {_NAME}(?: GRANTED BY {_NAME})?",
        _CATALOG_ONLY,
    ),
    Form("CREATE SCHEMA", rf"CREATE SCHEMA {_NAME}", _CATALOG_ONLY),
    Form("COMMENT ON SCHEMA", rf"COMMENT ON SCHEMA {_NAME} IS {_TEXT}", _CATALOG_ONLY),
    Form(
        "DROP SCHEMA",
        rf"DROP SCHEMA (?:IF EXISTS )?{_NAME}",
        "without CASCADE it drops what holds nothing; dropping calls nothing but event triggers, which do not fire or "
        "are refused",
    ),
    Form("CREATE SCHEMA public AUTHORIZATION", rf"CREATE SCHEMA public AUTHORIZATION {_NAME}", _CATALOG_ONLY),
    Form(
        "ALTER TABLE/SEQUENCE/VIEW/TYPE/DOMAIN/SCHEMA/.. OWNER TO",
        rf"ALTER (?:{_OWNED}) {_PATH} OWNER TO {_NAME}",
        f"{_CATALOG_ONLY}, also for what hangs on a table (indexes, sequences, its row type); it rewrites nothing",
    ),
    Form(
        "ALTER ROUTINE .. OWNER TO",
        rf"ALTER ROUTINE {_PATH}\({_ARGUMENTS}\) OWNER TO {_NAME}",
        f"{_CATALOG_ONLY}; types are found by name",
    ),
    Form("ALTER LARGE OBJECT .. OWNER TO", rf"ALTER LARGE OBJECT [0-9]+ OWNER TO {_NAME}", _CATALOG_ONLY),
    Form(
        "CREATE EXTENSION IF NOT EXISTS .. [SCHEMA public] CASCADE",
        rf"CREATE EXTENSION IF NOT EXISTS {_NAME}(?: SCHEMA public)? CASCADE",
        "the script is a file of the server's machine, run with public and pg_catalog in its search_path: a trusted "
        "one is meant to be run for anybody (from 13.8, 14.5 and 15 on it replaces nothing), one that is not runs "
        "only where nothing was prepared: in a database that no app has had yet, or after the two statements below",
    ),
    Form(
        'CREATE EXTENSION IF NOT EXISTS .. [SCHEMA "extensions"] CASCADE',
        rf'CREATE EXTENSION IF NOT EXISTS {_NAME}(?: SCHEMA "{EXTENSION_SCHEMA}")? CASCADE',
        "in a database that apps share: nobody but the admin makes anything in that schema, or another schema, so no "
        "script finds what an app has made",
    ),
    *(
        Form(title, re.escape(text), "a lock on catalogs, and a count in them; superusers only")
        for title, text in zip(
            ("LOCK TABLE pg_proc, ..", "SELECT CAST(.. AS int) FROM .."), NOTHING_PREPARED, strict=True
        )
    ),
    Form("COMMENT ON DATABASE", rf"COMMENT ON DATABASE {_NAME} IS {_TEXT}", _CATALOG_ONLY),
    Form("ROLLBACK PREPARED", rf"ROLLBACK PREPARED {_TEXT}", "ending a transaction calls neither triggers nor checks"),
    Form(
        'REASSIGN OWNED BY .. TO "multidb__left"',
        rf'REASSIGN OWNED BY {_NAMES} TO "multidb__left"',
        f"{_CATALOG_ONLY}; the new owner is a role without any right, so nothing gains a right by it",
    ),
    Form(
        "DROP OWNED BY",
        rf"DROP OWNED BY {_NAMES}",
        "dropping calls nothing but event triggers, which do not fire or are refused",
    ),
)

QUERIES: Final = (
    interior.INTERIOR,
    interior.INTERIOR_TO_TAKE_OVER,
    interior.EVENT_TRIGGERS,
    existing.INSIDE,
    summary.QUERY,
    reading.READING,
    shared_catalog.SHARED,
    usage.INSIDE,
    inventory.INSIDE,
    inventory.LENT,
    contents.INWARD,
    mentions.TEXTS,
    move_survey.LAYOUT,
)
"""They read catalogs, with functions of the server's own that describe objects and evaluate no expression."""


def require(text: str) -> None:
    """`NotAllowed` unless `text` is a query of `QUERIES` or a statement of one of `FORMS`."""
    if text in QUERIES or any(_matches(text)):
        return
    raise NotAllowed(
        f"an admin's login does not send this to an app's database: {text}",
        hint="names with a NUL or a broken encoding look like this; rename what is named there",
    )


def _matches(text: str) -> Iterator[bool]:
    return (re.fullmatch(form.pattern, text) is not None for form in FORMS)
