"""How far behind the archive of an app's servers is. Reads the state alone, and asks no server and no target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from multidb.document import in_future, moment
from multidb.model import App, Health, Project, Status, moment_in_words, time_in_words
from multidb.state import ProjectState

__all__ = ["SECTION", "NewestMoment", "archive_health", "newest_moment"]

SECTION: Final = "continuous"
"""Of the state: by server, how far its archive is."""

_LATE: Final = 1.5  # intervals after which somebody is told that there is no new base backup
_FIX: Final = "multidb backup --due, which a timer is to run every minute"


@dataclass(frozen=True, slots=True)
class NewestMoment:
    """The newest moment that an app can be brought back to (None: none yet), and how old it may be."""

    when: datetime | None
    lag: timedelta


def archive_health(project: Project, state: ProjectState, app: App, now: datetime) -> Health | None:
    """What is to be said of the archive of the app's servers; None where the manifest wants none."""
    newest = newest_moment(project, state, app)
    if newest is None:
        return None
    for server, note, options in _archives(project, state, app):
        if (failed := note.get("failed")) is not None:
            return Health(Status.DEGRADED, f"server {server} is not archived: {failed['message']}", fix=_FIX)
        base = moment(note["base"]) if note.get("base") is not None else None
        if base is None:
            return Health(
                Status.DEGRADED, f"no moment can be gone back to: server {server} has no base backup", fix=_FIX
            )
        if now - base > options.base_every * _LATE:
            words = f"the newest base backup of server {server} is {time_in_words(now - base)} old"
            return Health(Status.DEGRADED, words, fix=_FIX)
    if newest.when is None or now - newest.when > newest.lag or in_future(newest.when, now):
        until = f"the newest is {moment_in_words(newest.when)}" if newest.when is not None else "there is none yet"
        return Health(Status.DEGRADED, f"moments that it can be brought back to are not new: {until}", fix=_FIX)
    return Health(Status.HEALTHY, f"any moment until {time_in_words(now - newest.when)} ago")


def newest_moment(project: Project, state: ProjectState, app: App) -> NewestMoment | None:
    """None where the manifest wants nothing of the app archived."""
    stores = [store for store in app.stores if project.backup.continuous(store).continuous]
    if not stores:
        return None
    lag = min(project.backup.continuous(store).lag for store in stores)
    notes = [note for _, note, _ in _archives(project, state, app)]
    moments = [moment(note["when"]) for note in notes if note.get("when") and note.get("base")]
    return NewestMoment(min(moments) if len(moments) >= len(stores) else None, lag)


def _archives(project: Project, state: ProjectState, app: App) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    known = state.read(SECTION)
    for store in app.stores:
        options = project.backup.continuous(store)
        if not options.continuous:
            continue
        for spec in project.servers:
            if spec.store == store and spec.serves(app.id):
                for name in (spec.name, spec.own_server(app.id)):
                    if name in known:
                        yield name, known[name], options
