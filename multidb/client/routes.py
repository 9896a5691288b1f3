"""``/health/databases`` of one app for web frameworks, which are imported only where they are used::

    application = FastAPI()
    application.add_route("/health/databases", starlette_route(app))          # FastAPI, Starlette
    application.add_url_rule("/health/databases", view_func=flask_view(app))  # Flask
    urlpatterns = [path("health/databases", django_view(app))]                # Django

Each answers 200 healthy or degraded, 503 unhealthy, 500 the check itself failed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from multidb.client.app import AppPlace

__all__ = ["django_view", "flask_view", "starlette_route"]

_JSON: Final = "application/json"
_NOT_KEPT: Final = {"Cache-Control": "no-store"}


class _RecentHealth:
    """One check serves everybody who asks within `fresh` seconds: a balancer that asks often costs no logins."""

    def __init__(self, place: AppPlace, fresh: float) -> None:
        self._place = place
        self._fresh = fresh
        self._guard = threading.Lock()
        self._until = 0.0
        self._answer: tuple[int, str] = (500, "")

    def answer(self) -> tuple[int, str]:
        """Code and text."""
        with self._guard:
            if time.monotonic() >= self._until:
                self._answer = self._ask()
                self._until = time.monotonic() + self._fresh
            return self._answer

    def _ask(self) -> tuple[int, str]:
        try:
            health = self._place.health()
            return health.http_status, json.dumps(health.document())
        except Exception as error:  # the one answer that says that nothing is known
            message = f"the check itself failed ({type(error).__name__})"
            return 500, json.dumps({"status": "unknown", "error": {"code": "check_failed", "message": message}})


def starlette_route(place: AppPlace, *, fresh: float = 2.0) -> Callable[[Any], Awaitable[Any]]:
    """An endpoint for Starlette and FastAPI (``add_route``). The check runs in a thread, and blocks no event loop."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    checks = _RecentHealth(place, fresh)

    async def databases(request: Any) -> Any:
        code, text = await run_in_threadpool(checks.answer)
        return Response(text, code, _NOT_KEPT, media_type=_JSON)

    return databases


def flask_view(place: AppPlace, *, fresh: float = 2.0) -> Callable[[], Any]:
    """A view for Flask."""
    from flask import Response

    checks = _RecentHealth(place, fresh)

    def databases() -> Any:
        code, text = checks.answer()
        return Response(text, code, _NOT_KEPT, mimetype=_JSON)

    return databases


def django_view(place: AppPlace, *, fresh: float = 2.0) -> Callable[[Any], Any]:
    """A view for Django, for GET and HEAD."""
    from django.http import HttpResponse, HttpResponseNotAllowed

    checks = _RecentHealth(place, fresh)

    def databases(request: Any) -> Any:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        code, text = checks.answer()
        return HttpResponse(text, status=code, content_type=_JSON, headers=_NOT_KEPT)

    return databases
