"""A person's way into an app's database: psql, or a prompt where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import psycopg

from multidb.errors import NotAllowed
from multidb.model import AppAccess, AppClient, PromptAnswer, Tenant, counted
from multidb.provisioners.postgres.driver.address import connection_parameters
from multidb.provisioners.postgres.driver.refusals import connection_error
from multidb.provisioners.postgres.provision.applications import application_variables
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.secrets import Secret, revealed

__all__ = ["client"]

_MOST: Final = 1_000  # rows that are shown of one answer
_WITHOUT_LIMITS: Final = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
_TLS: Final = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}


def client(tenant: Tenant, access: AppAccess) -> AppClient:
    """The app's login, the one that only reads, or for migrations the one that owns the schema, without the limits of
    time of the app's everyday statements: by ``PGOPTIONS``, and in the addresses for programs that have not libpq."""
    prefix = f"{tenant.app.id.upper()}_DB"
    variables: dict[str, str | Secret] = {}
    url = revealed(tenant.env[f"{prefix}_READONLY_URL" if access is AppAccess.READ_ONLY else "DATABASE_URL"])
    if access is AppAccess.MIGRATION:
        straight = tenant.env.get("DATABASE_URL_DIRECT", url)
        url = _unlimited(revealed(tenant.env.get(f"{prefix}_MIGRATE_URL", straight)))
        asynchronous = revealed(tenant.env["DATABASE_URL_ASYNC"])
        variables = _variables(url, asynchronous, prefix)
        profile = AppOptions.of(tenant.app.stores[STORE]).profile
        if profile is not None:  # whose limits of time PGOPTIONS takes away, where its driver is libpq
            bare = revealed(tenant.env.get(f"{prefix}_MIGRATE_URL", straight))
            variables |= application_variables(profile, bare, revealed(variables["DATABASE_URL_ASYNC"]))
    timeout = max(2, round(tenant.server.timeout))
    parts = urlsplit(url)
    env: dict[str, str | Secret] = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGDATABASE": unquote(parts.path[1:]),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": Secret(unquote(parts.password or "")),
        "PGCONNECT_TIMEOUT": str(timeout),
        **{_TLS[name]: value for name, value in parse_qsl(parts.query) if name in _TLS},
        **variables,
    }

    @contextmanager
    def prompt() -> Iterator[Callable[[str], PromptAnswer]]:
        try:
            parameters = connection_parameters(url, connect_timeout=timeout, application_name="multidb connect")
            connection = psycopg.connect(autocommit=True, **parameters)
        except psycopg.Error as error:
            raise connection_error(error, tenant.server) from None
        with connection:
            yield lambda statement: _answer(connection, tenant, statement)

    return AppClient(prompt, ("psql",), (), env, unset=("PG",))


def _unlimited(url: str) -> str:
    """The address of a session whose statements and transactions may take as long as they do."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'options': _WITHOUT_LIMITS}, quote_via=quote)}"


def _variables(url: str, asynchronous: str, prefix: str) -> dict[str, str | Secret]:
    """The app's own variables, which lead a program that migrates to this address.

    The one for asyncpg has no options: SQLAlchemy hands what is in an address to asyncpg as arguments, which knows none
    of that name.
    """
    there, other = urlsplit(url), urlsplit(asynchronous)
    return {
        "DATABASE_URL": Secret(url),
        f"{prefix}_URL": Secret(url),
        "DATABASE_URL_ASYNC": Secret(other._replace(netloc=there.netloc, path=there.path).geturl()),
        "POSTGRES_HOST": there.hostname or "",
        "POSTGRES_PORT": str(there.port or 5432),
        "POSTGRES_USER": unquote(there.username or ""),
        "POSTGRES_PASSWORD": Secret(unquote(there.password or "")),
        "PGOPTIONS": _WITHOUT_LIMITS,
    }


def _answer(connection: psycopg.Connection, tenant: Tenant, statement: str) -> PromptAnswer:
    """What the last of the statement's parts answers."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement.encode())
            while cursor.nextset():
                pass
            if cursor.description is None:
                return PromptAnswer(note=cursor.statusmessage or "")
            rows = [["" if value is None else str(value) for value in row] for row in cursor.fetchmany(_MOST)]
        except psycopg.Error as error:
            if connection.broken:
                raise connection_error(error, tenant.server) from None
            raise NotAllowed(error.diag.message_primary or str(error), where=f"app {tenant.app.id}") from None
        more = cursor.rowcount - len(rows)
        count = counted(cursor.rowcount, "row")
        note = f"{count}, the first {_MOST} of them" if more > 0 else count
        return PromptAnswer(tuple(column.name for column in cursor.description), rows, note)
