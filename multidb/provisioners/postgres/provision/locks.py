"""What to ask of who holds a lock, and of whom a session waits for."""

from __future__ import annotations

__all__ = ["BLOCKERS", "LOCK_HOLDER"]

# $1, $2: the key of an advisory lock in this database. "admin": whether the holder may do what multidb does; anybody
# who may connect here can take the lock.
LOCK_HOLDER = """
SELECT json_build_object('who', a.application_name, 'pid', l.pid, 'user', a.usename,
                         'admin', r.rolsuper OR r.rolcreaterole OR r.rolname = current_user,
                         'since', to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'))
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_roles r ON r.oid = a.usesysid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
  AND l.classid = ($1::int8 & 4294967295)::oid AND l.objid = ($2::int8 & 4294967295)::oid
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

# $1: the process of a session that waits. The sessions that it waits for, and whose they are: by the mark of their
# role, or because nobody but an app's own logins may enter its database. Process 0 is a prepared transaction.
BLOCKERS = """
WITH blocker AS MATERIALIZED (SELECT unnest(pg_blocking_pids($1::int4)) AS pid)
SELECT coalesce(json_agg(json_build_object(
  'pid', b.pid, 'user', a.usename, 'database', a.datname,
  'app', substring(c.description FROM '^multidb:[^/ ]+/([^ ]+)'),
  'strong', r.rolsuper OR r.rolname = current_user,
  'since', to_char(coalesce(a.xact_start, a.backend_start) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'),
  'address', host(a.client_addr)) ORDER BY a.xact_start, b.pid), '[]'::json)
FROM blocker b LEFT JOIN pg_stat_activity a ON a.pid = b.pid LEFT JOIN pg_roles r ON r.oid = a.usesysid
LEFT JOIN pg_shdescription c ON c.objoid = a.usesysid AND c.classoid = 'pg_authid'::regclass"""
