"""Holes in the walls between apps on Neo4j: users, roles and rights that open one, found with the admin's login."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from multidb.model import Hole, Inspection, Owner, PlaceKind, Remark, Search, Searched
from multidb.provisioners.neo4j.backup.places import dropping, place_name, places
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.provision.catalog import Row
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.resources import (
    PUBLIC,
    Mode,
    Neo4jFacts,
    canonical,
    database_name,
    mode,
    read_mark,
    ro_role,
    rw_role,
    user_names,
)
from multidb.provisioners.neo4j.provision.settings import NO_AUTHENTICATION, SEARCHED, holes_in_settings, open_loads
from multidb.provisioners.neo4j.provision.statements import revoked
from multidb.secrets import Secret

__all__ = ["administrators", "gone_users", "holes_in_rights", "left_over", "search"]

_ADMIN_ROLE: Final = "admin"
_FIRST_USER: Final = "neo4j"
_FIRST_PASSWORD: Final = Secret("neo4j")  # what every new server has
# What PUBLIC has on every new server and may keep. LOAD, which it has too, `multidb apply` takes away, unless the
# manifest leaves it.
_EVERYBODYS: Final = ("GRANT ACCESS ON HOME", "GRANT EXECUTE")
_LOAD: Final = "GRANT LOAD "


def search(bolt: Bolt, inspection: Inspection) -> Search:
    """What opens a wall around one of the apps; a few questions and at most one login, however many apps there are."""
    if mode(inspection.context) is Mode.DATABASE:
        return _with_roles(bolt, inspection)
    users = [row["user"] for row in bolt.ask("SHOW USERS YIELD user")]
    database = Neo4jFacts.of(inspection.context.facts).default_database
    indexes = bolt.ask("SHOW INDEXES YIELD name", database)
    marks = _owners(row["name"] for row in indexes)
    gone = [user for user in gone_users(marks, inspection) if user in users]
    ids = {*(app.id for app in inspection.apps), *(owner.app for owner in marks)}
    known = {user for app in ids for user in user_names(app)}
    strangers = sorted(set(users) - known - {bolt.user})
    searched = (
        SEARCHED,
        Searched("SHOW USERS", len(users), "users that belong to no app: each of them can do everything"),
        Searched("SHOW INDEXES", len(indexes), "marks of apps that are not in the manifest"),
    )
    holes = (*_open_doors(bolt), *open_loads(bolt, database), *map(_gone, gone), *map(_stranger, strangers))
    return Search(holes, searched)


def _with_roles(bolt: Bolt, inspection: Inspection) -> Search:
    members = bolt.ask("SHOW ROLES WITH USERS YIELD role, member")
    commands = [row["command"] for row in bolt.ask("SHOW ALL PRIVILEGES AS COMMANDS YIELD command")]
    roles = {row["role"] for row in members}
    users = bolt.ask("SHOW USERS YIELD user, suspended")
    databases = {row["name"] for row in bolt.ask("SHOW DATABASES YIELD name")}
    enabled = {row["user"] for row in users if not row["suspended"]}
    gone = [user for user in gone_users(_owners(roles), inspection) if user in enabled]
    searched = (
        SEARCHED,
        Searched("SHOW PRIVILEGES", len(commands), "rights on every database, on an app's, and on the server"),
        Searched("SHOW ROLES WITH USERS", len(members), "memberships across apps; marks of copies that were left"),
        Searched("SHOW USERS", len(users), "logins of apps that are not in the manifest"),
        Searched("SHOW DATABASES", len(databases), "unmarked databases in the names of copies"),
    )
    holes = (
        *_open_doors(bolt),
        *administrators(members, bolt.user),
        *holes_in_rights(commands, members, inspection),
        *left_over(roles, inspection),
        *(_gone(user, suspend=True) for user in gone),
    )
    return Search(holes, searched, tuple(_unmarked(databases, roles, inspection)))


def _owners(names: Iterable[str]) -> list[Owner]:
    return [mark[0] for name in names if (mark := read_mark(name))]


def gone_users(marks: Iterable[Owner], inspection: Inspection) -> list[str]:
    """The users of apps that this project has marked and the manifest does not have (any more)."""
    there = {app.id for app in inspection.apps}
    gone = {owner.app for owner in marks if owner.project == inspection.context.project} - there
    return sorted(user for app in gone for user in user_names(app))


def _gone(user: str, *, suspend: bool = False) -> Hole:
    off = f"ALTER USER {quoted(user)} SET STATUS SUSPENDED" if suspend else f"DROP USER {quoted(user)} IF EXISTS"
    message = "its app is not in the manifest, and the login still works; data stays"
    # Nobody's: the audit leaves out what belongs to an app that it is not asked about.
    return Hole("login of an app that is gone", f"user {user}", message, (off,))


def _unmarked(databases: Collection[str], roles: Collection[str], inspection: Inspection) -> Iterator[Remark]:
    for app in inspection.apps:
        ours = {place.name for place in places(roles, app, inspection.context.project)}
        names = {place_name(kind, app.id) for kind in (PlaceKind.SCRATCH, PlaceKind.NEW)}
        for name in sorted(names.intersection(databases) - ours):
            message = f"it has the name of a copy of the data of {app.id}, and no mark, so that no command touches it"
            yield Remark(f"database {name}", message, app.id)


def _stranger(user: str) -> Hole:
    return Hole(
        "another administrator",
        f"user {user}",
        "it belongs to no app, and on a Neo4j without roles whoever logs in with it can do everything",
        (f"DROP USER {quoted(user)}",),
        account=user,
    )


def administrators(members: Sequence[Row], admin: str) -> Iterator[Hole]:
    """Members of the role that may do everything, but for multidb's own login."""
    for user in sorted({row["member"] for row in members if row["role"] == _ADMIN_ROLE} - {admin, None}):
        message = "it can do everything on the server, in every app's database"
        closes = f"REVOKE ROLE {_ADMIN_ROLE} FROM {quoted(user)}"
        yield Hole("another administrator", f"user {user}", message, (closes,), account=user)


