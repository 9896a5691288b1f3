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

from multidb.model import Hole, Inspection, Remark, Resource, Searched, Unread
from multidb.provisioners.postgres.isolation.inventory import HARMLESS_SETTINGS, SHARED
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import (
    PUBLIC,
    Database,
    Membership,
    PostgresFacts,
    Role,
)
from multidb.provisioners.postgres.provision.roles import POWERS
from multidb.provisioners.postgres.provision.script import lines

__all__ = [
    "databases_beside",
    "holes_of_the_server",
    "remarks_of_the_server",
    "searched_on_the_server",
    "unread_on_the_server",
]

_SAFE_METHODS: Final = ("scram-sha-256", "md5", "reject")  # md5 only takes old verifiers too, which are looked at


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
    databases = {resource.name: resource.app for resource in inspection.desired if isinstance(resource, Database)}
    yield from _settings(document, app_of, databases)
    for name, database, owner in document["subscriptions"] or ():
        message = f"it writes what another server sends into the tables of {database}, as {owner} where triggers run"
        closes = lines(f"ALTER SUBSCRIPTION {identifier(name)} DISABLE", database=database)
        yield Hole(
            "subscription", f"subscription {name} in database {database}", message, closes, databases.get(database)
        )
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


def _settings(
    document: dict[str, Sequence[Sequence[Any]] | None],
    app_of: dict[str, str | None],
    databases: dict[str, str | None],
) -> Iterator[Hole]:
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
        app = databases.get(database) if database is not None else app_of.get(role)
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
    databases = {resource.name: resource.app for resource in inspection.desired if isinstance(resource, Database)}
    for name, database, active in document["slots"] or ():
        now = "is being read" if active else "waits to be read, and the server keeps its log for it"
        message = f"it tells every change in database {database} to a login with REPLICATION, and {now}"
        yield Remark(f"replication slot {name}", message, databases.get(database))
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
