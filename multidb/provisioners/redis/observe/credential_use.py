"""Who uses one of an app's two credentials on a server: the connections of its user, by address. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from multidb.model import CredentialUse

__all__ = ["credential_use"]


def credential_use(user: str, clients: Iterable[Mapping[str, str]]) -> tuple[CredentialUse, ...]:
    """The connections of a user among those of the server.

    Args:
        clients: the answer to CLIENT LIST, a mapping of its fields for each connection: ``addr`` is an address with its
            port, ``age`` is in seconds (https://redis.io/docs/latest/commands/client-list/).
    """
    now = datetime.now(UTC)
    ages: dict[str, list[int]] = {}
    for client in clients:
        if client.get("user") == user:
            ages.setdefault(client.get("addr", "").rpartition(":")[0], []).append(int(client.get("age", 0)))
    return tuple(
        CredentialUse(user, len(held), address, now - timedelta(seconds=max(held)))
        for address, held in sorted(ages.items())
    )
