"""What a Qdrant server has, as the resources that are desired of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from multidb.provisioners.qdrant.provision.options import RENEW_DAYS
from multidb.provisioners.qdrant.provision.resources import (
    Collection,
    PayloadIndex,
    Registry,
    Settings,
    SparseVector,
    Token,
    Vector,
    admission_claim,
    given,
    owner_of,
)

__all__ = ["UNLOADED", "live_collection", "live_index", "live_registry", "live_token"]

UNLOADED: Final = "unloaded"
"""What is said of a collection has this where the server has its configuration, and could not load its points: why."""
_DAY: Final = 86_400


def live_collection(name: str, details: Mapping[str, Any], desired: Collection | None) -> Collection:
    """A collection as the server describes it (``GET /collections/<name>``), with the settings that `desired` has."""
    config = details["config"]
    params = config["params"]
    dense = _by_name(params.get("vectors"))
    sparse = params.get("sparse_vectors") or {}
    collection = Collection(
        name=name,
        app=desired.app if desired else None,
        owner=owner_of(details),
        vectors=tuple(sorted((_live_vector(key, value) for key, value in dense.items()), key=lambda v: v.name)),
        sparse=tuple(SparseVector(key, value.get("modifier") or "none") for key, value in sorted(sparse.items())),
    )
    if desired is None:
        return collection
    sparse_places = {key: (value.get("index") or {}).get("on_disk") or False for key, value in sparse.items()}
    return dataclasses.replace(
        collection,
        shard_number=params.get("shard_number") if desired.shard_number is not None else None,
        vectors_on_disk=_like(desired.vectors_on_disk, {k: v.get("on_disk") or False for k, v in dense.items()}),
        sparse_on_disk=_like(desired.sparse_on_disk, sparse_places),
        params=_like(desired.params, params),
        hnsw=_like(desired.hnsw, {"on_disk": False} | given(config["hnsw_config"])),
        quantization=_like(desired.quantization, _live_quantization(config.get("quantization_config"))),
        strict=_like(desired.strict, config.get("strict_mode_config") or {}),
        optimizers=_like(desired.optimizers, config["optimizer_config"]),
        read_only=_is_read_only(config.get("strict_mode_config") or {}),
        wal_capacity_mb=desired.wal_capacity_mb,
    )


def live_registry(desired: Registry, details: Mapping[str, Any]) -> Registry:
    """The registry as the server describes it."""
    return dataclasses.replace(desired, owner=owner_of(details))


def live_index(desired: PayloadIndex, details: Mapping[str, Any]) -> PayloadIndex | None:
    """The index as the server describes it in its collection's details; None when there is none. Of a collection that
    the server could not load it is taken to be there: a restore makes it, and until then nothing does."""
    if UNLOADED in details:
        return desired
    index = details.get("payload_schema", {}).get(desired.field_name)
    if index is None:
        return None
    is_tenant = bool((index.get("params") or {}).get("is_tenant"))
    return dataclasses.replace(desired, schema=str(index["data_type"]), is_tenant=is_tenant)


def live_token(desired: Token, claims: Mapping[str, Any], *, signed: bool, now: float) -> Token:
    """The stored token as its claims tell. `signed`: with the server's present key. `now`: seconds since 1970."""
    collections, access = _granted(claims.get("access"))
    return dataclasses.replace(
        desired,
        collections=collections,
        registry=_admission_asked(claims, desired),
        access=access,
        signature="current" if signed else "other",
        expiry=_expiry(claims.get("exp"), now, desired.days),
    )


def _like(desired: Settings, there: Mapping[str, Any]) -> Settings:
    return tuple((key, there.get(key)) for key, _ in desired)


def _by_name(vectors: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Dense vectors by name. The server shows the unnamed vector as its bare parameters."""
    if not vectors:
        return {}
    return {"": vectors} if isinstance(vectors.get("size"), int) else vectors


def _live_vector(name: str, params: Mapping[str, Any]) -> Vector:
    return Vector(name, params["size"], str(params["distance"]).lower(), params.get("datatype") or "float32")


def _live_quantization(config: Mapping[str, Any] | None) -> dict[str, Any]:
    for kind, values in (config or {}).items():
        return {**values, "type": kind}
    return {"type": "none"}


def _is_read_only(strict: Mapping[str, Any]) -> bool:
    return bool(strict.get("enabled")) and strict.get("upsert_max_batchsize") == 0


def _admission_asked(claims: Mapping[str, Any], desired: Token) -> str:
    """The registry that a token with these claims depends on; a condition other than ours counts as none."""
    asked = claims.get("value_exists")
    return desired.registry if asked == admission_claim(desired.registry, desired.token) else ""


def _granted(access: object) -> tuple[tuple[str, ...], str]:
    """(collections, level) of an ``access`` claim. A token without that claim may do everything."""
    if not isinstance(access, list):
        return (), "everything" if access in (None, "m") else str(access)
    entries = [entry for entry in access if isinstance(entry, Mapping)]
    levels = sorted({str(entry.get("access")) for entry in entries})
    return tuple(sorted(str(entry.get("collection")) for entry in entries)), "+".join(levels)


def _expiry(exp: object, now: float, days: int) -> str:
    if not isinstance(exp, int | float):
        return "never"
    left = (exp - now) / _DAY
    if RENEW_DAYS <= left <= days + 1:
        return "ahead"
    return datetime.fromtimestamp(exp, UTC).date().isoformat()
