"""What every store promises, on real servers and without mocks. One suite; a store adds cases, not tests.

The engine under test is the real one; only the runtime is replaced by one that hands out the test's own server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from multidb import errors, files
from multidb.alternation import alternations
from multidb.closure import Closure, close, reopen
from multidb.connections import first_problem, try_connections
from multidb.engine import Engine
from multidb.environment import environment, standing
from multidb.errors import (
    AuthenticationFailed,
    Conflict,
    Locked,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
    StalePlan,
    UsageError,
)
from multidb.fleet import Fleet, Scope
from multidb.model import Action, App, AppAccess, Isolation, Level, Project, RuntimeKind, ServerSpec
from multidb.orphans import orphans
from multidb.rotation_state import UnknownUse
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.contract.cases import CASES
from tests.support.case import NOT_LET_IN, RealServer, Refused, StoreCase, Tenant
from tests.support.given_runtime import GivenRuntime
from tests.support.load import TIMEOUT, at_work, failures, go_on
from tests.support.rotating import OneRotation

pytestmark = pytest.mark.server

_numbers = itertools.count(1)


class World:
    """One store on one real server, with an empty project of its own for each test."""

    def __init__(self, case: StoreCase, real: RealServer, folder: Path) -> None:
        self.case = case
        self.real = real
        self.folder = folder
        self.names: list[str] = []
        self.state = ProjectState(folder)

    def project(self, *apps: str, **options: Any) -> Project:
        settings = self.case.provisioner.app_options(**{**self.case.app_options, **options})
        store = self.case.provisioner.name
        return Project(
            name="contract",
            runtime=RuntimeKind.EMBEDDED,
            apps={app: App(app, app.replace("_", "-"), {store: settings}, where=f"multidb.yaml:{app}") for app in apps},
            servers=(ServerSpec(store, store, self.real.options),),
            root=str(self.folder),
        )

    def engine(self, *apps: str, real: RealServer | None = None, **options: Any) -> Engine:
        runtime = GivenRuntime(real or self.real)
        return Engine(Fleet(self.project(*apps, **options), self.state, runtime=runtime, command="test"))

    def apply(self, *apps: str, **options: Any) -> Engine:
        engine = self.engine(*apps, **options)
        report = engine.apply()
        assert report.error() is None, report.error()
        return engine

    def tenant(self, engine: Engine, app: str) -> Tenant:
        env = environment(engine.fleet, app).env
        return Tenant(app, {k: v.reveal() if isinstance(v, Secret) else v for k, v in env.items()})

    def rotation(self, app: str, write: Callable[[], bool] | None = None) -> OneRotation:
        engine = self.engine(app)

        def written() -> bool:
            before = self.variables(app) if self._file(app).exists() else None
            files.write_text(self._file(app), json.dumps(dict(self.tenant(engine, app).env)))
            return self.variables(app) != before

        return OneRotation(engine, app, write or written)

    def variables(self, app: str) -> Tenant:
        """The app as it comes when it has read what a rotation has written for it."""
        return Tenant(app, json.loads(self._file(app).read_text()))

    def _file(self, app: str) -> Path:
        return self.folder / f"{app}.json"

    def app(self) -> str:
        name = f"t{next(_numbers)}_{random.SystemRandom().randrange(36**4):x}"
        self.names.append(name)
        return name

    def clean(self) -> None:
        while self.names:
            self.case.remove(self.real, self.names.pop())


@pytest.fixture(
    scope="session",
    params=[pytest.param(case, id=case.name, marks=[pytest.mark.rare] if case.rare else []) for case in CASES],
)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[StoreCase, RealServer]]:
    case: StoreCase = request.param
    with case.start(tmp_path_factory.mktemp(case.name)) as real:
        yield case, real


@pytest.fixture
def world(served: tuple[StoreCase, RealServer], tmp_path: Path) -> Iterator[World]:
    case, real = served
    world = World(case, real, tmp_path)
    yield world
    world.clean()


def test_apply_then_the_plan_is_empty(world: World) -> None:
    app = world.app()
    engine = world.engine(app)
    plan = engine.plan()
    assert plan.changes, "a new app needs something"
    assert all(change.action is Action.CREATE or change.resource.app is None for change in plan.changes)
    assert engine.apply().error() is None
    assert engine.plan().in_sync
    assert world.engine(app).plan().in_sync, "nothing depends on what the first engine remembers"


def test_a_closed_app_has_no_login_that_is_on_until_it_is_reopened(world: World) -> None:
    app = world.app()
    engine = world.engine(app)
    server, entry = world.real.server, engine.project.apps[app]

    def to_turn_off() -> list[str]:
        with engine.fleet.open(server) as session:
            return [each.text for each in session.suspension(entry, engine.fleet.context(server, session))]

    close(world.state, Closure(app, "original", masked=False))
    assert engine.apply().error() is None
    assert engine.plan().in_sync
    assert to_turn_off() == [], "made without one"
    reopen(world.state, app)
    assert engine.apply().error() is None
    world.case.use(world.tenant(engine, app))
    close(world.state, Closure(app, "original", masked=False))
    engine.fleet.suspend(entry, server)
    assert engine.apply().error() is None
    assert to_turn_off() == [], "turned on by an apply"
    reopen(world.state, app)
    assert engine.apply().error() is None
    world.case.use(world.tenant(engine, app))


def test_a_person_at_the_prompt_is_the_app(world: World) -> None:
    app = world.app()
    engine = world.apply(app)
    make = world.case.provisioner.client
    assert make is not None
    [tenant], _ = engine.fleet.tenants(Scope())
    if not world.case.typed:
        with pytest.raises(UsageError, match="no server to connect to"):
            make(tenant, AppAccess.WORK)
        return
    client = make(tenant, AppAccess.WORK)
    secrets = [value.reveal() for value in tenant.env.values() if isinstance(value, Secret)]
    assert secrets
    assert not any(secret in argument for secret in secrets for argument in client.arguments)
    with client.prompt() as ask:
        for statement, expected in world.case.typed.items():
            answer = ask(statement.replace("{app}", app))
            assert expected.replace("{app}", app) in str(answer.rows)
        with pytest.raises(NotAllowed):
            ask(world.case.refused)
        assert ask(list(world.case.typed)[-1].replace("{app}", app)).rows, "a refusal is the end of nothing"


def test_an_app_that_no_manifest_has_is_seen_on_the_server(world: World) -> None:
    app = world.app()
    known = world.apply(app)
    assert orphans(known.fleet) == {}
    found = orphans(world.engine().fleet)
    if world.real.server.app is not None:  # a server of one app, which goes with it
        assert found == {}
        return
    assert found.keys() == {app}
    (things,) = found[app].values()
    assert things
    assert all(app in thing or thing == "token" for thing in things)


def test_planning_changes_nothing(world: World) -> None:
    engine = world.engine(world.app())
    assert engine.plan().digest == engine.plan().digest
    assert not world.state.secrets.refs()


def test_what_the_admin_may_do_is_said_and_is_enough(world: World) -> None:
    engine = world.apply(world.app())
    (server,) = engine.fleet.servers(Scope())
    with engine.fleet.open(server) as session:
        said = session.admin_rights(engine.fleet.context(server, session), engine.fleet.apps_of(server))
    assert said
    assert {finding.subject for finding in said} == {server.name}
    assert [finding for finding in said if finding.level is Level.ERROR] == []
    assert engine.plan().changes == ()
    assert first_problem(try_connections(engine.fleet)) is None


def test_what_an_admin_lacks_is_said(world: World, subtests: Any) -> None:
    if not world.case.lesser:
        pytest.skip("every login of an admin may do everything here")
    for lesser in world.case.lesser:
        with subtests.test(lesser.name), lesser.login(world.real) as (server, password):
            engine = world.engine(world.app(), real=replace(world.real, server=server, admin=password))
            (connection,) = try_connections(engine.fleet)
            problem = connection.problem
            assert (problem is not None) is lesser.work
            assert lesser.lacks in f"{problem} {connection.findings}"
            assert problem is None or problem.exit_code == 4
            assert problem is None or problem.hint


def test_the_app_works_with_its_own_credentials(world: World) -> None:
    app = world.app()
    world.case.use(world.tenant(world.apply(app), app))


def test_no_statement_or_plan_holds_a_secret(world: World) -> None:
    app = world.app()
    engine = world.engine(app)
    before = engine.plan()
    engine.apply()
    secrets = [world.state.secrets.get(ref) for ref in world.state.secrets.refs()]
    text = repr(before.document()) + repr(before)
    assert all(secret is not None and secret.reveal() not in text for secret in secrets)


def test_each_drift_is_seen_and_repaired(world: World, subtests: Any) -> None:
    """Everything that an operator can change by hand is found, named and put right."""
    if not world.case.drifts:
        pytest.skip(f"{world.case.name} has nothing that can drift by hand")
    app = world.app()
    engine = world.apply(app)
    for drift in world.case.drifts:
        with subtests.test(msg=drift.name):
            drift.damage(world.real, app)
            plan = engine.plan()
            assert plan.changes, f"{drift.name} was not seen"
            assert not plan.conflicts, plan.conflicts
            if drift.fields:
                seen = {field.field for change in plan.changes for field in change.fields}
                seen |= {change.resource.kind for change in plan.changes}
                assert seen & set(drift.fields), f"{drift.name} was seen as {sorted(seen)}"
            assert engine.apply(plan=plan).error() is None, f"{drift.name} was not repaired"  # it has looked once more
    assert engine.plan().in_sync
    world.case.use(world.tenant(engine, app))


def test_each_threat_is_refused(world: World, subtests: Any) -> None:
    """App A cannot reach what is B's; every probe is tried on A's own things first, where it must work."""
    if world.case.instance or not world.case.threats:
        pytest.skip(f"{world.case.name} serves one app per server; its walls are tested between servers")
    first, second = world.app(), world.app()
    engine = world.apply(first, second)
    attacker, victim = world.tenant(engine, first), world.tenant(engine, second)
    world.case.use(attacker)
    world.case.use(victim)
    for threat in world.case.threats:
        with subtests.test(msg=threat.name):
            if threat.control is not None:
                threat.control(attacker)
            if world.case.attackable:
                with pytest.raises(Refused):
                    threat.attempt(attacker, victim)
            else:
                threat.attempt(attacker, victim)
    assert engine.plan().in_sync, "an attack left a trace"


def test_the_printed_isolation_is_the_real_one(world: World) -> None:
    app = world.app()
    (stands,) = standing(world.apply(app).fleet, app).values()
    level = Isolation(stands.isolation)
    assert stands.why
    if world.case.attackable or world.case.instance:
        assert level is not Isolation.NAMING_ONLY
    else:
        assert level is Isolation.NAMING_ONLY


def test_what_exists_unmarked_is_a_conflict_and_stays(world: World) -> None:
    app, other = world.app(), world.app()
    world.case.squat(world.real, app)
    engine = world.engine(app)
    plan = engine.plan()
    assert plan.conflicts
    with pytest.raises(Conflict) as caught:
        engine.apply()
    assert f"--adopt {app}" in (caught.value.hint or "")
    assert world.case.squatted(world.real, app)
    if not world.case.instance:
        world.apply(other)
        assert world.case.squatted(world.real, app)


def test_adopting_takes_over_and_keeps_the_data(world: World) -> None:
    app = world.app()
    world.case.squat(world.real, app)
    engine = world.engine(app)
    report = engine.apply(Scope(adopt=frozenset({app})))
    assert report.error() is None, report.error()
    assert engine.plan().in_sync
    assert world.case.squatted(world.real, app)
    world.case.use(world.tenant(engine, app))


def test_what_another_manifest_made_is_a_conflict_that_cannot_be_adopted(world: World, tmp_path: Path) -> None:
    if world.case.instance:
        pytest.skip("an instance belongs to one project's folder")
    app = world.app()
    world.apply(app)
    rival = Engine(
        Fleet(
            replace(world.project(app), name="rival"),
            ProjectState(tmp_path / "rival"),
            runtime=GivenRuntime(world.real),
        )
    )
    assert rival.plan(Scope(adopt=frozenset({app}))).conflicts


def test_a_second_apply_changes_nothing(world: World) -> None:
    app = world.app()
    world.apply(app)
    report = world.apply(app).apply()
    assert report.done == ()


def test_an_apply_that_finds_the_lock_taken_is_refused_or_waits(world: World) -> None:
    """Eight applies of the same project at once: none breaks another, and in the end all is as it should be."""
    app = world.app()
    errors: list[object] = []

    def work() -> None:
        try:
            error = world.engine(app).apply().error()
        except Exception as problem:
            error = problem  # type: ignore[assignment]
        if error is not None:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) < 8, errors
    assert {getattr(error, "code", error) for error in errors} <= {"locked", "stale-plan"}, errors
    assert world.engine(app).plan().in_sync


def test_a_plan_takes_no_lock_and_waits_for_none(world: World) -> None:
    app = world.app()
    engine = world.engine(app)
    server = world.real.server
    if server.endpoint.path:
        pytest.skip("a local folder is open to one process at a time, whatever it does")
    before = engine.plan().digest
    connect = world.case.provisioner.connect
    with (
        world.state.lock(f"apply-{server.name}", "multidb add-app"),
        connect(server, world.real.admin, "multidb test") as session,
        session.lock("contract", "multidb apply"),
    ):
        started = time.monotonic()
        plan = engine.plan()
        assert time.monotonic() - started < 25, "a lock is waited for for 30 s"
    assert not plan.errors
    assert plan.digest == before


def test_the_lock_names_its_holder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.fleet.LOCK_TIMEOUT", 0.2)
    app = world.app()
    engine = world.engine(app)
    server = world.real.server
    with world.state.lock(f"apply-{server.name}", "multidb add-app"):
        error = engine.apply().error()
    assert isinstance(error, Locked)
    assert "multidb add-app" in str(error)
    assert "since" in str(error)


def test_nothing_listens(world: World) -> None:
    if world.real.server.endpoint.path:
        pytest.skip("a local folder has no address")
    endpoint = world.case.down or replace(world.real.server.endpoint, port=1)
    gone = replace(world.real, server=replace(world.real.server, endpoint=endpoint))
    (_, error), *_ = world.engine(world.app(), real=gone).plan().errors
    assert isinstance(error, ServerDown), error
    assert error.hint


def test_wrong_password(world: World) -> None:
    if world.real.admin is None:
        pytest.skip(f"{world.case.name} has no passwords")
    wrong = replace(world.real, admin=Secret("not-the-password-of-anyone"))
    (_, error), *_ = world.engine(world.app(), real=wrong).plan().errors
    assert isinstance(error, AuthenticationFailed), error
    assert "not-the-password-of-anyone" not in str(error) + str(error.hint)


def test_a_server_that_accepts_and_says_nothing(world: World) -> None:
    """A stopped process (SIGSTOP) accepts connections and never answers; it costs one timeout."""
    if world.real.pid is None:
        pytest.skip("the server is not a process of this test run")
    frozen = replace(world.real, server=replace(world.real.server, timeout=1.5))
    engine = world.engine(world.app(), real=frozen)
    import psutil

    process = psutil.Process(world.real.pid)
    family = [process, *process.children(recursive=True)]

    def tell(sent: signal.Signals) -> None:
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # a child that ends by itself meanwhile
                each.send_signal(sent)

    tell(signal.SIGSTOP)
    try:
        started = time.monotonic()
        (_, error), *_ = engine.plan().errors
        elapsed = time.monotonic() - started
    finally:
        tell(signal.SIGCONT)
    assert isinstance(error, ServerSlow), error
    assert elapsed < 15


def test_a_server_that_goes_away_is_an_error_not_a_traceback(world: World) -> None:
    if world.real.kill is None or world.real.restart is None:
        pytest.skip("the server is not a process of this test run")
    apps = [world.app() for _ in range(1 if world.case.instance else 6)]
    engine = world.engine(*apps)
    killer = threading.Timer(0.15, world.real.kill)
    killer.start()
    try:
        error = engine.apply().error()
    except ServerError as caught:
        error = caught
    finally:
        killer.join()
        world.real.restart()
    assert error is None or isinstance(error, ServerError) or error.exit_code == 5, error
    assert world.engine(*apps).apply().error() is None
    assert world.engine(*apps).plan().in_sync


# The more are per case; with the cases of a full run this makes more than the fifty that are promised.
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.rare)])
def test_killed_anywhere_the_next_apply_converges(world: World, kills: int) -> None:
    """kill -9 at random points of an apply. The seed is printed so that a failure can be run again."""
    if world.real.server.endpoint.path:
        pytest.skip("the local folder is held by one process; its kills are in the store's own tests")
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    randomly = random.Random(seed)
    script = Path(__file__).with_name("apply_once.py")
    for _ in range(2 if world.case.instance else kills):
        apps = [world.app() for _ in range(1 if world.case.instance else 2)]
        spec = world.folder / "spec.json"
        GivenRuntime.save(spec, world.case.name, world.real, apps, world.folder)
        child = subprocess.Popen([sys.executable, str(script), str(spec)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(randomly.uniform(0, 0.25))
        child.kill()
        child.wait()
        child.stdout.close()
        deadline = time.monotonic() + 30
        # What the killed apply sent last may still be carried out: a lock is held, or a plan made meanwhile is stale.
        while isinstance(error := world.engine(*apps).apply().error(), Locked | StalePlan):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert error is None, f"seed {seed}: {error}"
        engine = world.engine(*apps)
        assert engine.plan().in_sync, f"seed {seed}"
        for app in apps:
            world.case.use(world.tenant(engine, app))
        world.clean()


_ENDED = "(?i)terminat|closed|connection"


def _rotating(world: World) -> str:
    """An app whose credentials can be rotated; else says that they cannot."""
    app = world.app()
    engine = world.apply(app)
    with engine.fleet.open(world.real.server) as session:
        why = world.case.provisioner.rotates(engine.project.apps[app], session.facts)
    if why:
        with pytest.raises(errors.Refused, match=re.escape(why)):
            world.rotation(app)
        pytest.skip(f"{world.case.name}: {why}")
    return app


def test_adopting_rotates_nothing(world: World) -> None:
    """Also what stands in the middle of a rotation is adopted as it is."""
    app = _rotating(world)
    before = world.tenant(world.engine(app), app)
    adopting = Scope(adopt=frozenset({app}))
    assert world.engine(app).apply(adopting).error() is None
    assert alternations(world.state) == {}
    assert world.tenant(world.engine(app), app) == before
    world.case.use(before)
    world.rotation(app).prepare()
    (entry,) = alternations(world.state).values()
    assert world.engine(app).apply(adopting).error() is None
    assert alternations(world.state) == {(app, entry.store): entry}
    world.case.use(before)
    world.case.use(world.variables(app))


def full_disk() -> bool:
    raise OSError("no space left on device")


def test_both_credentials_work_until_the_old_one_is_turned_off(world: World) -> None:
    app = _rotating(world)
    old = world.tenant(world.engine(app), app)
    world.case.use(old)
    with pytest.raises(OSError, match="no space"):
        world.rotation(app, full_disk).prepare()
    world.case.use(old)
    world.rotation(app).prepare()
    new = world.variables(app)
    assert _secrets(old).isdisjoint(_secrets(new))
    world.case.use(old)
    world.case.use(new)
    assert world.engine(app).plan().in_sync
    assert world.apply(app).plan().in_sync
    world.rotation(app).prepare()
    assert world.variables(app) == new, "prepared once"
    with world.case.session(old) if world.case.session is not None else contextlib.nullcontext() as ask:
        with pytest.raises(errors.Refused, match="in use"):
            world.rotation(app).finish(force=False)
        world.case.use(old)
        (use,) = world.rotation(app).finish(force=True).values()
        if ask is not None:
            assert not isinstance(use, UnknownUse)
            assert sum(one.sessions for one in use) == 1
            with pytest.raises(Exception, match=_ENDED):
                ask()
    with pytest.raises(Exception, match=NOT_LET_IN):
        world.case.use(old)
    world.case.use(new)
    assert world.engine(app).plan().in_sync
    assert world.rotation(app).finish(force=False) == {}, "done"
    with world.state.change("alternation") as section:
        section.clear()
    assert world.engine(app).plan().in_sync, "the server knows which is on"
    assert world.tenant(world.engine(app), app) == new, "and it is written down"


def test_a_rotation_goes_back_and_the_next_one_has_another_secret(world: World) -> None:
    app = _rotating(world)
    first = world.tenant(world.engine(app), app)
    world.rotation(app).prepare()
    second = world.variables(app)
    assert world.rotation(app).revert()
    assert world.variables(app).env == first.env
    world.case.use(second)
    world.rotation(app).finish(force=False, after=timedelta(0))
    with pytest.raises(Exception, match=NOT_LET_IN):
        world.case.use(second)
    world.case.use(first)
    for _ in range(2):
        former = world.variables(app)
        world.rotation(app).prepare()
        world.rotation(app).finish(force=True)
        with pytest.raises(Exception, match=NOT_LET_IN):
            world.case.use(former)
        world.case.use(world.variables(app))
        assert _secrets(world.variables(app)).isdisjoint(_secrets(first) | _secrets(second))
    assert world.engine(app).plan().in_sync


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.rare)])
def test_apps_that_read_their_variables_again_lose_no_request(world: World, times: int) -> None:
    if not world.case.clients:
        pytest.skip(f"{world.case.name}: no clients of it are written yet")
    app = _rotating(world)
    world.rotation(app).prepare()
    with at_work(world.case.clients, lambda: world.variables(app)) as loads:
        for _ in range(times):
            finish_when_unused(world.rotation(app))
            go_on(loads)
            world.rotation(app).prepare()
            go_on(loads)
            if not world.case.provisioner.tells_use:
                time.sleep(TAKEN_UP)
        assert failures(loads) == {}
    assert failures(loads) == {}, "at the end, nothing that was sent is missing"


TAKEN_UP = 2.0
"""The seconds in which every client has read its variables again; for stores that cannot tell who uses what."""


def finish_when_unused(rotation: OneRotation) -> None:
    """Nobody is thrown out: who reads its variables again leaves the former credential by itself."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            rotation.finish(force=False, after=timedelta(0))
            return
        except errors.Refused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_an_app_that_does_not_read_its_variables_again_is_refused_in_the_end(world: World) -> None:
    """Else nothing follows from the requests that the others did not lose."""
    if not world.case.clients:
        pytest.skip(f"{world.case.name}: no clients of it are written yet")
    app = _rotating(world)
    world.rotation(app).prepare()
    with at_work(world.case.clients, lambda: world.variables(app), rereads=False) as loads:
        world.rotation(app).finish(force=True)  # of what was there before
        world.rotation(app).prepare()
        go_on(loads)
        assert failures(loads) == {}
        if world.case.session is not None:
            with pytest.raises(errors.Refused, match="in use"):
                world.rotation(app).finish(force=False)
        world.rotation(app).finish(force=True)
        go_on(loads, requests=10**9)
    assert failures(loads).keys() == world.case.clients.keys()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.rare)])
