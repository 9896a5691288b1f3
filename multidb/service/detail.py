"""What one app's page says beside its status: charts, attempts on its walls, sets, drift. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from multidb.alternation import RotationPhase
from multidb.audit import Audit, ServerHole, Tried, Untried
from multidb.backup.repository import Copy
from multidb.health_history import SLOT, PlaceHistory
from multidb.history import RecordedRun
from multidb.model import Outcome
from multidb.plan import change_document
from multidb.service.charts import Chart, chart
from multidb.service.overview import AppRow, Cell, Overview

__all__ = ["Attempts", "CredentialLine", "Detail", "Drift", "PlaceCharts", "SetLine", "detail"]

_SECONDS: Final = SLOT.total_seconds()
_TONES: Final = {
    "worked, a breach": "bad",
    "proves nothing": "warn",
    "worked, no wall is promised": "warn",
    "refused": "good",
}
"""By what came of an attempt, the worst first."""

_WORST: Final = tuple(_TONES)
_RUNS: Final = 20  # of the app that its page shows
_ROTATIONS: Final = {
    RotationPhase.PREPARING: ("a second one is being made; the app's variables have the one that works", ""),
    RotationPhase.PREPARED: ("the app's variables have the new one; the former one works, too", " --finish"),
    RotationPhase.REVERTED: ("the app's variables have the former one again; the new one works, too", " --finish"),
    RotationPhase.FINISHING: ("the one that is not in the app's variables is being turned off", " --finish"),
}
"""By how far a rotation has come that is under way, what that means, and by which option of `rotate` it goes on."""


@dataclass(frozen=True, slots=True)
class PlaceCharts:
    """One store of the app: its latency of the last day, and its size since it is kept; None: nothing to draw.

    Args:
        notes: what a reader has to know of its figures, or why there are none: of the app, and of its server.
    """

    cell: Cell
    latency: Chart | None
    size: Chart | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempts:
    """What one app has tried on another, or on the server (`victim` None), on one store.

    Args:
        tried: each attempt, with what came of it in some words, the worst first.
        outcomes: these words, the worst first, and how often each came.
    """

    store: str
    attacker: str
    victim: str | None
    tried: tuple[tuple[Tried, str], ...]
    outcomes: tuple[tuple[str, int], ...]

    @property
    def tone(self) -> str:
        """good, warn or bad, of the worst that came."""
        return _TONES[self.outcomes[0][0]]

    @property
    def summary(self) -> str:
        """``24 refused``; what is worse stands before it."""
        return "; ".join(f"{count} {word}" for word, count in self.outcomes)

    @property
    def answered(self) -> bool:
        """Whether the server has said anything to them."""
        return any(tried.probe.detail for tried, _ in self.tried)


@dataclass(frozen=True, slots=True)
class SetLine:
    """A set as it lies on one target. `proof` says what came of trying it; `command`: what would tell more."""

    copy: Copy
    proof: str
    tone: str
    when: datetime | None
    command: str


@dataclass(frozen=True, slots=True)
class CredentialLine:
    """The app's credentials on one store.

    Args:
        issued: when those were made that its variables have; None: that was not recorded.
        rotation: what a rotation under way has come to, since when, and what goes on with it; empty: there is none.
    """

    store: str
    issued: datetime | None
    rotation: str = ""
    since: datetime | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """One change that a plan would make: what, its fields (name, old, new), and its statements."""

    store: str
    what: str
    fields: tuple[tuple[str, Any, Any], ...]
    reason: str
    statements: str


@dataclass(frozen=True, slots=True)
class Detail:
    """One app's page."""

    places: tuple[PlaceCharts, ...]
    breaches: tuple[Tried, ...]
    holes: tuple[ServerHole, ...]
    untried: tuple[Untried, ...]
    attempts: tuple[Attempts, ...]
    sets: tuple[SetLine, ...] | None
    drift: tuple[Drift, ...]
    credentials: tuple[CredentialLine, ...]
    runs: tuple[RecordedRun, ...] | None


def detail(known: Overview, row: AppRow) -> Detail:
    """What the page of the app in `row` says."""
    audit = known.audit
    return Detail(
        tuple(_place(cell, known) for cell in row.cells.values()),
        tuple(tried for tried in audit.breaches if _of(tried) == row.app) if audit else (),
        tuple(hole for hole in audit.holes if hole.hole.app in (row.app, None)) if audit else (),
        tuple(untried for untried in audit.untried if row.app in (untried.app, untried.target)) if audit else (),
        tuple(_attempts(audit, row.app)) if audit else (),
        tuple(_set_line(copy) for copy in row.copies) if row.copies is not None else None,
        tuple(map(_drift, map(change_document, row.changes))),
        tuple(_credential_line(cell) for cell in row.cells.values()),
        known.history.of_app(row.app, _RUNS) if known.history is not None else None,
    )


