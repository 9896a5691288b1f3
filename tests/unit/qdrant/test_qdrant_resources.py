"""What an app gets on Qdrant, as values."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from multidb.errors import Refused
from multidb.model import Action, App, Endpoint, Isolation, Owner, Resource, StoreContext
from multidb.plan import diff
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.hosting.container import containers
from multidb.provisioners.qdrant.provision.live import live_collection, live_index, live_token
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import (
    Admission,
    ApiKey,
    Collection,
    PayloadIndex,
    QdrantFacts,
    Registry,
    Token,
    admission_claim,
    token_ref,
)
from multidb.secrets import Secret, SecretRef
from tests.support.specs import spec
from tests.unit.qdrant.apps import LOCAL, RBAC, app

NOW = 1_800_000_000
DAY = 86_400
KEY_ONLY = QdrantFacts("Qdrant", "1.18.3", api_key=True)
OPEN = QdrantFacts("Qdrant", "1.18.3")


def context(facts: QdrantFacts = RBAC, **options: Any) -> StoreContext:
    return StoreContext("digi", facts, ServerOptions(**options))


def desired(facts: QdrantFacts = RBAC, *apps: App, **options: Any) -> list[Resource]:
    """What is wanted, without what admits the tokens."""
    wanted = PROVISIONER.desired(apps or (app(),), context(facts, **options))
    return [resource for resource in wanted if not isinstance(resource, Registry | Admission)]


def test_a_closed_app_is_given_no_token_since_none_could_be_tried() -> None:
    wanted = PROVISIONER.desired((app(), app("devao")), replace(context(), closed=frozenset({"devao"})))
    of_each = {name: {type(each) for each in wanted if each.app == name} for name in ("lernmi", "devao")}
    assert of_each["lernmi"] - of_each["devao"] == {Admission, Token}
    shared = context(KEY_ONLY, share_api_key=True)
    assert any(isinstance(each, ApiKey) for each in PROVISIONER.desired((app(),), shared))


def test_every_token_needs_the_admission_of_its_app() -> None:
    wanted = PROVISIONER.desired((app(), app("devao")), context())
    (registry,) = [each for each in wanted if isinstance(each, Registry)]
    admissions = [each for each in wanted if isinstance(each, Admission)]
    tokens = [each for each in wanted if isinstance(each, Token)]
    assert registry.name == "multidb__tokens__digi"
    assert [(each.name, each.registry) for each in admissions] == [("lernmi", registry.name), ("devao", registry.name)]
    assert {token.registry for token in tokens} == {registry.name}
    assert registry.rank < admissions[0].rank < tokens[0].rank, "a token is proved when it is signed"
    assert registry.name not in {name for token in tokens for name in token.collections}
    for facts in (LOCAL, OPEN):
        assert not [each for each in PROVISIONER.desired((app(),), context(facts)) if isinstance(each, Registry)]


def test_an_app_over_its_quota_may_not_grow_and_others_may() -> None:
    strict = {"docs": {"size": 4, "strict": {"max_query_limit": 5, "enabled": False, "upsert_max_batchsize": 50}}}
    apps = (app(collections=strict), app("devao"))
    wanted = PROVISIONER.desired(apps, replace(context(), read_only=frozenset({"lernmi"})))
    shut, free = [each for each in wanted if isinstance(each, Collection)]
    assert (shut.read_only, free.read_only) == (True, False)
    assert dict(shut.strict) == {"enabled": True, "max_query_limit": 5, "upsert_max_batchsize": 0}
    there = details(strict_mode_config={"enabled": True, "max_query_limit": 5, "upsert_max_batchsize": 0})
    assert live_collection(shut.name, there, shut).read_only
    back = next(each for each in PROVISIONER.desired(apps, context()) if isinstance(each, Collection))
    live = live_collection(shut.name, there, back)
    assert (live.read_only, dict(live.strict)["enabled"]) == (True, True)
    live = live_collection(free.name, there, free)
    assert live.read_only, "also where the manifest gives no limits"


def details(**config: Any) -> dict[str, Any]:
    """What a server answers about a plain collection of 1536 dimensions."""
    base: dict[str, Any] = {
        "params": {"vectors": {"size": 1536, "distance": "Cosine"}, "shard_number": 1, "on_disk_payload": True},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {"default_segment_number": 1},
        "quantization_config": None,
        "metadata": {"multidb": {"project": "digi", "app": "lernmi"}, "mine": 1},
    }
    schema = {"tenant_id": {"data_type": "keyword", "params": {"type": "keyword", "is_tenant": True}, "points": 0}}
    return {"config": base | config, "payload_schema": schema}


def test_an_app_without_options_gets_the_default_collection_an_index_and_a_token() -> None:
    collection, index, token = desired()
    assert isinstance(collection, Collection)
    assert isinstance(index, PayloadIndex)
    assert isinstance(token, Token)
    assert (collection.name, [str(v) for v in collection.vectors]) == ("lernmi_knowledge", ["1536 cosine"])
    assert collection.owner == Owner("digi", "lernmi")
    assert (index.field_name, index.schema, index.is_tenant) == ("tenant_id", "keyword", True)
    assert token.collections == ("lernmi_knowledge",)
    assert collection.rank < index.rank < token.rank


def test_a_token_lists_every_collection_of_its_app_and_no_other() -> None:
    two = {"b": {"size": 2}, "a": {"size": 2}}
    tokens = [r for r in desired(RBAC, app(collections=two), app("devao")) if isinstance(r, Token)]
    assert [token.collections for token in tokens] == [("lernmi_a", "lernmi_b"), ("devao_knowledge",)]


def test_local_mode_wants_only_what_it_can_keep() -> None:
    options = {"docs": {"size": 4, "on_disk": True, "strict": {"max_query_limit": 5}, "indexes": {"lang": "keyword"}}}
    (collection,) = desired(LOCAL, app(collections=options))
    assert collection.compared() == {
        **Collection(name="").compared(),
        "owner": Owner("digi", "lernmi"),
        "vectors": collection.compared()["vectors"],
    }


def test_an_administrators_key_is_not_given_to_apps_unless_the_manifest_says_so() -> None:
    with pytest.raises(Refused) as refused:
        desired(KEY_ONLY)
    assert "jwt_rbac" in str(refused.value.hint)
    assert "share_api_key: true" in str(refused.value.hint)
    *_, shared = desired(KEY_ONLY, share_api_key=True)
    assert shared == ApiKey(name="lernmi", app="lernmi")


def test_a_server_without_a_key_needs_none() -> None:
    assert not [r for r in desired(OPEN) if isinstance(r, Token | ApiKey)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": {"size": 0}}, "greater than or equal to 1"),
        ({"a": {"size": 4, "vectors": {"x": {"size": 2}}}}, "inside each of `vectors`"),
        ({"a": {"vectors": {"x": {"size": 2}}, "sparse": {"x": {}}}}, "either in `vectors` or in `sparse`"),
        ({"a": {"indexes": {"tenant_id": "keyword"}}}, "must not be listed"),
        ({"a": {"size": 4, "distance": "Cosinus"}}, "cosine"),
        ({"a": {"quantization": {"type": "binary", "quantile": 0.9}}}, "type: scalar"),
        ({"a": {"quantization": {"type": "none", "always_ram": True}}}, "must not be given"),
        ({"a:b": {"size": 4}}, "pattern"),
        ({"A": {"size": 4}}, "pattern"),
        ({}, "at least 1"),
        ({"a": {"sise": 4}}, "not permitted"),
    ],
)
def test_a_wrong_option_is_told_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AppOptions(collections=options)


def test_tokens_cannot_be_shorter_lived_than_their_renewal() -> None:
    with pytest.raises(ValidationError):
        ServerOptions(token_days=30)


def test_names_of_two_apps_can_meet_and_are_reported_as_one_space() -> None:
    first = PROVISIONER.derived_names(app("digi", collections={"core_docs": {"size": 4}}))
    second = PROVISIONER.derived_names(app("digi_core", collections={"docs": {"size": 4}}))
    assert [(n.space, n.name) for n in first] == [(n.space, n.name) for n in second]
    assert first[0].limit == 200
    assert "digi" in first[0].what


def test_a_collection_as_wanted_is_no_change() -> None:
    (want, index, _) = desired()
    assert isinstance(want, Collection)
    assert isinstance(index, PayloadIndex)
    assert live_collection(want.name, details(), want) == want
    assert live_index(index, details()) == index


def test_settings_that_the_manifest_leaves_out_are_the_servers_own() -> None:
    (want, *_) = desired()
    assert isinstance(want, Collection)
    there = details(
        hnsw_config={"m": 64, "ef_construct": 200, "full_scan_threshold": 1},
        strict_mode_config={"enabled": True, "max_query_limit": 3},
        quantization_config={"binary": {}},
    )
    assert live_collection(want.name, there, want) == want


@pytest.mark.parametrize(
    ("options", "config", "field"),
    [
        ({"hnsw": {"m": 8}}, {}, "hnsw"),
        ({"hnsw": {"on_disk": True}}, {}, "hnsw"),
        ({"strict": {"max_points_count": 9}}, {}, "strict"),
        ({"strict": {}}, {"strict_mode_config": {"enabled": False}}, "strict"),
        ({"quantization": {"type": "scalar"}}, {}, "quantization"),
        ({"quantization": {"type": "none"}}, {"quantization_config": {"binary": {}}}, "quantization"),
        ({"on_disk_payload": False}, {}, "params"),
        ({"on_disk": True}, {}, "vectors_on_disk"),
        ({"segments": 2}, {}, "optimizers"),
        ({}, {"metadata": {"multidb": {"project": "other", "app": "lernmi"}}}, "owner"),
        ({}, {"metadata": {"multidb": "garbage"}}, "owner"),
        ({}, {"metadata": None}, "owner"),
        ({"shard_number": 3}, {}, "shard_number"),
        ({"size": 3}, {}, "vectors"),
        ({"distance": "dot"}, {}, "vectors"),
        ({"datatype": "uint8"}, {}, "vectors"),
        ({"vectors": {"title": {"size": 1536}}}, {}, "vectors"),
        ({"size": 1536, "sparse": {"words": {}}}, {}, "sparse"),
    ],
)
def test_each_difference_is_seen_in_its_field(options: dict[str, Any], config: dict[str, Any], field: str) -> None:
    (want, *_) = desired(RBAC, app(collections={"knowledge": options}))
    assert isinstance(want, Collection)
    live = live_collection(want.name, details(**config), want)
    old, new = live.compared(), want.compared()
    assert [name for name in new if old[name] != new[name]] == [field]


def test_other_vectors_are_a_conflict_that_explains_itself() -> None:
    (want, *_) = desired(RBAC, app(collections={"knowledge": {"size": 768, "distance": "dot"}}))
    assert isinstance(want, Collection)
    live = live_collection(want.name, details(), want)
    for adopt in (frozenset[str](), frozenset({"lernmi"})):
        (change,) = diff([want], [live], adopt)
        assert change.action is Action.CONFLICT
        assert "vectors is 1536 cosine, the manifest wants 768 dot" in change.reason
        assert "another type" in change.reason
    assert not PROVISIONER.statements(change, context())


def test_a_conflict_of_one_collection_holds_back_its_index_and_token() -> None:
    wanted = desired(RBAC, app(collections={"knowledge": {"size": 768}}))
    want = wanted[0]
    assert isinstance(want, Collection)
    changes = diff(wanted, [live_collection(want.name, details(), want)])
    assert [change.action for change in changes] == [Action.CONFLICT]


def test_named_and_sparse_vectors_are_read_back() -> None:
    options = {
        "vectors": {"title": {"size": 3, "distance": "dot", "on_disk": True}, "body": {"size": 5}},
        "sparse": {"words": {"modifier": "idf", "on_disk": True}},
    }
    (want, *_) = desired(RBAC, app(collections={"knowledge": options}))
    assert isinstance(want, Collection)
    params = {
        "vectors": {
            "title": {"size": 3, "distance": "Dot", "on_disk": True},
            "body": {"size": 5, "distance": "Cosine"},
        },
        "sparse_vectors": {"words": {"modifier": "idf", "index": {"on_disk": True}}},
    }
    assert live_collection(want.name, details(params=params), want) == want
    assert [str(vector) for vector in (*want.vectors, *want.sparse)] == [
        "body: 5 cosine",
        "title: 3 dot",
        "words (idf)",
    ]


def test_a_plain_keyword_index_is_not_a_tenant_index() -> None:
    (_, want, _) = desired()
    assert isinstance(want, PayloadIndex)
    there = details()
    there["payload_schema"]["tenant_id"] = {"data_type": "keyword", "points": 0}
    live = live_index(want, there)
    assert live is not None
    assert not live.is_tenant
    there["payload_schema"] = {}
    assert live_index(want, there) is None


def claims(**changed: Any) -> dict[str, Any]:
    access = [{"collection": "lernmi_knowledge", "access": "prw"}]
    return {
        "access": access,
        "value_exists": admission_claim("multidb__tokens__digi", "lernmi"),
        "exp": NOW + 300 * DAY,
        "subject": "lernmi",
    } | changed


@pytest.mark.parametrize(
    ("changed", "field", "value"),
    [
        ({"exp": NOW + 29 * DAY}, "expiry", "2027-02-13"),
        ({"exp": NOW - DAY}, "expiry", "2027-01-14"),
        ({"exp": NOW + 900 * DAY}, "expiry", "2029-07-03"),
        ({"exp": None}, "expiry", "never"),
        ({"access": []}, "collections", ()),
        (
            {"access": [{"collection": "b", "access": "prw"}, {"collection": "a", "access": "prw"}]},
            "collections",
            ("a", "b"),
        ),
        ({"access": [{"collection": "lernmi_knowledge", "access": "rw"}]}, "access", "rw"),
        ({"access": "m"}, "access", "everything"),
        ({"access": "r"}, "access", "r"),
        ({"access": None}, "access", "everything"),
        ({"value_exists": None}, "registry", ""),
        ({"value_exists": admission_claim("multidb__tokens__digi", "devao")}, "registry", ""),
    ],
)
def test_a_token_is_read_by_its_claims(changed: dict[str, Any], field: str, value: object) -> None:
    want = desired()[2]
    assert isinstance(want, Token)
    assert live_token(want, claims(), signed=True, now=NOW) == want
    live = live_token(want, claims(**changed), signed=True, now=NOW)
    assert live != want
    assert getattr(live, field) == value


def test_a_token_signed_with_another_key_is_minted_anew() -> None:
    want = desired()[2]
    assert isinstance(want, Token)
    (change,) = diff([want], [live_token(want, claims(), signed=False, now=NOW)])
    assert [(f.field, f.old, f.new) for f in change.fields] == [("signature", "other", "current")]


def env(facts: QdrantFacts | None, endpoint: Endpoint, **options: Any) -> dict[str, str]:
    held = {token_ref("lernmi"): Secret("the-token-of-lernmi")}
    values = PROVISIONER.env(app(), StoreContext("digi", facts, ServerOptions(**options)), endpoint, held.__getitem__)
    return {key: value.reveal() if isinstance(value, Secret) else value for key, value in values.items()}


def test_the_environment_of_a_server() -> None:
    assert env(RBAC, Endpoint(host="qdrant", port=6333, params={"grpc_port": "7334"})) == {
        "QDRANT_URL": "http://qdrant:6333",
        "QDRANT_HOST": "qdrant",
        "QDRANT_PORT": "6333",
        "QDRANT_GRPC_PORT": "7334",
        "QDRANT_API_KEY": "the-token-of-lernmi",
        "QDRANT_COLLECTION_PREFIX": "lernmi_",
        "QDRANT_COLLECTION_LERNMI": "lernmi_knowledge",
    }


def test_the_environment_without_authentication_names_no_key() -> None:
    assert "QDRANT_API_KEY" not in env(OPEN, Endpoint(host="q", port=1))
    assert env(LOCAL, Endpoint(path="/srv/q")) == {
        "QDRANT_PATH": "/srv/q",
        "QDRANT_COLLECTION_PREFIX": "lernmi_",
        "QDRANT_COLLECTION_LERNMI": "lernmi_knowledge",
    }


def test_the_environment_over_tls_and_with_a_configured_grpc_port() -> None:
    found = env(None, Endpoint(host="q.example.com", port=443, tls=True), grpc_port=9)
    assert (found["QDRANT_URL"], found["QDRANT_GRPC_PORT"]) == ("https://q.example.com:443", "9")
    assert found["QDRANT_API_KEY"] == "the-token-of-lernmi"


@pytest.mark.parametrize(
    ("facts", "level", "word"),
    [
        (RBAC, Isolation.ENFORCED, "token"),
        (dataclasses.replace(RBAC, short_key=True), Isolation.ENFORCED, "32 bytes"),
        (KEY_ONLY, Isolation.NAMING_ONLY, "jwt_rbac"),
        (OPEN, Isolation.NAMING_ONLY, "no key"),
        (LOCAL, Isolation.NAMING_ONLY, "local mode"),
    ],
)
def test_isolation_is_what_the_server_really_does(facts: QdrantFacts, level: Isolation, word: str) -> None:
    found, why = PROVISIONER.isolation(app(), facts)
    assert found is level
    assert word in why


def test_no_secret_is_generated_for_an_app() -> None:
    assert PROVISIONER.secrets(app()) == ()
    assert token_ref("lernmi") == SecretRef("lernmi", "qdrant", "token")


def test_the_provisioner_imports_no_driver() -> None:
    script = (
        "import sys; from multidb.provisioners.qdrant import PROVISIONER; PROVISIONER.app_options();"
        "sys.exit(bool({'qdrant_client', 'urllib3', 'jwt', 'grpc', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "image"),
    [
        ({}, "qdrant/qdrant:v1.18.3"),
        ({"version": "1.19.0"}, "qdrant/qdrant:v1.19.0"),
        ({"version": "1.19.0", "image": "mine:1"}, "mine:1"),
    ],
)
def test_a_container_has_the_version_that_is_asked_for(options: dict[str, str], image: str) -> None:
    assert [container.image for container in containers(spec("qdrant", **options), ["lernmi"], False)] == [image]


@pytest.mark.parametrize(
    "options",
    [
        {"version": "../1.18.3"},
        {"version": "latest"},
        {"download": "Never"},
        {"download": "file:///srv"},
        {"download": "https://user:password@mirror"},
    ],
)
def test_what_is_no_version_and_no_mirror_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ServerOptions(**options)
