"""Files and folders of this machine, read and written name by name.

Every name is opened relative to the folder that it is in, and none that is a link: whoever may write into one of these
folders could lead us anywhere, also while we are at it. What is no file, folder or link (a named pipe, a device) is
neither opened nor made.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from multidb.backup.app_files.entries import FileEntry, FileKind, Omissions, link_stays_inside
from multidb.backup.app_files.sqlite import COMPANIONS, HEADER, NotADatabase, copied
from multidb.document import Unreadable, inside

__all__ = ["CREATE", "move", "names_of", "open_folder", "read_tree", "remove_tree", "status_at"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # not waiting for who writes into a named pipe
_PERMISSIONS: Final = 0o777
_DEEPEST: Final = 100  # folders in each other


def open_folder(above: int, name: str) -> int:
    """The descriptor of a folder. `OSError` where there is none, or a link."""
    return os.open(name, _FOLDER, dir_fd=above)


def status_at(above: int, name: str) -> os.stat_result | None:
    """Of what has that name, also where it is a link; None where nothing has."""
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return None


def names_of(folder: int) -> list[str]:
    """The names in a folder, in the order of their bytes."""
    return sorted(os.listdir(folder), key=os.fsencode)


def read_tree(above: int, name: str, place: Path, omissions: Omissions, *, live: bool) -> Iterator[FileEntry]:
    """What has that name, and all that is in it: a folder before what it has, its names in the order of their bytes.

    Args:
        place: the path of it, for SQLite.
        live: it may be at work: SQLite databases are read by their online backup, and what SQLite keeps beside them
            is left out.

    Raises:
        OSError: something of it cannot be read.
    """
    yield from _TreeReading(omissions, live).entry(above, name, "", place, 0)


class _TreeReading:
    def __init__(self, omissions: Omissions, live: bool) -> None:
        self._omissions = omissions
        self._live = live
        self._owner: int | None = None  # of the location

    def entry(self, above: int, name: str, path: str, place: Path, depth: int) -> Iterator[FileEntry]:
        status = status_at(above, name)
        if status is None:
            return  # gone since it was listed
        if self._owner is None:
            self._owner = status.st_uid
        mode, modified = stat.S_IMODE(status.st_mode) & _PERMISSIONS, status.st_mtime
        if stat.S_ISDIR(status.st_mode):
            yield from self._folder(above, name, path, place, depth)
        elif stat.S_ISREG(status.st_mode):
            if status.st_nlink > 1 and status.st_uid != self._owner:  # an app can give others' files names of its own
                self._omissions.add("left out: a second name of another account's file", path)
                return
            yield from self._file(above, name, path, place, status)
        elif stat.S_ISLNK(status.st_mode) and path:
            target = os.readlink(name, dir_fd=above)
            if link_stays_inside(path, target):
                yield FileEntry(path, FileKind.LINK, 0, mode, modified, target)
            else:
                self._omissions.add("left out: a link that leads elsewhere", path)
        else:
            self._omissions.add("left out: neither a file, nor a folder, nor a link", path or name)

    def _folder(self, above: int, name: str, path: str, place: Path, depth: int) -> Iterator[FileEntry]:
        folder = open_folder(above, name)
        try:
            status = os.fstat(folder)
            yield FileEntry(path, FileKind.FOLDER, 0, stat.S_IMODE(status.st_mode) & _PERMISSIONS, status.st_mtime)
            if depth >= _DEEPEST:
                self._omissions.add("left out: what is in a folder so deep", path)
                return
            names = names_of(folder)
            databases = self._databases(folder, names) if self._live else set()
            for below in names:
                full = f"{path}/{below}" if path else below
                if any(below.endswith(end) and below.removesuffix(end) in databases for end in COMPANIONS):
                    continue
                try:
                    inside(full)
                except Unreadable:
                    self._omissions.add("left out: a name that no set can have", full)
                    continue
                yield from self.entry(folder, below, full, place / below, depth + 1)
        finally:
            os.close(folder)

    def _databases(self, folder: int, names: list[str]) -> set[str]:
        """Those of the names that have something of SQLite's beside them."""
        beside = {name.removesuffix(end) for name in names for end in COMPANIONS if name.endswith(end)}
        return {name for name in beside.intersection(names) if _is_sqlite(folder, name)}

    def _file(self, above: int, name: str, path: str, place: Path, status: os.stat_result) -> Iterator[FileEntry]:
        mode, modified = stat.S_IMODE(status.st_mode) & _PERMISSIONS, status.st_mtime
        if self._live and _is_sqlite(above, name):
            try:
                with copied(place, os.fstat(above), status) as copy:
                    yield FileEntry(path, FileKind.FILE, copy.stat().st_size, mode, modified, open=_opener(copy))
                return
            except NotADatabase as error:
                self._omissions.add(f"copied as they lie there, which SQLite could not read ({error})", path or name)
        descriptor = _open_file(above, name)
        if descriptor is None:
            self._omissions.add("left out: gone, or another thing, when it was to be read", path or name)
            return
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            yield FileEntry(path, FileKind.FILE, size, mode, modified, open=lambda: contextlib.nullcontext(file))
            now = os.fstat(descriptor)
            if self._live and (now.st_size, now.st_mtime_ns) != (size, status.st_mtime_ns):
                self._omissions.add("changed while it was read", path or name)


def _open_file(above: int, name: str) -> int | None:
    """The descriptor of a file that is one; None where it is gone or has become something else."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=above)
    except FileNotFoundError:
        return None
    except OSError:
        status = status_at(above, name)
        if status is not None and stat.S_ISREG(status.st_mode):
            raise
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _is_sqlite(above: int, name: str) -> bool:
    status = status_at(above, name)
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    descriptor = _open_file(above, name)
    if descriptor is None:
        return False
    try:
        return os.pread(descriptor, len(HEADER), 0) == HEADER
    finally:
        os.close(descriptor)


def _opener(path: Path) -> Callable[[], contextlib.AbstractContextManager[BinaryIO]]:
    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        descriptor = os.open(path, _FILE)
        with os.fdopen(descriptor, "rb") as file:
            yield file

    return opened


def move(source: int, target: int, name: str, new: str | None = None) -> None:
    """Renames what has that name in the folder `source` into the folder `target`, there also under a new name. A folder
    of ours that nobody may write is moved, too: its entry ``..`` changes, so the system wants it writable for that."""
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_IWUSR and status.st_uid == os.geteuid()
    if closed:
        _open_up(source, name)
    try:
        os.rename(name, new or name, src_dir_fd=source, dst_dir_fd=target)
        source, name = target, new or name
    finally:
        if closed:
            folder = open_folder(source, name)
            try:
                os.fchmod(folder, stat.S_IMODE(status.st_mode))
            finally:
                os.close(folder)


def remove_tree(above: int, name: str) -> None:
    """Removes what has that name, and all that is in it; nothing where nothing has."""
    status = status_at(above, name)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=above)
        return
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        _open_up(above, name)
    folder = open_folder(above, name)
    try:
        for below in names_of(folder):
            remove_tree(folder, below)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=above)


def _open_up(above: int, name: str) -> None:
    """Lets us read and empty a folder of ours that nobody may."""
    folder = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        Path(f"/proc/self/fd/{folder}").chmod(stat.S_IRWXU)
    finally:
        os.close(folder)
