"""One connection to a Postgres server: opening it, one round trip at a time, and what its errors mean.

Works on libpq's own level, because that is where several statements travel in one message, where warnings can be seen,
and where a server that has stopped answering can be waited for with a clock in hand.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg import pq

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import Server
from multidb.secrets import Secret, redact

__all__ = ["Answer", "Refusal", "Traffic", "Wire", "connection_error"]

_UTF8 = "utf-8"
# Success that is none: nothing was granted, or not everything was revoked.
_EMPTY_SUCCESS = frozenset({"01006", "01007"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of the server, as it says it."""

    sqlstate: str
    message: str
    position: int | None = None  # in characters from 1, of what was sent


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one message: how many statements in it were done, and why the next one was not."""

    done: int
    rows: list[list[str | None]] = field(default_factory=list)
    refusal: Refusal | None = None
    warnings: tuple[Refusal, ...] = ()  # a success that was none


class Traffic:
    """Counts what several connections, in several threads, have cost."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.connections = 0
        self.round_trips = 0

    def connected(self) -> None:
        with self._guard:
            self.connections += 1

    def sent(self) -> None:
        with self._guard:
            self.round_trips += 1


class Wire:
    """An open connection, in autocommit; a context manager that closes it.

    Args:
        traffic: where the connection and its round trips are counted.
        database: where to connect to; the endpoint's maintenance database without it.
        user: another login than the admin's, to try its password.
        statement_timeout: milliseconds after which the server gives up on a statement; 0 for no limit.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed, NotAllowed, WrongVersion, ServerError: as in `connection_error`.
    """

    def __init__(
        self,
        server: Server,
        password: Secret | None,
        application_name: str,
        traffic: Traffic,
        *,
        database: str = "",
        user: str = "",
        statement_timeout: int = 0,
    ) -> None:
        self._server = server
        self._traffic = traffic
        traffic.connected()
        endpoint = server.endpoint
        # search_path: no function that an app has made may be called by an administrator's statement.
        settings = f"-c search_path=pg_catalog -c statement_timeout={statement_timeout} -c lock_timeout=10s"
        parameters: dict[str, Any] = {
            "keepalives_idle": 30,
            "tcp_user_timeout": 30_000,
            **endpoint.params,
            "host": endpoint.host,
            "port": endpoint.port,
            "user": user or endpoint.user,
            "dbname": database or endpoint.database or "postgres",
            "password": password.reveal() if password is not None else None,
            "connect_timeout": max(2, round(server.timeout)),
            "application_name": application_name[:63],
            "client_encoding": "utf8",
            "options": settings if not user else "",
        }
        if endpoint.tls:
            parameters.setdefault("sslmode", "require")
        try:
            self._connection = psycopg.connect(autocommit=True, **parameters)
        except psycopg.Error as error:
            # Not chained: the driver's exception carries the connection's parameters, password included.
            raise connection_error(error, server) from None
        self._pgconn = self._connection.pgconn
        self._pgconn.notice_handler = self._note
        self._notes: list[Refusal] = []

    @property
    def version(self) -> int:
        """``server_version_num`` of the server."""
        return self._pgconn.server_version

    @property
    def process(self) -> int:
        """The server's process for this connection."""
        return self._pgconn.backend_pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def send(self, text: str, timeout: float) -> Answer:
        """Sends one message of one or more statements, and waits at most `timeout` seconds for each sign of life.

        Raises:
            ServerSlow: no answer in time. The connection is closed; what was under way may or may not happen.
            ServerDown: the connection was lost; likewise.
        """
        return self._exchange(lambda: self._pgconn.send_query(text.encode(_UTF8)), timeout)

    def ask(self, query: str, parameters: Sequence[str], timeout: float) -> str:
        """The only value in the answer to one query.

        Raises:
            ServerSlow, ServerDown: as for `send`.
            NotAllowed, ServerError: the server refuses the query.
        """
        values = [parameter.encode(_UTF8) for parameter in parameters]
        answer = self._exchange(lambda: self._pgconn.send_query_params(query.encode(_UTF8), values), timeout)
        if answer.refusal is not None:
            raise self.error(answer.refusal)
        if not answer.rows or answer.rows[0][0] is None:
            raise ServerError("gave no answer to a catalog query", where=str(self._server))
        return answer.rows[0][0]

    def pour(self, out: str, into: Wire, command: str) -> None:
        """Sends what ``COPY ... TO STDOUT`` gives here into ``COPY ... FROM STDIN`` there. Memory stays flat.

        Raises:
            ServerError: one of the two failed; its transaction, where there is one, is to be rolled back.
        """
        try:
            with (
                self._connection.cursor().copy(out.encode(_UTF8)) as rows,
                into._connection.cursor().copy(command.encode(_UTF8)) as taken,
            ):
                for chunk in rows:
                    taken.write(chunk)
        except psycopg.Error as error:
            said = error.diag.message_primary or "closed the connection"
            detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
            raise ServerError(redact(f"{said}{detail}"), where=str(self._server)) from None

    def error(self, refusal: Refusal) -> ServerError:
        """The refusal as an error for people."""
        where, message = str(self._server), redact(refusal.message)
        match refusal.sqlstate:
            case "57014":
                return ServerSlow(
                    f"took more than {self._server.timeout:g} s for a catalog query",
                    where=where,
                    hint="look at its load, then run the command again",
                )
            case "42501":
                return NotAllowed(message, where=where, hint="give the admin login that right, or use another one")
            case "57P01" | "57P02" | "57P03":
                return ServerDown(message, where=where, hint="wait until it is up again, then run the command again")
        return ServerError(message, where=where)

    def _exchange(self, send: Callable[[], None], timeout: float) -> Answer:
        self._traffic.sent()
        self._notes.clear()
        done = 0
        refusal: Refusal | None = None
        rows: list[list[str | None]] = []
        try:
            send()
            self._flush(timeout)
            while (result := self._result(timeout)) is not None:
                if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY):
                    done += 1
                    rows += _rows(result)
                else:
                    refusal = _refusal(result)
        except psycopg.OperationalError:
            self.close()
            if refusal is None:
                raise ServerDown(
                    "closed the connection", where=str(self._server), hint="look into its log, then run again"
                ) from None
        return Answer(done, rows, refusal, tuple(self._notes))

    def _note(self, result: pq.abc.PGresult) -> None:
        note = _refusal(result)
        if note.sqlstate in _EMPTY_SUCCESS:
            self._notes.append(note)

    def _flush(self, timeout: float) -> None:
        while self._pgconn.flush():
            self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE, timeout)
            self._pgconn.consume_input()

    def _result(self, timeout: float) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._wait(selectors.EVENT_READ, timeout)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _wait(self, events: int, timeout: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._pgconn.socket, events)
            if not selector.select(timeout):
                self.close()
                raise ServerSlow(
                    f"has not answered for {timeout:g} s",
                    where=str(self._server),
                    hint="look whether it is stopped or overloaded, then run the command again",
                )


