"""What is known of every app right now, brought together from the latest readings: what the page and the metrics show.

Pure. A part that was not read yet, or whose look failed, is None: unknown is never shown as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from multidb.audit import Audit
from multidb.backup.jobs import Job
from multidb.backup.labels import CLONE_OF
from multidb.backup.repository import Copy
from multidb.backup.schedule import LastSets
from multidb.credentials import CredentialAge
from multidb.health import HealthReport
from multidb.health_history import PlaceHistory, Places
from multidb.history import RecordedRun
from multidb.model import Change, Health, Isolation, Project, Status, worst
from multidb.plan import Plan
from multidb.usage import NEAR, Look, StoreUsage, UsageReport

__all__ = ["AppRow", "Cell", "Overview", "Records", "RunsSeen", "SetsSeen", "Trouble", "overview"]

_Thing = TypeVar("_Thing")


class Trouble(StrEnum):
    """What can be wrong with an app, by the words that the page filters by."""

    UNHEALTHY = "unhealthy"
    DEGRADED = "degraded"
    OPEN = "wall-open"
    UNCERTAIN = "not-proved"
    DRIFT = "drift"
    BACKUP = "backup"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True)
class SetsSeen:
    """The newest sets that lie on the targets. `problems`: by target, why it could not be read."""

    copies: tuple[Copy, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunsSeen:
    """What was done in the project.

    Args:
        runs: the newest first; of each app at least its newest ones.
        problems: what is wrong with the history's lines; `way_on`: what to do about it.
    """

    runs: tuple[RecordedRun, ...] = ()
    problems: tuple[str, ...] = ()
    way_on: str = ""

    def of_app(self, app: str, most: int) -> tuple[RecordedRun, ...]:
        """The app's newest ones."""
        return tuple(run for run in self.runs if run.is_about(app))[:most]


@dataclass(frozen=True, slots=True)
class Records:
    """What is known without asking a server.

    Args:
        histories: of health, by app and store.
        credentials: by app and store, how old they are and how far their rotation has come.
        jobs: backup work that is under way.
        sets: what lies on the targets; None: nobody has looked.
        history: what was done; None: nobody has looked.
    """

    histories: Places = field(default_factory=dict)
    credentials: Mapping[tuple[str, str], CredentialAge] = field(default_factory=dict)
    jobs: tuple[Job, ...] = ()
    sets: SetsSeen | None = None
    history: RunsSeen | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One app on one store.

    Args:
        isolation: what is promised, and why.
        verdict: what the last audit says: ``breach``, ``hole``, ``not proved``, a level; empty: there was none.
        sizes: its bytes at earlier looks, oldest first.
        drift: changes that a plan would make; None: unknown.
        history: what the checks of the last day have found; None: nothing is kept.
        server: the name of the server, as the last check has it; empty: unknown.
        credentials: what is recorded of the app's; None: nobody has looked.
    """

    app: str
    store: str
    health: Health | None = None
    isolation: tuple[Isolation, str] | None = None
    verdict: str = ""
    usage: StoreUsage | None = None
    sizes: tuple[tuple[datetime, int], ...] = ()
    drift: int | None = None
    history: PlaceHistory | None = None
    server: str = ""
    credentials: CredentialAge | None = None

    @property
    def open(self) -> bool:
        """Whether the last audit found the app's wall open."""
        return self.verdict in ("breach", "hole")

    @property
    def since(self) -> datetime | None:
        """When the first of the checks was made that have all had the same status since then; None: unknown."""
        return self.history.since if self.history is not None else None


