"""The end of an app on a Postgres server: its logins off, and later everything of it gone.

Both are computed from what is there now, so an interruption anywhere is followed by what is left to do, and finally by
nothing. Only what carries this project's mark of the app is touched.

Turning off leaves the database open to the admin: the last backup is taken through that door. Turning on again is an
apply, which sees logins that may not log in as it sees any drift.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multidb.errors import Refused
from multidb.model import App, Owner, Statement, StoreContext
from multidb.provisioners.postgres.backup.places import place_mark, place_names
from multidb.provisioners.postgres.provision import shared_catalog
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.marks import mark
from multidb.provisioners.postgres.provision.options import STORE
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import PostgresFacts, derived_names
from multidb.provisioners.postgres.provision.roles import POWERS, AppNames
from multidb.provisioners.postgres.provision.shared_resources import SHARED, VACANT
from multidb.provisioners.postgres.provision.statements import ending_sessions

__all__ = ["leaving", "orphans", "removal", "suspension", "vacant"]

Ask = Callable[[str, Sequence[str]], str]
AskInside = Callable[[str, str], str]

HEIR: Final = "multidb__left"
"""A role that nobody is: it owns what a removed app had in databases of others. Never the admin, whose rights a
function of the app would then have."""

# $1: the beginning of the app's marks, $2: the beginning of the marks of its places, $3: all names of roles and
# databases that it may have. A database that nobody may enter and that has no mark yet is half made: ours, since the
# name is. "shared": databases that the app shares, with whether it is the last of the project's that has a right there.
# "elsewhere": databases in which a role of the app owns something or holds a right, as the server keeps track.
_REMAINS = f"""
WITH role AS MATERIALIZED (
  SELECT r.oid, r.rolname, r.rolcanlogin FROM pg_roles r
  JOIN pg_shdescription c ON c.objoid = r.oid AND c.classoid = 'pg_authid'::regclass
  WHERE c.description = $1 OR starts_with(c.description, $1 || ' ')),
database AS MATERIALIZED (
  SELECT d.oid, d.datname, d.datallowconn, d.datistemplate, coalesce(c.description, '') AS mark FROM pg_database d
  LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE c.description = $1 OR starts_with(c.description, $1 || ' ') AND c.description <> $1 || ' {SHARED}'
     OR c.description = $2 OR starts_with(c.description, $2 || ' ')
     OR c.description IS NULL AND NOT d.datallowconn AND EXISTS (SELECT FROM role)
        AND d.datname IN (SELECT json_array_elements_text($3::json))),
shared AS MATERIALIZED (
  SELECT d.oid, d.datname, NOT EXISTS (
    SELECT FROM aclexplode(d.datacl) x JOIN pg_shdescription r ON r.objoid = x.grantee
      AND r.classoid = 'pg_authid'::regclass
    WHERE starts_with(r.description, $4) AND x.grantee NOT IN (SELECT oid FROM role)) AS last
  FROM pg_database d
  JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE c.description = $4 || d.datname || ' {SHARED}' AND EXISTS (
    SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid IN (SELECT oid FROM role)
      AND (s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid))),
session AS (
  SELECT DISTINCT a.usename FROM pg_stat_activity a
  WHERE a.usesysid IN (SELECT oid FROM role) AND a.pid <> pg_backend_pid())
