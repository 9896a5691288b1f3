"""What a collection is beside its points: how it was made, its payload indexes, its limits, what its owner wrote on it.
Pure.

A set holds it in three parts, since each has its time: ``created`` is there before the first point, and ``indexes``
too, so that the graph is built with them; ``settings`` come last, when nothing of ours has to stay below the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["alike", "creation", "index_calls", "indexes", "is_configuration", "settings", "unkept", "without_limits"]

_CREATED: Final = (
    *("vectors", "sparse_vectors", "shard_number", "sharding_method", "replication_factor"),
    *("write_consistency_factor", "on_disk_payload"),
)
_COPIED: Final = ("hnsw_config", "quantization_config", "wal_config")
_OPTIMIZERS: Final = "optimizers_config"  # when it is given; ``optimizer_config`` when it is shown
_CREATABLE: Final = frozenset({*_CREATED, *_COPIED, _OPTIMIZERS})
_READ_PARAMS: Final = ("read_fan_out_factor", "read_fan_out_delay_ms")  # only a PATCH takes them
_STRICT: Final = "strict_mode_config"
_SETTINGS: Final = frozenset({_STRICT, "metadata", "params"})
_OURS: Final = ("multidb", "multidb_place")  # in a collection's metadata


def creation(details: Mapping[str, Any], *, local: bool = False) -> dict[str, Any]:
    """The body that makes a collection like this one, without its mark and its settings.

    Args:
        details: what the server says of it (``GET /collections/<name>``).
        local: by local mode, which has vectors only; the rest of what it says are constants.
    """
    config = details["config"]
    created = {key: config["params"].get(key) for key in (_CREATED[:2] if local else _CREATED)}
    if not local:
        created |= {key: config.get(key) for key in _COPIED}
        created[_OPTIMIZERS] = config.get("optimizer_config")
    pruned: dict[str, Any] = _without_none(created)
    return {"vectors": {}, **pruned}


def indexes(details: Mapping[str, Any]) -> dict[str, Any]:
    """The payload indexes, by field: the type, or the parameters with the type among them."""
    schema = details.get("payload_schema") or {}
    return {name: _without_none(index.get("params") or {}) or index["data_type"] for name, index in schema.items()}


def settings(details: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a PATCH that gives another collection the same limits and metadata, without our marks. That an app is
    over its quota is not a limit of its collection's, and is left out."""
    config = details["config"]
    strict = dict(config.get(_STRICT) or {})
    if strict.get("upsert_max_batchsize") == 0:
        del strict["upsert_max_batchsize"]
    values = {
        _STRICT: strict,
        "metadata": {key: value for key, value in (config.get("metadata") or {}).items() if key not in _OURS},
        "params": {key: config["params"].get(key) for key in _READ_PARAMS},
    }
    kept = {key: value if key == "metadata" else _without_none(value) for key, value in values.items()}
    return {key: value for key, value in kept.items() if value}


def without_limits(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a collection that is to be filled is made with of its settings: limits that are not enforced yet. So the
    server says before anything is replaced whether it knows them."""
    strict = values.get(_STRICT)
    return {_STRICT: {**strict, "enabled": False}} if strict else {}


def index_calls(schemas: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The bodies that make the indexes that are not there yet."""
    for name, schema in sorted(schemas.items()):
        if there.get(name) != schema:
            yield {"field_name": name, "field_schema": schema}


def alike(one: Mapping[str, Any], other: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether `one`, as the server describes it, is made like `other` and has the settings that are wanted."""
    return (
        creation(one) == creation(other) and indexes(one).keys() <= indexes(other).keys() and settings(one) == expected
    )


def unkept(entry: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    """Names of what an entry of a set says and its collection does not have: the server does not know it."""
    values = entry.get("settings") or {}
    made = {**entry["created"], **without_limits(values), "indexes": entry.get("indexes") or {}}
    strict = details["config"].get(_STRICT) or {}
    there = {**creation(details), _STRICT: {**strict, "enabled": False}, "indexes": indexes(details)}
    return sorted(_lost(made, there))


def is_configuration(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a set says of its collection what a backup writes, and nothing that is ours to say."""
    created, made, kept = entry.get("created"), entry.get("indexes", {}), entry.get("settings", {})
    return (
        isinstance(created, Mapping)
        and created.keys() <= _CREATABLE
        and isinstance(made, Mapping)
        and all(name and isinstance(schema, str | Mapping) for name, schema in made.items())
        and isinstance(kept, Mapping)
        and kept.keys() <= _SETTINGS
        and all(isinstance(value, Mapping) for value in kept.values())
        and kept.get("params", {}).keys() <= set(_READ_PARAMS)
        and not kept.get("metadata", {}).keys() & set(_OURS)
    )


def _lost(expected: Any, there: Any, path: str = "") -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(there, Mapping):
        for key, value in expected.items():
            yield from _lost(value, there.get(key), f"{path}.{key}" if path else str(key))
    elif expected is not None and expected != there and expected != {}:
        yield path


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