def _rows(result: pq.abc.PGresult) -> list[list[str | None]]:
    def value(row: int, column: int) -> str | None:
        raw = result.get_value(row, column)
        return None if raw is None else raw.decode(_UTF8)

    return [[value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]


def _refusal(result: pq.abc.PGresult) -> Refusal:
    def part(code: pq.DiagnosticField) -> str:
        raw = result.error_field(code)
        return raw.decode(_UTF8, "replace") if raw else ""

    position = part(pq.DiagnosticField.STATEMENT_POSITION)
    message = part(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message.decode(_UTF8, "replace").strip()
    detail = part(pq.DiagnosticField.MESSAGE_DETAIL)
    return Refusal(
        part(pq.DiagnosticField.SQLSTATE),
        f"{message} ({detail})" if detail else message,
        int(position) if position else None,
    )


# What libpq says when a connection cannot be made: it has no codes for it. Texts of the server may be translated, and
# then fall through to the general error, which quotes them.
_CONNECTION_ERRORS: tuple[tuple[tuple[str, ...], type[ServerError], str, str], ...] = (
    (
        ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "authentication failed"),
        AuthenticationFailed,
        "refuses the login",
        "correct the admin's name or password, or pg_hba.conf on the server",
    ),
    (
        ("permission denied for database", "is not permitted to log in"),
        NotAllowed,
        "does not let the login in",
        "let a superuser grant it CONNECT there",
    ),
    (
        ("too many connections for role",),
        ServerError,
        "has no free connection",
        "close some of the login's, or raise its connection_limit",
    ),
    (
        ("too many clients", "remaining connection slots", "too many connections"),
        ServerError,
        "has no free connection",
        "close some, or raise max_connections",
    ),
    (
        ("expected authentication request", "received invalid response to SSL", "received invalid response to GSS"),
        WrongVersion,
        "is not a Postgres server",
        "correct the address",
    ),
    (("timeout expired", "timed out"), ServerSlow, "does not answer", "look whether it is stopped or overloaded"),
    (
        (
            "connection refused",
            "failed to resolve",
            "could not translate host",
            "no route to host",
            "network is unreachable",
            "no such file or directory",
            "the database system is",
            "server closed the connection",
            "connection reset",
        ),
        ServerDown,
        "cannot be reached",
        "start it (multidb up, where multidb runs it), or correct the address",
    ),
)


def connection_error(error: psycopg.Error, server: Server) -> ServerError:
    """What a failed attempt to connect means, and what to do next."""
    text = redact(str(error)).strip()
    said = text.rsplit("failed: ", 1)[-1].splitlines()[0] if text else type(error).__name__
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return ServerSlow(
            f"did not let us in within {server.timeout:g} s",
            where=str(server),
            hint="look whether it is stopped or overloaded, then run the command again",
        )
    lowered = text.lower()
    for signs, kind, message, hint in _CONNECTION_ERRORS:
        if any(sign.lower() in lowered for sign in signs):
            return kind(f"{message}: {said}", where=str(server), hint=hint)
    return ServerError(f"cannot be connected to: {said}", where=str(server), hint="look into the server's log")
