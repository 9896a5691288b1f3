"""What is special to a Qdrant server: tokens, what RBAC is and is not, vectors that cannot change, many collections."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import urllib3

from multidb.client import connect
from multidb.errors import (
    MultidbError,
    NotAllowed,
    Refused,
    ServerDown,
    StatementFailed,
    WrongVersion,
)
from multidb.model import Action, App, Endpoint, Isolation, Level, Server, Statement, StoreContext
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.driver import transport as qdrant_transport
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import admission_claim, registry_name, token_ref
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.secrets import MemorySecretStore, Secret
from tests.contract.case_qdrant import READ_ONLY_KEY, VECTOR, ask, real_server
from tests.contract.qdrant_driver import Driver, app
from tests.support.case import RealServer
from tests.support.tenant_attacks import Caller, attacks

pytestmark = pytest.mark.server

DAY = 86_400


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("qdrant"), own=True) as real:
        yield real


@pytest.fixture
def real(shared: RealServer) -> Iterator[RealServer]:
    yield shared
    for entry in ask(shared, "GET", "/collections").json()["result"]["collections"]:
        ask(shared, "DELETE", f"/collections/{entry['name']}")


def admin_key(real: RealServer) -> str:
    assert real.admin is not None
    return real.admin.reveal()


def listed(real: RealServer, token: str) -> list[str]:
    answer = ask(real, "GET", "/collections", key=token)
    assert answer.status_code == 200, answer.text
    return sorted(entry["name"] for entry in answer.json()["result"]["collections"])


# --- what others have ---


def test_an_apply_touches_nothing_that_others_have_on_the_server(real: RealServer) -> None:
    """Qdrant has no part that every login shares and that multidb would close: not a line to be asked for."""
    ask(real, "PUT", "/collections/theirs", {"vectors": {"size": 2, "distance": "Dot"}})
    ask(real, "PUT", "/collections/theirs/points?wait=true", {"points": [{"id": 1, "vector": [1, 0]}]})
    alias = {"create_alias": {"collection_name": "theirs", "alias_name": "also"}}
    ask(real, "POST", "/collections/aliases", {"actions": [alias]})
    own = {"access": [{"collection": "theirs", "access": "rw"}], "exp": int(time.time()) + DAY}
    token = jwt.encode(own, admin_key(real), algorithm="HS256")

    def theirs() -> list[Any]:
        questions = [("GET", "/collections/theirs", None), ("GET", "/aliases", None)]
        questions.append(("POST", "/collections/theirs/points/scroll", {"with_vector": True}))
        answers = [ask(real, method, path, body).json()["result"] for method, path, body in questions]
        return [*answers, listed(real, token)]

    before = theirs()
    assert before[-1] == ["theirs"]
    driver = Driver(real, app("lernmi", docs={"size": 4}), app("devao"))
    made = driver.apply()
    assert theirs() == before
    assert {change.resource.kind for change in made if change.resource.app is None} == {"token registry"}
    context = driver.context()
    calls = [Call.parse(each.text) for change in made for each in PROVISIONER.statements(change, context)]
    names = {call.target.split("?")[0].split("/")[2] for call in calls if call.http}
    assert names == {registry_name(context.project), "lernmi_docs", "devao_knowledge"}


# --- tokens ---


def test_the_minted_token_holds_exactly_what_was_planned(real: RealServer) -> None:
    driver = Driver(real, app("lernmi", docs={"size": 4}, notes={"size": 2}), app("devao"))
    driver.apply()
    claims = jwt.decode(driver.token("lernmi"), admin_key(real), algorithms=["HS256"])
    assert set(claims) == {"access", "value_exists", "exp", "subject"}
    assert claims["access"] == [
        {"collection": "lernmi_docs", "access": "prw"},
        {"collection": "lernmi_notes", "access": "prw"},
    ]
    assert abs(claims["exp"] - time.time() - 365 * DAY) < 60
    assert claims["subject"] == "lernmi"
    assert listed(real, driver.token("lernmi")) == ["lernmi_docs", "lernmi_notes"]


def _lose(driver: Driver) -> None:
    driver.secrets.delete([token_ref("lernmi")])


def _replace_by(make: Callable[[Driver], str]) -> Callable[[Driver], None]:
    def damage(driver: Driver) -> None:
        driver.secrets.put({token_ref("lernmi"): Secret(make(driver))})

    return damage


def _signed(key: str | None = None, **claims: Any) -> Callable[[Driver], None]:
    access = [{"collection": "lernmi_knowledge", "access": "prw"}]
    admission = admission_claim(registry_name("contract"), "lernmi")
    whole = {"access": access, "value_exists": admission, "exp": int(time.time()) + 300 * DAY, "subject": "lernmi"}
    whole |= claims
    kept = {name: value for name, value in whole.items() if value is not None}
    return _replace_by(lambda driver: jwt.encode(kept, key or admin_key(driver.real), algorithm="HS256"))


@pytest.mark.parametrize(
    ("damage", "fields"),
    [
        (_lose, []),
        (_replace_by(lambda driver: "not-a-token-at-all"), []),
        (_signed(exp=int(time.time()) - DAY), ["expiry"]),
        (_signed(exp=int(time.time()) + 20 * DAY), ["expiry"]),
        (_signed(exp=None), ["expiry"]),
        (_signed(access=[{"collection": "devao_knowledge", "access": "prw"}]), ["collections"]),
        (_signed(access=[{"collection": "lernmi_knowledge", "access": "rw"}]), ["access"]),
        (_signed(access=None), ["access", "collections"]),
        (_signed(value_exists=None), ["registry"]),
        (_signed(key="the-key-that-the-server-had-some-time-ago"), ["signature"]),
    ],
    ids=[
        "lost",
        "garbage",
        "expired",
        "expiring",
        "endless",
        "other collections",
        "more rights",
        "admin",
        "not revocable",
        "old key",
    ],
)
def test_a_token_that_is_not_right_is_minted_anew(
    real: RealServer, damage: Callable[[Driver], None], fields: list[str]
) -> None:
    driver = Driver(real, app())
    driver.apply()
    damage(driver)
    (change,) = driver.changes()
    assert change.resource.kind == "token"
    assert sorted(field.field for field in change.fields) == fields
    driver.apply()
    assert listed(real, driver.token("lernmi")) == ["lernmi_knowledge"]


def test_a_new_collection_brings_a_new_token(real: RealServer) -> None:
    driver = Driver(real, app())
    driver.apply()
    driver.apps = (app("lernmi", knowledge={"size": 4}, docs={"size": 4}),)
    assert [(c.action, c.resource.kind) for c in driver.apply()] == [
        (Action.CREATE, "collection"),
        (Action.CREATE, "payload index"),
        (Action.UPDATE, "token"),
    ]
    assert listed(real, driver.token("lernmi")) == ["lernmi_docs", "lernmi_knowledge"]


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": int(time.time()) - 60},
        {"access": [{"collection": "lernmi_knowledge", "access": "w"}]},
        {"access": [{"collection": "lernmi_knowledge", "access": "prw", "payload": {"a": 1}}]},
    ],
    ids=["expired", "unknown right", "payload constraint"],
)
def test_tokens_that_the_server_refuses(real: RealServer, claims: dict[str, Any]) -> None:
    Driver(real, app()).apply()
    good = {"access": [{"collection": "lernmi_knowledge", "access": "prw"}], "exp": int(time.time()) + 60}
    assert listed(real, jwt.encode(good, admin_key(real), algorithm="HS256")) == ["lernmi_knowledge"]
    token = jwt.encode(good | claims, admin_key(real), algorithm="HS256")
    assert ask(real, "GET", "/collections", key=token).status_code in (401, 403)


def test_why_the_access_claim_is_tested_so_hard(real: RealServer) -> None:
    """A misspelt claim makes an administrator's token. Should the server ever refuse it, the docstrings can relax."""
    Driver(real, app("lernmi"), app("devao")).apply()
    token = jwt.encode({"acess": [], "exp": int(time.time()) + 60}, admin_key(real), algorithm="HS256")
    assert listed(real, token) == ["devao_knowledge", "lernmi_knowledge", registry_name("contract")]


