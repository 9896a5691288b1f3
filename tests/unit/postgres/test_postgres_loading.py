"""In which order the lines of a dump's table of contents are loaded."""

from __future__ import annotations

import tempfile

import pytest

from multidb.errors import ArchiveError
from multidb.provisioners.postgres.backup.bound import Beyond
from multidb.provisioners.postgres.backup.loading import Step, calls_apart, fill, schema_apart, steps, unpinned

_TABLE = "1; 1259 100 TABLE public t owner"
_SCHEMA = "2; 2615 101 SCHEMA - ext owner"
_EXTENSION = "3; 3079 102 EXTENSION - hstore "
_INDEX = "4; 1259 103 INDEX public i owner"
_ATTACH = "5; 0 0 INDEX ATTACH public i owner"
_FOREIGN = "6; 2606 104 FK CONSTRAINT public t f owner"
_NAMED = "7; 3256 105 POLICY public t named by owner"
_OTHER = "8; 3256 106 POLICY public t named owner"
_COMMENT = "9; 0 0 COMMENT public POLICY named ON t owner"
_FILLING = "10; 0 107 MATERIALIZED VIEW DATA public m owner"
_SECURITY = "11; 0 100 ROW SECURITY public t owner"
_NAMED_BY_OID = [{"oid": 105, "schema": "public", "table": "t", "name": "named\nby"}]


def test_without_anything_special_all_is_loaded_at_once() -> None:
    lines = [_TABLE, _INDEX, _FOREIGN, _COMMENT, _OTHER, _FILLING]
    assert steps("\n".join([";", *lines, ""]), frozenset(), [], Beyond()) == (
        [Step(lines[:-1])],
        [],
        Step([_FILLING]),
    )


def test_what_is_made_otherwise_is_left_out() -> None:
    listing = "\n".join([_TABLE, _SCHEMA, _EXTENSION, _NAMED, _OTHER])
    assert steps(listing, frozenset({"ext"}), _NAMED_BY_OID, Beyond()) == ([Step([_TABLE, _OTHER])], [], Step([]))


def test_a_schema_whose_name_begins_like_that_of_an_extension_is_made() -> None:
    longer = "12; 2615 108 SCHEMA - ext more owner"
    assert steps("\n".join([_SCHEMA, longer]), frozenset({"ext"}), [], Beyond()) == ([Step([longer])], [], Step([]))


def test_an_index_is_attached_while_nothing_else_is_made() -> None:
    listing = "\n".join([_TABLE, _FOREIGN, _COMMENT, _ATTACH, _INDEX])
    first = [Step([_TABLE, _INDEX]), Step([_ATTACH], in_order=True), Step([_FOREIGN])]
    assert steps(listing, frozenset(), [], Beyond()) == (first, [Step([_COMMENT], in_order=True)], Step([]))


def test_checks_that_rows_need_not_pass_are_made_after_the_rows() -> None:
    rows, check = "13; 0 100 TABLE DATA public t owner", "14; 2606 109 CHECK CONSTRAINT public a_domain c owner"
    first, last, _ = steps("\n".join([_TABLE, check, _COMMENT, rows, _INDEX]), frozenset(), [], Beyond())
    assert first == [Step([_TABLE, rows, _INDEX]), Step([check])]
    assert last == [Step([_COMMENT], in_order=True)]


def test_tables_are_made_apart_where_something_comes_between_them_and_their_rows() -> None:
    rows, odd = "13; 0 100 TABLE DATA public t owner", "14; 1259 109 TABLE public TABLE DATA owner"
    after = Step([_ATTACH], in_order=True)
    assert schema_apart([Step([_TABLE, odd, rows, _INDEX]), after]) == (
        Step([_TABLE, odd]),
        [Step([rows, _INDEX]), after],
    )
    assert schema_apart([Step([_TABLE])]) == (Step([_TABLE]), [])


