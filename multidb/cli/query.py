"""`multidb query`: one read-only question to every app, the answers side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from multidb.cli.options import Run, duration, examples, with_run
from multidb.cli.output import Output, without_control
from multidb.document import printable
from multidb.errors import UsageError
from multidb.fleet import Fleet
from multidb.history import RunRecord
from multidb.manifest import app_id
from multidb.model import Question, listed
from multidb.query.arrow import DuckDbWriter, ParquetWriter
from multidb.query.execution import AppResult, AppStatus, QueryRequest, exit_code, querying_of
from multidb.query.languages import languages
from multidb.query.row_writers import CsvWriter, JsonLinesWriter, RowWriter
from multidb.query.run import HeldAnswer, Written, held, written
from multidb.query.values import APP, json_value, text_value

P = ParamSpec("P")

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_WIDEST: Final = 200  # characters of a value that people see
_MOST_HELD: Final = 10_000  # rows of an app in the forms that hold them all
_RECORDED: Final = 2_000  # characters of a question in the history
_MOST_NAMED: Final = 5


class QueryForm(StrEnum):
    """How `multidb query` prints its result."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


_HELD: Final = (QueryForm.TEXT, QueryForm.JSON)
_SHARED: Final = ("env", "file", "format", "help", "json", "verbose")  # options that every command may have


def _with_language_options(work: Callable[Concatenate[Run, P], int]) -> Callable[..., int]:
    """Gives the command a flag for each language that questions are written in; it is told the store."""
    own = signature(work, eval_str=True)
    store_of = languages({*own.parameters, *_SHARED})

    @wraps(work)
    def with_store(run: Run, *arguments: Any, **options: Any) -> int:
        chosen = [store for language, store in store_of.items() if options.pop(language)]
        named = options.pop("store")
        stores = list(dict.fromkeys([*chosen, *([named] if named else [])]))
        if len(stores) > 1:
            flags = ", ".join(f"--{language}" for language in store_of)
            raise UsageError("a question is for one store", hint=f"leave one of them: {flags}, --store")
        return work(run, *arguments, store=(stores or [*store_of.values()])[0], **options)

    flags = [
        Parameter(
            language,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{language}", help=_flag_help(store, first=number == 0))],
        )
        for number, (language, store) in enumerate(store_of.items())
    ]
    parameters = [*own.parameters.values()]
    place = next(number for number, parameter in enumerate(parameters) if parameter.name == "store")
    with_store.__signature__ = own.replace(parameters=[*parameters[:place], *flags, *parameters[place:]])  # type: ignore[attr-defined]
    return with_store


def _flag_help(store: str, *, first: bool) -> str:
    return f"The question is for {store}{', as without a flag' if first else ''}."


@app.command(
    epilog=examples(
        "multidb query 'SELECT count(*) FROM users'",
        "multidb query 'SELECT * FROM orders' --apps shop,web --limit 20",
        "multidb query --cypher 'MATCH (n) RETURN count(n)' --label team=x",
        "multidb query --redis DBSIZE",
        'multidb query --qdrant count knowledge \'{"must": [{"key": "lang", "match": {"value": "de"}}]}\'',
        "multidb query 'SELECT * FROM orders' --limit 0 --format parquet > orders.parquet",
        "multidb query 'SELECT * FROM orders' --limit 0 --into results.duckdb --table orders",
    )
)
@with_run("query", forms=QueryForm)
@_with_language_options
def query(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    words: Annotated[list[str], typer.Argument(metavar="QUESTION", help="What is asked, in quotes.")],
    apps: Annotated[
        str | None, typer.Option("--apps", metavar="NAME,NAME", help="Only these apps, with commas between them.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Only apps with this label; may be repeated."),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="The store that it is for, also an added one.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="At most so many rows of each app; 0: all.")
    ] = 1000,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="What an app's answer may take: 30s, 10m; 0: any time.")
    ] = "30s",
    connections: Annotated[
        int, typer.Option("--connections", metavar="N", min=1, max=64, help="At most so many to each server.")
    ] = 4,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="FILE", help="Write a table of this DuckDB file; new or not.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="With --into: its name. Default: q1, q2, ...")
    ] = None,
) -> int:
    """Put one read-only question to every app's place on a store, and show the answers side by side.

    Each app is asked by a login that may read its place alone: what writes is refused by the server. An app that has
    no such table or collection is named, and is no failure. Every question stands in the history.

    Exit 0: every app that has what is asked for has answered. 1: one has failed or is incomplete, or none has it.
    4: no server that was asked has answered.
    """
    assert store is not None
    querying_of(store).check(words)
    form = QueryForm(run.form) if not run.json else QueryForm.JSON
    _require_fitting(form, limit, into, table)
    fleet = run.fleet(run.output)
    request = QueryRequest(
        store, Question(tuple(words), _seconds(timeout)), _chosen(fleet, store, apps, label), limit or None, connections
    )
    with (
        _writer(run.output, fleet, request, form, into, table) as writer,
        run.recorded(fleet.state, request.apps) as record,
    ):
        return _Run(run.output, fleet, request, record).done(writer)


