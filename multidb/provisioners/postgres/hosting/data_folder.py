"""The data folder of a server's copy: its files out of a base backup, the WAL that the moment needs, and a
configuration that is ours alone.

It is a copy of a whole server. Files of other apps' databases are there with their sizes and without contents: a
connection to one of those would be the end of it, so nobody is let into any but the one app's and the server's own, and
autovacuum is off. What the server had at work stays off, too: libraries, event triggers, subscriptions, archiving.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from multidb import files
from multidb.account import Account
from multidb.document import Unreadable, inside, printable
from multidb.errors import ArchiveError, TargetError
from multidb.model import HostedServer, Progress, Revival, counted
from multidb.provisioners.postgres.backup.base_files import MAPS, SIZES, database_of, members, read_sizes
from multidb.provisioners.postgres.backup.places import DELEGATE
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["ADMIN", "PROMOTE", "STOP", "DataFolder", "Revived", "databases_of", "segment_of", "segment_size"]

ADMIN: Final = "postgres"
PROMOTE: Final = "promote"
STOP: Final = "shutdown"

_CHUNK: Final = 1 << 20
_FICLONE: Final = 0x40049409
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")

# What the former configuration says is not asked: a superuser of then may have written it.
_SETTINGS: Final = {
    "autovacuum": "off",
    "event_triggers": "off",
    "hot_standby": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "archive_mode": "off",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "shared_preload_libraries": "",
    "jit": "off",
    "ssl": "off",
    "log_startup_progress_interval": "5s",
    "restore_command": "false",
    "wal_recycle": "off",
}
_SINCE: Final = {"event_triggers": 17}  # settings that an older version does not know


@dataclass(frozen=True, slots=True)
class Revived:
    """Where and by what a server is revived.

    Args:
        data: its data folder, which is not there yet.
        program: `postgres`, of the version that the base backup is of.
        account: who runs it; None: as whoever runs multidb.
    """

    hosted: HostedServer
    data: Path
    program: Path
    account: Account | None


class DataFolder:
    """The files of the data folder."""

    def __init__(self, place: Revived, revival: Revival, kept: Collection[int]) -> None:
        self._place = place
        self._revival = revival
        self._kept = kept

    def fill(self, progress: Progress) -> None:
        """From the base backup. The folder is not there yet."""
        data, source = self._place.data, self._revival.files
        with self._writing():
            data.mkdir(mode=0o700)
            self._own(data)
            for number, part in enumerate(_parts(self._revival)):
                progress(self._place.hosted.name, "base backup", float(number), float(len(_parts(self._revival))))
                if part["database"] is None or part["database"] in self._kept:
                    with source.file(str(part["file"])) as file:
                        self._unpack(file)
            with source.file(MAPS) as file:
                self._unpack(file)
            with source.file(SIZES) as file:
                self._leave_out(read_sizes(file))
            self._log(segment_of(self._revival.base.first, segment_size(self._revival)), progress)

    def go_on(self, progress: Progress) -> None:
        """What a later moment needs besides: the WAL since the one before."""
        with self._writing():
            text = files.read_text(self._last) or ""
            if not text.isdigit():
                raise ArchiveError("the copy that was kept cannot be used", hint="take the moment with --at")
            self._log(int(text) + 1, progress)

    def duplicate(self, other: Path, progress: Progress) -> None:
        """The same as in the data folder `other`, whose server is stopped. Where the file system can, without taking
        room twice; empty parts of files stay empty."""
        data = self._place.data
        with self._writing():
            for number, (folder, _, names) in enumerate(os.walk(other)):  # which follows no link
                progress(self._place.hosted.name, "copying what was kept", float(number), None)
                self._make(data / Path(folder).relative_to(other))
                for path in (Path(folder, name) for name in names if name != "postmaster.pid"):
                    if path.is_file() and not path.is_symlink():
                        target = data / path.relative_to(other)
                        _copy(path, target)
                        self._own(target)

    @property
    def _last(self) -> Path:
        """Has the number of the last file of WAL that is there."""
        return self._place.data.parent / "last"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetError(
                f"cannot be written: {error.strerror or type(error).__name__}",
                where=str(error.filename or self._place.data),
                hint="free space there, then run the command again",
            ) from None

    def _unpack(self, tar: BinaryIO) -> None:
        for member, content in members(tar):
            name = member.name.removeprefix("./").rstrip("/")
            if name in ("", "."):
                continue
            try:
                path = self._place.data / inside(name)
            except Unreadable as wrong:
                raise ArchiveError(f"the base backup {wrong}", hint="take another base backup") from None
            if member.isdir():
                self._make(path)
            elif content is not None:
                self._make(path.parent)
                self._write(path, content)
            else:
                raise ArchiveError(
                    f"the base backup has what is no file: {printable(name)!r}", hint="take another base backup"
                )

    def _leave_out(self, sizes: Mapping[str, int]) -> None:
        """Files of the databases that are not kept: as large as they were, and empty."""
        for name, size in sizes.items():
            path = self._place.data / inside(name)
            if database_of(name) not in self._kept and not path.exists():
                self._make(path.parent)
                with path.open("xb") as file:
                    file.truncate(size)
                self._own(path)

    def _log(self, first: int, progress: Progress) -> None:
        """The WAL that the moment needs, from its file of the number `first` on. `ArchiveError` where some of it is
        missing: it would be an earlier moment."""
        there, size = set[int](), segment_size(self._revival)
        folder = self._place.data / "pg_wal"
        self._make(folder)
        for name, opened in self._revival.files.log():
            number = segment_of(name, size) if _SEGMENT.fullmatch(name) else None
            if number is not None and number < first:
                continue
            progress(self._place.hosted.name, "WAL", float(len(there)), None)
            with opened as file:
                self._write(folder / inside(name), file)
            if number is not None:
                there.add(number)
        last = segment_of(self._revival.last, size)
        missing = [number for number in range(first, last + 1) if number not in there]
        if missing:
            raise ArchiveError(
                f"WAL is missing ({counted(len(missing), 'file')}) between the base backup and that moment",
                hint="take an earlier or a later moment, or the same from another target: --from",
            )
        files.write_text(self._last, str(max(last, first - 1)), mode=files.PRIVATE)

    def configure(self, action: str) -> None:
        """Writes what Postgres is told.

        Args:
            action: what it does once it has got to the moment (``recovery_target_action``): `PROMOTE`, or `STOP` for
                one that nobody is let into.
        """
        base, data = self._revival.base, self._place.data
        settings = {
            **{name: value for name, value in _SETTINGS.items() if _major(self._revival) >= _SINCE.get(name, 0)},
            "max_prepared_transactions": str(_number(base.details.get("max_prepared_transactions"), 0, 262_143)),
            "max_locks_per_transaction": str(_number(base.details.get("max_locks_per_transaction"), 10, 2**31 - 1)),
            "recovery_target_time": f"{self._revival.moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00",
            "recovery_target_action": action,
        }
        text = "".join(f"{name} = {literal(value)}\n" for name, value in settings.items())
        delegate = self._revival.app.id + DELEGATE
        database = home(self._revival.app).database
        rule = f"host {identifier('postgres')},{identifier(database)} {{}} 127.0.0.1/32 scram-sha-256\n"
        rules = "".join(rule.format(identifier(login)) for login in (ADMIN, delegate))
        if action != PROMOTE:
            rules = "local all all reject\n"
        for name, content in (
            ("postgresql.conf", text),
            ("postgresql.auto.conf", ""),
            ("pg_hba.conf", rules),
            ("pg_ident.conf", ""),
            ("recovery.signal", ""),
        ):
            (data / name).unlink(missing_ok=True)
            files.write_text(data / name, content, mode=files.PRIVATE)
            self._own(data / name)
        (data / "standby.signal").unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        for path in reversed([folder, *folder.parents]):
            if path.is_relative_to(self._place.data) and not path.exists():
                path.mkdir(mode=0o700)
                self._own(path)

    def _write(self, path: Path, content: IO[bytes]) -> None:
        with path.open("wb") as file:
            while data := content.read(_CHUNK):
                file.write(data)
        self._own(path)

    def _own(self, path: Path) -> None:
        path.chmod(0o700 if path.is_dir() else 0o600)
        if self._place.account is not None:
            os.chown(path, self._place.account.uid, self._place.account.gid, follow_symlinks=False)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        with suppress(OSError):  # a file system that shares blocks between files
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            return
        size, at = source.stat().st_size, 0
        while at < size:
            try:
                start = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nothing but emptiness from here on
                    raise
                break
            at = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            old.seek(start)
            new.seek(start)
            while (left := at - old.tell()) > 0 and (data := old.read(min(left, _CHUNK))):
                new.write(data)
        new.truncate(size)


def _parts(revival: Revival) -> list[Mapping[str, Any]]:
    parts = revival.base.details.get("parts")
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and {"file", "database"} <= set(part) for part in parts
    ):
        raise ArchiveError("the base backup does not say what is in it", hint="take another base backup")
    return parts


def databases_of(revival: Revival) -> dict[int, str]:
    databases = revival.base.details.get("databases")
    if not isinstance(databases, dict) or not all(str(number).isdigit() for number in databases):
        raise ArchiveError("the base backup does not say of which databases it is", hint="take another base backup")
    return {int(number): str(name) for number, name in databases.items()}


def _major(revival: Revival) -> int:
    return _number(revival.base.details.get("postgres"), 10, 99)


def _number(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or not least <= value <= most:
        raise ArchiveError("the base backup does not say of what server it is", hint="take another base backup")
    return value


def segment_size(revival: Revival) -> int:
    """Bytes of a file of WAL."""
    return _number(revival.base.details.get("segment_size"), 2**20, 2**30)


def segment_of(name: str, size: int) -> int:
    """The number of a file of WAL in all of it."""
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:], 16)
