"""In which shape a server keeps a value, and which one it gives it when it is restored. Pure.

A hash, a set or a sorted set with few and short elements is kept in one piece, any other in a table. One that was large
once stays in its table; restored, it is in one piece, and DUMP then gives other bytes for it. What few and short means
is a setting of the server's (`Limits`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

__all__ = [
    "EXPIRING_FIELDS",
    "FOOTER",
    "HASH_TABLE",
    "MODULE",
    "SET_TABLE",
    "STREAMS",
    "Limits",
    "in_order",
    "vector_set",
]

FOOTER: Final = 10  # bytes at the end of what DUMP gives: the RDB version and a checksum
# RDB types, the first byte of a payload (rdb.h of Redis and Valkey).
SET_TABLE, HASH_TABLE, MODULE = 2, 4, 7
STREAMS: Final = frozenset({15, 19, 21, 26, 27})
EXPIRING_FIELDS: Final = frozenset({22, 23, 24, 25})  # hashes
_SCORES, _SCORES_AS_TEXT = 5, 3
# A module's value, and which one's: 64 bits for the name "vectorset" and version 0 of what it writes.
_VECTOR_SET: Final = bytes.fromhex("07 81 bde72da2bb1eb400")
_PROJECTED, _WITH_ATTRIBUTES = 1, 2
_END, _WHOLE, _STRING = 0, (1, 2), 5  # kinds of a module's values
_LONGEST_NUMBER: Final = 20  # characters
_NO_TEXT: Final = 253  # a score that is not a number, or not finite, from here on


@dataclass(frozen=True, slots=True)
class Limits:
    """How many elements, of how many bytes, a server keeps in one piece. The defaults are those of Redis 7.2 and of
    Valkey.

    Args:
        numbers: how many elements a set of whole numbers has at most in one piece.
        node: what one piece of a list holds at most, as ``list-max-listpack-size`` says it.
    """

    hash: tuple[int, int] = (512, 64)
    set: tuple[int, int] = (128, 64)
    sorted_set: tuple[int, int] = (128, 64)
    numbers: int = 512
    node: int = -2

    @classmethod
    def read(cls, settings: Mapping[str, str]) -> Self:
        """From the server's settings (``CONFIG GET *-max-*``); without any, those of a server that nobody has set."""

        def pair(kind: str, missing: tuple[int, int]) -> tuple[int, int]:
            names = [f"{kind}-max-{shape}" for shape in ("listpack", "ziplist")]  # the older name, before Redis 7
            entries, size = ([settings.get(f"{name}-{what}") for name in names] for what in ("entries", "value"))
            limits = [next((int(value) for value in values if value is not None), None) for values in (entries, size)]
            return missing if limits[0] is None or limits[1] is None else (limits[0], limits[1])

        if not settings:
            return cls()
        node = settings.get("list-max-listpack-size", settings.get("list-max-ziplist-size", -2))
        numbers = int(settings.get("set-max-intset-entries", 512))
        return cls(pair("hash", (512, 64)), pair("set", (0, 0)), pair("zset", (128, 64)), numbers, int(node))

    def changes(self, payload: bytes) -> bool:
        """Whether a value, as DUMP gave it, is in a table and may be in one piece once it is restored."""
        kind, body = payload[0], payload[:-FOOTER]
        if kind not in (SET_TABLE, HASH_TABLE, _SCORES, _SCORES_AS_TEXT):
            return False
        count, _, _ = _length(body, 1)
        entries, size = {SET_TABLE: self.set, HASH_TABLE: self.hash}.get(kind, self.sorted_set)
        if kind == SET_TABLE and entries < count <= self.numbers:
            entries, size = self.numbers, _LONGEST_NUMBER
        return count <= entries and all(length <= size for _, length in _elements(kind, body))

    def suffix(self, name: str) -> str:
        """What has to stand with a fingerprint of values of this kind where the server's limits are not the usual ones:
        another server keeps some of the same values in another shape."""
        usual = Limits()
        own, theirs = {
            "hash keys": (self.hash, usual.hash),
            "set keys": ((*self.set, self.numbers), (*usual.set, usual.numbers)),
            "sorted set keys": (self.sorted_set, usual.sorted_set),
            "list keys": ((self.node,), (usual.node,)),
        }.get(name, ((), ()))
        none = name == "set keys" and self.set == (0, 0) and self.numbers == usual.numbers  # before Redis 7.2
        return "" if own == theirs or none else f", limits {'/'.join(map(str, own))}"


