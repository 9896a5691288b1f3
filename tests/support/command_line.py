"""What the command line has: every command, with those under another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from multidb.cli.command_line import COMMANDS
from multidb.cli.root import app


def commands() -> Iterator[tuple[str, Any]]:
    """Each command by the words that it is called by: ``backups list``."""
    root: Any = typer.main.get_command(app)
    for name in COMMANDS:
        command = root.get_command(typer.Context(root), name)
        for inner, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), each
