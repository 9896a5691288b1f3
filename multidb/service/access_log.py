"""One line for each request: who asked for what, and what was answered. Never a header, a query or a secret.

In the Common Log Format with the seconds at its end, or as JSON. Lines are written by a thread of their own: a pipe
that is not read holds up no answer, it only loses lines, which are counted.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TextIO
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multidb.model import counted
from multidb.secrets import redact
from multidb.service.clients import Clients

__all__ = ["AccessLog", "LoggedRequest", "LogWriter", "common_line", "json_line"]

_WAITING: Final = 2_000  # lines that wait to be written
_LONGEST: Final = 300  # characters of a path that are written
_READ: Final = 2_000  # characters of a path that are looked through for secrets
_PATH: Final = "/-._~!$&()*+,;=:@"  # what may stand in a path as it is (RFC 3986), but for the quotation mark
_CLOSING: Final = 2.0  # seconds that the last lines have to be written


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request.

    Args:
        client: as `Clients` tells it.
        path: decoded, without the query, as long as it was.
        version: of HTTP.
        status: None where the caller went before there was an answer.
        size: bytes of the answer's body; `seconds`: from the request's head to the answer's end.
    """

    at: datetime
    client: str
    method: str
    path: str
    status: int | None
    size: int
    seconds: float
    version: str = "1.1"


def common_line(entry: LoggedRequest) -> str:
    """The Common Log Format of web servers, and the seconds."""
    at = entry.at.strftime("%d/%b/%Y:%H:%M:%S %z")
    status = "-" if entry.status is None else entry.status
    request = f'"{entry.method} {_plain(entry.path)} HTTP/{entry.version}"'
    return f"{entry.client} - - [{at}] {request} {status} {entry.size} {entry.seconds:.3f}"


def json_line(entry: LoggedRequest) -> str:
    """One flat JSON document."""
    return json.dumps(
        {
            "asked_at": entry.at.isoformat(timespec="milliseconds"),
            "client": entry.client,
            "method": entry.method,
            "path": _plain(entry.path),
            "status": entry.status,
            "bytes": entry.size,
            "seconds": round(entry.seconds, 6),
        }
    )


class LogWriter:
    """Writes entries to `stream` without ever making its callers wait.

    Args:
        line: how an entry is written.
        say: told when lines are lost.
    """

    def __init__(self, stream: TextIO, line: Callable[[LoggedRequest], str], say: Callable[[str], None]) -> None:
        self._stream = stream
        self._line = line
        self._say = say
        self._entries: queue.Queue[LoggedRequest | None] = queue.Queue(_WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def put(self, entry: LoggedRequest) -> None:
        """Has the entry written, sooner or later."""
        try:
            self._entries.put_nowait(entry)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Waits a moment for what is not written yet."""
        try:
            self._entries.put(None, timeout=_CLOSING)
        except queue.Full:
            return
        self._thread.join(_CLOSING)

    def _write(self) -> None:
        try:
            while (entry := self._entries.get()) is not None:
                self._stream.write(f"{self._line(entry)}\n")
                if self._entries.empty():
                    self._stream.flush()
                    self._tell_lost()
            self._stream.flush()
            self._tell_lost()
        except (OSError, ValueError) as error:  # the reader of a pipe has gone, or the disk is full
            self._say(f"the access log ends here, it cannot be written: {error}")

    def _tell_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            self._say(f"{counted(lost, 'line')} of the access log: lost, nobody read in time")


class AccessLog:
    """Stands before `app`, and before its guard: what is refused is logged too.

    Args:
        put: takes each entry; must not block.
    """

    def __init__(self, app: ASGIApp, clients: Clients, put: Callable[[LoggedRequest], None]) -> None:
        self._app = app
        self._clients = clients
        self._put = put

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        at, began, status, size = datetime.now(UTC), time.monotonic(), None, 0

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and scope["method"] != "HEAD":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            seconds, client = time.monotonic() - began, self._clients.of(scope)
            version = scope["http_version"]
            self._put(LoggedRequest(at, client, scope["method"], scope["path"], status, size, seconds, version))


def _plain(path: str) -> str:
    """Without a secret that this process knows, and of characters that end no line and steer no terminal."""
    text = redact(path[:_READ])
    shown = quote(text[:_LONGEST], safe=_PATH)
    return shown if len(path) <= _LONGEST else f"{shown}..."
