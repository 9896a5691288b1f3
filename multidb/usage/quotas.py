"""Who is over a quota long enough to be made read-only, and who has made room. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from multidb.model import Enforce, Project
from multidb.usage.report import StoreUsage, UsageReport

__all__ = ["RELEASED", "ReadOnlyApps", "read_only_after"]

RELEASED = 0.9
"""The share of its quota below which a read-only app may write again; between this and 1 nothing changes, so that an
app at its limit does not go back and forth."""

ReadOnlyApps = Mapping[str, frozenset[str]]
"""By store, the apps that may read and delete and not grow."""


def read_only_after(project: Project, report: UsageReport, before: ReadOnlyApps) -> dict[str, frozenset[str]]:
    """Who is read-only after this look, by store; a store with nobody is left out.

    An app that was not looked at, or whose size is not known, stays as it was while its quota says ``read-only``.
    """
    seen = {(used.app, used.store): used for used in report.stores}
    read_only: dict[str, set[str]] = {}
    for app in project.apps.values():
        for store, quota in app.quota.items():
            if store not in app.stores or quota.enforce is not Enforce.READ_ONLY:
                continue
            was = app.id in before.get(store, frozenset())
            if _is_read_only(seen.get((app.id, store)), was):
                read_only.setdefault(store, set()).add(app.id)
    return {store: frozenset(apps) for store, apps in read_only.items()}


def _is_read_only(usage: StoreUsage | None, was: bool) -> bool:
    if usage is None or usage.share is None:
        return was
    return usage.share >= (RELEASED if was else 1.0)
