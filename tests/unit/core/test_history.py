"""The history: every run leaves two lines, and no line can be taken out or altered without being noticed."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from multidb.errors import MultidbError, Refused, UsageError
from multidb.history import RunHistory, RunOutcome
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support.command import REPOSITORY

SECRET = "hush-hush-hush-hush"


@pytest.fixture
def history(tmp_path: Path) -> RunHistory:
    return RunHistory(ProjectState(tmp_path))


def lose(error: MultidbError) -> None:
    raise AssertionError(error)


def run(history: RunHistory, app: str, command: str = "apply") -> None:
    with history.recording(command, [app], lost=lose) as record:
        record.add("create", "app", app, app)


def path_of(history: RunHistory) -> Path:
    return Path(history.title) / "runs.jsonl"


def lines_of(history: RunHistory) -> list[bytes]:
    return path_of(history).read_bytes().splitlines(keepends=True)


def test_a_run_says_who_did_what_where_and_when(history: RunHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["multidb", "apply", "ann", "--yes"])
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    for name, value in (("SERVER_URL", "https://example.org"), ("REPOSITORY", "a/b"), ("RUN_ID", "7")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    run(history, "ann")
    (recorded,) = history.runs()
    assert (recorded.command, recorded.arguments, recorded.apps) == ("apply", ("apply", "ann", "--yes"), ("ann",))
    assert recorded.who == f"octocat ({recorded.user}@{recorded.host})"
    assert recorded.job == "https://example.org/a/b/actions/runs/7"
    assert recorded.outcome is RunOutcome.DONE
    assert recorded.ended is not None
    assert recorded.ended >= recorded.begun
    assert [change.name for change in recorded.changes] == ["ann"]
    assert stat.S_IMODE(path_of(history).stat().st_mode) == 0o600


def test_the_account_is_the_real_one_whatever_the_environment_says(
    history: RunHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(history, "ann")
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "somebody_else")
    run(history, "ann")
    assert len({recorded.user for recorded in history.runs()}) == 1


@pytest.mark.parametrize(
    ("raised", "changes", "outcome"),
    [
        (Refused("it is in use", where="app ann"), 0, RunOutcome.FAILED),
        (Refused("it is in use", where="app ann"), 1, RunOutcome.PARTLY),
        (KeyboardInterrupt(), 1, RunOutcome.INTERRUPTED),
        (ZeroDivisionError(), 0, RunOutcome.FAILED),
    ],
)
def test_what_goes_wrong_is_recorded_and_raised(
    history: RunHistory, raised: BaseException, changes: int, outcome: RunOutcome
) -> None:
    def changing() -> None:
        with history.recording("purge", ["ann"], lost=lose) as record:
            for _ in range(changes):
                record.add("delete", "role", "ann_user", "ann")
            raise raised

    with pytest.raises(type(raised)):
        changing()
    (recorded,) = history.runs()
    assert recorded.outcome is outcome
    refused = {"code": "refused", "message": "it is in use", "where": "app ann"}
    assert recorded.error == (refused if isinstance(raised, Refused) else None)


def test_no_secret_is_in_it(history: RunHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret(SECRET)
    arguments = ["--to", f"s3://key:{SECRET}@host/x", "--x=" + secret.reveal(), "http://u:pw1@h", "a?token=pw2&b=1"]
    monkeypatch.setattr(sys, "argv", ["multidb", "backup", *arguments, "sftp://pw3@host", "line\nbreak\x1b[2J"])
    monkeypatch.setenv("MULTIDB_ACTOR", SECRET)
    with history.recording("backup", [], lost=lose) as record:
        record.add("create", "set", f"x{SECRET}", "ann")
        record.error = UsageError(f"no: {SECRET} postgresql://a:pw4@h/db")
    text = path_of(history).read_text()
    assert not [value for value in (SECRET, "pw1", "pw2", "pw3", "pw4", "\x1b") if value in text]
    assert "b=1" in history.runs()[0].arguments[5]
    assert len(lines_of(history)) == 2


# --- lines that are missing or altered -------------------------------------------------------------------------------


def _without(position: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for number, line in enumerate(lines) if number != position]


def _altered(position: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [
        line.replace(b'"apply"', b'"purge"').replace(b'"done"', b'"failed"') if number == position else line
        for number, line in enumerate(lines)
    ]


_TAMPERING: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    **{f"without {position}": _without(position) for position in range(6)},
    **{f"altered {position}": _altered(position) for position in range(6)},
    "swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "twice": lambda lines: [*lines, lines[-1]],
    "garbage": lambda lines: [*lines[:3], b"garbage\n", *lines[4:]],
    "garbage more": lambda lines: [*lines[:3], b"\x00\xff{}\n", *lines[3:]],
    "empty": lambda lines: [],
    "last two": lambda lines: lines[:-2],
    "first two": lambda lines: lines[2:],
}


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("tampering", _TAMPERING)
def test_what_is_missing_or_altered_is_noticed_also_when_more_is_written_after_it(
    history: RunHistory, tampering: str, goes_on: bool
) -> None:
    for app in ("ann", "bob", "eve"):
        run(history, app)
    assert history.verify().whole, "the control"
    before = lines_of(history)
    after = _TAMPERING[tampering](before)
    assert after != before
    path_of(history).write_bytes(b"".join(after))
    if goes_on:
        run(history, "joe")
    chain = history.verify()
    assert not chain.whole
    assert all(problem for problem in chain.problems)
    history.runs()  # what is left can be read


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("without 0", "entry 1, before line 1, is missing"),
        ("without 5", "entry 6, at the end, is missing"),
        ("last two", "entries 5 to 6, at the end, are missing"),
        ("first two", "entries 1 to 2, before line 1, are missing"),
        ("altered 5", "line 6 was altered"),
        ("twice", "line 7 stands where it does not belong"),
        ("garbage", "line 4 cannot be read"),
        ("empty", "entries 1 to 6, at the end, are missing"),
    ],
)
def test_what_is_wrong_is_named(history: RunHistory, tampering: str, problem: str) -> None:
    for app in ("ann", "bob", "eve"):
        run(history, app)
    path_of(history).write_bytes(b"".join(_TAMPERING[tampering](lines_of(history))))
    assert history.verify().problems[0] == problem


def test_any_byte_that_is_altered_is_noticed(history: RunHistory) -> None:
    for app in ("ann", "bob"):
        run(history, app)
    whole, seed = path_of(history).read_bytes(), random.randrange(10**6)
    chosen = random.Random(seed)
    for _ in range(200):
        position, bit = chosen.randrange(len(whole)), 1 << chosen.randrange(8)
        path_of(history).write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        assert not history.verify().whole, f"seed {seed}: byte {position}, bit {bit}"
    path_of(history).write_bytes(whole)
    assert history.verify().whole


@pytest.mark.parametrize("name", ["runs.jsonl", "head.json"])
def test_a_file_that_is_gone_is_noticed(history: RunHistory, name: str) -> None:
    run(history, "ann")
    path_of(history).with_name(name).unlink()
    assert not history.verify().whole


def test_no_history_is_no_problem_and_looking_makes_none(history: RunHistory) -> None:
    assert history.verify().whole
    assert history.runs() == []
    assert not path_of(history).parent.exists()


# --- runs that end by force, disks that are full ---------------------------------------------------------------------

_RUN = """\
import sys
from pathlib import Path
from multidb.history import RunHistory
from multidb.state import ProjectState

