"""An import with little downtime: copied while the source is written, then kept like it until somebody cuts over.

The new place follows its source by itself, or is caught up; for as long as wanted, with the app in its old one
meanwhile. Cutting over catches up all copies, stops writing at the sources, waits for the last change, compares, and
exchanges the places. Both the copies and what was made at the sources are gone again when it is given up.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from multidb.backup.importing import ImportRequest, changed_words, importing_app, source_of
from multidb.backup.journal import FOLLOWING, Journal
from multidb.backup.places import differences, left_place, require_not_following, temporary_files
from multidb.backup.restoring import contexts_of, occupied, require_unbound, safety_set
from multidb.backup.sets import BackupSet
from multidb.engine import Engine
from multidb.errors import MultidbError, Refused, ServerError, UsageError
from multidb.fleet import Scope
from multidb.model import (
    App,
    ComparingArchive,
    FollowedSource,
    FollowingArchive,
    HandStoppedSource,
    ImportOptions,
    Lag,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
    listed,
)
from multidb.report import Report

__all__ = [
    "CutOver",
    "FollowedImport",
    "abort_following",
    "begin_following",
    "catch_up",
    "cut_over",
    "followed_import",
    "lags",
    "stoppings",
]

_BEGINNING: Final = "copying"
_FOLLOWING: Final = "following"
_STOPPED: Final = "cutting over"
_EXCHANGING: Final = "exchanging"
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
        return self.phase != _BEGINNING


@dataclass(frozen=True, slots=True)
class CutOver:
    """What a cut-over did.

    Args:
        downtime: seconds from the moment when nobody could write at the source to the one when the app could here.
        safety: the set of what the app had before.
        stopping: by store, how writing was stopped at its source, whether that lasts, and what undoes it.
        left: what could not be taken away at the source, and the way to it.
    """

    app: str
    stores: tuple[str, ...]
    downtime: float
    safety: BackupSet | None
    report: Report
    stopping: Mapping[str, str]
    left: tuple[str, ...] = ()


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
    require_unbound(engine, app, list(request.sources))
    mark = re.sub("[^a-z0-9_]", "_", f"multidb_{app.id}_{secrets.token_hex(4)}")[:_LONGEST_MARK]
    journal = Journal(engine.state)
    note = {
        **request.note,
        "typed": dict(typed),
        "mark": mark,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    journal.begin(FOLLOWING, app.id, {**note, "phase": _BEGINNING})
    caught_up: dict[str, str] = {}
    try:
        for store, (server, context) in contexts_of(engine, app, list(request.sources), app.where).items():
            progress(app.id, f"importing {store}")
            with _followed(request, store) as source, _archive(engine, server) as archive:
                place = archive.prepare(PlaceKind.NEW, app, context)
                with temporary_files():
                    archive.follow(place, source, mark, progress)
                    caught_up[store] = _caught_up(archive, place, source, mark, progress)
    except (MultidbError, KeyboardInterrupt):
        if not _given_up(engine, request, mark, progress):
            journal.end(FOLLOWING, app.id)
        raise
    journal.begin(FOLLOWING, app.id, {**note, "caught_up": caught_up, "phase": _FOLLOWING})


def lags(engine: Engine, request: ImportRequest, progress: Progress) -> dict[str, Lag]:
    """By store, how far the copy is behind.

    Raises:
        MultidbError: a source or a server cannot be asked.
    """
    app, note = importing_app(engine, request), _note(engine, request)
    by_store = {}
    for store in request.sources:
        with _opened(engine, request, app, store) as one:
            if one.place is None or note["phase"] == _BEGINNING:
                raise _half_copied(app.id, store)
            lag = one.archive.lag(one.place, one.source, note["mark"])
            if lag.size is None:
                lag = replace(lag, as_of=datetime.fromisoformat(note["caught_up"][store]))
            by_store[store] = lag
    return by_store


def stoppings(engine: Engine, request: ImportRequest) -> dict[str, str]:
    """By store, how writing will be stopped at its source, whether that lasts, and what undoes it.

    Raises:
        MultidbError: a source cannot be asked.
    """
    by_store, note = {}, _note(engine, request)
    for store in request.sources:
        try:
            with _followed(request, store) as source:
                by_store[store] = source.stopping()
        except ServerError as error:
            if not _goes_on_without(error, request, note):
                raise
    return by_store


def catch_up(engine: Engine, request: ImportRequest, progress: Progress) -> None:
    """Catches up the copies that do not follow by themselves, while everybody writes on. The caller holds `exclusively`
    and the app's lock.

    Raises:
        Refused: it was interrupted before everything was copied, or its places are being exchanged.
        MultidbError: it could not be done; the same again goes on.
    """
    app, note = importing_app(engine, request), _note(engine, request)
    if note["phase"] == _EXCHANGING:
        raise _being_exchanged(app.id)
    if note["phase"] == _BEGINNING:
        raise _half_copied(app.id, listed(list(request.sources)))
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(engine, request, app, store)) for store in request.sources]
        _require_there(opened, app)
        _all_caught_up(opened, note, app, Journal(engine.state), progress)


def cut_over(
    engine: Engine, request: ImportRequest, progress: Progress, stopped: Callable[[Sequence[str]], None] | None = None
) -> CutOver:
    """Catches up the copies, stops writing at the sources and makes the copies the app's. The caller holds
    `exclusively` and the app's lock.

    Args:
        stopped: told of the places whose writers people have to stop; returns when they have. None: they have already.

    Raises:
        Refused: the app has data, and `replace` was not said; or a copy is not what its source has. The app is as it
            was, and the source may be written again.
        MultidbError: it could not be done; the same again goes on.
    """
    app, note = importing_app(engine, request), _note(engine, request)
    stores, mark, journal = list(request.sources), str(note["mark"]), Journal(engine.state)
    before = None
    if note["phase"] == _BEGINNING:
        raise _half_copied(app.id, listed(stores))
    if note["phase"] != _EXCHANGING:
        taken = occupied(engine, app, stores)
        if taken and not request.replace:
            raise Refused(
                f"app {app.id} has data in {listed(taken)}",
                where=app.where,
                hint="add --replace (a safety set is made first)",
            )
        require_unbound(engine, app, stores)
        if taken and request.safety:
            before = safety_set(engine, app.id, taken, progress)
    began = time.monotonic()
    with ExitStack() as stack:
        copies, opened, left = _with_sources(stack, engine, request, app, note)
        stopping = {store: source.stopping() for store, source, *_ in opened}
        if note["phase"] != _EXCHANGING:
            _require_there(opened, app)
            by_hand = [one for one in opened if _is_stopped_by_hand(one.source)]
            written = opened if stopped is not None else [one for one in opened if one not in by_hand]
            note = _all_caught_up(written, note, app, journal, progress)
            if by_hand and stopped is not None:
                stopped([request.sources[one.store].text for one in by_hand])
            if not by_hand or stopped is not None:
                began = time.monotonic()
            _bring_to_an_end(opened, note, request, app, journal, progress)
        else:
            _bring_up_again(opened, note, request, app, progress)
        for store, archive, place, context in copies:
            progress(app.id, f"{store}: replacing")
            if place is not None:
                archive.detach(place, mark)
                archive.replace(place, context)
            for old in archive.leftovers(app, context):  # of a run that was killed in the middle of it
                archive.discard(old)
        report = engine.apply(Scope(apps=frozenset({app.id})))
        downtime = time.monotonic() - began
        if (error := report.error()) is not None:
            raise error
        left += [why for store, source, *_ in opened if (why := _taken_away(store, source, mark))]
    journal.end(FOLLOWING, app.id)
    return CutOver(app.id, tuple(stores), downtime, before, report, stopping, tuple(left))


def abort_following(engine: Engine, request: ImportRequest, progress: Progress) -> list[str]:
    """Gives the import up: the copies and what was made at the sources are gone, which may be written again. Says what
    is left there because it could not be reached. The caller holds `exclusively` and the app's lock.

    Raises:
        Refused: the places were exchanged already.
        ServerError: a server of the app failed; the same again goes on.
    """
    note = _note(engine, request)
    if note["phase"] == _EXCHANGING:
        raise _being_exchanged(request.app)
    left = _given_up(engine, request, str(note["mark"]), progress)
    Journal(engine.state).end(FOLLOWING, request.app)
    return left


def _half_copied(app: str, store: str) -> Refused:
    return Refused(
        f"it was interrupted before everything of {store} was copied",
        where=f"app {app}",
        hint=f"give it up: multidb import {app} --abort; then begin again",
    )


def _being_exchanged(app: str) -> Refused:
    return Refused(
        "its places are being exchanged", where=f"app {app}", hint=f"finish it: multidb import {app} --cutover"
    )


class _FollowingPlace(NamedTuple):
    """One store of an import that follows its source, as it is here."""

    store: str
    archive: FollowingArchive
    place: Place | None  # None: it is gone, or was exchanged already
    context: StoreContext


class _Opened(NamedTuple):
    """The same, with its source."""

    store: str
    source: FollowedSource
    archive: FollowingArchive
    place: Place | None
    context: StoreContext


def _is_stopped_by_hand(source: FollowedSource) -> bool:
    return isinstance(source, HandStoppedSource) and source.is_stopped_by_hand()


def _require_there(opened: list[_Opened], app: App) -> None:
    if gone := [one.store for one in opened if one.place is None]:
        raise Refused(
            f"the copy of {listed(gone)} is gone", where=app.where, hint=f"multidb import {app.id} --abort; then again"
        )


def _caught_up(archive: FollowingArchive, place: Place, source: FollowedSource, mark: str, progress: Progress) -> str:
    """Catches a copy up; as of when it is then."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    archive.catch_up(place, source, mark, progress)
    return moment


