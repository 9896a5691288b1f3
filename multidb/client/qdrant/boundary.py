"""Every call to Qdrant goes through here: with the tenant in it, with the credentials as they are now, and once more
where a server that restarts has not taken it.

`Boundary` and `AsyncBoundary` stand where the library's client has its transport, behind all of its own methods.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from multidb.client.errors import CallRefused
from multidb.client.qdrant.rules import PLAIN, REFUSED, RULES, Arguments, Call, Rule
from multidb.client.qdrant.tenant import Tenancy
from multidb.client.retries import Retries
from multidb.client.source import Source

__all__ = ["FIRST_VERSION", "AsyncBoundary", "Boundary", "QdrantConnection"]

FIRST_VERSION: Final = (1, 16)
"""Qdrant's first version with conditional updates. An older one would ignore the condition by which a point of another
tenant's stays as it is."""

_REFUSED_LOGIN: Final = frozenset({401, 403})
_RESTARTING: Final = frozenset({502, 503})
_UPDATES_BY_CONDITION: Final = frozenset({"upsert", "update_vectors", "batch_update_points"})


class QdrantConnection:
    """The bare transport of a client and what all of its tenants share.

    Args:
        bare: the library's transport, a server's or that of local mode.
        source: where the token comes from.
        local: whether there is no server.
    """

    def __init__(self, bare: Any, source: Source, retries: Retries, *, local: bool, read_only: bool) -> None:
        self.bare = bare
        self.source = source
        self.retries = retries
        self.local = local
        self.read_only = read_only
        self.version_is_known = local


