"""Who uses one of an app's two credentials on a server: the sessions of its logins. Pure: text in, values out."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from multidb.model import App, CredentialUse
from multidb.provisioners.postgres.provision.resources import PURPOSES
from multidb.provisioners.postgres.provision.roles import AppNames, slot_of
from multidb.secrets import Alternate

__all__ = ["QUERY", "parameters", "read"]

# $1: logins (JSON array). Address and time are null for who may not see another's sessions.
QUERY: Final = """
SELECT coalesce(json_agg(json_build_array(usename, host(client_addr), sessions, since) ORDER BY usename, client_addr),
                '[]')
FROM (SELECT usename, client_addr, count(*) AS sessions, min(backend_start) AS since FROM pg_stat_activity
      WHERE usename IN (SELECT json_array_elements_text($1::json)) GROUP BY 1, 2) s"""


def parameters(app: App, alternate: Alternate) -> tuple[str]:
    """What `QUERY` is asked with."""
    names = AppNames.of(app.id)
    slots = (slot_of(purpose, alternate) for purpose in PURPOSES)
    return (json.dumps([names.login(slot) for slot in slots]),)


def read(answer: str) -> tuple[CredentialUse, ...]:
    """The sessions in the answer to `QUERY`."""
    return tuple(
        CredentialUse(login, sessions, address or "", datetime.fromisoformat(since) if since else None)
        for login, address, sessions, since in json.loads(answer)
    )
