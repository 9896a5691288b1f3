"""What the benchmarks of backups share: sets in a folder for the time, and how much memory the process has taken."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ground import quiet
from multidb.backup.creation import ServerContexts, make_sets, repository
from multidb.backup.places import load, prepared_place
from multidb.backup.repository import Copy
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.model import PlaceKind


def back_up(engine: Engine, folder: Path) -> Copy:
    """A set of the only app in `folder`."""
    (made,) = make_sets(engine, Scope(), to=[str(folder)], progress=quiet)
    assert made.ok, made.errors
    return repository(engine.fleet, [str(folder)]).find(made.app)


def restore_beside(engine: Engine, copy: Copy) -> None:
    """Restores every store of the set into a scratch place and measures it there."""
    assert copy.backup_set is not None
    app = engine.project.apps[copy.app]
    grounds = ServerContexts(engine.fleet, Scope())
    home = repository(engine.fleet, [copy.target.name])
    for store, part in copy.backup_set.parts.items():
        ground = grounds.of(app, store)
        assert ground is not None
        with prepared_place(engine.fleet, PlaceKind.SCRATCH, ground[0], app, ground[1], quiet) as scratch:
            load(scratch, part, home.reader(copy, store, None), quiet)


@contextmanager
def somewhere() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-sets-") as name:
        yield Path(name)


def peak() -> str:
    """The most memory that this process has had."""
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB"
