"""Servers full of what nobody wrote down, and the manifest that `multidb import --scan` makes of them. On real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.runtime.external import ExternalRuntime
from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder

pytestmark = pytest.mark.server

THEIRS = (
    "CREATE ROLE bob LOGIN",
    "CREATE ROLE reports",
    "CREATE ROLE report LOGIN IN ROLE reports",
    "CREATE ROLE crm_user LOGIN",
    "CREATE DATABASE crm OWNER bob CONNECTION LIMIT 30",
    "GRANT CONNECT ON DATABASE crm TO reports",
    "ALTER DATABASE crm SET work_mem = '8MB'",
    "CREATE DATABASE shop",
    'CREATE DATABASE "Odd-Name"',
    "CREATE DATABASE shut ALLOW_CONNECTIONS false",
    'CREATE DATABASE "multidb: \x1b[31m"',
)
USERS = (
    ("crm_user", "on >pw ~* resetchannels -@all +@read +@write -select +select|3"),
    ("stock_user", "on >pw ~stock:* resetchannels -@all +@read"),
    ("everything", "on >pw ~* &* +@all"),
    ("off_user", "off >pw ~* resetchannels -@all +get +select|4"),
)


@pytest.fixture(scope="module")
def hosted() -> Iterator[tuple[Folder, str, redis.Redis]]:
    """A project whose servers stand for somebody else's, with what is on them."""
    manifest = "version: 1\nproject: host\nruntime: embedded\napps:\n  own: {stores: [postgres, redis]}\n"
    with project_folder("host-", manifest) as folder:
        folder.ok("up")
        folder.ok("apply", "--yes")
        state, env = ProjectState(folder.path), folder.variables("own")
        passwords = {store: state.secrets.get(admin_ref(store, store)) for store in ("postgres", "redis")}
        for store, password in passwords.items():
            assert password is not None
            (folder.path / store).write_text(password.reveal())
            (folder.path / store).chmod(0o600)
        place = urlsplit(env["DATABASE_URL"])
        url = f"postgresql://postgres:{(folder.path / 'postgres').read_text()}@{place.hostname}:{place.port}"
        with psycopg.connect(f"{url}/postgres", autocommit=True) as server:
            for statement in THEIRS:
                server.execute(statement)  # type: ignore[arg-type]
        with psycopg.connect(f"{url}/crm", autocommit=True) as inside:
            inside.execute("CREATE EXTENSION pg_trgm")
            inside.execute("CREATE SCHEMA sales")
            inside.execute("CREATE TABLE sales.orders (id int)")
        there = urlsplit(env["REDIS_URL"])
        client = redis.Redis(
            host=str(there.hostname),
            port=int(there.port or 0),
            username="multidb_admin",
            password=(folder.path / "redis").read_text(),
        )
        for name, rule in USERS:
            client.execute_command("ACL", "SETUSER", name, *rule.split())
        for number in (0, 5):
            client.execute_command("SELECT", number)
            client.set("key", "value")
        yield folder, url, client


@pytest.fixture
def taking(hosted: tuple[Folder, str, redis.Redis], tmp_path: Path) -> Folder:
    """A new project that knows where the servers are, and of no app."""
    folder, url, _ = hosted
    place, there = urlsplit(url).netloc.rpartition("@")[2], urlsplit(folder.variables("own")["REDIS_URL"])
    files = {store: f"{{file: {folder.path}/{store}}}" for store in ("postgres", "redis")}
    (tmp_path / "multidb.yaml").write_text(f"""\
version: 1
project: taking
runtime: external
external:
  postgres: {{url: "postgresql://postgres@{place}/postgres", password: {files["postgres"]}}}
  redis: {{url: "redis://multidb_admin@{there.hostname}:{there.port}", password: {files["redis"]}}}
# who comes next reads this
apps:
""")
    return Folder(tmp_path, [])


