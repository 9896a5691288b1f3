"""One look at a time, whoever asks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from multidb.errors import ServerDown
from multidb.secrets import Secret
from multidb.service.collector import Collector, Reading


class Look:
    """Counts itself, and lasts until it is let go."""

    def __init__(self) -> None:
        self.made = 0
        self.at_once = 0
        self.most_at_once = 0
        self.go = threading.Event()
        self._guard = threading.Lock()

    def __call__(self) -> int:
        with self._guard:
            self.made += 1
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
            number = self.made
        self.go.wait(5)
        with self._guard:
            self.at_once -= 1
        return number


def collector(look: Any, fresh: float = 60.0, **more: Any) -> Collector[Any]:
    return Collector("health", look, fresh=fresh, executor=ThreadPoolExecutor(4), **more)


def test_a_storm_is_served_by_one_look() -> None:
    look = Look()

    async def storm() -> list[Reading[int]]:
        asked = collector(look)
        waiting = [asyncio.create_task(asked.read()) for _ in range(500)]
        await asyncio.sleep(0.05)
        look.go.set()
        found = await asyncio.gather(*waiting)
        return [*found, await asked.read()]

    readings = asyncio.run(storm())
    assert (look.made, look.most_at_once) == (1, 1)
    assert {id(reading) for reading in readings} == {id(readings[0])}


def test_a_stale_reading_is_looked_for_again_and_never_twice_at_once() -> None:
    look = Look()
    look.go.set()

    async def twice() -> tuple[int | None, int | None]:
        asked = collector(look, fresh=0)
        first = await asked.read()
        seconds = await asyncio.gather(*(asked.read() for _ in range(50)))
        return first.value, seconds[0].value

    assert asyncio.run(twice()) == (1, 2)
    assert look.most_at_once == 1


def test_who_goes_away_does_not_end_the_look_for_the_others() -> None:
    look = Look()

    async def leave() -> int | None:
        asked = collector(look)
        leaving, staying = asyncio.create_task(asked.read()), asyncio.create_task(asked.read())
        await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.sleep(0.02)
        look.go.set()
        return (await staying).value

    assert asyncio.run(leave()) == 1
    assert look.made == 1


def test_who_has_no_patience_gets_what_is_known() -> None:
    look = Look()

    async def hurry() -> tuple[Any, Any]:
        asked = collector(look, fresh=0)
        nothing = await asked.soon(0.02)
        look.go.set()
        await asked.read()
        look.go.clear()
        old = await asked.soon(0.02)
        look.go.set()
        return nothing, old

    nothing, old = asyncio.run(hurry())
    assert nothing is None
    assert old.value == 1


@pytest.mark.parametrize(
    ("fault", "code", "error"),
    [
        (ServerDown("has a-password-of-ours in it", hint="start a-password-of-ours"), "server-down", "has *** in it"),
        (ZeroDivisionError("a-password-of-ours"), "internal", "a fault of multidb itself (ZeroDivisionError)"),
    ],
)
def test_a_look_that_fails_is_a_reading_without_a_secret(fault: Exception, code: str, error: str) -> None:
    Secret("a-password-of-ours")
    heard: list[Reading[Any]] = []

    def look() -> int:
        raise fault

    reading = asyncio.run(collector(look, heard=heard.append).read())
    assert (reading.value, reading.code, reading.error) == (None, code, error)
    assert "a-password-of-ours" not in repr(reading)
    assert heard == [reading]
