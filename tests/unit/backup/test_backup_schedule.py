"""What is due, what is late, what a run from beginning to end does, and which sets it removes."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from multidb.backup import creation, run
from multidb.backup.cloning import entry_for, expired, shared_options
from multidb.backup.creation import repository
from multidb.backup.journal import PAUSED, Journal
from multidb.backup.pruning import carry_out, decide
from multidb.backup.restoring import SetSource, restore
from multidb.backup.run import final_set, run_backups
from multidb.backup.schedule import LastSets, coming_due, due, freshness, last_sets, next_due, verification_due
from multidb.backup.sets import Reason, declaration
from multidb.backup.settings import Settings, settings
from multidb.cli.backup import by_turns
from multidb.cli.output import Output
from multidb.credentials import FIRST_ISSUED
from multidb.engine import Engine
from multidb.errors import ArchiveError
from multidb.fleet import Scope
from multidb.model import App, Health, Status
from multidb.model.options import Backup, Continuous, Keep
from multidb.service.sources import Sources
from tests.unit.backup.cabinet import FAULTS, ONE_PLACE
from tests.unit.backup.conftest import MANIFEST, make_engine
from tests.unit.backup.sets_of_shop import folder_of, made, quiet, tried

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """The moment that sets are made at."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(creation, "utc_now", clock)
    monkeypatch.setattr(creation, "exact_now", clock)
    monkeypatch.setattr(run, "utc_now", clock)
    return clock


def health(engine: Engine, now: datetime, app: str = "ann") -> Health:
    found = freshness(engine.project, engine.state, engine.project.apps[app], now)
    assert found is not None
    return found


def scheduled(engine: Engine, clock: Clock) -> run.BackupRun:
    apps = frozenset(app.id for app in due(engine.fleet, clock.now))
    return run_backups(engine, Scope(apps=apps), scheduled=True, progress=quiet)


def test_what_is_due_is_what_is_older_than_the_manifest_allows(engine: Engine, clock: Clock) -> None:
    assert [app.id for app in due(engine.fleet, clock.now)] == ["ann", "bob"]
    assert coming_due(engine.fleet, clock.now) is None
    made(engine, "ann")
    assert [app.id for app in due(engine.fleet, clock.now)] == ["bob"]
    coming = coming_due(engine.fleet, clock.now)
    assert coming is not None
    assert timedelta(hours=23) < coming - clock.now <= timedelta(hours=24)
    made(engine, "bob")
    assert due(engine.fleet, clock.now + timedelta(hours=23)) == []
    assert len(due(engine.fleet, clock.now + timedelta(hours=24))) == 2
    assert timedelta(hours=23) < next_due(engine.fleet, clock.now) - clock.now <= timedelta(hours=24)


def test_the_service_knows_of_a_set_as_soon_as_it_is_made(engine: Engine) -> None:
    sources = Sources(lambda: engine)
    before = sources.freshness()
    assert before["ann"].message == "has no backup yet"
    assert sources.freshness() is before
    made(engine, "ann")
    after = sources.freshness()
    assert after["ann"].status is Status.HEALTHY
    assert after["bob"].message == "has no backup yet"


def test_a_set_that_nobody_has_scheduled_is_known_all_the_same(engine: Engine, clock: Clock) -> None:
    made(engine)
    assert last_sets(engine.project, engine.state)["ann"].every == timedelta(hours=24)
    bare = replace(engine.project, backup_declared=False)
    found = last_sets(bare, engine.state)
    assert [(app, each.newest, each.every) for app, each in found.items()] == [("ann", START, None)]


