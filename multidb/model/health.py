"""How well an app's place on one server is, as the app itself finds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Health", "Status", "worst"]


class Status(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # it works, and something needs a person before it stops working
    UNHEALTHY = "unhealthy"  # the app cannot work


@dataclass(frozen=True, slots=True)
class Health:
    """What one check found.

    Args:
        message: what a person has to know, one sentence; for a healthy one, what was proved (``wrote and read``).
        latency: seconds that the check's own round trips took; None when none was answered.
        fix: what to do about it, with the command to run.
    """

    status: Status
    message: str
    latency: float | None = None
    fix: str = ""


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them; of none: healthy."""
    order = list(Status)
    return max(statuses, key=order.index, default=Status.HEALTHY)
