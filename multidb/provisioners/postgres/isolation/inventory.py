"""Everything in a Postgres database that has an owner or an access control list, and what is normal there.

What could be done is computed from the server's own catalogs: a right that is neither what the server or an extension
was made with (``pg_init_privs``, ``acldefault``) nor given to who is at home in the database is a hole, and so is what
runs or reads with the rights of somebody who may do more than the app. What is known to be harmless stands in
`HARMLESS`, with the reason; whatever else a newer server brings is a hole until it is known. A test asks real servers
for every catalog column that holds a list of rights or names a role, and fails for one that stands in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CATALOGS",
    "HARMLESS",
    "HARMLESS_DEFINERS",
    "HARMLESS_SETTINGS",
    "INSIDE",
    "LENT",
    "SHARED",
    "TRUSTED_LANGUAGES",
    "Catalog",
    "covered",
]


@dataclass(frozen=True, slots=True)
class Catalog:
    """A catalog of a database whose objects have an owner, and mostly rights.

    Args:
        oid: of the catalog itself, which is the same on every server.
        owner: its column with the owner.
        acl: its column with the rights; "" where it has none.
        default: the letter by which ``acldefault`` knows its objects, as SQL.
        where: which of its rows are looked at; the others belong to one that is.
        source: what stands after FROM, where the catalog alone does not know the owner.
        object, part: the columns by which ``pg_depend`` and ``pg_init_privs`` name a row.
    """

    name: str
    oid: int
    owner: str
    acl: str = ""
    default: str = ""
    where: str = "true"
    source: str = ""
    object: str = "oid"
    part: str = "0"

    @property
    def rows(self) -> str:
        return f"{self.source or self.name} WHERE {self.where}"


CATALOGS: Final = (
    Catalog(
        "pg_class",
        1259,
        "relowner",
        "relacl",
        "CASE relkind WHEN 'S' THEN 's' ELSE 'r' END",
        "relkind NOT IN ('i', 'I', 't', 'c')",  # indexes and the like are their table's, a row type is a pg_type
    ),
    Catalog(
        "pg_attribute",
        1259,
        "relowner",
        "attacl",
        "'c'",
        "attnum <> 0",
        "pg_attribute JOIN pg_class ON pg_class.oid = attrelid",
        "attrelid",
        "attnum",
    ),
    Catalog("pg_proc", 1255, "proowner", "proacl", "'f'"),
    Catalog("pg_namespace", 2615, "nspowner", "nspacl", "'n'", "nspname !~ '^pg_(toast|temp)'"),
    Catalog(
        "pg_type",
        1247,
        "typowner",
        "typacl",
        "'T'",
        # neither the row types of tables nor the types that come with another one
        "(typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND c.relkind = 'c')) "
        "AND typtype <> 'm' AND NOT (typelem <> 0 AND typlen = -1)",
    ),
    Catalog("pg_language", 2612, "lanowner", "lanacl", "'l'"),
    Catalog("pg_foreign_data_wrapper", 2328, "fdwowner", "fdwacl", "'F'"),
    Catalog("pg_foreign_server", 1417, "srvowner", "srvacl", "'S'"),
    Catalog("pg_largeobject_metadata", 2613, "lomowner", "lomacl", "'L'"),
    Catalog(
        "pg_default_acl",
        826,
        "defaclrole",
        "defaclacl",
        "CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END",
    ),
    Catalog("pg_operator", 2617, "oprowner"),
    Catalog("pg_opclass", 2616, "opcowner"),
    Catalog("pg_opfamily", 2753, "opfowner"),
    Catalog("pg_collation", 3456, "collowner"),
    Catalog("pg_conversion", 2607, "conowner"),
    Catalog("pg_ts_dict", 3600, "dictowner"),
    Catalog("pg_ts_config", 3602, "cfgowner"),
    Catalog("pg_statistic_ext", 3381, "stxowner"),
    Catalog("pg_event_trigger", 3466, "evtowner"),
    Catalog("pg_extension", 3079, "extowner"),
    Catalog("pg_publication", 6104, "pubowner"),
)
"""The catalogs that every database has of its own."""

SHARED: Final = {
    "pg_authid": "powers that no app needs; logins of apps that are not in the manifest; strangers with powers",
    "pg_auth_members": "members of an app's roles, of roles with powers, of the server's own and the admin's",
    "pg_database": "CONNECT and CREATE for others; owners; template0; copies that were left; unmarked databases",
    "pg_tablespace": "CREATE for everybody or a stranger; owners",
    "pg_parameter_acl": "SET and ALTER SYSTEM on what is the server's to set",
    "pg_db_role_setting": "settings of a role or database that only a superuser may make",
    "pg_subscription": "what pours another server's data into a database, with more power than its app",
}
"""The catalogs that a server has once, and what is looked for in them."""

_COLUMNS: Final = frozenset(
    {
        *("pg_auth_members.roleid", "pg_auth_members.member", "pg_database.datdba", "pg_database.datacl"),
        *("pg_tablespace.spcowner", "pg_tablespace.spcacl", "pg_parameter_acl.paracl", "pg_db_role_setting.setrole"),
        *("pg_subscription.subowner", "pg_user_mapping.umuser"),
    }
)

HARMLESS: Final[Mapping[str, str]] = {
    "pg_init_privs.initprivs": "what the server and its extensions were made with: what is normal, and no right itself",
    "pg_auth_members.grantor": "who gave a membership; the membership itself is looked at",
    "pg_default_acl.defaclrole": "on whose future things rights are given; who gets them is looked at",
    "pg_policy.polroles": "for whom a row policy holds: it only takes away from what may be done to its table",
}
"""Columns that hold rights or name a role and open nothing, with the reason."""

TRUSTED_LANGUAGES: Final = ("sql", "plpgsql", "plperl", "pltcl", "plv8")
"""Languages whose functions can do no more than who calls them; another that says so is not believed."""

HARMLESS_DEFINERS: Final[Mapping[tuple[str, str], str]] = {
    ("postgis", symbol): "tells what ANALYZE has found of where the rows of a table of this database are; calls nothing"
    for symbol in ("gserialized_estimated_extent", "geometry_estimated_extent")  # gserialized_estimate.c
}
"""Functions in C, by extension and symbol, that run as who made the extension and lend nothing, with the reason."""

HARMLESS_SETTINGS: Final[Mapping[str, str]] = {
    r"log_.*|auto_explain\..*|debug_.*|backtrace_functions": "what the server writes into its own log",
    r"track_.*|compute_query_id|pg_stat_statements\..*|update_process_title": "what the server counts and shows",
    r"jit_.*|commit_delay|deadlock_timeout|max_stack_depth|temp_file_limit|lc_messages": "how, not what, may be done",
    r"wal_.*|plpgsql\..*|event_triggers": "how the server works; no right hangs on it",
}
"""Settings that only a superuser may make and that open nothing wherever they stand, as patterns, with the reason."""


def covered() -> frozenset[str]:
    """Every column that is looked at, as ``catalog.column``."""
    of_databases = {
        f"{catalog.name}.{column}" for catalog in CATALOGS for column in (catalog.owner, catalog.acl) if column
    }
    return frozenset((of_databases - {"pg_attribute.relowner", "pg_default_acl.defaclrole"}) | _COLUMNS)


def _entries(column: str) -> str:
    """Every row of the catalogs that has an owner who is nobody's ("owner"), or rights ("acl")."""

    def row(catalog: Catalog) -> str:
        what = f"{catalog.oid}::oid AS class, {catalog.object} AS object, {catalog.part}::int AS part"
        what += f", {catalog.owner} AS owner"
        if column == "owner":
            return f"SELECT {what} FROM {catalog.rows} AND {catalog.owner} NOT IN (SELECT oid FROM mighty)"  # noqa: S608
        rights = f'{catalog.acl} AS acl, ({catalog.default})::"char" AS type'
        return f"SELECT {what}, {rights} FROM {catalog.rows} AND {catalog.acl} IS NOT NULL"  # noqa: S608

    unowned = ("pg_attribute", "pg_default_acl")  # the table's owner; on whose future things, see `HARMLESS`
    chosen = [catalog for catalog in CATALOGS if (catalog.acl if column == "acl" else catalog.name not in unowned)]
    return "\n  UNION ALL ".join(map(row, chosen))


