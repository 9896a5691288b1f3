"""What a store can do with data that is elsewhere: look at it, take it into an app's place, and compare.

A *source* is a server that is not the project's, or a file that another tool has made. What it says is data, whoever
wrote it; nothing is run there but what reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow
from multidb.model.archive import Archive, Measures, Place
from multidb.model.core import App, Progress, StoreContext
from multidb.secrets import Secret

__all__ = [
    "Checkpoint",
    "ComparingArchive",
    "FollowedSource",
    "FollowingArchive",
    "HandStoppedSource",
    "ImportArchive",
    "ImportOptions",
    "ImportSource",
    "Lag",
    "PartlyKnownSource",
    "SourceLocation",
    "Survey",
    "at_source",
    "password_variable",
]


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where data to be imported is: a server or a file.

    Args:
        text: the address without its password and what stands behind ``?``, or the path; for messages.
        url: the address without its password, where it is a server.
        path: where it is a file or a folder.
        password: of the login that the address names, or what the server asks for instead (an api key).
        followed_by: the app whose import has been following it, so that nobody types it again; empty: it was typed.
    """

    text: str
    url: str | None = None
    path: Path | None = None
    password: Secret | None = None
    followed_by: str = ""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What of a source is imported, and under which names.

    Args:
        pattern: only what the store calls by such a name (a shell pattern of keys, of collections); empty: all.
        prefix: what is taken off the beginning of names before the app's own comes there; what has another beginning
            is not imported. Empty: nothing.
        names: by name at the source, the name that it is to have, without what the app's place puts before it.
    """

    pattern: str = ""
    prefix: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to import, before anything is changed.

    Args:
        product: what the source is, with its version: ``PostgreSQL 16.4``, ``RDB file, version 11``.
        counts: how many, by the names of `Measures`, as the source has them.
        estimated: whether some of the counts are estimates, since exact ones would take a scan.
        size: bytes at the source; None: it does not tell.
        renames: name at the source -> name in the app's place, where they differ.
        losses: what does not come along, as sentences without a full stop.
        obstacles: why it cannot be imported as it is, each with the way on; none: it can.
        warnings: what is to be thought about before, as sentences.
        following: why changes that are made while it is copied cannot be followed; empty: they can.
    """

    product: str
    counts: Mapping[str, int] = field(default_factory=dict)
    estimated: bool = False
    size: int | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    losses: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    following: str = "changes that are made while it is copied are not followed: stop its writers first"


class ImportSource(Protocol):
    """Data elsewhere. A context manager, entered before anything else is called; used by one thread. It reads only.

    Raises of all methods: `ServerError` (`AuthenticationFailed`, `WrongVersion` ...) for a server, `ArchiveError` for
    a file, `UsageError` for an address or options that make no sense to the store. No secret is in any of them.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def survey(self, app: App, context: StoreContext) -> Survey:
        """What there is for `app`, quickly: as far as the source and the facts of the app's server tell."""

    def measure(self, app: App, context: StoreContext) -> Measures:
        """What there is now, under the names and with what is added that the app's place has afterwards: to be compared
        with ``Archive.measure(place)``. A name may be missing where the source cannot tell; nothing at all, where only
        loading it tells."""

    def copied(self) -> Measures | None:
        """What `ImportArchive.bring_in` has copied in this process, of the very moment of the copy; None: nothing yet,
        or what is copied is not of one moment."""


@runtime_checkable
class PartlyKnownSource(ImportSource, Protocol):
    """A source that cannot tell how many there are of everything that its copy has."""

    def knows(self, name: str) -> bool:
        """Whether `measure`, which was asked, tells of what `Measures` call so."""


class Checkpoint(Protocol):
    """What of one store has been imported, kept when a run is killed. A part is a name of the store's own choice, of at
    most 200 printable characters; thousands are fine, millions are not."""

    def done(self) -> frozenset[str]: ...

    def add(self, part: str) -> None:
        """Durable when it returns."""