def test_a_token_that_opens_more_than_it_should_is_thrown_away(real: RealServer) -> None:
    """The proof after minting bites: here the claims lack a collection that is asked for (it does not exist)."""
    secrets = MemorySecretStore()
    body = {"access": [{"collection": "nowhere", "access": "prw"}], "exp": "+365d", "subject": "lernmi"}
    with PROVISIONER.connect(real.server, real.admin, "test") as session:
        with pytest.raises(StatementFailed, match="nowhere") as failed:
            list(session.run([Statement(f"SIGN lernmi/qdrant/token\n{json.dumps(body)}")], secrets))
        assert (failed.value.index, failed.value.durable) == (0, 0)
    assert not secrets.refs()


def test_a_new_api_key_makes_new_tokens(tmp_path: Path) -> None:
    with real_server(tmp_path, own=True) as real:
        assert real.restart is not None
        driver = Driver(real, app())
        driver.apply()
        before = driver.token("lernmi")
        config = json.loads((tmp_path / "config.yaml").read_text())
        config["service"]["api_key"] = "another-key-which-also-has-more-than-32-bytes"
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        real.restart()
        driver.real = replace(real, admin=Secret(config["service"]["api_key"]))
        assert ask(driver.real, "GET", "/collections", key=before).status_code == 403
        (change,) = driver.apply()
        assert [(f.field, f.old) for f in change.fields] == [("signature", "other")]
        assert listed(driver.real, driver.token("lernmi")) == ["lernmi_knowledge"]


