"""Backup work killed with SIGKILL at random moments: nothing is lost, all sets are whole, the next run cleans up."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from multidb.backup.cloning import copy_into
from multidb.backup.creation import make_sets, repository
from multidb.backup.journal import Journal, exclusively
from multidb.backup.pruning import carry_out, decide
from multidb.backup.recovery import recover
from multidb.backup.repository import utc_now
from multidb.backup.restoring import SetSource, restore, restore_tables
from multidb.backup.verifying import verify
from multidb.closure import closures
from multidb.engine import Engine
from multidb.errors import ArchiveError
from multidb.fleet import Scope
from multidb.model.options import Keep
from tests.unit.backup.cabinet import ONE_PLACE, rows_of, write_rows
from tests.unit.backup.conftest import make_engine
from tests.unit.backup.sets_of_shop import made, make, quiet, tried

SEED = int(os.environ.get("MULTIDB_TEST_SEED", random.SystemRandom().randrange(10**6)))
ROUNDS = {"backup": 8, "verify": 4, "restore": 10, "tables": 6, "clone": 4, "new clone": 6, "prune": 4}
"""A new clone is empty, and one of its servers has one place only."""
STORES = ("cabinet", "drawer")
ROWS = 5_000


def act(engine: Engine, what: str) -> None:
    with exclusively(engine.state, what):
        _, problems = recover(engine, None, quiet)
        assert not problems, problems
        home = repository(engine.fleet)
        match what:
            case "backup":
                make_sets(engine, Scope(), quiesce=True, progress=quiet)
            case "verify":
                verify(engine.fleet, home, home.find("ann"), None, quiet)
            case "restore":
                restore(engine, SetSource(home, home.copies(["ann"])[-1]), "ann", replace=True, progress=quiet)
            case "tables":
                restore_tables(
                    engine, SetSource(home, home.copies(["ann"])[-1]), "drawer", ["rows"], replace=True, progress=quiet
                )
            case "clone" | "new clone":
                copy_into(engine, "ann", "bob", replace=True, safety=False, progress=quiet)
            case "prune":
                carry_out(
                    home,
                    decide(
                        home,
                        {"ann": Keep(last=1, daily=0, weekly=0), "bob": Keep(last=1, daily=0, weekly=0)},
                        utc_now(),
                    ),
                )


MOST_ROUNDS = 60
"""More rounds than these are never needed until a kill has come in time."""


def killed_at(engine: Engine, what: str, moment: float) -> bool:
    """Whether the process was killed before it had done its work."""
    child = os.fork()
    if not child:
        try:
            act(engine, what)
        finally:
            os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def length(engine: Engine, what: str) -> float:
    started = time.monotonic()
    act(engine, what)
    return time.monotonic() - started


@pytest.fixture
def before(tmp_path: Path, data: Path) -> Engine:
    """Two sets of ann, the first verified; since then ann has other rows."""
    for store in STORES:
        write_rows(data, store, "ann", ROWS, salt=store)
        write_rows(data, store, "bob", ROWS, salt="bob")
    engine = make_engine(tmp_path, data)
    for app in ("ann", "bob"):
        assert tried(engine, made(engine, app)).ok
    time.sleep(1.1)  # an id is of a second
    make(engine)
    for store in STORES:
        write_rows(data, store, "ann", 100, salt="later")
    return engine


@pytest.mark.parametrize("what", list(ROUNDS))
def test_killed_anywhere(before: Engine, tmp_path: Path, data: Path, what: str) -> None:
    print(f"seed {SEED}")
    randomly = random.Random(f"{SEED} {what}")
    if what == "new clone":
        ONE_PLACE.add("drawer")
        for store in STORES:
            write_rows(data, store, "bob", 0)
    start = tmp_path / "start"
    shutil.copytree(data, start / "data")
    for name in ("sets", ".multidb"):
        shutil.copytree(tmp_path / name, start / name)
    old = {store: rows_of(data, store, "ann") for store in STORES}
    lasts = length(before, what)
    hits = 0
    for number in range(MOST_ROUNDS):
        if number >= ROUNDS[what] and hits:
            break
        for name, folder in (("data", data), ("sets", tmp_path / "sets"), (".multidb", tmp_path / ".multidb")):
            shutil.rmtree(folder)
            shutil.copytree(start / name, folder)
        moment = randomly.uniform(0, lasts)
        if killed_at(before, what, moment):
            hits += 1
        else:  # the machine was busier when it was measured
            lasts = moment
        check_what_is_listed(before)
        act(before, "clone" if "clone" in what else "nothing but recovery")  # until then a clone's logins are off
        check_nothing_is_left(before, data)
        check_rows(before, data, what, old)
    assert hits, "no process was killed in time"


def check_what_is_listed(engine: Engine) -> None:
    copies = repository(engine.fleet).copies()
    verified = [copy for copy in copies if copy.verified and copy.app == "ann"]
    assert verified, "the last good set is gone"
    for copy in copies:
        assert copy.backup_set is not None, copy.problem
        for store in copy.backup_set.parts:
            repository(engine.fleet).reader(copy, store, None).check()


def check_nothing_is_left(engine: Engine, data: Path) -> None:
    assert not list(data.rglob("*__*"))
    assert engine.plan().in_sync
    kinds = ("making", "paused", "verifying", "restoring")
    assert not any(Journal(engine.state).open(kind) for kind in kinds)
    assert closures(engine.state) == {}
    assert repository(engine.fleet).half_made() == []


def check_rows(engine: Engine, data: Path, what: str, old: dict[str, bytes]) -> None:
    """After recovery, ann has everywhere what it had, or in restored stores what the set has; others are untouched."""
    restored = {"restore": STORES, "tables": ("drawer",)}.get(what, ())
    have = {store: rows_of(data, store, "ann") == old[store] for store in STORES}
    assert all(have.values()) or [store for store in STORES if not have[store]] == list(restored), have
    if not all(have.values()):
        assert [rows_of(data, store, "ann").count(b"\n") for store in restored] == [ROWS] * len(restored)
    if "clone" in what:
        expected = [old[store].replace(b"ann:", b"bob:") for store in STORES]
        assert [rows_of(data, store, "bob") for store in STORES] == expected
    else:
        assert [rows_of(data, store, "bob").count(b"\n") for store in STORES] == [ROWS, ROWS]


def test_a_full_disk_leaves_no_set_and_says_so(tmp_path: Path, data: Path) -> None:
    """On a small tmpfs, as root; it ends as any error does."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        engine = make_engine(tmp_path, data)
        write_rows(data, "drawer", "ann", 20_000)
        assert make(engine, "bob", to=["small/"])["bob"].ok
        done = make(engine, "ann", to=["small/", "sets/"])["ann"]
        assert done.made is not None
        assert "No space left" in str(done.errors["small/"])
        alone = make(engine, "ann", to=["small/"])["ann"]
        assert alone.made is None
        assert isinstance(alone.errors["small/"], ArchiveError)
        assert [copy.app for copy in repository(engine.fleet, ["small/"]).copies()] == ["bob"]
        assert not list(small.rglob("ann/*"))
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
