"""What is due, and what is late: for cron, systemd, the sidecar, and for `multidb health`, which asks no target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from multidb.backup.continuous.lag import NewestMoment, archive_health, newest_moment
from multidb.backup.journal import PAUSED, Journal, is_at_work
from multidb.backup.labels import CLONE_OF
from multidb.backup.set_ids import is_set_id, made_at
from multidb.backup.settings import Settings, settings
from multidb.closure import closures
from multidb.credentials import FIRST_ISSUED
from multidb.document import in_future
from multidb.errors import MultidbError
from multidb.fleet import Fleet
from multidb.model import App, Health, Project, Status, time_in_words
from multidb.state import ProjectState

__all__ = [
    "coming_due",
    "due",
    "LastSets",
    "freshness",
    "freshness_now",
    "last_sets",
    "next_due",
    "verification_due",
]

_EARLY: Final = 0.02  # of the interval: a timer that fires a moment early must not lose a whole turn
_LATE: Final = 1.5  # intervals after which somebody is told


def due(fleet: Fleet, now: datetime) -> list[App]:
    """The apps whose newest set is older than the manifest allows, or that have none; and those that are closed until a
    restore or an import is finished, which a backup does."""
    journal = Journal(fleet.state)
    waiting = {app for app, closure in closures(fleet.state).items() if closure.exchange}
    if is_at_work(fleet.state):  # nothing has been interrupted
        waiting.clear()
    return [
        app
        for app in _scheduled(fleet.project)
        if app.id in waiting or _next(fleet.project, app, journal.known(app.id), now) <= now
    ]


def next_due(fleet: Fleet, now: datetime) -> datetime:
    """When the next backup is due; `now` where there is no app."""
    return max(now, min(_moments(fleet, now), default=now))


def coming_due(fleet: Fleet, now: datetime) -> datetime | None:
    """When the next of the backups is due that are not due `now`, such as those that have just failed."""
    return min((moment for moment in _moments(fleet, now) if moment > now), default=None)


def verification_due(fleet: Fleet, app: App, now: datetime) -> bool:
    """Whether the last proof of one of the app's sets, or the last try that found nothing wrong where there can be no
    whole proof, is longer ago than the manifest allows."""
    interval = settings(fleet.project, app).verify
    if interval is None:
        return False
    known = Journal(fleet.state).known(app.id)
    last = max((moment for name in ("verified", "tried") if (moment := _moment(known.get(name)))), default=None)
    return last is None or in_future(last, now) or last + interval * (1 - _EARLY) <= now


def freshness(project: Project, state: ProjectState, app: App, now: datetime) -> Health | None:
    """What is to be said of the app's backups; None where the manifest does not speak of any. Reads the state alone."""
    try:
        app_settings = settings(project, app)
    except MultidbError as error:
        return Health(Status.DEGRADED, str(error), fix=error.hint or "")
    journal = Journal(state)
    if app.id in journal.open(PAUSED):
        message = "its logins are off while a set of it is made"
        return Health(Status.DEGRADED, message, fix=f"multidb backup {app.id}, if no run is at it any more")
    closure = closures(state).get(app.id)
    if closure is not None:
        return Health(Status.DEGRADED, closure.why, fix=closure.way_on)
    known = journal.known(app.id)
    if not app_settings.declared or CLONE_OF in app.labels:
        return None
    newest, verified = _moment(known.get("when")), _moment(known.get("verified"))
    made = _moment(state.read(FIRST_ISSUED).get(app.id))
    new = made is not None and not in_future(made, now) and now - made <= app_settings.every
    if new and newest is None and "failed" not in known:
        assert made is not None
        age, every = time_in_words(now - made), time_in_words(app_settings.every)
        return Health(Status.HEALTHY, f"has no backup yet; made {age} ago, and one every {every} is wanted")
    problem = _problem(app, app_settings, known, newest, verified, now)
    if problem:
        return Health(Status.DEGRADED, *problem)
    assert newest is not None
    archive = archive_health(project, state, app, now)
    if archive is not None and archive.status is not Status.HEALTHY:
        return archive
    until = f"; {archive.message}" if archive is not None else ""
    proof = f", verified {time_in_words(now - verified)} ago" if verified and not in_future(verified, now) else ""
    return Health(Status.HEALTHY, f"newest set {time_in_words(now - newest)} old{proof}{until}")