def _counts() -> str:
    pairs = (f"'{catalog.name}', (SELECT count(*) FROM {catalog.rows})" for catalog in CATALOGS)  # noqa: S608
    return f"json_build_object({', '.join(pairs)})"


# An app chooses the numbers of its large objects.
_SYSTEM: Final = "(object < 16384 AND NOT (class = 2615 AND object = 2200) AND class <> 2613)"
_HELD: Final = "(SELECT json_agg(DISTINCT CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END) "
_HOME: Final = "x.grantee = 0 OR x.grantee IN (SELECT oid FROM insider)"
# A trigger, an aggregate, an operator class call a function for whoever has no EXECUTE on it. No expression does: of a
# rule, default, constraint, policy, index, publication, or of another function.
_CALLED: Final = """EXISTS (
      SELECT FROM pg_depend d WHERE d.refclassid = 1255 AND d.refobjid = p.oid
        AND d.classid NOT IN (2618, 2604, 2606, 3256, 1259, 6106)
        AND (d.classid <> 1255 OR EXISTS (SELECT FROM pg_aggregate a WHERE a.aggfnoid = d.objid)))"""
# A rule's text has every relation that it reaches; pg_depend leaves out the server's own.
_REACHED: Final = """pg_rewrite w CROSS JOIN LATERAL regexp_matches(w.ev_action::text, ':relid ([0-9]+)', 'g') m
      JOIN pg_class d ON d.oid = m[1]::oid WHERE w.ev_class = c.oid AND d.oid <> c.oid"""


