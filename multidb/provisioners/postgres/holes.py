"""What opens a wall on a Postgres server, found in its catalogs, with the statement that closes it.

Most holes are drift towards open, so they are found by comparing resources, as a plan does, and closed by the plan's
own statements. What no resource describes (grants on tables, default privileges of others, pg_hba.conf, what a crash
left behind) is asked for here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from multidb.model import Action, Change, FieldChange, Hole, Inspection, Owner, Remark, Resource, Searched
from multidb.provisioners.postgres.places import place_mark, place_names
from multidb.provisioners.postgres.resources import (
    PUBLIC,
    Access,
    Interior,
    Membership,
    PostgresFacts,
    Role,
    ServerDatabase,
    derived_names,
)
from multidb.provisioners.postgres.statements import identifier, statements

__all__ = [
    "INSIDE",
    "holes_in_resources",
    "holes_inside",
    "holes_of_the_server",
    "inside_parameters",
    "remarks_of_the_server",
    "searched_inside",
    "searched_on_the_server",
    "server_parameters",
    "server_query",
]

_POWERS = ("superuser", "createdb", "createrole", "replication", "bypassrls")


# -------------------------------------------------------------------------------------------- drift that opens a wall


def holes_in_resources(inspection: Inspection, live: Iterable[Resource]) -> Iterator[Hole]:
    """The holes that show in the live resources of `inspection`."""
    desired = {resource.key: resource for resource in inspection.desired}
    for have in live:
        want = desired.get(have.key)
        match have, want:
            case Access(), Access():
                yield from _access(have, want, inspection)
            case Membership(), None:
                yield _membership(have, inspection)
            case Membership(), Membership() if have.admin and not want.admin:
                yield _membership(have, inspection)
            case Role(), Role():
                yield from _role(have, want, inspection)
            case Role(), None if have.login and have.owner is not None and _is_stranger(have, inspection):
                yield _stranger(have)
            case ServerDatabase(), ServerDatabase() if have.public & {"CONNECT", "CREATE"}:
                yield _server_database(have, want, inspection)


def _closes(change: Change, inspection: Inspection) -> tuple[str, ...]:
    made = list(statements(change, inspection.context))
    return tuple(line for each in made for line in _pasteable(each.text, each.scope))


def _pasteable(text: str, database: str = "") -> tuple[str, ...]:
    """The lines as psql takes them: a statement inside a database does nothing, or harm, in another."""
    enter = (rf"\connect {identifier(database)}",) if database else ()
    return (*enter, f"{text};")


def _updated(want: Resource, have: Resource, *fields: str) -> Change:
    differences = tuple(FieldChange(name, getattr(have, name), getattr(want, name)) for name in fields)
    return Change(Action.UPDATE, want, have, differences)


def _access(have: Access, want: Access, inspection: Inspection) -> Iterator[Hole]:
    for grantee in sorted({grantee for grantee, _ in have.privileges - want.privileges}):
        surplus = frozenset(pair for pair in have.privileges - want.privileges if pair[0] == grantee)
        opened = replace(want, privileges=want.privileges | surplus)
        rights = ", ".join(sorted(right for _, right in surplus))
        who = "everybody" if grantee == PUBLIC else grantee
        yield Hole(
            f"{rights} for {who}",
            f"database {have.name}",
            f"{who} holds {rights} on the database of {want.app}, which multidb does not give",
            _closes(_updated(want, opened, "privileges"), inspection),
            want.app,
        )


def _membership(have: Membership, inspection: Inspection) -> Hole:
    return Hole(
        "membership",
        f"role {have.role}",
        f"{have.member} belongs to {have.role}{' and may let others in' if have.admin else ''}, "
        "which multidb does not give",
        _closes(Change(Action.DELETE, None, have), inspection),
        have.app,
    )


def _role(have: Role, want: Role, inspection: Inspection) -> Iterator[Hole]:
    powers = [power for power in _POWERS if getattr(have, power) and not getattr(want, power)]
    if have.login and not want.login:
        powers.append("login")
    for power in powers:
        yield Hole(
            f"{power.upper()}",
            f"role {have.name}",
            f"{have.name} of {want.app} has {power.upper()}, which no role of an app needs",
            _closes(_updated(want, have, power), inspection),
            want.app,
        )


def _is_stranger(have: Role, inspection: Inspection) -> bool:
    """Whether it is a login of this project for an app that the manifest does not have (any more)."""
    return have.owner not in {Owner(inspection.context.project, app.id) for app in inspection.apps}


def _stranger(have: Role) -> Hole:
    return Hole(
        "login of an app that is not in the manifest",
        f"login {have.name}",
        f"{have.name} can still log in, and the manifest has no app {have.app}",
        _pasteable(f"ALTER ROLE {identifier(have.name)} NOLOGIN"),
    )


def _server_database(have: ServerDatabase, want: ServerDatabase, inspection: Inspection) -> Hole:
    return Hole(
        "connect for everybody",
        f"database {have.name}",
        f"every login of every app may connect to {have.name} and see what is there",
        _closes(_updated(want, have, "public"), inspection),
    )


# ------------------------------------------------------------------------------------------------- inside a database

# $1: the roles that may hold rights here (JSON array); others of the app's database are outsiders, and so is PUBLIC.
# What an extension brought with it, and the right to execute functions, which everybody has by default, do not count.
INSIDE = """
WITH insider AS MATERIALIZED (
  SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user OR rolname ~ '^pg_'
     OR rolname IN (SELECT json_array_elements_text($1::json))),
