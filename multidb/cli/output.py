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
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import typer

from multidb.cli.command_line import named_command, usage_error, wants_document
from multidb.errors import MultidbError
from multidb.secrets import redact

if TYPE_CHECKING:  # 50 ms; lines for pipes and files need none of it
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from multidb.cli.terminal import Terminal

__all__ = ["TEXT", "Output", "is_attended", "report_error", "report_interrupt"]

TEXT = "text"
"""The form in which people read."""

_LINE_EVERY = 5.0  # seconds between progress lines where there is no terminal
_WIDEST = 10_000  # columns, where there is no terminal
_DOCUMENT_VERSION = 1
_REFUSED = 3  # the exit code of a run that was not agreed to
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # all control but tab and new line
_TERMINALS = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")  # variables by which rich may take a pipe for one


class Output:
    """Where one command prints.

    Args:
        command: its name, for the JSON document.
        json: print one JSON document instead of text.
        form: how the command was asked to print its result; other than as text, it is all that `write` is given.
    """

    def __init__(self, command: str, *, json: bool = False, verbose: bool = False, form: str = TEXT) -> None:
        self.command = command
        self.json = json
        self.verbose = verbose
        self.form = form
        self._as_text = form == TEXT and not json
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._documented = False
        self._heard = "working"
        self._guard = threading.Lock()

    @cached_property
    def out(self) -> Terminal:
        """Standard output, to draw on."""
        from multidb.cli.terminal import Terminal

        out = Terminal(soft_wrap=True, highlight=False, emoji=False)
        if not out.is_terminal:
            out.width = _WIDEST  # folding is for eyes; a program gets one line for each row, however long
        return out

    @cached_property
    def err(self) -> Terminal:
        """Standard error, to draw on."""
        from multidb.cli.terminal import Terminal

        return Terminal(stderr=True, soft_wrap=True, highlight=False, emoji=False)

    def document(self, ok: bool, fields: Mapping[str, Any], in_clear: Mapping[str, Any] | None = None) -> None:
        """Prints the command's JSON document, when JSON was asked for.

        Args:
            in_clear: further fields, which are not redacted: secrets that were asked for by name.
        """
        if self.json:
            self._documented = True
            _print_document(self.command, ok, fields, in_clear)

    def line(self, ok: bool, fields: Mapping[str, Any]) -> None:
        """One JSON document on a line of its own, for a command that goes on; when JSON was asked for."""
        if self.json:
            self._documented = True
            _print_document(self.command, ok, fields, indent=None)
            sys.stdout.flush()

    def write(self, text: str) -> None:
        """The result, as a text in the form that was asked for."""
        sys.stdout.write(redact(text))

    def end(self, code: int) -> None:
        """Prints the document of a run that has printed none, so that there is one of each when JSON was asked for.

        Args:
            code: the run's exit code.
        """
        if not self._documented:
            error = {"error": _error("aborted", "nothing was changed")} if code == _REFUSED else {}
            self.document(code == 0, error)

    def show(self, drawn: RenderableType) -> None:
        """Something that rich can draw, as part of the result; nothing when another form was asked for."""
        if self._as_text:
            self.out.print(drawn)

    def say(self, text: str = "", *, style: str | None = None, verbatim: bool = False) -> None:
        """A line of the result; nothing when another form was asked for.

        Args:
            verbatim: it is no prose (a log's line, a statement), which a terminal may break anywhere.
        """
        if self._as_text:
            if _is_plain(sys.stdout):
                _print_plain(sys.stdout, redact(text))
            else:
                self.out.say(redact(text), style=style, verbatim=verbatim)

    def note(self, text: str, *, style: str | None = None) -> None:
        """A line beside the result, on stderr."""
        if _is_plain(sys.stderr):
            _print_plain(sys.stderr, redact(text))
        else:
            self.err.say(redact(text), style=style)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None
    ) -> None:
        """A table of plain cells. `styles` colours a cell by its text."""
        if not self._as_text:
            return
        from rich.text import Text

        from multidb.cli.terminal import Grid

        table = Grid(*columns)
        for row in rows:
            table.add_row(*(Text(redact(cell), style=(styles or {}).get(cell, "")) for cell in row))
        self.out.print(table)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Shows progress while the block runs: bars on a terminal, a line every few seconds elsewhere."""
        if _is_plain(sys.stderr) or not self.err.is_terminal or _in_ci() or os.environ.get("TERM") == "dumb":
            with self._lines():
                yield
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Amid work: no bar is drawn over a question."""
        if self._bars is not None:
            self._bars.stop()
        yield
        if self._bars is not None:
            self._bars.start()

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
                self.note(f"{heard} ({time.monotonic() - started:.0f} s)")

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            ended.set()
            speaker.join()