SELECT json_build_object(
  'roles', (SELECT json_agg(rolname ORDER BY rolname) FROM role),
  'logins', (SELECT json_agg(rolname ORDER BY rolname) FROM role WHERE rolcanlogin),
  'connected', (SELECT json_agg(usename ORDER BY usename) FROM session),
  'databases', (SELECT json_agg(json_build_array(datname, datallowconn, datistemplate) ORDER BY datname) FROM database),
  'prepared', (SELECT json_agg(json_build_array(p.database, p.gid) ORDER BY p.gid) FROM pg_prepared_xacts p
               WHERE p.database IN (SELECT datname FROM database WHERE datallowconn)
                  OR p.owner IN (SELECT rolname FROM role)),
  'shared', (SELECT json_agg(json_build_array(datname, last) ORDER BY datname) FROM shared WHERE EXISTS (
    SELECT FROM pg_database d WHERE d.oid = shared.oid AND d.datallowconn)),
  'elsewhere', (SELECT json_agg(DISTINCT d.datname) FROM pg_shdepend s JOIN pg_database d
                ON d.oid = CASE s.dbid WHEN 0 THEN (SELECT oid FROM pg_database WHERE datname = current_database())
                           ELSE s.dbid END
                WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid IN (SELECT oid FROM role)
                  AND s.dbid NOT IN (SELECT oid FROM database UNION SELECT oid FROM shared)
                  AND NOT (s.classid = 'pg_database'::regclass
                           AND s.objid IN (SELECT oid FROM database UNION SELECT oid FROM shared))),
  'heir', (SELECT CASE WHEN r.rolcanlogin OR {" OR ".join(f"r.{power.column}" for power in POWERS)}
                         OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
                       THEN 'strong' ELSE 'weak' END FROM pg_roles r WHERE r.rolname = 'multidb__left'),
  'maintenance', current_database())"""  # noqa: S608


_HEIRS_COMMENT = "multidb: owns what removed apps have left in databases of others"

# $1: the beginning of the project's marks, $2: apps that are known (JSON array).
_ORPHANS = f"""
WITH marked AS (
  SELECT c.description AS mark, 'role ' || r.rolname AS what FROM pg_roles r
  JOIN pg_shdescription c ON c.objoid = r.oid AND c.classoid = 'pg_authid'::regclass
  UNION ALL
  SELECT c.description, 'database ' || d.datname FROM pg_database d
  JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE right(c.description, 7) <> ' {SHARED}'),
owned AS (SELECT split_part(substr(mark, length($1) + 1), ' ', 1) AS app, what FROM marked WHERE starts_with(mark, $1))
SELECT coalesce(json_object_agg(app, things), '{{}}'::json) FROM (
  SELECT app, json_agg(what ORDER BY what) AS things FROM owned
  WHERE app NOT IN (SELECT json_array_elements_text($2::json)) GROUP BY app) found"""  # noqa: S608


# $1: the beginning of the project's marks, $2: names (JSON array). A name of which there is also something else is an
# app's.
_VACANT = f"""
WITH marked AS (
  SELECT description AS mark FROM pg_shdescription
  WHERE starts_with(description, $1) AND classoid IN ('pg_authid'::regclass, 'pg_database'::regclass)),
named AS (SELECT split_part(substr(mark, length($1) + 1), ' ', 1) AS name, mark FROM marked)
SELECT coalesce(json_agg(name), '[]'::json) FROM (
  SELECT name FROM named WHERE name IN (SELECT json_array_elements_text($2::json))
  GROUP BY name HAVING bool_and(mark = $1 || name || ' {VACANT}')) found"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Remains:
    """What is left of an app on the server."""

    roles: Sequence[str]
    logins: Sequence[str]
    connected: Sequence[str]
    databases: Sequence[tuple[str, bool, bool]]  # name, may be connected to, is a template
    prepared: Sequence[tuple[str, str]]  # database, id of a prepared transaction
    shared: Sequence[tuple[str, bool]]  # a database that the app shares, whether no other app has a right there
    elsewhere: Sequence[str]
    heir: str | Sequence[str]  # whether `HEIR` is there, and may do anything
    maintenance: str

    @classmethod
    def read(cls, answer: str) -> _Remains:
        document: dict[str, Any] = {key: value or () for key, value in json.loads(answer).items()}
        return cls(**document)

    def scope(self, database: str) -> str:
        return "" if database == self.maintenance else database


def _remains(ask: Ask, app: App, context: StoreContext) -> _Remains:
    owner = Owner(context.project, app.id)
    names = [name.name for name in derived_names(app) if name.space == "postgres database"]
    names += place_names(app.id)
    project = mark(Owner(context.project, ""), "")
    return _Remains.read(ask(_REMAINS, (mark(owner, ""), place_mark(owner), json.dumps(names), project)))


