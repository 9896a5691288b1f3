"""Server processes: started so that they outlive us, found again, and stopped, never mistaken for another process.

Two things tell that a process is ours. The *record* in the project's state: process id and time of start. And the
*mark*: an environment variable with the server's folder, set at the start and readable from outside. The mark is what a
recycled process id does not have, and what a run that was killed between start and record leaves behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from multidb.files import PRIVATE
from multidb.runtime.launch import Launch
from multidb.secrets import redact
from multidb.state import ProjectState

__all__ = ["MARK", "Ledger", "Process", "environment", "start", "stop", "tail"]

MARK = "MULTIDB_SERVER"

_SECTION = "processes"
_SAME_START = 1.0  # seconds; a time of start is read with a coarse clock
_PAUSE = 0.02  # seconds between two looks at a process that is to leave
_LARGEST_LOG = 10 * 1024 * 1024
_TAIL_BYTES = 8192
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")  # nothing else: our environment may hold passwords

# Popen complains when it is collected before its process ends, and these processes end long after us.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Process:
    """A server process that `up` started. `started` is in seconds since 1970, as psutil tells it.

    `options` is the text of the server options it was started with, to tell whether they have changed since.
    """

    name: str
    store: str
    folder: str
    pid: int
    started: float
    ports: Mapping[str, int] = field(default_factory=dict)
    options: str = ""

    def alive(self) -> bool:
        """Whether this very process still runs (not another one that got its number)."""
        found = _running(self.pid)
        if found is None:
            return False
        with contextlib.suppress(psutil.Error):
            return _mark(found) == self.folder or abs(found.create_time() - self.started) < _SAME_START
        return False

    def before_boot(self) -> bool:
        """Whether the machine has been started anew since."""
        return self.started < psutil.boot_time() - _SAME_START


class Ledger:
    """The project's record of the server processes that `up` started, one per server name."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state

    def read(self) -> dict[str, Process]:
        """Every recorded process, alive or not. An entry that makes no sense is as good as none."""
        found = {}
        for name, entry in self._state.read(_SECTION).items():
            with contextlib.suppress(TypeError):
                found[name] = Process(**entry)
        return found

    def record(self, process: Process) -> None:
        with self._state.change(_SECTION) as section:
            section[process.name] = asdict(process)

    def forget(self, name: str) -> None:
        with self._state.change(_SECTION) as section:
            section.pop(name, None)

    def strays(self, servers: Path) -> dict[int, str]:
        """Marked processes of the folder `servers` that nobody recorded: what a killed `up` had just started.

        Returns:
            the mark (the server's folder) by process id; of a process and its children only the process.
        """
        recorded = {process.pid for process in self.read().values()}
        marked: dict[int, str] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = _mark(process)
                if mark and Path(mark).parent == servers and process.status() != psutil.STATUS_ZOMBIE:
                    marked[process.pid] = mark
        strays = {}
        for pid, mark in marked.items():
            with contextlib.suppress(psutil.Error):
                ancestors = {parent.pid for parent in psutil.Process(pid).parents()}
                if not ({pid} | ancestors) & recorded and not ancestors & set(marked):
                    strays[pid] = mark
        return strays


def environment(folder: Path) -> dict[str, str]:
    """The environment of a server, or of a tool that prepares its folder: the mark and the bare necessities."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"PATH": os.defpath, **passed_on, "HOME": str(folder), "LC_ALL": "C", "TZ": "UTC", MARK: str(folder)}


def start(launch: Launch, folder: Path, log: Path) -> tuple[int, float]:
    """Starts a server in a session of its own, so that neither Ctrl-C nor a closed terminal reaches it.

    Args:
        folder: the server's, for the mark.
        log: gets its output, appended.

    Returns:
        the process id and the time of its start (0.0 when it has gone already).
    """
    account = launch.account
    with _log_file(log) as output:
        child = subprocess.Popen(
            list(launch.argv),
            cwd=launch.folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
        )
    _children.append(child)
    with contextlib.suppress(psutil.Error):
        return child.pid, psutil.Process(child.pid).create_time()
    return child.pid, 0.0


def stop(
    pid: int,
    polite: signal.Signals,
    limit: float,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> bool:
    """Asks a process to leave, waits, and after `limit` seconds kills it. No child of it is left in either case.

    The caller has made sure that the process is ours.

    Args:
        waiting: told the seconds waited so far, about once a second.

    Returns:
        whether it left by itself.
    """
    found = _running(pid)
    if found is None:
        return True
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = found.children(recursive=True)
        found.send_signal(polite)
    left = _left(found, limit, waiting)
    if not left:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = found.children(recursive=True)
        family.append(found)
    for member in family:  # also of one that left by itself: initdb leaves its children behind
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=0 if left else limit)
    return left


def tail(log: Path, since: int = 0, lines: int = 5) -> str:
    """The last meaningful lines of a log, written after the byte `since`, with known secrets struck out."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(since, size), size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    meaningful = [line.strip() for line in text.splitlines() if any(char.isalnum() for char in line)]
    return redact("\n".join(meaningful[-lines:]))


@contextlib.contextmanager
def _log_file(log: Path) -> Iterator[Any]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LARGEST_LOG:
            log.replace(log.with_name(log.name + ".1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
    with os.fdopen(descriptor, "ab") as file:
        yield file


def _running(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _left(process: psutil.Process, limit: float, waiting: Callable[[float], None]) -> bool:
    began, reported = time.monotonic(), 0.0
    while (waited := time.monotonic() - began) < limit:
        if _gone(process):
            return True
        if waited - reported >= 1:
            reported = waited
            waiting(waited)
        time.sleep(_PAUSE)
    return False


def _gone(process: psutil.Process) -> bool:
    """Whether it has ended, even where nobody takes note of that: a container's first process may not."""
    try:
        process.wait(0)  # takes note when it is a child of ours
    except psutil.TimeoutExpired:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def _mark(process: psutil.Process) -> str | None:
    """The mark of a process; None without one, or when the operating system does not let us look."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARK)
    return None
