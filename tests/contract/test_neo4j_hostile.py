"""An app that means harm, on a real Community server: what it names its things, and what Cypher multidb makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import neo4j
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multidb.errors import ArchiveError
from multidb.fleet import Scope
from multidb.model import PlaceKind
from multidb.provisioners.neo4j.provision.cypher import quoted, requoted
from multidb.secrets import MemorySecretStore
from tests.contract.case_neo4j import as_admin, emptied
from tests.contract.neo4j_project import applied, engine_of, holes
from tests.contract.neo4j_sets import APP, CONTEXT, Files, opened, quiet, saved, schema
from tests.support.case import RealServer
from tests.support.examples import some_of

pytestmark = pytest.mark.server

TRAPS = (
    "x\\u0060) SET n.trapped = true WITH n MATCH (m:Sentinel) DETACH DELETE m //",
    "x\\u0060]->(b) WITH a MATCH (m:Sentinel) DETACH DELETE m //",
    "x\\u0060 FOR (n:Trapped) ON (n.p) //",
    "x\\u0060 IF EXISTS //",
    "x`) MATCH (m:Sentinel) DETACH DELETE m //",
    "a\\",
    "\\`",
    "`",
    "\\u005cu0060",
    "\\uuuu0060",
    "\\uZZZZ",
    "a\nb\r\u2028\u202e\t ",
    "$password",
    "/* ' \" */ //",
    "päß 漢字 🙂",
)
USERS = ("x\\u0060//", "x`;//", "\\u0060", "old\\", "`", "$password")  # a user's name has no spaces


@pytest.fixture
def live(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    emptied(neo4j_servers[0])
    return neo4j_servers[0]


@pytest.fixture
def scratch(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    emptied(neo4j_servers[1])
    return replace(neo4j_servers[1], server=replace(neo4j_servers[1].server, app="lernmi", scratch=True))


def run(real: RealServer, text: str, **values: Any) -> list[neo4j.Record]:
    """With values as parameters, as an app's own driver sends them."""
    assert real.admin is not None
    uri = f"bolt://{real.server.endpoint.host}:{real.server.endpoint.port}"
    with neo4j.GraphDatabase.driver(uri, auth=("neo4j", real.admin.reveal())) as driver:
        return driver.execute_query(text, values, database_="neo4j").records


def test_every_name_means_itself(live: RealServer) -> None:
    """The server is the judge: what it takes a quoted name for is the name, as it takes it from a parameter."""
    names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
    pieces = st.lists(
        st.sampled_from(["\\", "u0060", "`", "//", "\\u", "0060", "a", ")", "\n"]), min_size=1, max_size=6
    )
    assert live.admin is not None
    uri = f"bolt://{live.server.endpoint.host}:{live.server.endpoint.port}"
    with neo4j.GraphDatabase.driver(uri, auth=("neo4j", live.admin.reveal())) as driver:

        @settings(max_examples=some_of(40), suppress_health_check=list(HealthCheck))
        @given(st.lists(names | pieces.map("".join), min_size=1, max_size=15))
        def means_itself(found: list[str]) -> None:
            text = ", ".join(f"{{{quoted(name)}: 1}}" for name in found)
            rows = driver.execute_query(f"RETURN [each IN [{text}] | keys(each)[0]] AS names").records
            assert rows[0]["names"] == found

        means_itself()
        for name in TRAPS:
            (row,) = driver.execute_query(
                f"CREATE (n:{quoted(name)} {{{quoted(name)}: 1}})-[r:{quoted(name)}]->() "
                "RETURN labels(n), keys(n), type(r)"
            ).records
            assert list(row) == [[name], [name], name]


