"""Keys from a source into a place: a copy from one checkpoint to the next, and what makes the place like the source
where it has been copied before.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from multidb.model import Checkpoint, Progress
from multidb.provisioners.redis.backup.intake import content
from multidb.provisioners.redis.backup.keys import Keys, by_size, names
from multidb.provisioners.redis.backup.keys_file import Record, rdb_version
from multidb.provisioners.redis.backup.places import Keyspace
from multidb.provisioners.redis.backup.source import RedisSource
from multidb.provisioners.redis.observe.tally import Seen, Tally

__all__ = ["KEYS", "Transfer"]

KEYS: Final = 20_000  # between two checkpoints
_BYTES: Final = 8 << 20  # of names between two checkpoints
_WHOLE: Final = "whole"
_PART: Final = re.compile(r"keys (\d+), next (\d+), run (\S*)")
_AT_ONCE: Final = 1_000  # names that are asked about in one batch


class Transfer:
    """One source on its way into one place. Raises the drivers' errors of the place's server.

    Args:
        keys: those of the place's server.
    """

    def __init__(self, keys: Keys, place: Keyspace, source: RedisSource, progress: Progress) -> None:
        self._keys = keys
        self._place = place
        self._source = source
        self._progress = progress
        self._copied = 0
        self._total = source.total

    def run(self, done: Checkpoint) -> None:
        """Copies what is not done; then, where an earlier run had begun, makes the place like the source."""
        before = done.done()
        if _WHOLE not in before:
            cursor = self._resumed(before)
            tally = Tally(self._source.limits)
            for coming, batch in self._parts(cursor):
                self._load(self._tallied(batch, tally))
                self._copied += len(batch)
                if coming != b"0":
                    done.add(f"keys {self._copied}, next {coming.decode()}, run {self._source.facts.run}")
            done.add(_WHOLE)
            if not before:
                self._source.keep(tally.measures())
        if before:
            self.even()

    def even(self) -> int:
        """Makes the place like the source: keys that differ are loaded again, keys that are gone there are removed.

        Returns:
            how many there were.
        """
        changed, seen = 0, Seen()
        keys = (key for _, page in self._source.pages() for key in page if not seen.before(key))
        with self._keys.lane(self._place.number) as lane:
            for batch in by_size(self._source.shaped(self._source.records(keys))):
                there = self._keys.of(lane, self._place.prefix, [record.key for record in batch])
                differing = [record for record in batch if not _same(record, there.get(record.key))]
                self._load(differing)
                changed += len(differing)
                self._progress(self._place.app.id, "comparing keys")
        return changed + self._remove_gone()

    def _remove_gone(self) -> int:
        removed = 0
        begin = self._place.prefix.encode()
        with self._keys.lane(self._place.number) as lane, self._keys.lane(self._place.number) as deleting:
            for batch in _batched(names(lane, self._place.prefix)):
                present = self._source.present([key.removeprefix(begin) for key in batch])
                gone = [key for key, there in zip(batch, present, strict=True) if not there]
                if gone:
                    deleting.ask("UNLINK", *gone)
                removed += len(gone)
        return removed

    def _resumed(self, parts: Iterable[str]) -> bytes:
        """The cursor of the last checkpoint, where the source's server is still the one that gave it."""
        reached = [match for part in parts if (match := _PART.fullmatch(part)) is not None]
        last = max(reached, key=lambda match: int(match[1]), default=None)
        if last is None or not last[3] or last[3] != self._source.facts.run:
            return b"0"
        self._copied = int(last[1])
        return last[2].encode()

    def _parts(self, cursor: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
        """The cursor after each part, and its keys, each key once."""
        seen, size = Seen(), 0
        batch: list[bytes] = []
        for coming, page in self._source.pages(cursor):
            new = [key for key in page if not seen.before(key)]
            batch += new
            size += sum(map(len, new))
            if len(batch) >= KEYS or size >= _BYTES or coming == b"0":
                yield coming, batch
                batch, size = [], 0

    def _tallied(self, keys: Sequence[bytes], tally: Tally) -> Iterator[Record]:
        for record in self._source.shaped(self._source.records(keys)):
            tally.add(record)
            yield record

    def _load(self, records: Iterable[Record]) -> None:
        place, before = (self._place.number, self._place.prefix), self._copied

        def progress(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
            self._progress(subject, message, None if done is None else before + done, total)

        self._keys.load(
            place, self._place.app.id, records, progress, maker=self._source.name, total=self._total or None
        )


def _same(record: Record, there: Record | None) -> bool:
    return (
        there is not None
        and there.expiry == record.expiry
        and rdb_version(there.payload) == rdb_version(record.payload)
        and content(there) == content(record)
    )


def _batched(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(keys)
    while batch := list(itertools.islice(iterator, _AT_ONCE)):
        yield batch
