"""How much of a Postgres server each app uses: what to ask, and how to read the answers. Pure.

One question tells sizes, connections and counters of all databases, one more the slowest queries of all, and one inside
each database its largest tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from multidb.model import App, AppUsage, DerivedName, Query, ServerUsage
from multidb.provisioners.postgres.provision.databases import Home, home
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.resources import PostgresFacts, derived_names

__all__ = ["INSIDE", "QUERY", "enterable", "parameters", "queries_query", "read"]

_MOST = 10
_LONGEST = 300  # characters of a query's text
_SEES_ALL = "pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"

# $1: for each app its databases, logins and, in one that it shares, its schema, with the database that it works in:
# {"app": {"home": "..", "schema": "..", "databases": [...], "logins": [...]}}.
QUERY = f"""
WITH asked AS MATERIALIZED (
  SELECT key AS app, value ->> 'home' AS home, value ->> 'schema' AS schema, value -> 'databases' AS databases,
    value -> 'logins' AS logins FROM json_each($1::json)),
database AS MATERIALIZED (
  SELECT d.oid, d.datname, d.datallowconn, d.datconnlimit,
    CASE WHEN has_database_privilege(d.oid, 'CONNECT') OR {_SEES_ALL} THEN pg_database_size(d.oid) END AS size
  FROM pg_database d),
session AS MATERIALIZED (SELECT usename FROM pg_stat_activity WHERE datid IS NOT NULL)
SELECT json_build_object(
  'size', (SELECT sum(size) FROM database),
  'connections', (SELECT count(*) FROM session),
  'statements', (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                 WHERE e.extname = 'pg_stat_statements' AND current_setting('pg_stat_statements.max', true) <> ''),
  'apps', (SELECT json_object_agg(a.app, json_build_object(
      'size', (SELECT sum(size) FROM database WHERE datname IN (SELECT json_array_elements_text(a.databases))),
      'home', a.home, 'schema', a.schema, 'open', d.datallowconn, 'limited', d.datconnlimit >= 0,
      'connections', (SELECT count(*) FROM session WHERE usename IN (SELECT json_array_elements_text(a.logins))),
      'limits', (SELECT json_agg(rolconnlimit) FROM pg_roles
                 WHERE rolcanlogin AND rolname IN (SELECT json_array_elements_text(a.logins))),
      'hit', s.blks_hit, 'read', s.blks_read, 'deadlocks', s.deadlocks,
      'temp_files', s.temp_files, 'temp_bytes', s.temp_bytes, 'transactions', s.xact_commit + s.xact_rollback))
    FROM asked a JOIN database d ON d.datname = a.home
      LEFT JOIN pg_stat_database s ON s.datid = d.oid AND a.schema IS NULL))"""  # noqa: S608

# $1: the app's schema in a database that it shares; empty: all is the app's. A table's rows are the planner's estimate;
# counting them would read everything.
INSIDE = f"""
WITH app_table AS MATERIALIZED (
  SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_total_relation_size(c.oid) AS size,
         greatest(coalesce(s.n_live_tup, 0), 0) AS rows
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND $1::text IN ('', n.nspname::text))
SELECT json_build_object('size', (SELECT coalesce(sum(size), 0) FROM app_table),
  'rows', (SELECT coalesce(sum(rows), 0) FROM app_table), 'largest', (
  SELECT json_agg(json_build_array(name, size)) FROM (
    SELECT name, size FROM app_table ORDER BY size DESC, name LIMIT {_MOST}) t))"""  # noqa: S608


def parameters(apps: Sequence[App]) -> tuple[str]:
    """What `QUERY` and `queries_query` are asked with."""
    return (json.dumps({app.id: _parts(home(app), derived_names(app)) for app in apps}),)


def _parts(place: Home, names: Sequence[DerivedName]) -> Mapping[str, Sequence[str] | str | None]:
    spaces = {"databases": "postgres database", "logins": "postgres role"}
    parts = {part: [name.name for name in names if name.space == space] for part, space in spaces.items()}
    return {"home": place.database, "schema": place.schema, **parts}


def queries_query(answer: str) -> str | None:
    """Asks for the slowest queries of each app, in the answer to `QUERY` if the server keeps count of them.

    Statements that are not data are left out: their texts keep literals, passwords among them. So is what an
    administrator asks inside the app's database.
    """
    schema = json.loads(answer)["statements"]
    if schema is None:
        return None
    return f"""
