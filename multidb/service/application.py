"""The routes, and the looks behind them. Answers are made once for each reading and then sent as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Annotated, Any, Final, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from multidb import __version__
from multidb.errors import MultidbError
from multidb.health import HealthReport
from multidb.model import Health, Status
from multidb.secrets import Secret, redact
from multidb.service.clients import Clients
from multidb.service.collector import Collector, Reading
from multidb.service.documents import FailureDocument, HealthDocument, Live, OneAppHealth
from multidb.service.guard import Guard
from multidb.service.metrics import exposition
from multidb.service.overview import Overview, Records, RunsSeen, SetsSeen, overview
from multidb.service.page import app_page, audit_page, entity_tag, history_page, missing_page, page
from multidb.service.rate import ClientRate
from multidb.service.selection import Selection
from multidb.service.sources import Sources

__all__ = ["FRESH", "Intervals", "Service", "application"]

FRESH: Final = 10.0
"""Seconds for which a health check serves everybody who asks."""

_SCRAPE_TIMEOUT: Final = (
    5.0  # seconds that a scrape waits for a new check before it gets what is known; Prometheus waits 10
)
_NAME: Final = "The app's id; `beep-boop` means `beep_boop`."
_JSON: Final = "application/json"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between two looks of each kind; 0: never by itself. Health is also looked at when somebody asks."""

    health: float = 30.0
    usage: float = 60.0
    backups: float = 60.0
    drift: float = 300.0
    audit: float = 3600.0
    sets: float = 900.0
    history: float = 30.0


