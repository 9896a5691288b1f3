"""Databases beside an app's own that hold its data for a while, and the login that fills them: names and marks. Pure.

Their mark has another beginning than an app's, so that no look at the apps' resources ever takes one for an app's.
"""

from __future__ import annotations

import re
from typing import Final

from multidb.model import Owner

__all__ = [
    "DELEGATE",
    "DELEGATES",
    "NEW",
    "OLD",
    "SCRATCH",
    "is_of_another_kind",
    "parse_place_mark",
    "place_mark",
    "place_names",
]

_ANOTHER_KIND: Final = " of another kind"
_MARK: Final = re.compile(rf"multidb-place:([^/\s]*)/(\S+)({_ANOTHER_KIND})?")

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


def place_mark(owner: Owner, *, another_kind: bool = False) -> str:
    """The comment that says whose data it is; and that it was loaded from a set of another kind of place."""
    return f"multidb-place:{owner}{_ANOTHER_KIND * another_kind}"


def is_of_another_kind(comment: str | None) -> bool:
    """Whether a place's comment says that."""
    return parse_place_mark(comment) is not None and (comment or "").endswith(_ANOTHER_KIND)


def parse_place_mark(comment: str | None) -> Owner | None:
    """Whose data it is by its comment; None where that is no such mark."""
    match = _MARK.fullmatch(comment or "")
    return Owner(match[1], match[2]) if match is not None else None
