"""Why a change is necessary: the manifest, or somebody else, since the server was last as it was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from multidb_toy.resources import Box

from multidb.baseline import Baseline
from multidb.engine import Engine
from multidb.fleet import Fleet, Scope
from multidb.model import Action, Cause
from multidb.model import Change as PlannedChange
from multidb.plan import saved_plan
from multidb.project import load_project
from multidb.state import ProjectState
from tests.support.command import REPOSITORY
from tests.support.toy_store import SHELF

Change = Callable[[Engine], Engine]


def with_manifest(given: Engine, old: str, new: str) -> Engine:
    path = Path(given.project.root) / "multidb.yaml"
    path.write_text(path.read_text().replace(old, new))
    changed = load_project(path)
    return Engine(Fleet(changed, ProjectState(path.parent), runtime=given.fleet.runtime))


def by_hand(given: Engine) -> Engine:
    SHELF.boxes["bob"] = replace(SHELF.boxes["bob"], colour="green")
    return given


def by_manifest(given: Engine) -> Engine:
    return with_manifest(given, "blue", "red")


def gone(given: Engine) -> Engine:
    del SHELF.boxes["bob"]
    return given


def new_app(given: Engine) -> Engine:
    return with_manifest(given, "apps:\n", "apps:\n  eve: {stores: [toy]}\n")


def causes(given: Engine, scope: Scope | None = None) -> dict[str, Cause | None]:
    return {change.resource.name: change.cause for change in given.plan(scope).changes}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ([by_hand], Cause.SERVER),
        ([gone], Cause.SERVER),
        ([by_manifest], Cause.MANIFEST),
        ([by_hand, by_manifest], Cause.BOTH),
        ([gone, by_manifest], Cause.BOTH),
    ],
)
def test_who_has_changed_it_is_said(engine: Engine, changes: list[Change], cause: Cause) -> None:
    assert set(causes(engine).values()) == {None}, "nobody knows of what was never there"
    assert engine.apply().error() is None
    changed = engine
    for change in changes:
        changed = change(changed)
    for _ in range(2):  # a plan does not take what it finds for what was asked for
        assert causes(changed) == {"bob": cause}
    assert causes(changed, Scope(frozenset({"ann"}))) == {}
    assert causes(changed, Scope(deep=False)) == {"bob": None}
    assert changed.apply().error() is None
    assert causes(by_hand(changed)) == {"bob": Cause.SERVER}


def test_of_a_new_app_nobody_knows(engine: Engine) -> None:
    assert engine.apply().error() is None
    changed = new_app(engine)
    for _ in range(2):  # that it was planned is no sign of its having been there
        assert "eve" in causes(changed)
        assert causes(changed)["eve"] is not Cause.SERVER


def test_an_app_that_is_forgotten_is_new(engine: Engine) -> None:
    assert engine.apply().error() is None
    gone(engine)
    Baseline(engine.state, "toy").forget("bob")
    assert causes(engine) == {"bob": None}


def test_of_an_app_in_conflict_only_the_conflict_is_known(engine: Engine) -> None:
    """The plan leaves out what else of it would be changed: what it does not name is not as it is asked for."""
    taken, lid = (Box(name=name, app="eve", colour="blue") for name in ("eve", "eve lid"))
    conflict = PlannedChange(Action.CONFLICT, taken, replace(taken, owner=None), reason="somebody else's")
    missing = PlannedChange(Action.CREATE, lid, None)
    baseline = Baseline(engine.state, "toy")
    baseline.learn([taken, lid], [conflict], ["eve"])
    assert baseline.explained(missing).cause is None
    baseline.learn([taken, lid], [], ["eve"])
    baseline.learn([taken, lid], [conflict], ["eve"])
    assert baseline.explained(missing).cause is Cause.SERVER, "what was known stays"


def test_what_was_lost_costs_nothing_but_the_answer(engine: Engine) -> None:
    assert engine.apply().error() is None
    path = engine.state.folder / "baseline" / "toy.json"
    for text in ("", "[]", '{"bob": 1}', "\x00"):
        path.write_text(text)
        assert engine.plan().in_sync
        assert causes(by_hand(engine)) == {"bob": Cause.SERVER}, "it was written down again"
        SHELF.boxes["bob"] = replace(SHELF.boxes["bob"], colour="blue")


_LEARNED = """\
import sys
from dataclasses import dataclass
from pathlib import Path
from multidb.baseline import Baseline
from multidb.model import Cause, Owner, Resource
from multidb.state import ProjectState

@dataclass(frozen=True)
class Bag(Resource):
    kind, rank = "bag", 1
    content: object = None

content = {"b": frozenset("abcdef"), "a": (1, None, ("x", Owner("p", "a")), {"k": [True, sys.argv[2] or Cause.BOTH]})}
Baseline(ProjectState(Path(sys.argv[1])), "toy").learn([Bag(name="bag", app="ann", content=content)], [], ["ann"])
"""


def test_equal_values_are_known_as_equal_in_every_process(tmp_path: Path) -> None:
    def learned(seed: str, word: str = "") -> str:
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        folder = tmp_path / f"{seed}{word}"
        folder.mkdir()
        subprocess.run([sys.executable, "-c", _LEARNED, str(folder), word], env=env, check=True)
        return (folder / ".multidb" / "baseline" / "toy.json").read_text()

    assert learned("1") == learned("2") == learned("3")
    assert learned("1", "both") == learned("5"), "a word of an enumeration is the word itself"
    assert learned("1", "manifest") != learned("4")


def test_why_is_no_part_of_what_was_agreed_to(engine: Engine) -> None:
    assert engine.apply().error() is None
    by_hand(engine)
    planned = engine.plan()
    Baseline(engine.state, "toy").forget("bob")
    again = engine.plan()
    assert [change.cause for change in (*planned.changes, *again.changes)] == [Cause.SERVER, None]
    assert planned.digest == again.digest
    assert planned.servers[0].covers(again.servers[0])
    head = {"version": 1, "command": "plan", "adopt": [], "apps": None, "stores": None, "deep": True}
    saved = saved_plan(json.dumps({**head, **planned.document()}))
    assert not saved.altered
    assert saved.covers(again)
