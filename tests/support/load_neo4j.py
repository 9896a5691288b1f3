"""Apps on Neo4j that go on while their credentials are rotated: a driver has the credentials that it was made with, so
there is a new one for other variables, and the former is closed when its last request is over."""

from __future__ import annotations

import asyncio

import neo4j

from tests.support.case import Tenant
from tests.support.load import PAUSE, Exchanged, Load

_REQUEST = "CREATE (n:Load {id: randomUUID()}) WITH n, n.id AS id DETACH DELETE n RETURN id"


def _login(tenant: Tenant) -> tuple[str, str]:
    return tenant.env["NEO4J_USER"], tenant.env["NEO4J_PASSWORD"]


def _opened(tenant: Tenant) -> neo4j.Driver:
    return neo4j.GraphDatabase.driver(tenant.env["NEO4J_URI"], auth=_login(tenant), max_connection_pool_size=8)


def transactions(load: Load) -> None:
    tenant = load.variables()
    drivers, database = Exchanged(_opened(tenant), neo4j.Driver.close), tenant.env["NEO4J_DATABASE"]

    def request() -> None:
        with drivers.use() as driver, driver.session(database=database) as session:
            (row,) = session.execute_write(lambda transaction: list(transaction.run(_REQUEST)))
            assert row["id"]

    load.repeat(request, 3, lambda other: drivers.exchange(_opened(other)))


def asynchronous(load: Load) -> None:
    asyncio.run(_asynchronous(load))


async def _asynchronous(load: Load) -> None:
    tenant = load.variables()
    database = tenant.env["NEO4J_DATABASE"]

    def opened(tenant: Tenant) -> neo4j.AsyncDriver:
        return neo4j.AsyncGraphDatabase.driver(tenant.env["NEO4J_URI"], auth=_login(tenant))

    now = opened(tenant)
    in_use = {now: 0}  # by driver, its requests

    async def work() -> None:
        while not load.over:
            driver = now
            in_use[driver] += 1
            records, _, _ = await driver.execute_query(_REQUEST, database_=database)
            assert records[0]["id"]
            in_use[driver] -= 1
            load.answered()
            await asyncio.sleep(PAUSE)

    async def watch() -> None:
        nonlocal now
        while not load.over:
            if (other := load.other_variables()) is not None:
                now = opened(other)
                in_use[now] = 0
            for driver in [driver for driver, users in in_use.items() if not users and driver is not now]:
                del in_use[driver]
                await driver.close()
            await asyncio.sleep(0.02)

    try:
        async with asyncio.TaskGroup() as group:
            for task in (work(), work(), work(), watch()):
                group.create_task(task)
    finally:
        for driver in in_use:
            await driver.close()


CLIENTS = {"neo4j": transactions, "neo4j asynchronous": asynchronous}
