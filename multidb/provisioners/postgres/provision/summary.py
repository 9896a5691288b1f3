"""The inside of a database in short, by which a plan tells that nothing is to be done there. Pure.

A new connection has nothing in its caches, so what a question costs is mostly the server's reading up on the catalogs,
functions and operators in it, and the planning of its joins. This one has no joins: what the server has written is
compared here. `interior.INTERIOR` says all the rest, and is asked where this does not say that all is as it should be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from multidb.provisioners.postgres.provision import catalog
from multidb.provisioners.postgres.provision.resources import PUBLIC, Interior

__all__ = ["QUERY", "says_all_is_well"]

# By class: what does not belong to the owner of schema public, and what extensions have brought; on what the role of an
# app over its quota has a right. Oids below 16384 are the server's own. lo_creat, lo_create and lo_from_bytea are asked
# for by oid, as in `interior.INTERIOR`.
QUERY: Final = """
SELECT coalesce((SELECT json_build_object(
  'owner', pg_get_userbyid(o.nspowner), 'privileges', o.nspacl,
  'defaults', ARRAY(SELECT json_build_array(pg_get_userbyid(defaclrole), defaclobjtype, defaclacl)
                    FROM pg_default_acl WHERE defaclnamespace = 0),
  'large_objects', ARRAY(SELECT json_build_array(pg_get_userbyid(proowner), proname, proacl)
                         FROM pg_proc WHERE oid IN (957, 715, 3457)),
  'extensions', ARRAY(SELECT extname FROM pg_extension),
  'brought', ARRAY(SELECT json_build_array(classid, objid) FROM pg_depend WHERE refclassid = 3079 AND deptype = 'e'),
  'over_quota', ARRAY(SELECT oid FROM pg_class WHERE oid >= 16384 AND relacl::text LIKE '%_restricted=%'),
  '1259', ARRAY(SELECT oid FROM pg_class WHERE oid >= 16384 AND relowner <> o.nspowner
                AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')),
  '1255', ARRAY(SELECT oid FROM pg_proc WHERE oid >= 16384 AND proowner <> o.nspowner),
  '1247', ARRAY(SELECT oid FROM pg_type WHERE oid >= 16384 AND typowner <> o.nspowner
                AND typtype IN ('b', 'd', 'e', 'r') AND NOT (typelem <> 0 AND typlen = -1)),
  '2615', ARRAY(SELECT oid FROM pg_namespace WHERE oid >= 16384 AND nspowner <> o.nspowner))
FROM pg_namespace o WHERE o.nspname = 'public'), '{}')"""

# As aclitemout (acl.c) writes it; a name that it has to quote is none of ours. * is a grant option.
_ITEM: Final = re.compile(r"([A-Za-z0-9_]*)=([A-Za-z]*)/[A-Za-z0-9_]+")
_LETTERS: Final = {
    "a": "INSERT",
    "r": "SELECT",
    "w": "UPDATE",
    "d": "DELETE",
    "D": "TRUNCATE",
    "x": "REFERENCES",
    "t": "TRIGGER",
    "m": "MAINTAIN",
    "X": "EXECUTE",
    "U": "USAGE",
    "C": "CREATE",
}
_DEFAULTS: Final = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "n": "SCHEMAS"}
_CLASSES: Final = ("1259", "1255", "1247", "2615")


def says_all_is_well(answer: str, desired: Interior, known: frozenset[str]) -> bool:
    """Whether the inside is surely as `desired`, which has been brought about before, by the answer to `QUERY`.

    Args:
        known: accounts whose rights are no drift.
    """
    document = json.loads(answer)
    if not document:
        return False  # there is no schema public
    brought = {(str(of), int(oid)) for of, oid in document["brought"]}
    if any((of, int(oid)) not in brought for of in _CLASSES for oid in document[of]):
        return False  # of another owner: some may be, which interior.INTERIOR tells
    if any(("1259", int(oid)) in brought for oid in document["over_quota"]):
        return False  # interior.INTERIOR tells whose role it is
    try:
        interior = _interior(document, desired)
    except LookupError:
        return False
    return next(catalog.without_known([interior], known)) == desired


def _interior(document: Mapping[str, Any], desired: Interior) -> Interior:
    """Raises `LookupError` for a privilege that is written in no way of ours."""
    owner: str = document["owner"]
    schema = _held(document["privileges"] or (), owner)
    return Interior(
        name=desired.name,
        app=desired.app,
        role=desired.role,
        readers=desired.readers,
        writers=desired.writers,
        schema_owner=owner,
        schema_privileges=frozenset(schema),
        default_privileges=frozenset(_default_privileges(document["defaults"], desired.makers)),
        extensions=frozenset(document["extensions"]) & desired.extensions,
        large_objects=None if desired.large_objects is None else frozenset(_makers(document["large_objects"])),
        revision=desired.revision,
    )


def _default_privileges(rows: Iterable[Sequence[Any]], makers: Iterable[str]) -> Iterator[tuple[str, str, str, str]]:
    stored = {(role, kind): acl for role, kind, acl in rows}
    for maker in makers:
        if (maker, "f") not in stored:
            yield maker, "FUNCTIONS", PUBLIC, "EXECUTE"  # what everybody has of a function unless it is taken away
        for kind, what in _DEFAULTS.items():
            yield from ((maker, what, *pair) for pair in _held(stored.get((maker, kind), ()), maker))


def _makers(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[str, str]]:
    """(function, grantee) as `Interior.large_objects` has them."""
    for owner, function, acl in rows:
        if acl is None:
            yield function, PUBLIC
        for grantee, _ in _held(acl or (), owner):
            yield function, grantee


def _held(acl: Iterable[str], owner: str) -> Iterator[tuple[str, str]]:
    """(grantee, privilege) of everybody but the owner."""
    for item in acl:
        match = _ITEM.fullmatch(item)
        if match is None:
            raise LookupError(item)
        if match[1] != owner:
            yield from ((match[1] or PUBLIC, _LETTERS[letter]) for letter in match[2])
