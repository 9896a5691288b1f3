"""States, times and figures in the words and tones of the pages. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from multidb.history import RunOutcome
from multidb.model import Status
from multidb.provisioners import known_stores, provisioner

__all__ = ["SIGNS", "clock", "day", "outcome_tone", "store_title", "tone_of"]

SIGNS: Final = {Status.HEALTHY: "✓", Status.DEGRADED: "!", Status.UNHEALTHY: "✕", None: "?"}
"""Beside each status, so that no state is told by colour alone."""


def clock(at: datetime) -> str:
    """The time of day."""
    return at.strftime("%H:%M:%S UTC")


def day(at: datetime) -> str:
    """Day and time."""
    return at.strftime("%Y-%m-%d %H:%M UTC")


def outcome_tone(outcome: RunOutcome) -> str:
    """good, warn, bad or none."""
    return {
        RunOutcome.DONE: "good",
        RunOutcome.RUNNING: "none",
        RunOutcome.PARTLY: "warn",
        RunOutcome.UNFINISHED: "warn",
        RunOutcome.INTERRUPTED: "warn",
        RunOutcome.FAILED: "bad",
    }[outcome]


def store_title(store: str) -> str:
    """The store's name for people."""
    return provisioner(store).title if store in known_stores() else store


def tone_of(status: Status | None) -> str:
    """good, warn, bad or none."""
    return {Status.HEALTHY: "good", Status.DEGRADED: "warn", Status.UNHEALTHY: "bad", None: "none"}[status]
