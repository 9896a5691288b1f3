"""Every app's every store, tried as the app would: all at once, and the worst of it for each app and over all.

A check is made with the app's own credentials. What one check learns of a server that answers nobody holds for the
apps whose turn has not come yet, so that a server that hangs costs one timeout and not one for each app.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from multidb.closure import closures
from multidb.credentials import issued_at
from multidb.errors import MultidbError, RuntimeUnavailable, ServerDown, ServerError, ServerSlow
from multidb.fleet import Answer, Fleet, Scope
from multidb.model import (
    App,
    Health,
    Server,
    Status,
    StoreContext,
    Tenant,
    duration_text,
    time_in_words,
    worst,
)
from multidb.provisioners import provisioner
from multidb.secrets import redact

if TYPE_CHECKING:  # with a parser of XML, for one form of the report
    from multidb.junit import Case

__all__ = ["Checked", "Freshness", "HealthReport", "check", "health_junit"]

Freshness = Callable[[App], Health | None]
"""What is to be said of an app's backups; None: nothing."""

_AT_ONE_SERVER = 16
_ENOUGH_TIMEOUTS = 2  # checks that nobody has answered, before others are not made
_UNREACHABLE = (ServerDown, ServerSlow, RuntimeUnavailable)


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check found.

    Args:
        server: the server's name.
        reached: whether the server answered; None where it was not asked, as nothing was made there for the app yet.
        issued: when the credential was made that was tried; None: before that was recorded.
        overdue: whether the place is well, but for a credential that is older than the manifest says.
    """

    app: str
    store: str
    server: str
    health: Health
    reached: bool | None = True
    issued: datetime | None = None
    overdue: bool = False

    def document(self) -> dict[str, Any]:
        """Plain JSON values; `latency_ms` is null when nothing was answered."""
        latency = self.health.latency
        return {
            **_words(self.health),
            "latency_ms": None if latency is None else round(latency * 1000, 1),
            "server": self.server,
            "reached": self.reached,
        }


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How well a project's apps are.

    Args:
        checks: one for each app and store, in the order of the manifest.
        backups: by app, what is to be said of its backups.
        checked_at: when the checks began, in UTC; `seconds`: how long they took in all.
    """

    project: str
    checks: tuple[Checked, ...]
    backups: Mapping[str, Health] = field(default_factory=dict)
    checked_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0

    @property
    def apps(self) -> tuple[str, ...]:
        """The apps that were checked."""
        return tuple(dict.fromkeys(check.app for check in self.checks))

    @property
    def status(self) -> Status:
        """The worst of all; healthy when there is nothing to check."""
        return worst(self.status_of(app) for app in self.apps)

    def status_of(self, app: str) -> Status:
        """The worst of the app's stores and backups."""
        statuses = [check.health.status for check in self.checks if check.app == app]
        return worst([*statuses, self.backups[app].status] if app in self.backups else statuses)

    @property
    def unreachable(self) -> bool:
        """Whether no server that was asked has answered; then nothing is known of any app."""
        return {check.reached for check in self.checks} - {None} == {False}

    @property
    def exit_code(self) -> int:
        """0 healthy; 4 when no server that was asked has answered; else 1."""
        if self.status is Status.HEALTHY:
            return 0
        return 4 if self.unreachable else 1

    def only(self, app: str) -> HealthReport:
        """The part of the report that is about one app."""
        backups = {name: health for name, health in self.backups.items() if name == app}
        checks = tuple(check for check in self.checks if check.app == app)
        return HealthReport(self.project, checks, backups, self.checked_at, self.seconds)

    def document(self) -> dict[str, Any]:
        """The report as plain JSON values, as `multidb health --json` and ``/health/databases`` give it."""
        return {
            "status": self.status.value,
            "project": self.project,
            "checked_at": self.checked_at.isoformat(timespec="milliseconds"),
            "seconds": round(self.seconds, 3),
            "apps": {app: self._app_document(app) for app in self.apps},
        }

    def _app_document(self, app: str) -> dict[str, Any]:
        stores = {check.store: check.document() for check in self.checks if check.app == app}
        backup = {"backup": _words(self.backups[app])} if app in self.backups else {}
        return {"status": self.status_of(app).value, "stores": stores, **backup}


