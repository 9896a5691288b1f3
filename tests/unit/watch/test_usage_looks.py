"""Looks at the use of a store kept in memory: growth, quotas, and apps made read-only and let go again."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.engine import Engine
from multidb.errors import MachineError, UsageError
from multidb.fleet import Scope
from multidb.model import AppUsage, Enforce, Quota, RuntimeKind
from multidb.runtime import ServerState, ServerStatus
from multidb.state import ProjectState
from multidb.usage import History, Look, QuotaUse, StoreUsage, UsageReport, enforce, look, read_only_after
from tests.support.toy_store import SHELF
from tests.unit.watch.conftest import OpenShop

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CLOSED = {"ann": "{quota: {toy: {size: 1000B, enforce: read-only}}}", "bob": "{quota: {toy: 1kB}}", "eve": "{}"}


@pytest.fixture
def state(tmp_path: Path) -> ProjectState:
    return ProjectState(tmp_path)


def seen(engine: Engine, scope: Scope | None = None) -> UsageReport:
    return look(engine.fleet, scope)


def enforced(engine: Engine, **weights: int) -> set[str]:
    """The apps that are read-only after a look at boxes of these weights; the servers agree with the plan."""
    SHELF.weights.update(weights)
    done = enforce(engine, seen(engine))
    assert all(report.error() is None for report in done.reports.values())
    assert engine.plan().in_sync
    sealed = {name for name, box in SHELF.boxes.items() if box.sealed}
    assert sealed == set(done.standing.get("toy", ()))
    return sealed


def test_a_look_tells_size_share_and_standing(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    SHELF.weights = {"ann": 799, "bob": 1000, "eve": 5}
    report = seen(engine)
    assert [(each.app, each.standing) for each in report.stores] == [
        ("ann", QuotaUse.WITHIN),
        ("bob", QuotaUse.OVER),
        ("eve", QuotaUse.NONE),
    ]
    assert report.exit_code == 1
    document = json.loads(json.dumps(report.document()))
    bob = document["apps"]["bob"]["toy"]
    assert bob["quota"] == {"size": 1000, "enforce": "warn", "share": 1.0}
    assert (bob["size"], bob["connections"], bob["connection_limit"], bob["growth"]) == (1000, 1, 4, None)
    assert document["servers"][0]["size"] == 1804
    SHELF.weights["ann"], SHELF.weights["bob"] = 800, 999
    report = seen(engine)
    assert [each.standing for each in report.stores] == [QuotaUse.NEAR, QuotaUse.NEAR, QuotaUse.NONE]
    assert report.exit_code == 0


def test_an_unknown_size_is_held_against_nobody() -> None:
    unknown = StoreUsage("ann", "toy", "toy", AppUsage(), Quota(10))
    assert (unknown.share, unknown.standing) == (None, QuotaUse.NONE)


def test_growth_since_the_last_look_that_was_kept(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    earlier = datetime.now(UTC) - timedelta(hours=2)
    History(engine.state).add(Look(earlier, {"ann": {"toy": 100}}))
    SHELF.weights = {"ann": 70, "bob": 9}
    ann, bob = seen(engine).stores
    assert ann.growth is not None
    assert (ann.growth.size, ann.growth.since) == (-30, earlier.replace(microsecond=0))
    assert bob.growth is None, "it was not there"
    assert [size for _, size in History(engine.state).sizes("ann", "toy")] == [100, 70]
    assert History(engine.state).sizes("bob", "toy")[0][1] == 9


def test_a_look_at_a_part_is_not_kept(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.weights = {"ann": 70, "bob": 9}
    assert [each.app for each in seen(engine, Scope(apps=frozenset({"bob"}))).stores] == ["bob"]
    look(engine.fleet, keep=False)
    assert History(engine.state).looks() == ([], "")
    with pytest.raises(UsageError, match="zoe"):
        seen(engine, Scope(apps=frozenset({"zoe"})))


def test_looks_within_a_minute_are_one(state: ProjectState) -> None:
    history = History(state)
    for seconds in (0, 30, 59, 60, 61):
        history.add(Look(NOW + timedelta(seconds=seconds), {}))
    assert [each.at for each in history.looks()[0]] == [NOW, NOW + timedelta(seconds=60)]


def test_the_history_is_private_and_bounded(state: ProjectState) -> None:
    history = History(state)
    many = {f"app{number:03}": {"postgres": number, "redis": number} for number in range(300)}
    one = len(Look(NOW, many).line()) + 1
    path = state.folder / "usage.jsonl"
    path.parent.mkdir()
    path.write_text("".join(Look(NOW + timedelta(hours=hour), many).line() + "\n" for hour in range(150)))
    history.add(Look(NOW + timedelta(days=90), many))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert 1_000_000 - one < path.stat().st_size <= 1_000_000
    looks = history.looks()[0]
    assert looks[-1].at == NOW + timedelta(days=90), "the newest stay"
    assert looks[0].at > NOW


def test_a_history_of_many_small_looks_is_bounded_too(state: ProjectState) -> None:
    path = state.folder / "usage.jsonl"
    path.parent.mkdir()
    path.write_text("".join(Look(NOW + timedelta(hours=hour), {}).line() + "\n" for hour in range(2500)))
    History(state).add(Look(NOW + timedelta(days=900), {}))
    assert len(path.read_text().splitlines()) == 2000


def test_one_look_larger_than_the_file_may_be_is_kept(state: ProjectState) -> None:
    huge = {f"app{number:07}": {"postgres": number} for number in range(40_000)}
    History(state).add(Look(NOW, huge))
    assert len(History(state).looks()[0]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"not json\n",
        b'{"at": "soon", "sizes": {}}\n',
        b"[]\n",
        b'{"at": "2026-11-21T12:00:00", "sizes": {}}\n',
        b"\xff\n",
    ],
)
def test_a_damaged_history_is_moved_aside_with_a_note(open_shop: OpenShop, damage: bytes) -> None:
    engine = open_shop(["ann"])
    path = engine.state.folder / "usage.jsonl"
    for aside in ("usage.jsonl.damaged", "usage.jsonl.damaged-2"):
        path.write_bytes(Look(NOW, {}).line().encode() + b"\n" + damage)
        report = seen(engine)
        assert aside in report.notes[0]
        assert (path.parent / aside).read_bytes().endswith(damage)
        assert len(History(engine.state).looks()[0]) == 1, "a new one has begun"


def test_a_history_that_cannot_be_read_is_not_taken_for_damaged(
    open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_shop(["ann"])
    path = engine.state.folder / "usage.jsonl"
    path.write_bytes(Look(NOW, {}).line().encode() + b"\n")
    before = path.read_bytes()

    def refused(self: Path, *_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        looks, note = History(engine.state).looks()
        assert (looks, "Permission denied" in note) == ([], True)
        with pytest.raises(MachineError):
            History(engine.state).add(Look(NOW, {}))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.glob("usage.jsonl*")] == ["usage.jsonl"]


def test_over_the_quota_read_only_and_back_with_room_between(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    assert enforced(engine, ann=999, bob=5000, eve=5000) == set()
    assert enforced(engine, ann=1000) == {"ann"}, "bob is only warned of"
    assert engine.state.read("restricted") == {"toy": ["ann"]}
    assert enforced(engine, ann=900) == {"ann"}, "not back and forth at the limit"
    assert enforced(engine, ann=899) == set()
    assert engine.state.read("restricted") == {}
    assert enforced(engine, ann=900) == set(), "and not restricted before the quota is full again"


def test_what_was_restricted_is_told(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    SHELF.weights = {"ann": 2000}
    first = enforce(engine, seen(engine))
    assert (first.read_only, first.lifted) == ({"toy": frozenset({"ann"})}, {})
    assert seen(engine).stores[0].read_only
    again = enforce(engine, seen(engine))
    assert (again.read_only, again.lifted, again.standing) == ({}, {}, {"toy": frozenset({"ann"})})
    SHELF.weights = {"ann": 1}
    last = enforce(engine, seen(engine))
    assert (last.read_only, last.lifted) == ({}, {"toy": frozenset({"ann"})})
    assert not seen(engine).stores[0].read_only


def test_a_server_that_cannot_seal_one_box_is_said_to_be_powerless(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    SHELF.weights, SHELF.seals = {"ann": 2000}, False
    done = enforce(engine, seen(engine))
    assert (done.read_only, done.standing, done.powerless) == ({}, {}, {"toy": frozenset({"ann"})})
    assert engine.state.read("restricted") == {}
    assert not seen(engine).stores[0].read_only, "nobody is told that it is read-only"


def test_an_enforcement_that_was_cut_off_is_finished_by_the_next(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    SHELF.weights, SHELF.fail_on = {"ann": 2000}, "SEAL"
    done = enforce(engine, seen(engine))
    assert done.reports["toy"].error() is not None
    assert not engine.plan().in_sync, "the plan shows what is left"
    SHELF.fail_on = ""
    assert enforced(engine) == {"ann"}


def test_an_app_that_was_not_looked_at_stays_as_it_is(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    assert enforced(engine, ann=2000) == {"ann"}
    SHELF.weights["ann"] = 1
    done = enforce(engine, seen(engine, Scope(apps=frozenset({"bob"}))))
    assert done.standing == {"toy": frozenset({"ann"})}
    del SHELF.weights["ann"]
    assert enforced(engine) == {"ann"}, "a size that is not known frees nobody"


def test_who_loses_the_quota_is_let_go(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    assert enforced(engine, ann=2000) == {"ann"}
    without = open_shop({**CLOSED, "ann": "{quota: {toy: 1000B}}"}, apply=False)
    assert enforced(without) == set()
    assert enforced(open_shop(CLOSED, apply=False)) == {"ann"}
    gone = open_shop({"bob": "{}"}, apply=False)
    assert enforce(gone, seen(gone)).standing == {}, "an app that is no longer in the manifest is nobody's business"


@given(st.lists(st.integers(min_value=0, max_value=2000), max_size=30))
def test_the_rule_of_hysteresis(weights: list[int]) -> None:
    """Whatever the weights: at or over the quota restricted, under 90 % free, between as before."""
    from multidb.model import App, Project

    quota = Quota(1000, Enforce.READ_ONLY)
    app = App("ann", "ann", {"toy": object()}, quota={"toy": quota})
    project = Project("shop", RuntimeKind.EMBEDDED, {"ann": app}, ())
    before: dict[str, frozenset[str]] = {}
    for weight in weights:
        usage = StoreUsage("ann", "toy", "toy", AppUsage(size=weight), quota)
        after = read_only_after(project, UsageReport("shop", NOW, (usage,), ()), before)
        was, now = bool(before), bool(after)
        assert now == (weight >= 1000 or (was and weight >= 900))
        before = after


def test_a_server_that_cannot_be_asked_is_in_the_report(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    SHELF.weights = {"ann": 1}
    SHELF.down = True
    report = seen(engine)
    assert report.exit_code == 4
    assert [server for server, _ in report.errors] == ["toy"]
    assert report.stores == ()
    assert "nothing listens" in report.document()["servers"][0]["error"]["message"]


def test_a_server_that_does_not_run(open_shop: OpenShop) -> None:
    lacking = {
        "ann": ServerStatus("toy-ann", "toy", ServerState.STOPPED, None),
        "eve": ServerStatus("toy-eve", "toy", ServerState.SKIPPED, None, "there is no wood here"),
    }
    engine = open_shop(["ann", "bob", "eve"], lacking=lacking, apply=False)
    SHELF.weights = {"bob": 3}
    report = seen(engine)
    assert [server for server, _ in report.errors] == ["toy-ann"]
    assert [each.app for each in report.stores] == ["bob"]


@pytest.fixture(autouse=True)
def _whole(tmp_path: Path) -> Iterator[None]:
    """Whatever happens, no half-written file is left behind."""
    yield
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_look_that_is_dated_in_the_future_does_not_end_the_history(state: ProjectState) -> None:
    History(state).add(Look(NOW, {"ann": {"postgres": 3}}))
    History(state).add(Look(NOW + timedelta(days=800), {"ann": {"postgres": 3}}))
    History(state).add(Look(NOW + timedelta(hours=1), {"ann": {"postgres": 3}}))
    assert [look.at for look in History(state).looks()[0]] == [NOW, NOW + timedelta(hours=1)]


def test_a_folder_that_cannot_be_written_still_shows_what_is_used(open_shop: OpenShop) -> None:
    engine = open_shop(CLOSED)
    History(engine.state).add(Look(NOW, {"ann": {"toy": 100}}))
    SHELF.weights["ann"] = 150
    lock = engine.state.folder / "files.lock"
    lock.unlink()
    lock.mkdir()  # so that root cannot open it either
    report = seen(engine)
    assert any(each.growth for each in report.stores), "what was kept can be read"
    assert "not kept" in report.notes[0]