def _require_fitting(form: QueryForm, limit: int, into: Path | None, table: str | None) -> None:
    """`UsageError` for options that don't go together."""
    if table is not None and into is None:
        raise UsageError("--table names a table of the file after --into", hint="--into FILE.duckdb --table NAME")
    if into is not None and form not in _HELD:
        raise UsageError(f"--into and --format {form} are two places", hint="leave out one of them")
    if into is None and form in _HELD and not 0 < limit <= _MOST_HELD:
        hint = f"--limit {_MOST_HELD}, or a form that is written as it comes: --format csv"
        raise UsageError(f"text and JSON hold at most {_MOST_HELD} rows of each app", hint=hint)
    if into is None and form is QueryForm.PARQUET and sys.stdout.isatty():
        raise UsageError("a terminal can't show Parquet", hint="write a file: ... --format parquet > FILE.parquet")


def _seconds(text: str) -> float | None:
    return None if text == "0" else duration(text).total_seconds()


def _chosen(fleet: Fleet, store: str, apps: str | None, labels: Sequence[str] | None) -> tuple[str, ...]:
    """The apps that are asked, in the order of the manifest. `UsageError` where there is none."""
    named = None if apps is None else {fleet.app(app_id(name.strip())).id for name in apps.split(",") if name.strip()}
    chosen_labels = dict(_label(text) for text in labels or ())
    chosen = tuple(
        app.id
        for app in fleet.project.apps_with(store)
        if (named is None or app.id in named)
        and all(app.labels.get(key) == value for key, value in chosen_labels.items())
    )
    if not chosen:
        hint = "multidb apps shows which apps have which stores"
        raise UsageError(f"no app of these has {store}", where=fleet.project.file, hint=hint)
    return chosen


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise UsageError(f"{text!r} is no label", hint="--label team=x")
    return key, value


@contextmanager
def _writer(
    output: Output, fleet: Fleet, request: QueryRequest, form: QueryForm, into: Path | None, table: str | None
) -> Iterator[RowWriter | None]:
    """Where the rows are written; None: they are held and shown."""
    writer: RowWriter | None = None
    if into is not None:
        writer = DuckDbWriter(into, table, fleet.project.name, request.store, request.question)
    elif form is QueryForm.PARQUET:
        writer = ParquetWriter(sys.stdout.buffer)
    elif form is not QueryForm.TEXT and form is not QueryForm.JSON:
        out = _Cleaned() if sys.stdout.isatty() else sys.stdout
        writer = CsvWriter(out) if form is QueryForm.CSV else JsonLinesWriter(out)
    try:
        yield writer
    except BaseException:
        if writer is not None:
            writer.give_up()
        raise


class _Cleaned:
    """Standard output that is a terminal: what apps have written does not steer it."""

    def write(self, text: str, /) -> int:
        return sys.stdout.write(without_control(text))


class _Answers:
    """What came of a question, put into words."""

    def __init__(self, output: Output, request: QueryRequest, results: Sequence[AppResult]) -> None:
        self._output = output
        self._request = request
        self._results = results

    def show(self, answers: Sequence[HeldAnswer]) -> None:
        """A table for each set of columns that apps have answered with."""
        groups: dict[tuple[str, ...], list[HeldAnswer]] = {}
        for answer in answers:
            if answer.columns and (answer.rows or answer.result.status is AppStatus.ANSWERED):
                groups.setdefault(tuple(column.name for column in answer.columns), []).append(answer)
        for number, (names, alike) in enumerate(groups.items()):
            if number:
                self._output.say()
            rows = [[answer.result.app, *_cells(answer, row)] for answer in alike for row in answer.rows]
            self._output.table([printable(name) for name in (APP, *names)], rows)

    def say(self, tell: Callable[..., None]) -> None:
        """What a person has to know beside the rows, each once, however many apps it is true of."""
        for style, lines in (("dim", self._remarks()), ("yellow", self._limited()), ("red", self._failures())):
            for text, apps in lines.items():
                tell(f"{listed(apps, _MOST_NAMED)}: {text}", style=style)
        if not any(result.status is AppStatus.ANSWERED for result in self._results):
            tell("No app has answered.", style="yellow")

    def _remarks(self) -> Mapping[str, list[str]]:
        lines: dict[str, list[str]] = {}
        for result in self._results:
            if result.status is AppStatus.MISSING and result.error is not None:
                lines.setdefault(f"has nothing of the kind ({result.error.message})", []).append(result.app)
            if result.status is AppStatus.SKIPPED:
                lines.setdefault(f"not asked: {result.skipped}", []).append(result.app)
        return lines

    def _limited(self) -> Mapping[str, list[str]]:
        apps, limit = [result.app for result in self._results if result.limited], self._request.limit
        return {f"more than {limit} rows, of which these are the first; all: --limit 0": apps} if apps else {}

    def _failures(self) -> Mapping[str, list[str]]:
        lines: dict[str, list[str]] = {}
        for result in self._results:
            if result.status in (AppStatus.FAILED, AppStatus.INCOMPLETE) and result.error is not None:
                begun = f"incomplete after {result.rows} rows: " if result.status is AppStatus.INCOMPLETE else ""
                lines.setdefault(f"{begun}{result.error.sentence(where=False)}", []).append(result.app)
        return lines


