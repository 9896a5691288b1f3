"""Rows of all apps as lines: CSV, and JSON with an object on each line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from multidb.model import Batch, Column
from multidb.query.execution import AppResult
from multidb.query.tables import Fitting, TableShape
from multidb.query.values import APP, json_value

__all__ = ["CsvWriter", "JsonLinesWriter", "RowWriter"]


class RowWriter(Protocol):
    """Where rows go.

    Every method may raise `OSError` where they can't be written.
    """

    one_table: bool
    """Whether all rows have the columns of one table, which `begin` is told; else each app's rows have its own."""

    def begin(self, shape: TableShape) -> None:
        """Once, before any row."""

    def columns(self, app: str, columns: Sequence[Column]) -> None:
        """Of each app, before its rows. `UsageError` where they have no place: none of its rows may come then."""

    def rows(self, app: str, rows: Batch) -> None:
        """Some rows of an app. `UsageError` where a value has no place: no more of its rows may come then."""

    def end(self, results: Sequence[AppResult]) -> None:
        """Once, after the last row; what came of each app."""

    def give_up(self) -> None:
        """Instead of `end`: what was written is not whole."""


class _Stream(Protocol):
    def write(self, text: str, /) -> object: ...


class CsvWriter:
    """CSV as RFC 4180 has it, with a line of names first. NULL is nothing. Values are as they are: a spreadsheet may
    take one that begins with ``=`` for a formula."""

    one_table = True

    def __init__(self, out: _Stream) -> None:
        self._csv = csv.writer(out, lineterminator="\n")
        self._shape = TableShape(())
        self._fittings: dict[str, Fitting] = {}

    def begin(self, shape: TableShape) -> None:
        self._shape = shape
        self._csv.writerow([APP, *(column.name for column in shape.columns)])

    def columns(self, app: str, columns: Sequence[Column]) -> None:
        self._fittings[app] = Fitting(self._shape, app, columns)

    def rows(self, app: str, rows: Batch) -> None:
        self._csv.writerows([app, *texts] for texts in self._fittings[app].texts(rows))

    def end(self, results: Sequence[AppResult]) -> None:
        self._fittings.clear()

    def give_up(self) -> None:
        self._fittings.clear()


class JsonLinesWriter:
    """An object on each line, with the app under ``app`` and a key for each column of its answer."""

    one_table = False

    def __init__(self, out: _Stream) -> None:
        self._write: Callable[[str], object] = out.write
        self._columns: dict[str, Sequence[Column]] = {}
        self._encode = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode

    def begin(self, shape: TableShape) -> None:
        pass

    def columns(self, app: str, columns: Sequence[Column]) -> None:
        self._columns[app] = columns

    def rows(self, app: str, rows: Batch) -> None:
        columns = self._columns[app]
        self._write("".join(f"{self._encode(_document(app, columns, row))}\n" for row in rows))

    def end(self, results: Sequence[AppResult]) -> None:
        self._columns.clear()

    def give_up(self) -> None:
        self._columns.clear()


def _document(app: str, columns: Sequence[Column], row: Sequence[Any]) -> Mapping[str, Any]:
    named = {column.name: json_value(value, column.type) for column, value in zip(columns, row, strict=True)}
    return {APP: app, **named}
