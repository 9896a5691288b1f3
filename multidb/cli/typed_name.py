"""The question before something is destroyed: its name has to be typed."""

from __future__ import annotations

import sys

import typer

from multidb.cli.output import Output, is_attended
from multidb.errors import Refused

__all__ = ["agree_to_destroy"]


def agree_to_destroy(name: str, answer: str | None, output: Output, *, warning: str, command: str) -> None:
    """Returns when `name` was given as the sign that it may go; `Refused` otherwise.

    Args:
        answer: what stood after ``--yes-destroy``; None: ask.
        warning: what will be gone, said before the question.
        command: the command line that needs no question.
    """
    if answer is None:
        if not is_attended(sys.stdin):
            raise Refused(f"this needs the name {name} as an answer, and there is no terminal to ask on", hint=command)
        output.note(warning)
        answer = str(typer.prompt(f"Type {name} to go on", default="", show_default=False, err=True))
    if answer != name:
        raise Refused(f"{answer!r} is not {name}, so nothing was stopped or deleted", hint=command)
