"""A project with trouble of every kind, as the looks report it; no server is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from multidb.alternation import Alternation, RotationPhase
from multidb.audit import Audit, ServerAudited, Tried
from multidb.backup.continuous.lag import NewestMoment
from multidb.backup.jobs import Job
from multidb.backup.repository import Copy
from multidb.backup.schedule import LastSets
from multidb.backup.sets import BackupSet, Verification
from multidb.backup.targets.folder import FolderTarget
from multidb.credentials import CredentialAge
from multidb.health import Checked, HealthReport
from multidb.health_history import SLOTS, HealthSlot, PlaceHistory
from multidb.history import RecordedChange, RecordedRun, RunOutcome
from multidb.model import (
    Action,
    App,
    AppUsage,
    Change,
    Health,
    Hole,
    Isolation,
    Outcome,
    Probe,
    Project,
    Query,
    Quota,
    Resource,
    RuntimeKind,
    Search,
    ServerSpec,
    ServerUsage,
    Status,
)
from multidb.model.options import ContainerOptions
from multidb.plan import Plan, ServerPlan
from multidb.secrets import Alternate
from multidb.service.overview import Records, RunsSeen, SetsSeen
from multidb.service.sources import UsageSeen
from multidb.usage import Look, ServerSeen, StoreUsage, UsageReport

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def project() -> Project:
    stores: dict[str, Any] = {"postgres": None, "redis": None}
    apps = {
        "lernmi": App("lernmi", "lernmi", stores),
        "beep_boop": App("beep_boop", "beep_boop", {"postgres": None}),
    }
    return Project(
        "digi", RuntimeKind.EMBEDDED, apps, tuple(ServerSpec(store, store, ContainerOptions()) for store in stores)
    )


_BACKUPS = {"lernmi": Health(Status.DEGRADED, "newest backup is 3 d old", fix="multidb backup lernmi")}


def health(status: Status = Status.UNHEALTHY) -> HealthReport:
    return HealthReport(
        "digi",
        (
            Checked("lernmi", "postgres", "postgres", Health(Status.HEALTHY, "wrote and read", 0.0032), issued=AT),
            Checked("lernmi", "redis", "redis", Health(status, f"refuses {HOSTILE}", fix="multidb apply"), False),
            Checked("beep_boop", "postgres", "postgres", Health(Status.DEGRADED, "18 of 20 connections", 0.1)),
        ),
        _BACKUPS,
        AT,
        0.25,
    )


@dataclass(frozen=True, kw_only=True)
class Role(Resource):
    kind: ClassVar[str] = "role"
    rank: ClassVar[int] = 1


def _missing(name: str, app: str | None) -> Change:
    return Change(Action.CREATE, Role(name=name, app=app), None, store="postgres", server="postgres")


def plan() -> Plan:
    isolation = {"lernmi": (Isolation.ENFORCED, "a wall"), "beep_boop": (Isolation.PARTIAL, "some of it")}
    redis = {"lernmi": (Isolation.NAMING_ONLY, "no wall")}
    changes = (_missing("multidb_admins", None), _missing("lernmi_user", "lernmi"), _missing("lernmi_ro", "lernmi"))
    return Plan(
        "digi",
        (
            ServerPlan("postgres", "postgres", "PostgreSQL 18", isolation, changes),
            ServerPlan("redis", "redis", "Valkey 9", redis),
        ),
    )


def audited() -> Audit:
    probe = Probe("beep_boop", "lernmi", "connect", Outcome.REFUSED, Outcome.ALLOWED)
    hole = Hole("connect for everybody", "database lernmi", "anybody connects", ("REVOKE CONNECT",), "lernmi")
    served = ("lernmi", "beep_boop")
    isolation = {"lernmi": (Isolation.ENFORCED, ""), "beep_boop": (Isolation.ENFORCED, "")}
    return Audit(
        "digi",
        served,
        {},
        (Tried("postgres", "postgres", probe),),
        (ServerAudited("postgres", "postgres", served, "PostgreSQL 18", isolation, Search((hole,))),),
        (),
        {},
        AT,
        AT,
        "0",
    )


def usage() -> UsageSeen:
    slow = Query("SELECT * FROM carts WHERE owner = $1", 1200, 0.012, 14.4)
    used = AppUsage(
        9_000_000,
        connections=17,
        connection_limit=20,
        counts={"rows": 12_345, "cache_hit": 0.987},
        largest=(("public.carts", 7_000_000),),
        slow=(slow,),
    )
    report = UsageReport(
        "digi",
        AT,
        (
            StoreUsage("lernmi", "postgres", "postgres", used, Quota(8_000_000), read_only=True),
            StoreUsage("beep_boop", "postgres", "postgres", AppUsage(size=4_000_000)),
        ),
        (ServerSeen("postgres", "postgres", ServerUsage(size=50_000_000, connections=30, connection_limit=100)),),
    )
    sizes = [(n, {"lernmi": {"postgres": 9_000_000 - n * 10_000}}) for n in range(200, 0, -1)]
    return UsageSeen(report, [Look(AT - timedelta(hours=hours), size) for hours, size in sizes])


def backups() -> dict[str, LastSets]:
    day = timedelta(days=1)
    return {
        "lernmi": LastSets(AT - 3 * day, AT - 4 * day, day, failed=True, moments=NewestMoment(AT, day)),
        "beep_boop": LastSets(None, None, day),
    }


def sets() -> SetsSeen:
    """A proved one, one that nobody tried, one that is not what was backed up, one that cannot be read."""
    target = FolderTarget("sets/", Path("/nowhere"))

    def copy(number: int, proof: str = "") -> Copy:
        made = BackupSet(f"2026112{number}T120000Z-0a1b2c", "digi", "lernmi", AT, "0", {})
        failures = {"postgres": f"counts {HOSTILE}"} if proof == "failed" else {}
        mark = Verification(made.id, made.digest, AT, "0", failures) if proof else None
        return Copy(target, "lernmi", made.id, made, mark)

    broken = Copy(target, "lernmi", "20261117T120000Z-0a1b2c", None, problem="is not JSON")
    return SetsSeen((copy(1), copy(0, "failed"), copy(0, "proved"), broken), {"s3://away/": "no answer"})


def records() -> Records:
    def history(status: Status, *slots: tuple[Status | None, float | None]) -> PlaceHistory:
        made = tuple(HealthSlot(status, latency) if status else None for status, latency in slots)
        return PlaceHistory(status, AT - timedelta(hours=3), made)

    well = [(Status.HEALTHY, 0.003 + (number % 7) / 1000) for number in range(SLOTS - 20)]
    histories = {
        ("lernmi", "postgres"): history(Status.HEALTHY, *well, (None, None), (Status.DEGRADED, 0.02), *well[:18]),
        ("lernmi", "redis"): history(Status.UNHEALTHY, *well[:30], *[(Status.UNHEALTHY, None)] * 18),
    }
    job = Job("backup", "lernmi", "postgres: dumping", 0.42, AT - timedelta(minutes=2), AT)
    made = AT - timedelta(days=40)
    both = Alternation("lernmi", "redis", Alternate.SECOND, RotationPhase.PREPARED, AT, {Alternate.SECOND: AT})
    credentials = {("lernmi", "postgres"): CredentialAge(made), ("lernmi", "redis"): CredentialAge(AT, both)}
    return Records(histories, credentials, (job,))


def run(number: int, command: str, app: str, outcome: RunOutcome = RunOutcome.DONE, **said: Any) -> RecordedRun:
    begun = AT - timedelta(minutes=number)
    ended = None if outcome in (RunOutcome.RUNNING, RunOutcome.UNFINISHED) else begun + timedelta(seconds=5)
    arguments = (command, app, "--yes")
    return RecordedRun(
        f"{number:016x}", command, arguments, (app,), "ann", None, "host", None, "0", begun, outcome, ended, **said
    )


def history() -> RunsSeen:
    changes = tuple(
        RecordedChange("create", "role", f"{HOSTILE}{number}", "lernmi", "postgres") for number in range(120)
    )
    failed = {"code": "server-down", "message": f"no answer {HOSTILE}"}
    runs = (
        run(1, "backup", "lernmi", RunOutcome.RUNNING),
        run(2, "apply", "lernmi", changes=changes, changes_left_out=30),
        run(3, "rotate", "beep_boop", RunOutcome.FAILED, error=failed),
    )
    return RunsSeen(runs, ("line 2 was altered",), "put the folder back from a copy")


def freshness() -> Mapping[str, Health]:
    return _BACKUPS


def sources(**looks: Any) -> Any:
    """Looks that find the trouble above, or what `looks` say."""
    found = {
        "project": project(),
        "health": health,
        "drift": plan,
        "audit": audited,
        "usage": usage,
        "backups": backups,
        "freshness": freshness,
        "sets": sets,
        "records": records,
        "history": history,
    }
    return SimpleNamespace(**{**found, **looks})