def _app_holds(what: str, relation: str) -> str:
    return f"EXISTS (SELECT FROM insider i WHERE has_table_privilege(i.oid, {relation}, '{what}'))"


_BORROWED: Final = " OR ".join(
    (
        f"(w.ev_type = '1' AND NOT {_app_holds('SELECT', 'd.oid')})",
        *(
            f"(w.ev_type = '1' AND pg_relation_is_updatable(c.oid, false) & {bit} <> 0 "
            f"AND {_app_holds(right, 'c.oid')} AND NOT {_app_holds(right, 'd.oid')})"
            for right, bit in (("UPDATE", 4), ("INSERT", 8), ("DELETE", 16))
        ),
        *(
            f"(w.ev_type <> '1' AND NOT {_app_holds(right, 'd.oid')})"
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ),
    )
)

# The views of the SQL standard are made after ``pg_init_privs`` is filled. What everybody reads there is normal, but
# for what begins with _pg_, which only they may read (it has the options of user mappings).
_STANDARD: Final = """(
      (x.privilege_type = 'USAGE' AND e.class = 2615 AND e.object = (SELECT oid FROM standard))
      OR (x.privilege_type = 'SELECT' AND e.class = 1259 AND e.part = 0 AND EXISTS (
            SELECT FROM pg_class v WHERE v.oid = e.object AND v.relnamespace = (SELECT oid FROM standard)
              AND v.oid < 16384 AND v.relname !~ '^_pg_')))"""

_INSIDER: Final = """
WITH insider AS MATERIALIZED (SELECT oid FROM pg_roles WHERE rolname IN (SELECT json_array_elements_text($1::json)))"""
# Only a superuser makes a member of an extension of what is none.
_LENDS_NOTHING: Final = f"""(l.lanname = 'c' AND EXISTS (
      SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid AND d.refclassid = 3079
      WHERE d.classid = 1255 AND d.objid = p.oid AND d.deptype = 'e'
        AND (x.extname, p.prosrc) IN ({", ".join(f"('{name}', '{symbol}')" for name, symbol in HARMLESS_DEFINERS)})))"""
_EXTENDED: Final = "extended AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')"

