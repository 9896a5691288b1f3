"""A second place for an app's data beside its live one: on the same server, or, where a server has room for one place
only, on a scratch server that the runtime starts for the time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import tempfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from multidb.backup.journal import FOLLOWING, Journal
from multidb.backup.sets import StoredPart
from multidb.backup.streams import StoreReader
from multidb.closure import closures
from multidb.errors import ArchiveError, NeedsServer, Refused, ServerError, TargetError
from multidb.fleet import Fleet
from multidb.model import App, Archive, Measures, Place, PlaceKind, Progress, Server, StoreContext, listed
from multidb.state import ProjectState

__all__ = [
    "EVERY_KIND",
    "PreparedPlace",
    "clear",
    "compare",
    "differences",
    "durability",
    "left_place",
    "load",
    "prepared_place",
    "require_not_following",
    "require_settled",
    "temporary_files",
]

EVERY_KIND: Final = frozenset(PlaceKind)


@dataclass(slots=True)
class PreparedPlace:
    """An empty place that no app can reach.

    Args:
        replace_live: makes it the app's live place (only of kind `NEW`).
        lasting: whether it is still there when this process has died.
        kept: whether it stays when the block ends by an error, for the next run to take.
    """

    archive: Archive
    place: Place
    replace_live: Callable[[], None]
    lasting: bool
    kept: bool = False


def durability(place: PreparedPlace | None) -> int:
    """By which places are exchanged in order: first what a killed run would lose."""
    return 0 if place is None else 1 + place.lasting


@contextlib.contextmanager
def prepared_place(
    fleet: Fleet,
    kind: PlaceKind,
    server: Server,
    app: App,
    context: StoreContext,
    progress: Progress,
    *,
    scratch: bool = True,
    left: bool = False,
) -> Iterator[PreparedPlace]:
    """A place of this kind for the block; it is gone afterwards, unless somebody put it in the live one's stead.

    Args:
        scratch: whether a scratch server may be started where there is no room on the server itself.
        left: take the one that an earlier run has left, with what is in it.

    Raises:
        NeedsServer: there is no room on the server, and no scratch server is to be had.
    """
    with fleet.archive(server) as archive:
        try:
            earlier = left_place(archive, kind, app, context) if left else None
            place = earlier or archive.prepare(kind, app, context)
        except NeedsServer:
            if not scratch:
                raise
        else:
            prepared = PreparedPlace(archive, place, lambda: archive.replace(place, context), lasting=True)
            try:
                yield prepared
            except BaseException:
                if not prepared.kept:
                    with contextlib.suppress(
                        ServerError
                    ):  # what went wrong first is what is told; the next run clears it
                        archive.discard(place)
                raise
            archive.discard(place)
            return
    with _scratch(fleet, kind, server, app, context, progress) as prepared:
        yield prepared


def left_place(archive: Archive, kind: PlaceKind, app: App, context: StoreContext) -> Place | None:
    """The place of this kind that an earlier run has left on the server itself."""
    return next((place for place in archive.leftovers(app, context) if place.kind is kind), None)


def load(prepared: PreparedPlace, stored: StoredPart, reader: StoreReader, progress: Progress) -> None:
    """Restores a part into a prepared place and compares what is there then with what was measured for the set.

    Raises:
        ArchiveError: it is another.
    """
    with temporary_files(), _understood():
        prepared.archive.restore(prepared.place, stored.part, reader, progress)
    with temporary_files():
        compare(stored, prepared.archive, prepared.place)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """A store reads in the block what the set says of its own part (`Part.details`), in which anything may stand."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ArchiveError(
            f"what the set says of the store's part is not what this multidb writes ({type(error).__name__})",
            hint="take another set",
        ) from error


def compare(stored: StoredPart, archive: Archive, place: Place) -> None:
    """Compares what a part was loaded into with what was measured when the set was made.

    Raises:
        ArchiveError: it is another.
    """
    other = list(differences(stored.part.measures, archive.measure(place)))
    if other:
        raise ArchiveError(
            f"restored, it is not what was backed up: {listed(other, between='; ')}",
            hint=f"take another set: multidb backups list {place.app.id}",
        )


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """A store's archive may use temporary files in the block.

    Raises:
        TargetError: the disk is too full for them; it says nothing of a set.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TargetError(
            "no space is left for temporary files",
            where=tempfile.gettempdir(),
            hint="free space there, or name another folder: TMPDIR=FOLDER",
        ) from None


def differences(expected: Measures, actual: Measures, of: str = "the set") -> Iterator[str]:
    """What of `actual` is not as `expected`, in words. A fingerprint that one side could not make is no difference.

    Args:
        of: whose `expected` is.
    """
    for name in sorted({*expected.counts, *actual.counts}):
        want, have = expected.counts.get(name), actual.counts.get(name)
        if want != have:
            yield f"{name}: {_number(have)}, {of} says {_number(want)}"
    for name in sorted(set(expected.fingerprints) & set(actual.fingerprints)):
        same_number = expected.counts.get(name) == actual.counts.get(name)
        if same_number and expected.fingerprints[name] != actual.fingerprints[name]:
            yield f"{name}: another content"


def require_not_following(state: ProjectState, app: str) -> None:
    """`Refused` while a copy for the app follows its source."""
    if app in Journal(state).open(FOLLOWING):
        raise Refused(
            f"an import into app {app} follows its source",
            where=f"app {app}",
            hint=f"finish it: multidb import {app} --cutover; or give it up: multidb import {app} --abort",
        )


def require_settled(state: ProjectState, app: str) -> None:
    """`Refused` while what the app has may be partly of something that was interrupted, or is to be another's soon."""
    require_not_following(state, app)
    for unsettled, what in Journal(state).unsettled():
        if unsettled == app:
            raise Refused(
                f"{what} of it was interrupted, and could not be finished yet",
                where=f"app {app}",
                hint=f"correct the cause, then finish it: multidb backup {app}",
            )
    closure = closures(state).get(app)
    if closure is not None and closure.exchange:
        raise Refused(closure.why, where=f"app {app}", hint=closure.way_on)


def clear(
    fleet: Fleet, server: Server, app: App, context: StoreContext, kinds: Container[PlaceKind] = EVERY_KIND
) -> None:
    """Removes the places of these kinds that a run which died has left beside the app's own; not the one that follows a
    source."""
    followed = app.id in Journal(fleet.state).open(FOLLOWING)
    with fleet.archive(server) as archive:
        for place in archive.leftovers(app, context):
            if place.kind in kinds and not (followed and place.kind is PlaceKind.NEW):
                archive.discard(place)


@contextlib.contextmanager
def _scratch(
    fleet: Fleet, kind: PlaceKind, server: Server, app: App, context: StoreContext, progress: Progress
) -> Iterator[PreparedPlace]:
    starting = fleet.runtime.scratch(server, progress, adoptable=kind is PlaceKind.NEW)
    if starting is None:
        raise NeedsServer("it has room for one place only, and no second server can be started here", where=str(server))
    with starting as scratch:
        with fleet.open(scratch) as session:
            own = dataclasses.replace(context, facts=session.facts, server=scratch)
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(fleet.archive(scratch))

            def replace_live() -> None:
                stack.close()  # nobody may be connected
                fleet.runtime.adopt(server, scratch, progress)

            place = archive.prepare(kind, app, own)
            try:
                yield PreparedPlace(archive, place, replace_live, lasting=False)
            finally:
                if scratch.kept:
                    archive.discard(place)


def _number(count: int | None) -> str:
    return "none" if count is None else f"{count:,}"
