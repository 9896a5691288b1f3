"""What is remembered of an app that was taken out of the manifest, until it comes back or is purged.

Tombstones stand in the section ``removed`` of the project's state. While one is there the app's names and numbers stay
taken and its data is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Self

from multidb.document import moment
from multidb.manifest import Removed
from multidb.state import ProjectState

__all__ = ["GRACE", "Edit", "Phase", "Tombstone", "write_tombstone", "forget", "tombstones", "ways_of_removed"]

GRACE: Final = timedelta(days=7)
"""For how long a removed app is meant to be kept where nobody has said."""
_SECTION: Final = "removed"


class Phase(StrEnum):
    """How far the app has come. Every phase can be gone on from. While it is removing or ending, its entry may still be
    in the manifest; only when it is purging is anything dropped.
    """

    REMOVING = "removing"
    REMOVED = "removed"
    RESTORING = "restoring"
    ENDING = "ending"
    PURGING = "purging"


@dataclass(frozen=True, slots=True)
class Edit:
    """A file that the app was taken out of.

    Args:
        file: its path, relative to the manifest's folder.
        before: its whole text with the app, `after`: without it. Where it still is `after`, undoing is exact.
        entry: what it said about the app.
    """

    file: str
    before: str
    after: str
    entry: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One removed app.

    Args:
        since: when it was removed; `until`: the end of its days of grace. Both in UTC.
        backup: the id of its final backup set; empty when there is none.
    """

    app: str
    phase: Phase
    since: datetime
    until: datetime
    edits: tuple[Edit, ...]
    backup: str = ""

    @classmethod
    def recalled(cls, app: str, stores: Sequence[str], file: str, now: datetime) -> Self:
        """Of an app that servers know as removed and nobody here does, as after the state was lost: when it was and
        what its entry said is not known, so its days of grace begin now and an undo gives it the least.

        Args:
            file: the manifest, relative to its folder.
        """
        edit = Edit(file, "", "", {"stores": list(stores)})
        return cls(app, Phase.REMOVED, now, now + GRACE, (edit,))

    @property
    def removed(self) -> Removed:
        """What the manifest has to know of it."""
        settled = self.phase in (Phase.REMOVED, Phase.PURGING)
        return Removed(tuple(edit.entry for edit in self.edits), f"{self.since:%Y-%m-%d}", settled)

    def summary(self) -> dict[str, Any]:
        """What is printed of it, as plain JSON values."""
        return {**self._times(), "final_set": self.backup or None}

    def document(self) -> dict[str, Any]:
        """The tombstone as plain JSON values, for the state; no secret is in it."""
        return {
            **self._times(),
            "backup": self.backup,
            "edits": [
                {"file": edit.file, "before": edit.before, "after": edit.after, "entry": dict(edit.entry)}
                for edit in self.edits
            ],
        }

    def _times(self) -> dict[str, str]:
        since, until = (moment.isoformat(timespec="seconds") for moment in (self.since, self.until))
        return {"phase": self.phase.value, "since": since, "until": until}

    @classmethod
    def read(cls, app: str, document: Mapping[str, Any]) -> Self:
        """The tombstone that `document` made, which has the shape of the state's section. `ValueError` for a phase that
        is none."""
        return cls(
            app,
            Phase(document["phase"]),
            moment(document["since"]),
            moment(document["until"]),
            tuple(Edit(edit["file"], edit["before"], edit["after"], edit["entry"]) for edit in document["edits"]),
            document["backup"],
        )


def tombstones(state: ProjectState) -> dict[str, Tombstone]:
    """Every removed app, by its id.

    Raises:
        UsageError: the state cannot be understood.
    """
    return state.entries(_SECTION, "removed apps", Tombstone.read)


def write_tombstone(state: ProjectState, tombstone: Tombstone) -> None:
    """Writes the tombstone, in place of an earlier one of the same app."""
    with state.change(_SECTION) as section:
        section[tombstone.app] = tombstone.document()


def forget(state: ProjectState, app: str) -> None:
    """Takes the tombstone away; nothing when there is none."""
    with state.change(_SECTION) as section:
        section.pop(app, None)


def ways_of_removed(app: str) -> str:
    """The commands for an app that was removed."""
    return f"bring it back: multidb undo-remove {app}; or end it for good: multidb purge {app}"