def _open_doors(bolt: Bolt) -> Iterator[Hole]:
    """Ways in that the server's settings make, and the one credential that everybody knows."""
    holes = [*holes_in_settings(bolt)]
    yield from holes
    if any(hole.name == NO_AUTHENTICATION for hole in holes):
        return  # every password is taken
    if bolt.user != _FIRST_USER and bolt.takes_first_password(_FIRST_USER, _FIRST_PASSWORD):
        yield Hole(
            "the password of every new server",
            f"user {_FIRST_USER}",
            "anybody can log in with it and then do everything",
            (f"ALTER USER {quoted(_FIRST_USER)} SET PASSWORD $password CHANGE NOT REQUIRED",),
        )


def left_over(roles: Collection[str], inspection: Inspection) -> Iterator[Hole]:
    """Places of backups that carry our mark; a database of such a name without it is not ours to speak of."""
    for app in inspection.apps:
        for place in places(roles, app, inspection.context.project):
            yield Hole(
                "left by an interrupted run",
                f"database {place.name}",
                f"it may hold a copy of the data of {app.id}; no app can reach it",
                tuple(statement.text for statement in dropping(roles, place)),
                app.id,
            )


def holes_in_rights(commands: Sequence[str], members: Sequence[Row], inspection: Inspection) -> Sequence[Hole]:
    """What the rights and memberships of a server with roles open.

    Args:
        commands: the rows of ``SHOW ALL PRIVILEGES AS COMMANDS``.
        members: ``SHOW ROLES WITH USERS YIELD role, member``.
    """
    held: dict[str, set[str]] = {PUBLIC: {"everybody"}}
    for row in members:
        if row["member"] is not None and row["role"] != PUBLIC:
            held.setdefault(row["role"], set()).add(row["member"])
    lines = dict.fromkeys(line for command in commands for line in canonical(command))
    return [*_by_right(lines, held, inspection), *_by_membership(held, inspection)]


def _by_right(lines: Iterable[str], held: Mapping[str, set[str]], inspection: Inspection) -> Iterator[Hole]:
    roles = {role: app.id for app in inspection.apps for role in (rw_role(app.id), ro_role(app.id))}
    databases = {database_name(app.id): app.id for app in inspection.apps}
    options = ServerOptions.of(inspection.context.options)
    kept = {PUBLIC: _EVERYBODYS if options.close_defaults else (*_EVERYBODYS, _LOAD)}
    for line in lines:
        head, _, role = line.rpartition(" TO ")
        role = role.strip("`")
        if not line.startswith("GRANT ") or " IMMUTABLE " in head or role == _ADMIN_ROLE or role not in {*held, *roles}:
            continue
        who = f"role {role} ({', '.join(sorted(held.get(role, ()))) or 'nobody'})"
        account = None if role in roles or role == PUBLIC else role
        spot = re.search(r" ON (?:DATABASE|GRAPH)S? (\*|`[^`]+`)", head)
        place = spot[1].strip("`") if spot else ""
        if place == "*":
            message = f"it reaches every app: {head}"
            yield Hole("a right on every database", who, message, (revoked(line),), roles.get(role), account)
        elif place in databases and roles.get(role) != databases[place]:
            owner = databases[place]
            message = f"it reaches {owner}: {head}"
            yield Hole("a right on an app's database", who, message, (revoked(line),), owner, account)
        elif not spot and (role in roles or role == PUBLIC) and not head.startswith(kept.get(role, _EVERYBODYS)):
            yield Hole(
                "a right on the whole server", who, f"no app needs it: {head}", (revoked(line),), roles.get(role)
            )


def _by_membership(held: Mapping[str, set[str]], inspection: Inspection) -> Iterator[Hole]:
    users = {user: app.id for app in inspection.apps for user in user_names(app.id)}
    roles = {role: app.id for app in inspection.apps for role in (rw_role(app.id), ro_role(app.id))}
    for role, names in held.items():
        for user in sorted(names):
            if (user in users or role in roles) and users.get(user) != roles.get(role):
                app = roles.get(role) or users[user]
                message = f"it can do what {role} may" + (f", in the database of {app}" if role in roles else "")
                closes = f"REVOKE ROLE {quoted(role)} FROM {quoted(user)}"
                account = None if user in users else user
                yield Hole("a role of somebody else", f"user {user}", message, (closes,), app, account)
