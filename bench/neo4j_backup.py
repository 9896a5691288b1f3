"""Backup and restore of a million nodes and as many relationships (MULTIDB_BENCH_NODES) in Neo4j with the heap that
every server has, against the driver alone: reading the same values, and writing them in batches and reading them back.

Both write into a scratch server, whose start is part of either time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import neo4j

from bench.backup_ground import back_up, peak, restore_beside, somewhere
from bench.ground import Result, apps, open_engine, project, quiet, taking_turns
from multidb.backup.repository import Copy
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.model import Server
from multidb.secrets import Secret

NODES, BATCH = int(os.environ.get("MULTIDB_BENCH_NODES", "1000000")), 5_000
CONSTRAINT: Final = "CREATE CONSTRAINT person_id FOR (p:Person) REQUIRE p.id IS UNIQUE"
WRITING: Final = (
    "UNWIND $rows AS row CREATE (p:Person) SET p = row",
    "UNWIND $rows AS row MATCH (a:Person {id: row.id}), (b:Person {id: (row.id * 7 + 1) % $all}) "
    "CREATE (a)-[r:KNOWS]->(b) SET r = row",
)
READING: Final = (
    "MATCH (n) RETURN elementId(n), labels(n), properties(n)",
    "MATCH (a)-[r]->(b) RETURN elementId(r), type(r), elementId(a), elementId(b), properties(r)",
)


def measure() -> list[Result]:
    with graph() as (engine, live), somewhere() as sets:
        made: list[Copy] = []
        backup = taking_turns(1, lambda: made.append(back_up(engine, sets)), lambda: read(engine, live))
        after_backup = peak()
        restore = taking_turns(1, lambda: restore_beside(engine, made[0]), lambda: write_and_read(engine, live))
    what = f"{NODES} nodes and as many relationships"
    return [
        Result(f"backup of {what}", *backup, "reading them with the driver", "", after_backup),
        Result(
            f"restore of {what} on a scratch server, measured",
            *restore,
            "writing them in batches with the driver on a scratch server, and reading them",
            "",
            peak(),
        ),
    ]


@contextmanager
def graph(servers: str = "{}") -> Iterator[tuple[Engine, Server]]:
    """An app's server with the graph in it."""
    with project(apps("app", 1, "{stores: [neo4j]}"), servers=servers) as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        (live,) = engine.fleet.servers(Scope())
        write(engine, live)
        yield engine, live


@contextmanager
def session(engine: Engine, server: Server) -> Iterator[neo4j.Session]:
    where = server.endpoint
    auth = where.user, (engine.fleet.runtime.admin(server) or Secret("")).reveal()
    driver = neo4j.GraphDatabase.driver(f"bolt://{where.host}:{where.port}", auth=auth)
    with driver, driver.session(database=where.database) as opened:
        yield opened


def write(engine: Engine, server: Server) -> None:
    with session(engine, server) as opened:
        opened.run(CONSTRAINT).consume()
        for text in WRITING:
            for start in range(0, NODES, BATCH):
                rows = [{"id": number, "name": f"person {number}"} for number in range(start, start + BATCH)]
                opened.run(text, rows=rows, all=NODES).consume()


def read(engine: Engine, server: Server) -> None:
    with session(engine, server) as opened:
        for text in READING:
            for _ in opened.run(text):
                pass


def write_and_read(engine: Engine, live: Server) -> None:
    starting = engine.fleet.runtime.scratch(live, quiet, adoptable=False)
    assert starting is not None
    with starting as scratch:
        write(engine, scratch)
        read(engine, scratch)
