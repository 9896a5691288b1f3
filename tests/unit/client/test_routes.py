"""The health routes in the frameworks themselves: 200 healthy or degraded, 503 unhealthy, 500 the check failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from multidb.client.health import PlaceHealth, ServerHealth
from multidb.client.routes import django_view, flask_view, starlette_route

Answer = tuple[int, dict[str, Any], str]


class Place:
    """A place whose stores are as it is told."""

    def __init__(self, *statuses: str, fails: bool = False) -> None:
        self._statuses = statuses
        self._fails = fails
        self.checks = 0

    def health(self) -> PlaceHealth:
        self.checks += 1
        if self._fails:
            raise RuntimeError("postgresql://ann:secret@127.0.0.1")
        stores = {f"store{number}": ServerHealth(status, "m", 0.001) for number, status in enumerate(self._statuses)}
        return PlaceHealth("ann", stores, datetime.now(UTC), 0.1)


def by_starlette(place: Any, **options: Any) -> Callable[[], Answer]:
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    application = Starlette()
    application.add_route("/health/databases", starlette_route(place, **options))
    return _by_client(TestClient(application))


def by_fastapi(place: Any, **options: Any) -> Callable[[], Answer]:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    application = FastAPI()
    application.add_route("/health/databases", starlette_route(place, **options))
    return _by_client(TestClient(application))


def _by_client(client: Any) -> Callable[[], Answer]:
    def get() -> Answer:
        response = client.get("/health/databases")
        assert response.headers["cache-control"] == "no-store"
        return response.status_code, response.json(), response.headers["content-type"]

    return get


def by_flask(place: Any, **options: Any) -> Callable[[], Answer]:
    flask = pytest.importorskip("flask")
    application = flask.Flask("tests")
    application.add_url_rule("/health/databases", view_func=flask_view(place, **options))

    def get() -> Answer:
        response = application.test_client().get("/health/databases")
        assert response.headers["Cache-Control"] == "no-store"
        return response.status_code, response.get_json(), response.content_type

    return get


def by_django(place: Any, **options: Any) -> Callable[[], Answer]:
    django = pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["testserver"], SECRET_KEY="t", ROOT_URLCONF=())
        django.setup()
    from django.test import RequestFactory

    view = django_view(place, **options)
    assert view(RequestFactory().post("/health/databases")).status_code == 405

    def get() -> Answer:
        response = view(RequestFactory().get("/health/databases"))
        assert response["Cache-Control"] == "no-store"
        return response.status_code, json.loads(response.content), response["Content-Type"]

    return get


FRAMEWORKS = [by_starlette, by_fastapi, by_flask, by_django]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("statuses", "code", "worst"),
    [
        (("healthy", "healthy"), 200, "healthy"),
        (("healthy", "degraded"), 200, "degraded"),
        (("degraded", "unhealthy"), 503, "unhealthy"),
    ],
)
def test_the_codes_are_the_projects_own(framework: Any, statuses: tuple[str, ...], code: int, worst: str) -> None:
    answered, document, content_type = framework(Place(*statuses))()
    assert (answered, document["status"], document["apps"]["ann"]["status"]) == (code, worst, worst)
    assert content_type.startswith("application/json")
    assert [one["status"] for one in document["apps"]["ann"]["stores"].values()] == list(statuses)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_check_that_fails_is_500_without_what_it_said(framework: Any) -> None:
    code, document, _ = framework(Place(fails=True))()
    assert (code, document["error"]["message"]) == (500, "the check itself failed (RuntimeError)")
    assert "secret" not in json.dumps(document)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_check_serves_all_who_ask_at_once(framework: Any) -> None:
    place = Place("healthy")
    get = framework(place, fresh=60)
    assert [get()[0] for _ in range(5)] == [200] * 5
    assert place.checks == 1
    place = Place("healthy")
    get = framework(place, fresh=0)
    assert [get()[0] for _ in range(3)] == [200] * 3
    assert place.checks == 3
