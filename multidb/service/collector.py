"""Looks that are shared: however many ask at once, one is under way, and its result serves everybody for a while."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from multidb.errors import MultidbError
from multidb.secrets import redact

__all__ = ["Collector", "Reading"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What one look has found.

    Args:
        value: None when the look itself failed; then `error` says why, for a person, without a secret, `code` what kind
            of error it is, and `hint` what to do about it.
        at: when it ended, in UTC; `seconds`: how long it took.
    """

    value: T | None
    at: datetime
    seconds: float
    code: str = ""
    error: str = ""
    hint: str = ""


class Collector(Generic[T]):
    """One kind of look. Belongs to one event loop; the look runs in a thread of `executor`.

    Args:
        name: for metrics and messages.
        look: may block; whatever it raises becomes the reading's error.
        fresh: seconds for which a reading serves.
        heard: told of every new reading, in the event loop; must not block.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], T],
        *,
        fresh: float,
        executor: Executor,
        heard: Callable[[Reading[T]], None] | None = None,
    ) -> None:
        self.name = name
        self.latest: Reading[T] | None = None
        self._look = look
        self._fresh = fresh
        self._executor = executor
        self._heard = heard
        self._under_way: asyncio.Task[Reading[T]] | None = None
        self._until = float("-inf")

    async def read(self) -> Reading[T]:
        """A fresh reading: the latest one, or that of the look under way, which is begun if there is none.

        Whoever asks may be cancelled; the look goes on for the others.
        """
        if self.latest is not None and time.monotonic() < self._until:
            return self.latest
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._look_once())
        return await asyncio.shield(self._under_way)

    async def soon(self, timeout: float) -> Reading[T] | None:
        """As `read`, but after `timeout` seconds the latest reading, however old; None when there is none."""
        try:
            return await asyncio.wait_for(self.read(), timeout)
        except TimeoutError:
            return self.latest

    async def keep(self, every: float) -> None:
        """Looks again and again, with `every` seconds between the looks, until it is cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(every)

    async def _look_once(self) -> Reading[T]:
        try:
            reading = await asyncio.get_running_loop().run_in_executor(self._executor, self._reading)
            self.latest, self._until = reading, time.monotonic() + self._fresh
            if self._heard is not None:
                self._heard(reading)
            return reading
        finally:
            self._under_way = None

    def _reading(self) -> Reading[T]:
        began = time.monotonic()

        def reading(value: T | None, *why: str) -> Reading[T]:
            return Reading(value, datetime.now(UTC), time.monotonic() - began, *why)

        try:
            return reading(self._look())
        except MultidbError as failed:
            return reading(None, failed.code, redact(str(failed)), redact(failed.hint or ""))
        except Exception as fault:  # whatever it is, those who asked get an answer, and no traceback
            if os.environ.get("MULTIDB_DEBUG"):
                traceback.print_exc()
            hint = "please report it; MULTIDB_DEBUG=1 shows the traceback on stderr"
            return reading(None, "internal", f"a fault of multidb itself ({type(fault).__name__})", hint)
