"""What an interrupted run has left, put right and told before a command does its own work."""

from __future__ import annotations

from collections.abc import Collection

from multidb.backup.encryption import Identities
from multidb.backup.recovery import recover
from multidb.cli.output import Output
from multidb.engine import Engine

__all__ = ["finish_interrupted"]


def finish_interrupted(
    engine: Engine,
    keys: Identities | None,
    output: Output,
    held: Collection[str] = (),
    going_on: Collection[str] = (),
) -> None:
    """Says on stderr what was finished or cleared away, and what has to wait for a later run. The caller holds
    `exclusively`.

    Args:
        held: the apps whose lock the caller has.
        going_on: the apps whose import the caller goes on with.
    """
    done, problems = recover(engine, keys, output.progress, held, going_on)
    for line in (*done, *(f"{app}: {error.sentence()}" for app, error in problems.items())):
        output.note(line)
