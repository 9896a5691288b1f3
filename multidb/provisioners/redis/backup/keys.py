"""An app's keys on a server: SCAN and DUMP out, RESTORE in, by several connections at a time.

What is read is not of one moment: keys that change meanwhile are as they were when their turn came.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import redis
from redis.exceptions import ResponseError

from multidb.errors import ArchiveError, ServerError
from multidb.model import Progress, Server, counted
from multidb.provisioners.redis.backup.encodings import Limits
from multidb.provisioners.redis.backup.keys_file import NEVER, Record, rdb_version
from multidb.provisioners.redis.driver.batch_connection import AnswerTooLong, BatchConnection
from multidb.provisioners.redis.driver.connection import UNABLE, ask, scanned
from multidb.provisioners.redis.observe.tally import Seen
from multidb.provisioners.redis.provision.headroom import Headroom
from multidb.provisioners.redis.provision.numbers import lock_number
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import BYTES, join_line
from multidb.secrets import Secret, redact

__all__ = ["GONE", "NEWER", "BatchSize", "Keys", "batches", "by_size", "dumped", "names"]

_LANES = 3  # connections; the server answers one while another's answers are read
_MOST_KEYS = 2_000  # in one batch
_BATCH_BYTES = 2 << 20  # of payload in one batch, which the server has to hold until it is read
_FIRST_PAGE, _PAGE = 10, 1_000  # keys that SCAN is asked for at a time: at first, and at most
_SHOWN = 60  # bytes of a key's name in an error
_NO_SUCH_KEY = "ERR no such key"
GONE = -2
"""What PEXPIRETIME and PTTL say of a key that is not there."""
NEWER = "the server cannot read what a newer version, or another product, has serialized"


class Keys:
    """The keys of one server, by DB number, and by prefix where apps live under prefixes. Raises the driver's errors.

    Args:
        client: the admin's.
        another: makes another one.
        facts: what the server is.
        limits: up to what size the server keeps values in their small shape.
        longest: bytes that it takes in one word.
    """

    def __init__(
        self,
        server: Server,
        password: Secret | None,
        client: redis.Redis,
        another: Callable[..., redis.Redis],
        facts: RedisFacts,
        limits: Limits,
        longest: int,
    ) -> None:
        self._server = server
        self._password = password
        self._client = client
        self._another = another
        self._facts = facts
        self._limits = limits
        self._longest = longest

    def are_none(self, number: int, prefix: str) -> bool:
        """Whether there is no key."""
        with self._another(db=number, raw=True) as client:
            return next(scanned(client, _match(prefix)), None) is None

    def records(self, number: int, prefix: str) -> Iterator[Record]:
        """Every key once, its value in the shape that it has when it is restored, so that both are measured alike."""
        with ExitStack() as stack:
            lane: BatchConnection | None = None
            for record in stack.enter_context(contextlib.closing(self._dumped(number, prefix))):
                if record.expiry == NEVER and self._limits.changes(record.payload):
                    lane = lane or stack.enter_context(self.lane(lock_number(self._facts)))
                    shaped = self._reshaped(lane, record.payload)
                    yield replace(record, payload=shaped or record.payload, measurable=shaped is not None)
                else:
                    yield record

    def _reshaped(self, lane: BatchConnection, payload: bytes) -> bytes | None:
        """The value after a restore, which is tried under a key that no app can see. None where the server has no room
        for it, or takes no writes."""
        key = f"__multidb__:shape:{time.monotonic_ns()}"
        try:
            Headroom(self._server, self._client).require(1, len(payload))
        except ServerError:
            return None
        words = ("RESTORE", key, 10_000, payload)  # gone in ten seconds, should we be
        loaded, shaped, _ = lane.tell([words, ("DUMP", key), ("DEL", key)])
        refused = isinstance(loaded, ResponseError) or not isinstance(shaped, bytes)
        return None if refused else shaped

    def _dumped(self, number: int, prefix: str) -> Generator[Record, None, None]:
        """Every key once."""
        with self.lane(number) as lane:
            yield from dumped(partial(self.lane, number), names(lane, prefix), self._when, len(prefix.encode()))

    @property
    def _when(self) -> str:
        """The command that tells when a key expires."""
        return "PEXPIRETIME" if "pexpiretime" in self._facts.commands else "PTTL"

    @contextlib.contextmanager
    def lane(self, number: int) -> Iterator[BatchConnection]:
        """A connection in a DB number, with the admin's login."""
        # An answer is one value, or a page of names: what is longer than the server takes back is of no use in a set.
        with BatchConnection(self._server, longest=self._longest + _BATCH_BYTES, working=True) as connection:
            password = self._password.reveal() if self._password is not None else ""
            connection.login(self._server.endpoint.user, password, number)
            yield connection

    def of(self, lane: BatchConnection, prefix: str, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """What there is of these keys, by their names without the prefix."""
        begin, when = prefix.encode(), self._when
        lane.send(words for key in keys for words in (("DUMP", begin + key), (when, begin + key)))
        received = _received(lane, [begin + key for key in keys], len(begin), when, BatchSize())
        return {record.key: record for record in received}

    def rdb(self) -> int:
        """The RDB version in which the server serializes: that of any payload. Nothing is left behind."""
        key = f"__multidb__:rdb:{time.monotonic_ns()}"
        with self.lane(0) as connection:
            answers = connection.tell([("SET", key, "", "PX", 10_000), ("DUMP", key), ("DEL", key)])
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return rdb_version(answers[1])

    def load(
        self,
        place: tuple[int, str],
        app: str,
        records: Iterable[Record],
        progress: Progress,
        *,
        maker: str,
        total: int | None = None,
    ) -> None:
        """Loads those of the records that have not expired.

        Args:
            place: DB number and prefix.
            maker: the server that has serialized the values.
            total: how many records there are, if that is known.

        Raises:
            ArchiveError, ServerError: the server does not take a value, or has no room for it.
        """
        now, loaded, expired, headroom = self._now(), 0, 0, Headroom(self._server, self._client)
        number, begin = place[0], place[1].encode()
        with ExitStack() as stack:
            lanes = deque(stack.enter_context(self.lane(number)) for _ in range(_LANES))
            waiting: deque[tuple[BatchConnection, int]] = deque()
            for batch in by_size(records):
                alive = [record for record in batch if record.expiry == NEVER or record.expiry > now]
                expired += len(batch) - len(alive)
                if len(waiting) == _LANES:
                    self._settle(maker, *waiting.popleft())
                unsettled = 1 + len(waiting)  # batches like this one, which the server may not have counted yet
                headroom.require(unsettled * len(alive), unsettled * sum(len(record.payload) for record in alive))
                lane = lanes[0]
                lanes.rotate(-1)
                lane.send(
                    ("RESTORE", begin + record.key, max(record.expiry, 0), record.payload, "REPLACE", "ABSTTL")
                    for record in alive
                )
                waiting.append((lane, len(alive)))
                if not loaded:  # whether the server takes the first tells mostly whether it takes any
                    self._settle(maker, *waiting.popleft())
                loaded += len(batch)
                progress(app, "loading keys", loaded, total)
            for lane, count in waiting:
                self._settle(maker, lane, count)
        if expired:
            progress(app, f"{counted(expired, 'key has', 'keys have')} expired since; left out")

    def _settle(self, maker: str, lane: BatchConnection, count: int) -> None:
        for _ in range(count):
            answer = lane.receive()
            if isinstance(answer, ResponseError):
                raise self.refused(maker, answer)

    def refused(self, maker: str, answer: ResponseError) -> Exception:
        """What it means that the server does not take a value."""
        text = redact(str(answer))
        if "DUMP payload version or checksum" in text:
            return ArchiveError(
                f"the server refuses a value that {maker} has serialized: {text}",
                where=str(self._server),
                hint=f"take another set, or restore into a server of that version ({NEWER})",
            )
        if text.partition(" ")[0] in ("OOM", "NOPERM", "READONLY", *UNABLE):
            return answer  # the same as anywhere else
        return ServerError(f"the server refuses a value that {maker} has serialized: {text}", where=str(self._server))

    def _now(self) -> int:
        """The server's time, in milliseconds: it is the server's clock that keys expire by."""
        seconds, micros = ask(self._client, "TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def swap(self, one: int, other: int, also: Sequence[str], holder: str) -> None:
        """In one transaction exchanges two DBs, carries out a command, and removes the ACL user `holder`."""
        with self.lane(0) as connection:
            connection.ask("MULTI")
            self._queue(connection, [("SWAPDB", one, other), tuple(also), ("ACL", "DELUSER", holder)])
            self._carry_out(connection)

    def exchange(self, old: str, new: str, holder: str) -> None:
        """In one transaction removes the keys of DB 0 whose names begin with `old`, gives that prefix to those of
        `new`, and removes the ACL user `holder`. Queued on the server while they are found, so that this process never
        holds all of them. A key that expires meanwhile is gone.

        Raises:
            ArchiveError: the server has no room for what is queued, and would push keys out. Nothing was changed.
        """
        begin, coming = old.encode(), new.encode()
        with self.lane(0) as connection, self.lane(0) as finding:
            connection.ask("MULTI")
            for keys in self._with_headroom(names(finding, old)):
                self._queue(connection, [("UNLINK", *keys)])
            for keys in self._with_headroom(names(finding, new)):
                self._queue(connection, [("RENAME", key, begin + key.removeprefix(coming)) for key in keys])
            self._queue(connection, [("ACL", "DELUSER", holder)])
            self._carry_out(connection)

    def _with_headroom(self, keys: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
        """The names in batches, each once the server has room for a command about each of them."""
        headroom, size = Headroom(self._server, self._client), BatchSize()
        for batch in batches(keys, size):
            length = sum(map(len, batch))
            try:
                headroom.require(len(batch), length)
            except ServerError as error:  # nothing has failed
                raise ArchiveError(error.message, where=error.where, hint=error.hint) from None
            size.saw(len(batch), length)
            yield batch

    def _carry_out(self, connection: BatchConnection) -> None:
        for answer in connection.ask("EXEC"):
            if isinstance(answer, ResponseError) and str(answer) != _NO_SUCH_KEY:
                raise answer

    def _queue(self, connection: BatchConnection, commands: Sequence[tuple[Any, ...]]) -> None:
        for answer in connection.tell(commands):
            if isinstance(answer, ResponseError):
                raise answer


def dumped(
    opened: Callable[[], AbstractContextManager[BatchConnection]], keys: Iterable[bytes], when: str, skip: int = 0
) -> Generator[Record, None, None]:
    """What DUMP gives of each key that is there. Batches are asked of several connections in turn, read in the same
    order.

    Args:
        opened: makes a connection.
        when: the command by which the server tells when a key expires: PEXPIRETIME, or PTTL before Redis 7.
        skip: bytes that are taken off the beginning of names.
    """
    batch_size = BatchSize()
    with ExitStack() as stack:
        lanes: deque[BatchConnection] = deque()
        asked: deque[tuple[BatchConnection, Sequence[bytes]]] = deque()
        for batch in batches(keys, batch_size):
            if len(asked) == _LANES:
                lane, named = asked.popleft()
                yield from _received(lane, named, skip, when, batch_size)
                lanes.append(lane)
            if not lanes:
                lanes.append(stack.enter_context(opened()))
            lane = lanes.popleft()
            lane.send(words for key in batch for words in (("DUMP", key), (when, key)))
            asked.append((lane, batch))
        for lane, named in asked:
            yield from _received(lane, named, skip, when, batch_size)


class BatchSize:
    """How many keys are asked for at once: few while they are large, so that neither side has to hold much."""

    def __init__(self) -> None:
        self.keys = 16

    def saw(self, keys: int, size: int) -> None:
        """Adapts the size of the next batch to what this one came to."""
        fitting = _BATCH_BYTES * keys // max(size, 1)
        self.keys = max(1, min(fitting, 2 * self.keys, _MOST_KEYS))


def names(lane: BatchConnection, prefix: str) -> Iterator[bytes]:
    """The names of the keys, each once. The next page is asked for before this one is worked on."""
    seen, count, match = Seen(), _FIRST_PAGE, _match(prefix)
    lane.send([("SCAN", "0", *match, "COUNT", count)])
    while True:
        answer = lane.receive()
        if isinstance(answer, ResponseError):
            raise answer
        cursor, keys = answer
        # A page of long names is long: the next one is as large as it can be without being too long.
        size = sum(map(len, keys))
        count = max(1, min(4 * count, _PAGE, count * _BATCH_BYTES // max(size, 1)))
        if cursor != b"0":
            lane.send([("SCAN", cursor, *match, "COUNT", count)])
        yield from (key for key in keys if not seen.before(key))
        if cursor == b"0":
            return


def batches(keys: Iterable[bytes], batch_size: BatchSize) -> Iterator[list[bytes]]:
    iterator = iter(keys)
    while batch := list(itertools.islice(iterator, batch_size.keys)):
        yield batch


def _received(
    lane: BatchConnection, keys: Sequence[bytes], skip: int, when: str, batch_size: BatchSize
) -> Iterator[Record]:
    """The records of a batch. A key that is gone meanwhile is none."""
    now = time.time_ns() // 1_000_000 if when == "PTTL" else 0
    size = 0
    for key in keys:
        try:
            payload, expiry = lane.receive(), lane.receive()
        except AnswerTooLong as error:
            name = join_line([key[:_SHOWN].decode(errors=BYTES)])
            raise ArchiveError(
                f"the value of key {name} is {error}, which no server takes back (proto-max-bulk-len)",
                hint="let the app store it in pieces, or raise proto-max-bulk-len on the server",
            ) from None
        for answer in (payload, expiry):
            if isinstance(answer, ResponseError):
                raise answer
        if payload is not None and expiry != GONE:
            size += len(payload)
            yield Record(key[skip:], payload, expiry + now if expiry >= 0 else NEVER)
    batch_size.saw(len(keys), size)


def by_size(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in batches that neither side minds to hold. The first is of one, to see whether it is taken."""
    batch: list[Record] = []
    size, most = 0, 1
    for record in records:
        batch.append(record)
        size += len(record.payload)
        if len(batch) == most or size >= _BATCH_BYTES:
            yield batch
            batch, size, most = [], 0, _MOST_KEYS
    if batch:
        yield batch


def _match(prefix: str) -> tuple[str, ...]:
    return ("MATCH", f"{prefix}*") if prefix else ()
