"""One connection to a Postgres server: opening it, and one round trip at a time.

Works on libpq's own level, because that is where several statements travel in one message, where warnings can be seen,
and where a server that has stopped answering, or does not stop, can be met with a clock and a measure in hand
(decision 44).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg import pq

from multidb.errors import (
    ArchiveError,
    AuthenticationFailed,
    ServerDown,
    ServerError,
    ServerSlow,
)
from multidb.model import Server
from multidb.progress import ProgressTimer, ended_without
from multidb.provisioners.postgres.driver import session_settings
from multidb.provisioners.postgres.driver.address import connection_parameters
from multidb.provisioners.postgres.driver.known_powers import KNOWN_POWERS
from multidb.provisioners.postgres.driver.refusals import Refusal, connection_error, refusal_error, refusal_of
from multidb.provisioners.postgres.driver.session_settings import Powers
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.secrets import Secret, redact

__all__ = [
    "LARGEST_ANSWER",
    "TAKES_KEYS",
    "Answer",
    "SessionOptions",
    "Traffic",
    "Connection",
]

_UTF8 = "utf-8"
# Success that is none: nothing was granted, or not everything was revoked.
_EMPTY_SUCCESS = frozenset({"01006", "01007"})
LARGEST_ANSWER = 64 * 2**20  # bytes of one answer; what the catalogs say of a thousand apps is one of them
_MOST_NOTICES = 10_000
_OF_AN_APP = 600.0  # seconds for a whole answer to an app's own login, which may run what the app has made
_GLANCE = 1.0  # seconds without an answer after which somebody else looks why
TAKES_KEYS = pq.version() >= 180000  # whether libpq can be told what it otherwise derives from a password
_BOUNDED = """
WITH asked (answer) AS MATERIALIZED ({query})
SELECT CASE WHEN pg_catalog.octet_length(answer::pg_catalog.text) <= {largest} THEN answer END,
  pg_catalog.octet_length(answer::pg_catalog.text) FROM asked"""


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


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session is set up.

    Args:
        statement_timeout: milliseconds after which the server gives up on a statement; 0 for no limit.
        lock_timeout: milliseconds after which the server gives up waiting for a lock; 0 for no limit.
        guarded: whether what is stored is kept out of a session of another login than the admin's, too.
        search_path: what scripts of extensions find as the session's own path, and put behind theirs. The session has
            the server's schemas all the same.
        fresh: nothing in the database is an app's yet: views may be looked into, as such scripts do.
        own_zone: its time zone is the one that the server, the database and the login say.
        signs: what is seen of a session, by its process, while it works and says nothing (`Signs.of_process`).
    """

    statement_timeout: int = 0
    lock_timeout: int = 10_000
    guarded: bool = False
    search_path: Sequence[str] = ()
    fresh: bool = False
    own_zone: bool = False
    signs: Callable[[int], object] | None = None


