"""A server that stands still, or a way to it on which nothing moves, ends what waits for it: on real servers.

The time is one without progress: what is slow and moves is never ended.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import neo4j
import psutil
import psycopg
import pytest
import redis

from multidb.audit import audit
from multidb.backup.creation import BackupResult, make_sets, repository
from multidb.backup.recovery import recover
from multidb.backup.verifying import verify
from multidb.engine import Engine, Scope
from multidb.environment import environment
from multidb.errors import MultidbError, ServerSlow
from multidb.fleet import Fleet
from multidb.health import check
from multidb.model import PROGRESS_TIMEOUT, App, Project, RuntimeKind, Server, ServerSpec, unwatched
from multidb.model.options import Backup
from multidb.provisioners import provisioner
from multidb.secrets import Secret
from multidb.state import ProjectState
from multidb.usage import look
from tests.contract import case_neo4j, case_qdrant, case_redis
from tests.contract.stopping import Proxy, family, proxy, send
from tests.support.case import RealServer
from tests.support.command import Folder, Ran
from tests.support.given_runtime import GivenRuntime
from tests.support.postgres_servers import cluster

pytestmark = pytest.mark.server

APP = "lernmi"
STORES = ["postgres", "redis", "qdrant", "neo4j"]
LIMIT, ANSWER = 3.0, 2.0  # seconds without progress, and for one answer
ENOUGH = 60.0  # seconds in which all that waits has ended, one after the other, on a busy machine
TEXT = random.Random(1).randbytes(500_000).hex()


class Runtime(GivenRuntime):
    """The server that is stopped, and another one."""

    def __init__(self, reals: list[RealServer]) -> None:
        super().__init__(reals[0])
        self._reals = reals

    def servers(self) -> list[Server]:
        return [real.server for real in self._reals]

    def admin(self, server: Server) -> Secret | None:
        return next(real.admin for real in self._reals if real.server.name == server.name)


class Stage:
    """An app with data on one server, behind a proxy, and another app on another server."""

    def __init__(self, real: RealServer, other: RealServer, way: Proxy, folder: Path) -> None:
        self.real, self.way = real, way
        self.folder = folder
        self.store = real.server.store
        endpoint = replace(real.server.endpoint, port=way.port, params={})
        near = replace(real, server=replace(real.server, endpoint=endpoint, timeout=ANSWER))
        apps = {APP: App(APP, APP, {self.store: _options(self.store)})}
        if other is not real:
            name = f"beside_{self.store}"
            apps[name] = App(name, name, {other.server.store: _options(other.server.store)})
        stores = {each.server.store: each.options for each in (real, other)}
        self.project = Project(
            name="still",
            runtime=RuntimeKind.EMBEDDED,
            apps=apps,
            servers=tuple(ServerSpec(store, store, options) for store, options in stores.items()),
            root=str(folder),
            backup=Backup(to=("sets/",)),
            backup_declared=True,
        )
        self.state = ProjectState(folder)
        self._runtime = Runtime([near, *([other] if other is not real else [])])

    def engine(self, limit: float = PROGRESS_TIMEOUT) -> Engine:
        project = replace(self.project, progress_timeout=limit)
        return Engine(Fleet(project, self.state, runtime=self._runtime, command="test"))

    def processes(self) -> list[psutil.Process]:
        assert self.real.pid is not None
        return family(self.real.pid)

    def go_on(self) -> None:
        send(self.processes(), signal.SIGCONT)
        self.way.go_on()

    def backup(self, limit: float = PROGRESS_TIMEOUT) -> dict[str, BackupResult]:
        return {made.app: made for made in make_sets(self.engine(limit), Scope(), progress=unwatched)}


def _options(store: str) -> Any:
    settings = {"collections": {"knowledge": {"size": 4}}} if store == "qdrant" else {}
    return provisioner(store).app_options(**settings)


def _text(number: int) -> str:
    """Nearly a thousand letters that no server makes shorter."""
    return TEXT[number * 100 : number * 100 + 900]


def _fill(stage: Stage) -> None:
    """Some megabytes."""
    env = environment(stage.engine().fleet, APP).env
    found = {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}
    if stage.store == "postgres":
        with psycopg.connect(found["DATABASE_URL"]) as session:
            session.execute(
                "CREATE TABLE t AS SELECT i, md5(i::text) || repeat(md5((-i)::text), 20) AS w "
                "FROM generate_series(1, 8000) i"
            )
    elif stage.store == "redis":
        with redis.Redis.from_url(found["REDIS_URL"]) as client:
            client.mset({f"k{number}": _text(number) for number in range(5000)})
    elif stage.store == "qdrant":
        points = [{"id": n, "vector": [1.0, 0.1, 0.2, n / 9000], "payload": {"t": _text(n)}} for n in range(3000)]
        for start in range(0, len(points), 500):
            case_qdrant.ask(
                stage.real,
                "PUT",
                f"/collections/{APP}_knowledge/points?wait=true",
                {"points": points[start : start + 500]},
            ).raise_for_status()
    else:
        auth = (found["NEO4J_USER"], found["NEO4J_PASSWORD"])
        endpoint = stage.real.server.endpoint
        with neo4j.GraphDatabase.driver(f"bolt://{endpoint.host}:{endpoint.port}", auth=auth) as driver:
            driver.execute_query("UNWIND $texts AS t CREATE (:N {t: t})", texts=[_text(n) for n in range(5000)])


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with case_redis.real_server(tmp_path_factory.mktemp("other"), binary=case_redis.valkey_binary) as real:
        yield real


@pytest.fixture(scope="module", params=STORES)
def real(
    request: pytest.FixtureRequest, other: RealServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    store = request.param
    if store == "redis":
        yield other
    elif store == "postgres":
        with cluster(18) as made:
            assert made.process is not None
            options = provisioner("postgres").server_options()
            yield RealServer(made.server(), made.admin(), options, made.process.pid)
    elif store == "qdrant":
        with case_qdrant.real_server(tmp_path_factory.mktemp("qdrant"), own=True) as started:
            yield started
    else:
        first, _ = request.getfixturevalue("neo4j_servers")
        case_neo4j.emptied(first)
        yield replace(first, server=replace(first.server, name="neo4j", app=None))  # as a manifest names it


@pytest.fixture(scope="module")
def stage(real: RealServer, other: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with proxy(real.server.endpoint.port) as way:
        made = Stage(real, other, way, tmp_path_factory.mktemp("project"))
        assert made.engine().apply().error() is None
        _fill(made)
        yield made


@pytest.fixture(autouse=True)
def goes_on(stage: Stage) -> Iterator[None]:
    yield
    stage.go_on()


def stops(stage: Stage, how: str) -> Callable[[], None] | None:
    """What makes it stand still: the server, or (None) the way to it."""
    return (lambda: send(stage.processes(), signal.SIGSTOP)) if how == "server" else None


def of_the_server(error: MultidbError | None, stage: Stage) -> None:
    """The error says which server, since when, and what next."""
    assert isinstance(error, ServerSlow), error
    assert error.where is not None
    assert error.where.startswith(stage.real.server.name)
    assert error.hint
    assert "run the command again" in error.hint


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < ENOUGH


@pytest.fixture(params=["server", pytest.param("way", marks=pytest.mark.rare)])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_backup_ends_and_the_next_one_is_whole(stage: Stage, how: str) -> None:
    stage.way.stop_after(1_000_000, stops(stage, how))
    with in_time():
        made = stage.backup(LIMIT)
    assert stage.way.stopped.is_set(), "it stood still in the middle"
    (error,) = made[APP].errors.values()
    of_the_server(error, stage)
    assert re.search(r"no progress for \d+ s \(since 2\d\d\d-", error.message)
    assert all(each.ok for app, each in made.items() if app != APP), "another server's app is none of it"
    stage.go_on()
    assert all(each.ok for each in stage.backup().values())
    assert stage.engine().plan().in_sync, "nothing is left"


def test_a_set_that_is_tried_says_nothing_of_the_set(stage: Stage, how: str) -> None:
    if stage.store == "neo4j":
        pytest.skip("a Community server has no room beside its one graph")
    engine = stage.engine(LIMIT)
    made = stage.backup()[APP].made
    assert made is not None
    home = repository(engine.fleet)
    copy = home.find(f"{APP}/{made.id}")
    stage.way.stop_after(1_000_000, stops(stage, how))
    with in_time():
        tried = verify(engine.fleet, home, copy, None, unwatched)
    assert stage.way.stopped.is_set()
    of_the_server(tried.problem, stage)
    assert tried.verification is None
    stage.go_on()
    engine = stage.engine()
    recover(engine, None, unwatched)
    again = verify(engine.fleet, home, copy, None, unwatched)
    assert again.problem is None
    assert again.ok
    assert stage.engine().plan().in_sync


MANIFEST = """\
version: 1
project: still
runtime: external
progress_timeout: 3s
external: {{{store}: {{url: "{scheme}://{user}127.0.0.1:{port}", password: {{env: ADMIN}}, timeout: 2}}}}
apps: {{{app}: {{stores: [{store}], {store}: {options}}}}}
backup: {{to: [sets/]}}
"""
SCHEMES = {"postgres": "postgresql", "redis": "redis", "qdrant": "http", "neo4j": "bolt"}
READING, LOADING = 1_000_000, 8_000_000  # bytes after which it stands still: in what it has now, in what it is to have


@pytest.fixture
def by_hand(stage: Stage) -> Callable[..., Ran]:
    """Runs multidb as a person does, in the stage's project with the one server."""
    folder, endpoint = Folder(stage.folder, []), stage.real.server.endpoint
    options = "{collections: {knowledge: {size: 4}}}" if stage.store == "qdrant" else "{}"
    user = f"{endpoint.user}@" if endpoint.user else ""
    text = MANIFEST.format(
        store=stage.store, scheme=SCHEMES[stage.store], user=user, port=stage.way.port, app=APP, options=options
    )
    folder.manifest(text)
    assert stage.real.admin is not None
    admin = stage.real.admin.reveal()
    return lambda *arguments: folder.run(*arguments, env={"ADMIN": admin})


