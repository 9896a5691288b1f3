"""An app's Postgres: pools whose connections follow a rotation, and work that is tried again while a server restarts.

A pool's connections are opened with the credentials as they are then. When those change, connections that nobody uses
are closed at once and those in use when they come back, so that `multidb rotate --finish` finds the former login idle.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from multidb.client.retries import Retries
from multidb.client.source import Source

__all__ = ["Postgres"]

_T = TypeVar("_T")

# Of what a server says: it goes down, comes up, or one of two transactions had to give way. Nothing of them was kept.
_PASSING: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "40001", "40P01", "53300"})
_ENDED: Final = "the server has ended the connection"
_LOGIN: Final = frozenset({"28000", "28P01"})

# A pool waits twice as long after each try to connect: a server that is back after a minute would be met by a pool that
# sleeps for another. It begins anew after so many seconds, as long as anybody waits for a connection.
_GIVE_UP_AFTER: Final = 3.0


def _sizes(source: Source) -> dict[str, int]:
    """The sizes of a pool that the manifest gives the app (``postgres: {pool: ...}``), or small ones."""

    def size(name: str, usual: int) -> int:
        text = source.get(name)
        return int(text) if text.isdecimal() else usual

    return {"min_size": size("POSTGRES_POOL_MIN", 0), "max_size": size("POSTGRES_POOL_MAX", 4)}


class Postgres:
    """An app's database.

    Args:
        source: the app's variables.
        read_only: by the login that only reads, in transactions that only read.
        options: passed to `psycopg_pool.ConnectionPool` and `AsyncConnectionPool` (``min_size``, ``max_size`` ...); by
            default pools are as large as the app's variables say, as far as they do.
    """

    def __init__(self, source: Source, retries: Retries, *, read_only: bool = False, **options: Any) -> None:
        self._source = source
        self._retries = retries
        self._read_only = read_only
        sizes = {"min_size": 0, "max_size": 4} if read_only else _sizes(source)
        self._options = {**sizes, "reconnect_timeout": _GIVE_UP_AFTER, **options}
        self._pool: ConnectionPool[Any] | None = None
        self._async_pool: AsyncConnectionPool[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._variable = self._name_of_variable()
        self._source[self._variable]  # said now, not by a pool in the background
        source.when_changed(self._renew)

    def _name_of_variable(self) -> str:
        if not self._read_only:
            return "DATABASE_URL"
        return f"{self._source.app.upper()}_DB_READONLY_URL"

    @property
    def url(self) -> str:
        """The address with the credentials as they are now, for libpq, psycopg and asyncpg."""
        return self._source[self._variable]

    def sqlalchemy_url(self, driver: str = "psycopg") -> str:
        """The address for SQLAlchemy's `create_engine` and `create_async_engine`.

        An engine opens its connections with what it was made with: give it ``creator=`` to follow a rotation
        (`creator`), or limit the age of its connections and make it again.

        Args:
            driver: ``psycopg`` (waits and awaits), ``asyncpg``, ``psycopg2`` ...
        """
        return f"postgresql+{driver}://{self.url.partition('://')[2]}"

    def creator(self) -> psycopg.Connection[Any]:
        """A new connection with the credentials as they are now: ``create_engine("postgresql+psycopg://",
        creator=app.postgres.creator, pool_recycle=60)``."""
        self._source.refresh()
        return psycopg.connect(self.url, **self._keywords())

    @property
    def pool(self) -> ConnectionPool[Any]:
        """The pool, opened when it is first asked for."""
        if self._pool is None:
            self._pool = ConnectionPool(
                self._current_url,
                kwargs=self._keywords(),
                check=self._require_open,
                open=True,
                **{"reconnect_failed": _try_again, **self._options},
            )
        return self._pool

    @property
    def async_pool(self) -> AsyncConnectionPool[Any]:
        """The pool for ``async with``. It belongs to the event loop in which it is first used: ``await
        app.postgres.open()`` opens it."""
        if self._async_pool is None:
            self._async_pool = AsyncConnectionPool(
                self._current_url_async,
                kwargs=self._keywords(),
                check=self._require_open_async,
                open=False,
                **{"reconnect_failed": _try_again_async, **self._options},
            )
        return self._async_pool

    async def open(self) -> AsyncConnectionPool[Any]:
        """Opens the pool for ``async with``, and gives it; does nothing when it is open."""
        pool = self.async_pool
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            await pool.open()
        return pool

    def run(self, work: Callable[[psycopg.Connection[Any]], _T]) -> _T:
        """`work` in a transaction, from its beginning again where a server that restarts, a login that was rotated away
        or another transaction cut it off before it was committed. So `work` does nothing beside what it does there.

        Raises:
            psycopg.Error: it failed for another reason, the time for retries is up, or the connection was lost during
                COMMIT, when nobody knows whether it is done.
        """
        waits = self._retries.waits()
        while True:
            committing = False
            try:
                with self.pool.connection() as connection:
                    answer = work(connection)
                    committing = connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
                    if committing:
                        connection.commit()
                        committing = False
                return answer
            except psycopg.Error as error:
                time.sleep(self._wait(error, committing, waits))

    async def run_async(self, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[_T]]) -> _T:
        """`run` for work to await."""
        waits = self._retries.waits()
        pool = await self.open()
        while True:
            committing = False
            try:
                async with pool.connection() as connection:
                    answer = await work(connection)
                    committing = connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
                    if committing:
                        await connection.commit()
                        committing = False
                return answer
            except psycopg.Error as error:
                await asyncio.sleep(self._wait(error, committing, waits))

    def _wait(self, error: psycopg.Error, committing: bool, waits: Any) -> float:
        """Seconds until the next try; raises `error` where there should be none."""
        lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
        passing = error.sqlstate in _PASSING or (lost and not committing)
        if error.sqlstate in _LOGIN:
            passing = self._source.refresh()
        wait = next(waits, None) if passing else None
        if wait is None:
            raise error
        self._source.refresh()
        return float(wait)

    def _current_url(self) -> str:
        self._source.refresh()  # a stat for each new connection
        return self.url

    async def _current_url_async(self) -> str:
        return self._current_url()

    def _keywords(self) -> dict[str, Any]:
        keywords: dict[str, Any] = {"application_name": self._source.app}
        if self._read_only:
            keywords["options"] = "-c default_transaction_read_only=on"
        return keywords

    def _require_open(self, connection: psycopg.Connection[Any]) -> None:
        """Asks the socket, not the server, whether a connection is still open: a server that ended it has said so, and
        an idle one says nothing. It takes microseconds where a question to the server takes as long as a SELECT.

        Raises:
            psycopg.OperationalError: it is not; the pool gives another one.
        """
        if _has_ended(connection):
            connection.close()  # else the pool takes it for one that is good, and gives it again
            if self._pool is not None:
                self._pool.check()  # the others may have ended too; found one by one, each would cost a longer wait
            raise psycopg.OperationalError(_ENDED)

    async def _require_open_async(self, connection: psycopg.AsyncConnection[Any]) -> None:
        if _has_ended(connection):
            await connection.close()
            if self._async_pool is not None:
                await self._async_pool.check()
            raise psycopg.OperationalError(_ENDED)

    def _renew(self) -> None:
        """Has no connection kept that was opened with former credentials."""
        if self._pool is not None:
            self._pool.drain()
        if self._async_pool is not None and self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._async_pool.drain(), self._loop)

    def close(self) -> None:
        """Closes the pool."""
        if self._pool is not None:
            self._pool.close()

    async def aclose(self) -> None:
        """Closes both pools."""
        if self._async_pool is not None and self._loop is not None:
            await self._async_pool.close()
        self.close()


def _has_ended(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _try_again(pool: ConnectionPool[Any]) -> None:
    """Has a pool that gave up on a connection begin anew, if anybody waits for one: by itself it would not."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


async def _try_again_async(pool: AsyncConnectionPool[Any]) -> None:
    if pool.get_stats().get("requests_waiting"):
        await pool.check()