def test_a_rotation_killed_anywhere_is_finished_by_the_next(world: World, kills: int) -> None:
    """However far it came, the app comes in with the variables that it has then."""
    app = _rotating(world)
    if world.real.server.endpoint.path:
        pytest.skip("the local folder is held by one process")
    world.rotation(app).prepare()
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    randomly = random.Random(seed)
    script = Path(__file__).with_name("apply_once.py")
    for _ in range(kills):
        spec = world.folder / "spec.json"
        GivenRuntime.save(spec, world.case.name, world.real, [app], world.folder)
        child = subprocess.Popen([sys.executable, str(script), str(spec), "rotate"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(randomly.uniform(0, 1.0))
        child.kill()
        child.wait()
        child.stdout.close()
        world.case.use(world.variables(app))
        assert world.engine(app).apply().error() is None, f"seed {seed}"
        world.case.use(world.variables(app))
        if randomly.random() < 0.5:
            world.rotation(app).prepare()
        else:
            with contextlib.suppress(errors.Refused):  # too late to go back
                world.rotation(app).revert()
            world.rotation(app).finish(force=True)
        world.case.use(world.variables(app))
        assert world.engine(app).plan().in_sync, f"seed {seed}"


def _secrets(tenant: Tenant) -> set[str]:
    return {
        value for name, value in tenant.env.items() if re.search("URL|PASSWORD|API_KEY", name) and name != "QDRANT_URL"
    }
