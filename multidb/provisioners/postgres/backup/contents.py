"""What is in a Postgres database, for a backup to be compared by: counts, and digests of tables. Pure.

A digest is the sum over all rows of a hash of the row's values as text, so it does not depend on their order, and the
server makes it without sending a row. Not compared: positions of sequences, which are outside of every snapshot, and
materialized views, which a restore fills anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from multidb.errors import ArchiveError
from multidb.model import Measures
from multidb.provisioners.postgres.backup import configuration
from multidb.provisioners.postgres.provision.quoting import literal

__all__ = [
    "BESIDE_SCHEMA",
    "CALLS",
    "EMPTY",
    "EXTENSIONS",
    "EXTENSION_COMMENTS",
    "HIDDEN",
    "INVALID",
    "INWARD",
    "LOCK_TIMEOUT",
    "OUTWARD",
    "OWNED",
    "PATH",
    "POLICIES",
    "READING",
    "SCHEMAS",
    "SESSION",
    "SETTINGS",
    "STATEMENT_LIMIT",
    "STORED_EVERYWHERE",
    "UNREADABLE",
    "WHOLE",
    "ZONE",
    "Contents",
    "Table",
    "read",
    "locks",
    "look_again",
    "measures",
    "only_schema",
    "owned_by_others",
    "rows",
    "totals",
]

LOCK_TIMEOUT = 60  # seconds that a backup waits for a table which the app holds
_LOCKED_AT_ONCE = 200
# Bytes of a large object that are read at once: one may have 4 TB, and the server gives no value of more than 1 GB.
_PIECE = 64 * 2**20

# Each only where the server knows it: what is quiet for a while is not ended, and no view or foreign table is read by
# mistake.
_NO_END, _TABLES_ONLY = (
    f"SELECT count(set_config(name, '{value}', false)) FROM pg_settings WHERE name IN ({names})"  # noqa: S608
    for value, names in (
        ("0", "'idle_session_timeout', 'transaction_timeout'"),
        ("view, foreign-table", "'restrict_nonsystem_relation_kind'"),
    )
)

# The text of a value depends on these.
SESSION = (
    "SET search_path = pg_catalog",
    "SET statement_timeout = 0",
    f"SET lock_timeout = '{LOCK_TIMEOUT}s'",
    _NO_END,
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
READING = (*SESSION, _TABLES_ONLY)
# An app's function may be called while a table is only planned to be read, and may never end: an hour, and a second for
# each megabyte that there is. At most what the server can count.
STATEMENT_LIMIT = """
SELECT set_config('statement_timeout', least(3600000 + pg_database_size(current_database()) / 1000, 2147483647)::text,
                  false)"""

# By login (none: everybody), what is set in this database. Read in it, since the text is in its encoding.
STORED_SETTINGS = """
SELECT coalesce(json_agg(json_build_array(r.rolname, s.setconfig)), '[]')
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE d.datname = current_database()"""

# $1: roles (JSON array). By role, what is set for it in whichever database it is.
STORED_EVERYWHERE = """
SELECT coalesce(json_agg(json_build_array(r.rolname, s.setconfig) ORDER BY r.rolname), '[]')
FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase = 0 AND r.rolname IN (SELECT json_array_elements_text($1::json))"""

# $1: a login. What is set for it, or for this database.
_SET_FOR = """(
  SELECT substr(line, strpos(line, '=') + 1)
  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) line, pg_database d
  WHERE d.datname = current_database() AND lower(split_part(line, '=', 1)) = '{}'
    AND (s.setrole = 0 AND s.setdatabase = d.oid OR r.rolname = $1 AND s.setdatabase IN (0, d.oid))
  ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1)"""

# $1: a login. The time zone that it works in; empty: the server's.
ZONE = f"SELECT coalesce({_SET_FOR.format('timezone')}, '')"

# Whether a load may call functions that look names up: checks of rows, keys of partitions, generated columns, indexes,
# materialized views. By themselves, or in operators, aggregates and operator classes.
CALLS = """
WITH called AS MATERIALIZED (
  SELECT refclassid, refobjid FROM pg_depend d
  WHERE refobjid >= 16384 AND (
    d.classid IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass)
    OR d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class WHERE relkind IN ('i', 'I', 'r', 'p'))
    OR d.classid = 'pg_rewrite'::regclass AND EXISTS (SELECT FROM pg_class WHERE relkind = 'm')))
