"""What every request has to pass before anything looks at it, and what every answer carries. Plain ASGI.

Only GET and HEAD. Everything but ``/health/live`` wants the token, as a bearer token or as the password of basic
authentication (any user name), which browsers ask for by themselves: on loopback too, since a database server that
fetches an address for an app (Neo4j's ``LOAD CSV``) is a caller from this machine. On loopback only the names of
loopback are taken as ``Host``: a page of somebody else's whose name resolves to 127.0.0.1 (DNS rebinding) is turned
away. On a Unix socket the socket's file says who may call. Each client may make so many requests a minute; those that
have the token are counted apart from those that have not, so that nobody without it uses up what another has. Liveness,
which costs nothing, is not counted.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multidb.secrets import Secret
from multidb.service.clients import Clients
from multidb.service.rate import ClientRate, network_of

__all__ = ["Guard", "is_loopback"]

_OPEN: Final = frozenset({"/health/live"})
_LOOPBACK: Final = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

_Refusal = tuple[int, str, str, list[tuple[bytes, bytes]]]  # status, code, message, headers


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to `host`."""
    return host in ("localhost", "127.0.0.1", "::1")


class Guard:
    """Stands before `app`.

    Args:
        token: what callers have to know; None: everybody who reaches the socket may read.
        loopback_only: it is bound to a port of loopback.
        rate: how many requests each of the `clients` may make; None: as many as it likes.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: Secret | None,
        *,
        loopback_only: bool,
        rate: ClientRate | None = None,
        clients: Clients | None = None,
    ) -> None:
        self._app = app
        self._digest = _digest(token.reveal().encode()) if token is not None else None
        self._loopback_only = loopback_only
        self._rate = rate
        self._clients = clients or Clients()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: refused before it is one
            await send({"type": "websocket.close", "code": 1008})
            return

        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(with_headers, *refusal)
            return
        try:
            await self._app({**scope, "method": "GET"}, receive, with_headers)  # the server drops the body of HEAD
        except asyncio.CancelledError:  # the service ends, and this has taken longer than it waits
            if not begun:
                await _answer(with_headers, 503, "ending", "the service ends: ask again once it is back", [])

    def _refusal(self, scope: Scope) -> _Refusal | None:
        if scope["path"] in _OPEN:
            return self._wrong(scope)
        admitted = self._is_admitted(scope["headers"])
        if self._rate is not None:
            wait = self._rate.wait((network_of(self._clients.of(scope)), admitted))
            if wait > 0:
                later = [(b"retry-after", str(math.ceil(wait)).encode())]
                return 429, "rate", "too many requests: come again after the seconds of Retry-After", later
        wrong = self._wrong(scope)
        if wrong is not None or admitted:
            return wrong
        challenge = [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="multidb", charset="UTF-8"')]
        return 401, "token", "a token is needed: Authorization: Bearer TOKEN, or the token as password", challenge

    def _wrong(self, scope: Scope) -> _Refusal | None:
        """What nobody may ask, whoever he is."""
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "method", "only GET and HEAD: nothing can be changed here", [(b"allow", b"GET, HEAD")]
        hosts = _values(scope["headers"], b"host")
        if self._loopback_only and not all(_LOOPBACK.fullmatch(host) for host in hosts):
            return 421, "host", "this address answers to localhost, 127.0.0.1 and [::1] only", []
        return None

    def _is_admitted(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        if self._digest is None:
            return True
        given = [_credential(value) for value in _values(headers, b"authorization")]
        return len(given) == 1 and hmac.compare_digest(_digest(given[0]), self._digest)


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