def _all_caught_up(
    opened: list[_Opened], note: dict[str, Any], app: App, journal: Journal, progress: Progress
) -> dict[str, Any]:
    """Catches up what does not follow by itself, while everybody writes on. The note that says so."""
    moments = dict(note.get("caught_up", {}))
    for store, source, archive, place, _ in opened:
        assert place is not None
        progress(app.id, f"catching up {store}")
        with temporary_files():
            moments[store] = _caught_up(archive, place, source, str(note["mark"]), progress)
    note = {**note, "caught_up": moments}
    journal.begin(FOLLOWING, app.id, note)
    return note


def _bring_to_an_end(
    opened: list[_Opened],
    note: Mapping[str, Any],
    request: ImportRequest,
    app: App,
    journal: Journal,
    progress: Progress,
) -> None:
    """From here on nobody writes at the sources; when it returns, the copies are what they have."""
    journal.begin(FOLLOWING, app.id, {**note, "phase": _STOPPED})
    try:
        _stop_and_drain(opened, str(note["mark"]), request, app, progress)
    except (MultidbError, KeyboardInterrupt):
        for _, source, *_ in opened:
            _allowed(source)
        journal.begin(FOLLOWING, app.id, {**note, "phase": _FOLLOWING})
        raise
    journal.begin(FOLLOWING, app.id, {**note, "phase": _EXCHANGING})


