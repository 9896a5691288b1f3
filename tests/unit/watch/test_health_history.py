"""The history of health checks: what is kept of a day, since when a place is as it is, what is not worth a write."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from multidb.errors import UsageError
from multidb.health import Checked, HealthReport
from multidb.health_history import SLOT, SLOTS, HealthHistory, HealthSlot, PlaceHistory
from multidb.model import Health, Status
from multidb.state import ProjectState

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HEALTHY, DEGRADED, UNHEALTHY = Status
ANN = ("ann", "redis")


@pytest.fixture
def state(tmp_path: Path) -> ProjectState:
    return ProjectState(tmp_path)


def report(at: datetime, status: Status = HEALTHY, latency: float | None = 0.002, app: str = "ann") -> HealthReport:
    return HealthReport("shop", (Checked(app, "redis", "redis", Health(status, "m", latency)),), checked_at=at)


def kept(state: ProjectState) -> dict[tuple[str, str], PlaceHistory]:
    history = HealthHistory(state)
    history.load()
    return dict(history.places)


def test_a_slot_has_the_worst_of_its_checks_and_the_longest_latency(state: ProjectState) -> None:
    history = HealthHistory(state)
    for minutes, status, latency in (
        (0, HEALTHY, 0.002),
        (2, UNHEALTHY, None),
        (4, HEALTHY, 0.009),
        (6, HEALTHY, 0.001),
    ):
        history.add(report(NOON + timedelta(minutes=minutes), status, latency))
    place = kept(state)[ANN]
    assert place.slots == (HealthSlot(UNHEALTHY, 0.009),)
    assert (place.status, place.since) == (HEALTHY, NOON + timedelta(minutes=4))
    assert history.places == kept(state)


def test_times_in_which_nobody_looked_are_holes_and_what_is_older_than_a_day_is_gone(state: ProjectState) -> None:
    history = HealthHistory(state)
    history.add(report(NOON, DEGRADED))
    history.add(report(NOON + 3 * SLOT))
    assert kept(state)[ANN].slots == (HealthSlot(DEGRADED, 0.002), None, None, HealthSlot(HEALTHY, 0.002))
    for number in range(4, SLOTS + 2):
        history.add(report(NOON + number * SLOT, app="bob"))
    slots = kept(state)[ANN].slots
    assert len(slots) == SLOTS
    assert [slot is not None for slot in slots].index(True) == 1, "the first one is gone"
    assert kept(state)[ANN].since == NOON + 3 * SLOT, "and it is known since when"
    history.add(report(NOON + (SLOTS + 4) * SLOT, app="bob"))
    assert list(kept(state)) == [("bob", "redis")], "an app that nobody asks about is forgotten in a day"


def test_a_check_is_written_each_minute_and_at_once_when_a_status_is_another(state: ProjectState) -> None:
    history, path = HealthHistory(state), state.folder / "health.json"
    history.add(report(NOON))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.stat().st_ino
    history.add(report(NOON + timedelta(seconds=59), latency=0.5))
    assert path.stat().st_ino == first
    history.add(report(NOON + timedelta(seconds=59), UNHEALTHY))
    second = path.stat().st_ino
    assert second != first
    history.add(report(NOON + timedelta(seconds=119), UNHEALTHY))
    assert path.stat().st_ino != second
    assert kept(state)[ANN].since == NOON + timedelta(seconds=59)


def test_two_who_look_keep_one_history(state: ProjectState) -> None:
    one, other = HealthHistory(state), HealthHistory(state)
    one.add(report(NOON))
    other.add(report(NOON + timedelta(minutes=1), app="bob"))
    one.add(report(NOON + timedelta(minutes=2)))
    assert set(kept(state)) == {ANN, ("bob", "redis")}
    other.add(report(NOON + timedelta(minutes=1), UNHEALTHY))
    assert kept(state)[ANN].status is HEALTHY, "a check that was overtaken changes nothing"


def test_a_clock_that_was_wrong_costs_the_history_and_nothing_else(state: ProjectState) -> None:
    history = HealthHistory(state)
    history.add(report(NOON + timedelta(days=400)))
    history.add(report(NOON))
    assert kept(state)[ANN].since == NOON


def test_what_cannot_be_kept_is_remembered_while_somebody_looks(
    state: ProjectState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UsageError("the disk is full")

    history = HealthHistory(state)
    history.add(report(NOON))
    monkeypatch.setattr("multidb.files.write_text", full)
    history.add(report(NOON + SLOT, DEGRADED))
    history.add(report(NOON + 2 * SLOT, DEGRADED))
    assert [slot and slot.status for slot in history.places[ANN].slots] == [HEALTHY, DEGRADED, DEGRADED]
    assert kept(state)[ANN].status is HEALTHY


def test_a_thousand_apps_for_a_day_fit(state: ProjectState) -> None:
    history = HealthHistory(state)
    checks = tuple(
        Checked(f"app{number}", store, store, Health(HEALTHY, "m", 0.0123))
        for number in range(1000)
        for store in ("postgres", "redis", "qdrant")
    )
    history.add(HealthReport("shop", checks, checked_at=NOON))
    document = json.loads((state.folder / "health.json").read_text())
    place = document["apps"]["app1"]["redis"]
    place |= {"slots": "h" * SLOTS, "latencies": [12.3] * SLOTS}
    assert 3000 * len(json.dumps(place, separators=(",", ":"))) < 8_000_000
