"""A data folder as a server had it at a moment: from a base backup and its WAL, replayed by Postgres itself in
single-user mode, where nobody can connect and nothing runs beside it.

It is a copy of a whole server. Files of other apps' databases are there with their sizes and without contents: a
connection to one of those would be the end of it, so nobody is let into any but the one app's and the server's own, and
autovacuum is off. What the server had at work stays off, too: libraries, event triggers, subscriptions, archiving.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from multidb import files
from multidb.account import Account
from multidb.document import Unreadable, inside, printable
from multidb.errors import ArchiveError, ServerSlow, TargetError
from multidb.model import HostedServer, Progress, Revival, counted
from multidb.processes import environment
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup.base_files import MAPS, SIZES, database_of, members, read_sizes
from multidb.provisioners.postgres.backup.places import DELEGATE, place_names
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.secrets import Secret, redact

__all__ = ["ADMIN", "Revived", "revive"]

ADMIN: Final = "postgres"

_OWN: Final = ("postgres", "template0", "template1")
_CHUNK: Final = 1 << 20
_LOG: Final = "recovery.log"
_REDONE: Final = re.compile(r"redo done at ([0-9A-F]{1,8})/([0-9A-F]{1,8})")
_POSITION: Final = re.compile(r"(?:LSN|redo starts at|restored log file) \S+")
_EARLY: Final = "recovery ended before configured recovery target was reached"
_NUMBER: Final = re.compile(r'"database=([0-9]{1,10})"')
_DATABASE: Final = "SELECT 'database=' || coalesce((SELECT oid FROM pg_database WHERE datname = {name}), 0);\n"
_BAD: Final = ("FATAL:", "PANIC:", "ERROR:")
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


def revive(place: Revived, admin: Secret, revival: Revival, progress: Progress) -> None:
    """Fills the data folder. As in `RevivableKind.revive`."""
    databases = _databases(revival)
    names = {home(revival.app).database, *place_names(revival.app.id), *_OWN}
    kept = {number for number, name in databases.items() if name in names}
    while True:
        _Folder(place, revival, kept).fill(progress)
        number = _Recovery(place, admin, revival, progress).run()
        if number in kept or number not in databases:  # or made since, so that all of it is in WAL
            _settle(place)
            return
        kept.add(number)  # it had another name then: once more, with its contents
        _empty(place.data)


class _Folder:
    """The files of the data folder."""

    def __init__(self, place: Revived, revival: Revival, kept: Collection[int]) -> None:
        self._place = place
        self._revival = revival
        self._kept = kept

    def fill(self, progress: Progress) -> None:
        data, source = self._place.data, self._revival.files
        try:
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
            self._log(progress)
            self._configure()
        except OSError as error:
            raise TargetError(
                f"cannot be written: {error.strerror or type(error).__name__}",
                where=str(error.filename or data),
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

    def _log(self, progress: Progress) -> None:
        """The WAL that the moment needs. `ArchiveError` where some of it is missing: it would be an earlier moment."""
        base, there = self._revival.base, set[int]()
        size = _number(base.details.get("segment_size"), 2**20, 2**30)
        folder = self._place.data / "pg_wal"
        self._make(folder)
        for name, opened in self._revival.files.log():
            progress(self._place.hosted.name, "WAL", float(len(there)), None)
            with opened as file:
                self._write(folder / inside(name), file)
            if _SEGMENT.fullmatch(name):
                there.add(_segment(name, size))
        missing = [
            number
            for number in range(_segment(base.first, size), _segment(self._revival.last, size) + 1)
            if number not in there
        ]
        if missing:
            raise ArchiveError(
                f"WAL is missing ({counted(len(missing), 'file')}) between the base backup and that moment",
                hint="take an earlier or a later moment, or the same from another target: --from",
            )

    def _configure(self) -> None:
        base, data = self._revival.base, self._place.data
        settings = {
            **{name: value for name, value in _SETTINGS.items() if _major(self._revival) >= _SINCE.get(name, 0)},
            "max_prepared_transactions": str(_number(base.details.get("max_prepared_transactions"), 0, 262_143)),
            "max_locks_per_transaction": str(_number(base.details.get("max_locks_per_transaction"), 10, 2**31 - 1)),
            "recovery_target_time": f"{self._revival.moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00",
            "recovery_target_action": "promote",
        }
        text = "".join(f"{name} = {literal(value)}\n" for name, value in settings.items())
        delegate = self._revival.app.id + DELEGATE
        database = home(self._revival.app).database
        rule = f"host {identifier('postgres')},{identifier(database)} {{}} 127.0.0.1/32 scram-sha-256\n"
        rules = "".join(rule.format(identifier(login)) for login in (ADMIN, delegate))
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


class _Recovery:
    """Postgres, replaying WAL with nobody else there; then it is told the admin's password, and ends."""

    def __init__(self, place: Revived, admin: Secret, revival: Revival, progress: Progress) -> None:
        self._place = place
        self._revival = revival
        self._progress = progress
        self._log = place.data.parent / _LOG
        verifier = literal(scram.verifier(admin.reveal()))
        login = f"SUPERUSER LOGIN CONNECTION LIMIT -1 PASSWORD {verifier} VALID UNTIL 'infinity'"
        role, name = literal(ADMIN), literal(home(revival.app).database)
        self._statements = (
            f"DO $do$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = {role}) THEN ALTER ROLE {ADMIN} {login}; "
            f"ELSE CREATE ROLE {ADMIN} {login}; END IF; END $do$;\n"
            f"ALTER ROLE {ADMIN} RESET ALL;\n{_DATABASE.format(name=name)}"
        )

    def run(self) -> int:
        """The number of the app's database then.

        Raises:
            ArchiveError: the WAL does not lead there, or the app had no database then.
        """
        code, output = self._replayed([])
        if code != 0 and _EARLY in self._messages():
            # Nothing was committed between the moment and the end of what is archived: all of it is that moment.
            code, output = self._replayed(["-c", "recovery_target_time="])
            self._require_whole()
        if code != 0:
            lines = [
                line for line in self._messages().splitlines() if "FATAL" in line or "PANIC" in line or "ERROR" in line
            ]
            reason = "; ".join(line.partition(":  ")[2] for line in lines[-2:]) or f"it ended with code {code}"
            raise ArchiveError(
                f"Postgres could not be brought to that moment: {redact(printable(reason, 400))}",
                hint="take an earlier or a later moment, or the same from another target: --from",
            )
        number = _NUMBER.search(output)
        if number is None or not int(number[1]):
            raise ArchiveError(f"app {self._revival.app.id} had no database at that moment", hint="take a later moment")
        return int(number[1])

    def _replayed(self, settings: Collection[str]) -> tuple[int, str]:
        place = self._place
        self._log.unlink(missing_ok=True)
        command = [
            str(place.program),
            "--single",
            "-D",
            str(place.data),
            "-c",
            "listen_addresses=",
            *settings,
            "postgres",
        ]
        timer = ProgressTimer(place.hosted.progress_timeout, self._position)
        account = place.account
        with self._log.open("xb") as log:
            process = subprocess.Popen(
                command,
                cwd=place.data,
                env=environment(place.hosted.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                umask=0o077,
            )
        try:
            statements: str | None = self._statements
            while True:
                try:
                    output, _ = process.communicate(statements, timeout=1.0)
                    return process.returncode, output
                except subprocess.TimeoutExpired:
                    statements = None
                    self._progress(place.hosted.name, "replaying WAL")
                    if timer.expired():
                        raise ServerSlow(f"postgres {timer.words}", where=place.hosted.name, hint=timer.hint) from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _require_whole(self) -> None:
        """`ArchiveError` where it has stopped before the end of what is archived: that may be before the moment."""
        size = _number(self._revival.base.details.get("segment_size"), 2**20, 2**30)
        redone = _REDONE.search(self._messages())
        position = (int(redone[1], 16) << 32) + int(redone[2], 16) if redone is not None else 0
        if position // size < _segment(self._revival.last, size):
            raise ArchiveError(
                "the archived WAL ends before that moment", hint="take an earlier moment, or another target: --from"
            )

    def _messages(self) -> str:
        return files.read_text(self._log, errors="replace") or ""

    def _position(self) -> object:
        return _POSITION.findall(self._messages()[-10_000:])


def _settle(place: Revived) -> None:
    """From now on it starts as any server does."""
    with suppress(FileNotFoundError):
        (place.data.parent / _LOG).unlink()


def _empty(data: Path) -> None:
    shutil.rmtree(data)


def _parts(revival: Revival) -> list[Mapping[str, Any]]:
    parts = revival.base.details.get("parts")
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and {"file", "database"} <= set(part) for part in parts
    ):
        raise ArchiveError("the base backup does not say what is in it", hint="take another base backup")
    return parts


def _databases(revival: Revival) -> dict[int, str]:
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


def _segment(name: str, size: int) -> int:
    """The number of a file of WAL in all of it."""
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:], 16)
