"""What an app's readers may read, by table: what to ask of the inside of a database, and how to read the answer. Pure.

A table that is not there is no difference: its right is given by the apply that finds it. The tables of a whole schema
(``public.*``) get theirs when they are made. Who may enter the schema public is `Interior`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from multidb.provisioners.postgres.provision.resources import Reading

__all__ = ["READING", "parameters", "read_readings"]

# $1: JSON array of {"role", "owner", "tables": [[schema, table or *]]}. Objects of extensions are nobody's concern.
READING = """
WITH asked AS MATERIALIZED (
  SELECT value ->> 'role' AS role, to_regrole(quote_ident(value ->> 'role'))::oid AS oid,
    to_regrole(quote_ident(value ->> 'owner'))::oid AS owner, value -> 'tables' AS tables
  FROM json_array_elements($1::json)),
entry AS MATERIALIZED (
  SELECT a.role, a.oid, a.owner, t.value ->> 0 AS schema, t.value ->> 1 AS name
  FROM asked a CROSS JOIN json_array_elements(a.tables) t),
relation AS MATERIALIZED (
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.relacl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND d.deptype = 'e')),
held AS MATERIALIZED (
  SELECT a.role, r.nspname, r.relname, x.privilege_type AS privilege, x.is_grantable
  FROM asked a CROSS JOIN relation r CROSS JOIN aclexplode(r.relacl) x WHERE x.grantee = a.oid
  UNION ALL
  SELECT a.role, r.nspname, r.relname, 'a column', false
  FROM asked a CROSS JOIN relation r JOIN pg_attribute c ON c.attrelid = r.oid AND c.attacl IS NOT NULL
  CROSS JOIN aclexplode(c.attacl) x WHERE x.grantee = a.oid),
entering AS MATERIALIZED (
  SELECT a.role, n.nspname, x.privilege_type AS privilege, x.is_grantable
  FROM asked a CROSS JOIN pg_namespace n CROSS JOIN aclexplode(n.nspacl) x WHERE x.grantee = a.oid),
later AS MATERIALIZED (
  SELECT a.role, n.nspname, d.defaclrole = a.owner AND d.defaclobjtype = 'r' AND x.privilege_type = 'SELECT' AS usual
  FROM asked a CROSS JOIN pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
  CROSS JOIN aclexplode(d.defaclacl) x WHERE x.grantee = a.oid)
SELECT json_build_object(
  'schemas', (SELECT json_agg(DISTINCT n.nspname) FROM pg_namespace n JOIN entry e ON e.schema = n.nspname),
  'lacking', (SELECT json_agg(DISTINCT jsonb_build_array(e.role, r.nspname, r.relname))
    FROM entry e JOIN relation r ON r.nspname = e.schema AND (e.name = '*' OR e.name = r.relname) AND r.relkind <> 'S'
    WHERE NOT EXISTS (SELECT FROM held h WHERE (h.role, h.nspname, h.relname, h.privilege)
                                               = (e.role, r.nspname, r.relname, 'SELECT'))),
  'shut', (SELECT json_agg(DISTINCT jsonb_build_array(e.role, e.schema)) FROM entry e
    JOIN pg_namespace n ON n.nspname = e.schema
    WHERE e.schema <> 'public'
      AND (e.name = '*' OR EXISTS (SELECT FROM relation r WHERE (r.nspname, r.relname) = (e.schema, e.name)))
      AND NOT EXISTS (SELECT FROM entering h WHERE (h.role, h.nspname, h.privilege) = (e.role, e.schema, 'USAGE'))),
  'later', (SELECT json_agg(jsonb_build_array(e.role, e.schema)) FROM entry e
    JOIN pg_namespace n ON n.nspname = e.schema
    WHERE e.name = '*' AND NOT EXISTS (SELECT FROM later l WHERE l.usual AND (l.role, l.nspname) = (e.role, e.schema))),
  'surplus', (SELECT json_agg(DISTINCT jsonb_build_array(h.role, h.nspname, h.relname)) FROM held h
    WHERE h.privilege <> 'SELECT' OR h.is_grantable OR NOT EXISTS (
      SELECT FROM entry e WHERE e.role = h.role AND e.schema = h.nspname AND e.name IN ('*', h.relname))),
  'entered', (SELECT json_agg(DISTINCT jsonb_build_array(h.role, h.nspname)) FROM entering h
    WHERE h.nspname <> 'public' AND (h.privilege <> 'USAGE' OR h.is_grantable
      OR NOT EXISTS (SELECT FROM entry e WHERE (e.role, e.schema) = (h.role, h.nspname)))),
  'follows', (SELECT json_agg(DISTINCT jsonb_build_array(l.role, l.nspname)) FROM later l
    WHERE l.nspname IS NOT NULL AND NOT EXISTS (
      SELECT FROM entry e WHERE (e.role, e.schema, e.name) = (l.role, l.nspname, '*'))))"""


def parameters(desired: Sequence[Reading]) -> tuple[str]:
    """What `READING` is asked with."""
    return (
        json.dumps(
            [
                {"role": reading.role, "owner": reading.tables_owner, "tables": sorted(reading.tables)}
                for reading in desired
            ]
        ),
    )


def read_readings(answer: str, desired: Sequence[Reading]) -> Iterator[Reading]:
    """What the readers may read by the answer to `READING`."""
    document = {
        name: [tuple(row) for row in rows or ()] for name, rows in json.loads(answer).items() if name != "schemas"
    }
    schemas = frozenset(json.loads(answer)["schemas"] or ())
    for reading in desired:
        of = {name: [row[1:] for row in rows if row[0] == reading.role] for name, rows in document.items()}
        lacking, shut, later = (
            of["lacking"],
            [schema for (schema,) in of["shut"]],
            [schema for (schema,) in of["later"]],
        )
        surplus = {
            *of["surplus"],
            *((schema, "") for (schema,) in of["entered"]),
            *((schema, "*") for (schema,) in of["follows"]),
        }
        tables = {
            (schema, name)
            for schema, name in reading.tables
            if schema not in shut
            and not (name == "*" and (schema in later or schema in {other for other, _ in lacking}))
            and (schema, name) not in lacking
        }
        yield replace(
            reading,
            tables=frozenset(tables),
            surplus=frozenset(surplus),
            lacking=tuple(sorted(lacking)),
            schemas=schemas,
        )