def without_control(text: str) -> str:
    """The text without what would steer a terminal: an app may have given a table a name that clears the screen, or
    that turns the order of the letters around."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def is_attended(stream: TextIO) -> bool:
    """Whether a person is at it, who can be asked: a terminal, and not that of a CI job, where nobody answers."""
    return stream.isatty() and not _in_ci()


def _in_ci() -> bool:
    """Whether ``CI`` says so, as the runners of every CI service set it."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def _is_plain(stream: TextIO) -> bool:
    """Whether nobody wants colours there, or lines as wide as a terminal."""
    return not stream.isatty() and not any(os.environ.get(name) for name in _TERMINALS)


def _print_plain(stream: TextIO, text: str) -> None:
    stream.write(without_control(text).expandtabs() + "\n")


def _print_document(
    command: str,
    ok: bool,
    fields: Mapping[str, Any],
    in_clear: Mapping[str, Any] | None = None,
    *,
    indent: int | None = 2,
) -> None:
    """One JSON document, the same shape for every command: docs/json/ has the schema of each."""
    document = _redacted({"version": _DOCUMENT_VERSION, "command": command, "ok": ok, **fields})
    spelled = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    sys.stdout.write(json.dumps({**document, **(in_clear or {})}, indent=indent, ensure_ascii=spelled) + "\n")


def _redacted(value: Any) -> Any:
    """The same with every text redacted, before JSON escapes what is in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(item) for key, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def report_error(error: Exception, arguments: Sequence[str]) -> int:
    """Says what went wrong, as text or as the command's JSON document, and gives the exit code."""
    if isinstance(error, MultidbError):
        fields, code = error.document(), error.exit_code
    elif isinstance(error, typer.Abort):
        fields, code = _error("aborted", "aborted, nothing changed"), _REFUSED
    elif hasattr(error, "format_message"):  # the command line's own usage errors
        message, hint = usage_error(error)
        fields, code = _error("usage", message, hint), 2
    else:
        where = f"{type(error).__name__}: {error}"
        hint = "please report it; MULTIDB_DEBUG=1 shows the traceback"
        fields, code = _error("internal", f"a fault of multidb itself ({where})", hint), 1
    if wants_document(arguments):
        _print_document(named_command(arguments), False, {"error": fields})
    else:
        _print_error(_redacted(fields))
    return code


def report_interrupt(arguments: Sequence[str]) -> None:
    """Says that Ctrl-C ended the command, as text or as the command's JSON document."""
    if wants_document(arguments):
        fields = _error("interrupted", "interrupted", "run the command again to finish the work")
        _print_document(named_command(arguments), False, {"error": fields})
        sys.stdout.flush()
    else:
        sys.stderr.write("\nInterrupted. Run the command again to finish the work.\n")


def _error(code: str, message: str, hint: str | None = None) -> dict[str, Any]:
    """What `MultidbError.document` gives, of what is none of these."""
    return {"code": code, "message": message, "where": None, "hint": hint}


def _print_error(fields: Mapping[str, Any]) -> None:
    output = Output("")
    where = f"{fields['where']}: " if fields.get("where") else ""
    output.note(f"Error: {where}{fields['message']}", style="red")
    if fields.get("hint"):
        output.note(f"  {fields['hint']}")
