"""Apps that are closed: their logins are meant to be off until what was begun with them is done.

Closures stand in the section ``closed`` of the project's state. Every plan reads them, so that no apply turns a login
on too early, whoever runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from multidb.state import ProjectState

__all__ = ["Closure", "close", "closures", "reopen"]

_SECTION = "closed"


@dataclass(frozen=True, slots=True)
class Closure:
    """A clone that has not got its data yet, or not all that is to become of it.

    Args:
        app: the clone.
        source: the app that it is a clone of.
        masked: whether it was begun with SQL that masks its data.
    """

    app: str
    source: str
    masked: bool

    @property
    def why(self) -> str:
        """The state of the app, for a message."""
        return f"its logins are off, because it has not got all of {self.source}'s data yet" + (
            ", or that is not masked" if self.masked else ""
        )

    @property
    def way_on(self) -> str:
        """The commands that end it, one way or the other."""
        mask = " --mask FILE.sql" if self.masked else ""
        return f"finish it: multidb clone {self.source} {self.app}{mask}; or end it: multidb remove-app {self.app}"


def closures(state: ProjectState) -> dict[str, Closure]:
    """Every closed app, by its id.

    Raises:
        UsageError: the state cannot be understood.
    """
    section = state.read(_SECTION)  # which has the shape of `multidb.sections`
    return {app: Closure(app, document["of"], document["masked"]) for app, document in section.items()}


def close(state: ProjectState, closure: Closure) -> None:
    """From now on no apply turns a login of the app on. What is on is turned off by `Engine.suspend`."""
    with state.change(_SECTION) as section:
        section[closure.app] = {"of": closure.source, "masked": closure.masked}


def reopen(state: ProjectState, app: str) -> None:
    """The next apply turns the app's logins on; nothing where it is not closed."""
    if app in state.read(_SECTION):
        with state.change(_SECTION) as section:
            section.pop(app, None)
