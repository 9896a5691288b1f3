"""Strips and charts: every point is where its value belongs, and in its box."""

from __future__ import annotations

import pytest

from multidb.health_history import SLOTS, HealthSlot
from multidb.model import Status
from multidb.service.charts import chart, sparkline, strip, strip_in_words

WELL, WORSE, ILL = (HealthSlot(status) for status in Status)


def points(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]


def test_a_sparkline_goes_from_the_oldest_to_the_newest_and_keeps_to_its_box() -> None:
    points = [tuple(map(float, point.split(","))) for point in sparkline([5, 9, 1]).split()]
    assert points == [(2, 9), (36, 2), (70, 16)]
    many = [tuple(map(float, point.split(","))) for point in sparkline(list(range(2000))).split()]
    assert len(many) <= 48
    assert many[-1] == (70, 2), "the newest is shown"
    assert {y for _, y in [tuple(map(float, point.split(","))) for point in sparkline([7, 7]).split()]} == {9}
    (_, before), (_, after) = [tuple(map(float, point.split(","))) for point in sparkline([1000, 1010]).split()]
    assert 0.5 < before - after < 2, "a hundredth more is seen, and does not look like a tenfold"


def test_a_chart_has_its_axis_from_nothing_to_a_round_figure_and_its_times_to_scale() -> None:
    found = chart([(0, 10.0), (10, 40.0), (40, 20.0)])
    assert found is not None
    assert [value for _, value in found.ticks] == [0, 25, 50]
    heights = {value: y for y, value in found.ticks}
    (line,) = found.lines
    assert points(line)[0][0] == 44
    assert points(line)[-1][0] == 312
    assert points(line)[1][0] == pytest.approx(44 + (312 - 44) / 4)
    assert points(line)[1][1] == pytest.approx(heights[0] + (heights[50] - heights[0]) * 40 / 50)
    assert found.values == (10, 20, 40)
    assert found.span == 40


def test_where_nothing_is_known_the_line_has_a_hole_and_what_stands_alone_is_a_dot() -> None:
    found = chart([(0, 1.0), (1, 2.0), (2, None), (3, 3.0), (4, None)])
    assert found is not None
    assert [len(points(line)) for line in found.lines] == [2, 2]
    first, second = points(found.lines[1])
    assert first == second
    assert chart([]) is None
    assert chart([(0, 1.0), (1, None)]) is None
    level = chart([(0, 0.0), (0, 0.0)])
    assert level is not None
    assert level.ticks[-1][1] == 1, "of nothing, and of one moment, there is a chart"


@pytest.mark.parametrize(
    ("value", "top"), [(0.0003, 0.0005), (1, 1), (1.01, 2), (4.9, 5), (99, 100), (9_000_000, 10_000_000)]
)
def test_the_axis_ends_at_one_two_or_five_of_something(value: float, top: float) -> None:
    found = chart([(0, value), (1, value)])
    assert found is not None
    assert found.ticks[-1][1] == pytest.approx(top)


def test_a_strip_is_a_day_wide_the_newest_slot_on_the_right_and_what_is_worse_is_higher() -> None:
    bars = list(strip([WELL, WELL, None, WORSE, ILL]))
    assert [(bar.tone, bar.width) for bar in bars] == [
        ("none", SLOTS - 5),
        ("good", 2),
        ("none", 1),
        ("warn", 1),
        ("bad", 1),
    ]
    assert sum(bar.width for bar in bars) == SLOTS
    assert [bar.x for bar in bars] == [0, SLOTS - 5, SLOTS - 3, SLOTS - 2, SLOTS - 1]
    assert all(bar.y + bar.height == 24 for bar in bars)
    assert bars[0].height < bars[1].height < bars[3].height < bars[4].height
    assert len(list(strip([WELL] * SLOTS))) == 1
    assert strip_in_words([WELL, WELL, None, WORSE, ILL]) == (
        "Of 144 times ten minutes of the last day: healthy in 2, degraded in 1, unhealthy in 1, not looked at in 140"
    )
    assert strip_in_words([ILL] * SLOTS).endswith(": unhealthy in 144")
