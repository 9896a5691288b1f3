"""For every method of Qdrant's client: how the tenant gets into it, or why it is refused. Sends nothing itself.

A rule is a generator: it is given the arguments, yields the calls to be made and is sent their answers, so that one
rule serves the client that waits and the one that awaits. What is in neither table is refused, too: a version of the
library that brings a new method cannot open a way past the tenant.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from qdrant_client import models

from multidb.client.errors import CallRefused, PointMissing
from multidb.client.qdrant.tenant import TENANT_FIELD, Tenancy, first_key, plain_id, referenced_ids

__all__ = ["ASKS_NO_SERVER", "PLAIN", "REFUSED", "RULES", "Arguments", "Call", "Rule"]

Arguments = dict[str, Any]

PLAIN: Final = frozenset(
    {
        *("collection_name", "consistency", "timeout", "shard_key_selector", "wait", "ordering", "update_mode"),
        *("limit", "offset", "with_payload", "with_vectors", "score_threshold", "using", "search_params", "exact"),
        *("order_by", "sample", "group_by", "group_size"),
    }
)
"""Arguments that choose nothing but how much, how and where on the server; they pass as they are."""


@dataclass(frozen=True, slots=True)
class Call:
    """A method of the bare client, with full names and with the tenant in it."""

    method: str
    arguments: Arguments


Steps = Generator[Call, Any, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one method is sent.

    Args:
        steps: makes the calls.
        takes: the arguments that it knows beside those of `PLAIN`.
        writes: whether it changes something, so that a client that only reads refuses it.
    """

    steps: Callable[[Tenancy, str, Arguments], Steps]
    takes: frozenset[str] = frozenset()
    writes: bool = False


