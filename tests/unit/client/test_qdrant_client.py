"""The tenant's client, on local mode in memory: no call reaches a point of another tenant."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from multidb.client.qdrant import AppQdrant, TenantCollection, connect

NEAR, FAR = [1.0, 0.0], [0.0, 1.0]


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    found = QdrantClient(":memory:")
    found.create_collection("app_docs", models.VectorParams(size=2, distance=models.Distance.COSINE))
    yield found
    found.close()


@pytest.fixture
def acme(client: QdrantClient) -> TenantCollection:
    return TenantCollection(client, "app_docs", "acme")


@pytest.fixture
def other(client: QdrantClient) -> TenantCollection:
    found = TenantCollection(client, "app_docs", "other")
    found.upsert([point(100, NEAR, kind="secret")])
    return found


def point(number: int | str, vector: list[float] = NEAR, **payload: object) -> models.PointStruct:
    return models.PointStruct(id=number, vector=vector, payload=payload)


def test_every_point_is_stamped_whatever_it_says(client: QdrantClient, acme: TenantCollection) -> None:
    mine = point(1, kind="a", tenant_id="other")
    acme.upsert([mine, models.PointStruct(id=2, vector=FAR)])
    assert [record.payload for record in client.retrieve("app_docs", [1, 2])] == [
        {"kind": "a", "tenant_id": "acme"},
        {"tenant_id": "acme"},
    ]
    assert mine.payload == {"kind": "a", "tenant_id": "other"}, "the caller's point is not changed"
    acme.upsert([])


def test_a_point_of_another_tenant_is_not_overwritten(
    client: QdrantClient, acme: TenantCollection, other: TenantCollection
) -> None:
    acme.upsert([point(100, FAR, kind="mine")])
    (kept,) = client.retrieve("app_docs", [100])
    assert kept.payload == {"kind": "secret", "tenant_id": "other"}
    acme.upsert([point(7, kind="old")])
    acme.upsert([point(7, kind="new")])
    assert acme.retrieve([7])[0].payload == {"kind": "new", "tenant_id": "acme"}


def test_search_sees_the_tenant_only(acme: TenantCollection, other: TenantCollection) -> None:
    assert acme.search(NEAR) == []
    acme.upsert([point(1, FAR)])
    assert [found.id for found in acme.search(NEAR)] == [1]
    assert [found.id for found in other.search(NEAR)] == [100]


def test_a_condition_of_the_caller_narrows_and_never_widens(acme: TenantCollection, other: TenantCollection) -> None:
    acme.upsert([point(1, kind="a"), point(2, kind="b")])
    either = models.Filter(
        should=[
            models.FieldCondition(key="kind", match=models.MatchValue(value="a")),
            models.FieldCondition(key="tenant_id", match=models.MatchValue(value="other")),
        ]
    )
    assert [found.id for found in acme.search(NEAR, where=either)] == [1]
    assert [found.id for found in acme.scroll(where=either)[0]] == [1]
    assert acme.count(either) == 1
    nothing = models.Filter(must_not=[models.FieldCondition(key="kind", match=models.MatchValue(value="zzz"))])
    assert acme.count(nothing) == 2


@pytest.mark.parametrize("option", ["prefetch", "lookup_from", "query_filter"])
def test_options_that_read_past_the_filter_are_refused(acme: TenantCollection, option: str) -> None:
    with pytest.raises(ValueError, match=option):
        acme.search(NEAR, **{option: None})


def test_retrieve_scroll_and_count_see_the_tenant_only(acme: TenantCollection, other: TenantCollection) -> None:
    acme.upsert([point(n) for n in range(5)])
    assert [record.id for record in acme.retrieve([1, 100])] == [1]
    assert acme.retrieve([]) == []
    first, offset = acme.scroll(limit=3)
    rest, end = acme.scroll(limit=3, offset=offset)
    assert [record.id for record in first + rest] == [0, 1, 2, 3, 4]
    assert end is None
    assert acme.count() == 5


def test_delete_reaches_the_tenant_only(acme: TenantCollection, other: TenantCollection) -> None:
    acme.upsert([point(n, kind="a" if n % 2 else "b") for n in range(4)])
    acme.delete([0, 100])
    assert (acme.count(), other.count()) == (3, 1)
    acme.delete(where=models.Filter(must=[models.FieldCondition(key="kind", match=models.MatchValue(value="a"))]))
    assert (acme.count(), other.count()) == (1, 1)
    acme.delete(where=models.Filter())
    assert (acme.count(), other.count()) == (0, 1)


def test_delete_wants_to_know_what(acme: TenantCollection) -> None:
    with pytest.raises(ValueError, match="either"):
        acme.delete()
    with pytest.raises(ValueError, match="either"):
        acme.delete([1], where=models.Filter())


def test_nobody_is_not_a_tenant(client: QdrantClient) -> None:
    with pytest.raises(ValueError, match="empty"):
        AppQdrant(client, "app_", "acme").collection("docs", tenant="")


def test_connect_reads_the_apps_environment(tmp_path: Path) -> None:
    folder = str(tmp_path / "q")
    env = {"QDRANT_PATH": folder, "QDRANT_COLLECTION_PREFIX": "lernmi_", "APP_TENANT_ID": "lern-mi"}
    with connect(env) as qdrant:
        qdrant.client.create_collection("lernmi_docs", models.VectorParams(size=2, distance=models.Distance.DOT))
        docs = qdrant.collection("docs")
        assert (docs.name, docs.tenant) == ("lernmi_docs", "lern-mi")
        docs.upsert([point(str(uuid.uuid4()))])
        assert (docs.count(), qdrant.collection("docs", tenant="other").count()) == (1, 0)
    with connect(env) as again:
        assert again.collection("docs").count() == 1, "the folder was let go and kept its data"


def test_connect_to_a_server_makes_no_call_and_no_noise() -> None:
    env = {
        "QDRANT_URL": "http://127.0.0.1:1",
        "QDRANT_API_KEY": "token",
        "QDRANT_COLLECTION_PREFIX": "a_",
        "APP_TENANT_ID": "a",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with connect(env) as qdrant:
            assert qdrant.collection().name == "a_knowledge"


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(KeyError, match="QDRANT_COLLECTION_PREFIX"):
        connect({"APP_TENANT_ID": "a"})
