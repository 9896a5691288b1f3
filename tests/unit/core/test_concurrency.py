"""Work side by side: in order, all of it, and no more of it once something is wrong."""

from __future__ import annotations

import threading
import time

import pytest

from multidb.concurrency import side_by_side


def test_results_are_in_the_order_of_the_items_whoever_ends_first() -> None:
    first = threading.Event()

    def work(item: int) -> int:
        assert first.wait(60) if item == 0 else first.set() is None
        return item * 2

    assert side_by_side(work, range(3)) == [0, 2, 4]
    assert side_by_side(work, [], at_once=2) == []


@pytest.mark.parametrize("until_failure", [True, False])
def test_after_a_failure_the_rest_is_begun_only_where_it_is_wanted(until_failure: bool) -> None:
    """The second fails while the first waits; with two at a time the others have not begun."""
    begun: list[int] = []
    cancelled = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            assert cancelled.wait(60), "who is at it is told at once"
        if item == 1:
            raise ValueError("broken")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="broken"):
        side_by_side(work, range(50), at_once=2, cancelled=cancelled, until_failure=until_failure)
    assert len(begun) < 50 if until_failure else sorted(begun) == list(range(50))


def test_of_several_failures_that_of_the_first_item_is_raised() -> None:
    second = threading.Event()

    def work(item: int) -> None:
        assert second.wait(60) if item == 0 else second.set() is None
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        side_by_side(work, range(2), until_failure=True)
