"""What 10, 100 and 1,000 apps on Postgres and Valkey cost: fresh apply, plan, env files, audit.

With `TMPDIR` on a file system in memory (9 GB for 1,000 apps) the disk has no say: it may be slower from one run to the
next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import mean

import redis

from bench.ground import Result, admin, apps, connect_to_each, median, open_engine, project, taking_turns
from bench.postgres_apply import psql, script
from multidb.audit import audit
from multidb.engine import Engine
from multidb.environment import environment, environments
from multidb.plan import Plan
from multidb.provisioners.redis.provision.rules import split_line
from multidb.secrets import generate

COUNTS, RUNS, THREADS = (10, 100, 1000), 3, 4
ENTRY = "{stores: [postgres, redis]}"
SERVERS = "{redis: {databases: 1100}}"


def measure() -> Iterator[Result]:
    for count in COUNTS:
        yield from _measured(count)


def _measured(count: int) -> Iterator[Result]:
    floors, applied = [_floor(count)], []
    with _servers(count) as folder:
        applied.append(median(1, lambda: _apply(folder)))
    floors.append(_floor(count))
    with _servers(count) as folder:
        applied.append(median(1, lambda: _apply(folder)))
        ours, floor = mean(applied), mean(floors)
        yield _result(f"fresh apply of {count} apps", ours, floor, "psql, and a pipeline to Valkey", "at most 1.3")
        engine = open_engine(folder)
        plan, bare = taking_turns(RUNS, lambda: _plan(folder), lambda: _bare(engine, count))
        what = f"one connection and SELECT 1 per database, {THREADS} threads; the users of Valkey"
        yield _result(f"plan of {count} apps, nothing to do", plan, bare, what, "at most 1.5")
        env = median(RUNS, lambda: _environments(folder))
        yield _result(f"variables of the env files of {count} apps", env, ours, "the apply", "at most 0.1")
        single = median(RUNS, lambda: environment(engine.fleet, "app0000"))
        yield _result(f"variables of one app of {count}", single, 0.1, "0.1 seconds", "the same for any number")
        audited = median(1, lambda: audit(open_engine(folder).fleet))
        yield _result(f"audit of {count} apps", audited, plan, "the plan", "at most 5 for 1,000")


def _servers(count: int) -> AbstractContextManager[Path]:
    return project(apps("app", count, ENTRY), servers=SERVERS)


def _floor(count: int) -> float:
    """Seconds of the statements alone, on servers of their own."""
    with _servers(count) as folder:
        engine = open_engine(folder)
        planned = engine.plan()
        return median(1, lambda: _by_hand(engine, planned))


def _result(name: str, ours: float, floor: float, floor_is: str, promise: str) -> Result:
    return Result(f"{name}, Postgres and Valkey", ours, floor, floor_is, promise, f"{ours:.2f} s")


def _apply(folder: Path) -> None:
    error = open_engine(folder).apply().error()
    assert error is None, error


def _plan(folder: Path) -> None:
    assert open_engine(folder).plan().in_sync


def _environments(folder: Path) -> None:
    fleet = open_engine(folder).fleet
    assert len(list(environments(fleet, list(fleet.project.apps)))) == len(fleet.project.apps)


def _by_hand(engine: Engine, plan: Plan) -> None:
    """The statements of the plan, side by side on both servers as the apply sends them, without any reading."""
    of = {server.store: Plan(plan.project, (server,)) for server in plan.servers}
    text = script(engine, of["postgres"])
    commands = [
        [word.replace("$user_sha256", hashlib.sha256(generate().reveal().encode()).hexdigest()) for word in line]
        for change in of["redis"].changes
        for line in (split_line(statement.text) for statement in change.statements)
    ]
    with ThreadPoolExecutor(2) as pool:
        for done in (pool.submit(psql, engine, text), pool.submit(_pipelined, engine, commands)):
            done.result()


def _pipelined(engine: Engine, commands: list[list[str]]) -> None:
    host, port, user, password = admin(engine, "redis")
    with redis.Redis(host=host, port=port, username=user, password=password) as client:
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute()


def _bare(engine: Engine, count: int) -> None:
    connect_to_each(engine, [f"app{number:04}" for number in range(count)], THREADS)
    host, port, user, password = admin(engine, "redis")
    with redis.Redis(host=host, port=port, username=user, password=password) as client:
        client.execute_command("ACL LIST")