@dataclass(frozen=True, slots=True)
class AppRow:
    """One app. `cells` are in the order of the stores of the project.

    Args:
        status: of its stores and backups; whether its walls are open is another question: `standing`.
        copies: its newest sets on all targets; None: nobody has looked.
        changes: what a plan would make of it.
    """

    app: str
    status: Status | None
    cells: Mapping[str, Cell]
    backup: LastSets | None = None
    backup_health: Health | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    copies: tuple[Copy, ...] | None = None
    changes: tuple[Change, ...] = ()

    @property
    def open(self) -> bool:
        """Whether the last audit found one of its walls open."""
        return any(cell.open for cell in self.cells.values())

    @property
    def standing(self) -> str:
        """Its status in a word. An app that others get into is not called healthy."""
        return _standing(self.status, {cell.verdict for cell in self.cells.values()})

    @property
    def clone(self) -> bool:
        """Whether it is one, which is not backed up: it can be made again."""
        return CLONE_OF in self.labels

    @property
    def drift(self) -> int | None:
        """Changes that a plan would make for the app; None: unknown on every store."""
        known = [cell.drift for cell in self.cells.values() if cell.drift is not None]
        return sum(known) if known else None

    @property
    def size(self) -> int | None:
        """Bytes on all of its stores together; None: none of them was told."""
        sizes = [cell.usage.usage.size for cell in self.cells.values() if cell.usage is not None]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None

    @property
    def latency(self) -> float | None:
        """Seconds of the slowest of its checks; None: none was answered."""
        healths = [cell.health for cell in self.cells.values() if cell.health is not None]
        return max((health.latency for health in healths if health.latency is not None), default=None)

    @property
    def troubles(self) -> frozenset[Trouble]:
        """All that is wrong with it, as far as it is known."""
        return frozenset(self._troubles())

    def _troubles(self) -> Iterator[Trouble]:
        statuses = {cell.health.status for cell in self.cells.values() if cell.health is not None}
        if Status.UNHEALTHY in statuses:
            yield Trouble.UNHEALTHY
        if Status.DEGRADED in statuses:
            yield Trouble.DEGRADED
        if self.open:
            yield Trouble.OPEN
        if any(cell.verdict == "not proved" for cell in self.cells.values()):
            yield Trouble.UNCERTAIN
        if self.drift:
            yield Trouble.DRIFT
        if self.backup_health is not None and self.backup_health.status is not Status.HEALTHY:
            yield Trouble.BACKUP
        shares = [cell.usage.share for cell in self.cells.values() if cell.usage is not None]
        if any(share is not None and share >= NEAR for share in shares):
            yield Trouble.QUOTA


@dataclass(frozen=True, slots=True)
class Overview:
    """A whole project.

    Args:
        backups_known: whether anything was heard of backups; without that, no row's lack of one means anything.
        sets: what lies on the targets; None: nobody has looked.
        jobs: backup work that is under way.
        history: what was done; None: nobody has looked.
    """

    project: str
    stores: tuple[str, ...]
    rows: tuple[AppRow, ...]
    health: HealthReport | None = None
    plan: Plan | None = None
    audit: Audit | None = None
    usage: UsageReport | None = None
    backups_known: bool = False
    sets: SetsSeen | None = None
    jobs: tuple[Job, ...] = ()
    history: RunsSeen | None = None

    def row(self, app: str) -> AppRow | None:
        """The app's; None where it is not in the manifest."""
        return next((row for row in self.rows if row.app == app), None)

    @property
    def open(self) -> bool:
        """Whether the last audit found the wall of an app open."""
        return any(row.open for row in self.rows)

    @property
    def standing(self) -> str:
        """The status of all apps in a word; they are not called healthy while others get into one of them."""
        verdicts = {cell.verdict for row in self.rows for cell in row.cells.values()}
        return _standing(self.health.status if self.health else None, verdicts)


