"""Plans of two apps, made and carried out on the Neo4j of these tests."""

from __future__ import annotations

from multidb.model import App, Change, Inspection, Resource, StoreContext
from multidb.plan import diff
from multidb.provisioners.neo4j.provision.options import AppOptions
from multidb.provisioners.neo4j.provision.resources import (
    Neo4jFacts,
    User,
    desired,
)
from multidb.provisioners.neo4j.provision.statements import statements
from multidb.secrets import MemorySecretStore
from tests.unit.neo4j.enterprise import Enterprise

FACTS = Neo4jFacts("Neo4j", "2026.08.1", "enterprise", multi_database=True, roles=True)


CONTEXT = StoreContext("digi", FACTS)


APPS = [App(name, name, {"neo4j": AppOptions()}) for name in ("lernmi", "beep_boop", "ab")]


def live(server: Enterprise, apps: list[App] = APPS, context: StoreContext = CONTEXT) -> list[Resource]:
    wanted = desired(apps, context)
    listing = server.listing()
    inspection = Inspection(context, apps, wanted, MemorySecretStore())
    owners = listing.owners(inspection)
    rows = {row["user"]: row for row in listing.users}
    users = [
        User(
            name=want.name,
            app=want.app,
            owner=owners.get(want.app or ""),
            suspended=rows[want.name]["suspended"],
            home=rows[want.name]["home"],
        )
        for want in wanted
        if isinstance(want, User) and want.name in rows
    ]
    return [*listing.resources(inspection), *users]


def changes(server: Enterprise, apps: list[App] = APPS, context: StoreContext = CONTEXT) -> tuple[Change, ...]:
    return diff(desired(apps, context), live(server, apps, context))


def apply(server: Enterprise) -> int:
    sent = [statement for change in changes(server) for statement in statements(change, CONTEXT)]
    for statement in sent:
        server.run(statement)
    return len(sent)
