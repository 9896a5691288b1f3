"""What to ask a Postgres server, and how to read its answers as resources. Pure: text in, values out.

Each question is one statement that answers with one JSON document, so that a server of a thousand apps costs one round
trip. Every session of the admin has ``search_path = pg_catalog, pg_temp``: an app may own functions in its database,
and none of them must be called by an administrator's query.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multidb.errors import WrongVersion
from multidb.model import Inspection, Owner, Resource
from multidb.provisioners.postgres.backup.places import DELEGATES
from multidb.provisioners.postgres.driver.session_settings import OLDEST
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.options import duration_of, duration_text
from multidb.provisioners.postgres.provision.resources import (
    MANAGED_SETTINGS,
    PURPOSES,
    Access,
    Database,
    Extension,
    Interior,
    Membership,
    PostgresFacts,
    Role,
    SecondLogin,
    ServerDatabase,
    ServerDatabaseFacts,
    Settings,
    derived_names,
    password_ref,
    verifier_ref,
)
from multidb.provisioners.postgres.provision.roles import ATTRIBUTES, AppNames, slot_of
from multidb.provisioners.postgres.provision.setting_values import stored_values
from multidb.provisioners.postgres.provision.statements import UNFINISHED

__all__ = [
    "BLOCKERS",
    "EVENT_TRIGGERS",
    "INTERIOR",
    "INTERIOR_TO_TAKE_OVER",
    "Inside",
    "LOCK_HOLDER",
    "VERIFIER",
    "Overview",
    "facts_query",
    "overview_parameters",
    "overview_query",
    "parse_mark",
    "read_facts",
    "read_interior",
    "read_overview",
    "require_version",
    "without_known",
]

_PREFIX = "multidb:"
_MARK = re.compile(r"multidb:([^/\s]+)/(\S+)(?:\s+(.*))?", re.DOTALL)
_SERVICES = {"rds_superuser": "rds", "cloudsqlsuperuser": "cloudsql", "azure_pg_admin": "azure"}
_BECOMING = frozenset({"role", "session_authorization"})  # whom a session becomes is never copied
_REVISION = re.compile(r"[0-9a-f]{8}")

# ------------------------------------------------------------------------------------------------------------- facts


def require_version(number: int, where: str) -> None:
    """`WrongVersion` unless multidb supports the server version `number` (150018)."""
    if number < OLDEST:
        raise WrongVersion(
            f"is Postgres {number // 10000}, and multidb needs 13 or newer", where=where, hint="upgrade the server"
        )


def facts_query(number: int) -> str:
    """Asks what the server of version `number` is, and what its admin login may do."""
    stale = (
        "SELECT json_agg(datname ORDER BY datname) FROM pg_database "
        "WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid)"
        if number >= 150000
        else "NULL::json"
    )
    return f"""
SELECT json_build_object(
  'number', current_setting('server_version_num')::int,
  'version', current_setting('server_version'),
  'admin', current_user,
  'superuser', r.rolsuper, 'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb,
  'groups', (SELECT json_agg(g.rolname) FROM pg_roles g
             WHERE g.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin')
               AND pg_has_role(current_user, g.oid, 'MEMBER')),
  'max_connections', current_setting('max_connections')::int,
  'reserved', current_setting('superuser_reserved_connections')::int
              + coalesce(current_setting('reserved_connections', true), '0')::int,
  'databases', (SELECT json_agg(json_build_object(
                  'name', d.datname,
                  'owner', pg_get_userbyid(d.datdba),
                  'open', EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
                                  WHERE x.grantee = 0 AND x.privilege_type = 'CONNECT'),
                  'closable', r.rolsuper OR pg_has_role(current_user, d.datdba, 'USAGE')) ORDER BY d.datname)
                FROM pg_database d WHERE d.datname IN ('postgres', 'template1', current_database())),
  'extensions', (SELECT json_agg(json_build_array(e.name, e.default_version, v.trusted, v.schema))
                 FROM pg_available_extensions e
                 JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version),
  'seconds', (SELECT json_agg(json_build_array(c.description, f.rolcanlogin, s.rolcanlogin))
              FROM pg_roles s JOIN pg_shdescription c ON c.objoid = s.oid AND c.classoid = 'pg_authid'::regclass
              JOIN pg_roles f ON f.rolname || '_b' = s.rolname
              WHERE right(s.rolname, 7) = '_user_b' AND starts_with(c.description, '{_PREFIX}')),
  'stale', ({stale}))
