"""One table of all answers."""

from __future__ import annotations

import io
import threading

import pytest

from multidb.errors import MultidbError, ServerDown, ServerError, UsageError
from multidb.model import Column, ColumnType
from multidb.query.execution import AppResult, AppStatus, exit_code
from multidb.query.row_writers import CsvWriter
from multidb.query.tables import Fitting, TableShape, union_of

INTEGER, TEXT = ColumnType.INTEGER, ColumnType.TEXT


def columns(**types: ColumnType) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in types.items())


def test_the_columns_that_most_apps_have_come_first() -> None:
    usual = columns(id=INTEGER, name=TEXT)
    shape = union_of({"odd": columns(zeta=TEXT, id=INTEGER), "ann": usual, "bob": usual})
    assert [column.name for column in shape.columns] == ["id", "name", "zeta"]
    assert (shape.mixed, shape.left_out) == ({}, frozenset())


def test_a_column_of_two_types_is_text_and_says_whose_they_are() -> None:
    shape = union_of({"ann": columns(id=INTEGER), "bob": columns(ID=TEXT), "eve": columns(id=INTEGER)})
    assert shape.columns == (Column("id", TEXT),)
    assert shape.mixed == {"id": {INTEGER: "ann", TEXT: "bob"}}


def test_who_has_too_many_columns_is_left_out_and_the_usual_ones_are_not() -> None:
    usual, wide = columns(id=INTEGER), tuple(Column(f"c{number}") for number in range(1664))
    shape = union_of({"odd": wide, "ann": usual, "bob": usual})
    assert (shape.columns, shape.left_out) == (usual, frozenset({"odd"}))
    assert len(union_of({"odd": wide}).columns) == 1664


def test_rows_find_the_columns_of_the_table() -> None:
    shape = TableShape((Column("id", INTEGER), Column("name", TEXT), Column("more", TEXT)))
    fitting = Fitting(shape, "ann", columns(name=TEXT, ID=INTEGER))
    assert fitting.texts([["x", "1"], [None, None]]) == [["1", "x", ""], ["", "", ""]]
    assert fitting.values([["x", "1"]]) == [[1], ["x"], [None]]
    as_text = Fitting(TableShape((Column("id", TEXT),)), "ann", columns(id=ColumnType.BOOLEAN))
    assert as_text.values([["t"], [None]]) == [["true", None]]


def test_an_answer_that_has_changed_meanwhile_has_no_place() -> None:
    with pytest.raises(UsageError, match="more"):
        Fitting(TableShape(columns(id=INTEGER)), "ann", columns(id=INTEGER, more=TEXT))


def test_csv_keeps_values_as_they_are() -> None:
    out = io.StringIO()
    writer = CsvWriter(out)
    writer.begin(TableShape(columns(a=TEXT, b=TEXT)))
    writer.columns("ann", columns(a=TEXT, b=TEXT))
    writer.rows("ann", [["=1+1", 'say "a,b"'], ["two\nlines", None]])
    assert out.getvalue() == 'app,a,b\nann,=1+1,"say ""a,b"""\nann,"two\nlines",\n'


def result(status: AppStatus, error: MultidbError | None = None, rows: int = 0) -> AppResult:
    return AppResult("ann", "postgres", status, rows, error=error)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([result(AppStatus.ANSWERED)], 0),
        ([result(AppStatus.ANSWERED), result(AppStatus.MISSING)], 0),
        ([result(AppStatus.ANSWERED), result(AppStatus.SKIPPED)], 0),
        ([result(AppStatus.MISSING)], 1),
        ([result(AppStatus.SKIPPED)], 1),
        ([], 1),
        ([result(AppStatus.ANSWERED), result(AppStatus.FAILED, ServerError("x"))], 1),
        ([result(AppStatus.ANSWERED), result(AppStatus.INCOMPLETE, ServerDown("x"), 3)], 1),
        ([result(AppStatus.INCOMPLETE, ServerDown("x"), 3)], 1),
        ([result(AppStatus.FAILED, ServerDown("x")), result(AppStatus.SKIPPED)], 4),
        ([result(AppStatus.FAILED, ServerDown("x")), result(AppStatus.MISSING)], 1),
        ([result(AppStatus.FAILED, ServerError("x"))], 1),
    ],
)
def test_the_exit_code(results: list[AppResult], code: int) -> None:
    assert exit_code(results) == code


def test_a_question_can_be_given_up_by_itself() -> None:
    from multidb.model import Question

    one, other = Question(("x",)), Question(("x",))
    assert one == other
    one.cancelled.set()
    assert not other.cancelled.is_set()
    assert isinstance(one.cancelled, threading.Event)
