"""How a change is made, as HTTP calls that an operator could paste. Pure.

A statement is a request line and a JSON body, sent with the server's api key::

    PUT /collections/lernmi_knowledge
    {"vectors": {"size": 1536, "distance": "Cosine"}, ...}

Two statements are no requests: ``SIGN <secret>`` signs the claims below it with the api key (HS256) and keeps the
token; ``SHARE <secret>`` keeps the api key itself. ``"exp": "+365d"`` stands for the moment of signing and 365 days, so
that a plan made today and one made tomorrow are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from multidb.model import Action, Change, Owner, Statement, StoreContext
from multidb.provisioners.qdrant.provision.resources import (
    UNLIMITED_BATCH,
    Admission,
    ApiKey,
    Collection,
    PayloadIndex,
    Registry,
    Settings,
    Token,
    admission_claim,
    admission_id,
    admission_key,
    app_of,
    token_ref,
)

__all__ = [
    "Call",
    "admit",
    "claims",
    "create_index",
    "dismissal",
    "independent",
    "of_app",
    "path_of",
    "statements",
]


@dataclass(frozen=True, slots=True)
class Call:
    """A statement's text, taken apart: what to do, on what, and the JSON that goes with it."""

    verb: str  # an HTTP method, SIGN or SHARE
    target: str  # a path with its query, or the name of a secret
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The call as a plan shows it."""
        body = json.dumps(self.body, ensure_ascii=False)
        return f"{self.verb} {self.target}\n{body}" if self.body else f"{self.verb} {self.target}"

    @property
    def http(self) -> bool:
        """Whether it is a request to the server."""
        return self.verb not in ("SIGN", "SHARE")

    @property
    def makes_collection(self) -> bool:
        """Whether it creates a collection."""
        return self.verb == "PUT" and self.target.count("/") == 2

    @classmethod
    def parse(cls, text: str) -> Call:
        """The call of a statement's text; exactly what is shown is what is sent."""
        head, _, body = text.partition("\n")
        verb, _, target = head.partition(" ")
        return cls(verb, target, json.loads(body) if body else {})


def statements(change: Change, context: StoreContext) -> Sequence[Statement]:
    """The calls that make `change`, in order."""
    resource = change.desired
    if change.action not in (Action.CREATE, Action.UPDATE) or resource is None:
        return ()
    if isinstance(resource, Collection):
        calls = _create(resource) if change.action is Action.CREATE else [_patch(resource, change)]
    elif isinstance(resource, PayloadIndex):
        calls = _index(resource, change)
    elif isinstance(resource, Registry):
        calls = _registry(resource, change)
    elif isinstance(resource, Admission):
        turned = admit if resource.admitted else _withdrawal
        calls = [turned(resource.registry, resource.token)]
    elif isinstance(resource, Token):
        assert resource.app is not None
        calls = [Call("SIGN", str(token_ref(resource.app, resource.alternate)), claims(resource))]
    else:
        assert isinstance(resource, ApiKey)
        calls = [Call("SHARE", str(token_ref(resource.name, resource.alternate)), {})]
    return tuple(Statement(call.text) for call in calls)


def claims(token: Token) -> dict[str, Any]:
    """The claims of an app's token.

    `access` must be there and be spelt right: Qdrant ignores claims it does not know, and a token without `access` is
    an administrator's. Names are exact; there are no patterns.
    """
    access = [{"collection": name, "access": token.access} for name in token.collections]
    admission = {"value_exists": admission_claim(token.registry, token.token)} if token.registry else {}
    return {"access": access, **admission, "exp": f"+{token.days}d", "subject": token.app}


def create_index(index: PayloadIndex) -> Call:
    """Makes an index, or gives one of the same type other parameters."""
    schema: object = {"type": index.schema, "is_tenant": True} if index.is_tenant else index.schema
    body = {"field_name": index.field_name, "field_schema": schema}
    return Call("PUT", f"{path_of(index.collection)}/index?wait=true", body)


def admit(registry: str, token: str) -> Call:
    """Lets a token in."""
    key = admission_key(token)
    payload = {key: token} | ({"of": app_of(token)} if key != "app" else {})
    point = {"id": admission_id(registry, token), "vector": {}, "payload": payload}
    return Call("PUT", f"{path_of(registry)}/points?wait=true", {"points": [point]})


def _withdrawal(registry: str, token: str) -> Call:
    """Takes a token's admission away: the server refuses it from then on."""
    return Call("POST", f"{path_of(registry)}/points/delete?wait=true", {"points": [admission_id(registry, token)]})


def dismissal(registry: str, app_id: str) -> Call:
    """Takes every admission of an app away: the server refuses its tokens from then on."""
    return Call("POST", f"{path_of(registry)}/points/delete?wait=true", {"filter": of_app(app_id)})


def of_app(app_id: str) -> dict[str, Any]:
    """The filter for an app's entries in a registry, those of its first token and of others."""
    return {"should": [{"key": key, "match": {"value": app_id}} for key in ("app", "of")]}


def independent(calls: Sequence[Call]) -> Sequence[Call]:
    """The first calls that may go side by side: requests with one verb to places of one depth, none twice."""
    first = calls[0]
    seen: set[str] = set()
    for count, call in enumerate(calls):
        place = str(call.body.get("field_name", "")) + call.target
        alike = (call.verb, call.target.count("/")) == (first.verb, first.target.count("/"))
        if count and (not call.http or not alike or place in seen):
            return calls[:count]
        seen.add(place)
    return calls


