"""What apps have in their stores, as the servers were last read.

Every plan and apply writes it down, so that `multidb show` need not ask. It stands in ``.multidb/access/``, a file for
each server; losing it costs nothing but the question.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multidb import files
from multidb.document import Unreadable, parse
from multidb.errors import UsageError

if TYPE_CHECKING:
    from multidb.model import Resource

__all__ = ["StoreAccess", "access_of", "forget_access", "record_access", "recorded_access"]

_LARGEST = 64 * 1024**2  # bytes


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """What an app has in one store.

    Args:
        isolation: how real the wall is, a value of `multidb.model.Isolation`; `why`: why it is no more than that.
        names: what it has there (``role lernmi_user``).
        read: when the server was asked, an ISO text in UTC.
    """

    isolation: str
    why: str
    names: tuple[str, ...]
    read: str


def access_of(isolation: Mapping[str, tuple[str, str]], desired: Iterable[Resource]) -> dict[str, StoreAccess]:
    """By app what it has on a server that was asked just now, from its isolation there (level, why) and from what the
    manifest wants for it."""
    names: dict[str | None, list[str]] = {}
    for resource in desired:
        if not resource.edge:
            names.setdefault(resource.app, []).append(f"{resource.kind} {resource.name}")
    read = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        app: StoreAccess(str(level), why, tuple(names.get(app, ())), read) for app, (level, why) in isolation.items()
    }


def recorded_access(state: Path, server: str) -> dict[str, StoreAccess]:
    """By app, what is recorded for the server; empty where nothing is, or nothing that can be understood.

    Args:
        state: the project's ``.multidb/`` folder.
    """
    try:
        entries = parse(files.read_text(_file(state, server)) or "{}", _LARGEST)
        return {app: _access(entry) for app, entry in entries.items()}
    except (UsageError, Unreadable, AttributeError):
        return {}


def record_access(state: Path, server: str, access: Mapping[str, StoreAccess], apps: Collection[str]) -> None:
    """Writes down what `access` says of some apps of the server; what is recorded of others stays.

    Args:
        apps: those that the server serves; of others nothing is kept.
    """
    entries = {app: entry for app, entry in recorded_access(state, server).items() if app in apps} | dict(access)
    text = json.dumps({app: asdict(entry) for app, entry in sorted(entries.items())}, indent=1)
    with suppress(UsageError):  # a plan does without
        files.write_text(_file(state, server), text + "\n", mode=files.PRIVATE)


def forget_access(state: Path, server: str) -> None:
    """Forgets what is recorded for the server, whose walls may be others now; who asks next asks the server."""
    with suppress(OSError):
        _file(state, server).unlink(missing_ok=True)


def _file(state: Path, server: str) -> Path:
    return state / "access" / f"{server}.json"


def _access(entry: Any) -> StoreAccess:
    match entry:
        case {"isolation": str(isolation), "why": str(why), "names": [*names], "read": str(read)}:
            if all(isinstance(name, str) for name in names):
                return StoreAccess(isolation, why, tuple(names), read)
    raise Unreadable("is not what multidb writes")
