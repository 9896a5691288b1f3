"""What every request has to pass before anything looks at it, and what every answer carries. Plain ASGI.

Only GET and HEAD. Everything but ``/health/live`` wants the token, as a bearer token or as the password of basic
authentication (any user name), which browsers ask for by themselves: on loopback too, since a database server that
fetches an address for an app (Neo4j's ``LOAD CSV``) is a caller from this machine. On loopback only the names of
loopback are taken as ``Host``: a page of somebody else's whose name resolves to 127.0.0.1 (DNS rebinding) is turned
away. On a Unix socket the socket's file says who may call.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multidb.secrets import Secret

__all__ = ["Guard", "is_loopback"]

_OPEN: Final = frozenset({"/health/live"})
_LOOPBACK: Final = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to `host`."""
    return host in ("localhost", "127.0.0.1", "::1")


class Guard:
    """Stands before `app`.

    Args:
        token: what callers have to know; None: everybody who reaches the socket may read.
        loopback_only: it is bound to a port of loopback.
    """

    def __init__(self, app: ASGIApp, token: Secret | None, *, loopback_only: bool) -> None:
        self._app = app
        self._digest = _digest(token.reveal().encode()) if token is not None else None
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: refused before it is one
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(with_headers, *refusal)
            return
        await self._app({**scope, "method": "GET"}, receive, with_headers)  # the server itself drops the body of HEAD

    def _refusal(self, scope: Scope) -> tuple[int, str, str, list[tuple[bytes, bytes]]] | None:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "method", "only GET and HEAD: nothing can be changed here", [(b"allow", b"GET, HEAD")]
        headers = scope["headers"]
        if self._loopback_only and not all(_LOOPBACK.fullmatch(host) for host in _values(headers, b"host")):
            return 421, "host", "this address answers to localhost, 127.0.0.1 and [::1] only", []
        if self._digest is None or scope["path"] in _OPEN:
            return None
        given = [_credential(value) for value in _values(headers, b"authorization")]
        if len(given) == 1 and hmac.compare_digest(_digest(given[0]), self._digest):
            return None
        challenge = [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="multidb", charset="UTF-8"')]
        return 401, "token", "a token is needed: Authorization: Bearer TOKEN, or the token as password", challenge


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _digest(value: bytes) -> bytes:
    """Of one length, so that comparing tells nothing of the token's."""
    return hashlib.sha256(value).digest()


def _credential(header: bytes) -> bytes:
    """The token in an ``Authorization`` header; empty when there is none."""
    kind, _, value = header.partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


async def _answer(send: Send, status: int, code: str, message: str, headers: list[tuple[bytes, bytes]]) -> None:
    document: dict[str, Any] = {
        "version": 1,
        "command": "serve",
        "ok": False,
        "error": {"code": code, "message": message},
    }
    body = json.dumps(document).encode()
    all_headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
