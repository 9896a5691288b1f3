"""Storage that speaks S3 and does not do what it should."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Careless", "Ending", "listening"]


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


class Ending(http.server.BaseHTTPRequestHandler):
    """Storage that lets these credentials in for so many requests."""

    protocol_version = "HTTP/1.1"
    behind = ""
    left = 0
    guard: Any = None

    def do_GET(self) -> None:
        self._pass_on()

    do_PUT = do_GET  # noqa: N815

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.guard:
            type(self).left -= 1
            ended = self.left < 0
        if ended:
            self._answer(400, {}, b"<Error><Code>ExpiredToken</Code><Message>ended</Message></Error>")
            return
        connection = http.client.HTTPConnection(urlsplit(self.behind).netloc, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        self._answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
