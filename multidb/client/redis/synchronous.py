"""redis-py's client that waits, in an app's place."""

from __future__ import annotations

import time
from typing import Any, NoReturn, Self

import redis
from redis.client import Pipeline, PubSub
from redis.exceptions import AuthenticationError
from redis.retry import Retry

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

__all__ = ["PlacedPipeline", "PlacedPubSub", "PlacedRedis", "RenewedPool"]

_LOOK = 1.0  # seconds between two looks whether a connection that only listens is to be renewed


class RenewedPool(redis.ConnectionPool):
    """A pool that keeps no connection that was opened with former credentials."""

    source: Source

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

    def get_connection(self, command_name: Any = None, *keys: Any, **further: Any) -> Any:
        """A connection; a failure here has sent nothing. A login that is refused is read again once."""
        revision = self.source.revision
        try:
            return super().get_connection()
        except AuthenticationError:
            self.source.refresh()
            if self.source.revision == revision:
                raise
            return super().get_connection()
        except PASSING as error:
            raise unsent(error) from error.__cause__

    def renew(self) -> None:
        """Has every connection opened anew: idle ones at once, those in use when they come back."""
        with self._lock:
            for connection in renewed(self):
                connection.disconnect()


class PlacedRedis(PlacedCommands, redis.Redis):
    """`redis.Redis` in an app's place.

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
            connection_pool = RenewedPool.of(source, **further)
        super().__init__(connection_pool=connection_pool, single_connection_client=single_connection_client)
        self.place = placement(connection_pool.source, read_only=read_only)
        self.retries = retries or Retries()
        call_back(self.response_callbacks, self.place)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Sends a command with the app's prefix in it; again where a server that restarts has not taken it."""
        words = self._placed(args)
        try:
            return self._execute_command(*words, **options)
        except PASSING as error:
            failure: Exception = error
        for wait in self.retries.waits():
            if self.connection is not None or not is_sent_twice(failure, words):
                break
            time.sleep(wait)
            try:
                return self._execute_command(*words, **options)
            except PASSING as error:
                failure = error
        raise failure

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> PlacedPipeline:
        """A pipeline in the same place."""
        pipeline = PlacedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.place, pipeline.retries = self.place, self.retries
        return pipeline

    def pubsub(self, **further: Any) -> PlacedPubSub:
        """Publish and subscribe in the same place."""
        pubsub = PlacedPubSub(self.connection_pool, event_dispatcher=self._event_dispatcher, **further)
        pubsub.place, pubsub.retries = self.place, self.retries
        return pubsub

    def client(self) -> PlacedRedis:
        """A client with one connection of its own."""
        single = PlacedRedis(connection_pool=self.connection_pool, retries=self.retries, single_connection_client=True)
        single.place = self.place
        return single

    def monitor(self) -> NoReturn:
        """Refused: it shows the commands of all apps."""
        raise CallRefused("MONITOR is refused: it shows the commands of all apps")

    def close(self) -> None:
        """Closes all connections."""
        super().close()
        if getattr(self, "connection_pool", None) is not None and not self._single_connection_client:
            self.connection_pool.disconnect()


class PlacedPipeline(PlacedCommands, Pipeline):
    """`redis.client.Pipeline` in an app's place."""

    place: Placement
    retries: Retries

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queues a command, or sends it while keys are watched, with the app's prefix in it."""
        return super().execute_command(*self._placed(args), **options)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends what is queued; again only where nothing of it was sent."""
        stack, explicit, waits = list(self.command_stack), self.explicit_transaction, self.retries.waits()
        while True:
            try:
                return super().execute(raise_on_error)
            except PASSING as error:
                wait = None if not getattr(error, "multidb_unsent", False) else next(waits, None)
                if wait is None:
                    raise
                time.sleep(wait)
                self.command_stack, self.explicit_transaction = list(stack), explicit


class PlacedPubSub(SharedNames, PubSub):
    """`redis.client.PubSub` in an app's place. What is published while it connects anew is lost."""

    retries: Retries

    def execute_command(self, *args: Any) -> Any:
        """Subscribes to channels with the app's prefix before them."""
        return super().execute_command(*self.placed(args))

    def subscribe(self, *args: Any, **further: Any) -> Any:
        """As redis-py; remembers which channels are shared, since their type is lost in its tables."""
        self.note_shared(args)
        return super().subscribe(*args, **further)

    def psubscribe(self, *args: Any, **further: Any) -> Any:
        """As redis-py; remembers which patterns are shared."""
        self.note_shared(args)
        return super().psubscribe(*args, **further)

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """As redis-py. While it waits it looks every second whether its login was rotated, and connects anew where a
        server restarts."""
        waits = self.retries.waits()
        while True:
            try:
                response = super().parse_response(block=False, timeout=_LOOK if block else timeout)
            except PASSING:
                wait = next(waits, None)
                if wait is None:
                    raise
                time.sleep(wait)
                assert self.connection is not None
                self.connection.disconnect()
                continue
            if response is not None or not block:
                return response
            waits = self.retries.waits()

    def handle_message(self, response: Any, ignore_subscribe_messages: bool = False) -> Any:
        """A message, its channel named as the app does."""
        return super().handle_message(own_message(response, self.place), ignore_subscribe_messages)
