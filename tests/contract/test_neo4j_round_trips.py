"""Whatever a graph is comes back: the server's own words for every value, before a set and after it was loaded."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import neo4j
import pytest

from multidb.model import PlaceKind
from tests.contract import neo4j_grammar
from tests.contract.case_neo4j import as_admin
from tests.contract.neo4j_sets import APP, CONTEXT, Files, opened, quiet, saved, with_and_without
from tests.support.case import RealServer

pytestmark = pytest.mark.server

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.rare) for seed in range(2, 20))]
_VALUES = "[k IN keys({0}) | [k, valueType({0}[k]), toStringOrNull({0}[k]), [x IN {1} | toStringOrNull(x)]]]"
_LIST = "CASE WHEN valueType({0}[k]) STARTS WITH 'LIST' THEN {0}[k] ELSE [] END"


@pytest.fixture
def servers(neo4j_servers: tuple[RealServer, RealServer]) -> Iterator[tuple[RealServer, RealServer]]:
    with with_and_without(neo4j_servers) as servers:
        yield servers


def fill(real: RealServer, random: Random) -> None:
    assert real.admin is not None
    where = real.server.endpoint
    auth = (where.user, real.admin.reveal())
    with (
        neo4j.GraphDatabase.driver(
            f"bolt://{where.host}:{where.port}", auth=auth, notifications_min_severity="OFF"
        ) as driver,
        driver.session(database="neo4j") as session,
    ):
        for texts in neo4j_grammar.graph(random):
            with session.begin_transaction() as transaction:
                for text in texts:
                    transaction.run(text).consume()
        session.run("CALL db.awaitIndexes(600)").consume()


def inventory(real: RealServer) -> dict[str, list[str]]:
    """All that the server tells of its graph; values as it writes them itself, not as a driver reads them."""
    node, kind = (_VALUES.format(name, _LIST.format(name)) for name in ("n", "r"))
    texts = {
        "nodes": f"MATCH (n) RETURN labels(n) AS labels, {node} AS properties",
        "relationships": f"MATCH (a)-[r]->(b) RETURN a._n AS start, type(r) AS type, b._n AS end, {kind} AS properties",
        "indexes": "SHOW INDEXES YIELD name, state, type, entityType, labelsOrTypes, properties, indexProvider, "
        "owningConstraint, options, createStatement WHERE type <> 'LOOKUP'",
        "constraints": "SHOW CONSTRAINTS YIELD name, type, entityType, labelsOrTypes, properties, ownedIndex, "
        "propertyType, createStatement",
    }
    found = {}
    for name, text in texts.items():
        rows = as_admin(real, text, database="neo4j")
        for row in rows:
            for list_ in ("labels", "properties"):
                row[list_] = sorted(row.get(list_) or [], key=str)  # type: ignore[call-overload]
        found[name] = sorted(repr(row) for row in rows)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_graph_comes_back_as_it_was(servers: tuple[RealServer, RealServer], seed: int) -> None:
    live, scratch = servers
    fill(live, Random(seed))
    before = inventory(live)
    assert all(len(before[name]) > least for name, least in (("nodes", 40), ("relationships", 40), ("indexes", 3)))
    part, content = saved(live)
    assert part.measures.counts["nodes"] == len(before["nodes"])
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures
    assert inventory(scratch) == before
    as_admin(live, "MATCH (n) WHERE n._n < 20 DETACH DELETE n", "CREATE (:Later {at: datetime()})", database="neo4j")
    for row in as_admin(
        live, "SHOW INDEXES YIELD name WHERE name ENDS WITH '4' OR name ENDS WITH '7'", database="neo4j"
    ):
        as_admin(live, f"DROP INDEX {neo4j_grammar.quoted(str(row['name']))} IF EXISTS", database="neo4j")
    as_admin(live, "CREATE INDEX later FOR (n:Later) ON (n.at)", database="neo4j")
    with opened(live) as archive:
        place = archive.live(APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures
    assert inventory(live) == before
