"""Backup work that is under way, and how far it is: written while it lasts, for whoever watches from another process.

It stands in ``.multidb/backup-progress.json``, which is gone when the work has ended. Nothing follows from it but what
is shown; what has to be known after a crash is in the journal.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import psutil
from pydantic import Field, TypeAdapter

from multidb import files
from multidb.document import Unreadable, parse, printable
from multidb.errors import UsageError
from multidb.model import PROGRESS_TIMEOUT, Progress
from multidb.secrets import redact
from multidb.state import ProjectState
from multidb.validation import Document, Moment, validated

__all__ = ["Job", "JobFile", "recording"]

_NAME: Final = "backup-progress.json"
_FORMAT: Final = 1
_LARGEST: Final = 4 * 1024**2  # bytes; of 10,000 apps
_EVERY: Final = 1.0  # seconds between two writes
_LONGEST: Final = 200  # characters of a message
_SILENT: Final = timedelta(seconds=PROGRESS_TIMEOUT)  # work that says nothing for as long has ended, or stands still


@dataclass(frozen=True, slots=True)
class Job:
    """One thing that is being worked on.

    Args:
        command: what was typed, without ``multidb``: ``backup``, ``backups verify``, ``restore``.
        subject: an app, mostly.
        message: what is going on, in words.
        share: how much is done, from 0 to 1; None: nobody knows.
        since: when the command began.
        at: when it was last heard of.
    """

    command: str
    subject: str
    message: str
    share: float | None
    since: datetime
    at: datetime


@contextmanager
def recording(state: ProjectState, command: str, progress: Progress) -> Iterator[Progress]:
    """A progress for the block that also writes down what it is told, at most once a second. One at a time."""
    path = state.folder / _NAME
    recorder = _Recorder(path, command)

    def both(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        progress(subject, message, done, total)
        recorder.add(subject, message, done / total if done is not None and total else None)

    try:
        yield both
    finally:
        with suppress(UsageError):
            files.delete(path)


class JobFile:
    """What a process of this project writes about its work, read again when it has changed. Any thread may use it."""

    def __init__(self, state: ProjectState) -> None:
        self._path = state.folder / _NAME
        self._stamp: tuple[int, int] | None = None
        self._document: _JobsDocument | None = None

    def jobs(self, working: frozenset[str], now: datetime) -> tuple[Job, ...]:
        """What is under way.

        Args:
            working: apps that the journal has as being worked on. Where there are none, it is the subject that was
                heard of last.
        """
        document = self._read()
        if document is None or not document.work or not document.alive(now):
            return ()
        newest = max(document.work, key=lambda subject: document.work[subject].at)
        subjects = [subject for subject in document.work if subject in working] or [newest]
        return tuple(
            Job(document.command, subject, entry.message, entry.share, document.since, entry.at)
            for subject in subjects
            for entry in [document.work[subject]]
        )

    def _read(self) -> _JobsDocument | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            try:
                self._document = validated(parse(files.read_text(self._path) or "", _LARGEST), _JOBS)
            except (Unreadable, UsageError):
                self._document = None
            self._stamp = stamp
        return self._document


class _Recorder:
    """What one process has been told, and the file that it writes it to."""

    def __init__(self, path: Path, command: str) -> None:
        self._path = path
        self._head = {
            "version": _FORMAT,
            "command": command,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._guard = threading.Lock()
        self._written = float("-inf")
        self._work: dict[str, dict[str, Any]] = {}

    def add(self, subject: str, message: str, share: float | None) -> None:
        """Remembers it, and writes everything when the last write is a second ago or the subject is a new one."""
        with self._guard:
            new = subject not in self._work
            self._work[subject] = {
                "message": message,
                "share": share if share is None else min(max(round(share, 4), 0.0), 1.0),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            if new or time.monotonic() - self._written >= _EVERY:
                self._written = time.monotonic()
                with suppress(UsageError):  # the work does without
                    files.write_text(self._path, self._text(), mode=files.PRIVATE)

    def _text(self) -> str:
        work = {
            subject: {**entry, "message": printable(redact(entry["message"]), _LONGEST)}
            for subject, entry in self._work.items()
        }
        return json.dumps({**self._head, "work": work}) + "\n"


class _WorkDocument(Document):
    message: str
    share: Annotated[float, Field(ge=0, le=1)] | None
    at: Moment


class _JobsDocument(Document):
    version: Literal[1]
    command: str
    host: str
    pid: Annotated[int, Field(ge=1, le=2**31 - 1)]
    since: Moment
    work: dict[str, _WorkDocument]

    def alive(self, now: datetime) -> bool:
        """Whether the process may still be at it. Of one on another machine, or in another container, only its silence
        can be known."""
        if self.host == socket.gethostname() and not psutil.pid_exists(self.pid):
            return False
        return abs(now - max(entry.at for entry in self.work.values())) < _SILENT


_JOBS: Final = TypeAdapter(_JobsDocument)
