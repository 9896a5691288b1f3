"""Where a backup or restore keeps an app's data for a while: names and marks. Pure."""

from __future__ import annotations

from multidb.model import Owner, PlaceKind
from multidb.provisioners.redis.provision.resources import spelled

__all__ = ["place_of", "place_prefix", "place_user"]


def place_user(kind: PlaceKind, owner: Owner) -> str:
    """The ACL user, without any right, that says by its mark what place a backup or restore has taken for an app."""
    return spelled(kind.value, owner.project, owner.app)


def place_prefix(kind: PlaceKind, owner: Owner) -> str:
    """What keys begin with in such a place, where apps are told apart by prefix: no app's own prefix is like it."""
    return f"{place_user(kind, owner)}:"


def place_of(user: str, owner: Owner) -> PlaceKind | None:
    """The kind of place that a user of the owner stands for; None for the app's own user."""
    return next((kind for kind in (PlaceKind.SCRATCH, PlaceKind.NEW) if user == place_user(kind, owner)), None)