SELECT coalesce(json_object_agg(app, document), '{{}}'::json) FROM (
  SELECT q.app, json_build_object('calls', sum(q.calls), 'total', sum(q.total_exec_time) / 1000,
    'slow', json_agg(json_build_array(left(regexp_replace(q.query, '\\s+', ' ', 'g'), {_LONGEST}), q.calls,
                                      q.total_exec_time / 1000) ORDER BY q.total_exec_time DESC)
            FILTER (WHERE q.place <= {_MOST})) AS document
  FROM (SELECT a.key AS app, s.queryid, min(s.query) AS query, sum(s.calls) AS calls,
               sum(s.total_exec_time) AS total_exec_time,
               row_number() OVER (PARTITION BY a.key ORDER BY sum(s.total_exec_time) DESC) AS place
        FROM json_each($1::json) a JOIN pg_database d ON d.datname = a.value ->> 'home'
        JOIN {schema}.pg_stat_statements s ON s.dbid = d.oid
        WHERE pg_get_userbyid(s.userid) IN (SELECT json_array_elements_text(a.value -> 'logins'))
          AND s.query ~* '^\\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\\M' GROUP BY 1, 2) q
  GROUP BY 1) each"""  # noqa: S608


def enterable(answer: str, facts: PostgresFacts) -> dict[str, Home]:
    """By app in the answer to `QUERY`, where the admin can look into now."""
    apps = json.loads(answer)["apps"] or {}
    return {
        app: Home(row["home"], row["schema"])
        for app, row in apps.items()
        if row["open"] and (facts.superuser or not row["limited"])
    }


def read(answer: str, queries: str | None, insides: Mapping[str, str], facts: PostgresFacts) -> ServerUsage:
    """The figures in the answers to `QUERY`, `queries_query` (None: not kept) and, by app, `INSIDE`."""
    document = json.loads(answer)
    slow: Mapping[str, Any] = json.loads(queries) if queries is not None else {}
    notes = () if queries is not None else (_no_statistics(facts),)
    return ServerUsage(
        size=document["size"],
        connections=document["connections"],
        connection_limit=facts.max_connections - facts.reserved_connections,
        apps={
            app: _app(row, slow.get(app), json.loads(insides[app]) if app in insides else None)
            for app, row in (document["apps"] or {}).items()
        },
        notes=notes,
    )


def _no_statistics(facts: PostgresFacts) -> str:
    database = identifier(facts.server_databases[0].name) if facts.server_databases else "the admin's database"
    return (
        "the server keeps no statistics of queries: load pg_stat_statements (shared_preload_libraries), "
        f"then CREATE EXTENSION pg_stat_statements in {database}"
    )


def _app(row: Mapping[str, Any], queries: Mapping[str, Any] | None, inside: Mapping[str, Any] | None) -> AppUsage:
    limits = row["limits"] or []
    counts: dict[str, float] = {
        name: row[name] or 0
        for name in ("transactions", "deadlocks", "temp_files", "temp_bytes")
        if row["schema"] is None  # those of a shared database are nobody's
    }
    if blocks := (row["hit"] or 0) + (row["read"] or 0):
        counts["cache_hit"] = row["hit"] / blocks
    if inside is not None:
        counts["rows"] = float(inside["rows"])
    if queries is not None:
        counts |= {"queries": float(queries["calls"]), "query_time": float(queries["total"])}
    return AppUsage(
        size=row["size"] if row["schema"] is None else inside["size"] if inside is not None else None,
        connections=row["connections"],
        connection_limit=sum(limits) if limits and min(limits) >= 0 else None,
        counts=counts,
        largest=tuple((name, size) for name, size in (inside or {}).get("largest") or ()),
        slow=tuple(
            Query(text, int(calls), total / max(int(calls), 1), total)
            for text, calls, total in (queries or {}).get("slow") or ()
        ),
        notes=("rows are the server's estimate",) if inside is not None else ("its inside cannot be looked into",),
    )