SELECT EXISTS (
  SELECT FROM called JOIN pg_proc p ON refclassid = 'pg_proc'::regclass AND p.oid = refobjid
  JOIN pg_language l ON l.oid = p.prolang WHERE p.prokind = 'a' OR l.lanname NOT IN ('c', 'internal'))
  OR EXISTS (
  SELECT FROM called WHERE refclassid IN ('pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass))
  AND EXISTS (
  SELECT FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
  WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') AND p.prorettype <> 'trigger'::regtype)"""

# $1: a login. Where it looks names up.
PATH = f"SELECT coalesce({_SET_FOR.format('search_path')}, '\"$user\", public')"

# $1: a login. What it is given when it connects to this database, beside the role that it becomes.
SETTINGS = """
SELECT coalesce(json_agg(json_build_array(split_part(line, '=', 1), substr(line, strpos(line, '=') + 1))
                         ORDER BY s.setrole <> 0, s.setdatabase), '[]')
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) line,
  pg_database d
WHERE d.datname = current_database() AND split_part(line, '=', 1) <> 'role'
  AND (s.setrole = 0 AND s.setdatabase = d.oid OR r.rolname = $1 AND s.setdatabase IN (0, d.oid))"""

# Where apps share a database, a session is about one app's schema, by a setting of multidb's own.
_ONE_SCHEMA = "coalesce(current_setting('multidb.schema', true), '')"
_NOT_OURS = (
    "n.nspname ~ '^pg_' OR n.nspname = 'information_schema' "
    f"OR ({_ONE_SCHEMA} <> '' AND n.nspname::text <> {_ONE_SCHEMA})"
)
# Large objects are in no schema, and in none of its sets.
_LARGE_OBJECTS = f"(SELECT oid, lomowner, lomacl FROM pg_largeobject_metadata WHERE {_ONE_SCHEMA} = '')"  # noqa: S608


def _brought(classid: str, oid: str) -> str:
    """Whether an extension brought it."""
    by = f"e.classid = '{classid}'::regclass AND e.objid = {oid} AND e.deptype = 'e'"
    return f"EXISTS (SELECT FROM pg_depend e WHERE {by})"


# A composite type is an extension's by its type, and an index by its table.
_INDEXED = "(SELECT indrelid FROM pg_index WHERE indexrelid = c.oid)"
_BROUGHT = f"""CASE c.relkind WHEN 'c' THEN {_brought("pg_type", "c.reltype")}
  WHEN 'i' THEN {_brought("pg_class", _INDEXED)} WHEN 'I' THEN {_brought("pg_class", _INDEXED)}
  ELSE {_brought("pg_class", "c.oid")} END"""
# No join: a server that expects one such schema would go through all relations for each.
_IN_OURS = f"c.relnamespace NOT IN (SELECT n.oid FROM pg_namespace n WHERE {_NOT_OURS})"  # noqa: S608
_RELATION = f"""
SELECT c.oid, c.relkind, c.relname, c.relnamespace::regnamespace::text AS schema FROM pg_class c
WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND {_IN_OURS} AND NOT {_BROUGHT}"""  # noqa: S608

# Those that pg_dump writes: not what a CREATE INDEX CONCURRENTLY has left that did not come to its end.
_DUMPED = "(i.indisvalid OR r.relkind = 'p') AND i.indisready"

# The highest table above a partition that is parted by the hash of an enum, which is that of a number: a label has
# another one in each database, so its rows are in another partition there. `pg_dump` loads them through the root.
WHOLE = """(
  SELECT a.relid FROM pg_partition_ancestors({}) WITH ORDINALITY a (relid, level)
  JOIN pg_partitioned_table k ON k.partrelid = a.relid
  WHERE (SELECT o.oid FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
         WHERE m.amname = 'hash' AND o.opcname = 'enum_ops' AND o.opcnamespace = 'pg_catalog'::regnamespace)
        = ANY (k.partclass)
  ORDER BY a.level DESC LIMIT 1)"""

_COUNTS = f"""
WITH relation AS MATERIALIZED ({_RELATION})
SELECT json_build_object(
  'tables', (SELECT coalesce(json_agg(json_build_array(
                 format('%s.%I', schema, relname), oid::text,
                 (SELECT coalesce(json_agg(quote_ident(attname) ORDER BY attnum), '[]'::json) FROM pg_attribute
                  WHERE attrelid = coalesce(whole, relation.oid) AND attnum > 0 AND NOT attisdropped), NULL,
                 (SELECT format('%s.%I', w.relnamespace::regnamespace, w.relname) FROM pg_class w WHERE w.oid = whole)
               ) ORDER BY schema, relname), '[]'::json)
             FROM relation, LATERAL (SELECT {WHOLE.format("relation.oid")}) parted (whole)
             WHERE relkind = 'r'),
  'counts', json_build_object(
    'partitioned tables', (SELECT count(*) FROM relation WHERE relkind = 'p'),
    'views', (SELECT count(*) FROM relation WHERE relkind = 'v'),
    'materialized views', (SELECT count(*) FROM relation WHERE relkind = 'm'),
    -- what a foreign table has comes and goes with it
    'sequences', (SELECT count(*) FROM relation s WHERE relkind = 'S' AND NOT EXISTS (
      SELECT FROM pg_depend d JOIN pg_class f ON f.oid = d.refobjid AND f.relkind = 'f'
      WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass
        AND d.deptype IN ('a', 'i'))),
    'indexes', (SELECT count(*) FROM pg_index i JOIN relation r ON r.oid = i.indrelid WHERE {_DUMPED}),
    -- what is not null is a constraint of its own only since Postgres 18
    'constraints', (SELECT count(*) FROM pg_constraint k JOIN relation r ON r.oid = k.conrelid
                    WHERE k.contype <> 'n' AND r.relkind <> 'f'),
    'triggers', (SELECT count(*) FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid
                 WHERE NOT t.tgisinternal AND r.relkind <> 'f'),
    'row policies', (SELECT count(*) FROM pg_policy p JOIN relation r ON r.oid = p.polrelid),
    'functions', (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE p.oid >= 16384 AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_proc", "p.oid")}),
    'large objects', (SELECT count(*) FROM {_LARGE_OBJECTS} l)),
  'objects', (
    WITH RECURSIVE piece (oid, number, digest, size) AS (
      SELECT l.oid, 0::int8, md5(b), length(b)
      FROM {_LARGE_OBJECTS} l, LATERAL (SELECT lo_get(l.oid, 0, {_PIECE}) AS b OFFSET 0) first
      UNION ALL
      SELECT p.oid, p.number + 1, md5(b), length(b)
      FROM piece p, LATERAL (SELECT lo_get(p.oid, (p.number + 1) * {_PIECE}, {_PIECE}) AS b OFFSET 0) next
      WHERE p.size = {_PIECE})
    SELECT json_build_array(
      coalesce(sum(hashtextextended(concat_ws(' ', oid, nullif(number, 0), digest), 0)), 0)::text,
      coalesce(max(number), 0)) FROM piece))"""  # noqa: S608

# The rows of a table, each as an array of its values' texts. concat gives what a type's output function gives; a cast,
# which an app may have made of its own type, could give anything. The text of a whole row would say the same
# and takes three times as long, for its quotes. Hashed once more, so that values cannot change rows unseen.
_DIGEST = """
SELECT pg_catalog.json_build_array(pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hashint8extended(
  pg_catalog.hash_array_extended(ARRAY[{values}]::text[] COLLATE "C", 0), 0)), 0)::text)
FROM ONLY {table} t"""
_VALUE = "CASE WHEN pg_catalog.num_nulls(t.{column}) = 0 THEN pg_catalog.concat(t.{column}) END"

# Tables that are planned with what the app has made: for an index or statistics, a server reads the text of functions
# in SQL, which may find names in the app's schemas only. A table whose text depends on where names are looked up is
# read without. A session that is about no app (an import's) looks up nothing in what others have made.
_PLANNED = f"""
SELECT json_build_object(
  'path', (SELECT string_agg(quote_ident(n.nspname), ', ' ORDER BY n.nspname) FROM pg_namespace n
           WHERE NOT ({_NOT_OURS}) OR n.nspname = 'extensions'),
  'tables', (SELECT coalesce(json_agg(DISTINCT planned.rel::oid::text), '[]'::json) FROM (
      SELECT indrelid, 'pg_class'::regclass, indexrelid FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
      UNION ALL SELECT stxrelid, 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext) planned (rel, class, oid)
    JOIN pg_depend d ON (d.classid, d.objid) = (planned.class, planned.oid) AND d.refobjid >= 16384
      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
    WHERE current_setting('multidb.schema', true) IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = planned.rel AND t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^_?reg')))"""  # noqa: S608

EXTENSIONS = """
SELECT coalesce(json_agg(json_build_array(e.extname, e.extversion, n.nspname, pg_get_userbyid(e.extowner))
                         ORDER BY e.oid), '[]'::json)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.oid >= 16384"""

# Indexes that are in no dump.
INVALID = f"""
WITH relation AS MATERIALIZED ({_RELATION})
SELECT coalesce(json_agg(format('%s.%I', r.schema, c.relname) ORDER BY r.schema, c.relname), '[]'::json)
FROM pg_index i JOIN relation r ON r.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT ({_DUMPED})"""  # noqa: S608

# Those that somebody has changed.
EXTENSION_COMMENTS = """
SELECT coalesce(json_object_agg(e.extname, c.text), '{}'::json)
FROM pg_extension e JOIN pg_available_extensions a ON a.name = e.extname,
  obj_description(e.oid, 'pg_extension') c (text)
WHERE e.oid >= 16384 AND c.text IS NOT NULL AND c.text IS DISTINCT FROM a.comment"""

# $1: a role. Every schema that is not the server's own, whether it is the role's, whether an extension brought it.
SCHEMAS = f"""
SELECT coalesce(json_agg(json_build_array(
  n.nspname, pg_get_userbyid(n.nspowner) = $1, {_brought("pg_namespace", "n.oid")}) ORDER BY n.oid), '[]'::json)
FROM pg_namespace n WHERE n.oid >= 16384 AND NOT ({_NOT_OURS})"""  # noqa: S608

# Policies for roles by name: those names may have to become others.
POLICIES = f"""
SELECT coalesce(json_agg(json_build_object(
  'oid', p.oid::bigint, 'schema', n.nspname, 'table', c.relname, 'name', p.polname, 'permissive', p.polpermissive,
  'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
             ELSE 'ALL' END,
  'roles', (SELECT json_agg(pg_get_userbyid(r)) FROM unnest(p.polroles) r),
  'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))), '[]'::json)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.polroles <> '{{0}}' AND NOT ({_NOT_OURS})"""  # noqa: S608

# Anything that somebody has made: a table without rows is somebody's work, too.
EMPTY = f"""
SELECT NOT EXISTS ({_RELATION})
  AND NOT EXISTS (SELECT FROM {_LARGE_OBJECTS} l)
  AND NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE p.oid >= 16384 AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_proc", "p.oid")})
  AND NOT EXISTS (SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                  WHERE t.oid >= 16384 AND NOT ({_NOT_OURS}) AND NOT {_brought("pg_type", "t.oid")}
                    AND t.typelem = 0 AND t.typrelid = 0 AND t.typtype <> 'm')"""  # noqa: S608


# What a backup would have to read and may not, since somebody else has made it: tables and sequences (those of
# extensions only where pg_dump writes their rows), and large objects. A sequence of a column is its table's to give.
UNREADABLE = f"""
WITH other AS (
  SELECT CASE WHEN c.relkind = 'S' AND t.oid IS NULL THEN 'sequence' ELSE 'table' END AS kind,
         coalesce(t.oid::regclass::text, format('%s.%I', c.relnamespace::regnamespace, c.relname)) AS name,
         c.relowner AS owner,
         (SELECT e.extname FROM pg_extension e WHERE c.oid = ANY (e.extconfig)) AS extension,
         CASE WHEN NOT has_schema_privilege(c.relnamespace, 'USAGE')
              THEN c.relnamespace::regnamespace::text END AS schema
  FROM pg_class c
  LEFT JOIN LATERAL (SELECT d.refobjid AS oid FROM pg_depend d WHERE c.relkind = 'S' AND d.deptype IN ('a', 'i')
      AND (d.classid, d.objid, d.refclassid) = ('pg_class'::regclass, c.oid, 'pg_class'::regclass)
      AND NOT EXISTS (SELECT FROM pg_extension WHERE c.oid = ANY (extconfig))) t ON true
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND {_IN_OURS}
    AND (NOT {_brought("pg_class", "c.oid")} OR EXISTS (SELECT FROM pg_extension WHERE c.oid = ANY (extconfig)))
    AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE'))
  UNION ALL
  SELECT 'large object', l.oid::text, l.lomowner, NULL, NULL FROM {_LARGE_OBJECTS} l
  WHERE NOT pg_has_role(l.lomowner, 'USAGE') AND NOT EXISTS (
    SELECT FROM aclexplode(l.lomacl) x WHERE x.privilege_type = 'SELECT'
      AND CASE x.grantee WHEN 0 THEN true ELSE pg_has_role(x.grantee, 'USAGE') END))
SELECT coalesce(json_agg(json_build_array(kind, name, pg_get_userbyid(owner), extension, schema)
                         ORDER BY extension IS NOT NULL, kind, name), '[]'::json)
FROM (SELECT DISTINCT * FROM other) other"""  # noqa: S608

# Tables of which row security would hide rows from this login.
HIDDEN = f"""
WITH relation AS MATERIALIZED ({_RELATION})
SELECT coalesce(json_agg(format('%s.%I', schema, relname) ORDER BY schema, relname), '[]'::json)
FROM relation WHERE relkind = 'r' AND row_security_active(oid)"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a catalog has it; `name` and `columns` are quoted where they have to be.

    Args:
        condition: of an extension's table for configuration, which of its rows a dump holds: SQL of the extension's
            script, empty for all. None for a table that no extension brought.
        whole: of a partition, the table (see `WHOLE`) with which its rows are counted; `columns` are in its order.
    """

    name: str
    oid: str
    columns: Sequence[str]
    condition: str | None = None
    whole: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What there is to measure."""

    counts: dict[str, int]
    large_objects: str  # their digest
    in_pieces: bool  # whether one of them was read in several, which gives another digest than earlier versions made
    tables: Sequence[Table]


# What the app has beside its schema: large objects, which no dump of a schema has.
BESIDE_SCHEMA = """
SELECT count(*) FROM pg_largeobject_metadata WHERE pg_has_role(lomowner, 'USAGE')"""


# What is in a schema, and what is a part of a relation: by catalog, the column that says of which.
_SCHEMAS = {"pg_class": "relnamespace", "pg_type": "typnamespace", "pg_proc": "pronamespace"}
_WHOLES = {
    "pg_attrdef": "adrelid",
    "pg_constraint": "conrelid",
    "pg_policy": "polrelid",
    "pg_rewrite": "ev_class",
    "pg_trigger": "tgrelid",
}
_HAVE_SCHEMAS = "(" + ", ".join(f"'{catalog}'::regclass" for catalog in _SCHEMAS) + ")"


def _by_catalog(columns: Mapping[str, str], class_: str, oid: str) -> str:
    """What the column of its catalog says of a thing."""
    cases = " ".join(
        f"WHEN '{catalog}'::regclass THEN (SELECT {column} FROM {catalog} WHERE oid = {oid})"  # noqa: S608
        for catalog, column in columns.items()
    )
    return f"CASE {class_} {cases} END"


# $1: a schema. What in it is made of things in other apps' schemas, and what these are: none of them would be where the
# schema is loaded alone. Each thing is looked up by its oid, and none joined: a server that has no statistics of its
# catalogs yet would go through all of them for each.
_ACROSS = f"""
WITH ours AS MATERIALIZED (SELECT oid FROM pg_namespace WHERE nspname = $1),
tie AS MATERIALIZED (
  SELECT CASE WHEN relation IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END AS class,
    coalesce(relation, d.objid) AS oid, d.refclassid, d.refobjid
  FROM pg_depend d, LATERAL (SELECT {_by_catalog(_WHOLES, "d.classid", "d.objid")}) part (relation)
  WHERE d.objid >= 16384 AND d.refobjid >= 16384 AND d.refclassid IN {_HAVE_SCHEMAS}
    AND (relation IS NOT NULL OR d.classid IN {_HAVE_SCHEMAS})),
placed AS MATERIALIZED (
  SELECT tie.*, {_by_catalog(_SCHEMAS, "class", "tie.oid")} AS schema,
    {_by_catalog(_SCHEMAS, "refclassid", "refobjid")} AS other FROM tie),
across AS MATERIALIZED (
  SELECT DISTINCT class, oid, refclassid, refobjid FROM placed p
  WHERE schema {{0}} (SELECT oid FROM ours) AND other {{1}} (SELECT oid FROM ours)
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE (e.classid, e.objid, e.deptype) = (p.refclassid, p.refobjid, 'e'))
    AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid IN (p.schema, p.other) AND n.nspname ~ '^pg_'))
SELECT coalesce(json_agg(DISTINCT jsonb_build_array(a.type || ' ' || a.identity, b.type || ' ' || b.identity)), '[]')
FROM across, LATERAL pg_identify_object(class, oid, 0) a, LATERAL pg_identify_object(refclassid, refobjid, 0) b"""  # noqa: S608
OUTWARD = _ACROSS.format("IN", "NOT IN")
# What other apps have made of things in the schema: it would go with them.
INWARD = _ACROSS.format("NOT IN", "IN")


def only_schema(schema: str | None) -> str:
    """The statement after which a session is about one app's schema; None: about all of its database."""
    return f"SELECT set_config('multidb.schema', {literal(schema or '')}, false)"


def read(ask: Callable[[str], str], *, configuration_too: bool = True) -> Contents:
    """Counts everything that has no rows.

    Args:
        ask: answers a query with its one value, on a connection with the settings of `READING`, in a transaction.
        configuration_too: also what extensions keep of what is configured, which is in no dump of a schema.
    """
    document = json.loads(ask(_COUNTS))
    digest, last = document["objects"]
    tables = [*document["tables"], *(json.loads(ask(configuration.TABLES)) if configuration_too else ())]
    return Contents(document["counts"], digest, last > 0, [Table(*table) for table in tables])


def locks(tables: Sequence[Table]) -> Iterator[str]:
    """The statements that lock tables against everything but reading and writing."""
    for start in range(0, len(tables), _LOCKED_AT_ONCE):
        names = ", ".join(f"ONLY {table.name}" for table in tables[start : start + _LOCKED_AT_ONCE])
        yield f"LOCK TABLE {names} IN ACCESS SHARE MODE"


def measures(ask: Callable[[str], str], known: Contents) -> Measures:
    """What is in the database now; in a transaction with a snapshot, what was in it then.

    Args:
        ask: as for `found`, in the same transaction.
        known: its answer, the tables locked and looked at again.

    Raises:
        ArchiveError: the app changes its tables at this moment.
    """
    counts = dict(known.counts)
    fingerprints = {"large objects, in pieces" if known.in_pieces else "large objects": known.large_objects}
    for name, (count, digest) in totals(ask, [table for table in known.tables if table.condition is None]).items():
        counts[name], fingerprints[name] = count, digest
    for table in known.tables:
        if table.condition is not None:  # sets of earlier versions say nothing of it, which is no difference
            count, digest = rows(ask, table.name, table.columns, table.condition)
            fingerprints[configuration.label(table.name)] = configuration.fingerprint(count, digest)
    look_again(ask, known.tables)  # a schema may be renamed while its tables are locked
    return Measures(counts, fingerprints)


def totals(ask: Callable[[str], str], tables: Sequence[Table]) -> dict[str, tuple[int, str]]:
    """The number of rows and their digest, by the names that measures have."""
    summed: dict[str, tuple[int, str]] = {}
    document = json.loads(ask(_PLANNED))
    planned = frozenset(document["tables"])
    usual = ask("SELECT current_setting('search_path')")
    for table in tables:
        name = f"table {table.whole or table.name}"
        if table.oid in planned:
            ask(_looking_up(f"pg_catalog, {document['path']}"))
        count, digest = rows(ask, table.name, table.columns)
        if table.oid in planned:
            ask(_looking_up(usual))
        before, other = summed.get(name, (0, "0"))
        summed[name] = before + count, str(int(other) + int(digest))
    return summed


def _looking_up(path: str) -> str:
    return f"SELECT set_config('search_path', {literal(path)}, false)"


# Both functions look at the catalogs of now, which a query in an older snapshot does not.
_OTHERS = """
SELECT coalesce(json_agg(e ->> 0), '[]'::json) FROM json_array_elements({tables}) e
WHERE to_regclass(e ->> 0)::oid IS DISTINCT FROM (e ->> 1)::oid
   OR (pg_identify_object('pg_class'::regclass, (e ->> 1)::oid, 0)).type IS DISTINCT FROM 'table'"""


def look_again(ask: Callable[[str], str], tables: Sequence[Table]) -> None:
    """Looks, once they are locked, whether the names still are those of the catalog's tables: a view under one of them
    would have functions of the app called.

    Raises:
        ArchiveError: they are not.
    """
    # letters as they are: a database in SQL_ASCII takes none by its number
    known = literal(json.dumps([[table.name, table.oid] for table in tables], ensure_ascii=False)) + "::json"
    if others := json.loads(ask(_OTHERS.format(tables=known))):
        raise ArchiveError(
            f"the app changes its tables at this moment: {others[0]} is no longer what it was",
            hint="run the command again",
        )


def rows(ask: Callable[[str], str], table: str, columns: Sequence[str], condition: str = "") -> tuple[int, str]:
    """How many rows a table has, without those of its children, and their digest; names are quoted.

    Args:
        condition: which of the rows, as a WHERE clause.
    """
    values = ", ".join(_VALUE.format(column=column) for column in columns)
    count, digest = json.loads(ask(f"{_DIGEST.format(values=values, table=table)} {condition}"))
    return count, digest


# Every catalog of a database whose entries have an owner, and the column that says so.
OWNED = {
    "pg_class": "relowner",
    "pg_collation": "collowner",
    "pg_conversion": "conowner",
    "pg_default_acl": "defaclrole",
    "pg_event_trigger": "evtowner",
    "pg_extension": "extowner",
    "pg_foreign_data_wrapper": "fdwowner",
    "pg_foreign_server": "srvowner",
    "pg_language": "lanowner",
    "pg_largeobject_metadata": "lomowner",
    "pg_namespace": "nspowner",
    "pg_opclass": "opcowner",
    "pg_operator": "oprowner",
    "pg_opfamily": "opfowner",
    "pg_proc": "proowner",
    "pg_publication": "pubowner",
    "pg_statistic_ext": "stxowner",
    "pg_ts_config": "cfgowner",
    "pg_ts_dict": "dictowner",
    "pg_type": "typowner",
}


def owned_by_others(roles: Sequence[str]) -> str:
    """The query for what in the database belongs to none of the roles: kind, name, owner, and the two oids of each.

    The schemas of temporary tables are the server's own, whoever is the first to need one, and so are the constructors
    of a range type, which come and go with it.
    """
    ours = ", ".join(map(literal, roles))
    query = " UNION ALL ".join(
        f"SELECT '{catalog.removesuffix('_metadata')}'::regclass::oid AS class, oid, {owner} AS owner "  # noqa: S608
        f"FROM {catalog} WHERE oid >= 16384"
        for catalog, owner in OWNED.items()
    )
    return f"""
WITH object AS ({query})
SELECT coalesce(json_agg(json_build_array(i.type, i.identity, pg_get_userbyid(o.owner), o.class::text, o.oid::text)
                         ORDER BY o.class, o.oid), '[]'::json)
FROM object o, pg_identify_object(o.class, o.oid, 0) i
WHERE o.owner NOT IN (SELECT oid FROM pg_roles WHERE rolname IN ({ours}))
  AND i.identity !~ '^pg_(toast_)?temp_[0-9]+$'
  AND NOT (o.class = 'pg_proc'::regclass AND EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'i'
      AND d.refclassid = 'pg_type'::regclass))"""  # noqa: S608
