"""What the manifest says about the backups of one app, as values to work with. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from multidb.age_keys import recipient_problem
from multidb.errors import UsageError
from multidb.model import App, Project
from multidb.model.options import Keep

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
    own, shared = app.backup, project.backup
    encrypt = own.encrypt or shared.encrypt
    recipients = encrypt.recipients if encrypt else ()
    for recipient in recipients:
        if problem := recipient_problem(recipient):
            raise UsageError(f"backup.encrypt: {recipient[:20]!r} {problem}", where=project.file)
    return Settings(
        every=own.every or shared.every,
        to=shared.to if own.to is None else own.to,
        keep=shared.keep if own.keep is None else _over(shared.keep, own.keep),
        verify=_VERIFY[own.verify or shared.verify],
        quiesce=shared.quiesce if own.quiesce is None else own.quiesce,
        recipients=recipients,
        declared=project.backup_declared or any(value is not None for _, value in own),
    )


def _over(shared: Keep, own: Keep) -> Keep:
    """The project's figures, and the app's where it has any."""
    return shared.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
