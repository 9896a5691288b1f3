"""The engine's own promises, on a store kept in memory: order, accounting, secrets, conflicts, proof."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from multidb_toy.resources import Box, ServerOptions

from multidb import engine as engine_module
from multidb.access import recorded_access
from multidb.credentials import FIRST_ISSUED, ISSUED
from multidb.engine import Engine
from multidb.environment import Environment, environment, environments
from multidb.errors import (
    Conflict,
    Locked,
    MachineError,
    PartlyApplied,
    ServerDown,
    ServerError,
    ServerSlow,
    StalePlan,
    UsageError,
)
from multidb.fleet import Fleet, Scope
from multidb.model import Action, App, Endpoint, Owner, Project, Server
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import MemorySecretStore, Secret, SecretRef
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime, OneServerEach
from tests.support.toy_store import SHELF, digest


def test_a_plan_writes_down_what_each_app_has(engine: Engine) -> None:
    (plan,) = engine.plan(Scope(frozenset({"bob"}))).servers
    assert recorded_access(engine.state.folder, "toy").keys() == {"bob"}
    engine.plan()
    access = recorded_access(engine.state.folder, "toy")
    assert access.keys() == {"ann", "bob"}
    assert (access["bob"].isolation, access["bob"].why) == plan.isolation["bob"]
    assert access["bob"].names == tuple(f"{c.resource.kind} {c.resource.name}" for c in plan.changes)


def test_a_fifth_store_is_one_entry_point(engine: Engine) -> None:
    assert engine.apply().error() is None
    assert SHELF.boxes["bob"].colour == "blue"
    assert engine.plan().in_sync
    assert environment(engine.fleet, "bob").env["TOY_BOX"] == "bob"


def _with_apps(folder: Path, count: int) -> Engine:
    apps = "".join(f"  app{number}: {{stores: [toy]}}\n" for number in range(count))
    (folder / "multidb.yaml").write_text(f"version: 1\nproject: shop\nruntime: embedded\napps:\n{apps}")
    project = load_project(folder / "multidb.yaml")
    server = Server("toy", "toy", Endpoint("shelf", 1))
    return Engine(Fleet(project, ProjectState(folder), runtime=GivenRuntime(RealServer(server, None, ServerOptions()))))


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("count", [1, 40])
def test_the_env_files_of_any_number_of_apps_cost_one_session_at_most(
    tmp_path: Path, count: int, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _with_apps(tmp_path, count)
    assert engine.apply().error() is None
    engine = Engine(Fleet(engine.project, engine.state, runtime=engine.fleet.runtime))
    store = replace(provisioner("toy"), env_asks=lambda app, context: asks)
    monkeypatch.setattr("multidb.variables.provisioner", lambda name: store)
    reads: list[str] = []
    read = ProjectState.read
    monkeypatch.setattr(ProjectState, "read", lambda self, section: (reads.append(section), read(self, section))[1])
    SHELF.logins = 0
    found = dict(environments(engine.fleet, list(engine.project.apps)))
    boxes = {name: each.env["TOY_BOX"] for name, each in found.items() if isinstance(each, Environment)}
    assert boxes == {name: name for name in engine.project.apps}
    assert SHELF.logins == int(asks)
    once = ["alternation", "closed", "moves", "numbers", "renames", "restricted"]
    assert sorted(reads) == sorted(once * (1 + asks))


def test_an_app_without_credentials_costs_the_others_nothing(engine: Engine) -> None:
    assert engine.apply().error() is None
    engine.state.secrets.delete([SecretRef("ann", "toy", "key")])
    found = dict(environments(engine.fleet, ["ann", "bob"]))
    assert isinstance(found["ann"], UsageError)
    assert isinstance(found["bob"], Environment)
    SHELF.down = True
    found = dict(environments(engine.fleet, ["ann", "bob"]))
    assert isinstance(found["ann"], ServerDown)  # which might have said that it needs no credential
    assert isinstance(found["bob"], Environment)


def test_what_is_shown_is_what_runs(engine: Engine) -> None:
    planned = [statement.text for change in engine.plan().changes for statement in change.statements]
    assert SHELF.sent == []
    engine.apply()
    assert SHELF.sent == planned


def test_a_failure_is_accounted_for_change_by_change(engine: Engine) -> None:
    SHELF.fail_on = "PAINT bob"
    report = engine.apply()
    (server,) = report.servers
    assert [change.resource.name for change in server.done] == ["ann"]
    assert server.failed is not None
    assert server.failed.resource.name == "bob"
    assert server.not_tried == ()
    assert isinstance(report.error(), PartlyApplied)
    SHELF.fail_on = ""
    assert engine.apply().error() is None
    assert engine.plan().in_sync


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_a_machine_that_has_no_more_in_the_middle_is_said_with_what_was_done(engine: Engine, fault: Exception) -> None:
    SHELF.fail_on, SHELF.fault = "PAINT bob", fault
    report = engine.apply()
    assert [change.resource.name for change in report.done] == ["ann"]
    (server,) = report.servers
    assert [change.resource.name for change in server.not_tried] == ["bob"]
    error = report.error()
    assert isinstance(error, PartlyApplied)
    assert "Too many open files" in str(error) or "too little memory" in str(error)
    (settled,) = engine.settle(Scope())
    assert isinstance(settled.error, MachineError)


def test_a_fault_of_ours_in_the_middle_is_not_taken_for_the_machines(engine: Engine) -> None:
    SHELF.fail_on, SHELF.fault = "PAINT bob", KeyError("ours")
    with pytest.raises(KeyError):
        engine.apply()


def test_what_is_refused_of_one_app_costs_no_other_app_its_changes(engine: Engine) -> None:
    SHELF.fail_on, SHELF.goes_on = "PAINT ann", True
    report = engine.apply()
    (server,) = report.servers
    assert [change.resource.name for change in server.done] == ["bob"]
    assert [(failure.change.resource.name, str(failure.error)) for failure in server.failures] == [
        ("ann", "shelf: the shelf is full")
    ]
    assert (server.not_tried, server.error) == ((), None)
    error = report.error()
    assert isinstance(error, PartlyApplied)
    assert error.exit_code == 5
    assert SHELF.boxes["bob"].colour == "blue"
    SHELF.fail_on = ""
    assert engine.apply().error() is None
    assert engine.plan().in_sync


def test_when_every_app_is_refused_each_is_named(engine: Engine) -> None:
    SHELF.fail_on, SHELF.goes_on = "PAINT", True
    (server,) = engine.apply().servers
    assert [failure.change.resource.name for failure in server.failures] == ["ann", "bob"]
    assert server.done == ()


def test_a_lie_about_one_app_is_found_out_although_another_was_refused(engine: Engine) -> None:
    SHELF.fail_on, SHELF.goes_on, SHELF.ignore = "PAINT ann", True, "PAINT bob blue"
    (server,) = engine.apply().servers
    assert server.done == ()
    assert [failure.change.resource.name for failure in server.failures] == ["ann", "bob"]
    assert "is not as the manifest says" in str(server.failures[1].error)
    assert server.error is None, "it is that app's alone"


def test_an_app_that_cannot_be_looked_at_costs_no_other_app_its_plan(engine: Engine) -> None:
    SHELF.closed["ann"] = ServerSlow("takes too long", where="shelf", hint="look at its load")
    plan = engine.plan()
    assert {change.resource.app for change in plan.changes} == {"bob"}
    assert [str(error) for _, error in plan.errors] == ["shelf: takes too long"]
    assert not plan.in_sync
    assert plan.document()["servers"][0]["unread"]["ann"]["code"] == "server-slow"
    report = engine.apply()
    assert [change.resource.name for change in report.done] == ["bob"]
    assert isinstance(report.error(), PartlyApplied)
    again = engine.apply()
    assert isinstance(again.error(), ServerSlow), "it is told although there is nothing else to do"


def test_a_failure_before_anything_was_done_is_the_servers_own_error(engine: Engine) -> None:
    SHELF.fail_on = "MAKE ann"
    error = engine.apply().error()
    assert error is not None
    assert error.exit_code == 4
    assert "the shelf is full" in str(error)


def test_a_statement_that_lies_is_found_out(engine: Engine) -> None:
    SHELF.ignore = "PAINT bob blue"
    report = engine.apply()
    error = report.error()
    assert error is not None
    assert "box bob" in str(error)
    assert [change.resource.name for change in report.done] == ["ann"]


def test_when_all_went_well_every_change_is_done(engine: Engine) -> None:
    report = engine.apply()
    (server,) = report.servers
    assert [change.resource.name for change in server.done] == ["ann", "bob"]
    assert (server.failed, server.not_tried, server.error) == (None, (), None)
    assert report.done == server.done


def test_what_was_answered_for_is_done_even_if_the_server_goes_before_the_proof(engine: Engine) -> None:
    SHELF.goes_down_after = "LOCK bob $digest"
    report = engine.apply()
    (server,) = report.servers
    assert [change.resource.name for change in server.done] == ["ann", "bob"]
    assert server.not_tried == ()
    assert isinstance(server.error, ServerDown)


def test_one_server_that_fails_does_not_stop_the_others(project: Project) -> None:
    engine = Engine(Fleet(project, ProjectState(Path(project.root)), runtime=OneServerEach(project)))
    SHELF.fail_on = "MAKE ann"
    report = engine.apply()
    assert isinstance(report.error(), PartlyApplied)
    assert {server.server: bool(server.error) for server in report.servers} == {"toy-ann": True, "toy-bob": False}
    assert set(SHELF.boxes) == {"bob"}


def test_a_mistake_found_under_the_lock_costs_no_other_server_its_report(project: Project) -> None:
    engine = Engine(Fleet(project, ProjectState(Path(project.root)), runtime=OneServerEach(project)))
    plan = engine.plan()
    SHELF.numberless = "ann"
    first, second = engine.apply(plan=plan).servers
    assert isinstance(first.error, UsageError)
    assert first.not_tried
    assert [change.resource.name for change in second.done] == ["bob"]


def test_servers_are_read_side_by_side(project: Project) -> None:
    """Each inspection waits for the other one to begin."""
    engine = Engine(Fleet(project, ProjectState(Path(project.root)), runtime=OneServerEach(project)))
    SHELF.meet = threading.Barrier(2)
    assert not engine.plan().errors


def test_a_conflict_refuses_the_whole_apply(engine: Engine) -> None:
    SHELF.boxes["ann"] = Box(name="ann", colour="red")
    with pytest.raises(Conflict, match="box ann exists already") as caught:
        engine.apply()
    assert caught.value.exit_code == 3
    assert "--adopt ann" in str(caught.value.hint)
    assert SHELF.sent == []


def test_adopting_is_an_update_that_is_planned(engine: Engine) -> None:
    SHELF.boxes["ann"] = Box(name="ann", colour="red")
    assert engine.apply(Scope(apps=frozenset({"ann"}), adopt=frozenset({"ann"}))).error() is None
    assert SHELF.boxes["ann"].owner == Owner("shop", "ann")


def test_another_projects_box_cannot_be_adopted(engine: Engine) -> None:
    SHELF.boxes["ann"] = Box(name="ann", colour="red", owner=Owner("rival", "ann"))
    with pytest.raises(Conflict, match="rival/ann"):
        engine.apply(Scope(adopt=frozenset({"ann"})))


def test_a_lost_secret_is_refused_until_asked_for(engine: Engine) -> None:
    engine.apply()
    old = SHELF.keys["ann"]
    refs = [SecretRef("ann", "toy", name) for name in ("key", "digest")]
    engine.state.secrets.delete(refs)
    with pytest.raises(Conflict, match="not in the secret store") as caught:
        engine.apply()
    assert "--regenerate ann" in str(caught.value.hint)
    assert "--adopt" not in str(caught.value.hint)
    assert SHELF.keys["ann"] == old
    assert engine.apply(Scope(regenerate=frozenset({"ann"}))).error() is None
    assert SHELF.keys["ann"] != old
    assert engine.plan().in_sync


def test_when_an_app_got_its_first_credential_is_kept(engine: Engine) -> None:
    engine.apply()
    assert engine.state.read(FIRST_ISSUED) == engine.state.read(ISSUED)
    assert set(engine.state.read(ISSUED)) == {"ann", "bob"}
    before = "2026-01-01T00:00:00+00:00"
    for section in (ISSUED, FIRST_ISSUED):
        with engine.state.change(section) as issued:
            issued["ann"] = before
    with engine.state.change(FIRST_ISSUED) as first_issued:
        del first_issued["bob"]
    engine.state.secrets.delete([SecretRef(app, "toy", name) for app in ("ann", "bob") for name in ("key", "digest")])
    assert engine.apply(Scope(regenerate=frozenset({"ann", "bob"}))).error() is None
    assert engine.state.read(ISSUED)["ann"] > before
    assert engine.state.read(FIRST_ISSUED) == {"ann": before}, "of the other it is not known"


def test_new_credentials_are_for_the_apps_asked_for_alone(engine: Engine) -> None:
    engine.apply()
    keys = dict(SHELF.keys)
    engine.state.secrets.delete(SecretRef(app, "toy", name) for app in ("ann", "bob") for name in ("key", "digest"))
    plan = engine.plan(Scope(regenerate=frozenset({"ann"})))
    assert [(change.resource.name, change.action) for change in plan.changes] == [
        ("ann", Action.UPDATE),
        ("bob", Action.CONFLICT),
    ]
    assert engine.apply(Scope(apps=frozenset({"ann"}), regenerate=frozenset({"ann"}))).error() is None
    assert SHELF.keys["ann"] != keys["ann"]
    assert SHELF.keys["bob"] == keys["bob"]


def test_credentials_that_are_not_lost_are_never_replaced(engine: Engine) -> None:
    engine.apply()
    keys, sent = dict(SHELF.keys), len(SHELF.sent)
    assert engine.apply(Scope(regenerate=frozenset({"ann", "bob"}))).done == ()
    assert (SHELF.keys, len(SHELF.sent)) == (keys, sent)


def test_a_lost_derived_secret_is_made_from_the_one_that_is_there(engine: Engine) -> None:
    engine.apply()
    keys = dict(SHELF.keys)
    engine.state.secrets.delete([SecretRef("ann", "toy", "digest")])
    assert engine.apply(Scope(regenerate=frozenset({"ann"}))).error() is None
    assert SHELF.keys == keys


def test_a_credential_that_no_longer_fits_is_repaired_by_the_command_that_is_named(engine: Engine) -> None:
    """The password is of an old copy of the secrets, its verifier is not, and the server has that."""
    engine.apply()
    password = SecretRef("ann", "toy", "key")
    engine.state.secrets.put({password: Secret("from-an-old-copy")})
    assert engine.apply(Scope(apps=frozenset({"ann"}))).error() is None
    assert SHELF.keys["ann"] == digest(Secret("from-an-old-copy"))
    assert engine.state.secrets.get(SecretRef("ann", "toy", "digest")) == Secret(digest(Secret("from-an-old-copy")))
    assert engine.plan().in_sync


def test_verifiers_that_fit_are_left_alone(engine: Engine) -> None:
    engine.apply()
    keys, sent = dict(SHELF.keys), len(SHELF.sent)
    assert engine.apply(Scope(apps=frozenset({"ann"}))).done == ()
    assert (SHELF.keys, len(SHELF.sent)) == (keys, sent)


def test_a_lost_state_is_read_back_by_the_next_plan(engine: Engine) -> None:
    engine.apply()
    assert engine.state.read("numbers") == {"toy": {"ann": 1, "bob": 2}}
    (engine.state.folder / "state.json").unlink()
    assert engine.plan().in_sync
    assert engine.state.read("numbers") == {"toy": {"ann": 1, "bob": 2}}


def test_what_a_plan_would_still_change_is_not_written_down(engine: Engine) -> None:
    engine.apply()
    (engine.state.folder / "state.json").unlink()
    SHELF.keys["bob"] = "changed by hand"
    assert not engine.plan().in_sync
    assert engine.state.read("numbers") == {"toy": {"ann": 1}}


def test_a_lost_password_is_replaced_although_what_was_made_of_it_is_there(engine: Engine) -> None:
    engine.apply()
    SHELF.keys["ann"] = "changed by hand"
    engine.state.secrets.delete([SecretRef("ann", "toy", "key")])
    assert engine.apply().error() is None
    key = engine.state.secrets.get(SecretRef("ann", "toy", "key"))
    assert key is not None
    assert SHELF.keys["ann"] == digest(key)
    assert engine.plan().in_sync


def test_a_derived_secret_follows_its_source(engine: Engine) -> None:
    engine.apply()
    key = engine.state.secrets.get(SecretRef("ann", "toy", "key"))
    assert key is not None
    assert SHELF.keys["ann"] == digest(key)
    assert len(key.reveal()) >= 32


def test_secrets_are_written_before_the_first_statement(engine: Engine) -> None:
    SHELF.fail_on = "MAKE ann"
    engine.apply()
    assert SecretRef("ann", "toy", "key") in engine.state.secrets.refs()


def test_numbers_are_written_down_before_the_first_statement_and_never_given_twice(engine: Engine) -> None:
    engine.plan()
    assert engine.state.read("numbers") == {}, "a plan decides nothing"
    SHELF.fail_on = "MAKE bob"
    engine.apply(Scope(apps=frozenset({"bob"})))
    assert engine.state.read("numbers") == {"toy": {"ann": 1, "bob": 2}}
    later = Engine(
        Fleet(
            replace(
                engine.project, apps={name: replace(engine.project.apps["bob"], id=name) for name in ("eve", "bob")}
            ),
            engine.state,
            runtime=engine.fleet.runtime,
        )
    )
    SHELF.fail_on = ""
    assert later.apply().error() is None
    assert engine.state.read("numbers") == {"toy": {"ann": 1, "bob": 2, "eve": 3}}


def test_an_agreed_plan_that_no_longer_fits_is_stale(engine: Engine) -> None:
    plan = engine.plan()
    SHELF.boxes["ann"] = Box(name="ann", colour="red", owner=Owner("shop", "ann"))
    error = engine.apply(plan=plan).error()
    assert isinstance(error, StalePlan)
    assert SHELF.sent == []


def test_the_servers_lock_is_respected(engine: Engine) -> None:
    SHELF.locked_by = "multidb apply by eve"
    error = engine.apply().error()
    assert isinstance(error, Locked)
    assert "eve" in str(error)


def test_a_run_waits_for_its_turn_and_decides_then(engine: Engine) -> None:
    """Nobody agreed to a plan, so that what another run has done meanwhile is no reason to give up."""
    assert engine.apply().error() is None
    boxes = dict(SHELF.boxes)
    SHELF.boxes = {name: replace(box, colour="grey") for name, box in boxes.items()}
    SHELF.sent.clear()
    told: list[str] = []
    late = Engine(
        Fleet(
            engine.project,
            engine.state,
            runtime=engine.fleet.runtime,
            progress=lambda subject, message, done=None, total=None: told.append(message),
        )
    )
    with ThreadPoolExecutor(1) as pool:
        with engine.state.lock("apply-toy", "multidb add-app"):
            waiting = pool.submit(late.apply)
            while not any("waiting for multidb add-app" in message for message in told):
                time.sleep(0.01)
            SHELF.boxes["ann"] = boxes["ann"]
        assert waiting.result().error() is None
    assert [text for text in SHELF.sent if "ann" in text] == []
    assert [text for text in SHELF.sent if "bob" in text] != []
    assert late.plan().in_sync


def test_what_came_in_the_way_meanwhile_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = engine._refuse_removed

    def stranger(scope: Scope) -> None:
        SHELF.boxes["ann"] = Box(name="ann", colour="red")
        refuse(scope)

    monkeypatch.setattr(engine, "_refuse_removed", stranger)
    assert isinstance(engine.apply().error(), Conflict)
    assert SHELF.sent == []


def test_a_plan_is_made_while_somebody_applies(engine: Engine) -> None:
    SHELF.locked_by = "multidb apply by eve"
    with engine.state.lock("apply-toy", "multidb apply"):
        assert not engine.plan().errors
    assert SHELF.sent == []
    assert not engine.state.secrets.refs()


def test_the_projects_own_lock_is_respected(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.fleet.LOCK_TIMEOUT", 0.2)
    with engine.state.lock("apply-toy", "multidb apply"):
        assert isinstance(engine.apply().error(), Locked)
    assert SHELF.sent == []


def test_a_server_that_is_down_is_in_the_plan_and_the_report(engine: Engine) -> None:
    SHELF.down = True
    plan = engine.plan()
    assert isinstance(plan.errors[0][1], ServerDown)
    assert not plan.in_sync
    assert isinstance(engine.apply().error(), ServerDown)


def test_a_server_that_is_not_there_is_in_the_plan_with_what_to_do(project: Project) -> None:
    class Missing(OneServerEach):
        def servers(self) -> list[Server]:
            return [server for server in super().servers() if server.app == "bob"]

        def missing(self) -> list[ServerStatus]:
            return [
                ServerStatus("toy-ann", "toy", ServerState.STOPPED, None, "not started"),
                ServerStatus("toy-eve", "toy", ServerState.SKIPPED, None, "there is no wood here"),
                ServerStatus("toy-of-nobody", "toy", ServerState.STOPPED, None, "not started"),
            ]

        def names_for(self, app: App) -> list[str]:
            return [f"toy-{app.id}", "toy-eve"]

    engine = Engine(Fleet(project, ProjectState(Path(project.root)), runtime=Missing(project)))
    bob, ann, eve = engine.plan().servers
    assert not bob.error
    assert isinstance(ann.error, ServerDown)
    assert "multidb up" in str(ann.error.hint)
    assert (eve.error, eve.skipped) == (None, "there is no wood here")
    report = engine.apply()
    assert set(SHELF.boxes) == {"bob"}
    assert isinstance(report.error(), PartlyApplied)


def test_scope_limits_the_apps(engine: Engine) -> None:
    engine.apply(Scope(apps=frozenset({"bob"})))
    assert set(SHELF.boxes) == {"bob"}


def test_scope_limits_the_stores_and_the_depth(engine: Engine) -> None:
    assert engine.plan(Scope(stores=frozenset({"postgres"}))).servers == ()
    engine.plan(Scope(stores=frozenset({"toy"}), deep=False))
    engine.plan()
    assert SHELF.looks == [False, True]


def test_an_unknown_app_is_named_with_those_there_are(engine: Engine) -> None:
    with pytest.raises(UsageError) as caught:
        engine.plan(Scope(apps=frozenset({"eve"})))
    assert "ann, bob" in str(caught.value.hint)


def test_no_credentials_yet(engine: Engine) -> None:
    with pytest.raises(UsageError, match="no credential ann/toy/key"):
        environment(engine.fleet, "ann")


def test_stopping_reports_what_was_not_tried(engine: Engine) -> None:
    engine.stop()
    report = engine.apply()
    (server,) = report.servers
    assert server.error is not None
    assert server.not_tried
    assert isinstance(server.error, ServerError)


def test_memory_secrets_forget(engine: Engine) -> None:
    assert MemorySecretStore().refs() == frozenset()
    assert engine_module.Scope().wants(engine.project.apps["ann"])


def test_each_kind_of_conflict_has_a_way_out_that_works(engine: Engine) -> None:
    SHELF.boxes["ann"] = Box(name="ann", colour="red", owner=Owner("rival", "ann"))
    with pytest.raises(Conflict) as caught:
        engine.apply()
    assert "--adopt" not in str(caught.value.hint)
    assert "rival" in str(caught.value.hint)


def test_an_app_is_told_the_address_that_it_can_reach(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.apply()
    monkeypatch.setattr(engine.fleet.runtime, "app_endpoints", lambda: {"toy": Endpoint("shelf.internal", 7)})
    assert environment(engine.fleet, "ann").env["TOY_ADDRESS"] == "shelf.internal:7"


def test_apps_of_one_store_may_be_on_several_servers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each app has its place on the server that serves it, and is told the address of that one."""
    first = Server("first", "toy", Endpoint("shelf", 1), apps=frozenset({"ann"}))
    rest = Server("rest", "toy", Endpoint("shelf", 2), apps=frozenset(engine.project.apps) - {"ann"})
    monkeypatch.setattr(engine.fleet.runtime, "servers", lambda: [first, rest])
    planned = {each.server: {change.resource.app for change in each.changes} for each in engine.plan().servers}
    assert planned == {"first": {"ann"}, "rest": set(engine.project.apps) - {"ann"}}
    engine.apply()
    assert engine.plan().in_sync
    for app in engine.project.apps:
        place = environment(engine.fleet, app).env["TOY_ADDRESS"]
        assert place == ("shelf:1" if app == "ann" else "shelf:2")
    tenants, problems = engine.fleet.tenants(Scope())
    assert ({(each.app.id, each.server.name) for each in tenants}, problems) == (
        {(app, "first" if app == "ann" else "rest") for app in engine.project.apps},
        {},
    )


def test_settling_costs_no_app_what_is_in_the_way_of_another(engine: Engine) -> None:
    SHELF.boxes["ann"] = Box(name="ann", owner=Owner("rival", "ann"), colour="red")
    (report,) = engine.settle(Scope(apps=frozenset({"ann", "bob"})))
    assert [type(error) for error in report.errors_of("ann")] == [Conflict]
    assert report.errors_of("bob") == ()
    assert SHELF.boxes["bob"].owner == Owner("shop", "bob")
    assert SHELF.boxes["ann"].owner == Owner("rival", "ann")
    SHELF.down = True
    (down,) = engine.settle(Scope(apps=frozenset({"ann", "bob"})))
    assert [type(error) for error in down.errors_of("bob")] == [ServerDown]
