"""Server processes of this machine: started so that they outlive us, and stopped.

A process that is ours carries a *mark*: an environment variable with the server's folder, set at the start and readable
from outside, and beside it the signal that stops it. What is recorded of processes is `multidb.runtime.ledger`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from multidb import files
from multidb.errors import MachineError
from multidb.model import Launch
from multidb.secrets import redact

__all__ = [
    "LARGEST_LOG",
    "MARK",
    "ask_version",
    "environment",
    "mark",
    "running",
    "start",
    "stop",
    "tail",
    "version_of",
]

MARK = "MULTIDB_SERVER"

_STOP = "MULTIDB_STOP"  # the signal after which a process saves everything and leaves
_ASKING = 20.0  # seconds that a program may take to say its version
_PAUSE = 0.02  # seconds between two looks at a process that is to leave
LARGEST_LOG = 10 * 1024 * 1024
_TAIL_BYTES = 8192
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")  # nothing else: our environment may hold passwords

# Popen complains when it is collected before its process ends, and these processes end long after us.
_children: list[subprocess.Popen[bytes]] = []


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
            env={**environment(folder), _STOP: launch.stop_signal.name},
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


def stop(pid: int, limit: float, waiting: Callable[[float], None] = lambda seconds: None) -> bool:
    """Asks a process to leave, with the signal that its store has for it, waits, and after `limit` seconds kills it. No
    child of it is left in either case.

    The caller has made sure that the process is ours.

    Args:
        waiting: told the seconds waited so far, about once a second.

    Returns:
        whether it left by itself.

    Raises:
        MachineError: it is another account's.
    """
    process = running(pid)
    if process is None:
        return True
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = process.children(recursive=True)
        try:
            process.send_signal(_stop_signal(process))
        except psutil.AccessDenied:
            raise MachineError(
                f"process {pid} is {process.username()}'s",
                hint="run the same as who started it; where that was root: sudo multidb ..",
            ) from None
    left = _left(process, limit, waiting)
    if not left:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = process.children(recursive=True)
        family.append(process)
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


def running(pid: int) -> psutil.Process | None:
    """The process of this number, if it has not ended."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def mark(process: psutil.Process) -> str | None:
    """The mark of a process; None without one, or when the operating system does not let us look."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARK)
    return None


@functools.cache
def version_of(argv: Sequence[str]) -> str | None:
    """As `ask_version`, asked once: a program that is installed stays what it is for as long as we run."""
    return ask_version(argv)


def ask_version(argv: Sequence[str]) -> str | None:
    """The first version number that a program prints; None when it does not run or prints none."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=_ASKING, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", done.stdout)
    return match[0] if match else None


@contextlib.contextmanager
def _log_file(log: Path) -> Iterator[Any]:
    files.make_folder(log.parent)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_name(log.name + ".1"))
    descriptor = files.open_own(log, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(descriptor, "ab") as file:
        yield file


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


def _stop_signal(process: psutil.Process) -> signal.Signals:
    """As it was told at its start; TERM where that cannot be read."""
    with contextlib.suppress(psutil.Error, OSError, ValueError, KeyError):
        return signal.Signals[process.environ()[_STOP]]
    return signal.SIGTERM
