"""One ``up``: servers started side by side, each waited for until it answers a real login."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from multidb import files, ports, processes
from multidb.admin_credentials import alternate_password
from multidb.concurrency import side_by_side
from multidb.errors import (
    AuthenticationFailed,
    MultidbError,
    RuntimeUnavailable,
    ServerError,
    StartFailed,
    UsageError,
)
from multidb.model import FetchedKind, HostedServer, Progress, Server, ServerKind
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.exchange import settle
from multidb.runtime.hosted import (
    SKIPPED,
    absent,
    admin_ref,
    configured_port,
    last_words,
    lost,
    options_text,
    outdated,
    port_key,
    probed,
)
from multidb.runtime.ledger import Ledger, Process
from multidb.runtime.operation import clear_errors
from multidb.runtime.product import Products
from multidb.secrets import Secret, generate
from multidb.state import ProjectState

__all__ = ["Start"]

_FIRST_LOOK, _SLOWEST_LOOK = 0.05, 0.5  # seconds between two tries of a starting server
_TRIES = 3  # starts of a server whose port somebody else gets before it
_ENDING = 5.0  # seconds after which a process that cannot listen has ended


class Start:
    """One ``up``: brings servers up side by side, each in a thread of its own.

    Args:
        end: ends a server that runs, right before it is started anew; None: one that runs is left as it is.
    """

    def __init__(
        self,
        state: ProjectState,
        ledger: Ledger,
        progress: Progress,
        products: Products | None = None,
        end: Callable[[Process], object] | None = None,
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._progress = progress
        self._products = products or Products(state)
        self._end = end
        self._cancelled = threading.Event()
        self._turns: dict[str, threading.BoundedSemaphore] = {}

    def all(self, servers: Sequence[HostedServer]) -> list[ServerStatus]:
        """Starts them side by side; the status of each, in their order."""
        for hosted in servers:
            if hosted.kind is not None and hosted.store not in self._turns:
                self._turns[hosted.store] = threading.BoundedSemaphore(hosted.kind.at_once)
        return side_by_side(self._one, servers, cancelled=self._cancelled, finishing=True)

    def _one(self, hosted: HostedServer) -> ServerStatus:
        kind = hosted.kind
        if kind is None:
            if hosted.local:
                files.make_folder(hosted.folder)
                self._products.record(hosted.name, hosted.folder_product)
            state = ServerState.RUNNING if hosted.local else ServerState.SKIPPED
            return ServerStatus(hosted.name, hosted.store, state, hosted.local, hosted.note)
        try:
            with clear_errors():
                running = self._running(hosted, kind) if self._end is None else None
                if running is not None:
                    return running
                obstacle = self._products.obstacle(hosted) or self._unfetched(hosted, kind)
                if obstacle is not None:
                    return absent(hosted, obstacle)
                return self._started(hosted, kind)
        except RuntimeUnavailable as error:
            reason = error.sentence(where=False) if hosted.stand_in is None else error.message
            with self._state.change(SKIPPED) as section:
                section[hosted.name] = reason
            if hosted.stand_in is not None:
                return self._one(hosted.stand_in(reason))
            return absent(hosted, self._products.unavailable(hosted, reason))
        except MultidbError as error:
            return ServerStatus(hosted.name, hosted.store, ServerState.FAILED, None, error.sentence())

    def _unfetched(self, hosted: HostedServer, kind: ServerKind) -> MultidbError | None:
        """Why the program of a server that is to be started anew cannot be had, as far as is known before."""
        if self._end is not None and isinstance(kind, FetchedKind):
            try:
                kind.to_fetch(hosted)
            except RuntimeUnavailable as error:
                return self._products.unavailable(hosted, error.message)
        return None

    def _running(self, hosted: HostedServer, kind: ServerKind) -> ServerStatus | None:
        """The server that an earlier run started, once it answers; None when there is none alive."""
        recorded = self._ledger.read().get(hosted.name)
        if recorded is None or not recorded.alive():
            return None
        secret = self._state.secrets.get(admin_ref(hosted.name, hosted.store))
        if secret is None:
            raise lost(hosted, self._state.where_secrets_are)
        server = hosted.server(recorded.ports)
        version = self._answer(kind, server, secret, recorded.alive, hosted, anew=False)
        self._products.record(hosted.name, version)
        message = version + outdated(hosted, recorded)
        return ServerStatus(hosted.name, hosted.store, ServerState.RUNNING, server, message, recorded.pid)

    def _started(self, hosted: HostedServer, kind: ServerKind) -> ServerStatus:
        turn = self._turns[hosted.store]
        if not turn.acquire(blocking=False):
            self._progress(hosted.name, "waiting for its turn")
            turn.acquire()
        try:
            return self._start(hosted, kind)
        finally:
            turn.release()

    def _start(self, hosted: HostedServer, kind: ServerKind) -> ServerStatus:
        if self._cancelled.is_set():
            raise ServerError("interrupted before its start")
        secret = self._secret(hosted, kind)
        if self._end is not None and (process := self._ledger.read().get(hosted.name)) is not None:
            self._refuse_taken(hosted, kind, process.ports.values())
            self._end(process)
        for number in range(1, _TRIES + 1):
            numbers, moved = self._ports(hosted, kind)
            try:
                return self._start_on(hosted, kind, secret, numbers, moved)
            except (AuthenticationFailed, StartFailed):  # where somebody else listens, he answers
                if number == _TRIES or not self._overtaken(hosted, numbers):
                    raise
                self._progress(hosted.name, "somebody else was faster to take its port; starting on another")
        raise AssertionError("the last try returns or raises")

    def _overtaken(self, hosted: HostedServer, numbers: Mapping[str, int]) -> bool:
        """Whether the process has ended, and somebody else listens on a port that was free when it was chosen."""
        process, began = self._ledger.read().get(hosted.name), time.monotonic()
        while process is not None and process.alive():
            if time.monotonic() - began > _ENDING:
                return False
            time.sleep(_FIRST_LOOK)
        return any(ports.is_taken(port) for option, port in numbers.items() if configured_port(hosted, option) is None)

    def _start_on(
        self, hosted: HostedServer, kind: ServerKind, secret: Secret, numbers: Mapping[str, int], moved: str
    ) -> ServerStatus:
        """Starts it on these ports, and waits until it answers; `moved`: what to tell the user of them."""
        other = alternate_password(self._state, hosted.name, hosted.store)
        hosted = dataclasses.replace(hosted, ports=dict(numbers), other_admin=other)
        self._progress(hosted.name, "starting")
        settle(hosted.folder)
        launch = kind.prepare(hosted, secret, self._unless_cancelled)
        since = hosted.log.stat().st_size if hosted.log.exists() else 0
        pid, started = processes.start(launch, hosted.folder, hosted.log)
        process = Process(
            hosted.name,
            hosted.store,
            str(hosted.folder),
            pid,
            started,
            ports=dict(numbers),
            options=options_text(hosted.options),
        )
        self._ledger.record(process)
        if hosted.name in self._state.read(SKIPPED):
            with self._state.change(SKIPPED) as section:
                section.pop(hosted.name, None)
        server = hosted.server(numbers)
        version = self._answer(kind, server, secret, process.alive, hosted, since)
        self._progress(hosted.name, "running")  # else the last that is heard of it is that it starts
        self._products.record(hosted.name, version)
        return ServerStatus(hosted.name, hosted.store, ServerState.RUNNING, server, version + moved, pid)

    def _unless_cancelled(
        self, subject: str, message: str, done: float | None = None, total: float | None = None
    ) -> None:
        """The progress of work that may last, and that an interruption is not to wait for."""
        if self._cancelled.is_set():
            raise ServerError("interrupted; multidb up goes on from here")
        self._progress(subject, message, done, total)

    def _answer(
        self,
        kind: ServerKind,
        server: Server,
        secret: Secret,
        alive: Callable[[], bool],
        hosted: HostedServer,
        since: int = 0,
        anew: bool = True,
    ) -> str:
        """Waits until the server answers a real login. Its product and version.

        Args:
            anew: it was started just now, and clients that come back may be faster than the admin.

        Raises:
            ServerError: it has ended, does not answer in time, refuses the password, or says itself what keeps it from
                letting anybody work; with its last words.
        """
        began, pause, reported = time.monotonic(), _FIRST_LOOK, 0.0
        why: ServerError | None = None
        while (waited := time.monotonic() - began) < kind.start_timeout:
            living = alive()
            version, why = self._probed(kind, server, secret, anew) if living else (None, None)
            if version is not None:
                return version
            if not living:
                raise StartFailed(last_words("ended right after its start", hosted.log, since))
            if waited - reported >= 1:
                reported = waited
                self._progress(hosted.name, "starting", waited)
            if self._cancelled.wait(pause):
                raise ServerError("interrupted; multidb up goes on from here")
            pause = min(pause * 1.5, _SLOWEST_LOOK)
        if why is not None:
            raise why
        problem = f"does not answer on port {server.endpoint.port} after {kind.start_timeout:.0f} s"
        raise StartFailed(last_words(problem, hosted.log, since))

    def _probed(
        self, kind: ServerKind, server: Server, secret: Secret, anew: bool
    ) -> tuple[str | None, ServerError | None]:
        """Its product and version; None while it does not answer, with what it says of that."""
        try:
            return probed(kind, server, secret, self._state), None
        except AuthenticationFailed:
            raise
        except ServerError as error:
            if not anew:
                raise
            return None, error

    def _secret(self, hosted: HostedServer, kind: ServerKind) -> Secret:
        ref = admin_ref(hosted.name, hosted.store)
        secret = self._state.secrets.get(ref)
        if secret is None:
            if kind.initialised(hosted):
                raise lost(hosted, self._state.where_secrets_are)
            secret = generate()
            self._state.secrets.put({ref: secret})
        return secret

    def _refuse_taken(self, hosted: HostedServer, kind: ServerKind, own: Collection[int] = ()) -> None:
        """`UsageError` for a port of the manifest that somebody else has. `own`: those that the server itself has."""
        for option in kind.ports:
            configured = configured_port(hosted, option)
            if configured is not None and configured not in own and ports.is_taken(configured):
                raise UsageError(
                    f"port {configured} is taken by another process",
                    hint=f"stop that process, or set another servers.{hosted.store}.{option}",
                )

    def _ports(self, hosted: HostedServer, kind: ServerKind) -> tuple[dict[str, int], str]:
        """The ports to listen on, and what to tell the user about a change."""
        self._refuse_taken(hosted, kind)
        numbers: dict[str, int] = {}
        moved = ""
        with self._state.change("ports") as remembered:
            for option in kind.ports:
                configured, key = configured_port(hosted, option), port_key(hosted, option)
                if configured is not None:
                    numbers[option] = configured
                    continue
                number = remembered.get(key)
                if number is None or ports.is_taken(number):
                    before, number = number, ports.choose(set(remembered.values()), hosted.options.port_of(option))
                    remembered[key] = number
                    moved = moved if before is None else f"; port {before} was taken, now on {number}"
                numbers[option] = number
        return numbers, moved
