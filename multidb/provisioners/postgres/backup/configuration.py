"""The tables and sequences in which extensions keep what a database has configured (`pg_extension_config_dump`): of all
that extensions have made, a dump holds the rows of these. Pure.

Which they are is read where a set is loaded, from the extensions that were made there; a set cannot name one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["KEPT_BACK", "RELATIONS", "TABLES", "Relation", "entries", "fingerprint", "is_empty", "label", "read"]

# Of the extensions that the database has. Only what is the extension's by pg_depend is taken for its own.
_OWN = """
SELECT e.extname, c.oid, c.relkind, c.relname, c.relowner, c.relrowsecurity, c.relforcerowsecurity, n.oid AS noid,
  n.nspname, x.condition
FROM pg_extension e, unnest(e.extconfig, e.extcondition) x (oid, condition)
JOIN pg_class c ON c.oid = x.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND EXISTS (
  SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid)"""

# $1: the owner role. What it and the session, which is a member of it, may do with each.
RELATIONS = f"""
SELECT coalesce(json_agg(json_build_array(extname, relkind, nspname, relname, format('%I.%I', nspname, relname),
    has_schema_privilege($1, noid, 'USAGE'), has_table_privilege($1, oid, 'SELECT'),
    CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, 'UPDATE') ELSE has_table_privilege(oid, 'INSERT') END)
  ORDER BY oid), '[]'::json)
FROM ({_OWN}) own"""  # noqa: S608

# Tables of which row security shows an app some rows only: what belongs to others must not come into its set. As
# patterns of psql, and as they are called.
KEPT_BACK = f"""
SELECT coalesce(json_agg(json_build_array(
    format('"%s"."%s"', replace(nspname, '"', '""'), replace(relname, '"', '""')), extname,
    format('%I.%I', nspname, relname)) ORDER BY oid), '[]'::json)
FROM ({_OWN}) own
WHERE relrowsecurity AND (relforcerowsecurity OR NOT pg_has_role(relowner, 'USAGE'))"""  # noqa: S608

# For the measures: those that the session reads whole.
TABLES = f"""
SELECT coalesce(json_agg(json_build_array(format('%I.%I', nspname, relname), own.oid::text,
    (SELECT coalesce(json_agg(quote_ident(attname) ORDER BY attnum), '[]'::json) FROM pg_attribute
     WHERE attrelid = own.oid AND attnum > 0 AND NOT attisdropped), condition) ORDER BY nspname, relname), '[]'::json)
FROM ({_OWN}) own
WHERE relkind = 'r' AND has_schema_privilege(noid, 'USAGE') AND has_table_privilege(oid, 'SELECT')
  AND NOT (relrowsecurity AND (relforcerowsecurity OR NOT pg_has_role(relowner, 'USAGE')))"""  # noqa: S608

_SEQUENCE = "S"


@dataclass(frozen=True, slots=True)
class Relation:
    """One table or sequence.

    Args:
        name: its full name, as the server quotes it.
        enterable: whether the app's owner role may use its schema.
        readable: whether the owner role may read it.
        fillable: whether the login that loads may write it.
    """

    extension: str
    relkind: str
    schema: str
    relation: str
    name: str
    enterable: bool
    readable: bool
    fillable: bool

    @property
    def kind(self) -> str:
        """Its kind, as GRANT calls it: ``TABLE``, ``SEQUENCE``."""
        return "SEQUENCE" if self.relkind == _SEQUENCE else "TABLE"

    @property
    def filling(self) -> str:
        """The privilege that loading it takes."""
        return "UPDATE" if self.relkind == _SEQUENCE else "INSERT"


def read(answer: str) -> list[Relation]:
    """The relations in an answer to `RELATIONS`."""
    return [Relation(*entry) for entry in json.loads(answer)]


def label(name: str) -> str:
    """What the measures call the rows of such a table, by its full name as the server quotes it."""
    return f"configuration table {name}"


def fingerprint(count: int, digest: str) -> str:
    """What the measures keep of the rows of such a table."""
    return f"{count} {digest}"


def is_empty(content: str | None) -> bool:
    """Whether a fingerprint says that there are no rows; without one, that is not known."""
    return content is not None and content.startswith("0 ")


def entries(listing: str, relations: Sequence[Relation]) -> dict[str, Relation]:
    """The lines of a dump's table of contents that fill these. A table that is in the dump itself is the app's own."""
    lines = listing.split("\n")
    by_line: dict[str, Relation] = {}
    for relation in relations:
        what = "SEQUENCE SET" if relation.relkind == _SEQUENCE else "TABLE DATA"
        name = re.escape(re.sub("[\n\r]", " ", f"{relation.schema} {relation.relation}"))
        made = re.compile(rf"[0-9]+; [0-9]+ [0-9]+ {relation.kind} {name} \S+")
        if any(made.fullmatch(line) for line in lines):
            continue
        filled = re.compile(rf"[0-9]+; [0-9]+ [0-9]+ {what} {name} \S+")
        by_line |= {line: relation for line in lines if filled.fullmatch(line)}
    return by_line
