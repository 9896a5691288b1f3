"""Sets in a folder of this machine (or of whatever is mounted there).

The folder itself may be a link; in it, links are not followed, neither of files nor of folders: whoever may write there
would lead us anywhere. So every name is opened relative to the folder that it is in, one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from multidb.backup.targets import safe, within
from multidb.errors import ArchiveError, TargetError
from multidb.files import make_folder

__all__ = ["FolderTarget"]

_PRIVATE: Final = 0o600
_UNFINISHED: Final = ".part"
_FLUSHED: Final = 64 * 1024**2  # bytes after which they are waited for, so that no single call takes long
_DEEPEST: Final = 6  # folders below the one that is asked for; a set has three
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # not waiting for who writes into a named pipe


class FolderTarget:
    """A folder. Files are written under a temporary name, flushed to the disk and renamed.

    Args:
        name: as the manifest has it.
        root: the folder; made when the first file is.
        project: the folder of the project whose sets these are. What root makes here belongs to the project's owner
            where the folder does: who has the project's secrets reads in no set what is not theirs, and one backup by
            sudo would lock them out. Where the folder is another account's, it stays root's.
    """

    def __init__(self, name: str, root: Path, project: Path | None = None) -> None:
        self.name = name
        self._root = root
        self._project = project

    def create(self, path: str) -> _NewFile:
        with self._explaining(path), self._folder_of(path, make=True) as (folder, name):
            file = _NewFile(self.name, self._root / path, folder, name)
            self._give(file.fileno(), os.fstat(folder))
            return file

    resume = create  # what was written of a file is gone with its run

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with self._explaining(path), self._folder_of(path) as (folder, name):
            descriptor = os.open(name, _FILE, dir_fd=folder)
            file = os.fdopen(descriptor, "rb")
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.close()
                raise ArchiveError("is not a file", where=str(self._root / path), hint="take another set")
        with file:
            yield cast("BinaryIO", _OpenFile(file, self.name, self._root / path))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for path, size in within(self._files(prefix), prefix, self.name):
            if not path.endswith(_UNFINISHED):
                yield path, size

    def unfinished(self, prefix: str) -> Iterator[str]:
        for path, _ in within(self._files(prefix), prefix, self.name):
            if path.endswith(_UNFINISHED):
                yield path

    def delete(self, path: str) -> None:
        with self._explaining(path), contextlib.suppress(FileNotFoundError), self._folder_of(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def sweep(self, prefix: str) -> None:
        with self._explaining(prefix), contextlib.suppress(FileNotFoundError), self._folder_of(prefix) as (above, name):
            self._sweep(above, name, _DEEPEST)

    def _sweep(self, above: int, name: str, deeper: int) -> None:
        folder = os.open(name, _FOLDER, dir_fd=above)
        try:
            for entry, kind, _ in _entries(folder):
                if stat.S_ISDIR(kind) and deeper:
                    self._sweep(folder, entry, deeper - 1)
                elif stat.S_ISREG(kind) and entry.endswith(_UNFINISHED):
                    os.unlink(entry, dir_fd=folder)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(name, dir_fd=above)

    def _files(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Path and size of the ordinary files; what else lies there is nobody's set."""
        try:
            with self._folder_of(prefix) as (above, name):
                top = os.open(name, _FOLDER, dir_fd=above)
            yield from self._below(top, prefix, _DEEPEST)
        except FileNotFoundError:  # a folder that is not there yet holds nothing
            return
        except OSError as error:
            raise _unreachable(self.name, self._root / prefix, error) from None

    def _below(self, folder: int, path: str, deeper: int) -> Iterator[tuple[str, int]]:
        """The files of an open folder, which is closed at the end."""
        try:
            for name, kind, size in _entries(folder):
                if stat.S_ISREG(kind):
                    yield f"{path}/{name}", size
                elif stat.S_ISDIR(kind) and deeper:
                    with contextlib.suppress(FileNotFoundError):  # another run removes sets
                        below = os.open(name, _FOLDER, dir_fd=folder)
                        yield from self._below(below, f"{path}/{name}", deeper - 1)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that `path` is in, as a descriptor, and the name in it."""
        *folders, name = safe(path, self.name).split("/")
        if make:
            make_folder(self._root.parent)
        is_new = make and _is_made(self._root)
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if is_new:
                self._give(descriptor, self._root.parent.stat())
            for folder in folders:
                is_new = make and _is_made(folder, descriptor)
                below = os.open(folder, _FOLDER, dir_fd=descriptor)
                if is_new:
                    self._give(below, os.fstat(descriptor))
                os.close(descriptor)
                descriptor = below
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _give(self, descriptor: int, above: os.stat_result) -> None:
        if os.geteuid() == 0 and self._project is not None:
            with contextlib.suppress(OSError):  # a container may not give files away
                if self._project.stat().st_uid == above.st_uid:
                    os.fchown(descriptor, above.st_uid, above.st_gid)

    @contextlib.contextmanager
    def _explaining(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failed(self.name, self._root / path, error) from None


class _NewFile:
    """A file under a temporary name.

    Args:
        final: where it will be, for messages; `folder`, `name`: the same as an open folder and the name in it.
    """

    def __init__(self, target: str, final: Path, folder: int, name: str) -> None:
        self._target = target
        self._final = final
        self._name = name
        self._temporary = f".{name}.{secrets.token_hex(4)}{_UNFINISHED}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._temporary, flags, _PRIVATE, dir_fd=folder), "wb", buffering=0)
        self._folder = os.dup(folder)
        self._unflushed = 0

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._unflushed += len(data)
            if self._unflushed >= _FLUSHED:
                os.fdatasync(self._file.fileno())
                self._unflushed = 0
        except OSError as error:
            raise _failed(self._target, self._final, error) from None

    def commit(self) -> None:
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._folder)
            try:
                os.fsync(above)
            finally:
                os.close(above)
            self._let_go()
        except OSError as error:
            raise _failed(self._target, self._final, error) from None

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        if self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)
            self._let_go()

    def _let_go(self) -> None:
        os.close(self._folder)
        self._folder = -1


class _OpenFile:
    """A file that is read.

    Args:
        path: for messages.
    """

    def __init__(self, file: BinaryIO, target: str, path: Path) -> None:
        self._file = file
        self._target = target
        self._path = path

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise _failed(self._target, self._path, error) from None


def _is_made(folder: str | Path, above: int | None = None) -> bool:
    """Makes the folder where there is none; whether it did."""
    try:
        os.mkdir(folder, 0o700, dir_fd=above)
    except FileExistsError:
        return False
    return True


def _entries(folder: int) -> list[tuple[str, int, int]]:
    """Name, kind and size of what is in an open folder; links are themselves."""
    entries = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            entries.append((name, status.st_mode, status.st_size))
    return entries


def _failed(target: str, path: Path, error: OSError) -> ArchiveError:
    if isinstance(error, FileNotFoundError):
        return ArchiveError("is not there", where=str(path), hint="take another set, or the same from another target")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ArchiveError(
            "there is a link on the way to it, or no folder, and links in a target are not followed",
            where=str(path),
            hint="take another set; or name the folder that the link means as the target",
        )
    return _unreachable(target, path, error)


def _unreachable(target: str, path: Path, error: OSError) -> TargetError:
    return TargetError(
        f"{error.strerror or type(error).__name__}",
        where=f"target {target}: {path}",
        hint="free space or correct the permissions, then run the command again",
    )
