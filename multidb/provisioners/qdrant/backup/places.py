"""Collections that multidb makes beside an app's own: to try a backup out, or to load one before it replaces what is
there. Pure.

They are marked under another key than an app's collections are, so that no plan takes them for an app's, and their
names begin with what no app's name can begin with, so that no token lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from multidb.model import App, Owner, Place, PlaceKind
from multidb.provisioners.qdrant.backup.configuration import is_configuration
from multidb.provisioners.qdrant.provision.resources import OWN_PREFIX

__all__ = ["Collections", "PlaceMark", "place_of"]

_KEY: Final = "multidb_place"
_KINDS: Final = frozenset({PlaceKind.SCRATCH.value, PlaceKind.NEW.value})


@dataclass(frozen=True, slots=True)
class PlaceMark:
    """What is written on one collection of a place.

    Args:
        owner: whose data it is for.
        type: the type of content, the last part of the live collection's name.
        replacing: it has everything, and the place has begun to replace the live collections: what a crash has left
            undone must be gone on with.
        aliases: other names that the live collection shall have.
        settings: its limits and metadata, as the body of a PATCH.
        moment: of a collection that is kept like one elsewhere, the ``created_at`` of points that have none there.
        made_as: a digest of how that one was made.
    """

    kind: PlaceKind
    owner: Owner
    type: str
    replacing: bool = False
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    moment: str = ""
    made_as: str = ""

    @property
    def metadata(self) -> dict[str, Any]:
        """The mark as metadata of the collection."""
        values = {
            "kind": self.kind.value,
            "project": self.owner.project,
            "app": self.owner.app,
            "type": self.type,
            "replacing": self.replacing,
            "aliases": list(self.aliases),
            "settings": dict(self.settings),
            "moment": self.moment,
            "made_as": self.made_as,
        }
        return {_KEY: values}

    @property
    def collection(self) -> str:
        """The collection's name."""
        return f"{place_name(self.kind, self.owner)}__{self.type}"

    @classmethod
    def read(cls, details: Mapping[str, Any]) -> PlaceMark | None:
        """The mark of a collection, from what the server says of it; None: it is no place of ours, nor anything that
        only looks like one."""
        mark = (details["config"].get("metadata") or {}).get(_KEY)
        if not isinstance(mark, Mapping):
            return None
        texts = [mark.get(key, "") for key in ("kind", "project", "app", "type", "moment", "made_as")]
        aliases, replacing = mark.get("aliases"), mark.get("replacing")
        if not all(isinstance(text, str) for text in texts) or texts[0] not in _KINDS:
            return None
        if not isinstance(replacing, bool) or not isinstance(aliases, list):
            return None
        if not all(isinstance(alias, str) for alias in aliases):
            return None
        settings = mark.get("settings", {})
        if not is_configuration({"created": {}, "settings": settings}):
            return None
        kind, project, app, content, moment, made_as = map(str, texts)
        owner = Owner(project, app)
        return cls(PlaceKind(kind), owner, content, replacing, tuple(aliases), settings, moment, made_as)


@dataclass(frozen=True, slots=True)
class Collections(Place):
    """The collections with an owner's mark: an app's own, or those of a place."""

    owner: Owner

    @classmethod
    def at(cls, kind: PlaceKind, app: App, project: str) -> Collections:
        """The places of an app of this project."""
        owner = Owner(project, app.id)
        return cls(kind, app, str(owner) if kind is PlaceKind.LIVE else place_name(kind, owner), owner)


def place_name(kind: PlaceKind, owner: Owner) -> str:
    """What the names of a place's collections begin with."""
    return f"{OWN_PREFIX}{kind}__{owner.project}__{owner.app}"


def place_of(details: Mapping[str, Any]) -> Owner | None:
    """For whose data a collection is a place; None for any other collection."""
    mark = PlaceMark.read(details)
    return mark.owner if mark else None
