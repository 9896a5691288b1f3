"""A project with trouble of every kind, as the looks report it; no server is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, ClassVar

from multidb.audit import Audit, ServerAudited, Tried
from multidb.backup.schedule import LastSets
from multidb.health import Checked, HealthReport
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
            Checked("lernmi", "postgres", "postgres", Health(Status.HEALTHY, "wrote and read", 0.0032)),
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
    used = AppUsage(size=9_000_000, connections=17, connection_limit=20)
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
    return {"lernmi": LastSets(AT - 3 * day, AT - 4 * day, day, failed=True), "beep_boop": LastSets(None, None, day)}


def freshness() -> Mapping[str, Health]:
    return _BACKUPS


def sources(**looks: Callable[[], Any]) -> Any:
    """Looks that find the trouble above, or what `looks` say."""
    found = {
        "health": health,
        "drift": plan,
        "audit": audited,
        "usage": usage,
        "backups": backups,
        "freshness": freshness,
    }
    return SimpleNamespace(project=project(), histories={}, **{**found, **looks})