# $1: the roles that are at home here (JSON array), $2: whether it is an app's database; in others only what the server
# itself has made is looked at. "lends": whether there is anything that `LENT` could find: most databases have nothing,
# and to plan the search for it costs as much as all the rest.
INSIDE: Final = f"""{_INSIDER},
mighty AS MATERIALIZED (
  SELECT oid FROM pg_roles WHERE (rolsuper OR rolname = current_user OR rolname ~ '^pg_')
    AND oid NOT IN (SELECT oid FROM insider)),
standard AS MATERIALIZED (SELECT oid FROM pg_namespace WHERE nspname = 'information_schema'),
{_EXTENDED},
entry AS MATERIALIZED (
  {_entries("acl")}),
surplus AS MATERIALIZED (
  SELECT e.*, x.grantee, x.grantor, x.privilege_type AS privilege
  FROM (SELECT *, {_SYSTEM} AS system FROM entry) e
  LEFT JOIN pg_init_privs i ON i.classoid = e.class AND i.objoid = e.object AND i.objsubid = e.part
    AND NOT (e.class = 2615 AND e.object = 2200)
  LEFT JOIN pg_default_acl a ON e.class = 826 AND a.oid = e.object
  CROSS JOIN LATERAL aclexplode(e.acl) x
  WHERE x.grantee <> e.owner AND x.grantee NOT IN (SELECT oid FROM mighty)
    AND (e.system OR $2 = 'true')
    AND NOT EXISTS (
      SELECT FROM aclexplode(CASE WHEN a.defaclnamespace <> 0 THEN acldefault('c', e.owner)
                             ELSE coalesce(i.initprivs, acldefault(e.type, e.owner)) END) b
      WHERE b.grantee IN (x.grantee, 0) AND b.privilege_type = x.privilege_type
        AND (b.is_grantable OR NOT x.is_grantable))
    AND NOT (x.grantee = 0 AND NOT x.is_grantable AND {_STANDARD})),
right_of AS (
  SELECT s.* FROM surplus s
  WHERE s.grantee NOT IN (SELECT oid FROM insider) OR s.system OR s.class = 2328
    OR (s.class = 1417 AND s.owner NOT IN (SELECT oid FROM insider))
    -- what an extension keeps to its administrators: its functions, and views on what they tell
    OR ((s.class = 1255
         OR EXISTS (SELECT FROM pg_class v WHERE v.oid = s.object AND s.class = 1259 AND v.relkind = 'v'))
        AND EXISTS (SELECT FROM extended x WHERE x.classid = s.class AND x.objid = s.object))),
owned AS (
  SELECT * FROM (
  {_entries("owner")}) o
  WHERE {_SYSTEM}
     OR ($2 = 'true' AND o.owner NOT IN (SELECT oid FROM insider)))
SELECT json_build_object(
  'searched', {_counts()},
  'lends', $2 = 'true' AND (
    EXISTS (SELECT FROM pg_proc WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_class WHERE oid >= 16384 AND relkind IN ('v', 'm', 'r', 'p', 'f')
               AND (relkind = 'f' OR relowner NOT IN (SELECT oid FROM insider)))
    OR EXISTS (SELECT FROM pg_foreign_server)),
  'rights', (SELECT json_agg(json_build_array(
      t.schema, t.type, t.identity, a.attname, r.grantee, r.grantor, r.rights, r.system))
    FROM (
    SELECT class, object, part, system, string_agg(DISTINCT privilege, ', ' ORDER BY privilege) AS rights,
      CASE grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(grantee) END AS grantee,
      CASE WHEN grantor <> owner AND class <> 826 THEN pg_get_userbyid(grantor) END AS grantor
    FROM right_of GROUP BY class, object, part, system, grantee, grantor, owner) r
    CROSS JOIN LATERAL pg_identify_object(r.class, r.object, 0) t
    LEFT JOIN pg_attribute a ON r.class = 1259 AND r.part <> 0 AND a.attrelid = r.object AND a.attnum = r.part),
  'owned', (SELECT json_agg(json_build_array(t.schema, t.type, t.identity, pg_get_userbyid(o.owner), {_SYSTEM}))
    FROM owned o CROSS JOIN LATERAL pg_identify_object(o.class, o.object, 0) t),
  'events', (SELECT json_agg(json_build_array(quote_ident(evtname), evtevent, pg_get_userbyid(evtowner)))
    FROM pg_event_trigger
    WHERE $2 = 'true' AND evtenabled <> 'D' AND evtowner NOT IN (SELECT oid FROM insider)),
  'languages', (SELECT json_agg(lanname ORDER BY lanname) FROM pg_language
    WHERE lanpltrusted AND lanname NOT IN ({", ".join(f"'{name}'" for name in TRUSTED_LANGUAGES)})))"""  # noqa: S608

