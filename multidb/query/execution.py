"""The question put to all apps, side by side, and what comes of it as it comes.

Each server is asked by a few connections at a time. What they read goes through one queue of a few batches, so that
memory does not grow with the answers: who writes them sets the pace. What one app answers costs no other its answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from multidb.closure import closures
from multidb.concurrency import side_by_side
from multidb.errors import (
    Missing,
    MultidbError,
    NotAllowed,
    RuntimeUnavailable,
    ServerDown,
    ServerError,
    ServerSlow,
    UsageError,
)
from multidb.fleet import Fleet, Scope
from multidb.model import Batch, Column, Querying, Question, Server, Tenant
from multidb.provisioners import known_stores, provisioner
from multidb.query.values import distinct
from multidb.secrets import redact

__all__ = [
    "AppColumns",
    "AppResult",
    "AppRows",
    "AppStatus",
    "Event",
    "QueryExecution",
    "QueryRequest",
    "exit_code",
    "querying_of",
]

_BATCHES: Final = 8  # that wait to be written
_GLANCE: Final = 0.2  # seconds between two looks whether somebody still waits
_UNREACHABLE: Final = (ServerDown, ServerSlow, RuntimeUnavailable)


class AppStatus(StrEnum):
    """What came of asking one app."""

    ANSWERED = "answered"
    MISSING = "missing"  # it has no such table, schema or collection
    FAILED = "failed"
    INCOMPLETE = "incomplete"  # some rows came, and then something failed
    SKIPPED = "skipped"  # this machine can't have its server


@dataclass(frozen=True, slots=True)
class AppColumns:
    """The columns of one app's answer, before its rows; no two are called the same."""

    app: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class AppRows:
    """Some rows of one app's answer."""

    app: str
    rows: Batch


@dataclass(frozen=True, slots=True)
class AppResult:
    """What came of asking one app; the last that is heard of it.

    Args:
        rows: how many were taken.
        limited: there are more, which nobody asked for.
        seconds: from the first word to the last.
        error: why it has not answered, or not to the end; of one that is missing, what it does not have.
        skipped: why its server was not asked.
    """

    app: str
    server: str
    status: AppStatus
    rows: int = 0
    limited: bool = False
    seconds: float = 0.0
    error: MultidbError | None = None
    skipped: str = ""


Event: TypeAlias = AppColumns | AppRows | AppResult


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """What is asked, and of whom.

    Args:
        limit: rows that are taken of each app; None: all.
        at_once: connections to each server.
    """

    store: str
    question: Question
    apps: tuple[str, ...]
    limit: int | None = None
    at_once: int = 4

    @property
    def scope(self) -> Scope:
        """The apps, on the store alone."""
        return Scope(frozenset(self.apps), frozenset({self.store}))


def querying_of(store: str) -> Querying:
    """How the store is asked. `UsageError` where it can't be."""
    querying = provisioner(store).querying
    if querying is None:
        able = ", ".join(name for name in known_stores() if provisioner(name).querying is not None)
        raise UsageError(f"{store} can't be asked questions", hint=f"stores that can: {able}")
    return querying


def exit_code(results: Sequence[AppResult]) -> int:
    """0: at least one app has answered, and of the others each has nothing of the kind. 4: no server that was asked has
    answered at all. Else 1."""
    statuses = {result.status for result in results}
    if AppStatus.ANSWERED in statuses and statuses <= {AppStatus.ANSWERED, AppStatus.MISSING, AppStatus.SKIPPED}:
        return 0
    asked = [result for result in results if result.status is not AppStatus.SKIPPED]
    unreachable = [result for result in asked if not result.rows and isinstance(result.error, _UNREACHABLE)]
    return 4 if asked and len(unreachable) == len(asked) else 1


