"""Which keys of a server are changed while one looks: as it tells clients that keep values (``CLIENT TRACKING``).

ChangedKeys is every change of a key, in any DB: by a command, a script, by expiring or being evicted; and that a DB was
emptied, but not which. Not told is what happens to a stream's groups, and that two DBs were exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import ResponseError

from multidb.provisioners.redis.driver.batch_connection import BatchConnection
from multidb.provisioners.redis.driver.connection import fields

__all__ = ["MOST", "Changes", "ChangedKeys"]

MOST: Final = 64 << 20  # bytes of names that are kept, with what keeping one costs
_OVERHEAD: Final = 100
_INVALID: Final = b"invalidate"


@dataclass(slots=True)
class ChangedKeys:
    """What has changed.

    Args:
        keys: by their names there, those that were chosen.
        emptied: whether some DB was, so that any key may be gone.
        anything: whether any key may have changed.
    """

    keys: set[bytes] = field(default_factory=set)
    emptied: bool = False
    anything: bool = False

    def __bool__(self) -> bool:
        return bool(self.keys) or self.emptied or self.anything


class Changes:
    """What changes on one server from the moment on when this is made. Raises the driver's errors; a server that has no
    such thing, or does not let this login, refuses.

    Args:
        connection: of its own, logged in.
        prefix: what the names of those keys begin with that are asked for.
        chosen: tells of such a name whether it is.
    """

    def __init__(self, connection: BatchConnection, prefix: bytes, chosen: Callable[[bytes], bool]) -> None:
        self._connection = connection
        self._chosen = chosen
        self._changed = ChangedKeys()
        self._size = 0
        connection.ask("HELLO", 3)
        connection.ask("CLIENT", "TRACKING", "ON", "BCAST", *(("PREFIX", prefix) if prefix else ()))
        self._state = self._read_state()

    @property
    def tells_all(self) -> bool:
        """Whether it is noticed that DBs were exchanged, and what else is told to no client."""
        return self._state is not None

    def collect(self) -> None:
        """Takes in what has been told: the server keeps it until somebody does."""
        self._ask("PING")

    def take(self) -> ChangedKeys:
        """All that has changed until this was called, and has not been taken before."""
        # The server answers while it works through what clients have sent, and tells of changes once it has; so the
        # second answer comes after everything that was changed before the first question.
        self._ask("PING")
        state = self._read_state()
        changed, self._changed, self._size = self._changed, ChangedKeys(), 0
        changed.anything = changed.anything or state != self._state
        self._state = state
        return changed

    def _read_state(self) -> tuple[str, ...] | None:
        """What is another after DBs were exchanged, or after the server has taken over another one's data. None: it may
        not be asked."""
        answers = [self._ask("INFO", section) for section in ("replication", "commandstats")]
        if any(isinstance(answer, ResponseError) for answer in answers):
            return None
        replication, statistics = (fields(answer.decode(errors="replace")) for answer in answers)
        calls = statistics.get("cmdstat_swapdb", "").partition(",")[0]
        return replication.get("role", ""), replication.get("master_replid", ""), calls

    def _ask(self, *words: str) -> Any:
        self._connection.send([words])
        while isinstance(answer := self._connection.receive(), list):
            if answer[0] == _INVALID:
                self._add(answer[1])
        return answer

    def _add(self, keys: list[bytes] | None) -> None:
        if keys is None:
            self._changed.emptied = True
        elif not self._changed.anything:
            new = {key for key in keys if self._chosen(key)} - self._changed.keys
            self._size += sum(len(key) + _OVERHEAD for key in new)
            self._changed.keys |= new
            if self._size > MOST:
                self._changed, self._size = ChangedKeys(anything=True, emptied=True), 0
