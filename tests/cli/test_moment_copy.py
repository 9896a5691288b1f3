"""Looking at several moments of one app: the copy of its server is kept, and rolled on."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.moments import now, scratch_processes

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: looked-at
runtime: embedded
apps: {ann: {stores: [postgres]}, bob: {stores: [postgres]}}
backup: {to: [sets/], every: 52w, verify: never, postgres: {continuous: true}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("looked-at-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        made.ok("backup", "--due")
        yield made


@pytest.fixture(scope="module")
def at(folder: Folder) -> dict[int, str]:
    """The moments at which ann had so many orders."""
    at = {}
    with psycopg.connect(folder.variables("ann")["DATABASE_URL"], autocommit=True) as ann:
        ann.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        for number in range(1, 6):
            ann.execute("INSERT INTO orders VALUES (%s, 'x')", (number,))
            ann.execute("UPDATE orders SET note = note || 'y'")
            at[number] = now()
            if number == 3:
                folder.ok("backup", "--due")
    return at


def count(folder: Folder, app: str) -> object:
    with psycopg.connect(folder.variables(app)["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT count(*), max(length(note)) FROM orders").fetchone()
    assert row is not None
    assert row[1] == 1 + row[0]  # as of one moment
    return row[0]


def copy(folder: Folder) -> Path:
    return folder.path / ".multidb" / "servers" / "copy-postgres"


def bases(folder: Folder) -> list[Path]:
    return sorted(path for path in (folder.path / "sets").rglob("*.zst") if "base" in path.parts)


def test_a_kept_copy_is_rolled_on_to_later_moments_without_its_base_backup(folder: Folder, at: dict[int, str]) -> None:
    kept = folder.ok("restore", "ann", "--at", at[1], "--as", "looking", "--keep-copy", "--json").json()
    assert kept["kept_until"]
    assert count(folder, "looking") == 1
    hidden = [(path, path.with_name(f"hidden-{path.name}")) for path in bases(folder)]
    assert hidden
    for path, aside in hidden:
        path.rename(aside)
    try:
        for number in (2, 5):  # the last is of WAL that comes only now
            folder.ok("restore", "ann", "--until", at[number], "--as", "looking", "--replace", "--no-safety-set")
            assert count(folder, "looking") == number
        assert folder.run("restore", "ann", "--at", at[2], "--as", "looking", "--replace").code == 6  # the control
    finally:
        for path, aside in hidden:
            aside.rename(path)
    refused = folder.run("restore", "ann", "--until", at[2], "--as", "looking", "--replace")
    assert refused.code == 2
    assert "never goes back" in refused.err
    assert folder.run("restore", "bob", "--until", at[5], "--replace").code == 2
    assert not scratch_processes(folder)
    folder.ok("backup", "--due")
    folder.ok("backup", "--due")
    (archive,) = folder.ok("backups", "list", "--json").json()["archives"]  # nothing was committed before its end
    last = ("restore", "ann", "--until", archive["until"], "--replace", "--no-safety-set", "--no-keep-copy", "--json")
    assert folder.ok(*last).json()["kept_until"] is None
    assert count(folder, "ann") == 5
    assert not copy(folder).exists()
    refused = folder.run("restore", "ann", "--until", at[5], "--replace")
    assert refused.code == 2
    way = refused.err.partition("multidb ")[2].splitlines()[0]
    assert "--keep-copy" in way


def test_nobody_gets_into_a_copy_that_waits_and_it_is_removed_after_a_day(folder: Folder, at: dict[int, str]) -> None:
    folder.ok("restore", "ann", "--at", at[1], "--as", "looking", "--replace", "--keep-copy")
    data = copy(folder) / "data"
    assert (data / "recovery.signal").exists()  # it was never let go
    assert (data / "pg_hba.conf").read_text() == "local all all reject\n"
    assert not (data / "postmaster.pid").exists()
    folder.ok("backup", "--due")
    assert copy(folder).exists()
    with ProjectState(folder.path).change("copies") as section:
        section["postgres"]["since"] = "2020-01-01T00:00:00+00:00"
    folder.ok("backup", "--due")
    assert not copy(folder).exists()


def test_prune_removes_a_kept_copy(folder: Folder, at: dict[int, str]) -> None:
    folder.ok("restore", "ann", "--at", at[1], "--as", "looking", "--replace", "--keep-copy")
    assert folder.ok("backups", "prune", "--yes", "--json").json()["copies"] == ["postgres"]
    assert not copy(folder).exists()
    assert folder.ok("backups", "prune", "--yes", "--json").json()["copies"] == []


@pytest.mark.rare
def test_killed_while_it_is_rolled_on_a_copy_is_none_any_more(folder: Folder, at: dict[int, str]) -> None:
    for wait in (1.0, 2.0, 3.0, 4.0):
        folder.ok("restore", "ann", "--at", at[1], "--as", "looking", "--replace", "--keep-copy")
        process = folder.begin("restore", "ann", "--until", at[3], "--as", "looking", "--replace")
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        again = folder.run("restore", "ann", "--until", at[4], "--as", "looking", "--replace")
        if again.code == 0:
            assert count(folder, "looking") == 4
        else:
            assert "no copy of server postgres is kept" in again.err
        assert not scratch_processes(folder)
    folder.ok("backups", "prune", "--yes")
    shutil.rmtree(copy(folder), ignore_errors=True)
