"""What each store sends for another password of its admin's, and what a server is given at its start meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from multidb.admin_credentials import AdminChange, AdminPhase, admin_ref, former_ref, next_ref, record_admin_change
from multidb.deployment import Deployment
from multidb.model import Facts, HostedServer
from multidb.project import load_project
from multidb.provisioners.neo4j.provision.admin_password import ADMIN_PASSWORD as NEO4J
from multidb.provisioners.postgres.provision.admin_password import ADMIN_PASSWORD as POSTGRES
from multidb.provisioners.qdrant.hosting.process import QdrantKind
from multidb.provisioners.qdrant.provision.admin_password import ADMIN_PASSWORD as QDRANT
from multidb.provisioners.qdrant.provision.options import ServerOptions
from multidb.provisioners.qdrant.provision.resources import QdrantFacts
from multidb.provisioners.redis.provision.admin_password import ADMIN_PASSWORD as REDIS
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import CommandTable
from multidb.secrets import Secret, SecretRef
from multidb.state import ProjectState

REF = SecretRef("@server", "store", "admin-next")
FACTS = Facts("a server", "1")
NEW = "a-new-password-of-the-admin"


def redis_facts(persistence: str) -> RedisFacts:
    return RedisFacts("Valkey", "9.1.2", CommandTable({}), 16, db_rules=True, persistence=persistence)


def test_postgres_is_sent_a_verifier_for_a_quoted_login() -> None:
    (statement,) = POSTGRES.take(FACTS, 'odd"one', REF)
    assert statement.text == """ALTER ROLE "odd""one" PASSWORD :'verifier'"""
    assert statement.binds == (("verifier", REF),)
    assert POSTGRES.derived(NEW).startswith("SCRAM-SHA-256$4096:")
    assert not POSTGRES.drop(FACTS, "postgres", REF)


def test_neo4j_is_sent_a_parameter_for_a_quoted_user() -> None:
    (statement,) = NEO4J.take(FACTS, "ne`o", REF)
    assert statement.text == "ALTER USER `ne``o` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED"
    assert (statement.binds, statement.scope) == ((("password", REF),), "system")
    assert NEO4J.derived(NEW) == NEW


@pytest.mark.parametrize(
    ("persistence", "saved"), [("aclfile", ["ACL SAVE"]), ("rewrite", ["CONFIG REWRITE"]), ("none", [])]
)
def test_redis_has_both_and_saves_before_one_goes(persistence: str, saved: list[str]) -> None:
    both = [statement.text for statement in REDIS.take(redis_facts(persistence), "boss", REF)]
    one = [statement.text for statement in REDIS.drop(redis_facts(persistence), "boss", REF)]
    assert both == ["ACL SETUSER boss #$admin_sha256", *saved]
    assert one == ["ACL SETUSER boss resetpass #$admin_sha256", *saved]
    assert REDIS.derived("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (QdrantFacts("Qdrant", "1.17.0"), ""),
        (QdrantFacts("Qdrant", "1.18.3-dev"), ""),
        (QdrantFacts("Qdrant", "2.0.0"), ""),
        (QdrantFacts("Qdrant", "1.16.3"), "one key only"),
        (QdrantFacts("Qdrant", "1.9.0"), "one key only"),
        (QdrantFacts("Qdrant local mode", "1.18.3", local=True), "has no key"),
    ],
)
def test_qdrant_with_one_key_is_left_as_it_is(facts: QdrantFacts, why: str) -> None:
    assert why in QDRANT.obstacle(facts)
    assert bool(why) == bool(QDRANT.obstacle(facts))
    assert QDRANT.at_start
    assert QDRANT.signs
    assert not QDRANT.take(facts, "", REF)


@pytest.mark.parametrize("other", [None, Secret("the-former-key-of-thirty-two-bytes")])
def test_qdrants_process_is_given_the_second_key_in_its_file_only(tmp_path: Path, other: Secret | None) -> None:
    hosted = HostedServer(
        "qdrant",
        "qdrant",
        "keys",
        tmp_path,
        tmp_path / "log",
        ServerOptions(),
        ports={"port": 1, "grpc_port": 2},
        other_admin=other,
    )
    launch = QdrantKind("/bin/true").prepare(hosted, Secret(NEW), lambda *_: None)
    service = yaml.safe_load((tmp_path / "config.yaml").read_text())["service"]
    assert service["api_key"] == NEW
    assert service.get("alt_api_key") == (other.reveal() if other else None)
    assert not any(NEW in word for word in launch.argv)
    assert (tmp_path / "config.yaml").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("strategy", ["hybrid", "single", "separate"])
@pytest.mark.parametrize("phase", list(AdminPhase))
def test_a_container_is_given_the_second_key_while_both_are_taken(
    tmp_path: Path, phase: AdminPhase, strategy: str
) -> None:
    path = tmp_path / "multidb.yaml"
    path.write_text(
        f"version: 1\nproject: keys\nruntime: compose\ndeploy: {{strategy: {strategy}}}\n"
        "apps: {ann: {stores: [qdrant]}}\n"
    )
    state = ProjectState(tmp_path)
    server = "qdrant-ann" if strategy == "separate" else "qdrant"
    Deployment(load_project(path), state).files(new_secrets=True)
    kept = state.secrets.get(admin_ref(server, "qdrant"))
    assert kept is not None
    state.secrets.put(
        {next_ref(server, "qdrant"): Secret("key-to-come"), former_ref(server, "qdrant"): Secret("key-of-before")}
    )
    record_admin_change(state, AdminChange(server, "qdrant", phase, datetime.now(UTC)))
    rendered = Deployment(load_project(path), state).files(new_secrets=True)
    folder = "apps/ann" if strategy == "separate" else "infrastructure"
    env = rendered[f"{folder}/servers/.env" if strategy == "separate" else f"{folder}/.env"]
    lines = dict(line.split("=", 1) for line in env.text.splitlines() if "=" in line and not line.startswith("#"))
    others = {name: value for name, value in lines.items() if "ALT_API_KEY" in name}
    expected = {AdminPhase.CHANGING: ["key-to-come"], AdminPhase.CHANGED: ["key-of-before"]}.get(phase, [])
    assert list(others.values()) == expected
    assert kept.reveal() in lines.values()
    compose = rendered[f"{folder}/docker-compose.yml"].text
    service = yaml.safe_load(compose)["services"][server]
    assert "key-" not in compose
    if strategy != "separate":
        assert ("QDRANT__SERVICE__ALT_API_KEY" in service["environment"]) is bool(expected)
        assert bool(expected) == ("${QDRANT__SERVICE__ALT_API_KEY:?" in compose)
    else:
        assert list(others) == ["QDRANT__SERVICE__ALT_API_KEY"] * len(expected)
    assert not env.mode & 0o077


def test_references_to_one_servers_passwords_differ() -> None:
    refs = {admin_ref("a", "s"), next_ref("a", "s"), former_ref("a", "s")}
    assert len(refs) == 3
    assert {ref.owner for ref in refs} == {"@a"}
    assert replace(admin_ref("a", "s"), owner="@b") == admin_ref("b", "s")
