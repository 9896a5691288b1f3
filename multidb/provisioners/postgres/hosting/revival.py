"""A server as it was at a moment: a copy of its data folder, with WAL replayed by Postgres itself in single-user mode,
where nobody can connect and nothing runs beside it.

What has been read is not replayed any further: a server that lets somebody in has begun a history of its own. So a
copy that is to be rolled on to later moments stays *waiting*, where Postgres stops at the moment and lets nobody in, so
what is read is a duplicate.

Of a database that is left out, the copy has empty pages. Most WAL brings the page that it changes along; some does not
(that a page is visible to everybody, on a server without checksums), and Postgres would end there. So it is told to go
on, and what it says of pages is heeded where it is of a database that is read.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import IO, Final

from multidb import files
from multidb.document import printable
from multidb.errors import ArchiveError, ServerSlow
from multidb.model import Progress, Revival
from multidb.processes import environment
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup.places import place_names
from multidb.provisioners.postgres.hosting.data_folder import (
    ADMIN,
    PROMOTE,
    STOP,
    DataFolder,
    Revived,
    databases_of,
    segment_of,
    segment_size,
)
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.quoting import literal
from multidb.secrets import Secret, redact

__all__ = ["Revived", "revive"]

_OWN: Final = ("postgres", "template0", "template1")
_LOG: Final = "recovery.log"
_REDONE: Final = re.compile(r"redo done at ([0-9A-F]{1,8})/([0-9A-F]{1,8})")
_POSITION: Final = re.compile(r"(?:LSN|redo starts at|restored log file) \S+")
_EARLY: Final = "recovery ended before configured recovery target was reached"
_NUMBER: Final = re.compile(r'"database=([0-9]{1,10})"')
_DATABASE: Final = "SELECT 'database=' || coalesce((SELECT oid FROM pg_database WHERE datname = {name}), 0);\n"
_BAD: Final = ("FATAL:", "PANIC:", "ERROR:")
_THERE: Final = "shutdown at recovery target"
_PAGE: Final = re.compile(
    r"WARNING:  (page \d{1,10} of relation (?:base/(\d{1,10})/)?\S{1,80} (?:is uninitialized|does not exist))"
)
_GOES_ON: Final = ("-c", "ignore_invalid_pages=on", "-c", "log_error_verbosity=terse")
_INVALID: Final = "WARNING:  WAL contains references to invalid pages"
_ENDING: Final = 10.0  # seconds for what a process that has ended said last


def revive(place: Revived, admin: Secret, revival: Revival, progress: Progress, waiting: Revived | None = None) -> None:
    """Fills the data folder. As in `RevivableKind.revive`."""
    databases = databases_of(revival)
    names = {home(revival.app).database, *place_names(revival.app.id), *_OWN}
    kept = {number for number, name in databases.items() if name in names}
    while True:
        folder = DataFolder(place, revival, kept)
        if waiting is None:
            folder.fill(progress)
        else:
            _roll(waiting, revival, kept, progress)
            folder.duplicate(waiting.data, progress)
        folder.configure(PROMOTE)
        number = _Recovery(place, revival, progress, kept).run(admin)
        if number in kept or number not in databases:  # or made since, so that all of it is in WAL
            _settle(place)
            return
        kept.add(number)  # it had another name then: once more, with its contents
        shutil.rmtree(place.data)
        if waiting is not None:
            shutil.rmtree(waiting.data)


def _roll(waiting: Revived, revival: Revival, kept: Collection[int], progress: Progress) -> None:
    """Brings a copy that waits to the moment, or makes it."""
    folder = DataFolder(waiting, revival, kept)
    if waiting.data.exists():
        folder.go_on(progress)
    else:
        folder.fill(progress)
    folder.configure(STOP)
    _Recovery(waiting, revival, progress, kept).wait_there()
    _settle(waiting)


class _Recovery:
    """Postgres, replaying WAL with nobody else there; then it is told the admin's password, and ends."""

    def __init__(self, place: Revived, revival: Revival, progress: Progress, kept: Collection[int]) -> None:
        self._place = place
        self._revival = revival
        self._progress = progress
        self._left_out = databases_of(revival).keys() - set(kept)
        self._log = place.data.parent / _LOG

    def run(self, admin: Secret) -> int:
        """Ends with the admin's password known. The number of the app's database then.

        Raises:
            ArchiveError: the WAL does not lead there, or the app had no database then.
        """
        verifier = literal(scram.verifier(admin.reveal()))
        login = f"SUPERUSER LOGIN CONNECTION LIMIT -1 PASSWORD {verifier} VALID UNTIL 'infinity'"
        role, name = literal(ADMIN), literal(home(self._revival.app).database)
        statements = (
            f"DO $do$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = {role}) THEN ALTER ROLE {ADMIN} {login}; "
            f"ELSE CREATE ROLE {ADMIN} {login}; END IF; END $do$;\n"
            f"ALTER ROLE {ADMIN} RESET ALL;\n{_DATABASE.format(name=name)}"
        )
        code, output = self._replayed(["--single"], ["postgres"], statements)
        if code != 0 and _EARLY in self._messages():
            # Nothing was committed between the moment and the end of what is archived: all of it is that moment.
            self._require_whole()
            code, output = self._replayed(["--single"], ["-c", "recovery_target_time=", "postgres"], statements)
        if code != 0:
            raise self._failed(code)
        number = _NUMBER.search(output)
        if number is None or not int(number[1]):
            raise ArchiveError(f"app {self._revival.app.id} had no database at that moment", hint="take a later moment")
        self._require_pages()
        return int(number[1])

    def wait_there(self) -> None:
        """Stops at the moment, ready to go on: as a server that nobody can connect to, since only that writes down how
        far it has got.

        Raises:
            ArchiveError: the WAL does not lead there.
        """
        code, _ = self._replayed([], ["-c", "unix_socket_directories=."], None)
        if _THERE not in self._messages():
            if _EARLY not in self._messages():
                raise self._failed(code)
            self._require_whole()
        self._require_pages()

    def _require_pages(self) -> None:
        """`ArchiveError` where WAL has changed pages that are missing, of what is not left out."""
        if (page := _PAGE.search(self._messages())) is not None:
            raise self._not_brought(f"its WAL changes what the base backup has not: {page[1]}")

    def _failed(self, code: int) -> ArchiveError:
        lines = [line for line in self._messages().splitlines() if any(word in line for word in _BAD)]
        reason = "; ".join(line.partition(":  ")[2] for line in lines[-2:])
        return self._not_brought(reason or f"it ended with code {code}")

    def _not_brought(self, reason: str) -> ArchiveError:
        return ArchiveError(
            f"Postgres could not be brought to that moment: {redact(printable(reason, 400))}",
            hint="take an earlier or a later moment, or the same from another target: --from",
        )

    def _replayed(self, mode: Sequence[str], settings: Sequence[str], statements: str | None) -> tuple[int, str]:
        """Runs Postgres until it ends by itself: its exit code, and what it has said to the statements."""
        place = self._place
        self._log.unlink(missing_ok=True)
        options = ["-D", str(place.data), "-c", "listen_addresses=", *_GOES_ON, *settings]
        command = [str(place.program), *mode, *options]
        timer = ProgressTimer(place.hosted.progress_timeout, self._position)
        account = place.account
        source, sink = os.pipe()
        log = self._log.open("xb", buffering=0)
        listener = threading.Thread(target=self._listen, args=(os.fdopen(source, "rb"), log), daemon=True)
        listener.start()
        try:
            process = subprocess.Popen(
                command,
                cwd=place.data,
                env=environment(place.hosted.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                errors="replace",
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                umask=0o077,
            )
        finally:
            os.close(sink)
        try:
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
            listener.join(_ENDING)

    def _listen(self, source: IO[bytes], log: IO[bytes]) -> None:
        """Keeps what Postgres says, but for the pages of databases that are left out: there may be millions."""
        with source, log:
            for line in source:
                text = line.decode(errors="replace")
                page = _PAGE.search(text)
                of = page[2] if page is not None else None
                if _INVALID not in text and (of is None or int(of) not in self._left_out):
                    with suppress(OSError):  # a full disk; who does not listen would have it wait
                        log.write(line)

    def _require_whole(self) -> None:
        """`ArchiveError` where it has stopped before the end of what is archived: that may be before the moment."""
        size = segment_size(self._revival)
        redone = _REDONE.search(self._messages())
        position = (int(redone[1], 16) << 32) + int(redone[2], 16) if redone is not None else 0
        if position // size < segment_of(self._revival.last, size) or not self._revival.known:
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
