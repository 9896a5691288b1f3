"""Every way in which a call as one tenant could read, change or remove a point of another, for each method of Qdrant's
client. Ids below 9876501 are acme's, from 9876501 on the other tenant's; whatever that one has says ``secret``."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qdrant_client import models

NEAR, FAR, ASIDE = [1.0, 0.0], [0.0, 1.0], [0.7, 0.7]
COLLECTION = "docs"
THEIRS = (9876501, 9876502, "11111111-2222-3333-4444-555555555555")
OTHER = models.FieldCondition(key="tenant_id", match=models.MatchValue(value="other"))
SECRET = models.FieldCondition(key="kind", match=models.MatchValue(value="secret"))
NONE = models.FieldCondition(key="kind", match=models.MatchValue(value="nobody's"))

WIDENING: dict[str, Any] = {
    "nothing": None,
    "empty": models.Filter(),
    "the other tenant": models.Filter(must=[OTHER]),
    "should": models.Filter(should=[OTHER, SECRET]),
    "should without must": models.Filter(should=[models.Filter(must=[OTHER]), models.Filter()]),
    "nested should": models.Filter(should=[models.Filter(should=[OTHER])]),
    "min_should 1": models.Filter(min_should=models.MinShould(conditions=[OTHER, SECRET, NONE], min_count=1)),
    "must_not": models.Filter(must_not=[NONE]),
    "must_not mine": models.Filter(
        must_not=[models.FieldCondition(key="tenant_id", match=models.MatchValue(value="acme"))]
    ),
    "has_id": models.Filter(must=[models.HasIdCondition(has_id=list(THEIRS))]),
    "should has_id": models.Filter(should=[models.HasIdCondition(has_id=list(THEIRS)), OTHER]),
    "is_empty": models.Filter(should=[models.IsEmptyCondition(is_empty=models.PayloadField(key="nothing"))]),
    "deep": models.Filter(must=[models.Filter(should=[models.Filter(must_not=[models.Filter(must=[NONE])])])]),
}


def point(number: int | str, vector: list[float] = NEAR, **payload: Any) -> models.PointStruct:
    return models.PointStruct(id=number, vector=vector, payload=payload)


@dataclass(frozen=True)
class Attack:
    """One call; `fails` where it has to be refused, with a part of the message."""

    method: str
    arguments: dict[str, Any]
    why: str
    fails: str = ""

    def __str__(self) -> str:
        return f"{self.method}: {self.why}"


def attacks() -> Iterator[Attack]:
    yield from _reads()
    yield from _starts()
    yield from _writes()
    yield from _payloads()


def _reads() -> Iterator[Attack]:
    for why, where in WIDENING.items():
        yield Attack("query_points", {"query": NEAR, "query_filter": where, "limit": 50}, why)
        yield Attack("query_points", {"query_filter": where, "limit": 50}, f"{why}, no query")
        prefetch = models.Prefetch(query=NEAR, filter=where, limit=50)
        yield Attack("query_points", {"query": FAR, "prefetch": prefetch, "limit": 50}, f"prefetch, {why}")
        fused = [prefetch, models.Prefetch(prefetch=[prefetch], query=FAR, limit=50)]
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        yield Attack("query_points", {"query": fusion, "prefetch": fused, "limit": 50}, f"fusion, {why}")
        grouped = {"query": NEAR, "group_by": "kind", "query_filter": where, "limit": 9, "group_size": 9}
        yield Attack("query_points_groups", grouped, why)
        request = models.QueryRequest(query=NEAR, filter=where, limit=50, with_payload=True, prefetch=fused)
        yield Attack("query_batch_points", {"requests": [request, models.QueryRequest(limit=50)]}, why)
        yield Attack("search_matrix_pairs", {"query_filter": where, "sample": 50, "limit": 50}, why)
        yield Attack("search_matrix_offsets", {"query_filter": where, "sample": 50, "limit": 50}, why)
        yield Attack("scroll", {"scroll_filter": where, "limit": 50, "with_vectors": True}, why)
        yield Attack("count", {"count_filter": where}, why)
        yield Attack("facet", {"key": "kind", "facet_filter": where, "exact": True}, why)
        yield Attack("facet", {"key": "tenant_id", "facet_filter": where, "exact": True}, f"tenants, {why}")
    yield Attack("scroll", {"offset": 9876501, "limit": 50}, "from another's point on")
    yield Attack("retrieve", {"ids": [1, *THEIRS]}, "ids")
    yield Attack("retrieve", {"ids": [uuid.UUID(str(THEIRS[2])), str(THEIRS[2]).upper()]}, "a UUID")
    yield Attack("retrieve", {"ids": list(THEIRS), "with_vectors": True, "with_payload": ["kind"]}, "vectors")
    lookup = models.WithLookup(collection=COLLECTION)
    yield Attack(
        "query_points_groups", {"query": NEAR, "group_by": "n", "with_lookup": lookup}, "lookup", "with_lookup reads"
    )
    yield Attack("get_collection", {}, "how many points there are")


def _starts() -> Iterator[Attack]:
    """Queries that start from a point of another's: their order would tell what it is like."""
    recommend, pair = (
        models.RecommendInput(positive=[1], negative=[9876501]),
        models.ContextPair(positive=9876501, negative=1),
    )
    feedback = models.RelevanceFeedbackInput(
        target=NEAR,
        feedback=[models.FeedbackItem(example=9876502, score=1.0)],
        strategy=models.NaiveFeedbackStrategy(naive=models.NaiveFeedbackStrategyParams(a=1.0, b=1.0, c=1.0)),
    )
    queries = {
        "id": 9876501,
        "UUID": THEIRS[2],
        "nearest": models.NearestQuery(nearest=9876501),
        "recommend": models.RecommendQuery(recommend=recommend),
        "discover": models.DiscoverQuery(discover=models.DiscoverInput(target=1, context=[pair])),
        "discover a target": models.DiscoverQuery(discover=models.DiscoverInput(target=9876501, context=[])),
        "context": models.ContextQuery(context=pair),
        "feedback": models.RelevanceFeedbackQuery(relevance_feedback=feedback),
    }
    for why, query in queries.items():
        lost = "does not have all"
        yield Attack("query_points", {"query": query}, f"start from {why}", lost)
        prefetch = models.Prefetch(query=query, limit=3)
        deep = models.Prefetch(prefetch=prefetch, limit=3)
        yield Attack("query_points", {"query": NEAR, "prefetch": [deep]}, f"prefetch from {why}", lost)
        yield Attack("query_points_groups", {"query": query, "group_by": "kind"}, f"start from {why}", lost)
        yield Attack("query_batch_points", {"requests": [models.QueryRequest(query=query)]}, f"start {why}", lost)
        request = models.QueryRequest(query=NEAR, prefetch=deep)
        yield Attack("query_batch_points", {"requests": [request]}, f"prefetch from {why}", lost)
    elsewhere = models.LookupLocation(collection=COLLECTION)
    yield Attack("query_points", {"query": 9876501, "lookup_from": elsewhere}, "lookup_from", "does not have all")


