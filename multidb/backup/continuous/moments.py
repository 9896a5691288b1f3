"""One app as it was at a moment: its server is brought up aside from a base backup and its log, and the app is read
out of it as for any set. What comes of it is a set, which goes the way of every other."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from multidb import __version__
from multidb.backup.continuous.archiving import archive_servers, archived_servers
from multidb.backup.continuous.kept import KeptCopy, expire_copies, forget_note, note_copy, require_copy
from multidb.backup.continuous.origins import (
    ForeignAddress,
    Origin,
    archived_origin,
    foreign_address,
    foreign_origin,
    windows_of,
)
from multidb.backup.creation import ServerContexts, repository, targets_of
from multidb.backup.encryption import Identities
from multidb.backup.journal import RESTORING, Journal
from multidb.backup.places import temporary_files
from multidb.backup.repository import Copy, Destinations, exact_now, utc_now
from multidb.backup.set_ids import new_id
from multidb.backup.sets import FILES, MANIFEST, BackupSet, StoredPart, declaration
from multidb.backup.streams import StoreWriter
from multidb.engine import Engine
from multidb.errors import Locked, Refused, UsageError
from multidb.fleet import Scope
from multidb.model import (
    App,
    Progress,
    Revival,
    Server,
    StoreContext,
    moment_in_words,
    time_in_words,
)
from multidb.provisioners import provisioner
from multidb.renames import former_names
from multidb.state import ProjectState

__all__ = [
    "FOLDER",
    "KeepCopy",
    "Nearest",
    "RevivedApp",
    "archived_place",
    "clear_moments",
    "moment_of",
    "nearest_sets",
    "newest_of",
    "revived",
    "set_of_moment",
]

FOLDER: Final = ".multidb/moments"
"""The target of sets that are made of a moment, until they have been brought back."""

_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?")


def moment_of(text: str, option: str = "--at") -> datetime:
    """The moment that a person means by an option: ``2026-11-28 10:31``, with seconds or without. In UTC, as multidb
    says every time, unless it has another zone: ``2026-11-28 10:31+02:00``.

    Raises:
        UsageError: it is none.
    """
    if _MOMENT.fullmatch(text.strip()):
        with suppress(ValueError, OverflowError):
            parsed = datetime.fromisoformat(re.sub(r" ?(UTC|Z|[+-][0-9:]{5,6})$", _zone, text.strip()))
            return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    raise UsageError(
        f"{text!r} is no moment",
        where=option,
        hint="write it as 2026-11-28 10:31 or 2026-11-28 10:31:05, in UTC; or with a zone: 2026-11-28 10:31+02:00",
    )


def _zone(match: re.Match[str]) -> str:
    return match[1].replace("UTC", "Z")


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of a store that has no log, the set that is nearest to a moment.

    Args:
        copy: None: there is none at all.
        away: how long before the moment it was made; negative: after it.
    """

    store: str
    copy: Copy | None
    away: timedelta = timedelta(0)

    def __str__(self) -> str:
        left = f"{self.store} is left as it is"
        if self.copy is None:
            return f"{left}: it has no log to be brought to a moment by, and there is no set of it"
        side = "before" if self.away >= timedelta(0) else "after"
        return (
            f"{left}: its nearest set is of {time_in_words(abs(self.away))} {side} that moment: "
            f"multidb restore {self.copy.id} --store {self.store} --replace"
        )


def nearest_sets(engine: Engine, app: App, moment: datetime, targets: Sequence[str] | None) -> list[Nearest]:
    """What there is of the app's stores that cannot be brought to a moment."""
    foreign = foreign_address(targets)
    if foreign is None:
        others = [store for store in app.stores if not _has_log(engine, store)]
    else:
        others = [store for store in app.stores if foreign.tool not in provisioner(store).foreign_archives]
    others += [FILES] if app.files else []
    if not others:
        return []
    copies = repository(engine.fleet, targets if foreign is None else None).copies([app.id])
    nearest = []
    for store in others:
        having = [copy for copy in copies if copy.backup_set is not None and store in copy.backup_set.all_parts]
        sets = [(moment - copy.backup_set.made, copy) for copy in having if copy.backup_set is not None]
        # One from before is better than one from after, which may hold what was written since.
        best = min(sets, key=lambda pair: (pair[0] < timedelta(0), abs(pair[0])), default=None)
        nearest.append(Nearest(store, best[1], best[0]) if best is not None else Nearest(store, None))
    return nearest


