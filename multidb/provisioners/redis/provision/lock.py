"""One run at a time on a server: a key that expires, and that a connection holds."""

from __future__ import annotations

import contextlib
import json
import secrets as random
import threading
import time
from datetime import UTC, datetime
from typing import Self

import redis
from redis.exceptions import MovedError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError

from multidb.errors import Locked, ServerError
from multidb.model import Server
from multidb.provisioners.redis.driver.connection import ask, explained

__all__ = ["RENEWAL_INTERVAL", "Lease"]

_LOCK_KEY = "__multidb__:lock"  # the prefix of no app
_LONGEST = 4096  # characters of what the lock says; nothing of ours is as long
_LOCK_CANDIDATES = 1000  # enough to find one on each of a hundred nodes
_LOCK_SECONDS = 15
_LOCK_MILLISECONDS = _LOCK_SECONDS * 1000
RENEWAL_INTERVAL = 4

# Also on a server without memory: an app that has filled it must not keep the admin from turning its login off.
_TAKE = "#!lua flags=allow-oom\nreturn redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"


class Lease:
    """The lock: a key that names a connection of its holder, and expires when nobody renews it.

    A waiting run asks the server whether that connection is still there. A killed process loses it at once; the
    expiry is for a machine that vanished without a word.
    """

    def __init__(self, server: Server, client: redis.Redis, project: str, holder: str) -> None:
        self._server = server
        self._client = client  # this lease's own: the lock is lost with it
        self._holder = {"project": project, "holder": holder, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        self._key = _LOCK_KEY
        self._value = ""
        self._stop = threading.Event()
        self._until = 0.0
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="redis-lock", daemon=True)

    def __enter__(self) -> Self:
        try:
            with explained(self._server):
                self._key = _lock_key(self._client)
                client_id = ask(self._client, "CLIENT", "ID")
                self._value = json.dumps({**self._holder, "client": client_id, "token": random.token_hex(8)})
                self._acquire()
        except BaseException:
            self._client.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(RedisError):  # it expires by itself
            ask(self._client, "EVAL", _RELEASE, "1", self._key, self._value)
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
            if self._take():
                self._until = asked + _LOCK_SECONDS
                return
            held = str(ask(self._client, "GETRANGE", self._key, "0", str(_LONGEST)))
            if not held or (self._is_orphan(held) and ask(self._client, "EVAL", _RELEASE, "1", self._key, held)):
                continue
            left = ask(self._client, "PTTL", self._key)
            if held != seen:  # another took its place: so it is the next one's turn, and may be ours after it
                deadline, left_before, seen = time.monotonic() + _LOCK_SECONDS + 2, _LOCK_MILLISECONDS, held
            # A time to live that grows again has been renewed: its holder is alive.
            if left == -1 or left > left_before + 500 or time.monotonic() > deadline:
                raise Locked(
                    f"another run works on this server: {_described(held)}",
                    where=str(self._server),
                    hint="wait for it to end, then run the command again",
                )
            left_before = min(left_before, max(left, 0))
            time.sleep(0.25)

    def _take(self) -> bool:
        """Whether nobody had it, so that it is ours now."""
        milliseconds = str(_LOCK_MILLISECONDS)
        try:
            return bool(ask(self._client, "SET", self._key, self._value, "NX", "PX", milliseconds))
        except OutOfMemoryError as refused:
            try:
                return bool(ask(self._client, "EVAL", _TAKE, "1", self._key, self._value, milliseconds))
            except ResponseError:  # a server before 7, whose scripts may not say so
                raise refused from None

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
                held = ask(self._client, "EVAL", _RENEW, "1", self._key, self._value, str(_LOCK_MILLISECONDS))
            except RedisError:
                held = 0
            if not held:
                self._lost = True
                return
            self._until = asked + _LOCK_SECONDS


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