FROM pg_roles r WHERE r.rolname = current_user"""  # noqa: S608


def read_facts(answer: str) -> PostgresFacts:
    """The facts in the answer to `facts_query`."""
    document = json.loads(answer)
    groups = document["groups"] or []
    return PostgresFacts(
        product="PostgreSQL",
        version=document["version"],
        number=document["number"],
        admin=document["admin"],
        superuser=document["superuser"],
        createrole=document["createrole"],
        createdb=document["createdb"],
        service=next((_SERVICES[group] for group in groups), ""),
        max_connections=document["max_connections"],
        reserved_connections=document["reserved"],
        server_databases=tuple(ServerDatabaseFacts(**database) for database in document["databases"] or []),
        extensions={
            name: Extension(version, trusted, schema) for name, version, trusted, schema in document["extensions"] or []
        },
        stale_collations=tuple(document["stale"] or ()),
        seconds=tuple(_seconds(document["seconds"] or ())),
    )


def _seconds(rows: Iterable[tuple[str, bool, bool]]) -> Iterator[SecondLogin]:
    for mark, first_on, second_on in rows:
        owner, _ = parse_mark(mark)
        if owner is not None:
            yield SecondLogin(owner, first_on, second_on)


# The verifier that a superuser has itself.
VERIFIER = "SELECT coalesce((SELECT rolpassword FROM pg_authid WHERE rolname = current_user), '')"

# --------------------------------------------------------------------------------------------------- shared catalogs


def overview_query(facts: PostgresFacts) -> str:
    """Asks for all roles, memberships, databases and settings that concern us: ``$1`` roles and ``$2`` databases by
    name (JSON arrays), ``$3`` the beginning of this project's marks, ``$4`` known accounts (JSON array)."""
    table, password = ("pg_authid", "a.rolpassword") if facts.superuser else ("pg_roles", "NULL::text")
    attributes = ", ".join(f"'{known.field}', {known.column}" for known in ATTRIBUTES)
    options = "am.inherit_option, am.set_option" if facts.membership_options else "NULL::bool, NULL::bool"
    return f"""
WITH named_role AS MATERIALIZED (SELECT value FROM json_array_elements_text($1::json)),
named_database AS MATERIALIZED (SELECT value FROM json_array_elements_text($2::json)),
role AS MATERIALIZED (
  SELECT a.*, {password} AS held, c.description AS mark, a.rolname IN (SELECT value FROM named_role) AS named
  FROM {table} a LEFT JOIN pg_shdescription c ON c.objoid = a.oid AND c.classoid = 'pg_authid'::regclass
  WHERE a.rolname IN (SELECT value FROM named_role) OR starts_with(c.description, $3)),
database AS MATERIALIZED (
  SELECT d.*, c.description AS mark
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE d.datname IN (SELECT value FROM named_database) OR starts_with(c.description, $3))
SELECT json_build_object(
  'known', (SELECT json_agg(rolname) FROM pg_roles WHERE rolname IN (SELECT json_array_elements_text($4::json))),
  'roles', (SELECT json_agg(json_build_object(
      'name', rolname, 'mark', mark, {attributes}, 'connection_limit', rolconnlimit,
      'valid_until', nullif(rolvaliduntil, 'infinity'), 'held', held)) FROM role),
  'memberships', (SELECT json_agg(json_build_array(
      pg_get_userbyid(am.roleid), pg_get_userbyid(am.member), pg_get_userbyid(am.grantor), am.admin_option, {options}))
    FROM pg_auth_members am
    WHERE (am.roleid IN (SELECT oid FROM role WHERE named) OR am.member IN (SELECT oid FROM role WHERE named))
      AND am.member NOT IN ({DELEGATES})),
  'databases', (SELECT json_agg(json_build_object(
      'name', d.datname, 'mark', d.mark, 'owner', pg_get_userbyid(d.datdba), 'open', d.datallowconn,
      'template', d.datistemplate, 'connection_limit', d.datconnlimit,
      'privileges', (SELECT json_agg(json_build_array(
                       CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END,
                       x.privilege_type, x.is_grantable))
                     FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x WHERE x.grantee <> d.datdba),
      'settings', (SELECT json_agg(json_build_array(pg_get_userbyid(s.setrole), s.setconfig))
                   FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole <> 0)))
    FROM database d),
  'everywhere', (SELECT json_object_agg(r.rolname, s.setconfig)
                 FROM pg_db_role_setting s JOIN role r ON r.oid = s.setrole WHERE s.setdatabase = 0))"""  # noqa: S608


