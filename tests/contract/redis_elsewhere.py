"""Keys of a server that is not the project's, for tests of imports."""

from __future__ import annotations

import random
import re
import threading
import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from multidb.model import App, ImportOptions, SourceLocation
from multidb.provisioners.redis.backup.followed import FollowedRedis
from multidb.secrets import Secret
from tests.contract.case_redis import ADMIN, PASSWORD
from tests.contract.redis_sets import content
from tests.support.case import RealServer

NUMBER = 5
OTHER = 7  # a DB of somebody else's
_MOMENT = re.compile(rb"\b(1[0-9]{7})[0-9]{5}\b")
_SCORES = re.compile(rb"(?<=b')(-?\d+\.\d+)(?=')")


class Elsewhere:
    """DB 5 of a server, which belongs to nobody that multidb knows."""

    prefix = ""

    def __init__(self, real: RealServer) -> None:
        self.real = real

    def raw(self, _: App | None = None) -> redis.Redis:
        endpoint = self.real.server.endpoint
        client = redis.Redis(
            host=endpoint.host,
            port=endpoint.port,
            username=ADMIN,
            password=PASSWORD,
            db=NUMBER,
            protocol=2,
            socket_timeout=60,  # a pause lasts for seconds when who began it is gone
            retry=Retry(NoBackoff(), 0),
        )
        client.response_callbacks.clear()
        return client

    def location(self, user: str = ADMIN, password: str = PASSWORD, number: int = NUMBER) -> SourceLocation:
        endpoint = self.real.server.endpoint
        text = f"redis://{user}@{endpoint.host}:{endpoint.port}/{number}"
        return SourceLocation(text, text, None, Secret(password))

    def source(self, **options: Any) -> FollowedRedis:
        return FollowedRedis(self.location(), ImportOptions(**options))


class Writers:
    """Clients that write in a DB all the time, and know what was acknowledged to them."""

    def __init__(self, there: Elsewhere, prefix: bytes = b"", count: int = 2) -> None:
        self.there = there
        self.prefix = prefix
        self.done = 0
        self.refused: list[str] = []
        self.said: dict[bytes, bytes | None] = {}  # by key, what was acknowledged last
        self.unsure: set[bytes] = set()  # keys of commands that were not answered
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def until(self, count: int) -> None:
        goal, until = self.done + count, time.monotonic() + 60
        while self.done < goal and time.monotonic() < until:
            time.sleep(0.01)
        assert self.done >= goal

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        client = self.there.raw()
        own = self.prefix + b"live\n\x00\xff%d:" % number
        busy, other = self.there.raw(), self.there.raw()
        other.execute_command("SELECT", OTHER)
        while not self._over.is_set():
            key, value = own + b"%d" % chance.randrange(300), b"%d" % self.done
            try:
                self._act(client, chance, key, value, own)
                self.done += 1
                if chance.randrange(50) == 0:
                    busy.execute_command("XADD", self.prefix + b"log", "*", "n", value)
                    busy.execute_command(
                        "XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", self.prefix + b"log", ">"
                    )
                    busy.execute_command("SET", self.prefix + b"soon%d" % self.done, value, "PX", 30)
            except (redis.RedisError, OSError) as error:
                self.unsure |= {key, own + b"renamed"}
                self.refused.append(str(error))
                time.sleep(0.02)
                if "NOREPLICAS" in str(error) or self._over.is_set():
                    return

    def _act(self, client: redis.Redis, chance: random.Random, key: bytes, value: bytes, own: bytes) -> None:
        match chance.randrange(12):
            case 0:
                client.execute_command("DEL", key)
                self.said[key] = None
            case 1 if self.said.get(key) is not None:
                client.execute_command("RENAME", key, own + b"renamed")
                self.said[own + b"renamed"], self.said[key] = self.said[key], None
            case 2:
                client.execute_command("SET", key, value, "PX", 3_600_000)
                self.said[key] = value
            case 3:
                client.execute_command("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, key, value)
                self.said[key] = value
            case _:
                client.execute_command("SET", key, value)
                self.said[key] = value


def held(where: Any, number: int, prefix: bytes = b"") -> dict[bytes, tuple[bytes, int]]:
    """What is there; scores of sorted sets as numbers, since servers write the same one in more or fewer digits, and
    when an entry of a stream was last delivered to about two minutes, since a server tells that by how long ago. What
    expires within seconds is left out: it would be there at one moment and not at the next."""
    found = content(where, App("alpha", "alpha", {}), number, prefix)
    soon = (time.time() + 10) * 1000
    return {
        key: (_MOMENT.sub(rb"\1", _SCORES.sub(lambda text: repr(float(text[1])).encode(), value)), ms)
        for key, (value, ms) in found.items()
        if ms == -1 or ms > soon
    }
