"""The end of an import that follows its sources: their writers are stopped, and the copies take the app's place.

All copies are caught up first. Then nobody writes at the sources, the last changes are waited for, both sides are
compared, and the places are exchanged. Killed in the middle of that, the same again ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from multidb.backup.followed_places import (
    FollowingPhase,
    FollowingPlace,
    OpenedPlace,
    all_caught_up,
    followed_source,
    following_place,
    half_copied,
    note_of,
    require_there,
    taken_away,
)
from multidb.backup.importing import ImportRequest, changed_words, importing_app
from multidb.backup.journal import FOLLOWING, Journal
from multidb.backup.live_data import occupied, require_unbound, safety_set
from multidb.backup.places import differences, temporary_files
from multidb.backup.sets import BackupSet
from multidb.engine import Engine
from multidb.errors import MultidbError, Refused, ServerError
from multidb.fleet import Scope
from multidb.model import App, ComparingArchive, FollowedSource, HandStoppedSource, Place, Progress, listed
from multidb.report import Report

__all__ = ["CutOver", "cut_over", "stoppings"]


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


def stoppings(engine: Engine, request: ImportRequest) -> dict[str, str]:
    """By store, how writing will be stopped at its source, whether that lasts, and what undoes it.

    Raises:
        MultidbError: a source cannot be asked.
    """
    by_store, note = {}, note_of(engine, request)
    for store in request.sources:
        try:
            with followed_source(request, store) as source:
                by_store[store] = source.stopping()
        except ServerError as error:
            if not _goes_on_without(error, request, note):
                raise
    return by_store


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
    app, note = importing_app(engine, request), note_of(engine, request)
    stores, mark, journal = list(request.sources), str(note["mark"]), Journal(engine.state)
    before = None
    if note["phase"] == FollowingPhase.COPYING:
        raise half_copied(app.id, listed(stores))
    if note["phase"] != FollowingPhase.EXCHANGING:
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
        if note["phase"] != FollowingPhase.EXCHANGING:
            require_there(opened, app)
            by_hand = [one for one in opened if _is_stopped_by_hand(one.source)]
            written = opened if stopped is not None else [one for one in opened if one not in by_hand]
            note = all_caught_up(written, note, app, journal, progress)
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
        left += [why for store, source, *_ in opened if (why := taken_away(store, source, mark))]
    journal.end(FOLLOWING, app.id)
    return CutOver(app.id, tuple(stores), downtime, before, report, stopping, tuple(left))


def _with_sources(
    stack: ExitStack, engine: Engine, request: ImportRequest, app: App, note: Mapping[str, Any]
) -> tuple[list[FollowingPlace], list[OpenedPlace], list[str]]:
    """All copies; those whose sources answer, with these; and what is left at the others, without which it goes on."""
    copies: list[FollowingPlace] = []
    opened: list[OpenedPlace] = []
    left: list[str] = []
    for store in request.sources:
        source, answers = followed_source(request, store), True
        try:
            stack.enter_context(source)
        except ServerError as error:
            if not _goes_on_without(error, request, note):
                raise
            answers = False
            if what := source.left_behind(str(note["mark"]), stopped=False):
                left.append(f"{store}: {what} ({error.message})")
        copy = stack.enter_context(following_place(engine, app, store))
        copies.append(copy)
        if answers:
            opened.append(OpenedPlace(store, source, copy.archive, copy.place, copy.context))
    return copies, opened, left


def _goes_on_without(error: ServerError, request: ImportRequest, note: Mapping[str, Any]) -> bool:
    """Whether an import goes on without a source that does not answer: the copy was compared with it when places began
    to be exchanged, and whoever runs it accepts what was written there since. If not, the error says this way."""
    if note["phase"] != FollowingPhase.EXCHANGING:
        return False
    if not request.accept:
        way = f"multidb import {request.app} --cutover --accept-differences"
        error.hint = f"{error.hint}; is it gone for good, then take what was compared with it before: {way}"
    return request.accept


def _is_stopped_by_hand(source: FollowedSource) -> bool:
    return isinstance(source, HandStoppedSource) and source.is_stopped_by_hand()


def _bring_to_an_end(
    opened: list[OpenedPlace],
    note: Mapping[str, Any],
    request: ImportRequest,
    app: App,
    journal: Journal,
    progress: Progress,
) -> None:
    """From here on nobody writes at the sources; when it returns, the copies are what they have."""
    journal.begin(FOLLOWING, app.id, {**note, "phase": FollowingPhase.STOPPED})
    try:
        _stop_and_drain(opened, str(note["mark"]), request, app, progress)
        journal.begin(FOLLOWING, app.id, {**note, "phase": FollowingPhase.EXCHANGING})
    except (MultidbError, KeyboardInterrupt):
        for _, source, *_ in opened:
            _allowed(source)
        with suppress(MultidbError):  # what went wrong first is what is told; a note of stopped writers is no obstacle
            journal.begin(FOLLOWING, app.id, {**note, "phase": FollowingPhase.FOLLOWING})
        raise


def _bring_up_again(
    opened: list[OpenedPlace], note: Mapping[str, Any], request: ImportRequest, app: App, progress: Progress
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


def _stop_and_drain(opened: list[OpenedPlace], mark: str, request: ImportRequest, app: App, progress: Progress) -> None:
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


def _unlike(one: OpenedPlace, place: Place, app: App) -> list[str]:
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