def orphans(ask: Ask, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
    """Roles and databases with the project's mark of an app that is not `known`, by app.

    Args:
        ask: as for `suspension`.
    """
    ours = mark(Owner(context.project, ""), "")
    entries: dict[str, list[str]] = json.loads(ask(_ORPHANS, (ours, json.dumps([*known]))))
    return entries


def vacant(ask: Ask, context: StoreContext, names: Collection[str]) -> Collection[str]:
    """Those of the names that only a shared database which every app has left bears.

    Args:
        ask: as for `suspension`.
    """
    names_of_none: list[str] = json.loads(ask(_VACANT, (mark(Owner(context.project, ""), ""), json.dumps([*names]))))
    return names_of_none


def suspension(ask: Ask, app: App, context: StoreContext) -> tuple[Statement, ...]:
    """What turns the app's logins off and ends their sessions.

    Args:
        ask: answers a query with its one value, as the admin in the maintenance database.
    """
    remains = _remains(ask, app, context)
    if not remains.logins and not remains.connected:
        return ()
    return _of(app, _switched_off(remains, PostgresFacts.of(context.facts)))


def _of(app: App, statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """The statements, for which a session of the app has to give way."""
    return tuple(dataclasses.replace(statement, app=app.id, ends_sessions=True) for statement in statements)


def _switched_off(remains: _Remains, facts: PostgresFacts) -> Iterator[Statement]:
    shut = [Statement(f"ALTER ROLE {identifier(login)} NOLOGIN", atomic=True) for login in remains.logins]
    # also those without a session: one may have come since we looked
    yield from ending_sessions(sorted({*remains.connected, *remains.logins}), facts, shut)


def removal(ask: Ask, inside: AskInside, app: App, context: StoreContext) -> tuple[Statement, ...]:
    """What drops the app's databases, schemas and roles, and whatever its roles have in other databases.

    Objects of its roles in databases of others are never dropped, since they are somebody's data, and never become the
    admin's: they are handed to `HEIR`.

    Args:
        ask: as for `suspension`.
        inside: answers a query in a database.

    Raises:
        Refused: there is an `HEIR` that may do something; another app reads the app's schema; its database is the one
            that the server's address names.
    """
    remains = _remains(ask, app, context)
    _require_elsewhere(remains, [name for name, *_ in remains.databases], app)
    if remains.elsewhere and remains.heir == "strong":
        raise Refused(
            f"the role {HEIR} is to own what {app.id} leaves in other databases, and may do more than own",
            where=f"app {app.id}",
            hint=f"take its attributes and memberships away, or rename it: ALTER ROLE {identifier(HEIR)} RENAME TO ..",
        )
    owner = Owner(context.project, app.id)
    schemas = [
        (database, last, shared_catalog.marked(inside(database, shared_catalog.SHARED), owner, database))
        for database, last in remains.shared
    ]
    return _of(app, _removed(remains, schemas, owner, PostgresFacts.of(context.facts)))


def leaving(ask: Ask, inside: AskInside, places: tuple[App, App], context: StoreContext) -> tuple[Statement, ...]:
    """See `MovingSession.leaving`: what drops an app's database, or takes it out of one that apps share.

    Args:
        ask, inside: as for `removal`.
        places: the app where it was, and where it is.

    Raises:
        Refused: another app reads its schema; its database is the one that the server's address names.
    """
    there, app = places
    left, kept = home(there), home(app)
    if left.database == kept.database:
        return ()
    remains, owner = _remains(ask, app, context), Owner(context.project, app.id)
    databases = [one for one in remains.databases if one[0] == left.database and left.schema is None]
    _require_elsewhere(remains, [name for name, *_ in databases], app)
    shared = [one for one in remains.shared if one[0] == left.database and left.schema is not None]
    schemas = [
        (database, last, shared_catalog.marked(inside(database, shared_catalog.SHARED), owner, database))
        for database, last in shared
    ]
    prepared = [one for one in remains.prepared if one[0] == left.database]
    gone = dataclasses.replace(remains, databases=databases, shared=shared, prepared=prepared)
    statements = [*_dropped(gone)] if databases else []
    if schemas:
        statements += [
            Statement(f"ALTER ROLE {identifier(role)} IN DATABASE {identifier(left.database)} RESET ALL", atomic=True)
            for role in remains.roles
        ]
        statements += [*_as_members(gone, PostgresFacts.of(context.facts)), *_leaving(gone, schemas, owner)]
    return _of(app, statements)


def _require_elsewhere(remains: _Remains, databases: Collection[str], app: App) -> None:
    """`Refused` where one of these is the database that the admin enters first: it would be shut, and not dropped."""
    if remains.maintenance in databases:
        raise Refused(
            f"the server's address names database {remains.maintenance}, which cannot be dropped from there",
            where=f"app {app.id}",
            hint=f"let the address name another one (external.{STORE}.url: postgresql://.../postgres), then run the "
            "command again",
        )


def _removed(
    remains: _Remains, schemas: Sequence[tuple[str, bool, Sequence[str]]], owner: Owner, facts: PostgresFacts
) -> Iterator[Statement]:
    if remains.logins or remains.connected:
        yield from _switched_off(remains, facts)
    yield from _dropped(remains)
    if not remains.roles:
        return
    heir = identifier(HEIR)
    if remains.elsewhere and not remains.heir:
        yield Statement(f"CREATE ROLE {heir} NOLOGIN", atomic=True)
        yield Statement(f"COMMENT ON ROLE {heir} IS {literal(_HEIRS_COMMENT)}", atomic=True)
    if remains.elsewhere or schemas:
        yield from _as_members(remains, facts, heir=bool(remains.elsewhere))
    yield from _leaving(remains, schemas, owner)
    roles = ", ".join(map(identifier, remains.roles))
    for database in remains.elsewhere:
        scope = remains.scope(database)
        yield Statement(f"REASSIGN OWNED BY {roles} TO {heir}", scope=scope, atomic=True)
        yield from _drops_of_owned(remains, owner, scope)
    yield Statement(f"DROP ROLE {roles}")


def _dropped(remains: _Remains) -> Iterator[Statement]:
    """The databases of the app that are left."""
    for database, transaction in remains.prepared:  # it would keep the database, and only inside it can be ended
        yield Statement(f"ROLLBACK PREPARED {literal(transaction)}", scope=remains.scope(database))
    for database, open_, template in remains.databases:
        name = identifier(database)
        if open_:
            yield Statement(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", atomic=True)
        if template:
            yield Statement(f"ALTER DATABASE {name} IS_TEMPLATE false", atomic=True)
    for database, _, _ in remains.databases:
        yield Statement(f"DROP DATABASE IF EXISTS {identifier(database)} WITH (FORCE)")


def _as_members(remains: _Remains, facts: PostgresFacts, *, heir: bool = False) -> Iterator[Statement]:
    """Makes an admin who is no superuser a member of the roles whose things it is to drop."""
    if facts.superuser:
        return
    option = " WITH INHERIT TRUE, SET TRUE" if facts.membership_options else ""
    roles = ", ".join(map(identifier, [*remains.roles, *([HEIR] if heir else [])]))
    yield Statement(f"GRANT {roles} TO {identifier(facts.admin)}{option}")


def _drops_of_owned(remains: _Remains, owner: Owner, scope: str) -> Iterator[Statement]:
    """Each role by itself, the owner last: what it gives others on what it will make is dropped with it, and a server
    that is to drop both at once does not find it again (``could not find tuple for default ACL``)."""
    for role in sorted(remains.roles, key=lambda name: (name == AppNames.of(owner.app).owner, name)):
        yield Statement(f"DROP OWNED BY {identifier(role)}", scope=scope, atomic=True)


def _leaving(
    remains: _Remains, schemas: Sequence[tuple[str, bool, Sequence[str]]], owner: Owner
) -> Iterator[Statement]:
    """What takes the app out of databases that others have a schema in, too: each in one transaction."""
    for database, last, names in schemas:
        scope = remains.scope(database)
        if last:  # before the last right there goes, by which it is known
            comment = literal(mark(Owner(owner.project, database), VACANT))
            yield Statement(f"COMMENT ON DATABASE {identifier(database)} IS {comment}", scope=scope, atomic=True)
        # What others have made of it is in the way, and is named by the server: nothing of theirs goes with it.
        yield from _drops_of_owned(remains, owner, scope)
        for name in names:
            yield Statement(f"DROP SCHEMA {identifier(name)}", scope=scope, atomic=True)
