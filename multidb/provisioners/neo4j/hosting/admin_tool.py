"""Neo4j's own tool ``neo4j-admin``, from the jars of an embedded server, on the files of one that stands still."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Final

import psutil

from multidb import files, processes
from multidb.errors import ArchiveError, ServerError, ServerSlow, UsageError
from multidb.model import PROGRESS_TIMEOUT
from multidb.progress import ProgressTimer, ended_without

__all__ = ["Neo4jAdmin", "clear_half_loaded"]

_CHUNK: Final = 1 << 20
_LOADING: Final = "loading"  # the file that names the database which is being loaded
_DATABASE: Final = re.compile(r"[a-z][a-z0-9.-]{0,62}")
_FULL: Final = "No space left on device"
# What the tool says on its way: time stamps, Java's warnings, how far it is, lines for the eye.
_CHATTER: Final = re.compile(r"\d{4}-\d\d-\d\d |WARNING: |Files: |Done: |-+$|Command Failed$|\s*$")


class Neo4jAdmin:
    """An `Offline` Neo4j.

    Args:
        command: the argv to which the tool's arguments are added.
        home: the server's folder.
        name: the server's, for errors.
        progress_timeout: seconds without a byte, and without processor time used, after which the tool is ended.
    """

    def __init__(
        self, command: Sequence[str], home: Path, name: str, progress_timeout: float = PROGRESS_TIMEOUT
    ) -> None:
        self._progress_timeout = progress_timeout
        self._command = command
        self._home = home
        self._name = name

    def dump(self, database: str, stream: BinaryIO) -> None:
        """See `Offline.dump`."""
        with self._running("dump", "--to-stdout", database) as (tool, timer):
            assert tool.stdout is not None
            _copy(partial(os.read, tool.stdout.fileno()), stream, timer)

    def load(self, database: str, stream: BinaryIO) -> None:
        """See `Offline.load`. `clear_half_loaded` makes what it promises true."""
        note = self._home / _LOADING
        files.write_text(note, database)
        with self._running("load", "--from-stdin", "--overwrite-destination", database) as (tool, timer):
            assert tool.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended; what it said tells why
                _copy(stream.read, tool.stdin, timer)
                tool.stdin.close()
        note.unlink()

    @contextlib.contextmanager
    def _running(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], ProgressTimer]]:
        """The tool at work, and what has to be told of its progress; it has ended well after the block. It ends with
        the block that fails, and when it makes no progress."""
        with tempfile.TemporaryFile(prefix="multidb-") as output:
            environment = processes.environment(self._home)
            tool = subprocess.Popen(
                [*self._command, "database", *arguments],
                env={**environment, "NEO4J_HOME": str(self._home), "NEO4J_CONF": str(self._home / "conf")},
                stdin=subprocess.PIPE if arguments[0] == "load" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if arguments[0] == "dump" else subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours to hear, and to end it
            )
            timer = ProgressTimer(self._progress_timeout, lambda: _processor_time(tool.pid))
            try:
                with ended_without(timer, lambda: _kill(tool)):
                    yield tool, timer
                    code = tool.wait()
            finally:
                tool.kill()
                tool.wait()
                for pipe in (tool.stdin, tool.stdout):
                    with contextlib.suppress(BrokenPipeError):  # what is still to be flushed
                        if pipe is not None:
                            pipe.close()
            if code and timer.expired():
                raise ServerSlow(f"neo4j-admin {timer.words}", where=f"server {self._name}", hint=timer.hint)
            if code:
                output.seek(0)
                raise self._failed(arguments[0], output.read().decode(errors="replace"))

    def _failed(self, verb: str, output: str) -> ArchiveError | ServerError:
        lines = [line.strip() for line in output.splitlines() if not _CHATTER.match(line)]
        where = f"server {self._name}"
        if _FULL in output:
            return ServerError(f"neo4j-admin {verb}: no space left", where=where, hint=f"free space at {self._home}")
        return ArchiveError(f"neo4j-admin {verb} failed: {lines[-1] if lines else 'it does not say why'}", where=where)


def _kill(tool: subprocess.Popen[bytes]) -> None:
    """With what it has started, which holds the same pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(tool.pid, signal.SIGKILL)


def _copy(read: Callable[[int], bytes], sink: IO[bytes], timer: ProgressTimer) -> None:
    while data := read(_CHUNK):
        timer.moved()
        sink.write(data)
        timer.moved()


def _processor_time(pid: int) -> float | None:
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(used.user + used.system)


def clear_half_loaded(home: Path) -> None:
    """Takes away the database that an interrupted or failed `Neo4jAdmin.load` has left in a server's folder.

    Neo4j does not come up with such a one, and makes an empty one where there is none.

    Raises:
        UsageError: what says which one it is names no database.
    """
    note = home / _LOADING
    if note.exists():
        database = (files.read_text(note) or "").strip()
        if not _DATABASE.fullmatch(database):  # what is taken away is named by it
            raise UsageError("names no database", where=str(note), hint="delete it, then: multidb up")
        for kind in ("databases", "transactions"):
            if (folder := home / "data" / kind / database).exists():
                shutil.rmtree(folder)
        note.unlink()
