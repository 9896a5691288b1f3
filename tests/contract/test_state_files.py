"""What is kept beside the state (the history, sizes, checks, baselines) is the project's in every place of it: on the
real thing, a folder, S3 as SeaweedFS and (with --all) moto have it, Postgres, and a place that another package adds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from multidb.baseline import Baseline
from multidb.errors import MultidbError, Refused, StateUnavailable
from multidb.health import Checked, HealthReport
from multidb.health_history import HealthHistory
from multidb.history import RunHistory, RunOutcome
from multidb.history_lines import HEAD, SharedLines
from multidb.model import Health, Status
from multidb.state import ProjectState, holder
from multidb.state_file import StateFile
from multidb.state_folder import FolderStateStore
from multidb.state_store import StateStore
from multidb.state_stores.move import move_state
from multidb.usage import History, Look
from tests.contract.test_state_stores import Place, moto, place, postgres, postgres15, seaweed, toy  # noqa: F401
from tests.support import seaweedfs

pytestmark = pytest.mark.server

_NAME = "usage.jsonl"
_ODD = 'it\'s \\ "quoted" \\n, and\nof two lines: ñ\n'
_NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def in_folder(path: Path) -> ProjectState:
    return ProjectState(path)


def shared(store: StateStore, path: Path) -> ProjectState:
    """The state of a project that is kept there, as one machine has it."""
    return ProjectState(path, store=store)


def lose(error: MultidbError) -> None:
    raise AssertionError(error)


def run(history: RunHistory, app: str, command: str = "apply") -> None:
    with history.recording(command, [app], lost=lose) as record:
        record.add("create", "app", app, app)


def side_by_side(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_text_is_written_in_the_place_of_what_was_read(place: Place) -> None:  # noqa: F811
    one, other = place.open(), place.open()
    assert one.read_file(_NAME).text is None
    assert one.read_file(_NAME).version is None
    assert one.file_names() == []
    assert one.write_file(_NAME, _ODD, None)
    kept = other.read_file(_NAME)
    assert kept.text == _ODD
    assert not other.write_file(_NAME, "of nothing", None)
    assert other.write_file(_NAME, "second", kept.version)
    assert not one.write_file(_NAME, "of the first", kept.version)
    assert one.read_file(_NAME).text == "second"
    assert other.write_file("baseline/postgres.json", "{}", None)
    assert other.write_file("history-1/runs.jsonl", "put aside", None)
    assert one.file_names() == ["baseline/postgres.json", _NAME]
    with one.change(holder("test")) as state:  # the state itself is none of these
        state["told"] = {}
    assert other.file_names() == ["baseline/postgres.json", _NAME]


def test_of_changes_at_the_same_time_none_is_lost(place: Place) -> None:  # noqa: F811
    def count() -> None:
        file = StateFile(place.open(), _NAME)
        for _ in range(4):
            file.change(lambda text: f"{int(text or 0) + 1}")

    if place.kind == "moto":  # it compares and writes in two steps, between which others come
        for _ in range(4):
            count()
    else:
        side_by_side([count] * 4)
    file = StateFile(place.open(), _NAME)
    assert file.read() == "16"
    file.change(lambda _: None)
    assert file.read() == "16"
    assert file.set_aside("usage.jsonl.damaged") == "usage.jsonl.damaged"
    file.change(lambda _: "17")
    assert file.set_aside("usage.jsonl.damaged") == "usage.jsonl.damaged-2"
    assert file.read() == ""
    assert place.open().read_file("usage.jsonl.damaged").text == "16"


# --- the history


def lines_there(store: StateStore, size: int = 1500) -> RunHistory:
    history = RunHistory(ProjectState(Path("/nowhere"), store=store))
    history._kept = SharedLines(store, size)
    return history


def test_runs_of_many_machines_lose_no_line(place: Place) -> None:  # noqa: F811
    def work(name: str) -> Callable[[], None]:
        def runs() -> None:
            history = lines_there(place.open())
            for _ in range(2):
                run(history, name)

        return runs

    works = [work(f"app{number}") for number in range(4)]
    for group in [[one] for one in works] if place.kind == "moto" else [works]:
        side_by_side(group)
    history = lines_there(place.open())
    chain = history.verify()
    assert (chain.problems, chain.lines) == ((), 16)
    assert {recorded.outcome for recorded in history.runs()} == {RunOutcome.DONE}
    segments = [name for name in place.open().file_names() if name != HEAD]
    assert segments[:2] == ["history/runs-000002.jsonl", "history/runs-000003.jsonl"]
    assert len(segments) > 3


def test_a_line_beyond_the_head_is_one_of_a_run_that_was_killed_just_then(place: Place) -> None:  # noqa: F811
    store = place.open()
    history = lines_there(store, 1)  # each line in a segment of its own
    run(history, "ann")
    head = store.read_file(HEAD)
    run(history, "bob")
    assert store.write_file(HEAD, head.text or "", store.read_file(HEAD).version)
    assert history.verify().whole
    assert [recorded.apps for recorded in history.runs()] == [("ann",), ("bob",)]
    run(history, "eve")
    chain = history.verify()
    assert (chain.problems, chain.lines) == ((), 6)


@pytest.mark.parametrize("size", [1, 10**6])
def test_what_is_missing_or_altered_is_noticed(place: Place, size: int) -> None:  # noqa: F811
    store = place.open()
    history = lines_there(store, size)
    for app in ("ann", "bob"):
        run(history, app)
    assert history.verify().whole
    name = "history/runs-000002.jsonl" if size == 1 else "history/runs.jsonl"
    kept = store.read_file(name)
    altered = (kept.text or "").replace('"done"', '"failed"', 1)
    assert altered != kept.text
    assert store.write_file(name, altered, kept.version)
    assert history.verify().problems == ("line 2 was altered",)
    assert store.write_file(name, "", store.read_file(name).version)
    assert not history.verify().whole
    run(history, "eve")
    assert not history.verify().whole
    aside = history.begin_anew()
    assert store.read_file(f"{aside}/head.json").text
    assert history.verify().whole
    run(history, "ann")
    assert [recorded.apps for recorded in history.runs()] == [("ann",)]
    with pytest.raises(Refused, match="no run is recorded"):
        RunHistory(shared(FolderStateStore(Path("/nowhere/x")), Path("/nowhere"))).begin_anew()


def test_a_run_of_another_machine_is_at_work_as_long_as_it_holds_a_lock(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place.kind == "folder":  # is of one machine
        return
    history = lines_there(place.open())
    monkeypatch.setattr("socket.gethostname", lambda: "far.example.org")
    history.append({"event": "begun", "run": "1", "command": "apply", **_origin(), "apps": [], "plan": None})
    lock = place.open().lock("apply-postgres", holder("multidb apply"), 1.0)
    with lock:
        monkeypatch.setattr("socket.gethostname", lambda: "here.example.org")
        assert [recorded.outcome for recorded in history.runs()] == [RunOutcome.RUNNING]
    assert [recorded.outcome for recorded in history.runs()] == [RunOutcome.UNFINISHED]


def _origin() -> dict[str, object]:
    from multidb import history

    return history._origin()


# --- a move takes all of it along


def test_a_move_takes_along_what_is_beside_the_state_and_brings_it_back(
    place: Place,  # noqa: F811
    tmp_path: Path,
) -> None:
    if place.kind == "folder":
        return
    root = tmp_path / "project"
    here = in_folder(root)
    there = shared(place.open(), root)
    with here.store.change(holder("test")) as state:
        state["told"] = {}
    for app in ("ann", "bob"):
        run(RunHistory(here), app)
    before = RunHistory(here).verify()
    History(here).add(Look(_NOW, {"ann": {"postgres": 7}}))
    HealthHistory(here).add(_report(_NOW))
    assert here.store.write_file("baseline/postgres.json", '{"ann":{"role ann":"12"}}', None)

    move_state(here.store, there.store, "s3://there", "digi", holder("test"))
    assert RunHistory(there).verify() == before
    assert [look.at for look in History(there).looks()[0]] == [_NOW]
    assert _since(there) == _NOW
    assert Baseline(there, "postgres")._digests == {"ann": {"role ann": "12"}}
    assert RunHistory(here).runs() == []
    assert History(here).looks() == ([], "")

    other = shared(place.open(), tmp_path / "other")  # what another machine adds
    run(RunHistory(other), "eve")
    History(other).add(Look(_NOW + timedelta(hours=1), {"ann": {"postgres": 9}}))
    HealthHistory(other).add(_report(_NOW + timedelta(hours=1)))
    assert [size for _, size in History(there).sizes("ann", "postgres")] == [7, 9]
    whole = RunHistory(there).verify()
    assert (whole.problems, whole.lines) == ((), 6)

    with here.store.change(holder("test")) as state:
        del state["moved"]
    move_state(there.store, here.store, ".multidb/", "digi", holder("test"))
    assert RunHistory(here).verify() == whole
    run(RunHistory(here), "joe")
    assert [recorded.apps for recorded in RunHistory(here).runs()] == [("ann",), ("bob",), ("eve",), ("joe",)]
    assert RunHistory(here).verify().whole
    assert RunHistory(there).runs() == []
    assert _since(here) == _NOW


def _since(state: ProjectState) -> datetime:
    history = HealthHistory(state)
    history.load()
    (of_ann,) = history.places.values()
    return of_ann.since


def _report(at: datetime) -> HealthReport:
    return HealthReport(
        "digi", (Checked("ann", "postgres", "postgres", Health(Status.HEALTHY, "m", 0.01)),), checked_at=at
    )


# --- without rights, without a way


def test_who_may_only_read_looks_and_changes_nothing(
    seaweed: seaweedfs.S3Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from multidb.state_stores.s3 import S3StateStore

    address = f"s3://{seaweedfs.BUCKET}/{tmp_path.name}"

    def of(account: str) -> ProjectState:
        for name, value in seaweedfs.environment(seaweed.url, account).items():
            monkeypatch.setenv(name, value)
        return shared(S3StateStore(address, "digi"), tmp_path / account)

    run(RunHistory(of("admin")), "ann")
    reader = of("reader")
    assert len(RunHistory(reader).runs()) == 1
    with pytest.raises(StateUnavailable, match="may not write"), RunHistory(reader).recording("apply", lost=lose):
        raise AssertionError("nothing is done that is not written down")
    HealthHistory(reader).add(_report(_NOW))
    Baseline(reader, "postgres").forget("ann")
    with pytest.raises(StateUnavailable, match="may not write"):
        History(reader).add(Look(_NOW, {}))
    stranger = of("stranger")
    for look in (RunHistory(stranger).runs, RunHistory(stranger).verify):
        with pytest.raises(StateUnavailable, match="may not read"):
            look()
    looks, note = History(stranger).looks()
    assert looks == []
    assert "growth is not told" in note


# --- a run that is told to end

_RUN = """
import json, sys, time
import multidb.cli, multidb.cli.root
from multidb.history import RunHistory
from multidb.state import ProjectState, holder
from pathlib import Path
from tests.contract.test_state_stores import opened

