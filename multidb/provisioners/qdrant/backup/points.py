"""The points of a collection on their way: read page by page, written as lines of JSON, reduced to fingerprints."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from array import array
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import hypot, isclose, nan
from typing import Any, BinaryIO, Final

from multidb.errors import ArchiveError
from multidb.model import Measures, Server
from multidb.provisioners.qdrant.driver.transport import AnswerTooLarge, Transport, expect
from multidb.provisioners.qdrant.provision.options import TENANT_FIELD
from multidb.provisioners.qdrant.provision.statements import Call, path_of

__all__ = [
    "LARGEST_ANSWER",
    "Fingerprint",
    "Page",
    "Point",
    "are_alike",
    "cosines",
    "digests",
    "joined",
    "page_size",
    "pages",
    "read_lines",
    "vectors_of",
    "with_tenant",
    "write_lines",
]

Point = Mapping[str, Any]

_COMPONENTS: Final = 150_000  # of vectors in one page: 2 MB as JSON, three times that as Python's objects
_MOST: Final = 1000  # points in one page
_MULTI: Final = 32  # vectors that a multivector is reckoned with
_WORK_SECONDS: Final = 300.0
_TIMEOUT: Final = 120  # seconds to wait for a collection that limits its reads to so many a minute
_MODULUS: Final = 1 << 128
_CLOSE: Final = 1e-5  # more than float32 loses of a component of a vector that is one long
LARGEST_ANSWER: Final = 1 << 27  # bytes of one answer, or of one line: Qdrant itself takes 32 MB in one request


def page_size(details: Mapping[str, Any]) -> int:
    """How many points of a collection to handle at once, by the size of its vectors and its own limit."""
    config = details["config"]
    vectors = config["params"].get("vectors") or {}
    dense = [vectors] if isinstance(vectors.get("size"), int) else list(vectors.values())
    components = sum(int(vector["size"]) * (_MULTI if vector.get("multivector_config") else 1) for vector in dense)
    limit = (config.get("strict_mode_config") or {}).get("max_query_limit") or _MOST
    return max(1, min(_MOST, int(limit), _COMPONENTS // max(components, 1)))


@dataclass(frozen=True, slots=True)
class Page:
    """Some points, and where the next ones begin; None: these are the last."""

    points: Sequence[Point]
    following: Any


def pages(
    server: Server, transport: Transport, collection: str, size: int, offset: Any = None
) -> Generator[Page, None, None]:
    """All points (from `offset` on), `size` at a time, or fewer where they have more payload than we take at once. The
    next page is fetched from a server while the last one is looked at.

    Raises:
        ArchiveError: a single point is too large.
    """
    target, limit = f"{path_of(collection)}/points/scroll", size

    def fetch(offset: Any) -> Page:
        nonlocal limit
        while True:
            body = {"limit": limit, "with_payload": True, "with_vector": True} | ({"offset": offset} if offset else {})
            try:
                page = _patient(server, transport, Call("POST", target, body))
            except AnswerTooLarge:
                if limit == 1:
                    raise _too_large(server, collection, offset) from None
                limit = max(1, limit // 8)
            else:
                limit = min(size, limit * 2)
                return Page(page["points"], page["next_page_offset"])

    if not transport.several:
        page = fetch(offset)
        while True:
            yield page
            if page.following is None:
                return
            page = fetch(page.following)
    with ThreadPoolExecutor(1, thread_name_prefix="qdrant") as ahead:
        page = fetch(offset)
        while page.following is not None:
            coming = ahead.submit(fetch, page.following)
            yield page
            page = coming.result()
        yield page


def _too_large(server: Server, collection: str, offset: Any) -> ArchiveError:
    which = f"point {offset}" if offset else "the first point"
    return ArchiveError(
        f"{which} of {collection} has more than {LARGEST_ANSWER >> 20} MB",
        where=str(server),
        hint="make its payload smaller, then run the command again",
    )


def _patient(server: Server, transport: Transport, call: Call) -> Mapping[str, Any]:
    deadline = time.monotonic() + _TIMEOUT
    while True:
        reply = transport.send(call, seconds=_WORK_SECONDS, most=LARGEST_ANSWER)
        if reply.status != 429 or time.monotonic() > deadline:
            return dict(expect(server, reply).result)
        time.sleep(1)


def with_tenant(point: Point, old: str, new: str) -> Point:
    """The point, as another tenant's if it is `old`'s; one that is several tenants' has a list of them."""
    payload = point.get("payload") or {}
    tenant = payload.get(TENANT_FIELD)
    if tenant == old:
        return {**point, "payload": {**payload, TENANT_FIELD: new}}
    if isinstance(tenant, list) and old in tenant:
        tenants = [new if item == old else item for item in tenant]
        return {**point, "payload": {**payload, TENANT_FIELD: tenants}}
    return point


