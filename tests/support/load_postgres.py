"""Apps on Postgres that go on while their credentials are rotated, each as its library's documentation says."""

from __future__ import annotations

import asyncio

import asyncpg
from psycopg_pool import ConnectionPool

from tests.support.case import Tenant
from tests.support.load import PAUSE, Load

_LASTING = "SELECT pg_sleep(0.02)"  # so that connections are in use when the pool is told


def pool(load: Load) -> None:
    """`psycopg_pool` is told of other variables by what it asks for its connections' parameters, and drained."""
    url = [load.variables().env["DATABASE_URL"]]

    def reload(tenant: Tenant) -> None:
        url[0] = tenant.env["DATABASE_URL"]
        made.drain()

    with ConnectionPool(lambda: url[0], min_size=2, max_size=4, timeout=60, kwargs={"autocommit": True}) as made:

        def request() -> None:
            with made.connection() as connection:
                connection.execute(_LASTING.encode())

        load.repeat(request, 6, reload)


def asynchronous(load: Load) -> None:
    """`asyncpg`'s pool is given other arguments, and lets its connections expire."""
    asyncio.run(_asynchronous(load))


async def _asynchronous(load: Load) -> None:
    url = load.variables().env["DATABASE_URL"]
    async with asyncpg.create_pool(url, min_size=2, max_size=4, timeout=60) as made:

        async def work() -> None:
            while not load.over:
                async with made.acquire() as connection:
                    await connection.execute(_LASTING)
                load.answered()
                await asyncio.sleep(PAUSE)

        async def watch() -> None:
            while not load.over:
                if (tenant := load.other_variables()) is not None:
                    made.set_connect_args(tenant.env["DATABASE_URL"])
                    await made.expire_connections()
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            for task in (work(), work(), work(), work(), work(), work(), watch()):
                group.create_task(task)


CLIENTS = {"psycopg_pool": pool, "asyncpg": asynchronous}
