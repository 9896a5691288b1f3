"""No command is left out of the suite."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hostile.steps import STEPS, Step
from tests.support.command_line import commands


def _run(steps: Sequence[Step]) -> set[str]:
    words = [step.command.split() for step in steps]
    groups = {"backups", "secrets", "state"}
    return {each[0] for each in words} - groups | {" ".join(each[:2]) for each in words if each[0] in groups}


def test_every_command_is_run_beside_a_hostile_app() -> None:
    every = dict(commands()).keys()
    assert "backups verify" in every
    assert not every - _run(STEPS)


def test_a_command_that_is_not_in_the_suite_is_missed() -> None:
    """The positive control."""
    assert {"apply", "backups verify", "question"} - _run(STEPS) == {"question"}
