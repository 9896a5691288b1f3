"""Which apps the overview shows, by what its address says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multidb.backup.schedule import LastSets
from multidb.model import AppUsage, Health, Quota, Status
from multidb.service.overview import AppRow, Cell
from multidb.service.selection import SORTS, TROUBLES, Selection, labels_of
from multidb.usage import StoreUsage
from tests.support.reports import AT

LATE = Health(Status.DEGRADED, "late")


def row(app: str, status: Status = Status.HEALTHY, latency: float | None = None, size: int | None = None) -> AppRow:
    used = None if size is None else StoreUsage(app, "redis", "redis", AppUsage(size=size), Quota(100))
    cell = Cell(app, "redis", Health(status, "m", latency), usage=used, drift=0)
    return AppRow(app, status, {"redis": cell})


def with_cell(of: AppRow, **changes: object) -> AppRow:
    return replace(of, cells={"redis": replace(of.cells["redis"], **changes)})  # type: ignore[arg-type]


ROWS = (
    replace(row("well", latency=0.2, size=10), labels={"tier": "gold"}, backup=LastSets(AT, AT, None)),
    row("ill_one", Status.UNHEALTHY),
    row("poor", Status.DEGRADED, latency=0.5),
    with_cell(row("open_one", size=20), verdict="hole"),
    with_cell(row("unproved"), verdict="not proved"),
    with_cell(row("drifted"), drift=2),
    replace(row("late"), backup_health=LATE, labels={"tier": "gold", "team": "a"}),
    row("full", size=90),
)


def shown(**asked: str) -> list[str]:
    return [found.app for found in Selection.of(**asked).rows(ROWS)]


def test_nothing_asked_is_everything_as_in_the_manifest() -> None:
    assert shown() == [each.app for each in ROWS]
    assert not Selection().narrow
    assert Selection().address == ""


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"text": "one"}, ["ill_one", "open_one"]),
        ({"text": " ILL-one "}, ["ill_one"]),
        ({"text": "%"}, []),
        ({"trouble": "unhealthy"}, ["ill_one"]),
        ({"trouble": "degraded"}, ["poor"]),
        ({"trouble": "wall-open"}, ["open_one"]),
        ({"trouble": "not-proved"}, ["unproved"]),
        ({"trouble": "drift"}, ["drifted"]),
        ({"trouble": "backup"}, ["late"]),
        ({"trouble": "quota"}, ["full"]),
        ({"trouble": "any"}, [each.app for each in ROWS[1:]]),
        ({"label": "tier=gold"}, ["well", "late"]),
        ({"label": "tier=gold", "trouble": "any"}, ["late"]),
        ({"label": "tier"}, []),
    ],
)
def test_apps_are_found_by_name_trouble_and_label(asked: dict[str, str], found: list[str]) -> None:
    assert shown(**asked) == found
    assert Selection.of(**asked).narrow


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("name", ["drifted", "full", "ill_one"]),
        ("trouble", ["ill_one", "open_one", "poor"]),
        ("size", ["full", "open_one", "well"]),
        ("latency", ["poor", "well", "ill_one"]),
        ("drift", ["drifted", "well", "ill_one"]),
    ],
)
def test_they_are_sorted_by_what_is_asked(sort: str, first: list[str]) -> None:
    assert shown(sort=sort)[:3] == first
    assert len(shown(sort=sort)) == len(ROWS)


def test_the_oldest_backup_comes_first_and_what_has_none_before_it() -> None:
    assert shown(sort="backup")[-1] == "well"


def test_what_is_not_to_be_understood_counts_as_not_said() -> None:
    assert Selection.of(trouble="x", sort="x; DROP", label="") == Selection()
    assert len(Selection.of(text="x" * 10_000, label="y" * 10_000).address) < 1000
    assert Selection.of("a&b", "any", "tier=gold", "name").address == "?q=a%26b&trouble=any&label=tier%3Dgold&sort=name"


def test_every_choice_that_is_offered_is_understood() -> None:
    assert all(Selection.of(trouble=word).trouble == word for word in TROUBLES)
    assert all(Selection.of(sort=word).sort == word for word in SORTS)
    assert labels_of(ROWS) == ["team=a", "tier=gold"]
