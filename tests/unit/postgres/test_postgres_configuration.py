"""Which lines of a dump's table of contents fill what extensions have configured."""

from __future__ import annotations

from multidb.provisioners.postgres.backup import configuration
from multidb.provisioners.postgres.backup.configuration import Relation

_TABLE = Relation("x", "r", "public", "conf", "public.conf", True, True, False)
_SEQUENCE = Relation("x", "S", "public", "n", "public.n", True, True, False)
_LISTING = """;
; Archive created at 2026-01-01
1; 0 101 TABLE DATA public conf postgres
2; 0 0 SEQUENCE SET public n postgres
3; 0 102 TABLE DATA public conf more app_owner
4; 0 103 TABLE DATA public confer app_owner
5; 0 104 TABLE DATA other conf app_owner
6; 1259 105 TABLE public confer app_owner"""


def test_it_is_the_lines_of_exactly_these() -> None:
    found = configuration.entries(_LISTING, [_TABLE, _SEQUENCE])
    assert found == {
        "1; 0 101 TABLE DATA public conf postgres": _TABLE,
        "2; 0 0 SEQUENCE SET public n postgres": _SEQUENCE,
    }


def test_a_table_that_the_dump_makes_is_the_apps_own() -> None:
    made = "\n7; 1259 101 TABLE public conf app_owner"
    assert configuration.entries(_LISTING + made, [_TABLE]) == {}


def test_a_line_break_in_a_name_is_a_space_there() -> None:
    odd = Relation("x", "r", "a\nb", "c.d", '"a\nb"."c.d"', True, True, False)
    line = "1; 0 101 TABLE DATA a b c.d postgres"
    assert configuration.entries(line, [odd]) == {line: odd}
    assert configuration.entries(line.replace("c.d", "cxd"), [odd]) == {}


def test_only_a_fingerprint_says_that_there_are_no_rows() -> None:
    said = [configuration.fingerprint(0, "0"), configuration.fingerprint(10, "0"), None]
    assert [configuration.is_empty(each) for each in said] == [True, False, False]