# --- servers with less than RBAC ---


def test_without_rbac_the_api_key_is_shared_only_on_demand(tmp_path: Path) -> None:
    with real_server(tmp_path, rbac=False) as real:
        with pytest.raises(Refused, match="opens every app"):
            Driver(real, app()).changes()
        driver = Driver(real, app(), options=ServerOptions(share_api_key=True))
        driver.apply()
        env = driver.env(driver.apps[0])
        assert env["QDRANT_API_KEY"] == admin_key(real)
        driver.secrets.put({token_ref("lernmi"): Secret("a-former-key")})
        (change,) = driver.apply()
        assert change.resource.kind == "shared api key"
        with PROVISIONER.connect(real.server, real.admin, "test") as session:
            assert PROVISIONER.isolation(driver.apps[0], session.facts)[0] is Isolation.NAMING_ONLY
        for key, manages in ((admin_key(real), True), (READ_ONLY_KEY, False)):
            with PROVISIONER.connect(real.server, Secret(key), "test") as session:
                (right,) = session.admin_rights(StoreContext("digi", session.facts), [])
            assert right.level is (Level.WARNING if manages else Level.ERROR), right
        assert [entry["name"] for entry in ask(real, "GET", "/collections").json()["result"]["collections"]]


def test_an_open_server_needs_no_key_even_when_one_is_given(tmp_path: Path) -> None:
    with real_server(tmp_path, api_key="") as real:
        for admin in (None, Secret(""), Secret("some-key-from-the-manifest")):
            driver = Driver(replace(real, admin=admin), app())
            driver.apply()
            assert "QDRANT_API_KEY" not in driver.env(driver.apps[0])
            assert not driver.secrets.refs()


def test_a_short_api_key_works_and_is_told_without_a_warning(tmp_path: Path) -> None:
    with real_server(tmp_path, api_key="short") as real, warnings.catch_warnings():
        warnings.simplefilter("error")
        driver = Driver(real, app())
        driver.apply()
        with PROVISIONER.connect(real.server, real.admin, "test") as session:
            level, why = PROVISIONER.isolation(driver.apps[0], session.facts)
        assert level is Isolation.ENFORCED
        assert "shorter than 32 bytes" in why


def test_a_token_in_the_place_of_the_api_key_is_told_apart(real: RealServer) -> None:
    driver = Driver(real, app())
    driver.apply()
    with pytest.raises(NotAllowed, match="cannot sign"):
        Driver(replace(real, admin=Secret(driver.token("lernmi"))), app()).changes()


