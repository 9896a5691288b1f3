"""A collection that is elsewhere, and what it is to become. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multidb.model import App, ImportOptions, Owner, listed
from multidb.provisioners.qdrant.backup.configuration import creation, indexes, settings
from multidb.provisioners.qdrant.provision.live import live_collection
from multidb.provisioners.qdrant.provision.options import STORE, TENANT_FIELD, AppOptions
from multidb.provisioners.qdrant.provision.resources import Collection, Vector, collection, collection_name

__all__ = ["Incoming", "obstacles", "type_of"]

_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TENANT_INDEX: Final = {"type": "keyword", "is_tenant": True}


@dataclass(frozen=True, slots=True)
class Incoming:
    """One collection that is to be imported.

    Args:
        name: its name at the source.
        type: the type of content that it becomes.
        details: what the source says of it.
        aliases: those that come along, as they are to be.
    """

    name: str
    type: str
    details: Mapping[str, Any]
    aliases: tuple[str, ...] = ()

    def entry(self, *, local: bool) -> dict[str, Any]:
        """What a set would say of it; with the index by tenant, which is to be there before the first point."""
        return {
            "type": self.type,
            "created": creation(self.details, local=local),
            "indexes": ({} if local else indexes(self.details)) | {TENANT_FIELD: _TENANT_INDEX},
            "settings": settings(self.details),
            "aliases": list(self.aliases),
        }


def type_of(name: str, app: App, options: ImportOptions) -> str:
    """As the operator says; else the name without the prefix that is taken off, or the app's own, in the letters
    that a type has."""
    bare = name.removeprefix(options.prefix or f"{app.id}_")
    return options.names.get(name, re.sub(r"[^a-z0-9_-]", "_", bare.lower()).lstrip("_-"))


def obstacles(app: App, chosen: Sequence[Incoming]) -> Iterator[str]:
    """Why they cannot become the app's collections, as the manifest describes those."""
    types = Counter(one.type for one in chosen)
    declared = AppOptions.of(app.stores[STORE]).collections
    for one in chosen:
        if types[one.type] > 1:
            yield f"{one.name} is not the only one that would be {one.type}: say another (--name {one.name}=TYPE)"
        elif _TYPE.fullmatch(one.type) is None:
            yield f"{one.name} cannot be called {one.type!r} here: say a type (--name {one.name}=TYPE)"
        elif one.type not in declared:
            yield (
                f"{one.name} would be {collection_name(app.id, one.type)}, which the manifest has not: add "
                f"{_entry(app, one)} and apply, or say which it is (--name {one.name}=TYPE)"
            )
        else:
            here = collection(one.name, Owner("", app.id), declared[one.type], plain=True)
            there = live_collection(one.name, one.details, None)
            if (here.vectors, here.sparse) != (there.vectors, there.sparse):
                place = collection_name(app.id, one.type)
                unlike = f"{one.name} has {_vectors(there)}, and {place} has {_vectors(here)}"
                yield f"{unlike}: say {_entry(app, one)} in the manifest"
        if one.details["config"]["params"].get("sharding_method") == "custom":
            yield f"{one.name} lies in shards with keys of their own: move its points into another collection there"


def _vectors(there: Collection) -> str:
    return listed([*map(str, there.vectors), *map(str, there.sparse)]) or "no vectors"


def _entry(app: App, one: Incoming) -> str:
    """The manifest's entry for a collection like this one."""
    there = live_collection(one.name, one.details, None)
    texts = {vector.name: f"{{{_dimensions(vector)}}}" for vector in there.vectors}
    if list(texts) == [""]:
        options = texts[""][1:-1]
    else:
        options = f"vectors: {{{', '.join(f'{name}: {text}' for name, text in texts.items())}}}" if texts else ""
    sparse = ", ".join(
        f"{vector.name}: {{{'' if vector.modifier == 'none' else f'modifier: {vector.modifier}'}}}"
        for vector in there.sparse
    )
    both = ", ".join(text for text in (options, f"sparse: {{{sparse}}}" if sparse else "") if text)
    return f"apps.{app.id}.qdrant.collections: {{{one.type}: {{{both}}}}}"


def _dimensions(vector: Vector) -> str:
    datatype = "" if vector.datatype == "float32" else f", datatype: {vector.datatype}"
    return f"size: {vector.size}, distance: {vector.distance}{datatype}"
