"""Processes: ours are found and stopped, nobody else's ever, and none survives a stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from multidb import processes
from multidb.errors import MachineError
from multidb.model import Launch
from multidb.runtime.ledger import Ledger, Process
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support.somebody import as_somebody

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']);"
    "print('deaf', flush=True); time.sleep(300)",
]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Path]:
    """A project's folder of servers; whatever is marked with it is killed in the end."""
    folder = tmp_path / ".multidb" / "servers"
    (folder / "toy").mkdir(parents=True)
    yield folder
    for process in psutil.process_iter():
        try:
            if process.environ().get(processes.MARK, "").startswith(str(folder)):
                process.kill()
        except (psutil.Error, OSError):
            continue


def started(servers: Path, argv: list[str], stop_signal: signal.Signals = signal.SIGTERM) -> Process:
    name = "toy"
    folder = servers / name
    folder.mkdir(exist_ok=True)
    pid, at = processes.start(
        Launch(argv, folder, stop_signal=stop_signal), folder, servers.parent / "logs" / f"{name}.log"
    )
    return Process(name, "redis", str(folder), pid, at)


def log_says(servers: Path, word: str) -> None:
    deadline = time.monotonic() + 20
    while word not in processes.tail(servers.parent / "logs" / "toy.log"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_is_detached_and_gets_none_of_our_secrets(servers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_ADMIN_PASSWORD", "secret")
    process = started(servers, SLEEP)
    seen = psutil.Process(process.pid)
    assert os.getsid(process.pid) == process.pid
    assert "PG_ADMIN_PASSWORD" not in seen.environ()
    assert Path(f"/proc/{process.pid}/fd/0").resolve() == Path("/dev/null") or sys.platform != "linux"


def test_a_recorded_process_is_alive_until_it_ends(servers: Path, tmp_path: Path) -> None:
    ledger = Ledger(ProjectState(tmp_path))
    process = started(servers, SLEEP)
    ledger.record(process)
    assert ledger.read()["toy"] == process
    assert process.alive()
    assert ledger.strays(servers) == {}
    assert processes.stop(process.pid, 10)
    assert not process.alive()
    ledger.forget("toy")
    assert ledger.read() == {}


def test_a_recycled_process_id_is_not_ours(servers: Path) -> None:
    with subprocess.Popen(SLEEP) as stranger:
        claimed = Process("toy", "redis", str(servers / "toy"), stranger.pid, time.time() - 3600)
        assert not claimed.alive()
        control = Process("toy", "redis", "", stranger.pid, psutil.Process(stranger.pid).create_time())
        assert control.alive()
        stranger.kill()


def test_a_clock_that_jumps_does_not_lose_a_process(servers: Path) -> None:
    process = started(servers, SLEEP)
    jumped = Process(process.name, process.store, process.folder, process.pid, process.started - 86400)
    until = time.monotonic() + 60  # it carries its mark once it has become the program
    while not jumped.alive():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_was_started_and_not_recorded_is_a_stray(servers: Path, tmp_path: Path) -> None:
    ledger = Ledger(ProjectState(tmp_path))
    stray = started(servers, STUBBORN)
    log_says(servers, "deaf")  # its child runs, carries the mark as well, and is not a stray of its own
    assert ledger.strays(servers) == {stray.pid: str(servers / "toy")}
    assert ledger.strays(tmp_path / "other" / ".multidb" / "servers") == {}


def test_a_deaf_process_is_killed_with_its_children(servers: Path) -> None:
    process = started(servers, STUBBORN)
    log_says(servers, "deaf")
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) == 2
    told: list[float] = []
    assert not processes.stop(process.pid, 1.5, told.append)
    assert told
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_a_process_is_stopped_by_its_own_signal(servers: Path) -> None:
    process = started(servers, STUBBORN, signal.SIGINT)
    log_says(servers, "deaf")
    assert processes.stop(process.pid, 20), "INT ends it, and TERM would not"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_another_account_has_started_is_not_stopped_and_that_is_said(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as other:

        def refused() -> None:
            with pytest.raises(MachineError, match=f"process {other.pid} is root's"):
                processes.stop(other.pid, 1)

        try:
            assert as_somebody(refused, tmp_path)
            assert other.poll() is None
        finally:
            other.kill()


def test_stopping_what_is_gone_is_no_error(servers: Path) -> None:
    process = started(servers, [sys.executable, "-c", "pass"])
    psutil.Process(process.pid).wait(60)
    assert processes.stop(process.pid, 1)


def test_the_tail_of_a_log_is_of_this_start_and_shows_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "toy.log"
    log.write_text("old trouble\n")
    since = log.stat().st_size
    value = Secret("a-very-long-password")
    log.write_text(f"old trouble\n\n-----\nFATAL: {value.reveal()} is wrong\n")
    assert processes.tail(log, since) == "FATAL: *** is wrong"
    assert processes.tail(tmp_path / "none.log") == ""


def test_a_large_log_is_put_aside_at_the_next_start(servers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LARGEST_LOG", 10)
    log = servers.parent / "logs" / "toy.log"
    log.parent.mkdir()
    log.write_text("more than ten bytes\n")
    started(servers, SLEEP)
    assert log.with_name("toy.log.1").read_text() == "more than ten bytes\n"
    assert log.stat().st_mode & 0o777 == 0o600