def _cells(answer: HeldAnswer, row: Sequence[Any]) -> list[str]:
    return [
        printable(text_value(value, column.type), _WIDEST) for value, column in zip(row, answer.columns, strict=True)
    ]


class _Run:
    """One question, asked and told."""

    def __init__(self, output: Output, fleet: Fleet, request: QueryRequest, record: RunRecord) -> None:
        self._output = output
        self._fleet = fleet
        self._request = request
        self._record = record

    def done(self, writer: RowWriter | None) -> int:
        """Asks, and gives the exit code."""
        self._record.add("read", "query", printable(" ".join(self._request.question.words), _RECORDED))
        if writer is None:
            with self._output.working():
                answers = held(self._fleet, self._request)
            return self._show_held(
                answers, _Answers(self._output, self._request, [answer.result for answer in answers])
            )
        on_terminal = sys.stdout.isatty() and not isinstance(writer, DuckDbWriter)
        with nullcontext() if on_terminal else self._output.working():
            result = written(self._fleet, self._request, writer)
        return self._show_written(result, writer)

    def _show_held(self, answers: Sequence[HeldAnswer], summary: _Answers) -> int:
        code = self._judged([answer.result for answer in answers])
        self._output.document(code == 0, self._document([_answer_document(answer) for answer in answers]))
        summary.show(answers)
        summary.say(self._output.say)
        return code

    def _show_written(self, result: Written, writer: RowWriter) -> int:
        code = self._judged(result.results)
        table = writer.table if isinstance(writer, DuckDbWriter) and result.shape is not None else None
        answers = [_result_document(answer) for answer in result.results]
        self._output.document(code == 0, self._document(answers, table))
        if self._output.json:
            return code
        if table is not None:
            rows = sum(answer.rows for answer in result.results)
            self._output.note(f"{rows} rows are in the table {table}.")
        for name, kinds in (result.shape.mixed if result.shape is not None else {}).items():
            types = listed([f"{kind} in {app}" for kind, app in kinds.items()], _MOST_NAMED)
            self._output.note(f"{printable(name)} is text, as apps have it of different types: {types}", style="yellow")
        _Answers(self._output, self._request, result.results).say(self._output.note)
        return code

    def _judged(self, results: Sequence[AppResult]) -> int:
        failed = (AppStatus.FAILED, AppStatus.INCOMPLETE)
        self._record.error = next((result.error for result in results if result.status in failed), None)
        return exit_code(results)

    def _document(self, answers: Sequence[Mapping[str, Any]], table: str | None = None) -> Mapping[str, Any]:
        return {
            "project": self._fleet.project.name,
            "store": self._request.store,
            "question": list(self._request.question.words),
            "limit": self._request.limit,
            "answers": answers,
            "table": table,
        }


def _result_document(result: AppResult) -> dict[str, Any]:
    return {
        "app": result.app,
        "server": result.server or None,
        "status": result.status.value,
        "row_count": result.rows,
        "limited": result.limited,
        "seconds": round(result.seconds, 3),
        "columns": None,
        "rows": None,
        "error": result.error.document() if result.error is not None else None,
        "skipped": result.skipped or None,
    }


def _answer_document(answer: HeldAnswer) -> dict[str, Any]:
    types = [column.type for column in answer.columns]
    return {
        **_result_document(answer.result),
        "columns": [{"name": column.name, "type": column.type.value} for column in answer.columns],
        "rows": [[json_value(value, kind) for value, kind in zip(row, types, strict=True)] for row in answer.rows],
    }
