"""The channels beside an app's own, by which the manifest lets apps hear each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from multidb.model import App, Inspection, Remark, listed
from multidb.provisioners.redis.provision.options import STORE, AppOptions

__all__ = ["reaches", "shared"]


def reaches(app: App, channel: str) -> bool:
    """Whether the manifest lets the app at a channel that is not its own."""
    patterns: tuple[str, ...] = AppOptions.of(app.stores[STORE]).channels
    return any(fnmatchcase(channel, pattern) for pattern in patterns)


def shared(inspection: Inspection) -> Iterator[Remark]:
    """The patterns by which apps reach each other because the manifest says so: it is no hole, and worth knowing."""
    named: dict[str, list[str]] = {}
    for app in inspection.apps:
        for pattern in AppOptions.of(app.stores[STORE]).channels:
            named.setdefault(pattern, []).append(app.id)
    ids = {app.id for app in inspection.apps}
    for pattern, apps in sorted(named.items()):
        whose = pattern.partition(":")[0]
        others = [whose] if ":" in pattern and whose in ids.difference(apps) else []
        if len(apps) + len(others) > 1:
            message = f"{listed([*apps, *others], 5)} reach each other on them; they are shared by the manifest"
            yield Remark(f"channels {pattern}", message)
