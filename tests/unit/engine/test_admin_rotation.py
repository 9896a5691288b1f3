"""The rotation of an admin's password, interrupted at every one of its effects, on servers of every way to take it.

Server, state and secrets are in memory, each write of them one effect. Whatever it was interrupted by, one of the
passwords that are kept is let in, and the same again, or the way back, comes to an end.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from multidb import admin_rotation
from multidb.admin_credentials import (
    AdminPhase,
    admin_changes,
    admin_ref,
    alternate_password,
    former_ref,
    next_ref,
    other_password,
)
from multidb.admin_rotation import AdminRotation
from multidb.errors import AuthenticationFailed, MultidbError, PartlyApplied, Refused, ServerDown
from multidb.model import AdminPassword, Endpoint, Facts, Server, Statement
from multidb.report import Report
from multidb.runtime import Restarted, ServerState, ServerStatus
from multidb.secrets import MemorySecretStore, Secret, SecretRef, SecretStore
from multidb.state import ProjectState

SERVER = Server("shelf", "toy", Endpoint(host="127.0.0.1", port=1, user="root"))
FORMER = Secret("the-former-password-of-the-admin")


class Killed(BaseException):
    """The run ends here, as by kill -9."""


@dataclass
class Way:
    """How a server takes a password.

    Args:
        adds: it knows two; else another takes the place of the one that it has.
        tells: a container's environment gives it its password at each start.
    """

    name: str
    adds: bool = False
    at_start: bool = False
    signs: bool = False
    tells: bool = False

    @property
    def in_two_steps(self) -> bool:
        return self.at_start or self.signs or self.tells


WAYS = (
    Way("replaced"),
    Way("two of one user", adds=True),
    Way("two of one user, told by its container", adds=True, tells=True),
    Way("two keys at its start, which sign", at_start=True, signs=True),
)


class _State:
    """As far as it is asked."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, Any]] = {}
        self.folder, self.where_secrets_are = Path("nowhere"), "memory"
        self.secrets = MemorySecretStore()

    def read(self, section: str) -> dict[str, Any]:
        return copy.deepcopy(self.sections.get(section, {}))

    def entries(self, section: str, of: str, understand: Callable[[str, Any], Any]) -> dict[str, Any]:
        return {name: understand(name, entry) for name, entry in self.read(section).items()}

    @contextlib.contextmanager
    def change(self, section: str) -> Iterator[dict[str, Any]]:
        changed = self.read(section)
        yield changed
        self.sections[section] = changed


@dataclass
class World:
    """A server, what is kept of it, and a run that may be killed at one of its effects."""

    way: Way
    state: Any
    taken: set[str] = field(default_factory=lambda: {FORMER.reveal()})
    signed: str = FORMER.reveal()  # by which key apps' variables are
    kill_at: int = -1
    effects: int = 0
    stubborn: bool = False  # it keeps what it should drop
    down: bool = False
    deaf: bool = False  # it answers, and takes nothing new

    def effect(self) -> None:
        """One effect more; the run ends before it where it is to be killed at it."""
        if self.effects == self.kill_at:
            self.effects += 1
            raise Killed
        self.effects += 1

    def admin(self) -> str:
        kept = self.state.secrets.get(admin_ref("shelf", "toy"))
        assert kept is not None
        return kept.reveal()

    def locked_out(self) -> bool:
        other = other_password(self.state, "shelf", "toy")
        return self.admin() not in self.taken and (other is None or other.reveal() not in self.taken)

    # The fleet and the runtime, as far as they are asked

    def engine(self) -> Any:
        fleet = SimpleNamespace(
            state=self.state,
            project=SimpleNamespace(runtime=SimpleNamespace(in_containers=False), file="multidb.yaml"),
            progress=lambda *_: None,
            missing=lambda scope: iter(()),
            servers=lambda scope: [SERVER],
            contexts=lambda servers: {"shelf": self._context()},
            apps_of=lambda server: [SimpleNamespace(id="ann")],
            connect_with=self._connect,
            turn=lambda server: contextlib.nullcontext(),
            locked=self._locked,
            runtime=SimpleNamespace(
                tells_admin=lambda server: self.way.tells,
                without_scratch=lambda server: contextlib.nullcontext(),
                restart=self._restart,
            ),
        )
        return SimpleNamespace(fleet=fleet, state=self.state, apply=self._apply)

    def _context(self) -> Any:
        return ServerDown("is not running") if self.down else SimpleNamespace(facts=Facts("Toy", "1"))

    def _connect(self, server: Server, password: Secret | None) -> Any:
        if self.down:
            raise ServerDown("is not running")
        if password is None or password.reveal() not in self.taken:
            raise AuthenticationFailed("refuses the admin's password")
        return contextlib.nullcontext(SimpleNamespace(facts=Facts("Toy", "1"), run=self._run))

    @contextlib.contextmanager
    def _locked(self, server: Server) -> Iterator[Any]:
        assert not self.locked_out()
        yield SimpleNamespace(facts=Facts("Toy", "1"), run=self._run)

    def _run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            self.effect()
            ((_, ref),) = statement.binds
            value = secrets.get(ref)
            assert value is not None
            password = value.reveal().removeprefix("digest of ")
            assert value.reveal() != password, "what is derived is sent"
            if statement.text == "ONLY" or not self.way.adds:
                self.taken = {password} if not self.stubborn else self.taken | {password}
            else:
                self.taken.add(password)
            yield index + 1

    def _restart(self, progress: object, names: Sequence[str]) -> list[Restarted]:
        self.effect()
        other = alternate_password(self.state, "shelf", "toy") if self.way.at_start else None
        kept = {self.admin(), *([other.reveal()] if other else [])}
        if not self.deaf:
            self.taken = self.taken | kept if self.stubborn else kept
        return [Restarted(ServerStatus("shelf", "toy", ServerState.RUNNING, SERVER), True)]

    def _apply(self, scope: object, *, agreed: bool) -> Report:
        self.effect()
        self.resigned = self.admin()
        return Report("toys", ())

    def write(self, apps: Sequence[str]) -> bool:
        self.effect()
        new = self.signed != self.admin()
        self.signed = self.admin()
        return new


