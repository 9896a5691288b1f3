"""Rotations of several apps, on a Qdrant in memory: what one suffers is its own; steps that do not fit are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from multidb import rotation as rotation_module
from multidb import rotation_state
from multidb.alternation import Alternation, RotationPhase, alternations, record_alternation
from multidb.closure import Closure
from multidb.errors import AuthenticationFailed, MultidbError, PartlyApplied, Refused, ServerDown, UsageError
from multidb.model import Health, Provisioner, Status, Tenant
from multidb.provisioners import provisioner
from multidb.provisioners.qdrant.provision.session import QdrantSession
from multidb.report import ServerReport
from multidb.rotation import Rotation, Write
from multidb.secrets import Alternate
from multidb.state import ProjectState
from tests.unit.qdrant.rotated_apps import World

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
APPS = ("lernmi", "devao")


def unchanged(apps: Sequence[str]) -> dict[str, bool | MultidbError]:
    return dict.fromkeys(apps, False)


def rotating(world: World, write: Write = unchanged) -> Rotation:
    return Rotation(world.engine, APPS, None, write, clock=lambda: NOW)


def entries(world: World) -> dict[str, Alternation]:
    return {app: entry for (app, _), entry in alternations(world.state).items()}


def phases(world: World) -> dict[str, RotationPhase]:
    return {app: entry.phase for app, entry in entries(world).items()}


def put(world: World, app: str, phase: RotationPhase) -> None:
    record_alternation(world.state, [replace(entries(world)[app], phase=phase)])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has rotations see another Qdrant."""

    def other(**fields: object) -> None:
        def found(name: str) -> Provisioner:
            return replace(provisioner(name), **fields)  # type: ignore[arg-type]

        for module in (rotation_module, rotation_state):
            monkeypatch.setattr(module, "provisioner", found)

    return other


def test_all_are_rotated_by_one(world: World) -> None:
    old = {app: world.token(app) for app in APPS}
    rotation = rotating(world)
    rotation.prepare(APPS)
    assert rotation.errors == {}
    assert all(entry.issued[Alternate.SECOND] == NOW for entry in entries(world).values())
    assert all(world.lets_in(old[app], app) and world.lets_in(world.token(app), app) for app in APPS)
    assert rotation.finish(APPS, force=True).keys() == set(APPS)
    assert rotation.errors == {}
    assert not any(world.lets_in(old[app], app) for app in APPS)
    assert all(world.lets_in(world.token(app), app) for app in APPS)
    assert set(phases(world).values()) == {RotationPhase.DONE}


def test_a_new_one_that_does_not_work_is_told_to_nobody(world: World, store: Callable[..., None]) -> None:
    old = {app: world.token(app) for app in APPS}

    def check(tenant: Tenant, may_write: bool) -> Health:
        status = Status.UNHEALTHY if tenant.app.id == "lernmi" else Status.HEALTHY
        return Health(status, "it is not there")

    store(check_health=check)
    rotation = rotating(world)
    rotation.prepare(APPS)
    assert rotation.errors.keys() == {"lernmi"}
    assert isinstance(rotation.errors["lernmi"], PartlyApplied)
    assert phases(world) == {"lernmi": RotationPhase.PREPARING, "devao": RotationPhase.PREPARED}
    assert (world.token() == old["lernmi"], world.token("devao") == old["devao"]) == (True, False)


def test_a_former_one_that_still_works_is_said(world: World, store: Callable[..., None]) -> None:
    rotating(world).prepare(APPS)

    def check(tenant: Tenant, may_write: bool) -> Health:
        if tenant.app.id == "devao":
            raise AuthenticationFailed("no")
        return Health(Status.HEALTHY, "read")

    store(check_health=check)
    rotation = rotating(world)
    rotation.finish(APPS, force=True)
    assert "still works" in rotation.errors["lernmi"].message
    assert phases(world) == {"lernmi": RotationPhase.FINISHING, "devao": RotationPhase.DONE}


def test_what_was_begun_is_finished_before_the_next(world: World) -> None:
    first = world.token()
    rotating(world).prepare(APPS)
    put(world, "lernmi", RotationPhase.FINISHING)
    rotation = rotating(world)
    rotation.prepare(APPS)
    assert rotation.errors == {}
    assert phases(world) == dict.fromkeys(APPS, RotationPhase.PREPARED)
    assert not world.lets_in(first)
    assert entries(world)["lernmi"].current is Alternate.FIRST, "the one after"
    assert entries(world)["devao"].current is Alternate.SECOND, "which was prepared already"


