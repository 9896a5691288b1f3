"""A graph with every type of value, and sets of it, kept in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from multidb.model import App, Part, PlaceKind, StoreContext
from multidb.provisioners.neo4j.backup.archive import Neo4jArchive
from multidb.provisioners.neo4j.backup.graph_file import FILE
from multidb.provisioners.neo4j.provision.options import AppOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts
from tests.contract.case_neo4j import as_admin, emptied
from tests.support.case import RealServer

APP = App("lernmi", "lernmi", {"neo4j": AppOptions()})


CONTEXT = StoreContext("digi", Neo4jFacts("Neo4j", "2026.08.1", dedicated=True))


VALUES = (
    *(
        "true",
        "false",
        "''",
        "'päß 漢字 🙂 \"quoted\" \\\\ \\u0000'",
        "[]",
        "['', 'a']",
        "[1, 2]",
        "[1.5, -0.0]",
        "[true]",
    ),
    *(
        "9223372036854775807",
        "-9223372036854775808",
        "-0.0",
        "1e308",
        "5e-324",
        "0.1 + 0.2",
        "0.0/0.0",
        "1/0.0",
        "-1/0.0",
    ),
    *(
        "date('0001-01-01')",
        "date('9999-12-31')",
        "localtime('23:59:59.999999999')",
        "time('12:00:00.000000001-18:00')",
    ),
    *(
        "localdatetime('1970-01-01T00:00:00.000000001')",
        "datetime('2026-01-01T00:00Z')",
        "datetime('2026-01-01T00:00+05:30')",
        "datetime('2026-01-01T00:00[UTC]')",
        "[datetime('2026-01-01T00:00Z'), datetime('2026-01-01T00:00[UTC]'), datetime('2026-01-01T00:00[Asia/Tokyo]')]",
        "datetime('1850-06-01T12:00[Europe/Berlin]')",
    ),
    *("datetime('2024-10-27T02:30:00+02:00[Europe/Berlin]')", "datetime('2024-10-27T02:30:00+01:00[Europe/Berlin]')"),
    *(
        "duration('P1Y2M-3DT4.000000005S')",
        "duration({months: -1, days: 400, seconds: -5, nanoseconds: 1})",
        "[date('2026-01-01')]",
    ),
    *(  # what Python's driver cannot hold
        "date('-0044-03-15')",
        "[date('2026-01-01'), date('+12026-01-01')]",
        "localdatetime('-999999999-01-01T00:00')",
        "datetime('+12026-01-01T00:00Z')",
        "datetime('+12026-01-01T00:00[UTC]')",
        "datetime('-0753-04-21T12:00[Europe/Rome]')",
        "datetime('1850-06-01T12:00+00:53:28')",
        "[datetime('1850-06-01T12:00+00:53:28'), datetime('2026-01-01T00:00[Asia/Tokyo]')]",
        "time('12:00:00.000000001-00:53:28')",
        "[time('12:00+00:53:28')]",
    ),
    *("point({x: 1.5, y: -2})", "point({x: 1, y: 2, z: 3})", "point({longitude: 12.9, latitude: 51.2})"),
    *("point({longitude: 12.9, latitude: 51.2, height: -10.5})", "[point({x: 1, y: 2})]", "[duration('P1D')]"),
)


GRAPH = (
    *(f"CREATE (:Value {{id: {n}, value: {value}}})" for n, value in enumerate(VALUES)),
    "CREATE (:`odd ``label`:B:A {`odd ``key`: 1})-[:`odd ``type` {since: date('2026-01-01')}]->()",
    "MATCH (n:A) CREATE (n)-[:SELF]->(n), (n)-[:TWIN {n: 1}]->(:B), (n)-[:LAST]->(:Value {id: -1})",
    "MATCH (n:A)-[:TWIN]->(b) CREATE (n)-[:TWIN {n: 1}]->(b), (b)-[:TWIN {n: 2}]->(n)",
    "MATCH (n:A) CREATE (n)-[:ODD {`o``d``d`: date('-0044-03-15'), b: [time('12:00+00:53:28')], c: 1}]->(n)",
    "UNWIND range(1, 3000) AS id CREATE (:Many {id: id, text: 'x' + id})",
    "MATCH (a:Many), (b:Many {id: 1}) WHERE a.id <= 1500 CREATE (a)-[:TO {w: a.id * 1.0}]->(b)",
)


SCHEMA = (
    "CREATE CONSTRAINT value_id FOR (n:Value) REQUIRE n.id IS UNIQUE",
    "CREATE CONSTRAINT pair FOR (n:Many) REQUIRE (n.id, n.text) IS UNIQUE",
    "CREATE CONSTRAINT weight FOR ()-[r:TO]-() REQUIRE r.w IS UNIQUE",
    "CREATE INDEX composite FOR (n:Many) ON (n.a, n.b)",
    "CREATE INDEX on_relationship FOR ()-[r:TWIN]-() ON (r.n)",
    "CREATE TEXT INDEX text FOR (n:Many) ON (n.text)",
    "CREATE POINT INDEX point FOR (n:Value) ON (n.point) OPTIONS {indexConfig: {`spatial.cartesian.max`: [9.0, 9.0]}}",
    "CREATE FULLTEXT INDEX words FOR (n:Many|B) ON EACH [n.text, n.u]"
    " OPTIONS {indexConfig: {`fulltext.analyzer`: 'german'}}",
    "CREATE VECTOR INDEX vector FOR (n:Many) ON (n.v) OPTIONS {indexConfig: {`vector.dimensions`: 3}}",
)


class Files:
    """A writer and a reader in memory."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        assert name == FILE
        stream = io.BytesIO(self.content)
        yield stream
        self.content = stream.getvalue()

    def names(self) -> Sequence[str]:
        return [FILE]


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None: ...


@contextlib.contextmanager
def with_and_without(servers: tuple[RealServer, RealServer]) -> Iterator[tuple[RealServer, RealServer]]:
    """One with an app's data, one without any, which nobody knows."""
    first, second = servers
    emptied(first)
    emptied(second)
    yield first, replace(second, server=replace(second.server, app="lernmi", scratch=True))
    emptied(first)


def tried(scratch: RealServer, part: Part, content: bytes) -> None:
    """Loads a set into a place of its own, which is then what the set is of."""
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures


@contextlib.contextmanager
def opened(real: RealServer) -> Iterator[Neo4jArchive]:
    with Neo4jArchive(real.server, real.admin, "multidb test") as archive:
        yield archive


def saved(real: RealServer) -> tuple[Part, bytes]:
    files = Files()
    with opened(real) as archive:
        part = archive.backup(APP, CONTEXT, files, quiet)
    return part, files.content


def schema(real: RealServer) -> list[dict[str, object]]:
    wanted = "YIELD name, type, createStatement, options WHERE type <> 'LOOKUP'"
    return [
        *as_admin(real, f"SHOW INDEXES {wanted}", database="neo4j"),
        *as_admin(real, "SHOW CONSTRAINTS YIELD name, createStatement", database="neo4j"),
    ]