@pytest.mark.rare
@pytest.mark.parametrize("at", [READING, LOADING])
@pytest.mark.parametrize("verb", ["restore", "clone"])
def test_what_replaces_data_by_hand_ends_and_the_same_again_is_whole(
    stage: Stage, by_hand: Callable[..., Ran], verb: str, at: int
) -> None:
    if verb == "clone" and stage.store == "neo4j":
        pytest.skip("a Community server has one graph, and so one app")
    command = ("restore", APP, "--replace") if verb == "restore" else ("clone", APP, f"preview_{at}")
    home = repository(stage.engine().fleet)
    first = stage.backup()[APP]
    assert first.made is not None, first.errors
    stage.way.stop_after(at, stops(stage, "server"))
    with in_time():
        ended = by_hand(*command)
    assert stage.way.stopped.is_set(), ended
    assert ended.code in (4, 6), ended
    # by where it stopped: in what is streamed, or before one answer
    assert re.search(r"no progress for \d+ s \(since 2\d\d\d-|no answer within 2 s", ended.err), ended
    assert stage.real.server.name in ended.err
    stage.go_on()
    again = by_hand(*command, "--json")
    assert "error" not in again.json(), again  # its audit finds what these servers have for the tests
    assert again.json()["app"] == command[-1].replace("--replace", APP)
    assert stage.engine().plan().in_sync, "nothing is left"
    after = stage.backup()[APP]
    assert after.made is not None, after.errors
    assert after.made.parts[stage.store].part.measures == first.made.parts[stage.store].part.measures
    assert not home.half_made()


@pytest.mark.rare
@pytest.mark.parametrize("at", [0, 800])
def test_what_asks_is_not_held_up(stage: Stage, how: str, at: int) -> None:
    """By a server that stands still before it is asked, or when it is."""
    for name, work in {
        "plan": lambda engine: [each.error for each in engine.plan().servers],
        "apply": lambda engine: [each.error for each in engine.apply().servers],
        "health": lambda engine: [each.health.status for each in check(engine.fleet).checks],
        "audit": lambda engine: audit(engine.fleet),
        "usage": lambda engine: look(engine.fleet),
    }.items():
        stage.way.stop_after(at, stops(stage, how))
        with in_time():
            found = work(stage.engine(LIMIT))
        stage.go_on()
        if name == "plan":
            errors = [error for error in found if error is not None]
            assert len(errors) == 1, "the other server is read"
            of_the_server(errors[0], stage)
    assert stage.engine().apply().error() is None, "its lock is free"
