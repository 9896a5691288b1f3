"""What opens a wall for a whole Postgres server: who has which power there, and how logins come in.

Read from the catalogs that a server has once, as `inventory.SHARED` names them; with the statement that closes each
hole.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from multidb.model import Hole, Inspection, Owner, Remark, Resource, Searched, Unread
from multidb.provisioners.postgres.backup.places import place_mark, place_names
from multidb.provisioners.postgres.isolation.inventory import HARMLESS_SETTINGS, SHARED
from multidb.provisioners.postgres.provision.resources import (
    PUBLIC,
    Database,
    Membership,
    PostgresFacts,
    Role,
    derived_names,
)
from multidb.provisioners.postgres.provision.roles import POWERS
from multidb.provisioners.postgres.provision.script import lines
from multidb.provisioners.postgres.provision.statements import identifier, literal

__all__ = [
    "databases_beside",
    "holes_of_the_server",
    "remarks_of_the_server",
    "searched_on_the_server",
    "server_parameters",
    "server_query",
    "unread_on_the_server",
]

_SAFE_METHODS: Final = ("scram-sha-256", "md5", "reject")  # md5 only takes old verifiers too, which are looked at
_OF_PROVIDERS: Final = {"rds": "^rds", "cloudsql": "^cloudsql", "azure": "^azure"}


def server_query(facts: PostgresFacts) -> str:
    """Asks for what no app's resources show; parameters as in `server_parameters`. Verifiers and pg_hba.conf are only
    told to a superuser."""
    weak, lines_, count, parameters = "NULL::json", "NULL::json", "NULL::int", "NULL::json"
    if facts.superuser:
        weak = """(SELECT json_agg(json_build_array(rolname, rolpassword IS NULL) ORDER BY rolname) FROM pg_authid
          WHERE rolcanlogin AND rolname IN (SELECT json_array_elements_text($1::json))
            AND coalesce(rolpassword, '') NOT LIKE 'SCRAM-SHA-256$%')"""
        lines_ = """(SELECT json_agg(json_build_array(line_number, type, database, user_name,
            coalesce(address, CASE type WHEN 'local' THEN 'this machine' ELSE 'everywhere' END), auth_method, options)
            ORDER BY line_number) FROM pg_hba_file_rules WHERE error IS NULL)"""
        count = "(SELECT count(*) FROM pg_hba_file_rules)"
    if facts.number >= 150000:
        grantee = _name("x.grantee")
        parameters = f"""(SELECT json_agg(json_build_array(p.parname, x.privilege_type, {grantee}))
          FROM pg_parameter_acl p, aclexplode(p.paracl) x WHERE x.grantee NOT IN (SELECT oid FROM mighty))"""  # noqa: S608
    powers = [power.column for power in POWERS]
    provider = _OF_PROVIDERS.get(facts.service)
    theirs = f" OR rolname ~ '{provider}'" if provider else ""
    not_theirs = f" AND rolname !~ '{provider}'" if provider else ""
    return f"""
WITH mighty AS MATERIALIZED (
  SELECT oid, rolname FROM pg_roles WHERE rolsuper OR rolname = current_user OR rolname ~ '^pg_'{theirs}),
powerful AS MATERIALIZED (
  SELECT oid FROM mighty UNION SELECT oid FROM pg_roles WHERE {" OR ".join(powers)}
    OR rolname IN (SELECT json_array_elements_text($5::json))),
