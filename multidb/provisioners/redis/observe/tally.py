"""What a place holds, as counts and fingerprints that a restore is compared by. Pure.

Counted are the keys that stay; those that expire, or have hash fields that do, may be gone when a set is restored, so
they are only numbered beside them. A fingerprint is a sum of hashes, so the order of the keys does not matter.

The hash of a key is made of its name and of what DUMP gave, without the footer (RDB version and checksum), which spares
asking for every value a second time. Elements of hashes and sets that the server keeps in a hash table come in any
order and are sorted first. Other encodings keep their order over a restore; what changes its encoding by it is measured
in the one that it then has (`RedisArchive`), and where the server has not told that one, values of its kind are counted
only. Strings are serialized alike since Redis 4; the rest is not alike in all
versions, nor on servers with other limits (`Limits`), so its fingerprints have both in their names, and sets of
different versions share only the strings'. Modules write their values as they like; of theirs, only the names of the
keys are compared, and of vector sets, which come back in another order, the elements.
"""

from __future__ import annotations

from array import array
from collections import Counter
from hashlib import blake2b
from typing import Final

from multidb.model import Measures
from multidb.provisioners.redis.backup.encodings import (
    EXPIRING_FIELDS,
    FOOTER,
    HASH_TABLE,
    MODULE,
    SET_TABLE,
    STREAMS,
    Limits,
    in_order,
    vector_set,
)
from multidb.provisioners.redis.backup.keys_file import NEVER, Record, rdb_version

__all__ = ["Seen", "Tally"]

# RDB types, the first byte of a payload (rdb.h of Redis and Valkey).
_NAMES: Final[dict[int, str]] = {
    **dict.fromkeys((0,), "string keys"),
    **dict.fromkeys((1, 10, 14, 18), "list keys"),
    **dict.fromkeys((2, 11, 20), "set keys"),
    **dict.fromkeys((3, 5, 12, 17), "sorted set keys"),
    **dict.fromkeys((4, 9, 13, 16, *EXPIRING_FIELDS), "hash keys"),
    **dict.fromkeys(STREAMS, "stream keys"),
}
_TABLES: Final = frozenset({SET_TABLE, HASH_TABLE})
_MODULE_ID = 10  # bytes of a payload that say which module's it is
_MODULUS = 1 << 128


class Tally:
    """Counts what goes by.

    Args:
        limits: those of the server whose values they are.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self.expiring = 0
        self._rdb = 0
        self._counts: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._unmeasured: set[str] = set()

    def add(self, record: Record) -> None:
        """One key. The same key twice would be counted twice."""
        key, payload = record.key, record.payload
        kind = payload[0]
        if record.expiry != NEVER or kind in EXPIRING_FIELDS:
            self.expiring += 1
            return
        if not self._rdb:
            self._rdb = rdb_version(payload)
        name = _NAMES.get(kind, "other keys")
        body = in_order(kind, payload) if kind in _TABLES else payload[:-FOOTER]
        if kind == MODULE:
            name, body = "names of other keys", payload[:_MODULE_ID]
            self._counts["other keys"] += 1
            if (elements := vector_set(payload)) is not None:
                self._sum("vector sets", key, elements)
        else:
            self._counts[name] += 1
        self._sum(name, key, body)
        if not record.measurable:
            self._unmeasured.add(name)

    def _sum(self, name: str, key: bytes, body: bytes) -> None:
        digest = blake2b(b"%d:%b%b" % (len(key), key, body), digest_size=16).digest()
        self._sums[name] += int.from_bytes(digest)

    def measures(self) -> Measures:
        """What was counted."""
        sums = {
            name if name == "string keys" else f"{name}, RDB {self._rdb}{self._limits.suffix(name)}": (
                f"{total % _MODULUS:032x}"
            )
            for name, total in sorted(self._sums.items())
            if name not in self._unmeasured
        }
        return Measures(dict(sorted(self._counts.items())), sums)


class Seen:
    """Which keys have gone by: SCAN may name one twice while the server makes its table larger or smaller.

    Only hashes are kept, 8 bytes each in a table at most half full. Of a million keys two have the same hash in one of
    a hundred million backups.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._used = 0

    def before(self, key: bytes) -> bool:
        """Whether the key has been asked about before."""
        if self._used * 2 >= len(self._slots):
            self._grow()
        number = hash(key) & 0xFFFF_FFFF_FFFF_FFFF or 1
        return not self._put(number)

    def _put(self, number: int) -> bool:
        slots, mask = self._slots, len(self._slots) - 1
        place = number & mask
        while (there := slots[place]) != 0:
            if there == number:
                return False
            place = (place + 1) & mask
        slots[place] = number
        self._used += 1
        return True

    def _grow(self) -> None:
        old, self._used = self._slots, 0
        self._slots = array("Q", bytes(8 * 2 * len(old)))
        for number in old:
            if number:
                self._put(number)
