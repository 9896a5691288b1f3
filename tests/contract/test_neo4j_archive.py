"""A graph of everything that Neo4j can hold: out of it, into another server, and the same there."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from multidb.errors import ArchiveError, NeedsServer, WrongVersion
from multidb.model import App, Part, PlaceKind
from multidb.provisioners.neo4j.backup import graph as graph_module
from multidb.provisioners.neo4j.backup.graph import LARGEST_EXCHANGE
from multidb.provisioners.neo4j.backup.graph_file import FILE
from multidb.provisioners.neo4j.provision.options import AppOptions
from tests.contract.case_neo4j import as_admin, emptied
from tests.contract.neo4j_sets import APP, CONTEXT, GRAPH, SCHEMA, VALUES, Files, opened, quiet, saved, schema
from tests.support.case import RealServer

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small graph takes several."""
    monkeypatch.setattr(graph_module, "BATCH", 700)
    monkeypatch.setattr(graph_module, "FETCHED", 500)


@pytest.fixture(scope="module")
def live(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """An app's server with the graph in it."""
    real = neo4j_servers[0]
    emptied(real)
    as_admin(real, *SCHEMA, *GRAPH, database="neo4j")
    return real


@pytest.fixture(scope="module")
def made(live: RealServer) -> tuple[Part, bytes]:
    return saved(live)


@pytest.fixture
def scratch(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """A second server that no app knows."""
    real = neo4j_servers[1]
    emptied(real)
    return replace(real, server=replace(real.server, app="lernmi", scratch=True))


@pytest.fixture
def target(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """A live server of the app with something in it that is not the graph."""
    real = neo4j_servers[1]
    emptied(real)
    texts = ("CREATE CONSTRAINT old FOR (n:Old) REQUIRE n.id IS UNIQUE", "CREATE INDEX composite FOR (n:Old) ON (n.x)")
    as_admin(real, *texts, "CREATE (:Old {id: 1})-[:R]->(:Old {id: 2})", database="neo4j")
    return real


def test_everything_comes_back(live: RealServer, made: tuple[Part, bytes], scratch: RealServer) -> None:
    part, content = made
    assert part.consistent
    assert part.measures.counts["nodes"] == 3_000 + len(VALUES) + 4
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        assert archive.is_empty(place)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures
    assert schema(scratch) == schema(live)
    for text in (
        "MATCH (n:Value) RETURN n.id AS id, valueType(n.value) AS type, toStringOrNull(n.value) AS text, "
        "[x IN CASE WHEN valueType(n.value) STARTS WITH 'LIST' THEN n.value ELSE [] END | toStringOrNull(x)] AS texts "
        "ORDER BY id",
        "MATCH (n:Value)-[r]-(m) RETURN n.id, type(r), startNode(r) = n AS out, size(labels(m)) AS labels",
    ):
        rows = as_admin(live, text, database="neo4j")
        assert rows
        assert as_admin(scratch, text, database="neo4j") == rows


def test_a_change_of_one_value_or_one_end_is_seen(made: tuple[Part, bytes], scratch: RealServer) -> None:
    part, content = made
    small = replace_lines(content, lambda line: b"Many" not in line and b'"TO"' not in line)
    changes = {
        "MATCH (n:A)-[r:LAST]->(v) CREATE (n)-[:LAST]->(:Value {id: 77}) DELETE r": {"type LAST", "label Value"},
        "MATCH (v:Value {id: 0}) SET v.value = false": {"label Value"},
        "MATCH (v:Value {id: -1}) SET v:Extra": {"label Value", "label Extra", "type LAST"},
        "DROP INDEX point": {"indexes"},
    }
    for change, expected in changes.items():
        with opened(scratch) as archive:
            place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
            archive.restore(place, part, Files(small), quiet)
            before = archive.measure(place)
            as_admin(scratch, change, database="neo4j")
            after = archive.measure(place)
        names = {*before.fingerprints, *after.fingerprints}
        assert {name for name in names if before.fingerprints.get(name) != after.fingerprints.get(name)} >= expected


def test_a_file_that_is_not_whole_is_refused(made: tuple[Part, bytes], target: RealServer) -> None:
    """And where it would have taken the place of live data, that is as it was."""
    part, content = made
    small = replace_lines(content, lambda line: b"Many" not in line and b'"TO"' not in line)
    lines = small.splitlines(keepends=True)
    part = replace(part, measures=replace(part.measures, counts={"nodes": len(lines)}))
    wrong = {
        "cut off in a line": small[:-10],
        "cut off between lines": b"".join(lines[:-1]),
        "a line is missing": b"".join([*lines[:2], *lines[3:]]),
        "a byte is changed": small.replace(b'"labels"', b'"labelz"', 1),
        "a line is added": small + lines[-1],
        "an end is missing": small.replace(b'"from":', b'"from":9', 1),
        "another format": small.replace(b"multidb graph", b"multidb grape", 1),
        "empty": b"",
    }
    with opened(target) as archive:
        place = archive.live(APP, CONTEXT)
        before = archive.measure(place)
        for name, damaged in wrong.items():
            with pytest.raises(ArchiveError):
                archive.restore(place, part, Files(damaged), quiet)
            assert archive.measure(place) == before, name


def test_live_data_is_exchanged_in_one_step(made: tuple[Part, bytes], target: RealServer) -> None:
    """With the old constraints and indexes, one of which has the name of a new one."""
    part, content = made
    with opened(target) as archive:
        place = archive.live(APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures
        huge = replace(part, measures=replace(part.measures, counts={"nodes": LARGEST_EXCHANGE}))
        with pytest.raises(ArchiveError, match="one transaction"):
            archive.restore(place, huge, Files(content), quiet)
        assert archive.measure(place) == part.measures
        as_admin(target, "MATCH (n) DETACH DELETE n", "DROP INDEX text", database="neo4j")
        archive.restore(place, part, Files(content), quiet)  # into no data, where most of the schema is
        assert archive.measure(place) == part.measures


def test_data_from_before_a_constraint_comes_back_over_it(target: RealServer) -> None:
    """The server refused it each time, with the app closed until that would be finished. What an index made since
    cannot hold likewise."""
    rows = (
        "DROP CONSTRAINT old",
        "MATCH (n) DETACH DELETE n",
        f"UNWIND [1, 1] AS id CREATE (:Old {{id: id, x: '{'x' * 40_000}'}})",
    )
    as_admin(target, "DROP INDEX composite", *rows, database="neo4j")
    part, content = saved(target)
    later = ("CREATE CONSTRAINT later FOR (n:Old) REQUIRE n.id IS UNIQUE", "CREATE INDEX long FOR (n:Old) ON (n.x)")
    as_admin(target, "MATCH (n) DETACH DELETE n", *later, "CREATE (:Old {id: 1})", database="neo4j")
    with opened(target) as archive:
        place = archive.live(APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures


def test_there_is_no_second_place_on_a_live_server(target: RealServer) -> None:
    with opened(target) as archive:
        for kind in (PlaceKind.SCRATCH, PlaceKind.NEW):
            with pytest.raises(NeedsServer):
                archive.prepare(kind, APP, CONTEXT)
        assert not archive.is_empty(archive.live(APP, CONTEXT))
        assert archive.leftovers(APP, CONTEXT) == ()
        with pytest.raises(ValueError, match="live"):
            archive.discard(archive.live(APP, CONTEXT))


def test_what_does_not_fit_the_server_is_refused_at_once(made: tuple[Part, bytes], scratch: RealServer) -> None:
    part, content = made
    with opened(scratch) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        for other, refusal in (
            (replace(part, server="Neo4j 2099.01.0"), WrongVersion),  # says nothing of the set
            (replace(part, format="multidb graph 2"), ArchiveError),
            (replace(part, details={"constraints": ["NODE_KEY"]}), WrongVersion),
        ):
            with pytest.raises(refusal):
                archive.restore(place, other, Files(content), quiet)
        assert archive.is_empty(place)


def test_writes_during_the_backup_are_told(target: RealServer) -> None:
    def write_once(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        as_admin(target, "MERGE (:Old {id: 3})", database="neo4j")

    with opened(target) as archive:
        assert archive.backup(APP, CONTEXT, Files(), quiet).consistent
        assert not archive.backup(APP, CONTEXT, Files(), write_once).consistent


def test_apps_with_labels_come_and_go_alone(target: RealServer) -> None:
    """Also under another name: the label follows the app."""
    real = replace(target, server=replace(target.server, name="neo4j", app=None))
    texts = [f"CREATE INDEX multidb_digi_LABELS_{app} FOR (n:multidb_digi_LABELS_{app}) ON (n.multidb)" for app in APPS]
    graph = "CREATE (a:lernmi:A {n: 1})-[:R]->(:lernmi), (a)-[:FOREIGN]->(:devao {n: 2})"
    as_admin(real, "MATCH (n) DETACH DELETE n", *texts, graph, database="neo4j")
    other = App("devao", "devao", {"neo4j": AppOptions()})
    files = Files()
    with opened(real) as archive:
        part = archive.backup(APP, CONTEXT, files, quiet)
        assert part.measures.counts["relationships"] == 1
        theirs = archive.measure(archive.live(other, CONTEXT))
        as_admin(real, "MATCH (n:lernmi) SET n.n = 7", database="neo4j")
        archive.restore(archive.live(APP, CONTEXT), part, files, quiet)
        assert archive.measure(archive.live(APP, CONTEXT)) == part.measures
        assert archive.measure(archive.live(other, CONTEXT)) == theirs
        archive.restore(archive.live(other, CONTEXT), part, files, quiet)
        assert archive.measure(archive.live(other, CONTEXT)) == part.measures


APPS = ("lernmi", "devao")


def test_a_scratch_server_that_is_kept_is_emptied(made: tuple[Part, bytes], scratch: RealServer) -> None:
    part, content = made
    kept = replace(scratch, server=replace(scratch.server, scratch=True, kept=True))
    with opened(kept) as archive:
        place = archive.prepare(PlaceKind.SCRATCH, APP, CONTEXT)
        archive.restore(place, part, Files(content), quiet)
        assert not archive.is_empty(place)
        archive.discard(place)
        assert archive.is_empty(place)
        assert archive.measure(place).counts["indexes"] == 0


def test_the_page_on_restoring_by_hand_is_right(made: tuple[Part, bytes], scratch: RealServer, tmp_path: Path) -> None:
    part, content = made
    page = (Path(__file__).parents[2] / "docs/restore-by-hand.md").read_text()
    (script,) = re.findall(r"```sh neo4j\n(.*?)```", page, re.DOTALL)
    stored = tmp_path / "neo4j" / f"{FILE}.zst"
    stored.parent.mkdir()
    stored.write_bytes(zstandard.compress(content))
    assert scratch.admin is not None
    where = scratch.server.endpoint
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SET": str(tmp_path),
        "WORK": str(tmp_path),
        "NEO4J_URI": f"bolt://{where.host}:{where.port}",
        "NEO4J_USERNAME": where.user,
        "NEO4J_PASSWORD": scratch.admin.reveal(),
        "NEO4J_DATABASE": "neo4j",
    }
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with opened(scratch) as archive:
        assert archive.measure(archive.live(APP, CONTEXT)) == part.measures


def replace_lines(content: bytes, keep: Callable[[bytes], bool]) -> bytes:
    """The file with fewer lines, and a last line that fits."""
    lines = [line for line in content.splitlines() if keep(line)]
    ends = {"nodes": b'{"node"', "relationships": b'{"rel', "constraints": b'{"con', "indexes": b'{"index"'}
    end = {"end": {name: sum(line.startswith(start) for line in lines) for name, start in ends.items()}}
    return b"".join(line + b"\n" for line in [*lines[:-1], json.dumps(end).encode()])


_RESTORE = """
import os, pickle, signal, sys
from multidb.model import PlaceKind
from multidb.secrets import Secret
from tests.contract.test_neo4j_archive import APP, CONTEXT, Files, quiet
from multidb.provisioners.neo4j.backup import graph
graph.BATCH, batches, write = 50, iter(range(1, 9)), graph._Loader._flush
def stop_after_the_third(loader):
    write(loader)
    if next(batches) == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
graph._Loader._flush = stop_after_the_third
from multidb.provisioners.neo4j.backup.archive import Neo4jArchive
server, part, content = pickle.load(open(sys.argv[1], "rb"))
print("ready", flush=True)
with Neo4jArchive(server, Secret(sys.stdin.readline().strip()), "killed") as archive:
    archive.restore(archive.prepare(PlaceKind.NEW, APP, CONTEXT), part, Files(content), quiet)
"""


def test_a_restore_that_was_killed_is_begun_anew(made: tuple[Part, bytes], scratch: RealServer, tmp_path: Path) -> None:
    part, content = made
    given = tmp_path / "given"
    given.write_bytes(pickle.dumps((scratch.server, part, content)))
    emptied(scratch)
    process = subprocess.Popen(
        [sys.executable, "-c", _RESTORE, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert scratch.admin is not None
    process.stdin.write(scratch.admin.reveal() + "\n")
    process.stdin.flush()
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "some of it is written, and not all"
    process.kill()
    process.wait()
    assert as_admin(scratch, "MATCH (n) RETURN n LIMIT 1", database="neo4j")
    with opened(scratch) as archive:
        assert archive.measure(archive.live(APP, CONTEXT)) != part.measures
        place = archive.prepare(PlaceKind.NEW, APP, CONTEXT)
        assert archive.is_empty(place)
        archive.restore(place, part, Files(content), quiet)
        assert archive.measure(place) == part.measures