def _filtered(argument: str) -> Callable[[Tenancy, str, Arguments], Steps]:
    def steps(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
        arguments[argument] = tenancy.narrowed(arguments.get(argument))
        return (yield Call(method, arguments))

    return steps


def _selected(argument: str) -> Callable[[Tenancy, str, Arguments], Steps]:
    def steps(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
        arguments[argument] = tenancy.selected(arguments[argument])
        return (yield Call(method, arguments))

    return steps


# --- reading -----------------------------------------------------------------------------------------------------


def _query(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    if arguments.get("with_lookup") is not None:
        raise CallRefused("with_lookup reads points of another collection whoever has them; retrieve them instead")
    starts: dict[str, set[int | str]] = {}
    own = arguments["collection_name"]
    _collect(tenancy, own, arguments.get("query"), arguments.get("lookup_from"), starts)
    arguments["query_filter"] = tenancy.narrowed(arguments.get("query_filter"))
    arguments["lookup_from"] = _location(tenancy, arguments.get("lookup_from"))
    arguments["prefetch"] = _prefetches(tenancy, own, arguments.get("prefetch"), starts)
    yield from _require(tenancy, starts)
    return (yield Call(method, _given(arguments)))


def _query_batch(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    starts: dict[str, set[int | str]] = {}
    own = arguments["collection_name"]
    requests = []
    for request in arguments["requests"]:
        if not isinstance(request, models.QueryRequest):
            raise CallRefused(f"a request is a models.QueryRequest here, not {type(request).__qualname__}")
        _collect(tenancy, own, request.query, request.lookup_from, starts)
        changes = {
            "filter": tenancy.narrowed(request.filter),
            "lookup_from": _location(tenancy, request.lookup_from),
            "prefetch": _prefetches(tenancy, own, request.prefetch, starts),
        }
        requests.append(request.model_copy(update=changes))
    yield from _require(tenancy, starts)
    return (yield Call(method, {**arguments, "requests": requests}))


def _prefetches(tenancy: Tenancy, own: str, prefetch: Any, starts: dict[str, set[int | str]]) -> Any:
    """Prefetches at any depth: each looks for points by itself, so each has the tenant."""
    if prefetch is None:
        return None
    if isinstance(prefetch, list | tuple):
        return [_prefetches(tenancy, own, inner, starts) for inner in prefetch]
    if not isinstance(prefetch, models.Prefetch):
        raise CallRefused(f"a prefetch is a models.Prefetch here, not {type(prefetch).__qualname__}")
    _collect(tenancy, own, prefetch.query, prefetch.lookup_from, starts)
    changes = {
        "filter": tenancy.narrowed(prefetch.filter),
        "lookup_from": _location(tenancy, prefetch.lookup_from),
        "prefetch": _prefetches(tenancy, own, prefetch.prefetch, starts),
    }
    return prefetch.model_copy(update=changes)


def _location(tenancy: Tenancy, location: Any) -> models.LookupLocation | None:
    if location is None:
        return None
    if not isinstance(location, models.LookupLocation):
        raise CallRefused(f"lookup_from is a models.LookupLocation here, not {type(location).__qualname__}")
    return location.model_copy(update={"collection": tenancy.collection(location.collection)})


def _collect(tenancy: Tenancy, own: str, query: Any, location: Any, starts: dict[str, set[int | str]]) -> None:
    """Notes, by collection, the points whose vectors a query starts from."""
    if ids := set(referenced_ids(query)):
        place = _location(tenancy, location)
        starts.setdefault(own if place is None else place.collection, set()).update(ids)


def _require(tenancy: Tenancy, starts: Mapping[str, set[int | str]]) -> Steps:
    """Refuses to start from a point of another tenant's, as if it were not there: the order of the results would tell
    what it is like."""
    for collection, ids in starts.items():
        arguments = {"collection_name": collection, "count_filter": tenancy.among(ids), "exact": True}
        counted = yield Call("count", arguments)
        if counted.count != len(ids):
            raise PointMissing(f"{tenancy.tenant} does not have all points that the query starts from ({len(ids)})")


def _given(arguments: Arguments) -> Arguments:
    """Without what is None, so that a method is given no argument that it does not have."""
    return {name: value for name, value in arguments.items() if value is not None}


def _retrieve(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    ids = list(dict.fromkeys(plain_id(point) for point in arguments.pop("ids")))
    if not ids:
        return []
    records, _ = yield Call("scroll", {**arguments, "scroll_filter": tenancy.among(ids), "limit": len(ids)})
    place = {point: number for number, point in enumerate(ids)}
    return sorted(records, key=lambda record: place[plain_id(record.id)])


def _plain(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    return (yield Call(method, arguments))


def _collections(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    """The app's collections, named as they are named to this client."""
    answer = yield Call(method, arguments)
    mine = [one for one in answer.collections if one.name.startswith(tenancy.prefix)]
    named = [one.model_copy(update={"name": one.name.removeprefix(tenancy.prefix)}) for one in mine]
    return answer.model_copy(update={"collections": named})


_COUNTS: Final = ("points_count", "indexed_vectors_count", "segments_count")


def _collection(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    """How a collection is configured; how many points all tenants have together is not told."""
    info = yield Call(method, arguments)
    schema = {key: index.model_copy(update={"points": 0}) for key, index in (info.payload_schema or {}).items()}
    blank = {name: None for name in _COUNTS if name != "segments_count"} | {"segments_count": 0}
    return info.model_copy(update={**blank, "payload_schema": schema})


# --- writing -----------------------------------------------------------------------------------------------------


def _upsert(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    """Ids are shared by all tenants of a collection: a point that another one has is left alone."""
    arguments["points"] = tenancy.points(arguments["points"])
    arguments["update_filter"] = tenancy.narrowed(arguments.get("update_filter"))
    return (yield Call(method, arguments))


def _update_vectors(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    arguments["update_filter"] = tenancy.narrowed(arguments.get("update_filter"))
    return (yield Call(method, arguments))


def _set_payload(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    arguments["payload"] = tenancy.laid_over(arguments["payload"], arguments.get("key"))
    arguments["points"] = tenancy.selected(arguments["points"])
    return (yield Call(method, arguments))


def _overwrite_payload(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    arguments["payload"] = tenancy.stamped(arguments["payload"])
    arguments["points"] = tenancy.selected(arguments["points"])
    return (yield Call(method, arguments))


def _delete_payload(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    arguments["keys"] = tenancy.keys(arguments["keys"])
    arguments["points"] = tenancy.selected(arguments["points"])
    return (yield Call(method, arguments))


def _clear_payload(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    """A point without any payload would be nobody's: what says whose it is stays."""
    arguments["points"] = tenancy.selected(arguments.pop("points_selector"))
    return (yield Call("overwrite_payload", {**arguments, "payload": tenancy.stamp()}))


def _batch_update(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    operations = [_operation(tenancy, operation) for operation in arguments["update_operations"]]
    return (yield Call(method, {**arguments, "update_operations": operations}))


def _operation(tenancy: Tenancy, operation: Any) -> Any:
    match operation:
        case models.UpsertOperation(upsert=models.PointsList() as points):
            stamped: dict[str, Any] = {"points": tenancy.points(points.points)}
            return models.UpsertOperation(upsert=points.model_copy(update={**stamped, **_only(tenancy, points)}))
        case models.UpsertOperation(upsert=models.PointsBatch() as batch):
            stamped = {"batch": tenancy.points(batch.batch)}
            return models.UpsertOperation(upsert=batch.model_copy(update={**stamped, **_only(tenancy, batch)}))
        case models.UpdateVectorsOperation(update_vectors=vectors):
            return models.UpdateVectorsOperation(update_vectors=vectors.model_copy(update=_only(tenancy, vectors)))
        case models.DeleteOperation(delete=selector):
            return models.DeleteOperation(delete=tenancy.selected(selector))
        case models.SetPayloadOperation(set_payload=change):
            payload = tenancy.laid_over(change.payload, change.key)
            return models.SetPayloadOperation(set_payload=_aimed(tenancy, change, payload=payload))
        case models.OverwritePayloadOperation(overwrite_payload=change):
            payload = tenancy.stamped(change.payload)
            return models.OverwritePayloadOperation(overwrite_payload=_aimed(tenancy, change, payload=payload))
        case models.DeletePayloadOperation(delete_payload=change):
            keys = tenancy.keys(change.keys)
            return models.DeletePayloadOperation(delete_payload=_aimed(tenancy, change, keys=keys))
        case models.ClearPayloadOperation(clear_payload=selector):
            mine = tenancy.selected(selector)
            change = models.SetPayload(payload=tenancy.stamp(), filter=mine.filter, shard_key=mine.shard_key)
            return models.OverwritePayloadOperation(overwrite_payload=change)
        case models.DeleteVectorsOperation(delete_vectors=change):
            return models.DeleteVectorsOperation(delete_vectors=_aimed(tenancy, change))
    raise CallRefused(f"an operation of the type {type(operation).__qualname__} is not known here")


def _only(tenancy: Tenancy, points: Any) -> dict[str, models.Filter]:
    return {"update_filter": tenancy.narrowed(points.update_filter)}


def _aimed(tenancy: Tenancy, change: Any, **update: Any) -> Any:
    """A change of those of its points that are the tenant's.

    Raises:
        CallRefused: it names no points, or does so twice.
    """
    if (change.points is None) == (change.filter is None):
        raise CallRefused("a change names its points by either ids or a filter")
    where = tenancy.narrowed(change.filter) if change.points is None else tenancy.among(change.points)
    return change.model_copy(update={**update, "points": None, "filter": where})


_BATCH: Final = 64


def _upload(tenancy: Tenancy, arguments: Arguments, points: Iterable[models.PointStruct]) -> Steps:
    """Points in batches, one after another, each like an `upsert`."""
    if arguments.pop("parallel", None) not in (None, 0, 1):
        raise CallRefused("parallel starts clients that know no tenant; upload from several threads instead")
    size = arguments.pop("batch_size", None) or _BATCH
    for ignored in ("method", "max_retries"):  # how processes start; how often is tried again is connect()'s
        arguments.pop(ignored, None)
    source = iter(points)
    while batch := list(itertools.islice(source, size)):
        yield from _upsert(tenancy, "upsert", {**_given(arguments), "points": batch})
    return None


def _upload_points(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    points = arguments.pop("points")
    return (yield from _upload(tenancy, arguments, points))


def _upload_collection(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    vectors, payload, ids = arguments.pop("vectors"), arguments.pop("payload", None), arguments.pop("ids", None)
    numbered = iter(ids) if ids is not None else (str(uuid.uuid4()) for _ in itertools.count())
    payloads = iter(payload) if payload is not None else itertools.repeat(None)
    points = (
        models.PointStruct(id=plain_id(point), vector=vector, payload=of_point)
        for vector, of_point, point in zip(_rows(vectors), payloads, numbered, strict=False)
    )
    return (yield from _upload(tenancy, arguments, points))


def _rows(vectors: Any) -> Iterator[Any]:
    """The vector of each point; arrays of numpy's as lists."""
    if isinstance(vectors, dict):
        names = list(vectors)
        for row in zip(*vectors.values(), strict=True):
            yield {name: _listed(value) for name, value in zip(names, row, strict=True)}
        return
    for vector in vectors:
        yield _listed(vector)


def _listed(vector: Any) -> Any:
    return vector.tolist() if hasattr(vector, "tolist") else vector


def _index(tenancy: Tenancy, method: str, arguments: Arguments) -> Steps:
    if first_key(arguments["field_name"]) == TENANT_FIELD:
        raise CallRefused(f"the index of {TENANT_FIELD} is made by `multidb apply`")
    return (yield Call(method, arguments))


# --- the tables ----------------------------------------------------------------------------------------------------

_WINDOW: Final = frozenset({"query", "prefetch", "query_filter", "lookup_from"})
_UPLOAD: Final = frozenset({"batch_size", "parallel", "method", "max_retries", "update_filter"})
_INDEX: Final = frozenset({"field_name", "field_schema", "field_type"})

RULES: Final[Mapping[str, Rule]] = {
    "query_points": Rule(_query, _WINDOW),
    "query_points_groups": Rule(_query, _WINDOW | {"with_lookup"}),
    "query_batch_points": Rule(_query_batch, frozenset({"requests"})),
    "search_matrix_pairs": Rule(_filtered("query_filter"), frozenset({"query_filter"})),
    "search_matrix_offsets": Rule(_filtered("query_filter"), frozenset({"query_filter"})),
    "scroll": Rule(_filtered("scroll_filter"), frozenset({"scroll_filter"})),
    "count": Rule(_filtered("count_filter"), frozenset({"count_filter"})),
    "facet": Rule(_filtered("facet_filter"), frozenset({"facet_filter", "key"})),
    "retrieve": Rule(_retrieve, frozenset({"ids"})),
    "get_collection": Rule(_collection),
    "get_collections": Rule(_collections),
    "collection_exists": Rule(_plain),
    "info": Rule(_plain),
    "upsert": Rule(_upsert, frozenset({"points", "update_filter"}), writes=True),
    "update_vectors": Rule(_update_vectors, frozenset({"points", "update_filter"}), writes=True),
    "delete_vectors": Rule(_selected("points"), frozenset({"points", "vectors"}), writes=True),
    "delete": Rule(_selected("points_selector"), frozenset({"points_selector"}), writes=True),
    "set_payload": Rule(_set_payload, frozenset({"payload", "points", "key"}), writes=True),
    "overwrite_payload": Rule(_overwrite_payload, frozenset({"payload", "points"}), writes=True),
    "delete_payload": Rule(_delete_payload, frozenset({"keys", "points"}), writes=True),
    "clear_payload": Rule(_clear_payload, frozenset({"points_selector"}), writes=True),
    "batch_update_points": Rule(_batch_update, frozenset({"update_operations"}), writes=True),
    "upload_points": Rule(_upload_points, _UPLOAD | {"points"}, writes=True),
    "upload_collection": Rule(_upload_collection, _UPLOAD | {"vectors", "payload", "ids"}, writes=True),
    "create_payload_index": Rule(_index, _INDEX, writes=True),
    "delete_payload_index": Rule(_index, frozenset({"field_name"}), writes=True),
}

_MADE_BY_APPLY: Final = "collections are made, changed and removed by `multidb apply`, for all tenants"
_ALL_TENANTS: Final = "a snapshot has the points of all tenants; `multidb backup` makes sets of an app"
_THE_SERVER: Final = "it is about the server, which is its operator's"
_NO_ALIASES: Final = "an app's token knows its collections by their own names, so no alias is a way to them"
_PAST: Final = "it leads past the tenant"

REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "create_collection",
            "recreate_collection",
            "update_collection",
            "delete_collection",
            "create_vector_name",
            "delete_vector_name",
            "create_shard_key",
            "delete_shard_key",
        ),
        _MADE_BY_APPLY,
    ),
    **dict.fromkeys(
        (
            *("create_snapshot", "delete_snapshot", "list_snapshots", "recover_snapshot"),
            *("create_full_snapshot", "delete_full_snapshot", "list_full_snapshots"),
            *("create_shard_snapshot", "delete_shard_snapshot", "list_shard_snapshots", "recover_shard_snapshot"),
        ),
        _ALL_TENANTS,
    ),
    **dict.fromkeys(
        (
            *("cluster_collection_update", "cluster_status", "cluster_telemetry", "collection_cluster_info"),
            *("recover_current_peer", "remove_peer", "get_optimizations", "list_shard_keys"),
        ),
        _THE_SERVER,
    ),
    **dict.fromkeys(("get_aliases", "get_collection_aliases", "update_collection_aliases"), _NO_ALIASES),
    **dict.fromkeys(("migrate", "http", "grpc_points", "grpc_collections", "init_options"), _PAST),
}
"""Why each of these is refused."""

ASKS_NO_SERVER: Final = frozenset(
    {
        *("close", "DEFAULT_BATCH_SIZE", "get_embedding_size", "list_text_models", "list_image_models"),
        *("list_late_interaction_text_models", "list_late_interaction_multimodal_models", "list_sparse_models"),
    }
)
"""What talks to nobody."""
