"""What health checks have found in the last day: how each place was, ten minutes by ten minutes, and since when it is
as it is. Kept beside the state; safe to lose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, model_validator

from multidb.document import Unreadable, in_future, parse
from multidb.errors import MultidbError
from multidb.health import Checked, HealthReport
from multidb.model import Health, Status, worst
from multidb.state import ProjectState
from multidb.validation import AppId, Document, Moment, validated

__all__ = ["SLOT", "SLOTS", "HealthHistory", "HealthSlot", "PlaceHistory", "Places"]

SLOT: Final = timedelta(minutes=10)
"""The time that is kept as one."""

SLOTS: Final = 144
"""So many are kept of each place: a day."""

_NAME: Final = "health.json"
_FORMAT: Final = 1
_LARGEST: Final = 64 * 1024**2  # bytes; of 1,000 apps on three stores it has five million
_OFTEN: Final = timedelta(minutes=1)  # a check nearer than this to the one before is kept when a status is another
_UNKNOWN: Final = "-"
_LETTERS: Final = {Status.HEALTHY: "h", Status.DEGRADED: "d", Status.UNHEALTHY: "u"}
_STATUSES: Final = {letter: status for status, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class HealthSlot:
    """How one place was during ten minutes: the worst status, and the longest latency in seconds (None: nothing was
    answered)."""

    status: Status
    latency: float | None = None


@dataclass(frozen=True, slots=True)
class PlaceHistory:
    """One app on one store.

    Args:
        status: as the last check has it.
        since: when the first of the checks was made that have all had this status since then.
        slots: oldest first, the last one that of the newest check of any place; None where nobody looked.
    """

    status: Status
    since: datetime
    slots: tuple[HealthSlot | None, ...]

    def after(self, check: Checked, at: datetime, passed: int) -> PlaceHistory:
        """The history with one more check, `passed` slots after the newest one."""
        health = check.health
        slots = self.shifted(passed).slots
        before = slots[-1]
        slot = HealthSlot(health.status, health.latency) if before is None else _joined(before, health)
        since = self.since if health.status is self.status else at
        return PlaceHistory(health.status, since, (*slots[:-1], slot))

    def shifted(self, passed: int) -> PlaceHistory:
        """The history when `passed` slots went by in which nobody looked."""
        empty = (None,) * min(passed, SLOTS)
        return PlaceHistory(self.status, self.since, (*self.slots, *empty)[-SLOTS:])


Places = Mapping[tuple[str, str], PlaceHistory]
"""By app and store."""


class HealthHistory:
    """The history of one project. Any thread may use it. What cannot be written is remembered as long as this lives."""

    def __init__(self, state: ProjectState) -> None:
        self._file = state.file(_NAME)
        self._guard = Lock()
        self._known = _Kept()

    @property
    def places(self) -> Places:
        """As of the last `load` or `add`; asks no file."""
        return self._known.places

    def load(self) -> None:
        """Reads what is kept. What cannot be understood counts as nothing."""
        with self._guard:
            self._known = _Kept()
            with suppress(MultidbError):
                self._known = _kept(self._file.read())

    def add(self, report: HealthReport) -> None:
        """Adds one round of checks. Does not raise where it cannot be kept."""
        with self._guard:
            before = self._known
            try:
                self._file.change(lambda text: self._with(text, before, report))
            except MultidbError:
                self._known = _after(before, report)

    def rename(self, old: str, new: str) -> None:
        """What checks have found of an app is of its new name from now on. Does not raise where it cannot be kept."""
        with self._guard, suppress(MultidbError):
            self._file.change(lambda text: self._renamed(_kept(text), old, new))

    def _with(self, text: str | None, known: _Kept, report: HealthReport) -> str | None:
        """What is kept, with one round more; None where that is not worth a write.

        Args:
            known: what was not worth one before, or could not be written, is known here alone.
        """
        kept = _kept(text)
        ahead = known.at is not None and (kept.at is None or kept.at < known.at)
        self._known = _after(known if ahead else kept, report)
        return _text(self._known) if kept.at is None or _worth_keeping(kept, report) else None

    def _renamed(self, kept: _Kept, old: str, new: str) -> str | None:
        renamed = {(app, store): history for (app, store), history in kept.places.items() if app == old}
        if not renamed:
            return None
        others = {place: history for place, history in kept.places.items() if place[0] not in (old, new)}
        self._known = _Kept(kept.at, others | {(new, store): history for (_, store), history in renamed.items()})
        return _text(self._known)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Everything that is kept. `at`: when the newest check was made; None: there was none."""

    at: datetime | None = None
    places: Places = field(default_factory=dict)