derived AS MATERIALIZED (SELECT oid FROM pg_roles WHERE rolname IN (SELECT json_array_elements_text($4::json))),
own AS MATERIALIZED (SELECT oid FROM pg_database WHERE datname IN (SELECT json_array_elements_text($6::json)))
SELECT json_build_object('weak', {weak}, 'hba', {lines_}, 'lines', {count}, 'parameters', {parameters},
  'strangers', (SELECT json_agg(json_build_array(rolname, {", ".join(powers)}) ORDER BY rolname) FROM pg_roles
    WHERE ({" OR ".join(powers)})
      AND oid <> 10 AND rolname <> current_user AND rolname !~ '^pg_'{not_theirs}),
  'members', (SELECT json_agg(json_build_array({_name("roleid")}, {_name("member")}, {_name("grantor")})
      ORDER BY roleid, member) FROM pg_auth_members
    WHERE roleid IN (SELECT oid FROM powerful) AND member NOT IN (SELECT oid FROM mighty)
      AND roleid NOT IN (SELECT oid FROM derived) AND member NOT IN (SELECT oid FROM derived)),
  'server databases', (SELECT json_agg(json_build_array(d.datname, {_name("d.datdba")},
      d.datdba <> 10 AND d.datdba NOT IN (SELECT oid FROM mighty), d.datallowconn,
      (SELECT json_agg(json_build_array({_name("x.grantee")}, x.privilege_type) ORDER BY 1)
       FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
       WHERE x.grantee <> d.datdba AND x.grantee NOT IN (SELECT oid FROM mighty)
         AND (x.grantee <> 0 OR d.datname = 'template0' AND x.privilege_type <> 'CONNECT'))))
    FROM pg_database d WHERE d.datname IN ('postgres', 'template0', 'template1', current_database())),
  'tablespaces', (SELECT json_agg(json_build_array(t.spcname, {_name("t.spcowner")},
      t.spcowner NOT IN (SELECT oid FROM mighty),
      (SELECT json_agg({_name("x.grantee")} ORDER BY 1) FROM aclexplode(t.spcacl) x
       WHERE x.grantee <> t.spcowner AND x.grantee NOT IN (SELECT oid FROM mighty UNION SELECT oid FROM derived))))
    FROM pg_tablespace t),
  'settings', (SELECT json_agg(json_build_array(CASE WHEN s.setrole <> 0 THEN {_name("s.setrole")} END, d.datname,
      split_part(c.line, '=', 1))) FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c (line)
    LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_settings g ON g.name = split_part(c.line, '=', 1)
    WHERE g.context IN ('superuser', 'superuser-backend') AND substr(c.line, strpos(c.line, '=') + 1) <> g.boot_val
      AND (s.setrole = 0 OR s.setrole NOT IN (SELECT oid FROM mighty))
      AND (s.setdatabase = 0 OR s.setdatabase IN (SELECT oid FROM own))),
  'configured', (SELECT json_agg(json_build_array(name, boot_val)) FROM pg_settings
    WHERE context IN ('superuser', 'superuser-backend') AND reset_val IS DISTINCT FROM boot_val
      AND source IN ('configuration file', 'command line', 'environment variable')),
  'subscriptions', (SELECT json_agg(json_build_array(s.subname, d.datname, {_name("s.subowner")}))
    FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
    WHERE s.subenabled AND s.subdbid IN (SELECT oid FROM own) AND s.subowner NOT IN (SELECT oid FROM derived)),
  'slots', (SELECT json_agg(json_build_array(slot_name, database, active)) FROM pg_replication_slots
    WHERE datoid IN (SELECT oid FROM own)),
  'full', (SELECT json_agg(json_build_array(f.rolname, f.rolconnlimit, f.who)) FROM (
    SELECT r.rolname, r.rolconnlimit, json_agg(json_build_array(coalesce(nullif(a.application_name, ''), 'no name'),
        coalesce(host(a.client_addr), 'this machine'), coalesce(a.state, 'unknown')) ORDER BY a.backend_start) AS who
    FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
    WHERE r.rolname IN (SELECT json_array_elements_text($1::json)) AND r.rolconnlimit >= 0
    GROUP BY 1, 2 HAVING count(*) >= r.rolconnlimit) f),
  'enterable', (SELECT json_agg(datname ORDER BY datname) FROM pg_database
    WHERE datallowconn AND has_database_privilege(oid, 'CONNECT') AND oid NOT IN (SELECT oid FROM own)),
  'counts', json_build_object({_counted(facts)}),
  'places', (
  SELECT json_agg(json_build_array(d.datname, coalesce(split_part(c.description, '/', 2), $3::json ->> d.datname))
                  ORDER BY d.datname)
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE (starts_with(c.description, $2)
         OR (c.description IS NULL AND NOT d.datallowconn AND $3::json ->> d.datname IS NOT NULL))
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)),
  'unmarked', (
  SELECT json_agg(json_build_array(d.datname, $3::json ->> d.datname, d.datallowconn AND EXISTS (
           SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
           WHERE x.grantee = 0 AND x.privilege_type = 'CONNECT')) ORDER BY d.datname)
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE NOT d.datistemplate AND coalesce(c.description, '') !~ '^multidb(-place)?:'
    AND (d.datallowconn OR c.description IS NOT NULL)),
  'asked', $1::json)"""  # noqa: S608


def _name(oid: str) -> str:
    return f"CASE {oid} WHEN 0 THEN 'public' ELSE pg_get_userbyid({oid}) END"


def _counted(facts: PostgresFacts) -> str:
    catalogs = [name for name in SHARED if name not in ("pg_authid", "pg_auth_members")]
    there = [name for name in catalogs if name != "pg_parameter_acl" or facts.number >= 150000]
    return ", ".join(f"'{name}', (SELECT count(*) FROM {name})" for name in there)  # noqa: S608


def server_parameters(logins: Iterable[str], inspection: Inspection) -> tuple[str, ...]:
    """What `server_query` is asked with: the apps' `logins`, the beginning of the marks of this project's places, the
    app of each name that a place may have (one that was left before it got its mark is shut and has no comment), every
    role name of the apps, used or not, the known accounts, and the apps' databases."""
    places = {name: app.id for app in inspection.apps for name in place_names(app.id)}
    ours = place_mark(Owner(inspection.context.project, ""))
    names = [name for app in inspection.apps for name in derived_names(app)]
    roles = [name.name for name in names if name.space == "postgres role"]
    databases = [resource.name for resource in inspection.desired if isinstance(resource, Database)]
    known = sorted(inspection.context.known)
    return (json.dumps(sorted(logins)), ours, json.dumps(places), *map(json.dumps, (roles, known, databases)))


