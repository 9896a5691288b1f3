"""An app's keys coming and going: SCAN and DUMP out, RESTORE in, by several connections at a time.

A set is not of one moment: keys that change while it is made are in it as they were when their turn came. Functions
and scripts belong to the server, not to an app, and are in no set.

A place is a DB number, or the keys of a prefix where apps live under prefixes. One that is made for a set is held by an
ACL user without rights, which carries the app's mark and so keeps everybody else's hands off the number. Where that
user is gone, the place is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final, Self

import redis
from redis.exceptions import NoPermissionError, ResponseError

from multidb import __version__
from multidb.errors import ArchiveError, Refused, ServerError, WrongVersion
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Measures,
    Owner,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
)
from multidb.provisioners.redis.backup.encodings import Limits
from multidb.provisioners.redis.backup.keys_file import LONGEST, NEVER, KeysReader, KeysWriter, Record, rdb_version
from multidb.provisioners.redis.backup.places import place_prefix, place_user
from multidb.provisioners.redis.driver.connection import ask, explained, open_client, scanned
from multidb.provisioners.redis.driver.wire import AnswerTooLong, Wire
from multidb.provisioners.redis.observe.tally import Seen, Tally
from multidb.provisioners.redis.provision.catalog import read_rules
from multidb.provisioners.redis.provision.headroom import Headroom
from multidb.provisioners.redis.provision.lock import Lease
from multidb.provisioners.redis.provision.numbers import lock_number
from multidb.provisioners.redis.provision.removal import emptying
from multidb.provisioners.redis.provision.resources import (
    RedisFacts,
    by_prefix,
    mark,
    marks_of,
    user_name,
)
from multidb.provisioners.redis.provision.rules import BYTES, Rule, join_line
from multidb.provisioners.redis.provision.session import carry_out, read_facts
from multidb.secrets import Secret, redact

__all__ = ["RedisArchive"]

_CHECK_VALUES: Final = "sanitize-dump-payload"
_FILE: Final = "keys.bin"
_FORMAT: Final = "redis keys 1"
_LANES = 3  # connections; the server answers one while another's answers are read
_MOST_KEYS = 2_000  # in one batch
_BATCH_BYTES = 2 << 20  # of payload in one batch, which the server has to hold until it is read
_FIRST_PAGE, _PAGE = 10, 1_000  # keys that SCAN is asked for at a time: at first, and at most
_SHOWN = 60  # bytes of a key's name in an error
_EVERY = 20_000  # keys between two words of progress
_NEWER = "the server cannot read what a newer version, or another product, has serialized"


class RedisArchive:
    """The archive of one server (protocol `multidb.model.Archive`)."""

    def __init__(self, server: Server, password: Secret | None, application: str) -> None:
        self._server = server
        self._password = password
        self._another: Callable[..., redis.Redis] = partial(open_client, server, password, application)
        self._client = self._another()

    def __enter__(self) -> Self:
        try:
            self._facts = self._read_facts()
            self._longest = self._longest_word()
            self._limits = self._read_limits()
            if self._facts.cluster:
                raise ArchiveError(
                    "a cluster's keys are on many nodes, and multidb reaches only one",
                    where=str(self._server),
                    hint="back the nodes up with their own snapshots (BGSAVE)",
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        """Writes each key with its expiry. Beside one batch of keys, 16 to 32 bytes a key are what memory grows by."""
        place, tally = self.live(app, context), Tally(self._limits)
        with explained(self._server), writer.file(_FILE) as out:
            total = self._facts.keys.get(_where(place)[0]) if _where(place)[0] else None
            records = self._records(place)
            first = next(records, None)
            rdb = rdb_version(first.payload) if first else 0  # asked of no key of ours: a full server takes none
            keys = KeysWriter(out, rdb)
            for record in itertools.chain([first] if first else [], records):
                keys.write(record)
                tally.add(record)
                if keys.count % _EVERY == 0:
                    progress(app.id, "reading keys", keys.count, total)
            keys.close()
        return Part(
            format=_FORMAT,
            server=f"{self._facts.product} {self._facts.version}",
            client=f"multidb {__version__}",
            consistent=False,
            measures=tally.measures(),
            details={"keys": keys.count, "expiring": tally.expiring, "rdb": rdb, "prefix": _where(place)[1]},
        )

    def live(self, app: App, context: StoreContext) -> Place:
        """The app's DB, or the keys under its prefix."""
        number = context.numbers[app.id]
        return Place(PlaceKind.LIVE, app, _name(number, f"{app.id}:"))

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        """A DB number that nobody has, or a prefix that no app has, held by an ACL user without rights.

        Raises:
            Refused: every DB number is taken.
        """
        if kind is PlaceKind.LIVE:
            raise ValueError("the live place is not made here")
        owner = Owner(context.project, app.id)
        client = self._another(db=lock_number(self._facts))
        with Lease(self._server, client, context.project, f"a set of {app.id}"), explained(self._server):
            self._facts = self._read_facts()
            rules = read_rules(self._server, self._client)
            number = self._number_for(kind, app, context, rules)
            self._rule(place_user(kind, owner), "reset", "off", "resetchannels", f"&{mark(owner, number)}")
        place = Place(kind, app, _name(number, place_prefix(kind, owner)))
        self._empty(place)
        return place

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        """Loads the keys that have not expired meanwhile."""
        with explained(self._server), reader.file(_FILE) as file:
            records = KeysReader(file, self._longest)
            if records.rdb > self._rdb():
                raise self._too_old(part)
            self._have_values_checked()
            self._load(place, part, records, progress)

    def measure(self, place: Place) -> Measures:
        """Counts and fingerprints of the keys that stay."""
        tally = Tally(self._limits)
        with explained(self._server):
            for record in self._records(place):
                tally.add(record)
        return tally.measures()

    def is_empty(self, place: Place) -> bool:
        """Whether there is no key."""
        number, prefix = _where(place)
        with explained(self._server), self._another(db=number, raw=True) as client:
            return next(scanned(client, _match(prefix)), None) is None

    def replace(self, new: Place, context: StoreContext) -> None:
        """Swaps the two DBs in one step. Where apps live under prefixes, one transaction removes the old keys and
        renames the new ones, with the app's login off meanwhile; the server does nothing else as long as it lasts.

        Raises:
            ArchiveError: the new place is gone.
        """
        if new.kind is not PlaceKind.NEW or not self._holders(new):
            raise ArchiveError(f"{new.name} is no new place of app {new.app.id}", where=str(self._server))
        live = self.live(new.app, context)
        user = user_name(new.app.id)
        with explained(self._server):
            if _where(live)[0]:
                ask(self._client, "SWAPDB", str(_where(live)[0]), str(_where(new)[0]))
                self._end_sessions(user)
            else:
                with self._shut_out(user):
                    self._rename_all(live, new)
        self.discard(new)

    def discard(self, place: Place) -> None:
        """Removes the keys, then the user that holds the place."""
        if place.kind is PlaceKind.LIVE:
            raise ValueError("the live place of an app is not discarded")
        holders = self._holders(place)
        if holders:
            self._empty(place)
            with explained(self._server):
                ask(self._client, "ACL", "DELUSER", *holders)
                self._save()

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        """The places whose users are still there."""
        owner = Owner(context.project, app.id)
        rules = read_rules(self._server, self._client)
        return [
            Place(kind, app, _name(number, place_prefix(kind, owner)))
            for kind in (PlaceKind.SCRATCH, PlaceKind.NEW)
            for number in _numbers(rules.get(place_user(kind, owner)), owner)
        ]

    # Places

    def _number_for(self, kind: PlaceKind, app: App, context: StoreContext, rules: Mapping[str, Rule]) -> int:
        owner, own = Owner(context.project, app.id), context.numbers.get(app.id)
        if own == 0 or (own is None and by_prefix(app, self._facts)):  # an app that is gone has no number any more
            return 0
        if left := _numbers(rules.get(place_user(kind, owner)), owner):
            return left[0]
        taken = {0, *context.numbers.values(), *self._facts.keys, *(claim.db for claim in self._facts.claims)}
        taken.add(lock_number(self._facts))
        free = (number for number in range(self._facts.databases or 16) if number not in taken)
        number = next(free, None)
        if number is None:
            raise Refused(
                f"all {self._facts.databases} DB numbers are taken, and a set needs a free one to be tried or loaded",
                where=str(self._server),
                hint="raise servers.redis.databases and restart the server: multidb down && multidb up",
            )
        return number

    def _holders(self, place: Place) -> list[str]:
        """The users that hold the place for us: none when it is gone, or was never ours."""
        number, prefix = _where(place)
        return [
            name
            for name, rule in read_rules(self._server, self._client).items()
            for owner, db in marks_of(rule)
            if name == place_user(place.kind, owner)
            and (owner.app, db) == (place.app.id, number)
            and (number or place_prefix(place.kind, owner) == prefix)
        ]

    def _empty(self, place: Place) -> None:
        with explained(self._server):
            carry_out(self._another, emptying(*_where(place)))

    def _rule(self, user: str, *tokens: str) -> None:
        ask(self._client, "ACL", "SETUSER", user, *tokens)
        self._save()

    def _save(self) -> None:
        match self._facts.persistence:
            case "aclfile":
                ask(self._client, "ACL", "SAVE")
            case "config":
                ask(self._client, "CONFIG", "REWRITE")

    @contextlib.contextmanager
    def _shut_out(self, user: str) -> Iterator[None]:
        """In the block nobody is logged in as `user`. A login that was off before stays off."""
        rule = read_rules(self._server, self._client).get(user)
        enabled = rule is not None and rule.enabled
        if enabled:
            ask(self._client, "ACL", "SETUSER", user, "off")
        self._end_sessions(user)
        try:
            yield
        finally:
            if enabled:
                ask(self._client, "ACL", "SETUSER", user, "on")

    def _end_sessions(self, user: str) -> None:
        with contextlib.suppress(ResponseError):  # an app whose user is gone has none
            ask(self._client, "CLIENT", "KILL", "USER", user)

    def _rename_all(self, live: Place, new: Place) -> None:
        """Queued on the server while the keys are found, so that this process never holds all of them."""
        old, coming = _where(live)[1].encode(), _where(new)[1].encode()
        with self._lane(0) as wire, self._another(raw=True) as client:
            wire.ask("MULTI")
            self._queue(wire, ([("UNLINK", key) for key in keys] for keys in scanned(client, _match(old.decode()))))
            renamed = Seen()
            self._queue(
                wire,
                (
                    [("RENAME", key, old + key.removeprefix(coming)) for key in keys if not renamed.before(key)]
                    for keys in scanned(client, _match(coming.decode()))
                ),
            )
            wire.ask("EXEC")

    def _queue(self, wire: Wire, batches: Iterable[Sequence[tuple[Any, ...]]]) -> None:
        for batch in batches:
            for answer in wire.tell(batch):
                if isinstance(answer, ResponseError):
                    raise answer

    # Reading

    def _records(self, place: Place) -> Iterator[Record]:
        """Every key of the place once, its value in the shape that it has when it is restored, so that both are
        measured alike."""
        with ExitStack() as stack:
            lane: Wire | None = None
            for record in stack.enter_context(contextlib.closing(self._dumped(place))):
                if record.expiry == NEVER and self._limits.changes(record.payload):
                    lane = lane or stack.enter_context(self._lane(lock_number(self._facts)))
                    yield replace(record, payload=self._reshaped(lane, record.payload))
                else:
                    yield record

    def _reshaped(self, lane: Wire, payload: bytes) -> bytes:
        """The value after a restore, which is tried under a key that no app can see. As it is where the server has no
        room for it."""
        key = f"__multidb__:shape:{time.monotonic_ns()}"
        try:
            Headroom(self._server, self._client).require(1, len(payload))
        except ServerError:
            return payload
        words = ("RESTORE", key, 10_000, payload)  # gone in ten seconds, should we be
        loaded, dumped, _ = lane.tell([words, ("DUMP", key), ("DEL", key)])
        refused = isinstance(loaded, ResponseError) or not isinstance(dumped, bytes)
        return payload if refused else dumped

    def _dumped(self, place: Place) -> Generator[Record, None, None]:
        """Every key of the place once. Batches are asked of several connections in turn, read in the same order."""
        number, prefix = _where(place)
        skip, when = len(prefix.encode()), "PEXPIRETIME" if "pexpiretime" in self._facts.commands else "PTTL"
        batch_size = _BatchSize()
        with ExitStack() as stack:
            lanes: deque[Wire] = deque()
            asked: deque[tuple[Wire, Sequence[bytes]]] = deque()
            for keys in _batches(self._keys(stack.enter_context(self._lane(number)), prefix), batch_size):
                if len(asked) == _LANES:
                    lane, named = asked.popleft()
                    yield from _received(lane, named, skip, when, batch_size)
                    lanes.append(lane)
                lane = lanes.popleft() if lanes else stack.enter_context(self._lane(number))
                lane.send(words for key in keys for words in (("DUMP", key), (when, key)))
                asked.append((lane, keys))
            for lane, named in asked:
                yield from _received(lane, named, skip, when, batch_size)

    def _keys(self, lane: Wire, prefix: str) -> Iterator[bytes]:
        """The keys of a place, each once. The next page is asked for before this one is worked on."""
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

    @contextlib.contextmanager
    def _lane(self, number: int) -> Iterator[Wire]:
        # An answer is one value, or a page of names: what is longer than the server takes back is of no use in a set.
        with Wire(self._server, longest=self._longest + _BATCH_BYTES, working=True) as wire:
            password = self._password.reveal() if self._password is not None else ""
            wire.login(self._server.endpoint.user, password, number)
            yield wire

    def _rdb(self) -> int:
        """The RDB version in which the server serializes: that of any payload. Nothing is left behind."""
        key = f"__multidb__:rdb:{time.monotonic_ns()}"
        with self._lane(0) as wire:
            answers = wire.tell([("SET", key, "", "PX", 10_000), ("DUMP", key), ("DEL", key)])
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return rdb_version(answers[1])

    def _longest_word(self) -> int:
        """Bytes that the server takes in one word, and so in one value of a set."""
        with explained(self._server):
            try:
                return int(ask(self._client, "CONFIG", "GET", "proto-max-bulk-len")[1])
            except (NoPermissionError, IndexError):
                return LONGEST

    def _read_limits(self) -> Limits:
        with explained(self._server):
            try:
                settings = ask(self._client, "CONFIG", "GET", "*-max-*")
            except NoPermissionError:
                return Limits()
            return Limits.read(dict(zip(settings[::2], settings[1::2], strict=True)))

    def _read_facts(self) -> RedisFacts:
        return read_facts(self._server, self._client)

    # Loading

    def _load(self, place: Place, part: Part, records: Iterable[Record], progress: Progress) -> None:
        number, prefix = _where(place)
        now, loaded, expired, headroom = self._now(), 0, 0, Headroom(self._server, self._client)
        begin, total = prefix.encode(), part.details.get("keys")
        with ExitStack() as stack:
            lanes = deque(stack.enter_context(self._lane(number)) for _ in range(_LANES))
            waiting: deque[tuple[Wire, int]] = deque()
            for batch in _by_size(records):
                alive = [record for record in batch if record.expiry == NEVER or record.expiry > now]
                expired += len(batch) - len(alive)
                if len(waiting) == _LANES:
                    self._settle(part, *waiting.popleft())
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
                    self._settle(part, *waiting.popleft())
                loaded += len(batch)
                progress(place.app.id, "loading keys", loaded, total if isinstance(total, int) else None)
            for lane, count in waiting:
                self._settle(part, lane, count)
        if expired:
            progress(place.app.id, f"{expired} keys have expired since and were left out")

    def _have_values_checked(self) -> None:
        """Sees to it that the server looks through a value before it takes it. A value of a set that somebody has
        altered can crash a Redis that does not, for all apps (seen on 7.0 and 8.2, where this is off). Valkey always
        does. It is not turned off again, since another restore may go on; for commands of clients it costs a restore
        some time, and nothing else.
        """
        answer = ask(self._client, "CONFIG", "GET", _CHECK_VALUES)
        if len(answer) > 1 and answer[1] == "no":
            ask(self._client, "CONFIG", "SET", _CHECK_VALUES, "clients")
        rule = read_rules(self._server, self._client).get(self._facts.admin)
        if rule is not None and not rule.sanitized:
            raise Refused(
                f"the server looks through no value from {self._facts.admin}, and one that was altered can crash it",
                where=str(self._server),
                hint=join_line(["ACL", "SETUSER", self._facts.admin, "sanitize-payload"]),
            )

    def _settle(self, part: Part, lane: Wire, count: int) -> None:
        for _ in range(count):
            answer = lane.receive()
            if isinstance(answer, ResponseError):
                raise self._refused(part, answer)

    def _refused(self, part: Part, answer: ResponseError) -> Exception:
        text = redact(str(answer))
        if "DUMP payload version or checksum" in text:
            return ArchiveError(
                f"the server refuses a value of the set, which {part.server} has made: {text}",
                where=str(self._server),
                hint=f"take another set, or restore into a server of that version ({_NEWER})",
            )
        if text.startswith("OOM"):
            return answer  # the same as anywhere else
        return ServerError(f"the server refuses a value of the set: {text}", where=str(self._server))

    def _too_old(self, part: Part) -> WrongVersion:
        return WrongVersion(
            f"the set was made by {part.server}; {self._facts.product} {self._facts.version} is too old for it",
            where=str(self._server),
            hint=f"restore into that version or a later one: {_NEWER}",
        )

    def _now(self) -> int:
        """The server's time, in milliseconds: it is the server's clock that keys expire by."""
        seconds, micros = ask(self._client, "TIME")
        return int(seconds) * 1000 + int(micros) // 1000


