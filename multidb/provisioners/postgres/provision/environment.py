"""The variables by which an app finds its database."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode

from multidb.model import App, Endpoint, StoreContext
from multidb.provisioners.postgres.provision.applications import application_variables
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import only_reads, password_ref, reading_variables
from multidb.provisioners.postgres.provision.roles import AppNames, slot_of
from multidb.secrets import Alternate, Secret, SecretRef

__all__ = ["env"]

_PORT = re.compile(r":[0-9]+$")


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> dict[str, str | Secret]:
    """The variables by which the app finds its database; `endpoint` is the server as the app sees it.

    Behind a pooler, what cannot go through it (migrations, session locks) has an address of its own.
    """
    current = context.alternates_of(app.id).current
    variables = _env_at(app, endpoint, secret, current)
    if endpoint.pooler is None:
        return variables
    straight = {
        name: value for name, value in variables.items() if name.endswith(("_MIGRATE_URL", "TEST_DATABASE_URL"))
    }
    pooled = _env_at(app, endpoint.pooler, secret, current)
    return {**pooled, **straight, "DATABASE_URL_DIRECT": variables["DATABASE_URL"]}


def _env_at(
    app: App, endpoint: Endpoint, secret: Callable[[SecretRef], Secret], current: Alternate
) -> dict[str, str | Secret]:
    authority = endpoint.params.get("sslrootcert")
    libpq = {name: endpoint.params[name] for name in ("sslmode", "sslrootcert") if name in endpoint.params}
    options, place = AppOptions.of(app.stores[STORE]), home(app)
    # asyncpg calls libpq's sslmode plain ssl, and finds the authority in libpq's variable
    asyncpg = {"ssl": libpq["sslmode"]} if "sslmode" in libpq else {}

    def url(
        purpose: str, scheme: str = "postgresql", tls: Mapping[str, str] = libpq, database: str = place.database
    ) -> Secret:
        login = slot_of(purpose, current)
        password = quote(secret(password_ref(app.id, login)).reveal(), safe="")
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        at = f"{host}:{endpoint.port}"
        if options.replica is not None and only_reads(purpose):
            at = options.replica if _PORT.search(options.replica) else f"{options.replica}:5432"
        tail = f"?{urlencode(tls, safe='/')}" if tls else ""
        user = quote(AppNames.of(app.id).login(login), safe="")
        return Secret(f"{scheme}://{user}:{password}@{at}/{quote(database or place.database, safe='')}{tail}")

    prefix = app.id.upper()
    variables: dict[str, str | Secret] = {
        "DATABASE_URL": url("user"),
        f"{prefix}_DB_URL": url("user"),
        **{name: url(purpose) for name, purpose in reading_variables(app).items()},
        "DATABASE_URL_ASYNC": url("user", "postgresql+asyncpg", asyncpg),
        "POSTGRES_HOST": endpoint.host,
        "POSTGRES_PORT": str(endpoint.port),
        "POSTGRES_DB": place.database,
        "POSTGRES_USER": AppNames.of(app.id).login(slot_of("user", current)),
        "POSTGRES_PASSWORD": secret(password_ref(app.id, slot_of("user", current))),
    }
    if place.schema is not None:
        variables["POSTGRES_SCHEMA"] = place.schema
    if options.pool is not None:
        variables |= {"POSTGRES_POOL_MIN": str(options.pool.min), "POSTGRES_POOL_MAX": str(options.pool.max)}
    if authority:
        variables["PGSSLROOTCERT"] = authority
    if options.roles == "split":
        variables[f"{prefix}_DB_MIGRATE_URL"] = url("migrate")
    if options.profile is not None:
        variables |= application_variables(options.profile, url("user").reveal(), url("user", tls=asyncpg).reveal())
    if options.test_database:  # by the login that may make tables: whoever runs tests begins with migrations
        login = "migrate" if options.roles == "split" else "user"
        variables["TEST_DATABASE_URL"] = url(login, database=AppNames.of(app.id).test_database)
    return variables
