"""A backup of a million small keys of one app on Valkey, against a plain loop with redis-py over one connection."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO

import redis

from bench.ground import Result, admin, apps, open_engine, project, quiet, taking_turns
from multidb.engine import Scope

KEYS, RUNS, BATCH = 1_000_000, 1, 10_000


class _Nowhere:
    """A set that nobody keeps."""

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        yield _Sink()


class _Sink(io.BytesIO):
    def write(self, data: object) -> int:
        return 0


def measure() -> list[Result]:
    with project(apps("app", 1, "{stores: [redis]}")) as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "redis")
        [server] = engine.servers(Scope())
        with engine.open(server) as session:
            context = engine.context(server, session)
        [app] = engine.apps_of(server)
        number = context.numbers[app.id]
        client = redis.Redis(host=host, port=port, username=user, password=password, db=number)
        for start in range(0, KEYS, BATCH):
            client.mset({f"session:{i}": f"value {i}" for i in range(start, start + BATCH)})

        def ours() -> None:
            with engine.archive(server) as archive:
                part = archive.backup(app, context, _Nowhere(), quiet)
            assert part.details["keys"] == KEYS

        def floor() -> None:
            pipeline = client.pipeline(transaction=False)
            for count, key in enumerate(client.scan_iter(count=1000), 1):
                pipeline.dump(key)
                pipeline.pexpiretime(key)
                if count % 1000 == 0:
                    pipeline.execute()
            pipeline.execute()

        mine, bare = taking_turns(RUNS, ours, floor)
    return [
        Result(
            f"backup of {KEYS:,} keys on Valkey",
            mine,
            bare,
            "SCAN, then DUMP and PEXPIRETIME in pipelines of 1,000 keys, redis-py, one connection, nothing kept",
            "at most 0.33",
        )
    ]
