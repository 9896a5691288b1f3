"""New credentials for 100 apps on Postgres and Valkey, both steps of it, against the same statements bare. The sessions
of an app that is not rotated last all the while."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.ground import Result, admin, apps, open_engine, project
from bench.postgres_apply import psql, script
from multidb.alternation import Alternation, RotationPhase, record_alternation
from multidb.credentials import make_anew
from multidb.engine import Engine
from multidb.environment import environment
from multidb.plan import Plan
from multidb.provisioners import provisioner
from multidb.provisioners.redis.provision.rules import split_line
from multidb.secrets import Alternate, SecretRef, revealed

COUNT = 100
_APPS = apps("app", COUNT, "{stores: [postgres, redis]}") + "  other: {stores: [postgres, redis], rotate: never}\n"
_SERVERS = "{redis: {databases: 128}}"
_STEPS = {"prepare": ("--older-than", "1ms"), "finish": ("--auto", "--after", "1ms")}


def measure() -> Iterator[Result]:
    with project(_APPS, servers=_SERVERS) as folder:
        floors = dict(_floors(_applied(folder)))
    with project(_APPS, servers=_SERVERS) as folder:
        engine = _applied(folder)
        with _SessionsOfAnother(engine):
            for step, options in _STEPS.items():
                took, used = _timed(engine, lambda options=options: _rotate(folder, *options))  # type: ignore[misc]
                bare, floor = floors[step]
                what = f"rotation of {COUNT} apps, Postgres and Valkey: {step}"
                note = f"{used:.1f} s; by the clock {took:.1f} s to {bare:.1f} s"
                named = "the same statements and their verifiers, psql and a pipeline; a login by each credential"
                yield Result(f"{what}, processor time", used, floor, named, "at most 2", note)


def _applied(folder: Path) -> Engine:
    engine = open_engine(folder)
    error = engine.apply().error()
    assert error is None, error
    return engine


def _rotate(folder: Path, *options: str) -> None:
    command = [sys.executable, "-c", "from multidb.cli import main; main()", "rotate", *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class _SessionsOfAnother(ExitStack):
    """An app's sessions, which have to be the same at the end."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        env = {name: revealed(value) for name, value in environment(engine.fleet, "other").env.items()}
        database = self.enter_context(psycopg.connect(env["DATABASE_URL"], autocommit=True))
        cache = self.enter_context(redis.Redis.from_url(env["REDIS_URL"], single_connection_client=True))
        identity = cache.client_id()
        self.callback(lambda: database.execute("SELECT 1"))
        self.callback(lambda: _require(cache.client_id() == identity))


def _require(held: bool) -> None:
    assert held, "the session of another app was ended"


def _floors(engine: Engine) -> Iterator[tuple[str, tuple[float, float]]]:
    """By step, what its statements take by the clock and of the processor."""
    now = datetime.now(UTC)
    entries, specs = [], []
    for app in engine.fleet.project.apps.values():
        for store in app.stores if app.id != "other" else ():
            specs += [spec for spec in provisioner(store).secrets(app) if spec.alternate is Alternate.SECOND]
            entries.append(Alternation(app.id, store, Alternate.FIRST, RotationPhase.PREPARING, now, {}))
    made = _timed(engine, lambda: make_anew(engine.state, specs))
    record_alternation(engine.state, entries)
    sent = _by_hand(engine, Alternate.SECOND)
    yield "prepare", (made[0] + sent[0], made[1] + sent[1])
    finishing = [replace(entry, current=Alternate.SECOND, phase=RotationPhase.FINISHING) for entry in entries]
    record_alternation(engine.state, finishing)
    yield "finish", _by_hand(engine, Alternate.FIRST)
    assert engine.plan().in_sync


def _by_hand(engine: Engine, tried: Alternate) -> tuple[float, float]:
    """The statements on both servers side by side, then one login to each by the credential that is new or off."""
    plan = engine.plan()
    of = {server.store: Plan(plan.project, (server,)) for server in plan.servers}
    numbers = engine.state.read("numbers")["redis"]
    places = {store: admin(engine, store) for store in of}

    def secret(ref: SecretRef) -> str:
        found = engine.state.secrets.get(ref)
        assert found is not None
        return found.reveal()

    def cache() -> None:
        host, port, user, password = places["redis"]
        with redis.Redis(host=host, port=port, username=user, password=password) as client:
            pipeline = client.pipeline(transaction=False)
            for statement in (statement for change in of["redis"].changes for statement in change.statements):
                words = split_line(statement.text)
                for name, ref in statement.binds:
                    words = [word.replace(f"${name}", secret(ref)) for word in words]
                pipeline.execute_command(*words)
            pipeline.execute()

    def login(app: str) -> None:
        host, port, *_ = places["postgres"]
        suffix = "" if tried is Alternate.FIRST else "_b"
        try:
            with psycopg.connect(
                host=host,
                port=port,
                dbname=app,
                user=f"{app}_user{suffix}",
                password=secret(SecretRef(app, "postgres", f"user{suffix}")),
            ) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            assert tried is Alternate.FIRST

    def login_to_cache(app: str) -> None:
        host, port, *_ = places["redis"]
        suffix = "" if tried is Alternate.FIRST else "_b"
        password = secret(SecretRef(app, "redis", f"user{suffix}"))
        try:
            user, db = f"{app}_user{suffix}", numbers[app]
            once = Retry(NoBackoff(), 0)
            with redis.Redis(host=host, port=port, db=db, username=user, password=password, retry=once) as client:
                client.execute_command("GET", "nothing")
        except redis.AuthenticationError:
            assert tried is Alternate.FIRST

    def work() -> None:
        with ThreadPoolExecutor(4) as pool:
            text = script(engine, of["postgres"], secret)
            for done in (pool.submit(psql, engine, text), pool.submit(cache)):
                done.result()
            rotated = [app for app in engine.fleet.project.apps if app != "other"]
            for one in (login, login_to_cache):
                list(pool.map(one, rotated))

    return _timed(engine, work)


def _timed(engine: Engine, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor: ours, our children's and the servers'."""
    servers = [psutil.Process(status.pid) for status in engine.fleet.runtime.status() if status.pid]

    def used() -> float:
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        theirs = [sum(process.cpu_times()[:4]) for process in servers]
        return sum(usage.ru_utime + usage.ru_stime for usage in own) + sum(theirs)

    started, before = time.perf_counter(), used()
    work()
    return time.perf_counter() - started, used() - before
