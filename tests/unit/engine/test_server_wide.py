"""Changes of a server as a whole, by which others on it may lose something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from multidb_toy.resources import Box, ServerOptions

from multidb.cli import server_wide
from multidb.cli.output import Output
from multidb.engine import Engine
from multidb.fleet import Fleet, Scope
from multidb.model import App, Project, Resource, RuntimeKind, ServerSpec, StoreContext
from multidb.project import load_project
from multidb.provisioners import INCLUDED, provisioner
from multidb.provisioners.postgres.provision.resources import PostgresFacts, ServerDatabaseFacts
from multidb.state import ProjectState
from tests.support.facts import FACTS
from tests.support.given_runtime import OneServerEach
from tests.support.toy_store import SHELF

MANIFEST = """\
version: 1
project: shop
runtime: embedded
apps:
  ann: {stores: [toy]}
  bob: {stores: [toy]}
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    """By runtime, the engine of a project whose two servers would each be closed by its one change."""
    monkeypatch.setattr(Box, "closing", "nobody else may look in")
    (tmp_path / "multidb.yaml").write_text(MANIFEST)
    project = load_project(tmp_path / "multidb.yaml")
    return {
        runtime: _engine(replace(project, runtime=RuntimeKind(runtime)), tmp_path)
        for runtime in ("embedded", "external")
    }


def _engine(project: Project, folder: Path) -> Engine:
    return Engine(Fleet(project, ProjectState(folder), runtime=OneServerEach(project)))


@pytest.mark.parametrize(("runtime", "made"), [("embedded", {"ann", "bob"}), ("external", set())])
def test_unasked_only_the_projects_own_servers_are_closed(
    engines: dict[str, Engine], runtime: str, made: set[str]
) -> None:
    assert engines[runtime].apply().error() is None
    assert set(SHELF.boxes) == made


def test_what_was_agreed_to_is_closed_and_what_was_not_stays_open(engines: dict[str, Engine]) -> None:
    engine, scope = engines["external"], Scope(left_open=frozenset({"toy-ann"}))
    assert engine.apply(scope, engine.plan(scope)).error() is None
    assert set(SHELF.boxes) == {"bob"}
    engine.apply(Scope(), engine.plan())
    assert set(SHELF.boxes) == {"ann", "bob"}


def test_each_server_is_asked_for_alone(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(question: str, *, yes: bool) -> bool:
        asked.append(question)
        return "toy-bob" in question

    monkeypatch.setattr(server_wide, "ask", answer)
    engine = engines["external"]
    assert server_wide.refused_to_close(Output("apply"), engine, engine.plan(), yes=False) == {"toy-ann"}
    assert len(asked) == 2
    assert "toy-ann: box ann: nobody else may look in\n" in capsys.readouterr().err
    own = engines["embedded"]
    assert server_wide.refused_to_close(Output("apply"), own, own.plan(), yes=False) == frozenset()
    assert len(asked) == 2


@pytest.mark.parametrize(("known", "spared", "kept"), [(True, True, True), (True, False, False), (False, True, False)])
def test_known_accounts_are_told_of_where_they_are_spared(
    engines: dict[str, Engine],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known: bool,
    spared: bool,
    kept: bool,
) -> None:
    monkeypatch.setattr(Box, "leaves_known", spared)
    engine = engines["external"]
    spec = ServerSpec("toy", "toy", ServerOptions(), known=frozenset({"eve"} if known else ()))
    engine.fleet.project = replace(engine.project, servers=(spec,))
    server_wide.show_closings(Output("plan"), engine, engine.plan())
    assert ("eve (known) keep what they have" in capsys.readouterr().err) is kept


# What takes nothing from anybody, although it is no app's: made beside what others have, or written down.
HARMLESS = {"token registry", "note of unsaved rules", "saved rules"}


def server_wide_resources(store: str) -> list[Resource]:
    facts = FACTS[store]
    if isinstance(facts, PostgresFacts):
        facts = replace(facts, server_databases=(ServerDatabaseFacts("postgres", "root", open=True, closable=True),))
    found = provisioner(store)
    app = App("ann", "ann", {store: found.app_options()})
    wanted = found.desired([app], StoreContext("shop", facts, found.server_options(), {"ann": 3}))
    return [each for each in wanted if each.app is None]


@pytest.mark.parametrize("store", sorted(INCLUDED))
def test_what_is_no_apps_says_what_others_lose_by_it_or_is_known_to_take_nothing(store: str) -> None:
    closings = {each.kind for each in server_wide_resources(store) if each.closing}
    assert {each.kind for each in server_wide_resources(store)} - closings <= HARMLESS
    expected = {"postgres": {"server database"}, "redis": {"default user"}, "neo4j": {"public rights"}, "qdrant": set()}
    assert closings == expected[store]
