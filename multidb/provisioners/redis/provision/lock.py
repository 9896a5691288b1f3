"""One run at a time on a server: a key that expires and that a connection holds, or a channel where it cannot write."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Any, Self

import redis
from redis.client import PubSub
from redis.exceptions import MovedError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError

from multidb.errors import Locked, ServerError
from multidb.model import Server
from multidb.provisioners.redis.driver.connection import ask, explained

__all__ = ["CHANNEL", "RENEWAL_INTERVAL", "Lease"]

_LOCK_KEY = "__multidb__:lock"  # the prefix of no app
CHANNEL = "__multidb__:lock:"  # nor may any listen there
_LONGEST = 4096  # characters of what the lock says; nothing of ours is as long
_LOCK_CANDIDATES = 1000  # enough to find one on each of a hundred nodes
_LOCK_SECONDS = 15
_LOCK_MILLISECONDS = _LOCK_SECONDS * 1000
RENEWAL_INTERVAL = 4
_NO_KEY = -2  # the time to live of a key that is not there
_WRITES_REFUSED = ("NOREPLICAS", "MISCONF")

_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"


class Lease:
    """The lock: a key that names a connection of its holder, and expires when nobody renews it.

    A waiting run asks the server whether that connection is still there. A killed process loses it at once; the
    expiry is for a machine that vanished without a word.

    A server that refuses writes takes no key, and an app that has filled its memory must not keep the admin from
    turning its login off: there the holder listens to a channel that names it. Who has taken the
    key looks for such a channel, and who listens looks for the key, so that one of two sees the other.
    """

    def __init__(self, server: Server, client: redis.Redis, project: str, holder: str) -> None:
        self._server = server
        self._client = client  # this lease's own: the lock is lost with it
        self._holder = {"project": project, "holder": holder, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        self._key = _LOCK_KEY
        self._value = ""
        self._stop = threading.Event()
        self._listening: PubSub | None = None  # instead of a key
        self._until = 0.0
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="redis-lock", daemon=True)

    def __enter__(self) -> Self:
        try:
            with explained(self._server):
                self._key = _lock_key(self._client)
                client_id = ask(self._client, "CLIENT", "ID")
                self._value = json.dumps({**self._holder, "client": client_id, "token": secrets.token_hex(8)})
                self._acquire()
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(RedisError):  # it expires by itself
            ask(self._client, "EVAL", _RELEASE, "1", self._key, self._value)
        self._close()

    def _close(self) -> None:
        self._stop_listening()
        self._client.close()

    def check(self) -> None:
        """Raises `ServerError` when somebody else may hold the lock by now."""
        if self._lost or time.monotonic() > self._until:
            raise ServerError(
                "the lock was lost: its connection broke, or somebody removed it",
                hint="run multidb apply again; it goes on where this stopped",
            )

    def _acquire(self) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS + 2
        left_before, seen = _LOCK_MILLISECONDS, ""
        while True:
            asked = time.monotonic()
            held = self._take()
            if held is None:
                self._until = asked + _LOCK_SECONDS
                return
            if not held:
                continue
            left = ask(self._client, "PTTL", self._key)
            if held != seen:  # another took its place: so it is the next one's turn, and may be ours after it
                longest = _LOCK_SECONDS + 2 if left != _NO_KEY else RENEWAL_INTERVAL + 1  # who listens is there
                deadline, left_before, seen = time.monotonic() + longest, _LOCK_MILLISECONDS, held
            # A time to live that grows again has been renewed: its holder is alive.
            if left == -1 or left > left_before + 500 or time.monotonic() > deadline:
                raise Locked(
                    f"another run works on this server: {_described(held)}",
                    where=str(self._server),
                    hint="wait for it to end, then run the command again",
                )
            left_before = min(left_before, max(left, 0))
            time.sleep(0.25)

    def _take(self) -> str | None:
        """None: nobody had it, so that it is ours now. Otherwise what its holder says; empty: it is free by now."""
        try:
            taken = ask(self._client, "SET", self._key, self._value, "NX", "PX", str(_LOCK_MILLISECONDS))
        except ResponseError as refused:
            if not isinstance(refused, OutOfMemoryError) and not str(refused).startswith(_WRITES_REFUSED):
                raise
            return self._listen(refused)
        if taken and (other := self._listener()):
            ask(self._client, "EVAL", _RELEASE, "1", self._key, self._value)
            return other
        return None if taken else self._holder_of_key()

    def _holder_of_key(self) -> str:
        held = str(ask(self._client, "GETRANGE", self._key, "0", str(_LONGEST)))
        if held and self._is_orphan(held) and ask(self._client, "EVAL", _RELEASE, "1", self._key, held):
            return ""
        return held

    def _listen(self, refused: ResponseError) -> str | None:
        """As `_take`, by the channel. Raises `refused` when the admin may not listen."""
        pool: Any = self._client.connection_pool
        another = redis.ConnectionPool(
            connection_class=pool.connection_class, max_connections=1, **pool.connection_kwargs
        )
        self._listening = PubSub(another)
        try:
            self._listening.subscribe(CHANNEL + self._value)
            if self._listening.get_message(timeout=self._server.timeout) is None:
                raise redis.TimeoutError
            held = self._listener()
            if held is None:
                key = str(ask(self._client, "GETRANGE", self._key, "0", str(_LONGEST)))
                held = key if key and not self._is_orphan(key) else None
        except NoPermissionError:
            raise refused from None
        if held is not None:
            self._stop_listening()
            time.sleep(random.uniform(0, 0.5))  # noqa: S311 - two that began at once do not go on at once
        return held

    def _listener(self) -> str | None:
        """What another says who holds the lock by listening."""
        try:
            channels = ask(self._client, "PUBSUB", "CHANNELS", f"{CHANNEL}{{*")
        except NoPermissionError:
            return None
        others = (str(channel).removeprefix(CHANNEL) for channel in channels)
        return next((other for other in others if other != self._value), None)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening.connection_pool.disconnect()
            self._listening = None

    def _is_orphan(self, held: str) -> bool:
        """Whether the holder's connection is gone. False when that can't be told."""
        try:
            client = int(json.loads(held)["client"])
            return not str(ask(self._client, "CLIENT", "LIST", "ID", str(client))).strip()
        except (ValueError, KeyError, TypeError, RecursionError, NoPermissionError):
            return False

    def _keep(self) -> None:
        while not self._stop.wait(RENEWAL_INTERVAL):
            asked = time.monotonic()
            try:
                held = self._renewed()
            except RedisError:
                held = False
            if not held:
                self._lost = True
                return
            self._until = asked + _LOCK_SECONDS

    def _renewed(self) -> bool:
        if self._listening is not None:
            return bool(ask(self._client, "PUBSUB", "NUMSUB", CHANNEL + self._value)[1])
        return bool(ask(self._client, "EVAL", _RENEW, "1", self._key, self._value, str(_LOCK_MILLISECONDS)))


def _lock_key(client: redis.Redis) -> str:
    """The key of the lock: on a cluster, where a node refuses the keys of others, the first that this node holds."""
    for number in range(_LOCK_CANDIDATES):
        key = f"{_LOCK_KEY}:{number}" if number else _LOCK_KEY
        with contextlib.suppress(MovedError):
            ask(client, "GETRANGE", key, "0", "0")
            return key
    return _LOCK_KEY


def _described(raw: str) -> str:
    try:
        held = json.loads(raw)
        return f"project {held['project']}, {held['holder']}, since {held['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it does not say who it is"
