"""What a value of an answer is as text, in JSON and as a typed value. Pure.

Values come as texts that the server wrote, with the type of their column, or as plain JSON values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from multidb.errors import MultidbError, UsageError
from multidb.model import Column, ColumnType

__all__ = ["APP", "distinct", "json_value", "text_value", "typed_value"]

APP: Final = "app"
"""The column that says whose row it is."""

_TRUE: Final = frozenset({"t", "true"})
_LONGEST_NUMBER: Final = 4000  # digits; Python reads no more at once


def distinct(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns with names that differ, in small letters too, from each other and from `APP`: ``id``, ``id_2``."""
    columns = tuple(columns)
    taken, renamed = {APP}, []
    given = {column.name.casefold() for column in columns}
    for column in columns:
        name, number = column.name or "column", 2
        while name.casefold() in taken or (number > 2 and name.casefold() in given):
            name = f"{column.name or 'column'}_{number}"
            number += 1
        taken.add(name.casefold())
        renamed.append(replace(column, name=name))
    return tuple(renamed)


def text_value(value: Any, kind: ColumnType) -> str:
    """As people and CSV have it; nothing for NULL."""
    if value is None:
        return ""
    if kind is ColumnType.BOOLEAN and isinstance(value, str):
        return "true" if value in _TRUE else "false"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def json_value(value: Any, kind: ColumnType) -> Any:
    """As JSON has it: numbers where they keep all their digits, JSON as what it is, all else as text."""
    if not isinstance(value, str):
        return value
    read = _IN_JSON.get(kind)
    if read is None:
        return value
    try:
        return read(value)
    except (ValueError, RecursionError, InvalidOperation):
        return value


def typed_value(value: Any, kind: ColumnType, where: str) -> Any:
    """As a column of this type has it: a number, a date, a moment, a text.

    Args:
        where: whose and what it is, for messages.

    Raises:
        UsageError: no value of that type can be this one (``infinity``, a year before Christ).
    """
    if value is None:
        return None
    read = _TYPED.get(kind)
    if read is None:
        return text_value(value, kind)
    try:
        return read(value)
    except (ValueError, OverflowError) as error:
        raise _unfit(value, kind, where) from error


def _unfit(value: Any, kind: ColumnType, where: str) -> MultidbError:
    shown = text_value(value, kind)[:40]
    return UsageError(
        f"{shown!r} is no {kind} that this format has", where=where, hint="take it as a text: CAST(COLUMN AS text)"
    )


def _integer(value: Any) -> int:
    return int(value)


def _boolean(value: Any) -> bool:
    return value in _TRUE if isinstance(value, str) else bool(value)


def _exact(value: str) -> int | float:
    """A number of JSON with all digits; `ValueError` where no reader would keep them."""
    if len(value) > _LONGEST_NUMBER:
        raise ValueError("too long")
    if value.lstrip("-").isdecimal():
        return int(value)
    number = _finite(value)
    if Decimal(repr(number)) != Decimal(value):
        raise ValueError("more digits than a float has")
    return number


def _finite(value: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("JSON has no such number")
    return number


def _parsed(value: str) -> Any:
    return json.loads(value, parse_int=_exact, parse_float=_exact)


_IN_JSON: Final[dict[ColumnType, Callable[[str], Any]]] = {
    ColumnType.BOOLEAN: _boolean,
    ColumnType.INTEGER: _integer,
    ColumnType.FLOAT: _finite,
    ColumnType.DECIMAL: _exact,
    ColumnType.JSON: _parsed,
}
_TYPED: Final[dict[ColumnType, Callable[[Any], Any]]] = {
    ColumnType.BOOLEAN: _boolean,
    ColumnType.INTEGER: _integer,
    ColumnType.FLOAT: float,
    ColumnType.DECIMAL: float,
    ColumnType.DATE: date.fromisoformat,
    ColumnType.TIMESTAMP: datetime.fromisoformat,
    ColumnType.INSTANT: datetime.fromisoformat,
}
