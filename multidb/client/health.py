"""What ``/health/databases`` says of one app, said by the app itself.

The document and the codes are those of `multidb serve`: 200 healthy or degraded, 503 unhealthy, 500 the check itself
failed. Nothing is written, and no message has a secret or an address in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from multidb.client.retries import Retries

if TYPE_CHECKING:
    from multidb.client.app import AppPlace

__all__ = ["PlaceHealth", "ServerHealth", "check_app"]

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"
UNHEALTHY: Final = "unhealthy"


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """How one store answered.

    Args:
        latency: seconds; None where it did not.
        reached: whether a server answered at all.
    """

    status: str
    message: str
    latency: float | None = None
    reached: bool = True

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        latency = None if self.latency is None else round(self.latency * 1000, 1)
        return {
            "status": self.status,
            "message": self.message,
            "latency_ms": latency,
            "reached": self.reached,
        }


@dataclass(frozen=True, slots=True)
class PlaceHealth:
    """How well an app's stores are; `checked_at` in UTC, `seconds` for all together."""

    app: str
    stores: Mapping[str, ServerHealth]
    checked_at: datetime
    seconds: float

    @property
    def status(self) -> str:
        """The worst of all."""
        statuses = {health.status for health in self.stores.values()}
        return UNHEALTHY if UNHEALTHY in statuses else DEGRADED if DEGRADED in statuses else HEALTHY

    @property
    def http_status(self) -> int:
        """200 healthy or degraded, 503 unhealthy."""
        return 503 if self.status == UNHEALTHY else 200

    def document(self) -> dict[str, Any]:
        """Plain JSON values, in the form of ``/health/databases``."""
        stores = {store: health.document() for store, health in self.stores.items()}
        return {
            "status": self.status,
            "checked_at": self.checked_at.isoformat(timespec="milliseconds"),
            "seconds": round(self.seconds, 3),
            "apps": {self.app: {"status": self.status, "stores": stores}},
        }


def check_app(place: AppPlace, timeout: float) -> PlaceHealth:
    """Tries every store of an app."""
    began, started = datetime.now(UTC), time.monotonic()
    stores = place.stores
    pool = ThreadPoolExecutor(max_workers=max(1, len(stores)), thread_name_prefix="multidb-health")
    try:
        checks = {store: pool.submit(_timed, _CHECKS[store], place) for store in stores}
        wait_for(checks.values(), timeout)
        results = {store: _result(check, timeout) for store, check in checks.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return PlaceHealth(place.app, results, began, time.monotonic() - started)


def _result(check: Future[ServerHealth], timeout: float) -> ServerHealth:
    if not check.done():
        return ServerHealth(UNHEALTHY, f"no answer within {timeout:g} s", reached=False)
    return check.result()


def _timed(check: Callable[[AppPlace], str], place: AppPlace) -> ServerHealth:
    started = time.monotonic()
    try:
        degraded = check(place)
    except Exception as error:  # whatever a driver says: what the others found must be told
        refused = _is_refusal(error)
        how = "the server refuses the app" if refused else "the server does not answer"
        return ServerHealth(UNHEALTHY, f"{how} ({type(error).__name__})", reached=refused)
    latency = time.monotonic() - started
    return ServerHealth(DEGRADED if degraded else HEALTHY, degraded or "answered", latency)


_REFUSALS: Final = ("Auth", "Forbidden", "NoPermission", "ResponseError", "InsufficientPrivilege", "UnexpectedResponse")


def _is_refusal(error: Exception) -> bool:
    """Whether a server answered, and said no."""
    return getattr(error, "sqlstate", None) is not None or any(word in type(error).__name__ for word in _REFUSALS)


def _postgres(place: AppPlace) -> str:
    import psycopg

    postgres = place.postgres
    # Not from the pool: a check that waits for a connection which the app holds would call the server ill.
    with psycopg.connect(postgres.url, connect_timeout=4, autocommit=True) as connection:
        row = connection.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')").fetchone()
    if row is not None and not place.read_only and (row[0] or row[1] == "on"):
        return "the database can only be read"
    return ""


def _redis(place: AppPlace) -> str:
    from multidb.client.redis import PlacedRedis

    # A connection of its own, with a timeout: one of the app's may wait for ever.
    with PlacedRedis(place.source, Retries(0), socket_timeout=4, socket_connect_timeout=4) as redis:
        redis.get("__multidb_probe")
    return ""


def _neo4j(place: AppPlace) -> str:
    with place.neo4j.session() as session:
        session.run("RETURN 1").consume()
    return ""


def _qdrant(place: AppPlace) -> str:
    collections = place.qdrant.get_collections().collections
    return "" if collections else "the app has no collection; `multidb plan` says what is missing"


_CHECKS: Final[Mapping[str, Callable[[AppPlace], str]]] = {
    "postgres": _postgres,
    "redis": _redis,
    "neo4j": _neo4j,
    "qdrant": _qdrant,
}