@pytest.mark.parametrize(
    ("policies", "last"),
    [
        (_NAMED_BY_OID, [_SECURITY, _COMMENT]),
        ([], [_SECURITY]),
    ],
)
def test_row_security_comes_late_and_comments_after_the_policies(
    policies: list[dict[str, object]], last: list[str]
) -> None:
    listing = "\n".join([_COMMENT, _FILLING, _TABLE, _SECURITY])
    first, after, filling = steps(listing, frozenset(), policies, Beyond())
    assert (after, filling) == ([Step(last, in_order=True)], Step([_FILLING]))
    assert first == [Step([line for line in (_COMMENT, _TABLE) if line not in last])]


def test_what_takes_an_admin_is_left_out() -> None:
    lines = [
        "5; 3466 16500 EVENT TRIGGER - noted postgres",
        "6; 0 0 COMMENT - EVENT TRIGGER noted postgres",
        "7; 0 0 USER MAPPING - USER MAPPING shop_user SERVER far postgres",
        "8; 6104 16501 PUBLICATION - everything postgres",
        "9; 0 0 COMMENT - PUBLICATION everything postgres",
    ]
    kept = [
        "10; 6104 16502 PUBLICATION - everything_else shop",
        "11; 1259 16501 TABLE public t shop",
        "4; 0 0 SERVERS - x",
    ]
    beyond = Beyond(entries=frozenset({(6104, 16501)}), lines=("COMMENT - PUBLICATION everything ",))
    assert steps("\n".join([*lines, *kept]), frozenset(), [], beyond) == ([Step(kept)], [], Step([]))


def test_what_calls_functions_is_loaded_apart() -> None:
    rows, more = "13; 0 100 TABLE DATA public t owner", "15; 0 110 TABLE DATA public u owner"
    objects, after = "14; 0 0 BLOBS - BLOBS ", Step([_ATTACH], in_order=True)
    key, about = "16; 2606 111 CONSTRAINT public t key owner", "17; 0 0 COMMENT public INDEX at owner"
    trigger, check = "18; 2620 112 TRIGGER public t tr owner", "19; 2606 113 CHECK CONSTRAINT public t c owner"
    lines = [_COMMENT, _TABLE, rows, objects, more, key, _INDEX, about, trigger, check]
    assert calls_apart([Step(lines), after]) == [
        Step([_COMMENT, _TABLE]),
        Step([rows, more], calls=True),
        Step([objects]),
        Step([key, _INDEX, about], calls=True, names=True),
        Step([trigger]),
        Step([check], calls=True, names=True),
        after,
    ]


def test_a_view_that_needs_another_is_filled_after_it_and_one_that_cannot_be_is_named() -> None:
    lines = [f"{n}; 0 {n} MATERIALIZED VIEW DATA public {name} owner" for n, name in enumerate(["a", "b c", "d"])]
    filled: list[str] = []

    def run(step: Step) -> None:
        for line in step.lines:
            name = line.split(" public ")[1].removesuffix(" owner")
            if name == "d" or (name == "a" and "b c" not in filled):
                raise ArchiveError(f"pg_restore failed: ERROR:  no {name}\nCommand was: REFRESH MATERIALIZED VIEW")
            filled.append(name)

    assert fill(Step(lines), run) == {"public.d": "no d"}
    assert filled == ["b c", "a"]


def test_a_dump_is_what_it_was_once_it_was_loaded() -> None:
    statement = b"SELECT pg_catalog.set_config('search_path', '', false);"
    written = b"PGDMP" + statement + b"rows " + statement
    with tempfile.TemporaryFile() as dump:
        dump.write(written)
        dump.flush()
        with unpinned(dump):
            dump.seek(0)
            meanwhile = dump.read()
        dump.seek(0)
        assert dump.read() == written
        assert meanwhile == b"PGDMP" + b"RESET search_path;".ljust(len(statement)) + b"rows " + statement
