"""redis-py's client that awaits, in an app's place."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn, Self

import redis.asyncio as redis
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.retry import Retry
from redis.exceptions import AuthenticationError

from multidb.client.errors import CallRefused
from multidb.client.redis.keys import Placement
from multidb.client.redis.place import (
    PASSING,
    PlacedCommands,
    SharedNames,
    call_back,
    is_sent_twice,
    options,
    own_message,
    placement,
    renewed,
    unsent,
)
from multidb.client.retries import Retries
from multidb.client.source import Source

__all__ = ["AsyncPlacedPipeline", "AsyncPlacedPubSub", "AsyncPlacedRedis", "AsyncRenewedPool"]

_LOOK = 1.0  # seconds between two looks whether a connection that only listens is to be renewed


class AsyncRenewedPool(redis.ConnectionPool):
    """A pool that keeps no connection that was opened with former credentials."""

    source: Source
    loop: asyncio.AbstractEventLoop | None = None  # the one that its connections live in

    @classmethod
    def of(cls, source: Source, **further: Any) -> Self:
        """The pool of an app's server."""
        given = {**options(source, Retry), **further}
        if given.pop("ssl", False):
            given["connection_class"] = redis.SSLConnection
        pool = cls(**given)
        pool.source = source
        source.when_changed(pool.renew)
        return pool

    async def get_connection(self, command_name: Any = None, *keys: Any, **further: Any) -> Any:
        """A connection; a failure here has sent nothing. A login that is refused is read again once."""
        self.loop = self.loop or asyncio.get_running_loop()
        revision = self.source.revision
        try:
            return await super().get_connection()
        except AuthenticationError:
            self.source.refresh()
            if self.source.revision == revision:
                raise
            return await super().get_connection()
        except PASSING as error:
            raise unsent(error) from error.__cause__

    def renew(self) -> None:
        """Has every connection opened anew: idle ones at once, those in use when they come back."""
        loop = self.loop
        if loop is not None and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._renew(), loop)

    async def _renew(self) -> None:
        async with self._lock:
            for connection in renewed(self):
                await connection.disconnect()


class AsyncPlacedRedis(PlacedCommands, redis.Redis):  # type: ignore[misc]
    """`redis.asyncio.Redis` in an app's place.

    Args:
        source: the app's variables.
        read_only: refuses what writes.
        further: passed to redis-py's pool (``decode_responses``, ``socket_timeout`` ...).
    """

    def __init__(
        self,
        source: Source | None = None,
        retries: Retries | None = None,
        *,
        read_only: bool = False,
        connection_pool: Any = None,
        single_connection_client: bool = False,
        **further: Any,
    ) -> None:
        if connection_pool is None:
            assert source is not None
            connection_pool = AsyncRenewedPool.of(source, **further)
        super().__init__(connection_pool=connection_pool, single_connection_client=single_connection_client)
        self.place = placement(connection_pool.source, read_only=read_only)
        self.retries = retries or Retries()
        call_back(self.response_callbacks, self.place)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Sends a command with the app's prefix in it; again where a server that restarts has not taken it."""
        words = self._placed(args)
        try:
            return await super().execute_command(*words, **options)
        except PASSING as error:
            failure: Exception = error
        for wait in self.retries.waits():
            if self.connection is not None or not is_sent_twice(failure, words):
                break
            await asyncio.sleep(wait)
            try:
                return await super().execute_command(*words, **options)
            except PASSING as error:
                failure = error
        raise failure

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> AsyncPlacedPipeline:
        """A pipeline in the same place."""
        pipeline = AsyncPlacedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.place, pipeline.retries = self.place, self.retries
        return pipeline

    def pubsub(self, **further: Any) -> AsyncPlacedPubSub:
        """Publish and subscribe in the same place."""
        pubsub = AsyncPlacedPubSub(self.connection_pool, event_dispatcher=self._event_dispatcher, **further)
        pubsub.place, pubsub.retries = self.place, self.retries
        return pubsub

    def client(self) -> AsyncPlacedRedis:
        """A client with one connection of its own."""
        single = AsyncPlacedRedis(
            connection_pool=self.connection_pool, retries=self.retries, single_connection_client=True
        )
        single.place = self.place
        return single

    def monitor(self) -> NoReturn:
        """Refused: it shows the commands of all apps."""
        raise CallRefused("MONITOR is refused: it shows the commands of all apps")

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes all connections."""
        await super().aclose(close_connection_pool)
        if not self.single_connection_client:
            await self.connection_pool.disconnect()


class AsyncPlacedPipeline(PlacedCommands, Pipeline):  # type: ignore[misc]
    """`redis.asyncio.client.Pipeline` in an app's place."""

    place: Placement
    retries: Retries

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queues a command, or sends it while keys are watched, with the app's prefix in it."""
        return super().execute_command(*self._placed(args), **options)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends what is queued; again only where nothing of it was sent."""
        stack, explicit, waits = list(self.command_stack), self.explicit_transaction, self.retries.waits()
        while True:
            try:
                return await super().execute(raise_on_error)
            except PASSING as error:
                wait = None if not getattr(error, "multidb_unsent", False) else next(waits, None)
                if wait is None:
                    raise
                await asyncio.sleep(wait)
                self.command_stack, self.explicit_transaction = list(stack), explicit


class AsyncPlacedPubSub(SharedNames, PubSub):
    """`redis.asyncio.client.PubSub` in an app's place. What is published while it connects anew is lost."""

    retries: Retries

    async def execute_command(self, *args: Any) -> Any:
        """Subscribes to channels with the app's prefix before them."""
        return await super().execute_command(*self.placed(args))

    async def subscribe(self, *args: Any, **further: Any) -> Any:
        """As redis-py; remembers which channels are shared, since their type is lost in its tables."""
        self.note_shared(args)
        return await super().subscribe(*args, **further)

    async def psubscribe(self, *args: Any, **further: Any) -> Any:
        """As redis-py; remembers which patterns are shared."""
        self.note_shared(args)
        return await super().psubscribe(*args, **further)

    async def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """As redis-py. While it waits it looks every second whether its login was rotated, and connects anew where a
        server restarts."""
        waits = self.retries.waits()
        while True:
            connection = self.connection
            try:
                if connection is not None and connection.should_reconnect():
                    await connection.disconnect()
                    await connection.connect()
                response = await super().parse_response(block=False, timeout=_LOOK if block else timeout)
            except PASSING:
                wait = next(waits, None)
                if wait is None:
                    raise
                await asyncio.sleep(wait)
                assert connection is not None
                await connection.disconnect()
                continue
            if response is not None or not block:
                return response
            waits = self.retries.waits()

    async def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """A message, its channel named as the app does."""
        return await super().handle_message(own_message(response, self.place), ignore_subscribe_messages)
