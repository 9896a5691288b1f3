"""One connection that is spoken to in batches: many commands in one write, answers as bytes, refusals as values.

The driver's own connection takes an answer of any length and waits anew for every piece of it (decision 43). A health
check has one deadline for everything, and what an app has stored must not fill this process. Parsing is hiredis', as in
the driver.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import hiredis
import redis
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from multidb.errors import AuthenticationFailed
from multidb.model import Server, Tenant
from multidb.progress import ProgressTimer
from multidb.provisioners.redis.driver.connection import ConnectionCut, tls_options
from multidb.secrets import redact, revealed

__all__ = ["OWN_NAME", "AnswerTooLong", "BatchConnection", "as_app"]

OWN_NAME = "multidb"
"""The name of these connections on their servers."""

_CHUNK = 1 << 18
_LONGEST = 64 << 20  # bytes of an answer to somebody who asks for no data


class AnswerTooLong(RedisError):
    """The server answers with more than is taken from it. The connection is of no more use."""


@contextlib.contextmanager
def as_app(tenant: Tenant, within: float | None = None, *, select: bool = True) -> Iterator[BatchConnection]:
    """A connection with the app's own login, in its own DB or, without `select`, in the one where all begin.

    Raises:
        AuthenticationFailed: the server does not let the app in.
    """
    password = tenant.env["REDIS_PASSWORD"]
    with BatchConnection(tenant.server, within) as connection:
        try:
            connection.login(
                str(tenant.env["REDIS_USER"]),
                revealed(password),
                int(str(tenant.env["REDIS_DB"])) if select else 0,
            )
        except ResponseError as error:
            if not str(error).startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
                raise
            raise AuthenticationFailed(
                f"the server refuses the app's user, password or DB: {redact(str(error))}",
                where=str(tenant.server),
                hint=f"multidb plan shows what differs; multidb apply --app {tenant.app.id} mends it",
            ) from None
        yield connection


class BatchConnection:
    """A connection without a login yet. Raises the driver's exceptions (`connection.explained`).

    Args:
        within: seconds that everything together may take; None: each answer may take the server's timeout.
        longest: bytes that one answer may have: what an app has stored is no reason to run out of memory here.
        working: an answer may take as long as it makes progress, by the server's progress_timeout.
    """

    def __init__(
        self, server: Server, within: float | None = None, longest: int = _LONGEST, *, working: bool = False
    ) -> None:
        self._server = server
        self._working = working
        self._timeout = server.progress_timeout if working else server.timeout
        self._timer = ProgressTimer(self._timeout)
        self._longest = longest
        self._until = None if within is None else time.monotonic() + within
        self._let_in = False
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        deadline = self._deadline()
        with _driver_errors():
            address = (server.endpoint.host, server.endpoint.port)
            self._socket = socket.create_connection(address, timeout=_left(deadline))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.endpoint.tls:
                self._socket.settimeout(_left(deadline))
                self._socket = _context(server).wrap_socket(self._socket, server_hostname=server.endpoint.host)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def tell(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to `commands`, in their order; a refusal is a `ResponseError` in its place."""
        self.send(commands)
        return [self.receive() for _ in commands]

    def send(self, commands: Iterable[Sequence[Any]]) -> None:
        """Sends without waiting for the answers, which have to be received in the same order."""
        with self._errors():
            self._socket.settimeout(_left(self._deadline()))
            self._socket.sendall(b"".join([hiredis.pack_command(tuple(words)) for words in commands]))

    def receive(self) -> Any:
        """The next answer. It comes from what has arrived already, if that holds a whole one."""
        if (answer := self._reader.gets()) is not False:
            return answer
        deadline, size = self._deadline(), 0
        with self._errors():
            while (answer := self._reader.gets()) is False:
                self._socket.settimeout(_left(deadline))
                piece = self._socket.recv(_CHUNK)
                if not piece:
                    raise ConnectionResetError
                size += len(piece)
                if size > self._longest:
                    raise AnswerTooLong(f"an answer of more than {self._longest} bytes")
                self._reader.feed(piece)
                if self._working:
                    self._timer.moved()
                    deadline = self._deadline()
        return answer

    def ask(self, *words: Any) -> Any:
        """The answer to one command. Raises a refusal."""
        [answer] = self.tell([words])
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def login(self, user: str, password: str, db: int = 0) -> None:
        """Logs in and selects the DB, in one round trip. Raises a refusal of either. The connection is named as
        multidb's, so that the server's ACL log tells what the app tried from what was tried with its login."""
        login = [("AUTH", *([user] if user else []), password)] if password else []
        *answers, _ = self.tell([*login, *([("SELECT", db)] if db else []), ("CLIENT", "SETNAME", OWN_NAME)])
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        self._let_in = True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        self._timer.moved()
        with _driver_errors(let_in=self._let_in):
            try:
                yield
            except TimeoutError:
                if not self._working:
                    raise
                raise self._timer.error(self._server) from None

    def _deadline(self) -> float:
        return self._until if self._until is not None else time.monotonic() + self._timeout


@contextlib.contextmanager
def _driver_errors(*, let_in: bool = False) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise redis.TimeoutError("no answer in time") from None
    except (ConnectionResetError, BrokenPipeError):
        if let_in:
            raise ConnectionCut("the server closed the connection") from None
        raise redis.ConnectionError("the server closed the connection; it may have none left (maxclients)") from None
    except OSError as error:
        raise redis.ConnectionError(error.strerror or str(error)) from None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _context(server: Server) -> ssl.SSLContext:
    options = tls_options(server)
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    context.check_hostname = options.get("ssl_check_hostname", True)
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