def test_steps_that_do_not_fit_are_refused_and_change_nothing(world: World) -> None:
    rotating(world).prepare(APPS)
    put(world, "lernmi", RotationPhase.FINISHING)
    rotation = rotating(world)
    assert rotation.revert(APPS) == {"devao"}
    assert "too late" in rotation.errors["lernmi"].message
    assert phases(world) == {"lernmi": RotationPhase.FINISHING, "devao": RotationPhase.REVERTED}
    put(world, "lernmi", RotationPhase.PREPARING)
    rotation = rotating(world)
    rotation.finish(APPS, force=True)
    assert "not all made yet" in rotation.errors["lernmi"].message
    assert phases(world) == {"lernmi": RotationPhase.PREPARING, "devao": RotationPhase.DONE}


def test_what_was_taken_back_goes_on_with_the_same(world: World) -> None:
    rotating(world).prepare(APPS)
    new = world.token()
    rotating(world).revert(APPS)
    assert world.token() != new
    rotating(world).prepare(APPS)
    assert world.token() == new


def test_variables_that_are_new_only_now_turn_nothing_off(world: World) -> None:
    rotating(world).prepare(APPS)
    rotation = rotating(world, lambda apps: {app: app == "lernmi" for app in apps})
    rotation.finish(APPS, force=False, after=timedelta(0))
    assert "only since now" in rotation.errors["lernmi"].message
    assert phases(world) == {"lernmi": RotationPhase.PREPARED, "devao": RotationPhase.DONE}


def test_variables_that_cannot_be_written_are_the_apps_error(world: World) -> None:
    full = UsageError("no space left on device")
    rotation = rotating(world, lambda apps: {app: full if app == "lernmi" else True for app in apps})
    rotation.prepare(APPS)
    rotation.finish(APPS, force=True)
    assert rotation.errors == {"lernmi": full}
    assert phases(world) == {"lernmi": RotationPhase.PREPARED, "devao": RotationPhase.DONE}


def test_what_cannot_be_written_together_is_written_by_itself(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = rotation_module.record_alternation

    def recorded(state: ProjectState, begun: Sequence[Alternation]) -> None:
        if any(entry.app == "lernmi" for entry in begun):
            raise UsageError("another run has changed it")
        work(state, begun)

    monkeypatch.setattr(rotation_module, "record_alternation", recorded)
    rotation = rotating(world)
    rotation.prepare(APPS)
    assert rotation.errors.keys() == {"lernmi"}
    assert phases(world) == {"devao": RotationPhase.PREPARED}


def test_an_app_that_is_closed_or_has_nothing_to_rotate(
    world: World,
    store: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closure = Closure("lernmi", "devao", masked=False)
    monkeypatch.setattr(rotation_module, "closures", lambda state: {"lernmi": closure})
    rotation = rotating(world)
    assert {app: error.message for app, error in rotation.errors.items()} == {"lernmi": closure.why}
    assert rotation.unable == set()
    store(rotates=lambda app, facts: "it has none" if app.id == "devao" else "")
    rotation = rotating(world)
    assert rotation.unable == {"devao"}
    assert isinstance(rotation.errors["devao"], Refused)
    assert rotation.left_out == {"devao": {"qdrant": "it has none"}}
    rotation.prepare(APPS)
    assert phases(world) == {}


def test_who_cannot_be_asked_turns_nothing_off(
    world: World,
    store: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rotating(world).prepare(APPS)

    def silent(session: QdrantSession, credentials: object) -> dict[str, object]:
        raise ServerDown("it does not answer")

    monkeypatch.setattr(QdrantSession, "in_use", silent)
    store(tells_use=True)
    rotation = rotating(world)
    assert rotation.finish(APPS, force=True) == {}
    assert rotation.errors.keys() == set(APPS)
    assert phases(world) == dict.fromkeys(APPS, RotationPhase.PREPARED)


def test_what_could_not_be_read_of_one_is_no_error_of_another() -> None:
    error = ServerDown("its database does not answer")
    report = ServerReport("postgres", "postgres", unread={"ann": error})
    assert report.errors_of("ann") == (error,)
    assert report.errors_of("bob") == ()
