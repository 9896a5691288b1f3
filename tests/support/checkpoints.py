"""A `Checkpoint` of tests, and the death of a run that it can bring about."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Killed", "Marks"]


class Killed(BaseException):
    """The run ends here, whatever it was about to do."""


class Marks:
    """A `Checkpoint` in memory. With `most`, the run dies when so many parts are done."""

    def __init__(self, most: int | None = None, parts: Sequence[str] = ()) -> None:
        self.parts = list(parts)
        self._most = most

    def done(self) -> frozenset[str]:
        return frozenset(self.parts)

    def add(self, part: str) -> None:
        self.parts.append(part)
        if self._most is not None and len(self.parts) >= self._most:
            raise Killed
