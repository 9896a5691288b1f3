"""Databases beside an app's own that hold its data for a while, and the login that fills them: names and marks. Pure.

Their mark has another beginning than an app's, so that no look at the apps' resources ever takes one for an app's.
"""

from __future__ import annotations

import re
from typing import Final

from multidb.model import Owner

__all__ = ["DELEGATE", "DELEGATES", "NEW", "OLD", "SCRATCH", "parse_place_mark", "place_mark", "place_names"]

_MARK: Final = re.compile(r"multidb-place:([^/\s]*)/(\S+)")

SCRATCH = "__scratch"  # a set is tried out in it
NEW = "__new"  # a set is loaded into it before it replaces the app's own
OLD = "__old"  # the app's own of before, on its way out
DELEGATE = "__delegate"  # a login that is made for one step and works in an app's database

# The logins of steps that are under way, beside any app's own; only who makes roles can give one such a mark.
DELEGATES = f"""
SELECT r.oid FROM pg_roles r JOIN pg_shdescription c ON c.objoid = r.oid AND c.classoid = 'pg_authid'::regclass
WHERE right(r.rolname, {len(DELEGATE)}) = '{DELEGATE}' AND starts_with(c.description, 'multidb-place:')"""  # noqa: S608


def place_names(app_id: str) -> tuple[str, ...]:
    """Every such database that the app may have."""
    return tuple(f"{app_id}{suffix}" for suffix in (SCRATCH, NEW, OLD))


def place_mark(owner: Owner) -> str:
    """The comment that says whose data it is."""
    return f"multidb-place:{owner}"


def parse_place_mark(comment: str | None) -> Owner | None:
    """Whose data it is by its comment; None where that is no such mark."""
    match = _MARK.fullmatch(comment or "")
    return Owner(match[1], match[2]) if match is not None else None