def _selectors() -> dict[str, Any]:
    filters = {why: where for why, where in WIDENING.items() if where is not None}
    return {
        "ids": list(THEIRS),
        "PointIdsList": models.PointIdsList(points=list(THEIRS)),
        **filters,
        **{f"selector, {why}": models.FilterSelector(filter=where) for why, where in filters.items()},
    }


def _writes() -> Iterator[Attack]:
    stolen = [point(number, FAR, kind="stolen", tenant_id="other") for number in (1, *THEIRS)]
    given = {"vectors": [FAR] * 3, "payloads": [{"tenant_id": "other"}] * 3}
    batch = models.Batch(ids=list(THEIRS), **given)
    for why, where in WIDENING.items():
        yield Attack("upsert", {"points": stolen, "update_filter": where}, why)
        moved = [models.PointVectors(id=number, vector=FAR) for number in THEIRS]
        yield Attack("update_vectors", {"points": moved, "update_filter": where}, why)
        yield Attack("upload_points", {"points": stolen, "update_filter": where, "wait": True, "batch_size": 2}, why)
        operations = [
            models.UpsertOperation(upsert=models.PointsList(points=stolen, update_filter=where)),
            models.UpsertOperation(upsert=models.PointsBatch(batch=batch, update_filter=where)),
            models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=moved, update_filter=where)),
        ]
        yield Attack("batch_update_points", {"update_operations": operations}, why)
    yield Attack("upsert", {"points": batch}, "a batch")
    yield Attack("upsert", {"points": models.Batch(ids=[5], vectors=[NEAR])}, "a batch without payload")
    yield Attack("upsert", {"points": [models.PointStruct(id=6, vector=NEAR)]}, "a point without payload")
    uploaded = {"vectors": np.array([FAR] * 3), "ids": list(THEIRS), "payload": [{"tenant_id": "other"}] * 3}
    yield Attack("upload_collection", {**uploaded, "wait": True}, "ids")
    yield Attack("upload_collection", {"vectors": [FAR, FAR], "wait": True}, "no ids, no payload")
    yield Attack("upload_points", {"points": stolen, "parallel": 4}, "processes", "parallel starts")
    for why, selector in _selectors().items():
        yield Attack("delete", {"points_selector": selector}, why)
        yield Attack("delete_vectors", {"points": selector, "vectors": [""]}, why)
        yield Attack("set_payload", {"payload": {"kind": "stolen", "tenant_id": "x"}, "points": selector}, why)
        yield Attack("set_payload", {"payload": {"a": 1}, "points": selector, "key": "deep"}, f"key, {why}")
        yield Attack("overwrite_payload", {"payload": {"tenant_id": "other"}, "points": selector}, why)
        yield Attack("delete_payload", {"keys": ["kind"], "points": selector}, why)
        yield Attack("clear_payload", {"points_selector": selector}, why)
    for why, part in {"points": {"points": list(THEIRS)}, "filter": {"filter": models.Filter(must=[OTHER])}}.items():
        selector = (
            models.PointIdsList(points=list(THEIRS))
            if "points" in part
            else models.FilterSelector(filter=part["filter"])
        )
        payload = {"payload": {"tenant_id": "other"}, **part}
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(**payload)),
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(**payload)),
            models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["kind"], **part)),
            models.ClearPayloadOperation(clear_payload=selector),
            models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(vector=[""], **part)),
            models.DeleteOperation(delete=selector),
        ]
        for operation in operations:
            yield Attack(
                "batch_update_points", {"update_operations": [operation]}, f"{type(operation).__name__}, {why}"
            )


