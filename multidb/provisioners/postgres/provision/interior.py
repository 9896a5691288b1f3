"""What to ask of the inside of a database, and how to read the answer as a resource. Pure: text in, values out."""

from __future__ import annotations

import json

from multidb.provisioners.postgres.provision.privileges import privileges_of
from multidb.provisioners.postgres.provision.resources import Interior

__all__ = ["EVENT_TRIGGERS", "INTERIOR", "INTERIOR_TO_TAKE_OVER", "parameters", "read_interior"]

# $1: the app's owner role, $2: it and the logins that may make things (JSON array), $3: its role over its quota, $4:
# its schema in a database that apps share; empty: all is the app's, and public the schema whose rights are looked at.
# What an extension brought with it belongs to whoever created the extension. The server's own objects have oids below
# 16384; saying so keeps a new connection, whose caches are empty, from reading whole catalogs.
_INTERIOR = """
WITH owner AS MATERIALIZED (SELECT to_regrole(quote_ident($1))::oid AS oid),
app_schema AS MATERIALIZED (
  SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace n
  WHERE (n.oid >= 16384 OR n.nspname = 'public') AND n.nspname !~ '^pg_' AND $4::text IN ('', n.nspname::text)
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 2615 AND e.objid = n.oid AND e.deptype = 'e')),
object AS (
  -- a composite type is an extension's by its type
  SELECT CASE c.relkind WHEN 'c' THEN 1247 ELSE 1259 END AS class,
    CASE c.relkind WHEN 'c' THEN c.reltype ELSE c.oid END AS oid, c.relowner AS owner,
    CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                   WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind,
    format('%I.%I', s.nspname, c.relname) AS name
  FROM pg_class c JOIN app_schema s ON s.oid = c.relnamespace
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
    -- a sequence that belongs to a column follows its table
    AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid
                                           AND d.refclassid = 1259 AND d.deptype IN ('a', 'i')))
  UNION ALL
  SELECT 1255, p.oid, p.proowner, 'ROUTINE',
    format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
  FROM pg_proc p JOIN app_schema s ON s.oid = p.pronamespace WHERE p.oid >= 16384
  -- the constructors of a range type belong to the server's first superuser, whoever has made the type
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1255 AND d.objid = p.oid
                                              AND d.deptype = 'i' AND d.refclassid = 1247)
  UNION ALL
  SELECT 1247, t.oid, t.typowner, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
    format('%I.%I', s.nspname, t.typname)
  FROM pg_type t JOIN app_schema s ON s.oid = t.typnamespace
  -- neither the row types of tables nor the array types that come with every type
  WHERE t.oid >= 16384 AND t.typtype IN ('b', 'd', 'e', 'r') AND NOT (t.typelem <> 0 AND t.typlen = -1)
  UNION ALL
  SELECT 2615, s.oid, s.nspowner, 'SCHEMA', quote_ident(s.nspname) FROM app_schema s
  WHERE s.nspname <> 'public' AND $4::text = ''{large}),
member AS MATERIALIZED (
  SELECT d.classid AS class, d.objid AS oid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
  WHERE d.refclassid = 3079 AND d.deptype = 'e' AND d.classid IN (1259, 1255)),
-- what a GRANT on all of a schema would reach of an extension's, too
beside AS (
  SELECT c.relnamespace AS schema, CASE c.relkind WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END AS kind
  FROM member m JOIN pg_class c ON m.class = 1259 AND c.oid = m.oid WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION SELECT p.pronamespace, 'ROUTINES' FROM member m JOIN pg_proc p ON m.class = 1255 AND p.oid = m.oid)
SELECT json_build_object(
  'schema', (SELECT json_build_object('owner', pg_get_userbyid(n.nspowner), 'privileges',
      (SELECT json_agg(json_build_array(CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END,
                                        x.privilege_type, x.is_grantable))
       FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x WHERE x.grantee <> n.nspowner))
    FROM pg_namespace n WHERE n.nspname = coalesce(nullif($4::text, ''), 'public')),
  'defaults', (SELECT json_agg(json_build_array(m.name, k.kind,
      CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END, x.privilege_type))
    FROM (SELECT value AS name, coalesce(to_regrole(quote_ident(value))::oid, 10) AS oid
          FROM json_array_elements_text($2::json)) m
    CROSS JOIN (VALUES ('r', 'r', 'TABLES'), ('S', 's', 'SEQUENCES'), ('f', 'f', 'FUNCTIONS'),
                       ('n', 'n', 'SCHEMAS')) k (stored, builtin, kind)
    LEFT JOIN pg_default_acl a ON a.defaclrole = m.oid AND m.oid <> 10 AND a.defaclnamespace = 0
                              AND a.defaclobjtype = k.stored::"char"
    CROSS JOIN aclexplode(coalesce(a.defaclacl, acldefault(k.builtin::"char", m.oid))) x
    WHERE x.grantee <> m.oid),
  'large_objects', (SELECT json_agg(json_build_array(p.proname,
      CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END))
    FROM pg_proc p CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
    WHERE p.oid IN (957, 715, 3457)  -- lo_creat, lo_create, lo_from_bytea: by oid, no further cache has to be filled
      AND x.grantee <> p.proowner),
  'extensions', (SELECT json_agg(extname) FROM pg_extension),
  'schemas', (SELECT json_agg(quote_ident(nspname) ORDER BY nspname) FROM app_schema),
  'beside', (SELECT json_agg(json_build_array(quote_ident(s.nspname), b.kind, CASE b.kind
      WHEN 'ROUTINES' THEN (
        SELECT json_agg(format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
                        ORDER BY p.oid) FROM pg_proc p
        WHERE p.pronamespace = s.oid AND p.oid >= 16384 AND NOT EXISTS (
          SELECT FROM pg_depend d WHERE d.classid = 1255 AND d.objid = p.oid AND d.deptype IN ('e', 'i')))
      ELSE (
        SELECT json_agg(format('%I.%I', s.nspname, c.relname) ORDER BY c.oid) FROM pg_class c
        WHERE c.relnamespace = s.oid AND c.oid >= 16384
          AND c.relkind = ANY (CASE b.kind WHEN 'SEQUENCES' THEN '{{S}}' ELSE '{{r,p,v,m,f}}' END::"char"[])
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND d.deptype = 'e')) END)
      ORDER BY s.nspname, b.kind) FROM beside b JOIN app_schema s ON s.oid = b.schema),
  -- as far as this login may take it back
  'on_members', (SELECT json_agg(json_build_array(x.privilege_type, format('%I.%I', n.nspname, c.relname)))
    FROM member m JOIN pg_class c ON m.class = 1259 AND c.oid = m.oid AND c.relkind <> 'S'
    JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) x
    WHERE x.grantee = to_regrole(quote_ident($3))::oid AND x.grantor = c.relowner AND pg_has_role(c.relowner, 'USAGE')),
  'misowned', (SELECT json_agg(json_build_array(o.kind, o.name)) FROM object o, owner
    WHERE o.owner IS DISTINCT FROM owner.oid
      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = o.class AND e.objid = o.oid AND e.deptype = 'e')),
  'misowners', (SELECT json_agg(DISTINCT r.rolname) FROM object o JOIN pg_roles r ON r.oid = o.owner, owner
    WHERE o.owner IS DISTINCT FROM owner.oid))"""

