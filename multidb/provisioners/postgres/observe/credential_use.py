"""Who uses credentials of apps on a server: the sessions of their logins. Pure: text in, values out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from multidb.model import CredentialUse
from multidb.provisioners.postgres.provision.resources import PURPOSES
from multidb.provisioners.postgres.provision.roles import READER, AppNames, slot_of
from multidb.secrets import Alternate

__all__ = ["QUERY", "logins", "parameters", "read"]

# $1: logins (JSON array), $2: apps, each with whether it is about the second logins of its readers (JSON object), whom
# the manifest names: their marks say whose they are. Address and time are null for who may not see others' sessions.
QUERY: Final = f"""
WITH reader AS MATERIALIZED (
  SELECT r.rolname, a.key AS app FROM json_each_text($2::json) a
  JOIN pg_roles r ON starts_with(r.rolname, a.key || '_{READER}') AND (right(r.rolname, 2) = '_b') = a.value::bool
  JOIN pg_shdescription d ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass
    AND starts_with(d.description, 'multidb:') AND split_part(split_part(d.description, ' ', 1), '/', 2) = a.key)
SELECT coalesce(json_agg(json_build_array(usename, app, host(client_addr), sessions, since)
                         ORDER BY usename, client_addr), '[]')
FROM (SELECT a.usename, r.app, a.client_addr, count(*) AS sessions, min(a.backend_start) AS since
      FROM pg_stat_activity a LEFT JOIN reader r ON r.rolname = a.usename
      WHERE a.usename IN (SELECT json_array_elements_text($1::json)) OR r.app IS NOT NULL GROUP BY 1, 2, 3) s"""  # noqa: S608


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


def parameters(credentials: Mapping[str, Alternate]) -> tuple[str, str]:
    """What `QUERY` is asked with."""
    seconds = {app: alternate is Alternate.SECOND for app, alternate in credentials.items()}
    return json.dumps(list(logins(credentials))), json.dumps(seconds)


def read(answer: str, apps: Mapping[str, str]) -> dict[str, list[CredentialUse]]:
    """By app, the sessions in the answer to `QUERY`.

    Args:
        apps: by login, whose it is.
    """
    uses: dict[str, list[CredentialUse]] = {}
    for login, reads_of, address, sessions, since in json.loads(answer):
        use = CredentialUse(login, sessions, address or "", datetime.fromisoformat(since) if since else None)
        uses.setdefault(apps.get(login, reads_of), []).append(use)
    return uses
