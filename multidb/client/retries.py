"""How long, and how often, a request is tried again while a server restarts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Retries"]


@dataclass(frozen=True, slots=True)
class Retries:
    """Requests that are safe to send twice are sent again for so long.

    Args:
        seconds: from the first failure on; 0: never again.
        first, longest: seconds between two tries; each wait is about twice the one before.
    """

    seconds: float = 10.0
    first: float = 0.05
    longest: float = 1.0

    def waits(self) -> Iterator[float]:
        """The seconds to wait before each next try. Ends when the time is up, which runs from the first wait on.

        No two clients wait for the same time: a server that comes up is not met by all of them at once.
        """
        deadline, wait = time.monotonic() + self.seconds, self.first
        while (left := deadline - time.monotonic()) > 0:
            yield min(left, wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            wait = min(wait * 2, self.longest)
