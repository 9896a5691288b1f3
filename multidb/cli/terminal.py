"""What is drawn: a console that only multidb steers, and tables that keep their words whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from multidb.cli.output import without_control

__all__ = ["Grid", "Terminal", "prose"]

_WIDEST = 10_000  # columns; wider than any cell
_GAP = "  "  # between two columns
_SHORT = 24  # columns; a longer cell is prose, or a name in the first place
_NARROWEST = 12  # columns of what gives way
_COPIED = re.compile(r"(?<!\S)(multidb [a-z]|docker |psql |GRANT |REVOKE |ALTER |DROP |CREATE ).*")
_WORD = re.compile(r" *[^ ]+")


class Terminal(Console):
    """Rich's console, on which nobody but rich steers the terminal."""

    def say(self, text: str, *, style: str | None = None, verbatim: bool = False) -> None:
        """Lines of plain text; on a terminal those of prose are broken between words (`prose`)."""
        self.print(text if verbatim or not self.is_terminal else prose(text, self.width), style=style, markup=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield (segment if segment.control else segment._replace(text=without_control(segment.text)))


def prose(text: str, width: int) -> str:
    """The text with its lines broken between words, under their own indentation.

    A word stays whole, however long it is, and so does what is to be copied: from a command or statement on, a line is
    the terminal's to break, which gives it back as one line.
    """
    return "\n".join(folded for line in text.split("\n") for folded in _folded(line, width))


def _folded(line: str, width: int) -> Iterator[str]:
    copied = _COPIED.search(line)
    words = _WORD.findall(line if copied is None else line[: copied.start()])
    if copied is not None:
        words.append(f" {copied[0]}" if words else line)
    indent = " " * (len(line) - len(line.lstrip(" ")))
    filled = ""
    for word in words:
        if filled and cell_len(filled + word) > width:
            yield filled
            filled = ""
        filled += word if filled else indent + word.lstrip(" ")
    yield filled


Cell: TypeAlias = str | Text | ProgressBar


class Grid:
    """A table that keeps its words whole: on a narrow terminal the first column and prose give way; where that is
    not enough, each row becomes a list of its cells (decision 47).

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
        widths = [self._width(console, options, column) for column in range(len(self._columns))]
        needed = sum(least for least, _ in widths) + len(_GAP) * (len(widths) - 1)
        yield self._table([least == most for least, most in widths]) if needed <= options.max_width else self._list()

    def _width(self, console: Console, options: ConsoleOptions, column: int) -> tuple[int, int]:
        """The least columns of the terminal that it can do with, and the most that it can use."""
        cells: list[Cell] = [self._columns[column], *(row[column] for row in self._rows)]
        measured = [Measurement.get(console, options.update(max_width=_WIDEST), cell) for cell in cells]
        most = max(width.maximum for width in measured)
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
                if str(cell):
                    table.add_row(f"{_GAP}{name}", cell)
            parts += [head, table]
        return Group(*parts)
