"""An app's keys coming and going. Functions and scripts belong to the server, not to an app, and are in no set.

A place is a DB number, or the keys of a prefix where apps live under prefixes. One that is made for a set is held by an
ACL user without rights, which carries the app's mark and so keeps everybody else's hands off the number. Where that
user is gone, the place is gone.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Final, Self

import redis
from redis.exceptions import ResponseError

from multidb import __version__
from multidb.errors import ArchiveError, Refused, WrongVersion
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Checkpoint,
    ImportSource,
    Lag,
    Measures,
    Owner,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
    Survey,
)
from multidb.provisioners.redis.backup.encodings import Limits
from multidb.provisioners.redis.backup.followed import FollowedRedis
from multidb.provisioners.redis.backup.following import Following
from multidb.provisioners.redis.backup.intake import Intake
from multidb.provisioners.redis.backup.keys import NEWER, Keys
from multidb.provisioners.redis.backup.keys_file import LONGEST, KeysReader, KeysWriter, rdb_version
from multidb.provisioners.redis.backup.places import Keyspace, keyspace, place_prefix, place_user
from multidb.provisioners.redis.backup.source import RedisSource
from multidb.provisioners.redis.backup.transfer import Transfer
from multidb.provisioners.redis.driver.connection import ask, explained, fields, open_client
from multidb.provisioners.redis.observe.tally import Tally
from multidb.provisioners.redis.provision.catalog import read_rules
from multidb.provisioners.redis.provision.lock import Lease
from multidb.provisioners.redis.provision.numbers import lock_number, more_databases
from multidb.provisioners.redis.provision.removal import emptying
from multidb.provisioners.redis.provision.resources import (
    RedisFacts,
    by_prefix,
    mark,
    marks_of,
    user_names,
)
from multidb.provisioners.redis.provision.rules import Rule, join_line
from multidb.provisioners.redis.provision.session import carry_out, read_facts
from multidb.secrets import Secret

__all__ = ["RedisArchive"]

_CHECK_VALUES: Final = "sanitize-dump-payload"
_FILE: Final = "keys.bin"
_FORMAT: Final = "redis keys 1"
_EVERY = 20_000  # keys between two words of progress


class RedisArchive:
    """The archive of one server (protocol `multidb.model.Archive`)."""

    def __init__(self, server: Server, password: Secret | None, application: str) -> None:
        self._server = server
        self._password = password
        self._another: Callable[..., redis.Redis] = partial(open_client, server, password, application)
        self._client = self._another()
        self._intake: Intake | None = None
        self._following: Following | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.callback(self._client.close)
            self._facts = self._read_facts()
            self._longest = self._longest_word()
            self._limits = self._read_limits()
            if self._facts.cluster:
                raise ArchiveError(
                    "a cluster's keys are on many nodes, and multidb reaches only one",
                    where=str(self._server),
                    hint="back the nodes up with their own snapshots (BGSAVE)",
                )
            opened.pop_all()
        self._keys = Keys(
            self._server, self._password, self._client, self._another, self._facts, self._limits, self._longest
        )
        return self

    def __exit__(self, *exc: object) -> None:
        if self._intake is not None:
            self._intake.close()
        self._client.close()

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        """Writes each key with its expiry. Beside one batch of keys, 16 to 32 bytes a key are what memory grows by."""
        place, tally = self.live(app, context), Tally(self._limits)
        with explained(self._server), writer.file(_FILE) as out:
            total = self._facts.keys.get(_where(place)[0]) if _where(place)[0] else None
            records = self._keys.records(*_where(place))
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
        return keyspace(PlaceKind.LIVE, app, number, f"{app.id}:")

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
            ask(self._client, *_held(place_user(kind, owner), owner, number))
            self._save()
        place = keyspace(kind, app, number, place_prefix(kind, owner))
        self._empty(place)
        return place

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        """Loads the keys that have not expired meanwhile."""
        with explained(self._server), reader.file(_FILE) as file:
            records = KeysReader(file, self._longest)
            if records.rdb > self._keys.rdb():
                raise self._too_old(part)
            self._have_values_checked()
            total = part.details.get("keys")
            self._keys.load(
                _where(place),
                place.app.id,
                records,
                progress,
                maker=part.server,
                total=total if isinstance(total, int) else None,
            )

    def measure(self, place: Place) -> Measures:
        """Counts and fingerprints of the keys that stay."""
        tally = Tally(self._limits)
        with explained(self._server):
            for record in self._keys.records(*_where(place)):
                tally.add(record)
        return tally.measures()

    def is_empty(self, place: Place) -> bool:
        """Whether there is no key."""
        with explained(self._server):
            return self._keys.are_none(*_where(place))

    def replace(self, new: Place, context: StoreContext) -> None:
        """Swaps the two DBs in one step. Where apps live under prefixes, one transaction removes the old keys and
        renames the new ones, with the app's login off meanwhile; the server does nothing else as long as it lasts.
        In the same step the new place ceases to be one, so that nobody exchanges it a second time.

        Raises:
            ArchiveError: the new place is gone.
        """
        if new.kind is not PlaceKind.NEW or not self._holders(new):
            raise ArchiveError(f"{new.name} is no new place of app {new.app.id}", where=str(self._server))
        live = self.live(new.app, context)
        users = user_names(new.app.id)
        owner = Owner(context.project, new.app.id)
        holder = place_user(PlaceKind.NEW, owner)
        with explained(self._server):
            if (number := _where(live)[0]) != 0:
                coming = _where(new)[0]
                old = keyspace(PlaceKind.SCRATCH, new.app, coming, "")
                for left in self.leftovers(new.app, context):
                    if left.kind is PlaceKind.SCRATCH:
                        self.discard(left)
                self._keys.swap(number, coming, _held(place_user(old.kind, owner), owner, coming), holder)
                self._save()
                for user in users:
                    self._end_sessions(user)
                self.discard(old)
            else:
                with contextlib.ExitStack() as shut:
                    for user in users:
                        shut.enter_context(self._shut_out(user))
                    self._keys.exchange(_where(live)[1], _where(new)[1], holder)
                self._save()

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
            keyspace(kind, app, number, place_prefix(kind, owner))
            for kind in (PlaceKind.SCRATCH, PlaceKind.NEW)
            for number in _numbers(rules.get(place_user(kind, owner)), owner)
        ]

    # Keys from elsewhere

    def survey(self, app: App, context: StoreContext, source: ImportSource) -> Survey:
        """What the source says; whether this server takes its values in the form that they have there shows when they
        come, and where it does not they come by type. Keys of this very server are not followed: stopping its writers
        would stop what loads them."""
        seen = source.survey(app, context)
        if isinstance(source, FollowedRedis) and not seen.following and source.is_at(self._server, self._run()):
            why = "it is the app's own server, which takes in no copy while its writers are stopped: leave out --live"
            return replace(seen, following=why)
        return seen

    def bring_in(self, place: Place, source: ImportSource, done: Checkpoint, progress: Progress) -> None:
        """Copies the keys, 20,000 between two checkpoints. A run that goes on ends with a look at all keys of both
        sides: what has changed or gone at the source meanwhile is changed or gone here, too."""
        if not isinstance(source, RedisSource):
            raise TypeError(f"{type(source).__name__} is no source of keys")
        with explained(self._server):
            self._meet(source)
            Transfer(self._keys, Keyspace.of(place), source, progress).run(done)

    def follow(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Copies the keys. Nothing is made at the source, and the place follows nothing by itself."""
        with explained(self._server):
            self._followed(place, source, progress).copy()

    def catch_up(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Compares all keys, unless `follow` has just copied them, then those that change meanwhile."""
        with explained(self._server):
            self._followed(place, source, progress).catch_up()

    def lag(self, place: Place, source: ImportSource, mark: str) -> Lag:
        return Lag(None)

    def drain(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        with explained(self._server):
            self._followed(place, source, progress).drain()

    def unlike(self, place: Place, source: ImportSource) -> Sequence[str]:
        return self._followed(place, source, lambda *_: None).unlike()

    def detach(self, place: Place, mark: str) -> None:
        self._following = None

    def _followed(self, place: Place, source: ImportSource, progress: Progress) -> Following:
        """What is known of a place and its source, both open."""
        if not isinstance(source, FollowedRedis):
            raise TypeError(f"{type(source).__name__} is no source of keys that is followed")
        known = self._following
        if known is None or known.source is not source or known.place != place:
            self._meet(source)
            self._following = known = Following(self._keys, Keyspace.of(place), source, progress)
        return known

    def _meet(self, source: RedisSource) -> None:
        self._have_values_checked()
        if self._intake is None:
            where = lock_number(self._facts)
            self._intake = Intake(self._server, self._keys, self._facts, where, self._limits, self._keys.rdb())
        source.meet(self._intake)

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
                hint=more_databases(self._facts),
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
            carry_out(self._another, emptying(*_where(place), self._facts.commands))

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

    def _longest_word(self) -> int:
        """Bytes that the server takes in one word, and so in one value of a set."""
        with explained(self._server):
            try:
                return int(ask(self._client, "CONFIG", "GET", "proto-max-bulk-len")[1])
            except (ResponseError, IndexError):
                return LONGEST

    def _run(self) -> str:
        with explained(self._server):
            return fields(str(ask(self._client, "INFO", "server"))).get("run_id", "")

    def _read_limits(self) -> Limits:
        with explained(self._server):
            try:
                settings = ask(self._client, "CONFIG", "GET", "*-max-*")
            except ResponseError:
                return Limits()
            return Limits.read(dict(zip(settings[::2], settings[1::2], strict=True)))

    def _read_facts(self) -> RedisFacts:
        return read_facts(self._server, self._client)

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

    def _too_old(self, part: Part) -> WrongVersion:
        return WrongVersion(
            f"the set was made by {part.server}; {self._facts.product} {self._facts.version} is too old for it",
            where=str(self._server),
            hint=f"restore into that version or a later one: {NEWER}",
        )


def _where(place: Place) -> tuple[int, str]:
    """The DB number and the prefix of a place: one of them says nothing (0, or no prefix)."""
    keys = Keyspace.of(place)
    return keys.number, keys.prefix


def _held(user: str, owner: Owner, number: int) -> tuple[str, ...]:
    """The command that makes the user by whom a place is held."""
    return ("ACL", "SETUSER", user, "reset", "off", "resetchannels", f"&{mark(owner, number)}")


def _numbers(rule: Rule | None, owner: Owner) -> list[int]:
    return [number for marked, number in marks_of(rule) if marked == owner] if rule is not None else []
