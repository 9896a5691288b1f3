"""A question from its first word to its last: its answers held for people to read, or written as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multidb.errors import UsageError
from multidb.fleet import Fleet
from multidb.model import Column, counted
from multidb.query.execution import AppColumns, AppResult, AppRows, AppStatus, QueryExecution, QueryRequest
from multidb.query.row_writers import RowWriter
from multidb.query.tables import TableShape, union_of

__all__ = ["HeldAnswer", "Written", "held", "written"]


@dataclass(slots=True)
class HeldAnswer:
    """One app's answer, whole.

    Args:
        columns: none where it has not answered.
    """

    result: AppResult
    columns: Sequence[Column] = ()
    rows: list[Sequence[Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Args:
        results: of each app, in the order in which they were to be asked.
        shape: of the one table; None where no app has answered, or each has a table of its own.
    """

    results: tuple[AppResult, ...]
    shape: TableShape | None


def held(fleet: Fleet, request: QueryRequest) -> list[HeldAnswer]:
    """The answers of all apps, in their order; all rows are in memory."""
    columns: dict[str, Sequence[Column]] = {}
    rows: dict[str, list[Sequence[Any]]] = {}
    answers: dict[str, HeldAnswer] = {}
    for event in QueryExecution(fleet, request).events():
        match event:
            case AppColumns():
                columns[event.app], rows[event.app] = event.columns, []
            case AppRows():
                rows[event.app] += event.rows
            case AppResult():
                answers[event.app] = HeldAnswer(event, columns.get(event.app, ()), rows.get(event.app, []))
    return [answers[app] for app in request.apps if app in answers]


def written(fleet: Fleet, request: QueryRequest, writer: RowWriter) -> Written:
    """Writes the rows of all apps as they come; in memory are a few batches.

    Raises:
        MultidbError, OSError: they can't be written. The writer has given up then, as after an interruption.
    """
    try:
        return _Writing(fleet, request, writer).done()
    except BaseException:
        writer.give_up()
        raise


class _Writing:
    def __init__(self, fleet: Fleet, request: QueryRequest, writer: RowWriter) -> None:
        self._fleet = fleet
        self._request = request
        self._writer = writer
        self._shape: TableShape | None = None
        self._begun = False
        self._results: dict[str, AppResult] = {}
        self._refused: dict[str, UsageError] = {}  # by app, why no more of its rows are taken
        self._rows: dict[str, int] = {}

    def done(self) -> Written:
        request = self._described() if self._writer.one_table else self._request
        if request.apps:
            execution = QueryExecution(self._fleet, request)
            for event in execution.events():
                match event:
                    case AppColumns():
                        self._admit(execution, event)
                    case AppRows():
                        self._write(execution, event)
                    case AppResult():
                        self._results[event.app] = self._judged(event)
        results = tuple(self._results[app] for app in self._request.apps if app in self._results)
        if self._begun:
            self._writer.end(results)
        else:
            self._writer.give_up()
        return Written(results, self._shape if self._begun else None)

    def _described(self) -> QueryRequest:
        """What is still to be asked once it is known, where the store can tell, which columns there will be."""
        described = QueryExecution(self._fleet, self._request).columns()
        if not described:
            return self._request
        answers: dict[str, Sequence[Column]] = {}
        for app in self._request.apps:
            match described.get(app):
                case AppResult() as result:
                    self._results[app] = result
                case tuple() as columns:
                    answers[app] = columns
        if answers:
            self._shape = union_of(answers)
            for app in self._shape.left_out:
                wide = UsageError(
                    f"it has {counted(len(answers.pop(app)), 'column')}, for which there is no room", where=f"app {app}"
                )
                self._results[app] = AppResult(app, "", AppStatus.FAILED, error=wide)
        question = replace(self._request.question, cancelled=type(self._request.question.cancelled)())
        return replace(self._request, apps=tuple(answers), question=question)

    def _admit(self, execution: QueryExecution, event: AppColumns) -> None:
        if not self._begun:
            self._shape = self._shape or TableShape(event.columns)
            self._writer.begin(self._shape)
            self._begun = True
        try:
            self._writer.columns(event.app, event.columns)
        except UsageError as error:
            self._refuse(execution, event.app, error)

    def _write(self, execution: QueryExecution, event: AppRows) -> None:
        if event.app in self._refused:
            return
        try:
            self._writer.rows(event.app, event.rows)
        except UsageError as error:
            self._refuse(execution, event.app, error)
        else:
            self._rows[event.app] = self._rows.get(event.app, 0) + len(event.rows)

    def _refuse(self, execution: QueryExecution, app: str, error: UsageError) -> None:
        self._refused[app] = error
        execution.leave(app)

    def _judged(self, result: AppResult) -> AppResult:
        """What came of the app, in view of what could be written."""
        if result.app not in self._refused:
            return result
        rows = self._rows.get(result.app, 0)
        status = AppStatus.INCOMPLETE if rows else AppStatus.FAILED
        return replace(result, status=status, rows=rows, error=self._refused[result.app])
