"""Entries of ``external:`` in a manifest: what they mean, and what is wrong with them in words for a person."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from multidb.errors import ManifestError, Refused, UsageError
from multidb.model import Address, App, Project, RuntimeKind
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.runtime import open_runtime
from multidb.runtime.external import ExternalRuntime
from multidb.state import ProjectState
from tests.support.specs import spec

ROOT = Path("/project")


def project(runtime: str = "external", **external: Mapping[str, object]) -> Project:
    entries: Mapping[str, Mapping[str, object] | None] = external or {"postgres": None}
    apps = {"lernmi": App("lernmi", "lernmi", dict.fromkeys(entries))}
    return Project("p", RuntimeKind(runtime), apps, tuple(spec(store, address) for store, address in entries.items()))


def runtime(**external: Mapping[str, object]) -> ExternalRuntime:
    return ExternalRuntime(project(**external), ProjectState(ROOT))


def entry(store: str, **values: object) -> Address:
    model = provisioner(store).address
    assert model is not None
    return model.model_validate(values)


def refusal(folder: Path, store: str, values: Mapping[str, object]) -> ManifestError:
    """What is said of a manifest with this entry."""
    manifest = {"version": 1, "project": "digi", "runtime": "external", "external": {store: values}}
    path = folder / "multidb.yaml"
    path.write_text(json.dumps({**manifest, "apps": {"lernmi": {"stores": [store]}}}))
    with pytest.raises(ManifestError) as caught:
        load_project(path)
    return caught.value


def test_a_postgres_address_is_taken_apart() -> None:
    url = "postgresql://ad%40min@db.example.com:6432/main?sslmode=verify-full"
    endpoint = entry("postgres", url=url, ca_file="ca.pem").endpoint(ROOT)
    assert (endpoint.host, endpoint.port, endpoint.user, endpoint.database) == (
        "db.example.com",
        6432,
        "ad@min",
        "main",
    )
    assert endpoint.tls
    assert endpoint.params == {"sslmode": "verify-full", "sslrootcert": "/project/ca.pem"}


@pytest.mark.parametrize(
    ("store", "url", "port", "user", "tls"),
    [
        ("postgres", "postgres://db", 5432, "postgres", False),
        ("postgres", "postgres://db?sslmode=require", 5432, "postgres", True),
        ("redis", "redis://cache", 6379, "default", False),
        ("redis", "rediss://boss@cache:6380", 6380, "boss", True),
        ("qdrant", "https://q.example.com", 6333, "", True),
        ("neo4j", "neo4j+s://g.example.com", 7687, "neo4j", True),
        ("neo4j", "bolt://[::1]:7688", 7688, "neo4j", False),
    ],
)
def test_defaults_and_tls_by_scheme(store: str, url: str, port: int, user: str, tls: bool) -> None:
    endpoint = entry(store, url=url).endpoint(ROOT)
    assert (endpoint.port, endpoint.user, endpoint.tls) == (port, user, tls)


def test_the_apps_address_may_be_another() -> None:
    other = entry("redis", url="redis://admin@10.0.0.5", app_url="rediss://cache.internal:7000").app_endpoint(ROOT)
    assert (str(other), other.tls) == ("cache.internal:7000", True)
    assert str(entry("redis", url="redis://admin@10.0.0.5").app_endpoint(ROOT)) == "10.0.0.5:6379"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://admin:hunter2hunter2@db/postgres",
        "postgresql://admin@db/postgres?password=hunter2hunter2",
        "https://q.example.com?API_KEY=hunter2hunter2",
        "postgresql://admin:hunter2hunter2@db:notaport/postgres",
    ],
)
@pytest.mark.parametrize("field", ["url", "app_url"])
def test_a_password_in_an_address_is_refused_and_never_repeated(tmp_path: Path, field: str, url: str) -> None:
    values = {"url": "postgresql://db", field: url}
    with pytest.raises(ValidationError) as raw:
        entry("postgres", **values)
    assert "hunter2" not in str(raw.value)
    refused = refusal(tmp_path, "postgres", values)
    assert "hunter2" not in f"{refused} {refused.hint}"
    assert "must" in str(refused)
    assert refused.__cause__ is None


@pytest.mark.parametrize(
    ("store", "values", "words"),
    [
        ("postgres", {"url": "mysql://db"}, "beginning with postgresql://"),
        ("postgres", {"path": "data"}, "path"),
        ("qdrant", {"path": "data", "url": "http://q"}, "either url, or path"),
        ("redis", {"url": "redis://c", "sslmode": "require"}, "sslmode"),
        ("redis", {"url": "redis://c", "app_url": "http://c"}, "app_url"),
        ("postgres", {}, "must have url, such as postgresql://"),
        ("postgres", {"url": "postgresql:///x"}, "must have a host"),
        ("postgres", {"url": "postgresql://db", "sslmode": "on"}, "disable"),
        ("postgres", {"url": "postgresql://db", "cert_file": "c.pem"}, "together"),
        ("postgres", {"url": "postgresql://db", "password": {}}, "either {env: NAME} or {file: PATH}"),
        ("postgres", {"url": "postgresql://db", "password": {"env": "s3cret-itself!"}}, "not the secret itself"),
        ("postgres", {"url": "postgresql://db", "colour": "blue"}, "colour"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, store: str, values: dict[str, object], words: str) -> None:
    said = str(refusal(tmp_path, store, values))
    assert words in said
    assert "multidb.yaml:1:" in said
    assert "s3cret" not in said


def test_a_store_without_an_address_is_named() -> None:
    with pytest.raises(UsageError, match=r"external\.postgres") as caught:
        ExternalRuntime(project(), ProjectState(ROOT)).servers()
    assert "add" in (caught.value.hint or "")


def test_the_password_is_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    it = runtime(postgres={"url": "postgresql://db", "password": {"env": "PG_ADMIN"}})
    (server,) = it.servers()
    monkeypatch.delenv("PG_ADMIN", raising=False)
    with pytest.raises(UsageError, match="PG_ADMIN") as caught:
        it.admin(server)
    assert "export PG_ADMIN" in (caught.value.hint or "")
    monkeypatch.setenv("PG_ADMIN", "pw")
    secret = it.admin(server)
    assert secret is not None
    assert secret.reveal() == "pw"


def test_a_server_without_authentication_has_no_password() -> None:
    it = runtime(redis={"url": "redis://cache"})
    assert it.admin(it.servers()[0]) is None


def test_starting_and_stopping_is_declined() -> None:
    it = runtime(redis={"url": "redis://cache"})
    for verb in (it.up, it.down):
        with pytest.raises(Refused, match="not ours") as caught:
            verb(lambda *_: None)
        assert caught.value.hint


def test_opening_a_runtime_touches_nothing() -> None:
    for name in ("embedded", "external"):
        open_runtime(project(name), ProjectState(Path("/nowhere/at/all")))
