"""What is in a Postgres database, for a backup to be compared by: counts, and digests of tables. Pure.

A digest is the sum over all rows of a hash of the row's values as text, so it does not depend on their order, and the
server makes it without sending a row. Not compared: positions of sequences, which are outside of every snapshot, and
materialized views, which a restore fills anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from multidb.model import Measures
from multidb.provisioners.postgres.statements import identifier

__all__ = ["EMPTY", "EXTENSIONS", "POLICIES", "SESSION", "SETTINGS", "measures", "policy", "rows"]

# The text of a value depends on these.
SESSION = (
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET TimeZone = 'UTC'",
    "SET extra_float_digits = 3",
    "SET bytea_output = 'hex'",
    "SET xmlbinary = 'base64'",
    "SET lc_monetary = 'C'",
    "SET row_security = off",  # an error rather than some of the rows
    "SET idle_in_transaction_session_timeout = 0",
)

# $1: a login. What it is given when it connects to this database, beside the role that it becomes.
SETTINGS = """
SELECT coalesce(json_agg(json_build_array(split_part(line, '=', 1), substr(line, strpos(line, '=') + 1))
                         ORDER BY s.setdatabase), '[]')
FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) line
WHERE r.rolname = $1 AND split_part(line, '=', 1) <> 'role'
  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))"""

_NOT_OURS = "n.nspname ~ '^pg_' OR n.nspname = 'information_schema'"


def _brought(classid: str, oid: str) -> str:
    """Whether an extension brought it."""
    by = f"e.classid = '{classid}'::regclass AND e.objid = {oid} AND e.deptype = 'e'"
    return f"EXISTS (SELECT FROM pg_depend e WHERE {by})"


_RELATION = f"""
SELECT c.oid, c.relkind, c.relname, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_class", "c.oid")}"""  # noqa: S608

_COUNTS = f"""
WITH relation AS MATERIALIZED ({_RELATION})
SELECT json_build_object(
  'tables', (SELECT coalesce(json_agg(json_build_array(
                 format('%I.%I', nspname, relname),
                 (SELECT coalesce(json_agg(quote_ident(attname) ORDER BY attnum), '[]'::json) FROM pg_attribute
                  WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped)
               ) ORDER BY nspname, relname), '[]'::json) FROM relation WHERE relkind = 'r'),
  'counts', json_build_object(
    'partitioned tables', (SELECT count(*) FROM relation WHERE relkind = 'p'),
    'views', (SELECT count(*) FROM relation WHERE relkind = 'v'),
    'materialized views', (SELECT count(*) FROM relation WHERE relkind = 'm'),
    'sequences', (SELECT count(*) FROM relation WHERE relkind = 'S'),
    'indexes', (SELECT count(*) FROM pg_index i JOIN relation r ON r.oid = i.indrelid),
    -- what is not null is a constraint of its own only since Postgres 18
    'constraints', (SELECT count(*) FROM pg_constraint k JOIN relation r ON r.oid = k.conrelid WHERE k.contype <> 'n'),
    'triggers', (SELECT count(*) FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal),
    'row policies', (SELECT count(*) FROM pg_policy p JOIN relation r ON r.oid = p.polrelid),
    'functions', (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE p.oid >= 16384 AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_proc", "p.oid")}),
    'large objects', (SELECT count(*) FROM pg_largeobject_metadata)),
  'objects', (SELECT coalesce(sum(hashtextextended(oid || ' ' || md5(lo_get(oid)), 0)), 0)::text
              FROM pg_largeobject_metadata))"""  # noqa: S608

# The rows of a table, each as an array of its values' texts. concat gives what a type's output function gives; a cast,
# which an app may have made of its own type, would be called as the admin. The text of a whole row would say the same
# and takes three times as long, for its quotes. Hashed once more, so that values cannot change rows unseen.
_DIGEST = """
SELECT json_build_array(count(*),
  coalesce(sum(hashint8extended(hash_array_extended(ARRAY[{values}]::text[] COLLATE "C", 0), 0)), 0)::text)
FROM ONLY {table} t"""
_VALUE = "CASE WHEN num_nulls(t.{column}) = 0 THEN concat(t.{column}) END"

EXTENSIONS = """
SELECT coalesce(json_agg(json_build_array(e.extname, e.extversion, n.nspname) ORDER BY e.oid), '[]'::json)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.oid >= 16384"""

# Policies for roles by name: those names may have to become others.
POLICIES = """
SELECT coalesce(json_agg(json_build_object(
  'schema', n.nspname, 'table', c.relname, 'name', p.polname, 'permissive', p.polpermissive,
  'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
             ELSE 'ALL' END,
  'roles', (SELECT json_agg(pg_get_userbyid(r)) FROM unnest(p.polroles) r),
  'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))), '[]'::json)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.polroles <> '{0}'"""

# Anything that somebody has made: a table without rows is somebody's work, too.
EMPTY = f"""
SELECT NOT EXISTS ({_RELATION})
  AND NOT EXISTS (SELECT FROM pg_largeobject_metadata)
  AND NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE p.oid >= 16384 AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_proc", "p.oid")})
  AND NOT EXISTS (SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                  WHERE t.oid >= 16384 AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_type", "t.oid")}
                    AND t.typelem = 0 AND t.typrelid = 0)"""  # noqa: S608


def measures(ask: Callable[[str], str]) -> Measures:
    """What is in the database now; in a transaction with a snapshot, what was in it then.

    Args:
        ask: answers a query with its one value, on a connection with the settings of `SESSION`.
    """
    document = json.loads(ask(_COUNTS))
    counts: dict[str, int] = document["counts"]
    fingerprints = {"large objects": document["objects"]}
    for name, columns in document["tables"]:
        counts[f"table {name}"], fingerprints[f"table {name}"] = rows(ask, name, columns)
    return Measures(counts, fingerprints)


def rows(ask: Callable[[str], str], table: str, columns: Sequence[str]) -> tuple[int, str]:
    """How many rows a table has, without those of its children, and their digest; names are quoted."""
    values = ", ".join(_VALUE.format(column=column) for column in columns)
    count, digest = json.loads(ask(_DIGEST.format(values=values, table=table)))
    return count, digest


def policy(entry: dict[str, object], roles: list[str]) -> str:
    """The statement that makes a policy in an answer to `POLICIES`, for other `roles`."""
    table = f"{identifier(str(entry['schema']))}.{identifier(str(entry['table']))}"
    kind = "PERMISSIVE" if entry["permissive"] else "RESTRICTIVE"
    to = ", ".join("PUBLIC" if role == "public" else identifier(role) for role in roles)
    using = f" USING ({entry['using']})" if entry["using"] is not None else ""
    check = f" WITH CHECK ({entry['check']})" if entry["check"] is not None else ""
    name = identifier(str(entry["name"]))
    return f"CREATE POLICY {name} ON {table} AS {kind} FOR {entry['command']} TO {to}{using}{check}"