def _registry(registry: Registry, change: Change) -> list[Call]:
    body = {"metadata": _mark(registry.owner)}
    if change.action is Action.CREATE:
        return [Call("PUT", path_of(registry.name), {"vectors": {}, "wal_config": {"wal_capacity_mb": 1}, **body})]
    return [Call("PATCH", path_of(registry.name), body)]


def _create(collection: Collection) -> list[Call]:
    quantization = _quantization(collection.quantization)
    body: dict[str, Any] = {"vectors": _vectors(collection)}
    if collection.sparse:
        body["sparse_vectors"] = {vector.name: _sparse(collection, vector.name) for vector in collection.sparse}
    body |= dict(collection.params)
    if collection.shard_number is not None:
        body["shard_number"] = collection.shard_number
    if collection.hnsw:
        body["hnsw_config"] = dict(collection.hnsw)
    if isinstance(quantization, dict):
        body["quantization_config"] = quantization
    if collection.strict or collection.read_only:
        body["strict_mode_config"] = dict(collection.strict) | (
            _upsert_limits(collection) if collection.read_only else {}
        )
    if collection.optimizers:
        body["optimizers_config"] = dict(collection.optimizers)
    if collection.wal_capacity_mb is not None:
        body["wal_config"] = {"wal_capacity_mb": collection.wal_capacity_mb}
    body["metadata"] = _mark(collection.owner)
    calls = [Call("PUT", path_of(collection.name), body)]
    if quantization == "Disabled":  # only PATCH knows how to switch off what the server does by default
        calls.append(Call("PATCH", path_of(collection.name), {"quantization_config": quantization}))
    return calls


def _patch(collection: Collection, change: Change) -> Call:
    parts: dict[str, Any] = {
        "vectors_on_disk": ("vectors", {name: {"on_disk": value} for name, value in collection.vectors_on_disk}),
        "sparse_on_disk": (
            "sparse_vectors",
            {name: _sparse(collection, name) for name, _ in collection.sparse_on_disk},
        ),
        "params": ("params", dict(collection.params)),
        "hnsw": ("hnsw_config", dict(collection.hnsw)),
        "quantization": ("quantization_config", _quantization(collection.quantization)),
        "strict": ("strict_mode_config", dict(collection.strict)),
        "read_only": ("strict_mode_config", dict(collection.strict) | _upsert_limits(collection)),
        "optimizers": ("optimizers_config", dict(collection.optimizers)),
        "owner": ("metadata", _mark(collection.owner)),
    }
    fields = sorted((field.field for field in change.fields), key="read_only".__eq__)  # which has all of `strict` in it
    return Call("PATCH", path_of(collection.name), dict(parts[field] for field in fields))


def _upsert_limits(collection: Collection) -> dict[str, Any]:
    """The limits under which a collection may, or may not, grow. An upsert of no points at all refuses them all."""
    if collection.read_only:
        return {"enabled": True, "upsert_max_batchsize": 0}
    limits = dict(collection.strict)
    most = limits.get("upsert_max_batchsize", UNLIMITED_BATCH)
    return {"enabled": limits.get("enabled", False), "upsert_max_batchsize": most}


def _index(index: PayloadIndex, change: Change) -> list[Call]:
    # Put over an index of the same type, the server replaces its parameters; another type has to go first.
    put = create_index(index)
    if change.action is Action.UPDATE and change.changed("schema"):
        return [
            Call("DELETE", f"{path_of(index.collection)}/index/{quote(index.field_name, safe='')}?wait=true", {}),
            put,
        ]
    return [put]


def _vectors(collection: Collection) -> dict[str, Any]:
    places = dict(collection.vectors_on_disk)
    body: dict[str, Any] = {}
    for vector in collection.vectors:
        params: dict[str, Any] = {"size": vector.size, "distance": vector.distance.capitalize()}
        if vector.datatype != "float32":
            params["datatype"] = vector.datatype
        if vector.name in places:
            params["on_disk"] = places[vector.name]
        body[vector.name] = params
    return body[""] if set(body) == {""} else body


def _sparse(collection: Collection, name: str) -> dict[str, Any]:
    places = dict(collection.sparse_on_disk)
    modifier = next(vector.modifier for vector in collection.sparse if vector.name == name)
    body: dict[str, Any] = {}
    if name in places:
        body["index"] = {"on_disk": places[name]}
    if modifier != "none":
        body["modifier"] = modifier
    return body


def _quantization(settings: Settings) -> dict[str, Any] | str | None:
    values: dict[str, Any] = dict(settings)
    kind = values.pop("type", None)
    if kind in (None, "none"):
        return "Disabled" if kind else None
    return {kind: {"type": "int8", **values} if kind == "scalar" else values}


def _mark(owner: Owner | None) -> dict[str, Any]:
    assert owner is not None
    return {"multidb": {"project": owner.project, "app": owner.app}}


def path_of(collection: str) -> str:
    """Where a collection stands, whatever is in its name."""
    return f"/collections/{quote(collection, safe='')}"
