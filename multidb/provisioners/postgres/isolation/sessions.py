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
# By what its role or its database may have a session ended: an attempt that takes long says nothing of a wall. Asked
# for by name, since not every server has each of them.
_WITHOUT_LIMITS: Final = (
    "SET statement_timeout = 0; SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name "
    "OPERATOR(pg_catalog.=) ANY (ARRAY['lock_timeout', 'transaction_timeout', 'idle_session_timeout', "
    "'idle_in_transaction_session_timeout'])"
)


def session_of(victim: Tenant) -> Connection:
    """A session as the first of the victim's logins that has a connection free; otherwise as `patiently`."""
    *others, last = logins(victim)
    for login in others:
        try:
            return _unhurried(enter(victim, login), victim)
        except ServerError as error:
            if _TAKEN not in error.message:
                raise
    return patiently(victim, last)


def patiently(tenant: Tenant, login: Login, database: str = "") -> Connection:
    """As `enter`, without the limits in time that the login has there. A connection that is taken only for a moment, as
    by a check of health, is waited for."""
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            return _unhurried(enter(tenant, login, database), tenant)
        except ServerError as error:
            if _TAKEN not in error.message or time.monotonic() > until:
                raise
        time.sleep(TIMEOUT / 10)


def _unhurried(session: Connection, tenant: Tenant) -> Connection:
    session.send(_WITHOUT_LIMITS, tenant.server.timeout)
    return session
