"""What apps ask for that a server does not have for them: each is refused by itself, and changes no other's result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from multidb.errors import NotAllowed
from multidb.model import App, Server
from multidb.provisioners.postgres.provision.databases import database_names, home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import MAINTAIN_SINCE, PostgresFacts

__all__ = ["unmet"]


def unmet(apps: Iterable[App], facts: PostgresFacts, server: Server | None = None) -> Iterator[tuple[str, NotAllowed]]:
    """By app, why it cannot have what it asks for. A login that owns its tables maintains them in every version."""
    server_databases = {database.name for database in facts.server_databases}
    for app in apps:
        options = AppOptions.of(app.stores[STORE])
        if first := server_databases.intersection((home(app).database, *database_names(app))):
            yield (
                app.id,
                NotAllowed(
                    f"database {min(first)} is the one that the server's address names, which the admin enters first, "
                    "and so no app's",
                    where=f"app {app.id}",
                    hint=f"let the address name another one (external.{STORE}.url: postgresql://.../postgres)",
                ),
            )
        if options.schema_name is not None and server is not None and (alone := _alone(app, options, server)):
            yield app.id, NotAllowed(alone, where=f"app {app.id}", hint="let all apps of the database have one server")
        if options.schema_name == facts.admin:
            yield (
                app.id,
                NotAllowed(
                    f"schema {facts.admin} of {app.id} would be called as the admin's login, in which scripts look",
                    where=f"app {app.id}",
                    hint="give the schema another name in the manifest",
                ),
            )
        if options.maintain and options.roles == "split" and facts.number < MAINTAIN_SINCE:
            yield (
                app.id,
                NotAllowed(
                    f"the login of {app.id} is to maintain its tables (postgres: {{maintain: true}}), and Postgres "
                    f"{facts.version} has no right for that",
                    where=f"app {app.id}",
                    hint="use Postgres 17 or newer, or roles: simple, or take maintain out and let the login for "
                    f"migrations do it: multidb connect {app.id} --migrate -- psql -c 'REFRESH ...'",
                ),
            )


def _alone(app: App, options: AppOptions, server: Server) -> str:
    """Why the app cannot share a database with others on its server, as a sentence; nothing where it can."""
    if server.app is not None:
        return f"{app.id} is to share database {options.database}, and has a server to itself"
    away = [other for other in options.reads if not server.serves(other)]
    return f"{app.id} is to read {', '.join(away)} in database {options.database}, on another server" if away else ""
