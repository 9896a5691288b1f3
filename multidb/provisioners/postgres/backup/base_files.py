"""The files of a base backup: the one tar that `pg_basebackup` writes, cut where another database begins, so that one
app is brought back without reading what the others have."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any, BinaryIO, Final, cast

from multidb.errors import ArchiveError
from multidb.model import ArchiveWriter
from multidb.progress import ProgressTimer

__all__ = ["MAPS", "SIZES", "database_of", "members", "read_sizes", "written"]

SIZES: Final = "sizes.txt"
"""The file that has path and size of every file of a database, a line each."""

MAPS: Final = "maps.tar"
"""What a server reads of a database without anybody being connected to it: there also of those that are left out."""

_MAPS: Final = ("/PG_VERSION", "/pg_filenode.map")
_DATABASE: Final = re.compile(r"base/([1-9][0-9]{0,9})(?:/|\Z)")
_LINE: Final = re.compile(r"(base/[0-9]{1,10}/[A-Za-z0-9_.]{1,80}) ([0-9]{1,16})")
_BUFFER: Final = 1 << 20


def database_of(path: str) -> int | None:
    """The number of the database that a file of a server belongs to; None: it is not of one."""
    match = _DATABASE.match(path.removeprefix("./"))
    return int(match[1]) if match is not None else None


def written(tar: IO[bytes], writer: ArchiveWriter, timer: ProgressTimer) -> list[dict[str, Any]]:
    """Writes the files of the tar into files of their own: what is the server's, what is of one database, in the order
    in which they come. Says which is which, and then ``sizes.txt``.

    Raises:
        ArchiveError: it is no tar, or is not whole.
    """
    parts: list[dict[str, Any]] = []
    sizes: list[str] = []
    maps: list[tuple[tarfile.TarInfo, bytes]] = []
    whole = False
    with ExitStack() as stack:
        current: ExitStack = stack.enter_context(ExitStack())
        out: tarfile.TarFile | None = None
        for member, content in _members(tar, timer):
            database = database_of(member.name)
            if database is not None and member.name.endswith(_MAPS) and content is not None:
                text = content.read()
                maps.append((member, text))
                content = io.BytesIO(text)
            if out is None or parts[-1]["database"] != database:
                current.close()
                name = f"{len(parts):04}.tar"
                file = current.enter_context(writer.file(name))
                out = current.enter_context(tarfile.open(fileobj=file, mode="w|", bufsize=_BUFFER))
                parts.append({"file": name, "database": database})
            out.addfile(member, content)
            if database is not None and member.isreg():
                sizes.append(f"{member.name.removeprefix('./')} {member.size}\n")
            whole = whole or member.name.endswith("backup_manifest")  # which comes last
    if not whole:
        raise ArchiveError("pg_basebackup ended before the backup did")
    with writer.file(MAPS) as file, tarfile.open(fileobj=file, mode="w|") as out:
        for member, text in maps:
            out.addfile(member, io.BytesIO(text))
    with writer.file(SIZES) as file:
        file.write("".join(sizes).encode())
    return parts


def read_sizes(file: BinaryIO) -> Mapping[str, int]:
    """By path, the sizes that ``sizes.txt`` has. `ArchiveError` where it is not what `written` has written."""
    sizes = {}
    for line in file.read().decode("ascii", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ArchiveError("does not say the sizes of its files as multidb does", hint="take another base backup")
        sizes[match[1]] = int(match[2])
    return sizes


def members(tar: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """What is in a tar, each to be read before the next is asked for; memory does not grow with it."""
    with tarfile.open(fileobj=tar, mode="r|", bufsize=_BUFFER) as archive:
        for member in archive:
            yield member, archive.extractfile(member) if member.isreg() else None
            cast("Any", archive).members = []  # which it would keep


def _members(tar: IO[bytes], timer: ProgressTimer) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    try:
        yield from members(cast("BinaryIO", _Watched(tar, timer)))
        while tar.read(_BUFFER):  # the padding
            pass
    except tarfile.TarError as error:
        raise ArchiveError(f"what pg_basebackup wrote cannot be read: {error}") from None


class _Watched:
    """What a program writes, with each byte of it noted as progress."""

    def __init__(self, source: IO[bytes], timer: ProgressTimer) -> None:
        self._source = source
        self._timer = timer

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._timer.moved()
        return data
