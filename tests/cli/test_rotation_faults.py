"""What goes wrong in the middle of `multidb rotate`: killed at each step, another at the same time, a server that goes
away, a disk that is full. The app comes in all the time, and the same command finishes or goes back."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator

import psycopg
import pytest
import redis

from multidb.alternation import RotationPhase, alternations
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.credentials import let_in, variables
from tests.support.small_disk import addresses, admin_passwords, emptied, fill, small_project
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

MANIFEST = """\
version: 1
project: faults
runtime: embedded
apps:
  ann: {stores: [postgres, redis], postgres: {roles: split}}
  bob: {stores: [postgres, redis]}
"""
NOW = ("rotate", "ann", "--now", "--yes")

STEPS = (
    "multidb.cli.rotate:_take",
    "multidb.rotation:make_anew",
    "multidb.rotation:record_alternation",
    "multidb.rotation:Rotation._apply",
    "multidb.engine:Engine._run",
    "multidb.engine:Engine._run#2",
    "multidb.rotation:Rotation._require_let_in",
    "multidb.rotation:Rotation._require_let_in#2",
    "multidb.rotation:record_alternation#2",
    "multidb.cli.rotate:write_variables",
    "multidb.rotation:Rotation.finish",
    "multidb.rotation:record_alternation#3",
    "multidb.rotation:Rotation._apply#2",
    "multidb.rotation:Rotation._require_refused",
    "multidb.rotation:Rotation._require_refused#2",
    "multidb.rotation:record_alternation#4",
)
"""In the order in which `rotate --now` comes to them."""

USUAL = STEPS[2::6]
"""Those that are tried in every run; the others are rare."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("faults-", MANIFEST) as found:
        found.ok("up")
        found.ok("apply", "--yes")
        yield found


def phases(folder: Folder) -> set[RotationPhase]:
    known = alternations(ProjectState(folder.path))
    return {entry.phase for (app, _), entry in known.items() if app == "ann"}


def test_stopped_at_each_step_nobody_comes_between_and_killed_there_it_goes_on_or_back(
    folder: Folder, request: pytest.FixtureRequest
) -> None:
    others = variables(folder, "bob")
    for number, step in enumerate(STEPS if request.config.getoption("--all") else USUAL):
        former = variables(folder, "ann")
        process = stopped_at(folder, step, *NOW)
        assert process is not None, f"it never came to {step}"
        try:
            assert all(let_in(variables(folder, "ann"))), step
            second = folder.run("rotate", "ann", ("--now", "--abort", "--finish")[number % 3], "--yes")
            assert (second.code, "rotate ann" in second.err) == (3, True), (step, second.err)
            assert let_in(others) == [True] * 3, step
        finally:
            kill(process)
        assert all(let_in(variables(folder, "ann"))), step
        folder.ok("apply", "--yes")
        assert all(let_in(variables(folder, "ann"))), f"{step}, after an apply"
        reached = phases(folder)
        if number % 2 and reached & {RotationPhase.PREPARING, RotationPhase.PREPARED}:
            folder.ok("rotate", "ann", "--abort", "--force", "--yes")
            assert variables(folder, "ann") == former, step
        else:
            if RotationPhase.FINISHING in reached:
                late = folder.run("rotate", "ann", "--abort")
                assert (late.code, "too late" in late.err) == (3, True), step
            folder.ok(*NOW)
            assert not any(let_in(former)), step
        assert phases(folder) <= {RotationPhase.DONE}, step
        assert all(let_in(variables(folder, "ann"))), step
        assert variables(folder, "bob") == others
        folder.ok("plan", "--check")


@pytest.mark.parametrize(
    ("step", "usual"),
    [
        ("multidb.provisioners.postgres.provision.sending:Sender._run_batch", 11),
        ("multidb.provisioners.redis.provision.session:RedisSession._carry_out", 3),
    ],
)
def test_killed_while_sessions_are_ended_the_next_run_ends_the_rest(
    folder: Folder, request: pytest.FixtureRequest, step: str, usual: int
) -> None:
    """Before each statement that turns the former credential off, with somebody there who came in with it. The usual
    one is that which ends the sessions of a login that is off."""
    folder.ok("rotate", "ann", "--now", "--yes")  # what is made once is there
    for number in itertools.count(1) if request.config.getoption("--all") else (usual,):
        former = variables(folder, "ann")
        folder.ok("rotate", "ann", "--prepare")
        with (
            psycopg.connect(former["DATABASE_URL"], autocommit=True) as database,
            redis.Redis.from_url(former["REDIS_URL"], single_connection_client=True) as cache,
        ):
            session = cache.client_id()
            process = stopped_at(folder, f"{step}#{number}", "rotate", "ann", "--finish", "--force", "--yes")
            if process is None:
                assert number > usual
                break
            kill(process)
            folder.ok("rotate", "ann", "--finish", "--force", "--yes")
            with pytest.raises(psycopg.OperationalError):
                database.execute("SELECT 1")
            assert session not in connected(folder), f"killed before statement {number}"
        assert not any(let_in(former))
        folder.ok("plan", "--check")


