"""Disks that are really full under the archive of a server: what is not whole is none, and the next run goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.command import Folder, project_folder
from tests.support.moments import now, scratch_processes

pytestmark = [pytest.mark.server, pytest.mark.rare]

MANIFEST = """\
version: 1
project: filled
runtime: embedded
apps: {ann: {stores: [postgres]}}
backup: {to: [sets/], every: 52w, verify: never, postgres: {continuous: true}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("filled-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A disk of its own in the place of a folder."""
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={size},uid={os.getuid()},mode=0777"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def enlarge(path: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


def test_a_target_that_gets_full_has_no_half_archive(folder: Folder) -> None:
    sets = folder.path / "sets"
    with small_disk(sets, "2m"):
        for _ in range(2):
            failed = folder.run("backup", "--due", "--json")
            assert failed.code == 6
            (archived,) = failed.json()["archived"]
            assert "No space left" in archived["error"]["message"]
            assert archived["error"]["hint"]
            assert archived["base"] is None
            assert not list(sets.rglob("base.json"))
            assert "archives" in folder.ok("backups", "list", "--json").json()
            refused = folder.run("restore", "ann", "--at", now(), "--replace")
            assert refused.code == 2
        assert "No space left" in folder.run("health", "ann").out
        enlarge(sets, "64m")
        (archived,) = folder.ok("backup", "--due", "--json").json()["archived"]
        assert archived["base"]
        assert not archived["began"], "the server has kept what was not taken"
        assert not list(sets.rglob("*.part"))
        with psycopg.connect(folder.variables("ann")["DATABASE_URL"], autocommit=True) as ann:
            ann.execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 10) n")
            moment = now()
            ann.execute("DROP TABLE orders")
        folder.ok("restore", "ann", "--at", moment, "--replace")
        with psycopg.connect(folder.variables("ann")["DATABASE_URL"]) as ann:
            assert ann.execute("SELECT count(*) FROM orders").fetchone() == (10,)


def test_a_machine_that_gets_full_has_no_half_copy_and_loses_no_log(folder: Folder) -> None:
    folder.ok("backup", "--due")
    spool, copies = (folder.path / ".multidb" / name for name in ("continuous", "servers/copy-postgres"))
    with psycopg.connect(folder.variables("ann")["DATABASE_URL"], autocommit=True) as ann:
        ann.execute("CREATE TABLE late AS SELECT 7 AS id")
    with small_disk(spool, "4m"):
        failed = folder.run("backup", "--due", "--json")
        assert failed.code == 6
        (archived,) = failed.json()["archived"]
        assert "free space" in archived["error"]["hint"]
    (archived,) = folder.ok("backup", "--due", "--json").json()["archived"]
    assert not archived["began"]
    moment = now()
    folder.ok("backup", "--due")
    with small_disk(copies, "10m"):
        failed = folder.run("restore", "ann", "--at", moment, "--as", "looking", "--keep-copy")
        assert failed.code == 6
        assert "No space left" in failed.err
        assert "free space" in failed.err
        assert folder.run("restore", "ann", "--until", moment, "--as", "looking").code == 2, "none was kept"
        assert not scratch_processes(folder)
        assert not (folder.path / ".multidb" / "servers" / "scratch-postgres").exists()
    folder.ok("restore", "ann", "--at", moment, "--as", "looking")
