"""How real the wall around an app is on a Postgres server."""

from __future__ import annotations

from collections.abc import Sequence

from multidb.model import App, Facts, Isolation
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import PostgresFacts, ServerDatabaseFacts

__all__ = ["isolation"]


_LEAKS = (
    "apps of one database see the names of each other's tables and columns, their sizes and the database's statistics, "
    "and share its NOTIFY channels and advisory locks"
)
"""What the server does not keep apart in one database."""


def isolation(app: App, facts: Facts) -> tuple[Isolation, str]:
    """Enforced by the server, unless it has databases of its own that are open to every login."""
    facts = PostgresFacts.of(facts)
    left_open = [database for database in facts.server_databases if database.open]
    reader = (
        "" if facts.superuser else f"; the read-only login can make large objects, which {facts.admin} cannot close"
    )
    place = home(app)
    if place.schema is not None:
        return Isolation.PARTIAL, f"{place}, with its own logins; {_LEAKS}{_reading(app)}{_left_open(left_open)}"
    if not left_open:
        return Isolation.ENFORCED, f"own database and logins; nobody else may connect{reader}"
    beyond = [database for database in left_open if not database.closable]
    names = ", ".join(database.name for database in beyond or left_open)
    own = f"own database and logins, but every login may still connect to {names}"
    if not beyond:
        ways = "multidb apply closes that, unless servers.postgres.close_defaults is false"
        return Isolation.PARTIAL, f"{own}; {ways}{reader}"
    owners = ", ".join(sorted({database.owner for database in beyond}))
    quoted = ", ".join('"' + database.name.replace('"', '""') + '"' for database in beyond)
    return (
        Isolation.PARTIAL,
        f"{own}, which {facts.admin} cannot close; "
        f"let {owners} run: REVOKE CONNECT, TEMPORARY ON DATABASE {quoted} FROM PUBLIC{reader}",
    )


def _reading(app: App) -> str:
    options = app.stores.get(STORE)
    reads = options.reads if isinstance(options, AppOptions) else ()
    return f"; it reads {', '.join(reads)}, whose functions may run as {app.id} then" if reads else ""


def _left_open(databases: Sequence[ServerDatabaseFacts]) -> str:
    names = ", ".join(database.name for database in databases)
    return f"; every login may still connect to {names}" if databases else ""
