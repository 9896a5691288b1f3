"""Time without progress: counted from the last sign of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from multidb.errors import ServerDown, ServerSlow
from multidb.model import Endpoint, Server
from multidb.progress import ProgressTimer, ended_without

SERVER = Server("postgres", "postgres", Endpoint("db.example.com", 5432))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def timer_of(clock: Clock, signs: Callable[[], object] | None = None) -> ProgressTimer:
    return ProgressTimer(80, signs, clock)


def test_the_time_counts_from_the_last_progress() -> None:
    clock = Clock()
    timer = timer_of(clock)
    for _ in range(10):
        clock.now += 79
        assert not timer.expired()
        timer.moved()
    clock.now += 80
    assert timer.expired()
    timer.moved()
    assert timer.expired(), "what was given up stays so"
    assert "for 80 s (since " in timer.words


@pytest.mark.parametrize(
    ("seen", "ends"),
    [([1, 2], False), ([1, 1], True), ([1, 2, 1], False), ([None], True), ([1, ServerDown("gone")], True)],
    ids=["another", "the same", "another and back", "nothing", "nobody answers"],
)
def test_only_another_sign_is_progress(seen: list[object], ends: bool) -> None:
    clock, looked = Clock(), 0

    def signs() -> object:
        nonlocal looked
        looked += 1
        sign = seen[looked % len(seen)]
        if isinstance(sign, ServerDown):
            raise sign
        return sign

    timer = timer_of(clock, signs)
    while not timer.expired() and clock.now < 2000:
        clock.now += timer.pause
    assert timer.expired() is ends
    assert looked >= 8


def test_the_error_says_where_since_when_and_what_next() -> None:
    clock = Clock()
    timer = timer_of(clock)
    clock.now += 600
    assert timer.expired()
    error = timer.error(SERVER)
    assert isinstance(error, ServerSlow)
    assert error.where == "postgres (db.example.com:5432)"
    assert "no progress for 10 min (since 2" in error.message
    assert "progress_timeout" in str(error.hint)


def test_what_waits_is_ended_from_outside_once() -> None:
    ended: list[int] = []
    released = threading.Event()

    def end() -> None:
        ended.append(1)
        released.set()

    with ended_without(ProgressTimer(0.05), end):
        assert released.wait(30)
    assert ended == [1]


def test_what_is_done_in_time_is_left_alone() -> None:
    ended: list[int] = []
    timer = ProgressTimer(30)
    with ended_without(timer, lambda: ended.append(1)):
        timer.moved()
    assert not ended
    assert not timer.expired()