def _bring_up_again(
    opened: list[_Opened], note: Mapping[str, Any], request: ImportRequest, app: App, progress: Progress
) -> None:
    """In a run that goes on with exchanging: copies that do not follow by themselves are brought to what their sources
    have now, since nothing may have held who writes there when the earlier run was killed."""
    mark = str(note["mark"])
    left = [
        one for one in opened if one.place is not None and one.archive.lag(one.place, one.source, mark).size is None
    ]
    for one in left:
        assert one.place is not None
        progress(app.id, f"catching up {one.store}")
        with temporary_files():
            one.archive.catch_up(one.place, one.source, mark, progress)
    try:
        _stop_and_drain(left, mark, request, app, progress)
    except (MultidbError, KeyboardInterrupt):
        for one in left:
            _allowed(one.source)
        raise


def _stop_and_drain(opened: list[_Opened], mark: str, request: ImportRequest, app: App, progress: Progress) -> None:
    """Stops writing at the sources, waits for the last change, and compares.

    Raises:
        Refused: a copy is not what its source has, and that was not accepted.
    """
    changed: dict[str, list[str]] = {}
    for store, source, *_ in opened:
        progress(app.id, f"{store}: stopping writers at the source")
        source.stop_writing()
    for one in opened:
        assert one.place is not None
        with temporary_files():
            one.archive.drain(one.place, one.source, mark, progress)
            progress(app.id, f"comparing {one.store}")
            if other := _unlike(one, one.place, app):
                changed[one.store] = other
    for _, source, *_ in opened:
        source.require_stopped()
    if changed and not request.accept:
        by_hand = all(_is_stopped_by_hand(one.source) for one in opened if one.store in changed)
        again = f"stop what writes there, then: multidb import {app.id} --cutover"
        anew = "tables, columns and the like that were changed there are not followed: multidb import "
        anew += f"{app.id} --abort, then begin again"
        raise Refused(
            f"the copy is not what the source has: {changed_words(changed)}",
            where=app.where,
            hint=f"nothing was changed here, and the source may be written again; {again if by_hand else anew}",
        )


def _unlike(one: _Opened, place: Place, app: App) -> list[str]:
    """What of the copy is not as it is at the source, in words."""
    if isinstance(one.archive, ComparingArchive):
        return list(one.archive.unlike(place, one.source))
    there = one.source.measure(app, one.context)
    return list(differences(there, one.archive.measure(place), "the source"))


