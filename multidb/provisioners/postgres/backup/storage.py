"""How columns are stored while a dump is loaded, where that is not how they are declared.

What is stored, and its index, stays as it is when a column is declared otherwise (``SET STORAGE`` or ``COMPRESSION``).
Loaded under the new declaration, a long value that was compressed may be too long for its index, or its row. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from multidb.provisioners.postgres.provision.quoting import identifier

__all__ = ["Stored", "find", "read"]

_WORDS: Final = {"STORAGE": ("PLAIN", "EXTERNAL", "EXTENDED", "MAIN"), "COMPRESSION": ("pglz", "lz4")}
_STORAGE = "CASE {} WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END"
# By an index that holds its values, and not their hashes.
_INDEXED = """EXISTS (SELECT FROM pg_index i JOIN pg_attribute x ON x.attrelid = i.indexrelid AND x.attlen = -1
  AND i.indkey[x.attnum - 1] = a.attnum WHERE i.indrelid = c.oid)"""
# A declaration reaches the indexes that are there, also one whose values are of another type (a hash's), which would
# have another one had it been made later. It is in the catalog only.
_REACHED = """EXISTS (SELECT FROM pg_index i JOIN pg_attribute x ON x.attrelid = i.indexrelid
  AND i.indkey[x.attnum - 1] = a.attnum AND x.atttypid <> a.atttypid JOIN pg_type y ON y.oid = x.atttypid
  WHERE i.indrelid = c.oid AND {})"""
_STORAGE_REACHED: Final = _REACHED.format("x.attstorage = a.attstorage AND x.attstorage <> y.typstorage")
_COMPRESSION_REACHED: Final = _REACHED.format("x.attcompression = a.attcompression")
_COLUMNS: Final = """
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
  AND coalesce(current_setting('multidb.schema', true), '') IN ('', n.nspname::text)
  AND NOT EXISTS (SELECT FROM pg_depend e
                  WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
"""
# Declared to be kept as they are, while their type would have them compressed; or after an index.
_UNCOMPRESSED: Final = f"""
SELECT coalesce(json_agg(json_build_array({_STORAGE_REACHED}, n.nspname, c.relname, a.attname, 'STORAGE',
  {_STORAGE.format("t.typstorage")}, {_STORAGE.format("a.attstorage")}) ORDER BY c.oid, a.attnum), '[]'::json)
{_COLUMNS} AND a.attstorage <> t.typstorage
  AND (a.attstorage = 'p' OR a.attstorage = 'e' AND {_INDEXED} OR {_STORAGE_REACHED})"""
# Declared to be compressed in a way in which not all values need be; or after an index.
_COMPRESSED: Final = f"""
SELECT coalesce(json_agg(json_build_array({_COMPRESSION_REACHED}, n.nspname, c.relname, a.attname,
  CASE a.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END) ORDER BY c.oid, a.attnum), '[]'::json) {_COLUMNS}
  AND a.attcompression <> '' AND (c.relkind = 'r' AND {_INDEXED} OR {_COMPRESSION_REACHED})"""
_VIEWS: Final = """
SELECT coalesce(json_agg(json_build_array(n.nspname, c.relname)), '[]'::json)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm'"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A column of a table, and the statements that declare it for a load and as it was."""

    table: str
    loading: str
    declared: str


def find(ask: Callable[[str], str], version: int) -> Sequence[Sequence[str]]:
    """The columns that a load has to declare otherwise meanwhile, as a set's manifest keeps them.

    Args:
        ask: answers a query with its one value, the tables of the app locked.
        version: ``server_version_num``.
    """
    uncompressed = json.loads(ask(_UNCOMPRESSED))
    if version < 140000:  # which does not say how a value is stored
        return [column for _, *column in uncompressed]
    views = {tuple(name) for name in json.loads(ask(_VIEWS))}
    columns = [
        [schema, table, column, *words]
        for reached, schema, table, column, *words in uncompressed
        if reached
        or words[-1] == "PLAIN"
        or (schema, table) in views
        or _any(ask, schema, table, column, "IS NOT NULL")
    ]
    for reached, schema, table, column, way in json.loads(ask(_COMPRESSED)):
        other = "pglz" if way == "lz4" else "lz4"
        if _any(ask, schema, table, column, f"= '{other}'"):
            columns.append([schema, table, column, "COMPRESSION", other, way])
        elif reached:
            columns.append([schema, table, column, "COMPRESSION", way, way])
    return columns


def _any(ask: Callable[[str], str], schema: str, table: str, column: str, condition: str) -> bool:
    """Whether any value is compressed in such a way."""
    where = f"{identifier(schema)}.{identifier(table)} WHERE pg_column_compression({identifier(column)}) {condition}"
    return ask(f"SELECT EXISTS (SELECT FROM ONLY {where})") == "t"  # noqa: S608


def read(entries: object) -> Iterator[Stored]:
    """An answer of `find`.

    Raises:
        ValueError: it is no such answer.
    """
    if not isinstance(entries, list | tuple):
        raise ValueError("it names no columns")
    for entry in entries:
        schema, table, column, kind, *words = map(str, entry)
        if len(words) != 2 or not {*words} <= {*_WORDS.get(kind, ())}:
            raise ValueError(f"{str(entry)[:60]!r} is no way of storing a column")
        name = f"{identifier(schema)}.{identifier(table)}"
        start = f"ALTER TABLE ONLY {name} ALTER COLUMN {identifier(column)} SET {kind}"
        yield Stored(name, f"{start} {words[0]}", f"{start} {words[1]}")
