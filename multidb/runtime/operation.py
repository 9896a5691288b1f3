"""What an operation on several servers needs: one voice for progress, the operating system's errors made readable."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar

from multidb.errors import UsageError
from multidb.model import Progress

__all__ = ["LOCK_TIMEOUT", "clear_errors", "one_at_a_time", "selected"]

T = TypeVar("T")

LOCK_TIMEOUT: Final = 60.0
"""Seconds that work on one server, such as a backup's, waits for an ``up`` or ``down`` that is under way."""


def one_at_a_time(progress: Progress) -> Progress:
    """`progress`, callable from several threads."""
    turn = threading.Lock()

    def report(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        with turn:
            progress(subject, message, done, total)

    return report


def selected(servers: Mapping[tuple[str, str], T], only: Sequence[str] | None, manifest: str) -> list[T]:
    """Those of `servers`, by name and store, of which either is in `only`; all of them where that is None.

    Raises:
        UsageError: `only` names what no server is called; it says what there is.
    """
    if only is None:
        return list(servers.values())
    known = {name for names in servers for name in names}
    if unknown := sorted(set(only) - known):
        raise UsageError(
            f"no server named {', '.join(unknown)} in this project",
            where=manifest,
            hint=f"there are: {', '.join(sorted(known)) or 'none; no app uses a store'}",
        )
    return [server for names, server in servers.items() if {*names} & set(only)]


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turns what the operating system refuses into one error that says where, and what to do."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot be used: {error.strerror or type(error).__name__}",
            where=str(error.filename) if error.filename else None,
            hint="free space or correct the permissions, then run the command again",
        ) from None
