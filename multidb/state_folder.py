"""A project's state in a file of its folder, with locks that the kernel keeps."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from multidb import files
from multidb.document import Unreadable, digest, parse
from multidb.errors import Refused, UsageError
from multidb.state_store import (
    FILES,
    RESTORE,
    TURN,
    HeldLock,
    Holder,
    Kept,
    KeptFile,
    damaged,
    lock_of,
    state_of,
    state_text,
)

__all__ = ["MACHINE", "FolderStateStore"]

MACHINE: Final = frozenset(
    {"compose", "copies", "offline", "ports", "processes", "products", "secrets-from", "seen", "skipped"}
)
"""The sections that are about one machine (its processes with their ports, its containers' volumes, what it lacks), and
so stay in the folder wherever the rest is kept."""

_LARGEST_HOLDER: Final = 4096  # bytes


class FolderStateStore:
    """A file in a folder of this machine; the kernel keeps the locks, and lets go of them when their process ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        self._turn = folder / "state.lock"
        self._locks = folder / "locks"
        self.title = str(self._path)

    def damaged(self, reason: str) -> UsageError:
        return damaged(reason, self.title, RESTORE)

    def stamp(self) -> tuple[int, int, int] | None:
        """The version, without reading."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def read(self) -> Kept:
        stamp = self.stamp()
        return Kept(self._document(), stamp)

    @contextlib.contextmanager
    def change(self, holder: Holder) -> Iterator[dict[str, Any]]:
        with files.lock(self._turn, holder, TURN):
            document, is_there = self._document(), self.stamp() is not None
            before = state_text(document)
            yield document
            after = state_text(document)
            if not is_there or after != before:  # a full disk is in nobody's way who has nothing to say
                files.write_text(self._path, after, mode=files.PRIVATE)

    def lock(
        self, name: str, holder: Holder, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        return files.lock(self._locks / name, holder, timeout, waiting)

    def locks(self) -> Sequence[HeldLock]:
        try:
            paths = sorted(self._locks.iterdir())
        except OSError:
            return []
        return [held for path in paths if (held := _held(path)) is not None]

    def unlock(self, lock_id: str) -> HeldLock:
        held = next((lock for lock in self.locks() if lock.id == lock_id), None)
        if held is None:
            raise UsageError("no such lock is held", where=lock_id[:200], hint="multidb state show lists them")
        raise Refused(
            f"a process of this machine holds it: {held.who}",
            where=f"lock {held.name}",
            hint=f"end that process (kill {held.pid}); the lock goes with it" if held.pid else "wait for it to end",
        )

    def read_file(self, name: str) -> KeptFile:
        text = files.read_text(self.folder / name)
        return KeptFile() if text is None else KeptFile(text, digest(text.encode()))

    def write_file(self, name: str, text: str, version: object) -> bool:
        with files.lock(self.folder / "files.lock", {}, TURN):
            if self.read_file(name).version != version:
                return False
            files.write_text(self.folder / name, text, mode=files.PRIVATE)
        return True

    def file_names(self) -> Sequence[str]:
        return sorted(str(path.relative_to(self.folder)) for pattern in FILES for path in self.folder.glob(pattern))

    def _document(self) -> dict[str, Any]:
        text = files.read_text(self._path)
        return {} if text is None else state_of(text, self.title)


def _held(path: Path) -> HeldLock | None:
    """The lock of this file; None where nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(Unreadable):
            return lock_of(path.name, path.name, parse(os.pread(descriptor, _LARGEST_HOLDER, 0), _LARGEST_HOLDER))
        return HeldLock(path.name, path.name)
    finally:
        os.close(descriptor)
    return None
