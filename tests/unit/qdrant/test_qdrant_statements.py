"""How a change to Qdrant is made: the calls, word for word."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from multidb.model import Action, App, Change, FieldChange, Resource, StoreContext
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import ApiKey, Collection, PayloadIndex, QdrantFacts, Token
from multidb.provisioners.qdrant.provision.statements import Call, claims, independent
from multidb.provisioners.qdrant.provision.tokens import with_expiry

CONTEXT = StoreContext("digi", QdrantFacts("Qdrant", "1.18.3", api_key=True, rbac=True), ServerOptions())
TOKEN = Token(
    name="lernmi", app="lernmi", collections=("lernmi_a", "lernmi_b"), registry="multidb__tokens__digi", token="lernmi"
)


def calls(change: Change) -> list[Call]:
    return [Call.parse(statement.text) for statement in PROVISIONER.statements(change, CONTEXT)]


def collection(**options: Any) -> Collection:
    app = App("lernmi", "lernmi", {"qdrant": AppOptions(collections={"knowledge": options})})
    found = next(each for each in PROVISIONER.desired([app], CONTEXT) if isinstance(each, Collection))
    assert isinstance(found, Collection)
    return found


def create(resource: Resource) -> list[Call]:
    return calls(Change(Action.CREATE, resource, None))


def update(resource: Resource, *fields: str) -> list[Call]:
    return calls(Change(Action.UPDATE, resource, resource, tuple(FieldChange(field, None, 1) for field in fields)))


def test_a_token_is_never_minted_without_the_access_claim() -> None:
    """Qdrant takes a token without `access`, or with a misspelt one, for an administrator's."""
    minted = claims(TOKEN)
    assert minted == {
        "access": [{"collection": "lernmi_a", "access": "prw"}, {"collection": "lernmi_b", "access": "prw"}],
        "value_exists": {
            "collection": "multidb__tokens__digi",
            "matches": [{"key": "app", "value": "lernmi"}],
        },
        "exp": "+365d",
        "subject": "lernmi",
    }
    assert isinstance(claims(dataclasses.replace(TOKEN, collections=()))["access"], list)


def test_the_lifetime_becomes_a_moment_when_the_token_is_signed() -> None:
    assert with_expiry(claims(dataclasses.replace(TOKEN, days=31)), 1000.9)["exp"] == 1000 + 31 * 86_400


def test_signing_and_sharing_show_what_is_kept_where_and_no_value() -> None:
    (sign,) = create(TOKEN)
    assert (sign.verb, sign.target, sign.http) == ("SIGN", "lernmi/qdrant/token", False)
    assert sign.body == claims(TOKEN)
    (share,) = create(ApiKey(name="lernmi", app="lernmi"))
    assert share.text == "SHARE lernmi/qdrant/token"


def test_a_statement_is_a_request_line_and_a_body_and_reads_back_as_itself() -> None:
    (call,) = create(collection(size=4))
    line, body = call.text.split("\n")
    assert line == "PUT /collections/lernmi_knowledge"
    assert json.loads(body) == call.body
    assert Call.parse(call.text) == call


def test_creation_carries_the_owner_and_every_setting() -> None:
    (call,) = create(
        collection(
            size=4,
            on_disk=True,
            datatype="float16",
            hnsw={"m": 0, "payload_m": 16},
            quantization={"type": "scalar", "quantile": 0.99},
            strict={"max_query_limit": 10},
            on_disk_payload=True,
            shard_number=2,
        )
    )
    assert call.body == {
        "vectors": {"size": 4, "distance": "Cosine", "datatype": "float16", "on_disk": True},
        "on_disk_payload": True,
        "shard_number": 2,
        "hnsw_config": {"m": 0, "payload_m": 16},
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99}},
        "strict_mode_config": {"enabled": True, "max_query_limit": 10},
        "optimizers_config": {"default_segment_number": 1},
        "wal_config": {"wal_capacity_mb": 1},
        "metadata": {"multidb": {"project": "digi", "app": "lernmi"}},
    }


def test_named_and_sparse_vectors() -> None:
    (call,) = create(
        collection(
            vectors={"t": {"size": 3, "distance": "euclid"}},
            sparse={"w": {"modifier": "idf", "on_disk": True}, "x": {}},
        )
    )
    assert call.body["vectors"] == {"t": {"size": 3, "distance": "Euclid"}}
    assert call.body["sparse_vectors"] == {"w": {"index": {"on_disk": True}, "modifier": "idf"}, "x": {}}