class Connection:
    """An open connection, in autocommit; a context manager that closes it.

    Nothing that a database or a role has stored (``ALTER DATABASE .. SET``, ``ALTER ROLE .. SET``) is in force in a
    session of the admin; see `session_settings`. No answer takes more than 64 MiB, and none comes with more than
    10,000 notices.

    Args:
        traffic: where the connection and its round trips are counted.
        database: where to connect to; the endpoint's maintenance database without it.
        user: another login than the admin's. Its session is as the database and the role have it, unless guarded, and
            what it is sent is answered whole within its timeout.
        keys: as `scram.keys` gives them; none where libpq does not take them (`TAKES_KEYS`).

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
        keys: Mapping[str, str] | None = None,
        options: SessionOptions = SessionOptions(),
    ) -> None:
        self._server = server
        self._signs = options.signs
        self._traffic = traffic
        self._as_admin = not user
        self.quiets_event_triggers = False
        """Whether no event trigger of the database fires in this session."""
        parameters = {**_parameters(server, password, application_name, user, database), **(keys or {})}
        if options.signs is not None:  # what is sent to somebody at work may have to wait
            parameters["tcp_user_timeout"] = round(server.progress_timeout * 1000)
        away = parameters["dbname"] != _maintenance(server)

        def settings(powers: Powers) -> Mapping[str, str]:
            chosen = session_settings.settings(
                powers,
                statement_timeout=options.statement_timeout,
                lock_timeout=options.lock_timeout,
                foreign=away and self._as_admin and not options.fresh,
            )
            if options.own_zone:
                del chosen["TimeZone"]
            path = ", ".join(map(identifier, options.search_path))
            return {**chosen, "search_path": path} if path else chosen

        # A superuser's event trigger can fire, and a library be loaded, while an app's database is entered: the
        # admin is told from the maintenance database what it may keep away.
        if self._as_admin and away and KNOWN_POWERS.recall(server) is None:
            Connection(server, password, application_name, traffic).close()
        chosen: Mapping[str, str] = {}
        if self._as_admin or options.guarded:
            self._connection, chosen = self._guarded(parameters, settings)
        else:
            self._connection = self._connected({**parameters, "options": ""})
        self._pgconn = self._connection.pgconn
        self._process = self._pgconn.backend_pid
        self._pgconn.notice_handler = self._note
        self._notes: list[Refusal] = []
        self._noticed = 0
        self._meanwhile: Callable[[], None] | None = None
        if options.search_path:  # scripts see it as what the session's would be reset to
            self._set_up(f"SET search_path = {session_settings.SEARCH_PATH}")
        if self._as_admin or options.guarded:
            self._set_the_rest(settings, chosen)

    def _connected(self, parameters: Mapping[str, Any]) -> psycopg.Connection[Any]:
        self._traffic.connected()
        try:
            return psycopg.connect(autocommit=True, **connection_parameters(**parameters))
        except psycopg.Error as error:
            # Not chained: the driver's exception carries the connection's parameters, password included.
            raise connection_error(error, self._server) from None

    def _guarded(
        self, parameters: Mapping[str, Any], settings: Callable[[Powers], Mapping[str, str]]
    ) -> tuple[psycopg.Connection[Any], Mapping[str, str]]:
        """A connection with those of the `settings` that the server lets it begin with, and these."""
        known = KNOWN_POWERS.recall(self._server) if self._as_admin else KNOWN_POWERS.recall_version(self._server)
        chosen = settings(known or Powers())
        try:
            connection = self._connected({**parameters, "options": session_settings.options(chosen)})
        except (ServerDown, ServerSlow, AuthenticationFailed):
            raise
        except ServerError as error:
            # In whatever language: the parameter that is not known here, or not the admin's to set any longer.
            if known is None or not any(f'"{name}"' in error.message for name in chosen):
                raise
            KNOWN_POWERS.forget(self._server)
            chosen = settings(Powers())
            connection = self._connected({**parameters, "options": session_settings.options(chosen)})
        return connection, chosen

    def _set_up(self, text: str) -> None:
        answer = self._exchange(lambda: self._pgconn.send_query(text.encode(_UTF8)), self._server.timeout)
        if answer.refusal is not None:
            self.close()
            raise self.error(answer.refusal)

    def _set_the_rest(self, settings: Callable[[Powers], Mapping[str, str]], chosen: Mapping[str, str]) -> None:
        """Sets what a server of this version knows beside what the connection has begun with."""
        superuser = self._as_admin and self._pgconn.parameter_status(b"is_superuser") == b"on"
        powers = Powers(self._pgconn.server_version, superuser)
        left = {name: value for name, value in settings(powers).items() if name not in chosen}
        if left:
            self._set_up(session_settings.assignments(left))
        if self._as_admin:
            KNOWN_POWERS.note(self._server, powers)
            self.quiets_event_triggers = powers.quiets_event_triggers

    @property
    def version(self) -> int:
        """``server_version_num`` of the server."""
        return self._pgconn.server_version

    @property
    def process(self) -> int:
        """The server's process for this connection."""
        return self._process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def send(
        self,
        text: str,
        timeout: float | None = None,
        meanwhile: Callable[[], None] | None = None,
        *,
        within: float | None = None,
    ) -> Answer:
        """Sends one message of one or more statements.

        Args:
            timeout: seconds that the next byte of the answer may take; None: as long as the work makes progress. Where
                it is not the admin who asks, the whole answer may take no longer.
            meanwhile: called again and again while there is no answer, first after a moment.
            within: seconds that the whole answer may take; None: as `timeout` says, and without it ten minutes where it
                is not the admin who asks.

        Raises:
            ServerSlow: no answer in time. The connection is closed; what was under way may or may not happen.
            ServerDown: the connection was lost; likewise.
            ServerError: more comes than anybody asked for; likewise.
        """
        within = within or (None if self._as_admin else timeout or _OF_AN_APP)
        deadline = None if within is None else time.monotonic() + within
        self._meanwhile = meanwhile
        try:
            return self._exchange(lambda: self._pgconn.send_query(text.encode(_UTF8)), timeout, deadline)
        finally:
            self._meanwhile = None

    def execute(self, *texts: str) -> None:
        """Sends messages one after the other, until one is refused.

        Raises:
            ServerError: why it is; and as for `send`.
        """
        for text in texts:
            answer = self.send(text)
            if answer.refusal is not None:
                raise self.error(answer.refusal)

    def transact(self, *texts: str) -> None:
        """Sends statements as one transaction, which a refusal rolls back.

        Raises:
            ServerError: as for `execute`.
        """
        answer = self.send("; ".join(["BEGIN", *texts, "COMMIT"]))
        if answer.refusal is not None:
            self.send("ROLLBACK")
            raise self.error(answer.refusal)

    def ask(self, query: str, parameters: Sequence[str] = (), timeout: float | None = None) -> str:
        """The only value in the answer to one query.

        Args:
            timeout: seconds that the next byte of the answer may take; None: as long as the work makes progress.

        Raises:
            ServerSlow, ServerDown: as for `send`.
            NotAllowed, ServerError: the server refuses the query, or its answer is too large.
        """
        values = [parameter.encode(_UTF8) for parameter in parameters]
        bounded = _BOUNDED.format(query=query, largest=LARGEST_ANSWER).encode(_UTF8)
        answer = self._exchange(lambda: self._pgconn.send_query_params(bounded, values), timeout)
        if answer.refusal is not None:
            raise self.error(answer.refusal)
        value, size = answer.rows[0] if answer.rows else (None, None)
        if value is None:
            if size is not None:
                raise self._too_much(f"{int(size) // 2**20} MiB in answer to a catalog query")
            raise ServerError("gave no answer to a catalog query", where=str(self._server))
        return value

    def notified(self, channel: str) -> bool:
        """Whether a notification on the channel has come with an answer, and was not asked for yet."""
        while (notification := self._pgconn.notifies()) is not None:
            if notification.relname == channel.encode():
                return True
        return False

    def copy_to(self, out: str, into: Connection, command: str) -> None:
        """Sends what ``COPY ... TO STDOUT`` gives here into ``COPY ... FROM STDIN`` there. Memory stays flat.

        Raises:
            ServerError: one of the two failed; its transaction, where there is one, is to be rolled back.
            ServerSlow: neither of them makes progress.
        """
        timer = self._timer(None, into)
        try:
            with (
                self._cut_off(timer, into),
                self._connection.cursor().copy(out.encode(_UTF8)) as rows,
                into._connection.cursor().copy(command.encode(_UTF8)) as taken,
            ):
                for chunk in rows:
                    taken.write(chunk)
                    timer.moved()
        except psycopg.Error as error:
            if timer.expired():
                raise timer.error(self._server) from None
            reason = error.diag.message_primary or "closed the connection"
            detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
            raise ServerError(redact(f"{reason}{detail}"), where=str(self._server)) from None

    def script(self, text: str) -> None:
        """Runs any statements in one transaction, for as long as they take.

        Raises:
            ArchiveError: one of them failed, or the connection was lost; the transaction is rolled back.
            ServerSlow: they make no progress.
        """
        timer = self._timer(None)
        try:
            with self._cut_off(timer):
                for part in ("BEGIN", text, "COMMIT"):
                    self._connection.execute(part.encode(_UTF8))
        except psycopg.Error as error:
            self.close()
            if timer.expired():
                raise timer.error(self._server) from None
            raise ArchiveError(
                redact(error.diag.message_primary or str(error).strip() or type(error).__name__),
                where=str(self._server),
            ) from None

    def error(self, refusal: Refusal) -> ServerError:
        """The refusal as an error for people."""
        slow = f"took more than {self._server.timeout:g} s for a catalog query" if self._as_admin else ""
        return refusal_error(refusal, self._server, slow)

    def _timer(self, timeout: float | None, *others: Connection) -> ProgressTimer:
        """What tells that nothing comes any more: after `timeout` seconds without a byte; None: when the work, also of
        the others, makes no progress."""
        if timeout is not None:
            return ProgressTimer(timeout)
        look, processes = self._signs, [connection.process for connection in (self, *others)]
        signs = (lambda: [look(process) for process in processes]) if look is not None else None
        return ProgressTimer(self._server.progress_timeout, signs)

    @contextlib.contextmanager
    def _cut_off(self, timer: ProgressTimer, *others: Connection) -> Iterator[None]:
        """Ends the connections from outside when what the driver does with them in the block makes no progress."""
        with contextlib.ExitStack() as stack:
            # Numbers of our own: those of the connections may be somebody else's by then.
            sockets = [
                stack.enter_context(socket.socket(fileno=os.dup(connection._pgconn.socket)))
                for connection in (self, *others)
            ]

            def end() -> None:
                for connection in sockets:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

            with ended_without(timer, end):
                yield

    def _exchange(self, send: Callable[[], None], timeout: float | None, deadline: float | None = None) -> Answer:
        self._traffic.sent()
        self._notes.clear()
        self._noticed = 0
        done = taken = 0
        refusal: Refusal | None = None
        rows: list[list[str | None]] = []
        try:
            send()
            self._pgconn.set_single_row_mode()  # or libpq keeps every row before we see the first
            self._flush(timeout, deadline)
            while (result := self._result(timeout, deadline)) is not None:
                match result.status:
                    case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK | pq.ExecStatus.EMPTY_QUERY:
                        done += 1
                    case pq.ExecStatus.SINGLE_TUPLE:
                        row = _row(result)
                        taken += sum(len(value or "") for value in row)
                        if taken > LARGEST_ANSWER:
                            self.close()
                            raise self._too_much(f"more than {LARGEST_ANSWER // 2**20} MiB")
                        rows.append(row)
                    case _:
                        refusal = refusal_of(result)
        except psycopg.OperationalError:
            self.close()
            if refusal is None:
                raise ServerDown(
                    "closed the connection", where=str(self._server), hint="look into its log, then run again"
                ) from None
        return Answer(done, rows, refusal, tuple(self._notes))

    def _note(self, result: pq.abc.PGresult) -> None:
        self._noticed += 1
        note = refusal_of(result)
        if note.sqlstate in _EMPTY_SUCCESS:
            self._notes.append(note)

    def _flush(self, timeout: float | None, deadline: float | None) -> None:
        while self._pgconn.flush():
            self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE, timeout, deadline)
            self._pgconn.consume_input()

    def _result(self, timeout: float | None, deadline: float | None) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._wait(selectors.EVENT_READ, timeout, deadline)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _wait(self, events: int, timeout: float | None, deadline: float | None) -> None:
        if self._noticed > _MOST_NOTICES:
            self.close()
            raise self._too_much(f"more than {_MOST_NOTICES} notices")
        timer, began = self._timer(timeout), time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._pgconn.socket, events)
            while (deadline is None or time.monotonic() < deadline) and not timer.expired():
                if selector.select(self._pause(timer, timeout, deadline)):
                    return
                if self._meanwhile is not None:
                    self._meanwhile()
        self.close()
        if timeout is None and timer.expired():
            raise timer.error(self._server)
        raise ServerSlow(
            f"has not answered for {timeout or time.monotonic() - began:g} s",
            where=str(self._server),
            hint="look whether it is stopped or overloaded, then run the command again",
        )

    def _pause(self, timer: ProgressTimer, timeout: float | None, deadline: float | None) -> float:
        """Seconds until there is something to look at, though nothing has come."""
        pause = timer.left if timeout is not None else min(timer.left, timer.pause)
        if self._meanwhile is not None:
            pause = min(pause, _GLANCE)
        return pause if deadline is None else max(min(pause, deadline - time.monotonic()), 0)

    def _too_much(self, what: str) -> ServerError:
        return ServerError(
            f"sends {what}, which is not taken",
            where=str(self._server),
            hint="look what the app has made in its database (functions that send notices, a great many schemas or "
            "tables), then run the command again",
        )


def _maintenance(server: Server) -> str:
    return server.endpoint.database or "postgres"


def _parameters(
    server: Server, password: Secret | None, application_name: str, user: str, database: str
) -> dict[str, Any]:
    """What libpq is told; never shown, since the password is in it."""
    endpoint = server.endpoint
    parameters: dict[str, Any] = {
        "keepalives_idle": 30,
        "tcp_user_timeout": 30_000,
        **endpoint.params,
        "host": endpoint.host,
        "port": endpoint.port,
        "user": user or endpoint.user,
        "dbname": database or _maintenance(server),
        "password": password.reveal() if password is not None else None,
        "connect_timeout": max(2, round(server.timeout)),
        "application_name": application_name[:63],
        "client_encoding": "utf8",
    }
    if endpoint.tls:
        parameters.setdefault("sslmode", "require")
    return parameters


def _row(result: pq.abc.PGresult) -> list[str | None]:
    # A database without an encoding of its own (SQL_ASCII) sends its bytes as they are.
    values = (result.get_value(0, column) for column in range(result.nfields))
    return [None if raw is None else raw.decode(_UTF8, "replace") for raw in values]
