"""What an operation on several servers needs: one voice for progress, the operating system's errors made readable."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from multidb.errors import UsageError
from multidb.model import Progress

__all__ = ["LOCK_TIMEOUT", "clear_errors", "one_at_a_time"]

LOCK_TIMEOUT: Final = 60.0
"""Seconds that work on one server, such as a backup's, waits for an ``up`` or ``down`` that is under way."""


def one_at_a_time(progress: Progress) -> Progress:
    """`progress`, callable from several threads."""
    turn = threading.Lock()

    def report(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        with turn:
            progress(subject, message, done, total)

    return report


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
