"""The file that holds one app's graph, and the digests by which two graphs are compared.

``graph.ndjson``, version 1: one JSON object on each line, in UTF-8, values as in `values`. JSON lines and no binary
format, since any tool reads them by hand, a broken line spoils no other, and zstd makes up for the size.

    {"format": "multidb graph", "version": 1}                                    the first line
    {"node": 7, "labels": ["Person"], "properties": {"name": "Ada"}}             every node, before any relationship
    {"relationship": "KNOWS", "from": 7, "to": 9, "properties": {}}
    {"constraint": "person_name", "type": "UNIQUENESS", "on": [...], "create": "CREATE CONSTRAINT ..."}
    {"index": "person_age", "type": "RANGE", "on": [...], "create": "CREATE INDEX ..."}
    {"index": "text", "type": "RANGE", "on": [...], "create": "CREATE INDEX ...", "state": "FAILED"}
    {"end": {"nodes": 2, "relationships": 1, "constraints": 1, "indexes": 1}}    the last line

The numbers of nodes hold only inside of the file. With ``isolation: label`` the app's own label is left out, and so are
constraints and indexes, which are the shared database's.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final, Self

from multidb.errors import ArchiveError
from multidb.model import Measures

__all__ = ["FAILED", "FILE", "FORMAT", "HEAD", "Line", "Numbers", "Tally", "read", "write"]

FILE: Final = "graph.ndjson"
FORMAT: Final = "multidb graph 1"
FAILED: Final = "FAILED"
"""The state of an index that could not be built on the data that there are, such as texts too long for it."""

Line = Mapping[str, Any]
"""One line of the file, as JSON values."""

HEAD: Final[Line] = {"format": "multidb graph", "version": 1}
_PLURALS: Final = {
    "node": "nodes",
    "relationship": "relationships",
    "constraint": "constraints",
    "index": "indexes",
}
_SHAPES: Final[Mapping[str, frozenset[str]]] = {
    "format": frozenset({"format", "version"}),
    "node": frozenset({"node", "labels", "properties"}),
    "relationship": frozenset({"relationship", "from", "to", "properties"}),
    "constraint": frozenset({"constraint", "type", "on", "create"}),
    "index": frozenset({"index", "type", "on", "create"}),
    "failed": frozenset({"index", "type", "on", "create", "state"}),
    "end": frozenset({"end"}),
}
_CHUNK: Final = 1 << 20
_LONGEST: Final = 1 << 30  # bytes of a line: Neo4j's own limit of a value, with room for what JSON adds
_DIGEST_BYTES: Final = 16
_NODES: Final = 1 << 41  # eight bytes each are the largest file that ext4 takes
_NUMBER: Final = struct.Struct("<q")
# Made once: `json.dumps` makes one for every call.
_text: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_sorted_text: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode


class Numbers:
    """A number above zero for each node, by the node's own number, in a file without a name: a million take 8 MB of the
    disk and nothing of our memory. Use it as a context manager."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="multidb-")  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def __setitem__(self, node: int, number: int) -> None:
        os.pwrite(self._file.fileno(), _NUMBER.pack(number), node * _NUMBER.size)

    def __getitem__(self, node: int) -> int:
        """0 for a node that has none."""
        content = os.pread(self._file.fileno(), _NUMBER.size, node * _NUMBER.size)
        return int(_NUMBER.unpack(content)[0]) if len(content) == _NUMBER.size else 0


