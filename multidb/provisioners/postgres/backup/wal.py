"""What a server writes, taken away as it comes: its WAL by `pg_receivewal` from a replication slot, and base backups by
`pg_basebackup`.

Nothing of ours stays running: each run takes what there is and ends, and the slot has the server keep the rest. It
keeps no more than ``max_slot_wal_keep_size``, without which no slot is made: a forgotten one would fill the disk of all
apps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

from psycopg.conninfo import make_conninfo

from multidb.document import moment
from multidb.errors import ArchiveError, NotAllowed, Refused, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import ArchiveWriter, BaseBackup, LogState, Progress, Received, Server
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import base_files, programs
from multidb.provisioners.postgres.driver.connection import Connection, Traffic
from multidb.provisioners.postgres.provision.quoting import literal
from multidb.secrets import Secret

__all__ = ["OLDEST", "PostgresContinuous"]

OLDEST: Final = 15  # before it, a slot does not say where it begins, and WAL could be missed

_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_HISTORY: Final = re.compile(r"[0-9A-F]{8}\.history")

_SERVER = """
SELECT json_build_object(
  'level', current_setting('wal_level'), 'kept', current_setting('max_slot_wal_keep_size'),
  'senders', current_setting('max_wal_senders')::int, 'slots', current_setting('max_replication_slots')::int,
  'may', (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
  'switches', has_function_privilege('pg_switch_wal()', 'EXECUTE'))"""
# $1: a slot.
_SLOT = """
SELECT coalesce((SELECT json_build_object('type', slot_type, 'status', wal_status, 'begins', restart_lsn,
  'behind', coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, 'left', safe_wal_size)
FROM pg_replication_slots WHERE slot_name = $1), 'null'::json)"""
_NOW = """
SELECT json_build_object('when', clock_timestamp(), 'snapshot', pg_current_snapshot()::text,
  'segment', pg_size_bytes(current_setting('wal_segment_size')))"""
_BASE = """
SELECT json_build_object('when', clock_timestamp(), 'version', current_setting('server_version'),
  'segment', pg_size_bytes(current_setting('wal_segment_size')),
  'prepared', current_setting('max_prepared_transactions')::int,
  'locks', current_setting('max_locks_per_transaction')::int,
  'elsewhere', (SELECT json_agg(spcname ORDER BY spcname) FROM pg_tablespace
                WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'databases', (SELECT json_object_agg(oid::text, datname) FROM pg_database))"""


class PostgresContinuous:
    """The WAL and the base backups of one server, with the admin's login."""

    def __init__(self, server: Server, password: Secret | None, application_name: str) -> None:
        self._server = server
        self._password = password
        self._where = str(server)
        self._main = Connection(server, password, application_name, Traffic())
        self._major = self._main.version // 10000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._main.close()

    def identity(self) -> str:
        return self._main.ask("SELECT system_identifier::text FROM pg_control_system()")

    def begin(self, name: str) -> bool:
        slot = self._slot(name)
        if slot is not None and slot["begins"] is not None and slot["status"] != "lost":
            return False
        self._require()
        if slot is not None:
            self.end(name)
        # From now on, not from the first time that somebody comes for it.
        self._main.execute(f"SELECT pg_create_physical_replication_slot({literal(name)}, true)")
        return True

    def end(self, name: str) -> None:
        if self._slot(name) is not None:
            self._main.execute(f"SELECT pg_drop_replication_slot({literal(name)})")

    def state(self, name: str) -> LogState | None:
        slot = self._slot(name)
        if slot is None:
            return None
        lost = slot["begins"] is None or slot["status"] == "lost"
        return LogState(int(slot["behind"]), None if slot["left"] is None else int(slot["left"]), lost)

    def receive(self, name: str, folder: Path, snapshot: str) -> Received:
        now = json.loads(self._main.ask(_NOW))
        when = moment(now["when"])
        if now["snapshot"] == snapshot and not any(folder.iterdir()):
            return Received(when, snapshot)
        # A commit with a later time than `when`: who replays to that stops at it, and need not look further.
        self._main.execute("SELECT pg_logical_emit_message(true, 'multidb', 'position')")
        after = json.loads(self._main.ask(_NOW))
        end = _up(_position(self._switched()), int(now["segment"]))
        self._run_receivewal(name, folder, end - 1)
        names = sorted(path.name for path in folder.iterdir())
        files = tuple(filter(_SEGMENT.fullmatch, names))
        return Received(when, str(after["snapshot"]), files, tuple(filter(_HISTORY.fullmatch, names)), _text(end))

    def acknowledge(self, name: str, received: Received) -> None:
        if received.end:
            self._main.execute(f"SELECT pg_replication_slot_advance({literal(name)}, {literal(received.end)})")

    def next_file(self, name: str) -> Collection[str]:
        if not _SEGMENT.fullmatch(name):
            return ()
        size = int(json.loads(self._main.ask(_NOW))["segment"])
        per_file = (1 << 32) // size
        number = int(name[8:16], 16) * per_file + int(name[16:], 16) + 1
        timeline = int(name[:8], 16)
        rest = f"{number // per_file:08X}{number % per_file:08X}"
        # A server that was promoted goes on with the next number, or with the same one again on its new timeline.
        return (f"{timeline:08X}{rest}", f"{timeline + 1:08X}{rest}", f"{timeline + 1:08X}{name[8:]}")

    def details(self) -> Mapping[str, object]:
        return self._details(json.loads(self._main.ask(_BASE)))

    def base(self, writer: ArchiveWriter, progress: Progress) -> BaseBackup:
        self._require()
        before = json.loads(self._main.ask(_BASE))
        if before["elsewhere"]:
            raise Refused(
                f"has tablespaces ({', '.join(map(str, before['elsewhere']))}), which no base backup of multidb has",
                where=self._where,
                hint="archive it with Barman or pgBackRest; backup.postgres.continuous: false",
            )
        first = self._main.ask("SELECT pg_walfile_name(pg_current_wal_lsn())")  # what it needs begins here, or later
        program = self._program("pg_basebackup")
        timer = ProgressTimer(self._server.progress_timeout)
        arguments = [
            *("--pgdata=-", "--format=tar", "--wal-method=none", "--checkpoint=fast", "--no-password"),
            *("--no-estimate-size", "--label=multidb", f"--dbname={self._address()}"),
        ]
        progress(self._server.name, "base backup: reading")
        with programs.running(program, arguments, self._password, self._where, timer=timer) as output:
            parts = base_files.written(output, writer, timer)
        after = json.loads(self._main.ask(_BASE))
        databases = {"databases": {**before["databases"], **after["databases"]}}
        details: Mapping[str, object] = {**self._details(after), **databases, "parts": parts}
        return BaseBackup(
            f"PostgreSQL {before['version']}", first, moment(before["when"]), moment(after["when"]), details
        )

    # ---------------------------------------------------------------------------------------------------------------

    def _details(self, server: Mapping[str, Any]) -> dict[str, object]:
        return {
            "postgres": self._major,
            "segment_size": int(server["segment"]),
            "databases": server["databases"],
            "max_prepared_transactions": server["prepared"],
            "max_locks_per_transaction": server["locks"],
        }

    def _require(self) -> None:
        if self._major < OLDEST:
            raise WrongVersion(
                f"is Postgres {self._major}, and continuous archiving takes {OLDEST} or newer",
                where=self._where,
                hint="upgrade the server; or backup.postgres.continuous: false",
            )
        server = json.loads(self._main.ask(_SERVER))
        if not server["may"] or not server["switches"]:
            raise NotAllowed(
                "the admin's login may not take WAL from it",
                where=self._where,
                hint=f"as a superuser: ALTER ROLE {self._server.endpoint.user} REPLICATION; GRANT EXECUTE ON FUNCTION "
                f"pg_switch_wal() TO {self._server.endpoint.user}",
            )
        if server["level"] == "minimal" or not server["senders"] or not server["slots"]:
            raise Refused(
                "writes too little of WAL, or lets nobody take it",
                where=self._where,
                hint="set wal_level = replica, max_wal_senders and max_replication_slots to 10, and restart it",
            )
        if server["kept"] == "-1":
            raise Refused(
                "would keep WAL without an end if nobody took it, until its disk is full",
                where=self._where,
                hint="limit it: ALTER SYSTEM SET max_slot_wal_keep_size = '4GB'; SELECT pg_reload_conf(); one that "
                "multidb runs has a limit once it was restarted: multidb restart",
            )

    def _slot(self, name: str) -> dict[str, Any] | None:
        slot: dict[str, Any] | None = json.loads(self._main.ask(_SLOT, (name,)))
        if slot is not None and slot["type"] != "physical":
            raise Refused(f"has a logical replication slot {name}, which multidb did not make", where=self._where)
        return slot

    def _switched(self) -> str:
        """Ends the file of WAL that is being written; where it ended."""
        answer = self._main.send("SELECT pg_switch_wal()::text")
        if answer.refusal is not None:
            raise self._main.error(answer.refusal)
        return str(answer.rows[0][0])

    def _run_receivewal(self, name: str, folder: Path, until: int) -> None:
        program = self._program("pg_receivewal")
        timer = ProgressTimer(self._server.progress_timeout, lambda: _sizes(folder))
        arguments = [
            *(f"--directory={folder}", f"--slot={name}", f"--endpos={_text(until)}", "--no-loop", "--no-password"),
            f"--dbname={self._address()}",
        ]
        try:
            with programs.running(program, arguments, self._password, self._where, timer=timer) as output:
                output.read()
        except (ServerDown, ServerSlow):
            raise
        except (ArchiveError, ServerError) as error:  # what is full may be this machine's disk
            hint = error.hint
            if "No space left" in error.message or "no space" in error.message.lower():
                hint = "free space there; the next run goes on"
            elif "pg_hba" in error.message:
                hint = "let the admin's login take WAL: a line for the database replication in pg_hba.conf"
            raise ArchiveError(error.message, where=error.where, hint=hint) from None

    def _program(self, name: str) -> programs.Program:
        endpoint = self._server.endpoint
        return programs.find(name, self._major, self._where, tls=programs.needs_tls(endpoint))

    def _address(self) -> str:
        """Where the programs connect to, without a password and with no setting of anybody's."""
        endpoint = self._server.endpoint
        tls = {"sslmode": "require"} if endpoint.tls else {}
        return make_conninfo(**{**tls, **endpoint.params}, host=endpoint.host, port=endpoint.port, user=endpoint.user)


def _sizes(folder: Path) -> object:
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def _position(text: str) -> int:
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _text(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _up(position: int, size: int) -> int:
    """The end of the file of WAL that a position is in, or at the end of."""
    return -(-position // size) * size