def _bound(method: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Arguments:
    """All arguments by name."""
    if not positional:
        return dict(named)
    return dict(zip(_parameters(method), positional, strict=False)) | dict(named)


@functools.cache
def _parameters(method: str) -> tuple[str, ...]:
    from qdrant_client import QdrantClient

    return tuple(inspect.signature(getattr(QdrantClient, method)).parameters)[1:]


def _checked(tenancy: Tenancy, connection: QdrantConnection, method: str, arguments: Arguments) -> Rule:
    """The rule of a method, and full names in its arguments.

    Raises:
        CallRefused: the method or one of its arguments is not known, or it would write through a client that reads.
    """
    rule = RULES.get(method)
    if rule is None:
        raise _refusal(method)
    if rule.writes and connection.read_only:
        raise CallRefused(f"{method} writes, and this client only reads (read_only=True)")
    unknown = [name for name, value in arguments.items() if name not in PLAIN | rule.takes and value is not None]
    if unknown:
        raise CallRefused(f"{method}: {unknown[0]} is not known here, so it could lead past the tenant")
    if "collection_name" in arguments:
        arguments["collection_name"] = tenancy.collection(arguments["collection_name"])
    return rule


def _refusal(method: str) -> CallRefused:
    why = REFUSED.get(method, "this version of multidb does not know it, so it could lead past the tenant")
    return CallRefused(f"{method} is refused: {why}")


def _asks_version(connection: QdrantConnection, call: Call) -> bool:
    return call.method in _UPDATES_BY_CONDITION and not connection.version_is_known


def _require_version(connection: QdrantConnection, version: str) -> None:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < FIRST_VERSION:
        needed = ".".join(map(str, FIRST_VERSION))
        raise CallRefused(
            f"Qdrant {version} writes over points of other tenants; {needed} is the first that can be told"
        )
    connection.version_is_known = True


def _grpc_status(error: Exception) -> str:
    code = getattr(error, "code", None)
    return getattr(code(), "name", "") if callable(code) else ""


def _refuses_login(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _REFUSED_LOGIN
    return _grpc_status(error) in ("UNAUTHENTICATED", "PERMISSION_DENIED")


def _is_passing(error: Exception) -> bool:
    """Whether a server that restarts explains it. Each call may be sent twice: points have ids, and the same change of
    the same points changes nothing more."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _RESTARTING
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.NetworkError | httpx.RemoteProtocolError)
    return _grpc_status(error) == "UNAVAILABLE"


class _Attempts:
    """What is to be done after a failure: how long to wait before the call is sent again."""

    def __init__(self, connection: QdrantConnection) -> None:
        self._connection = connection
        self._revision = connection.source.revision
        self._waits = connection.retries.waits()

    def wait(self, error: Exception) -> float:
        """Seconds until the next try.

        Raises:
            Exception: `error`, where another try would fail, too.
        """
        source = self._connection.source
        if _refuses_login(error):
            source.refresh()
            if source.revision != self._revision:
                self._revision = source.revision
                return 0.0
        elif _is_passing(error) and (wait := next(self._waits, None)) is not None:
            return wait
        raise error


class Boundary(QdrantBase):
    """The transport of a client that waits, as one tenant has it."""

    def __init__(self, connection: QdrantConnection, tenancy: Tenancy) -> None:
        self.connection = connection
        self.tenancy = tenancy

    def close(self, **kwargs: Any) -> None:
        """Closes the bare transport, for all tenants."""
        self.connection.bare.close(**kwargs)

    def run(self, method: str, arguments: Arguments) -> Any:
        """Makes the calls of a method's rule."""
        rule = _checked(self.tenancy, self.connection, method, arguments)
        steps = rule.steps(self.tenancy, method, arguments)
        try:
            call = next(steps)
            while True:
                call = steps.send(self._send(call))
        except StopIteration as end:
            return end.value

    def _send(self, call: Call) -> Any:
        if _asks_version(self.connection, call):
            _require_version(self.connection, self._send(Call("info", {})).version)
        attempts = None
        while True:
            try:
                return getattr(self.connection.bare, call.method)(**call.arguments)
            except Exception as error:
                attempts = attempts or _Attempts(self.connection)
                time.sleep(attempts.wait(error))


class AsyncBoundary(QdrantBase):
    """The transport of a client that awaits, as one tenant has it."""

    def __init__(self, connection: QdrantConnection, tenancy: Tenancy) -> None:
        self.connection = connection
        self.tenancy = tenancy

    async def close(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Closes the bare transport, for all tenants."""
        await self.connection.bare.close(**kwargs)

    async def run(self, method: str, arguments: Arguments) -> Any:
        """Makes the calls of a method's rule."""
        rule = _checked(self.tenancy, self.connection, method, arguments)
        steps = rule.steps(self.tenancy, method, arguments)
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._send(call))
        except StopIteration as end:
            return end.value

    async def _send(self, call: Call) -> Any:
        if _asks_version(self.connection, call):
            _require_version(self.connection, (await self._send(Call("info", {}))).version)
        attempts = None
        while True:
            try:
                return await getattr(self.connection.bare, call.method)(**call.arguments)
            except Exception as error:
                attempts = attempts or _Attempts(self.connection)
                await asyncio.sleep(attempts.wait(error))


def _stands_for(boundary: type, method: str, make: Callable[[str], Any]) -> None:
    setattr(boundary, method, make(method))


def _sent(method: str) -> Any:
    def send(self: Any, *positional: Any, **named: Any) -> Any:
        return self.run(method, _bound(method, positional, named))

    send.__name__ = send.__qualname__ = method
    return send


def _not_sent(method: str) -> Any:
    def refuse(self: Any, *positional: Any, **named: Any) -> Any:
        raise _refusal(method)

    refuse.__name__ = refuse.__qualname__ = method
    return refuse


# QdrantBase has a body for each method, which says that it is not there; none of them may be left standing.
for _name in {*RULES, *REFUSED, *(name for name in dir(QdrantBase) if not name.startswith("_"))} - {"close"}:
    for _boundary in (Boundary, AsyncBoundary):
        _stands_for(_boundary, _name, _sent if _name in RULES else _not_sent)
