"""Sets in a folder of this machine (or of whatever is mounted there)."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from multidb.errors import ArchiveError, TargetError
from multidb.files import sync_folder

__all__ = ["FolderTarget"]

_PRIVATE: Final = 0o600
_UNFINISHED: Final = ".part"


class FolderTarget:
    """A folder. Files are written under a temporary name, flushed to the disk and renamed.

    Args:
        name: as the manifest has it.
        root: the folder; made when the first file is.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root

    def create(self, path: str) -> _NewFile:
        final = self._root / path
        try:
            final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return _NewFile(self.name, final)
        except OSError as error:
            raise self._failed(error, path) from None

    resume = create  # what was written of a file is gone with its run

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        try:
            file = (self._root / path).open("rb")
        except OSError as error:
            raise self._failed(error, path) from None
        with file:
            yield file

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for path in self._files(prefix):
            if not path.name.endswith(_UNFINISHED):
                with contextlib.suppress(FileNotFoundError):  # another run removes sets
                    yield path.relative_to(self._root).as_posix(), path.stat().st_size

    def unfinished(self, prefix: str) -> Iterator[str]:
        for path in self._files(prefix):
            if path.name.endswith(_UNFINISHED):
                yield path.relative_to(self._root).as_posix()

    def delete(self, path: str) -> None:
        try:
            (self._root / path).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error, path) from None

    def sweep(self, prefix: str) -> None:
        try:
            for folder, _, files in os.walk(self._root / prefix, topdown=False):
                for name in files:
                    if name.endswith(_UNFINISHED):
                        (Path(folder) / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty
                    Path(folder).rmdir()
        except OSError as error:
            raise self._failed(error, prefix) from None

    def _files(self, prefix: str) -> Iterator[Path]:
        for folder, _, files in os.walk(self._root / prefix, onerror=self._unreadable):
            yield from (Path(folder) / name for name in files)

    def _unreadable(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a folder that is not there yet holds nothing
            raise self._failed(error, str(error.filename))

    def _failed(self, error: OSError, path: str) -> ArchiveError:
        return _failed(self.name, self._root / path, error)


class _NewFile:
    """A file under a temporary name."""

    def __init__(self, target: str, final: Path) -> None:
        self._target = target
        self._final = final
        self._temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}{_UNFINISHED}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.fdopen(os.open(self._temporary, flags, _PRIVATE), "wb", buffering=0)

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _failed(self._target, self._final, error) from None

    def commit(self) -> None:
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._final)
            for folder in (self._final.parent, self._final.parent.parent):
                sync_folder(folder)
        except OSError as error:
            raise _failed(self._target, self._final, error) from None

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def _failed(target: str, path: Path, error: OSError) -> ArchiveError:
    if isinstance(error, FileNotFoundError):
        return ArchiveError("is not there", where=str(path), hint="take another set, or the same from another target")
    return TargetError(
        f"{error.strerror or type(error).__name__}",
        where=f"target {target}: {path}",
        hint="free space or correct the permissions, then run the command again",
    )
