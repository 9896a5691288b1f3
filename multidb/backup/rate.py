"""How fast bytes go by, in words."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Final

from multidb.model import Progress, size_in_words, time_in_words

__all__ = ["Rate"]

_EVERY: Final = 0.25  # seconds between two reports
_LONGEST: Final = 365 * 24 * 3600.0  # seconds; a set may say that it is larger than anything


class Rate:
    """Counts the bytes of one app's work and tells `progress` how many, how fast and, where that can be known, how
    long it will take. Called from any thread.

    Args:
        total: the bytes that are expected; 0: nobody knows.
    """

    def __init__(self, progress: Progress, subject: str, total: int = 0) -> None:
        self._progress = progress
        self._subject = subject
        self._total = total
        self._guard = threading.Lock()
        self._started = self._reported = time.monotonic()
        self._done = 0
        self.doing = ""

    def __call__(self, size: int) -> None:
        """So many bytes more."""
        with self._guard:
            self._done += size
            now = time.monotonic()
            if now - self._reported < _EVERY:
                return
            self._reported = now
            message, done = self._words(now), self._done
        share = (min(100 * done / self._total, 100.0), 100.0) if self._total else ()
        self._progress(self._subject, message, *share)

    def _words(self, now: float) -> str:
        rate = self._done / max(now - self._started, 0.001)
        left = (self._total - self._done) / rate if rate and self._total > self._done else 0
        estimate = f", about {time_in_words(timedelta(seconds=min(left, _LONGEST)))} left" if left >= 1 else ""
        return f"{self.doing} {size_in_words(self._done)}, {size_in_words(rate)}/s{estimate}"
