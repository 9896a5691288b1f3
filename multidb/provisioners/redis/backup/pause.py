"""A pause of what everybody writes on a server (``CLIENT PAUSE .. WRITE``), for as long as one lives who wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from redis.exceptions import RedisError

from multidb.provisioners.redis.driver.batch_connection import BatchConnection

__all__ = ["RENEWED", "SECONDS", "Pause"]

SECONDS: Final = 15.0  # that it lasts when we are gone
RENEWED: Final = 3.0


class Pause:
    """Begun when it is made, and renewed by a thread of its own. To be ended. Raises the driver's errors; a server that
    has no such thing, or does not let this login, refuses.

    Args:
        opened: makes a connection, logged in.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[BatchConnection]]) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._until = float("inf")
        self._unbroken = True
        self._closing = ExitStack()
        self._connection = self._closing.enter_context(opened())
        try:
            self._renew()
        except BaseException:
            self._closing.close()
            raise
        self._thread = threading.Thread(target=self._keep, name="redis-pause", daemon=True)
        self._thread.start()

    def is_unbroken(self) -> bool:
        """Whether nobody can have written since it was begun, as far as time tells; and it goes on for seconds."""
        if self._unbroken:
            self._renew()
        return self._unbroken

    def end(self) -> None:
        """Lets everybody write."""
        self._over.set()
        self._thread.join()
        with self._closing, self._lock:
            self._connection.ask("CLIENT", "UNPAUSE")

    def _renew(self) -> None:
        with self._lock:
            sent = time.monotonic()  # the pause begins later, so it ends later than is counted
            self._connection.ask("CLIENT", "PAUSE", round(SECONDS * 1000), "WRITE")
            self._unbroken = self._unbroken and time.monotonic() < self._until
            self._until = sent + SECONDS

    def _keep(self) -> None:
        while not self._over.wait(RENEWED):
            try:
                self._renew()
            except (RedisError, OSError):
                self._unbroken = False
                return
