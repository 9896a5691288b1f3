"""A project's state as one object in S3, with the locks that runs hold in the same object.

Every write names the version that it was made of (``If-Match``, ``If-None-Match``), so that of two writers one is
refused and reads again. A lock is a lease with a fencing number: its holder renews it, and once it has run out, the
next who wants the lock takes it with the next number. Since the lease stands in the object that the state is in, no
holder can write after it was taken from it, however long its machine was asleep: its write is made of a version that
has its lease in it, and that is not the newest any more. Times are the storage's own: no machine's clock matters.
"""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from multidb import s3
from multidb.document import moment
from multidb.errors import Locked, Refused, StateUnavailable, UsageError
from multidb.model.state_options import INCLUDED_STATES
from multidb.secrets import redact
from multidb.state_store import (
    TURN,
    HeldLock,
    Holder,
    Kept,
    KeptFile,
    damaged,
    identified,
    is_kept_file,
    lock_of,
    locked,
    refuse_other_project,
    state_of,
    state_text,
)
from multidb.state_stores.kind import StateStoreKind

__all__ = ["LEASE", "STATE_STORE", "S3StateStore"]

LEASE: Final = 30.0  # seconds for which a lock outlives its holder
_CONNECT, _READ, _TRIES = 5, 20, 3  # seconds, seconds, attempts at one request
_PAUSES: Final = (0.05, 0.5)  # seconds between two looks at what others write, at least and at most
_LARGEST: Final = 256 * 1024**2  # bytes
_LOCKS: Final = "locks"  # the section that nobody but this module sees
_TURN_LOCK: Final = "state"
_WRITTEN: Final = "written"  # metadata of a text beside the state
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_REFUSED: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_MISSING: Final = ("NoSuchKey", "404")
_DENIED: Final = ("AccessDenied", "Forbidden", "403", "AllAccessDisabled")
_ENDED: Final = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "TokenRefreshRequired")
_LOST: Final = (
    "bring an earlier version of the object back; without one, delete it, then: multidb state recover reads back from "
    "the servers what they know"
)


class _Outdated(Exception):
    """Another run has written since; nothing was."""


@dataclass(frozen=True, slots=True)
class _Lease:
    """A lock: its fencing number, until when it lasts, what its holder says of itself, and by what it knows it again
    where nobody told it whether it got it."""

    fence: int
    until: datetime
    holder: Mapping[str, object]
    token: str

    def document(self) -> dict[str, Any]:
        until = self.until.isoformat(timespec="milliseconds")
        return {"fence": self.fence, "until": until, "holder": dict(self.holder), "token": self.token}


@dataclass(frozen=True, slots=True)
class _StateObject:
    """The object as it was read.

    Args:
        document: the state in it.
        leases: by name of the lock.
        fence: the highest fencing number that was ever given.
        written: what the writer has written into it to know it again.
        etag: its version; None where there is none.
        now: the storage's time.
        mine: by token, the locks that this process had before it read: they have to be in it.
    """

    document: dict[str, Any] = field(default_factory=dict)
    leases: Mapping[str, _Lease] = field(default_factory=dict)
    fence: int = 0
    written: str = ""
    etag: str | None = None
    now: datetime = _NEVER
    mine: Mapping[str, str] = field(default_factory=dict)

    def holder_of(self, name: str) -> HeldLock | None:
        """Who has the lock now; None where nobody has, or the lease has run out."""
        lease = self.leases.get(name)
        if lease is None or lease.until <= self.now:
            return None
        return lock_of(str(lease.fence), name, lease.holder, lease.until.isoformat(timespec="seconds"))

    def with_lease(self, name: str, lease: _Lease) -> _StateObject:
        return replace(self, leases={**self.leases, name: lease}, fence=max(self.fence, lease.fence))

    def without(self, token: str) -> _StateObject:
        """Without this very lease."""
        return replace(self, leases={name: lease for name, lease in self.leases.items() if lease.token != token})

    def has(self, token: str) -> bool:
        return any(lease.token == token for lease in self.leases.values())


@dataclass(slots=True)
class _Held:
    """A lock that this process holds, or may have got.

    Args:
        there: the object as it was when it became ours.
        released: it was given back with what was written.
    """

    name: str
    token: str = field(default_factory=lambda: token_hex(8))
    there: _StateObject = field(default_factory=lambda: _StateObject())
    released: bool = False


