"""A question to an app's database: by the app's read-only login, in a transaction that the server lets read only.

One statement is sent by itself (the extended protocol takes no second one), so none can end the transaction and go on.
Rows come in chunks of libpq's, so memory stays flat; a session that nobody reads any more is told to stop.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import pq

from multidb.errors import (
    AuthenticationFailed,
    Cancelled,
    Missing,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
    UsageError,
)
from multidb.model import Batch, Column, ColumnType, Question, QuestionRows, Tenant
from multidb.provisioners.postgres.driver.connection import Connection, Traffic
from multidb.provisioners.postgres.driver.refusals import Refusal, refusal_of
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.logins import Login, logins
from multidb.secrets import redact

__all__ = ["answer", "check", "columns"]

_CHUNK: Final = 50  # rows that libpq keeps before we see them
_LARGEST: Final = 32 * 2**20  # bytes of one chunk
_GRACE: Final = 2.0  # seconds beyond the time limit, in which the server says itself that it is over
_STOPPING: Final = 2.0  # seconds for telling the server that nobody waits any more
_TCP_INFO: Final = struct.Struct("=128xQ")  # as far as tcpi_bytes_received (linux/tcp.h)
_MISSING: Final = frozenset({"42P01", "3F000"})  # no such table or view; no such schema
_TYPES: Final = {
    16: ColumnType.BOOLEAN,
    **dict.fromkeys((20, 21, 23, 26), ColumnType.INTEGER),
    **dict.fromkeys((700, 701), ColumnType.FLOAT),
    1700: ColumnType.DECIMAL,
    1082: ColumnType.DATE,
    1114: ColumnType.TIMESTAMP,
    1184: ColumnType.INSTANT,
    **dict.fromkeys((114, 3802), ColumnType.JSON),
}
"""By the OIDs of built-in types (pg_type.dat), which no app can give to another; of all others the text is taken."""

_SETTINGS: Final = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "lock_timeout": "10s",
}
"""How an app's database or login has these set would make the same question another one, or its answer unreadable."""


def check(words: Sequence[str]) -> None:
    """Whether it is one statement, in quotes."""
    if len(words) != 1:
        hint = "put the statement in quotes: multidb query 'SELECT count(*) FROM users'"
        raise UsageError("a question in SQL is one argument", hint=hint)
    if not words[0].strip() or "\0" in words[0]:
        raise UsageError("there is nothing in the question", hint="multidb query 'SELECT count(*) FROM users'")


def columns(tenant: Tenant, question: Question) -> tuple[Column, ...]:
    """What the server says of the statement, which it does not run."""
    with _Reading(tenant, question) as reading:
        return reading.prepared()


@contextlib.contextmanager
def answer(tenant: Tenant, question: Question) -> Iterator[QuestionRows]:
    """The rows of the statement, each value as the server writes it."""
    with _Reading(tenant, question) as reading:
        yield QuestionRows(reading.prepared(), reading.rows())


