"""A place that is made what a server elsewhere has, while that is written: what differs is loaded again, what is gone
there is removed, until few keys are left; the last of them while nobody writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.errors import ServerSlow
from multidb.model import Progress, counted
from multidb.provisioners.redis.backup.changes import ChangedKeys
from multidb.provisioners.redis.backup.encodings import EXPIRING_FIELDS, MODULE, STREAMS
from multidb.provisioners.redis.backup.followed import FollowedRedis
from multidb.provisioners.redis.backup.intake import shown
from multidb.provisioners.redis.backup.keys import Keys
from multidb.provisioners.redis.backup.keys_file import NEVER, Record
from multidb.provisioners.redis.backup.places import Keyspace
from multidb.provisioners.redis.backup.transfer import Transfer, batched, same

__all__ = ["Following"]

_FEW: Final = 200  # keys for which it is not worth to let writers go on
_ROUNDS: Final = 20


class Following:
    """One place and the source that it follows, both open, for as long as that is. Raises the drivers' errors of the
    place's server.

    Args:
        keys: those of the place's server.
    """

    def __init__(self, keys: Keys, place: Keyspace, source: FollowedRedis, progress: Progress) -> None:
        self.place = place
        self.source = source
        self._keys = keys
        self._progress = progress
        self._transfer = Transfer(keys, place, source, self._collecting)
        self._copied = False
        self._compared = False
        self._streams: set[bytes] = set()  # by their names there: what happens to their groups is not told
        self._unlike: set[bytes] = set()  # by their names in the place

    def copy(self) -> None:
        """Copies all keys into the empty place. What is changed meanwhile is `catch_up`'s."""
        self.source.begin_telling()
        self._transfer.run(_Unkept())
        self._copied = True

    def catch_up(self) -> None:
        """Brings the place near to the source: all keys are compared, unless they were just copied; then those that
        were changed meanwhile are, until they are few or do not become fewer."""
        self.source.begin_telling()
        if not (self._copied or self._compared):
            self._compare()
        before = 0
        for _ in range(_ROUNDS):
            count = self._take_over(self.source.changed())
            if count <= _FEW or 0 < before <= count:
                return
            before = count

    def drain(self) -> None:
        """Takes over what is left, now that nobody writes there. What is told to nobody is compared again: streams; and
        everything, where the source does not say whether DBs were exchanged.

        Raises:
            ServerSlow: somebody does write.
        """
        self.source.begin_telling()
        if not self._compared or not self.source.tells_all:
            self._compare()
        for _ in range(_ROUNDS):
            if not self._take_over(self.source.changed()):
                self._even(sorted(self._streams))
                return
        raise ServerSlow(
            "it is written, although its writers were stopped",
            where=f"source {self.source.name}",
            hint="see who writes there, then run the command again",
        )

    def unlike(self) -> Sequence[str]:
        """The keys that are not as they are there, in words."""
        return [f"key {shown(key)}: another content, or missing" for key in sorted(self._unlike)]

    def _compare(self) -> None:
        self._streams.clear()
        self._unlike.clear()
        self._transfer.even(self._look)
        self._compared = True

    def _take_over(self, changed: ChangedKeys) -> int:
        """Gives how many keys that was; all, where any may have changed."""
        if changed.anything:
            self._compare()
            return self.source.total or 1
        removed = self._transfer.remove_gone() if changed.emptied else 0
        if changed.keys:
            self._progress(self.place.app.id, f"{counted(len(changed.keys), 'key')} changed meanwhile")
        self._even(list(changed.keys))
        return len(changed.keys) + removed

    def _even(self, keys: Sequence[bytes]) -> None:
        """Makes these keys, named as they are there, what they are there."""
        for batch in batched(keys):
            present: set[bytes] = set()

            def look(records: Sequence[Record], loaded: Sequence[Record], present: set[bytes] = present) -> None:
                present.update(record.key for record in records)
                self._look(records, loaded)

            self._transfer.bring_over(batch, look)
            gone = [key for key in map(self.source.own_name, batch) if key not in present]
            self._transfer.remove(gone)
            self._unlike.difference_update(gone)

    def _look(self, records: Sequence[Record], loaded: Sequence[Record]) -> None:
        """What was compared, and which of it was loaded since: whether that has become what it should be."""
        prefix = self.source.prefix
        self._streams.update(prefix + record.key for record in records if record.payload[0] in STREAMS)
        self._unlike.difference_update(record.key for record in records)
        if loaded:
            with self._keys.lane(self.place.number) as lane:
                there = self._keys.of(lane, self.place.prefix, [record.key for record in loaded])
                seconds, micros = lane.ask("TIME")
            now = int(seconds) * 1000 + int(micros) // 1000
            self._unlike.update(record.key for record in loaded if not _has_come(record, there.get(record.key), now))
        self.source.collect()

    def _collecting(self, subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        self.source.collect()
        self._progress(subject, message, done, total)


class _Unkept:
    """A checkpoint of a copy that begins anew when it is killed."""

    def done(self) -> frozenset[str]:
        return frozenset()

    def add(self, part: str) -> None:
        """Nobody asks for it."""


def _has_come(record: Record, there: Record | None, now: int) -> bool:
    """Whether a key that was loaded is what it was at the source, or has expired since.

    Args:
        now: milliseconds, of the place's server.
    """
    if there is None:
        return record.expiry != NEVER and record.expiry <= now
    if record.payload[0] == MODULE or record.payload[0] in EXPIRING_FIELDS:  # these come in another order, or are less
        return there.payload[0] == record.payload[0] and there.expiry == record.expiry
    return same(record, there)