@runtime_checkable
class ImportArchive(Archive, Protocol):
    """An archive that takes data from a `ImportSource` of its own store."""

    def survey(self, app: App, context: StoreContext, source: ImportSource) -> Survey:
        """`ImportSource.survey`, and what this server has against it or cannot keep; most have nothing to add."""

    def bring_in(self, place: Place, source: ImportSource, done: Checkpoint, progress: Progress) -> None:
        """Copies all of the source into an empty place of kind `NEW`, or goes on in one that an earlier run has filled
        as far as `done` says; by a login that may do no more than the app. Streams: memory does not grow with the data.

        Where nothing is `done`, the place is empty: whoever can't go on adds nothing, and begins anew after a crash.
        Called in each run, also where all is done: what the source needs for being compared is seen to here.

        Raises:
            ServerError: the source or the server failed. Run again, it goes on or begins anew.
            ArchiveError: the source's data is damaged or does not fit. The place is given up.
            Refused: a survey would have said it.
        """


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a copy that follows its source is behind it.

    Args:
        size: bytes of changes at the source that are not in the copy yet; None: the copy is brought up to date by
            `FollowingArchive.catch_up`, not by itself, and only that tells what has changed.
        problem: why it does not come nearer; empty: it does.
        as_of: where there is no `size`, the moment up to which the copy has every change. Not for a store to say.
    """

    size: int | None
    problem: str = ""
    as_of: datetime | None = None


@runtime_checkable
class FollowedSource(ImportSource, Protocol):
    """A source whose changes can be followed after it was copied.

    What following makes at the source is called by a `mark`, a name of lower-case letters, digits and underscores that
    nobody else has; `unfollow` takes away all of it.
    """

    def stopping(self) -> str:
        """How `stop_writing` stops others at this source, whether that lasts, and what undoes it or is to be done
        instead: a sentence without a full stop, said before it is done and after it."""

    def stop_writing(self) -> None:
        """Ends what others do at the source; until this source is left nobody writes there. Afterwards nobody does who
        has not said so, except where `stopping` says otherwise. Done already is fine.

        Raises:
            NotAllowed: the login may not do that; says the statement that does it.
            ServerSlow: somebody could not be ended.
        """

    def require_stopped(self) -> None:
        """Nobody can have written at the source since `stop_writing`, called in this process.

        Raises:
            ServerError: somebody may have: what held them is gone.
        """

    def allow_writing(self) -> None:
        """Undoes what of `stop_writing` lasts. Nothing to undo is fine."""

    def unfollow(self, mark: str) -> None:
        """Takes away what following has made at the source. Nothing there is fine."""

    def left_behind(self, mark: str, *, stopped: bool) -> str:
        """What may be left at a source that cannot be asked, and what takes it away there; empty: nothing. Not entered,
        this tells it, too.

        Args:
            stopped: whether `stop_writing` was called, perhaps by a run that was killed.
        """


@runtime_checkable
class HandStoppedSource(FollowedSource, Protocol):
    """A source that may have no way of its own to stop who writes there."""

    def is_stopped_by_hand(self) -> bool:
        """Whether `stop_writing` does nothing, and people have to do it where the writers run. That they have not is
        found by the comparison, as far as they write meanwhile."""


@runtime_checkable
class FollowingArchive(ImportArchive, Protocol):
    """An archive whose places can follow a source: by themselves, or by being caught up.

    Within one block of the source and the archive the calls come as `follow`, `catch_up`; or as `catch_up`,
    `FollowedSource.stop_writing`, `drain`, `FollowedSource.require_stopped`. What a store knows by one, such as what
    has changed since, may be kept in the source or the archive for the next, and is lost with the block.
    """

    def follow(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """As `bring_in`, into a place that can be brought to what the source has from then on: it takes every change
        of the source by itself, with no more power than the app has, whether or not this process lives; or `catch_up`
        finds what has changed.

        Raises:
            As `bring_in`; what was made at the source by then is `FollowedSource.unfollow`'s to take away.
        """

    def catch_up(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Brings the place to what the source has, which is written on meanwhile, so that what is left for `drain` is
        as little as can be: what was written since this was called is enough. Nothing to do, where a place follows by
        itself. It may take as long as a copy; nobody waits. It can be done any number of times.

        Raises:
            As `bring_in`. The place can be caught up again.
        """

    def lag(self, place: Place, source: ImportSource, mark: str) -> Lag:
        """How far the place is behind now. Quick: it reads no data."""

    def drain(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Returns when the place has everything that the source has, of which nobody writes any more; also what is not
        followed (positions of sequences). Everybody waits for it.

        Raises:
            ServerSlow: it does not come nearer.
        """

    def detach(self, place: Place, mark: str) -> None:
        """The place follows nothing any more; the source is not asked. Done already is fine."""


@runtime_checkable
class ComparingArchive(FollowingArchive, Protocol):
    """One that compares on its way, so that after `drain` not everything has to be read on both sides once more."""

    def unlike(self, place: Place, source: ImportSource) -> Sequence[str]:
        """After `drain`, what in the place is not as it is at the source, in words: of everything, each part compared
        when or after it was last changed at the source. Nothing: it is the same."""


def password_variable(store: str) -> str:
    """The environment variable in which the password of the store's source is looked for."""
    return f"MULTIDB_IMPORT_{re.sub('[^A-Z0-9]', '_', store.upper())}_PASSWORD"


@contextmanager
def at_source(location: SourceLocation, store: str) -> Iterator[None]:
    """In the block, what goes wrong with a server is said of the source, with what to do about it there."""
    option, variable, again = f"--from-{store}", password_variable(store), "then run the command again"
    login = f"correct the user in {option}, or its password in {variable}"
    elsewhere, otherwise = f"start it where it runs, or correct {option}", f"correct {option}, or what is wrong there"
    if location.followed_by:
        give_up = f"to give it up: multidb import {location.followed_by} --abort"
        login = f"put the password of its user into {variable}, {again}; {give_up}"
        elsewhere, otherwise = "start it where it runs", "correct what is wrong there"
    hints = {
        AuthenticationFailed: login,
        NotAllowed: "use a login there that may read all that is to be imported",
        ServerSlow: f"see whether it is overloaded, {again}",
        ServerDown: f"{elsewhere}; {again}",
    }
    otherwise = f"{otherwise}; {again}"
    try:
        yield
    except ServerError as error:
        error.where = f"source {location.text}"
        own = otherwise if type(error) is ServerError else error.hint
        error.hint = next((hint for kind, hint in hints.items() if isinstance(error, kind)), own)
        raise
