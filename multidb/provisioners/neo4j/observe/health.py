"""Whether an app can work on its Neo4j, tried with its own login."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neo4j import exceptions

from multidb.model import Health, Status, Tenant
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, Bolt, as_the_app, explain, words_of
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts

__all__ = ["HEAP", "check_health", "fullest", "trouble"]

_READ_ONLY: Final = (
    "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase",
    "Neo.ClientError.General.WriteOnReadOnlyAccessDatabase",
)
_UNAVAILABLE: Final = "Neo.TransientError.Database.DatabaseUnavailable"
_MISSING: Final = "Neo.ClientError.Database.DatabaseNotFound"
_NEARLY_FULL: Final = 0.9
# A node is written and looked up again.
_WRITE: Final = "CREATE (n) WITH elementId(n) AS id MATCH (m) WHERE elementId(m) = id RETURN labels(m)"
_READ: Final = "OPTIONAL MATCH (n) RETURN labels(n) LIMIT 1"
# How much is left in the parts of the heap that lasting data lives in, after a collection; before one, most of what is
# in them is garbage.
HEAP: Final = (
    "CALL dbms.queryJmx('java.lang:name=*Gen*,type=MemoryPool') YIELD name, attributes "
    "WHERE name CONTAINS 'Old Gen' OR name CONTAINS 'Tenured' "
    "RETURN attributes.CollectionUsage.value.properties AS usage"
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
            with bolt.within():
                heap = _work(bolt, tenant, may_write)
        except DRIVER_ERRORS as error:
            return trouble(error, tenant, time.monotonic() - began)
        latency = time.monotonic() - began
    if tenant.context.facts is None and tenant.server.app is not None:
        return Health(
            Status.DEGRADED,
            "works for the app, and multidb's own login is refused: somebody has changed or lost the admin's password",
            latency,
            f"get back in: multidb recover {tenant.server.name}",
        )
    if heap > _NEARLY_FULL:
        return Health(
            Status.DEGRADED,
            f"works, and its server's heap is {heap:.0%} full",
            latency,
            "give it more: servers.neo4j.heap in the manifest, then start the server anew",
        )
    return Health(Status.HEALTHY, "wrote and read" if may_write else "read", latency)


def fullest(pools: Sequence[Mapping[str, Any] | None]) -> float:
    """How full, from 0 to 1, the fullest part of the heap is; 0 where the server does not say."""
    return max((pool["used"] / pool["max"] for pool in pools if pool and pool["max"] > 0), default=0.0)


def _work(bolt: Bolt, tenant: Tenant, may_write: bool) -> float:
    """Does what the app does. How full the heap is; 0 where the app may not ask."""
    facts = tenant.context.facts
    with bolt.session(str(tenant.env["NEO4J_DATABASE"])) as session, session.begin_transaction() as transaction:
        transaction.run(_WRITE if may_write else _READ).single(strict=True)
        asked = facts is not None and not Neo4jFacts.of(facts).roles
        pools = transaction.run(HEAP).value() if asked else ()
        transaction.rollback()
    return fullest(pools)


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
    if isinstance(error, exceptions.Forbidden) and tenant.app.id in tenant.context.read_only:
        return Health(Status.DEGRADED, "is over its quota: it may read and delete, and not grow", latency)
    if code in (_UNAVAILABLE, _MISSING):
        state = "is not there" if code == _MISSING else "is offline, or still starting"
        return Health(Status.UNHEALTHY, f"database {database} {state}", latency, "put it right: multidb apply")
    if isinstance(error, exceptions.TransientError):
        assert isinstance(error, exceptions.Neo4jError)
        return Health(Status.DEGRADED, f"the server is short of something: {words_of(error)}", latency, _MORE_MEMORY)
    raise explain(error, tenant.server, f"app {tenant.app.id}") from None


_MORE_MEMORY: Final = "look at its load, and at servers.neo4j.heap in the manifest"
