"""Keys from a source into a place: a copy from one checkpoint to the next, and what makes the place like the source
where it has been copied before.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from multidb.model import Checkpoint, Progress
from multidb.provisioners.redis.backup.intake import content
from multidb.provisioners.redis.backup.keys import Keys, by_size, names
from multidb.provisioners.redis.backup.keys_file import Record, rdb_version
from multidb.provisioners.redis.backup.places import Keyspace
from multidb.provisioners.redis.backup.source import RedisSource
from multidb.provisioners.redis.observe.tally import Seen, Tally

__all__ = ["KEYS", "Look", "Transfer", "batched", "same"]

Look = Callable[[Sequence[Record], Sequence[Record]], None]

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

    def even(self, look: Look = lambda _, __: None) -> int:
        """Makes the place like the source: keys that differ are loaded again, keys that are gone there are removed.

        Returns:
            how many there were.
        """
        seen = Seen()
        keys = (key for _, page in self._source.pages() for key in page if not seen.before(key))
        return self.bring_over(keys, look) + self.remove_gone()

    def bring_over(self, keys: Iterable[bytes], look: Look) -> int:
        """Loads those of the keys, named as they are there, that are not the same here. What is gone there is left.

        Args:
            look: is given what was compared, part by part, and what of it was loaded.

        Returns:
            how many were loaded.
        """
        changed = 0
        with self._keys.lane(self._place.number) as lane:
            for batch in by_size(self._source.shaped(self._source.records(keys), every=True)):
                there = self._keys.of(lane, self._place.prefix, [record.key for record in batch])
                differing = [record for record in batch if not same(record, there.get(record.key))]
                if differing:
                    self._load(differing)
                changed += len(differing)
                look(batch, differing)
                self._progress(self._place.app.id, "comparing keys")
        return changed

    def remove_gone(self) -> int:
        """Removes what is here and not there. Gives how many that were."""
        removed = 0
        begin = self._place.prefix.encode()
        with self._keys.lane(self._place.number) as lane:
            for batch in batched(names(lane, self._place.prefix)):
                own = [key.removeprefix(begin) for key in batch]
                gone = [key for key, there in zip(own, self._source.present(own), strict=True) if not there]
                self.remove(gone)
                removed += len(gone)
        return removed

    def remove(self, keys: Sequence[bytes]) -> None:
        """Removes keys of the place, named without its prefix. Not there is fine."""
        begin = self._place.prefix.encode()
        if keys:
            with self._keys.lane(self._place.number) as lane:
                lane.ask("UNLINK", *(begin + key for key in keys))

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


def same(record: Record, there: Record | None) -> bool:
    """Whether a key has the same value and expiry as another of the same server."""
    return (
        there is not None
        and there.expiry == record.expiry
        and rdb_version(there.payload) == rdb_version(record.payload)
        and content(there) == content(record)
    )


def batched(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The names in batches that are asked about together."""
    iterator = iter(keys)
    while batch := list(itertools.islice(iterator, _AT_ONCE)):
        yield batch
