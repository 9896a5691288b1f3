"""Taking an app out, bringing it back, ending it: on a store kept in memory, interrupted at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from multidb_toy.resources import Box, ServerOptions

from multidb import files, removal
from multidb.backup.journal import RESTORING, Journal
from multidb.closure import Closure, close, closures
from multidb.engine import Engine
from multidb.errors import AuthenticationFailed, ManifestError, PartlyApplied, Refused, StalePlan, UsageError
from multidb.fleet import Fleet, Scope
from multidb.model import App, Endpoint, Health, Owner, Project, Server, Status, Tenant
from multidb.orphans import orphan
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import Secret
from multidb.state import ProjectState
from multidb.tombstone import Phase, Tombstone, forget, tombstones, ways_of_removed, write_tombstone
from tests.support import toy_store
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.toy_store import SHELF, digest

MANIFEST = """\
version: 1
project: shop
runtime: embedded
include: [more/*.yaml]
apps:
  # ann came first
  ann: {stores: [toy]} # and is loud
  bob: {stores: [toy], toy: {colour: blue}}
"""
OVERLAY = "apps:\n  ann: {toy: {colour: green}}\n"
INCLUDED = "eve: {stores: [toy]}\n"
GRACE = timedelta(days=7)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    return None


def check_health(tenant: Tenant, may_write: bool) -> Health:
    key = tenant.env["TOY_KEY"]
    assert isinstance(key, Secret)
    if SHELF.keys.get(tenant.app.id) != digest(key):
        raise AuthenticationFailed("wrong key", where=str(tenant.server))
    return Health(Status.HEALTHY, "it opens")


@pytest.fixture(autouse=True)
def checked_boxes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(toy_store, "PROVISIONER", replace(toy_store.PROVISIONER, check_health=check_health))
    provisioner.cache_clear()
    yield
    provisioner.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for name, text in (("multidb.yaml", MANIFEST), ("multidb.prod.yaml", OVERLAY), ("more/eve.yaml", INCLUDED)):
        (tmp_path / name).write_text(text)
    return tmp_path


def load(root: Path) -> Project:
    return load_project(root / "multidb.yaml", "prod")


def engine_for(root: Path, app: str = "ann") -> Engine:
    project = load(root)
    if app in project.removed:
        project = project.including(project.removed[app])
    server = RealServer(Server("toy", "toy", Endpoint("shelf", 1)), None, ServerOptions())
    return Engine(Fleet(project, ProjectState(root), runtime=GivenRuntime(server)))


def take_out(root: Path, app: str = "ann") -> None:
    removal.remove(engine_for(root, app).fleet, app, grace=GRACE, backup="a-set", progress=quiet)


def bring_back(root: Path, app: str = "ann") -> None:
    removal.restoring(engine_for(root, app).fleet, app)
    engine = engine_for(root, app)
    assert engine.apply(Scope(apps=frozenset({app}))).error() is None
    removal.restored(engine.fleet, app)


def end(root: Path, app: str = "ann") -> None:
    removal.purge(engine_for(root, app).fleet, app, quiet)


def expire(root: Path) -> None:
    for app in removal.expired(Fleet(load(root), ProjectState(root)), NOW):
        end(root, app.id)


@pytest.fixture
def clone(root: Path) -> Path:
    """ann is a clone whose time is up."""
    manifest = root / "multidb.yaml"
    manifest.write_text(MANIFEST.replace("ann: {", f"ann: {{labels: {{clone_of: bob, expires: '{NOW - GRACE}'}}, "))
    assert engine_for(root).apply().error() is None
    return root


@pytest.fixture
def applied(root: Path) -> Path:
    assert engine_for(root).apply().error() is None
    return root


def texts(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in ("multidb.yaml", "multidb.prod.yaml", "more/eve.yaml")}


def lets_in(root: Path, app: str = "ann") -> bool:
    tenants, _ = engine_for(root, app).fleet.tenants(Scope(apps=frozenset({app})))
    try:
        return check_health(tenants[0], False).status is Status.HEALTHY
    except AuthenticationFailed:
        return False


class Ended(GivenRuntime):
    """The shared server has no address while it does not run, as a container that has ended."""

    def servers(self) -> list[Server]:
        return []

    def missing(self) -> list[ServerStatus]:
        return [ServerStatus("toy", "toy", ServerState.STOPPED, None)]

    def names_for(self, app: App) -> list[str]:
        return ["toy"]


def without_server(root: Path) -> Engine:
    """As `engine_for` ann, while the server does not run."""
    fleet = engine_for(root).fleet
    runtime = Ended(RealServer(Server("toy", "toy", Endpoint("shelf", 1)), None, ServerOptions()))
    return Engine(Fleet(fleet.project, fleet.state, runtime=runtime))


def test_a_server_that_does_not_run_is_not_left_out(applied: Path) -> None:
    """What the app has there would be of nobody, with a login that is on, once the server runs again."""
    with pytest.raises(PartlyApplied, match="toy: is not running") as refused:
        removal.remove(without_server(applied).fleet, "ann", grace=GRACE, backup="", progress=quiet)
    assert refused.value.hint == "start it: multidb up; then finish with: multidb remove-app ann"
    take_out(applied)
    assert not lets_in(applied)
    with pytest.raises(PartlyApplied, match="toy: is not running") as refused:
        removal.purge(without_server(applied).fleet, "ann", quiet)
    assert refused.value.hint == "start it: multidb up; then finish with: multidb purge ann"
    assert tombstones(ProjectState(applied))["ann"].phase is Phase.PURGING
    end(applied)
    assert "ann" not in SHELF.boxes


def test_an_app_that_has_nothing_on_a_server_goes_without_it(root: Path) -> None:
    """It was written into the manifest, and never applied."""
    removal.purge(without_server(root).fleet, "ann", quiet)
    assert not tombstones(ProjectState(root))


@pytest.mark.parametrize("app", ["ann", "eve"])
def test_out_and_back_leaves_every_file_as_it_was(applied: Path, app: str) -> None:
    before = texts(applied)
    assert lets_in(applied, app)
    take_out(applied, app)
    assert app not in load(applied).apps
    assert app not in "".join(texts(applied).values()).replace("# ann came first", "")
    assert app in SHELF.boxes
    assert not lets_in(applied, app)
    bring_back(applied, app)
    assert texts(applied) == before
    assert lets_in(applied, app)
    assert tombstones(ProjectState(applied)) == {}


def test_a_manifest_that_is_a_link_stays_one_and_keeps_its_mode(
    applied: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As one does whose manifest lies in another repository."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "shop.yaml"
    manifest = applied / "multidb.yaml"
    manifest.rename(elsewhere)
    elsewhere.chmod(0o600)
    manifest.symlink_to(elsewhere)
    before = texts(applied)
    take_out(applied)
    assert "ann:" not in elsewhere.read_text()
    bring_back(applied)
    assert texts(applied) == before
    assert manifest.is_symlink()
    assert elsewhere.stat().st_mode & 0o777 == 0o600


def test_the_others_are_not_touched(applied: Path) -> None:
    take_out(applied)
    assert load(applied).apps.keys() == {"bob", "eve"}
    assert Engine(Fleet(load(applied), ProjectState(applied), runtime=engine_for(applied).fleet.runtime)).plan().in_sync
    assert lets_in(applied, "bob")


def test_a_manifest_that_was_changed_meanwhile_keeps_its_changes(applied: Path) -> None:
    take_out(applied)
    manifest = applied / "multidb.yaml"
    manifest.write_text(manifest.read_text() + "  cat: {stores: [toy]}\n")
    bring_back(applied)
    assert load(applied).apps.keys() == {"ann", "bob", "cat", "eve"}
    assert load(applied).apps["ann"].stores["toy"].colour == "green"  # the overlay's word


def test_its_name_is_kept(applied: Path) -> None:
    take_out(applied)
    manifest = applied / "multidb.yaml"
    manifest.write_text(manifest.read_text() + "  ann: {stores: [no such store], toy: 3}\n")
    project = load(applied)
    assert project.apps.keys() == {"bob", "eve"}, "an old manifest is no other app's affair"
    assert project.returned.keys() == {"ann"}
    (warning,) = engine_for(applied, "bob").plan().warnings
    assert "was removed on" in warning.message
    assert "multidb undo-remove ann" in warning.fix
    assert engine_for(applied, "bob").apply().error() is None
    assert not lets_in(applied)
    manifest.write_text(manifest.read_text() + "  other: {stores: [toy], toy: 3}\n")
    with pytest.raises(ManifestError, match="toy must be a mapping"):
        load(applied)


@pytest.mark.parametrize("file", ["multidb.yaml", "more/eve.yaml"])
def test_an_entry_that_came_back_goes_with_the_app(applied: Path, file: str) -> None:
    take_out(applied)
    path, head = applied / file, "  " if file == "multidb.yaml" else ""
    path.write_text(path.read_text() + f"{head}ann: {{stores: [toy]}}\n")
    end(applied)
    assert load(applied).apps.keys() == {"bob", "eve"}
    assert load(applied).returned == {}
    assert "ann" not in SHELF.boxes


@pytest.mark.parametrize("file", ["multidb.yaml", "more/eve.yaml"])
def test_an_entry_that_came_back_is_taken_at_its_word_by_an_undo(applied: Path, file: str) -> None:
    take_out(applied)
    path, head = applied / file, "  " if file == "multidb.yaml" else ""
    path.write_text(path.read_text() + f"{head}ann: {{stores: [toy], toy: {{colour: grey}}}}\n")
    bring_back(applied)
    assert lets_in(applied)
    assert load(applied).returned == {}
    assert load(applied).apps["ann"].stores["toy"].colour == "green"  # the overlay's word, which was taken out too


def forgotten(root: Path) -> Path:
    """ann's entries are deleted by hand."""
    for name, text in texts(root).items():
        (root / name).write_text("\n".join(line for line in text.splitlines() if "ann: {" not in line) + "\n")
    (root / "multidb.prod.yaml").write_text("apps: {}\n")
    return root


def test_what_stands_nowhere_is_warned_of(applied: Path) -> None:
    forgotten(applied)
    plan = engine_for(applied, "bob").plan()
    assert plan.in_sync
    (warning,) = plan.warnings
    assert (warning.subject, "box ann" in warning.message) == ("app ann", True)
    assert "multidb remove-app ann" in warning.fix
    assert "multidb purge ann" in warning.fix
    assert engine_for(applied, "bob").plan(Scope(apps=frozenset({"bob"}))).warnings == ()
    SHELF.boxes["Dr. No"] = Box(name="Dr. No", owner=Owner("shop", "Dr. No"), colour="red")  # a mark is only a text
    SHELF.boxes["theirs"] = Box(name="theirs", owner=Owner("another", "theirs"), colour="red")
    assert len(engine_for(applied, "bob").plan().warnings) == 1


def test_what_stands_nowhere_can_be_removed_brought_back_and_ended(applied: Path) -> None:
    forgotten(applied)

    def engine() -> Engine:
        project = load(applied)
        given = engine_for(applied, "bob")
        return Engine(
            Fleet(project.including(orphan(project, "ann", ["toy"])), given.state, runtime=given.fleet.runtime)
        )

    removal.remove(engine().fleet, "ann", grace=GRACE, backup="", progress=quiet)
    assert not lets_in(applied)
    assert engine_for(applied, "bob").plan().warnings == ()
    bring_back(applied)
    assert lets_in(applied)
    assert load(applied).apps["ann"].stores.keys() == {"toy"}
    forgotten(applied)
    removal.purge(engine().fleet, "ann", quiet)
    assert "ann" not in SHELF.boxes
    assert tombstones(ProjectState(applied)) == {}
    assert engine_for(applied, "bob").plan().warnings == ()


def test_a_removed_app_that_the_state_has_forgotten_is_known_again_from_the_servers(applied: Path) -> None:
    take_out(applied)
    state = ProjectState(applied)
    forget(state, "ann")
    with state.lock_apps(["ann"], "another command"):
        (warning,) = engine_for(applied, "bob").plan().warnings
        assert "not in the manifest" in warning.message
    assert engine_for(applied, "bob").plan(Scope(stores=frozenset({"toy"}))).warnings
    assert tombstones(state) == {}
    (warning,) = engine_for(applied, "bob").plan().warnings
    assert (warning.subject, warning.fix) == ("app ann", ways_of_removed("ann"))
    assert "was removed" in warning.message
    assert tombstones(state)["ann"].phase is Phase.REMOVED
    assert engine_for(applied, "bob").plan().warnings == ()
    bring_back(applied)
    assert lets_in(applied)


def test_an_orphan_whose_login_is_on_was_not_removed(applied: Path) -> None:
    forgotten(applied)
    (warning,) = engine_for(applied, "bob").plan().warnings
    assert "not in the manifest" in warning.message
    assert tombstones(ProjectState(applied)) == {}


def test_its_number_is_kept_until_it_is_purged(applied: Path) -> None:
    state = ProjectState(applied)
    number = state.read("numbers")["toy"]["ann"]
    take_out(applied)
    manifest = applied / "multidb.yaml"
    manifest.write_text(manifest.read_text() + "  cat: {stores: [toy]}\n")
    assert engine_for(applied, "bob").apply().error() is None
    assert state.read("numbers")["toy"]["cat"] != number
    end(applied)
    assert "ann" not in state.read("numbers")["toy"]


def test_purging_takes_what_is_ours_and_nothing_else(applied: Path) -> None:
    take_out(applied)
    files.write_text(applied / "apps/ann/.env.example", "# Written by multidb\n")
    files.write_text(applied / "apps/ann/notes.txt", "mine")
    journal = Journal(ProjectState(applied))
    journal.learn("ann", newest="a-set")
    close(ProjectState(applied), Closure("ann", "bob", masked=False))
    end(applied)
    assert not journal.known("ann")
    assert not closures(ProjectState(applied)), "a new app of its name would wait for its data"
    assert SHELF.boxes.keys() == {"bob", "eve"}
    assert {ref.owner for ref in ProjectState(applied).secrets.refs()} == {"bob", "eve"}
    assert [path.name for path in (applied / "apps/ann").iterdir()] == ["notes.txt"]
    assert tombstones(ProjectState(applied)) == {}


def test_a_run_that_read_the_manifest_before_a_removal_turns_nothing_on(applied: Path) -> None:
    late = engine_for(applied)
    take_out(applied)
    report = late.apply()
    assert isinstance(report.error(), StalePlan)
    assert not lets_in(applied)
    assert load(applied).apps.keys() == {"bob", "eve"}


def test_nor_while_the_removal_is_on_its_way(applied: Path) -> None:
    """Its logins are off, and it is not written down yet that they are."""
    late, state = engine_for(applied), ProjectState(applied)
    take_out(applied)
    write_tombstone(state, replace(tombstones(state)["ann"], phase=Phase.REMOVING))
    assert isinstance(late.apply().error(), StalePlan)
    assert not lets_in(applied)


def test_a_removal_that_died_before_the_manifest_was_changed_keeps_nobody_from_working(applied: Path) -> None:
    stone = Tombstone("ann", Phase.REMOVING, NOW, NOW + GRACE, ())
    write_tombstone(ProjectState(applied), stone)
    engine = engine_for(applied)
    assert "ann" in engine.project.apps
    assert engine.apply().error() is None


def test_what_was_begun_with_an_app_ends_with_it(applied: Path) -> None:
    """Another app that takes its name is not given its set."""
    journal = Journal(ProjectState(applied))
    journal.begin(RESTORING, "ann", {"set": "a-set", "of": "ann", "target": "x", "stores": [], "phase": "exchanging"})
    end(applied)
    assert journal.open(RESTORING) == {}


def test_a_box_without_our_mark_stays(applied: Path) -> None:
    take_out(applied)
    SHELF.boxes["ann"] = Box(name="ann", colour="red")
    end(applied)
    assert "ann" in SHELF.boxes


def test_what_was_never_removed_cannot_come_back(applied: Path) -> None:
    with pytest.raises(UsageError, match="app ann was not removed"):
        removal.restoring(engine_for(applied).fleet, "ann")


def test_what_is_half_gone_does_not_come_back(applied: Path) -> None:
    take_out(applied)
    SHELF.fail_on = "DROP"
    with pytest.raises(PartlyApplied):
        end(applied)
    with pytest.raises(Refused, match="gone already"):
        removal.restoring(engine_for(applied).fleet, "ann")


def test_logins_that_still_work_are_not_taken_for_gone(applied: Path) -> None:
    SHELF.ignore = "SHUT ann"  # the server says yes and does nothing
    with pytest.raises(PartlyApplied, match="still work"):
        take_out(applied)
    assert tombstones(ProjectState(applied))["ann"].phase is Phase.REMOVING
    SHELF.ignore = ""
    take_out(applied)
    assert not lets_in(applied)


class Cut(BaseException):
    """The process is gone."""


def dying(write: Callable[..., None], *, after: int, done: bool) -> Callable[..., None]:
    """`write`, and the end of the process at the write after so many: once that is `done`, or before it."""
    seen = 0

    def write_or_die(path: Path, text: str, *, mode: int = files.PUBLIC) -> None:
        nonlocal seen
        seen += 1
        if seen <= after or done:
            write(path, text, mode=mode)
        if seen > after:
            raise Cut

    return write_or_die


@pytest.mark.parametrize("act", [take_out, end, bring_back, expire], ids=["remove", "purge", "undo", "expire"])
def test_interrupted_anywhere_the_same_again_finishes(
    request: pytest.FixtureRequest, act: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of a file is a place where the process may die, before it or after it."""
    applied: Path = request.getfixturevalue("clone" if act is expire else "applied")
    if act in (end, bring_back):
        take_out(applied)
    before, write = texts(applied), files.write_text
    boxes, keys = dict(SHELF.boxes), dict(SHELF.keys)
    secrets, state = (applied / ".multidb/secrets.json").read_text(), (applied / ".multidb/state.json").read_text()
    for place in range(40):
        for name, text in before.items():
            write(applied / name, text)
        write(applied / ".multidb/secrets.json", secrets, mode=0o600)
        write(applied / ".multidb/state.json", state, mode=0o600)
        SHELF.boxes, SHELF.keys = dict(boxes), dict(keys)
        monkeypatch.setattr(files, "write_text", dying(write, after=place // 2, done=place % 2 == 1))
        try:
            act(applied)
        except Cut:
            monkeypatch.setattr(files, "write_text", write)
            if act is bring_back and "ann" not in tombstones(ProjectState(applied)):
                assert "ann" in load(applied).apps  # it was over, all but the end of the process
            elif act is end and "ann" not in tombstones(ProjectState(applied)):
                assert "ann" not in SHELF.boxes
            else:
                act(applied)
            _is_finished(applied, act)
        else:
            monkeypatch.setattr(files, "write_text", write)
            assert place > 4, "nothing was interrupted"
            return
    raise AssertionError("never got to the end")


def _is_finished(root: Path, act: Callable[[Path], None]) -> None:
    if act is bring_back:
        assert "ann" in load(root).apps
        assert lets_in(root)
        assert tombstones(ProjectState(root)) == {}
    elif act is take_out:
        assert "ann" not in load(root).apps
        assert not lets_in(root)
        assert tombstones(ProjectState(root))["ann"].phase is Phase.REMOVED
    else:
        assert "ann" not in load(root).apps
        assert "ann" not in SHELF.boxes
        assert tombstones(ProjectState(root)) == {}


def test_a_clone_that_a_person_removed_does_not_expire(clone: Path) -> None:
    take_out(clone)
    expire(clone)
    assert "ann" in SHELF.boxes
    bring_back(clone)
    expire(clone)
    assert "ann" not in SHELF.boxes


def test_an_app_that_is_half_gone_and_no_clone_waits_for_its_person(applied: Path) -> None:
    SHELF.fail_on = "DROP"
    with pytest.raises(PartlyApplied):
        end(applied)
    SHELF.fail_on = ""
    expire(applied)
    assert "ann" in SHELF.boxes


def test_an_app_in_use_is_taken_out_before_it_ends(applied: Path) -> None:
    end(applied)
    assert "ann" not in load(applied).apps
    assert "ann" not in SHELF.boxes
    assert not (applied / "multidb.prod.yaml").read_text().count("ann")
