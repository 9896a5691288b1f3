"""Sessions by an app's own logins, for the walls between apps to be tried by and on."""

from __future__ import annotations

import time
from typing import Final

from multidb.errors import ServerError
from multidb.model import Tenant
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.provision.logins import Login, enter, logins

__all__ = ["TIMEOUT", "patiently", "session_of"]

TIMEOUT: Final = 2.0  # seconds
_TAKEN: Final = "too many connections for role"


def session_of(victim: Tenant) -> Connection:
    """A session as the first of the victim's logins that has a connection free. Errors as for `enter`."""
    *others, last = logins(victim)
    for login in others:
        try:
            return enter(victim, login)
        except ServerError as error:
            if _TAKEN not in error.message:
                raise
    return patiently(victim, last)


def patiently(tenant: Tenant, login: Login, database: str = "") -> Connection:
    """As `enter`; a connection that is taken only for a moment, as by a check of health, is waited for."""
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            return enter(tenant, login, database)
        except ServerError as error:
            if _TAKEN not in error.message or time.monotonic() > until:
                raise
        time.sleep(TIMEOUT / 10)
