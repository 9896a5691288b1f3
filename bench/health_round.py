"""One round of `multidb health` over 100 apps on four stores, against three times the slowest single check (made by
itself, and in the round) and the logins alone. One Neo4j serves all apps here (`isolation: label`): a hundred of them
are no laptop's."""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.ground import Result, apps, median, open_engine, project
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.health import check
from multidb.model import Status, Tenant
from multidb.provisioners import provisioner
from multidb.secrets import Secret

APPS = 100
RUNS = 5
_AT_ONCE = 64
_SERVERS = "{neo4j: {isolation: label}, postgres: {max_connections: 200}, redis: {databases: 128}}"
_ENTRY = "{qdrant: {collections: {knowledge: {size: 4}}}}"


def measure() -> list[Result]:
    with project(apps("app_", APPS, _ENTRY), servers=_SERVERS, defaults="{}") as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        tenants, _ = engine.fleet.tenants(Scope())
        for _ in range(3):
            _round(engine, len(tenants))  # a JVM's first answers are slow
        slowest: list[float] = []
        ours = median(RUNS, lambda: slowest.append(_round(engine, len(tenants))))
        single = max(median(RUNS, lambda each=each: _single(each)) for each in _one_of_each(tenants))  # type: ignore[misc]
        logins = median(RUNS, lambda: _logins(tenants))
    within = statistics.median(slowest)
    what = f"health of {APPS} apps on 4 stores"
    note = f"{len(tenants)} checks in {ours:.2f} s; slowest alone {single:.3f} s, in the round {within:.2f} s"
    logged_in = f"and the logins alone ({logins:.2f} s)"
    return [
        Result(what, ours, 3 * single + logins, f"3 times the slowest check by itself, {logged_in}", "at most 1", note),
        Result(what, ours, 3 * within + logins, f"3 times the slowest check of the round, {logged_in}", "at most 1"),
    ]


def _round(engine: Engine, expected: int) -> float:
    """The seconds of its slowest check."""
    report = check(engine.fleet)
    assert len(report.checks) == expected
    assert report.status is Status.HEALTHY, [each for each in report.checks if each.health.status is not Status.HEALTHY]
    return max(each.health.latency or 0.0 for each in report.checks)


def _one_of_each(tenants: list[Tenant]) -> list[Tenant]:
    return list({tenant.server.store: tenant for tenant in tenants}.values())


def _single(tenant: Tenant) -> None:
    made = provisioner(tenant.server.store).check_health
    assert made is not None
    made(tenant, True)


def _logins(tenants: list[Tenant]) -> None:
    """As many at once as a round of checks has, with the stores' own drivers and one question each."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(_login, tenants):
            pass


def _login(tenant: Tenant) -> Any:
    env = {name: value.reveal() if isinstance(value, Secret) else value for name, value in tenant.env.items()}
    match tenant.server.store:
        case "postgres":
            import psycopg

            with psycopg.connect(env["DATABASE_URL"]) as connection:
                return connection.execute("SELECT 1").fetchone()
        case "redis":
            import redis

            with redis.Redis.from_url(env["REDIS_URL"]) as client:
                return client.ping()
        case "neo4j":
            import neo4j

            login = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
            with neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=login) as driver:
                return driver.verify_connectivity()
        case "qdrant" if "QDRANT_URL" in env:  # bare HTTP: Qdrant's client takes 80 ms to begin
            import urllib3

            with urllib3.PoolManager() as client:
                return client.request(
                    "GET", f"{env['QDRANT_URL']}/collections", headers={"api-key": env["QDRANT_API_KEY"]}
                ).data
    return None  # Qdrant's local mode is a folder
