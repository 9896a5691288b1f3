"""Databases beside an app's own that hold its data for a while, on a server that has databases: whose they are, and
the statements that make them and drop them.

A role that nobody has and that may do nothing says that such a database is multidb's. It is made before its database
and dropped after it, so that a run that was interrupted anywhere is known for ours by the next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from multidb.errors import Conflict
from multidb.model import App, Owner, Place, PlaceKind, Statement
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.resources import spelled
from multidb.provisioners.neo4j.provision.statements import SYSTEM

__all__ = ["dropping", "making", "place_mark", "place_name", "places", "roles_of"]

_NAMES: Final = {PlaceKind.SCRATCH: "try", PlaceKind.NEW: "new"}
_VERBS: Final = {PlaceKind.SCRATCH: "TRIES", PlaceKind.NEW: "LOADS"}


def place_name(kind: PlaceKind, app: str) -> str:
    """The database that no app can reach: since no id has a dot, it is no app's own."""
    return f"{_NAMES[kind]}.{app.replace('_', '-')}"


def place_mark(kind: PlaceKind, owner: Owner) -> str:
    """The role that says whose the database is: ``multidb_digi_TRIES_lernmi``. No look at the apps' marks takes it for
    one of theirs."""
    return spelled(owner, _VERBS[kind])


def roles_of(bolt: Bolt) -> set[str]:
    """Every role of the server, in which the functions below look for marks."""
    return {row["role"] for row in bolt.ask("SHOW ROLES YIELD role")}


def places(roles: Collection[str], app: App, project: str) -> Sequence[Place]:
    """The places that the project has made for the app; half-made and half-dropped ones, too."""
    owner = Owner(project, app.id)
    return [Place(kind, app, place_name(kind, app.id)) for kind in _NAMES if place_mark(kind, owner) in roles]


def making(bolt: Bolt, kind: PlaceKind, owner: Owner, where: str) -> Sequence[Statement]:
    """Makes an empty place; what an earlier run has left of it is gone.

    Raises:
        Conflict: there is a database of that name without our mark.
    """
    name, mark = place_name(kind, owner.app), place_mark(kind, owner)
    there = any(row["name"] == name for row in bolt.ask("SHOW DATABASES YIELD name"))
    if there and mark not in roles_of(bolt):
        raise Conflict(
            f"the database {name} exists and multidb did not make it",
            where=where,
            hint=f"if nobody needs it: DROP DATABASE {quoted(name)}",
        )
    texts = (
        f"CREATE ROLE {quoted(mark)} IF NOT EXISTS",
        f"CREATE OR REPLACE DATABASE {quoted(name)} WAIT 120 SECONDS",
    )
    return [Statement(text, scope=SYSTEM) for text in texts]


def dropping(roles: Collection[str], place: Place) -> Sequence[Statement]:
    """Drops a place, and then what says that it is ours; nothing where nothing says so."""
    end = f"_{_VERBS[place.kind]}_{place.app.id}"
    marks = sorted(role for role in roles if role.startswith("multidb_") and role.endswith(end))
    if not marks:
        return ()
    texts = (
        f"DROP DATABASE {quoted(place.name)} IF EXISTS DESTROY DATA WAIT 120 SECONDS",
        *(f"DROP ROLE {quoted(mark)} IF EXISTS" for mark in marks),
    )
    return [Statement(text, scope=SYSTEM) for text in texts]
