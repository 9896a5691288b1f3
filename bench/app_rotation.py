"""New credentials for 100 apps, both steps of it, against the same statements bare: on Postgres and Valkey, and on four
stores where a Qdrant server is (``MULTIDB_QDRANT``), Neo4j as one server for all. The sessions of an app that is not
rotated last all the while."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
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
from multidb.model import Statement
from multidb.plan import Plan
from multidb.provisioners import provisioner
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.provisioners.qdrant.provision.tokens import sign, with_expiry
from multidb.provisioners.redis.provision.rules import split_line
from multidb.secrets import Alternate, Secret, SecretRef, revealed

if TYPE_CHECKING:
    import neo4j

COUNT = 100
_SERVERS = "{redis: {databases: 128}, neo4j: {isolation: label}}"
_STEPS = {"prepare": ("--older-than", "1ms"), "finish": ("--auto", "--after", "1ms")}


def measure() -> Iterator[Result]:
    yield from _measured("Postgres and Valkey", "[postgres, redis]")
    if Path(os.environ.get("MULTIDB_QDRANT", "")).is_file() or shutil.which("qdrant"):
        yield from _measured("four stores", "[postgres, neo4j, qdrant, redis]")


def _measured(where: str, stores: str) -> Iterator[Result]:
    entries = apps("app", COUNT, f"{{stores: {stores}}}") + "  other: {stores: [postgres, redis], rotate: never}\n"
    with project(entries, servers=_SERVERS) as folder:
        floors = dict(_floors(_applied(folder)))
    with project(entries, servers=_SERVERS) as folder:
        engine = _applied(folder)
        total = [0.0, 0.0]
        with _SessionsOfAnother(engine):
            for step, options in _STEPS.items():
                took, used = _timed(engine, lambda options=options: _rotate(folder, *options))  # type: ignore[misc]
                bare, floor = floors[step]
                total = [total[0] + used, total[1] + floor]
                note = f"{used:.1f} s; by the clock {took:.1f} s to {bare:.1f} s"
                yield Result(f"{_WHAT} {where}: {step}", used, floor, _NAMED, "", note)
        yield Result(f"{_WHAT} {where}: both steps", total[0], total[1], _NAMED, "at most 2", f"{total[0]:.1f} s")


_WHAT = f"rotation of {COUNT} apps, processor time,"
_NAMED = "the same statements and their verifiers, psql, pipeline, driver; a login by each credential"


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
            serials = {Alternate.SECOND: int(now.timestamp() * 1000)}
            entries.append(Alternation(app.id, store, Alternate.FIRST, RotationPhase.PREPARING, now, {}, serials))
    made = _timed(engine, lambda: make_anew(engine.state, specs))
    record_alternation(engine.state, entries)
    sent = _by_hand(engine, Alternate.SECOND)
    yield "prepare", (made[0] + sent[0], made[1] + sent[1])
    finishing = [replace(entry, current=Alternate.SECOND, phase=RotationPhase.FINISHING) for entry in entries]
    record_alternation(engine.state, finishing)
    yield "finish", _by_hand(engine, Alternate.FIRST)
    assert engine.plan().in_sync


def _by_hand(engine: Engine, tried: Alternate) -> tuple[float, float]:
    """The statements on all servers side by side, then one login to each by the credential that is new or off."""
    plan = engine.plan()
    of = {server.store: Plan(plan.project, (server,)) for server in plan.servers}
    floor = _Floor(engine, tried)
    rotated = [app for app in engine.fleet.project.apps if app != "other"]

    def work() -> None:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(floor.send[store], changes) for store, changes in of.items()]:
                done.result()
            for store in of:
                list(pool.map(floor.login[store], rotated))

    return _timed(engine, work)


class _Floor:
    """What is done by hand, by store: its statements sent, and a login of an app by the credential that is tried."""

    def __init__(self, engine: Engine, tried: Alternate) -> None:
        self._engine, self._tried = engine, tried
        self._suffix = "" if tried is Alternate.FIRST else "_b"
        self._numbers = engine.state.read("numbers")["redis"]
        self._places = {server.store: server for server in engine.fleet.runtime.servers()}
        self.send: dict[str, Callable[[Plan], None]] = {
            "postgres": lambda plan: psql(engine, script(engine, plan, self._secret)),
            "redis": self._pipeline,
            "qdrant": self._requests,
            "neo4j": self._cypher,
        }
        self.login: dict[str, Callable[[str], None]] = {
            "postgres": self._to_postgres,
            "redis": self._to_redis,
            "qdrant": self._to_qdrant,
            "neo4j": self._to_neo4j,
        }

    def _secret(self, ref: SecretRef) -> str:
        known = self._engine.state.secrets.get(ref)
        assert known is not None
        return known.reveal()

    def _refused(self, error: Exception) -> None:
        if self._tried is not Alternate.FIRST:
            raise error

    def _pipeline(self, plan: Plan) -> None:
        host, port, user, password = admin(self._engine, "redis")
        with redis.Redis(host=host, port=port, username=user, password=password) as client:
            pipeline = client.pipeline(transaction=False)
            for statement in _statements(plan):
                words = split_line(statement.text)
                for name, ref in statement.binds:
                    words = [word.replace(f"${name}", self._secret(ref)) for word in words]
                pipeline.execute_command(*words)
            pipeline.execute()

    def _requests(self, plan: Plan) -> None:
        key = self._engine.fleet.runtime.admin(self._places["qdrant"])
        assert key is not None
        tokens: dict[SecretRef, Secret] = {}
        with self._to(key.reveal()) as client:
            for call in (Call.parse(statement.text) for statement in _statements(plan)):
                if call.verb == "SIGN":
                    tokens[SecretRef.parse(call.target)] = sign(with_expiry(call.body, time.time()), key)
                else:
                    client.request(call.verb, call.target, json=call.body).raise_for_status()
        self._engine.state.secrets.put(tokens)

    def _cypher(self, plan: Plan) -> None:
        _, _, user, password = admin(self._engine, "neo4j")
        with self._driver(user, password) as driver:
            for statement in _statements(plan):
                values = {name: self._secret(ref) for name, ref in statement.binds}
                driver.execute_query(statement.text, values, database_=statement.scope or "system")

    def _to_postgres(self, app: str) -> None:
        host, port, *_ = admin(self._engine, "postgres")
        user, password = f"{app}_user{self._suffix}", self._secret(SecretRef(app, "postgres", f"user{self._suffix}"))
        try:
            with psycopg.connect(host=host, port=port, dbname=app, user=user, password=password) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            self._refused(error)

    def _to_redis(self, app: str) -> None:
        host, port, *_ = admin(self._engine, "redis")
        user, password = f"{app}_user{self._suffix}", self._secret(SecretRef(app, "redis", f"user{self._suffix}"))
        db, once = self._numbers[app], Retry(NoBackoff(), 0)
        try:
            with redis.Redis(host=host, port=port, db=db, username=user, password=password, retry=once) as client:
                client.execute_command("GET", "nothing")
        except redis.AuthenticationError as error:
            self._refused(error)

    def _to_qdrant(self, app: str) -> None:
        with self._to(self._secret(SecretRef(app, "qdrant", f"token{self._suffix}"))) as client:
            answer = client.post(f"/collections/{app}_knowledge/points/count", json={})
        assert answer.status_code == 200 or self._tried is Alternate.FIRST

    def _to_neo4j(self, app: str) -> None:
        import neo4j

        password = self._secret(SecretRef(app, "neo4j", f"password{self._suffix}"))
        with self._driver(f"{app}_user{self._suffix}", password) as of:
            try:
                of.execute_query("RETURN 1", database_="neo4j")
            except neo4j.exceptions.AuthError as error:
                self._refused(error)

    def _to(self, key: str) -> httpx.Client:
        endpoint = self._places["qdrant"].endpoint
        url = f"http://{endpoint.host}:{endpoint.port}"
        return httpx.Client(base_url=url, headers={"api-key": key}, timeout=60, trust_env=False)

    def _driver(self, user: str, password: str) -> neo4j.Driver:
        import neo4j

        endpoint = self._places["neo4j"].endpoint
        return neo4j.GraphDatabase.driver(f"bolt://{endpoint.host}:{endpoint.port}", auth=(user, password))


def _statements(plan: Plan) -> Iterator[Statement]:
    return (statement for change in plan.changes for statement in change.statements)


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
