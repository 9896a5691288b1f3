"""Apps on their way from one place on a server to another, as the project's state knows them.

They stand in the section ``moves``, by app, so that a run which was interrupted is finished by the same command,
whatever the manifest says by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from multidb.document import moment
from multidb.errors import Refused
from multidb.state import ProjectState

__all__ = ["MovePhase", "PendingMove", "end_move", "moves", "require_not_moving", "write_move"]

_SECTION: Final = "moves"


class MovePhase(StrEnum):
    """How far a move has come. Until `DROPPING` it can be aborted; from then on it can only be finished."""

    COPYING = "copying"  # its logins are off; the old place is whole
    DROPPING = "dropping"  # the new place has all of the data; what the old one had goes
    OPENING = "opening"  # nothing is left of the old one; the logins come on
    ABORTING = "aborting"  # what the new place had goes
    RETURNING = "returning"  # nothing is left of the new one; the logins come on


_CLOSED: Final = (MovePhase.COPYING, MovePhase.DROPPING, MovePhase.ABORTING)


@dataclass(frozen=True, slots=True)
class PendingMove:
    """One app on its way.

    Args:
        store: of the server that it moves on.
        there: the options by which it was where it comes from (`Provisioner.placed`).
        destination: those by which it is where it goes.
        since: when it was begun, in UTC.
        final_set: the id of the set that was made first; empty when there is none.
    """

    app: str
    store: str
    phase: MovePhase
    there: Mapping[str, Any]
    destination: Mapping[str, Any]
    since: datetime
    final_set: str = ""

    @property
    def closed(self) -> bool:
        """Whether its logins are meant to be off."""
        return self.phase in _CLOSED

    @property
    def is_aborting(self) -> bool:
        """Whether it is on its way back."""
        return self.phase in (MovePhase.ABORTING, MovePhase.RETURNING)

    @property
    def command(self) -> str:
        """The command line that goes on with it."""
        return f"multidb move {self.app}" + " --abort" * self.is_aborting

    @property
    def way_on(self) -> str:
        """The commands that end it, one way or the other."""
        back = f"; or go back: {self.command} --abort" if self.phase is MovePhase.COPYING else ""
        return f"go on: {self.command}{back}"


def moves(state: ProjectState) -> dict[str, PendingMove]:
    """Every move that is under way, by app.

    Raises:
        UsageError: the state cannot be understood.
    """

    def read(app: str, entry: Mapping[str, Any]) -> PendingMove:
        return PendingMove(
            app,
            entry["store"],
            MovePhase(entry["phase"]),
            entry["from"],
            entry["to"],
            moment(entry["since"]),
            entry["final_set"],
        )

    return state.entries(_SECTION, "moves", read)


def write_move(state: ProjectState, move: PendingMove) -> None:
    """Writes down how far it has come."""
    with state.change(_SECTION) as section:
        section[move.app] = {
            "store": move.store,
            "phase": move.phase.value,
            "from": dict(move.there),
            "to": dict(move.destination),
            "since": move.since.isoformat(timespec="seconds"),
            "final_set": move.final_set,
        }


def end_move(state: ProjectState, app: str) -> None:
    """It is done, or undone; nothing when it is not under way."""
    with state.change(_SECTION) as section:
        section.pop(app, None)


def require_not_moving(state: ProjectState, app: str) -> None:
    """`Refused` while the app is on its way."""
    if (move := moves(state).get(app)) is not None:
        raise Refused(f"a move of app {app} is unfinished", where=f"app {app}", hint=move.way_on)
