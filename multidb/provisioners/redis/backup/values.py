"""Values read by the commands of their types, as commands that make them anew on another server: for two servers of
which one does not take what the other has serialized (DUMP and RESTORE).

What a value's type has no command for is not in it: when a stream's consumers were last seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from multidb.provisioners.redis.driver.batch_connection import BatchConnection

__all__ = ["KINDS", "Words", "first_page", "making"]

Words = tuple[Any, ...]
"""One command."""

_PAGE: Final = 1_000  # elements that are asked for at a time
_NOBODY: Final = "multidb"  # a group that is gone as soon as its stream is there
_PAGES: Final[dict[bytes, tuple[Any, ...]]] = {
    b"string": ("GET",),
    b"hash": ("HSCAN", b"0", "COUNT", _PAGE),
    b"list": ("LRANGE", 0, _PAGE - 1),
    b"set": ("SSCAN", b"0", "COUNT", _PAGE),
    b"zset": ("ZRANGE", 0, _PAGE - 1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+", "COUNT", _PAGE),
}
KINDS: Final = frozenset(_PAGES)
"""What TYPE says of the values that can be made anew."""


def first_page(key: bytes, kind: bytes) -> Words:
    """The command that reads the value of this kind, or its first elements."""
    command, *rest = _PAGES[kind]
    return (command, key, *rest)


def making(
    lane: BatchConnection,
    key: bytes,
    kind: bytes,
    answer: Any,
    target: bytes,
    *,
    fields_expire: bool,
    streams_count: bool,
) -> Iterator[Sequence[Words]]:
    """The commands that make the value under another name, where there is nothing, some at a time.

    Args:
        lane: leads to the server that has the value.
        answer: that to `first_page`.
        fields_expire: whether fields of hashes may have an expiry, on both servers.
        streams_count: whether the server that takes it counts what a stream has had and what its groups have read.
    """
    match kind:
        case b"string":
            yield [("SET", target, answer)]
        case b"hash":
            yield from _hash(lane, key, answer, target, fields_expire)
        case b"set":
            for elements in _scanned(lane, "SSCAN", key, answer, 1):
                yield [("SADD", target, *(element for [element] in elements))]
        case b"list":
            for values in _ranged(lane, key, answer, kind):
                yield [("RPUSH", target, *values)]
        case b"zset":
            for values in _ranged(lane, key, answer, kind):
                scores = zip(values[1::2], values[::2], strict=True)
                yield [("ZADD", target, *(word for pair in scores for word in pair))]
        case b"stream":
            yield from _stream(lane, key, answer, target, streams_count)


def _scanned(lane: BatchConnection, command: str, key: bytes, answer: Any, width: int) -> Iterator[list[list[bytes]]]:
    """The elements in pages; those of a value that comes in one page in order, so that it is made alike each time."""
    whole = answer[0] == b"0"
    while True:
        cursor, words = answer
        elements = [words[at : at + width] for at in range(0, len(words), width)]
        if elements:
            yield sorted(elements) if whole else elements
        if cursor == b"0":
            return
        answer = lane.ask(command, key, cursor, "COUNT", _PAGE)


def _ranged(lane: BatchConnection, key: bytes, answer: Any, kind: bytes) -> Iterator[list[bytes]]:
    command, *rest = _PAGES[kind][0], *_PAGES[kind][3:]
    start, width = 0, 2 if rest else 1
    while answer:
        yield answer
        if len(answer) < _PAGE * width:
            return
        start += _PAGE
        answer = lane.ask(command, key, start, start + _PAGE - 1, *rest)


def _hash(
    lane: BatchConnection, key: bytes, answer: Any, target: bytes, fields_expire: bool
) -> Iterator[Sequence[Words]]:
    for pairs in _scanned(lane, "HSCAN", key, answer, 2):
        commands: list[Words] = [("HSET", target, *(word for pair in pairs for word in pair))]
        if fields_expire:
            fields = [field for field, _ in pairs]
            moments = lane.ask("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
            commands += [
                ("HPEXPIREAT", target, moment, "FIELDS", 1, field)
                for field, moment in zip(fields, moments or (), strict=False)
                if moment > 0
            ]
        yield commands


def _stream(
    lane: BatchConnection, key: bytes, answer: Any, target: bytes, streams_count: bool
) -> Iterator[Sequence[Words]]:
    described = _named(lane.ask("XINFO", "STREAM", key))
    groups = [_named(group) for group in lane.ask("XINFO", "GROUPS", key)]
    gone = _gone(lane, key, groups)
    # Made so, it has had no entry: one that is added and deleted leaves its number behind for good.
    yield [("XGROUP", "CREATE", target, _NOBODY, "$", "MKSTREAM"), ("XGROUP", "DESTROY", target, _NOBODY)]
    first, coming, kept = None, deque(gone), 0
    while answer:
        first = first or _order(answer[0][0])
        commands: list[Words] = []
        for entry, words in answer:
            while coming and _order(coming[0]) < _order(entry):
                commands.append(_placeholder(target, coming.popleft()))
            commands += [("XADD", target, entry, *words)] if words else []
        kept += len(answer)
        yield commands
        last = answer[-1][0]
        answer = lane.ask("XRANGE", key, b"(" + last, "+", "COUNT", _PAGE) if len(answer) == _PAGE else []
    yield from _batched([_placeholder(target, entry) for entry in coming])
    history: Words = ()
    if streams_count and b"entries-added" in described:
        history = ("ENTRIESADDED", described[b"entries-added"], "MAXDELETEDID", described[b"max-deleted-entry-id"])
    ending = ("XSETID", target, described[b"last-generated-id"], *history)
    yield [ending]
    for group in groups:
        yield from _group(lane, key, target, group, streams_count)
    if gone:
        # Those before the first entry have mostly been trimmed, which moves no max-deleted-entry-id as XDEL does.
        within = [entry for entry in gone if first is not None and _order(entry) > first]
        yield [("XTRIM", target, "MAXLEN", kept + len(within))]
        yield from _batched([("XDEL", target, entry) for entry in within])
        yield [ending]


def _gone(lane: BatchConnection, key: bytes, groups: Sequence[Mapping[bytes, Any]]) -> list[bytes]:
    """The entries that are pending and not there any more, in their order. No server lets one be claimed that is not
    there, so they have to be there until then."""
    gone: set[bytes] = set()
    for group in groups:
        for pending, _ in _pending(lane, key, group[b"name"]):
            entries = [entry for entry, *_ in pending]
            answers = lane.tell([("XRANGE", key, entry, entry) for entry in entries])
            gone.update(entry for entry, there in zip(entries, answers, strict=True) if not there)
    return sorted(gone, key=_order)


def _placeholder(target: bytes, entry: bytes) -> Words:
    return ("XADD", target, entry, "", "")


def _order(entry: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry.split(b"-")))


def _batched(commands: Sequence[Words]) -> Iterator[Sequence[Words]]:
    for at in range(0, len(commands), _PAGE):
        yield commands[at : at + _PAGE]


def _group(
    lane: BatchConnection, key: bytes, target: bytes, group: dict[bytes, Any], streams_count: bool
) -> Iterator[Sequence[Words]]:
    name, read = group[b"name"], group.get(b"entries-read") if streams_count else None
    counted = ("ENTRIESREAD", read) if read is not None else ()
    consumers = [_named(consumer)[b"name"] for consumer in lane.ask("XINFO", "CONSUMERS", key, name)]
    yield [
        ("XGROUP", "CREATE", target, name, group[b"last-delivered-id"], *counted),
        *(("XGROUP", "CREATECONSUMER", target, name, consumer) for consumer in consumers),
    ]
    for pending, now in _pending(lane, key, name):
        for entry, consumer, idle, deliveries in pending:
            claim = ("XCLAIM", target, name, consumer, 0, entry)
            yield [(*claim, "TIME", now - idle, "RETRYCOUNT", deliveries, "FORCE", "JUSTID")]


def _pending(lane: BatchConnection, key: bytes, group: bytes) -> Iterator[tuple[Sequence[Any], int]]:
    """What is pending in a group, in pages, each with the server's time in milliseconds."""
    start = b"-"
    while True:
        pending, clock = lane.tell([("XPENDING", key, group, start, "+", _PAGE), ("TIME",)])
        if isinstance(pending, ResponseError):
            raise pending
        if not pending:
            return
        seconds, micros = map(int, clock)
        yield pending, seconds * 1000 + micros // 1000
        start = b"(" + pending[-1][0]


def _named(words: Sequence[Any]) -> dict[bytes, Any]:
    if isinstance(words, ResponseError):
        raise words
    return dict(zip(words[::2], words[1::2], strict=True))
