"""Which sets stay. Pure: from what is known of some sets and a policy to those that stay, with the reason.

Slots (the newest so many, one a day, one a week, one a month) are filled twice: from the verified sets alone, and from
all that are not known to be bad. What is in either stays, so that a set nobody has tried yet never takes the place of
one that is verified, and yesterday's set stays although the last one was tried on Sunday. Where no set could be, as one
of its stores has no server to be restored on, those that were tried without a fault take the part of the verified
ones, or sets would stay until the disk is full. While no set was tried, none goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from multidb.model.options import Keep

__all__ = ["Candidate", "Trust", "kept"]


class Trust(StrEnum):
    """What is known of a set."""

    VERIFIED = "verified"  # it was restored and came out as it was measured
    TRIED = "tried"  # a store had no server to restore it on; of the others, and of all files, nothing is wrong
    UNTRIED = "untried"
    BAD = "bad"  # it was tried, and did not; or its manifest cannot be read


@dataclass(frozen=True, slots=True)
class Candidate:
    """One set of one line of succession: the same app, target and stores."""

    id: str
    made: datetime
    trust: Trust


_PERIODS: Final[tuple[tuple[str, Callable[[datetime], object]], ...]] = (
    ("last", lambda made: object()),  # each is a period of its own
    ("daily", lambda made: made.date()),
    ("weekly", lambda made: tuple(made.isocalendar())[:2]),
    ("monthly", lambda made: (made.year, made.month)),
)


def kept(candidates: Sequence[Candidate], keep: Keep) -> dict[str, str]:
    """The ids of the sets that stay, each with why."""
    newest_first = sorted(candidates, key=lambda candidate: (candidate.made, candidate.id), reverse=True)
    trusted = [candidate for candidate in newest_first if candidate.trust is Trust.VERIFIED]
    trusted = trusted or [candidate for candidate in newest_first if candidate.trust is Trust.TRIED]
    if not trusted:
        return {candidate.id: "no set is verified" for candidate in newest_first}
    newest = trusted[0]
    reasons: dict[str, list[str]] = {newest.id: [f"newest {newest.trust}"]}
    for some in (trusted, [candidate for candidate in newest_first if candidate.trust is not Trust.BAD]):
        for name, period in _PERIODS:
            for candidate in _newest_per_period(some, period, getattr(keep, name)):
                reasons.setdefault(candidate.id, [])
                if name not in reasons[candidate.id]:
                    reasons[candidate.id].append(name)
    for candidate in newest_first:
        if candidate.trust is Trust.BAD and candidate.made > newest.made:
            reasons[candidate.id] = [f"newer than the newest {newest.trust}"]  # somebody may want to know what happened
    return {name: ", ".join(why) for name, why in reasons.items()}


def _newest_per_period(
    newest_first: Sequence[Candidate], period: Callable[[datetime], object], count: int
) -> list[Candidate]:
    newest: dict[object, Candidate] = {}
    for candidate in newest_first:
        newest.setdefault(period(candidate.made), candidate)
    return list(newest.values())[:count]
