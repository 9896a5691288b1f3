"""Who uses credentials of apps on a server: the connections of their users, by address."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from multidb.model import CredentialUse
from multidb.provisioners.neo4j.driver.connection import Bolt

__all__ = ["QUERY", "credential_use"]

# `connectTime` is a text in ISO 8601 (https://neo4j.com/docs/operations-manual/current/procedures/). Neo4j 5 takes no
# WHERE of a procedure in database system: "The following unsupported clauses were used: WITH" (seen on 5.26).
QUERY: Final = "CALL dbms.listConnections() YIELD username, clientAddress, connectTime"


def credential_use(users: Mapping[str, str], bolt: Bolt) -> dict[str, list[CredentialUse]]:
    """By app, the connections of these users now. Raises the driver's exceptions.

    Args:
        users: by name, whose each is.
    """
    began: dict[tuple[str, str], list[datetime]] = {}
    for row in bolt.ask(QUERY):
        if row["username"] not in users:
            continue
        place = row["username"], _host(row["clientAddress"])
        began.setdefault(place, []).append(_moment(row["connectTime"]))
    uses: dict[str, list[CredentialUse]] = {}
    for (user, address), times in sorted(began.items()):
        uses.setdefault(users[user], []).append(CredentialUse(user, len(times), address, min(times)))
    return uses


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _moment(value: Any) -> datetime:
    return datetime.fromisoformat(str(value).partition("[")[0])
