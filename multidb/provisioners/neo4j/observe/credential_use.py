"""Who uses one of an app's two credentials on a server: the connections of its user, by address."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from multidb.model import CredentialUse
from multidb.provisioners.neo4j.driver.connection import Bolt

__all__ = ["QUERY", "credential_use"]

# `connectTime` is a text in ISO 8601 (https://neo4j.com/docs/operations-manual/current/procedures/).
QUERY: Final = (
    "CALL dbms.listConnections() YIELD username, clientAddress, connectTime WHERE username = $user "
    "RETURN clientAddress, connectTime"
)


def credential_use(user: str, bolt: Bolt) -> tuple[CredentialUse, ...]:
    """The connections of a user now. Raises the driver's exceptions."""
    began: dict[str, list[datetime]] = {}
    for row in bolt.ask(QUERY, values={"user": user}):
        began.setdefault(_host(row["clientAddress"]), []).append(_moment(row["connectTime"]))
    return tuple(CredentialUse(user, len(times), address, min(times)) for address, times in sorted(began.items()))


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _moment(value: Any) -> datetime:
    return datetime.fromisoformat(str(value).partition("[")[0])
