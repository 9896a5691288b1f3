"""Apps at work, as clients of their stores, while somebody rotates their credentials."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:  # a case has load clients
    from tests.support.case import Tenant

TIMEOUT = 60.0
"""The seconds that clients may take for a few requests beside whatever else the machine does."""


PAUSE = 0.01
"""The seconds between two requests of a worker."""


@dataclass
class Load:
    """What a client does, and what became of it.

    Args:
        read: reads the app's variables from where they are written.
        rereads: whether the client looks again whether they are others now; False: the one that has to fail.

    Attributes:
        requests: how many were answered.
        failures: what went wrong; a client stops at its first.
    """

    read: Callable[[], Tenant]
    rereads: bool = True
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _known: Tenant | None = None

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def end(self) -> None:
        self._over.set()

    def variables(self) -> Tenant:
        """As they are when the client starts."""
        self._known = self.read()
        return self._known

    def other_variables(self) -> Tenant | None:
        """Those that the file has now, where they are others than the client knows."""
        if not self.rereads:
            return None
        now = self.read()
        if now == self._known:
            return None
        self._known = now
        return now

    def answered(self) -> None:
        self.requests += 1

    def run(self, work: Callable[[Load], None]) -> None:
        """The client, until `end` or its first failure."""
        try:
            work(self)
        except BaseException as failure:
            self.failures.append(f"{type(failure).__name__}: {failure}")
            self._over.set()

    def repeat(self, request: Callable[[], object], workers: int, reload: Callable[[Tenant], None]) -> None:
        """`request` by so many threads again and again; `reload` whenever there are other variables."""

        def worker(load: Load) -> None:
            while not load.over:
                request()
                load.answered()
                self._over.wait(PAUSE)

        threads = [threading.Thread(target=self.run, args=(worker,)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            while not self._over.wait(0.02):
                if (tenant := self.other_variables()) is not None:
                    reload(tenant)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


C = TypeVar("C")


class Exchanged(Generic[C]):
    """A client that is exchanged for another: new requests take the new one, and the former one is closed when the last
    request that took it is over."""

    def __init__(self, client: C, close: Callable[[C], object]) -> None:
        self._now, self._close = client, close
        self._lock, self._in_use = threading.Lock(), {client: 0}

    @contextmanager
    def use(self) -> Iterator[C]:
        with self._lock:
            client = self._now
            self._in_use[client] += 1
        try:
            yield client
        finally:
            with self._lock:
                self._in_use[client] -= 1
                self._close_unused()

    def exchange(self, client: C) -> None:
        with self._lock:
            self._now = client
            self._in_use[client] = 0
            self._close_unused()

    def _close_unused(self) -> None:
        for client in [client for client, users in self._in_use.items() if not users and client is not self._now]:
            del self._in_use[client]
            self._close(client)


async def repeat_awaiting(
    load: Load,
    opened: Callable[[Tenant], C],
    request: Callable[[C], Awaitable[object]],
    close: Callable[[C], Awaitable[object]],
) -> None:
    """A request after the other, three side by side, by a client with the variables of now; a former one is closed when
    the last request that took it is over."""
    now = opened(load.variables())
    in_use = {now: 0}  # by client, its requests

    async def work() -> None:
        while not load.over:
            client = now
            in_use[client] += 1
            await request(client)
            in_use[client] -= 1
            load.answered()
            await asyncio.sleep(PAUSE)

    async def watch() -> None:
        nonlocal now
        while not load.over:
            if (other := load.other_variables()) is not None:
                now = opened(other)
                in_use[now] = 0
            for client in [client for client, users in in_use.items() if not users and client is not now]:
                del in_use[client]
                await close(client)
            await asyncio.sleep(0.02)

    try:
        async with asyncio.TaskGroup() as group:
            for task in (work(), work(), work(), watch()):
                group.create_task(task)
    finally:
        for client in in_use:
            await close(client)


LoadClient = Callable[[Load], None]
"""Works until its load is over, and raises at the first request that fails or is lost."""


@contextmanager
def at_work(
    clients: Mapping[str, LoadClient], read: Callable[[], Tenant], *, rereads: bool = True
) -> Iterator[dict[str, Load]]:
    """All of these side by side, each having had an answer; by name, how each fares."""
    loads = {name: Load(read, rereads) for name in clients}
    threads = [threading.Thread(target=loads[name].run, args=(client,), name=name) for name, client in clients.items()]
    for thread in threads:
        thread.start()
    try:
        go_on(loads)
        yield loads
    finally:
        for load in loads.values():
            load.end()
        for thread in threads:
            thread.join(TIMEOUT)
        assert not [thread.name for thread in threads if thread.is_alive()]


def go_on(loads: Mapping[str, Load], requests: int = 5) -> None:
    """Waits until each has had so many more answers, or has failed."""
    aims = {name: load.requests + requests for name, load in loads.items()}
    deadline = time.monotonic() + TIMEOUT
    while any(load.requests < aims[name] and not load.failures for name, load in loads.items()):
        slow = {name: load.requests for name, load in loads.items()}
        assert time.monotonic() < deadline, f"they stand still: {slow} of {aims}"
        time.sleep(0.01)


def failures(loads: Mapping[str, Load]) -> dict[str, list[str]]:
    return {name: load.failures for name, load in loads.items() if load.failures}
