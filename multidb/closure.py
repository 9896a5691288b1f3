"""Apps that are closed: their logins are meant to be off until what was begun with them is done.

Closures of clones, of apps that a restore makes, and of apps whose data is being replaced, stand in the section
``closed`` of the project's state, those of apps that get another name follow from `multidb.renames`, those of apps that
move from `multidb.moves`. Every plan reads them, so that no apply turns a login on too early, whoever runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from multidb.moves import PendingMove, moves
from multidb.renames import Rename, renames
from multidb.state import ProjectState

__all__ = ["Closure", "close", "closures", "is_restoring", "kept_off", "reopen", "reopen_restored"]

_SECTION = "closed"
_WORK, _PAUSED = "backup-work", "paused"  # of `multidb.backup.journal`: logins that are off while a set is made


@dataclass(frozen=True, slots=True)
class Closure:
    """An app that has not got its data yet, or not all that is to become of it; or whose data is on its way to another
    name or another place.

    Args:
        app: the app, such as a clone.
        source: the app that its data comes from.
        masked: whether it was begun with SQL that masks its data.
        rename, move: by which it is closed; both None: it is a clone, or an app that a restore makes.
        restore: the command that brings a set back into it; "": it is no app that a restore makes.
        exchange: what puts other data in the place of its own (``a restore``, ``an import``); "": nothing does.
    """

    app: str
    source: str
    masked: bool
    rename: Rename | None = None
    move: PendingMove | None = None
    restore: str = ""
    exchange: str = ""

    @property
    def whole(self) -> bool:
        """Whether it has all of its data all the same."""
        return self.rename is not None and self.app == self.rename.old

    @property
    def why(self) -> str:
        """The state of the app, for a message."""
        if self.move is not None:
            return "its logins are off, because its data is on the way to another place"
        if self.rename is not None and self.app == self.rename.old:
            return f"its logins are off, because it is being renamed to {self.rename.new}"
        if self.exchange:
            return (
                f"its logins are off, because {self.exchange} replaces what it has, or was interrupted while it did: "
                "some of it may be old and some new"
            )
        return f"its logins are off, because it has not got all of {self.source}'s data yet" + (
            ", or that is not masked" if self.masked else ""
        )

    @property
    def way_on(self) -> str:
        """The commands that end it, one way or the other."""
        if self.move is not None:
            return self.move.way_on
        if self.rename is not None:
            return self.rename.way_on
        if self.exchange:
            return (
                f"finish it: multidb backup {self.app}; where that does not go, bring another set back: "
                "multidb restore SET --replace --no-safety-set"
            )
        mask = " --mask FILE.sql" if self.masked else ""
        command = self.restore or f"multidb clone {self.source} {self.app}{mask}"
        return f"finish it: {command}; or end it: multidb remove-app {self.app}"


def closures(state: ProjectState) -> dict[str, Closure]:
    """Every closed app, by its id.

    Raises:
        UsageError: the state cannot be understood.
    """
    section = state.read(_SECTION)  # which has the shape of `multidb.sections`
    copies = {
        app: Closure(
            app,
            document["of"],
            document["masked"],
            restore=document.get("restore", ""),
            exchange=document.get("exchange", ""),
        )
        for app, document in section.items()
    }
    renamed = {
        app: Closure(app, rename.old, False, rename) for rename in renames(state).values() for app in rename.closed
    }
    moved = {app: Closure(app, app, False, move=move) for app, move in moves(state).items() if move.closed}
    return copies | renamed | moved


def kept_off(state: ProjectState) -> frozenset[str]:
    """The apps whose logins are off for some work, or were when its run died: they are closed, or a set is made of them
    meanwhile. That they are off says nothing else of them."""
    return frozenset((*closures(state), *state.read(_WORK).get(_PAUSED, ())))


def close(state: ProjectState, closure: Closure) -> None:
    """From now on no apply turns a login of the app on. What is on is turned off by `Engine.suspend`."""
    with state.change(_SECTION) as section:
        kinds = {"restore": closure.restore, "exchange": closure.exchange}
        chosen = {kind: text for kind, text in kinds.items() if text}
        section[closure.app] = {"of": closure.source, "masked": closure.masked, **chosen}


def reopen(state: ProjectState, app: str) -> None:
    """The next apply turns the app's logins on; nothing where it is not closed."""
    if app in state.read(_SECTION):
        with state.change(_SECTION) as section:
            section.pop(app, None)


def is_restoring(state: ProjectState, app: str) -> bool:
    """Whether a restore has made the app and not given it its data yet."""
    closure = closures(state).get(app)
    return closure is not None and bool(closure.restore)


def reopen_restored(state: ProjectState, app: str) -> None:
    """As `reopen`, of an app that has all of what a restore or an import has given it; an unfinished clone stays
    closed."""
    closure = closures(state).get(app)
    if closure is not None and (closure.restore or closure.exchange):
        reopen(state, app)
