"""Backup work that is under way, as another process reads of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from multidb.backup import jobs
from multidb.backup.jobs import JobFile, recording
from multidb.backup.journal import MAKING, Journal, exclusively
from multidb.errors import Locked
from multidb.model import PROGRESS_TIMEOUT, unwatched
from multidb.secrets import Secret
from multidb.state import ProjectState

NOBODY: frozenset[str] = frozenset()


@pytest.fixture
def state(tmp_path: Path) -> ProjectState:
    return ProjectState(tmp_path)


def now() -> datetime:
    return datetime.now(UTC)


def written(state: ProjectState, **changes: Any) -> None:
    with recording(state, "backup", unwatched) as progress:
        progress("ann", "postgres: dumping", 1, 4)
        document = json.loads((state.folder / "backup-progress.json").read_text())
    state.folder.mkdir(exist_ok=True)
    (state.folder / "backup-progress.json").write_text(json.dumps({**document, **changes}))


def test_what_is_told_is_passed_on_and_seen_by_others_until_the_work_ends(state: ProjectState) -> None:
    told: list[tuple[Any, ...]] = []
    held = Secret("a-credential-of-ann")
    with exclusively(state, "backup", lambda *what: told.append(what)) as progress:
        assert JobFile(state).jobs(NOBODY, now()) == (), "nothing is said yet"
        progress("ann", f"postgres: {held.reveal()}\x1b[2J", 3, 4)
        assert told == [("ann", f"postgres: {held.reveal()}\x1b[2J", 3, 4)]
        (job,) = JobFile(state).jobs(NOBODY, now())
        assert (job.command, job.subject, job.share) == ("backup", "ann", 0.75)
        assert job.message == "postgres: ***\N{REPLACEMENT CHARACTER}[2J"
        assert now() - job.since < timedelta(minutes=1)
        path = state.folder / "backup-progress.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    assert JobFile(state).jobs(NOBODY, now()) == ()


def test_it_ends_with_an_error_too_and_nobody_elses_run_takes_it_away(state: ProjectState) -> None:
    def failing() -> None:
        with recording(state, "backup", unwatched) as progress:
            progress("ann", "dumping")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert JobFile(state).jobs(NOBODY, now()) == ()
    with exclusively(state, "backup") as progress:
        progress("ann", "dumping")
        with pytest.raises(Locked), exclusively(state, "restore"):
            pass
        assert [job.subject for job in JobFile(state).jobs(NOBODY, now())] == ["ann"]


def test_every_app_that_is_worked_on_is_shown_and_else_the_last_one_heard_of(state: ProjectState) -> None:
    entry = {"message": "m", "share": None, "at": now().isoformat()}
    older = {**entry, "at": (now() - timedelta(seconds=9)).isoformat()}
    written(state, work={"ann": older, "bob": entry, "cat": older})
    shown = lambda working: {job.subject for job in JobFile(state).jobs(frozenset(working), now())}  # noqa: E731
    assert shown([]) == shown(["dan"]) == {"bob"}
    assert shown(["ann", "cat", "dan"]) == {"ann", "cat"}
    Journal(state).begin(MAKING, "ann", {"folder": "shop/ann/x", "to": []})
    assert Journal(state).working == {"ann"}


def test_it_is_written_once_a_second_at_most_and_read_when_it_has_changed(
    state: ProjectState, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    reader = JobFile(state)
    with recording(state, "backup", unwatched) as progress:
        messages = []
        for second, subject, message in ((0, "ann", "1"), (0.9, "ann", "2"), (0.9, "bob", "3"), (1.9, "ann", "4")):
            clock[0] = 100 + second
            progress(subject, message)
            messages.append({job.subject: job.message for job in reader.jobs(frozenset({"ann", "bob"}), now())})
        path = state.folder / "backup-progress.json"
        before = path.stat()
        path.write_text("x" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert len(reader.jobs(frozenset({"ann", "bob"}), now())) == 2, "it is not read again"
    assert messages == [{"ann": "1"}, {"ann": "1"}, {"ann": "2", "bob": "3"}, {"ann": "4", "bob": "3"}]


def test_of_a_run_that_died_or_says_nothing_any_more_nothing_is_shown(state: ProjectState) -> None:
    written(state)
    assert JobFile(state).jobs(NOBODY, now())
    assert not JobFile(state).jobs(NOBODY, now() + timedelta(seconds=PROGRESS_TIMEOUT + 5))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    written(state, pid=dead.pid)
    assert not JobFile(state).jobs(NOBODY, now())
    written(state, pid=dead.pid, host="another.example")
    assert JobFile(state).jobs(NOBODY, now()), "its processes cannot be seen from here"


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"pid": 0}, {"pid": "1"}, {"work": []}, {"work": {}}, {"since": "yesterday"}, {"more": 1}],
)
def test_what_cannot_be_understood_is_no_work(state: ProjectState, changes: dict[str, Any]) -> None:
    written(state, **changes)
    assert JobFile(state).jobs(NOBODY, now()) == ()