def test_a_missing_key_is_an_authentication_failure(real: RealServer) -> None:
    with pytest.raises(MultidbError) as failed:
        Driver(replace(real, admin=None), app()).changes()
    assert failed.value.code == "authentication"


# --- collections ---


def test_other_vectors_are_a_conflict_and_the_points_stay(real: RealServer) -> None:
    driver = Driver(real, app())
    driver.apply()
    points = [{"id": 1, "vector": VECTOR, "payload": {"tenant_id": "lernmi"}}]
    ask(real, "PUT", "/collections/lernmi_knowledge/points?wait=true", {"points": points}).raise_for_status()
    driver.apps = (app("lernmi", knowledge={"size": 8, "distance": "dot"}),)
    for adopt in (frozenset[str](), frozenset({"lernmi"})):
        (change,) = driver.changes(adopt)
        assert change.action is Action.CONFLICT
        assert "vectors is 4 cosine, the manifest wants 8 dot" in change.reason
    counted = ask(real, "POST", "/collections/lernmi_knowledge/points/count", {}).json()
    assert counted["result"]["count"] == 1


def test_a_lost_mark_is_a_conflict_until_the_collection_is_adopted(real: RealServer) -> None:
    driver = Driver(real, app())
    driver.apply()
    ask(real, "PATCH", "/collections/lernmi_knowledge", {"metadata": {"multidb": None, "note": "kept"}})
    (conflict,) = driver.changes()
    assert conflict.action is Action.CONFLICT
    assert "did not make it" in conflict.reason
    (change,) = driver.apply(frozenset({"lernmi"}))
    assert [field.field for field in change.fields] == ["owner"]
    config = ask(real, "GET", "/collections/lernmi_knowledge").json()["result"]["config"]
    assert config["metadata"]["note"] == "kept", "what others wrote there is not touched"


def test_every_option_is_kept_by_the_server(real: RealServer) -> None:
    """Apply asserts that the plan is empty afterwards: each setting reads back as it was asked for."""
    driver = Driver(
        real,
        app(
            "digi",
            a={
                "size": 4,
                "datatype": "float16",
                "on_disk": True,
                "hnsw": {"m": 0, "payload_m": 8, "ef_construct": 64, "full_scan_threshold": 500, "on_disk": True},
                "quantization": {"type": "binary", "always_ram": True},
                "strict": {
                    "max_query_limit": 5,
                    "max_timeout": 9,
                    "unindexed_filtering_retrieve": False,
                    "unindexed_filtering_update": False,
                    "search_max_hnsw_ef": 77,
                    "search_allow_exact": False,
                    "search_max_oversampling": 1.5,
                    "search_max_batchsize": 8,
                    "upsert_max_batchsize": 100,
                    "max_collection_vector_size_bytes": 10_000_000,
                    "max_collection_payload_size_bytes": 10_000_000,
                    "max_points_count": 1000,
                    "read_rate_limit": 1000,
                    "write_rate_limit": 1000,
                    "filter_max_conditions": 9,
                    "condition_max_size": 99,
                },
                "on_disk_payload": False,
                "shard_number": 2,
                "replication_factor": 1,
                "segments": 3,
                "indexes": {
                    "t": "text",
                    "d": "datetime",
                    "u": "uuid",
                    "g": "geo",
                    "b": "bool",
                    "f": "float",
                    "i": "integer",
                    "a.b": "keyword",
                },
            },
            n={
                "vectors": {"x": {"size": 3, "distance": "manhattan", "on_disk": True}, "y": {"size": 5}},
                "sparse": {"s": {"modifier": "idf", "on_disk": True}, "s2": {}},
                "quantization": {"type": "none"},
            },
            s={"sparse": {"only": {}}},
            q={
                "size": 7,
                "distance": "euclid",
                "datatype": "uint8",
                "quantization": {"type": "scalar", "quantile": 0.99},
            },
        ),
    )
    driver.apply()
    driver.apps = (
        app(
            "digi",
            a={
                "size": 4,
                "datatype": "float16",
                "on_disk": False,
                "hnsw": {"m": 16, "on_disk": False},
                "quantization": {"type": "none"},
                "strict": {"enabled": False, "max_points_count": 5},
                "on_disk_payload": True,
                "indexes": {"t": "keyword", "i": "float"},
                "shard_number": 2,
            },
            n={
                "vectors": {"x": {"size": 3, "distance": "manhattan", "on_disk": False}, "y": {"size": 5}},
                "sparse": {"s": {"modifier": "idf", "on_disk": False}, "s2": {}},
                "quantization": {"type": "binary"},
            },
            s={"sparse": {"only": {}}},
            q={"size": 7, "distance": "euclid", "datatype": "uint8", "quantization": {"type": "binary"}},
        ),
    )
    changed = {field.field for change in driver.apply() for field in change.fields}
    assert changed == {
        "vectors_on_disk",
        "sparse_on_disk",
        "hnsw",
        "quantization",
        "strict",
        "params",
        "optimizers",
        "schema",
    }


