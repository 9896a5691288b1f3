"""What a value of an answer becomes in each form."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from multidb.errors import UsageError
from multidb.model import Column, ColumnType
from multidb.query.values import distinct, json_value, text_value, typed_value

BOOLEAN, INTEGER, FLOAT, DECIMAL = ColumnType.BOOLEAN, ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.DECIMAL
JSON, TEXT, ANY = ColumnType.JSON, ColumnType.TEXT, ColumnType.ANY


def names(*given: str) -> list[str]:
    return [column.name for column in distinct(Column(name) for name in given)]


def test_no_two_columns_are_called_the_same_and_none_as_the_apps() -> None:
    assert names("id", "name") == ["id", "name"]
    assert names("id", "id", "ID", "app", "App", "") == ["id", "id_2", "ID_3", "app_2", "App_3", "column"]
    assert names("id", "id", "id_2") == ["id", "id_3", "id_2"]
    assert names("", "") == ["column", "column_2"]
    many = names(*["x"] * 100, *[f"x_{number}" for number in range(100)])
    assert len({name.casefold() for name in many}) == 200


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, TEXT, ""),
        ("t", BOOLEAN, "true"),
        ("f", BOOLEAN, "false"),
        (True, ANY, "true"),
        ("t", TEXT, "t"),
        (5, INTEGER, "5"),
        ([1, "ä"], ANY, '[1, "ä"]'),
        ({"a": None}, ANY, '{"a": null}'),
    ],
)
def test_as_text(value: Any, kind: ColumnType, text: str) -> None:
    assert text_value(value, kind) == text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, INTEGER, None),
        ("12", INTEGER, 12),
        ("t", BOOLEAN, True),
        ("f", BOOLEAN, False),
        ("1.5", FLOAT, 1.5),
        ("NaN", FLOAT, "NaN"),
        ("Infinity", FLOAT, "Infinity"),
        ("1.50", DECIMAL, 1.5),
        ("100000000000000000000000000001", DECIMAL, 100000000000000000000000000001),
        ("0.1000000000000000000000000000001", DECIMAL, "0.1000000000000000000000000000001"),
        ("NaN", DECIMAL, "NaN"),
        ("9" * 5000, DECIMAL, "9" * 5000),
        ('{"a": [1, 2.5]}', JSON, {"a": [1, 2.5]}),
        ("[" * 100_000, JSON, "[" * 100_000),
        ('{"a": 0.1000000000000000000000000000001}', JSON, '{"a": 0.1000000000000000000000000000001}'),
        ("12", TEXT, "12"),
        ([1], ANY, [1]),
    ],
)
def test_in_json_a_number_keeps_its_digits_or_stays_a_text(value: Any, kind: ColumnType, expected: Any) -> None:
    found = json_value(value, kind)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, INTEGER, None),
        ("12", INTEGER, 12),
        (12, INTEGER, 12),
        ("t", BOOLEAN, True),
        ("1.5", DECIMAL, 1.5),
        ("2026-11-29", ColumnType.DATE, date(2026, 11, 29)),
        ("2026-11-29 10:00:00.5", ColumnType.TIMESTAMP, datetime(2026, 11, 29, 10, 0, 0, 500_000)),  # noqa: DTZ001
        ("2026-11-29 10:00:00+00", ColumnType.INSTANT, datetime(2026, 11, 29, 10, tzinfo=UTC)),
        ([1], ANY, "[1]"),
        ('{"a": 1}', JSON, '{"a": 1}'),
    ],
)
def test_with_the_type_of_its_column(value: Any, kind: ColumnType, expected: Any) -> None:
    assert typed_value(value, kind, "app ann, column a") == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("infinity", ColumnType.DATE),
        ("0044-03-15 BC", ColumnType.DATE),
        ("-infinity", ColumnType.INSTANT),
        ("10000-01-01 00:00:00", ColumnType.TIMESTAMP),
    ],
)
def test_what_no_value_of_the_type_can_be_is_named_with_the_cast_that_helps(value: str, kind: ColumnType) -> None:
    with pytest.raises(UsageError) as raised:
        typed_value(value, kind, "app ann, column born")
    assert (raised.value.where, value in raised.value.message) == ("app ann, column born", True)
    assert "CAST(COLUMN AS text)" in (raised.value.hint or "")
