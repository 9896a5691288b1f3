"""How well an app's database is, tried with the app's own login on one short connection.

One round trip after the login: the server's figures, and a large object that is written, read back and rolled back. A
large object is the smallest real write there is: two rows in ordinary tables, and no new table in the catalogs, which
a check every few seconds would bloat.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow
from multidb.model import Health, Status, Tenant, counted
from multidb.provisioners.postgres.driver.connection import Answer, Connection
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.logins import enter, logins

__all__ = ["check_health"]

_NEARLY_FULL = 0.9
_WRITTEN = "multidb"
# What everybody may see, so that the app's login can ask for it. Our own connection does not count. The function under
# pg_stat_activity spares a fresh backend a third of the work: the view also looks up everybody's names.
_FIGURES = """
SELECT pg_catalog.json_build_object(
  'user', session_user,
  'mine', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_activity(NULL)
           WHERE usesysid = r.oid AND pid <> pg_catalog.pg_backend_pid()),
  'my_limit', r.rolconnlimit,
  'all', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_activity(NULL)
          WHERE datid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()),
  'limit', pg_catalog.current_setting('max_connections')::pg_catalog.int4
           - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4
           - coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int4,
  'standby', pg_catalog.pg_is_in_recovery(),
  'read_only', pg_catalog.current_setting('transaction_read_only') = 'on',
  'set_by', (SELECT source FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'),
  'stale_collation', {stale})
FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
WHERE r.rolname = session_user"""
# What takes back a setting that holds in all databases, by what has made it.
_EVERYWHERE = {
    "configuration file": "ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()",
    "global": "ALTER ROLE ALL RESET default_transaction_read_only",
}
_STALE = "d.datcollversion <> pg_catalog.pg_database_collation_actual_version(d.oid)"
_WRITE = (
    f"SELECT pg_catalog.set_config('multidb.probe', pg_catalog.lo_from_bytea(0, '{_WRITTEN}')::pg_catalog.text, true)",
    "SELECT pg_catalog.convert_from(pg_catalog.lo_get("
    "pg_catalog.current_setting('multidb.probe')::pg_catalog.oid), 'UTF8')",
)
# Where apps share a database nobody makes large objects: a record in the server's log, which nobody reads.
_RECORD = (
    f"SELECT CASE WHEN pg_catalog.pg_logical_emit_message(true, 'multidb', '{_WRITTEN}') IS NOT NULL "
    f"THEN '{_WRITTEN}' END",
)


@dataclass(frozen=True, slots=True)
class _Figures:
    """What the server says of itself to the app's login."""

    user: str
    mine: int
    my_limit: int
    all: int
    limit: int
    standby: bool
    read_only: bool
    set_by: str  # what makes it so, as the server calls it
    stale_collation: bool | None


def check_health(tenant: Tenant, may_write: bool) -> Health:
    """Connects as the app, reads, and writes where `may_write`; nothing stays behind.

    Lasts at most about ``tenant.server.timeout``, also where the server or something before it accepts connections and
    never answers.

    Raises:
        ServerDown, ServerSlow: there is no server to be asked.
        AuthenticationFailed: it does not let the app's login in.
    """
    login = next(logins(tenant))
    started = time.monotonic()
    deadline = started + tenant.server.timeout
    try:
        with enter(tenant, login) as connection:
            write = _WRITE if home(tenant.app).schema is None else _RECORD
            answer = connection.send(_message(connection, write if may_write else (), deadline), _left(deadline))
    except (ServerDown, ServerSlow):
        raise
    except ServerError as error:
        return _refused(error, tenant, login.user)
    return _judged(answer, tenant, may_write, time.monotonic() - started)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.1)


def _message(connection: Connection, write: Sequence[str], deadline: float) -> str:
    # By its own settings, the login might find an operator that the app has made where the server's is meant.
    limits = f"SET statement_timeout = {round(_left(deadline) * 1000)}; SET search_path = pg_catalog, pg_temp"
    figures = _FIGURES.format(stale=_STALE if connection.version >= 150000 else "NULL::pg_catalog.bool")
    # A plain BEGIN: READ WRITE would hide that the app's own transactions are read-only.
    return ";\n".join((limits, "BEGIN", figures, *write, "ROLLBACK"))


