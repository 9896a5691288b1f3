"""A plan with nothing to do: 10, 100 and 1,000 apps inside each database, the last also by shared catalogs."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bench.ground import Result, admin, apps, connect_to_each, open_engine, project, taking_turns, write_manifest
from multidb.fleet import Scope

COUNTS, RUNS, THREADS = (10, 100, 1000), 3, 4
ENTRY = "{stores: [postgres]}"


def measure() -> Iterator[Result]:
    with project(apps("app", COUNTS[0], ENTRY)) as folder:
        for count in COUNTS:
            write_manifest(folder, apps("app", count, ENTRY))
            error = open_engine(folder).apply().error()
            assert error is None, error
            yield _deep(folder, count)
        yield _shallow(folder, COUNTS[-1])
        yield _memory(folder, COUNTS[-1])


def _deep(folder: Path, count: int) -> Result:
    engine = open_engine(folder)

    def floor() -> None:
        connect_to_each(engine, [f"app{number:04}" for number in range(count)], THREADS)

    def ours() -> None:
        assert open_engine(folder).plan().in_sync

    mine, bare = taking_turns(RUNS, ours, floor)
    what = f"a bare client: one connection and SELECT 1 per database, {THREADS} threads"
    return Result(f"plan with nothing to do, {count} apps, inside every database", mine, bare, what, "at most 1.5")


def _shallow(folder: Path, count: int) -> Result:
    engine = open_engine(folder)
    host, port, user, password = admin(engine, "postgres")

    def floor() -> None:
        with psycopg.connect(host=host, port=port, user=user, password=password, dbname="postgres") as connection:
            for catalog in ("pg_database", "pg_roles", "pg_auth_members", "pg_db_role_setting", "pg_shdescription"):
                connection.execute(f"SELECT * FROM {catalog}").fetchall()

    def ours() -> None:
        assert engine.plan(Scope(deep=False)).in_sync

    mine, bare = taking_turns(RUNS, ours, floor)
    seconds = "under 1 s" if mine < 1 else f"NOT under 1 s: {mine:.1f} s"
    return Result(
        f"plan with nothing to do, {count} apps, shared catalogs",
        mine,
        bare,
        "SELECT * of the five catalogs",
        "under 1 s",
        seconds,
    )


def _memory(folder: Path, count: int) -> Result:
    code = "from multidb.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, "plan", "--check"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    ours = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    note = f"{ours:.0f} MB"
    return Result(f"peak memory of `plan`, {count} apps (MB against 200 MB)", ours, 200, "200 MB", "under 1", note)