def _allowed(source: FollowedSource) -> None:
    try:
        source.allow_writing()
    except ServerError:  # what went wrong first is what is told
        return


def _note(engine: Engine, request: ImportRequest) -> dict[str, Any]:
    note = Journal(engine.state).open(FOLLOWING).get(request.app)
    if note is None:
        raise UsageError(
            f"no import into app {request.app} follows its source",
            hint=f"begin one: multidb import {request.app} --from-STORE WHERE --live",
        )
    return note


def _followed(request: ImportRequest, store: str) -> FollowedSource:
    source = source_of(request, store)
    if not isinstance(source, FollowedSource):
        raise Refused(
            f"what is written in {store} meanwhile cannot be followed",
            where=request.sources[store].text,
            hint="stop its writers, and leave out --live",
        )
    return source


def _archive(engine: Engine, server: Server) -> FollowingArchive:
    archive = engine.fleet.archive(server)
    if not isinstance(archive, FollowingArchive):
        raise Refused("nothing can be followed here", where=str(server), hint="leave out --live")
    return archive


@contextmanager
def _following_place(engine: Engine, app: App, store: str) -> Iterator[_FollowingPlace]:
    """The place that follows one store's source, for the block."""
    server, context = contexts_of(engine, app, [store], app.where)[store]
    with _archive(engine, server) as archive:
        yield _FollowingPlace(store, archive, left_place(archive, PlaceKind.NEW, app, context), context)


@contextmanager
def _opened(engine: Engine, request: ImportRequest, app: App, store: str) -> Iterator[_Opened]:
    """One store's source, and the place that follows it, for the block."""
    with _followed(request, store) as source, _following_place(engine, app, store) as (_, archive, place, context):
        yield _Opened(store, source, archive, place, context)


def _with_sources(
    stack: ExitStack, engine: Engine, request: ImportRequest, app: App, note: Mapping[str, Any]
) -> tuple[list[_FollowingPlace], list[_Opened], list[str]]:
    """All copies; those whose sources answer, with these; and what is left at the others, without which it goes on."""
    copies: list[_FollowingPlace] = []
    opened: list[_Opened] = []
    left: list[str] = []
    for store in request.sources:
        source = _followed(request, store)
        try:
            stack.enter_context(source)
        except ServerError as error:
            if not _goes_on_without(error, request, note):
                raise
            copies.append(stack.enter_context(_following_place(engine, app, store)))
            if what := source.left_behind(str(note["mark"]), stopped=False):
                left.append(f"{store}: {what} ({error.message})")
            continue
        copy = stack.enter_context(_following_place(engine, app, store))
        copies.append(copy)
        opened.append(_Opened(store, source, copy.archive, copy.place, copy.context))
    return copies, opened, left


def _goes_on_without(error: ServerError, request: ImportRequest, note: Mapping[str, Any]) -> bool:
    """Whether an import goes on without a source that does not answer: the copy was compared with it when places began
    to be exchanged, and whoever runs it accepts what was written there since. If not, the error says this way."""
    if note["phase"] != _EXCHANGING:
        return False
    if not request.accept:
        way = f"multidb import {request.app} --cutover --accept-differences"
        error.hint = f"{error.hint}; is it gone for good, then take what was compared with it before: {way}"
    return request.accept


def _given_up(engine: Engine, request: ImportRequest, mark: str, progress: Progress) -> list[str]:
    """Takes everything away. Says what could not be at a source."""
    app = engine.fleet.app(request.app)
    was_stopped = _note(engine, request)["phase"] == _STOPPED
    left = []
    for store, (server, context) in contexts_of(engine, app, list(request.sources), app.where).items():
        progress(app.id, f"{store}: giving up what follows")
        with _archive(engine, server) as archive:
            if (place := left_place(archive, PlaceKind.NEW, app, context)) is not None:
                archive.detach(place, mark)
                archive.discard(place)
        followed = _followed(request, store)
        try:
            with followed as source:
                if why := _taken_away(store, source, mark):
                    left.append(why)
                source.allow_writing()
        except ServerError as error:
            if what := followed.left_behind(mark, stopped=was_stopped):
                left.append(f"{store}: {what} ({error.message})")
    return left


def _taken_away(store: str, source: FollowedSource, mark: str) -> str:
    try:
        source.unfollow(mark)
    except ServerError as error:
        return f"{store}: {source.left_behind(mark, stopped=False)} ({error.message})"
    return ""