entry AS MATERIALIZED (
  SELECT 'pg_namespace' AS catalog, 'SCHEMA' AS kind, quote_ident(n.nspname) AS name,
         n.nspowner AS owner, n.nspacl AS acl
  FROM pg_namespace n
  WHERE (n.oid >= 16384 OR n.nspname = 'public') AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 2615 AND e.objid = n.oid AND e.deptype = 'e')
  UNION ALL
  SELECT 'pg_class', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, format('%I.%I', n.nspname, c.relname),
         c.relowner, c.relacl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 1259 AND e.objid = c.oid AND e.deptype = 'e')
  UNION ALL
  SELECT 'pg_default_acl', 'DEFAULT', format('FOR ROLE %I%s', pg_get_userbyid(a.defaclrole),
           CASE WHEN a.defaclnamespace <> 0 THEN format(' IN SCHEMA %I', n.nspname) ELSE '' END)
         || '/' || CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'n' THEN 'SCHEMAS'
                   ELSE 'TYPES' END, a.defaclrole, a.defaclacl
  FROM pg_default_acl a LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace
  WHERE a.defaclobjtype IN ('r', 'S', 'n'))
SELECT json_build_object(
  'searched', (SELECT json_object_agg(catalog, entries)
               FROM (SELECT catalog, count(*) AS entries FROM entry GROUP BY 1) counted),
  'outsiders', (SELECT json_agg(json_build_array(kind, name, grantee, rights) ORDER BY kind, name, grantee) FROM (
    SELECT kind, name, CASE grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(grantee) END AS grantee,
           string_agg(DISTINCT privilege_type, ', ' ORDER BY privilege_type) AS rights
    FROM entry, aclexplode(acl)
    WHERE grantee <> owner AND grantee NOT IN (SELECT oid FROM insider) GROUP BY 1, 2, 3) outsider))"""

_INSIDE: Final = {
    "pg_namespace": "rights of others on schemas",
    "pg_class": "rights of others on tables, views and sequences",
    "pg_default_acl": "rights of others on what is made from now on",
}


def inside_parameters(interior: Interior, inspection: Inspection) -> tuple[str]:
    """What `INSIDE` is asked with for a database of one of the apps."""
    app = next(app for app in inspection.apps if app.id == interior.app)
    return (json.dumps([name.name for name in derived_names(app) if name.space == "postgres role"]),)


def holes_inside(answer: str, interior: Interior) -> Iterator[Hole]:
    """The holes in the answer to `INSIDE`."""
    for kind, name, grantee, rights in json.loads(answer)["outsiders"] or ():
        to = "PUBLIC" if grantee == PUBLIC else identifier(grantee)
        who = "every login of the app, also the read-only one," if grantee == PUBLIC else grantee
        if kind == "DEFAULT":
            whose, _, objects = name.rpartition("/")
            text = f"ALTER DEFAULT PRIVILEGES {whose} REVOKE ALL ON {objects} FROM {to}"
            what, subject = f"{who} gets {rights} on {objects} made from now on", f"default privileges {whose}"
        else:
            text = f"REVOKE ALL ON {kind} {name} FROM {to}{' CASCADE' if grantee != PUBLIC else ''}"
            what, subject = f"{who} holds {rights} on it", f"{kind.lower()} {name}"
        yield Hole(
            "default privilege" if kind == "DEFAULT" else f"grant on {kind.lower()}",
            f"{subject} in database {interior.name}",
            what,
            _pasteable(text, interior.name),
            interior.app,
        )


def searched_inside(answers: Sequence[str], asked: int) -> Iterator[Searched]:
    """What was looked at inside the databases that gave `answers` to `INSIDE`, of `asked` that the apps have."""
    counts: Counter[str] = Counter()
    for answer in answers:
        counts.update(json.loads(answer)["searched"] or {})
    for catalog, looked_for in _INSIDE.items():
        yield Searched(f"{catalog} inside {len(answers)} of {asked} databases", counts[catalog], looked_for)


# ----------------------------------------------------------------------------------------------------- the whole server


def server_query(facts: PostgresFacts) -> str:
    """Asks for what no app's resources show. ``$1``: the names of the apps' logins, ``$2``: the beginning of the marks
    of this project's places, ``$3``: the app of each name that a place may have (JSON object): one that was left
    before it got its mark is shut and has no comment. Verifiers and pg_hba.conf are only told to a superuser."""
    weak, trusting, lines = "NULL::json", "NULL::json", "NULL::int"
    if facts.superuser:
        weak = """(SELECT json_agg(json_build_array(rolname, rolpassword IS NULL) ORDER BY rolname) FROM pg_authid
          WHERE rolcanlogin AND rolname IN (SELECT json_array_elements_text($1::json))
            AND coalesce(rolpassword, '') NOT LIKE 'SCRAM-SHA-256$%')"""
        trusting = """(SELECT json_agg(json_build_array(line_number, type, array_to_string(database, ','),
            array_to_string(user_name, ','), coalesce(address, 'everywhere'), auth_method) ORDER BY line_number)
          FROM pg_hba_file_rules WHERE type <> 'local' AND auth_method IN ('trust', 'password')
            AND NOT (type = 'hostssl' AND auth_method = 'password'))"""
        lines = "(SELECT count(*) FROM pg_hba_file_rules)"
    return f"""SELECT json_build_object('weak', {weak}, 'trusting', {trusting}, 'lines', {lines}, 'places', (
  SELECT json_agg(json_build_array(d.datname, coalesce(split_part(c.description, '/', 2), $3::json ->> d.datname))
                  ORDER BY d.datname)
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE (starts_with(c.description, $2)
         OR (c.description IS NULL AND NOT d.datallowconn AND $3::json ->> d.datname IS NOT NULL))
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)),
  'databases', (SELECT count(*) FROM pg_database),
  'unmarked', (
  SELECT json_agg(json_build_array(d.datname, $3::json ->> d.datname, d.datallowconn AND EXISTS (
           SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
           WHERE x.grantee = 0 AND x.privilege_type = 'CONNECT')) ORDER BY d.datname)
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE NOT d.datistemplate AND coalesce(c.description, '') !~ '^multidb(-place)?:'
    AND (d.datallowconn OR c.description IS NOT NULL)),
  'asked', $1::json)"""  # noqa: S608


def server_parameters(logins: Iterable[str], inspection: Inspection) -> tuple[str, str, str]:
    """What `server_query` is asked with about the apps' `logins`."""
    places = {name: app.id for app in inspection.apps for name in place_names(app.id)}
    ours = place_mark(Owner(inspection.context.project, ""))
    return json.dumps(sorted(logins)), ours, json.dumps(places)


