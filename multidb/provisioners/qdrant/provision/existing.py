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
_FLOAT: Final = "float32"
_DATATYPES: Final = frozenset({_FLOAT, "float16", "uint8"})
_NONE, _IDF = "none", "idf"


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
    """What the manifest says of such vectors; None: it has no words for some of them. Local mode tells also what was
    not given, as null."""
    vectors, sparse = params.get("vectors") or {}, params.get("sparse_vectors") or {}
    words = {name: _sparse(vector) for name, vector in sparse.items()}
    single = isinstance(vectors.get("size"), int)  # else a vector of that name
    named = {} if single else {name: _vector(vector) for name, vector in vectors.items()}
    one = _vector(vectors) if single else {}
    if one is None or None in (*words.values(), *named.values()) or not (one or named or words):
        return None
    return one | ({"vectors": named} if named else {}) | ({"sparse": words} if words else {})


def _vector(vector: Any) -> dict[str, Any] | None:
    if not isinstance(vector, Mapping) or vector.get("distance") not in _DISTANCES or vector.get("multivector_config"):
        return None
    datatype = vector.get("datatype") or _FLOAT
    options = {"size": vector["size"], "distance": _DISTANCES[vector["distance"]]}
    if datatype not in _DATATYPES:
        return None
    return options if datatype == _FLOAT else {**options, "datatype": datatype}


def _sparse(vector: Any) -> dict[str, Any] | None:
    modifier = (vector or {}).get("modifier") or _NONE
    if modifier not in (_NONE, _IDF):
        return None
    return {} if modifier == _NONE else {"modifier": modifier}


def options_of(existing: Sequence[ExistingPlace]) -> dict[str, Any]:
    """All collections of an app."""
    collections = (place.options["collections"] for place in existing)
    return {"collections": {kind: options for one in collections for kind, options in one.items()}}
