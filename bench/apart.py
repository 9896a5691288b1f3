"""Work in a process of its own: its memory is its own, and nothing of the benchmark's data is counted with it."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.backup_ground import back_up
from bench.ground import open_engine, quiet
from multidb.backup.creation import repository
from multidb.backup.repository import Copy, Repository
from multidb.backup.restoring import SetSource, restore
from multidb.backup.verifying import verify
from multidb.engine import Engine

__all__ = ["Apart", "apart", "backed_up", "restored", "verified"]


@dataclass(frozen=True, slots=True)
class Apart:
    """What the work took: seconds by the clock, and the most memory that its process has had, in MB."""

    seconds: float
    peak: float

    @property
    def note(self) -> str:
        return f"peak memory {self.peak:.0f} MB"


def apart(work: Callable[..., object], *arguments: object) -> Apart:
    """Runs a function of a module in a new interpreter. `getrusage` would not do: its maximum outlives the fork."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_timed, (work, arguments))


def backed_up(folder: Path, sets: Path) -> None:
    """`multidb backup` of the only app of the project in `folder`."""
    back_up(open_engine(folder), sets)


def verified(folder: Path, sets: Path) -> None:
    """`multidb backups verify` of its newest set."""
    engine = open_engine(folder)
    tried = verify(engine.fleet, _home(engine, sets), _newest(engine, sets), None, quiet)
    assert tried.ok, tried


def restored(folder: Path, sets: Path) -> None:
    """`multidb restore --replace` of its newest set, without the safety set."""
    engine = open_engine(folder)
    [app] = engine.project.apps
    done = restore(
        engine, SetSource(_home(engine, sets), _newest(engine, sets)), app, replace=True, safety=False, progress=quiet
    )
    assert done.report is not None
    assert done.report.error() is None


def _home(engine: Engine, sets: Path) -> Repository:
    return repository(engine.fleet, [str(sets)])


def _newest(engine: Engine, sets: Path) -> Copy:
    [app] = engine.project.apps
    return _home(engine, sets).find(app)


def _timed(work: Callable[..., object], arguments: tuple[object, ...]) -> Apart:
    started = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - started
    highest = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert highest is not None
    return Apart(seconds, int(highest[1]) / 1024)
