"""An import with little downtime: copied while the source is written, then kept like it until somebody cuts over.

The new place follows its source by itself, or is caught up; for as long as wanted, with the app in its old one
meanwhile. Both the copies and what was made at the sources are gone again when it is given up.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from multidb.backup.followed_places import (
    FollowingPhase,
    all_caught_up,
    being_exchanged,
    catch_up_place,
    followed_source,
    following_archive,
    half_copied,
    note_of,
    opened_place,
    require_there,
    taken_away,
)
from multidb.backup.importing import ImportRequest, importing_app
from multidb.backup.journal import FOLLOWING, Journal
from multidb.backup.live_data import contexts_of, require_unbound
from multidb.backup.places import left_place, require_not_following, temporary_files
from multidb.engine import Engine
from multidb.errors import MultidbError, ServerError
from multidb.model import ImportOptions, Lag, PlaceKind, Progress, listed
from multidb.moves import require_not_moving

__all__ = ["FollowedImport", "abort_following", "begin_following", "catch_up", "followed_import", "lags"]

_LONGEST_MARK: Final = 63


@dataclass(frozen=True, slots=True)
class FollowedImport:
    """An import that is under way by itself.

    Args:
        typed: by store, where its source is, as it was typed; no password is in it.
        options: what of the sources it imports.
        since: when it was begun.
        phase: how far it is, in words.
    """

    app: str
    typed: Mapping[str, str]
    options: ImportOptions
    mark: str
    phase: str
    since: datetime

    @property
    def is_begun(self) -> bool:
        """Whether everything was copied, so that it can be cut over."""
        return self.phase != FollowingPhase.COPYING


def followed_import(engine: Engine, app_id: str) -> FollowedImport | None:
    """The app's, if there is one."""
    note = Journal(engine.state).open(FOLLOWING).get(app_id)
    if note is None:
        return None
    since = datetime.fromisoformat(str(note["since"]))
    options = ImportOptions(**note["options"])
    return FollowedImport(app_id, dict(note["typed"]), options, str(note["mark"]), str(note["phase"]), since)


def begin_following(engine: Engine, request: ImportRequest, typed: Mapping[str, str], progress: Progress) -> None:
    """Copies the sources beside what the app has, and has the copies follow them or caught up. The caller holds
    `exclusively` and the app's lock.

    Args:
        typed: by store, where its source is, as it is to be found again.

    Raises:
        Refused: another import follows its source; or one of these cannot be followed. Nothing was changed.
        MultidbError: it could not be begun; nothing of it is left, except where the error says so.
    """
    app = importing_app(engine, request)
    require_not_following(engine.state, app.id)
    require_not_moving(engine.state, app.id)
    require_unbound(engine, app, list(request.sources))
    mark = re.sub("[^a-z0-9_]", "_", f"multidb_{app.id}_{secrets.token_hex(4)}")[:_LONGEST_MARK]
    journal = Journal(engine.state)
    note = {
        **request.note,
        "typed": dict(typed),
        "mark": mark,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    journal.begin(FOLLOWING, app.id, {**note, "phase": FollowingPhase.COPYING})
    caught_up: dict[str, str] = {}
    try:
        for store, (server, context) in contexts_of(engine, app, list(request.sources), app.where).items():
            progress(app.id, f"importing {store}")
            with followed_source(request, store) as source, following_archive(engine, server) as archive:
                place = archive.prepare(PlaceKind.NEW, app, context)
                with temporary_files():
                    archive.follow(place, source, mark, progress)
                    caught_up[store] = catch_up_place(archive, place, source, mark, progress)
        journal.begin(FOLLOWING, app.id, {**note, "caught_up": caught_up, "phase": FollowingPhase.FOLLOWING})
    except (MultidbError, KeyboardInterrupt) as error:
        if not _given_up(engine, request, mark, progress):
            try:
                journal.end(FOLLOWING, app.id)
            except MultidbError:  # a disk that is full; what went wrong first is what is told
                if isinstance(error, MultidbError):
                    error.hint = f"{error.hint or 'correct that'}; before that: multidb import {app.id} --abort"
        raise


def lags(engine: Engine, request: ImportRequest, progress: Progress) -> dict[str, Lag]:
    """By store, how far the copy is behind.

    Raises:
        MultidbError: a source or a server cannot be asked.
    """
    app, note = importing_app(engine, request), note_of(engine, request)
    by_store = {}
    for store in request.sources:
        with opened_place(engine, request, app, store) as one:
            if one.place is None or note["phase"] == FollowingPhase.COPYING:
                raise half_copied(app.id, store)
            lag = one.archive.lag(one.place, one.source, note["mark"])
            if lag.size is None:
                lag = replace(lag, as_of=datetime.fromisoformat(note["caught_up"][store]))
            by_store[store] = lag
    return by_store


def catch_up(engine: Engine, request: ImportRequest, progress: Progress) -> None:
    """Catches up the copies that do not follow by themselves, while everybody writes on. The caller holds `exclusively`
    and the app's lock.

    Raises:
        Refused: it was interrupted before everything was copied, or its places are being exchanged.
        MultidbError: it could not be done; the same again goes on.
    """
    app, note = importing_app(engine, request), note_of(engine, request)
    if note["phase"] == FollowingPhase.EXCHANGING:
        raise being_exchanged(app.id)
    if note["phase"] == FollowingPhase.COPYING:
        raise half_copied(app.id, listed(list(request.sources)))
    with ExitStack() as stack:
        opened = [stack.enter_context(opened_place(engine, request, app, store)) for store in request.sources]
        require_there(opened, app)
        all_caught_up(opened, note, app, Journal(engine.state), progress)


def abort_following(engine: Engine, request: ImportRequest, progress: Progress) -> list[str]:
    """Gives the import up: the copies and what was made at the sources are gone, which may be written again. Says what
    is left there because it could not be reached. The caller holds `exclusively` and the app's lock.

    Raises:
        Refused: the places were exchanged already.
        ServerError: a server of the app failed; the same again goes on.
    """
    note = note_of(engine, request)
    if note["phase"] == FollowingPhase.EXCHANGING:
        raise being_exchanged(request.app)
    left = _given_up(engine, request, str(note["mark"]), progress)
    Journal(engine.state).end(FOLLOWING, request.app)
    return left


def _given_up(engine: Engine, request: ImportRequest, mark: str, progress: Progress) -> list[str]:
    """Takes everything away. Says what could not be at a source."""
    app = engine.fleet.app(request.app)
    was_stopped = note_of(engine, request)["phase"] == FollowingPhase.STOPPED
    left = []
    for store, (server, context) in contexts_of(engine, app, list(request.sources), app.where).items():
        progress(app.id, f"{store}: giving up what follows")
        with following_archive(engine, server) as archive:
            if (place := left_place(archive, PlaceKind.NEW, app, context)) is not None:
                archive.detach(place, mark)
                archive.discard(place)
        followed = followed_source(request, store)
        try:
            with followed as source:
                if why := taken_away(store, source, mark):
                    left.append(why)
                source.allow_writing()
        except ServerError as error:
            if what := followed.left_behind(mark, stopped=was_stopped):
                left.append(f"{store}: {what} ({error.message})")
    return left
