"""Backup of a million nodes and relationships (MULTIDB_BENCH_NODES) in Neo4j, against reading them and no more."""

from __future__ import annotations

import os

import neo4j

from bench.backup_ground import back_up, peak, restore_beside, somewhere
from bench.ground import Result, admin, apps, open_engine, project, taking_turns

NODES, BATCH, RUNS = int(os.environ.get("MULTIDB_BENCH_NODES", "1000000")), 10_000, 1


def measure() -> list[Result]:
    with project(apps("app", 1, "{stores: [neo4j]}"), servers="{neo4j: {heap: 1g}}") as folder, somewhere() as sets:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "neo4j")
        driver = neo4j.GraphDatabase.driver(f"bolt://{host}:{port}", auth=(user, password))
        with driver, driver.session() as session:
            session.run("CREATE CONSTRAINT person_id FOR (p:Person) REQUIRE p.id IS UNIQUE").consume()
            for start in range(0, NODES, BATCH):
                rows = list(range(start, start + BATCH))
                session.run("UNWIND $rows AS id CREATE (:Person {id: id, name: 'person ' + id})", rows=rows).consume()
            for start in range(0, NODES, BATCH):
                session.run(
                    "UNWIND $rows AS id MATCH (a:Person {id: id}), (b:Person {id: (id * 7 + 1) % $all}) "
                    "CREATE (a)-[:KNOWS {since: id}]->(b)",
                    rows=list(range(start, start + BATCH)),
                    all=NODES,
                ).consume()

            def floor() -> None:
                for query in ("MATCH (n) RETURN n", "MATCH ()-[r]->() RETURN r"):
                    for _ in session.run(query):
                        pass

            ours, bare = taking_turns(RUNS, lambda: back_up(engine, sets), floor)
            copy = back_up(engine, sets)
            back, again = taking_turns(RUNS, lambda: restore_beside(engine, copy), floor)
    what = f"{NODES} nodes and as many relationships"
    return [
        Result(f"backup of {what}", ours, bare, "reading them with the driver", "", peak()),
        Result(
            f"restore of {what} on a spare server, measured", back, again, "reading them with the driver", "", peak()
        ),
    ]
