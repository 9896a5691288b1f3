"""An app gets another name on a store of files: killed before every single step, its sets found by their history, and
what stands against it refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb import files, removal
from multidb.backup.creation import make_sets, repository
from multidb.backup.journal import Journal
from multidb.backup.names import names_in, names_text
from multidb.backup.pruning import decide
from multidb.backup.repository import Repository, utc_now
from multidb.cli import rename_app as command
from multidb.cli.options import Run
from multidb.cli.restore import Openings
from multidb.closure import closures
from multidb.credentials import ISSUED
from multidb.engine import Engine
from multidb.errors import ArchiveError, MultidbError, PartlyApplied, Refused, UsageError
from multidb.fleet import Fleet, Scope
from multidb.model.options import Keep
from multidb.project import load_project
from multidb.renames import FormerName, RenamePhase, former_names, outdated_names, owner_of, renames
from multidb.state import ProjectState
from multidb.tombstone import tombstones
from multidb.usage import History, Look
from tests.unit.backup.cabinet import FAULTS, FolderRuntime, Shelf, rows_of, write_rows
from tests.unit.backup.conftest import make_engine
from tests.unit.backup.sets_of_shop import made, quiet, tried

MANIFEST = """\
version: 1
project: shop
apps:
  # the first
  ann: {stores: [cabinet, drawer], tenant_id: anna} # loud
  bob: {stores: [cabinet, drawer], cabinet: {colour: blue}}
  ann_copy: {stores: [cabinet], labels: {clone_of: ann}}
backup: {to: [sets/], verify: always}
"""
OVERLAY = "apps:\n  ann: {cabinet: {colour: green}}\n"
STORES = ("cabinet", "drawer")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The project that every command of the test finds, with a set of ann."""

    def fleet(run: Run, output: object, project: Any = None) -> Fleet:
        project = project or run.project()
        return Fleet(project, ProjectState(tmp_path), runtime=FolderRuntime(project, data))

    monkeypatch.setattr(Run, "fleet", fleet)
    monkeypatch.setattr(command, "audited", lambda engine, app, output: Openings((), ()))
    (tmp_path / "multidb.prod.yaml").write_text(OVERLAY)
    engine = make_engine(tmp_path, data, MANIFEST)
    made(engine)
    return engine


def rename(root: Path, old: str = "ann", new: str = "eve", **options: Any) -> int:
    code: int = command.rename_app(old, new, file=root / "multidb.yaml", **{"yes_destroy": old, **options})
    return code


def fresh(root: Path, data: Path) -> Engine:
    """As a command finds the project now."""
    project = load_project(root / "multidb.yaml")
    return Engine(Fleet(project, ProjectState(root), runtime=FolderRuntime(project, data)))


def logins(data: Path, app: str) -> list[str]:
    """How the app's logins are, where it has a box."""
    boxes = [data / store / f"{app}.json" for store in STORES]
    return [json.loads(box.read_text())["login"] for box in boxes if box.exists()]


def check_renamed(root: Path, data: Path, rows: dict[str, bytes]) -> None:
    """All that there was of ann is eve's, nothing of ann is left, and bob is as he was."""
    engine = fresh(root, data)
    assert list(engine.project.apps) == ["eve", "bob", "ann_copy"]
    assert engine.plan().in_sync
    assert logins(data, "eve") == ["on", "on"]
    assert not [path for path in data.rglob("*") if path.name.startswith("ann.") or "__" in path.name]
    assert {store: rows_of(data, store, "eve").replace(b"eve:", b"ann:") for store in STORES} == rows
    assert logins(data, "bob") == ["on", "on"]
    text = (root / "multidb.yaml").read_text()
    assert text == MANIFEST.replace("  ann:", "  eve:").replace("clone_of: ann", "clone_of: eve")
    assert (root / "multidb.prod.yaml").read_text() == OVERLAY.replace("ann", "eve")
    assert (renames(engine.state), tombstones(engine.state), closures(engine.state)) == ({}, {}, {})
    assert not any(Journal(engine.state).open(kind) for kind in ("making", "paused", "verifying", "restoring"))
    assert {copy.owner for copy in repository(engine.fleet).copies()} == {"eve"}
    assert not (root / ".multidb" / "clones").exists()


