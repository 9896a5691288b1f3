"""An app's Neo4j: a driver whose sessions are in the app's database, with the login as it is now."""

from __future__ import annotations

import ssl
from typing import Any

from neo4j import READ_ACCESS, AsyncDriver, AsyncGraphDatabase, AsyncSession, Driver, GraphDatabase, Session
from neo4j.auth_management import AsyncAuthManagers, AuthManagers

from multidb.client.source import Source

__all__ = ["AsyncNeo4j", "Neo4j"]


class _Graph:
    def __init__(self, source: Source, *, read_only: bool = False, **options: Any) -> None:
        self._source = source
        self._read_only = read_only
        self._options = options
        self.database = source["NEO4J_DATABASE"]
        """The app's database; with ``isolation: label`` it is everybody's, and `label` tells apart what is whose."""
        self.label = source.get("NEO4J_LABEL")

    def _login(self) -> tuple[str, str]:
        self._source.refresh()
        return self._source["NEO4J_USER"], self._source["NEO4J_PASSWORD"]

    def _tls(self) -> dict[str, Any]:
        authority = self._source.get("NEO4J_CA_FILE")
        return {"ssl_context": ssl.create_default_context(cafile=authority)} if authority else {}

    def _session_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The database cannot be chosen. Who only reads begins transactions that read, and the server holds to it."""
        options = {**given, "database": self.database}
        return {**options, "default_access_mode": READ_ACCESS} if self._read_only else options


class Neo4j(_Graph):
    """An app's graph.

    Args:
        source: the app's variables.
        read_only: sessions that only read.
        options: passed to `neo4j.GraphDatabase.driver` (``max_connection_pool_size`` ...).
    """

    _driver: Driver | None = None

    @property
    def driver(self) -> Driver:
        """The driver, made when it is first asked for. It asks for the login again when the server refuses it. Its own
        sessions may name any database and write: take `session`."""
        if self._driver is None:
            given = {"auth": AuthManagers.basic(self._login), **self._tls(), **self._options}
            self._driver = GraphDatabase.driver(self._source["NEO4J_URI"], **given)
        return self._driver

    def session(self, **options: Any) -> Session:
        """A session in the app's database. ``execute_read`` and ``execute_write`` try again while a server restarts."""
        return self.driver.session(**self._session_options(options))

    def execute_query(self, query: str, parameters: dict[str, Any] | None = None, **options: Any) -> Any:
        """One statement in a transaction of its own, tried again while a server restarts (`Driver.execute_query`)."""
        routing = {"routing_": "r"} if self._read_only else {}
        return self.driver.execute_query(query, parameters, **{**options, **routing, "database_": self.database})

    def close(self) -> None:
        """Closes the driver."""
        if self._driver is not None:
            self._driver.close()


class AsyncNeo4j(_Graph):
    """`Neo4j` with methods to await."""

    _driver: AsyncDriver | None = None

    @property
    def driver(self) -> AsyncDriver:
        """The driver, made when it is first asked for."""
        if self._driver is None:
            given = {"auth": AsyncAuthManagers.basic(self._login_async), **self._tls(), **self._options}
            self._driver = AsyncGraphDatabase.driver(self._source["NEO4J_URI"], **given)
        return self._driver

    async def _login_async(self) -> tuple[str, str]:
        return self._login()

    def session(self, **options: Any) -> AsyncSession:
        """A session in the app's database."""
        return self.driver.session(**self._session_options(options))

    async def execute_query(self, query: str, parameters: dict[str, Any] | None = None, **options: Any) -> Any:
        """One statement in a transaction of its own, tried again while a server restarts."""
        routing = {"routing_": "r"} if self._read_only else {}
        return await self.driver.execute_query(query, parameters, **{**options, **routing, "database_": self.database})

    async def aclose(self) -> None:
        """Closes the driver."""
        if self._driver is not None:
            await self._driver.close()
