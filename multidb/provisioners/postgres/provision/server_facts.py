"""What a Postgres server is, and what its admin login may do there. Pure: text in, values out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from multidb.errors import WrongVersion
from multidb.model import Owner
from multidb.provisioners.postgres.driver.session_settings import OLDEST
from multidb.provisioners.postgres.provision.marks import MARK_PREFIX, parse_mark, schema_in_mark
from multidb.provisioners.postgres.provision.resources import (
    AppSchema,
    Extension,
    PeerRole,
    PostgresFacts,
    ReaderRole,
    SecondLogin,
    ServerDatabaseFacts,
)
from multidb.provisioners.postgres.provision.roles import PEER, READER, READS, AppNames

__all__ = ["VERIFIER", "facts_query", "read_facts", "require_version"]

_SERVICES = {"rds_superuser": "rds", "cloudsqlsuperuser": "cloudsql", "azure_pg_admin": "azure"}


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
  'standby', pg_is_in_recovery(),
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
              WHERE right(s.rolname, 7) = '_user_b' AND starts_with(c.description, '{MARK_PREFIX}')),
  'readers', (SELECT json_agg(json_build_array(c.description, s.rolname, s.rolcanlogin, s.rolconnlimit)
                                ORDER BY s.rolname)
              FROM pg_roles s JOIN pg_shdescription c ON c.objoid = s.oid AND c.classoid = 'pg_authid'::regclass
              WHERE (s.rolcanlogin AND s.rolname ~ '_{READER}[a-z0-9]+(_b)?$' OR s.rolname ~ '_{READS}[a-z0-9]+$')
                AND starts_with(c.description, '{MARK_PREFIX}')),
  'peers', (SELECT json_agg(json_build_array(c.description, s.rolname))
            FROM pg_roles s JOIN pg_shdescription c ON c.objoid = s.oid AND c.classoid = 'pg_authid'::regclass
            WHERE strpos(s.rolname, '_{PEER}') > 0 AND starts_with(c.description, '{MARK_PREFIX}')),
  'owners', (SELECT json_agg(c.description)
             FROM pg_roles s JOIN pg_shdescription c ON c.objoid = s.oid AND c.classoid = 'pg_authid'::regclass
             WHERE right(s.rolname, 6) = '_owner' AND starts_with(c.description, '{MARK_PREFIX}')
               AND strpos(c.description, ' owns schema ') > 0),
  'tests', (SELECT json_agg(json_build_array(c.description, d.datname))
            FROM pg_database d JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
            WHERE right(d.datname, 5) = '_test' AND starts_with(c.description, '{MARK_PREFIX}')),
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
        standby=document["standby"],
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
        test_databases=tuple(_test_databases(document["tests"] or ())),
        reader_roles=tuple(_reader_roles(document["readers"] or ())),
        peer_roles=tuple(_peer_roles(document["peers"] or ())),
        schemas=tuple(_schemas(document["owners"] or ())),
    )


def _seconds(rows: Iterable[tuple[str, bool, bool]]) -> Iterator[SecondLogin]:
    for mark, first_on, second_on in rows:
        owner, _ = parse_mark(mark)
        if owner is not None:
            yield SecondLogin(owner, first_on, second_on)


def _test_databases(rows: Iterable[tuple[str, str]]) -> Iterator[Owner]:
    for mark, name in rows:
        owner, _ = parse_mark(mark)
        if owner is not None and name == AppNames.of(owner.app).test_database:
            yield owner


def _reader_roles(rows: Iterable[tuple[str, str, bool, int]]) -> Iterator[ReaderRole]:
    for mark, name, login, limit in rows:
        owner, _ = parse_mark(mark)
        if owner is not None and name.startswith((f"{owner.app}_{READER}", f"{owner.app}_{READS}")):
            yield ReaderRole(owner, name, login, limit)


def _peer_roles(rows: Iterable[tuple[str, str]]) -> Iterator[PeerRole]:
    for mark, name in rows:
        owner, _ = parse_mark(mark)
        if owner is not None and name.startswith(f"{owner.app}_{PEER}"):
            yield PeerRole(owner, name)


def _schemas(marks: Iterable[str]) -> Iterator[AppSchema]:
    for mark in marks:
        owner, _ = parse_mark(mark)
        there = schema_in_mark(mark)
        if owner is not None and there is not None:
            yield AppSchema(owner, *there)


# The verifier that a superuser has itself.
VERIFIER = "SELECT coalesce((SELECT rolpassword FROM pg_authid WHERE rolname = current_user), '')"