# $1, $2: as for `INSIDE`. What runs or reads with the rights of somebody who may do more than the app.
LENT: Final = f"""{_INSIDER},
{_EXTENDED},
routine AS (
  SELECT p.oid, p.proowner AS owner, CASE WHEN p.prosecdef THEN 'definer' ELSE l.lanname END AS why, p.proacl AS acl,
    EXISTS (SELECT FROM extended x WHERE x.classid = 1255 AND x.objid = p.oid) AS shipped
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
  WHERE $2 = 'true' AND p.oid >= 16384 AND p.prokind <> 'a'
    AND (EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x WHERE {_HOME})
         OR p.proowner IN (SELECT oid FROM insider)
         OR (NOT EXISTS (SELECT FROM extended x WHERE x.classid = 1255 AND x.objid = p.oid) AND {_CALLED}))
    AND ((p.prosecdef AND p.proowner NOT IN (SELECT oid FROM insider) AND NOT {_LENDS_NOTHING})
         OR (NOT l.lanpltrusted
             AND NOT EXISTS (SELECT FROM extended x WHERE x.classid = 1255 AND x.objid = p.oid)
             -- the constructors of a range type, which the server makes with it
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1255 AND d.objid = p.oid
                             AND d.deptype = 'i' AND d.refclassid = 1247)))),
relation AS (
  SELECT c.oid, c.relowner AS owner, CASE c.relkind WHEN 'f' THEN 'foreign' ELSE 'borrowed' END AS why, c.relacl AS acl
  FROM pg_class c LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
  WHERE $2 = 'true' AND c.oid >= 16384 AND c.relkind IN ('v', 'm', 'r', 'p', 'f')
    AND EXISTS (SELECT FROM insider i
                WHERE has_table_privilege(i.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
                   OR has_any_column_privilege(i.oid, c.oid, 'SELECT, INSERT, UPDATE'))
    AND CASE WHEN c.relkind = 'f' THEN s.srvowner NOT IN (SELECT oid FROM insider)
        ELSE c.relowner NOT IN (SELECT oid FROM insider)
          AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
                          WHERE o.option_name = 'security_invoker' AND o.option_value::bool)
          AND EXISTS (SELECT FROM {_REACHED} AND ({_BORROWED})) END)
SELECT json_build_object(
  'routines', (SELECT json_agg(json_build_array(
      t.schema, r.oid::regprocedure::text, t.identity, pg_get_userbyid(r.owner), r.why,
      CASE WHEN r.shipped THEN {_HELD} FROM aclexplode(coalesce(r.acl, acldefault('f', r.owner))) x WHERE {_HOME}) END))
    FROM routine r CROSS JOIN LATERAL pg_identify_object(1255, r.oid, 0) t),
  'relations', (SELECT json_agg(json_build_array(t.schema, t.type, t.identity, pg_get_userbyid(r.owner), r.why,
      {_HELD} FROM aclexplode(r.acl) x WHERE ({_HOME}) AND x.grantee <> r.owner),
      r.owner IN (SELECT oid FROM insider)))
    FROM relation r CROSS JOIN LATERAL pg_identify_object(1259, r.oid, 0) t),
  'mappings', (SELECT json_agg(json_build_array(quote_ident(m.srvname), m.usename)) FROM pg_user_mappings m
    JOIN pg_foreign_server s ON s.oid = m.srvid
    WHERE $2 = 'true' AND (m.umuser = 0 OR m.umuser IN (SELECT oid FROM insider))
      AND s.srvowner NOT IN (SELECT oid FROM insider)))"""  # noqa: S608
