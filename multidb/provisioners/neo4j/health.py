"""Whether an app can work on its Neo4j, tried with its own login."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neo4j import exceptions

from multidb.model import Health, Status, Tenant
from multidb.provisioners.neo4j.bolt import DRIVER_ERRORS, Bolt, explain, said
from multidb.secrets import Secret

__all__ = ["as_the_app", "check_health", "fullest_heap", "trouble"]

_READ_ONLY: Final = (
    "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase",
    "Neo.ClientError.General.WriteOnReadOnlyAccessDatabase",
)
_UNAVAILABLE: Final = "Neo.TransientError.Database.DatabaseUnavailable"
_MISSING: Final = "Neo.ClientError.Database.DatabaseNotFound"
_NEARLY_FULL: Final = 0.9
# What is left in each part of the heap after a collection; before one, most of what is in it is garbage.
_HEAP: Final = (
    "CALL dbms.queryJmx('java.lang:type=MemoryPool,*') YIELD name, attributes "
    "RETURN name, attributes.CollectionUsage.value.properties AS usage"
)


def check_health(tenant: Tenant, may_write: bool) -> Health:
    """Logs in as the app, writes and reads in its database, and takes the writing back.

    What is written is a node without label and property, in a transaction that is rolled back: a name would stay in
    the database's list of names even then. Lasts at most the server's timeout, and two seconds more where a connection
    has to be given up.

    Raises:
        ServerError: the app cannot log in, or the server does not answer.
    """
    began = time.monotonic()
    with as_the_app(tenant) as bolt:
        try:
            heap = bolt.wait(_work(bolt, tenant, may_write))
        except DRIVER_ERRORS as error:
            return trouble(error, tenant, time.monotonic() - began)
        latency = time.monotonic() - began
    if heap > _NEARLY_FULL:
        return Health(
            Status.DEGRADED,
            f"works, and its server's heap is {heap:.0%} full",
            latency,
            "give it more: servers.neo4j.heap in the manifest, then start the server anew",
        )
    return Health(Status.HEALTHY, "wrote and read" if may_write else "read", latency)


def as_the_app(tenant: Tenant, uri: str | None = None) -> Bolt:
    """The app's own login, on its own server or at another address."""
    env = {name: value.reveal() if isinstance(value, Secret) else value for name, value in tenant.env.items()}
    return Bolt(
        tenant.server,
        env["NEO4J_USER"],
        Secret(env["NEO4J_PASSWORD"]),
        "multidb check",
        who=f"app {tenant.app.id}",
        uri=uri or env["NEO4J_URI"],
    )


def fullest_heap(pools: Sequence[Mapping[str, Any]]) -> float:
    """How full, from 0 to 1, the part of the heap is that lasting data lives in; 0 where the server does not say."""
    lasting = [
        pool["usage"] for pool in pools if pool["usage"] and ("Old Gen" in pool["name"] or "Tenured" in pool["name"])
    ]
    return max((usage["used"] / usage["max"] for usage in lasting if usage["max"] > 0), default=0.0)


async def _work(bolt: Bolt, tenant: Tenant, may_write: bool) -> float:
    """Does what the app does. How full the heap is; 0 where the app may not ask."""
    facts = tenant.context.facts
    async with bolt.session(str(tenant.env["NEO4J_DATABASE"])) as session:
        transaction = await session.begin_transaction()
        try:
            if may_write:
                created = await (await transaction.run("CREATE (n) RETURN elementId(n) AS id")).single(strict=True)
                text, values = "MATCH (n) WHERE elementId(n) = $id RETURN count(n) AS nodes", {"id": created["id"]}
            else:
                text, values = "MATCH (n) RETURN labels(n) LIMIT 1", {}
            await (await transaction.run(text, values)).consume()
        finally:
            await transaction.rollback()
        if facts is None or facts.roles:
            return 0.0
        return fullest_heap(await (await session.run(_HEAP)).data())


def trouble(error: BaseException, tenant: Tenant, latency: float) -> Health:
    """What an error means for the app. One that means no more than that it cannot work is raised."""
    code = error.code if isinstance(error, exceptions.Neo4jError) else None
    database = tenant.env["NEO4J_DATABASE"]
    if code in _READ_ONLY:
        return Health(
            Status.DEGRADED,
            f"database {database} can be read and not written",
            latency,
            "see server.databases.read_only in neo4j.conf, or run: multidb apply",
        )
    if isinstance(error, exceptions.Forbidden) and tenant.app.id in tenant.context.restricted:
        return Health(Status.DEGRADED, "is over its quota: it may read and delete, and not grow", latency)
    if code in (_UNAVAILABLE, _MISSING):
        state = "is not there" if code == _MISSING else "is offline, or still starting"
        return Health(Status.UNHEALTHY, f"database {database} {state}", latency, "put it right: multidb apply")
    if isinstance(error, exceptions.TransientError):
        assert isinstance(error, exceptions.Neo4jError)
        return Health(Status.DEGRADED, f"the server is short of something: {said(error)}", latency, _MORE_MEMORY)
    raise explain(error, tenant.server, f"app {tenant.app.id}") from None


_MORE_MEMORY: Final = "look at its load, and at servers.neo4j.heap in the manifest"