def _after(known: _Kept, report: HealthReport) -> _Kept:
    at = report.checked_at
    if known.at is not None and in_future(known.at, at):  # a clock was wrong then
        known = _Kept()
    if known.at is not None and at < known.at:  # somebody else's check has overtaken this one
        return known
    passed = 0 if known.at is None else _slot(at) - _slot(known.at)
    places = {place: history.shifted(passed) for place, history in known.places.items()}
    for check in report.checks:
        place = (check.app, check.store)
        earlier = known.places.get(place) or PlaceHistory(check.health.status, at, (None,))
        places[place] = earlier.after(check, at, passed)
    return _Kept(at, {place: history for place, history in places.items() if any(history.slots)})


def _worth_keeping(kept: _Kept, report: HealthReport) -> bool:
    assert kept.at is not None
    if report.checked_at - kept.at >= _OFTEN or in_future(kept.at, report.checked_at):
        return True
    statuses = {place: history.status for place, history in kept.places.items()}
    return any(statuses.get((check.app, check.store)) is not check.health.status for check in report.checks)


def _joined(slot: HealthSlot, health: Health) -> HealthSlot:
    latencies = [latency for latency in (slot.latency, health.latency) if latency is not None]
    return HealthSlot(worst((slot.status, health.status)), max(latencies, default=None))


def _slot(at: datetime) -> int:
    return int(at.timestamp() // SLOT.total_seconds())


class _PlaceDocument(Document):
    """`slots`: a letter for each, oldest first; `latencies`: milliseconds of as many."""

    status: Literal["healthy", "degraded", "unhealthy"]
    since: Moment
    slots: Annotated[str, StringConstraints(pattern=rf"\A[hdu{_UNKNOWN}]{{1,{SLOTS}}}\z")]
    latencies: Annotated[list[Annotated[float, Field(ge=0)] | None], Field(max_length=SLOTS)]

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len(self.slots) != len(self.latencies):
            raise ValueError("has another number of latencies than of slots")
        return self

    def history(self) -> PlaceHistory:
        """What it says, as a value."""
        pairs = zip(self.slots, self.latencies, strict=True)
        slots = tuple(
            None if letter == _UNKNOWN else HealthSlot(_STATUSES[letter], None if took is None else took / 1000)
            for letter, took in pairs
        )
        return PlaceHistory(Status(self.status), self.since, slots)


class _HistoryDocument(Document):
    version: Literal[1]
    at: Moment
    apps: dict[AppId, dict[str, _PlaceDocument]]


_HISTORY: Final = TypeAdapter(_HistoryDocument)


def _kept(text: str | None) -> _Kept:
    """What the text keeps; nothing where it cannot be understood."""
    with suppress(Unreadable):
        if text is not None:
            return _parsed(text)
    return _Kept()


def _parsed(text: str) -> _Kept:
    """`Unreadable` for anything that `_text` did not write."""
    document = validated(parse(text, _LARGEST), _HISTORY)
    return _Kept(
        document.at,
        {(app, store): place.history() for app, stores in document.apps.items() for store, place in stores.items()},
    )


def _text(known: _Kept) -> str:
    assert known.at is not None
    apps: dict[str, dict[str, object]] = {}
    for (app, store), history in known.places.items():
        apps.setdefault(app, {})[store] = {
            "status": history.status.value,
            "since": history.since.isoformat(timespec="milliseconds"),
            "slots": "".join(_UNKNOWN if slot is None else _LETTERS[slot.status] for slot in history.slots),
            "latencies": list(_milliseconds(history.slots)),
        }
    document = {"version": _FORMAT, "at": known.at.isoformat(timespec="milliseconds"), "apps": apps}
    return json.dumps(document, separators=(",", ":")) + "\n"


def _milliseconds(slots: Iterable[HealthSlot | None]) -> Iterable[float | None]:
    for slot in slots:
        yield None if slot is None or slot.latency is None else round(slot.latency * 1000, 1)