def overview_parameters(inspection: Inspection) -> tuple[str, str, str, str]:
    """What `overview_query` is asked with: every name that the apps may have taken, used now or not."""
    names = [name for app in inspection.apps for name in derived_names(app)]
    roles = [name.name for name in names if name.space == "postgres role"]
    databases = [name.name for name in names if name.space == "postgres database"]
    databases += [resource.name for resource in inspection.desired if isinstance(resource, ServerDatabase)]
    known = json.dumps(sorted(inspection.context.known))
    return json.dumps(roles), json.dumps(databases), f"multidb:{inspection.context.project}/", known


@dataclass(frozen=True, slots=True)
class Inside:
    """A database whose inside is wanted, and what can be told of it from outside.

    Args:
        settled: it is as we left it, by its mark; otherwise only a look inside tells.
        open: one can connect to it at all.
        marked: it is ours for certain.
    """

    desired: Interior
    revision: str
    settled: bool
    open: bool
    marked: bool


@dataclass(frozen=True)
class Overview:
    """What the shared catalogs say: everything but the databases' insides, and which of those there are."""

    resources: tuple[Resource, ...]
    insides: tuple[Inside, ...]


def read_overview(answer: str, inspection: Inspection) -> Overview:
    """The resources in the answer to `overview_query`, as `inspection` wants them."""
    document = json.loads(answer)
    facts = inspection.context.facts
    assert isinstance(facts, PostgresFacts)
    desired = {resource.key: resource for resource in inspection.desired}
    roles = [_role(row, desired, inspection, facts) for row in document["roles"] or []]
    owners = {role.name: role.owner for role in roles}
    resources: list[Resource] = [*roles]
    resources += _memberships(document["memberships"] or [], desired, owners, facts)
    insides: list[Inside] = []
    beside, everywhere = _standing_beside(inspection), document["everywhere"] or {}
    for row in document["databases"] or []:
        if (ServerDatabase.kind, row["name"]) in desired:
            resources.append(_server_database(row, facts, document["known"] or []))
            continue
        owner, revision = parse_mark(row["mark"])
        half_made = _half_made(row, desired, owners)
        resources.append(_database(row, owner or half_made))
        if half_made is not None:
            continue  # nothing has been done to it yet, so everything else is still to be created
        resources += [_access(row, owner), *_settings(row, owner, beside.get(row["name"], {}), everywhere)]
        database = desired.get((Database.kind, row["name"]))
        interior = desired.get((Interior.kind, row["name"]))
        if isinstance(interior, Interior) and database is not None and owner in (None, database.owner):
            settled = revision == interior.revision
            # A limit keeps out everybody but superusers, and has to be lifted first.
            open_ = row["open"] and (facts.superuser or row["connection_limit"] < 0)
            insides.append(Inside(interior, revision, settled, open_, marked=owner is not None))
    return Overview(tuple(resources), tuple(insides))


def without_known(resources: Iterable[Resource], known: frozenset[str]) -> Iterator[Resource]:
    """The resources as they would be without what the `known` accounts hold: that is no drift."""
    for resource in resources:
        match resource:
            case Membership() if resource.member in known:
                continue
            case Access():
                held = frozenset(pair for pair in resource.privileges if pair[0] not in known)
                yield replace(resource, privileges=held)
            case Interior():
                schema = frozenset(pair for pair in resource.schema_privileges if pair[0] not in known)
                defaults = frozenset(entry for entry in resource.default_privileges if entry[2] not in known)
                yield replace(resource, schema_privileges=schema, default_privileges=defaults)
            case _:
                yield resource


def parse_mark(comment: str | None) -> tuple[Owner | None, str]:
    """Whose a thing is by its comment, and the revision of its inside ("" when unfinished)."""
    match = _MARK.fullmatch(comment or "")
    if match is None:
        return None, ""
    tail = (match[3] or "").split(" ")[0]
    return Owner(match[1], match[2]), tail if tail != UNFINISHED and _REVISION.fullmatch(tail) else ""


def _half_made(
    row: Mapping[str, Any], desired: Mapping[tuple[str, str], Resource], owners: Mapping[str, Owner | None]
) -> Owner | None:
    """Whose a database is that was created and not marked yet: nobody may enter it, and its roles are ours."""
    database = desired.get((Database.kind, row["name"]))
    interior = desired.get((Interior.kind, row["name"]))
    if row["mark"] or row["open"] or database is None or not isinstance(interior, Interior):
        return None
    return database.owner if owners.get(interior.role) == database.owner else None


