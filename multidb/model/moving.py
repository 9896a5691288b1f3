"""An app that has another place on a server than the manifest gives it, and what a move of its data would come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from multidb.model.core import App, Statement, StoreContext

__all__ = ["Move", "MovingSession"]


@dataclass(frozen=True, slots=True)
class Move:
    """The way from where an app is on a server to where the manifest has it.

    Args:
        app: the app as it is there.
        there: the options by which it is there (`Provisioner.placed`): plain values.
        destination: those by which the manifest has it.
        source_title, destination_title: both places, in words (``database brain``).
        size: bytes that it has there; None: nobody looked.
        obstacles: what stands against it, as sentences.
        mentions: what would be otherwise afterwards without failing, such as text of functions that names the old
            place: to be agreed to.
    """

    app: App
    there: Mapping[str, Any]
    destination: Mapping[str, Any]
    source_title: str
    destination_title: str
    size: int | None = None
    obstacles: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that carries it out."""
        return f"multidb move {self.app.id}"

    @property
    def sentence(self) -> str:
        return f"it has {self.source_title}, and the manifest gives it {self.destination_title}"


@runtime_checkable
class MovingSession(Protocol):
    """A session of a store whose apps can have places of several kinds."""

    def survey(self, there: App, app: App, context: StoreContext) -> Move:
        """What a move from one place to the other would come to. Reads catalogs only, and changes nothing.

        Args:
            there: the app with the options of the place where it is.
            app: the same with those of its destination.
        """

    def mentions(self, inside: App, was: Mapping[str, Any], becomes: App) -> Sequence[str]:
        """What an app has whose text names a place by a name that it had. Reads catalogs only.

        Args:
            inside: the app where that is looked for.
            was: the options of an entry, as plain values, by which the place is called so. They may come out of a set.
            becomes: the app that has it under its own name; where that is the same, nothing is looked for.
        """

    def leaving(self, there: App, app: App, context: StoreContext) -> Sequence[Statement]:
        """What drops all that the app has at the first place and not at the second, its roles excepted, as it stands
        now; nothing when there is nothing left."""