def trapped(real: RealServer) -> None:
    """What an app makes with its own login, each name a trap."""
    run(real, "CREATE (:Sentinel {id: 1})")
    for number, name in enumerate(TRAPS):
        run(
            real, "CREATE (n:$($name))-[r:$($name)]->(m:$($name)) SET n += $properties", name=name, properties={name: 1}
        )
        run(real, f"CREATE INDEX {quoted(name)} FOR (n:{quoted(name)}) ON (n.{quoted(name)})")
        run(
            real,
            f"CREATE CONSTRAINT {quoted(f'{number}{name}')} FOR (n:{quoted(name)}) REQUIRE n.{quoted(f'u{name}')} "
            "IS UNIQUE",
        )
        run(
            real, f"CREATE FULLTEXT INDEX {quoted(f'f{name}')} FOR (n:{quoted(name)}|B) ON EACH [n.{quoted(name)}, n.b]"
        )


def graph(real: RealServer) -> list[Any]:
    texts = (
        "MATCH (n) RETURN labels(n) AS labels, properties(n) AS properties ORDER BY labels, keys(n)",
        "MATCH ()-[r]->() RETURN type(r) AS type ORDER BY type",
    )
    return [as_admin(real, text, database="neo4j") for text in texts]


def test_a_set_of_traps_is_proved_and_comes_back(live: RealServer, scratch: RealServer) -> None:
    trapped(live)
    part, content = saved(live)
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures
    assert graph(scratch) == graph(live)
    assert schema(scratch) == schema(live)
    with opened(scratch) as archive:
        archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)  # takes the traps away again
    assert graph(scratch) == [[], []]
    assert schema(scratch) == []


@pytest.mark.parametrize(
    "create",
    [
        "MATCH (m:Sentinel) DETACH DELETE m",
        f"CREATE INDEX `{TRAPS[2]}` FOR (n:A) ON (n.p)",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`) OPTIONS {indexConfig: {`a`: $password}}",
    ],
)
def test_a_set_that_would_do_something_else_is_refused(live: RealServer, scratch: RealServer, create: str) -> None:
    run(live, "CREATE INDEX i FOR (n:A) ON (n.a)")
    part, content = saved(live)
    lines = [json.loads(line) for line in content.splitlines()]
    for line in lines:
        line.update({"create": create} if "create" in line else {})
    run(scratch, "CREATE (:Sentinel)")
    bad = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with opened(scratch) as archive, pytest.raises(ArchiveError, match="neither a constraint nor an index"):
        archive.restore(archive.live(APP, CONTEXT), part, Files(bad), quiet)
    assert schema(scratch) == []


def test_the_servers_own_texts_are_ours_once_quoted_anew(live: RealServer) -> None:
    trapped(live)
    rows = as_admin(live, "SHOW INDEXES YIELD name, type, createStatement WHERE type <> 'LOOKUP'", database="neo4j")
    constraints = as_admin(live, "SHOW CONSTRAINTS YIELD name, createStatement", database="neo4j")
    before = schema(live)
    names = {row["name"] for row in constraints}
    for row in [*constraints, *(row for row in rows if row["name"] not in names)]:
        kind = "CONSTRAINT" if row["name"] in names else "INDEX"
        as_admin(live, f"DROP {kind} {quoted(str(row['name']))}", database="neo4j")
        as_admin(live, requoted(str(row["createStatement"])), database="neo4j")
    assert schema(live) == before


def test_strangers_and_removals_are_statements_that_work(live: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(live, tmp_path, "lernmi"))
    trapped(live)
    for name in USERS:
        as_admin(live, f"CREATE USER {quoted(name)} SET PASSWORD 'made-by-the-app' CHANGE NOT REQUIRED")
    found = [hole for hole in holes(engine) if hole.name == "another administrator"]
    assert len(found) == len(USERS)
    assert all(line.isprintable() for hole in found for line in hole.closes)
    for hole in found:
        as_admin(live, *hole.closes)
    assert [hole for hole in holes(engine) if hole.name == "another administrator"] == []
    (server,) = engine.fleet.servers(Scope())
    with engine.fleet.open(server) as session:
        statements = session.removal(engine.project.apps["lernmi"], engine.fleet.context(server, session))
        assert all(statement.text.isprintable() for statement in statements)
        assert list(session.run(statements, MemorySecretStore()))
    assert graph(live) == [[], []]
    assert schema(live) == []
