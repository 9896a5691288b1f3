"""Storage that speaks S3 and does not do what it should."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any, ClassVar
from urllib.parse import urlsplit

from multidb.document import digest

__all__ = ["Ahead", "Careless", "Ending", "Mute", "listening"]


class Careless(http.server.BaseHTTPRequestHandler):
    """Storage that takes every write, as some do that do not know the conditions."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}  # noqa: RUF012
    keeps = ""  # the one condition that it knows

    def do_GET(self) -> None:
        body = self.objects.get(self.path.partition("?")[0])
        if body is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, body)

    def do_PUT(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if self.headers.get(self.keeps) and (self.keeps == "If-Match" or path in self.objects):
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.objects[path] = raw
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Between(http.server.BaseHTTPRequestHandler):
    """Passes each request on to the storage at `behind`, and its answer back."""

    protocol_version = "HTTP/1.1"
    behind = ""

    def do_GET(self) -> None:
        self.give(*self.passed_on(self.body()))

    def do_PUT(self) -> None:
        self.do_GET()

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.behind).netloc, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        try:
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def give(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Ending(Between):
    """Lets these credentials in for so many requests."""

    left = 0
    guard: Any = None

    def do_GET(self) -> None:
        with self.guard:
            type(self).left -= 1
            ended = self.left < 0
        if ended:
            self.body()
            self.give(400, {}, b"<Error><Code>ExpiredToken</Code><Message>ended</Message></Error>")
        else:
            super().do_GET()


class Mute(Between):
    """Does every write, and lets the connection end without an answer to each first try."""

    tries: ClassVar[dict[str, int]] = {}  # by what is written

    def do_PUT(self) -> None:
        body = self.body()
        answer, key = self.passed_on(body), f"{self.path} {digest(body)}"
        self.tries[key] = self.tries.get(key, 0) + 1
        if self.tries[key] == 1:
            self.close_connection = True
        else:
            self.give(*answer)


class Ahead(Between):
    """Its clock is an hour ahead of this machine's."""

    def passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        status, headers, answer = super().passed_on(body)
        return status, {**headers, "Date": formatdate(time.time() + 3600, usegmt=True)}, answer


@contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
