"""What a store's part of a backup set is, and what a store can do with one.

A *place* is where data lives on a server: an app's own (live), or one that no app can reach and that multidb made to
try a set out (scratch) or to load it before it replaces what is there (new).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO, Protocol, Self, runtime_checkable

from multidb.model.core import App, Progress, StoreContext
from multidb.model.options import StoreOwned

__all__ = [
    "Archive",
    "ArchiveReader",
    "ArchiveWriter",
    "BoundArchive",
    "Measures",
    "Offline",
    "OfflineArchive",
    "Part",
    "Place",
    "PlaceKind",
    "ScriptArchive",
    "TableArchive",
    "TakeOffline",
]


@dataclass(frozen=True, slots=True)
class Measures:
    """What a restore is compared by.

    Args:
        counts: how many, by what: ``{"table public.orders": 1200}``, ``{"hash keys": 7}``, ``{"label Person": 3}``.
        fingerprints: by the same names, a digest of the content that does not depend on the order of rows, on the
            server's version or on physical layout. A name may be missing where the store cannot make one cheaply.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """One store of one set, as the set's ``manifest.json`` describes it. Plain values only; no secret.

    Args:
        format: what is in the files, with its version: ``pg_dump custom``, ``redis dump 1``.
        server: product and version that it was made from (``PostgreSQL 18.6``).
        client: the tool that made it, with its version.
        consistent: whether everything in it is of one moment.
        measures: taken at the same moment as the data (or, where not `consistent`, as near as can be).
        details: what the store needs to restore it (names, collection configs, aliases).
    """

    format: str
    server: str
    client: str
    consistent: bool
    measures: Measures
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it: what of the app's data a restore does not make. Empty for most."""
        notes = self.details.get("notes", ())
        return tuple(note for note in notes if isinstance(note, str)) if isinstance(notes, list | tuple) else ()


class PlaceKind(StrEnum):
    LIVE = "live"
    SCRATCH = "scratch"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Place(StoreOwned):
    """Where on a server. `name` is the store's own (a database, a prefix, a DB number), for messages; what else a store
    has to know of it is in a subclass."""

    kind: PlaceKind
    app: App
    name: str


class ArchiveWriter(Protocol):
    """The files of one store in a set being made. What is written is compressed, encrypted and checksummed on its way;
    the store sees plain bytes and never holds a whole file."""

    def file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A new file to be written from start to end. One at a time. `name` is plain: ``dump.pgc``, ``keys.bin``."""


class ArchiveReader(Protocol):
    """The files of one store in a finished set. A checksum that does not fit raises `ArchiveError` at the latest when
    the end of the file is read."""

    def names(self) -> Sequence[str]:
        """The files, in the order in which they were written."""

    def file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The file's plain bytes, to be read from start to end."""


class Offline(Protocol):
    """A server that was stopped, so that its store's own tool can work on its files."""

    def dump(self, database: str, stream: BinaryIO) -> None:
        """Writes the whole database as the tool does. `ArchiveError` with what the tool said when it could not."""

    def load(self, database: str, stream: BinaryIO) -> None:
        """Replaces the database by what a stream of `dump` holds. Interrupted or failed, it is empty when the server
        starts again.

        Raises:
            ArchiveError: the tool could not; with what it said.
            ServerError: the server's disk is full, which says nothing of the stream.
        """


TakeOffline = Callable[[Progress], AbstractContextManager[Offline]]
"""Stops a server for a block, see ``Runtime.take_offline``."""


