"""Apps on Neo4j that go on while their credentials are rotated: a driver has the credentials that it was made with, so
there is a new one for other variables, and the former is closed when its last request is over."""

from __future__ import annotations

import asyncio

import neo4j

from tests.support.case import Tenant
from tests.support.load import Exchanged, Load, repeat_awaiting

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
    database = load.variables().env["NEO4J_DATABASE"]

    def opened(tenant: Tenant) -> neo4j.AsyncDriver:
        return neo4j.AsyncGraphDatabase.driver(tenant.env["NEO4J_URI"], auth=_login(tenant))

    async def request(driver: neo4j.AsyncDriver) -> None:
        records, _, _ = await driver.execute_query(_REQUEST, database_=database)
        assert records[0]["id"]

    await repeat_awaiting(load, opened, request, neo4j.AsyncDriver.close)


CLIENTS = {"neo4j": transactions, "neo4j asynchronous": asynchronous}