def test_what_is_there_becomes_a_manifest_whose_plan_changes_nothing(taking: Folder) -> None:
    before = (taking.path / "multidb.yaml").read_text()
    document = taking.ok("import", "--scan", "--json").json()
    assert (taking.path / "multidb.yaml").read_text() == before
    assert document["entries"] == {
        "crm": {
            "stores": ["postgres", "redis"],
            "mode": "observe",
            "postgres": {"extensions": ["pg_trgm"]},
            "redis": {"db": 3},
        },
        "shop": {"stores": ["postgres"], "mode": "observe"},
        "stock": {"stores": ["redis"], "mode": "observe", "redis": {"isolation": "prefix"}},
    }
    assert document["accounts"] == {"postgres": ["bob", "report"]}
    reasons = {
        (place["kind"], place["name"]): place["reason"]
        for server in document["servers"]
        for place in server["places"]
        if place["reason"]
    }
    assert "no id of an app" in reasons["database", "Odd-Name"]
    assert "lets nobody connect" in reasons["database", "shut"]
    assert "host/own" in reasons["database", "own"]
    assert "host/own" in reasons["user", "own_user"]
    assert "no single DB" in reasons["user", "everything"]
    assert "turned off" in reasons["user", "off_user"]
    assert "no user is confined to it" in reasons["DB", "5"]
    assert "no app's own" in reasons["DB", "0"]
    notes = next(
        place["notes"] for server in document["servers"] for place in server["places"] if place["name"] == "crm"
    )
    assert "there is a role crm_user, which the app would have" in notes
    assert "it takes 30 connections at most" in notes
    shown = taking.ok("import", "--scan").out
    assert "\x1b[31m" not in shown
    assert "+  crm: {stores: [postgres, redis], mode: observe" in shown
    taking.ok("import", "--scan", "--write", "multidb.yaml")
    written = (taking.path / "multidb.yaml").read_text()
    assert written.startswith(before.rstrip("\n"))
    planned = taking.ok("plan", "--check", "--json").json()
    assert planned["changes"] == []
    assert {"crm", "shop", "stock"} == {change["app"] for change in planned["left"]}
    taking.ok("apply", "--yes")
    again = taking.ok("import", "--scan", "--json").json()
    assert (again["entries"], again["managed"]) == ({}, ["crm", "shop", "stock"])
    runs = taking.ok("history", "--json").json()["runs"]
    made = {change["name"] for run in runs for change in run["changes"] if change["kind"] == "entry"}
    assert made == {"crm in multidb.yaml", "shop in multidb.yaml", "stock in multidb.yaml"}


def test_a_new_file_is_written_and_none_is_replaced(taking: Folder) -> None:
    before = (taking.path / "multidb.yaml").read_text()
    taking.ok("import", "--scan", "--mode", "additive", "--write", "other.yaml")
    assert (taking.path / "multidb.yaml").read_text() == before
    assert "mode: additive" in (taking.path / "other.yaml").read_text()
    refused = taking.run("import", "--scan", "--write", "other.yaml")
    assert (refused.code, "there is such a file already" in refused.err) == (2, True)
    assert taking.run("import").code == 2


def test_what_the_manifest_does_not_take_is_no_app(taking: Folder) -> None:
    """Another app has the name that the database's app would need: it is said, and the others are taken."""
    text = (taking.path / "multidb.yaml").read_text()
    (taking.path / "multidb.yaml").write_text(text + "  other: {stores: [redis], tenant_id: shop}\n")
    document = taking.ok("import", "--scan", "--json").json()
    assert set(document["entries"]) == {"crm", "stock"}
    (reason,) = [
        place["reason"] for server in document["servers"] for place in server["places"] if place["name"] == "shop"
    ]
    assert "tenant_id" in reason


@pytest.mark.parametrize("databases", [pytest.param(25), pytest.param(500, marks=pytest.mark.rare)])
def test_the_questions_do_not_grow_with_the_databases(
    taking: Folder, hosted: tuple[Folder, str, redis.Redis], databases: int
) -> None:
    url = hosted[1]
    runtime = ExternalRuntime(load_project(taking.path / "multidb.yaml"), ProjectState(taking.path))
    store = provisioner("postgres")
    assert store.scanning is not None
    (server,) = [one for one in runtime.servers() if one.store == "postgres"]
    password = runtime.admin(server)

    def cost() -> tuple[int, int]:
        assert store.scanning is not None
        with store.connect(server, password, "test") as session:
            before = session.traffic.connections, session.traffic.round_trips  # type: ignore[attr-defined]
            store.scanning.read(session)
            traffic = session.traffic  # type: ignore[attr-defined]
            return traffic.connections - before[0], traffic.round_trips - before[1]

    few = cost()
    with psycopg.connect(f"{url}/postgres", autocommit=True) as admin:
        for number in range(databases):
            admin.execute(f"CREATE DATABASE many{number} STRATEGY file_copy")  # type: ignore[arg-type]
        try:
            many = cost()
        finally:
            for number in range(databases):
                admin.execute(f"DROP DATABASE many{number}")  # type: ignore[arg-type]
    assert many[0] - few[0] == databases
    # Of many, the server is asked once for what every connection's login is worked out from.
    assert databases <= many[1] - few[1] <= databases + 1


def test_the_document_has_no_secret(taking: Folder, hosted: tuple[Folder, str, redis.Redis]) -> None:
    folder = hosted[0]
    text = json.dumps(taking.ok("import", "--scan", "--json").json())
    assert not any((folder.path / store).read_text() in text for store in ("postgres", "redis"))