def write_lines(out: BinaryIO, points: Iterable[Point]) -> None:
    """One point a line, as Qdrant's own API takes it: ``{"id": .., "payload": .., "vector": ..}``.

    Raises:
        ArchiveError: a vector has a component that is no number, which no server takes back.
    """
    for point in points:
        if not _is_whole(vectors_of(point)):
            raise ArchiveError(
                f"the vector of point {point['id']} has a component that is no number, and JSON cannot hold it",
                hint="correct the point, or use servers.qdrant.backup: snapshot",
            )
        line = {"id": point["id"], "payload": point.get("payload") or {}, "vector": vectors_of(point)}
        out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def read_lines(source: BinaryIO, name: str, size: int) -> Iterator[list[Point]]:
    """What `write_lines` wrote, `size` points at a time.

    Raises:
        ArchiveError: a line is no point.
    """
    batch: list[Point] = []
    for number, line in enumerate(_lines(source), 1):
        try:
            point = json.loads(line)
            batch.append({"id": point["id"], "payload": point["payload"], "vector": point["vector"]})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ArchiveError(f"line {number} of {name} is no point", hint="restore from another set") from None
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(source: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := source.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LARGEST_ANSWER:
            break
    if rest:
        yield rest


class Fingerprint:
    """A digest of points that does not depend on their order.

    Ids and payloads are apart from vectors, since local mode makes vectors of cosine distance one long each time they
    are written, which changes their last bits. The app's own tenant counts as the same for every app, so that a copy
    for another app has the same digest.

    Args:
        tenant: the `tenant_id` of the app whose points these are.
    """

    def __init__(self, tenant: str) -> None:
        self.count = 0
        self._tenant = tenant
        self._points = 0
        self._vectors = 0

    def add(self, points: Iterable[Point]) -> None:
        """Adds points to both digests."""
        for point in points:
            self.count += 1
            content, vectors = digests(point, self._tenant)
            self._points += content
            self._vectors += vectors

    def measures(self, kind: str, details: Mapping[str, Any], *, local: bool) -> Measures:
        """Under the names of a type of content.

        Args:
            details: what is said of the collection.
            local: by local mode, whose vectors of cosine distance are left out.
        """
        fingerprints = {f"points {kind}": self.points}
        if not (local and cosines(details)):
            fingerprints[f"vectors {kind}"] = self.vectors
        return Measures({f"points {kind}": self.count}, fingerprints)

    @property
    def points(self) -> str:
        """The digest of ids and payloads."""
        return f"{self._points % _MODULUS:032x}"

    @property
    def vectors(self) -> str:
        """The digest of ids and vectors."""
        return f"{self._vectors % _MODULUS:032x}"


def digests(point: Point, tenant: str) -> tuple[int, int]:
    """Of a point's id and payload, and of its id and vectors.

    Args:
        tenant: the `tenant_id` that counts as the same for every app.
    """
    identity = json.dumps(point["id"]).encode()
    payload = with_tenant(point, tenant, "\0").get("payload") or {}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    return _number(identity, text), _number(identity, *_canonical(vectors_of(point)))


def are_alike(one: Point, other: Point, directions: Collection[str]) -> bool:
    """Whether two points have the same vectors.

    Args:
        directions: the vectors (by name; the only one has none) of which only the direction counts: local mode gives
            those of cosine distance one long, or as they were written.
    """
    ours, theirs = _named(vectors_of(one)), _named(vectors_of(other))
    return ours.keys() == theirs.keys() and all(
        _is_close(vector, theirs[name]) if name in directions else _is_same(vector, theirs[name])
        for name, vector in ours.items()
    )


def _named(vectors: Any) -> Mapping[str, Any]:
    return vectors if isinstance(vectors, Mapping) else {"": vectors}


def _is_same(one: Any, other: Any) -> bool:
    return list(_canonical({"": one})) == list(_canonical({"": other}))


def _is_close(one: Sequence[Any], other: Sequence[Any]) -> bool:
    if len(one) != len(other) or not one:
        return len(one) == len(other)
    if isinstance(one[0], Sequence) or isinstance(other[0], Sequence):
        both = isinstance(one[0], Sequence) and isinstance(other[0], Sequence)
        return both and all(map(_is_close, one, other))
    if None in one or None in other:
        return one == other
    lengths = hypot(*one) or 1.0, hypot(*other) or 1.0
    return all(
        isclose(mine / lengths[0], yours / lengths[1], rel_tol=0, abs_tol=_CLOSE)
        for mine, yours in zip(one, other, strict=True)
    )


def cosines(details: Mapping[str, Any]) -> frozenset[str]:
    """The vectors of cosine distance, by name."""
    vectors = details["config"]["params"].get("vectors") or {}
    named = {"": vectors} if isinstance(vectors.get("size"), int) else vectors
    return frozenset(name for name, vector in named.items() if str(vector["distance"]).lower() == "cosine")


def vectors_of(point: Point) -> Any:
    """As the server gives them: one, or several by name; none as an empty mapping."""
    vector = point.get("vector")
    return {} if vector is None else vector


def _canonical(vectors: Any) -> Iterator[bytes]:
    named = _named(vectors)
    for name in sorted(named):
        yield name.encode()
        vector = named[name]
        if isinstance(vector, Mapping):
            pairs = sorted(zip(vector["indices"], vector["values"], strict=True))
            yield _packed("Q", [index for index, _ in pairs])
            yield _packed("f", [value for _, value in pairs])
        elif vector and isinstance(vector[0], Sequence):
            for row in vector:
                yield _packed("f", row)
        else:
            yield _packed("f", vector)


def _is_whole(vectors: Any) -> bool:
    """Whether every component is there: the server writes what JSON has no number for (NaN, infinity) as null."""
    if isinstance(vectors, Mapping):
        return all(map(_is_whole, vectors.values()))
    if vectors and isinstance(vectors[0], Sequence):
        return all(map(_is_whole, vectors))
    return None not in vectors


def _packed(kind: str, values: Sequence[float]) -> bytes:
    try:
        packed = array(kind, values)
    except TypeError:  # null: see `_is_whole`
        packed = array(kind, [nan if value is None else value for value in values])
    if sys.byteorder == "big":
        packed.byteswap()
    content: bytes = packed.tobytes()
    return content


def _number(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def joined(measures: Iterable[Measures]) -> Measures:
    """Those of several collections in one."""
    counts: dict[str, int] = {}
    fingerprints: dict[str, str] = {}
    for one in measures:
        counts |= one.counts
        fingerprints |= one.fingerprints
    return Measures(counts, fingerprints)