def newest_of(engine: Engine, app: App, targets: Sequence[str] | None = None) -> datetime:
    """The newest moment that the app can be brought back to.

    Raises:
        UsageError: there is none, or nobody knows it.
    """
    if (foreign := foreign_address(targets)) is not None:
        raise UsageError(f"how far {foreign} goes is not known", where="--at", hint="say a moment: --at MOMENT")
    server, _ = archived_place(engine, app)
    windows = [window for there in windows_of(engine, server, targets) for window in there.windows]
    if not windows:
        raise UsageError("there is no moment yet", where="--at", hint=_window_hint(engine, server, targets))
    return max(window.until for window in windows)


class KeepCopy(Enum):
    """What becomes of the copy of a server, besides that it is read.

    NO: nothing. YES: it is kept at the moment. GO_ON: it is the one that is kept, rolled on to the moment.
    """

    NO = "no"
    YES = "yes"
    GO_ON = "go on"


@contextmanager
def set_of_moment(
    engine: Engine,
    app: App,
    moment: datetime,
    *,
    targets: Sequence[str] | None = None,
    keys: Identities | None = None,
    progress: Progress,
    copy: KeepCopy = KeepCopy.NO,
) -> Iterator[Copy]:
    """A set of what the app had at a moment, on the target `FOLDER`; it is gone after the block. The caller holds
    `exclusively`.

    Raises:
        UsageError: no store of the app is archived, or the moment is in no window; says which there are.
        Refused: this machine cannot bring its server up.
        ArchiveError: what is archived does not lead there; the app was not there then.
    """
    try:
        with revived(engine, app, moment, targets=targets, keys=keys, progress=progress, copy=copy) as there:
            made = _read_out(engine, there, moment, progress)
        (own,) = [own for own in repository(engine.fleet, [FOLDER]).copies() if own.id == made.id]
        yield own
    finally:
        clear_moments(engine.state)


@dataclass(frozen=True, slots=True)
class RevivedApp:
    """An app on a copy of its server.

    Args:
        app: with the name that it had then.
    """

    server: Server
    context: StoreContext
    app: App


@contextmanager
def revived(
    engine: Engine,
    app: App,
    moment: datetime,
    *,
    targets: Sequence[str] | None = None,
    keys: Identities | None = None,
    progress: Progress,
    copy: KeepCopy = KeepCopy.NO,
) -> Iterator[RevivedApp]:
    """A copy of the app's server as of a moment, for the block. Raises as `set_of_moment`."""
    foreign = foreign_address(targets)
    server, context = archived_place(engine, app, foreign)
    expire_copies(engine, exact_now())
    words, kept = moment_in_words(moment), None
    if copy is KeepCopy.GO_ON:
        kept = require_copy(engine.state, server, app, moment)
    if moment > exact_now():
        hint = _window_hint(engine, server, targets) if foreign is None else "multidb says every time in UTC"
        raise UsageError(f"{words} has not come yet", where="--at", hint=hint)
    if foreign is not None:
        origin: Origin | None = foreign_origin(engine, server, foreign, moment, kept)
    else:
        origin = archived_origin(engine, server, moment, targets, kept, keys)
        if origin is None:
            with suppress(Locked):  # what was written since the last round; whoever is at it does the same
                archive_servers(engine, progress)
            origin = archived_origin(engine, server, moment, targets, kept, keys)
        if origin is None:
            hint = _window_hint(engine, server, targets)
            raise UsageError(f"{words} cannot be gone back to", where="--at", hint=hint)
    assert origin is not None
    then = _called(engine.state, app, moment)
    keeping, going_on = copy is not KeepCopy.NO, copy is KeepCopy.GO_ON
    revival = Revival(origin.base, origin.files, moment, origin.last, then, keeping, going_on, foreign is None)
    if revival.keep:
        forget_note(engine.state, server.name)  # until it has got there
    starting = engine.fleet.runtime.revived(server, revival, progress)
    if starting is None:
        raise Refused(
            "a copy of it cannot be brought up here",
            where=str(server),
            hint="that takes its program on this machine, of the same major version",
        )
    with starting as scratch:
        if revival.keep:
            os.sync()  # nothing of it is written through, and the machine may go down before it is rolled on
            note_copy(engine.state, server, KeptCopy(app.id, origin.stream, origin.id, moment, exact_now()))
        with engine.fleet.open(scratch) as session:
            own = replace(context, facts=session.facts, server=scratch)
        yield RevivedApp(scratch, own, then)


