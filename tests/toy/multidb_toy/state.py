"""A place for a project's state: a file of SQLite on this machine, ``toy:///srv/states/digi.db``."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from multidb import files
from multidb.errors import Locked, StateUnavailable, UsageError
from multidb.model.state_options import StateAddress
from multidb.state_store import (
    TURN,
    HeldLock,
    Holder,
    Kept,
    KeptFile,
    damaged,
    identified,
    is_kept_file,
    lock_of,
    locked,
    refuse_other_project,
    state_of,
    state_text,
)
from multidb.state_stores.kind import StateStoreKind

_TABLES = """
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY, version INTEGER NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS locks (name TEXT PRIMARY KEY, id TEXT NOT NULL, pid INTEGER NOT NULL, holder TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, version INTEGER NOT NULL, content TEXT NOT NULL);
"""


class ToyStateStore:
    """A `multidb.state_store.StateStore` in one file. A lock lasts as long as the process of its holder."""

    def __init__(self, path: Path, project: str) -> None:
        self._path = path
        self._project = project
        self.title = f"toy://{path}"
        self._guard = threading.Lock()
        self._mine: dict[str, str] = {}  # by id, the names of the locks that this process holds

    def damaged(self, reason: str) -> UsageError:
        return damaged(reason, self.title, "put a copy back: multidb state push FILE")

    def read(self) -> Kept:
        with self._talking() as talk:
            row = talk.execute("SELECT version, document FROM state").fetchone()
        if row is None:
            return Kept({})
        document = state_of(row[1], self.title)
        refuse_other_project(document, self._project, self.title)
        return Kept(document, row[0])

    @contextlib.contextmanager
    def change(self, holder: Holder) -> Iterator[dict[str, Any]]:
        with files.lock(self._path.with_suffix(".turn"), holder, TURN):
            kept = self.read()
            document = dict(kept.document)
            yield document
            identified(document, self._project)
            with self._talking() as talk:
                talk.execute("BEGIN IMMEDIATE")
                self._refuse_lost(talk)
                version = int(str(kept.version or 0)) + 1
                talk.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (version, state_text(document)))
                talk.execute("COMMIT")

    @contextlib.contextmanager
    def lock(
        self, name: str, holder: Holder, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        lock_id = self._take(name, holder, timeout, waiting)
        try:
            yield
        finally:
            with self._guard:
                del self._mine[lock_id]
            with self._talking() as talk:
                talk.execute("DELETE FROM locks WHERE id = ?", (lock_id,))

    def locks(self) -> Sequence[HeldLock]:
        with self._talking() as talk:
            return _held(talk)

    def unlock(self, lock_id: str) -> HeldLock:
        with self._talking() as talk:
            held = next((lock for lock in _held(talk) if lock.id == lock_id), None)
            if held is None:
                raise UsageError("no such lock is held", where=lock_id[:200], hint="multidb state show lists them")
            talk.execute("DELETE FROM locks WHERE id = ?", (lock_id,))
        return held

    def read_file(self, name: str) -> KeptFile:
        with self._talking() as talk:
            row = talk.execute("SELECT content, version FROM files WHERE name = ?", (name,)).fetchone()
        return KeptFile(*row) if row else KeptFile()

    def write_file(self, name: str, text: str, version: object) -> bool:
        with self._talking() as talk:
            if version is None:
                done = talk.execute("INSERT INTO files VALUES (?, 1, ?) ON CONFLICT DO NOTHING", (name, text))
            else:
                statement = "UPDATE files SET version = version + 1, content = ? WHERE name = ? AND version = ?"
                done = talk.execute(statement, (text, name, version))
            return done.rowcount > 0

    def file_names(self) -> Sequence[str]:
        with self._talking() as talk:
            return sorted(name for (name,) in talk.execute("SELECT name FROM files") if is_kept_file(name))

    def _take(self, name: str, holder: Holder, timeout: float, waiting: Callable[[str], None] | None) -> str:
        """The id of the lock, which is ours then."""
        lock_id, seen, deadline = token_hex(4), "", time.monotonic() + timeout
        while True:
            with self._talking() as talk:
                talk.execute("BEGIN IMMEDIATE")
                self._refuse_lost(talk)
                other = next((lock for lock in _held(talk) if lock.name == name), None)
                if other is None:
                    entry = (name, lock_id, os.getpid(), json.dumps(dict(holder)))
                    talk.execute("INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?)", entry)
                    with self._guard:
                        self._mine[lock_id] = name
                talk.execute("COMMIT")
            if other is None:
                return lock_id
            if other.id != seen:
                seen, deadline = other.id, time.monotonic() + timeout
                if waiting is not None and timeout:
                    waiting(other.who)
            if time.monotonic() >= deadline:
                raise locked(other, self.title)
            time.sleep(0.05)

    def _refuse_lost(self, talk: sqlite3.Connection) -> None:
        held = {row[0] for row in talk.execute("SELECT id FROM locks")}
        with self._guard:
            lost = [name for lock_id, name in self._mine.items() if lock_id not in held]
        if lost:
            words = f"the lock {lost[0]} was taken from this run; nothing was written"
            raise Locked(words, where=self.title, hint="run the command again")

    @contextlib.contextmanager
    def _talking(self) -> Iterator[sqlite3.Connection]:
        """A connection for one step, whose transaction goes with it."""
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=TURN, isolation_level=None)) as talk:
                talk.executescript(_TABLES)
                yield talk
        except sqlite3.Error as error:
            words, hint = f"cannot be reached: {error}", "see to that file, then run the command again"
            raise StateUnavailable(words, where=self.title, hint=hint) from None


def _held(talk: sqlite3.Connection) -> list[HeldLock]:
    """The locks whose holders live."""
    rows = talk.execute("SELECT id, name, pid, holder FROM locks ORDER BY name").fetchall()
    return [lock_of(lock_id, name, json.loads(holder)) for lock_id, name, pid, holder in rows if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _open(address: str, project: str, _: Path) -> ToyStateStore:
    return ToyStateStore(Path(address.removeprefix("toy://")), project)


STATE_STORE = StateStoreKind("toy", StateAddress("toy:///FILE", r"toy:///[a-zA-Z0-9_./-]+"), _open)