def health_junit(report: HealthReport) -> str:
    """A suite for each app, with a case for each of its stores and one for its backups, as JUnit's XML."""
    from multidb.junit import Suite, junit

    suites = []
    for app in report.apps:
        group = f"multidb.health.{app}"
        cases = [
            _case(group, check.store, check.health, asked=bool(check.reached))
            for check in report.checks
            if check.app == app
        ]
        if app in report.backups:
            cases.append(_case(group, "backup", report.backups[app], asked=True))
        suites.append(Suite(app, report.checked_at, cases))
    return junit(f"multidb health of {report.project}", suites)


def _case(group: str, name: str, health: Health, *, asked: bool) -> Case:
    from multidb.junit import Case, CaseOutcome

    outcome = None if health.status is Status.HEALTHY else CaseOutcome.FAILURE if asked else CaseOutcome.ERROR
    message = f"{health.status.value}: {health.message}" if outcome is not None else ""
    return Case(group, name, outcome, message, health.fix, health.latency)


def check(
    fleet: Fleet,
    scope: Scope | None = None,
    *,
    may_write: bool = True,
    freshness: Freshness | None = None,
) -> HealthReport:
    """Tries every store of every app in scope. Leaves nothing behind on the servers.

    Args:
        may_write: also write something, read it back and remove it; else only look.
        freshness: asked of each app, for what is to be said of its backups.

    Raises:
        UsageError: an app of the scope is not in the manifest.
    """
    scope = scope or Scope()
    fleet.require(scope)
    began, started = datetime.now(UTC), time.monotonic()
    places = [(app.id, store) for app in fleet.project.apps.values() for store in app.stores]
    order = {place: number for number, place in enumerate(places)}
    in_order = sorted(_Checks(fleet, scope, may_write).checks(), key=lambda check: order[check.app, check.store])
    backups: dict[str, Health] = {}
    if freshness is not None:
        for app in filter(scope.wants, fleet.project.apps.values()):
            if (fresh := freshness(app)) is not None:
                backups[app.id] = fresh
    return HealthReport(fleet.project.name, tuple(in_order), backups, began, time.monotonic() - started)


class _Checks:
    """One round of checks, and what it has learned of the servers so far."""

    def __init__(self, fleet: Fleet, scope: Scope, may_write: bool) -> None:
        self._fleet = fleet
        self._scope = scope
        self._may_write = may_write
        self._guard = threading.Lock()
        self._answered: dict[str, float] = {}  # by server: when it last answered a check
        self._unanswered: dict[str, int] = {}  # by server: how many checks nobody answered, since then
        self._silent: dict[str, ServerError] = {}  # by server: why no further check is worth its timeout
        self._closed = closures(fleet.state)

    def checks(self) -> list[Checked]:
        """A check of every app on every server that it uses."""
        checks: list[Checked] = []
        tenants: list[Sequence[Tenant]] = []
        for answer in self._fleet.on_servers(self._scope, self._context):
            if answer.server is None or answer.value is None:
                checks += [Checked(app, answer.store, answer.name, _not_asked(answer), False) for app in answer.app_ids]
                continue
            there, never_made = self._fleet.tenants_of(answer.server, answer.value, self._scope)
            checks += [_failed(app, answer.server, error, reached=None) for app, error in never_made.items()]
            tenants.append(there)
        return checks + _at_once(self._check, tenants)

    def _context(self, server: Server) -> StoreContext:
        """What the server's store is told. A session of the admin's that gets no answer may be the only one that
        stands still: what the records know has to do then, and the apps' own checks say how the apps are."""
        try:
            return self._fleet.recorded_context(server)
        except ServerSlow:
            with self._guard:
                self._unanswered[server.name] = 1
            return self._fleet.known_context(server)

    def _check(self, tenant: Tenant) -> Checked:
        app, server = tenant.app.id, tenant.server
        if (closure := self._closed.get(app)) is not None:
            health = Health(Status.UNHEALTHY, closure.why, fix=closure.way_on)
            return Checked(app, server.store, server.name, health, reached=None)
        with self._guard:
            silent = self._silent.get(server.name)
        if silent is not None:
            return _failed(app, server, silent)
        began = time.monotonic()
        try:
            health = _ask(tenant, self._may_write)
        except _UNREACHABLE as error:
            self._note_timeout(server, error, began)
            return _failed(app, server, error)
        except MultidbError as error:
            return _failed(app, server, error, reached=True)
        except Exception as error:  # a fault in one store's check must not hide what the others found
            message = redact(f"the check itself failed ({type(error).__name__}: {error})")
            return Checked(app, server.store, server.name, Health(Status.UNHEALTHY, message), reached=True)
        with self._guard:
            self._answered[server.name] = time.monotonic()
            self._unanswered.pop(server.name, None)
        issued = issued_at(self._fleet.state, app, server.store)
        checked = Checked(app, server.store, server.name, health, issued=issued)
        return _unless_too_old(checked, tenant, self._fleet.project.oldest(tenant.app))

    def _note_timeout(self, server: Server, error: ServerError, began: float) -> None:
        """The verdict holds for the whole server only when nobody was answered while this check waited."""
        with self._guard:
            if self._answered.get(server.name, -1.0) >= began:
                return
            self._unanswered[server.name] = self._unanswered.get(server.name, 0) + 1
            if self._unanswered[server.name] >= _ENOUGH_TIMEOUTS:
                self._silent.setdefault(server.name, error)


