"""One ``up``: servers started side by side, each waited for until it answers a real login."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from multidb import ports, processes
from multidb.concurrency import side_by_side
from multidb.errors import MultidbError, RuntimeUnavailable, ServerError, StartFailed, UsageError
from multidb.model import Progress, Seat, Server, ServerKind, Site
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.exchange import settle
from multidb.runtime.ledger import Ledger, Process
from multidb.runtime.product import Products
from multidb.runtime.seats import (
    SKIPPED,
    absent,
    admin_ref,
    configured_port,
    last_words,
    lost,
    outdated,
    port_key,
)
from multidb.runtime.together import clear_errors
from multidb.secrets import Secret, generate
from multidb.state import ProjectState

__all__ = ["Start"]

_FIRST_LOOK, _SLOWEST_LOOK = 0.05, 0.5  # seconds between two tries of a starting server


class Start:
    """One ``up``: brings servers up side by side, each in a thread of its own."""

    def __init__(
        self, state: ProjectState, ledger: Ledger, progress: Progress, products: Products | None = None
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._progress = progress
        self._products = products or Products(state)
        self._cancelled = threading.Event()
        self._turns: dict[str, threading.BoundedSemaphore] = {}

    def all(self, seats: Sequence[Seat]) -> list[ServerStatus]:
        """The outcome for each seat, in their order."""
        for seat in seats:
            if seat.kind is not None and seat.site.store not in self._turns:
                self._turns[seat.site.store] = threading.BoundedSemaphore(seat.kind.at_once)
        return side_by_side(self._one, seats, cancelled=self._cancelled, finishing=True)

    def _one(self, seat: Seat) -> ServerStatus:
        site, kind = seat.site, seat.kind
        if kind is None:
            if seat.local:
                site.folder.mkdir(parents=True, exist_ok=True)
                self._products.record(site.name, seat.folder_product)
            state = ServerState.RUNNING if seat.local else ServerState.SKIPPED
            return ServerStatus(site.name, site.store, state, seat.local, seat.note)
        try:
            with clear_errors():
                running = self._running(seat, kind)
                if running is not None:
                    return running
                obstacle = self._products.obstacle(seat)
                if obstacle is not None:
                    return absent(site, obstacle)
                return self._started(seat, kind)
        except RuntimeUnavailable as error:
            reason = error.sentence(where=False)
            with self._state.change(SKIPPED) as section:
                section[site.name] = reason
            return absent(site, self._products.unavailable(seat, reason))
        except MultidbError as error:
            return ServerStatus(site.name, site.store, ServerState.FAILED, None, error.sentence())

    def _running(self, seat: Seat, kind: ServerKind) -> ServerStatus | None:
        """The server that an earlier run started, once it answers; None when there is none alive."""
        site = seat.site
        recorded = self._ledger.read().get(site.name)
        if recorded is None or not recorded.alive():
            return None
        secret = self._state.secrets.get(admin_ref(site.name, site.store))
        if secret is None:
            raise lost(site)
        server = seat.server(recorded.ports)
        version = self._answer(kind, server, secret, recorded.alive, site)
        self._products.record(site.name, version)
        message = version + outdated(site, recorded)
        return ServerStatus(site.name, site.store, ServerState.RUNNING, server, message, recorded.pid)

    def _started(self, seat: Seat, kind: ServerKind) -> ServerStatus:
        turn = self._turns[seat.site.store]
        if not turn.acquire(blocking=False):
            self._progress(seat.site.name, "waiting for its turn")
            turn.acquire()
        try:
            return self._start(seat, kind)
        finally:
            turn.release()

    def _start(self, seat: Seat, kind: ServerKind) -> ServerStatus:
        if self._cancelled.is_set():
            raise ServerError("interrupted before its start")
        secret = self._secret(seat.site, kind)
        numbers, moved = self._ports(seat.site, kind)
        site = dataclasses.replace(seat.site, ports=numbers)
        self._progress(site.name, "starting")
        settle(site.folder)
        launch = kind.prepare(site, secret, self._progress)
        since = site.log.stat().st_size if site.log.exists() else 0
        pid, started = processes.start(launch, site.folder, site.log)
        process = Process(
            site.name, site.store, str(site.folder), pid, started, ports=numbers, options=repr(site.options)
        )
        self._ledger.record(process)
        if site.name in self._state.read(SKIPPED):
            with self._state.change(SKIPPED) as section:
                section.pop(site.name, None)
        server = seat.server(numbers)
        version = self._answer(kind, server, secret, process.alive, site, since)
        self._products.record(site.name, version)
        return ServerStatus(site.name, site.store, ServerState.RUNNING, server, version + moved, pid)

    def _answer(
        self, kind: ServerKind, server: Server, secret: Secret, alive: Callable[[], bool], site: Site, since: int = 0
    ) -> str:
        """Waits until the server answers a real login. Its product and version.

        Raises:
            ServerError: it has ended, does not answer in time, or refuses the password; with its last words.
        """
        began, pause, reported = time.monotonic(), _FIRST_LOOK, 0.0
        while (waited := time.monotonic() - began) < kind.start_timeout:
            living = alive()
            version = kind.probe(server, secret) if living else None
            if version is not None:
                return version
            if not living:
                raise StartFailed(last_words("ended right after its start", site.log, since))
            if waited - reported >= 1:
                reported = waited
                self._progress(site.name, "starting", waited)
            if self._cancelled.wait(pause):
                raise ServerError("interrupted; multidb up goes on from here")
            pause = min(pause * 1.5, _SLOWEST_LOOK)
        problem = f"does not answer on port {server.endpoint.port} after {kind.start_timeout:.0f} s"
        raise StartFailed(last_words(problem, site.log, since))

    def _secret(self, site: Site, kind: ServerKind) -> Secret:
        ref = admin_ref(site.name, site.store)
        secret = self._state.secrets.get(ref)
        if secret is None:
            if kind.initialised(site):
                raise lost(site)
            secret = generate()
            self._state.secrets.put({ref: secret})
        return secret

    def _ports(self, site: Site, kind: ServerKind) -> tuple[dict[str, int], str]:
        """The ports to listen on, and what to tell the user about a change."""
        numbers: dict[str, int] = {}
        moved = ""
        with self._state.change("ports") as remembered:
            for option in kind.ports:
                configured, key = configured_port(site, option), port_key(site, option)
                if configured is not None:
                    if ports.is_taken(configured):
                        raise UsageError(
                            f"port {configured} is taken by another process",
                            hint=f"stop that process, or set another servers.{site.store}.{option}",
                        )
                    numbers[option] = configured
                    continue
                number = remembered.get(key)
                if number is None or ports.is_taken(number):
                    before, number = number, ports.choose(set(remembered.values()), site.options.port_of(option))
                    remembered[key] = number
                    moved = moved if before is None else f"; port {before} was taken, now on {number}"
                numbers[option] = number
        return numbers, moved