class QueryExecution:
    """One question to many apps.

    Args:
        fleet: the project's servers.
    """

    def __init__(self, fleet: Fleet, request: QueryRequest) -> None:
        self._fleet = fleet
        self._request = request
        self._querying = querying_of(request.store)
        self._closed = closures(fleet.state)
        self._events: queue.Queue[Event | None] = queue.Queue(_BATCHES)
        self._failure: list[BaseException] = []
        self._left: set[str] = set()

    def events(self) -> Iterator[Event]:
        """What comes of it, as it comes: of each app its columns, its rows and its result, in this order; of one that
        has not answered the result alone. The apps' are mixed. A caller that leaves early ends what is under way."""
        asker = threading.Thread(target=self._ask_all, name="asking")
        asker.start()
        try:
            while (event := self._events.get()) is not None:
                yield event
        finally:
            self._request.question.cancelled.set()
            asker.join()
        if self._failure:
            raise self._failure[0]

    def leave(self, app: str) -> None:
        """No more rows of the app are wanted."""
        self._left.add(app)

    def columns(self) -> dict[str, tuple[Column, ...] | AppResult]:
        """By app the columns that its answer will have, without asking for its rows; or what came of that instead.
        Nothing where the store can't tell."""
        described: dict[str, tuple[Column, ...] | AppResult] = {}
        describe = self._querying.columns
        if describe is None:
            return described

        def described_by(tenant: Tenant) -> None:
            began = time.monotonic()
            try:
                described[tenant.app.id] = distinct(describe(tenant, self._request.question))
            except Exception as failure:
                status = AppStatus.MISSING if isinstance(failure, Missing) else AppStatus.FAILED
                error, seconds = _explained(failure, tenant), time.monotonic() - began
                described[tenant.app.id] = AppResult(
                    tenant.app.id, tenant.server.name, status, seconds=seconds, error=error
                )

        self._visit(described_by, lambda result: described.update({result.app: result}))
        return described

    def _ask_all(self) -> None:
        try:
            self._visit(self._ask, self._put)
        except BaseException as error:  # told to whoever waits for the events
            self._failure.append(error)
        finally:
            self._put(None)

    def _visit(self, ask: Callable[[Tenant], None], tell: Callable[[AppResult], None]) -> None:
        """Has every app asked, a few on each server at a time; tells what came of those that can't be."""

        def on_server(server: Server) -> None:
            context = self._fleet.recorded_context(server)
            tenants, never_made = self._fleet.tenants_of(server, context, self._request.scope)
            for app, error in never_made.items():
                tell(AppResult(app, server.name, AppStatus.FAILED, error=error))
            for tenant in tenants:
                if (closure := self._closed.get(tenant.app.id)) is not None:
                    closed = NotAllowed(closure.why, where=f"app {tenant.app.id}", hint=closure.way_on)
                    tell(AppResult(tenant.app.id, server.name, AppStatus.FAILED, error=closed))
            open_ones = [tenant for tenant in tenants if tenant.app.id not in self._closed]
            side_by_side(ask, open_ones, at_once=self._request.at_once)

        for answer in self._fleet.on_servers(self._request.scope, on_server):
            if answer.error is not None or answer.skipped:
                status = AppStatus.SKIPPED if answer.skipped else AppStatus.FAILED
                for app in answer.app_ids:
                    tell(AppResult(app, answer.name, status, error=answer.error, skipped=answer.skipped))

    def _ask(self, tenant: Tenant) -> None:
        began, taken = time.monotonic(), _Taken(self._request.limit)
        status = AppStatus.ANSWERED
        error: MultidbError | None = None
        try:
            self._take(tenant, taken)
        except Missing as missing:
            status, error = AppStatus.MISSING, missing
        except Exception as failure:
            status, error = AppStatus.INCOMPLETE if taken.rows else AppStatus.FAILED, _explained(failure, tenant)
        seconds = time.monotonic() - began
        self._put(AppResult(tenant.app.id, tenant.server.name, status, taken.rows, taken.limited, seconds, error))

    def _take(self, tenant: Tenant, taken: _Taken) -> None:
        """Has the app's rows written, as many as are wanted."""
        app, question = tenant.app.id, self._request.question
        with ExitStack() as stack:
            if self._querying.reader is not None:
                admin = self._fleet.runtime.admin(tenant.server)
                tenant = stack.enter_context(self._querying.reader(tenant, question, admin))
            answer = stack.enter_context(self._querying.answer(tenant, question))
            self._put(AppColumns(app, distinct(answer.columns)))
            for batch in answer.batches:
                if kept := taken.of(batch):
                    self._put(AppRows(app, kept))
                if taken.limited or app in self._left:
                    return

    def _put(self, event: Event | None) -> None:
        """Waits for room; nothing once nobody reads any more."""
        while not self._request.question.cancelled.is_set():
            try:
                self._events.put(event, timeout=_GLANCE)
            except queue.Full:
                continue
            return


class _Taken:
    """How many rows of an app were taken, and whether that is the limit with more behind it."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.rows = 0
        self.limited = False

    def of(self, batch: Batch) -> Batch:
        """The rows of the batch that are still wanted."""
        kept = batch if self._limit is None else batch[: self._limit - self.rows]
        self.limited = len(kept) < len(batch)
        self.rows += len(kept)
        return kept


def _explained(failure: Exception, tenant: Tenant) -> MultidbError:
    """A fault in one store's answer must not hide what other apps have answered."""
    if isinstance(failure, MultidbError):
        return failure
    return ServerError(redact(f"asking itself failed ({type(failure).__name__}: {failure})"), where=str(tenant.server))