def _unless_too_old(checked: Checked, tenant: Tenant, oldest: timedelta | None) -> Checked:
    """What a check found, with what there is to say of the age of the credential that was tried."""
    if checked.health.status is not Status.HEALTHY or checked.issued is None or oldest is None:
        return checked
    age, facts = datetime.now(UTC) - checked.issued, tenant.context.facts
    if age < oldest or (facts is not None and provisioner(checked.store).rotates(tenant.app, facts)):
        return checked
    message = f"its credentials are {time_in_words(age)} old, and the manifest says {duration_text(oldest)}"
    fix = f"multidb rotate {checked.app}"
    return replace(
        checked, health=replace(checked.health, status=Status.DEGRADED, message=message, fix=fix), overdue=True
    )


def _ask(tenant: Tenant, may_write: bool) -> Health:
    store = provisioner(tenant.server.store)
    if store.check_health is None:
        return Health(Status.DEGRADED, f"{store.title} has no check; nothing was tried")
    return store.check_health(tenant, may_write)


def _at_once(work: Callable[[Any], Any], items: Iterable[Sequence[Any]]) -> list[Any]:
    """`work` done for each item of each server, in their order. No server is asked by more than a few at once: a storm
    of checks would take all of its connections, and a server that hangs holds up nobody else's. What has not begun is
    dropped on Ctrl-C.
    """
    pools: list[ThreadPoolExecutor] = []
    begun: list[Future[Any]] = []
    try:
        for of_server in filter(None, items):
            pool = ThreadPoolExecutor(min(len(of_server), _AT_ONE_SERVER), thread_name_prefix="health")
            pools.append(pool)
            begun += [pool.submit(work, item) for item in of_server]
        return [future.result() for future in begun]
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _failed(app: str, server: Server, error: MultidbError, reached: bool | None = False) -> Checked:
    health = Health(Status.UNHEALTHY, redact(error.message), fix=redact(error.hint or ""))
    return Checked(app, server.store, server.name, health, reached)


def _not_asked(answer: Answer[StoreContext]) -> Health:
    """Why nobody's store on the server could be tried."""
    if answer.error is None:
        return Health(Status.UNHEALTHY, f"the server cannot be had here: {answer.skipped}")
    subject = "" if answer.server is not None else f"server {answer.name} "
    return Health(Status.UNHEALTHY, subject + redact(answer.error.message), fix=redact(answer.error.hint or ""))


def _words(health: Health) -> dict[str, str | None]:
    return {"status": health.status.value, "message": health.message, "hint": health.fix or None}