def _payloads() -> Iterator[Attack]:
    """The tenant's own points must not become another's, or nobody's."""
    mine: dict[str, Any] = {"points": [1, 2]}
    yield Attack("set_payload", {"payload": {"tenant_id": "other", "app_name": "x"}, **mine}, "move my point")
    yield Attack("overwrite_payload", {"payload": {}, **mine}, "empty")
    yield Attack("clear_payload", {"points_selector": [1, 2]}, "mine")
    says = "says whose a point is"
    for key in (
        "tenant_id",
        '"tenant_id"',
        "tenant_id.x",
        "tenant_id[0]",
        "tenant_id[]",
        " tenant_id",
        '"tenant_id".x',
    ):
        yield Attack("delete_payload", {"keys": ["kind", key], **mine}, f"remove {key}", says)
        yield Attack("set_payload", {"payload": {"a": 1}, "key": key, **mine}, f"set below {key}", says)
        change = models.SetPayload(payload={"a": 1}, key=key, points=[1])
        operation: Any = models.SetPayloadOperation(set_payload=change)
        yield Attack("batch_update_points", {"update_operations": [operation]}, f"set below {key}", says)
        operation = models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=[key], points=[1]))
        yield Attack("batch_update_points", {"update_operations": [operation]}, f"remove {key}", says)
    yield Attack("delete_payload", {"keys": "tenant_id", **mine}, "one text", "a list of paths")
    both = models.SetPayload(payload={}, points=[1], filter=models.Filter())
    operation = models.SetPayloadOperation(set_payload=both)
    yield Attack(
        "batch_update_points", {"update_operations": [operation]}, "ids and a filter", "either ids or a filter"
    )
    yield Attack("delete_payload_index", {"field_name": "tenant_id"}, "the tenant's index", "multidb apply")
    yield Attack("create_payload_index", {"field_name": '"tenant_id"', "field_schema": "keyword"}, "i", "multidb apply")


