"""How real the wall around an app is on a Neo4j server."""

from __future__ import annotations

from collections.abc import Sequence

from multidb.model import App, Facts, Isolation
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts, immutable

__all__ = ["isolation"]


def isolation(app: App, facts: Facts) -> tuple[Isolation, str]:
    """How far `app` is kept from others, and why, from what the server is and from the marks that are on it."""
    facts = Neo4jFacts.of(facts)
    if facts.roles and facts.multi_database:
        own = "a database, roles and a user of its own"
        if facts.public_load:
            return Isolation.PARTIAL, f"{own}, but {_open_load(facts.public_load)}"
        return Isolation.ENFORCED, own
    if facts.dedicated:
        return Isolation.ENFORCED, "a server of its own, with credentials that no other app has"
    if {owner.app for owner in facts.marks} == {app.id} >= {owner.app for owner in facts.labelled}:
        return (
            Isolation.PARTIAL,
            "the only app that multidb lets on this server; whoever else has an account there is an administrator "
            "(Neo4j Community has no roles), and its neo4j.conf says what LOAD CSV reaches (multidb audit tries it)",
        )
    return (
        Isolation.NAMING_ONLY,
        "the server is not this app's alone, and every user of a Neo4j without roles is an administrator",
    )


def _open_load(rights: Sequence[str]) -> str:
    remark = "every user may read by LOAD CSV what the server reaches"
    if any(immutable(line) for line in rights):
        return f"{remark}; a right is immutable, and only who runs the server can take it away: {', '.join(rights)}"
    return f"{remark}; multidb apply closes that, unless servers.neo4j.close_defaults is false"
