"""The page for people: one HTML document, whole without JavaScript, in which no state is told by colour alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2

from multidb import notification
from multidb.audit import Audit
from multidb.health import HealthReport
from multidb.model import Isolation, Status, listed, size_in_words
from multidb.plan import Plan
from multidb.provisioners import STORES, provisioner
from multidb.secrets import redact
from multidb.service.collector import Reading
from multidb.service.overview import AppRow, Cell, Overview
from multidb.usage import NEAR

__all__ = ["page", "sparkline"]

_SIGNS: Final = {Status.HEALTHY: "✓", Status.DEGRADED: "!", Status.UNHEALTHY: "✕", None: "?"}
_NAMED: Final = 6  # apps in one note
_POINTS: Final = 48  # of a sparkline; more cannot be seen


@dataclass(frozen=True, slots=True)
class _Tile:
    """One of the figures at the top. `tone`: good, warn, bad or none."""

    title: str
    value: str
    detail: str
    tone: str


@dataclass(frozen=True, slots=True)
class _Note:
    """Something that a person should look at. `tone`: warn or bad."""

    tone: str
    kind: str
    store: str
    message: str
    fix: str


def page(known: Overview, readings: Mapping[str, Reading[Any] | None]) -> str:
    """The whole document.

    Args:
        readings: the latest one of each collector, by its name; for when it was made and why it failed.
    """
    status = known.health.status if known.health else None
    text = _template().render(
        known=known,
        status=status,
        tiles=list(_tiles(known, readings)),
        notes=_notes(known, readings),
        looks=[(name, reading) for name, reading in readings.items() if reading is not None],
        health=readings.get("health"),
    )
    return redact(text)


def sparkline(values: Sequence[int], width: int = 72, height: int = 18) -> str:
    """The points of an SVG line from the oldest value to the newest, lowest value at the bottom.

    A change of less than a tenth does not take the whole height, so that what hardly grows does not seem to soar.
    """
    step = max(1, -(-len(values) // _POINTS))
    shown = list(values[::-1][::step][::-1])  # the newest is always among them
    low, high = min(shown), max(shown)
    reach = max(high - low, high // 10)
    across = (width - 4) / max(1, len(shown) - 1)
    tall = (height - 4) / reach if reach else 0
    middle = height / 2 + (high - low) * tall / 2
    return " ".join(f"{2 + at * across:.1f},{middle - (value - low) * tall:.1f}" for at, value in enumerate(shown))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "size": size_in_words,
        "sparkline": sparkline,
        "clock": _clock,
        "day": _day,
        "title": _title,
    }
    environment.globals |= {
        "sign": _SIGNS.__getitem__,
        "trend": _trend,
        "tone": _tone,
        "isolation_tone": _isolation_tone,
        "near": NEAR,
    }
    text = files("multidb.service").joinpath("static", "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text)


def _tiles(known: Overview, readings: Mapping[str, Reading[Any] | None]) -> Iterator[_Tile]:
    tiles = {
        ("health", "Health"): _health_tile(known.health, known.rows) if known.health else None,
        ("audit", "Isolation"): _isolation_tile(known.audit) if known.audit else None,
        ("backups", "Backups"): _backup_tile(known.rows) if known.backups_known else None,
        ("drift", "Drift"): _drift_tile(known.plan) if known.plan else None,
    }
    for (look, title), tile in tiles.items():
        why = "the last look failed" if readings.get(look) else "not looked at yet"
        yield tile or _Tile(title, "unknown", why, "none")


def _health_tile(health: HealthReport, every: Sequence[AppRow]) -> _Tile:
    well = sum(row.status is Status.HEALTHY for row in every)
    detail = "apps are healthy" if well == len(every) else f"healthy, {len(every) - well} not"
    opened = sum(row.open for row in every)
    detail += f", {opened} with an open wall" * bool(opened)
    return _Tile("Health", f"{well} of {len(every)}", detail, "bad" if opened else _tone(health.status))


def _isolation_tile(audit: Audit) -> _Tile:
    summary = audit.summary()
    when = f"audited {_clock(summary.finished)}"
    if summary.breaches or summary.holes:
        count = summary.breaches + summary.holes
        return _Tile("Isolation", "open", f"{count} {'way' if count == 1 else 'ways'} through, {when}", "bad")
    if not summary.ok:
        count = summary.unproved + summary.errors
        return _Tile("Isolation", "not proved", f"{count} {'gap' if count == 1 else 'gaps'}, {when}", "warn")
    return _Tile("Isolation", "proved", f"{summary.probes} attempts, no way through, {when}", "good")


def _backup_tile(rows: Sequence[AppRow]) -> _Tile:
    """Of all apps but clones, also of those that the manifest asks for no backup of."""
    counted = [row for row in rows if not row.clone]
    known = [row for row in counted if row.backup is not None]
    if not known:
        return _Tile("Backups", "not scheduled", "the manifest asks for none", "none")
    verified = sum(row.backup is not None and row.backup.verified is not None for row in known)
    late = sum(row.backup_health is not None and row.backup_health.status is not Status.HEALTHY for row in known)
    unscheduled = sum(row.backup is None or row.backup.every is None for row in counted)
    detail = "have a verified backup" + f", {late} late" * bool(late)
    detail += f", {unscheduled} not scheduled" * bool(unscheduled)
    tone = "warn" if late or verified < len(known) else "none" if unscheduled else "good"
    return _Tile("Backups", f"{verified} of {len(counted)}", detail, tone)


def _drift_tile(plan: Plan) -> _Tile:
    count, unread = len(plan.changes), len(plan.errors)
    left = f"{unread} {'server' if unread == 1 else 'servers'} could not be read"
    if count:
        return _Tile(
            "Drift", str(count), f"{'change' if count == 1 else 'changes'} open" + f"; {left}" * bool(unread), "warn"
        )
    return _Tile(
        "Drift",
        "unknown" if unread else "none",
        left if unread else "as the manifest says",
        "none" if unread else "good",
    )


def _notes(known: Overview, readings: Mapping[str, Reading[Any] | None]) -> list[tuple[str, _Note]]:
    """What is wrong and of whom, worst first; what is the same for several apps is one note."""
    same: dict[_Note, list[str]] = {}
    for subject, note in (*_failed(readings), *_alarms(known), *_unproved(known), *_degraded(known)):
        same.setdefault(note, []).append(subject)
    ordered = sorted(same.items(), key=lambda pair: pair[0].tone)  # bad before warn
    return [(_subject(subjects, note.store), note) for note, subjects in ordered]


def _failed(readings: Mapping[str, Reading[Any] | None]) -> Iterator[tuple[str, _Note]]:
    for name, reading in readings.items():
        if reading is not None and reading.error:
            yield name, _Note("bad", "look failed", "", reading.error, reading.hint)


def _alarms(known: Overview) -> Iterator[tuple[str, _Note]]:
    """What people are told of."""
    alarms = [
        *(notification.open_walls(known.audit) if known.audit else ()),
        *(notification.unwell(known.health) if known.health else ()),
        *(notification.over_quota(known.usage) if known.usage else ()),
        *(notification.drifts(known.plan) if known.plan else ()),
    ]
    for alarm in alarms:
        tone = "bad" if alarm.kind in (notification.AlarmKind.BREACH, notification.AlarmKind.UNHEALTHY) else "warn"
        yield alarm.app or "servers", _Note(tone, str(alarm.kind), alarm.store or "", alarm.message, alarm.fix)


def _subject(apps: Sequence[str], store: str) -> str:
    shown = listed(apps, _NAMED)
    return f"{shown} / {_title(store)}" if store else shown


def _degraded(known: Overview) -> Iterator[tuple[str, _Note]]:
    for check in known.health.checks if known.health else ():
        if check.health.status is Status.DEGRADED:
            yield check.app, _Note("warn", "degraded", check.store, check.health.message, check.health.fix)


def _unproved(known: Overview) -> Iterator[tuple[str, _Note]]:
    """Apps whose walls the last audit neither proved nor found open."""
    for row in known.rows:
        for store, cell in row.cells.items():
            if cell.verdict == "not proved":
                yield (
                    row.app,
                    _Note("warn", "not proved", store, "the last audit could not prove its wall", "multidb audit"),
                )


def _clock(at: datetime) -> str:
    return at.strftime("%H:%M:%S UTC")


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")


def _title(store: str) -> str:
    return provisioner(store).title if store in STORES else store


def _trend(cell: Cell) -> tuple[int, ...]:
    """Earlier sizes and the present one; empty when there is nothing to draw."""
    now = cell.usage.usage.size if cell.usage else None
    values = (*cell.history, now) if now is not None else cell.history
    return values if len(values) > 1 else ()


def _tone(status: Status | None) -> str:
    return {Status.HEALTHY: "good", Status.DEGRADED: "warn", Status.UNHEALTHY: "bad", None: "none"}[status]


def _isolation_tone(cell: Cell) -> str:
    if cell.open:
        return "bad"
    level = cell.isolation[0] if cell.isolation else None
    return {Isolation.ENFORCED: "good", Isolation.PARTIAL: "warn", Isolation.NAMING_ONLY: "bad", None: "none"}[level]
