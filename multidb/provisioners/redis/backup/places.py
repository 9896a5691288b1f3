"""Where a backup or restore keeps an app's data for a while: names and marks. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from multidb.model import App, Owner, Place, PlaceKind
from multidb.provisioners.redis.provision.resources import spelled

__all__ = ["Keyspace", "keyspace", "place_of", "place_prefix", "place_user"]


@dataclass(frozen=True, slots=True)
class Keyspace(Place):
    """The keys in a DB number that is theirs alone or, where that is 0, the keys that begin with a prefix."""

    number: int
    prefix: str


def keyspace(kind: PlaceKind, app: App, number: int, prefix: str) -> Keyspace:
    """The place in this DB number or, where that is 0, under this prefix."""
    if number:
        return Keyspace(kind, app, f"DB {number}", number, "")
    return Keyspace(kind, app, f"keys {prefix}*", 0, prefix)


def place_user(kind: PlaceKind, owner: Owner) -> str:
    """The ACL user, without any right, that says by its mark what place a backup or restore has taken for an app."""
    return spelled(kind.value, owner.project, owner.app)


def place_prefix(kind: PlaceKind, owner: Owner) -> str:
    """What keys begin with in such a place, where apps are told apart by prefix: no app's own prefix is like it."""
    return f"{place_user(kind, owner)}:"


def place_of(user: str, owner: Owner) -> PlaceKind | None:
    """The kind of place that a user of the owner stands for; None for the app's own user."""
    return next((kind for kind in (PlaceKind.SCRATCH, PlaceKind.NEW) if user == place_user(kind, owner)), None)