def test_health_tells_of_sets_that_are_missing_old_failed_or_bad(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    assert "has no backup yet" in health(engine, clock.now).message
    copy = made(engine)
    assert tried(engine, copy).ok
    well = health(engine, clock.now)
    assert (well.status, last_sets(engine.project, engine.state)["ann"].newest) == (Status.HEALTHY, START)
    late = health(engine, clock.now + timedelta(days=3))
    assert (late.status, late.fix) == (Status.DEGRADED, "multidb backup ann")
    assert "3 d old" in late.message
    FAULTS["backup ann"] = ArchiveError("the disk is gone")
    clock.now += timedelta(days=1)
    assert not scheduled(engine, clock).ok
    assert "the disk is gone" in health(engine, clock.now).message
    FAULTS.clear()
    second = made(engine)
    (folder_of(second, tmp_path) / "drawer/rows.txt.zst").write_bytes(b"")
    assert not tried(engine, second).ok
    assert f"set {second.id} does not verify" in health(engine, clock.now).message
    ONE_PLACE.add("drawer")
    assert not tried(engine, copy).ok
    assert f"set {second.id} does not verify" in health(engine, clock.now).message, "an older set says nothing of it"
    clock.now += timedelta(minutes=1)
    assert not tried(engine, made(engine)).ok
    assert "does not verify" not in health(engine, clock.now).message, "with the newer one nothing is known to be wrong"


def test_a_new_app_has_one_interval_for_its_first_set(engine: Engine, clock: Clock) -> None:
    with engine.state.change(FIRST_ISSUED) as first_issued:
        first_issued["ann"] = START.isoformat()
    soon = health(engine, START + timedelta(hours=23))
    assert soon.status is Status.HEALTHY
    assert soon.message == "has no backup yet; made 23 h ago, and one every 24 h is wanted"
    assert health(engine, START + timedelta(hours=25)).status is Status.DEGRADED
    assert health(engine, START - timedelta(hours=1)).status is Status.DEGRADED, "a clock is wrong"
    assert health(engine, START, "bob").status is Status.DEGRADED, "nobody knows how long it has been there"
    assert [app.id for app in due(engine.fleet, START)] == ["ann", "bob"]
    FAULTS["backup ann"] = ArchiveError("the disk is gone")
    assert not scheduled(engine, clock).ok
    failed = health(engine, START)
    assert failed.status is Status.DEGRADED
    assert "the disk is gone" in failed.message


def test_a_restore_learns_of_the_sets_that_nobody_has_made_here(engine: Engine, clock: Clock) -> None:
    copy = made(engine)
    assert tried(engine, copy).ok
    clock.now += timedelta(days=1)
    second = made(engine)

    def restored() -> LastSets:
        source = SetSource(repository(engine.fleet), copy)
        restore(engine, source, "ann", replace=True, safety=False, progress=quiet)
        return last_sets(engine.project, engine.state)["ann"]

    Journal(engine.state).forget("ann")
    assert last_sets(engine.project, engine.state)["ann"].newest is None
    known = restored()
    assert (known.newest, known.verified) == (clock.now, START)
    assert health(engine, clock.now).status is Status.HEALTHY
    Journal(engine.state).learn("ann", newest=second.id, when=START.isoformat(), verified_set=None)
    known = restored()
    assert (known.newest, known.verified) == (START, None), "what is known is not replaced"


def test_health_says_why_the_logins_are_off(engine: Engine, clock: Clock) -> None:
    made(engine)
    assert health(engine, clock.now).status is Status.HEALTHY
    Journal(engine.state).begin(PAUSED, "ann", {})
    told = health(engine, clock.now)
    assert (told.status, told.message) == (Status.DEGRADED, "its logins are off while a set of it is made")
    assert "logins" not in health(engine, clock.now, "bob").message


def test_nobody_is_told_of_backups_that_the_manifest_does_not_speak_of(tmp_path: Path, data: Path) -> None:
    silent = make_engine(tmp_path, data, MANIFEST.partition("backup:")[0])
    assert freshness(silent.project, silent.state, silent.project.apps["ann"], START) is None
    own = MANIFEST.partition("backup:")[0].replace("drawer]}", "drawer], backup: {every: 1h}}")
    engine = make_engine(tmp_path, data, own)
    assert settings(engine.project, engine.project.apps["ann"]).every == timedelta(hours=1)
    assert health(engine, START).status is Status.DEGRADED


def test_an_app_says_what_differs_and_its_sets_say_it_as_the_manifest_does(tmp_path: Path, data: Path) -> None:
    shared = MANIFEST.replace("verify: always", "verify: daily, keep: {last: 9, weekly: 1}, quiesce: true")
    own = {"every": "36h", "keep": {"daily": 2}, "quiesce": False}
    engine = make_engine(tmp_path, data, shared.replace("drawer]}", f"drawer], backup: {json.dumps(own)}}}"))
    ann = engine.project.apps["ann"]
    assert settings(engine.project, ann) == Settings(
        every=timedelta(hours=36),
        to=("sets/",),
        keep=Keep(last=9, daily=2, weekly=1, monthly=0),
        verify=timedelta(days=1),
        quiesce=False,
        recipients=(),
        declared=True,
    )
    assert declaration(ann) == {"stores": ["cabinet", "drawer"], "backup": own}


def test_proofs_are_due_as_often_as_the_manifest_says(tmp_path: Path, data: Path, clock: Clock) -> None:
    engine = make_engine(tmp_path, data, MANIFEST.replace("always", "weekly"))
    app = engine.project.apps["ann"]
    done = scheduled(engine, clock)
    assert {each.copy.app for each in done.verified} == {"ann", "bob"}
    for day in range(1, 9):
        clock.now = START + timedelta(days=day)
        Journal(engine.state).learn("ann", verified=START.isoformat())  # the real clock wrote it
        assert verification_due(engine.fleet, app, clock.now) == (day >= 7)


def test_a_scheduled_run_proves_and_prunes_and_one_that_was_asked_for_does_not(
    tmp_path: Path, data: Path, clock: Clock
) -> None:
    text = MANIFEST.replace("verify:", "keep: {last: 2, daily: 0, weekly: 0}, verify:").replace("sets/", "sets/, more/")
    engine = make_engine(tmp_path, data, text)
    ids = []
    for day in range(4):
        clock.now = START + timedelta(days=day)
        done = scheduled(engine, clock)
        assert done.ok, done.document()
        ids.append(next(each.made.id for each in done.made if each.app == "ann" and each.made))
    for target in ("sets/", "more/"):
        assert [copy.id for copy in repository(engine.fleet, [target]).copies(["ann"])] == [ids[3], ids[2]]
        assert repository(engine.fleet, [target]).find("ann").verified
    run_backups(engine, Scope(apps=frozenset({"ann"})), scheduled=False, progress=quiet)
    assert len(repository(engine.fleet, ["sets/"]).copies(["ann"])) == 3


def test_what_no_server_can_try_is_tried_as_often_as_the_rest_and_pruned(
    tmp_path: Path, data: Path, clock: Clock
) -> None:
    engine = make_engine(tmp_path, data, MANIFEST.replace("always", "weekly"))
    ONE_PLACE.add("drawer")
    app, policy = engine.project.apps["ann"], {"ann": Keep(last=1, daily=0, weekly=0)}
    copies = []
    for minutes in range(3):
        clock.now = START + timedelta(minutes=minutes)
        copies.append(made(engine))
    assert verification_due(engine.fleet, app, datetime.now(UTC))
    assert not tried(engine, copies[1]).ok
    assert not verification_due(engine.fleet, app, datetime.now(UTC))
    assert verification_due(engine.fleet, app, datetime.now(UTC) + timedelta(days=8))
    assert [copy.id for copy in decide(repository(engine.fleet), policy, clock.now).going] == [copies[0].id]
    ONE_PLACE.clear()
    assert tried(engine, copies[0]).ok
    assert [copy.id for copy in decide(repository(engine.fleet), policy, clock.now).going] == [copies[1].id]


def test_pruning_removes_no_verified_set_for_an_unverified_one(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    copies = []
    for day in range(5):
        clock.now = START + timedelta(days=day)
        copies.append(made(engine))
    home, policy = repository(engine.fleet), {"ann": Keep(last=1, daily=0, weekly=0)}
    assert decide(home, policy, clock.now).going == ()  # none was verified
    assert tried(engine, copies[1]).ok
    pruning = decide(home, policy, clock.now)
    assert {copy.id for copy in pruning.going} == {copies[0].id, copies[2].id, copies[3].id}
    assert carry_out(home, pruning) == []
    assert {copy.id for copy in home.copies()} == {copies[1].id, copies[4].id}
    (folder_of(copies[4], tmp_path) / "manifest.json").unlink()  # half removed
    assert decide(home, policy, clock.now).half_made == ()  # it may be on its way
    assert len(decide(home, policy, clock.now + timedelta(days=2)).half_made) == 1


def test_a_final_set_is_proved_and_never_pruned(engine: Engine, clock: Clock) -> None:
    last = final_set(engine, "ann", None, quiet, command="remove-app ann")
    copy = repository(engine.fleet).find(last)
    assert copy.verified
    assert copy.backup_set is not None
    assert copy.backup_set.reason is Reason.FINAL
    clock.now += timedelta(days=1)
    assert tried(engine, made(engine)).ok
    assert decide(repository(engine.fleet), {"ann": Keep(last=1, daily=0, weekly=0)}, clock.now).going == ()
    ONE_PLACE.add("drawer")
    with pytest.raises(ArchiveError, match="could not be verified: drawer"):
        final_set(engine, "bob", None, quiet, command="remove-app bob")


def test_each_work_of_the_sidecar_has_turns_of_its_own() -> None:
    """What has failed waits as long as it said, however often the rest is done."""
    ended, done = threading.Event(), Counter[str]()

    def often() -> timedelta:
        done["often"] += 1
        if done["often"] == 5:
            ended.set()
        return timedelta(milliseconds=1)

    def seldom() -> timedelta:
        done["seldom"] += 1
        raise ArchiveError("no space is left")

    by_turns((often, seldom), Output("backup"), ended)
    assert done == {"often": 5, "seldom": 1}


def test_clones_are_nobodys_to_back_up_and_expire(tmp_path: Path, data: Path) -> None:
    labels = "labels: {clone_of: ann, expires: '2026-03-01T12:00:00+00:00'}"
    engine = make_engine(tmp_path, data, MANIFEST.replace("cabinet: {colour: blue}", labels))
    assert [app.id for app in due(engine.fleet, START)] == ["ann"]
    assert freshness(engine.project, engine.state, engine.project.apps["bob"], START) is None
    apps = engine.project.apps
    assert expired(apps, START) == []
    assert [app.id for app in expired(apps, START + timedelta(seconds=1))] == ["bob"]
    only_labelled = App("carl", "carl", {}, labels={"expires": "2020-01-01T00:00:00+00:00"})
    for_good = App("dora", "dora", {}, labels={"clone_of": "ann"})
    assert expired({"carl": only_labelled, "dora": for_good}, START) == []


def test_what_only_one_app_can_have_is_not_cloned() -> None:
    entry = entry_for({"stores": ["redis"], "tenant_id": "me", "redis": {"db": 3}, "labels": {"tier": "gold"}})
    assert entry == {"stores": ["redis"], "labels": {"tier": "gold"}}
    assert "labels" not in entry_for({"labels": {"clone_of": "bob", "expires": "2020-01-01T00:00:00+00:00"}})


def test_a_clone_has_none_of_its_originals_channels() -> None:
    original = {"stores": ["redis"], "redis": {"channels": ["jobs:*"], "db": 3}}
    assert entry_for(original)["redis"] == {"channels": []}
    assert entry_for(original, shared=True)["redis"] == {"channels": ["jobs:*"]}
    assert shared_options(original) == {"redis": {"channels": ["jobs:*"]}}
    assert shared_options(entry_for(original)) == {}


YEARS = timedelta(days=800)


def test_a_set_that_is_dated_in_the_future_is_due_and_said(engine: Engine, clock: Clock) -> None:
    made(engine, "bob")
    clock.now = START + YEARS
    made(engine, "ann")
    clock.now = START + timedelta(hours=1)
    assert [app.id for app in due(engine.fleet, clock.now)] == ["ann"]
    assert next_due(engine.fleet, clock.now) == clock.now
    found = health(engine, clock.now)
    assert found.status is Status.DEGRADED
    assert "which has not come" in found.message
    assert found.fix == "multidb backup ann"
    made(engine, "ann")
    assert due(engine.fleet, clock.now) == []
    assert "which has not come" not in health(engine, clock.now).message


def test_a_clock_that_is_a_little_ahead_is_no_reason(engine: Engine, clock: Clock) -> None:
    clock.now = START + timedelta(minutes=4)
    made(engine, "ann")
    assert [app.id for app in due(engine.fleet, START)] == ["bob"]


def test_a_proof_that_is_dated_in_the_future_is_none(engine: Engine, clock: Clock) -> None:
    app = engine.project.apps["ann"]
    Journal(engine.state).learn("ann", verified=(START + YEARS).isoformat())
    assert verification_due(engine.fleet, app, START)


def test_a_set_that_is_dated_in_the_future_takes_nobodys_place(engine: Engine, clock: Clock) -> None:
    clock.now = START + YEARS
    ahead = made(engine)
    assert tried(engine, ahead).ok
    clock.now = START
    first = made(engine)
    clock.now = START + timedelta(hours=1)
    second = made(engine)
    for copy in (first, second):
        assert tried(engine, copy).ok
    home = repository(engine.fleet)
    decisions = {
        each.copy.id: each for each in decide(home, {"ann": Keep(last=1, daily=0, weekly=0)}, clock.now).decisions
    }
    assert "future" in decisions[ahead.id].why
    kept = {name: each.keep for name, each in decisions.items()}
    assert kept == {ahead.id: True, second.id: True, first.id: False}


def test_what_was_begun_by_a_wrong_clock_is_cleared_away(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    clock.now = START + YEARS
    copy = made(engine)
    (folder_of(copy, tmp_path) / "manifest.json").unlink()
    (half,) = repository(engine.fleet).half_made()
    assert not half.abandoned(START + YEARS)
    assert half.abandoned(START)


def test_an_archive_that_is_behind_is_said_and_one_that_is_not_says_how_far_it_is(engine: Engine, clock: Clock) -> None:
    made(engine, "ann")
    app, now = engine.project.apps["ann"], clock.now
    store = next(iter(app.stores))

    class Archived(Backup):
        def continuous(self, name: str) -> Continuous:
            return Continuous.model_validate({"continuous": name == store, "lag": "10min"})

    backup = Archived.model_validate(engine.project.backup.model_dump(exclude={"keep", "encrypt"}, exclude_unset=True))
    project = replace(engine.project, backup=backup)
    server = next(spec.name for spec in project.servers if spec.store == store)

    def of(**note: object) -> Health:
        with engine.state.change("continuous") as section:
            section.clear()
            section.update(
                {server: {"stream": "s", "identity": "1", "last": "", "snapshot": "", **note}} if note else {}
            )
        answer = freshness(project, engine.state, app, now)
        assert answer is not None
        return answer

    since, recent, old = (
        now.isoformat(),
        (now - timedelta(minutes=5)).isoformat(),
        (now - timedelta(days=2)).isoformat(),
    )
    assert of().status is Status.DEGRADED  # nothing yet
    assert of(since=since, when=recent).status is Status.DEGRADED  # no base backup
    well = of(since=since, when=recent, base=recent)
    assert well.status is Status.HEALTHY
    assert "any moment until 5 min ago" in well.message
    assert "not new" in of(since=since, when=(now - timedelta(minutes=11)).isoformat(), base=recent).message
    assert "base backup" in of(since=since, when=recent, base=old).message
    failed = of(since=since, when=recent, base=recent, failed={"when": recent, "message": "disk full"})
    assert (failed.status, "disk full" in failed.message) == (Status.DEGRADED, True)
    assert last_sets(project, engine.state)["ann"].moments is not None
    assert last_sets(engine.project, engine.state)["ann"].moments is None
