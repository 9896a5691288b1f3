"""A plan as Markdown, for a comment on a pull request: short, a section for each server that can be opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from multidb.cli.output import without_control
from multidb.cli.plan_view import change_lines, move_lines, plan_sentence
from multidb.errors import one_line
from multidb.model import counted
from multidb.plan import Plan, ServerPlan
from multidb.secrets import redact

__all__ = ["MARK", "plan_markdown"]

MARK: Final = "<!-- multidb plan -->"
"""The first line, by which a program finds the comment that it made before."""

_MOST: Final = 60_000  # characters; GitHub takes 65,536 in a comment
_RESERVED: Final = 200  # for the line that says what is missing
_LONGEST_LINE: Final = 500


@dataclass(frozen=True, slots=True)
class _Section:
    """What there is to say of one server: what stands outside, and what is seen when it is opened."""

    title: str
    lines: tuple[str, ...]

    def text(self, count: int) -> str:
        """With the first `count` of the lines."""
        lines = self.lines[:count]
        if not lines:
            return f"<p>{self.title}</p>\n"  # as a block of HTML, of which Markdown makes nothing
        fence = "`" * max(3, 1 + max(len(run) for run in re.findall("`*", "".join(lines))))
        shown = "\n".join(lines)
        return f"<details><summary>{self.title}</summary>\n\n{fence}diff\n{shown}\n{fence}\n\n</details>\n"


def plan_markdown(plan: Plan, closings: Sequence[str] = (), *, verbose: bool = False) -> str:
    """The text, which ends in a newline and is shorter than 60,000 characters, whatever is in the plan.

    Nothing that a server or an app has named can add to it: names stand between fences that are longer than any in
    them, or are escaped.

    Args:
        closings: what others on the servers may lose by it, a line for each server.
        verbose: the statements too.
    """
    head = f"{MARK}\n### multidb plan of {_escaped(plan.project)}\n\n**{_escaped(plan_sentence(plan))}**\n\n"
    sections = [*_sections(plan, verbose), *_of_lines("Warnings", _warnings(plan)), *_of_lines("For others", closings)]
    left, shown, missing = _MOST - len(head) - _RESERVED, [], 0
    for section in sections:
        count = _fitting(section, left)
        text = section.text(count)
        missing += len(section.lines) - count
        if len(text) <= left:
            shown.append(text)
            left -= len(text) + 1
        else:
            missing += 1
    cut = f"\n*{missing} more lines do not fit here: `multidb plan` has them all.*\n" if missing else ""
    return head + "\n".join(shown) + cut


def _fitting(section: _Section, left: int) -> int:
    """How many of its lines fit. Found by halves: a text gets longer with each line."""
    low, high = 0, len(section.lines)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(section.text(middle)) <= left else (low, middle - 1)
    return low


def _sections(plan: Plan, verbose: bool) -> Iterator[_Section]:
    for server in plan.servers:
        lines = tuple(_cut(line) for line in _lines(server, verbose))
        if server.error is not None:
            yield _Section(f"<b>{_escaped(server.server)}</b>: cannot be read", lines)
        elif server.skipped:
            yield _Section(f"<b>{_escaped(server.server)}</b>: skipped, {_escaped(server.skipped)}", lines)
        elif lines:
            count = len(server.changes)
            changes = counted(count, "change") + (", not all could be read" * bool(server.unread))
            yield _Section(f"<b>{_escaped(server.server)}</b> ({_escaped(server.version)}): {changes}", lines)


def _lines(server: ServerPlan, verbose: bool) -> Iterator[str]:
    errors = [*filter(None, [server.error]), *server.unread.values()]
    yield from (f"! {error.sentence()}" for error in errors)
    yield from (f"# {note}" for note in server.notes)
    for move in server.moves.values():
        yield from (f"! {line}" for line in move_lines(move))
    for change in server.changes:
        yield from change_lines(change, verbose=verbose)
    if server.left:
        yield "# left as it is, by the mode of the app:"
    for change in server.left:
        yield from (f"# {line}" for line in change_lines(change, verbose=verbose))


def _warnings(plan: Plan) -> Iterator[str]:
    for warning in plan.warnings:
        yield f"! {warning.subject}: {warning.message}"
        if warning.fix:
            yield f"      {warning.fix}"


def _of_lines(title: str, lines: Iterable[str]) -> Iterator[_Section]:
    cut = tuple(_cut(line) for line in lines)
    if cut:
        yield _Section(f"<b>{title}</b>", cut)


def _cut(line: str) -> str:
    plain = without_control(redact(one_line(line)))
    return plain if len(plain) <= _LONGEST_LINE else plain[: _LONGEST_LINE - 1] + "…"


def _escaped(text: str) -> str:
    return escape(_cut(text), quote=False)
