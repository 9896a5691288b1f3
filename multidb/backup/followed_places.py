"""The places that follow data elsewhere, one for each store of an import, with their sources; and what is noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from multidb.backup.importing import ImportRequest, source_of
from multidb.backup.journal import FOLLOWING, Journal
from multidb.backup.live_data import contexts_of
from multidb.backup.places import left_place, temporary_files
from multidb.engine import Engine
from multidb.errors import Refused, ServerError, UsageError
from multidb.model import (
    App,
    FollowedSource,
    FollowingArchive,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
    listed,
)

__all__ = [
    "FollowingPlace",
    "OpenedPlace",
    "FollowingPhase",
    "all_caught_up",
    "being_exchanged",
    "catch_up_place",
    "followed_source",
    "following_archive",
    "following_place",
    "half_copied",
    "note_of",
    "opened_place",
    "require_there",
    "taken_away",
]


class FollowingPhase(StrEnum):
    """How far an import is that follows its sources, in its note."""

    COPYING = "copying"
    FOLLOWING = "following"
    STOPPED = "cutting over"
    EXCHANGING = "exchanging"


class FollowingPlace(NamedTuple):
    """One store of an import that follows its source, as it is here."""

    store: str
    archive: FollowingArchive
    place: Place | None  # None: it is gone, or was exchanged already
    context: StoreContext


class OpenedPlace(NamedTuple):
    """The same, with its source."""

    store: str
    source: FollowedSource
    archive: FollowingArchive
    place: Place | None
    context: StoreContext


@contextmanager
def following_place(engine: Engine, app: App, store: str) -> Iterator[FollowingPlace]:
    """The place that follows one store's source, for the block."""
    server, context = contexts_of(engine, app, [store], app.where)[store]
    with following_archive(engine, server) as archive:
        yield FollowingPlace(store, archive, left_place(archive, PlaceKind.NEW, app, context), context)


@contextmanager
def opened_place(engine: Engine, request: ImportRequest, app: App, store: str) -> Iterator[OpenedPlace]:
    """One store's source, and the place that follows it, for the block."""
    with followed_source(request, store) as source, following_place(engine, app, store) as (_, archive, place, context):
        yield OpenedPlace(store, source, archive, place, context)


def followed_source(request: ImportRequest, store: str) -> FollowedSource:
    source = source_of(request, store)
    if not isinstance(source, FollowedSource):
        raise Refused(
            f"what is written in {store} meanwhile cannot be followed",
            where=request.sources[store].text,
            hint="stop its writers, and leave out --live",
        )
    return source


def following_archive(engine: Engine, server: Server) -> FollowingArchive:
    archive = engine.fleet.archive(server)
    if not isinstance(archive, FollowingArchive):
        raise Refused("nothing can be followed here", where=str(server), hint="leave out --live")
    return archive


def note_of(engine: Engine, request: ImportRequest) -> dict[str, Any]:
    note = Journal(engine.state).open(FOLLOWING).get(request.app)
    if note is None:
        raise UsageError(
            f"no import into app {request.app} follows its source",
            hint=f"begin one: multidb import {request.app} --from-STORE WHERE --live",
        )
    return note


def half_copied(app: str, store: str) -> Refused:
    return Refused(
        f"it was interrupted before everything of {store} was copied",
        where=f"app {app}",
        hint=f"give it up: multidb import {app} --abort; then begin again",
    )


def being_exchanged(app: str) -> Refused:
    return Refused(
        "its places are being exchanged", where=f"app {app}", hint=f"finish it: multidb import {app} --cutover"
    )


def require_there(opened: list[OpenedPlace], app: App) -> None:
    if gone := [one.store for one in opened if one.place is None]:
        raise Refused(
            f"the copy of {listed(gone)} is gone", where=app.where, hint=f"multidb import {app.id} --abort; then again"
        )


def catch_up_place(
    archive: FollowingArchive, place: Place, source: FollowedSource, mark: str, progress: Progress
) -> str:
    """Catches a copy up; as of when it is then."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    archive.catch_up(place, source, mark, progress)
    return moment


def all_caught_up(
    opened: list[OpenedPlace], note: dict[str, Any], app: App, journal: Journal, progress: Progress
) -> dict[str, Any]:
    """Catches up what does not follow by itself, while everybody writes on. The note that says so."""
    moments = dict(note.get("caught_up", {}))
    for store, source, archive, place, _ in opened:
        assert place is not None
        progress(app.id, f"catching up {store}")
        with temporary_files():
            moments[store] = catch_up_place(archive, place, source, str(note["mark"]), progress)
    note = {**note, "caught_up": moments}
    journal.begin(FOLLOWING, app.id, note)
    return note


def taken_away(store: str, source: FollowedSource, mark: str) -> str:
    try:
        source.unfollow(mark)
    except ServerError as error:
        return f"{store}: {source.left_behind(mark, stopped=False)} ({error.message})"
    return ""
