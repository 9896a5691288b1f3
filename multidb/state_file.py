"""A text that is kept beside the state, wherever that is: read whole, and changed so that nobody's change is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from multidb.errors import Locked
from multidb.state_store import TURN, StateStore

__all__ = ["StateFile", "numbered", "until_written", "write_new"]

_PAUSES: Final = (0.01, 0.2)  # seconds between two tries to write what others write too, at least and at most


def until_written(write: Callable[[], bool], where: str, done: str) -> None:
    """Tries it again whenever another run was quicker.

    Args:
        write: whether what it read was still the newest, so that it has written.
        where: what a person calls the place.
        done: what the others have done: ``written it``.

    Raises:
        Locked: other runs were quicker for a minute.
    """
    last = time.monotonic() + TURN
    while not write():
        if time.monotonic() >= last:
            raise Locked(
                f"other runs have {done} each time before this one could",
                where=where,
                hint="wait for them to end, then run the command again",
            )
        time.sleep(random.uniform(*_PAUSES))  # noqa: S311 - so that two do not meet again


def write_new(store: StateStore, name: str, text: str) -> bool:
    """Writes a text where there is none. Whether it has: nothing is put in the place of another."""
    return store.write_file(name, text, None)


def numbered(name: str) -> Iterator[str]:
    """The name, and more that are alike: for what is set aside where another of its name was before."""
    yield name
    yield from (f"{name}-{number}" for number in range(2, 10_000))


class StateFile:
    """One text beside the state.

    Args:
        name: ``usage.jsonl``, ``baseline/postgres.json``: as the file is called where the state is in a folder.
    """

    def __init__(self, store: StateStore, name: str) -> None:
        self._store = store
        self.name = name
        self.title = f"{name} beside {store.title}"

    def read(self) -> str | None:
        """The text; None where there is none.

        Raises:
            StateUnavailable: its place cannot be reached.
            UsageError: it cannot be read.
        """
        return self._store.read_file(self.name).text

    def change(self, changed: Callable[[str | None], str | None]) -> None:
        """Puts in the place of the text what `changed` makes of it. Whole, and in the place of exactly what was read.

        Args:
            changed: given the text, None where there is none; gives the new one, None where it is to stay. Called once
                more whenever another run has written in between.

        Raises:
            Locked: other runs have been writing it for a minute.
            StateUnavailable: its place cannot be reached, or does not let us write.
            UsageError: it cannot be read or written.
        """

        def write() -> bool:
            kept = self._store.read_file(self.name)
            text = changed(kept.text)
            return text is None or self._store.write_file(self.name, text, kept.version)

        until_written(write, self.title, "written it")

    def set_aside(self, name: str) -> str:
        """Puts the text under another name, or that with a number where it is taken, and nothing in its place.

        Returns:
            The name.
        """
        kept = self._store.read_file(self.name)
        aside = next(free for free in numbered(name) if write_new(self._store, free, kept.text or ""))
        self._store.write_file(self.name, "", kept.version)
        return aside