def test_a_small_write_ahead_log_takes_a_large_batch(real: RealServer) -> None:
    driver = Driver(real, App("lernmi", "lernmi", {"qdrant": AppOptions()}))
    driver.apply()
    points = [{"id": n, "vector": [0.001 * n] * 1536, "payload": {"tenant_id": "x"}} for n in range(1000)]
    path = "/collections/lernmi_knowledge/points?wait=true"
    ask(real, "PUT", path, {"points": points}, key=driver.token("lernmi")).raise_for_status()
    counted = ask(real, "POST", "/collections/lernmi_knowledge/points/count", {"exact": True}).json()
    assert counted["result"]["count"] == 1000


def test_strict_mode_refuses_what_the_manifest_forbids(real: RealServer) -> None:
    strict = {"max_query_limit": 3, "unindexed_filtering_retrieve": False, "max_points_count": 1}
    driver = Driver(real, app("lernmi", knowledge={"size": 4, "strict": strict}))
    driver.apply()
    token = driver.token("lernmi")
    query = "/collections/lernmi_knowledge/points/query"
    assert ask(real, "POST", query, {"query": VECTOR, "limit": 3}, key=token).status_code == 200
    assert ask(real, "POST", query, {"query": VECTOR, "limit": 4}, key=token).status_code == 400
    unindexed = {"must": [{"key": "other", "match": {"value": "x"}}]}
    assert ask(real, "POST", query, {"query": VECTOR, "limit": 1, "filter": unindexed}, key=token).status_code == 400


@pytest.mark.parametrize("kind", ["rest", "rest, awaits", "grpc", "grpc, awaits"])
def test_no_call_of_the_tenants_client_reaches_another_tenants_point(real: RealServer, kind: str) -> None:
    """Each attack of `tests/support/tenant_attacks.py` on the server, by both protocols."""
    driver = Driver(real, app("lernmi", docs={"size": 2, "distance": "dot"}))
    driver.apply()
    variables = {**driver.env(driver.apps[0]), "APP_NAME": "lernmi", "APP_TENANT_ID": "acme"}
    place = connect(variables=variables, grpc=kind.startswith("grpc"))
    client: Any = place.qdrant_async if "awaits" in kind else place.qdrant
    caller = Caller(client, client._client.connection.bare, "lernmi_docs", lenient=True)
    try:
        # An app's token makes no indexes: facets need one.
        index = {"field_name": "kind", "field_schema": "keyword"}
        ask(real, "PUT", "/collections/lernmi_docs/index?wait=true", index).raise_for_status()
        for attack in attacks():
            caller.fill()
            caller.withstands(attack)
    finally:
        caller.run(place.aclose())


def test_an_alias_of_another_apps_collection_is_no_way_in(real: RealServer) -> None:
    driver = Driver(real, app("lernmi"), app("devao"))
    driver.apply()
    alias = {"create_alias": {"collection_name": "devao_knowledge", "alias_name": "side_door"}}
    ask(real, "POST", "/collections/aliases", {"actions": [alias]}).raise_for_status()
    token = driver.token("lernmi")
    assert ask(real, "GET", "/aliases", key=token).json()["result"]["aliases"] == []
    assert ask(real, "POST", "/collections/side_door/points/scroll", {}, key=token).status_code == 403
    assert ask(real, "POST", "/collections/side_door/points/scroll", {}).status_code == 200, "the alias works"
    assert driver.changes() == ()


