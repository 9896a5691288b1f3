"""Removing sets that need not stay, and what unfinished runs have left on the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from multidb.backup.repository import Copy, HalfMade, Repository
from multidb.backup.retention import Candidate, Trust, kept
from multidb.backup.set_ids import made_at
from multidb.backup.sets import Reason
from multidb.document import in_future
from multidb.errors import MultidbError
from multidb.model.options import Keep

__all__ = ["Decision", "Pruning", "carry_out", "decide"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of one copy of a set, and why."""

    copy: Copy
    keep: bool
    why: str


@dataclass(frozen=True, slots=True)
class Pruning:
    """What would be removed, and what stays."""

    decisions: tuple[Decision, ...]
    half_made: tuple[HalfMade, ...]

    @property
    def going(self) -> tuple[Copy, ...]:
        """The copies to be removed."""
        return tuple(decision.copy for decision in self.decisions if not decision.keep)


def decide(home: Repository, keep: dict[str, Keep], now: datetime) -> Pruning:
    """What the policies of some apps say about their sets. Removes nothing.

    Sets of the same app, target and stores are one line of succession: a set of one store never takes the place of a
    whole one. The final set of a removed app stays; so do sets of apps that have no policy.
    """
    lines: dict[tuple[str, str, frozenset[str]], list[Copy]] = {}
    decisions: list[Decision] = []
    for copy in home.copies(keep):
        if copy.backup_set is None:
            decisions.append(Decision(copy, True, f"cannot be read: {copy.problem}"))
        elif copy.backup_set.reason is Reason.FINAL:
            decisions.append(Decision(copy, True, "the last set before the app was removed"))
        elif in_future(copy.backup_set.made, now):  # else it would take the place of every set that is made now
            decisions.append(Decision(copy, True, "dated in the future, so it takes nobody's place: a clock was wrong"))
        else:
            lines.setdefault((copy.owner, copy.target.name, frozenset(copy.backup_set.all_parts)), []).append(copy)
    for (app, _, _), copies in lines.items():
        reasons = kept([Candidate(copy.id, made_at(copy.id), _trust(copy)) for copy in copies], keep[app])
        decisions += [Decision(copy, copy.id in reasons, reasons.get(copy.id, "no slot")) for copy in copies]
    half_made = tuple(leftover for leftover in home.half_made() if leftover.abandoned(now))
    return Pruning(
        tuple(sorted(decisions, key=lambda decision: (decision.copy.app, decision.copy.id), reverse=True)), half_made
    )


def carry_out(home: Repository, pruning: Pruning) -> list[MultidbError]:
    """Removes what was decided to go; what could not be removed is in the answer, and goes the next time."""
    errors: list[MultidbError] = []
    folders = [(copy.target, f"{home.project}/{copy.app}/{copy.id}") for copy in _oldest_first(pruning.going)]
    for target, folder in [*folders, *((leftover.target, leftover.folder) for leftover in pruning.half_made)]:
        try:
            home.remove(target, folder)
        except MultidbError as error:
            errors.append(error)
    return errors


def _oldest_first(copies: Iterable[Copy]) -> Sequence[Copy]:
    return sorted(copies, key=lambda copy: copy.id)


def _trust(copy: Copy) -> Trust:
    if copy.tried is None:
        return Trust.UNTRIED
    if copy.tried.failures:
        return Trust.BAD
    return Trust.VERIFIED if copy.tried.ok else Trust.TRIED
