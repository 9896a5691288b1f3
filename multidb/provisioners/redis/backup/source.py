"""Keys that are elsewhere: on a server that is not the project's, or in an RDB file, which a server of our own reads.

Nothing is written there, and nothing is asked that takes more than the right to read: INFO, COMMAND and FUNCTION LIST
may be refused, and tell less then. Keys come as DUMP gives them or, where the app's server does not take that, by the
commands of their types (`values`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from redis.exceptions import ResponseError

from multidb.errors import ArchiveError, NotAllowed, UsageError
from multidb.model import (
    App,
    ImportOptions,
    Measures,
    Server,
    SourceLocation,
    StoreContext,
    Survey,
    at_source,
    counted,
    listed,
)
from multidb.provisioners.redis.backup.encodings import Limits
from multidb.provisioners.redis.backup.intake import Intake, shown
from multidb.provisioners.redis.backup.keys import GONE, BatchSize, batches, dumped
from multidb.provisioners.redis.backup.keys_file import LONGEST, NEVER, Record, rdb_version
from multidb.provisioners.redis.backup.values import KINDS, first_page, making
from multidb.provisioners.redis.driver.batch_connection import BatchConnection
from multidb.provisioners.redis.driver.connection import explained, fields
from multidb.provisioners.redis.hosting.address import RedisAddress
from multidb.provisioners.redis.hosting.rdb_file import served
from multidb.provisioners.redis.observe.tally import Seen, Tally
from multidb.provisioners.redis.provision.options import STORE
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import BYTES
from multidb.provisioners.redis.provision.session import keys_by_number, product_of
from multidb.secrets import Secret

__all__ = ["RedisSource"]

_SAMPLE: Final = 10_000  # keys that are looked at before anything is copied
_PAGE: Final = 1_000  # keys that SCAN is asked for at a time
_LOOKED_AT: Final = 200  # keys whose type and size are asked for at a time
_CHANGED: Final = ("WRONGTYPE", "ERR no such key", "NOGROUP")
_SPECIAL: Final = frozenset(b"\\*?[]^")
_TITLES: Final = {
    b"string": "string keys",
    b"hash": "hash keys",
    b"list": "list keys",
    b"set": "set keys",
    b"zset": "sorted set keys",
    b"stream": "stream keys",
}


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a source says of itself, as far as its login may ask.

    Args:
        run: what is another at each start of the server: SCAN's cursors hold as long.
        keys: by DB number, how many.
        limits: up to what size it keeps values in their small shape; None: it does not say.
        packed: whether it compresses what it serializes, as servers do by default; None: it does not say.
        commands: those of which it was asked that it has.
    """

    product: str
    version: str
    run: str
    keys: Mapping[int, int]
    cluster: bool
    limits: Limits | None
    packed: bool | None
    commands: frozenset[str]
    libraries: int
    users: int


