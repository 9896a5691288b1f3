"""How work that may last for hours is told from work that stands still: by a time without progress.

Progress is a byte, a row or an answer; and where none may come for long (an index is built, a table is measured), what
can be seen of the work from elsewhere (`ProgressTimer.signs`). However long it lasts, what makes progress is not ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from multidb.errors import MultidbError, ServerSlow
from multidb.model import Server, moment_in_words, time_in_words

__all__ = ["ProgressTimer", "ended_without"]

_LONGEST_LOOK: Final = 10.0  # seconds between two looks at the signs of work
_LOOKS: Final = 8  # at least so many in the time that is waited


class ProgressTimer:
    """Counts the time since the last progress. For any thread.

    Args:
        timeout: seconds without progress after which the work counts as standing still.
        signs: what can be seen of the work from elsewhere. Another answer than the last one is progress; a
            `MultidbError`, or the same one, is none. It may take seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        timeout: float,
        signs: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeout = timeout
        self.pause = min(timeout / _LOOKS, _LONGEST_LOOK)
        """Seconds after which it is worth to ask `expired` again."""
        self._signs = signs
        self._clock = clock
        self._moved = self._looked = clock()
        self._seen: object = None
        self._still: float | None = None  # seconds, once it has expired: it stays so

    def moved(self) -> None:
        """Notes progress: the time without any begins anew."""
        self._moved = self._clock()

    @property
    def left(self) -> float:
        """Seconds until `expired` may be true; at least a little."""
        return max(self._moved + self.timeout - self._clock(), 0.01)

    def expired(self) -> bool:
        """Whether there was no progress for `timeout`; once it is so, it stays so."""
        if self._still is None:
            if self._signs is not None and self._clock() - self._looked >= self.pause:
                self._look(self._signs)
            still = self._clock() - self._moved
            self._still = still if still >= self.timeout else None
        return self._still is not None

    def error(self, server: Server, hint: str = "") -> ServerSlow:
        """That the work on this server was ended."""
        return ServerSlow(self.words, where=str(server), hint=hint or self.hint)

    @property
    def words(self) -> str:
        """What is wrong, to follow the name of what stands still."""
        still = self._clock() - self._moved if self._still is None else self._still
        since = datetime.now(UTC) - timedelta(seconds=still)
        length = time_in_words(timedelta(seconds=still))
        return f"has made no progress for {length} (since {moment_in_words(since)}), so it is not waited for"

    @property
    def hint(self) -> str:
        """What to do about it."""
        return (
            "look whether it, its machine or the way to it stands still, then run the command again, which clears away "
            "what was left; progress_timeout in the manifest is how long is waited"
        )

    def _look(self, signs: Callable[[], object]) -> None:
        asked = self._clock()
        try:
            seen = signs()
        except MultidbError:  # who does not answer shows no progress
            seen = None
        self._looked = self._clock()
        if seen is not None and seen != self._seen:
            if self._seen is not None:
                self._moved = max(self._moved, asked)
            self._seen = seen


@contextlib.contextmanager
def ended_without(timer: ProgressTimer, end: Callable[[], None]) -> Iterator[None]:
    """Calls `end`, once, from another thread, when `timer` expires while the block runs: it has to make whoever waits
    in the block return. What is raised instead then is the caller's affair (`ProgressTimer.expired`)."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(min(timer.left, timer.pause)):
            if timer.expired() and not over.is_set():
                end()
                return

    watcher = threading.Thread(target=watch, name="multidb-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
