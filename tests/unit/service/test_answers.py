"""Every route, asked without a network: what is answered, to whom, and with which headers."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from multidb.errors import ManifestError, Problem
from multidb.health import HealthReport
from multidb.model import Health, Status
from multidb.secrets import Secret
from multidb.service.application import Intervals, Service, application
from multidb.service.clients import Clients, network_from
from multidb.service.documents import FailureDocument, HealthDocument, OneAppHealth
from multidb.service.guard import Guard
from multidb.service.rate import ClientRate
from tests.support import reports

TOKEN = Secret("token-of-the-service-0123456789")


def guarded(token: Secret | None = None, *, loopback_only: bool = True, **looks: Any) -> Guard:
    service = Service(reports.sources(**looks), ThreadPoolExecutor(5), intervals=Intervals(0, 0, 0, 0, 0))
    return application(service, token=token, loopback_only=loopback_only)


def ask(app: Guard, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8642") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


@pytest.mark.parametrize(("status", "code"), [(Status.HEALTHY, 200), (Status.DEGRADED, 200), (Status.UNHEALTHY, 503)])
def test_the_status_is_the_code(status: Status, code: int) -> None:
    app = guarded(health=lambda: reports.health(status))
    answer = ask(app, "/health/databases")
    assert answer.status_code == code
    document = HealthDocument.model_validate_json(answer.content)
    assert not document.ok
    assert document.apps["lernmi"].stores["redis"].status == status.value
    one = ask(app, "/health/databases/beep-boop")
    assert one.status_code == 200, "another app's trouble is not its own"
    assert set(OneAppHealth.model_validate_json(one.content).apps) == {"beep_boop"}


def test_an_unknown_app_is_404_and_a_check_that_fails_is_500_without_a_traceback() -> None:
    unknown = ask(guarded(), "/health/databases/nobody")
    assert unknown.status_code == 404
    assert FailureDocument.model_validate_json(unknown.content).error.hint == "apps: lernmi, beep_boop"

    def broken() -> Any:
        raise ManifestError([Problem("multidb.yaml", 3, 1, "unknown key")])

    def fault() -> Any:
        raise ZeroDivisionError("line 7 of /srv/secret/path.py")

    for look, code in ((broken, "manifest"), (fault, "internal")):
        app = guarded(health=look)
        for path in ("/health/databases", "/health/databases/lernmi"):
            answer = ask(app, path)
            assert answer.status_code == 500
            assert FailureDocument.model_validate_json(answer.content).error.code == code
            assert "Traceback" not in answer.text
            assert "/srv/secret" not in answer.text
        assert ask(app, "/").status_code == 200
        assert 'multidb_collector_success{collector="health"} 0.0' in ask(app, "/metrics").text
        assert ask(app, "/health/live").json() == {"status": "alive"}


def test_a_set_that_was_made_since_the_check_is_not_called_missing() -> None:
    """By the same check: what is said of backups is read anew, and what is said of stores is not tried again."""
    checks: list[None] = []
    fresh = {
        "lernmi": Health(Status.DEGRADED, "has no backup yet"),
        "gone": Health(Status.DEGRADED, "of an old manifest"),
    }

    def check() -> HealthReport:
        checks.append(None)
        return reports.health(Status.HEALTHY)

    app = guarded(health=check, freshness=lambda: fresh)

    def said(path: str) -> Any:
        document = ask(app, path).json()
        assert "gone" not in document["apps"]
        return document["apps"]["lernmi"]["backup"]["message"]

    assert said("/health/databases") == said("/health/databases/lernmi") == "has no backup yet"
    fresh = {"lernmi": Health(Status.HEALTHY, "newest set 1 s old")}
    assert said("/health/databases/lernmi") == said("/health/databases") == "newest set 1 s old"
    assert len(checks) == 1


PATHS = (
    *("/", "/?q=x&sort=size", "/apps/lernmi", "/audit", "/history", "/metrics", "/health/databases", "/health/live"),
    *("/openapi.json", "/style.css", "/page.js", "/none"),
)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_read_only_and_has_the_headers(path: str) -> None:
    app = guarded()
    answer = ask(app, path)
    assert answer.status_code == {"/none": 404, "/health/databases": 503}.get(path, 200)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        refused = ask(app, path, method)
        assert refused.status_code == 405
        assert refused.headers["allow"] == "GET, HEAD"
        assert refused.headers["x-content-type-options"] == "nosniff"
    assert ask(app, path, "HEAD").status_code == answer.status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.", "[::1]x"]
)
def test_on_loopback_other_names_are_turned_away(host: str) -> None:
    app = guarded()
    answer = ask(app, "/health/databases", host=host)
    assert answer.status_code == 421
    assert "lernmi" not in answer.text
    for own in ("localhost", "LOCALHOST:8642", "127.0.0.1:1", "[::1]:8642"):
        assert ask(app, "/health/live", host=own).status_code == 200


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_with_a_token_everything_but_liveness_wants_it() -> None:
    app = guarded(TOKEN, loopback_only=False)
    token = TOKEN.reveal()
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {token[:-1]}",
        f"Bearer {token}x",
        f"Token {token}",
        token,
        _basic(token, ""),
        _basic("a", token[:-1]),
        "Basic %%%",
        "Basic",
    ]
    for path in PATHS:
        expected = 200 if path == "/health/live" else 401
        assert ask(app, path, host="multidb.example").status_code == expected
        for authorization in wrong:
            answer = ask(app, path, authorization=authorization)
            assert answer.status_code == expected, authorization
            assert token not in answer.text
    challenges = ask(app, "/").headers.get_list("www-authenticate")
    assert [challenge.split()[0] for challenge in challenges] == ["Bearer", "Basic"]
    for authorization in (f"Bearer {token}", f"bearer {token}", _basic("", token), _basic("me", token)):
        assert ask(app, "/metrics", authorization=authorization, host="multidb.example").status_code == 200


def test_no_answer_has_a_secret() -> None:
    held = Secret("a-credential-of-lernmi")

    def leaking() -> Any:
        report = reports.health()
        object.__setattr__(report.checks[1].health, "message", f"refuses {held.reveal()}")
        return report

    app = guarded(TOKEN, loopback_only=False, health=leaking)
    for path in PATHS:
        answer = ask(app, path, authorization=f"Bearer {TOKEN.reveal()}")
        assert held.reveal() not in answer.text
        assert TOKEN.reveal() not in answer.text
    assert "refuses ***" in ask(app, "/", authorization=f"Bearer {TOKEN.reveal()}").text


def test_the_description_names_every_route_and_answer() -> None:
    described = json.loads(ask(guarded(), "/openapi.json").content)["paths"]
    routes = {
        *("/", "/apps/{app}", "/audit", "/history", "/metrics"),
        *("/health/live", "/health/databases", "/health/databases/{app}"),
    }
    assert set(described) == routes
    assert all(set(route) == {"get"} for route in described.values())
    assert set(described["/health/databases/{app}"]["get"]["responses"]) >= {"200", "404", "500", "503"}


@pytest.mark.parametrize(("degraded", "code"), [(200, 200), (503, 503)])
def test_a_degraded_app_is_answered_as_asked(degraded: int, code: int) -> None:
    looks = reports.sources(health=lambda: reports.health(Status.DEGRADED))
    service = Service(looks, ThreadPoolExecutor(5), intervals=Intervals(0, 0, 0, 0, 0), degraded=degraded)
    app = application(service, token=None, loopback_only=True)
    assert ask(app, "/health/databases").status_code == code
    assert ask(app, "/health/databases/lernmi").status_code == code
    for route in ("/health/databases", "/health/databases/{app}"):
        responses = json.loads(ask(app, "/openapi.json").content)["paths"][route]["get"]["responses"]
        assert "degraded" in responses[str(code)]["description"]
        assert "degraded" not in responses[{200: "503", 503: "200"}[code]]["description"]


def test_a_client_may_ask_so_often_and_takes_nothing_from_who_has_the_token() -> None:
    service = Service(reports.sources(), ThreadPoolExecutor(5), intervals=Intervals(0, 0, 0, 0, 0))
    app = application(service, token=TOKEN, loopback_only=True, rate=ClientRate(3, clock=lambda: 0.0))
    right = {"authorization": f"Bearer {TOKEN.reveal()}"}
    assert [ask(app, "/metrics").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    assert [ask(app, "/", "POST").status_code for _ in range(2)] == [429, 429]
    assert [ask(app, "/metrics", **right).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = ask(app, "/metrics", **right)
    assert refused.headers["retry-after"] == "20"
    assert FailureDocument.model_validate_json(refused.content).error.code == "rate"
    assert {ask(app, "/health/live").status_code for _ in range(9)} == {200}, "else a container is taken for dead"


def test_behind_a_proxy_each_client_is_counted_by_itself() -> None:
    service = Service(reports.sources(), ThreadPoolExecutor(5), intervals=Intervals(0, 0, 0, 0, 0))
    clients = Clients([network_from("127.0.0.1")])
    rate = ClientRate(1, clock=lambda: 0.0)
    app = application(service, token=None, loopback_only=True, rate=rate, clients=clients)
    assert [ask(app, "/", **{"x-forwarded-for": f"192.0.2.{n}"}).status_code for n in (1, 2, 1)] == [200, 200, 429]


def _watched(health: float, **looks: Any) -> tuple[Guard, list[None]]:
    """A service whose checks are counted, and never fresh enough."""
    checks: list[None] = []

    def check() -> HealthReport:
        checks.append(None)
        return reports.health()

    service = Service(
        reports.sources(health=check, **looks),
        ThreadPoolExecutor(5),
        intervals=Intervals(health, 0, 0, 0, 0, 0, 0),
        fresh=0,
    )
    return application(service, token=None, loopback_only=True), checks


@pytest.mark.parametrize("path", ["/", "/?trouble=any", "/apps/lernmi", "/audit", "/history"])
def test_a_page_that_is_asked_for_again_is_answered_when_it_is_another_and_begins_no_check(path: str) -> None:
    recorded = [reports.records()]
    app, checks = _watched(3600, records=lambda: recorded[0])
    first = ask(app, path)
    tag = first.headers["etag"]
    assert (first.status_code, len(checks)) == (200, 1)
    for seen in (tag, f'"other", W/{tag}'):
        again = ask(app, path, **{"if-none-match": seen})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == "no-store"
    assert ask(app, path, **{"if-none-match": '"other"'}).text == first.text
    assert len(checks) == 1
    recorded[0] = replace(recorded[0], jobs=())
    changed = ask(app, path, **{"if-none-match": tag})
    assert changed.status_code == (304 if path in ("/audit", "/history") else 200), (
        "work that has ended is another page"
    )
    assert len(checks) == 1
    ask(app, path)
    assert len(checks) == 2, "who opens it gets a new check"


def test_where_checks_are_made_only_when_somebody_asks_an_open_page_asks() -> None:
    app, checks = _watched(0)
    tag = ask(app, "/").headers["etag"]
    ask(app, "/", **{"if-none-match": tag})
    assert len(checks) == 2


def test_an_app_is_found_by_both_of_its_names_and_one_that_there_is_not_is_a_page() -> None:
    app = guarded()
    assert ask(app, "/apps/beep-boop").text == ask(app, "/apps/beep_boop").text
    for name in ("nobody", "%00", "<script>alert"):
        missing = ask(app, f"/apps/{name}")
        assert missing.status_code == 404
        assert name not in missing.text
        assert missing.headers["content-type"].startswith("text/html")


def test_the_overview_is_searched_by_its_address() -> None:
    app = guarded()

    def shown(path: str) -> list[str]:
        text = ask(app, path).text
        return [name for name in ("lernmi", "beep_boop") if f'id="app-{name}"' in text]

    assert shown("/") == ["lernmi", "beep_boop"]
    assert shown("/?q=beep") == ["beep_boop"]
    assert shown("/?trouble=unhealthy") == ["lernmi"]
    assert shown("/?label=none=such") == []
    assert "No app is like that." in ask(app, "/?q=zzz").text
    hostile = ask(app, '/?q="><script>alert(2)</script>&label=<b>')
    assert hostile.status_code == 200
    assert "<script>alert" not in hostile.text
    assert "<option selected>&lt;b&gt;</option>" in hostile.text


def test_where_the_state_cannot_be_read_the_pages_are_as_they_were() -> None:
    found = [reports.records]

    def broken() -> Any:
        raise ManifestError([Problem("multidb.yaml", 3, 1, "unknown key")])

    app = guarded(records=lambda: found[0]())
    before = ask(app, "/apps/lernmi").text
    found[0] = broken
    assert ask(app, "/apps/lernmi").text == before
