"""A scan of a server with databases that nobody wrote down, to bare connections to each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from bench.ground import Result, admin, connect_to_each, open_engine, project, taking_turns
from multidb import manifest
from multidb.model import AppMode, Project
from multidb.project import load_project
from multidb.scan import scan

COUNTS, RUNS, THREADS = (100, 500), 3, 4


def measure() -> Iterator[Result]:
    with project("  own: {stores: [postgres]}\n") as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "postgres")
        made = 0
        for count in COUNTS:
            with psycopg.connect(
                host=host, port=port, user=user, password=password, dbname="postgres", autocommit=True
            ) as server:
                for number in range(made, count):
                    server.execute(f"CREATE DATABASE there{number:04} STRATEGY file_copy")
            made = count
            yield _scanned(folder, count)


def _scanned(folder: Path, count: int) -> Result:
    path = folder / "multidb.yaml"
    text = path.read_text()

    def load(entries: Mapping[str, Mapping[str, Any]]) -> Project:
        return load_project(path, None, {path: manifest.add_apps(text, entries)})

    engine = open_engine(folder)

    def floor() -> None:
        connect_to_each(engine, [f"there{number:04}" for number in range(count)], THREADS)

    def ours() -> None:
        assert len(scan(open_engine(folder).fleet, AppMode.OBSERVE, load).entries) == count

    mine, bare = taking_turns(RUNS, ours, floor)
    what = f"a bare client: one connection and SELECT 1 per database, {THREADS} threads"
    return Result(f"scan of a server with {count} databases, and the manifest of it checked", mine, bare, what, "none")