def _refused(error: ServerError, tenant: Tenant, user: str) -> Health:
    """A server that is there and does not let the app in."""
    again = f"multidb apply --app {tenant.app.id}"
    message, fix = error.message, f"look into the server's log, then: {again}"
    if "does not exist" in message:
        message, fix = f"the database or the login {user} is not there ({message})", again
    elif isinstance(error, AuthenticationFailed):
        hint = f"{again} gives the login its password back"
        raise AuthenticationFailed(f"the server refuses {user} ({message})", where=str(tenant.server), hint=hint)
    elif "not permitted to log in" in message:
        message = f"{user} may not enter its database ({message})"
        raise AuthenticationFailed(message, where=str(tenant.server), hint=f"{again} lets it in again")
    elif isinstance(error, NotAllowed) or "not currently accepting" in message:
        message, fix = f"{user} may not enter its database ({message})", f"{again} lets it in again"
    elif "too many connections for role" in message:
        message, fix = f"{user} holds all the connections that it may", "close some, or raise its connection_limit"
    elif "too many" in message or "remaining connection slots" in message:
        message, fix = "the server has no free connection", "close some, or raise max_connections"
    return Health(Status.UNHEALTHY, message, fix=fix)


def _judged(answer: Answer, tenant: Tenant, may_write: bool, latency: float) -> Health:
    documents = [value for row in answer.rows for value in row if value is not None and value.startswith("{")]
    figures = _Figures(**json.loads(documents[0])) if documents else None
    if figures is None or (answer.refusal is not None and not figures.read_only):
        reason = answer.refusal.message if answer.refusal is not None else "it gave no answer"
        return Health(
            Status.UNHEALTHY,
            f"the app can connect, and not {'write' if figures else 'read'}: {reason}",
            latency,
            fix="look into the server's log; a full disk and a lost right look like this",
        )
    if may_write and not figures.read_only and [_WRITTEN] not in answer.rows:
        return Health(Status.UNHEALTHY, "what was written cannot be read", latency, "look into the server's log")
    worry = _worry(figures, tenant)
    if worry is not None:
        return Health(Status.DEGRADED, worry[0], latency, worry[1])
    return Health(Status.HEALTHY, "wrote and read" if may_write else "read", latency)


def _worry(figures: _Figures, tenant: Tenant) -> tuple[str, str] | None:
    """What works now and will not for long, with what to do; the most urgent of several."""
    if figures.standby:
        return "the server is a standby and takes no writes", "let the app connect to the primary"
    if figures.read_only:
        everywhere = _EVERYWHERE.get(figures.set_by)
        if everywhere is not None:
            return "the transactions of all apps are read-only", f"by hand, as the server's admin: {everywhere}"
        fix = f"multidb apply --app {tenant.app.id}; then, by hand: "
        fix += f'ALTER DATABASE "{home(tenant.app).database}" RESET default_transaction_read_only'
        return "the app's transactions are read-only", fix
    if figures.my_limit > 0 and figures.mine >= _NEARLY_FULL * figures.my_limit:
        return (
            f"{figures.user} holds {figures.mine} of its {counted(figures.my_limit, 'connection')}",
            "look for connections that are not closed, or raise its connection_limit",
        )
    if figures.all >= _NEARLY_FULL * figures.limit:
        return (
            f"the server has {figures.all} of its {figures.limit} connections in use",
            "raise max_connections, lower the limits of apps, or put PgBouncer in front",
        )
    if figures.stale_collation:
        name = home(tenant.app).database
        return (
            "the database was made under another version of the system's collations, so text indexes may be wrong",
            f'REINDEX DATABASE "{name}", then ALTER DATABASE "{name}" REFRESH COLLATION VERSION',
        )
    if tenant.app.id in tenant.context.read_only:
        return "over its quota: it may read and delete and not grow", "delete data, or raise the quota in the manifest"
    return None