def in_order(kind: int, payload: bytes) -> bytes:
    """The elements of a hash or set that is kept in a hash table, sorted."""
    body = payload[:-FOOTER]
    strings = (text for text, _ in _elements(kind, body))
    count, _, _ = _length(body, 1)
    if kind == SET_TABLE:
        return b"".join(sorted(next(strings) for _ in range(count)))
    return b"".join(sorted(next(strings) + next(strings) for _ in range(count)))


def vector_set(payload: bytes) -> bytes | None:
    """What a vector set of Redis 8 is, its elements sorted: how it keeps vectors, and of each element the name, the
    attributes, the vector as it is kept, and the layers that it is in. Not its links, which come back in another order.
    None where it is no vector set, or is written in a form that is not known (``VectorSetRdbSave`` of its vset.c).
    """
    if payload[:10] != _VECTOR_SET:
        return None
    try:
        values = _module_values(payload[:-FOOTER])
        head = [next(values) for _ in range(4)]  # dimensions, elements, configuration, what is there besides
        _, count, _, has = map(int.from_bytes, head)
        head += [next(values) for _ in range(2 if has & _PROJECTED else 0)]
        elements = []
        for _ in range(count):
            texts = [next(values) for _ in range(3 if has & _WITH_ATTRIBUTES else 2)]
            numbers = [next(values) for _ in range(int.from_bytes(next(values)))]
            elements.append(b"".join([*texts, *numbers[:2], numbers[-1]]))
        return b"".join([*head, *sorted(elements)]) if next(values, None) is None else None
    except (IndexError, StopIteration):
        return None


def _module_values(body: bytes) -> Iterator[bytes]:
    """The values that a module has written: whole numbers in eight bytes, strings as they are serialized."""
    at = len(_VECTOR_SET)
    while (kind := body[at]) != _END:
        if kind == _STRING:
            end, _ = _string(body, at + 1)
            yield body[at + 1 : end]
        elif kind in _WHOLE:
            number, end, _ = _length(body, at + 1)
            yield number.to_bytes(8)
        else:
            return
        at = end


def _elements(kind: int, body: bytes) -> Iterator[tuple[bytes, int]]:
    """The strings after the type and the count, as they are serialized (each begins with its own length), and how many
    bytes each really has."""
    _, at, _ = _length(body, 1)
    while at < len(body):
        end, length = _string(body, at)
        yield body[at:end], length
        at = end + (8 if kind == _SCORES else _text_score(body, end) if kind == _SCORES_AS_TEXT else 0)


def _string(body: bytes, at: int) -> tuple[int, int]:
    """Where a serialized string ends, and how many bytes it really has."""
    length, data, special = _length(body, at)
    if not special:
        return data + length, length
    if length < 3:  # an integer of 1, 2 or 4 bytes
        return data + (1 << length), _LONGEST_NUMBER
    packed, after, _ = _length(body, data)  # compressed: two lengths, then as many bytes as the first says
    length, start, _ = _length(body, after)
    return start + packed, length


def _text_score(body: bytes, at: int) -> int:
    return 1 + (body[at] if body[at] < _NO_TEXT else 0)


def _length(body: bytes, at: int) -> tuple[int, int, bool]:
    """A length of the RDB format, where what follows it begins, and whether it is a special encoding instead."""
    first = body[at]
    match first >> 6:
        case 0:
            return first & 0x3F, at + 1, False
        case 1:
            return (first & 0x3F) << 8 | body[at + 1], at + 2, False
        case 2:
            size = 8 if first == 0x81 else 4
            return int.from_bytes(body[at + 1 : at + 1 + size]), at + 1 + size, False
    return first & 0x3F, at + 1, True
