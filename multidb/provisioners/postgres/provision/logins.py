"""An app's own logins, by the addresses in its env file, and connections as one of them.

What the admin may do plays no part here: checks of health and of the walls see what the app sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from multidb.errors import AuthenticationFailed, NotAllowed
from multidb.model import Tenant
from multidb.provisioners.postgres.driver.connection import Connection, Traffic
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.resources import reading_variables
from multidb.secrets import Secret

__all__ = ["Login", "enter", "logins"]


@dataclass(frozen=True, slots=True)
class Login:
    """A login of an app: its name on the server, its password, and what it is for (``user``, ``readonly``,
    ``migrate``, ``reader_<name>``)."""

    user: str
    password: Secret
    purpose: str


def logins(tenant: Tenant) -> Iterator[Login]:
    """Every login that the app was given; first the one it works with."""
    prefix = tenant.app.id.upper()
    variables = {
        "user": "DATABASE_URL",
        **{purpose: variable for variable, purpose in reading_variables(tenant.app).items()},
        "migrate": f"{prefix}_DB_MIGRATE_URL",
    }
    for purpose, variable in variables.items():
        address = tenant.env.get(variable)
        if isinstance(address, Secret):
            parts = urlsplit(address.reveal())
            yield Login(unquote(parts.username or ""), Secret(unquote(parts.password or "")), purpose)


def enter(tenant: Tenant, login: Login, database: str = "") -> Connection:
    """A connection to the app's own database, or to another. Errors as of `Connection`, with advice for an app."""
    try:
        return Connection(
            tenant.server,
            login.password,
            "multidb check",
            Traffic(),
            database=database or home(tenant.app).database,
            user=login.user,
        )
    except (AuthenticationFailed, NotAllowed) as error:
        hint = f"multidb apply --app {tenant.app.id} lets it in again"
        raise type(error)(error.message, where=error.where, hint=hint) from None
