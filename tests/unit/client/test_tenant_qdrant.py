"""The tenant's client on Qdrant's local mode: whatever a call asks for, it reaches no point of another tenant."""

from __future__ import annotations

import asyncio
import inspect
import typing
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.client_base import QdrantBase

from multidb.client.errors import CallRefused, PointMissing
from multidb.client.qdrant import AsyncTenantQdrant, TenantQdrant
from multidb.client.qdrant.boundary import AsyncBoundary, Boundary
from multidb.client.qdrant.rules import ASKS_NO_SERVER, PLAIN, REFUSED, RULES
from multidb.client.qdrant.tenant import first_key, referenced_ids
from multidb.client.retries import Retries
from multidb.client.source import Source
from tests.support.tenant_attacks import ASIDE, COLLECTION, NEAR, THEIRS, Attack, Caller, attacks, model_fields, point

NAME = "lernmi_docs"


def source() -> Source:
    variables = {
        "QDRANT_PATH": ":memory:",
        "QDRANT_COLLECTION_PREFIX": "lernmi_",
        "APP_TENANT_ID": "acme",
        "APP_NAME": "lernmi",
    }
    return Source(lambda: variables, "the test's variables")


@pytest.fixture(params=[TenantQdrant, AsyncTenantQdrant], ids=["waits", "awaits"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    client = request.param(source(), Retries())
    found = Caller(client, client._client.connection.bare, NAME)
    found.run(found.bare.create_collection(NAME, models.VectorParams(size=2, distance=models.Distance.DOT)))
    yield found
    found.run(client.close())
    found.loop.close()


ATTACKS = list(attacks())


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
@pytest.mark.parametrize("method", sorted({attack.method for attack in ATTACKS}))
def test_no_call_reaches_another_tenants_point(caller: Caller, method: str) -> None:
    for attack in ATTACKS:
        if attack.method == method:
            caller.fill()
            caller.withstands(attack)


def test_the_attacks_would_succeed_without_the_tenant(caller: Caller) -> None:
    """The control: the bare client reads, moves and removes the other's points."""
    caller.fill()
    where = models.Filter(should=[models.HasIdCondition(has_id=list(THEIRS))])
    found = caller.run(caller.bare.query_points(NAME, query=NEAR, query_filter=where))
    assert {hit.payload["kind"] for hit in found.points} == {"secret"}
    bare = Caller(_Everybody(caller.bare), caller.bare, NAME, loop=caller.loop)
    breached = 0
    for attack in ATTACKS:
        if attack.method in ("scroll", "delete", "clear_payload", "set_payload", "upsert") and not attack.fails:
            caller.fill()
            try:
                bare.withstands(attack)
            except AssertionError:
                breached += 1
    assert breached > 60


class _Everybody:
    """The bare client, which is given the collection's full name."""

    def __init__(self, bare: Any) -> None:
        self._bare = bare

    def __getattr__(self, method: str) -> Any:
        def call(**arguments: Any) -> Any:
            given = {name: value for name, value in arguments.items() if value is not None}
            return getattr(self._bare, method)(**{**given, "collection_name": NAME})

        return call


# --- nothing is left out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [QdrantClient, AsyncQdrantClient, QdrantBase])
def test_every_public_method_is_covered_or_refused(client: type) -> None:
    known = {*RULES, *REFUSED, *ASKS_NO_SERVER}
    assert {name for name in dir(client) if not name.startswith("_")} - known == set()
    assert not RULES.keys() & REFUSED.keys()


def test_no_method_of_the_library_is_left_standing_in_the_boundary() -> None:
    names = {name for name in dir(QdrantBase) if not name.startswith("_")}
    for boundary in (Boundary, AsyncBoundary):
        assert all(getattr(boundary, name) is not getattr(QdrantBase, name) for name in names)


@pytest.mark.parametrize("method", sorted(RULES))
def test_every_argument_of_a_covered_method_is_known(method: str) -> None:
    for client in (QdrantClient, AsyncQdrantClient):
        names = set(inspect.signature(getattr(client, method)).parameters) - {"self", "kwargs"}
        assert names - PLAIN - RULES[method].takes == set()


def test_every_covered_method_is_attacked() -> None:
    say_nothing = {"info", "collection_exists", "get_collections"}
    assert {attack.method for attack in ATTACKS} == RULES.keys() - say_nothing


def test_models_have_no_field_that_nobody_thought_of() -> None:
    few = {"prefetch", "query", "using", "filter", "params", "score_threshold", "limit", "lookup_from"}
    assert model_fields() == {
        "QueryRequest": few | {"shard_key", "offset", "with_vector", "with_payload"},
        "Prefetch": few,
        "LookupLocation": {"collection", "vector", "shard_key"},
        "SetPayload": {"payload", "points", "filter", "shard_key", "key"},
        "DeletePayload": {"keys", "points", "filter", "shard_key"},
        "DeleteVectors": {"vector", "points", "filter", "shard_key"},
        "UpdateVectors": {"points", "shard_key", "update_filter"},
        "PointsList": {"points", "shard_key", "update_filter", "update_mode"},
        "PointsBatch": {"batch", "shard_key", "update_filter", "update_mode"},
        "Filter": {"should", "min_should", "must", "must_not"},
        "RecommendInput": {"positive", "negative", "strategy"},
        "DiscoverInput": {"target", "context"},
        "ContextPair": {"positive", "negative"},
        "RelevanceFeedbackInput": {"target", "feedback", "strategy"},
        "FeedbackItem": {"example", "score"},
        "NearestQuery": {"nearest", "mmr"},
        "Mmr": {"diversity", "candidates_limit"},
        "PointIdsList": {"points", "shard_key"},
        "FilterSelector": {"filter", "shard_key"},
    }


def test_every_kind_of_query_is_known() -> None:
    for kind in typing.get_args(models.Query):
        list(referenced_ids(kind.model_construct(**dict.fromkeys(kind.model_fields, None)))) if kind not in (
            models.RecommendQuery,
            models.DiscoverQuery,
            models.RelevanceFeedbackQuery,
        ) else None
    with pytest.raises(CallRefused, match="dict is not known"):
        list(referenced_ids({"nearest": 1}))


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_what_leads_past_the_tenant_is_refused_in_words(caller: Caller, method: str) -> None:
    with pytest.raises(CallRefused, match=f"{method} is refused: "):
        caller.run(_called(caller.client, method))


def _called(client: Any, method: str) -> Any:
    found = getattr(client, method)
    parameters = inspect.signature(found).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return found(**dict.fromkeys(needed, 1))


def test_a_method_that_only_a_later_version_has_is_refused(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallRefused, match="read_everything is refused: this version of multidb does not know it"):
        caller.run(caller.client._client.run("read_everything", {}))
    with pytest.raises(CallRefused, match="read_past is not known here"):
        caller.run(caller.client._client.scroll(collection_name=COLLECTION, read_past=1))


# --- what it is like to use ----------------------------------------------------------------------------------------


def test_a_tenant_works_with_its_own_points(caller: Caller) -> None:
    caller.fill()
    found = caller.call("query_points", collection_name=COLLECTION, query=NEAR, limit=10)
    assert sorted(hit.id for hit in found.points) == [1, 2, 3, 4]
    assert caller.call("count", collection_name=COLLECTION).count == 4
    other = caller.client.for_tenant("other")
    assert caller.run(other.count(COLLECTION)).count == 3
    assert other.tenant == "other"
    start = caller.call("query_points", collection_name=COLLECTION, query=1, limit=10)
    assert sorted(hit.id for hit in start.points) == [2, 3, 4], "from a point of its own"
    records = caller.call("retrieve", collection_name=COLLECTION, ids=[3, 1, 99, 3])
    assert [record.id for record in records] == [3, 1]
    assert caller.call("retrieve", collection_name=COLLECTION, ids=[]) == []
    caller.call("delete", collection_name=COLLECTION, points_selector=[1])
    caller.call("delete", collection_name=COLLECTION, points_selector=models.Filter())
    assert caller.call("count", collection_name=COLLECTION).count == 0
    assert caller.run(other.count(COLLECTION)).count == 3


def test_each_prefetch_is_of_the_tenants_points(caller: Caller) -> None:
    """Those of others would take the places of its own: theirs are nearer, and a prefetch has few places."""
    caller.fill()
    nearer = [point(number, [9.0, 0.0], kind="secret") for number in THEIRS]
    caller.run(caller.client.for_tenant("other").upsert(COLLECTION, nearer))
    few = models.Prefetch(query=NEAR, limit=3)
    for prefetch in (few, [few], models.Prefetch(prefetch=few, query=NEAR, limit=3)):
        found = caller.call("query_points", collection_name=COLLECTION, query=ASIDE, prefetch=prefetch)
        assert len(found.points) == 3
        request = models.QueryRequest(query=ASIDE, prefetch=prefetch, limit=10)
        (found,) = caller.call("query_batch_points", collection_name=COLLECTION, requests=[request])
        assert len(found.points) == 3


def test_what_is_written_says_whose_it_is_and_when(caller: Caller) -> None:
    mine = point(1, kind="a", tenant_id="other", app_name="x")
    kept = point(2, created_at="2020-01-01T00:00:00+00:00")
    caller.call("upsert", collection_name=COLLECTION, points=[mine, kept])
    (one, _), (two, _) = caller.everything()[1], caller.everything()[2]
    assert {**one, "created_at": ""} == {"kind": "a", "tenant_id": "acme", "app_name": "lernmi", "created_at": ""}
    assert one["created_at"].startswith("20")
    assert two["created_at"] == "2020-01-01T00:00:00+00:00"
    assert mine.payload == {"kind": "a", "tenant_id": "other", "app_name": "x"}, "the caller's point is not changed"
    caller.call("upsert", collection_name=COLLECTION, points=[point(1, kind="new")])
    assert caller.everything()[1][0]["kind"] == "new", "a point of one's own is written again"
    caller.call("set_payload", collection_name=COLLECTION, payload={"more": 1}, points=[1])
    assert caller.everything()[1][0]["more"] == 1
    caller.call("clear_payload", collection_name=COLLECTION, points_selector=[1])
    assert set(caller.everything()[1][0]) == {"tenant_id", "app_name", "created_at"}


def test_uploads_reach_the_collection_as_the_tenants(caller: Caller) -> None:
    points = (point(number) for number in range(10))
    caller.run(caller.client.upload_points(COLLECTION, points, batch_size=3, wait=True))
    vectors = [NEAR, ASIDE]
    caller.run(caller.client.upload_collection(COLLECTION, vectors, payload=[{"kind": "a"}, {"kind": "b"}], wait=True))
    everything = caller.everything()
    assert len(everything) == 12
    assert {payload["tenant_id"] for payload, _ in everything.values()} == {"acme"}


def test_names_are_those_of_the_manifest(caller: Caller) -> None:
    caller.run(caller.bare.create_collection("strange", models.VectorParams(size=2, distance=models.Distance.DOT)))
    assert [one.name for one in caller.call("get_collections").collections] == [COLLECTION]
    assert caller.call("collection_exists", collection_name=COLLECTION) is True
    assert caller.call("collection_exists", collection_name="strange") is False
    info = caller.call("get_collection", collection_name=COLLECTION)
    assert info.config.params.vectors.size == 2
    assert info.points_count is None


def test_nobody_is_not_a_tenant(caller: Caller) -> None:
    for nobody in ("", None, 0):
        with pytest.raises(CallRefused, match="not empty"):
            caller.client.for_tenant(nobody)


def test_points_and_filters_of_other_kinds_are_refused(caller: Caller) -> None:
    from qdrant_client import grpc

    for method, arguments in {
        "scroll": {"scroll_filter": grpc.Filter()},
        "upsert": {"points": [grpc.PointStruct()]},
        "delete": {"points_selector": grpc.PointsSelector()},
        "query_points": {"query": NEAR, "prefetch": grpc.PrefetchQuery()},
        "retrieve": {"ids": [grpc.PointId(num=9876501)]},
    }.items():
        with pytest.raises(CallRefused, match="here"):
            caller.call(method, collection_name=COLLECTION, **arguments)


def test_a_point_that_is_not_there_and_one_of_anothers_look_the_same(caller: Caller) -> None:
    caller.fill()
    said = set()
    for number in (99, 9876501):
        with pytest.raises(PointMissing) as raised:
            caller.call("query_points", collection_name=COLLECTION, query=number)
        said.add(str(raised.value))
    assert len(said) == 1


def test_a_client_that_only_reads_refuses_what_writes() -> None:
    client = TenantQdrant(source(), Retries(), read_only=True)
    bare = client._client.connection.bare  # type: ignore[attr-defined]
    bare.create_collection(NAME, models.VectorParams(size=2, distance=models.Distance.DOT))
    assert client.count(COLLECTION).count == 0
    for method in (name for name, rule in RULES.items() if rule.writes):
        with pytest.raises(CallRefused, match=f"{method} writes"):
            getattr(client._client, method)(collection_name=COLLECTION)
    assert {name for name, rule in RULES.items() if rule.writes} == {
        name for name in RULES if name.startswith(("up", "set", "over", "delete", "clear", "batch", "create"))
    }
    client.close()


def test_another_tenants_client_that_goes_leaves_the_connection_open() -> None:
    client = TenantQdrant(source(), Retries())
    client.for_tenant("other").close()
    del client.for_tenant("other")._model_embedder
    assert client.get_collections().collections == []
    kept = client.for_tenant("third")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        kept.get_collections()


def test_an_old_server_would_write_over_other_tenants_and_is_refused() -> None:
    client = TenantQdrant(source(), Retries())
    connection = client._client.connection  # type: ignore[attr-defined]
    connection.version_is_known = False
    connection.bare.info = lambda: models.VersionInfo(title="qdrant", version="1.15.5")
    with pytest.raises(CallRefused, match=r"1\.15\.5 writes over points of other tenants"):
        client.upsert(COLLECTION, [point(1)])
    connection.bare.info = lambda: models.VersionInfo(title="qdrant", version="1.16.0")
    connection.bare.create_collection(NAME, models.VectorParams(size=2, distance=models.Distance.DOT))
    client.upsert(COLLECTION, [point(str(uuid.uuid4()))])
    assert client.count(COLLECTION).count == 1
    client.close()


def test_grpc_with_an_authority_of_its_own_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    variables = {**dict(source()._variables), "QDRANT_PATH": "", "QDRANT_URL": "https://127.0.0.1:1"}
    of_server = Source(lambda: {**variables, "QDRANT_CA_FILE": "/ca.pem"}, "here")
    with pytest.raises(CallRefused, match=r"set GRPC_DEFAULT_SSL_ROOTS_FILE_PATH to /ca\.pem"):
        TenantQdrant(of_server, Retries(), grpc=True)


@pytest.mark.parametrize(
    ("path", "key"),
    [("a", "a"), ("a.b", "a"), ('"a.b".c', "a.b"), ("a[0].b", "a"), (' "a"', "a"), (" a ", "a"), ("", ""), (".a", "")],
)
def test_the_first_key_of_a_path(path: str, key: str) -> None:
    assert first_key(path) == key


def test_two_tenants_side_by_side(caller: Caller) -> None:
    caller.fill()
    if not isinstance(caller.client, AsyncTenantQdrant):
        return

    async def both() -> list[int]:
        ours, theirs = caller.client, caller.client.for_tenant("other")
        found = await asyncio.gather(*(one.count(COLLECTION) for one in (ours, theirs) * 20))
        return [answer.count for answer in found]

    assert caller.loop.run_until_complete(both()) == [4, 3] * 20


def test_an_attack_has_a_name() -> None:
    assert str(Attack("count", {}, "why")) == "count: why"