def _place(cell: Cell, known: Overview) -> PlaceCharts:
    return PlaceCharts(cell, _latencies(cell.history), _sizes(cell, known), tuple(_notes(cell, known)))


def _notes(cell: Cell, known: Overview) -> Iterator[str]:
    if known.usage is None or cell.usage is None:
        return
    yield from cell.usage.usage.notes
    for server in known.usage.servers:
        if server.server == cell.usage.server and server.usage is not None:
            yield from server.usage.notes


def _of(breach: Tried) -> str:
    """Whose wall it went through."""
    return breach.probe.target or breach.probe.app


def _latencies(history: PlaceHistory | None) -> Chart | None:
    slots = history.slots if history is not None else ()
    return chart([(number * _SECONDS, slot.latency if slot is not None else None) for number, slot in enumerate(slots)])


def _sizes(cell: Cell, known: Overview) -> Chart | None:
    points = list(cell.sizes)
    if known.usage is not None and cell.usage is not None and cell.usage.usage.size is not None:
        points = [point for point in points if point[0] < known.usage.looked_at]
        points.append((known.usage.looked_at, cell.usage.usage.size))
    return chart([(at.timestamp(), float(size)) for at, size in points])


def _attempts(audit: Audit, app: str) -> Iterator[Attempts]:
    """Those by the app and on it, the worst first."""
    groups: dict[tuple[str, str, str | None], list[tuple[Tried, str]]] = {}
    for tried in audit.tried:
        probe = tried.probe
        if app in (probe.app, probe.target):
            groups.setdefault((tried.store, probe.app, probe.target), []).append((tried, _outcome(tried)))
    for tries in groups.values():
        tries.sort(key=lambda pair: _WORST.index(pair[1]))
    attempts = [Attempts(*key, tuple(tries), _counted(word for _, word in tries)) for key, tries in groups.items()]
    yield from sorted(attempts, key=lambda group: (_WORST.index(group.outcomes[0][0]), group.victim != app))


def _outcome(tried: Tried) -> str:
    probe = tried.probe
    if probe.breach:
        return "worked, a breach"
    return {
        Outcome.BROKEN: "proves nothing",
        Outcome.ALLOWED: "worked, no wall is promised",
        Outcome.REFUSED: "refused",
    }[probe.got]


def _counted(words: Iterable[str]) -> tuple[tuple[str, int], ...]:
    counts = Counter(words)
    return tuple((word, counts[word]) for word in _WORST if counts[word])


def _set_line(copy: Copy) -> SetLine:
    if copy.backup_set is None:
        return SetLine(copy, f"cannot be read: {copy.problem}", "bad", None, "")
    tried, command = copy.tried, f"multidb backups verify {copy.owner}/{copy.id}"
    if tried is None:
        return SetLine(copy, "not tried", "warn", None, command)
    if tried.failures:
        return SetLine(
            copy, _of_stores("is not what was backed up", tried.failures.items()), "bad", tried.when, command
        )
    if tried.unverified:
        proof = _of_stores("not all could be tried", tried.unverified.items())
        return SetLine(copy, proof, "warn", tried.when, "")
    return SetLine(copy, "restored and compared", "good", tried.when, "")


def _of_stores(what: str, why: Iterable[tuple[str, str]]) -> str:
    return f"{what}: " + "; ".join(f"{store}: {text}" for store, text in why)


def _credential_line(cell: Cell) -> CredentialLine:
    age = cell.credentials
    if age is None or age.alternation is None or not age.alternation.under_way:
        return CredentialLine(cell.store, age.issued if age is not None else None)
    rotation, option = _ROTATIONS[age.alternation.phase]
    return CredentialLine(cell.store, age.issued, rotation, age.alternation.since, f"multidb rotate {cell.app}{option}")


def _drift(change: dict[str, Any]) -> Drift:
    fields: Sequence[dict[str, Any]] = change["fields"]
    return Drift(
        change["store"],
        f"{change['action']} {change['kind']} {change['name']}",
        tuple((field["field"], field["old"], field["new"]) for field in fields),
        change.get("reason", ""),
        "\n".join(statement["text"] for statement in change["statements"]),
    )