class Archive(Protocol):
    """A store's data coming and going, on one server, with the admin's login. A context manager; used by one thread.

    Everything here may be interrupted anywhere and started again. `discard` and `leftovers` clean up after a crash.
    Driver errors come out as `ServerError`, a wrong file as `ArchiveError`, what is not multidb's as `Conflict`. There
    is no secret in any of them.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        """Writes everything the app has on this server. Streams: memory does not grow with the data."""

    def live(self, app: App, context: StoreContext) -> Place:
        """The app's own place."""

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        """Makes an empty place of kind `SCRATCH` or `NEW` that no app can reach, marked as multidb's. One left over
        by a crash is emptied first.

        Raises:
            Conflict: something stands under the place's name that multidb did not make; it is not touched.
            Refused: there is no room for another place (every DB number is taken).
            NeedsServer: the server holds one place only (Neo4j Community has one database). Where ``Runtime.scratch``
                gives a second server, `prepare` on *its* archive gives the place, the whole server being the place:

                    with runtime.scratch(server, progress, adoptable=kind is PlaceKind.NEW) as scratch:
                        with store.archive(scratch, runtime.admin(scratch), ...) as archive:
                            place = archive.prepare(kind, app, context_of_spare)
                            archive.restore(place, part, reader, progress)
                            found = archive.measure(place)
                        runtime.adopt(server, scratch, progress)  # for `NEW`, instead of `replace`

                where ``context_of_scratch`` is `context` with the scratch server's own facts (from a session on it) and
                ``server=scratch``. Where there is no scratch server, a set cannot be tried out, and `restore` into the
                live place is what is left.
        """

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        """Loads a part into an empty place. Names of the app that the set was made of become those of `place.app`.
        A server that cannot take the part is refused before anything is loaded (`WrongVersion`, which says nothing of
        the set).

        A live place that is not empty is refused, except where `prepare` raises `NeedsServer`: there what it holds is
        replaced in one transaction, so that the app has either the old data or all of the new; `ArchiveError` where
        that is too much for one transaction, and then nothing was changed."""

    def measure(self, place: Place) -> Measures:
        """The same measures as `backup` takes, of what is in the place now, under the names of the set."""

    def is_empty(self, place: Place) -> bool:
        """Whether there is no data in it; what `multidb apply` makes (empty schemas, indexes) is no data."""

    def replace(self, new: Place, context: StoreContext) -> None:
        """Makes a `NEW` place the app's live one, in one step as far as the store can: at any moment the app has
        either the old data or all of the new. The old data is gone when this returns. Sessions of the app are ended.
        Grants, owners and access rules are re-made by `multidb apply` afterwards.

        Raises:
            ArchiveError, Refused: something stands against it; nothing was changed.
            ServerError: a server failed; some of it may be done, and the same again, or `discard`, does the rest.
        """

    def discard(self, place: Place) -> None:
        """Removes a `SCRATCH` or `NEW` place; `LIVE` is refused (`ValueError`). One that is gone is fine."""

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        """Places of kind `SCRATCH` and `NEW` that an earlier run has left."""


@runtime_checkable
class BoundArchive(Archive, Protocol):
    """An archive of a store to whose places something may be bound that is in no set."""

    def require_unbound(self, app: App, context: StoreContext) -> None:
        """Refuses what `replace` would refuse, before anything is begun.

        Raises:
            Refused: something is bound to the app's live place; says what, and what ends it.
        """


@runtime_checkable
class TableArchive(Archive, Protocol):
    """An archive of a store with tables, which can bring back some of them alone."""

    def find_tables(self, place: Place, names: Sequence[str]) -> Mapping[str, str]:
        """The tables of those names in the place, each by its full name as `Measures` write it; what is not there is
        left out. `Refused` where a name means two, or less than a whole table."""

    def replace_tables(self, new: Place, tables: Sequence[str], part: Part) -> None:
        """Makes the tables (full names) of the app's live place what they are in another place that holds the set, in
        one step: at any moment the app has all of the old ones or all of the new. What it has beside them stays.

        Raises:
            Refused, ArchiveError: something of the app stands against it; nothing was changed.
        """


@runtime_checkable
class ScriptArchive(Archive, Protocol):
    """An archive of a store with a language in which data can be changed by a script."""

    def run_script(self, app: App, text: str) -> None:
        """Runs the script in the app's live place, all of it or nothing, with no more power than the app has: what
        fires on its way (triggers, functions in views) was made by the app. Works while the app's logins are off, and
        turns none of them on. What the store has made out of the data before is made of what the script has left.

        Raises:
            ArchiveError: the script failed, or the app has no place of its own here; nothing was changed. Or what is
                made out of the data could not be made anew.
        """


@runtime_checkable
class OfflineArchive(Archive, Protocol):
    """An archive whose `backup` may have to stop the server for a moment."""

    def goes_offline(self, app: App, context: StoreContext, progress: Progress) -> bool:
        """Whether `backup` is going to stop the server. What can be read while the app is still at work is read now:
        call this, then turn the app's logins off, then `backup`."""