def databases_beside(answer: str) -> Sequence[str]:
    """The databases in the answer to `server_query` that are no app's of the manifest, and that the admin may enter."""
    databases: Sequence[str] = json.loads(answer)["enterable"] or ()
    return databases


def holes_of_the_server(answer: str, inspection: Inspection) -> Iterator[Hole]:
    """The holes in the answer to `server_query`."""
    document: dict[str, Sequence[Sequence[Any]] | None] = json.loads(answer)
    app_of = {resource.name: resource.app for resource in inspection.desired if isinstance(resource, Role)}
    logins = {resource.name for resource in inspection.desired if isinstance(resource, Role) and resource.login}
    yield from _weak(document["weak"] or (), app_of)
    for line in document["hba"] or ():
        yield from _line(line, logins, PostgresFacts.of(inspection.context.facts).admin)
    yield from _strangers(document, app_of, inspection)
    yield from _databases(document["server databases"] or ())
    yield from _tablespaces(document["tablespaces"] or ())
    yield from _parameters(document["parameters"] or ())
    yield from _settings(document, app_of)
    for name, database, owner in document["subscriptions"] or ():
        message = f"it writes what another server sends into the tables of {database}, as {owner} where triggers run"
        closes = lines(f"ALTER SUBSCRIPTION {identifier(name)} DISABLE", database=database)
        yield Hole("subscription", f"subscription {name} in database {database}", message, closes, database)
    yield from _left(document)


def _weak(rows: Sequence[Sequence[Any]], app_of: dict[str, str | None]) -> Iterator[Hole]:
    for login, unset in rows:
        yield Hole(
            "login without SCRAM",
            f"login {login}",
            f"{login} has {'no password' if unset else 'a password that is not kept as SCRAM-SHA-256'}; "
            f"multidb apply --app {app_of[login]} gives it one; this shuts it out until then",
            lines(f"ALTER ROLE {identifier(login)} NOLOGIN"),
            app_of[login],
        )


def _line(row: Sequence[Any], logins: set[str], admin: str) -> Iterator[Hole]:
    """The hole that a line of pg_hba.conf is. Rather yes than no: another line before it may keep its users out."""
    number, kind, databases, users, address, method, options = row
    rule = f"{kind} {','.join(databases)} {','.join(users)} {address} {method}"
    mapped = any(option.startswith("map=") for option in options or ())
    whoever = any(user == "all" or user[:1] in ("+", "/") or user in {*logins, admin} for user in users)
    if method == "trust":
        name, message = "login without a password", f"whoever comes from {address} may be any of: {', '.join(users)}"
    elif method == "password" and kind not in ("hostssl", "local"):
        name, message = "password in the clear", f"{rule} sends it so"
    elif method in _SAFE_METHODS or (method == "password" and kind == "hostssl"):
        return
    elif (method == "peer" and not mapped) or not whoever or databases == ["replication"]:
        return  # peer: who runs programs as a user of that very name on the server's machine
    else:
        name, message = "another way in", f"{rule} asks for something else than the password that multidb gave"
    closes = lines("SELECT pg_reload_conf()")
    closes = (f"{closes[0]}  -- after writing scram-sha-256 instead of {method} in line {number}: {rule}",)
    yield Hole(name, f"pg_hba.conf line {number}", message, closes)


