"""The closed list of what the admin's login sends to a database that an app owns.

It is that of `admitted` (apply, usage, audit, removal), and that of `admin_inside.AdminInside` (backups; decision 19
has its reasons). A statement that is on neither fails the suite: somebody has to think about it, and to write down why
it cannot run what the app has made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from multidb.errors import NotAllowed
from multidb.provisioners.postgres.backup import bound, contents
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision import admitted

__all__ = ["OF_ARCHIVES", "known"]

_NAME = r'"(?:[^"]|"")+"'
_WORD = rf"(?:{_NAME}|[a-z_][a-z0-9_$]*)"
_PATH = rf"{_WORD}\.{_WORD}"
_ARGUMENTS = r"""(?:[^"';$]|"(?:[^"]|"")*")*"""
_GIVING = "(?:GRANT|REVOKE|REVOKE GRANT OPTION FOR)"
_GIVEN = rf"(?:TO|FROM) (?:PUBLIC|{_NAME})(?: WITH GRANT OPTION)?"
_CATALOGS = "catalogs and functions of the server only, by search_path = pg_catalog; no expression is evaluated"

# Questions of archives, by a text that stands in them.
_QUESTIONS: Mapping[str, str] = {
    contents.owned_by_others([]).partition("rolname IN (")[0]: _CATALOGS,
    "SELECT coalesce(json_agg(extname), '[]'::json) FROM pg_extension": _CATALOGS,
    "SELECT EXISTS (SELECT FROM pg_default_acl)": _CATALOGS,
    rights.members_query(): _CATALOGS,
    bound.inside(0, []).partition(" FROM pg_publication")[0]: _CATALOGS,
    contents.INWARD: _CATALOGS,
}

OF_ARCHIVES: Mapping[str, str] = {
    "BEGIN|COMMIT|ROLLBACK": "no deferred constraint waits in a transaction that writes no row of an app",
    rf"ALTER SCHEMA {_NAME} OWNER TO {_NAME}": "in a place that no app may enter, before anything is loaded",
    rf"CREATE EXTENSION IF NOT EXISTS {_NAME} SCHEMA {_NAME} VERSION E?'(?:[^']|'')*'": (
        "likewise; the script is a file of the machine"
    ),
    rf"CREATE SCHEMA IF NOT EXISTS {_NAME}|ALTER EXTENSION {_NAME} SET SCHEMA {_NAME}": (
        "in a place that no app may enter; rows of catalogs, and a name that is taken is refused (decision 94)"
    ),
    "SET search_path = pg_catalog,pg_temp": "the session then looks where it always does",
    rf"(?:GRANT|REVOKE) (?:INSERT|UPDATE|SELECT) ON (?:TABLE|SEQUENCE) {_PATH} (?:TO|FROM) {_NAME}": (
        "rows of catalogs only; what is named is an extension's, or the app's own and has taken its name"
    ),
    rf"{_GIVING} [A-Z]+ (?:\({_NAME}\) )?ON (?:TABLE|SEQUENCE|TYPE|SCHEMA) (?:{_PATH}|{_WORD}) {_GIVEN}": (
        "likewise, of what an extension has and the app does not own"
    ),
    rf"ALTER SCHEMA {_NAME} RENAME TO {_NAME}": "one row of a catalog, in a database that apps share",
    rf"{_GIVING} (?:USAGE|USAGE, CREATE|ALL) ON SCHEMA {_NAME} {_GIVEN}": "likewise",
    rf"(?:GRANT|REVOKE) CREATE ON DATABASE {_NAME} (?:TO|FROM) {_NAME}": (
        "likewise: undone in the same transaction, so that nobody ever has it"
    ),
    rf"{_GIVING} EXECUTE ON ROUTINE {_PATH}\({_ARGUMENTS}\) {_GIVEN}": "likewise; types are found by name",
    rf"COMMENT ON EXTENSION {_NAME} IS E?'(?:[^']|'')*'": "changes one row of a catalog",
    rf"CREATE SUBSCRIPTION {_NAME} CONNECTION E?'(?:[^']|'')*' PUBLICATION {_NAME} WITH \(create_slot = false, "
    r"copy_data = false, run_as_owner = false\)": (
        "in a place that no app may enter; rows of catalogs, tables are found by name. What comes is written as the "
        "owner of the table, sandboxed (decision 87)"
    ),
    rf"ALTER SUBSCRIPTION {_NAME} (?:DISABLE|SET \(slot_name = NONE\))|DROP SUBSCRIPTION {_NAME}": (
        "likewise; rows of catalogs, and a worker of the server's ends"
    ),
    r"SET (?:log_statement|log_min_error_statement|pg_stat_statements\.track) = '(?:none|panic)'"
    r"|SET log_min_duration_statement = -1": "how the session is logged",
    r"ROLLBACK PREPARED E?'(?:[^']|'')*'": "ending a transaction calls no trigger and no check",
}

_QUOTED = re.compile(r"""E'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", re.DOTALL)


def known(text: str) -> bool:
    """Whether it is a question of the list, or all of its statements are on it."""
    if any(question in text for question in (*admitted.QUERIES, *_QUESTIONS)):
        return True
    return all(_known(statement) for statement in _statements(text))


def _known(statement: str) -> bool:
    if any(re.fullmatch(pattern, statement) for pattern in OF_ARCHIVES):
        return True
    try:
        admitted.require(statement)
    except NotAllowed:
        return False
    return True


def _statements(text: str) -> Iterator[str]:
    """The statements of one message; a semicolon within quotes ends none."""
    masked = _QUOTED.sub(lambda found: "x" * len(found[0]), text)
    start = 0
    for end in [*(found.start() for found in re.finditer(";", masked)), len(text)]:
        if statement := text[start:end].strip():
            yield statement
        start = end + 1
