"""Which locations cannot be an app's files: another's, and what multidb itself keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from multidb.document import printable
from multidb.errors import Problem
from multidb.manifest.document import Position
from multidb.model import App
from multidb.model.file_options import location_parts
from multidb.model.state_options import FOLDER

__all__ = ["check_files"]

_Parts: TypeAlias = tuple[str, ...]
_OURS: Final = (FOLDER.rstrip("/"), "infrastructure")


def check_files(apps: Sequence[App], targets: Iterable[str], root: Path) -> Iterator[Problem]:
    """Every location of an app's files that lies in another, or that is, holds or lies in what multidb keeps.

    Args:
        targets: the addresses of the project's targets.
        root: the manifest's folder, an absolute path.
    """
    apps = [app for app in apps if app.files]
    if not apps:
        return
    locations = [(app, name, location_parts(place, str(root))) for app in apps for name, place in app.files.items()]
    holders: dict[_Parts, list[tuple[App, str]]] = {}
    for app, name, parts in locations:
        holders.setdefault(parts, []).append((app, name))
    kept = [*_OURS, *targets, *(target for app in apps for target in app.backup.to or ())]
    ours = {location_parts(location, str(root)): location for location in kept}
    above = {
        location_parts(f"apps/{app.id}", str(root))[:length] for app in apps for length in range(len(root.parts) + 3)
    }
    for app, name, parts in locations:
        shown, place = printable(app.files[name]), _place(app)
        sharing = [holder for prefix in _prefixes(parts) for holder in holders.get(prefix, ()) if holder != (app, name)]
        clash = next((ours[other] for other in ours if _meet(parts, other)), None)
        if sharing:
            other, _ = sharing[0]
            yield place.problem(f"app {app.id}: {shown} is or lies in files of {other.id}", "Name another one.")
        elif clash is not None or parts in above:
            whose = f"{printable(clash)} is multidb's" if clash is not None else "multidb writes there"
            yield place.problem(
                f"app {app.id}: {shown} is no place for files of an app: {whose}",
                "Name a folder that has the app's files alone.",
            )


def _prefixes(parts: _Parts) -> Iterator[_Parts]:
    """The path and the folders that it lies in."""
    return (parts[:length] for length in range(1, len(parts) + 1))


def _meet(one: _Parts, other: _Parts) -> bool:
    """Whether one of two paths is the other, or lies in it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _place(app: App) -> Position:
    file, *numbers = app.where.rsplit(":", 2)
    if len(numbers) == 2 and all(number.isdigit() for number in numbers):
        return Position(file, int(numbers[0]), int(numbers[1]))
    return Position(app.where or "the manifest", 1, 1)
