"""Work on several things at once, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
) -> list[R]:
    """`work` done for each of `items`, each in a thread of its own (a single one in ours); the results in their order.

    Args:
        at_once: at most so many at a time; None: all.
        finishing: a single one has a thread of its own as well: an interruption of ours does not stop it halfway.
        cancelled: set when one fails or we are interrupted, so that the others can end early and nobody waits for them.

    Raises:
        Exception: what `work` raised, of the first item that failed; the others have ended by then.
    """
    if not items or (len(items) == 1 and not finishing):
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(len(items), at_once or len(items))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            if cancelled is not None:
                cancelled.set()
            raise
