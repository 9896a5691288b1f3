"""What is told and when, as a function of what was told before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from multidb.alarms import Alarm, AlarmKind, unwell
from multidb.health import Checked, HealthReport
from multidb.model import Health, Status
from multidb.notification import LookScope, News, SentAlarm, news

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
ALL = LookScope(frozenset(AlarmKind))
REFUSED = Alarm(AlarmKind.UNHEALTHY, "lernmi", "postgres", "refuses the password", "multidb apply")


def told(alarm: Alarm, *, ago: timedelta, since: timedelta | None = None, ended: bool = False) -> list[SentAlarm]:
    return [SentAlarm(alarm, NOW - (since or ago), NOW - ago, ended)]


def test_what_begins_is_told_once() -> None:
    (notice,) = news({}, [REFUSED], ALL, NOW, DAY)
    assert (notice.news, notice.alarm, notice.since) == (News.BEGAN, REFUSED, NOW)
    assert news(told(REFUSED, ago=timedelta(hours=2)), [REFUSED], ALL, NOW, DAY) == []


def test_another_message_about_the_same_thing_is_not_news() -> None:
    other = Alarm(AlarmKind.UNHEALTHY, "lernmi", "postgres", "does not answer")
    assert news(told(REFUSED, ago=timedelta(hours=2)), [other], ALL, NOW, DAY) == []


def test_a_reminder_says_since_when() -> None:
    before = told(REFUSED, ago=DAY, since=timedelta(days=3))
    (notice,) = news(before, [REFUSED], ALL, NOW, DAY)
    assert (notice.news, notice.since) == (News.REMINDER, NOW - timedelta(days=3))


def test_the_end_is_told_once_with_what_it_was() -> None:
    (notice,) = news(told(REFUSED, ago=timedelta(hours=2)), [], ALL, NOW, DAY)
    assert (notice.news, notice.alarm) == (News.ENDED, REFUSED)
    assert news(told(REFUSED, ago=timedelta(hours=2), ended=True), [], ALL, NOW, DAY) == []
    (again,) = news(told(REFUSED, ago=timedelta(hours=2), ended=True), [REFUSED], ALL, NOW, DAY)
    assert again.news is News.BEGAN


@pytest.mark.parametrize("ended", [True, False])
def test_what_comes_and_goes_is_told_once_a_minute(ended: bool) -> None:
    current = [REFUSED] if ended else []
    assert news(told(REFUSED, ago=timedelta(seconds=59), ended=ended), current, ALL, NOW, DAY) == []
    assert len(news(told(REFUSED, ago=timedelta(seconds=60), ended=ended), current, ALL, NOW, DAY)) == 1


@pytest.mark.parametrize(
    "looked",
    [
        LookScope(frozenset({AlarmKind.BREACH})),
        LookScope(frozenset(AlarmKind), apps=frozenset({"beep_boop"})),
        LookScope(frozenset(AlarmKind), stores=frozenset({"redis"})),
    ],
)
def test_what_was_not_looked_at_has_not_ended(looked: LookScope) -> None:
    before = told(REFUSED, ago=timedelta(hours=2))
    assert news(before, [], looked, NOW, DAY) == []
    same = LookScope(frozenset({AlarmKind.UNHEALTHY}), frozenset({"lernmi"}), frozenset({"postgres"}))
    assert len(news(before, [], same, NOW, DAY)) == 1  # the control


def test_what_was_told_by_a_clock_that_was_ahead_is_told_again() -> None:
    ahead = told(REFUSED, ago=-timedelta(days=800))
    assert [notice.news for notice in news(ahead, [REFUSED], ALL, NOW, DAY)] == [News.REMINDER]
    assert [notice.news for notice in news(ahead, [], ALL, NOW, DAY)] == [News.ENDED]


def test_what_a_later_multidb_has_told_is_left_to_it() -> None:
    (one,) = told(REFUSED, ago=DAY)
    assert SentAlarm.parse(one.entry()) == one
    assert SentAlarm.parse(one.entry() | {"kind": "weather"}) is None


def test_credentials_that_are_too_old_are_told_as_that() -> None:
    old = Health(Status.DEGRADED, "its credentials are 91 days old", fix="multidb rotate lernmi")
    slow = Health(Status.DEGRADED, "is being optimized")
    down = Health(Status.UNHEALTHY, "does not answer")
    report = HealthReport(
        "digi",
        (
            Checked("lernmi", "postgres", "postgres", old, overdue=True),
            Checked("lernmi", "qdrant", "qdrant", slow),
            Checked("lernmi", "redis", "redis", down),
        ),
    )
    alarms = unwell(report)
    assert [(alarm.kind, alarm.store) for alarm in alarms] == [
        (AlarmKind.CREDENTIALS, "postgres"),
        (AlarmKind.UNHEALTHY, "redis"),
    ]
    assert alarms[0].fix == "multidb rotate lernmi"
