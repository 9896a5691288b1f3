"""The Cypher for each change, as an operator could paste it into cypher-shell (after ``:param password => '...'``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model import Action, Change, Statement, StoreContext
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.resources import (
    Database,
    Grant,
    Mark,
    Membership,
    Mode,
    Neo4jFacts,
    PublicRights,
    Role,
    User,
    mark_name,
    password_ref,
)

__all__ = ["CONNECTED", "SYSTEM", "disconnect", "revoked", "statements"]

SYSTEM: Final = "system"  # administration commands run there, each in a transaction of its own
CONNECTED: Final = "CALL dbms.listConnections() YIELD username"
_WAIT: Final = "WAIT 120 SECONDS"  # without it the command returns before the database is there


def revoked(command: str) -> str:
    """The command that takes back what a GRANT or DENY command gave."""
    head, _, role = command.rpartition(" TO ")
    return f"REVOKE {head} FROM {role}"


def statements(change: Change, context: StoreContext) -> Sequence[Statement]:
    """What makes the change; empty where the mark, which is a change of its own, says it all."""
    resource = change.resource
    if change.action is Action.DELETE:
        return _delete(change)
    if isinstance(resource, Mark):
        return (_mark(resource),)
    if isinstance(resource, PublicRights):
        live = change.live
        return tuple(_admin(revoked(right)) for right in (live.load if isinstance(live, PublicRights) else ()))
    if isinstance(resource, Database):
        return _database(change, resource)
    if isinstance(resource, Role):
        return (_admin(f"CREATE ROLE {quoted(resource.name)}"),) if change.action is Action.CREATE else ()
    if isinstance(resource, Grant):
        return (_admin(resource.name),)
    if isinstance(resource, User):
        return _retiring(resource, context) if resource.password == "none" else _user(change, resource)
    assert isinstance(resource, Membership)
    return (_admin(f"GRANT ROLE {quoted(resource.role)} TO {quoted(resource.user)}"),)


def disconnect(user: str, context: StoreContext) -> Statement:
    """Ends the user's connections, and with them its transactions; neither a new status nor a drop does that."""
    facts = Neo4jFacts.of(context.facts)
    text = (
        f"CALL dbms.listConnections() YIELD connectionId, username WHERE username = '{user}' "
        "WITH collect(connectionId) AS theirs CALL dbms.killConnections(theirs) YIELD connectionId RETURN connectionId"
    )
    return Statement(text, scope=facts.default_database)


def _admin(text: str) -> Statement:
    return Statement(text, scope=SYSTEM)


def _delete(change: Change) -> Sequence[Statement]:
    resource = change.resource
    if isinstance(resource, Membership):
        return (_admin(f"REVOKE ROLE {quoted(resource.role)} FROM {quoted(resource.user)}"),)
    assert isinstance(resource, Grant)
    return (_admin(revoked(resource.name)),)


def _mark(mark: Mark) -> Statement:
    assert mark.owner is not None
    name = quoted(mark_name(mark.owner, mark.mode))
    if mark.mode is Mode.DATABASE:
        return _admin(f"CREATE ROLE {name} IF NOT EXISTS")
    # The name is its label too: of two indexes over the same label and property Neo4j would keep one.
    return Statement(f"CREATE INDEX {name} IF NOT EXISTS FOR (n:{name}) ON (n.multidb)", scope=mark.database)


def _database(change: Change, database: Database) -> Sequence[Statement]:
    name = quoted(database.name)
    if change.action is Action.CREATE:
        return (_admin(f"CREATE DATABASE {name} {_WAIT}"),)
    statements = []
    if change.changed("status"):
        statements.append(_admin(f"START DATABASE {name} {_WAIT}"))
    if change.changed("access"):
        statements.append(_admin(f"ALTER DATABASE {name} SET ACCESS READ WRITE {_WAIT}"))
    return tuple(statements)


def _retiring(user: User, context: StoreContext) -> Sequence[Statement]:
    """It goes with its password and, where there are roles, its memberships: no edition has a user without a password,
    and Community none that is off."""
    return (_admin(f"DROP USER {quoted(user.name)} IF EXISTS"), disconnect(user.name, context))


def _user(change: Change, user: User) -> Sequence[Statement]:
    assert user.app is not None
    clauses = []
    secret = change.changed("password")
    if secret:
        clauses.append("SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED")
    elif change.changed("change_required"):  # apart, since Neo4j refuses to set the password that a user has already
        clauses.append("SET PASSWORD CHANGE NOT REQUIRED")
    if user.suspended is not None and change.changed("suspended"):
        clauses.append(f"SET STATUS {'SUSPENDED' if user.suspended else 'ACTIVE'}")
    if user.home is not None and change.changed("home"):
        clauses.append(f"SET HOME DATABASE {quoted(user.home)}")
    if not clauses:
        return ()
    verb = "CREATE" if change.action is Action.CREATE else "ALTER"
    binds = (("password", password_ref(user.app, user.alternate)),) if secret else ()
    return (Statement(f"{verb} USER {quoted(user.name)} {' '.join(clauses)}", binds, SYSTEM),)
