"""Neo4j: what of a graph's schema and settings is not written as all of it is, in sets and imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from multidb.errors import ArchiveError
from multidb.model import PlaceKind, SourceLocation
from multidb.provisioners.neo4j.backup.source import GraphSource
from tests.contract.case_neo4j import as_admin
from tests.contract.neo4j_sets import APP, CONTEXT, Files, opened, quiet, saved, tried, with_and_without
from tests.support.case import RealServer
from tests.support.checkpoints import Marks

pytestmark = pytest.mark.server

DATA = ("CREATE (:Doc {id: 1, e: [0.1, 0.2], a: 1}), (:Doc {id: 2, e: [0.3, 0.2], text: 't'})",)
INDEXES = (
    "CYPHER 25 CREATE VECTOR INDEX `tick``s` FOR (n:Doc) ON n.e WITH [n.a, n.`od``d`]"
    " OPTIONS {indexConfig: {`vector.dimensions`: 2}}",
    "CYPHER 25 CREATE VECTOR INDEX several FOR (n:Doc|Other) ON n.e OPTIONS {indexConfig: {`vector.dimensions`: 2}}",
    "CREATE INDEX plain FOR (n:Doc) ON (n.id)",
)
TOO_LONG = ("CREATE (:Long {text: reduce(all = '', n IN range(1, 5000) | all + '0123456789')})",)
FAILING = ("CREATE INDEX long FOR (n:Long) ON (n.text)", "CREATE TEXT INDEX longer FOR (n:Long) ON (n.text)")
SHOWN = "SHOW INDEXES YIELD name, state, type, labelsOrTypes, properties, createStatement WHERE type <> 'LOOKUP'"
SPEAK = "ALTER DATABASE neo4j SET DEFAULT LANGUAGE CYPHER"


@pytest.fixture
def servers(neo4j_servers: tuple[RealServer, RealServer]) -> Iterator[tuple[RealServer, RealServer]]:
    with with_and_without(neo4j_servers) as servers:
        yield servers
        for real in servers:
            as_admin(real, f"{SPEAK} 5")


def shown(real: RealServer) -> list[str]:
    waited(real)
    return sorted(repr(row) for row in as_admin(real, f"CYPHER 25 {SHOWN}", database="neo4j"))


def failing(real: RealServer) -> set[str]:
    text = "SHOW INDEXES YIELD name, state WHERE state = 'FAILED' RETURN name"
    return {str(row["name"]) for row in as_admin(real, text, database="neo4j")}


def language(real: RealServer) -> str:
    [row] = as_admin(real, "SHOW DATABASES YIELD name, defaultLanguage WHERE name = 'neo4j' RETURN defaultLanguage")
    return str(row["defaultLanguage"])


def waited(real: RealServer) -> None:
    """Until no index is being built any more."""
    text = "SHOW INDEXES YIELD state WHERE state = 'POPULATING' RETURN state"
    while as_admin(real, text, database="neo4j"):
        pass


@pytest.mark.parametrize("spoken", ["25", pytest.param("5", marks=pytest.mark.rare)])
def test_an_index_that_only_cypher_25_can_write_comes_back(servers: tuple[RealServer, RealServer], spoken: str) -> None:
    live, scratch = servers
    as_admin(live, f"{SPEAK} {spoken}")
    as_admin(live, *DATA, *INDEXES, database="neo4j")
    before = shown(live)
    part, content = saved(live)
    tried(scratch, part, content)
    assert shown(scratch) == before
    assert language(scratch) == f"CYPHER {spoken}"
    as_admin(live, "DROP INDEX several", database="neo4j")
    as_admin(live, f"{SPEAK} 5")
    with opened(live) as archive:
        archive.restore(archive.live(APP, CONTEXT), part, Files(content), quiet)
    assert shown(live) == before
    assert language(live) == f"CYPHER {spoken}"


@pytest.mark.rare
def test_an_import_brings_the_indexes_and_the_language(servers: tuple[RealServer, RealServer]) -> None:
    live, scratch = servers
    as_admin(live, f"{SPEAK} 25")
    as_admin(live, *DATA, *INDEXES, database="neo4j")
    before, where = shown(live), live.server.endpoint
    text = f"bolt://neo4j@{where.host}:{where.port}"
    with opened(scratch) as archive, GraphSource(SourceLocation(text, text, None, live.admin)) as source:
        place = archive.prepare(PlaceKind.NEW, APP, CONTEXT)
        archive.bring_in(place, source, Marks(), quiet)
    assert shown(scratch) == before
    assert language(scratch) == "CYPHER 25"


def test_an_index_that_has_failed_comes_back_as_it_was(servers: tuple[RealServer, RealServer]) -> None:
    live, scratch = servers
    as_admin(live, *DATA, *TOO_LONG, *INDEXES, *FAILING, database="neo4j")
    waited(live)
    assert failing(live) == {"long", "longer"}
    before = shown(live)
    part, content = saved(live)
    tried(scratch, part, content)
    assert shown(scratch) == before

    as_admin(live, "MATCH (n:Long) DETACH DELETE n", database="neo4j")
    healthy, its_content = saved(live)  # failed still, though nothing is in its way any more
    with opened(live) as archive:
        archive.restore(archive.live(APP, CONTEXT), healthy, Files(its_content), quiet)
    assert not failing(live)


@pytest.mark.rare
def test_an_index_that_fails_only_here_is_an_error(servers: tuple[RealServer, RealServer]) -> None:
    live, scratch = servers
    as_admin(live, *DATA, *TOO_LONG, *FAILING, database="neo4j")
    waited(live)
    part, content = saved(live)
    content = content.replace(b',"state":"FAILED"', b"")
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        with pytest.raises(ArchiveError, match=r"index longe?r? cannot be built: .*too large"):
            archive.restore(place, part, Files(content), quiet)


@pytest.mark.rare
def test_a_language_that_is_none_is_refused(servers: tuple[RealServer, RealServer]) -> None:
    live, scratch = servers
    as_admin(live, *DATA, database="neo4j")
    part, content = saved(live)
    assert part.details["language"] == "CYPHER 5"
    hostile = replace(part, details={**part.details, "language": "CYPHER 5 //"})
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        with pytest.raises(ArchiveError, match="is no language of queries"):
            archive.restore(place, hostile, Files(content), quiet)
