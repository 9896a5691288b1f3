"""Apps that get another name, and the names that apps had before.

A rename that is under way stands in the section ``renames`` of the project's state, by the name that goes. Those that
were done stand in ``renamed``, so that what was made under an earlier name stays the app's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from multidb.document import moment
from multidb.state import ProjectState

__all__ = [
    "FormerName",
    "Rename",
    "RenamePhase",
    "end_rename",
    "former_names",
    "outdated_names",
    "owner_of",
    "record_name",
    "rename_of",
    "renamed_since",
    "renames",
    "ways_of_outdated",
    "write_rename",
]

_UNDER_WAY: Final = "renames"
_DONE: Final = "renamed"


class RenamePhase(StrEnum):
    """How far a rename has come. Until `EXCHANGING` it can be aborted; from then on it can only be finished."""

    COPYING = "copying"  # both names are closed
    EXCHANGING = "exchanging"  # the new one has all of the data; the manifest may have either name
    DROPPING = "dropping"  # the new one is in use; what the old one had goes
    ABORTING = "aborting"  # the old one is in use again; what the new one had goes


@dataclass(frozen=True, slots=True)
class Rename:
    """One app on its way to another name.

    Args:
        since: when it was begun, in UTC.
        final_set: the id of the last set under the old name; empty when there is none.
    """

    old: str
    new: str
    phase: RenamePhase
    since: datetime
    final_set: str = ""

    @property
    def command(self) -> str:
        """The command line that goes on with it."""
        return f"multidb rename-app {self.old} {self.new}" + " --abort" * (self.phase is RenamePhase.ABORTING)

    @property
    def way_on(self) -> str:
        """The commands that end it, one way or the other."""
        back = f"; or go back: {self.command} --abort" if self.phase is RenamePhase.COPYING else ""
        return f"go on: {self.command}{back}"

    @property
    def closed(self) -> tuple[str, ...]:
        """The names whose logins are meant to be off meanwhile: the two never work at the same time."""
        match self.phase:
            case RenamePhase.COPYING:
                return (self.old, self.new)
            case RenamePhase.ABORTING:
                return (self.new,)
        return (self.old,)


@dataclass(frozen=True, slots=True, order=True)
class FormerName:
    """An app that was called `old` until `when` (in UTC), and `new` from then on."""

    when: datetime
    old: str
    new: str


def renames(state: ProjectState) -> dict[str, Rename]:
    """Every rename that is under way, by the old name.

    Raises:
        UsageError: the state cannot be understood.
    """

    def read(old: str, entry: Mapping[str, Any]) -> Rename:
        return Rename(old, entry["to"], RenamePhase(entry["phase"]), moment(entry["since"]), entry["final_set"])

    return state.entries(_UNDER_WAY, "renames", read)


def rename_of(state: ProjectState, app: str) -> Rename | None:
    """The rename under way that has this name, as the old or as the new one."""
    return next((rename for rename in renames(state).values() if app in (rename.old, rename.new)), None)


def write_rename(state: ProjectState, rename: Rename) -> None:
    """Writes down how far it has come."""
    with state.change(_UNDER_WAY) as section:
        section[rename.old] = {
            "to": rename.new,
            "phase": rename.phase.value,
            "since": rename.since.isoformat(timespec="seconds"),
            "final_set": rename.final_set,
        }


def end_rename(state: ProjectState, old: str) -> None:
    """It is done, or undone; nothing when it is not under way."""
    with state.change(_UNDER_WAY) as section:
        section.pop(old, None)


def former_names(state: ProjectState) -> tuple[FormerName, ...]:
    """The names that the project's apps had before, as this state knows them."""
    names = state.read(_DONE).get("names", ())
    return tuple(FormerName(moment(name["until"]), name["from"], name["to"]) for name in names)


def record_name(state: ProjectState, name: FormerName) -> None:
    """Adds to what `former_names` says; nothing when it is there."""
    with state.change(_DONE) as section:
        entry = {"from": name.old, "to": name.new, "until": name.when.isoformat(timespec="seconds")}
        known = section.setdefault("names", [])
        if entry not in known:
            known.append(entry)


def owner_of(app: str, made: datetime, names: Iterable[FormerName]) -> str:
    """What the app is called now that was called `app` when something of it was `made`."""
    for name in sorted(names):  # each once and in their order, so that names which come back end nowhere else
        if name.old == app and name.when >= made:
            app, made = name.new, name.when
    return app


def outdated_names(apps: Collection[str], names: Iterable[FormerName]) -> dict[str, FormerName]:
    """Those of the apps of a manifest that may be there by a name which they have no more, each with the one that it
    has now, which the manifest does not know: an old copy of it looks like that."""
    outdated = {}
    for name in (known := sorted(names)):
        now = owner_of(name.old, datetime.min.replace(tzinfo=UTC), known)
        if name.old in apps and now not in apps:
            outdated[name.old] = FormerName(name.when, name.old, now)
    return outdated


def renamed_since(name: FormerName) -> str:
    """What is to be said of an outdated name."""
    return f"{name.old} is {name.new} since {name.when:%Y-%m-%d %H:%M} UTC, and the manifest has the old name"


def ways_of_outdated(name: FormerName) -> str:
    """What is to be done about it."""
    return (
        f"take the newest manifest, or let it say {name.new}; is {name.old} another app, which takes that name, then "
        f"first: multidb remove-app {name.new}"
    )