def check_back(root: Path, data: Path, rows: dict[str, bytes]) -> None:
    """ann is as it was, and nothing is left of eve."""
    engine = fresh(root, data)
    assert (root / "multidb.yaml").read_text() == MANIFEST
    assert engine.plan().in_sync
    assert logins(data, "ann") == ["on", "on"]
    assert {store: rows_of(data, store, "ann") for store in STORES} == rows
    assert not [path for path in data.rglob("*") if path.name.startswith("eve")]
    assert (renames(engine.state), tombstones(engine.state), closures(engine.state)) == ({}, {}, {})


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Whether `act` was killed before it wrote a file or changed a server for the `step`th time."""
    child = os.fork()
    if not child:
        left = [step]

        def counting(work: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(*arguments, **options)

            return counted

        try:
            files.write_text = counting(files.write_text)
            files.delete = counting(files.delete)
            Shelf.put = counting(Shelf.put)  # type: ignore[method-assign]
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def goes_on_or_back(step: int, root: Path, data: Path, rows: dict[str, bytes]) -> str:
    """A rename that is killed before a step, then finished or aborted. Says how far it had come; empty when it was done
    before that step."""
    if not killed_at(step, lambda: rename(root)):
        check_renamed(root, data, rows)
        return ""
    assert "on" not in logins(data, "ann") or "on" not in logins(data, "eve"), step
    begun = renames(ProjectState(root)).get("ann")
    fresh(root, data).apply()
    assert "on" not in logins(data, "ann") or "on" not in logins(data, "eve"), (step, "after an apply")
    if step % 2 and begun is not None and begun.phase is RenamePhase.COPYING:
        killed_at(step % 12 + 1, lambda: rename(root, abort=True))
        if renames(ProjectState(root)):
            assert rename(root, abort=True) == 0, step
        check_back(root, data, rows)
        return "back"
    if begun is not None or "ann" in fresh(root, data).project.apps:
        assert rename(root) == 0, step
    check_renamed(root, data, rows)
    return begun.phase if begun else "before or after"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.rare)])
def test_killed_before_any_step_it_goes_on_or_back(shop: Engine, tmp_path: Path, data: Path, stride: int) -> None:
    rows = {store: rows_of(data, store, "ann") for store in STORES}
    start = tmp_path.with_name(f"{tmp_path.name}-start")
    shutil.copytree(tmp_path, start)
    step, ends = 21, set()  # before it, only the final set is made
    while (end := goes_on_or_back(step, tmp_path, data, rows)) and step < 200:
        ends.add(end)
        step += stride
        shutil.rmtree(tmp_path)
        shutil.copytree(start, tmp_path)
    assert {"back", RenamePhase.COPYING, RenamePhase.EXCHANGING, RenamePhase.DROPPING} - ends == set()


def test_its_sets_and_its_history_go_along(shop: Engine, tmp_path: Path, data: Path) -> None:
    state = shop.state
    (before,) = repository(shop.fleet).copies(["ann"])
    History(state).add(Look(NOON, {"ann": {"drawer": 7}, "bob": {"drawer": 8}}))
    alarm = {"kind": "backup", "store": None, "since": NOON.isoformat(), "at": NOON.isoformat(), "message": "late"}
    with state.change("told") as told:
        told["notify.webhooks[0]"] = [{**alarm, "app": app, "fix": "", "ended": False} for app in ("ann", "bob")]
    with state.change("restricted") as read_only:
        read_only["drawer"] = ["bob", "ann"]
    Journal(state).begin("copying", "ann", {"id": before.id, "from": "sets/", "to": ["more/"]})
    assert rename(tmp_path, backup=False) == 0
    state = ProjectState(tmp_path)
    assert [entry["app"] for entry in state.read("told")["notify.webhooks[0]"]] == ["eve", "bob"]
    assert state.read("restricted") == {"drawer": ["bob", "eve"]}
    assert History(state).sizes("eve", "drawer") == [(NOON, 7)]
    assert Journal(state).known("eve")["newest"] == before.id
    assert Journal(state).known("ann") == {}
    assert list(Journal(state).open("copying")) == ["eve"]

    engine = fresh(tmp_path, data)
    home = repository(engine.fleet)
    for name in ("eve", before.id, f"eve/{before.id}", f"ann/{before.id}", "ann"):
        copy = home.find(name)
        assert (copy.app, copy.owner, copy.id) == ("ann", "eve", before.id), name
    checked = tried(engine, copy)
    assert checked.ok, checked
    assert Journal(state).known("eve")["verified_set"] == before.id
    later = made(engine, "eve")
    line = [
        (one.copy.id, one.keep) for one in decide(home, {"eve": Keep(last=1, daily=0, weekly=0)}, utc_now()).decisions
    ]
    assert line == [(later.id, True), (before.id, True)], "the one is the newest, the other the newest that is verified"


def test_another_machine_knows_it_from_the_target(shop: Engine, tmp_path: Path, data: Path) -> None:
    assert rename(tmp_path, backup=False) == 0
    shutil.rmtree(tmp_path / ".multidb")
    engine = fresh(tmp_path, data)
    (copy,) = repository(engine.fleet).copies(["eve"])
    assert (copy.app, copy.owner) == ("ann", "eve")
    assert repository(engine.fleet).copies(["ann"]) == []


def test_an_app_that_takes_the_old_name_has_sets_of_its_own(
    shop: Engine, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rename(tmp_path, backup=False) == 0
    with (tmp_path / "multidb.yaml").open("a") as manifest:
        manifest.write("# end\n")
    text = (tmp_path / "multidb.yaml").read_text()
    (tmp_path / "multidb.yaml").write_text(text.replace("  bob:", "  ann: {stores: [cabinet]}\n  bob:"))
    engine = fresh(tmp_path, data)
    assert engine.apply().error() is None
    later = utc_now() + timedelta(minutes=2)
    monkeypatch.setattr("multidb.backup.creation.exact_now", lambda: later)
    made(engine, "ann")
    assert {(copy.app, copy.owner) for copy in repository(engine.fleet).copies()} == {("ann", "eve"), ("ann", "ann")}
    assert len(repository(engine.fleet).copies(["ann"])) == 1


def test_an_old_manifest_does_not_make_an_empty_app_of_the_old_name(shop: Engine, tmp_path: Path, data: Path) -> None:
    assert rename(tmp_path, backup=False) == 0
    assert rename(tmp_path, "eve", "fay", backup=False) == 0
    newest = (tmp_path / "multidb.yaml").read_text()
    with ProjectState(tmp_path).change(ISSUED) as issued:  # these stores have no credentials
        issued["fay"] = NOON.isoformat()
    for old in ("ann", "eve"):
        (tmp_path / "multidb.yaml").write_text(newest.replace("  fay:", f"  {old}:"))
        (tmp_path / "multidb.prod.yaml").unlink(missing_ok=True)
        engine = fresh(tmp_path, data)
        for scope in (None, Scope(apps=frozenset({old}))):
            with pytest.raises(Refused, match=f"{old} is fay since .* the manifest has the old name") as raised:
                engine.apply(scope)
            assert "multidb remove-app fay" in str(raised.value.hint)
        assert engine.apply(Scope(apps=frozenset({"bob"}))).error() is None
        assert logins(data, old) == []
    (tmp_path / "multidb.yaml").write_text(newest)
    removed = fresh(tmp_path, data).fleet
    removal.purge(removed, "fay", quiet)
    text = (tmp_path / "multidb.yaml").read_text().replace("  bob:", "  ann: {stores: [cabinet]}\n  bob:")
    (tmp_path / "multidb.yaml").write_text(text)
    assert fresh(tmp_path, data).apply().error() is None, "another app, which takes the name"
    assert logins(data, "ann") == ["on"]


def test_a_name_is_outdated_where_the_manifest_knows_none_of_those_after_it() -> None:
    moments = [NOON + timedelta(days=day) for day in range(3)]
    names = (FormerName(moments[1], "eve", "fay"), FormerName(moments[0], "ann", "eve"))
    assert outdated_names(["ann", "bob"], names) == {"ann": FormerName(moments[0], "ann", "fay")}
    assert outdated_names(["eve"], names) == {"eve": FormerName(moments[1], "eve", "fay")}
    assert outdated_names(["fay", "ann"], names) == {}, "another app has taken the name"
    assert outdated_names(["bob"], names) == {}
    assert outdated_names(["ann"], (*names, FormerName(moments[2], "fay", "ann"))) == {}, "it is called so again"


def test_a_target_that_was_away_is_told_with_the_next_set(shop: Engine, tmp_path: Path, data: Path) -> None:
    assert rename(tmp_path, backup=False) == 0
    (tmp_path / "sets/shop/eve/renamed_from.json").unlink()
    made(fresh(tmp_path, data), "eve")
    home = Repository("shop", repository(fresh(tmp_path, data).fleet).targets)
    assert {copy.owner for copy in home.copies()} == {"eve"}


def test_there_and_back(shop: Engine, tmp_path: Path, data: Path) -> None:
    rows = {store: rows_of(data, store, "ann") for store in STORES}
    assert rename(tmp_path, backup=False) == 0
    assert rename(tmp_path, "eve", "ann", backup=False) == 0
    check_back(tmp_path, data, rows)
    assert [name.new for name in former_names(ProjectState(tmp_path))] == ["eve", "ann"]
    assert {copy.owner for copy in repository(fresh(tmp_path, data).fleet).copies()} == {"ann"}
    with pytest.raises(UsageError, match="is ann since"):
        rename(tmp_path, "eve", "ann")


@pytest.mark.parametrize(
    ("old", "new", "options", "error", "words"),
    [
        ("ann", "bob", {}, Refused, "there is an app bob"),
        ("ann", "ann", {}, UsageError, "is called so already"),
        ("amy", "eve", {}, UsageError, "there is no app 'amy'"),
        ("ann", "Eve!", {}, UsageError, "is not an app id"),
        ("ann", "e" * 40, {}, UsageError, "is not an app id"),
        ("ann", "eve", {"yes_destroy": "eve"}, Refused, "'eve' is not ann"),
        ("ann", "eve", {"yes_destroy": None}, Refused, "needs the name ann"),
        ("ann", "eve", {"abort": True}, UsageError, "is not being renamed"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(
    shop: Engine,
    tmp_path: Path,
    data: Path,
    old: str,
    new: str,
    options: dict[str, Any],
    error: type[MultidbError],
    words: str,
) -> None:
    rows = {store: rows_of(data, store, "ann") for store in STORES}
    with pytest.raises(error, match=words) as raised:
        rename(tmp_path, old, new, **options)
    assert raised.value.hint
    check_back(tmp_path, data, rows)


def test_a_removed_app_keeps_its_name(shop: Engine, tmp_path: Path, data: Path) -> None:
    removal.remove(fresh(tmp_path, data).fleet, "bob", grace=timedelta(1), backup="", progress=quiet)
    with pytest.raises(Refused, match="app bob was removed") as raised:
        rename(tmp_path, "ann", "bob")
    assert "multidb purge bob" in str(raised.value.hint)


def test_an_entry_that_cannot_be_edited_is_refused_before_anything(shop: Engine, tmp_path: Path, data: Path) -> None:
    text = MANIFEST.replace("  ann: {", "  ann: &ours {").replace("  bob: {", "  bob: {<<: *ours, ")
    (tmp_path / "multidb.yaml").write_text(text)
    with pytest.raises(MultidbError):
        rename(tmp_path)
    assert renames(ProjectState(tmp_path)) == {}
    assert logins(data, "ann") == ["on", "on"]


def test_a_server_that_goes_away_in_between_is_gone_on_from(shop: Engine, tmp_path: Path, data: Path) -> None:
    rows = {store: rows_of(data, store, "ann") for store in STORES}
    FAULTS["replace eve drawer"] = ArchiveError("went away")
    with pytest.raises(ArchiveError, match="went away"):
        rename(tmp_path)
    FAULTS.clear()
    assert logins(data, "ann") == ["off", "off"]
    assert set(closures(ProjectState(tmp_path))) == {"ann", "eve"}
    (data / "drawer" / "down").touch()
    with pytest.raises(PartlyApplied, match="nothing listens"):
        rename(tmp_path)
    (data / "drawer" / "down").unlink()
    for refused in (lambda: rename(tmp_path, "ann", "amy"), lambda: rename(tmp_path, "bob", "eve")):
        with pytest.raises(Refused, match="ann is being renamed to eve"):
            refused()
    assert rename(tmp_path) == 0
    check_renamed(tmp_path, data, rows)


def test_once_all_is_there_only_forward(shop: Engine, tmp_path: Path, data: Path) -> None:
    rows = {store: rows_of(data, store, "ann") for store in STORES}
    steps = iter(range(21, 200))
    while killed_at(next(steps), lambda: rename(tmp_path, backup=False)):
        begun = renames(ProjectState(tmp_path)).get("ann")
        if begun is not None and begun.phase is RenamePhase.EXCHANGING:
            break
    with pytest.raises(Refused, match="has all of its data already"):
        rename(tmp_path, abort=True)
    assert rename(tmp_path) == 0
    check_renamed(tmp_path, data, rows)


def test_a_set_of_an_app_on_its_way_can_be_made_and_no_login_comes_on(shop: Engine, tmp_path: Path, data: Path) -> None:
    FAULTS["replace eve drawer"] = ArchiveError("went away")
    with pytest.raises(ArchiveError):
        rename(tmp_path, backup=False)
    FAULTS.clear()
    engine = fresh(tmp_path, data)
    (done,) = make_sets(engine, Scope(frozenset({"ann"})), quiesce=True, progress=quiet)
    assert done.ok, done.errors
    assert logins(data, "ann") == ["off", "off"]
    write_rows(data, "drawer", "ann", 3)  # what is written by force is what is copied the next time
    assert rename(tmp_path) == 0
    assert rows_of(data, "drawer", "eve").count(b"\n") == 3


NAMES = st.lists(
    st.builds(
        FormerName,
        st.integers(0, 20).map(lambda minutes: NOON + timedelta(minutes=minutes)),
        st.sampled_from("abc"),
        st.sampled_from("abc"),
    ),
    max_size=8,
)


@given(NAMES, st.sampled_from("abcd"), st.integers(0, 20))
def test_whose_a_set_is_does_not_depend_on_the_order_and_is_found_by_following_names(
    names: list[FormerName], app: str, minute: int
) -> None:
    moment = NOON + timedelta(minutes=minute)
    owner = owner_of(app, moment, names)
    assert owner_of(app, moment, [*reversed(names), *names]) == owner
    if owner == app or len(names) == 1:
        assert owner == app or (names[0].old, names[0].new) == (app, owner)
    later = [name for name in names if name.when >= moment]
    assert owner_of(app, moment, later) == owner
    if not any(name.old == app for name in later):
        assert owner == app


def test_names_on_a_target_are_read_back_and_nothing_else_is_taken_for_them() -> None:
    own, other = FormerName(NOON, "ann", "eve"), FormerName(NOON, "bob", "amy")
    text = names_text("eve", [own, other])
    assert names_in(text.encode(), "eve") == (own,)
    wrong = (
        b"",
        b"[]",
        b"{",
        b"\xff",
        text.replace("ann", "../x").encode(),
        text.replace("names 1", "names 2").encode(),
    )
    assert [names_in(each, "eve") for each in wrong] == [()] * len(wrong)
    assert names_in(text.replace("ann", "eve").encode(), "eve") == (), "no app was called what it is called"
