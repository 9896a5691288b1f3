"""Who tries whom: every pair of apps while they are few, a ring of neighbours when they are many. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ALL_PAIRS", "Pairs", "choose"]

ALL_PAIRS = 240
"""The most ordered pairs of one store that are all tried: 16 apps."""

_NEIGHBOURS = 3


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one store.

    Args:
        victims: by attacker, the apps that it tries.
        possible: how many ordered pairs there are.
        sampled: whether some are left out.
        seed: what the order of the ring was drawn with, so that it can be drawn again; None where nothing was drawn.
    """

    victims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    possible: int = 0
    sampled: bool = False
    seed: int | None = None

    @property
    def count(self) -> int:
        """How many ordered pairs are tried."""
        return sum(map(len, self.victims.values()))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((attacker, victim) for attacker, victims in self.victims.items() for victim in victims)

    def __str__(self) -> str:
        if not self.possible:
            return "no two apps to try on each other"
        if not self.sampled:
            return f"all {self.possible} pairs"
        return f"{self.count} of {self.possible} pairs, drawn with seed {self.seed}"


def choose(apps: Sequence[str], seed: int, only: frozenset[str] | None = None, most: int = ALL_PAIRS) -> Pairs:
    """The pairs to try among `apps`.

    Args:
        only: pairs in which one of these takes part, on either side; None: all.
        most: so many ordered pairs are tried one and all. Of more, each app tries, and is tried by, at least its
            next three neighbours in a ring of random order; every app is on both sides.
    """
    involved = [app for app in apps if only is None or app in only]
    full = {
        attacker: tuple(victim for victim in apps if victim != attacker and _concerns(attacker, victim, only))
        for attacker in apps
    }
    whole = Pairs({attacker: victims for attacker, victims in full.items() if victims or attacker in involved})
    possible = whole.count
    if possible <= most:
        return Pairs(whole.victims, possible)
    ring = list(apps)
    random.Random(seed).shuffle(ring)  # noqa: S311 - a sample, no secret
    reach = {
        app: {ring[(place + step) % len(ring)] for step in range(1, _NEIGHBOURS + 1)} for place, app in enumerate(ring)
    }
    sample = {
        attacker: tuple(victim for victim in victims if victim in reach[attacker])
        for attacker, victims in whole.victims.items()
    }
    kept = {attacker: victims for attacker, victims in sample.items() if victims or attacker in involved}
    return Pairs(kept, possible, sampled=True, seed=seed)


def _concerns(attacker: str, victim: str, only: frozenset[str] | None) -> bool:
    return only is None or attacker in only or victim in only