def _role(
    row: Mapping[str, Any], by_key: Mapping[tuple[str, str], Resource], inspection: Inspection, facts: PostgresFacts
) -> Role:
    desired = by_key.get((Role.kind, row["name"]))
    owner, _ = parse_mark(row["mark"])
    password = None
    if isinstance(desired, Role):
        password = _password(row["held"], desired, inspection, facts)
    return Role(
        name=row["name"],
        app=owner.app if owner else None,
        owner=owner,
        **{known.field: row[known.field] for known in ATTRIBUTES},
        connection_limit=row["connection_limit"],
        valid_until=row["valid_until"],
        password=password,
    )


def _password(held: str | None, desired: Role, inspection: Inspection, facts: PostgresFacts) -> str | None:
    """The state of a login's password. An admin who is no superuser cannot read it: it then counts as current here,
    and a deep inspection tries it instead."""
    if desired.password is None:
        return "other" if held else None
    assert desired.app is not None
    ours = inspection.secrets.get(password_ref(desired.app, desired.secret))
    if ours is None:  # a login that never had a password has none to lose
        return "none" if facts.superuser and held is None else "lost"
    if not facts.superuser:
        return "current"
    if held is None:
        return "none"
    sent = inspection.secrets.get(verifier_ref(desired.app, desired.secret))
    if sent is not None and sent.reveal() == held:
        return "current"
    # Another verifier of the same password is as good: a restore from elsewhere, a change by hand to the same.
    return "current" if scram.matches(ours.reveal(), held) else "other"


def _memberships(
    rows: Iterable[Sequence[Any]],
    desired: Mapping[tuple[str, str], Resource],
    owners: Mapping[str, Owner | None],
    facts: PostgresFacts,
) -> Iterator[Membership]:
    grants: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for row in rows:
        grants.setdefault((row[0], row[1]), []).append(row)
    for (role, member), given in grants.items():
        name = f"{member} in {role}"
        is_admin = member == facts.admin
        owner = owners.get(role) or owners.get(member)
        membership = Membership(
            name=name,
            app=owner.app if owner else None,
            role=role,
            member=member,
            # The server makes the creator of a role its administrator; an admin may give itself the rest anyway.
            admin=not is_admin and any(row[3] for row in given),
            inherit=any(row[4] for row in given) if facts.membership_options else None,
            set_role=any(row[5] for row in given) if facts.membership_options else None,
            grantors=tuple(sorted({row[2] for row in given})),
        )
        useless = is_admin and facts.membership_options and not membership.inherit and not membership.set_role
        if not is_admin or ((Membership.kind, name) in desired and not useless):
            yield membership


def _server_database(row: Mapping[str, Any], facts: PostgresFacts, known: Sequence[str]) -> ServerDatabase:
    privileges = _privileges(row["privileges"])
    connects = facts.superuser or row["owner"] == facts.admin or (facts.admin, "CONNECT") in privileges
    public = frozenset(privilege for grantee, privilege in privileges if grantee == "public")
    heirs = frozenset(known)
    return ServerDatabase(name=row["name"], public=public, admin_connects=connects, heirs=heirs)


def _database(row: Mapping[str, Any], owner: Owner | None) -> Database:
    return Database(
        name=row["name"],
        app=owner.app if owner else None,
        owner=owner,
        belongs_to=row["owner"],
        connection_limit=row["connection_limit"],
        template=row["template"],
    )


def _access(row: Mapping[str, Any], owner: Owner | None) -> Access:
    return Access(
        name=row["name"],
        app=owner.app if owner else None,
        allow_connections=row["open"],
        privileges=_privileges(row["privileges"]),
    )


def _privileges(rows: Iterable[Sequence[Any]] | None) -> frozenset[tuple[str, str]]:
    """Pairs of grantee and privilege; the right to pass one on is a privilege of its own."""
    held: set[tuple[str, str]] = set()
    for grantee, privilege, grantable in rows or ():
        held.add((grantee, privilege))
        if grantable:
            held.add((grantee, f"GRANT OPTION FOR {privilege}"))
    return frozenset(held)


def _standing_beside(inspection: Inspection) -> dict[str, dict[str, str]]:
    """By database, each login that works beside the one of the same purpose in the app's variables, and that one."""
    beside: dict[str, dict[str, str]] = {}
    for app, alternates in inspection.context.alternates.items():
        names = AppNames.of(app)
        for other in alternates.working - {alternates.current}:
            beside[names.database] = {
                names.login(slot_of(purpose, other)): names.login(slot_of(purpose, alternates.current))
                for purpose in PURPOSES
            }
    return beside


