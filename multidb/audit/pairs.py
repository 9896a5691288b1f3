"""Who tries whom: every pair of apps while they are few, neighbours in a ring when they are many. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from multidb.model import counted

__all__ = ["ALL_PAIRS", "Pairs", "choose"]

ALL_PAIRS = 240
"""The most ordered pairs of one store that are all tried: 16 apps."""

_NEIGHBOURS = 3
_ATTACKERS = 40  # of one store; each costs as much as the plans of some thirty apps


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one store.

    Args:
        victims: by attacker, the apps that it tries.
        possible: how many ordered pairs there are.
        sampled: whether some are left out.
        seed: what the order of the ring was drawn with, so that it can be drawn again; None where nothing was drawn.
        waiting: how many apps are no attackers this time, since there are too many.
    """

    victims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    possible: int = 0
    sampled: bool = False
    seed: int | None = None
    waiting: int = 0

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
            return f"all {self.possible} pairs" if self.possible > 1 else "the one pair"
        turn = f", {counted(self.waiting, 'app attacks', 'apps attack')} with another" if self.waiting else ""
        return f"{self.count} of {self.possible} pairs, drawn with seed {self.seed}{turn}"


def choose(apps: Sequence[str], seed: int, only: frozenset[str] | None = None, most: int = ALL_PAIRS) -> Pairs:
    """The pairs to try among `apps`. Linear in what it returns and in the number of apps.

    Args:
        seed: draws a ring of the apps, and says whose turn it is where not all can be attackers; with consecutive
            seeds, as those of days are, everybody has a turn before anybody has a second one.
        only: pairs in which one of these takes part, on either side; None: all.
        most: so many ordered pairs are tried one and all. Of more, each attacker tries its next three neighbours in the
            ring; up to 40 apps are all on both sides.
    """
    involved = [app for app in apps if only is None or app in only]
    others = len(apps) - len(involved)
    possible = len(involved) * (len(apps) - 1) + others * len(involved)
    if possible <= most:
        full = {
            attacker: tuple(victim for victim in apps if victim != attacker and _concerns(attacker, victim, only))
            for attacker in apps
        }
        return Pairs(
            {attacker: victims for attacker, victims in full.items() if victims or attacker in involved}, possible
        )
    ring = list(apps)
    random.Random(seed).shuffle(ring)  # noqa: S311 - a sample, no secret
    places = {app: place for place, app in enumerate(ring)}
    sample: dict[str, tuple[str, ...]] = {}
    for attacker in apps:
        following = (ring[(places[attacker] + step) % len(ring)] for step in range(1, _NEIGHBOURS + 1))
        victims = tuple(victim for victim in following if victim != attacker and _concerns(attacker, victim, only))
        if victims or _concerns(attacker, attacker, only):
            sample[attacker] = victims
    # Apps that are asked for by name all have their turn.
    chosen = sample if only is not None else _in_turn(sample, seed)
    return Pairs(chosen, possible, sampled=True, seed=seed, waiting=len(sample) - len(chosen))


def _in_turn(sample: Mapping[str, tuple[str, ...]], seed: int) -> Mapping[str, tuple[str, ...]]:
    """So many of the attackers as may be; consecutive seeds go round."""
    attackers = list(sample)
    if len(attackers) <= _ATTACKERS:
        return sample
    start = seed * _ATTACKERS % len(attackers)
    chosen = {*attackers[start : start + _ATTACKERS], *attackers[: max(start + _ATTACKERS - len(attackers), 0)]}
    return {attacker: victims for attacker, victims in sample.items() if attacker in chosen}


def _concerns(attacker: str, victim: str, only: frozenset[str] | None) -> bool:
    return only is None or attacker in only or victim in only
