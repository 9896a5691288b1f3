"""A recorded run in some words, as lists of runs have it. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from multidb.history import RecordedRun, RunOutcome
from multidb.model import listed

__all__ = ["outcome_in_words", "took", "what_was_done"]

_WORDS: Final = {RunOutcome.PARTLY: "done in part", RunOutcome.UNFINISHED: "begun, not ended"}
_NAMED: Final = 3  # apps


def outcome_in_words(outcome: RunOutcome) -> str:
    """What came of a run, for people."""
    return _WORDS.get(outcome, outcome.value)


def took(run: RecordedRun) -> timedelta | None:
    """How long it took; None where it has not ended."""
    return run.ended - run.begun if run.ended else None


def what_was_done(run: RecordedRun) -> str:
    """What was changed, of whom; and why it went no further."""
    subject = listed(run.apps, _NAMED)
    parts = [f"{subject}: {_counted(run)}" if run.changes else subject]
    if run.error is not None:
        parts.append(run.error.get("message") or "")
    return "; ".join(filter(None, parts))


def _counted(run: RecordedRun) -> str:
    """The change itself where it is one; how many there are of each action, and of what kinds."""
    changes = run.changes
    if len(changes) == 1:
        return f"{changes[0].action} {changes[0].kind} {changes[0].name}"
    kinds: dict[str, list[str]] = {}
    for change in changes:
        kinds.setdefault(change.action, []).append(change.kind)
    words = [f"{action} {len(all_of)} ({listed(tuple(dict.fromkeys(all_of)))})" for action, all_of in kinds.items()]
    left = run.changes_left_out
    return ", ".join([*words, f"{left} more"] if left else words)