def freshness_now(fleet: Fleet) -> Callable[[App], Health | None]:
    """`freshness` of the project's apps, each as it is when it is asked for."""
    return lambda app: freshness(fleet.project, fleet.state, app, datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class LastSets:
    """When an app's newest set was made, when the newest that was verified, what lies between two at most (None: the
    manifest asks for none), whether the last run failed, if only for one of the targets, and what moments there are
    (None: the manifest wants nothing archived)."""

    newest: datetime | None
    verified: datetime | None
    every: timedelta | None
    failed: bool = False
    moments: NewestMoment | None = None


def last_sets(project: Project, state: ProjectState) -> dict[str, LastSets]:
    """By app whose backups the manifest speaks of, or that has one all the same. Reads the state alone."""
    journal = Journal(state)
    last = {}
    for app in _scheduled(project):
        app_settings, known = settings(project, app), journal.known(app.id)
        newest, verified_set = _moment(known.get("when")), known.get("verified_set")
        if app_settings.declared or newest or verified_set:
            every = app_settings.every if app_settings.declared else None
            verified = made_at(verified_set) if verified_set and is_set_id(verified_set) else None
            last[app.id] = LastSets(newest, verified, every, "failed" in known, newest_moment(project, state, app))
    return last


def _scheduled(project: Project) -> list[App]:
    """All but clones, which can be made again."""
    return [app for app in project.apps.values() if CLONE_OF not in app.labels]


def _problem(
    app: App,
    settings: Settings,
    known: dict[str, Any],
    newest: datetime | None,
    verified: datetime | None,
    now: datetime,
) -> tuple[str, None, str] | None:
    again = f"multidb backup {app.id}"
    failed = known.get("failed")
    if newest is None:
        return (f"has no backup yet{_because(failed)}", None, again)
    if in_future(newest, now):
        return (
            f"newest backup is dated {newest:%Y-%m-%d %H:%M} UTC, which has not come: a clock is wrong",
            None,
            again,
        )
    if now - newest > settings.every * _LATE:
        age, every = time_in_words(now - newest), time_in_words(settings.every)
        return (f"newest backup is {age} old, one every {every} is wanted{_because(failed)}", None, again)
    if failed:
        return (f"the last backup failed: {failed['message']}", None, again)
    if "bad" in known:
        return (f"set {known['bad']['id']} does not verify: {known['bad']['message']}", None, again)
    if verified is not None and in_future(verified, now):
        verified = None
    if settings.verify is not None and now - (verified or newest) > settings.verify + settings.every * _LATE:
        age = f"{time_in_words(now - verified)} ago" if verified else "never"
        return (f"no set was verified lately (last: {age})", None, f"multidb backups verify {app.id}")
    return None


def _because(failed: Any) -> str:
    return f" (last failure: {failed['message']})" if failed else ""


def _moments(fleet: Fleet, now: datetime) -> list[datetime]:
    """When each backup is due."""
    journal = Journal(fleet.state)
    return [_next(fleet.project, app, journal.known(app.id), now) for app in _scheduled(fleet.project)]


def _next(project: Project, app: App, known: dict[str, Any], now: datetime) -> datetime:
    newest = _moment(known.get("when"))
    if newest is None or in_future(newest, now):  # nobody knows how old it is
        return datetime.fromtimestamp(0, tz=UTC)
    return newest + settings(project, app).every * (1 - _EARLY)


def _moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
