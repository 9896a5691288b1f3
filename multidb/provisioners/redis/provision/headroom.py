"""Whether keys can be loaded without any being pushed out: a server that evicts takes keys of whatever app."""

from __future__ import annotations

import redis

from multidb.errors import ServerError
from multidb.model import Server
from multidb.provisioners.redis.driver.connection import ask, fields

__all__ = ["Headroom"]

_A_KEY = 128  # bytes that a key takes beside its name and value
_A_BYTE = 2  # bytes that one of a serialized value takes at most, but for the few that compress well


class Headroom:
    """The memory left on a server whose policy is to evict. One that refuses instead speaks for itself."""

    def __init__(self, server: Server, client: redis.Redis) -> None:
        self._server = server
        self._client = client
        self._limit = 0
        info = self._memory_info()
        if info.get("maxmemory_policy") != "noeviction":
            self._limit = int(info.get("maxmemory", 0))
            self._policy = info.get("maxmemory_policy", "unknown")

    def require(self, keys: int, size: int) -> None:
        """Asks the server, if it evicts, whether it has room for so many keys with so many bytes of values.

        Raises:
            ServerError: it would begin to evict.
        """
        if self._limit and int(self._memory_info()["used_memory"]) + _A_KEY * keys + _A_BYTE * size > self._limit:
            raise ServerError(
                f"the server would push out keys, of any app, to have room (policy {self._policy})",
                where=str(self._server),
                hint="raise its maxmemory: a set is loaded beside what is there",
            )

    def _memory_info(self) -> dict[str, str]:
        return fields(ask(self._client, "INFO", "memory"))
