"""What the manifest says about the backups of one app, as values to work with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from multidb.backup.encryption import recipient_problem
from multidb.backup.retention import Keep
from multidb.errors import UsageError
from multidb.model import App, Project, duration_of

__all__ = ["Settings", "settings"]

_VERIFY: Final = {
    "always": timedelta(0),
    "daily": timedelta(days=1),
    "weekly": timedelta(weeks=1),
    "monthly": timedelta(days=30),
    "never": None,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The backups of one app.

    Args:
        every: the longest time between two sets.
        to: the addresses of the targets; each gets every set.
        verify: the longest time between two proofs; zero: every set; None: never.
        declared: whether the manifest speaks of backups at all; if not, nobody is told that they are late.
    """

    every: timedelta
    to: tuple[str, ...]
    keep: Keep
    verify: timedelta | None
    quiesce: bool
    recipients: tuple[str, ...]
    declared: bool


def settings(project: Project, app: App) -> Settings:
    """The project's section with what the app says differently laid over it, key by key.

    Raises:
        UsageError: a recipient is no key.
    """
    own = {name: value for name, value in app.backup.items() if value is not None}
    said: Mapping[str, Any] = {**project.backup, **own}
    keep = {**project.backup["keep"], **own.get("keep", {})}
    recipients = tuple((said["encrypt"] or {}).get("recipients", ()))
    for recipient in recipients:
        if problem := recipient_problem(recipient):
            raise UsageError(f"backup.encrypt: {recipient[:20]!r} {problem}", where=project.file)
    return Settings(
        every=duration_of(said["every"]),
        to=tuple(said["to"]),
        keep=Keep(**keep),
        verify=_VERIFY[said["verify"]],
        quiesce=bool(said["quiesce"]),
        recipients=recipients,
        declared=bool(project.backup["declared"] or own),
    )
