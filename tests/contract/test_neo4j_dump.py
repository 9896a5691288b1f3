"""Dumps of neo4j-admin: a server that is stopped for its backup, and is there again whatever happens."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import neo4j
import psutil
import pytest
import zstandard
from neo4j.exceptions import DriverError, Neo4jError

from multidb.backup.creation import make_sets
from multidb.engine import Engine
from multidb.errors import ArchiveError, Refused
from multidb.fleet import Fleet, Scope
from multidb.model import Measures, Part, unwatched
from multidb.project import load_project
from multidb.provisioners.neo4j.backup.archive import DUMP_FORMAT
from multidb.provisioners.neo4j.backup.graph_file import FORMAT
from multidb.provisioners.neo4j.hosting.jars import NEO4J_VERSION, fetch_neo4j
from multidb.provisioners.neo4j.hosting.program import admin_command, find_java
from multidb.state import ProjectState
from tests.contract.neo4j_sets import GRAPH, SCHEMA, Files
from tests.support.command import REPOSITORY, Folder

pytestmark = [pytest.mark.server, pytest.mark.slow]

MANIFEST = """\
version: 1
project: dumps
runtime: embedded
servers: {neo4j: {backup: dump}}
backup: {to: [sets]}
apps: {ann: {stores: [neo4j]}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="dumps-") as name:
        found = Folder(Path(name), [])
        found.manifest(MANIFEST)
        (status,) = json.loads(found.run("up", "--json").out)["servers"]
        if status["state"] == "skipped":
            pytest.skip(status["message"])
        found.ok("apply", "--yes")
        with as_app(found) as session:
            for text in (*GRAPH, *SCHEMA):
                session.run(text).consume()
        yield found
        found.run("down")


@contextmanager
def as_app(folder: Folder) -> Iterator[neo4j.Session]:
    env = folder.variables("ann")
    with (
        neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=(env["NEO4J_USER"], env["NEO4J_PASSWORD"])) as driver,
        driver.session(database="neo4j") as session,
    ):
        yield session


def nodes(folder: Folder) -> int:
    with as_app(folder) as session:
        return int(session.run("MATCH (n) RETURN count(n) AS count").single(strict=True)["count"])


def content(folder: Folder) -> list[list[str]]:
    """Everything there is, asked for without multidb."""
    texts = (
        "MATCH (n) RETURN labels(n), properties(n)",
        "MATCH (a)-[r]->(b) RETURN properties(a), type(r), properties(r), properties(b)",
        "SHOW INDEXES YIELD name, createStatement",
        "SHOW CONSTRAINTS YIELD name, createStatement",
    )
    with as_app(folder) as session:
        return [sorted(str(row.values()) for row in session.run(text)) for text in texts]


def engine(folder: Folder) -> Engine:
    """Of the folder's project, in this process."""
    return Engine(Fleet(load_project(folder.path / "multidb.yaml"), ProjectState(folder.path)))


def state_of(folder: Folder) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder.path / ".multidb" / "state.json").read_text())
    except json.JSONDecodeError:
        return {}
    return found


def part_of_newest(folder: Folder) -> dict[str, Any]:
    newest = max((folder.path / "sets").rglob("manifest.json"))
    found: dict[str, Any] = json.loads(newest.read_text())["stores"]["neo4j"]
    return found


@pytest.mark.rare
def test_a_dump_is_of_one_moment_also_while_the_app_writes_and_comes_back(folder: Folder) -> None:
    over, written = threading.Event(), 0

    def keep_writing() -> None:
        nonlocal written
        with as_app(folder) as session:
            while not over.is_set():
                try:
                    session.run("CREATE (:Late {n: $n})", n=written).consume()
                except (DriverError, Neo4jError):  # its login is off, its server stopped
                    return
                written += 1

    address = folder.ok("status", "--json").json()["servers"][0]["address"]
    writer = threading.Thread(target=keep_writing)
    writer.start()
    while not written:
        time.sleep(0.01)
    try:
        folder.ok("backup", "ann")
    finally:
        over.set()
        writer.join()

    part = part_of_newest(folder)
    assert (part["format"], part["consistent"]) == (DUMP_FORMAT, True)
    assert part["counts"]["label Late"] == written, "what was acknowledged is in it"
    assert part["fingerprints"].keys() == part["counts"].keys()
    assert folder.ok("status", "--json").json()["servers"][0]["address"] == address
    before = content(folder)
    with as_app(folder) as session:
        session.run("MATCH (n:Many) DETACH DELETE n").consume()
        session.run("CREATE (:Later)").consume()
        session.run("DROP INDEX words").consume()
    folder.ok("restore", "ann", "--replace", "--no-safety-set")
    assert content(folder) == before


