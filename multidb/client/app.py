"""An app's place on its stores, each opened when it is first asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from multidb.client.errors import DriverMissing
from multidb.client.retries import Retries
from multidb.client.source import Source, source_of

if TYPE_CHECKING:  # a driver is imported when its store is used
    from multidb.client.health import PlaceHealth
    from multidb.client.neo4j import AsyncNeo4j, Neo4j
    from multidb.client.postgres import Postgres
    from multidb.client.qdrant import AsyncTenantQdrant, TenantQdrant
    from multidb.client.redis import AsyncPlacedRedis, PlacedRedis

__all__ = ["AppPlace", "connect"]

_T = TypeVar("_T")

_MARKS = {"postgres": "DATABASE_URL", "neo4j": "NEO4J_URI", "qdrant": "QDRANT_COLLECTION_PREFIX", "redis": "REDIS_HOST"}


class AppPlace:
    """An app's place: its clients, bound to it. May be used by several threads. Ends with ``close()`` or ``aclose()``,
    or as a context, with ``with`` or ``async with``.

    Args:
        source: the app's variables.
        options: by store, what is passed to its driver.
    """

    def __init__(
        self,
        source: Source,
        retries: Retries,
        *,
        read_only: bool = False,
        grpc: bool = False,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._source = source
        self._retries = retries
        self._grpc = grpc
        self._options = options or {}
        self._guard = threading.Lock()
        self._made: dict[str, Any] = {}
        self.read_only = read_only
        self.app = source.app

    @property
    def source(self) -> Source:
        """The app's variables as they are now."""
        return self._source

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores that the app has."""
        return tuple(store for store, mark in _MARKS.items() if mark in self._source)

    @property
    def postgres(self) -> Postgres:
        """Its database: pools, addresses, and work that is tried again."""

        def make() -> Postgres:
            from multidb.client.postgres import Postgres

            return Postgres(self._source, self._retries, read_only=self.read_only, **self._of("postgres"))

        return self._once("postgres", "psycopg_pool", make)

    @property
    def neo4j(self) -> Neo4j:
        """Its graph."""

        def make() -> Neo4j:
            from multidb.client.neo4j import Neo4j

            return Neo4j(self._source, read_only=self.read_only, **self._of("neo4j"))

        return self._once("neo4j", "neo4j", make)

    @property
    def neo4j_async(self) -> AsyncNeo4j:
        """Its graph, to await."""

        def make() -> AsyncNeo4j:
            from multidb.client.neo4j import AsyncNeo4j

            return AsyncNeo4j(self._source, read_only=self.read_only, **self._of("neo4j"))

        return self._once("neo4j_async", "neo4j", make)

    @property
    def redis(self) -> PlacedRedis:
        """Its Redis or Valkey."""

        def make() -> PlacedRedis:
            from multidb.client.redis import PlacedRedis

            return PlacedRedis(self._source, self._retries, read_only=self.read_only, **self._of("redis"))

        return self._once("redis", "redis", make)

    @property
    def redis_async(self) -> AsyncPlacedRedis:
        """Its Redis or Valkey, to await."""

        def make() -> AsyncPlacedRedis:
            from multidb.client.redis import AsyncPlacedRedis

            return AsyncPlacedRedis(self._source, self._retries, read_only=self.read_only, **self._of("redis"))

        return self._once("redis_async", "redis", make)

    @property
    def qdrant(self) -> TenantQdrant:
        """Its collections, as the app's own tenant sees them."""

        def make() -> TenantQdrant:
            from multidb.client.qdrant import TenantQdrant

            given = {"grpc": self._grpc, "read_only": self.read_only, **self._of("qdrant")}
            return TenantQdrant(self._source, self._retries, **given)

        return self._once("qdrant", "qdrant_client", make)

    @property
    def qdrant_async(self) -> AsyncTenantQdrant:
        """Its collections, to await."""

        def make() -> AsyncTenantQdrant:
            from multidb.client.qdrant import AsyncTenantQdrant

            given = {"grpc": self._grpc, "read_only": self.read_only, **self._of("qdrant")}
            return AsyncTenantQdrant(self._source, self._retries, **given)

        return self._once("qdrant_async", "qdrant_client", make)

    def health(self, timeout: float = 5.0) -> PlaceHealth:
        """Tries each store with the app's own credentials, side by side; what does not answer in `timeout` seconds is
        unhealthy. Never fails because of a store."""
        from multidb.client.health import check_app

        return check_app(self, timeout)

    def close(self) -> None:
        """Closes the clients that wait. Where those to await were used, too, `aclose` closes all."""
        self._source.close()
        for name, client in list(self._made.items()):
            if not name.endswith("_async"):
                client.close()

    async def aclose(self) -> None:
        """Closes all clients."""
        for name, client in list(self._made.items()):
            if name == "postgres" or name in ("neo4j_async", "redis_async"):
                await client.aclose()
            elif name == "qdrant_async":
                await client.close()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def _of(self, store: str) -> dict[str, Any]:
        return dict(self._options.get(store, {}))

    def _once(self, name: str, package: str, make: Callable[[], _T]) -> _T:
        client = self._made.get(name)
        if client is None:
            with self._guard:
                client = self._made.get(name)
                if client is None:
                    client = self._made[name] = _with_driver(name, package, make)
        made: _T = client
        return made


def _with_driver(name: str, package: str, make: Callable[[], _T]) -> _T:
    try:
        return make()
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        if missing == "multidb":
            raise
        raise DriverMissing(
            f"the package {missing} is not installed, which {name} needs: pip install 'multidb-cli[client]'"
        ) from error


def connect(
    app: str | None = None,
    *,
    env_file: str | os.PathLike[str] | None = None,
    variables: Mapping[str, str] | None = None,
    read_only: bool = False,
    grpc: bool = False,
    retry_for: float = 10.0,
    watch: float = 1.0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> AppPlace:
    """An app's place on its stores. Talks to no server: each client does when it is first used.

    Args:
        app: an app's name, for its env file beside the manifest (``multidb.yaml`` here or above, or ``MULTIDB_FILE``).
        env_file: that file itself. Without both: the file that ``MULTIDB_ENV_FILE`` names, or the environment.
        variables: the variables themselves (`multidb env NAME --format json`).
        read_only: by the login that only reads where the store has one; else what writes is refused here.
        grpc: Qdrant by gRPC where it can be.
        retry_for: for how many seconds what is safe to send twice is sent again while a server restarts; 0: never.
        watch: seconds between two looks at the env file, for credentials that were rotated; 0: at a refusal only.
        options: passed to the drivers, by store: ``{"redis": {"decode_responses": True}}``.

    Raises:
        VariableMissing: there is no such file, or it names no app.
    """
    source = source_of(app, env_file, variables, watch)
    return AppPlace(source, Retries(retry_for), read_only=read_only, grpc=grpc, options=options)
