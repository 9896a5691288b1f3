"""What the client for apps costs over the bare drivers: a search, a GET, a SELECT, each many times in turns.

The search is on a server where `qdrant` is on the PATH, else in local mode, which has no network in it.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from psycopg_pool import ConnectionPool
from qdrant_client import models

from bench.ground import Result, open_engine, project
from multidb.client import connect
from multidb.environment import environment
from multidb.secrets import revealed

RUNS = 15
POINTS, SIZE = 10_000, 384


def in_turns(ours: Callable[[], object], bare: Callable[[], object], calls: int = 300) -> tuple[float, float]:
    """The medians of the seconds that a call takes, a run of one after a run of the other."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for work, taken in zip((ours, bare), times, strict=True):
            gc.collect()
            started = time.perf_counter()
            for _ in range(calls):
                work()
            taken.append((time.perf_counter() - started) / calls)
    return statistics.median(times[0]), statistics.median(times[1])


def measure() -> list[Result]:
    """The rows for BENCHMARKS.md."""
    return [*_servers(), _search()]


@contextmanager
def _ann(entry: str) -> Iterator[dict[str, str]]:
    """The variables of an app with that entry, on servers of its own."""
    with project(f"  ann: {entry}\n") as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        found = environment(engine.fleet, "ann").env
        yield {name: revealed(value) for name, value in found.items()}


def _servers() -> list[Result]:
    results = []
    with (
        _ann("{stores: [postgres, redis], redis: {isolation: prefix}}") as variables,
        connect(variables=variables) as place,
    ):
        ours: Any = place.redis
        bare = redis.Redis.from_url(variables["REDIS_URL"])
        ours.set("key", "value")

        def get() -> None:
            assert ours.get("key") == b"value"

        def bare_get() -> None:
            assert bare.get("ann:key") == b"value"

        results.append(_row("GET on Valkey, prefix mode", *in_turns(get, bare_get), "redis-py"))
        pool = ConnectionPool(variables["DATABASE_URL"], min_size=1, max_size=4, open=True)

        def select(of: Any) -> Callable[[], None]:
            def work() -> None:
                with of.connection() as connection:
                    assert connection.execute("SELECT 1").fetchone() == (1,)

            return work

        seconds = in_turns(select(place.postgres.pool), select(pool))
        results.append(_row("SELECT on Postgres, from a pool", *seconds, "psycopg_pool"))
        pool.close()
        bare.close()
    return results


def _search() -> Result:
    with (
        warnings.catch_warnings(),
        _ann(f"{{stores: [qdrant], qdrant: {{collections: {{docs: {{size: {SIZE}}}}}}}}}") as variables,
        connect(variables=variables) as place,
    ):
        warnings.simplefilter("ignore")
        ours: Any = place.qdrant
        bare = ours._client.connection.bare
        vectors = [[byte / 255 for byte in os.urandom(SIZE)] for _ in range(POINTS)]
        ours.upload_collection("docs", vectors, batch_size=1000, wait=True)
        mine = models.FieldCondition(key="tenant_id", match=models.MatchValue(value="ann"))

        def search() -> None:
            assert len(ours.query_points("docs", query=vectors[0], limit=5).points) == 5

        def bare_search() -> None:
            where = models.Filter(must=[mine])
            assert len(bare.query_points("ann_docs", query=vectors[0], query_filter=where, limit=5).points) == 5

        seconds = in_turns(search, bare_search, 20)
        mode = "local mode" if "QDRANT_PATH" in variables else "a server"
    return _row(f"search among {POINTS:,} points of {SIZE}, {mode}", *seconds, "qdrant-client, the same filter")


def _row(name: str, ours: float, bare: float, floor: str) -> Result:
    note = f"{ours * 1e6:.0f} µs, {bare * 1e6:.0f} µs"
    return Result(f"the client for apps: {name}", ours, bare, floor, "at most 1.05", note)
