"""Collections that are on a server already, as places that apps could have there. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multidb.document import APP_ID, printable
from multidb.model import ExistingPlace
from multidb.provisioners.qdrant.provision.resources import OWN_PREFIX, owner_of

__all__ = ["ExistingCollections", "options_of", "places"]

_TYPE: Final = r"[a-z0-9][a-z0-9_-]*"
_DISTANCES: Final = {"Cosine": "cosine", "Dot": "dot", "Euclid": "euclid", "Manhattan": "manhattan"}


@dataclass(frozen=True, slots=True)
class ExistingCollections:
    """What was read: the collections with their configuration, and the aliases."""

    details: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, str]


def places(read: ExistingCollections, known: Collection[str]) -> list[ExistingPlace]:
    """A place for each collection. Its name begins with an app's id: the longest that is known, else what stands before
    its first _."""
    return [
        _place(name, details, read.aliases, known)
        for name, details in sorted(read.details.items())
        if not name.startswith(OWN_PREFIX)
    ]


def _place(name: str, details: Mapping[str, Any], aliases: Mapping[str, str], known: Collection[str]) -> ExistingPlace:
    if owner := owner_of(details):
        return ExistingPlace("collection", name, owner.app, owner=owner)
    app = max((one for one in known if name.startswith(f"{one}_")), key=len, default=name.partition("_")[0])
    kind = name.removeprefix(f"{app}_")
    if kind == name or not re.fullmatch(APP_ID, app) or not re.fullmatch(_TYPE, kind):
        reason = f"{printable(name)!r} is not called <app>_<type>: give it an alias of such a name, or copy it"
        return ExistingPlace("collection", name, reason=reason)
    options = _options(details["config"]["params"])
    if options is None:
        return ExistingPlace("collection", name, reason="its vectors are of a form that the manifest cannot say")
    notes = tuple(f"the alias {printable(alias)} stands for it" for alias, of in sorted(aliases.items()) if of == name)
    return ExistingPlace("collection", name, app, {"collections": {kind: options}}, notes=notes)


def _options(params: Mapping[str, Any]) -> dict[str, Any] | None:
    vectors, sparse = params.get("vectors") or {}, params.get("sparse_vectors") or {}
    options: dict[str, Any] = {"sparse": {name: {} for name in sparse}} if sparse else {}
    if "size" in vectors:
        single = _vector(vectors)
        return None if single is None else single | options
    named = {name: _vector(vector) for name, vector in vectors.items()}
    if None in named.values() or not (named or sparse):
        return None
    return ({"vectors": named} if named else {}) | options


def _vector(vector: Any) -> dict[str, Any] | None:
    if not isinstance(vector, Mapping) or vector.get("distance") not in _DISTANCES or "multivector_config" in vector:
        return None
    return {"size": vector["size"], "distance": _DISTANCES[vector["distance"]]}


def options_of(existing: Sequence[ExistingPlace]) -> dict[str, Any]:
    """All collections of an app."""
    collections = (place.options["collections"] for place in existing)
    return {"collections": {kind: options for one in collections for kind, options in one.items()}}