@dataclass
class Caller:
    """A tenant's client, one that waits or one that awaits, and the bare one behind it, for looking.

    Args:
        lenient: the server may refuse what nothing is said of; a version of it may not know each kind of query.
    """

    client: Any
    bare: Any
    name: str
    lenient: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def call(self, method: str, **arguments: Any) -> Any:
        return self.run(getattr(self.client, method)(**arguments))

    def run(self, answer: Any) -> Any:
        return self.loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def everything(self) -> dict[Any, tuple[Any, Any]]:
        """Every point of the collection as it is, whosever."""
        records, _ = self.run(self.bare.scroll(self.name, limit=1000, with_payload=True, with_vectors=True))
        return {record.id: (record.payload, record.vector) for record in records}

    def fill(self) -> None:
        """Makes the points of the two tenants what they are at the start."""
        self.run(self.bare.delete(self.name, models.FilterSelector(filter=models.Filter()), wait=True))
        mine = [point(n, ASIDE if n % 2 else NEAR, kind="mine", n=n, deep={"b": 1}) for n in range(1, 5)]
        self.call("upsert", collection_name=COLLECTION, points=mine)
        theirs = [point(number, NEAR, kind="secret", deep={"b": 2}) for number in THEIRS]
        self.run(self.client.for_tenant("other").upsert(COLLECTION, theirs))

    def withstands(self, attack: Attack) -> None:
        """Makes the call, and looks that the other tenant's points are as before, untold of, and that every point is
        somebody's."""
        before = self.everything()
        assert {number for number in before if number in THEIRS} == set(THEIRS)
        failure = ""
        answer: Any = None
        try:
            answer = self.call(attack.method, collection_name=COLLECTION, **attack.arguments)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        if attack.fails:
            assert attack.fails in failure, f"{attack} was not refused: {failure or answer}"
        else:
            assert self.lenient or not failure, f"{attack}: {failure}"
        told = "" if attack.method == "get_collection" else repr(answer)  # its figures are those of the configuration
        for sign in ("secret", "other", *(repr(number) for number in THEIRS)):
            assert sign not in told, f"{attack} told of the other tenant: {told}"
        if attack.method == "get_collection" and answer is not None:
            assert (answer.points_count, answer.indexed_vectors_count) == (None, None)
        if attack.method == "count" and answer is not None:
            assert answer.count <= 4, attack
        after = self.everything()
        theirs = {number: after.get(number) for number in THEIRS}
        assert theirs == {number: before[number] for number in THEIRS}, attack
        rest = {number: content for number, content in after.items() if number not in THEIRS}
        assert all(payload.get("tenant_id") == "acme" for payload, _ in rest.values()), (attack, rest)
        assert all(payload.get("app_name") == "lernmi" for payload, _ in rest.values()), (attack, rest)


def model_fields() -> dict[str, set[str]]:
    """The fields of the library's models through which a request could name points: a new one has to be thought of."""
    names = ("QueryRequest", "Prefetch", "LookupLocation", "SetPayload", "DeletePayload", "DeleteVectors")
    names += ("UpdateVectors", "PointsList", "PointsBatch", "Filter", "RecommendInput", "DiscoverInput", "ContextPair")
    names += ("RelevanceFeedbackInput", "FeedbackItem", "NearestQuery", "Mmr", "PointIdsList", "FilterSelector")
    return {name: set(getattr(models, name).model_fields) for name in names}
