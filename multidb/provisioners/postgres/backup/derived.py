"""What Postgres has made out of an app's rows and keeps apart from them: materialized views, and what ANALYZE has seen.
Both still tell of the rows that were there before, when those have become others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.driver.refusals import DISK_FULL
from multidb.provisioners.postgres.provision.quoting import identifier

__all__ = ["analyze", "refill"]

_LONGEST: Final = 86400.0  # seconds that one view may take while its server makes progress

# What the login may fill as its owner would: its name as SQL has it, and the owner.
_FILLED: Final = """
SELECT coalesce(json_agg(json_build_array(format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner))
                         ORDER BY c.oid), '[]'::json)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated AND pg_has_role(c.relowner, 'MEMBER')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE (d.classid, d.objid, d.deptype) = ('pg_class'::regclass, c.oid, 'e'))"""
# The tables and views of which samples of rows are kept, parents of others too: pg_stats shows them to who may read.
_ANALYZED: Final = """
SELECT coalesce(json_agg(json_build_array(format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner))
                         ORDER BY c.oid), '[]'::json)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND pg_has_role(c.relowner, 'MEMBER')
  AND coalesce(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) IS NOT NULL"""


def refill(connection: Connection) -> Mapping[str, str]:
    """Fills every materialized view that has rows anew, as its owner, and says which could not be filled, and why:
    those are left without rows.

    A view may read another one of which no catalog knows, through a function. All are emptied first, so that none is
    filled out of what another one had before: one that finds another empty is refused, and tried again after it.
    Row security shows it the rows that its owner sees, as when the app or a load fills it.

    Raises:
        ServerError: one could not be emptied, or the server's disk is full; all are as they were.
    """
    views: list[tuple[str, str]] = [(name, owner) for name, owner in json.loads(connection.ask(_FILLED))]
    if not views:
        return {}
    connection.execute("BEGIN", "SET LOCAL row_security = on")
    for name, owner in views:
        connection.execute(f"SET LOCAL ROLE {identifier(owner)}", f"REFRESH MATERIALIZED VIEW {name} WITH NO DATA")
    left, before = dict.fromkeys(views, ""), 0
    while left and len(left) != before:
        before = len(left)
        left = {view: cause for view in left if (cause := _refusal(connection, *view))}
    connection.execute("COMMIT")
    return {name: cause for (name, _), cause in left.items()}


def _refusal(connection: Connection, name: str, owner: str) -> str:
    connection.execute("SAVEPOINT filled", f"SET LOCAL ROLE {identifier(owner)}")
    answer = connection.send(f"REFRESH MATERIALIZED VIEW {name}", within=_LONGEST)
    if answer.refusal is None:
        connection.execute("RELEASE filled")
        return ""
    connection.execute("ROLLBACK TO filled", "RELEASE filled")
    if answer.refusal.sqlstate == DISK_FULL:  # which says nothing of the view
        raise connection.error(answer.refusal)
    return connection.error(answer.refusal).message


def analyze(connection: Connection) -> None:
    """Takes new samples of every table and view that has any, as its owner.

    Raises:
        ServerError: of one, none could be taken.
    """
    for name, owner in json.loads(connection.ask(_ANALYZED)):
        connection.execute(f"SET ROLE {identifier(owner)}")
        answer = connection.send(f"ANALYZE {name}", within=_LONGEST)
        connection.execute("RESET ROLE")
        if answer.refusal is not None:
            raise connection.error(answer.refusal)