def clear_moments(state: ProjectState) -> None:
    """Removes the sets that were made of a moment, unless one of them is still being brought back. The caller holds
    `exclusively`."""
    if all(note["target"] != FOLDER for note in Journal(state).open(RESTORING).values()):
        shutil.rmtree(state.folder / "moments", ignore_errors=True)


# -------------------------------------------------------------------------------------------------------------------


def _read_out(engine: Engine, there: RevivedApp, moment: datetime, progress: Progress) -> BackupSet:
    """A set of the app, read out of its revived server by the login that is nobody."""
    app, store, project = there.app, there.server.store, engine.project.name
    set_id = new_id(moment)
    destinations = Destinations(targets_of(engine.fleet, [FOLDER]), f"{project}/{app.id}/{set_id}")
    writer = StoreWriter(store, destinations.create)
    progress(app.id, f"{store}: reading")
    with engine.fleet.archive(there.server, may_stop=False) as archive, temporary_files():
        part = archive.backup(app, there.context, writer, progress)
    made = BackupSet(
        id=set_id,
        project=project,
        app=app.id,
        finished=utc_now(),
        multidb=__version__,
        parts={store: StoredPart(part, tuple(writer.files))},
        declaration=declaration(app),
        complete=False,
    )
    destinations.write(MANIFEST, made.to_json())
    return made


def archived_place(engine: Engine, app: App, foreign: ForeignAddress | None = None) -> tuple[Server, StoreContext]:
    """The archived server of an app, and what its store is told of it.

    Args:
        foreign: what another tool has archived; then multidb need not.

    Raises:
        UsageError: none of its servers is archived.
    """
    servers = {server.name for server in archived_servers(engine)}
    for store in app.stores:
        if _has_log(engine, store) if foreign is None else foreign.tool in provisioner(store).foreign_archives:
            place = ServerContexts(engine.fleet, Scope(frozenset({app.id}), frozenset({store}))).of(app, store)
            if place is not None and (foreign is not None or place[0].name in servers):
                return place
    able = " or ".join(store for store in app.stores if provisioner(store).continuous is not None)
    hint = f"archive them from now on: backup: {{{able}: {{continuous: true}}}}" if able else "restore a set of it"
    raise UsageError(f"the servers of app {app.id} are not archived", where="--at", hint=hint)


def _has_log(engine: Engine, store: str) -> bool:
    return provisioner(store).continuous is not None and engine.project.backup.continuous(store).continuous


def _window_hint(engine: Engine, server: Server, targets: Sequence[str] | None) -> str:
    there = windows_of(engine, server, targets)
    windows = list(dict.fromkeys(str(window) for archived in there for window in archived.windows))
    if windows:
        newest = max(window.until for archived in there for window in archived.windows)
        return f"it has any moment from {'; and '.join(windows)}; the newest: --at '{newest:%Y-%m-%d %H:%M:%S.%f}'"
    problems = [stream.problem for archived in there for stream in archived.streams if stream.problem]
    if problems:
        return f"what is archived of server {server.name} cannot be used: {problems[0]}; restore the project's secrets"
    return f"nothing is archived of server {server.name} yet: multidb backup --due"


def _called(state: ProjectState, app: App, moment: datetime) -> App:
    """The app under the name that it had then."""
    name = app.id
    for former in sorted(former_names(state), key=lambda former: former.when, reverse=True):
        if former.new == name and moment < former.when:
            name = former.old
    return app if name == app.id else replace(app, id=name)
