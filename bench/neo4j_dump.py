"""Backup of a million nodes and as many relationships (MULTIDB_BENCH_NODES) by ``servers.neo4j.backup: dump``, and
their restore, against the bare work: reading all values with the driver, ``neo4j-admin database dump`` into a file and
``load`` from it, the server stopped before and started again after each.
"""

from __future__ import annotations

from pathlib import Path

from bench.backup_ground import back_up, peak, restore_beside, somewhere
from bench.ground import Result, quiet, taking_turns
from bench.neo4j_backup import NODES, graph, read
from multidb.backup.repository import Copy
from multidb.engine import Engine
from multidb.model import Server


def measure() -> list[Result]:
    with graph(servers="{neo4j: {backup: dump}}") as (engine, live), somewhere() as sets:
        made: list[Copy] = []
        raw = sets / "raw.dump"
        backup = taking_turns(1, lambda: made.append(back_up(engine, sets)), lambda: dump(engine, live, raw))
        after_backup = peak()
        restore = taking_turns(1, lambda: restore_beside(engine, made[0]), lambda: load(engine, live, raw))
    what = f"{NODES} nodes and as many relationships by neo4j-admin, every value fingerprinted"
    floor = "the server stopped and started again, and reading them with the driver"
    return [
        Result(f"backup of {what}", *backup, f"neo4j-admin database dump, {floor}", "", after_backup),
        Result(f"restore of {what}", *restore, f"a scratch server, neo4j-admin database load, {floor}", "", peak()),
    ]


def dump(engine: Engine, server: Server, file: Path) -> None:
    read(engine, server)
    take_offline = engine.fleet.runtime.take_offline(server)
    assert take_offline is not None
    with take_offline(quiet) as stopped, file.open("wb") as stream:
        stopped.dump("neo4j", stream)


def load(engine: Engine, live: Server, file: Path) -> None:
    starting = engine.fleet.runtime.scratch(live, quiet, adoptable=False)
    assert starting is not None
    with starting as scratch:
        take_offline = engine.fleet.runtime.take_offline(scratch)
        assert take_offline is not None
        with take_offline(quiet) as stopped, file.open("rb") as stream:
            stopped.load("neo4j", stream)
        read(engine, scratch)
