"""What a person should look at, worst first. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multidb import alarms
from multidb.model import Status, listed
from multidb.service.collector import Reading
from multidb.service.overview import Overview
from multidb.service.wording import store_title

__all__ = ["Note", "is_command", "notes"]

_COMMAND: Final = re.compile(r"multidb( [A-Za-z0-9_./=@:-]+)+")
_NAMED: Final = 6  # apps in one note


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person should look at. `tone`: warn or bad."""

    tone: str
    kind: str
    store: str
    message: str
    fix: str


def notes(
    known: Overview, readings: Mapping[str, Reading[Any] | None], app: str | None = None
) -> list[tuple[str, Note]]:
    """What is wrong and of whom, worst first; what is the same for several apps is one note.

    Args:
        app: of this one alone, and looks that have failed.
    """
    same: dict[Note, list[str]] = {}
    of_all = [*_failed(readings), *((*_altered(known), *_unread(known)) if app is None else ())]
    of_apps = (*_alarms(known), *_uncertain(known), *_degraded(known))
    for subject, note in (*of_all, *((name, note) for name, note in of_apps if app in (None, name))):
        same.setdefault(note, []).append(subject)
    ordered = sorted(same.items(), key=lambda pair: pair[0].tone)  # bad before warn
    return [(_subject(subjects, note.store), note) for note, subjects in ordered]


def is_command(fix: str) -> bool:
    """Whether what is to be done is a command as it stands, and no sentence with one in it."""
    return _COMMAND.fullmatch(fix) is not None


def _failed(readings: Mapping[str, Reading[Any] | None]) -> Iterator[tuple[str, Note]]:
    for name, reading in readings.items():
        if reading is not None and reading.error:
            yield name, Note("bad", "look failed", "", reading.error, reading.hint)


def _alarms(known: Overview) -> Iterator[tuple[str, Note]]:
    """What people are told of."""
    seen = [
        *(alarms.open_walls(known.audit) if known.audit else ()),
        *(alarms.unwell(known.health) if known.health else ()),
        *(alarms.over_quota(known.usage) if known.usage else ()),
        *(alarms.drifts(known.plan) if known.plan else ()),
    ]
    for alarm in seen:
        tone = "bad" if alarm.kind in (alarms.AlarmKind.BREACH, alarms.AlarmKind.UNHEALTHY) else "warn"
        yield alarm.app or "servers", Note(tone, str(alarm.kind), alarm.store or "", alarm.message, alarm.fix)


def _subject(apps: Sequence[str], store: str) -> str:
    shown = listed(apps, _NAMED)
    return f"{shown} / {store_title(store)}" if store else shown


def _degraded(known: Overview) -> Iterator[tuple[str, Note]]:
    for check in known.health.checks if known.health else ():
        if check.health.status is Status.DEGRADED and not check.overdue:  # of these people are told
            yield check.app, Note("warn", "degraded", check.store, check.health.message, check.health.fix)


def _uncertain(known: Overview) -> Iterator[tuple[str, Note]]:
    """Apps whose walls the last audit neither proved nor found open."""
    for row in known.rows:
        for store, cell in row.cells.items():
            if cell.verdict == "not proved":
                yield (
                    row.app,
                    Note("warn", "not proved", store, "the last audit could not prove its wall", "multidb audit"),
                )


def _altered(known: Overview) -> Iterator[tuple[str, Note]]:
    """Lines of the history that are missing or were altered."""
    for problem in known.history.problems if known.history is not None else ():
        yield "history", Note("bad", "altered", "", problem, "multidb history")


def _unread(known: Overview) -> Iterator[tuple[str, Note]]:
    """Targets that could not be read."""
    for target, problem in known.sets.problems.items() if known.sets else ():
        yield target, Note("warn", "sets", "", f"cannot be listed: {problem}", "multidb backups list")
