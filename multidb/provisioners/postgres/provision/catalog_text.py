"""Statements made of text that stands in a catalog. Pure, and the only place that does so.

An app writes such text, or chooses it: settings, names, privileges. It is parsed into its parts and every part quoted,
or refused; none of it ever becomes SQL as it stands. (A row policy's expression is SQL by nature: `policy` makes a
statement of it that only a login without power of its own may send.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multidb.provisioners.postgres.provision.quoting import assignment, identifier

__all__ = ["policy", "privilege", "setting", "settings"]

_ON_DATABASES = frozenset({"CONNECT", "CREATE", "TEMPORARY"})
_COMMANDS = frozenset({"ALL", "SELECT", "INSERT", "UPDATE", "DELETE"})


def privilege(database: str, grantee: str | None, right: str) -> str:
    """The statement that gives a privilege of an ACL on a database; no grantee is everybody.

    Raises:
        ValueError: a database has no such privilege.
    """
    if right not in _ON_DATABASES:
        raise ValueError(f"{right!r} is no privilege on a database")
    to = "PUBLIC" if grantee is None else identifier(grantee)
    return f"GRANT {right} ON DATABASE {identifier(database)} TO {to}"


def setting(database: str, role: str | None, entry: str) -> str:
    """The statement that makes an entry of ``pg_db_role_setting.setconfig`` again, for a role or for everybody.

    Raises:
        ValueError: it is no setting that this can write.
    """
    name, _, value = entry.partition("=")
    whose = f"DATABASE {identifier(database)}"
    if role is not None:
        whose = f"ROLE {identifier(role)} IN {whose}"
    return f"ALTER {whose} {assignment(name, value)}"


def settings(value: object) -> list[tuple[str | None, list[str]]]:
    """Entries of ``pg_db_role_setting`` by role (None: everybody), as a set's manifest keeps them.

    Raises:
        ValueError: they are no such entries.
    """
    if not isinstance(value, list | tuple):
        raise ValueError("the set's settings are no list")
    parsed: list[tuple[str | None, list[str]]] = []
    for entry in value:
        role, entries = entry if isinstance(entry, list | tuple) and len(entry) == 2 else ("", None)
        if not isinstance(entries, list | tuple) or not (role is None or isinstance(role, str)):
            raise ValueError(f"{str(entry)[:40]!r} is no setting")
        texts = [text for text in entries if isinstance(text, str)]
        if len(texts) < len(entries):
            raise ValueError(f"{str(entry)[:40]!r} is no setting")
        parsed.append((role, texts))
    return parsed


def policy(entry: Mapping[str, Any], roles: Sequence[str]) -> str:
    """The statement that makes a row policy for other `roles` (``public`` is everybody).

    Args:
        entry: as `contents.POLICIES` gives it. Its expressions are SQL: for a login without power.

    Raises:
        ValueError: it is for no command that there is.
    """
    if entry["command"] not in _COMMANDS:
        raise ValueError(f"{entry['command']!r} is no command that a row policy can be for")
    table = f"{identifier(str(entry['schema']))}.{identifier(str(entry['table']))}"
    kind = "PERMISSIVE" if entry["permissive"] else "RESTRICTIVE"
    to = ", ".join("PUBLIC" if role == "public" else identifier(role) for role in roles)
    name = identifier(str(entry["name"]))
    return " ".join([f"CREATE POLICY {name} ON {table} AS {kind} FOR {entry['command']} TO {to}", *_conditions(entry)])


def _conditions(entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["using"] is not None:
        yield f"USING ({entry['using']})"
    if entry["check"] is not None:
        yield f"WITH CHECK ({entry['check']})"