def holes_of_the_server(answer: str, logins: Mapping[str, str | None]) -> Iterator[Hole]:
    """The holes in the answer to `server_query`.

    Args:
        logins: the app of each login that was asked about.
    """
    document: dict[str, Sequence[Sequence[Any]] | None] = json.loads(answer)
    for login, unset in document["weak"] or ():
        yield Hole(
            "login without SCRAM",
            f"login {login}",
            f"{login} has {'no password' if unset else 'a password that is not kept as SCRAM-SHA-256'}; "
            f"multidb apply --app {logins[login]} gives it one; this shuts it out until then",
            _pasteable(f"ALTER ROLE {identifier(login)} NOLOGIN"),
            logins[login],
        )
    for line, kind, databases, users, address, method in document["trusting"] or ():
        rule = f"{kind} {databases} {users} {address} {method}"
        yield Hole(
            "login without a password" if method == "trust" else "password in the clear",
            f"pg_hba.conf line {line}",
            f"whoever comes from {address} may be any of: {users}" if method == "trust" else f"{rule} sends it so",
            (f"SELECT pg_reload_conf();  -- after writing scram-sha-256 instead of {method} in line {line}: {rule}",),
        )
    for name, app, everybodys in document["unmarked"] or ():
        if app is not None and everybodys:
            yield Hole(
                "open database in a copy's name",
                f"database {name}",
                f"multidb calls a copy of the data of {app} so; this one has no mark of it, so that no command touches "
                "it, and every login of every app may connect to it",
                _pasteable(f"REVOKE CONNECT ON DATABASE {identifier(name)} FROM PUBLIC"),
                app,
            )
    for name, app in document["places"] or ():
        yield Hole(
            "left by a run that was interrupted",
            f"database {name}",
            f"it holds data of {app} beside its own database, and nobody is using it",
            _pasteable(f"DROP DATABASE {identifier(name)} WITH (FORCE)"),
            app,
        )


