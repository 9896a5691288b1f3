"""What the service sees of sets, credentials and work under way, without asking a server."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from multidb.backup import creation
from multidb.backup.jobs import recording
from multidb.backup.run import run_backups
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.history import RunHistory
from multidb.model import unwatched
from multidb.service import sources
from multidb.service.sources import Sources
from tests.unit.backup.conftest import MANIFEST, make_engine


@pytest.fixture
def two_targets(tmp_path: Path, data: Path) -> Engine:
    return make_engine(tmp_path, data, MANIFEST.replace("[sets/]", "[sets/, more/]"))


def back_up(engine: Engine, app: str) -> None:
    assert run_backups(engine, Scope(apps=frozenset({app})), scheduled=False, progress=unwatched).ok


def test_the_newest_sets_of_each_app_on_each_target_are_seen(
    two_targets: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        back_up(two_targets, "ann")
    back_up(two_targets, "bob")
    monkeypatch.setattr(sources, "SETS_SHOWN", 2)
    seen = Sources(lambda: two_targets).sets()
    assert seen.problems == {}
    every = creation.repository(two_targets.fleet).copies()
    newest = sorted({copy.id for copy in every if copy.app == "ann"})[-2:]
    assert {copy.id for copy in seen.copies if copy.app == "ann"} == set(newest)
    assert len([copy for copy in seen.copies if copy.app == "ann"]) == 4, "two on each target"
    assert len([copy for copy in seen.copies if copy.app == "bob"]) == 2
    assert [copy.id for copy in seen.copies] == sorted((copy.id for copy in seen.copies), reverse=True)
    assert all(copy.verified for copy in seen.copies)
    monkeypatch.setattr(sources, "MOST_SETS", 4)
    assert len(Sources(lambda: two_targets).sets().copies) == 4, "of many apps fewer each"


def test_a_target_that_cannot_be_read_costs_its_own_sets_only(two_targets: Engine, tmp_path: Path) -> None:
    back_up(two_targets, "ann")
    shutil.rmtree(tmp_path / "more")
    (tmp_path / "more").write_text("no folder")
    seen = Sources(lambda: two_targets).sets()
    assert [copy.target.name for copy in seen.copies] == ["sets/"]
    assert list(seen.problems) == ["more/"]


def test_what_is_recorded_is_one_value_as_long_as_it_says_the_same(engine: Engine) -> None:
    looks = Sources(lambda: engine)
    before = looks.records()
    assert set(before.credentials) == {(app.id, store) for app in engine.project.apps.values() for store in app.stores}
    assert (before.jobs, dict(before.histories)) == ((), {})
    assert looks.records() is before
    with recording(engine.state, "backup", unwatched) as progress:
        progress("ann", "dumping", 1, 2)
        (job,) = looks.records().jobs
        assert (job.subject, job.share) == ("ann", 0.5)
        assert looks.records() is looks.records()
    assert looks.records() == before
    checked = looks.health()
    assert set(looks.records().histories) == {(check.app, check.store) for check in checked.checks}
    with engine.state.change("issued") as issued:
        issued["ann"] = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    (ages, *others) = [age for (app, _), age in looks.records().credentials.items() if app == "ann"]
    assert ages.issued is not None
    assert datetime.now(UTC) - ages.issued > timedelta(days=2)
    assert all(age == ages for age in others)


def test_of_the_history_the_newest_runs_of_all_and_of_each_app_are_read(engine: Engine) -> None:
    kept = RunHistory(engine.state)
    for app, runs in (("bob", 3), ("ann", 103)):
        for _ in range(runs):
            with kept.recording("apply", [app], lost=pytest.fail):
                pass
    seen = Sources(lambda: engine).history()
    assert len(seen.of_app("ann", 1000)) == 100
    assert len(seen.of_app("bob", 1000)) == 3, "however long ago"
    assert seen.of_app("ann", 2) == tuple(reversed(kept.runs()))[:2], "the newest first"
    assert (seen.problems, seen.way_on) == ((), "")
    lines = Path(kept.title) / "runs.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    altered = Sources(lambda: engine).history()
    assert altered.problems
    assert "multidb history --begin-anew" in altered.way_on