def test_a_set_that_is_no_backup_stops_nothing(folder: Folder) -> None:
    """A clone is made of such a one."""
    before = folder.ok("status", "--json").json()["servers"][0]["pid"]
    found = engine(folder)
    (made,) = make_sets(found, Scope(), to=["elsewhere"], remember=False, progress=unwatched)
    assert made.ok
    assert made.made is not None
    assert made.made.parts["neo4j"].part.format == FORMAT
    assert folder.ok("status", "--json").json()["servers"][0]["pid"] == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.rare)]
)
def test_interrupted_the_server_and_the_logins_come_back(folder: Folder, number: signal.Signals, code: int) -> None:
    before = nodes(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", "from multidb.cli import main; main()", "backup", "ann"],
        cwd=folder.path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (state_of(folder).get("offline") and psutil.Process(process.pid).children()):  # neo4j-admin runs
        assert process.poll() is None, "it was over before"
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said

    if number is signal.SIGKILL:
        assert "for its backup" in folder.run("status").out
        done = folder.ok("backup", "ann")
        assert "neo4j-ann: started" in done.err
        assert "its logins are on again" in done.err
    assert nodes(folder) == before
    state = state_of(folder)
    assert not state["offline"]
    assert not any(state["backup-work"].values())


@pytest.mark.rare
def test_what_cannot_be_loaded_or_written_leaves_a_server_that_works(folder: Folder) -> None:
    found = engine(folder)
    (server,) = found.fleet.servers(Scope())
    take_offline = found.fleet.runtime.take_offline(server)
    before = nodes(folder)
    assert take_offline is not None

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise ArchiveError("the target is full")

    whole = io.BytesIO()
    with take_offline(unwatched) as stopped:
        stopped.dump("neo4j", whole)
        with pytest.raises(ArchiveError, match="the target is full"):
            stopped.dump("neo4j", Full())
    assert nodes(folder) == before

    with pytest.raises(ArchiveError, match=r"neo4j-admin load failed: .*[a-z]"), take_offline(unwatched) as stopped:
        stopped.load("neo4j", io.BytesIO(whole.getvalue()[: len(whole.getvalue()) // 2]))
    assert nodes(folder) == 0, "empty, and not half of something"

    tool = folder.path / "neo4j-admin"
    home = folder.path.resolve() / ".multidb" / "servers" / "neo4j-ann"
    command = admin_command(java := find_java() or Path(), fetch_neo4j(unwatched, NEO4J_VERSION), "384m")
    assert java.exists()
    tool.write_text(f'#!/bin/sh\nNEO4J_HOME={home} NEO4J_CONF={home}/conf exec {shlex.join(command)} "$@"\n')
    tool.chmod(0o755)
    page = (REPOSITORY / "docs" / "restore-by-hand.md").read_text()
    (script,) = re.findall(r"```sh neo4j-dump\n(.*?)```", page, re.DOTALL)
    stored = folder.path / "neo4j" / "neo4j.dump.zst"
    stored.parent.mkdir()
    stored.write_bytes(zstandard.compress(whole.getvalue()))
    env = {"SET": str(folder.path), "PATH": f"{folder.path}:{os.environ['PATH']}"}
    with take_offline(unwatched):
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, check=True, capture_output=True)
    assert nodes(folder) == before


def test_a_server_that_must_not_be_stopped_refuses_a_dump(folder: Folder) -> None:
    part = Part(DUMP_FORMAT, "Neo4j 5.0.0", "neo4j-admin 5.0.0", True, Measures())
    found = engine(folder)
    (server,) = found.fleet.servers(Scope())
    with found.fleet.archive(server, may_stop=False) as archive, found.fleet.open(server) as session:
        place = archive.live(found.project.apps["ann"], found.fleet.context(server, session))
        with pytest.raises(Refused, match="cannot stop this server"):
            archive.restore(place, part, Files(), unwatched)


@pytest.mark.rare
@pytest.mark.timeout(1800)
def test_a_dump_that_another_tool_has_made_is_imported(folder: Folder) -> None:
    found = engine(folder)
    (server,) = found.fleet.servers(Scope())
    take_offline = found.fleet.runtime.take_offline(server)
    assert take_offline is not None
    dump = folder.path / "export.dump"
    with take_offline(unwatched) as stopped, dump.open("wb") as stream:
        stopped.dump("neo4j", stream)
    before = content(folder)
    with as_app(folder) as session:
        session.run("MATCH (n:Many) DETACH DELETE n").consume()
        session.run("CREATE (:Later)").consume()
        session.run("DROP INDEX words").consume()

    seen = folder.ok("import", "ann", "--from-neo4j", "export.dump", "--replace", "--json").json()["data"]
    (survey,) = seen["sources"]
    assert (survey["product"], survey["obstacles"]) == ("dump of neo4j-admin", [])
    assert any("known only once it is loaded" in loss for loss in survey["losses"])
    cut = folder.path / "half.dump"
    cut.write_bytes(dump.read_bytes()[: dump.stat().st_size // 2])
    half = folder.run("import", "ann", "--from-neo4j", "half.dump", "--replace", "--no-safety-set", "--yes")
    assert (half.code, "neo4j-admin load failed" in half.err) == (6, True), half.err
    assert content(folder) != before
    folder.ok("import", "ann", "--from-neo4j", "export.dump", "--replace", "--no-safety-set", "--yes")
    assert content(folder) == before
    assert not any(state_of(folder)["backup-work"].values())
