"""Work on several things at once, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["side_by_side"]

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    at_once: int | None = None,
    cancelled: threading.Event | None = None,
    finishing: bool = False,
    until_failure: bool = False,
) -> list[R]:
    """`work` done for each of `items`, each in a thread of its own (a single one in ours); the results in their order.

    Args:
        at_once: at most so many at a time; None: all.
        finishing: a single one has a thread of its own as well: an interruption of ours does not stop it halfway.
        cancelled: set when one fails or we are interrupted, so that the others can end early and nobody waits for them.
        until_failure: no more are begun once one has failed: a server that does not answer costs one timeout, not many.

    Raises:
        Exception: what `work` raised, of the first item that failed; the others have ended by then.
    """
    if not items or (len(items) == 1 and not finishing):
        return [work(item) for item in items]
    stop = threading.Event()

    def begun(item: T) -> R:
        if stop.is_set():  # asked by the thread that takes the item: to cancel it from here would come too late
            raise CancelledError
        try:
            return work(item)
        except BaseException:
            if until_failure:
                stop.set()
            raise

    with ThreadPoolExecutor(min(len(items), at_once or len(items))) as pool:
        futures = [pool.submit(begun, item) for item in items]
        unfinished = set(futures)
        try:
            unfinished = wait(futures, return_when=FIRST_EXCEPTION).not_done
        finally:
            if unfinished and cancelled is not None:
                cancelled.set()
            if unfinished and until_failure:
                stop.set()
        return [future.result() for future in futures]  # what was not begun comes after what has failed
