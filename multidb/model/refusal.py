"""What a server refused an app."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused, in words that may hold what the app has written.

    Args:
        count: how often, as far as the server tells.
        last: when it was last; None: the server does not tell.
        hint: what would let the app have it, or do without.
    """

    what: str
    count: int = 1
    last: datetime | None = None
    hint: str = ""
