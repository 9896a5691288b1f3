"""What the servers said about their use, as values. Pure. Sizes are bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from multidb.errors import MultidbError
from multidb.model import AppUsage, Quota, ServerUsage

__all__ = ["NEAR", "Growth", "ServerSeen", "QuotaUse", "StoreTotal", "StoreUsage", "UsageReport"]

NEAR = 0.8
"""The share of a quota from which on it is nearly used up."""


class QuotaUse(StrEnum):
    """Whether an app is near its quota, over it, or neither."""

    NONE = "none"  # there is no quota, or no size to hold against it
    WITHIN = "within"
    NEAR = "near"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Growth:
    """By how many bytes an app has grown (or, below zero, shrunk) since an earlier look."""

    size: int
    since: datetime


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What one app uses of one store.

    Args:
        read_only: whether it is read-only now because of its quota.
    """

    app: str
    store: str
    server: str
    usage: AppUsage
    quota: Quota | None = None
    growth: Growth | None = None
    read_only: bool = False

    @property
    def share(self) -> float | None:
        """The part of the quota that is used; 1 is all of it."""
        if self.quota is None or self.usage.size is None:
            return None
        return self.usage.size / self.quota.size

    @property
    def standing(self) -> QuotaUse:
        """Whether the app is near its quota, over it, or neither."""
        if self.share is None:
            return QuotaUse.NONE
        if self.share >= 1:
            return QuotaUse.OVER
        return QuotaUse.NEAR if self.share >= NEAR else QuotaUse.WITHIN

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        usage, quota, growth = self.usage, self.quota, self.growth
        share = None if self.share is None else round(self.share, 4)
        return {
            "server": self.server,
            "size": usage.size,
            "estimated": usage.estimated,
            "connections": usage.connections,
            "connection_limit": usage.connection_limit,
            "counts": dict(usage.counts),
            "largest": [{"name": name, "size": size} for name, size in usage.largest],
            "slow": [
                {"text": q.text, "calls": q.calls, "mean_seconds": q.mean, "total_seconds": q.total} for q in usage.slow
            ],
            "growth": growth and {"size": growth.size, "since": growth.since.isoformat(timespec="seconds")},
            "quota": quota and {"size": quota.size, "enforce": quota.enforce.value, "share": share},
            "standing": self.standing.value,
            "read_only": self.read_only,
            "notes": list(usage.notes),
        }


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """One server's own figures, or why it told none. `apps` are those that it serves, of the ones in scope."""

    server: str
    store: str
    usage: ServerUsage | None = None
    error: MultidbError | None = None
    apps: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        usage = self.usage or ServerUsage()
        return {
            "server": self.server,
            "store": self.store,
            "size": usage.size,
            "connections": usage.connections,
            "connection_limit": usage.connection_limit,
            "notes": list(usage.notes),
            "error": self.error.document() if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class StoreTotal:
    """What all apps of a report have on one store together: how many they are, bytes, connections, as far as told."""

    apps: int = 0
    size: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One look at every app's use.

    Args:
        looked_at: in UTC.
        notes: what happened to the history, where something did.
    """

    project: str
    looked_at: datetime
    stores: tuple[StoreUsage, ...]
    servers: tuple[ServerSeen, ...]
    notes: tuple[str, ...] = ()

    @property
    def over(self) -> tuple[StoreUsage, ...]:
        """Those that have used up their quota."""
        return tuple(used for used in self.stores if used.standing is QuotaUse.OVER)

    @property
    def errors(self) -> tuple[tuple[str, MultidbError], ...]:
        """The servers that told nothing, and why."""
        return tuple((server.server, server.error) for server in self.servers if server.error is not None)

    @property
    def exit_code(self) -> int:
        """1 when a quota is used up; else 4 when a server could not be asked; else 0."""
        return 1 if self.over else 4 if self.errors else 0

    @property
    def totals(self) -> dict[str, StoreTotal]:
        """By store."""
        totals: dict[str, StoreTotal] = {}
        for used in self.stores:
            before, usage = totals.get(used.store, StoreTotal()), used.usage
            size, connections = before.size + (usage.size or 0), before.connections + (usage.connections or 0)
            totals[used.store] = StoreTotal(before.apps + 1, size, connections)
        return totals

    def document(self) -> dict[str, Any]:
        """The report as plain JSON values, as `multidb usage --json` prints it."""
        apps: dict[str, dict[str, Any]] = {}
        for used in self.stores:
            apps.setdefault(used.app, {})[used.store] = used.document()
        return {
            "project": self.project,
            "looked_at": self.looked_at.isoformat(timespec="seconds"),
            "apps": apps,
            "totals": {store: asdict(total) for store, total in self.totals.items()},
            "servers": [server.document() for server in self.servers],
            "notes": list(self.notes),
        }
