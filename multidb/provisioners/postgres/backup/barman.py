"""A repository of Barman, read as an archive of one server: its base backups (``base/<id>/data``, with ``backup.info``)
and its WAL (``wals/``, in most of the forms in which Barman compresses it).

Nothing of it is signed: who names the folder trusts what lies there, as whoever brings the server back with Barman
does. The copy that is made of it runs as any other does, with a configuration of ours and nobody let in.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

import zstandard

from multidb.document import Unreadable, moment, printable
from multidb.errors import ArchiveError, TargetError
from multidb.model import BaseBackup, BaseFiles, ForeignBase
from multidb.provisioners.postgres.backup.base_files import MAPS, SIZES, database_of

__all__ = ["BarmanArchive"]

_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_HISTORY: Final = re.compile(r"[0-9A-F]{8}\.history")
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_LARGEST_INFO: Final = 1 << 20  # bytes
_LATE: Final = timedelta(minutes=10)  # that a file of WAL may be older than its last commit, by another clock
_MAP_FILES: Final = ("PG_VERSION", "pg_filenode.map")
_DEFAULTS: Final = {"databases": {}, "max_prepared_transactions": 1000, "max_locks_per_transaction": 1024}
_RESTORED: Final = "bring it back with barman recover"


class BarmanArchive:
    """What Barman has of one server.

    Args:
        folder: the server's in Barman's home: the one with ``base`` and ``wals``.
        details: what is known of the server itself; see `ContinuousArchive.details`.
    """

    def __init__(self, folder: Path, details: Mapping[str, object]) -> None:
        self._folder = folder
        self._details = {**_DEFAULTS, **details}

    def bases(self) -> Sequence[ForeignBase]:
        with _reading(self._folder):
            infos = [*self._folder.glob("base/*/backup.info"), *self._folder.glob("meta/*-backup.info")]
            if not infos and not (self._folder / "wals").is_dir():
                raise ArchiveError(
                    "is no server's folder of a Barman repository",
                    where=str(self._folder),
                    hint="name the one with base and wals in it, as barman show-server says (backup_directory)",
                )
            known = {self._id(path): _Info.of(path) for path in infos}
        bases = [self._base(name, info) for name, info in known.items() if info.done]
        return sorted(bases, key=lambda base: base.base.ended)

    def files(self, base: ForeignBase, until: datetime) -> tuple[BaseFiles, str]:
        folder = self._folder / "base" / base.id / "data"
        with _reading(folder):
            files = _Files(folder, self._folder, base.base, until)
        return files, files.last

    def _id(self, path: Path) -> str:
        name = path.parent.name if path.name == "backup.info" else path.name.removesuffix("-backup.info")
        if not _ID.fullmatch(name):
            raise ArchiveError(f"has a backup of the name {printable(name)!r}", where=str(self._folder))
        return name

    def _base(self, name: str, info: _Info) -> ForeignBase:
        problem = info.problem
        if not problem and not (self._folder / "base" / name / "data" / "PG_VERSION").exists():
            problem = "its files are not there as Postgres has them"
        version, numbers = info.version, list[int]()
        if not problem:
            data = self._folder / "base" / name / "data"
            numbers = sorted(int(path.name) for path in (data / "base").iterdir() if path.name.isdigit())
        parts = [{"file": f"{number:04}.tar", "database": of} for number, of in enumerate([None, *numbers])]
        names = cast("Mapping[str, object]", self._details["databases"])
        details = {
            **self._details,
            "databases": {str(number): names.get(str(number), "") for number in numbers},
            "postgres": version // 10000,
            "segment_size": info.segment_size,
            "parts": parts,
        }
        product = f"PostgreSQL {version // 10000}.{version % 10000}"
        return ForeignBase(name, BaseBackup(product, info.first, info.began, info.ended, details), problem)


@dataclass(frozen=True, slots=True)
class _Info:
    """A ``backup.info``.

    Args:
        done: whether the backup is finished.
        problem: why it is not read; empty: it can be.
    """

    done: bool
    problem: str
    version: int
    segment_size: int
    first: str
    began: datetime
    ended: datetime

    @classmethod
    def of(cls, path: Path) -> _Info:
        """`ArchiveError` where it is none."""
        with path.open("rb") as file:
            text = file.read(_LARGEST_INFO).decode("utf-8", "replace")
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        done = values.get("status") == "DONE"
        problem = next((words for key, words in _UNREADABLE.items() if values.get(key, "None") != "None"), "")
        now = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        if not done:
            return cls(False, "", 0, 0, "", now, now)
        try:
            first = values["begin_wal"]
            if not _SEGMENT.fullmatch(first):
                raise ValueError(first)
            began, ended = (_moment(values[key]) for key in ("begin_time", "end_time"))
            size = int(values.get("xlog_segment_size", 1 << 24))
            return cls(True, problem, int(values["version"]), size, first, began, ended)
        except (KeyError, ValueError, Unreadable):
            raise ArchiveError("does not say what Barman says of a backup", where=str(path), hint=_RESTORED) from None


_UNREADABLE: Final = {
    "compression": "it is compressed, and single apps are read out of plain files",
    "encryption": "it is encrypted",
    "parent_backup_id": "it is incremental",
    "tablespaces": "the server has tablespaces",
    "snapshots_info": "it is a snapshot of a disk",
}


class _Files:
    """One base backup and its WAL (`BaseFiles`)."""

    def __init__(self, data: Path, home: Path, base: BaseBackup, until: datetime) -> None:
        self._data = data
        self._parts = {
            str(part["file"]): part["database"] for part in cast("list[dict[str, Any]]", base.details["parts"])
        }
        self._size = cast("int", base.details["segment_size"])
        self._wal = _wal_files(home)
        first = _number(base.first, self._size)
        by_number: dict[int, str] = {}
        for name in sorted(filter(_SEGMENT.fullmatch, self._wal)):
            by_number[_number(name, self._size)] = name  # the newest timeline's comes last
        last = first
        while last in by_number and last + 1 in by_number and self._time(by_number[last]) < until + _LATE:
            last += 1
        self._range = range(first, last + 1)
        self.last = by_number.get(last, base.first)

    def names(self) -> Sequence[str]:
        return [*self._parts, MAPS, SIZES]

    def file(self, name: str) -> AbstractContextManager[BinaryIO]:
        if name == SIZES:
            return _streamed(self._write_sizes)
        if name == MAPS:
            return _streamed(lambda out: _write_tar(out, self._data, self._maps()))
        return _streamed(lambda out: _write_tar(out, self._data, self._of(self._parts[name])))

    def log(self) -> Iterator[tuple[str, AbstractContextManager[BinaryIO]]]:
        for name, path in sorted(self._wal.items()):
            if _HISTORY.fullmatch(name):
                yield name, _plain(path, None)
            elif _number(name, self._size) in self._range:
                yield name, _plain(path, self._size)

    def _time(self, name: str) -> datetime:
        return datetime.fromtimestamp(self._wal[name].stat().st_mtime).astimezone()

    def _of(self, database: int | None) -> Iterator[Path]:
        """The files and folders of a database, or all that are of none."""
        top = self._data if database is None else self._data / "base" / str(database)
        for folder, folders, names in os.walk(top):  # which follows no link
            below = Path(folder).relative_to(self._data)
            if database is None:
                folders[:] = [name for name in folders if database_of((below / name).as_posix()) is None]
            yield Path(folder)
            yield from (path for path in (Path(folder, name) for name in names) if _is_file(path))

    def _maps(self) -> Iterator[Path]:
        for number in filter(None, self._parts.values()):
            yield from (path for name in _MAP_FILES if _is_file(path := self._data / "base" / str(number) / name))

    def _write_sizes(self, out: IO[bytes]) -> None:
        for number in filter(None, self._parts.values()):
            for path in self._of(number):
                if path.is_file():
                    out.write(f"{path.relative_to(self._data).as_posix()} {path.stat().st_size}\n".encode())


def _wal_files(home: Path) -> Mapping[str, Path]:
    """Where the files of WAL are, by their names; of the one that is being received, what there is of it."""
    known: dict[str, Path] = {}
    for path in (home / "streaming").glob("*.partial"):
        if _SEGMENT.fullmatch(path.stem):
            known[path.stem] = path
    for path in (*(home / "streaming").glob("*"), *(home / "incoming").glob("*"), *(home / "wals").glob("*/*")):
        if _SEGMENT.fullmatch(path.name) and _is_file(path):
            known[path.name] = path
    known.update({path.name: path for path in (home / "wals").glob("*.history") if _HISTORY.fullmatch(path.name)})
    return known


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _write_tar(out: IO[bytes], top: Path, paths: Iterator[Path]) -> None:
    with tarfile.open(fileobj=out, mode="w|") as tar:
        for path in paths:
            member = tarfile.TarInfo(path.relative_to(top).as_posix())
            if path.is_dir():
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
                continue
            with path.open("rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)


@contextmanager
def _streamed(write: Callable[[IO[bytes]], None]) -> Iterator[BinaryIO]:
    """What `write` writes, as it does."""
    inlet, outlet = os.pipe()

    def fill() -> None:
        with suppress(BrokenPipeError), open(outlet, "wb") as out:  # noqa: PTH123 (an open file has no path)
            write(out)

    with ThreadPoolExecutor(1) as beside:
        filling = beside.submit(fill)
        with open(inlet, "rb") as plain:  # noqa: PTH123
            yield plain
        with _reading(None):
            filling.result()


@contextmanager
def _plain(path: Path, size: int | None) -> Iterator[BinaryIO]:
    """The plain bytes of a file of WAL; a block that ends well has read a whole one.

    Args:
        size: that it has to have; None: any.
    """
    with ExitStack() as stack:
        with _reading(path):
            stored = stack.enter_context(path.open("rb"))
            magic = stored.read(6)
            stored.seek(0)
            length = os.fstat(stored.fileno()).st_size
        opened = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
        if opened is None and size is not None and length != size:
            raise ArchiveError(
                "is compressed in a way that multidb does not read", where=str(path), hint=f"{_RESTORED}, or by gzip"
            )
        reading = _Limited(opened(stored) if opened is not None else stored, size, path)
        yield cast("BinaryIO", reading)
        reading.require_whole()


class _Limited:
    """A file of WAL: as many bytes as one has, no more and no less."""

    def __init__(self, plain: IO[bytes], size: int | None, path: Path) -> None:
        self._plain = plain
        self._size = size
        self._path = path
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        with _reading(self._path):
            data = self._plain.read(size)
        self._read += len(data)
        if self._size is not None and self._read > self._size:
            self._refuse()
        return data

    def require_whole(self) -> None:
        if self._size is not None and self._read != self._size:
            self._refuse()

    def _refuse(self) -> None:
        raise ArchiveError("is no whole file of WAL", where=str(self._path), hint="look at it: barman check SERVER")


@contextmanager
def _reading(path: Path | None) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError) as error:
        raise ArchiveError(
            f"is damaged: {printable(str(error), 200)}", where=str(path), hint="look at it: barman check SERVER"
        ) from None
    except OSError as error:
        raise TargetError(
            f"cannot be read: {error.strerror or type(error).__name__}",
            where=str(error.filename or path),
            hint="run multidb as somebody who may read Barman's files",
        ) from None


def _moment(text: str) -> datetime:
    return moment(text if "+" in text[10:] or text.endswith("Z") else f"{text}+00:00")


def _number(name: str, size: int) -> int:
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:], 16)


_OPENERS: Final[Mapping[bytes, Callable[[IO[bytes]], IO[bytes]]]] = {
    b"\x1f\x8b": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast("IO[bytes]", bz2.BZ2File(file)),
    b"\xfd7zXZ\x00": lambda file: cast("IO[bytes]", lzma.LZMAFile(file)),  # noqa: SIM115
    b"\x28\xb5\x2f\xfd": lambda file: cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file)),
}
