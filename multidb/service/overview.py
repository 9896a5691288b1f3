"""What is known of every app right now, brought together from the latest readings: what the page and the metrics show.

Pure. A part that was not read yet, or whose look failed, is None: unknown is never shown as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from multidb.audit import Audit
from multidb.backup.labels import CLONE_OF
from multidb.backup.schedule import LastSets
from multidb.health import HealthReport
from multidb.health_history import Places
from multidb.model import Health, Isolation, Project, Status
from multidb.plan import Plan
from multidb.usage import Look, StoreUsage, UsageReport

__all__ = ["AppRow", "Cell", "Overview", "overview"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One app on one store.

    Args:
        isolation: what is promised, and why.
        verdict: what the last audit says: ``breach``, ``hole``, ``not proved``, a level; empty: there was none.
        history: its sizes in bytes at earlier looks, oldest first.
        drift: changes that a plan would make; None: unknown.
        since: when the first of the checks was made that have all had the same status since then; None: unknown.
    """

    app: str
    store: str
    health: Health | None = None
    isolation: tuple[Isolation, str] | None = None
    verdict: str = ""
    usage: StoreUsage | None = None
    history: tuple[int, ...] = ()
    drift: int | None = None
    since: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether the last audit found the app's wall open."""
        return self.verdict in ("breach", "hole")


@dataclass(frozen=True, slots=True)
class AppRow:
    """One app. `cells` are in the order of the stores of the project."""

    app: str
    status: Status | None
    cells: Mapping[str, Cell]
    backup: LastSets | None = None
    backup_health: Health | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True)
class Overview:
    """A whole project.

    Args:
        backups_known: whether anything was heard of backups; without that, no row's lack of one means anything.
    """

    project: str
    stores: tuple[str, ...]
    rows: tuple[AppRow, ...]
    health: HealthReport | None = None
    plan: Plan | None = None
    audit: Audit | None = None
    usage: UsageReport | None = None
    backups_known: bool = False

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
    histories: Places | None = None,
) -> Overview:
    """Brings the readings together. What they say of apps that are no longer in the manifest is left out.

    Args:
        looks: earlier sizes, oldest first.
    """
    checked = {(check.app, check.store): check.health for check in health.checks} if health else {}
    promised = _isolation(plan, audit)
    drift = _drift(plan)
    since = {place: history.since for place, history in (histories or {}).items()}
    used = {(entry.app, entry.store): entry for entry in usage.stores} if usage else {}

    def cell(app: str, store: str) -> Cell:
        return Cell(
            app,
            store,
            checked.get((app, store)),
            promised.get((app, store)),
            audit.verdict(app, store) if audit else "",
            used.get((app, store)),
            tuple(size for look in looks if (size := look.size(app, store)) is not None),
            drift.get((app, store)),
            since.get((app, store)),
        )

    rows = tuple(
        AppRow(
            app.id,
            health.status_of(app.id) if health and app.id in health.apps else None,
            {store: cell(app.id, store) for store in project.stores if store in app.stores},
            (backups or {}).get(app.id),
            health.backups.get(app.id) if health else None,
            app.labels,
        )
        for app in project.apps.values()
    )
    stores = tuple(store for store in project.stores if project.apps_with(store))
    return Overview(project.name, stores, rows, health, plan, audit, usage, backups is not None)


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