class _BatchSize:
    """How many keys are asked for at once: few while they are large, so that neither side has to hold much."""

    def __init__(self) -> None:
        self.keys = 16

    def saw(self, keys: int, size: int) -> None:
        """What one batch came to."""
        fitting = _BATCH_BYTES * keys // max(size, 1)
        self.keys = max(1, min(fitting, 2 * self.keys, _MOST_KEYS))


def _batches(keys: Iterable[bytes], batch_size: _BatchSize) -> Iterator[list[bytes]]:
    iterator = iter(keys)
    while batch := list(itertools.islice(iterator, batch_size.keys)):
        yield batch


def _received(lane: Wire, keys: Sequence[bytes], skip: int, when: str, batch_size: _BatchSize) -> Iterator[Record]:
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
        if payload is not None:
            size += len(payload)
            yield Record(key[skip:], payload, expiry + now if expiry >= 0 else NEVER)
    batch_size.saw(len(keys), size)


def _by_size(records: Iterable[Record]) -> Iterator[list[Record]]:
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


def _name(number: int, prefix: str) -> str:
    return f"DB {number}" if number else f"keys {prefix}*"


def _where(place: Place) -> tuple[int, str]:
    """The DB number and the prefix of a place: one of them says nothing (0, or no prefix)."""
    if number := re.fullmatch(r"DB (\d+)", place.name):
        return int(number[1]), ""
    return 0, place.name.removeprefix("keys ").removesuffix("*")


def _match(prefix: str) -> tuple[str, ...]:
    return ("MATCH", f"{prefix}*") if prefix else ()


def _numbers(rule: Rule | None, owner: Owner) -> list[int]:
    return [number for marked, number in marks_of(rule) if marked == owner] if rule is not None else []