class Tally:
    """Counts lines, and makes digests of them that depend neither on their order nor on the numbers of nodes.

    The digest of a label is the sum of those of its nodes; that of a type, of its relationships, each of which is made
    from its own content and from that of its two ends.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._nodes = numbers
        self._counts: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def add(self, line: Line) -> bool:
        """Takes a line into account. False for a relationship one of whose ends is not there: it counts for nothing."""
        if "node" in line:
            digest = _digest([line["labels"], line["properties"]])
            self._nodes[line["node"]] = (digest >> 65) | 1
            self._count(["nodes", *(f"label {label}" for label in line["labels"])], digest)
            if not line["labels"]:
                self._count(["nodes without label"], digest)
        elif "relationship" in line:
            start, end = self._nodes[line["from"]], self._nodes[line["to"]]
            if not (start and end):
                return False
            digest = _digest([line["relationship"], start, end, line["properties"]])
            self._count(["relationships", f"type {line['relationship']}"], digest)
        else:
            kind = _kind(line)
            self._count([_PLURALS[kind]], _digest([line[kind], line["type"], line["on"]]))
        return True

    def measures(self) -> Measures:
        """What was counted so far."""
        sums = {
            name: (total % (1 << 8 * _DIGEST_BYTES)).to_bytes(_DIGEST_BYTES).hex() for name, total in self._sums.items()
        }
        return Measures({**dict.fromkeys(_PLURALS.values(), 0), **self._counts}, sums)

    def end(self) -> Line:
        """The last line of a file that holds what was counted."""
        return {"end": {kind: self._counts[kind] for kind in _PLURALS.values()}}

    def _count(self, names: Iterable[str], digest: int) -> None:
        for name in names:
            self._counts[name] += 1
            self._sums[name] += digest


def write(stream: BinaryIO, line: Line) -> None:
    """Writes one line."""
    stream.write(_text(line).encode() + b"\n")


def read(stream: BinaryIO, where: str) -> Iterator[Line]:
    """The lines between the first and the last, checked against what these two say.

    Raises:
        ArchiveError: the file is cut off, damaged, or of another format.
    """
    lines = _parsed(stream, where)
    if next(lines, None) != HEAD:
        raise ArchiveError(f"{FILE} is not of the format {FORMAT}", where=where)
    counts: Counter[str] = Counter()
    for line in lines:
        if "end" in line:
            if line["end"] != {kind: counts[kind] for kind in _PLURALS.values()} or next(lines, None) is not None:
                raise ArchiveError(f"{FILE} holds something else than its last line says", where=where)
            return
        counts[_PLURALS[_kind(line)]] += 1
        yield line
    raise ArchiveError(f"{FILE} is cut off", where=where)


def _kind(line: Line) -> str:
    return next(kind for kind in _PLURALS if kind in line)


def _parsed(stream: BinaryIO, where: str) -> Iterator[Line]:
    try:
        for text in _split(stream):
            line = json.loads(text)
            if not isinstance(line, dict) or line.keys() not in _SHAPES.values() or not _is_sound(line):
                raise ValueError
            yield line
    except (ValueError, RecursionError):
        raise ArchiveError(f"{FILE} is damaged, or cut off", where=where) from None


def _is_sound(line: Line) -> bool:
    """Whether everything in it is of its type: a set may come from anywhere."""
    if "node" in line:
        labels = line["labels"]
        return (
            _is_number(line["node"])
            and isinstance(labels, list)
            and all(isinstance(label, str) and label for label in labels)
            and isinstance(line["properties"], dict)
        )
    if "relationship" in line:
        ends = _is_number(line["from"]) and _is_number(line["to"])
        return ends and isinstance(line["relationship"], str) and isinstance(line["properties"], dict)
    if "create" in line:
        texts = (line[_kind(line)], line["type"], line["create"])
        sound = all(isinstance(text, str) for text in texts) and isinstance(line["on"], list)
        return sound and line.get("state", FAILED) == FAILED
    return True  # the first and the last, which are compared as they are


def _is_number(value: object) -> bool:
    """Of a node, for which `Numbers` has a place."""
    return type(value) is int and 0 <= value < _NODES


def _split(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > _LONGEST:
            break
    if rest:
        raise ValueError


def _digest(content: object) -> int:
    return int.from_bytes(hashlib.blake2b(_sorted_text(content).encode(), digest_size=_DIGEST_BYTES).digest())