def lost(error):
    print("lost:", error)

with RunHistory(ProjectState(Path(sys.argv[1]))).recording("apply", ["ann"], lost=lost) as record:
    print("begun", flush=True)
    sys.stdin.readline()
"""


def begun(folder: Path, **options: object) -> subprocess.Popen[str]:
    pipe, env = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", _RUN, str(folder)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env, **options)  # type: ignore[call-overload,no-any-return]


def test_a_run_that_is_killed_has_begun_and_not_ended(tmp_path: Path, history: RunHistory) -> None:
    process = begun(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert [recorded.outcome for recorded in history.runs()] == [RunOutcome.RUNNING]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [recorded.outcome for recorded in history.runs()] == [RunOutcome.UNFINISHED]
    run(history, "bob")
    assert [recorded.outcome for recorded in history.runs()] == [RunOutcome.UNFINISHED, RunOutcome.DONE]
    assert history.verify().whole


def test_what_a_crash_has_left_of_a_line_is_no_line(history: RunHistory) -> None:
    run(history, "ann")
    for left in (b'{"version": 1, "number": 3, "prev', b"\xff"):
        with path_of(history).open("ab") as file:
            file.write(left)
        assert history.verify().whole
        run(history, "bob")
        assert history.verify().whole
    assert len(history.runs()) == 3


def test_a_last_line_without_its_end_is_kept(history: RunHistory) -> None:
    run(history, "ann")
    path_of(history).write_bytes(path_of(history).read_bytes().rstrip(b"\n"))
    run(history, "bob")
    assert history.verify().whole
    assert len(history.runs()) == 2


def test_between_a_line_and_its_head_nothing_is_lost(history: RunHistory) -> None:
    run(history, "ann")
    head = path_of(history).with_name("head.json").read_bytes()
    run(history, "bob")
    path_of(history).with_name("head.json").write_bytes(head)  # as after a kill just then
    assert history.verify().whole
    run(history, "eve")
    assert history.verify().whole
    assert len(history.runs()) == 3


def test_on_a_full_disk_nothing_is_begun(tmp_path: Path, history: RunHistory) -> None:
    run(history, "ann")
    size = path_of(history).stat().st_size

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))

    process = begun(tmp_path, preexec_fn=limited)
    out, err = process.communicate()
    assert (out, "cannot be written" in err) == ("", True)
    assert path_of(history).stat().st_size == size
    assert history.verify().whole


def test_an_end_that_cannot_be_written_is_said_and_changes_no_result(history: RunHistory) -> None:
    lost: list[MultidbError] = []
    with history.recording("apply", ["ann"], lost=lost.append):
        path_of(history).rename(path_of(history).with_suffix(".away"))
        path_of(history).mkdir()
    assert len(lost) == 1


def test_runs_side_by_side_lose_no_line(history: RunHistory) -> None:
    def work(number: int) -> None:
        for _ in range(5):
            run(RunHistory(ProjectState(path_of(history).parents[2])), f"app{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert history.verify().whole
    assert len(history.runs()) == 20
    assert len(lines_of(history)) == 40


def test_a_run_that_changed_very_much_is_cut_and_says_so(history: RunHistory) -> None:
    with history.recording("apply", [], lost=lose) as record:
        for number in range(1200):
            record.add("create", "role", f"role{number}")
    (recorded,) = history.runs()
    assert (len(recorded.changes), recorded.changes_left_out) == (1000, 200)


def test_lines_that_are_not_ours_are_passed_over(history: RunHistory) -> None:
    run(history, "ann")
    for entry in ({"event": "begun"}, {"event": "ended", "run": "x", "apps": ["../x"]}, {"event": "other"}):
        history.append(entry)
    assert len(history.runs()) == 1
    assert history.verify().whole
    assert json.loads(lines_of(history)[-1])["number"] == 5
