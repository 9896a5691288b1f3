"""A person's way into an app's database: psql, or a prompt where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg

from multidb.errors import NotAllowed
from multidb.model import AppClient, PromptAnswer, Tenant, counted
from multidb.provisioners.postgres.driver.connection import connection_error
from multidb.secrets import Secret, revealed

__all__ = ["client"]

_MOST: Final = 1_000  # rows that are shown of one answer
_TLS: Final = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}


def client(tenant: Tenant, read_only: bool) -> AppClient:
    """The app's login, or the one that only reads."""
    variable = f"{tenant.app.id.upper()}_DB_READONLY_URL" if read_only else "DATABASE_URL"
    url, timeout = revealed(tenant.env[variable]), max(2, round(tenant.server.timeout))
    parts = urlsplit(url)
    env: dict[str, str | Secret] = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGDATABASE": unquote(parts.path[1:]),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": Secret(unquote(parts.password or "")),
        "PGCONNECT_TIMEOUT": str(timeout),
        **{_TLS[name]: value for name, value in parse_qsl(parts.query) if name in _TLS},
    }

    @contextmanager
    def prompt() -> Iterator[Callable[[str], PromptAnswer]]:
        try:
            connection = psycopg.connect(
                url, autocommit=True, connect_timeout=timeout, application_name="multidb connect"
            )
        except psycopg.Error as error:
            raise connection_error(error, tenant.server) from None
        with connection:
            yield lambda statement: _answer(connection, tenant, statement)

    return AppClient(prompt, ("psql",), (), env, unset=("PG",))


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
