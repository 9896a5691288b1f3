"""What is wrong now, as alarms: of a health check, of backups, of a plan, of an audit, of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from multidb.audit import Audit
from multidb.health import HealthReport
from multidb.model import Health, Status, listed
from multidb.plan import Plan
from multidb.usage import UsageReport

__all__ = ["Alarm", "AlarmKind", "Subject", "drifts", "late_backups", "open_walls", "over_quota", "unwell"]


class AlarmKind(StrEnum):
    """What can be wrong."""

    UNHEALTHY = "unhealthy"
    BREACH = "breach"
    DRIFT = "drift"
    BACKUP = "backup"
    QUOTA = "quota"
    CREDENTIALS = "credentials"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an alarm is about: the same thing when it is seen again, whatever the message says.

    Args:
        app: whose; None: a server's own.
        store: on which; None: the app's as a whole.
    """

    kind: AlarmKind
    app: str | None
    store: str | None


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong now.

    Args:
        app: whose; None: a server's own.
        store: on which; None: the app's as a whole.
        message: what is wrong, one sentence.
        fix: what to do, with the command to run.
    """

    kind: AlarmKind
    app: str | None
    store: str | None
    message: str
    fix: str = ""

    @property
    def subject(self) -> Subject:
        """What it is about."""
        return Subject(self.kind, self.app, self.store)


def unwell(report: HealthReport) -> list[Alarm]:
    """An alarm for each place where an app cannot work or has credentials that are too old, and for each app whose
    backups are not as they should be."""
    alarms = [
        Alarm(
            AlarmKind.CREDENTIALS if check.overdue else AlarmKind.UNHEALTHY,
            check.app,
            check.store,
            check.health.message,
            check.health.fix,
        )
        for check in report.checks
        if check.overdue or check.health.status is Status.UNHEALTHY
    ]
    return alarms + late_backups(report.backups)


def late_backups(backups: Mapping[str, Health]) -> list[Alarm]:
    """An alarm for each app whose backups are not as they should be.

    Args:
        backups: by app, what `multidb.backup.schedule.freshness` says.
    """
    late = [(app, health) for app, health in backups.items() if health.status is not Status.HEALTHY]
    return [Alarm(AlarmKind.BACKUP, app, None, health.message, health.fix) for app, health in late]


def drifts(plan: Plan) -> list[Alarm]:
    """An alarm for each app and store that is not as the manifest says."""
    changes: dict[tuple[str | None, str], list[str]] = {}
    for change in plan.changes:
        what = f"{change.action} {change.resource.kind} {change.resource.name}"
        changes.setdefault((change.resource.app, change.store), []).append(what)
    return [
        Alarm(AlarmKind.DRIFT, app, store, f"not as the manifest says: {listed(texts, 1)}", "multidb plan")
        for (app, store), texts in changes.items()
    ]


def open_walls(audit: Audit) -> list[Alarm]:
    """An alarm for each app and store whose wall is open."""
    openings: dict[tuple[str | None, str], list[tuple[str, str]]] = {}
    for hole in audit.holes:
        closing = "\n".join(hole.hole.closes)
        openings.setdefault((hole.hole.app, hole.store), []).append((hole.hole.message, closing))
    for tried in audit.breaches:
        openings.setdefault((tried.probe.wall, tried.store), []).append((f"{tried.act} worked", "multidb audit"))
    return [
        Alarm(AlarmKind.BREACH, app, store, listed([text for text, _ in texts], 1), texts[0][1])
        for (app, store), texts in openings.items()
    ]


def over_quota(report: UsageReport) -> list[Alarm]:
    """An alarm for each app and store that has used up its quota."""
    return [
        Alarm(
            AlarmKind.QUOTA,
            used.app,
            used.store,
            f"uses {used.share:.0%} of its quota" + (", and may only read and delete now" if used.read_only else ""),
            f"multidb usage {used.app}",
        )
        for used in report.over
    ]