class S3StateStore:
    """A `StateStore` in one object, ``state.json`` under the address.

    Args:
        address: ``s3://bucket/prefix``.
        project: whose state it is.
        lease: seconds for which a lock outlives its holder.

    Raises:
        UsageError: boto3 is not installed, or there is no bucket in the address.
    """

    def __init__(self, address: str, project: str, lease: float = LEASE) -> None:
        self._bucket, self._prefix = s3.place_of(address)
        self._key = f"{self._prefix}state.json"
        self.title = f"s3://{self._bucket}/{self._key}"
        self._project = project
        self._lease = timedelta(seconds=lease)
        self._client = s3.client(connect=_CONNECT, read=_READ, tries=_TRIES)
        self._changing = threading.Lock()
        self._guard = threading.Lock()
        self._mine: dict[str, str] = {}  # by token, the names of the locks that this process holds
        self._ending: set[str] = set()  # tokens of those that it gives back with what it writes
        self._renewing: threading.Thread | None = None
        self._enforces = False

    def damaged(self, reason: str) -> UsageError:
        return damaged(reason, self.title, _LOST)

    def read(self) -> Kept:
        there = self._get()
        return Kept(there.document, there.etag)

    @contextlib.contextmanager
    def change(self, holder: Holder) -> Iterator[dict[str, Any]]:
        if not self._changing.acquire(timeout=TURN):
            raise Locked("another part of this run has been changing it for a minute", where=self.title)
        try:
            with self._leased(_TURN_LOCK, holder, TURN) as held:
                document = copy.deepcopy(held.there.document)
                yield document
                identified(document, self._project)
                with self._guard:
                    self._ending.add(held.token)
                self._settle(
                    lambda newest: replace(newest.without(held.token), document=document), held.there, held.token
                )
                held.released = True
        finally:
            self._changing.release()

    @contextlib.contextmanager
    def lock(
        self, name: str, holder: Holder, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        with self._leased(f"lock-{name}", holder, timeout, waiting):
            yield

    def locks(self) -> Sequence[HeldLock]:
        there = self._get()
        held = filter(None, map(there.holder_of, sorted(there.leases)))
        return [replace(lock, name=lock.name.removeprefix("lock-")) for lock in held]

    def unlock(self, lock_id: str) -> HeldLock:
        there = self._get()
        held = next((lock for lock in map(there.holder_of, there.leases) if lock and lock.id == lock_id), None)
        if held is None:
            raise UsageError("no such lock is held", where=lock_id[:200], hint="multidb state show lists them")
        token = there.leases[held.name].token
        self._settle(lambda newest: newest.without(token), there)
        return replace(held, name=held.name.removeprefix("lock-"))

    def read_file(self, name: str) -> KeptFile:
        return self._file(name)[0]

    def _file(self, name: str) -> tuple[KeptFile, str]:
        """A text beside the state, and by what its writer knows it again."""
        from botocore.exceptions import ClientError

        with self._explaining(f"read {name} beside it"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) not in _MISSING:
                    raise
                return KeptFile(), ""
            text = answer["Body"].read(_LARGEST)
        return KeptFile(text.decode(errors="replace"), str(answer["ETag"])), answer["Metadata"].get(_WRITTEN, "")

    def write_file(self, name: str, text: str, version: object) -> bool:
        from botocore.exceptions import ClientError

        self._refuse_unconditional()
        written = token_hex(8)
        new = {"Bucket": self._bucket, "Key": self._prefix + name, "Body": text.encode()}
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._explaining(f"write {name} beside it"):
            try:
                self._client.put_object(**new, **condition, Metadata={_WRITTEN: written})
            except ClientError as error:
                if _code(error) not in (*_REFUSED, *_MISSING):
                    raise
            else:
                return True
        return self._file(name)[1] == written  # the first try did it, and its answer was lost

    def file_names(self) -> Sequence[str]:
        with self._explaining("list what is beside it"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return sorted(filter(is_kept_file, (key.removeprefix(self._prefix) for key in keys)))

    # Leases

    @contextlib.contextmanager
    def _leased(
        self, name: str, holder: Holder, timeout: float, waiting: Callable[[str], None] | None = None
    ) -> Iterator[_Held]:
        """Has the lock while the block runs."""
        held = _Held(name)
        try:
            self._take(held, holder, timeout, waiting)
            with self._guard:
                self._mine[held.token] = name
                if self._renewing is None:
                    self._renewing = threading.Thread(target=self._renew, name="multidb leases", daemon=True)
                    self._renewing.start()
            yield held
        except Locked:
            held.released = held.token not in self._mine  # never got it
            raise
        finally:
            with self._guard:
                self._mine.pop(held.token, None)
                self._ending.discard(held.token)
            if not held.released:
                with contextlib.suppress(StateUnavailable, UsageError, Refused):  # it ends by itself
                    self._let_go(held.token)

    def _take(self, held: _Held, holder: Holder, timeout: float, waiting: Callable[[str], None] | None) -> None:
        """Makes the lock ours."""
        deadline, seen = time.monotonic() + timeout, ""
        last = time.monotonic() + max(timeout, TURN)
        while True:
            there = self._get()
            self._refuse_lost(there)
            other = there.holder_of(held.name)
            if other is None:
                lease = _Lease(there.fence + 1, there.now + self._lease, holder, held.token)
                with contextlib.suppress(_Outdated):
                    held.there = self._put(there.with_lease(held.name, lease))
                    return
            elif other.id != seen:
                deadline, seen = time.monotonic() + timeout, other.id
                if waiting is not None and timeout:
                    waiting(other.who)
            if other is not None and time.monotonic() >= deadline:
                raise locked(other, self.title)
            if time.monotonic() >= last:
                raise self._crowded()
            time.sleep(random.uniform(*_PAUSES))  # noqa: S311 - so that two do not meet again

    def _let_go(self, token: str) -> None:
        there = self._get()
        while there.has(token):
            with contextlib.suppress(_Outdated):
                self._put(there.without(token))
                return
            there = self._get()

    def _renew(self) -> None:
        """Renews the leases of this process for as long as it has any."""
        while True:
            time.sleep(self._lease.total_seconds() / 3)
            with self._guard:
                if not self._mine:
                    self._renewing = None
                    return
                mine = dict(self._mine)
            with contextlib.suppress(StateUnavailable, UsageError, Refused):  # the next time, then
                self._renew_all(mine)

    def _renew_all(self, mine: Container[str]) -> None:
        """Renews these leases, again at once whenever others write in between: where many do, one try in ten seconds
        would lose each time."""
        last = time.monotonic() + self._lease.total_seconds()
        while time.monotonic() < last:
            there = self._get()
            renewed = there
            for name, lease in there.leases.items():
                if lease.token in mine:
                    renewed = renewed.with_lease(name, replace(lease, until=there.now + self._lease))
            if renewed is there:
                return
            with contextlib.suppress(_Outdated):
                self._put(renewed)
                return
            time.sleep(random.uniform(0, _PAUSES[0]))  # noqa: S311

    def _refuse_lost(self, there: _StateObject, own: str = "") -> None:
        """`Locked` where a lock of this process has been taken from it: what it would write is not its to write. What
        another part of the run took after `there` was read, or gives back, is not in it and not lost.

        Args:
            own: the token of the lock under which is written, if it is under one.
        """
        with self._guard:
            kept = self._mine.keys() - self._ending | {own}
        for token, name in there.mine.items() | {(own, self._mine.get(own, ""))}:
            if token in kept and token and not there.has(token):
                who = there.holder_of(name)
                words = f"{who.who} has it now" if who is not None else "nobody has it now"
                raise Locked(
                    f"the lock {name.removeprefix('lock-')} was taken from this run, which did not renew it in time or "
                    f"was taken for dead: {words}; nothing was written",
                    where=self.title,
                    hint="run the command again: it goes on from what is there now",
                )

    # The object

    def _settle(self, change: Callable[[_StateObject], _StateObject], there: _StateObject, own: str = "") -> None:
        """Writes what `change` makes of the object, again whenever a lock was taken or renewed meanwhile."""
        last = time.monotonic() + TURN
        while True:
            self._refuse_lost(there, own)
            with contextlib.suppress(_Outdated):
                self._put(change(there))
                return
            if time.monotonic() >= last:
                raise self._crowded()
            time.sleep(random.uniform(0, _PAUSES[0]))  # noqa: S311
            there = self._get()

    def _get(self) -> _StateObject:
        from botocore.exceptions import ClientError

        with self._guard:
            mine = dict(self._mine)
        with self._explaining("read it"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key)
            except ClientError as error:
                if _code(error) not in _MISSING:
                    raise
                return _StateObject(now=_time_of(error.response), mine=mine)
            text = answer["Body"].read(_LARGEST + 1)
        document = state_of(text, self.title, _LOST)
        refuse_other_project(document, self._project, self.title)
        locks = document.pop(_LOCKS, {})
        document.pop("version", None)
        try:
            leases = {name: _lease(entry) for name, entry in locks.get("held", {}).items()}
            etag, now = str(answer["ETag"]), _time_of(answer)
            return _StateObject(document, leases, int(locks["fence"]), str(locks["written"]), etag, now, mine)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self.damaged("does not say who holds its locks") from None

    def _put(self, desired: _StateObject) -> _StateObject:
        """Writes the object in the place of the version that it was made of; `_Outdated` where that is not the newest
        any more."""
        from botocore.exceptions import ClientError

        self._refuse_unconditional()
        written = token_hex(8)
        held = {name: lease.document() for name, lease in desired.leases.items() if lease.until > desired.now}
        locks = {"fence": desired.fence, "held": held, "written": written}
        body = state_text({**desired.document, _LOCKS: locks}).encode()
        condition = {"IfNoneMatch": "*"} if desired.etag is None else {"IfMatch": desired.etag}
        with self._explaining("write it"):
            try:
                answer = self._client.put_object(Bucket=self._bucket, Key=self._key, Body=body, **condition)
                return replace(desired, etag=str(answer["ETag"]), written=written)
            except ClientError as error:
                if _code(error) not in (*_REFUSED, *_MISSING):  # missing: it has been deleted
                    raise
        there = self._get()
        if there.written == written:  # the first try did it, and its answer was lost
            return there
        raise _Outdated

    def _refuse_unconditional(self) -> None:
        """Finds out, once, whether the storage keeps conditions: one that ignores them would lose what runs write."""
        if self._enforces:
            return
        place = {"Bucket": self._bucket, "Key": f"{self._key}.probe", "Body": b"Whether writes are conditional here.\n"}
        first = self._accepts(**place, IfNoneMatch="*")
        if (first and self._accepts(**place, IfNoneMatch="*")) or self._accepts(**place, IfMatch='"multidb"'):
            raise StateUnavailable(
                "this storage writes whatever a write depends on (If-Match, If-None-Match), so that two runs would "
                "overwrite each other's state",
                where=self.title,
                hint="keep the state in storage that has conditional writes, or in the folder: state: .multidb/",
            )
        self._enforces = True

    def _accepts(self, **request: Any) -> bool:
        """Whether a conditional write was made."""
        from botocore.exceptions import ClientError

        with self._explaining("write beside it"):
            try:
                self._client.put_object(**request)
            except ClientError as error:
                if _code(error) not in (*_REFUSED, *_MISSING):
                    raise
                return False
        return True

    @contextlib.contextmanager
    def _explaining(self, doing: str) -> Iterator[None]:
        """Errors of the storage as ours."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            raise self._refused(doing, _code(error)) from None
        except (BotoCoreError, HTTPClientError, OSError) as error:
            words = redact(str(error)).splitlines()[0][:200]
            raise StateUnavailable(
                f"cannot be reached: {words}",
                where=self.title,
                hint="check network and credentials (AWS_PROFILE, AWS_ENDPOINT_URL_S3 ...), then run the command again",
            ) from None

    def _refused(self, doing: str, code: str) -> StateUnavailable:
        if code == "NoSuchBucket":
            words, hint = f"there is no bucket {self._bucket}", "make it, or correct the address after state:"
        elif code in _DENIED:
            words = f"the credentials may not {doing}"
            hint = "ask for the rights that docs/teams.md names, then run the command again"
        elif code in _ENDED:
            words, hint = "the credentials have ended, or are none", "log in again, then run the command again"
        else:
            words, hint = f"the storage refuses to {doing}: it answered {code}", "correct that, then run it again"
        return StateUnavailable(words, where=self.title, hint=hint)

    def _crowded(self) -> Locked:
        return Locked(
            "other runs have written it each time before this one could",
            where=self.title,
            hint="wait for them to end, then run the command again",
        )


def _lease(entry: Any) -> _Lease:
    match entry:
        case {"fence": int(fence), "until": str(until), "holder": dict(holder), "token": str(token)}:
            return _Lease(fence, moment(until), holder, token)
    raise ValueError(entry)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "error"))


def _time_of(answer: Mapping[str, Any]) -> datetime:
    """The storage's own time, to a second; of one that does not tell it, ours."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(str(date)).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _open(address: str, project: str, _: Path) -> S3StateStore:
    return S3StateStore(address, project)


STATE_STORE: Final = StateStoreKind("s3", INCLUDED_STATES["s3"], _open)
