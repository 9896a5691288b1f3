"""No command is left out of the suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import typer

from multidb.cli.command_line import COMMANDS
from multidb.cli.root import app
from tests.hostile.steps import STEPS, Step


def all_commands() -> Iterator[str]:
    """Every command that multidb has, with those under another."""
    root = typer.main.get_command(app)
    for name in COMMANDS:
        command = root.get_command(typer.Context(root), name)  # type: ignore[attr-defined]
        under = getattr(command, "commands", None)
        if under is None:
            yield name
        else:
            yield from (f"{name} {each}" for each in under)


def _run(steps: Sequence[Step]) -> set[str]:
    words = [step.command.split() for step in steps]
    groups = {"backups", "secrets", "state"}
    return {each[0] for each in words} - groups | {" ".join(each[:2]) for each in words if each[0] in groups}


def test_every_command_is_run_beside_a_hostile_app() -> None:
    commands = set(all_commands())
    assert "backups verify" in commands
    assert not commands - _run(STEPS)


def test_a_command_that_is_not_in_the_suite_is_missed() -> None:
    """The positive control."""
    assert {"apply", "backups verify", "query"} - _run(STEPS) == {"query"}
