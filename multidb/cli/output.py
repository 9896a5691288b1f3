"""How commands speak: text for people, one JSON document for programs, errors for both.

Results go to stdout, everything else (progress, notes, questions, errors) to stderr, so that output can be piped. What
drivers and servers have said may be in any of it, so every line and document is redacted.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from multidb.errors import ManifestError, MultidbError
from multidb.secrets import redact

__all__ = ["Bar", "Grid", "Output", "report_error", "report_interrupt"]

_LINE_EVERY = 5.0  # seconds between progress lines where there is no terminal
_WIDEST = 10_000  # columns, where there is no terminal
_DOCUMENT_VERSION = 1
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # all control but tab and new line
_GAP = "  "  # between two columns
_SHORT = 24  # columns; a longer cell is prose, or a name in the first place
_NARROWEST = 12  # columns of what gives way
_SHORTEST_BAR, _LONGEST_BAR = 6, 20


class Terminal(Console):
    """Rich's console, on which nobody but rich steers the terminal: an app may have given a table a name that clears
    the screen, or that turns the order of the letters around."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else segment._replace(text=_STEERING.sub("\N{REPLACEMENT CHARACTER}", segment.text))
            )


class Output:
    """Where one command prints.

    Args:
        command: its name, for the JSON document.
        json: print one JSON document instead of text.
    """

    def __init__(self, command: str, *, json: bool = False, verbose: bool = False) -> None:
        self.command = command
        self.json = json
        self.verbose = verbose
        self.out = Terminal(soft_wrap=True, highlight=False, emoji=False)
        if not self.out.is_terminal:
            self.out.width = _WIDEST  # folding is for eyes; a program gets one line for each row, however long
        self.err = Terminal(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._heard = "working"
        self._guard = threading.Lock()

    def document(self, ok: bool, fields: Mapping[str, Any]) -> None:
        """Prints the command's JSON document, when JSON was asked for."""
        if self.json:
            print_document(self.command, ok, fields)

    def line(self, ok: bool, fields: Mapping[str, Any]) -> None:
        """One JSON document on a line of its own, for a command that goes on; when JSON was asked for."""
        if self.json:
            print_document(self.command, ok, fields, indent=None)
            sys.stdout.flush()

    def show(self, drawn: RenderableType) -> None:
        """Something that rich can draw, as part of the result; nothing when JSON was asked for."""
        if not self.json:
            self.out.print(drawn)

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """A line of the result; nothing when JSON was asked for."""
        if not self.json:
            self.out.print(redact(text), style=style, markup=False)

    def note(self, text: str, *, style: str | None = None) -> None:
        """A line beside the result, on stderr."""
        self.err.print(redact(text), style=style, markup=False)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None
    ) -> None:
        """A table of plain cells. `styles` colours a cell by its text."""
        if self.json:
            return
        table = Grid(*columns)
        for row in rows:
            table.add_row(*(Text(redact(cell), style=(styles or {}).get(cell, "")) for cell in row))
        self.out.print(table)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Shows progress while the block runs: bars on a terminal, a line every few seconds elsewhere."""
        if not self.err.is_terminal or os.environ.get("TERM") == "dumb":
            with self._lines():
                yield
            return
        columns = (
            SpinnerColumn("dots" if self.err.encoding.startswith("utf") else "line"),
            TextColumn("{task.fields[subject]}", style="bold"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as bars:
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None
                self._tasks.clear()

    def progress(self, subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        """The progress callback of the engine and the runtimes; safe from any thread."""
        message = redact(message)
        with self._guard:
            self._heard = f"{subject}: {message}"
            if self._bars is not None:
                self._draw(self._bars, subject, message, done, total)

    def _draw(self, bars: Progress, subject: str, message: str, done: float | None, total: float | None) -> None:
        if subject not in self._tasks:
            self._tasks[subject] = bars.add_task(message, total=total, subject=subject, count="")
        count = f"{done or 0:.0f}/{total:.0f}" if total else ""  # without an end there is nothing to count to
        bars.update(self._tasks[subject], description=message, completed=done or 0, total=total, count=count)

    @contextmanager
    def _lines(self) -> Iterator[None]:
        """Without a terminal: every few seconds one line, what was last heard of."""
        ended = threading.Event()
        started = time.monotonic()

        def speak() -> None:
            while not ended.wait(_LINE_EVERY):
                with self._guard:
                    heard = self._heard
                self.err.print(f"{heard} ({time.monotonic() - started:.0f} s)", markup=False)

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            ended.set()
            speaker.join()


Cell: TypeAlias = "str | Text | Bar"


class Grid:
    """A table that keeps its words whole: on a narrow terminal the first column and prose give way, then bars; where
    that is not enough, each row becomes a list of its cells.

    Args:
        right: the columns whose cells stand to the right.
    """

    def __init__(self, *columns: str, right: Sequence[str] = ()) -> None:
        self._columns = columns
        self._right = right
        self._rows: list[Sequence[Cell]] = []

    def add_row(self, *cells: Cell) -> None:
        """One cell for each column."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [self._width(console, options, each) for each in range(len(self._columns))]
        needed = sum(least for least, _ in widths) + len(_GAP) * (len(widths) - 1)
        yield self._table([least == most for least, most in widths]) if needed <= options.max_width else self._list()

    def _width(self, console: Console, options: ConsoleOptions, column: int) -> tuple[int, int]:
        """The least columns of the terminal that it can do with, and the most that it can use."""
        cells: list[Cell] = [self._columns[column], *(row[column] for row in self._rows)]
        measured = [Measurement.get(console, options.update(max_width=_WIDEST), cell) for cell in cells]
        most = max(each.maximum for each in measured)
        if any(isinstance(cell, Bar) for cell in cells):
            return max(each.minimum for each in measured), most
        gives_way = column == 0 or most > _SHORT
        return (min(most, _NARROWEST) if gives_way else most), most

    def _table(self, rigid: Sequence[bool]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, len(_GAP), 0, 0))
        for column, whole in zip(self._columns, rigid, strict=True):
            justify: Literal["left", "right"] = "right" if column in self._right else "left"
            table.add_column(column, overflow="fold", justify=justify, no_wrap=whole)
        for row in self._rows:
            table.add_row(*row)
        return table

    def _list(self) -> Group:
        """A line for each cell that says something, under the row's first."""
        parts: list[RenderableType] = []
        for head, *cells in self._rows:
            table = Table(box=None, pad_edge=False, show_header=False, padding=(0, len(_GAP), 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for name, cell in zip(self._columns[1:], cells, strict=True):
                if isinstance(cell, Bar) or str(cell):
                    table.add_row(f"{_GAP}{name}", cell)
            parts += [head, table]
        return Group(*parts)


class Bar:
    """A share as a bar, as long as there is room.

    Args:
        share: 1 is a full bar.
    """

    def __init__(self, share: float, style: str = "") -> None:
        self._share = share
        self._style = style

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_SHORTEST_BAR, _LONGEST_BAR)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        length = min(_LONGEST_BAR, options.max_width)
        filled = min(length, round(self._share * length))
        full, empty = "#-" if options.ascii_only else "█░"
        yield Text(full * filled + empty * (length - filled), self._style)


def print_document(command: str, ok: bool, fields: Mapping[str, Any], indent: int | None = 2) -> None:
    """One JSON document, the same shape for every command."""
    document = {"version": _DOCUMENT_VERSION, "command": command, "ok": ok, **fields}
    spelled = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    sys.stdout.write(json.dumps(_redacted(document), indent=indent, ensure_ascii=spelled) + "\n")


def _redacted(value: Any) -> Any:
    """The same with every text redacted, before JSON escapes what is in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(each) for key, each in value.items()}
    return [_redacted(each) for each in value] if isinstance(value, list | tuple) else value


def report_error(error: Exception, arguments: Sequence[str]) -> int:
    """Says what went wrong, as text or as the command's JSON document, and gives the exit code."""
    if isinstance(error, MultidbError):
        fields, code = _fields(error), error.exit_code
    elif isinstance(error, typer.Abort):
        fields, code = {"code": "aborted", "message": "aborted, nothing changed"}, 3
    elif hasattr(error, "format_message"):  # the command line's own usage errors
        fields, code = {"code": "usage", "message": error.format_message(), "hint": "multidb --help"}, 2
    else:
        where = f"{type(error).__name__}: {error}"
        fields, code = (
            {
                "code": "internal",
                "message": f"a fault of multidb itself ({where})",
                "hint": "please report it; MULTIDB_DEBUG=1 shows the traceback",
            },
            1,
        )
    if "--json" in arguments:
        print_document(_command(arguments), False, {"error": fields})
    else:
        _print_error(_redacted(fields))
    return code


def report_interrupt(arguments: Sequence[str]) -> None:
    """Says that Ctrl-C ended the command, as text or as the command's JSON document."""
    fields = {"code": "interrupted", "message": "interrupted", "hint": "run the command again to finish the work"}
    if "--json" in arguments:
        print_document(_command(arguments), False, {"error": fields})
        sys.stdout.flush()
    else:
        sys.stderr.write("\nInterrupted. Run the command again to finish the work.\n")


def _fields(error: MultidbError) -> dict[str, Any]:
    fields: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, ManifestError):
        fields["problems"] = [
            {"file": p.file, "line": p.line, "column": p.column, "message": p.message, "suggestion": p.suggestion}
            for p in error.problems
        ]
    return {**fields, "where": error.where, "hint": error.hint}


def _print_error(fields: Mapping[str, Any]) -> None:
    console = Terminal(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    where = f"{fields['where']}: " if fields.get("where") else ""
    console.print(f"Error: {where}{fields['message']}", style="red", markup=False)
    if fields.get("hint"):
        console.print(f"  {fields['hint']}", markup=False)


def _command(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")