class _Failing:
    """A secret store whose writes are effects."""

    def __init__(self, world: World, store: SecretStore) -> None:
        self._world, self._store = world, store

    def put(self, values: Any) -> None:
        self._world.effect()
        self._store.put(values)

    def delete(self, refs: Any) -> None:
        self._world.effect()
        self._store.delete(refs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    found: Way = request.param

    def statements(word: str) -> Callable[[Facts, str, SecretRef], Sequence[Statement]]:
        return lambda facts, login, ref: (Statement(word, (("new", ref),)),)

    live = {} if found.at_start else {"take": statements("ALSO"), "derived": lambda text: f"digest of {text}"}
    drop = {"drop": statements("ONLY")} if found.adds else {}
    password = AdminPassword("by hand", at_start=found.at_start, signs=found.signs, **live, **drop)  # type: ignore[arg-type]
    store = SimpleNamespace(admin_password=password)
    monkeypatch.setattr(admin_rotation, "provisioner", lambda name: store)
    record = admin_rotation.record_admin_change

    def recorded(state: Any, change: Any) -> None:
        state.world.effect()
        record(state, change)

    monkeypatch.setattr(admin_rotation, "record_admin_change", recorded)
    return found


def world_of(way: Way, kill_at: int = -1) -> World:
    state: Any = _State()
    state.secrets.put({admin_ref("shelf", "toy"): FORMER})
    world = World(way, state, kill_at=kill_at)
    state.secrets = _Failing(world, state.secrets)
    state.world = world
    return world


def rotation(world: World) -> AdminRotation:
    return AdminRotation(world.engine(), None, world.write, lambda: datetime(2026, 11, 29, tzinfo=UTC))


def whole(world: World) -> None:
    """Both steps."""
    run = rotation(world)
    run.take("shelf")
    run.finish("shelf", force=True)


def assert_done(world: World) -> None:
    assert world.taken == {world.admin()}
    assert world.admin() != FORMER.reveal()
    assert admin_changes(world.state)["shelf"].phase is AdminPhase.DONE
    assert world.state.secrets.refs("@shelf") == {admin_ref("shelf", "toy")}
    assert not world.way.signs or (world.signed, world.resigned) == (world.admin(), world.admin())


def test_the_former_password_is_refused_and_forgotten(way: Way) -> None:
    world = world_of(way)
    run = rotation(world)
    assert run.in_two_steps("shelf") is way.in_two_steps
    run.take("shelf")
    assert (FORMER.reveal() in world.taken) is (way.adds or way.at_start), "both are taken where a server knows two"
    assert world.admin() in world.taken
    run.finish("shelf", force=True)
    assert_done(world)
    run.finish("shelf")
    run.revert("shelf")
    assert_done(world)


def test_killed_at_every_effect_the_same_again_finishes(way: Way) -> None:
    killed = 0
    for at in range(100):
        world = world_of(way, at)
        with contextlib.suppress(Killed):
            whole(world)
        assert not world.locked_out(), at
        if world.effects <= at:
            break
        killed += 1
        world.kill_at = -1
        whole(world)
        assert_done(world)
    assert killed >= 6, "every effect was met"


def test_killed_at_every_effect_and_again_while_it_goes_on(way: Way) -> None:
    for first in range(1, 12):
        for second in range(1, 12):
            world = world_of(way, first)
            for at in (first, second):
                world.kill_at, world.effects = at, 0
                with contextlib.suppress(Killed):
                    whole(world)
                assert not world.locked_out(), (first, second)
            world.kill_at = -1
            whole(world)
            assert world.taken == {world.admin()}


def test_killed_at_every_effect_the_way_back_ends_too(way: Way) -> None:
    back = too_late = 0
    for at in range(100):
        world = world_of(way, at)
        with contextlib.suppress(Killed):
            whole(world)
        if world.effects <= at:
            break
        for again in (1, -1):  # killed on the way back, too
            world.kill_at, world.effects = again, 0
            try:
                rotation(world).revert("shelf")
            except Killed:
                assert not world.locked_out(), at
            except Refused:  # multidb uses the new one already
                world.kill_at = -1
                assert world.admin() != FORMER.reveal()
                rotation(world).finish("shelf", force=True)
        change = admin_changes(world.state).get("shelf")
        if change is None:
            back += 1
            assert world.admin() == FORMER.reveal()
            assert world.taken == {FORMER.reveal()}, at
            assert former_ref("shelf", "toy") not in world.state.secrets.refs()
            whole(world)
            assert_done(world)
        else:
            too_late += 1
            assert_done(world)
    assert back >= 2
    assert too_late >= 2


def test_what_the_server_does_not_take_is_not_used(way: Way) -> None:
    world = world_of(way)
    world.deaf = True
    run = rotation(world)
    if not way.at_start:
        run_statements = world._run
        world._run = lambda statements, secrets: iter(())  # type: ignore[method-assign]
        run = rotation(world)
    with pytest.raises(PartlyApplied, match="does not take the new password"):
        run.take("shelf")
    assert world.admin() == FORMER.reveal()
    with pytest.raises(Refused, match="not told of the new password"):
        run.finish("shelf")
    world.deaf = False
    if not way.at_start:
        world._run = run_statements  # type: ignore[method-assign]
    whole(world)
    assert_done(world)


def test_a_former_password_that_is_still_taken_is_said(way: Way) -> None:
    world = world_of(way)
    run = rotation(world)
    world.stubborn = True
    run.take("shelf")
    with pytest.raises(PartlyApplied, match="still taken"):
        run.finish("shelf", force=True)
    assert former_ref("shelf", "toy") in world.state.secrets.refs(), "it is kept, to be tried again"
    world.stubborn = False
    if not (way.adds or way.at_start):
        world.taken = {world.admin()}
    whole(world)
    assert_done(world)


def test_a_server_that_is_down_refuses_it_before_anything_is_written(way: Way) -> None:
    world = world_of(way)
    world.down = True
    with pytest.raises(ServerDown):
        rotation(world)
    assert world.effects == 0
    assert world.state.secrets.refs("@shelf") == {admin_ref("shelf", "toy")}
    assert not admin_changes(world.state)


def test_what_the_key_signs_is_read_before_the_former_one_goes(way: Way) -> None:
    if not way.signs:
        pytest.skip("nothing is signed")
    world = world_of(way)
    run = rotation(world)
    run.take("shelf")
    world.signed = "an older key"  # a run that was killed before it wrote the variables
    with pytest.raises(Refused, match="only since now"):
        run.finish("shelf")
    assert FORMER.reveal() in world.taken
    run.finish("shelf")
    assert_done(world)


def test_servers_of_others_are_refused_with_what_their_operator_does(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(way)
    engine = world.engine()
    source = SimpleNamespace(env="SHELF_PASSWORD", file=None)
    spec = SimpleNamespace(address=SimpleNamespace(password=source))
    engine.fleet.project.spec_of = lambda name, store: spec
    engine.fleet.servers = lambda scope: [replace(SERVER, external=True)]
    with pytest.raises(Refused) as caught:
        AdminRotation(engine, None, world.write)
    assert "shelf" in caught.value.message
    assert "by hand; then put the new one into the variable SHELF_PASSWORD" in (caught.value.hint or "")
    assert world.effects == 0


def test_which_password_is_the_other_one(way: Way) -> None:
    world = world_of(way)
    assert other_password(world.state, "shelf", "toy") is None
    run = rotation(world)
    run.take("shelf")
    assert other_password(world.state, "shelf", "toy") == FORMER
    assert alternate_password(world.state, "shelf", "toy") == FORMER
    assert other_password(world.state, "another", "toy") is None
    run.finish("shelf", force=True)
    assert other_password(world.state, "shelf", "toy") is None
    assert alternate_password(world.state, "shelf", "toy") is None
    assert next_ref("shelf", "toy") != former_ref("shelf", "toy")


def test_a_state_that_makes_no_sense_is_one_error(tmp_path: Path) -> None:
    state = ProjectState(tmp_path)
    with state.change("admin-rotation") as section:
        section["shelf"] = {"store": "toy", "phase": "sideways", "since": "2026-11-29T00:00:00+00:00"}
    with pytest.raises(MultidbError, match="cannot be read"):
        admin_changes(state)
