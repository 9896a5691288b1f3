"""The routes, and the looks behind them. Answers are made once for each reading and then sent as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, Path, Request, Response
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
from multidb.service.overview import Overview, overview
from multidb.service.page import page
from multidb.service.rate import ClientRate
from multidb.service.sources import Sources

__all__ = ["FRESH", "Intervals", "Service", "application"]

FRESH: Final = 10.0
"""Seconds for which a health check serves everybody who asks."""

_SCRAPE_TIMEOUT: Final = (
    5.0  # seconds that a scrape waits for a new check before it gets what is known; Prometheus waits 10
)
_NAME: Final = "The app's id; `beep-boop` means `beep_boop`."
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between two looks of each kind; 0: never by itself. Health is also looked at when somebody asks."""

    health: float = 30.0
    usage: float = 60.0
    backups: float = 60.0
    drift: float = 300.0
    audit: float = 3600.0


@dataclass
class _Answers:
    """The rendered answers, each kept until one of the readings that it was rendered from is made anew."""

    readings: tuple[Reading[Any] | None, ...] = ()
    answers: dict[str, Response] = field(default_factory=dict)

    def answer(self, name: str, readings: tuple[Reading[Any] | None, ...], make: Callable[[], Response]) -> Response:
        """The answer of that name; made anew when a reading is another than before."""
        if len(readings) != len(self.readings) or any(a is not b for a, b in zip(readings, self.readings, strict=True)):
            self.readings, self.answers = readings, {}
        if name not in self.answers:
            self.answers[name] = make()
        return self.answers[name]


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
        }
        self._joined: tuple[Reading[HealthReport], Mapping[str, Health], Reading[HealthReport]] | None = None
        self._health_made = _Answers()
        self._known_made = _Answers()

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
            return self._health_made.answer("", (reading,), lambda: _health_answer(report, self.codes))
        if app not in report.apps:  # not kept: there is no end to names
            return _failure(404, "usage", "there is no such app", f"apps: {', '.join(report.apps) or 'none'}")
        return self._health_made.answer(app, (reading,), lambda: _health_answer(report.only(app), self.codes))

    async def metrics_answer(self) -> Response:
        """The readings as Prometheus wants them."""
        readings = await self._readings()

        def make() -> Response:
            known = {name: reading for name, reading in readings.items() if reading is not None}
            return Response(exposition(self.overview(readings), known), media_type=CONTENT_TYPE_PLAIN_0_0_4)

        return self._known_made.answer("metrics", tuple(readings.values()), make)

    async def page_answer(self) -> Response:
        """The readings as a person wants them."""
        readings = await self._readings()
        make = lambda: HTMLResponse(page(self.overview(readings), readings))  # noqa: E731
        return self._known_made.answer("page", tuple(readings.values()), make)

    async def _readings(self) -> dict[str, Reading[Any] | None]:
        others = {name: collector.latest for name, collector in self._others.items()}
        health = await self.health.soon(_SCRAPE_TIMEOUT)
        return {"health": health and self._with_backups(health), **others}

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

    def overview(self, readings: Mapping[str, Reading[Any] | None]) -> Overview:
        """The readings, by the names of their collectors, brought together."""
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
            histories=self._sources.histories,
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
    _add_rest(app, service)
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


def _add_rest(app: FastAPI, service: Service) -> None:
    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=PlainTextResponse,
        responses={200: {"content": {CONTENT_TYPE_PLAIN_0_0_4: {}}, "description": "What is known, as metrics."}},
    )
    async def metrics() -> Response:
        """Waits at most five seconds for a check under way; then it gives what was known before."""
        return await service.metrics_answer()

    @app.get("/", summary="For people", response_class=HTMLResponse)
    async def overview_page() -> Response:
        """One page: apps and stores, their status, isolation, size, backups and drift."""
        return await service.page_answer()

    for name, media_type in (("style.css", "text/css"), ("refresh.js", "text/javascript")):
        text = files("multidb.service").joinpath("static", name).read_bytes()
        app.add_api_route(f"/{name}", _constant(text, media_type), include_in_schema=False)


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
    return ThreadPoolExecutor(5, thread_name_prefix="look")