def remarks_of_the_server(answer: str, inspection: Inspection) -> Iterator[Remark]:
    """The databases in the answer to `server_query` that nobody has marked: in the name of a copy of an app's, or open
    to every app's logins. Those that a plan speaks of are left out."""
    planned = {resource.name for resource in inspection.desired}
    for name, app, everybodys in json.loads(answer)["unmarked"] or ():
        if app is not None and not everybodys:
            message = f"it has the name of a copy of the data of {app}, and no mark, so that no command touches it"
            yield Remark(f"database {name}", message, app)
        elif app is None and everybodys and name not in planned:
            yield Remark(f"database {name}", "it is no app's, and every login of every app may connect to it")


def searched_on_the_server(answer: str, live: Iterable[Resource], facts: PostgresFacts) -> Iterator[Searched]:
    """What `holes_in_resources` and `holes_of_the_server` have looked at."""
    document = json.loads(answer)
    counts = Counter(type(resource) for resource in live)
    roles = "pg_authid" if facts.superuser else "pg_roles"
    yield Searched(roles, counts[Role], "powers that no app needs; logins of apps that are not in the manifest")
    yield Searched("pg_auth_members", counts[Membership], "members of an app's roles; roles that an app belongs to")
    looked_for = "CONNECT and CREATE for others; copies that were left; unmarked databases in their names"
    yield Searched("pg_database", document["databases"], looked_for)
    if facts.superuser:
        yield Searched("pg_authid.rolpassword", len(document["asked"]), "logins without SCRAM-SHA-256")
        yield Searched("pg_hba_file_rules", document["lines"], "logins without a password, passwords in the clear")
    else:
        for catalog in ("pg_authid.rolpassword", "pg_hba_file_rules"):
            yield Searched(catalog, 0, "nothing: only a superuser may read it")