def app(**_):
    state = ProjectState(Path(sys.argv[2]), store=opened(json.loads(sys.argv[1])))
    with RunHistory(state).recording("apply", ["ann"], lost=print), state.lock("apply-x", "multidb apply"):
        print("held", flush=True)
        time.sleep(120)

multidb.cli.root.app = app
multidb.cli.main()
"""


def test_a_run_that_is_told_to_end_gives_its_locks_back_and_says_so(place: Place, tmp_path: Path) -> None:  # noqa: F811
    given = json.dumps({**place.where, "kind": place.kind, "project": "digi"})
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, given, str(tmp_path / "machine")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=place.env(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    store = place.open()
    assert [lock.name for lock in store.locks()] == ["apply-x"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (143, False), err
    assert "Interrupted" in err
    assert store.locks() == [], "at once, not when its lease has run out"
    (recorded,) = RunHistory(shared(store, tmp_path)).runs()
    assert recorded.outcome is RunOutcome.INTERRUPTED


def test_the_head_of_the_history_never_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another run adds a line between a line of ours and its head: theirs is last, and missed if lost."""
    store, write = FolderStateStore(tmp_path), FolderStateStore(tmp_path).write_file
    meanwhile = [lambda: SharedLines(FolderStateStore(tmp_path)).add({"event": "theirs"})]

    def overtaken(name: str, text: str, version: object) -> bool:
        done = write(name, text, version)
        while name != HEAD and meanwhile:
            meanwhile.pop()()
        return done

    monkeypatch.setattr(store, "write_file", overtaken)
    lines = SharedLines(store)
    lines.add({"event": "ours"})
    assert [json.loads(line)["event"] for line in lines.lines()] == ["ours", "theirs"]
    assert lines.head().number == 2


# --- a move


def test_a_move_keeps_what_others_have_put_there_before_or_meanwhile(tmp_path: Path) -> None:
    old, new = FolderStateStore(tmp_path / "old"), FolderStateStore(tmp_path / "new")
    for store in (old, new):
        with store.change(holder("test")) as state:
            state["numbers"] = {"redis": {store.folder.name: 1}}
    assert old.write_file(_NAME, "of the old", None)
    with pytest.raises(Refused, match="there is a state of this project already, and it is not a copy"):
        move_state(old, new, "there", "digi", holder("test"))
    assert new.read().document["numbers"] == {"redis": {"new": 1}}
    assert old.read().document["numbers"] == {"redis": {"old": 1}}

    class Late(FolderStateStore):
        """Where a run that began before the move writes just as it was copied."""

        def write_file(self, name: str, text: str, version: object) -> bool:
            done = super().write_file(name, text, version)
            assert old.write_file(name, "late", old.read_file(name).version)
            return done

    move_state(old, Late(tmp_path / "empty"), "there", "digi", holder("test"))
    assert FolderStateStore(tmp_path / "empty").read_file(_NAME).text == "of the old"
    assert old.read_file(_NAME).text == "late"
    assert "moved" in old.read().document