@dataclass
class _Made:
    """What was made of the readings, each kept until one of them is made anew."""

    readings: tuple[Any, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str, readings: tuple[Any, ...], make: Callable[[], _T]) -> _T:
        """The value of that name; made anew when a reading is another than before."""
        if len(readings) != len(self.readings) or any(a is not b for a, b in zip(readings, self.readings, strict=True)):
            self.readings, self.values = readings, {}
        if name not in self.values:
            self.values[name] = make()
        made: _T = self.values[name]
        return made


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The latest readings, what was recorded, and both brought together."""

    readings: Mapping[str, Reading[Any] | None]
    records: Records
    overview: Overview

    @property
    def parts(self) -> tuple[Any, ...]:
        """What it was made of."""
        return (*self.readings.values(), self.records)


class Service:
    """The looks of one project, kept up while the application runs.

    Args:
        heard: told of every new reading with the name of its collector; must not block.
        degraded: the HTTP status of an answer that says degraded.
    """

    def __init__(
        self,
        sources: Sources,
        executor: Executor,
        *,
        intervals: Intervals,
        fresh: float = FRESH,
        heard: Callable[[str, Reading[Any]], None] | None = None,
        degraded: int = 200,
    ) -> None:
        def collector(name: str, look: Callable[[], Any], fresh: float) -> Collector[Any]:
            tell = (lambda reading: heard(name, reading)) if heard is not None else None
            return Collector(name, look, fresh=fresh, executor=executor, heard=tell)

        self._sources = sources
        self._intervals = intervals
        self.codes = {Status.HEALTHY: 200, Status.DEGRADED: degraded, Status.UNHEALTHY: 503}
        self.health: Collector[HealthReport] = collector("health", sources.health, fresh)
        self._others = {
            "usage": collector("usage", sources.usage, 0),
            "backups": collector("backups", sources.backups, 0),
            "drift": collector("drift", sources.drift, 0),
            "audit": collector("audit", sources.audit, 0),
            "sets": collector("sets", sources.sets, 0),
            "history": collector("history", sources.history, 0),
        }
        self._joined: tuple[Reading[HealthReport], Mapping[str, Health], Reading[HealthReport]] | None = None
        self._records = Records()
        self._health_made = _Made()
        self._overview_made = _Made()
        self._known_made = _Made()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """In the block the looks are made again and again."""
        everything = {"health": self.health, **self._others}
        tasks = [
            asyncio.create_task(collector.keep(every))
            for name, collector in everything.items()
            if (every := getattr(self._intervals, name)) > 0
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def health_answer(self, app: str | None) -> Response:
        """The answer about one app, or about all."""
        reading = self._with_backups(await self.health.read())
        if reading.value is None:
            return _failure(500, reading.code, reading.error, reading.hint)
        report, app = reading.value, app and app.replace("-", "_")
        if app is None:
            return self._health_made.value("", (reading,), lambda: _health_answer(report, self.codes))
        if app not in report.apps:  # not kept: there is no end to names
            return _failure(404, "usage", "there is no such app", f"apps: {', '.join(report.apps) or 'none'}")
        return self._health_made.value(app, (reading,), lambda: _health_answer(report.only(app), self.codes))

    async def metrics_answer(self) -> Response:
        """The readings as Prometheus wants them."""
        known = await self._known()

        def make() -> Response:
            readings = {name: reading for name, reading in known.readings.items() if reading is not None}
            return Response(exposition(known.overview, readings), media_type=CONTENT_TYPE_PLAIN_0_0_4)

        return self._known_made.value("metrics", known.parts, make)

    async def page_answer(self, selection: Selection, seen: str | None) -> Response:
        """The overview as a person wants it.

        Args:
            seen: the tags of what the browser shows already; it is asked again and again then, and begins no check.
        """
        known = await self._known(again=seen is not None)

        def make() -> Response:
            return _page(page(known.overview, known.readings, selection))

        if selection == Selection():
            return _unless_seen(self._known_made.value("page", known.parts, make), seen)
        return _unless_seen(make(), seen)  # not kept: there is no end to what may be searched for

    async def app_answer(self, app: str, seen: str | None) -> Response:
        """The page of one app; `seen` as of `page_answer`."""
        known = await self._known(again=seen is not None)
        row = known.overview.row(app.replace("-", "_"))
        if row is None:
            return HTMLResponse(missing_page(known.overview, known.readings), 404)

        def make() -> Response:
            return _page(app_page(known.overview, row, known.readings))

        return _unless_seen(self._known_made.value(f"apps/{row.app}", known.parts, make), seen)

    async def audit_answer(self, seen: str | None) -> Response:
        """The last audit as a matrix; `seen` as of `page_answer`."""
        known = await self._known(again=seen is not None)

        def make() -> Response:
            return _page(audit_page(known.overview, known.readings))

        return _unless_seen(self._known_made.value("audit", known.parts, make), seen)

    async def history_answer(self, seen: str | None) -> Response:
        """What was done in the project; `seen` as of `page_answer`."""
        known = await self._known(again=seen is not None)

        def make() -> Response:
            return _page(history_page(known.overview, known.readings))

        return _unless_seen(self._known_made.value("history", known.parts, make), seen)

    async def _known(self, *, again: bool = False) -> _Snapshot:
        """What is known now.

        Args:
            again: somebody looks at it already: where checks are made by themselves, none is begun for that.
        """
        others = {name: collector.latest for name, collector in self._others.items()}
        if again and self.health.latest is not None and self._intervals.health > 0:
            health: Reading[HealthReport] | None = self.health.latest
        else:
            health = await self.health.soon(_SCRAPE_TIMEOUT)
        readings = {"health": health and self._with_backups(health), **others}
        records = self._recorded(others["sets"], others["history"])
        parts = (*readings.values(), records)
        return _Snapshot(
            readings, records, self._overview_made.value("", parts, lambda: self._overview(readings, records))
        )

    def _recorded(self, sets: Reading[SetsSeen] | None, history: Reading[RunsSeen] | None) -> Records:
        """What is recorded now; the same value as long as it says the same."""
        try:
            records = replace(
                self._sources.records(),
                sets=sets.value if sets is not None else None,
                history=history.value if history is not None else None,
            )
        except MultidbError:  # the next look says so
            return self._records
        if records != self._records:
            self._records = records
        return self._records

    def _with_backups(self, reading: Reading[HealthReport]) -> Reading[HealthReport]:
        """The reading with what is to be said of backups now: a set that was made since must not be called missing. The
        same reading as before as long as nothing has changed."""
        if reading.value is None:
            return reading
        try:
            backups = self._sources.freshness()
        except MultidbError:  # the next check says so
            return reading
        if self._joined is None or self._joined[0] is not reading or self._joined[1] is not backups:
            checked = {app: health for app, health in backups.items() if app in reading.value.apps}
            self._joined = (reading, backups, replace(reading, value=replace(reading.value, backups=checked)))
        return self._joined[2]

    def _overview(self, readings: Mapping[str, Reading[Any] | None], records: Records) -> Overview:
        values = {name: reading.value if reading is not None else None for name, reading in readings.items()}
        usage = values["usage"]
        return overview(
            self._sources.project,
            health=values["health"],
            plan=values["drift"],
            audit=values["audit"],
            usage=usage.report if usage else None,
            looks=usage.looks if usage else (),
            backups=values["backups"],
            records=records,
        )


def application(
    service: Service,
    *,
    token: Secret | None,
    loopback_only: bool,
    rate: ClientRate | None = None,
    clients: Clients | None = None,
) -> Guard:
    """The whole ASGI application, guarded; see `Guard`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="multidb serve",
        version=__version__,
        description="How the apps of one multidb project are: their health, their isolation, their use of the shared "
        "servers. Read only; no answer has a secret in it.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={404: _not_found},
        lifespan=lifespan,
    )
    _add_health(app, service)
    _add_metrics(app, service)
    _add_pages(app, service)
    return Guard(app, token, loopback_only=loopback_only, rate=rate, clients=clients)