class RedisSource:
    """`multidb.model.ImportSource` for one DB of a server, or of an RDB file."""

    def __init__(self, location: SourceLocation, options: ImportOptions) -> None:
        self._location = location
        self._options = options
        self._match, self._prefix = _pattern(options), options.prefix.encode(errors=BYTES)
        self._intake: Intake | None = None
        self._by_type = False
        self._alike = False
        self._password: Secret | None = location.password
        self._copied: Measures | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            if self._location.path is not None:
                self._server, self._password, self._file = opened.enter_context(served(self._location.path))
                self._number: int | None = None
            else:
                self._server, self._number = _address(self._location)
                self._file = ""
            with self.explained():
                self._lane = opened.enter_context(self._opened())
                self.facts = _facts(self._lane)
            if self._number is None:  # of a file: the one that has keys
                self._number = min(self.facts.keys, default=0)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    @property
    def name(self) -> str:
        """What serializes the values."""
        return f"{self.facts.product} {self.facts.version}"

    @property
    def total(self) -> int:
        """How many keys the DB has, chosen or not."""
        return self.facts.keys.get(self._number or 0, 0)

    @property
    def limits(self) -> Limits | None:
        """Those of the app's server, in whose shape the records are."""
        return self._intake.limits if self._intake else None

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """In the block, the driver's errors are those of the source."""
        with at_source(self._location, STORE), explained(self._server):
            try:
                yield
            except ResponseError as error:
                if not str(error).startswith("NOPERM"):
                    raise
                raise NotAllowed(str(error), where=str(self._server)) from None

    # Before anything is copied

    def survey(self, app: App, context: StoreContext) -> Survey:
        """Counts from a sample of 10,000 keys, exact where there are no more."""
        with self.explained():
            total = self.total
            counts, size, looked_at, whole, odd = self._sample()
        share = 1.0 if whole else max(total, looked_at) / max(looked_at, 1)
        return Survey(
            product=self._file or self.name,
            counts={name: round(count * share) for name, count in sorted(counts.items())},
            estimated=not whole,
            size=round(size * share) if size is not None else None,
            renames=self._renames(app, context),
            losses=tuple(self._losses(context)),
            obstacles=tuple(self._obstacles(odd)),
        )

    def _sample(self) -> tuple[Counter[str], int | None, int, bool, set[bytes]]:
        """By the names of measures, how many keys; their bytes; how many were looked at, and whether these are all; the
        types that are no plain ones."""
        counts: Counter[str] = Counter()
        size: int | None = 0
        looked_at, odd = 0, set()
        with self._opened(self._number or 0) as lane:
            seen, cursor = Seen(), b"0"
            while looked_at < _SAMPLE:
                cursor, keys = lane.ask("SCAN", cursor, *self._matching(), "COUNT", _PAGE)
                looked_at += _PAGE  # or thereabouts: with a pattern, the server does not say
                chosen = [key for key in self._chosen(keys) if not seen.before(key)]
                for at in range(0, len(chosen), _LOOKED_AT):
                    part = chosen[at : at + _LOOKED_AT]
                    answers = lane.tell([words for key in part for words in _looks(key)])
                    for kind, expiry, held in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
                        if isinstance(kind, ResponseError):
                            raise kind
                        if kind not in _TITLES and kind != b"none":
                            odd.add(kind)
                        name = _TITLES.get(kind, "other keys") if expiry == -1 else "keys that expire"
                        counts[name] += kind != b"none"
                        size = None if size is None or isinstance(held, ResponseError) else size + (held or 0)
                if cursor == b"0":
                    return counts, size, looked_at, True, odd
        return counts, size, looked_at, False, odd

    def _chosen(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if key.startswith(self._prefix)]

    def _renames(self, app: App, context: StoreContext) -> dict[str, str]:
        there = f"DB {self._number}, keys {self._options.prefix}*" if self._options.prefix else f"DB {self._number}"
        number = context.numbers.get(app.id)
        here = "" if number is None else f"DB {number}" if number else f"DB 0, keys {app.id}:*"
        return {there: here} if here and here != there else {}

    def _losses(self, context: StoreContext) -> Iterator[str]:
        others = [number for number in sorted(self.facts.keys) if number != self._number]
        if others:
            numbers = listed([f"DB {number}" for number in others], 6)
            yield f"the keys of {numbers}: an app has one DB, so bring them into apps of their own"
        if self.facts.libraries:
            libraries = counted(self.facts.libraries, "function library", "function libraries")
            yield f"{libraries}: they belong to a server, not to an app (FUNCTION DUMP there, FUNCTION RESTORE here)"
        if self.facts.users > 1:
            yield f"{counted(self.facts.users, 'user')} and their rights: the app has its own"
        server = context.facts
        if isinstance(server, RedisFacts) and self._fields_expire and "hpexpireat" not in server.commands:
            yield "when single fields of hashes expire: the app's server has no such thing"

    def _obstacles(self, odd: set[bytes]) -> Iterator[str]:
        if self.facts.cluster:
            yield "it is a cluster, whose keys are on many nodes: copy them into one server first (redis-cli --cluster)"
        if self._file and len(self.facts.keys) > 1:
            numbers = listed([str(number) for number in sorted(self.facts.keys)])
            yield f"the file has keys in DB {numbers}: start a server on it, and name the DB in its URL"
        if not self._file and self.facts.keys and not self.total:
            numbers = listed([str(number) for number in sorted(self.facts.keys)])
            example = f"redis://{self._server.endpoint}/{min(self.facts.keys)}"
            yield f"DB {self._number} has no key; there are keys in DB {numbers}: name one in the URL ({example})"
        if odd:
            kinds = listed(sorted(kind.decode(errors="replace") for kind in odd))
            yield f"it has values of modules ({kinds}), which other servers may not take: leave them out (--pattern)"

    # Copying and comparing

    def meet(self, intake: Intake) -> None:
        """Finds out in which form the app's server takes values: what has been serialized here, else by type."""
        self._intake = intake
        with self.explained():
            payload = self._any_payload()
            facts = self.facts
        if payload is None:
            self._by_type, self._alike = False, True
            return
        self._by_type = isinstance(payload, ResponseError) or not intake.takes(payload)
        known = facts.limits == intake.limits and facts.packed is True
        self._alike = not self._by_type and known and rdb_version(payload) == intake.rdb

    def _any_payload(self) -> Any:
        """What DUMP gives of some key; None where there is none."""
        cursor = b"0"
        with self._opened(self._number or 0) as lane:
            while True:
                cursor, keys = lane.ask("SCAN", cursor, *self._matching(), "COUNT", _PAGE)
                for key in self._chosen(keys):
                    [payload] = lane.tell([("DUMP", key)])
                    if payload is not None:
                        return payload
                if cursor == b"0":
                    return None

    def pages(self, cursor: bytes = b"0") -> Iterator[tuple[bytes, list[bytes]]]:
        """The names of the keys in pages, and after which cursor each page's successor comes; the last has 0."""
        with self.explained(), self._opened(self._number or 0) as lane:
            while True:
                cursor, keys = lane.ask("SCAN", cursor, *self._matching(), "COUNT", _PAGE)
                yield cursor, self._chosen(keys)
                if cursor == b"0":
                    return

    def records(self, keys: Iterable[bytes]) -> Iterator[Record]:
        """What there is of these keys, the prefix taken off, as the app's server takes it."""
        if self._by_type:
            yield from self._made(keys)
            return
        opened, when = partial(self._opened, self._number or 0), self._when
        with self.explained(), contextlib.closing(dumped(opened, keys, when, len(self._prefix))) as coming:
            yield from coming

    def shaped(self, records: Iterable[Record], *, every: bool = False) -> Iterator[Record]:
        """The records as the app's server would serialize them; with `every`, also those of keys that expire."""
        assert self._intake is not None
        return self._intake.shaped(records, alike=self._alike or self._by_type, every=every)

    def present(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of the keys, named as in the app's place, are there."""
        named = [self._prefix + key for key in keys]
        with self.explained():
            answers = self._lane.tell([("SELECT", self._number or 0), *(("EXISTS", key) for key in named)])[1:]
        return [answer == 1 for answer in answers]

    def measure(self, app: App, context: StoreContext) -> Measures:
        """What there is now. Where no server has been met that takes it, the counts alone are comparable."""
        tally, seen = Tally(self.limits), Seen()
        keys = (key for _, page in self.pages() for key in page if not seen.before(key))
        records = self.records(keys)
        for record in self.shaped(records) if self._intake else records:
            tally.add(record)
        measures = tally.measures()
        if not self._by_type:
            return measures
        # Made anew, a stream says that its consumers were seen just now: each time another value.
        kept = {name: value for name, value in measures.fingerprints.items() if not name.startswith("stream keys")}
        return Measures(measures.counts, kept)

    def copied(self) -> Measures | None:
        return self._copied

    def keep(self, copied: Measures) -> None:
        """What has been copied, all of it by this process."""
        self._copied = copied

    def _made(self, keys: Iterable[bytes]) -> Iterator[Record]:
        """As `records`, by the commands of the types."""
        assert self._intake is not None
        batch_size = BatchSize()
        with ExitStack() as stack:
            with self.explained():
                lane = stack.enter_context(self._opened(self._number or 0))
            for batch in batches(keys, batch_size):
                size, again = 0, list[bytes]()
                with self.explained():
                    kinds = lane.tell([words for key in batch for words in (("TYPE", key), (self._when, key))])
                    described = zip(batch, kinds[::2], kinds[1::2], strict=True)
                    there = [(key, kind, ms) for key, kind, ms in described if kind != b"none" and ms != GONE]
                    self._require_known(there)
                    pages = lane.tell([first_page(key, kind) for key, kind, _ in there])
                    now = _milliseconds(lane) if self._when == "PTTL" else 0
                for (key, kind, ms), page in zip(there, pages, strict=True):
                    expires = self._fields_expire and self._intake.fields_expire
                    pieces = making(
                        lane,
                        key,
                        kind,
                        page,
                        self._intake.target,
                        fields_expire=expires,
                        streams_count=self._intake.streams_count,
                    )
                    try:
                        payload = None if page is None else self._intake.made(key, self._explained_pieces(page, pieces))
                    except _Changed:
                        again.append(key)
                        self._intake.clear()
                        continue
                    if payload is not None:
                        size += len(payload)
                        yield Record(key[len(self._prefix) :], payload, ms + now if ms >= 0 else NEVER)
                batch_size.saw(len(batch), size)
                if again:
                    yield from self._made(again)

    def _explained_pieces(self, page: Any, pieces: Iterator[Any]) -> Iterator[Any]:
        """Raises `_Changed` where the key has become another since it was asked for its type."""
        while True:
            with self.explained():
                try:
                    if isinstance(page, ResponseError):
                        raise page
                    piece = next(pieces, None)
                except ResponseError as error:
                    if str(error).startswith(_CHANGED):
                        raise _Changed from None
                    raise
            if piece is None:
                return
            yield piece

    def _require_known(self, there: Sequence[tuple[bytes, Any, Any]]) -> None:
        for key, kind, ms in there:
            for answer in (kind, ms):
                if isinstance(answer, ResponseError):
                    raise answer
            if kind not in KINDS:
                raise ArchiveError(
                    f"key {shown(key)} is of the type {kind.decode(errors='replace')}, which the app's server has not",
                    where=f"source {self._location.text}",
                    hint="leave it out: --pattern",
                )

    @property
    def _when(self) -> str:
        return "PEXPIRETIME" if "pexpiretime" in self.facts.commands else "PTTL"

    @property
    def _fields_expire(self) -> bool:
        return "hpexpiretime" in self.facts.commands

    def _matching(self) -> tuple[Any, ...]:
        return ("MATCH", self._match) if self._match else ()

    @contextlib.contextmanager
    def _opened(self, number: int = 0) -> Iterator[BatchConnection]:
        with BatchConnection(self._server, longest=2 * LONGEST, working=True) as connection:
            password = self._password.reveal() if self._password is not None else ""
            connection.login(self._server.endpoint.user, password, number)
            yield connection


class _Changed(Exception):
    """A key is not what it was a moment ago."""


def _pattern(options: ImportOptions) -> bytes:
    """What SCAN is to look for; empty: everything."""
    if options.pattern:
        return options.pattern.encode(errors=BYTES)
    characters = (bytes([byte]) for byte in options.prefix.encode(errors=BYTES))
    escaped = b"".join(b"\\" + one if one[0] in _SPECIAL else one for one in characters)
    return escaped + b"*" if escaped else b""


def _looks(key: bytes) -> list[tuple[Any, ...]]:
    return [("TYPE", key), ("PTTL", key), ("MEMORY", "USAGE", key)]


def _address(location: SourceLocation) -> tuple[Server, int]:
    """The server, and the DB number in its URL."""
    refusal = RedisAddress.refusal(location.url or "")
    if refusal is not None:
        raise UsageError(f"the address {refusal}", where="--from-redis", hint=f"such as {RedisAddress.example()}")
    endpoint = RedisAddress(url=location.url).endpoint(Path())
    if not urlsplit(location.url or "").username:
        endpoint = replace(endpoint, user="")  # AUTH with a password alone, which servers before Redis 6 take, too
    number = endpoint.database or "0"
    if not number.isdecimal():
        raise UsageError(f"{number!r} is no DB number", where="--from-redis", hint="such as redis://db.example.com/3")
    return Server("source", STORE, endpoint, external=True), int(number)


def _facts(lane: BatchConnection) -> SourceFacts:
    info = "\r\n".join(_text(lane.tell([("INFO", section)])[0]) for section in ("server", "keyspace", "cluster"))
    described = fields(info)
    product, version = product_of(described)
    names = ("pexpiretime", "hpexpiretime")
    [known] = lane.tell([("COMMAND", "INFO", *names)])
    commands = frozenset() if isinstance(known, ResponseError) else frozenset(_names(known))
    settings = _settings(lane)
    [libraries], [users] = lane.tell([("FUNCTION", "LIST")]), lane.tell([("ACL", "USERS")])
    return SourceFacts(
        product=product,
        version=version or "of an unknown version",
        run=described.get("run_id", ""),
        keys=keys_by_number(described),
        cluster=described.get("cluster_enabled") == "1",
        limits=Limits.read(settings) if settings else None,
        packed=settings["rdbcompression"] == "yes" if "rdbcompression" in settings else None,
        commands=commands,
        libraries=0 if isinstance(libraries, ResponseError) else len(libraries),
        users=0 if isinstance(users, ResponseError) else len(users),
    )


def _settings(lane: BatchConnection) -> dict[str, str]:
    settings: dict[str, str] = {}
    for answer in lane.tell([("CONFIG", "GET", "*-max-*"), ("CONFIG", "GET", "rdbcompression")]):
        if not isinstance(answer, ResponseError):
            words = list(map(_text, answer))
            settings |= dict(zip(words[::2], words[1::2], strict=True))
    return settings


def _names(entries: Sequence[Any]) -> Iterator[str]:
    """Of an answer to COMMAND INFO, which has nothing for a command that is not there."""
    yield from (_text(entry[0]) for entry in entries if entry)


def _text(answer: Any) -> str:
    """Of a refusal, nothing."""
    return answer.decode(errors="replace") if isinstance(answer, bytes) else ""


def _milliseconds(lane: BatchConnection) -> int:
    seconds, micros = lane.ask("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