# What a run reads only where it takes a database over, since it costs every plan: any login may make large objects.
_LARGE = """
  UNION ALL
  SELECT 2613, l.oid, l.lomowner, 'LARGE OBJECT', l.oid::text FROM pg_largeobject_metadata l WHERE $4::text = ''"""
INTERIOR = _INTERIOR.format(large="")
INTERIOR_TO_TAKE_OVER = _INTERIOR.format(large=_LARGE)


def parameters(desired: Interior) -> tuple[str, str, str, str]:
    """What `INTERIOR` is asked with."""
    return desired.role, json.dumps(desired.makers), desired.read_only_role, desired.schema or ""


def read_interior(answer: str, desired: Interior, revision: str) -> Interior:
    """The inside of a database by the answer to `INTERIOR`; of the extensions, those that are wanted."""
    document = json.loads(answer)
    schema = document["schema"] or {"owner": None, "privileges": None}
    return Interior(
        name=desired.name,
        app=desired.app,
        role=desired.role,
        readers=desired.readers,
        writers=desired.writers,
        schema_owner=schema["owner"],
        schema_privileges=privileges_of(schema["privileges"]),
        default_privileges=frozenset(map(tuple, document["defaults"] or ())),
        extensions=frozenset(document["extensions"] or ()) & desired.extensions,
        large_objects=None if desired.large_objects is None else frozenset(map(tuple, document["large_objects"] or ())),
        misowned=frozenset((kind, name) for kind, name in document["misowned"] or ()),
        misowners=frozenset(document["misowners"] or ()),
        revision=revision,
        schemas=tuple(document["schemas"] or ()),
        beside=tuple((schema, kind, tuple(names or ())) for schema, kind, names in document["beside"] or ()),
        on_members=frozenset(map(tuple, document["on_members"] or ())),
        schema=desired.schema,
        database=desired.database,
    )


# Event triggers that would run, with the rights of whoever makes something here, what neither a superuser nor the admin
# has written. Only a superuser can make one, in every version.
EVENT_TRIGGERS = """
SELECT coalesce(json_agg(json_build_array(t.evtname, r.rolname) ORDER BY t.evtname), '[]'::json)
FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid JOIN pg_roles r ON r.oid = p.proowner
WHERE t.evtenabled <> 'D' AND NOT r.rolsuper AND r.rolname <> current_user"""
