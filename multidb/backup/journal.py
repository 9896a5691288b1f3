"""What backup work has begun and not ended, kept in the project's state, so that the run after a crash can finish it.

Every note is written before the step that it is about, and taken out after it. Sections of the state:

``backup-work``  by kind of work and app: the set that is being made, the logins that are off, the set that is being
                 tried, the restore or the import that is under way, the targets that lack a set because they failed.
``backups``      by app: the newest set, its proof, the last failure; a cache for `freshness`, which asks no target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from multidb.backup.jobs import recording
from multidb.model import Progress, unwatched
from multidb.state import ProjectState

__all__ = [
    "COPYING",
    "FOLLOWING",
    "IMPORTING",
    "MAKING",
    "PAUSED",
    "RESTORING",
    "VERIFYING",
    "Journal",
    "exclusively",
    "is_at_work",
]

_WORK: Final = "backup-work"
_SETS: Final = "backups"
_LOCK: Final = "backup"

MAKING: Final = "making"
PAUSED: Final = "paused"
VERIFYING: Final = "verifying"
RESTORING: Final = "restoring"
COPYING: Final = "copying"
IMPORTING: Final = "importing"
FOLLOWING: Final = "following"  # an import that goes on by itself, for days
_GIVING: Final = {RESTORING: "a restore", IMPORTING: "an import"}


@contextmanager
def exclusively(state: ProjectState, command: str, progress: Progress = unwatched) -> Iterator[Progress]:
    """One run of backup work at a time. `Locked` says who is at it; whoever has it may take all notes for old. In the
    block, the work is to tell the progress that this gives: others see it then, too."""
    with state.lock(_LOCK, f"multidb {command}"), recording(state, command, progress) as recorded:
        yield recorded


def is_at_work(state: ProjectState) -> bool:
    """Whether a run does backup work now."""
    return any(lock.name == _LOCK for lock in state.store.locks())


class Journal:
    """Notes by app and kind of work."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state

    def begin(self, kind: str, app: str, note: Mapping[str, Any]) -> None:
        """Writes down that something begins."""
        with self._state.change(_WORK) as work:
            work.setdefault(kind, {})[app] = dict(note)

    def end(self, kind: str, app: str) -> None:
        """Takes the note out: it is done, or undone."""
        with self._state.change(_WORK) as work:
            work.get(kind, {}).pop(app, None)

    def open(self, kind: str) -> dict[str, dict[str, Any]]:
        """By app, what has begun and not ended."""
        return dict(self._state.read(_WORK).get(kind, {}))

    def unsettled(self) -> list[tuple[str, str]]:
        """Apps that may have some of what they had and some of what they were to get, each with what does that, or did
        when a run died: ``a restore``, ``an import``."""
        return [(app, what) for kind, what in _GIVING.items() for app in self.open(kind)]

    @property
    def working(self) -> frozenset[str]:
        """The apps of which a set is being made, tried or brought back, or which are given data from elsewhere, or were
        when a run died."""
        return frozenset(app for kind in (MAKING, VERIFYING, RESTORING, IMPORTING) for app in self.open(kind))

    def known(self, app: str) -> dict[str, Any]:
        """What is known of the app's sets."""
        return dict(self._state.read(_SETS).get(app, {}))

    def learn(self, app: str, **facts: Any) -> None:
        """Adds to what is known; None forgets."""
        with self._state.change(_SETS) as sets:
            known = {**sets.get(app, {}), **facts}
            sets[app] = {name: value for name, value in known.items() if value is not None}

    def rename(self, old: str, new: str) -> None:
        """What is known of an app's sets, and the targets that lack one, is of its new name from now on."""
        with self._state.change(_SETS) as sets:
            if old in sets:
                sets[new] = sets.pop(old)
        with self._state.change(_WORK) as work:
            lacking = work.get(COPYING, {})
            if old in lacking:
                lacking[new] = lacking.pop(old)

    def forget(self, app: str) -> None:
        """Forgets what is known of the app's sets, and what was begun with its data: another app may take its name."""
        with self._state.change(_SETS) as sets:
            sets.pop(app, None)
        for kind in (RESTORING, PAUSED, IMPORTING):
            self.end(kind, app)
