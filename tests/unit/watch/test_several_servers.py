"""Two servers of one store, which the types can say and the manifest cannot yet: every app is on one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from multidb_toy.resources import ServerOptions

from multidb.alarms import AlarmKind, Subject
from multidb.engine import Engine
from multidb.errors import ServerDown
from multidb.fleet import Fleet
from multidb.health import check
from multidb.model import Endpoint, Project, Quota, Server, ServerSpec, Status
from multidb.model.usage import Enforce
from multidb.notification import LookScope, Notifier
from multidb.plan import ServerPlan
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import Secret
from multidb.service.overview import overview
from multidb.usage import enforce, look
from tests.support.given_runtime import GivenRuntime
from tests.support.toy_store import SHELF
from tests.unit.watch.conftest import OpenShop

APPS = {"near": frozenset({"ann", "bob"}), "far": frozenset({"eve", "zoe"})}


class Both(GivenRuntime):
    """A server for each of the project's."""

    def __init__(self, project: Project) -> None:
        self._found = [
            Server(spec.name, spec.store, Endpoint(spec.name, 1), apps=spec.apps) for spec in project.servers
        ]

    def servers(self) -> list[Server]:
        return self._found

    def status(self) -> list[ServerStatus]:
        return [ServerStatus(server.name, server.store, ServerState.RUNNING, server) for server in self._found]

    def admin(self, server: Server) -> Secret | None:
        return None


@pytest.fixture
def engine(open_shop: OpenShop) -> Engine:
    """Four apps, two on each of two servers; `near` knows an account."""
    one = open_shop(["ann", "bob", "eve", "zoe"], apply=False)
    specs = tuple(
        ServerSpec(name, "toy", ServerOptions(), known=frozenset({"op"} if name == "near" else ()), apps=apps)
        for name, apps in APPS.items()
    )
    quota = {"toy": Quota(1000, Enforce.READ_ONLY)}
    apps = {name: replace(app, quota=quota) for name, app in one.project.apps.items()}
    project = replace(one.project, apps=apps, servers=specs)
    made = Engine(Fleet(project, one.state, runtime=Both(project)))
    assert made.apply().error() is None
    return made


def contexts(fleet: Fleet) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    found = {server.name: fleet.known_context(server) for server in fleet.runtime.servers()}
    return {name: (context.known, context.read_only) for name, context in found.items()}


def test_each_app_is_planned_checked_and_shown_where_it_has_its_place(engine: Engine) -> None:
    plan = engine.plan()
    assert {server.server: frozenset(server.isolation) for server in plan.servers} == APPS
    assert plan.in_sync
    SHELF.silent.add("far")
    report = check(engine.fleet)
    assert [(each.app, each.server, each.health.status) for each in report.checks] == [
        ("ann", "near", Status.HEALTHY),
        ("bob", "near", Status.HEALTHY),
        ("eve", "far", Status.UNHEALTHY),
        ("zoe", "far", Status.UNHEALTHY),
    ]
    shown = overview(engine.project, health=report, plan=plan)
    assert shown.stores == ("toy",)
    assert {row.app: (row.status, row.drift) for row in shown.rows} == {
        **dict.fromkeys(("ann", "bob"), (Status.HEALTHY, 0)),
        **dict.fromkeys(("eve", "zoe"), (Status.UNHEALTHY, 0)),
    }


def test_a_quota_and_a_known_account_are_of_one_server(engine: Engine) -> None:
    SHELF.weights = {"ann": 2000, "bob": 1, "eve": 2000, "zoe": 1}
    report = look(engine.fleet)
    assert [(each.app, each.server) for each in report.stores] == [
        ("ann", "near"),
        ("bob", "near"),
        ("eve", "far"),
        ("zoe", "far"),
    ]
    assert enforce(engine, report).errors == {}
    assert {name for name, box in SHELF.boxes.items() if box.sealed} == {"ann", "eve"}
    assert contexts(engine.fleet) == {
        "near": (frozenset({"op"}), frozenset({"ann"})),
        "far": (frozenset(), frozenset({"eve"})),
    }


def test_what_one_server_does_not_tell_keeps_no_alarm_of_another_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[LookScope] = []
    notifier = Notifier(engine.project, engine.state)
    monkeypatch.setattr(notifier, "tell", lambda alarms, seen: looked.append(seen) or [])
    plan = engine.plan()
    near = next(server for server in plan.servers if server.server == "near")
    far = ServerPlan("far", "toy", error=ServerDown("is not running"), apps=("eve", "zoe"))
    notifier.about_plan(replace(plan, servers=(near, far)))
    covered = {app for app in engine.project.apps if looked[0].covers(Subject(AlarmKind.DRIFT, app, "toy"))}
    assert covered == {"ann", "bob"}
    assert {frozenset(server.apps) for server in plan.servers} == set(APPS.values())