def test_quantization_is_switched_off_by_a_second_call_since_creation_knows_no_way() -> None:
    first, second = create(collection(size=4, quantization={"type": "none"}))
    assert "quantization_config" not in first.body
    assert (second.verb, second.body) == ("PATCH", {"quantization_config": "Disabled"})


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("owner", {"metadata": {"multidb": {"project": "digi", "app": "lernmi"}}}),
        ("hnsw", {"hnsw_config": {"m": 8}}),
        ("strict", {"strict_mode_config": {"enabled": True, "max_points_count": 7}}),
        ("quantization", {"quantization_config": {"binary": {"always_ram": True}}}),
        ("params", {"params": {"on_disk_payload": True}}),
        ("vectors_on_disk", {"vectors": {"": {"on_disk": False}}}),
        ("sparse_on_disk", {"sparse_vectors": {"w": {"index": {"on_disk": True}, "modifier": "idf"}}}),
        ("optimizers", {"optimizers_config": {"default_segment_number": 3}}),
    ],
)
def test_an_update_sends_what_changed_and_nothing_else(field: str, body: dict[str, Any]) -> None:
    wanted = collection(
        size=4,
        on_disk=False,
        sparse={"w": {"on_disk": True, "modifier": "idf"}},
        hnsw={"m": 8},
        strict={"max_points_count": 7},
        quantization={"type": "binary", "always_ram": True},
        on_disk_payload=True,
        segments=3,
    )
    (call,) = update(wanted, field)
    assert (call.verb, call.target, call.body) == ("PATCH", "/collections/lernmi_knowledge", body)


def test_several_changed_fields_go_in_one_call() -> None:
    (call,) = update(collection(size=4, hnsw={"m": 8}), "hnsw", "owner")
    assert set(call.body) == {"hnsw_config", "metadata"}


def test_the_tenant_index() -> None:
    index = PayloadIndex(name="c/tenant_id", collection="c", field_name="tenant_id", schema="keyword", is_tenant=True)
    (put,) = create(index)
    assert put.text == (
        "PUT /collections/c/index?wait=true\n"
        '{"field_name": "tenant_id", "field_schema": {"type": "keyword", "is_tenant": true}}'
    )
    assert update(index, "is_tenant") == [put], "the server replaces parameters in place"
    drop, again = update(index, "schema")
    assert (drop.verb, drop.target, again) == ("DELETE", "/collections/c/index/tenant_id?wait=true", put)


def test_nothing_is_done_about_a_conflict_or_a_deletion() -> None:
    for action in (Action.CONFLICT, Action.DELETE):
        assert not calls(Change(action, collection(size=4), collection(size=4)))


def test_calls_go_side_by_side_only_where_none_needs_another() -> None:
    make = [Call("PUT", f"/collections/c{n}", {"vectors": {}}) for n in range(3)]
    index = [Call("PUT", "/collections/c0/index", {"field_name": name}) for name in ("a", "b")]
    sign = [Call("SIGN", "a/qdrant/token", {}), Call("SIGN", "b/qdrant/token", {})]
    assert independent(make + index) == make
    assert independent(index + sign) == index
    assert independent(sign) == sign[:1]
    assert independent([make[0], make[0]]) == make[:1]
    patch = Call("PATCH", "/collections/c0", {"hnsw_config": {}})
    assert independent([make[0], patch]) == make[:1]
    assert independent([index[0], Call("DELETE", "/collections/c0/index/a", {})]) == index[:1]


def test_a_collection_that_may_not_grow_may_grow_again() -> None:
    """Qdrant cannot unset a limit, so one that is far away takes its place."""
    plain = collection(size=4)
    shut = dataclasses.replace(plain, read_only=True)
    none = {"enabled": True, "upsert_max_batchsize": 0}
    assert create(shut)[0].body["strict_mode_config"] == none
    assert "strict_mode_config" not in create(plain)[0].body
    assert [call.body for call in update(shut, "read_only")] == [{"strict_mode_config": none}]
    (back,) = update(plain, "read_only")
    assert back.body == {"strict_mode_config": {"enabled": False, "upsert_max_batchsize": 2**31}}
    limited = collection(size=4, strict={"max_query_limit": 5, "upsert_max_batchsize": 50})
    (back,) = update(limited, "strict", "read_only")
    assert back.body["strict_mode_config"] == {"enabled": True, "max_query_limit": 5, "upsert_max_batchsize": 50}
