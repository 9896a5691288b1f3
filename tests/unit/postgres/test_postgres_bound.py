"""How what is bound to a database is ended, and what a set says of it."""

from __future__ import annotations

from typing import Any

import pytest

from multidb.provisioners.postgres.backup.bound import beyond, refusal
from multidb.provisioners.postgres.backup.storage import Stored, read


def thing(type_: str, identity: str, oid: int, *reached: int, dependants: tuple[str, ...] = ()) -> dict[str, Any]:
    document = {"type": type_, "identity": identity, "alone": True, "ending": f"DROP {type_.upper()} {identity}"}
    ids = {"id": [1, oid], "reached": [[1, oid], *([1, each] for each in reached)], "entries": [[1, oid]]}
    return {**document, **ids, "dependants": list(dependants), "lines": [f"COMMENT - {identity}\nx "]}


def test_what_goes_with_a_thing_is_named_and_ended_once() -> None:
    things = [
        thing("server", "far", 1, 2, 3, dependants=("foreign table f", "view v")),
        thing("foreign table", "f", 2, 3, dependants=("view v",)),
        thing("foreign table", "g", 4),
    ]
    found = beyond({"things": things, "mappings": [["u", "far"]], "labels": [], "tablespaces": []})
    error = refusal(found.bound, "shop", "here")
    assert "server far (with foreign table f, view v), foreign table f (with view v), foreign table g" in error.message
    ends = "DROP SERVER far CASCADE; DROP FOREIGN TABLE g; DROP USER MAPPING IF EXISTS FOR u SERVER far"
    assert f"in database shop: {ends}; then" in str(error.hint)
    assert found.leaves_out(9, 9, "COMMENT - f x owner"), "a line break in a name is a space there"
    assert not found.leaves_out(9, 9, "COMMENT - fx owner")


def test_a_name_that_breaks_its_line_is_written_so_that_the_statement_works() -> None:
    found = beyond({"things": [thing("server", '"fa\rr"', 1)], "mappings": [], "labels": [], "tablespaces": []})
    assert r'in database shop: DROP SERVER U&"fa\000Dr"; then' in str(refusal(found.bound, "shop", "here").hint)


@pytest.mark.parametrize(
    "wrong",
    ["x", {"a": 1}, [["s", "t", "c", "STORAGE", "PLAIN"]], [["s", "t", "c", "STORAGE", "PLAIN", "pglz"]],
     [["s", "t", "c", "SCHEMA", "a", "b"]], [["s", "t"]], [7]],
)  # fmt: skip
def test_how_columns_are_stored_is_data(wrong: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        list(read(wrong))


def test_a_column_is_declared_as_it_was_stored_and_then_as_it_was_declared() -> None:
    (column,) = read([["s", 't"', "c; d", "COMPRESSION", "pglz", "lz4"]])
    start = 'ALTER TABLE ONLY "s"."t""" ALTER COLUMN "c; d" SET COMPRESSION'
    assert column == Stored('"s"."t"""', f"{start} pglz", f"{start} lz4")
