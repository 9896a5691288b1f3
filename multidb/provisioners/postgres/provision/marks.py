"""The mark by which a role or a database is an app's: the comment on it, which every login can read. Pure."""

from __future__ import annotations

import re

from multidb.model import Owner

__all__ = ["MARK_PREFIX", "RESTORED", "UNFINISHED", "mark", "parse_mark", "schema_in_mark"]

UNFINISHED = "unfinished"  # stands in a database's mark until its inside is done
RESTORED = "0" * 8  # the revision of an inside that came back with the rights it had: what is missing is added, no more
MARK_PREFIX = "multidb:"
_MARK = re.compile(r"multidb:([^/\s]+)/(\S+)(?:\s+(.*))?", re.DOTALL)
_REVISION = re.compile(r"[0-9a-f]{8}")
_SCHEMA = re.compile(r" owns schema (\S+) of (\S+)$")


def mark(owner: Owner, tail: str) -> str:
    """The comment that says whose a role or database is. Every login can read it."""
    return f"{MARK_PREFIX}{owner} {tail}".rstrip()


def parse_mark(comment: str | None) -> tuple[Owner | None, str]:
    """Whose a thing is by its comment, and the revision of its inside ("" when unfinished)."""
    match = _MARK.fullmatch(comment or "")
    if match is None:
        return None, ""
    tail = (match[3] or "").split(" ")[0]
    return Owner(match[1], match[2]), tail if tail != UNFINISHED and _REVISION.fullmatch(tail) else ""


def schema_in_mark(comment: str | None) -> tuple[str, str] | None:
    """Where an owner role's things are, by its comment: a schema and the shared database that it is in; None: in a
    database of the app's own, or it is no owner role."""
    match = _SCHEMA.search(comment or "")
    return (match[1], match[2]) if match is not None else None
