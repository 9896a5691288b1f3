"""Project state and files: whole or not at all, private where secret, one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from multidb import files
from multidb.errors import Locked, UsageError
from multidb.secrets import Secret, SecretRef
from multidb.state import ProjectState
from tests.support.somebody import as_somebody

REF = SecretRef("ann", "toy", "key")


@pytest.fixture
def state(tmp_path: Path) -> ProjectState:
    return ProjectState(tmp_path)


def test_secrets_are_kept_in_a_private_file(state: ProjectState) -> None:
    old = os.umask(0)
    try:
        state.secrets.put({REF: Secret("hush-hush-hush")})
    finally:
        os.umask(old)
    path = state.folder / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert state.secrets.get(REF) == Secret("hush-hush-hush")
    assert ProjectState(state.folder.parent).secrets.get(REF) == Secret("hush-hush-hush")


def test_another_process_sees_what_was_put(state: ProjectState, tmp_path: Path) -> None:
    other = ProjectState(tmp_path)
    assert other.secrets.get(REF) is None
    state.secrets.put({REF: Secret("first-value")})
    assert other.secrets.get(REF) == Secret("first-value")
    state.secrets.put({REF: Secret("second-value")})
    assert other.secrets.get(REF) == Secret("second-value")
    state.secrets.delete([REF])
    assert other.secrets.refs() == frozenset()


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    stores = [ProjectState(tmp_path).secrets for _ in range(4)]

    def work(number: int) -> None:
        for step in range(10):
            stores[number].put({SecretRef(f"app{number}", "toy", str(step)): Secret(f"value-{number}-{step}")})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ProjectState(tmp_path).secrets.refs()) == 40


def test_a_file_that_others_can_read_is_refused(state: ProjectState) -> None:
    state.secrets.put({REF: Secret("hush-hush-hush")})
    (state.folder / "secrets.json").chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        ProjectState(state.folder.parent).secrets.get(REF)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"secrets": []}', '{"secrets": {"no-slashes": "x"}}', "\x00"])
def test_a_damaged_file_is_said_to_be_so(state: ProjectState, text: str) -> None:
    files.write_text(state.folder / "secrets.json", text, mode=files.PRIVATE)
    with pytest.raises(UsageError, match="not a multidb secrets file"):
        state.secrets.get(REF)


def test_sections_are_changed_one_at_a_time(state: ProjectState) -> None:
    with state.change("ports") as ports:
        ports["postgres"] = 5432
    with state.change("numbers") as numbers:
        numbers["redis"] = {"ann": 1}
    assert state.read("ports") == {"postgres": 5432}
    assert state.read("nothing") == {}


def test_entries_are_understood_once_and_anew_when_somebody_wrote(state: ProjectState, tmp_path: Path) -> None:
    asked: list[str] = []

    def understand(name: str, number: Any) -> int:
        asked.append(name)
        return int(number["ann"]) * 2

    with state.change("numbers") as numbers:
        numbers["redis"] = {"ann": 1}
    state.entries("numbers", "numbers", understand).clear()  # what one reader does with it is its own
    assert state.entries("numbers", "numbers", understand) == {"redis": 2}
    assert asked == ["redis"]
    with ProjectState(tmp_path).change("numbers") as numbers:
        numbers["redis"] = {"ann": 4}
    assert state.entries("numbers", "numbers", understand) == {"redis": 8}


def test_a_change_that_fails_changes_nothing(state: ProjectState) -> None:
    def change_and_fail() -> None:
        with state.change("ports") as ports:
            ports["postgres"] = 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert state.read("ports") == {}


def test_damaged_state_is_said_to_be_so(state: ProjectState) -> None:
    files.write_text(state.folder / "state.json", "[1")
    with pytest.raises(UsageError, match="damaged"):
        state.read("ports")


def test_a_lock_is_refused_with_its_holder_and_let_go_by_death(state: ProjectState) -> None:
    code = (
        "import sys; from pathlib import Path; from multidb.state import ProjectState\n"
        "with ProjectState(Path(sys.argv[1])).lock('apply-x', 'multidb apply'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(state.folder.parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "held\n"
    with (
        pytest.raises(Locked, match=f"multidb apply by .*, process {child.pid}, since 20"),
        state.lock("apply-x", "me"),
    ):
        pass
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    with state.lock("apply-x", "me"):
        pass


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("state", lambda state: state.change("ports")),
        ("secrets", lambda state: contextlib.nullcontext(state.secrets.put({REF: Secret("x")}))),
        ("manifest", lambda state: state.turn("manifest")),
    ],
)
def test_a_process_that_stands_still_in_short_work_is_named(
    state: ProjectState, monkeypatch: pytest.MonkeyPatch, name: str, change: Any
) -> None:
    """And holds nobody up for good, though it does not die."""
    monkeypatch.setattr("multidb.state.TURN", 0.3)
    monkeypatch.setattr("multidb.state_folder.TURN", 0.3)
    code = (
        "import os, signal, sys; from pathlib import Path; from multidb.state import ProjectState\n"
        "root = Path(sys.argv.pop()); sys.argv[1:] = ['add-app', 'secret']\n"
        f"with ProjectState(root).turn({name!r}):\n"
        "    print('held', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(state.folder.parent)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(Locked) as refused, change(state):
            pass
        child.send_signal(signal.SIGCONT)
    assert re.search(f"multidb add-app by .*, process {child.pid}, since 20", refused.value.message)
    assert f"kill -CONT {child.pid}" in str(refused.value.hint)
    with change(state):
        pass


def test_a_lock_may_be_waited_for(state: ProjectState) -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with state.lock("runtime", "multidb up"):
            taken.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(60)
    with pytest.raises(Locked, match="multidb up by"), state.lock("runtime", "me", 0.2):
        pass
    threading.Timer(0.3, done.set).start()
    with state.lock("runtime", "me", 10):
        assert done.is_set()
    holder.join()


def test_who_only_looks_whether_a_lock_is_held_is_in_nobodys_way(state: ProjectState) -> None:
    """To look, it takes the lock for an instant; what the file says then is who had it before."""
    with state.lock("runtime", "multidb up"):
        pass
    (path,) = state.folder.rglob("*runtime*")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with state.lock("runtime", "me"):
            pass


def test_writing_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_written_files_have_the_mode_asked_for(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b", "x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o600


def test_reading_what_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        files.read_text(tmp_path / "x")
    assert files.read_text(tmp_path / "missing") is None


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    files.write_text(tmp_path / "x", "a\r\nb\n")
    assert (tmp_path / "x").read_bytes() == b"a\r\nb\n"
    assert files.read_text(tmp_path / "x") == "a\r\nb\n"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"ports": [1]}', '{"processes": "x"}'])
def test_a_state_file_that_makes_no_sense_is_damaged(state: ProjectState, text: str) -> None:
    state.folder.mkdir()
    (state.folder / "state.json").write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        state.read("ports")


def test_a_damaged_secrets_file_is_moved_away_before_new_credentials_are_made(state: ProjectState) -> None:
    state.folder.mkdir()
    files.write_text(state.folder / "secrets.json", "{", mode=files.PRIVATE)
    with pytest.raises(UsageError) as refused:
        state.secrets.get(REF)
    assert "move it away" in (refused.value.hint or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_is_said(state: ProjectState) -> None:
    state.folder.parent.chmod(0o555)
    with pytest.raises(UsageError, match="cannot be written"), state.lock("runtime", "test"):
        pass
    with pytest.raises(UsageError, match="cannot be written"), state.change("ports"):
        pass


def test_a_state_that_stays_as_it_is_is_not_written(state: ProjectState, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a full disk keeps nobody from stopping servers."""
    with state.change("ports") as ports:
        ports["redis"] = 1

    def full(*_: object, **__: object) -> None:
        raise UsageError("cannot be written: No space left on device")

    monkeypatch.setattr(files, "write_text", full)
    with state.change("ports") as ports:
        ports.pop("postgres", None)
    with pytest.raises(UsageError, match="No space left"), state.change("ports") as ports:
        ports.pop("redis")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_in_somebodys_project_is_theirs(tmp_path: Path) -> None:
    """After one command by sudo its owner goes on."""
    root, theirs = tmp_path / "project", (12345, 23456)
    root.mkdir()
    os.chown(root, *theirs)
    state = ProjectState(root)
    state.secrets.put({REF: Secret("hush-hush-hush")})
    with state.lock("runtime", "test"), state.change("ports") as ports:
        ports["x"] = 1
    files.append_line(state.folder / "history" / "runs.jsonl", "{}", 0)
    files.write_text(root / "apps" / "ann" / ".env", "x", mode=files.PRIVATE)
    made = [root, *root.rglob("*")]
    assert len(made) > 8
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {theirs}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_nobody_what_a_link_in_their_project_leads_to(tmp_path: Path) -> None:
    root, roots_own = tmp_path / "project", tmp_path / "own"
    root.mkdir()
    os.chown(root, 12345, 23456)
    roots_own.mkdir()
    (roots_own / "file").write_text("")
    (root / "lock").symlink_to(roots_own / "file")
    (root / "new").symlink_to(roots_own / "new")
    (root / "folder").symlink_to(roots_own)
    for name in ("lock", "new", "folder/lock"):
        with files.lock(root / name, {}):
            pass
    files.write_text(root / "folder" / "below" / "text", "x")
    assert {path.stat().st_uid for path in (roots_own, *roots_own.rglob("*"))} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_folders_that_root_makes_at_once_in_somebodys_folder_are_all_theirs(tmp_path: Path) -> None:
    os.chown(tmp_path, 1, 1)
    with ThreadPoolExecutor(4) as beside:
        for number in range(300):
            made = [tmp_path / f"{number}" / "servers" / name for name in ("postgres", "redis", "qdrant", "neo4j")]
            list(beside.map(files.make_folder, made))
    assert {path.lstat().st_uid for path in tmp_path.rglob("*")} == {1}
    assert len(list(tmp_path.rglob("*"))) == 300 * 6


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_is_somebody_elses_says_whose(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "state.json").chmod(0o600)

    def tried() -> None:
        for attempt in (
            lambda: files.read_text(tmp_path / "state.json"),
            lambda: list(files.lines(tmp_path / "state.json", 10)),
            lambda: files.write_text(tmp_path / "new", "x"),
            lambda: files.append_line(tmp_path / "below" / "new", "x", 0),
        ):
            with pytest.raises(UsageError) as refused:
                attempt()
            assert "sudo -u root multidb" in (refused.value.hint or "")

    assert as_somebody(tried, tmp_path)


def test_a_file_of_somebody_keeps_its_link_its_mode_and_its_owner(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    real, link = tmp_path / "elsewhere" / "shop.yaml", tmp_path / "here" / "multidb.yaml"
    real.write_text("old")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 12345, 23456)
    owner = (real.stat().st_uid, real.stat().st_gid)
    link.symlink_to("../elsewhere/shop.yaml")
    files.write_text(link, "new")
    assert (link.is_symlink(), real.read_text()) == (True, "new")
    assert real.stat().st_mode & 0o7777 == 0o640
    assert (real.stat().st_uid, real.stat().st_gid) == owner
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["multidb.yaml", "shop.yaml"]


def test_a_file_of_ours_has_its_mode_and_replaces_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "secret").symlink_to("other")
    files.write_text(tmp_path / "secret", "hush", mode=files.PRIVATE)
    assert not (tmp_path / "secret").is_symlink()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "other").read_text() == "theirs"
    files.write_text(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


def test_links_in_a_circle_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match=r"a: cannot be (written|read)"):
        files.write_text(tmp_path / "a", "x")