def overview(
    project: Project,
    *,
    health: HealthReport | None = None,
    plan: Plan | None = None,
    audit: Audit | None = None,
    usage: UsageReport | None = None,
    looks: Sequence[Look] = (),
    backups: Mapping[str, LastSets] | None = None,
    records: Records | None = None,
) -> Overview:
    """Brings the readings together. What they say of apps that are no longer in the manifest is left out.

    Args:
        looks: earlier sizes, oldest first.
    """
    records = records or Records()
    sets = records.sets
    cells = _Cells(health, plan, audit, usage, looks, records)
    statuses, of_backups = _statuses(health), health.backups if health else {}
    changes = _by_app(plan.changes if plan else (), lambda change: change.resource.app)
    copies = _by_app(sets.copies if sets else (), lambda copy: copy.owner)
    rows = tuple(
        AppRow(
            app.id,
            statuses.get(app.id),
            {store: cells.cell(app.id, store) for store in project.stores if store in app.stores},
            (backups or {}).get(app.id),
            of_backups.get(app.id),
            app.labels,
            tuple(copies.get(app.id, ())) if sets else None,
            tuple(changes.get(app.id, ())),
        )
        for app in project.apps.values()
    )
    stores = tuple(store for store in project.stores if project.apps_with(store))
    backups_known = backups is not None
    return Overview(
        project.name, stores, rows, health, plan, audit, usage, backups_known, sets, records.jobs, records.history
    )


class _Cells:
    """What the readings say of each app on each store."""

    def __init__(
        self,
        health: HealthReport | None,
        plan: Plan | None,
        audit: Audit | None,
        usage: UsageReport | None,
        looks: Sequence[Look],
        records: Records,
    ) -> None:
        self._checked = {(check.app, check.store): check for check in health.checks} if health else {}
        self._promised = _isolation(plan, audit)
        self._drift = _drift(plan)
        self._used = {(entry.app, entry.store): entry for entry in usage.stores} if usage else {}
        self._audit, self._looks, self._histories = audit, looks, records.histories
        self._credentials = records.credentials

    def cell(self, app: str, store: str) -> Cell:
        check = self._checked.get((app, store))
        return Cell(
            app,
            store,
            check.health if check else None,
            self._promised.get((app, store)),
            self._audit.verdict(app, store) if self._audit else "",
            self._used.get((app, store)),
            tuple((look.at, size) for look in self._looks if (size := look.size(app, store)) is not None),
            self._drift.get((app, store)),
            self._histories.get((app, store)),
            check.server if check else "",
            self._credentials.get((app, store)),
        )


def _by_app(things: Iterable[_Thing], app: Callable[[_Thing], str | None]) -> dict[str, list[_Thing]]:
    """The things of each app, in their order; those of none are left out."""
    grouped: dict[str, list[_Thing]] = {}
    for thing in things:
        if (name := app(thing)) is not None:
            grouped.setdefault(name, []).append(thing)
    return grouped


def _statuses(health: HealthReport | None) -> dict[str, Status]:
    """By app, the worst of its stores and backup: one walk over the checks, however many apps there are."""
    of_apps: dict[str, list[Status]] = {}
    for check in health.checks if health else ():
        of_apps.setdefault(check.app, []).append(check.health.status)
    for app, backup in health.backups.items() if health else ():
        if app in of_apps:
            of_apps[app].append(backup.status)
    return {app: worst(statuses) for app, statuses in of_apps.items()}


def _standing(status: Status | None, verdicts: Collection[str]) -> str:
    word = status.value if status is not None else "unknown"
    opening = "breached" if "breach" in verdicts else "wall open" if "hole" in verdicts else ""
    return f"{word}, {opening}" if opening and status is Status.UNHEALTHY else opening or word


def _isolation(plan: Plan | None, audit: Audit | None) -> dict[tuple[str, str], tuple[Isolation, str]]:
    """What the servers themselves say, by the later of the two looks that hear it."""
    isolation: dict[tuple[str, str], tuple[Isolation, str]] = {}
    for app, stores in audit.isolation.items() if audit else ():
        isolation |= {(app, store): promised for store, promised in stores.items()}
    for server in plan.servers if plan else ():
        isolation |= {(app, server.store): promised for app, promised in server.isolation.items()}
    return isolation


def _drift(plan: Plan | None) -> dict[tuple[str, str], int]:
    """Changes by app and store, on the servers that could be read; the servers' own are nobody's."""
    counts: dict[tuple[str, str], int] = {}
    for server in plan.servers if plan else ():
        counted: Sequence[str | None] = [change.resource.app for change in server.changes]
        for app in server.isolation if server.error is None else ():
            counts[app, server.store] = counts.get((app, server.store), 0) + counted.count(app)
    return counts
