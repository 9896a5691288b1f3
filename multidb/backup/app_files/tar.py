"""The one file that an app's files are in a set: a tar archive (POSIX.1-2001), which any tar reads. Streamed both ways.

A member is called after the location and the path in it: ``uploads/2026/photo.jpg``.
"""

from __future__ import annotations

import hashlib
import math
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, Self

from multidb.backup.app_files.entries import FileEntry, FileKind, Omissions, Tally, link_stays_inside
from multidb.document import Unreadable, inside, printable
from multidb.errors import ArchiveError

__all__ = ["Member", "TarWriter", "members"]

_BLOCK: Final = 256 * 1024
_LONGEST_HEADER: Final = 64 * 1024  # bytes of one that follows another; ours have a name and a moment
_KINDS: Final = {tarfile.REGTYPE: FileKind.FILE, tarfile.DIRTYPE: FileKind.FOLDER, tarfile.SYMTYPE: FileKind.LINK}
_ANOTHER: Final = "take another set"


class TarWriter:
    """Writes the entries of locations to a stream. A block that ends well has written the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._tar = tarfile.open(  # noqa: SIM115  entered and left with us
            fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._tar.__exit__(*exc)

    def add(self, location: str, entry: FileEntry, tally: Tally, omissions: Omissions) -> None:
        """Writes an entry, and adds what was written to the tally."""
        info = tarfile.TarInfo(f"{location}/{entry.path}" if entry.path else location)
        info.type = next(kind for kind, meaning in _KINDS.items() if meaning is entry.kind)
        info.mode, info.mtime, info.linkname = entry.mode, entry.modified, entry.target
        if entry.open is None:
            self._tar.addfile(info)
            tally.add(entry)
            return
        info.size = entry.size
        with entry.open() as file:
            content = _Content(file, entry.size)
            self._tar.addfile(info, content)  # type: ignore[arg-type]
        if content.lacking:
            omissions.add("shortened while it was read, and filled up with zeros", entry.path or location)
        tally.add(entry, content.sha256)


class _Content:
    """So many bytes of a file, whatever becomes of it meanwhile."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._digest = hashlib.sha256()
        self.lacking = 0

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = self._file.read(size)
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        self.lacking += size - len(data)
        data = data.ljust(size, b"\0")
        self._left -= size
        self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class Member:
    """One member of an archive that is read. Its bytes can be read until the next one is asked for."""

    def __init__(self, location: str, entry: FileEntry, content: Any) -> None:
        self.location = location
        self.entry = entry
        self._content = content

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Hands on the bytes of a file."""
        left = self.entry.size
        while left:
            data = self._content.read(min(_BLOCK, left)) if self._content is not None else b""
            if not data:
                raise ArchiveError("a file in it is cut off", hint=_ANOTHER)
            write(data)
            left -= len(data)


def members(stream: BinaryIO, locations: Mapping[str, object]) -> Iterator[Member]:
    """What is in an archive, whoever wrote it: names that stay inside their location, once, after the folder that they
    are in; files, folders, and links that stay inside.

    Args:
        locations: what it may have, by the names.

    Raises:
        ArchiveError: there is something else in it.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK, tarinfo=_BoundedInfo) as tar:
            order = _Order(locations)
            for info in tar:
                location, path = order.place(info)
                mode, modified = stat.S_IMODE(info.mode) & 0o777, _moment(info.mtime)
                entry = FileEntry(path, _KINDS[info.type], info.size, mode, modified, info.linkname)
                if entry.kind is FileKind.LINK and not (path and link_stays_inside(path, entry.target)):
                    raise _refused(info, "leads elsewhere")
                yield Member(location, entry, tar.extractfile(info) if info.isreg() else None)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise ArchiveError(f"its files are no tar archive: {type(error).__name__}", hint=_ANOTHER) from None


class _BoundedInfo(tarfile.TarInfo):
    """A header. What is longer than one of ours is not taken into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type not in _KINDS and (info.type != tarfile.XHDTYPE or info.size > _LONGEST_HEADER):
            raise ArchiveError("what is in its files is neither a file, nor a folder, nor a link", hint=_ANOTHER)
        if info.type in (tarfile.DIRTYPE, tarfile.SYMTYPE) and info.size:
            raise ArchiveError("what is in its files has bytes that no folder or link has", hint=_ANOTHER)
        return info


class _Order:
    """Sees to it that members come as `tree.read_tree` lists them."""

    def __init__(self, locations: Mapping[str, object]) -> None:
        self._locations = locations
        self._begun: set[str] = set()
        self._last: tuple[str, tuple[bytes, ...]] | None = None
        self._folders: list[str] = []  # one in the other
        self._single = False  # the location is a file

    def place(self, info: tarfile.TarInfo) -> tuple[str, str]:
        """The location of a member, and the path in it."""
        if info.issparse() or info.type not in _KINDS or info.size < 0:
            raise _refused(info, "is neither a file, nor a folder, nor a link")
        try:
            name = inside(info.name.rstrip("/") if info.isdir() else info.name)
        except Unreadable as wrong:
            raise ArchiveError(str(wrong), hint=_ANOTHER) from None
        location = next((known for known in self._locations if name == known or name.startswith(f"{known}/")), None)
        if location is None:
            raise _refused(info, "is of no location that the set has")
        path = name.removeprefix(location).removeprefix("/")
        step = (location, tuple(part.encode() for part in path.split("/")) if path else ())
        if self._last is None or self._last[0] != location:
            if location in self._begun or path:
                raise _refused(info, "is not where it should be")
            self._begun.add(location)
            self._folders, self._single = [], not info.isdir()
        elif step <= self._last or self._single:
            raise _refused(info, "is not where it should be")
        self._last = step
        while self._folders and path and not path.startswith(f"{self._folders[-1]}/"):
            self._folders.pop()
        if "/" in path and (not self._folders or self._folders[-1] != path.rpartition("/")[0]):
            raise _refused(info, "is in no folder that came before it")
        if info.isdir() and path:
            self._folders.append(path)
        return location, path


def _refused(info: tarfile.TarInfo, why: str) -> ArchiveError:
    return ArchiveError(f"a name in its files {why}: {printable(info.name)!r}", hint=_ANOTHER)


def _moment(seconds: float) -> float:
    """A time that every file system has; another one is none."""
    return seconds if math.isfinite(seconds) and 0 <= seconds < 2**32 else 0.0
