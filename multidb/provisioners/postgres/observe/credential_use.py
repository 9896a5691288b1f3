"""Who uses credentials of apps on a server: the sessions of their logins. Pure: text in, values out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from multidb.model import CredentialUse
from multidb.provisioners.postgres.provision.resources import PURPOSES
from multidb.provisioners.postgres.provision.roles import AppNames, slot_of
from multidb.secrets import Alternate

__all__ = ["QUERY", "logins", "parameters", "read"]

# $1: logins (JSON array). Address and time are null for who may not see another's sessions.
QUERY: Final = """
SELECT coalesce(json_agg(json_build_array(usename, host(client_addr), sessions, since) ORDER BY usename, client_addr),
                '[]')
FROM (SELECT usename, client_addr, count(*) AS sessions, min(backend_start) AS since FROM pg_stat_activity
      WHERE usename IN (SELECT json_array_elements_text($1::json)) GROUP BY 1, 2) s"""


def logins(credentials: Mapping[str, Alternate]) -> dict[str, str]:
    """By login, whose it is.

    Args:
        credentials: by app, which of its two.
    """
    return {
        AppNames.of(app).login(slot_of(purpose, alternate)): app
        for app, alternate in credentials.items()
        for purpose in PURPOSES
    }


def parameters(names: Iterable[str]) -> tuple[str]:
    """What `QUERY` is asked with."""
    return (json.dumps(list(names)),)


def read(answer: str, apps: Mapping[str, str]) -> dict[str, list[CredentialUse]]:
    """By app, the sessions in the answer to `QUERY`.

    Args:
        apps: by login, whose it is.
    """
    uses: dict[str, list[CredentialUse]] = {}
    for login, address, sessions, since in json.loads(answer):
        use = CredentialUse(login, sessions, address or "", datetime.fromisoformat(since) if since else None)
        uses.setdefault(apps[login], []).append(use)
    return uses