def test_telemetry_shows_the_names_of_others_and_nothing_more(real: RealServer) -> None:
    """The one thing that leaks to an app's token. If this fails, the server got better: say so in the docstrings."""
    driver = Driver(real, app("lernmi"), app("devao"))
    driver.apply()
    told = ask(real, "GET", "/telemetry?details_level=10", key=driver.token("lernmi")).json()["result"]
    leak = [entry for entry in told["collections"].pop("snapshots") if entry["id"] == "devao_knowledge"]
    assert [set(entry) for entry in leak] == [
        {"id", "running_snapshots", "running_snapshot_recovery", "total_snapshot_creations"}
    ]
    assert "devao" not in json.dumps(told)


# --- running ---


def test_what_is_shown_is_what_is_sent(real: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what goes out: the plan's requests with their bodies, and besides only questions."""
    out: list[str] = []
    send = urllib3.HTTPConnectionPool.urlopen

    def recorded(self: Any, verb: str, target: str, body: bytes | None, *rest: Any, **options: Any) -> Any:
        out.append(Call(verb, target, json.loads(body) if body else {}).text)
        return send(self, verb, target, body, *rest, **options)

    driver = Driver(real, app("shown"), app("also_shown"))
    with PROVISIONER.connect(real.server, real.admin, "test") as session:
        changes = driver._changes(session, frozenset())
        todo = [s for change in changes for s in PROVISIONER.statements(change, driver._context(session))]
        monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", recorded)
        list(session.run(todo, driver.secrets))
    changing = [text for text in out if not text.startswith("GET ")]
    shown = [statement.text for statement in todo if Call.parse(statement.text).http]
    assert sorted(changing) == sorted(shown)
    assert ["/index" in text for text in changing] == ["/index" in text for text in shown], "collections come first"


def test_the_number_of_calls_is_as_small_as_the_api_allows(real: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = [app(f"app{n}") for n in range(20)]
    Driver(real, *apps).apply()
    ask(real, "PUT", "/collections/somebody_elses", {"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
    sent: list[str] = []
    original = qdrant_transport.Http.send

    def counted(self: Any, call: Any, **options: Any) -> Any:
        sent.append(call.target)
        return original(self, call, **options)

    monkeypatch.setattr(qdrant_transport.Http, "send", counted)
    driver = Driver(real, *apps)
    driver.changes()
    to_connect, names, one_each, registry, admissions = 6, 1, 20, 1, 1
    assert len(sent) == to_connect + names + one_each + registry + admissions, sent
    assert "/collections/somebody_elses" not in sent


def test_a_failure_counts_what_is_durable_and_stops(real: RealServer) -> None:
    good = '{"vectors": {"size": 4, "distance": "Cosine"}, "metadata": {"multidb": {"project": "p", "app": "a"}}}'
    bad = '{"vectors": {"size": 0, "distance": "Cosine"}, "metadata": {"multidb": {"project": "p", "app": "a"}}}'
    texts = [f"PUT /collections/a_{n}\n{bad if n == 5 else good}" for n in range(8)]
    texts.append('PUT /collections/a_0/index?wait=true\n{"field_name": "x", "field_schema": "keyword"}')
    seen: list[int] = []
    with PROVISIONER.connect(real.server, real.admin, "test") as session, pytest.raises(StatementFailed) as failed:
        seen.extend(session.run([Statement(text) for text in texts], MemorySecretStore()))
    assert seen == [1, 2, 3, 4, 5] or seen == []
    assert (failed.value.index, failed.value.durable) == (5, 5)
    names = {entry["name"] for entry in ask(real, "GET", "/collections").json()["result"]["collections"]}
    assert {f"a_{n}" for n in range(5)} <= names
    assert ask(real, "GET", "/collections/a_0").json()["result"]["payload_schema"] == {}, "the next group never began"


def test_a_collection_that_somebody_made_meanwhile(real: RealServer) -> None:
    """Ours (another apply, or an answer that got lost) counts as done; anybody else's is a failure, and stays."""
    body = {"vectors": {"size": 4, "distance": "Cosine"}, "metadata": {"multidb": {"project": "p", "app": "a"}}}
    make = Statement(f"PUT /collections/a_docs\n{json.dumps(body)}")
    ask(real, "PUT", "/collections/a_docs", body).raise_for_status()
    with PROVISIONER.connect(real.server, real.admin, "test") as session:
        assert list(session.run([make], MemorySecretStore())) == [1]
        ask(real, "DELETE", "/collections/a_docs").raise_for_status()
        foreign = body | {"metadata": {"multidb": {"project": "rival", "app": "a"}}}
        ask(real, "PUT", "/collections/a_docs", foreign).raise_for_status()
        with pytest.raises(StatementFailed, match="already exists"):
            list(session.run([make], MemorySecretStore()))


def test_a_hundred_collections_are_made_side_by_side(real: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, most, guard = 0, 0, threading.Lock()
    original = qdrant_transport.Http.send

    def watched(self: Any, call: Any, **options: Any) -> Any:
        nonlocal busy, most
        with guard:
            busy += 1
            most = max(most, busy)
        try:
            return original(self, call, **options)
        finally:
            with guard:
                busy -= 1

    monkeypatch.setattr(qdrant_transport.Http, "send", watched)
    Driver(real, *[app(f"a{n}") for n in range(24)]).apply()
    assert 2 <= most <= 8


# --- what answers is not what was expected ---


def _answering(reply: Callable[[BaseHTTPRequestHandler], None]) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    return found


def _json(handler: BaseHTTPRequestHandler, document: object) -> None:
    body = json.dumps(document).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _connect(port: int, **options: Any) -> None:
    PROVISIONER.connect(Server("qdrant", "qdrant", Endpoint(host="127.0.0.1", port=port, **options)), None, "test")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"title": "qdrant - vector search engine", "version": "1.15.5"}, "1.15.5 is too old: multidb needs 1.16"),
        ({"name": "elasticsearch", "version": {"number": "9"}}, "not a Qdrant"),
        (["a list"], "not a Qdrant"),
    ],
)
def test_an_old_server_and_another_product_are_told_apart(document: object, message: str) -> None:
    server = _answering(lambda handler: _json(handler, document))
    try:
        with pytest.raises(WrongVersion, match=message) as failed:
            _connect(server.server_port)
        assert failed.value.hint
    finally:
        server.shutdown()
        server.server_close()


def test_something_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"-ERR unknown command 'GET'\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(WrongVersion, match="does not speak HTTP"):
            _connect(listener.getsockname()[1])


def test_a_file_that_cannot_be_read_is_no_fault_of_the_server() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.EIO, "the disk is broken")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1])
        http = qdrant_transport.Http(Server("qdrant", "qdrant", endpoint, timeout=3), None)
        with contextlib.closing(http), pytest.raises(OSError, match="the disk is broken"):
            http.upload("/collections/x/snapshots/upload", chunks(), 3)


def test_something_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        with pytest.raises(ServerDown, match="hung up") as failed:
            _connect(listener.getsockname()[1])
        assert "6333" in str(failed.value.hint)


def test_tls_to_a_plain_port_and_http_to_grpc(real: RealServer) -> None:
    endpoint = real.server.endpoint
    with pytest.raises(ServerDown, match="TLS connection fails") as failed:
        _connect(endpoint.port, tls=True)
    assert "https or http as it speaks" in str(failed.value.hint)
    if "grpc_port" in endpoint.params:
        with pytest.raises((WrongVersion, ServerDown)):
            _connect(int(endpoint.params["grpc_port"]))


def test_a_certificate_file_that_is_not_there() -> None:
    with pytest.raises(ServerDown, match=r"/nowhere/ca\.pem"):
        _connect(1, tls=True, params={"ca_file": "/nowhere/ca.pem"})
