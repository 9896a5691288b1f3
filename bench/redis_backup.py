"""A million small keys of one app on Valkey (MULTIDB_BENCH_KEYS), kept as a set, proved and brought back: against plain
loops with redis-py over one connection, and against the server's own dump where its command line is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import redis

from bench.apart import apart, backed_up, restored, verified
from bench.backup_ground import somewhere
from bench.ground import Result, admin, apps, median, open_engine, project
from multidb.fleet import Scope

KEYS, BATCH = int(os.environ.get("MULTIDB_BENCH_KEYS", "1000000")), 1000


def measure() -> list[Result]:
    with project(apps("app", 1, "{stores: [redis]}")) as folder, somewhere() as sets:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "redis")
        [server] = engine.fleet.servers(Scope())
        with engine.fleet.open(server) as session:
            numbers = engine.fleet.context(server, session).numbers
        [number] = numbers.values()
        client = redis.Redis(host=host, port=port, username=user, password=password, db=number)
        for start in range(0, KEYS, BATCH):
            client.mset({f"session:{i}": f"value {i}" for i in range(start, start + BATCH)})
        backup = apart(backed_up, folder, sets)
        plain, pipelined = median(1, lambda: _one_by_one(client)), median(1, lambda: _in_pipelines(client))
        dumped = _dumped(host, port, user, password, sets / "dump.rdb")
        proof = apart(verified, folder, sets)
        restore = apart(restored, folder, sets)
        assert client.dbsize() == KEYS
        kept = list(_dumps(client))
        client.flushdb()
        loaded = median(1, lambda: _loaded(client, kept))
        assert client.dbsize() == KEYS
    what = f"{KEYS:,} keys of Valkey"
    loop = "SCAN, then DUMP and PEXPIRETIME of each key, redis-py, one connection, nothing kept"
    loading = f"RESTORE of each in pipelines of {BATCH}, redis-py, one connection, nothing compared"
    results = [
        Result(f"backup of {what}", backup.seconds, plain, loop, "at most 0.33", backup.note),
        Result(f"backup of {what}", backup.seconds, pipelined, f"the same in pipelines of {BATCH}", "", ""),
    ]
    if dumped is not None:
        results.append(
            Result(f"backup of {what}", backup.seconds, dumped, "`redis-cli --rdb`: the server writes all it has", "")
        )
    return [
        *results,
        Result(f"proof of a set of {what}", proof.seconds, loaded, loading, "", proof.note),
        Result(f"restore of {what}, compared", restore.seconds, loaded, loading, "", restore.note),
    ]


def _one_by_one(client: redis.Redis) -> None:
    read = 0
    for key in client.scan_iter(count=1000):
        assert client.dump(key)
        client.pexpiretime(key)
        read += 1
    assert read >= KEYS


def _in_pipelines(client: redis.Redis) -> None:
    read = 0
    for keys in _batches(client.scan_iter(count=1000)):
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.dump(key)
            pipeline.pexpiretime(key)
        read += len(pipeline.execute()) // 2
    assert read >= KEYS


def _dumps(client: redis.Redis) -> Iterator[tuple[bytes, bytes]]:
    for keys in _batches(client.scan_iter(count=1000)):
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.dump(key)
        yield from zip(keys, pipeline.execute(), strict=True)


def _loaded(client: redis.Redis, kept: Iterable[tuple[bytes, bytes]]) -> None:
    for batch in _batches(kept):
        pipeline = client.pipeline(transaction=False)
        for key, payload in batch:
            pipeline.restore(key, 0, payload, replace=True)
        pipeline.execute()


def _dumped(host: str, port: int, user: str, password: str, file: Path) -> float | None:
    """The seconds of the server's own dump, of every DB; None where there is no program to ask for one."""
    program = shutil.which("valkey-cli") or shutil.which("redis-cli")
    if program is None:
        return None
    command = [program, "-h", host, "-p", str(port), "--user", user, "--rdb", str(file)]
    env = {**os.environ, "REDISCLI_AUTH": password}
    return median(1, lambda: subprocess.run(command, env=env, check=True, capture_output=True))


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
