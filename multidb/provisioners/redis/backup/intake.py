"""A server as the one that takes in values of another: whether it takes what the other has serialized, and what a value
looks like once it is here, so that both sides can be compared.

Values are tried under a key that no app can see, and that is gone a moment later.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import ResponseError

from multidb.errors import ArchiveError
from multidb.model import Server
from multidb.provisioners.redis.backup.encodings import FOOTER, HASH_TABLE, SET_TABLE, Limits, in_order
from multidb.provisioners.redis.backup.keys import Keys, by_size
from multidb.provisioners.redis.backup.keys_file import NEVER, Record, rdb_version
from multidb.provisioners.redis.backup.values import Words
from multidb.provisioners.redis.driver.batch_connection import BatchConnection
from multidb.provisioners.redis.driver.connection import explained
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import BYTES, join_line
from multidb.secrets import redact

__all__ = ["Intake", "content", "shown"]

_SECONDS: Final = 60  # that the key stays, should we be gone
_SHOWN: Final = 60  # bytes of a key's name in an error
_STRING: Final = 0  # RDB type
_COUNTING: Final = 10  # RDB version of Redis 7.0, the first that says how many entries a stream has had
_TABLES: Final = frozenset({SET_TABLE, HASH_TABLE})


class Intake:
    """Values of another server on their way into this one. To be closed.

    Args:
        keys: those of this server.
        number: the DB in which values are tried: one that no app can get into.
        limits: up to what size this server keeps values in their small shape.
        rdb: the RDB version in which this server serializes.
    """

    def __init__(self, server: Server, keys: Keys, facts: RedisFacts, number: int, limits: Limits, rdb: int) -> None:
        self.limits = limits
        self.rdb = rdb
        self.fields_expire = "hpexpireat" in facts.commands
        self.streams_count = rdb >= _COUNTING
        self._server = server
        self._key = f"__multidb__:shape:{time.monotonic_ns()}"
        self._opening: AbstractContextManager[BatchConnection] = keys.lane(number)
        self._opened = ExitStack()
        self._lane: BatchConnection | None = None

    def close(self) -> None:
        """Ends the connection."""
        self._opened.close()

    def _tell(self, commands: Sequence[Words]) -> list[Any]:
        with explained(self._server):
            if self._lane is None:
                self._lane = self._opened.enter_context(self._opening)
            return self._lane.tell(commands)

    def takes(self, payload: bytes) -> bool:
        """Whether the server takes what the other has serialized; its version is the same in all values."""
        loaded, _ = self._tell([self._restore(payload), ("DEL", self._key)])
        if not isinstance(loaded, ResponseError):
            return True
        if "DUMP payload version or checksum" in str(loaded):
            return False
        with explained(self._server):
            raise loaded

    def shaped(self, records: Iterable[Record], *, alike: bool, every: bool = False) -> Iterator[Record]:
        """The records, the values that are compared (of keys that stay) as this server would serialize them.

        Args:
            alike: whether the other serializes as this one does, and keeps values in the same shape.
            every: those of keys that expire are compared, too.
        """
        for batch in by_size(records):
            unlike = [record for record in batch if self._is_unlike(record, alike, every)]
            if not unlike:
                yield from batch
                continue
            steps = (self._restore, lambda _: ("DUMP", self._key), lambda _: ("DEL", self._key))
            answers = self._tell([step(record.payload) for record in unlike for step in steps])
            payloads = {
                record.key: self._payload(record.key, *answers[3 * at : 3 * at + 2]) for at, record in enumerate(unlike)
            }
            yield from (replace(record, payload=payloads.get(record.key, record.payload)) for record in batch)

    def _is_unlike(self, record: Record, alike: bool, every: bool) -> bool:
        if record.expiry != NEVER and not every:
            return False
        return self.limits.changes(record.payload) if alike else True

    def _restore(self, payload: bytes) -> Words:
        return ("RESTORE", self._key, _SECONDS * 1000, payload, "REPLACE")

    def _payload(self, key: bytes, loaded: Any, dumped: Any) -> bytes:
        if isinstance(loaded, ResponseError) or not isinstance(dumped, bytes):
            raise self._refused(key, loaded)
        # What was in a table there is in one piece here only after it has been serialized and taken once more.
        if rdb_version(dumped) == self.rdb and self.limits.changes(dumped):
            steps = [self._restore(dumped), ("DUMP", self._key), ("DEL", self._key)]
            _, again, _ = self._tell(steps)
            return again if isinstance(again, bytes) else dumped
        return dumped

    def made(self, key: bytes, pieces: Iterable[Sequence[Words]]) -> bytes | None:
        """What this server serializes of a value that the commands make; None where they make nothing.

        Args:
            key: its name, for errors.
            pieces: commands about the key `target`.
        """
        for piece in pieces:
            for answer in self._tell([*piece, ("EXPIRE", self._key, _SECONDS)]):
                if isinstance(answer, ResponseError):
                    self._tell([("DEL", self._key)])
                    raise self._refused(key, answer)
        dumped, _ = self._tell([("DUMP", self._key), ("DEL", self._key)])
        if not isinstance(dumped, bytes):
            return None
        return self._payload(key, b"OK", dumped)

    def clear(self) -> None:
        """Takes away what was made of a value that does not come to its end."""
        self._tell([("DEL", self._key)])

    @property
    def target(self) -> bytes:
        """The name under which values are tried."""
        return self._key.encode()

    def _refused(self, key: bytes, answer: Any) -> Exception:
        text = redact(str(answer))
        if text.startswith("OOM") and isinstance(answer, ResponseError):
            return answer
        return ArchiveError(
            f"the server does not take the value of key {shown(key)}: {text}",
            where=str(self._server),
            hint="leave it out (--pattern), or correct it at the source",
        )


def content(record: Record) -> bytes:
    """What two records of one server are compared by beside their expiry: the value without its footer, what is in a
    table sorted."""
    kind = record.payload[0]
    return in_order(kind, record.payload) if kind in _TABLES else record.payload[:-FOOTER]


def shown(key: bytes) -> str:
    """A key's name in a message."""
    return join_line([key[:_SHOWN].decode(errors=BYTES)])
