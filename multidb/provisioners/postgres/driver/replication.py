"""A connection to a Postgres server that speaks of replication: it makes a slot together with a snapshot of the moment
from which on the slot has every change.
"""

from __future__ import annotations

from typing import Any, Self

import psycopg
from psycopg import pq

from multidb.errors import ServerError
from multidb.model import Server
from multidb.provisioners.postgres.driver.address import connection_parameters
from multidb.provisioners.postgres.driver.refusals import connection_error, refusal_error, refusal_of
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.secrets import Secret

__all__ = ["ReplicationConnection"]


class ReplicationConnection:
    """A context manager; what it gives as a snapshot is good as long as it is open and asked nothing else.

    Raises:
        ServerDown, AuthenticationFailed, ServerError: as in `connection_error`.
    """

    def __init__(self, server: Server, password: Secret | None, database: str, application_name: str) -> None:
        self._server = server
        endpoint = server.endpoint
        tls = {"sslmode": "require"} if endpoint.tls else {}
        parameters: dict[str, Any] = {
            **tls,
            **endpoint.params,
            "host": endpoint.host,
            "port": endpoint.port,
            "user": endpoint.user,
            "password": password.reveal() if password is not None else None,
            "dbname": database,
            "replication": "database",
            "application_name": application_name,
            "connect_timeout": max(2, round(server.timeout)),
        }
        try:
            self._connection = psycopg.connect(autocommit=True, **connection_parameters(**parameters))
        except psycopg.Error as error:
            raise connection_error(error, server) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def make_slot(self, name: str) -> str:
        """A slot for a subscription. Gives the name of the snapshot of its moment.

        Raises:
            NotAllowed, ServerError: the server does not make it.
        """
        text = f"CREATE_REPLICATION_SLOT {identifier(name)} LOGICAL pgoutput (SNAPSHOT 'export')"
        if self._connection.pgconn.server_version < 150000:
            text = f"CREATE_REPLICATION_SLOT {identifier(name)} LOGICAL pgoutput EXPORT_SNAPSHOT"
        result = self._connection.pgconn.exec_(text.encode())
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise refusal_error(refusal_of(result), self._server)
        value = result.get_value(0, 2)
        if value is None:
            raise ServerError("made a slot without a snapshot", where=str(self._server))
        return value.decode()
