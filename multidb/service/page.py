"""The pages for people: HTML documents, whole without JavaScript, in which no state is told by colour alone."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2

from multidb.history import RecordedRun
from multidb.model import Isolation, counted, size_in_words, time_in_words
from multidb.run_summary import outcome_in_words, took, what_was_done
from multidb.secrets import redact
from multidb.service.charts import sparkline, strip, strip_in_words
from multidb.service.collector import Reading
from multidb.service.detail import detail
from multidb.service.matrix import matrix
from multidb.service.notes import is_command, notes
from multidb.service.overview import AppRow, Cell, Overview
from multidb.service.selection import SORTS, TROUBLES, Selection, labels_of
from multidb.service.tiles import tiles
from multidb.service.wording import SIGNS, clock, day, outcome_tone, store_title, tone_of
from multidb.usage import NEAR

__all__ = ["app_page", "audit_page", "entity_tag", "history_page", "missing_page", "page"]

_NOTES: Final = 8  # that stand open; the others are behind a click

Readings = Mapping[str, Reading[Any] | None]
"""The latest one of each collector, by its name; for when it was made and why it failed."""


def page(known: Overview, readings: Readings, selection: Selection | None = None) -> str:
    """The overview of all apps, or of those that are asked for."""
    selection = selection or Selection()
    return _rendered(
        "overview",
        known,
        readings,
        rows=selection.rows(known.rows),
        selection=selection,
        sorts=SORTS,
        troubles=TROUBLES,
        labels=labels_of(known.rows),
        tiles=list(tiles(known, readings)),
        notes=notes(known, readings),
        open_notes=_NOTES,
    )


def app_page(known: Overview, row: AppRow, readings: Readings) -> str:
    """Everything that is known of one app."""
    jobs = [job for job in known.jobs if job.subject == row.app]
    return _rendered(
        "app",
        known,
        readings,
        row=row,
        jobs=jobs,
        notes=notes(known, readings, row.app),
        open_notes=_NOTES,
        app=detail(known, row),
    )


def audit_page(known: Overview, readings: Readings) -> str:
    """What the last audit has found of every app on every store."""
    audit = known.audit
    return _rendered("audit", known, readings, audit=audit, matrix=matrix(audit) if audit is not None else None)


def history_page(known: Overview, readings: Readings) -> str:
    """The newest runs that changed something."""
    failed = (reading := readings.get("history")) is not None and bool(reading.error)
    return _rendered("history", known, readings, history=known.history, failed=failed)


def missing_page(known: Overview, readings: Readings) -> str:
    """Where an app is asked for that there is not."""
    return _rendered("missing", known, readings)


def entity_tag(text: str) -> str:
    """By which a browser knows a page again: another one whenever anything on it is another."""
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def _rendered(name: str, known: Overview, readings: Readings, **values: Any) -> str:
    looks = [(name, reading) for name, reading in readings.items() if reading is not None]
    status = known.health.status if known.health else None
    template = _environment().get_template(f"{name}.html.j2")
    return redact(template.render(known=known, status=status, looks=looks, health=readings.get("health"), **values))


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(
        lambda name: files("multidb.service").joinpath("static", name).read_text(encoding="utf-8")
    )
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "clock": clock,
        "day": day,
        "figure": lambda value, name: {"latency": _latency, "size": size_in_words}[name](value),
        "arguments": shlex.join,
        "first_upper": lambda text: text[:1].upper() + text[1:],
        "latency": _latency,
        "many": counted,
        "outcome_tone": outcome_tone,
        "outcome_words": outcome_in_words,
        "percent": lambda share: f"{share * 100:.0f}%",
        "plain": _plain,
        "seconds": lambda seconds: time_in_words(timedelta(seconds=seconds)),
        "size": size_in_words,
        "sparkline": sparkline,
        "strip": strip,
        "strip_words": strip_in_words,
        "store_title": store_title,
        "tone": tone_of,
        "took": _took,
        "value": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        "what_was_done": what_was_done,
    }
    environment.globals |= {
        "is_command": is_command,
        "isolation_tone": _isolation_tone,
        "near": NEAR,
        "sign": SIGNS.__getitem__,
        "trend": _trend,
    }
    return environment


def _latency(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.00995 or not seconds else f"{seconds * 1000:.1f} ms"


def _plain(text: str) -> str:
    """Text to be pasted somewhere: without what could look like something else, or steer a terminal."""
    shown = (char if char == "\n" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return "".join(shown)


def _took(run: RecordedRun) -> str:
    length = took(run)
    return time_in_words(length) if length is not None else ""


def _trend(cell: Cell) -> tuple[int, ...]:
    """Earlier sizes and the present one; empty when there is nothing to draw."""
    earlier = tuple(size for _, size in cell.sizes)
    now = cell.usage.usage.size if cell.usage else None
    values = (*earlier, now) if now is not None else earlier
    return values if len(values) > 1 else ()


def _isolation_tone(cell: Cell) -> str:
    if cell.open:
        return "bad"
    level = cell.isolation[0] if cell.isolation else None
    return {Isolation.ENFORCED: "good", Isolation.PARTIAL: "warn", Isolation.NAMING_ONLY: "bad", None: "none"}[level]
