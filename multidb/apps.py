"""Every app that a project has or has had: those of the manifest, removed ones that are still kept, and orphans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from multidb import health, usage
from multidb.backup.labels import CLONE_OF
from multidb.backup.schedule import freshness_now, last_sets
from multidb.credentials import issued_at
from multidb.fleet import Fleet
from multidb.model import App, Status
from multidb.orphans import orphans, vacant, ways_of_vacant
from multidb.tombstone import tombstones
from multidb.usage import History

__all__ = ["AppSummary", "Presence", "summaries"]


class Presence(StrEnum):
    """Where an app stands."""

    MANIFEST = "manifest"
    CLONE = "clone"  # in the manifest, and made of another app
    REMOVED = "removed"  # what it had is kept for a time of grace
    ORPHAN = "orphan"  # on the servers, under the project's mark, and in no manifest


@dataclass(frozen=True, slots=True)
class AppSummary:
    """What there is to say of one app on one line.

    Args:
        health: None: not looked at, or nothing to look at.
        size: bytes on all of its stores together; None: none of them was told.
        verified: when the newest of its sets that were verified was made.
        issued: when the oldest of its credentials was made; None: before that was recorded.
        note: what else an operator has to know, with the command.
    """

    app: str
    presence: Presence
    stores: tuple[str, ...]
    health: Status | None = None
    size: int | None = None
    verified: datetime | None = None
    issued: datetime | None = None
    note: str = ""

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "app": self.app,
            "presence": self.presence.value,
            "stores": list(self.stores),
            "health": self.health and self.health.value,
            "size": self.size,
            "verified_at": self.verified and self.verified.isoformat(timespec="seconds"),
            "issued_at": self.issued and self.issued.isoformat(timespec="seconds"),
            "note": self.note or None,
        }


def summaries(fleet: Fleet, *, recorded: bool = False) -> list[AppSummary]:
    """The apps in the order of the manifest, then removed ones, then orphans.

    Args:
        recorded: ask no server. Sizes are then those of the last look at usage that was kept, health is not known, and
            orphans are not seen.

    Raises:
        UsageError: the state is wrong.
    """
    orphans: list[AppSummary] = []
    if recorded:
        sizes = _recorded_sizes(fleet)
    else:
        with fleet.keeping_open():  # and closed again before apps log in: a folder takes no second opening
            sizes, orphans = _sizes(fleet), _orphans(fleet)
    report = None if recorded else health.check(fleet, may_write=False, freshness=freshness_now(fleet))
    sets = last_sets(fleet.project, fleet.state)
    listed = []
    for app in fleet.project.apps.values():
        original = app.labels.get(CLONE_OF)
        listed.append(
            AppSummary(
                app.id,
                Presence.CLONE if original else Presence.MANIFEST,
                tuple(app.stores),
                report.status_of(app.id) if report and app.id in report.apps else None,
                sizes.get(app.id),
                sets[app.id].verified if app.id in sets else None,
                _issued(fleet, app),
                f"of {original}" if original else "",
            )
        )
    return [*listed, *_removed(fleet), *orphans]


def _issued(fleet: Fleet, app: App) -> datetime | None:
    """When the oldest of its credentials was made, of those of which that is known."""
    known = (issued_at(fleet.state, app.id, store) for store in app.stores)
    return min((when for when in known if when is not None), default=None)


def _removed(fleet: Fleet) -> list[AppSummary]:
    return [
        AppSummary(
            app,
            Presence.REMOVED,
            tuple(dict.fromkeys(store for edit in tombstone.edits for store in edit.entry.get("stores", ()))),
            note=f"kept until {tombstone.until:%Y-%m-%d}; multidb undo-remove {app}, or multidb purge {app}",
        )
        for app, tombstone in sorted(tombstones(fleet.state).items())
        if app not in fleet.project.apps
    ]


def _orphans(fleet: Fleet) -> list[AppSummary]:
    things = orphans(fleet)
    empty = vacant(fleet, things)
    return [
        AppSummary(
            app,
            Presence.ORPHAN,
            tuple(stores),
            note=f"no app's; {ways_of_vacant(app)}" if app in empty else f"in no manifest; multidb remove-app {app}",
        )
        for app, stores in sorted(things.items())
    ]


def _sizes(fleet: Fleet) -> Mapping[str, int]:
    sizes: dict[str, int] = {}
    for used in usage.look(fleet, keep=False).stores:
        if used.usage.size is not None:
            sizes[used.app] = sizes.get(used.app, 0) + used.usage.size
    return sizes


def _recorded_sizes(fleet: Fleet) -> Mapping[str, int]:
    looks, _ = History(fleet.state).looks()
    return {app: sum(stores.values()) for app, stores in looks[-1].sizes.items()} if looks else {}
