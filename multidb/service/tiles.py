"""The figures at the top of the overview. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from multidb.audit import Audit
from multidb.health import HealthReport
from multidb.model import Status
from multidb.plan import Plan
from multidb.service.collector import Reading
from multidb.service.overview import AppRow, Overview
from multidb.service.wording import tone_of

__all__ = ["Tile", "tiles"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the figures at the top. `tone`: good, warn, bad or none; `audited`: when, where it is about that."""

    title: str
    value: str
    detail: str
    tone: str
    audited: datetime | None = None


def tiles(known: Overview, readings: Mapping[str, Reading[Any] | None]) -> Iterator[Tile]:
    """One for each question; also where nobody knows the answer.

    Args:
        readings: the latest one of each collector, by its name.
    """
    figures = {
        ("health", "Health"): _health_tile(known.health, known.rows) if known.health else None,
        ("audit", "Isolation"): _isolation_tile(known.audit) if known.audit else None,
        ("backups", "Backups"): _backup_tile(known.rows) if known.backups_known else None,
        ("drift", "Drift"): _drift_tile(known.plan) if known.plan else None,
    }
    for (look, title), tile in figures.items():
        why = "the last look failed" if readings.get(look) else "not looked at yet"
        yield tile or Tile(title, "unknown", why, "none")


def _health_tile(health: HealthReport, every: Sequence[AppRow]) -> Tile:
    well = sum(row.status is Status.HEALTHY for row in every)
    detail = "apps are healthy" if well == len(every) else f"healthy, {len(every) - well} not"
    opened = sum(row.open for row in every)
    detail += f", {opened} with an open wall" * bool(opened)
    return Tile("Health", f"{well} of {len(every)}", detail, "bad" if opened else tone_of(health.status))


def _isolation_tile(audit: Audit) -> Tile:
    summary = audit.summary()
    when = summary.finished
    if summary.breaches or summary.holes:
        count = summary.breaches + summary.holes
        return Tile("Isolation", "open", f"{count} {'way' if count == 1 else 'ways'} through", "bad", when)
    if not summary.ok:
        count = summary.unproved + summary.errors
        return Tile("Isolation", "not proved", f"{count} {'gap' if count == 1 else 'gaps'}", "warn", when)
    return Tile("Isolation", "proved", f"{summary.probes} attempts, no way through", "good", when)


def _backup_tile(rows: Sequence[AppRow]) -> Tile:
    """Of all apps but clones, also of those that the manifest asks for no backup of."""
    counted = [row for row in rows if not row.clone]
    known = [row for row in counted if row.backup is not None]
    if not known:
        return Tile("Backups", "not scheduled", "the manifest asks for none", "none")
    verified = sum(row.backup is not None and row.backup.verified is not None for row in known)
    late = sum(row.backup_health is not None and row.backup_health.status is not Status.HEALTHY for row in known)
    unscheduled = sum(row.backup is None or row.backup.every is None for row in counted)
    detail = "have a verified backup" + f", {late} late" * bool(late)
    detail += f", {unscheduled} not scheduled" * bool(unscheduled)
    tone = "warn" if late or verified < len(known) else "none" if unscheduled else "good"
    return Tile("Backups", f"{verified} of {len(counted)}", detail, tone)


def _drift_tile(plan: Plan) -> Tile:
    count, unread = len(plan.changes), len(plan.errors)
    left = f"{unread} {'server' if unread == 1 else 'servers'} could not be read"
    if count:
        return Tile(
            "Drift", str(count), f"{'change' if count == 1 else 'changes'} open" + f"; {left}" * bool(unread), "warn"
        )
    return Tile(
        "Drift",
        "unknown" if unread else "none",
        left if unread else "as the manifest says",
        "none" if unread else "good",
    )
