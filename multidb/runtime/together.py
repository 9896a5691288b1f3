"""Work on several servers at once: threads, one voice for progress, the operating system's errors made readable."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from multidb.errors import UsageError
from multidb.model import Progress

__all__ = ["PATIENCE", "clear_errors", "one_at_a_time", "side_by_side"]

PATIENCE: Final = 60.0
"""Seconds that work on one server, such as a backup's, waits for an ``up`` or ``down`` that is under way."""

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T], cancelled: threading.Event | None = None) -> list[R]:
    """The results in the order of `items`, each worked on in a thread of its own.

    Args:
        cancelled: is set when we are interrupted, so that `work` can end early instead of being waited for.
    """
    if not items:
        return []
    with ThreadPoolExecutor(max_workers=len(items)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            if cancelled is not None:
                cancelled.set()
            raise


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
