"""`add-app` does what it is told: what it shows, asks, writes, and does not write."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from multidb_toy.resources import ServerOptions

from multidb import manifest
from multidb.cli.add_app import add_app
from multidb.errors import Conflict, Refused, ServerDown, StalePlan, UsageError
from multidb.model import Endpoint, Server
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.toy_store import SHELF

MANIFEST = "version: 1\nproject: shop\napps:\n  ann: {stores: [toy]}\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manifest of a project whose server runs."""
    runtime = GivenRuntime(RealServer(Server("toy", "toy", Endpoint("shelf", 1)), None, ServerOptions()))
    monkeypatch.setattr("multidb.fleet.open_runtime", lambda project, state: runtime)
    path = tmp_path / "multidb.yaml"
    path.write_text(f"# {tmp_path}\n{MANIFEST}")  # a text that was read before is not parsed again
    return path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is parsed as YAML, and what is checked as a manifest."""
    readings: list[str] = []
    parse, check = yaml.compose, manifest.load
    monkeypatch.setattr(yaml, "compose", lambda *args, **options: readings.append("parsed") or parse(*args, **options))
    monkeypatch.setattr(
        manifest, "load", lambda *args, **options: readings.append("checked") or check(*args, **options)
    )
    return readings


def test_a_new_app_costs_one_reading_before_the_edit_and_one_after_it(path: Path, readings: list[str]) -> None:
    assert add_app("bob", file=path, stores=["toy"], yes=True) == 0
    assert "bob" in SHELF.boxes
    assert (path.parent / "apps" / "bob" / ".env").exists()
    assert sorted(readings) == ["checked", "checked", "parsed", "parsed"]


def test_an_app_that_is_there_costs_one(path: Path, readings: list[str]) -> None:
    assert add_app("ann", file=path, yes=True) == 0
    assert "ann" in SHELF.boxes
    assert sorted(readings) == ["checked", "parsed"]


def test_an_entry_that_makes_the_manifest_wrong_is_taken_back(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(UsageError):
        add_app("bob", file=path, stores=["toy"], tenant="no tenant", yes=True)
    assert path.read_text() == before


def test_where_there_is_no_manifest_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such manifest"):
        add_app("bob", file=tmp_path / "multidb.yaml")
    assert list(tmp_path.iterdir()) == []


def test_without_a_yes_nothing_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(Refused, match="needs a yes"):
        add_app("bob", file=path, stores=["toy"])
    assert (path.read_text(), SHELF.boxes, list(path.parent.glob("apps/**/*"))) == (before, {}, [])


def test_what_is_shown_is_the_edit_and_the_plan(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_app("bob", file=path, stores=["toy"], yes=True)
    out = capsys.readouterr().out
    assert "\n  +  bob: {stores: [toy]}\n" in out
    assert "  + bob: box" in out


@pytest.mark.parametrize("goes_on", [False, True])
def test_where_nothing_can_be_made_nothing_is_written(
    path: Path, goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_text()
    SHELF.fail_on, SHELF.goes_on = "bob", goes_on
    assert add_app("bob", file=path, stores=["toy"], yes=True) == 4
    assert (path.read_text(), list(path.parent.glob("apps/**/.env"))) == (before, [])
    assert "apply --app bob" not in capsys.readouterr().err, "there is no such app"


def test_a_server_that_is_down_leaves_the_manifest_as_it_was(path: Path) -> None:
    before = path.read_text()
    SHELF.down = True
    with pytest.raises(ServerDown):
        add_app("bob", file=path, stores=["toy"], yes=True)
    assert path.read_text() == before


def test_what_is_in_the_way_is_taken_over_by_the_same_command(path: Path) -> None:
    before = path.read_text()
    add_app("bob", file=path, stores=["toy"], yes=True)
    SHELF.boxes["bob"] = replace(SHELF.boxes["bob"], owner=None)
    path.write_text(before)
    with pytest.raises(Conflict) as refused:
        add_app("bob", file=path, stores=["toy"], yes=True)
    assert refused.value.hint == "take it over: the same again with --adopt; or add it under another name"
    assert path.read_text() == before
    assert add_app("bob", file=path, stores=["toy"], adopt=True, yes=True) == 0
    assert "bob" in path.read_text()


def test_options_change_the_entry_of_an_app_that_is_there(path: Path) -> None:
    add_app("ann", file=path, stores=["postgres,qdrant", "toy"], extensions=["ltree"], no_apply=True)
    add_app("ann", file=path, collections=["docs:3:dot"], stores=["redis"], tenant="ann-1", no_apply=True)
    once = path.read_text()
    assert once.splitlines()[-1] == (
        "  ann: {stores: [toy, postgres, qdrant, redis], postgres: {extensions: [ltree]}, tenant_id: ann-1, "
        "qdrant: {collections: {knowledge: {}, docs: {size: 3, distance: dot}}}}"
    )
    add_app("ann", file=path, extensions=["ltree"], collections=["docs:3"], stores=["redis"], no_apply=True)
    assert path.read_text() == once, "it has all of that"
    add_app("ann", file=path, extensions=["vector"], no_apply=True)
    assert path.read_text() == once.replace("[ltree]", "[ltree, vector]")


@pytest.mark.parametrize(
    "given", ["docs", "docs:", ":3", "docs:\u00b2", "docs:\u0663", "docs:3:", "docs:3:dot:x", "do\ncs:3"]
)
def test_what_is_no_collection_is_refused(path: Path, given: str) -> None:
    with pytest.raises(UsageError, match="is not type:size:distance"):
        add_app("ann", file=path, stores=["qdrant"], collections=[given], no_apply=True)


@pytest.mark.parametrize(
    ("name", "options", "again"),
    [
        ("ann", {"extensions": ["ltree"]}, {"stores": ["postgres"]}),
        ("ann", {"collections": ["docs:3"]}, {"stores": ["qdrant"]}),
        ("ann", {"collections": ["docs:3"], "stores": ["redis"]}, {"stores": ["redis,qdrant"]}),
        ("bob", {"extensions": ["ltree"], "stores": ["toy,redis"]}, {"stores": ["toy,redis,postgres"]}),
    ],
)
def test_an_option_of_a_store_that_the_app_does_not_use_says_how_it_would(
    path: Path, name: str, options: dict[str, list[str]], again: dict[str, list[str]]
) -> None:
    before = path.read_text()
    with pytest.raises(UsageError, match=f"which {name} does not use") as refused:
        add_app(name, file=path, no_apply=True, **options)  # type: ignore[arg-type]
    assert refused.value.hint == f"the same again with --stores {again['stores'][0]}"
    assert path.read_text() == before
    assert add_app(name, file=path, no_apply=True, **{**options, **again}) == 0  # type: ignore[arg-type]


def test_an_option_of_a_store_without_a_server_says_what_comes_first(path: Path) -> None:
    path.write_text(
        f"# {path}\nversion: 1\nproject: shop\nruntime: external\nexternal:\n  redis: {{url: redis://h}}\napps:\n"
    )
    with pytest.raises(UsageError, match="which bob does not use") as refused:
        add_app("bob", file=path, collections=["docs:3"], no_apply=True)
    first, again = (refused.value.hint or "").split("; then the same again with ")
    assert (first, again) == ("say where it is, under external: {qdrant: {url: ...}}", "--stores redis,qdrant")
    path.write_text(path.read_text().replace("\napps:", "\n  qdrant: {url: http://h}\napps:"))
    assert add_app("bob", file=path, collections=["docs:3"], stores=["redis,qdrant"], no_apply=True) == 0


def test_what_is_asked_for_twice_is_asked_for_once_or_refused(path: Path) -> None:
    twice = {"extensions": ["ltree", "ltree"], "collections": ["docs:3", "docs:3"]}
    add_app("bob", file=path, stores=["postgres", "qdrant"], no_apply=True, **twice)  # type: ignore[arg-type]
    assert "extensions: [ltree]\n" in path.read_text()
    with pytest.raises(UsageError, match="collection docs is asked for twice"):
        add_app("ann", file=path, stores=["qdrant"], collections=["docs:3", "docs:3:dot"], no_apply=True)


def test_what_cannot_be_made_is_said_once_before_anybody_is_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_app("ann", file=path, yes=True)
    before = path.read_text()
    capsys.readouterr()
    SHELF.closed["ann"] = ServerDown("lets nobody into its box", where="ann", hint="open it")
    monkeypatch.setattr("multidb.cli.add_app.ask", lambda *args, **options: pytest.fail("it asks"))
    with pytest.raises(ServerDown, match="lets nobody"):
        add_app("ann", file=path, tenant="ann-2")
    assert "lets nobody" not in capsys.readouterr().out
    assert path.read_text() == before


def test_what_another_run_adds_between_the_question_and_the_answer_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(question: str, *, yes: bool) -> bool:
        path.write_text(path.read_text() + "  cat: {stores: [toy]}\n")
        return True

    monkeypatch.setattr("multidb.cli.add_app.ask", ask)
    assert add_app("bob", file=path, stores=["toy"]) == 0
    assert list(yaml.safe_load(path.read_text())["apps"]) == ["ann", "cat", "bob"]


def test_an_app_that_another_run_adds_meanwhile_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(question: str, *, yes: bool) -> bool:
        path.write_text(path.read_text() + "  bob: {stores: [toy], labels: {of: another}}\n")
        return True

    monkeypatch.setattr("multidb.cli.add_app.ask", ask)
    with pytest.raises(StalePlan):
        add_app("bob", file=path, stores=["toy"])
    assert yaml.safe_load(path.read_text())["apps"]["bob"]["labels"] == {"of": "another"}


EXTERNAL = (
    "version: 1\nproject: shop\nruntime: external\n"
    "external:\n  postgres: {url: 'postgresql://admin@127.0.0.1:1/postgres'}\n  redis: {url: 'redis://127.0.0.1:1'}\n"
    "apps: {}\n"
)


def test_an_app_that_names_no_stores_gets_those_that_there_are_servers_of(path: Path) -> None:
    path.write_text(EXTERNAL)
    add_app("bob", file=path, no_apply=True)
    assert yaml.safe_load(path.read_text())["apps"] == {"bob": {"stores": ["postgres", "redis"]}}


def test_what_is_wrong_with_the_options_cites_no_line(path: Path) -> None:
    path.write_text(EXTERNAL)
    with pytest.raises(UsageError) as wrong:
        add_app("bob", file=path, stores=["neo4j"], no_apply=True)
    assert "does not say where neo4j is" in str(wrong.value)
    assert "multidb.yaml:" not in str(wrong.value)
    assert path.read_text() == EXTERNAL
