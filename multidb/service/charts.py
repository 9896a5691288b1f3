"""Numbers as lines and strips: the points of SVG elements. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from multidb.health_history import SLOTS, HealthSlot
from multidb.model import Status

__all__ = ["Bar", "Chart", "chart", "sparkline", "strip", "strip_in_words"]

_POINTS: Final = 48  # of a sparkline; more cannot be seen
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 312.0, 10.0, 92.0  # of a chart's lines, in its box of 320 by 120
_TICKS: Final = 2  # above zero
_STRIP_HEIGHT: Final = 24.0
_HEIGHTS: Final = {Status.HEALTHY: 10.0, Status.DEGRADED: 17.0, Status.UNHEALTHY: _STRIP_HEIGHT, None: 2.0}


@dataclass(frozen=True, slots=True)
class Bar:
    """A run of equal slots. `tone`: good, warn, bad or none; what is worse is higher, so that no colour is needed."""

    x: float
    y: float
    width: float
    height: float
    tone: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over time, in a box of 320 by 120.

    Args:
        lines: the points of each; there is none where nothing is known.
        ticks: the height of each line of the grid, and the value there.
        values: first, last and largest value, for those who cannot see it.
        span: from the first point to the last one.
    """

    lines: tuple[str, ...]
    ticks: tuple[tuple[float, float], ...]
    values: tuple[float, float, float]
    span: float


def sparkline(values: Sequence[int], width: int = 72, height: int = 18) -> str:
    """The points of an SVG line from the oldest value to the newest, lowest value at the bottom.

    A change of less than a tenth does not take the whole height, so that what hardly grows does not seem to soar.
    """
    shown = _thinned(values, _POINTS)
    low, high = min(shown), max(shown)
    reach = max(high - low, high // 10)
    across = (width - 4) / max(1, len(shown) - 1)
    tall = (height - 4) / reach if reach else 0
    middle = height / 2 + (high - low) * tall / 2
    return " ".join(f"{2 + at * across:.1f},{middle - (value - low) * tall:.1f}" for at, value in enumerate(shown))


def chart(points: Sequence[tuple[float, float | None]]) -> Chart | None:
    """The chart of these values; None where there are fewer than two.

    Args:
        points: when (in seconds, ascending) and how much; None where nothing is known, which is a hole in the line.
    """
    known = [value for _, value in points if value is not None]
    if len(known) < 2:
        return None
    first, last = points[0][0], points[-1][0]
    top = _round_up(max(known))
    across, tall = (_RIGHT - _LEFT) / ((last - first) or 1.0), (_BOTTOM - _TOP) / top

    def point(at: float, value: float) -> str:
        return f"{_LEFT + (at - first) * across:.1f},{_BOTTOM - value * tall:.1f}"

    lines = []
    for is_known, run in groupby(points, key=lambda pair: pair[1] is not None):
        if is_known:
            drawn = [point(at, value) for at, value in run if value is not None]
            lines.append(" ".join(drawn if len(drawn) > 1 else drawn * 2))  # a line to itself is a dot
    ticks = tuple((_BOTTOM - top * step / _TICKS * tall, top * step / _TICKS) for step in range(_TICKS + 1))
    return Chart(tuple(lines), ticks, (known[0], known[-1], max(known)), last - first)


def strip(slots: Sequence[HealthSlot | None]) -> Iterator[Bar]:
    """The bars of a strip that is as wide as a day has slots; the newest slot is on the right."""
    tones = {Status.HEALTHY: "good", Status.DEGRADED: "warn", Status.UNHEALTHY: "bad", None: "none"}
    x = float(SLOTS - len(slots))
    if x:
        yield Bar(0.0, _STRIP_HEIGHT - _HEIGHTS[None], x, _HEIGHTS[None], "none")
    for status, run in groupby(slot.status if slot is not None else None for slot in slots):
        width, height = float(len(list(run))), _HEIGHTS[status]
        yield Bar(x, _STRIP_HEIGHT - height, width, height, tones[status])
        x += width


def strip_in_words(slots: Sequence[HealthSlot | None]) -> str:
    """What a strip shows, for those who do not see it."""
    counted = {status: sum(slot is not None and slot.status is status for slot in slots) for status in Status}
    known = [f"{status.value} in {count}" for status, count in counted.items() if count]
    unknown = SLOTS - sum(counted.values())
    words = [*known, f"not looked at in {unknown}"] if unknown else known
    return f"Of {SLOTS} times ten minutes of the last day: {', '.join(words)}"


def _thinned(values: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them; the newest is always among them."""
    step = max(1, -(-len(values) // most))
    return values[::-1][::step][::-1]


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... (and their parts) that is no less; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999999)