def _strangers(
    document: dict[str, Sequence[Sequence[Any]] | None], app_of: dict[str, str | None], inspection: Inspection
) -> Iterator[Hole]:
    """Roles with powers that are neither an app's (`holes_in_resources` has those), the server's own nor the admin,
    and who belongs to a role with powers."""
    for name, *powers in document["strangers"] or ():
        held = [power for power, has in zip(POWERS, powers, strict=True) if has]
        if name not in app_of:
            powers_held = ", ".join(power.keyword for power in held)
            message = f"{name} has {powers_held}, and by that it may get at what apps have, or in their way"
            text = f"ALTER ROLE {identifier(name)} {' '.join(power.word(False) for power in held)}"
            yield Hole("role with powers", f"role {name}", message, lines(text), None, name)
    for role, member, grantor in document["members"] or ():
        message = f"{member} belongs to {role}, and may do all that {role} may"
        by = PostgresFacts.of(inspection.context.facts).membership_options
        text = f"REVOKE {identifier(role)} FROM {identifier(member)}"
        text += f" GRANTED BY {identifier(grantor)} CASCADE" if by else " CASCADE"
        yield Hole("member of a role with powers", f"role {role}", message, lines(text), None, member)


def _databases(rows: Sequence[Sequence[Any]]) -> Iterator[Hole]:
    """The server's own databases: their owners, who holds rights there by name, and whether template0 is shut. Rights
    of everybody on those that can be closed are drift."""
    for name, owner, strange, open_, rights in rows:
        database = identifier(name)
        if strange:
            message = f"{owner} owns it, and may let others in, and drop or rename what the server needs"
            text = f"ALTER DATABASE {database} OWNER TO CURRENT_USER"
            yield Hole("owned by another", f"database {name}", message, lines(text), None, owner)
        if name == "template0" and open_:
            message = "it can be entered and changed, and every new database is a copy of it"
            yield Hole(
                "open template",
                f"database {name}",
                message,
                lines(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false"),
            )
        held: dict[str, list[str]] = {}
        for grantee, right in rights or ():
            held.setdefault(grantee, []).append(right)
        for grantee, names in held.items():
            held_there = ", ".join(names)
            message = f"holds {held_there} on a database of the server's own"
            yield _granted(held_there, grantee, f"DATABASE {database}", f"database {name}", message)


def _granted(rights: str, grantee: str, thing: str, subject: str, does: str) -> Hole:
    """A right that somebody holds on something of the server's own; `thing` is what REVOKE calls it."""
    who, to = ("everybody", "PUBLIC") if grantee == PUBLIC else (grantee, f"{identifier(grantee)} CASCADE")
    closes = lines(f"REVOKE {rights} ON {thing} FROM {to}")
    account = None if grantee == PUBLIC else grantee
    return Hole(f"{rights} for {who}", subject, f"{who} {does}", closes, None, account)


def _tablespaces(rows: Sequence[Sequence[Any]]) -> Iterator[Hole]:
    for name, owner, strange, grantees in rows:
        space = identifier(name)
        if strange:
            text = f"ALTER TABLESPACE {space} OWNER TO CURRENT_USER"
            yield Hole("owned by another", f"tablespace {name}", f"{owner} owns it", lines(text), None, owner)
        for grantee in grantees or ():
            message = "may fill the disk that it is on"
            yield _granted("CREATE", grantee, f"TABLESPACE {space}", f"tablespace {name}", message)


def _parameters(rows: Sequence[Sequence[Any]]) -> Iterator[Hole]:
    for name, right, grantee in rows:
        message = f"holds {right} on a setting that is the server's"
        yield _granted(right, grantee, f"PARAMETER {name}", f"parameter {name}", message)


def _settings(document: dict[str, Sequence[Sequence[Any]] | None], app_of: dict[str, str | None]) -> Iterator[Hole]:
    harmless = re.compile("|".join(f"(?:{pattern})" for pattern in HARMLESS_SETTINGS))
    for role, database, name in document["settings"] or ():
        if harmless.fullmatch(name):
            continue
        whose = "ROLE ALL" if role is None else f"ROLE {identifier(role)}"
        where = f" IN DATABASE {identifier(database)}" if database is not None else ""
        text = f"ALTER DATABASE {identifier(database)} RESET {name}" if role is None and database else ""
        subject = " in ".join(
            [*([f"role {role}"] if role else []), *([f"database {database}"] if database else [])] or ["every role"]
        )
        message = f"sessions there begin with another {name} than the server's, which only a superuser may set"
        app = database if database is not None else app_of.get(role)
        yield Hole(f"setting {name}", subject, message, lines(text or f"ALTER {whose}{where} RESET {name}"), app, role)
    for name, value in document["configured"] or ():
        if not harmless.fullmatch(name):
            message = f"every session begins with another {name} than the server is made with ({value})"
            closes = lines(f"ALTER SYSTEM SET {name} = {literal(value)}", "SELECT pg_reload_conf()")
            yield Hole(f"setting {name}", "server", message, closes)


def _left(document: dict[str, Sequence[Sequence[Any]] | None]) -> Iterator[Hole]:
    for name, app, everybodys in document["unmarked"] or ():
        if app is not None and everybodys:
            yield Hole(
                "open database in a copy's name",
                f"database {name}",
                f"multidb calls a copy of the data of {app} so; this one has no mark of it, so that no command touches "
                "it, and every login of every app may connect to it",
                lines(f"REVOKE CONNECT ON DATABASE {identifier(name)} FROM PUBLIC"),
                app,
            )
    for name, app in document["places"] or ():
        yield Hole(
            "left by a run that was interrupted",
            f"database {name}",
            f"it holds data of {app} beside its own database, and nobody is using it",
            lines(f"DROP DATABASE {identifier(name)} WITH (FORCE)"),
            app,
        )


def remarks_of_the_server(answer: str, inspection: Inspection) -> Iterator[Remark]:
    """The databases in the answer to `server_query` that nobody has marked: in the name of a copy of an app's, or open
    to every app's logins. Those that a plan speaks of are left out. Then what reads all that an app writes, and logins
    that have no connection left to be tried with."""
    document: dict[str, Sequence[Sequence[Any]] | None] = json.loads(answer)
    planned = {resource.name for resource in inspection.desired}
    for name, app, everybodys in document["unmarked"] or ():
        if app is not None and not everybodys:
            message = f"it has the name of a copy of the data of {app}, and no mark, so that no command touches it"
            yield Remark(f"database {name}", message, app)
        elif app is None and everybodys and name not in planned:
            yield Remark(f"database {name}", "it is no app's, and every login of every app may connect to it")
    for name, database, active in document["slots"] or ():
        now = "is being read" if active else "waits to be read, and the server keeps its log for it"
        message = f"it tells every change in database {database} to a login with REPLICATION, and {now}"
        yield Remark(f"replication slot {name}", message, database)
    app_of = {resource.name: resource.app for resource in inspection.desired if isinstance(resource, Role)}
    for login, limit, holders in document["full"] or ():
        kinds = Counter((program, address, state) for program, address, state in holders)
        held = "; ".join(f"{count} by {kind[0]} from {kind[1]}, {kind[2]}" for kind, count in kinds.most_common(5))
        yield Remark(f"login {login}", f"all of its {limit} connections are held: {held}", app_of.get(login))


def searched_on_the_server(answer: str, live: Iterable[Resource], facts: PostgresFacts) -> Iterator[Searched]:
    """What `holes_in_resources` and `holes_of_the_server` have looked at."""
    document = json.loads(answer)
    counts = Counter(type(resource) for resource in live)
    objects = {"pg_authid": counts[Role], "pg_auth_members": counts[Membership], **document["counts"]}
    for catalog, looked_for in SHARED.items():
        if catalog in objects:
            name = "pg_roles" if catalog == "pg_authid" and not facts.superuser else catalog
            yield Searched(name, objects[catalog], looked_for)
    if facts.superuser:
        yield Searched("pg_authid.rolpassword", len(document["asked"]), "logins without SCRAM-SHA-256")
        yield Searched("pg_hba_file_rules", document["lines"], "ways in without a password, or with another's")


def unread_on_the_server(facts: PostgresFacts) -> Iterator[Unread]:
    """What the admin may not read, so that nothing is proved of it."""
    if not facts.superuser:
        why = f"only a superuser may read it, and {facts.admin} is none"
        yield Unread("pg_authid.rolpassword", f"whether every login's password is kept as SCRAM-SHA-256: {why}")
        yield Unread("pg_hba_file_rules", f"whether another way in is open: {why}")
        if facts.number < 160000:
            yield Unread("pg_subscription", f"what other servers write into the apps' databases: {why}")