def _add_health(app: FastAPI, service: Service) -> None:
    def described(whose: str, code: int) -> str:
        words = [str(status) for status, answered in service.codes.items() if answered == code]
        return f"{whose} is {' or '.join(words)}."

    @app.get(
        "/health/databases",
        summary="Every app",
        responses={
            200: {"model": HealthDocument, "description": described("Every app", 200)},
            503: {"model": HealthDocument, "description": described("An app", 503)},
            500: {"model": FailureDocument, "description": "The check itself failed: nothing is known."},
        },
    )
    async def databases() -> Response:
        """Tries every app's every store with the app's own credentials. One check serves everybody for ten seconds."""
        return await service.health_answer(None)

    @app.get(
        "/health/databases/{app}",
        summary="One app",
        responses={
            200: {"model": OneAppHealth, "description": described("The app", 200)},
            503: {"model": OneAppHealth, "description": described("The app", 503)},
            404: {"model": FailureDocument, "description": "There is no such app."},
            500: {"model": FailureDocument, "description": "The check itself failed: nothing is known."},
        },
    )
    async def one_app(app: str = Path(description=_NAME, examples=["lernmi"])) -> Response:
        """The same check, the part about one app."""
        return await service.health_answer(app)

    @app.get("/health/live", summary="The service itself", responses={200: {"model": Live}})
    async def live() -> Response:
        """Answers as long as the service runs, whatever the databases do. Needs no token."""
        return Response(b'{"status": "alive"}', media_type=_JSON)


def _add_metrics(app: FastAPI, service: Service) -> None:
    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=PlainTextResponse,
        responses={200: {"content": {CONTENT_TYPE_PLAIN_0_0_4: {}}, "description": "What is known, as metrics."}},
    )
    async def metrics() -> Response:
        """Waits at most five seconds for a check under way; then it gives what was known before."""
        return await service.metrics_answer()


def _add_pages(app: FastAPI, service: Service) -> None:
    unchanged: dict[int | str, dict[str, Any]] = {304: {"description": "It is as the tag in If-None-Match says."}}
    missing: dict[int | str, dict[str, Any]] = {
        404: {"description": "There is no such app.", "content": {"text/html": {"schema": {"type": "string"}}}}
    }

    @app.get("/", summary="For people", response_class=HTMLResponse, responses=unchanged)
    async def overview_page(
        request: Request,
        q: Annotated[str, Query(description="Part of the name of the apps that are wanted.")] = "",
        trouble: Annotated[str, Query(description="What is wrong with them, such as `any` or `drift`.")] = "",
        label: Annotated[str, Query(description="A label of theirs, `key=value`.")] = "",
        sort: Annotated[str, Query(description="By what they are sorted, such as `name` or `size`.")] = "",
    ) -> Response:
        """One page: apps and stores, their status, isolation, size, backups and drift."""
        return await service.page_answer(Selection.of(q, trouble, label, sort), request.headers.get("if-none-match"))

    @app.get("/apps/{app}", summary="One app, for people", response_class=HTMLResponse, responses=unchanged | missing)
    async def one_apps_page(
        request: Request, app: Annotated[str, Path(description=_NAME, examples=["lernmi"])]
    ) -> Response:
        """A page: the app's health of a day, latency and size over time, walls, sets, credentials, drift, history."""
        return await service.app_answer(app, request.headers.get("if-none-match"))

    @app.get("/audit", summary="The last audit, for people", response_class=HTMLResponse, responses=unchanged)
    async def audits_page(request: Request) -> Response:
        """A page: every app on every store, and what was found there."""
        return await service.audit_answer(request.headers.get("if-none-match"))

    @app.get("/history", summary="What was done, for people", response_class=HTMLResponse, responses=unchanged)
    async def histories_page(request: Request) -> Response:
        """A page: the newest runs that changed something, by whom, and what came of them."""
        return await service.history_answer(request.headers.get("if-none-match"))

    for name, media_type in (("style.css", "text/css"), ("page.js", "text/javascript")):
        text = files("multidb.service").joinpath("static", name).read_bytes()
        app.add_api_route(f"/{name}", _constant(text, media_type), include_in_schema=False)


def _page(text: str) -> Response:
    return HTMLResponse(text, headers={"etag": entity_tag(text)})


def _unless_seen(answer: Response, seen: str | None) -> Response:
    """The answer, or 304 where its tag is among those that were seen."""
    tag = answer.headers["etag"]
    known = seen is not None and tag in [each.strip().removeprefix("W/") for each in seen.split(",")]
    return Response(status_code=304, headers={"etag": tag}) if known else answer


def _constant(text: bytes, media_type: str) -> Callable[[], Response]:
    async def constant() -> Response:
        return Response(text, media_type=media_type)

    return constant  # type: ignore[return-value]


def _health_answer(report: HealthReport, codes: Mapping[Status, int]) -> Response:
    ok = report.status is Status.HEALTHY
    return _json(codes[report.status], {"version": 1, "command": "health", "ok": ok, **report.document()})


async def _not_found(request: Request, error: Exception) -> Response:
    return _failure(404, "usage", "there is nothing here", "/openapi.json says what there is")


def _failure(status: int, code: str, message: str, hint: str) -> Response:
    error = {"code": code, "message": message, "where": None, "hint": hint or None}
    return _json(status, {"version": 1, "command": "health", "ok": False, "error": error})


def _json(status: int, document: Mapping[str, Any]) -> Response:
    return Response(redact(json.dumps(document, ensure_ascii=False)), status, media_type=_JSON)


def executor() -> ThreadPoolExecutor:
    """A thread for each kind of look: a slow one does not hold up the others."""
    return ThreadPoolExecutor(7, thread_name_prefix="look")