def _settings(
    row: Mapping[str, Any], owner: Owner | None, beside: Mapping[str, str], everywhere: Mapping[str, list[str]]
) -> Iterator[Settings]:
    here = {role: _pairs(config) for role, config in row["settings"] or ()}
    for role in sorted({*here, *beside}):
        held = here.get(role, {}).items()
        values = frozenset((name, _setting(name, value)) for name, value in held if name in MANAGED_SETTINGS)
        unlike: frozenset[tuple[bool, str, str | None]] = frozenset()
        if other := beside.get(role):
            in_database = _unlike(here.get(role, {}), here.get(other, {}), MANAGED_SETTINGS)
            anywhere = _unlike(_pairs(everywhere.get(role, ())), _pairs(everywhere.get(other, ())), _BECOMING)
            unlike = frozenset({*((True, *pair) for pair in in_database), *((False, *pair) for pair in anywhere)})
        if values or unlike:
            yield Settings(
                name=f"{role} in {row['name']}",
                app=owner.app if owner else None,
                role=role,
                database=row["name"],
                values=values,
                unlike=unlike,
            )


def _pairs(config: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (entry.partition("=") for entry in config)}


def _unlike(
    held: Mapping[str, str], others: Mapping[str, str], left_out: frozenset[str]
) -> Iterator[tuple[str, str | None]]:
    """What makes settings those of the other login: a name and its value, or no value. What no statement can set again
    is left out."""
    for name in sorted({*held, *others} - left_out):
        if all(name.split(".")) and _meaning(name, held.get(name)) != _meaning(name, others.get(name)):
            yield name, others.get(name)


def _meaning(name: str, value: str | None) -> list[str]:
    """The same for values that mean the same, however they were given; nothing for what cannot be set."""
    try:
        return [] if value is None else stored_values(name, value)
    except ValueError:
        return []


def _setting(name: str, value: str) -> str:
    if name.endswith("_timeout"):
        try:
            return duration_text(duration_of(value))
        except ValueError:
            return value
    if name == "default_transaction_read_only":
        return "on" if value.lower() in {"on", "true", "yes", "1", "t", "y"} else "off"
    return value


# ---------------------------------------------------------------------------------------------------------- interior

# $1: the app's owner role, $2: it and the logins that may make things (JSON array), $3: its role over its quota. What
# an extension brought with it belongs to whoever created the extension. The server's own objects have oids below 16384;
# saying so keeps a new connection, whose caches are empty, from reading whole catalogs.
_INTERIOR = """
WITH owner AS MATERIALIZED (SELECT to_regrole(quote_ident($1))::oid AS oid),
app_schema AS MATERIALIZED (
  SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace n
  WHERE (n.oid >= 16384 OR n.nspname = 'public') AND n.nspname !~ '^pg_'
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
  WHERE s.nspname <> 'public'{large}),
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
    FROM pg_namespace n WHERE n.nspname = 'public'),
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
  SELECT 2613, l.oid, l.lomowner, 'LARGE OBJECT', l.oid::text FROM pg_largeobject_metadata l"""
INTERIOR = _INTERIOR.format(large="")
INTERIOR_TO_TAKE_OVER = _INTERIOR.format(large=_LARGE)


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
        schema_privileges=_privileges(schema["privileges"]),
        default_privileges=frozenset(map(tuple, document["defaults"] or ())),
        extensions=frozenset(document["extensions"] or ()) & desired.extensions,
        large_objects=None if desired.large_objects is None else frozenset(map(tuple, document["large_objects"] or ())),
        misowned=frozenset((kind, name) for kind, name in document["misowned"] or ()),
        misowners=frozenset(document["misowners"] or ()),
        revision=revision,
        schemas=tuple(document["schemas"] or ()),
        beside=tuple((schema, kind, tuple(names or ())) for schema, kind, names in document["beside"] or ()),
        on_members=frozenset(map(tuple, document["on_members"] or ())),
    )


# Event triggers that would run, with the rights of whoever makes something here, what neither a superuser nor the admin
# has written. Only a superuser can make one, in every version.
EVENT_TRIGGERS = """
SELECT coalesce(json_agg(json_build_array(t.evtname, r.rolname) ORDER BY t.evtname), '[]'::json)
FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid JOIN pg_roles r ON r.oid = p.proowner
WHERE t.evtenabled <> 'D' AND NOT r.rolsuper AND r.rolname <> current_user"""

# -------------------------------------------------------------------------------------------------------------- lock

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
