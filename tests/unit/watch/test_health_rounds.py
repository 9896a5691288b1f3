"""A round of checks, on a store kept in memory: worst-of, what is told of silent servers, what is not asked."""

from __future__ import annotations

import json
import threading
import time

import pytest

from multidb.closure import Closure, close
from multidb.errors import NotAllowed, ServerDown, UsageError
from multidb.fleet import Fleet, Scope
from multidb.health import check
from multidb.model import App, Health, Status
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import Secret
from tests.support import toy_store
from tests.support.toy_store import SHELF
from tests.unit.watch.conftest import OpenShop

WORN = Health(Status.DEGRADED, "the lid is loose", 0.002, "mend it")


def test_everybody_is_well(open_shop: OpenShop) -> None:
    report = check(open_shop(["ann", "bob"]).fleet)
    assert report.status is Status.HEALTHY
    assert report.apps == ("ann", "bob")
    assert not report.unreachable
    assert {each.health.message for each in report.checks} == {"put in and took out"}


def test_the_worst_counts_for_the_app_and_for_all(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"])
    SHELF.found = {"bob": WORN}
    assert check(engine.fleet).status is Status.DEGRADED
    SHELF.found["eve"] = NotAllowed("no room", hint="make room")
    report = check(engine.fleet)
    assert [report.status_of(app) for app in report.apps] == [Status.HEALTHY, Status.DEGRADED, Status.UNHEALTHY]
    assert report.status is Status.UNHEALTHY
    assert not report.unreachable, "a server that says no has answered"
    assert report.only("ann").status is Status.HEALTHY
    assert report.only("ann").apps == ("ann",)


def test_a_look_without_writing(open_shop: OpenShop) -> None:
    assert check(open_shop(["ann"]).fleet, may_write=False).checks[0].health.message == "looked in"


def test_an_app_that_was_never_applied_is_unhealthy_and_told_how_to_be_made(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"], apply=False)
    engine.apply(Scope(apps=frozenset({"ann"})))
    report = check(engine.fleet)
    assert [report.status_of(app) for app in ("ann", "bob")] == [Status.HEALTHY, Status.UNHEALTHY]
    (bob,) = report.only("bob").checks
    assert bob.health.fix.startswith("where the app is new: multidb apply --app bob; else ")
    assert bob.health.fix.endswith("multidb apply --regenerate bob")
    assert bob.reached is None
    assert not report.unreachable


def test_a_clone_that_is_not_finished_is_told_by_its_own_way_on(open_shop: OpenShop) -> None:
    """Its logins are meant to be off: nobody tries them, and no apply turns them on."""
    engine = open_shop(["ann", "bob"])
    close(engine.state, Closure("bob", "ann", masked=True))
    (bob,) = check(engine.fleet).only("bob").checks
    assert (bob.health.status, bob.reached) == (Status.UNHEALTHY, None)
    assert "multidb clone ann bob --mask FILE.sql" in bob.health.fix
    assert [app for app, _ in SHELF.tried] == ["ann"]


def test_the_document_is_what_was_promised(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.found = {"bob": WORN}
    document = json.loads(json.dumps(check(engine.fleet).document()))
    assert document["status"] == "degraded"
    assert set(document) == {"status", "project", "checked_at", "seconds", "apps"}
    assert document["apps"]["bob"] == {
        "status": "degraded",
        "stores": {
            "toy": {
                "status": "degraded",
                "message": "the lid is loose",
                "hint": "mend it",
                "latency_ms": 2.0,
                "server": "toy",
                "reached": True,
            }
        },
    }


def test_a_stale_backup_counts_and_one_that_is_none_of_ours_does_not(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])

    def freshness(app: App) -> Health | None:
        return Health(Status.DEGRADED, "the last set is 9 days old", fix="multidb backup") if app.id == "bob" else None

    report = check(engine.fleet, freshness=freshness)
    assert [report.status_of(app) for app in report.apps] == [Status.HEALTHY, Status.DEGRADED]
    assert report.status is Status.DEGRADED
    apps = report.document()["apps"]
    assert apps["bob"]["backup"]["message"] == "the last set is 9 days old"
    assert "backup" not in apps["ann"]
    assert report.only("ann").status is Status.HEALTHY


def test_checks_run_side_by_side(open_shop: OpenShop) -> None:
    """Each check waits until sixteen have begun; one after the other they would wait in vain."""
    engine = open_shop([f"app{number:02}" for number in range(32)])
    SHELF.together = threading.Barrier(16)
    assert check(engine.fleet).status is Status.HEALTHY


def test_a_server_is_not_asked_by_more_than_sixteen_at_once(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:02}" for number in range(33)])
    SHELF.lag = 0.1
    assert check(engine.fleet).seconds >= 3 * SHELF.lag


def test_a_server_that_hangs_costs_one_timeout_and_not_one_for_each_app(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:03}" for number in range(300)])
    SHELF.silent, SHELF.patience = {"toy"}, 1.0
    began = time.monotonic()
    report = check(engine.fleet)
    took = time.monotonic() - began
    assert {each.reached for each in report.checks} == {False}
    assert all("does not answer" in each.health.message for each in report.checks)
    assert report.unreachable
    assert len(SHELF.tried) < 50, "those whose turn had not come were not tried"
    assert took < 15 * SHELF.patience, "300 apps at 16 a time would be 19 timeouts"


def test_a_server_that_hangs_does_not_condemn_the_others(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"], each=True)
    SHELF.silent = {"toy-ann"}
    report = check(engine.fleet)
    assert [report.status_of(app) for app in report.apps] == [Status.UNHEALTHY, Status.HEALTHY]
    assert not report.unreachable


def test_one_app_that_waits_in_vain_does_not_condemn_a_server_that_answers_others(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:03}" for number in range(200)])
    SHELF.silent = {"app000", "app001"}
    SHELF.lag, SHELF.patience = 0.1, 0.25  # when these two give up, many are answered and many have not begun
    report = check(engine.fleet)
    assert [each.app for each in report.checks if each.health.status is Status.UNHEALTHY] == ["app000", "app001"]


def test_one_lost_connection_does_not_condemn_a_server(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:03}" for number in range(200)])
    SHELF.found = {"app000": ServerDown("closed the connection")}
    report = check(engine.fleet)
    assert [each.app for each in report.checks if each.health.status is Status.UNHEALTHY] == ["app000"]


def test_a_server_that_is_gone_is_asked_once(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.down = True
    fresh = Fleet(engine.project, engine.state, runtime=engine.fleet.runtime)
    report = check(fresh)
    assert report.unreachable
    assert SHELF.tried == [], "the first login says it for all"


def test_a_session_of_the_admin_that_stands_still_does_not_condemn_the_apps(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"])
    SHELF.slow, SHELF.silent = True, {"bob"}
    report = check(Fleet(engine.project, engine.state, runtime=engine.fleet.runtime))
    assert [report.status_of(app) for app in report.apps] == [Status.HEALTHY, Status.UNHEALTHY, Status.HEALTHY]
    assert (report.unreachable, report.exit_code) == (False, 1)


def test_a_server_that_answers_neither_the_admin_nor_an_app_costs_two_timeouts(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:03}" for number in range(300)])
    SHELF.slow, SHELF.silent, SHELF.patience = True, {"toy"}, 1.0
    report = check(Fleet(engine.project, engine.state, runtime=engine.fleet.runtime))
    assert report.unreachable
    assert len(SHELF.tried) < 50, "those whose turn had not come were not tried"


def test_a_server_that_was_not_started_is_told_with_its_fix(open_shop: OpenShop) -> None:
    lacking = {
        "ann": ServerStatus("toy-ann", "toy", ServerState.STOPPED, None),
        "eve": ServerStatus("toy-eve", "toy", ServerState.SKIPPED, None, "there is no wood here"),
    }
    report = check(open_shop(["ann", "bob", "eve"], lacking=lacking, apply=False).fleet)
    messages = {each.app: (each.health.message, each.health.fix) for each in report.checks}
    assert messages["ann"] == ("server toy-ann is not running", "start it: multidb up")
    assert "there is no wood here" in messages["eve"][0]
    assert [each.app for each in report.checks] == ["ann", "bob", "eve"]
    assert not check(open_shop(["ann"], lacking={}).fleet, Scope(stores=frozenset({"toy"}))).unreachable


def test_a_fault_in_one_check_hides_nobody_else_and_no_secret(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    password = Secret("a-long-and-secret-password")
    SHELF.found = {"ann": KeyError(password.reveal())}
    report = check(engine.fleet)
    assert [report.status_of(app) for app in report.apps] == [Status.UNHEALTHY, Status.HEALTHY]
    message = report.checks[0].health.message
    assert "KeyError" in message
    assert password.reveal() not in message


def test_an_app_that_is_not_in_the_manifest(open_shop: OpenShop) -> None:
    with pytest.raises(UsageError, match="zoe"):
        check(open_shop(["ann"]).fleet, Scope(apps=frozenset({"zoe"})))


def test_only_what_was_asked_for(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    assert check(engine.fleet, Scope(apps=frozenset({"bob"}))).apps == ("bob",)
    nothing = check(engine.fleet, Scope(stores=frozenset({"postgres"})))
    assert nothing.checks == ()
    assert nothing.status is Status.HEALTHY
    assert not nothing.unreachable


def test_the_admin_is_asked_once_for_many_rounds(open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_shop(["ann"], apply=True)
    fresh = Fleet(engine.project, engine.state, runtime=engine.fleet.runtime)
    logins: list[str] = []
    session = toy_store.ToySession.__init__

    def counted(self: toy_store.ToySession, server: object, name: str) -> None:
        logins.append(name)
        session(self, server, name)  # type: ignore[arg-type]

    monkeypatch.setattr(toy_store.ToySession, "__init__", counted)
    for _ in range(3):
        assert check(fresh).status is Status.HEALTHY
    assert len(logins) == 1


def test_without_the_admin_the_apps_are_tried_all_the_same(
    open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_shop(["ann"])
    fresh = Fleet(engine.project, engine.state, runtime=engine.fleet.runtime)

    def refused(server: object) -> None:
        raise UsageError("has no admin password here")

    monkeypatch.setattr(fresh.runtime, "admin", refused)
    assert check(fresh).status is Status.HEALTHY


def test_down_while_checking(open_shop: OpenShop) -> None:
    engine = open_shop(["ann"])
    SHELF.found = {"ann": ServerDown("went away", hint="multidb up")}
    report = check(engine.fleet)
    assert report.unreachable
    assert report.checks[0].health.fix == "multidb up"
