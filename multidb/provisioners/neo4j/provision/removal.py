"""How an app's login is turned off, and how everything of an app goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from multidb.model import App, Owner, Statement, StoreContext
from multidb.provisioners.neo4j.backup.places import dropping, places, roles_of
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.resources import (
    Mode,
    Neo4jFacts,
    database_name,
    mark_name,
    mode,
    read_mark,
    ro_role,
    rw_role,
    user_names,
)
from multidb.provisioners.neo4j.provision.statements import CONNECTED, SYSTEM, disconnect

__all__ = ["orphans", "removal", "suspension"]

_ROWS: Final = 10_000  # deleted in one transaction, so that the server's memory does not grow with the data


def orphans(bolt: Bolt, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
    """The marks of the project's apps that are not `known`, as the users that belong to them. A server of one app has
    none."""
    facts = Neo4jFacts.of(context.facts)
    marks = [*facts.marks, *facts.labelled]
    if mode(context) is Mode.DATABASE:
        marks = [mark[0] for row in bolt.ask("SHOW ROLES YIELD role") if (mark := read_mark(row["role"]))]
    gone = sorted({owner.app for owner in marks if owner.project == context.project}.difference(known))
    there = {row["user"] for row in bolt.ask("SHOW USERS YIELD user")} if gone else set()
    return {
        app: [f"user {user}" for user in user_names(app) if user in there] or [f"the mark of {app}"] for app in gone
    }


def suspension(bolt: Bolt, app: App, context: StoreContext) -> Sequence[Statement]:
    """Turns the app's logins off, then ends their sessions. Community has no suspended users: there they are dropped,
    and `multidb apply` makes them again with the passwords that they had."""
    if not _is_ours(bolt, app, context):
        return ()
    with_status = mode(context) is Mode.DATABASE
    rows = bolt.ask("SHOW USERS YIELD user, suspended")
    on = {row["user"] for row in rows if not (with_status and row["suspended"])}
    connected = {row["username"] for row in bolt.ask(CONNECTED)}
    statements = []
    for user in user_names(app.id):
        name = quoted(user)
        off = f"ALTER USER {name} SET STATUS SUSPENDED" if with_status else f"DROP USER {name} IF EXISTS"
        statements += [Statement(off, scope=SYSTEM)] if user in on else []
        statements += [disconnect(user, context)] if user in on | connected else []
    return statements


def removal(bolt: Bolt, app: App, context: StoreContext) -> Sequence[Statement]:
    """Drops everything of the app, its mark last. The folder of a server that multidb runs is the runtime's."""
    if not _is_ours(bolt, app, context):
        return ()
    if mode(context) is Mode.DATABASE:
        return _on_enterprise(bolt, app, context)
    return _on_community(bolt, app, context)


def _is_ours(bolt: Bolt, app: App, context: StoreContext) -> bool:
    """Whether the server says that the app's things are this project's."""
    facts = Neo4jFacts.of(context.facts)
    if facts.dedicated:
        return True
    mark = mark_name(Owner(context.project, app.id), mode(context))
    if mode(context) is Mode.DATABASE:
        return any(row["role"] == mark for row in bolt.ask("SHOW ROLES YIELD role"))
    return any(row["name"] == mark for row in bolt.ask("SHOW INDEXES YIELD name", facts.default_database))


def _on_enterprise(bolt: Bolt, app: App, context: StoreContext) -> Sequence[Statement]:
    users, database = user_names(app.id), database_name(app.id)
    roles = roles_of(bolt)
    beside = places(roles, app, context.project)
    databases = {database, *(place.name for place in beside)}
    aliases = bolt.ask("SHOW ALIASES FOR DATABASE YIELD name, database")
    texts = [
        *(
            f"DROP ALIAS {quoted(row['name'])} IF EXISTS FOR DATABASE"
            for row in aliases
            if row["database"] in databases
        ),
        f"DROP DATABASE {quoted(database)} IF EXISTS DESTROY DATA WAIT 120 SECONDS",
        *(statement.text for place in beside for statement in dropping(roles, place)),
        f"DROP ROLE {quoted(rw_role(app.id))} IF EXISTS",
        f"DROP ROLE {quoted(ro_role(app.id))} IF EXISTS",
        f"DROP ROLE {quoted(mark_name(Owner(context.project, app.id), Mode.DATABASE))} IF EXISTS",
    ]
    logins = [Statement(f"DROP USER {quoted(user)} IF EXISTS", scope=SYSTEM) for user in users]
    ended = [disconnect(user, context) for user in users]
    return [*logins, *ended, *(Statement(text, scope=SYSTEM) for text in texts)]


def _on_community(bolt: Bolt, app: App, context: StoreContext) -> Sequence[Statement]:
    facts = Neo4jFacts.of(context.facts)
    database = facts.default_database
    label = quoted(app.id)
    chosen = mode(context)
    node = f"(n:{label})" if chosen is Mode.LABEL else "(n)"
    statements = list(suspension(bolt, app, context))
    if bolt.ask(f"MATCH {node} RETURN count(n) AS nodes", database)[0]["nodes"]:
        batches = f"IN TRANSACTIONS OF {_ROWS} ROWS"
        statements.append(Statement(f"MATCH {node} CALL {{ WITH n DETACH DELETE n }} {batches}", scope=database))
    mark = mark_name(Owner(context.project, app.id), chosen)
    if chosen is Mode.INSTANCE:
        constraints = bolt.ask("SHOW CONSTRAINTS YIELD name", database)
        indexes = bolt.ask("SHOW INDEXES YIELD name, type, owningConstraint", database)
        statements += [
            Statement(f"DROP CONSTRAINT {quoted(row['name'])} IF EXISTS", scope=database) for row in constraints
        ]
        statements += [
            Statement(f"DROP INDEX {quoted(row['name'])} IF EXISTS", scope=database)
            for row in indexes
            if row["owningConstraint"] is None and row["type"] != "LOOKUP" and row["name"] != mark
        ]
    if not facts.dedicated:
        statements.append(Statement(f"DROP INDEX {quoted(mark)} IF EXISTS", scope=database))
    return statements
