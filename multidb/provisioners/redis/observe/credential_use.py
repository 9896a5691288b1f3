"""Who uses credentials of apps on a server: the connections of their users, by address. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from multidb.model import CredentialUse

__all__ = ["credential_use"]


def credential_use(users: Mapping[str, str], clients: Iterable[Mapping[str, str]]) -> dict[str, list[CredentialUse]]:
    """By app, the connections of these users among those of the server.

    Args:
        users: by name, whose each is.
        clients: the answer to CLIENT LIST, a mapping of its fields for each connection: ``addr`` is an address with its
            port, ``age`` is in seconds (https://redis.io/docs/latest/commands/client-list/).
    """
    now = datetime.now(UTC)
    ages: dict[tuple[str, str], list[int]] = {}
    for client in clients:
        if (user := client.get("user", "")) in users:
            address = client.get("addr", "").rpartition(":")[0]
            ages.setdefault((user, address), []).append(int(client.get("age", 0)))
    uses: dict[str, list[CredentialUse]] = {}
    for (user, address), held in sorted(ages.items()):
        use = CredentialUse(user, len(held), address, now - timedelta(seconds=max(held)))
        uses.setdefault(users[user], []).append(use)
    return uses