def connected(folder: Folder) -> set[int]:
    """The sessions on Redis."""
    host, _, port = addresses(folder)["redis"].rpartition(":")
    password = admin_passwords(folder)["redis"]
    with redis.Redis(host=host, port=int(port), username="multidb_admin", password=password) as admin:
        return {int(client["id"]) for client in admin.client_list()}


def server(folder: Folder, store: str) -> int:
    """Its process."""
    servers = {one["store"]: one for one in folder.ok("status", "--json").json()["servers"]}
    return int(servers[store]["pid"])


@pytest.mark.parametrize("step", ["multidb.rotation:Rotation._apply", "multidb.rotation:Rotation._apply#2"])
@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_a_server_that_goes_away_in_the_middle(folder: Folder, store: str, step: str) -> None:
    former = variables(folder, "ann")
    process = stopped_at(folder, step, *NOW)
    assert process is not None
    pid = server(folder, store)
    os.kill(pid, signal.SIGKILL)
    code, said = go_on(process)
    assert code == 5, said
    assert "Traceback" not in said
    assert "rotate ann --abort" in said
    again = folder.run(*NOW)
    assert (again.code, "multidb up" in again.err) == (4, True), again.err
    folder.ok("up")
    deadline = time.monotonic() + 30
    while not all(let_in(variables(folder, "ann"))):  # a server that was killed comes back by and by
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if step.endswith("_apply"):
        assert variables(folder, "ann") == former
        assert all(let_in(former)), "what was not finished turned nothing off"
    folder.ok(*NOW)
    assert not any(let_in(former))
    assert all(let_in(variables(folder, "ann")))
    folder.ok("plan", "--check")


def test_an_app_whose_entry_is_gone_half_rotated_is_named_with_what_ends_it(folder: Folder) -> None:
    folder.ok("rotate", "bob")
    folder.manifest(MANIFEST.replace("  bob: {stores: [postgres, redis]}\n", ""))
    for step in ("--finish", "--abort"):
        refused = folder.run("rotate", "bob", step, "--yes")
        assert (refused.code, "put its entry back" in refused.err) == (2, True)
    folder.manifest(MANIFEST)
    folder.ok("rotate", "bob", "--finish", "--yes")


def test_a_server_that_is_down_costs_only_the_apps_that_are_on_it(folder: Folder) -> None:
    (folder.path / "multidb.yaml").write_text(MANIFEST + "  eve: {stores: [postgres]}\n")
    folder.ok("apply", "--yes")
    before = variables(folder, "ann"), variables(folder, "eve")
    os.kill(server(folder, "redis"), signal.SIGKILL)
    done = folder.run("rotate", "--older-than", "1ms", "--json").json()
    folder.ok("up")
    assert {one["app"]: one["error"] is None for one in done["apps"]} == {"ann": False, "bob": False, "eve": True}
    assert variables(folder, "ann") == before[0]
    assert variables(folder, "eve") != before[1]
    folder.ok("rotate", "eve", "--finish", "--yes")
    folder.ok("plan", "--check")


@pytest.fixture
def small(folder: Folder) -> Iterator[Folder]:
    with small_project(folder, "512k", "apps:\n  ann_small: {stores: [postgres, redis]}\n") as made:
        yield made


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.rare)])
def test_a_full_disk_costs_the_app_nothing(small: Folder, stride: int) -> None:
    """With room for so many blocks, until a rotation has enough. Whatever could not be written, what the app reads
    opens, and what it had read before opens as well until the rotation was finished."""
    codes = []
    for blocks in range(0, 60, stride):
        former = variables(small, "ann_small")
        fill(small, blocks)
        done = small.run("rotate", "ann_small", "--prepare")
        codes.append(done.code)
        assert done.code == 0 or "space" in done.err, done.err
        now = variables(small, "ann_small")
        assert (all(let_in(former)), all(let_in(now))) == (True, True), blocks
        emptied(small)
        small.ok("rotate", "ann_small", "--prepare")
        now = variables(small, "ann_small")
        assert now != former
        assert (all(let_in(former)), all(let_in(now))) == (True, True), blocks
        small.ok("rotate", "ann_small", "--finish", "--yes")
        assert not any(let_in(former))
        if done.code == 0:
            break
    assert codes[-1] == 0
    assert len(codes) > 1, "it was full at least once"
