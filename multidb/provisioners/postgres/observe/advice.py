"""What a Postgres server's limits mean for its apps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multidb.model import App, Finding, Level, StoreContext, counted
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import MIGRATE_CONNECTIONS, PostgresFacts

__all__ = ["advise"]


def advise(apps: Sequence[App], context: StoreContext) -> tuple[Finding, ...]:
    """What the server's limits mean for these apps: connections, and databases whose collation has changed."""
    facts = context.facts
    assert isinstance(facts, PostgresFacts)
    total = sum(_connections(AppOptions.of(app.stores[STORE])) for app in apps)
    there = facts.max_connections - facts.reserved_connections
    subject = "connections"
    held = f"{counted(total, 'connection')} together"
    message = f"the logins of {counted(len(apps), 'app')} may hold {held}, the server has {there}"
    if total > there:
        fix = "lower connection_limit of some apps, raise max_connections, or put PgBouncer in front"
        findings = [Finding(Level.WARNING, subject, message, fix)]
    else:
        findings = [Finding(Level.OK, subject, message)]
    findings += _pools(apps, there)
    for name in facts.stale_collations:
        fix = f'REINDEX DATABASE "{name}", then ALTER DATABASE "{name}" REFRESH COLLATION VERSION'
        text = "was made under another version of the system's collations, so its text indexes may be wrong"
        findings.append(Finding(Level.WARNING, f"database {name}", text, fix))
    for database in facts.server_databases:
        if database.open and not database.closable:
            text = f"every login may connect to it, and {facts.admin} cannot change that"
            fix = f'let {database.owner} run: REVOKE CONNECT, TEMPORARY ON DATABASE "{database.name}" FROM PUBLIC'
            findings.append(Finding(Level.WARNING, f"database {database.name}", text, fix))
    return tuple(findings)


def _pools(apps: Sequence[App], there: int) -> Iterator[Finding]:
    """Whether one process of each app may open all that its pool says, where any says it."""
    pools = {app.id: options.pool.max for app in apps if (options := AppOptions.of(app.stores[STORE])).pool is not None}
    total = sum(pools.values())
    message = f"the pools of {counted(len(pools), 'app')} open up to {counted(total, 'connection')}, one process each"
    if total > there:
        fix = "lower max of some pools, raise max_connections, or put PgBouncer in front"
        yield Finding(Level.WARNING, "connection pools", f"{message}, and the server has {there}", fix)
    elif pools:
        yield Finding(Level.OK, "connection pools", f"{message}, the server has {there}")


def _connections(options: AppOptions) -> int:
    migrations = MIGRATE_CONNECTIONS if options.roles == "split" else 0
    readers = sum(reader.connection_limit for reader in options.readers.values())
    return options.connection_limit + options.readonly_connection_limit + readers + migrations
