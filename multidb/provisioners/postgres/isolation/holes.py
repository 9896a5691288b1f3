"""Drift that opens a wall on a Postgres server, found by comparing resources as a plan does, and closed by the plan's
own statements. `holes_server` and `holes_inside` find what no resource describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from multidb.model import Action, Change, FieldChange, Hole, Inspection, Owner, Resource
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.resources import (
    PUBLIC,
    Access,
    Database,
    Membership,
    Role,
    ServerDatabase,
)
from multidb.provisioners.postgres.provision.roles import POWERS
from multidb.provisioners.postgres.provision.script import lines
from multidb.provisioners.postgres.provision.shared_resources import SharedAccess, SharedDatabase
from multidb.provisioners.postgres.provision.statements import statements

__all__ = ["holes_in_resources"]


# -------------------------------------------------------------------------------------------- drift that opens a wall


def holes_in_resources(inspection: Inspection, live: Iterable[Resource]) -> Iterator[Hole]:
    """The holes that show in the live resources of `inspection`."""
    desired = {resource.key: resource for resource in inspection.desired}
    for have in live:
        want = desired.get(have.key)
        match have, want:
            case Access(), Access():
                yield from _access(have, want, inspection)
            case SharedAccess(), SharedAccess():
                yield from _shared_access(have, want, inspection)
            case SharedDatabase(), SharedDatabase():
                yield from _shared_database(have, want, inspection)
            case Membership(), None:
                yield _membership(have, inspection)
            case Membership(), Membership() if have.admin and not want.admin:
                yield _membership(have, inspection)
            case Role(), Role():
                yield from _role(have, want, inspection)
            case Role(), None if have.login and have.owner is not None and _is_stranger(have, inspection):
                yield _stranger(have)
            case Database(), Database():
                yield from _database(have, want, inspection)
            case ServerDatabase(), ServerDatabase() if have.public & {"CONNECT", "CREATE"}:
                yield _server_database(have, want, inspection)


def _closes(change: Change, inspection: Inspection) -> tuple[str, ...]:
    made = list(statements(change, inspection.context))
    return tuple(line for statement in made for line in lines(statement.text, database=statement.scope))


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
            None if grantee == PUBLIC else grantee,
        )


def _shared_access(have: SharedAccess, want: SharedAccess, inspection: Inspection) -> Iterator[Hole]:
    for grantee in sorted({grantee for grantee, _ in have.privileges - want.privileges}):
        surplus = frozenset(pair for pair in have.privileges - want.privileges if pair[0] == grantee)
        opened = replace(want, privileges=want.privileges | surplus)
        rights = ", ".join(sorted(right for _, right in surplus))
        yield Hole(
            f"{rights} for {grantee}",
            f"database {have.database}",
            f"{grantee} holds {rights} on a database that apps share, which multidb does not give: who makes schemas "
            "there gets in the way of the others' names",
            _closes(_updated(want, opened, "privileges"), inspection),
            want.app,
        )


def _shared_database(have: SharedDatabase, want: SharedDatabase, inspection: Inspection) -> Iterator[Hole]:
    if have.owner != want.owner:
        return  # not ours to close: a plan says so
    for grantee in sorted({grantee for grantee, _ in have.strangers}):
        held = frozenset(pair for pair in have.strangers if pair[0] == grantee)
        rights, who = ", ".join(sorted(right for _, right in held)), "everybody" if grantee == PUBLIC else grantee
        yield Hole(
            f"{rights} for {who}",
            f"database {have.name}",
            f"{who} holds {rights} on a database that apps share, which multidb does not give",
            _closes(_updated(want, replace(want, strangers=held), "strangers"), inspection),
            None,
            None if grantee == PUBLIC else grantee,
        )
    for name, field, message in (
        ("owned by another", "belongs_to", f"{have.belongs_to} owns it, and may let others in, rename it and drop it"),
        ("template", "template", "whoever may make databases may copy what all of its apps have"),
    ):
        if getattr(have, field) != getattr(want, field):
            closes = _closes(_updated(want, have, field), inspection)
            yield Hole(name, f"database {have.name}", message, closes)


def _membership(have: Membership, inspection: Inspection) -> Hole:
    return Hole(
        "membership",
        f"role {have.role}",
        f"{have.member} belongs to {have.role}{' and may let others in' if have.admin else ''}, "
        "which multidb does not give",
        _closes(Change(Action.DELETE, None, have), inspection),
        have.app,
        have.member,
    )


def _role(have: Role, want: Role, inspection: Inspection) -> Iterator[Hole]:
    powers = [power.field for power in POWERS if getattr(have, power.field) and not getattr(want, power.field)]
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
        lines(f"ALTER ROLE {identifier(have.name)} NOLOGIN"),
    )


def _database(have: Database, want: Database, inspection: Inspection) -> Iterator[Hole]:
    if have.owner != want.owner:
        return  # not ours to close: a plan says so
    if have.belongs_to != want.belongs_to:
        message = f"{have.belongs_to} owns the database of {want.app}, and may let others in, rename it and drop it"
        closes = _closes(_updated(want, have, "belongs_to"), inspection)
        yield Hole("owned by another", f"database {have.name}", message, closes, want.app, have.belongs_to)
    if have.template:
        message = f"whoever may make databases may copy the database of {want.app}"
        closes = _closes(_updated(want, have, "template"), inspection)
        yield Hole("template", f"database {have.name}", message, closes, want.app)


def _server_database(have: ServerDatabase, want: ServerDatabase, inspection: Inspection) -> Hole:
    return Hole(
        "connect for everybody",
        f"database {have.name}",
        f"every login of every app may connect to {have.name} and see what is there",
        _closes(_updated(want, have, "public"), inspection),
    )
