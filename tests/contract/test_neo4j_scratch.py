"""A scratch Neo4j beside an app's own, and its data in the place of the first one's."""

from __future__ import annotations

from pathlib import Path

import pytest

from multidb.engine import Engine
from multidb.fleet import Fleet, Scope
from multidb.model import App, Project, RuntimeKind, Server, ServerSpec
from multidb.provisioners.neo4j.provision.options import AppOptions, ServerOptions
from multidb.runtime import ServerState
from multidb.state import ProjectState
from tests.contract.case_neo4j import as_admin
from tests.support.case import RealServer

pytestmark = [pytest.mark.server, pytest.mark.slow]


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None: ...


@pytest.mark.rare
def test_a_scratch_server_comes_and_goes_or_takes_the_place(tmp_path: Path) -> None:
    apps = {"lernmi": App("lernmi", "lernmi", {"neo4j": AppOptions()})}
    project = Project(
        "digi", RuntimeKind.EMBEDDED, apps, (ServerSpec("neo4j", "neo4j", ServerOptions()),), root=str(tmp_path)
    )
    engine = Engine(Fleet(project, ProjectState(tmp_path)))
    (status,) = engine.fleet.runtime.up(quiet)
    if status.state is ServerState.SKIPPED:
        pytest.skip(status.message)
    try:
        assert engine.apply().error() is None
        (live,) = engine.fleet.servers(Scope())
        _cypher(engine, live, "CREATE (:Old)")
        before = _known(engine, tmp_path)

        lent = engine.fleet.runtime.scratch(live, quiet, adoptable=True)
        assert lent is not None
        with lent as scratch:
            assert scratch.scratch
            assert _labels(engine, scratch) == []
            assert [each.name for each in engine.fleet.runtime.servers()] == [live.name]
        assert _known(engine, tmp_path) == before
        assert _labels(engine, live) == [["Old"]]

        lent = engine.fleet.runtime.scratch(live, quiet, adoptable=True)
        assert lent is not None
        with lent as scratch:
            _cypher(engine, scratch, "CREATE (:New)")
            engine.fleet.runtime.adopt(live, scratch, quiet)
        assert _known(engine, tmp_path) == before
        assert _labels(engine, live) == [["New"]]
        assert not engine.plan().in_sync, "the app's login was not in the scratch server"
        assert engine.apply().error() is None
    finally:
        engine.fleet.runtime.down(quiet)


def _cypher(engine: Engine, server: Server, text: str) -> list[dict[str, object]]:
    return as_admin(RealServer(server, engine.fleet.runtime.admin(server), None), text, database="neo4j")


def _labels(engine: Engine, server: Server) -> list[object]:
    return [row["labels"] for row in _cypher(engine, server, "MATCH (n) RETURN labels(n) AS labels")]


def _known(engine: Engine, folder: Path) -> list[list[str]]:
    """Everything that a scratch server could leave behind."""
    servers = folder / ".multidb" / "servers"
    files = sorted(path.relative_to(servers).as_posix() for path in servers.glob("*/*"))
    state = engine.state
    refs = sorted(str(ref) for ref in state.secrets.refs())
    return [files, sorted(state.read("ports")), sorted(state.read("processes")), refs]
