"""Entries of ``external:`` in a manifest: what they mean, and what is wrong with them in words for a person."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from multidb.errors import Refused, UsageError
from multidb.model import Address, App, Project, RuntimeKind
from multidb.provisioners import provisioner
from multidb.runtime import open_runtime
from multidb.runtime.external import ExternalRuntime
from multidb.state import ProjectState

ROOT = Path("/project")


def project(runtime: str = "external", **external: object) -> Project:
    apps = {"lernmi": App("lernmi", "lernmi", dict.fromkeys(external or {"postgres": None}))}
    return Project("p", RuntimeKind(runtime), apps, {}, external=external)


def runtime(**external: object) -> ExternalRuntime:
    return ExternalRuntime(project(**external), ProjectState(ROOT))


def entry(store: str, **values: object) -> Address:
    model = provisioner(store).address
    assert model is not None
    return model.model_validate(values)


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
def test_a_password_in_an_address_is_refused_and_never_repeated(field: str, url: str) -> None:
    values = {"url": "postgresql://db", field: url}
    with pytest.raises(ValidationError) as raw:
        entry("postgres", **values)
    assert "hunter2" not in str(raw.value)
    with pytest.raises(UsageError) as caught:
        runtime(postgres=values).servers()
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert "must" in str(caught.value)
    assert caught.value.__cause__ is None


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
def test_mistakes_are_explained(store: str, values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        runtime(**{store: values}).servers()
    assert words in str(caught.value)
    assert f"external.{store}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


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
