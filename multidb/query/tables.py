"""One table of all answers, for forms that have only one: its columns are all that any app has, by name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from multidb.errors import UsageError
from multidb.model import Batch, Column, ColumnType
from multidb.query.values import text_value, typed_value

__all__ = ["Fitting", "TableShape", "union_of"]

_MOST: Final = 1664  # columns; as many as an answer of Postgres can have


@dataclass(frozen=True, slots=True)
class TableShape:
    """The columns of the table, without that of the app.

    Args:
        mixed: by column that is text because apps have it of different types, each type with the first app of it.
        left_out: the apps that have more columns than there is room for.
    """

    columns: tuple[Column, ...]
    mixed: Mapping[str, Mapping[ColumnType, str]] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


def union_of(answers: Mapping[str, Sequence[Column]]) -> TableShape:
    """The table that has room for the answers of all apps. First come the columns that most apps answer with, so that
    what one app has beside them changes little for the others. Capital letters make no other column.

    Args:
        answers: by app, its columns.
    """
    ways: dict[tuple[str, ...], list[str]] = {}
    for app, columns in answers.items():
        ways.setdefault(tuple(column.name.casefold() for column in columns), []).append(app)
    names: dict[str, str] = {}
    types: dict[str, dict[ColumnType, str]] = {}
    left_out: set[str] = set()
    for way in sorted(ways, key=lambda way: -len(ways[way])):  # of equals the first
        if len(names.keys() | way) > _MOST:
            left_out |= {*ways[way]}
            continue
        for app in ways[way]:
            for column in answers[app]:
                key = column.name.casefold()
                names.setdefault(key, column.name)
                types.setdefault(key, {}).setdefault(column.type, app)
    columns = tuple(Column(name, _type_of(types[key])) for key, name in names.items())
    mixed = {names[key]: kinds for key, kinds in types.items() if len(kinds) > 1}
    return TableShape(columns, mixed, frozenset(left_out))


def _type_of(kinds: Mapping[ColumnType, str]) -> ColumnType:
    return next(iter(kinds)) if len(kinds) == 1 else ColumnType.TEXT


class Fitting:
    """How one app's rows come into the table.

    Raises:
        UsageError: it has a column that the table has not: its answer has changed meanwhile, or is of another server.
    """

    def __init__(self, shape: TableShape, app: str, columns: Sequence[Column]) -> None:
        self._app = app
        self._columns = columns
        places = {column.name.casefold(): number for number, column in enumerate(columns)}
        self._sources = [places.pop(column.name.casefold(), None) for column in shape.columns]
        self._types = [column.type for column in shape.columns]
        if places:
            others = ", ".join(columns[number].name for number in places.values())
            raise UsageError(
                f"its columns are other ones than those of the table ({others})",
                where=f"app {app}",
                hint="name the columns in the question, or take another form: --format jsonl",
            )

    def texts(self, rows: Batch) -> list[list[str]]:
        """The rows as texts, without the app."""
        kinds = [None if source is None else self._columns[source].type for source in self._sources]
        return [
            [
                "" if source is None or kind is None else text_value(row[source], kind)
                for source, kind in zip(self._sources, kinds, strict=True)
            ]
            for row in rows
        ]

    def values(self, rows: Batch) -> list[list[Any]]:
        """The values column by column, each of the type that the table's column has.

        Raises:
            UsageError: a value does not fit.
        """
        return [
            [None] * len(rows) if source is None else self._converted(rows, source, kind)
            for source, kind in zip(self._sources, self._types, strict=True)
        ]

    def _converted(self, rows: Batch, source: int, kind: ColumnType) -> list[Any]:
        column = self._columns[source]
        if column.type is not kind:
            return [None if row[source] is None else text_value(row[source], column.type) for row in rows]
        where = f"app {self._app}, column {column.name}"
        return [typed_value(row[source], kind, where) for row in rows]