class _Reading(Connection):
    """A connection by the read-only login, for one statement."""

    def __init__(self, tenant: Tenant, question: Question) -> None:
        self._app = tenant.app.id
        self._question = question
        self._under_way = False
        login = _read_only(tenant)
        try:
            super().__init__(
                tenant.server,
                login.password,
                "multidb query",
                Traffic(),
                database=home(tenant.app).database,
                user=login.user,
            )
        except (AuthenticationFailed, NotAllowed) as error:
            hint = f"multidb apply --app {self._app} lets its read-only login in again"
            raise type(error)(error.message, where=error.where, hint=hint) from None
        self._until = None if question.timeout is None else time.monotonic() + question.timeout + _GRACE
        self._meanwhile = self._look
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._under_way and not self._pgconn.status:  # OK
            with contextlib.suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=_STOPPING)
        super().close()

    def _begin(self) -> None:
        """A transaction that can't be made to write: once the server has taken a snapshot in it, it refuses to."""
        timeout = 0 if self._question.timeout is None else max(1, round(self._question.timeout * 1000))
        settings = {**_SETTINGS, "statement_timeout": str(timeout)}
        texts = ["BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"]
        texts += [f"SET LOCAL {name} = '{value}'" for name, value in settings.items()]
        for _ in self._results(lambda: self._pgconn.send_query("; ".join([*texts, "SELECT 1"]).encode())):
            pass

    def prepared(self) -> tuple[Column, ...]:
        """The columns that the statement's answer has. None: it answers with no rows."""
        statement = self._question.words[0].encode()
        for _ in self._results(lambda: self._pgconn.send_prepare(b"", statement)):
            pass
        described: tuple[Column, ...] = ()
        for result in self._results(lambda: self._pgconn.send_describe_prepared(b"")):
            described = tuple(
                Column((result.fname(number) or b"").decode(errors="replace"), _TYPES.get(result.ftype(number), _TEXT))
                for number in range(result.nfields)
            )
        return described

    def rows(self) -> Iterator[Batch]:
        """The rows, in chunks."""
        self._under_way = True
        for result in self._results(self._run):
            if result.ntuples:
                yield _rows(result)
        self._under_way = False

    def _run(self) -> None:
        self._pgconn.send_query_prepared(b"", None)
        if pq.version() >= 170000:
            self._pgconn.set_chunked_rows_mode(_CHUNK)
        else:
            self._pgconn.set_single_row_mode()

    def _results(self, send: Callable[[], None]) -> Iterator[pq.abc.PGresult]:
        try:
            send()
            self._flush(None, self._until)
            while (result := self._result(None, self._until)) is not None:
                match result.status:
                    case pq.ExecStatus.COPY_OUT | pq.ExecStatus.COPY_IN | pq.ExecStatus.COPY_BOTH:
                        raise NotAllowed("COPY has no rows", where=self._where, hint="ask with SELECT or TABLE")
                    case pq.ExecStatus.FATAL_ERROR | pq.ExecStatus.BAD_RESPONSE:
                        raise self._refused(refusal_of(result))
                yield result
        except psycopg.OperationalError:
            raise ServerDown(
                "closed the connection", where=str(self._server), hint="look into its log, then ask again"
            ) from None

    def _result(self, timeout: float | None, deadline: float | None) -> pq.abc.PGresult | None:
        before = _taken(self._pgconn.socket)
        while self._pgconn.is_busy():
            self._wait(selectors.EVENT_READ, timeout, deadline)
            if _taken(self._pgconn.socket) - before > _LARGEST:
                self.close()
                raise ServerError(
                    f"sends more than {_LARGEST // 2**20} MiB in {_CHUNK} rows, which is not taken",
                    where=self._where,
                    hint="ask for less of the largest column: left(COLUMN, 1000)",
                )
            self._pgconn.consume_input()
        self._look()
        return self._pgconn.get_result()

    @property
    def _where(self) -> str:
        return f"app {self._app}"

    def _look(self) -> None:
        if self._question.cancelled.is_set():
            raise Cancelled("nobody waits for the answer", where=self._where)

    def _refused(self, refusal: Refusal) -> ServerError:
        place = f" (at character {refusal.position})" if refusal.position else ""
        message = redact(f"{refusal.message}{place}")
        self._under_way = False
        if refusal.sqlstate in _MISSING:
            return Missing(message, where=self._where)
        if refusal.sqlstate == "57014":
            return ServerSlow(message, where=self._where, hint="give it longer: --timeout 10m")
        if refusal.sqlstate in ("57P01", "57P02", "57P03"):
            return ServerDown(message, where=str(self._server), hint="wait until it is up again, then ask again")
        return NotAllowed(message, where=self._where)


_TEXT: Final = ColumnType.TEXT


def _read_only(tenant: Tenant) -> Login:
    return next(login for login in logins(tenant) if login.purpose == "readonly")


def _taken(number: int) -> int:
    """Bytes that were read from a socket so far: those that have come but for those that wait. 0 where the system does
    not tell (it is no TCP, or not Linux)."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(fileno=os.dup(number)))
        try:
            answered = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except (OSError, AttributeError):
            return 0
        waiting: Any = fcntl.ioctl(number, termios.FIONREAD, b"\0\0\0\0")
        return (
            int(_TCP_INFO.unpack(answered)[0] - struct.unpack("i", waiting)[0])
            if len(answered) == _TCP_INFO.size
            else 0
        )


def _rows(result: pq.abc.PGresult) -> list[list[str | None]]:
    # A database without an encoding of its own (SQL_ASCII) sends its bytes as they are.
    get, numbers = result.get_value, range(result.nfields)
    return [
        [None if (raw := get(row, number)) is None else raw.decode("utf-8", "replace") for number in numbers]
        for row in range(result.ntuples)
    ]
