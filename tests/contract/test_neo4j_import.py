"""Neo4j: a graph of another server brought into an app's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import neo4j
import pytest

from multidb.errors import (
    ArchiveError,
    AuthenticationFailed,
    MultidbError,
    Refused,
    ServerDown,
    ServerError,
    UsageError,
)
from multidb.model import Owner, Place, PlaceKind, SourceLocation, StoreContext
from multidb.ports import choose
from multidb.provisioners.neo4j.backup import graph as graph_module
from multidb.provisioners.neo4j.backup.source import DumpSource, GraphSource, source
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts
from multidb.secrets import Secret
from tests.contract.case_neo4j import as_admin, emptied
from tests.contract.neo4j_sets import APP, CONTEXT, GRAPH, SCHEMA, VALUES, opened, quiet, schema
from tests.support.case import RealServer
from tests.support.checkpoints import Marks

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small graph takes several."""
    monkeypatch.setattr(graph_module, "BATCH", 700)
    monkeypatch.setattr(graph_module, "FETCHED", 500)


@pytest.fixture(scope="module")
def elsewhere(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """A server that multidb knows nothing of, with everything in it that Neo4j can hold."""
    real = neo4j_servers[0]
    emptied(real)
    as_admin(real, *SCHEMA, *GRAPH, database="neo4j")
    return real


@pytest.fixture
def here(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """The app's second server, with nothing in it."""
    real = neo4j_servers[1]
    emptied(real)
    return replace(real, server=replace(real.server, app="lernmi", scratch=True))


def location(real: RealServer, password: str | None = None, path: str = "") -> SourceLocation:
    endpoint = real.server.endpoint
    text = f"bolt://neo4j@{endpoint.host}:{endpoint.port}{path}"
    return SourceLocation(text, text, None, Secret(password) if password else real.admin)


def test_everything_comes_along(elsewhere: RealServer, here: RealServer) -> None:
    before = schema(elsewhere)
    with opened(here) as archive, GraphSource(location(elsewhere)) as graph:
        survey = archive.survey(APP, CONTEXT, graph)
        assert survey.obstacles == ()
        assert survey.product.endswith(", database neo4j")
        assert not survey.estimated
        place = archive.prepare(PlaceKind.NEW, APP, CONTEXT)
        archive.bring_in(place, graph, Marks(), quiet)
        measured = archive.measure(place)
        assert measured.counts["nodes"] == 3_000 + len(VALUES) + 4
        assert graph.copied() == measured == graph.measure(APP, CONTEXT)
        assert {name: measured.counts.get(name) for name in survey.counts} == dict(survey.counts)
        as_admin(elsewhere, "MATCH (n:Value {id: 0}) SET n.value = false", database="neo4j")
        try:
            assert graph.measure(APP, CONTEXT) != measured == archive.measure(place)
        finally:
            as_admin(elsewhere, "MATCH (n:Value {id: 0}) SET n.value = true", database="neo4j")
        with pytest.raises(ArchiveError, match="is not empty"):
            archive.bring_in(place, graph, Marks(), quiet)
        assert archive.measure(place) == measured
    assert schema(here) == schema(elsewhere) == before


@pytest.mark.rare
def test_a_run_that_ends_in_the_middle_leaves_nothing_that_counts_and_the_next_begins_anew(
    elsewhere: RealServer, here: RealServer
) -> None:
    def ended(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        if done is not None and done > 1_000:
            raise KeyboardInterrupt

    marks = Marks()
    with opened(here) as archive, GraphSource(location(elsewhere)) as graph:
        place = archive.prepare(PlaceKind.NEW, APP, CONTEXT)
        with pytest.raises(KeyboardInterrupt):
            archive.bring_in(place, graph, marks, ended)
        assert graph.copied() is None
        assert not archive.is_empty(place)
    with opened(here) as archive, GraphSource(location(elsewhere)) as graph:
        archive.bring_in(place, graph, marks, quiet)
        assert archive.measure(place) == graph.copied()
    with opened(here) as archive, GraphSource(location(elsewhere)) as graph:
        archive.bring_in(place, graph, marks, quiet)  # all is done
        assert archive.measure(place) == graph.measure(APP, CONTEXT)


@pytest.mark.rare
def test_an_app_with_a_label_gets_the_nodes_and_not_the_schema(elsewhere: RealServer, here: RealServer) -> None:
    facts = Neo4jFacts("Neo4j", "2026.08.1", labelled=(Owner("digi", "lernmi"),))
    context = StoreContext("digi", facts)
    as_admin(here, "CREATE INDEX multidb_digi_LABELS_lernmi FOR (n:`multidb.mark`) ON (n.none)", database="neo4j")
    as_admin(here, "CREATE (:Other {n: 1})", database="neo4j")
    with GraphSource(location(elsewhere)) as graph, opened(here) as archive:
        survey = graph.survey(APP, context)
        assert any("isolation: label" in loss for loss in survey.losses)
        assert survey.counts["indexes"] == survey.counts["constraints"] == 0
        shared = graph_module.Graph(here.server, archive._bolt, "neo4j", APP.id, shared=True)
        shared.load(graph.lines(facts, shared=True), graph.total(), quiet)
        assert shared.survey(quiet).measures == graph.copied() == graph.measure(APP, context)
        shared.empty()
        assert shared.is_empty()
    assert as_admin(here, "MATCH (n:Other) RETURN labels(n) AS labels", database="neo4j") == [{"labels": ["Other"]}]
    as_admin(here, "DROP INDEX multidb_digi_LABELS_lernmi", database="neo4j")


@pytest.mark.rare
def test_what_a_community_server_cannot_have_is_a_loss_and_what_an_exchange_cannot_is_an_obstacle(
    elsewhere: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    enterprise = replace(CONTEXT, facts=Neo4jFacts("Neo4j", "2026.08.1", multi_database=True, roles=True))
    with GraphSource(location(elsewhere)) as graph:
        assert graph.survey(APP, enterprise).obstacles == ()
        monkeypatch.setattr("multidb.provisioners.neo4j.backup.source.LARGEST_EXCHANGE", 1_000)
        [obstacle] = graph.survey(APP, enterprise).obstacles
        assert "1,000 can" in obstacle
        assert graph.survey(APP, CONTEXT).obstacles == ()  # a whole server takes the place of another
        key = {"constraint": "k", "type": "NODE_KEY", "on": [], "create": "CREATE CONSTRAINT `k` FOR (n:`A`) REQUIRE 1"}
        monkeypatch.setattr(graph, "_graph", Listing([key], graph._graph))
        [loss] = [loss for loss in graph.survey(APP, CONTEXT).losses if "Enterprise" in loss]
        assert "NODE_KEY" in loss


class Listing:
    """A graph with another schema."""

    def __init__(self, lines: list[dict[str, object]], graph: graph_module.Graph) -> None:
        self._lines = lines
        self._graph = graph

    def schema(self) -> Iterator[dict[str, object]]:
        yield from self._lines

    def lines(self) -> Iterator[dict[str, object]]:
        yield from self._lines


def test_a_schema_that_says_more_than_a_schema_is_not_sent(
    elsewhere: RealServer, here: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "CREATE INDEX `x` FOR (n:`A`) ON (n.`b`); MATCH (n) DETACH DELETE n"
    line = {"index": "x", "type": "RANGE", "on": [], "create": text}
    with opened(here) as archive, GraphSource(location(elsewhere)) as graph:
        monkeypatch.setattr(graph, "_graph", Listing([line], graph._graph))
        monkeypatch.setattr(graph, "total", lambda: 1)
        place = archive.prepare(PlaceKind.NEW, APP, CONTEXT)
        with pytest.raises(ArchiveError, match="cannot be written down safely"):
            archive.bring_in(place, graph, Marks(), quiet)


def address(url: str) -> SourceLocation:
    return SourceLocation(url, url)


def test_a_source_that_cannot_be_read_is_an_error_that_says_what_to_do(elsewhere: RealServer) -> None:
    free = choose(())
    nobody = address(f"bolt://127.0.0.1:{free}")
    wrong: list[tuple[SourceLocation, type[MultidbError], str]] = [
        (location(elsewhere, "wrong-password"), AuthenticationFailed, "MULTIDB_IMPORT_NEO4J_PASSWORD"),
        (nobody, ServerDown, "--from-neo4j"),
        (address("http://127.0.0.1/"), UsageError, "bolt://"),
    ]
    for where, kind, hint in wrong:
        with pytest.raises(kind) as caught, GraphSource(where):
            pass
        assert hint in (caught.value.hint or "")
        assert "wrong-password" not in f"{caught.value}{caught.value.hint}"
    with (
        GraphSource(location(elsewhere, path="/none")) as graph,
        pytest.raises(ServerError) as missing,
    ):
        graph.survey(APP, CONTEXT)
    assert str(missing.value).startswith("source bolt://")


def test_a_file_that_is_no_dump_and_a_server_that_cannot_be_stopped_are_refused(
    here: RealServer, tmp_path: Path
) -> None:
    (tmp_path / "text.dump").write_text("hello")
    for name, kind in (("text.dump", ArchiveError), ("none.dump", UsageError)):
        path = tmp_path / name
        with pytest.raises(kind, match=name), source(SourceLocation(str(path), None, path, None)):
            pass
    (tmp_path / "some.dump").write_bytes(b"DZV1" + bytes(100))
    with opened(here) as archive, DumpSource(tmp_path / "some.dump") as dump:
        [obstacle] = archive.survey(APP, CONTEXT, dump).obstacles
        assert "--from-neo4j" in obstacle
        with pytest.raises(Refused, match="cannot stop"):
            archive.bring_in(Place(PlaceKind.NEW, APP, "neo4j"), dump, Marks(), quiet)


def test_why_a_graph_is_not_followed_is_said_with_what_keeps_its_writers_away(
    neo4j_servers: tuple[RealServer, RealServer],
) -> None:
    there, _ = neo4j_servers
    with GraphSource(location(there)) as graph:
        assert graph.edition == "community"
        following = graph.survey(APP, CONTEXT).following
        assert "server.databases.default_to_read_only=true in its neo4j.conf" in following
        assert "ALTER DATABASE" not in following
        graph.edition = "enterprise"
        assert "ALTER DATABASE `neo4j` SET ACCESS READ ONLY" in graph.survey(APP, CONTEXT).following


@pytest.mark.rare
def test_a_server_whose_writers_are_kept_away_so_is_read(neo4j_servers: tuple[RealServer, RealServer]) -> None:
    there, _ = neo4j_servers
    name = "server.directories.configuration"
    with GraphSource(location(there)) as graph:
        nodes = graph.measure(APP, CONTEXT).counts["nodes"]
    (row,) = as_admin(there, f"SHOW SETTINGS '{name}' YIELD value")
    file = Path(str(row["value"])) / "neo4j.conf"
    before = file.read_text()
    assert there.restart is not None
    try:
        file.write_text(f"{before}\nserver.databases.default_to_read_only=true\n")
        there.restart()
        with pytest.raises(neo4j.exceptions.ClientError, match="read-only"):
            as_admin(there, "CREATE (:A)", database="neo4j")
        with GraphSource(location(there)) as graph:
            assert graph.measure(APP, CONTEXT).counts["nodes"] == nodes
    finally:
        file.write_text(before)
        there.restart()
