"""An app under another name through the command line, on real servers: killed at each step, gone back on, and beside
what stands in the way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import neo4j
import psycopg
import pytest
import redis

from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

MANIFEST = """\
version: 1
project: names
runtime: embedded
apps:
  # ann came first
  ann: {stores: [postgres, qdrant, redis], tenant_id: anna, postgres: {roles: split}, redis: {db: 5}} # and is loud
  bob: {stores: [postgres, redis], redis: {channels: ["jobs:*", "pam:news"]}}
  pam: {stores: [redis], redis: {isolation: prefix}}
"""

STEPS = (
    "multidb.renaming:removal.suspend",
    "multidb.renaming:cloning.carry",
    "multidb.backup.cloning:restore",
    "multidb.backup.places:compare",
    "multidb.backup.restoring:_Restore._exchange",
    "multidb.renaming:write_tombstone",
    "multidb.renaming:record_name",
    "multidb.renaming:_files_to_edit",
    "multidb.cli.rename_app:write_env_files",
    "multidb.renaming:drop",
    "multidb.removal:_forget_everything",
    "multidb.renaming:end_rename",
)
"""In the order in which a rename comes to them."""

USUAL = ("multidb.backup.places:compare", "multidb.renaming:_files_to_edit", "multidb.removal:_forget_everything")
"""Those that are tried in every run; the others are rare."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("names-", MANIFEST) as found:
        found.ok("up")
        found.ok("apply", "--yes")
        yield found


def qdrant(env: dict[str, str], method: str, path: str, body: Any = None) -> Any:
    address = f"{env['QDRANT_URL']}/collections/{env['QDRANT_COLLECTION_PREFIX']}knowledge{path}"
    reply = httpx.request(method, address, json=body, headers={"api-key": env["QDRANT_API_KEY"]})
    reply.raise_for_status()
    return reply.json()["result"]


def owning(env: dict[str, str]) -> str:
    """Where the login gets in that makes tables."""
    return next((value for name, value in env.items() if "MIGRAT" in name), env["DATABASE_URL"])


def write(env: dict[str, str]) -> None:
    with psycopg.connect(owning(env)) as connection:
        connection.execute("CREATE TABLE notes AS SELECT n AS id, 'note ' || n AS text FROM generate_series(1, 500) n")
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        client.hset("note", mapping={"text": "kept"})
    if env.get("QDRANT_URL"):
        size = qdrant(env, "GET", "")["config"]["params"]["vectors"]["size"]
        point = {"id": 1, "vector": [0.5] * size, "payload": {"tenant_id": env["APP_TENANT_ID"], "text": "kept"}}
        qdrant(env, "PUT", "/points?wait=true", {"points": [point]})


def read(env: dict[str, str]) -> list[Any]:
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        found: list[Any] = [connection.execute("SELECT count(*), min(text) FROM notes").fetchone()]
    with redis.Redis.from_url(env["REDIS_URL"], decode_responses=True) as client:
        found.append(client.hgetall("note"))
    if env.get("QDRANT_URL"):
        found.append(qdrant(env, "POST", "/points", {"ids": [1], "with_payload": True})[0]["payload"])
    return found


def let_in(env: dict[str, str]) -> bool:
    """Whether a credential of the app opens anything."""
    try:
        psycopg.connect(env["DATABASE_URL"]).close()
    except psycopg.OperationalError:
        pass
    else:
        return True
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return False


def on_postgres(folder: Folder, app: str = "bob") -> set[str]:
    """Every database and role, as somebody sees them who may see all."""
    with psycopg.connect(folder.variables(app)["DATABASE_URL"]) as connection:
        names = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
        return {name for (name,) in connection.execute(names)}


def test_killed_at_each_step_it_is_finished_and_nobody_works_under_two_names(
    folder: Folder, request: pytest.FixtureRequest
) -> None:
    env, others = folder.variables("ann"), folder.variables("bob")
    write(env)
    write(others)
    before, theirs = read(env), read(others)
    (made,) = folder.ok("backup", "ann", "--json").json()["sets"]
    wanted = ["ann", "amy", "--yes-destroy", "ann", "--no-backup"]

    steps = STEPS if request.config.getoption("--all") else USUAL
    for step in steps:
        process = stopped_at(folder, step, "rename-app", *wanted)
        assert process is not None, f"it never came to {step}"
        try:
            if step == steps[0]:
                second = folder.run("rename-app", *wanted)
                assert (second.code, "rename-app" in second.err) == (3, True), "two at once"
            # The process that stands there may have Qdrant's local folder, which serves one at a time.
            folder.ok("apply", "--yes", "--store", "postgres", "--store", "redis")
            assert not let_in(env), f"{step}: the old name is open"
            assert (folder.path / "apps/amy/.env").exists() == (step in STEPS[9:]), (
                "the new name has what it opens with"
            )
            assert read(others) == theirs
        finally:
            kill(process)
    done = folder.ok("rename-app", "ann", "amy")
    assert "ann is amy" in done.out

    now = folder.variables("amy")
    assert read(now) == before
    assert now["APP_TENANT_ID"] == "anna"
    assert "AMY_DB_URL" in now
    assert now["DATABASE_URL"] != env["DATABASE_URL"]
    assert not let_in(env)
    assert not [name for name in on_postgres(folder) if name.startswith("ann")]
    assert not (folder.path / "apps/ann").exists()
    assert {ref.owner for ref in ProjectState(folder.path).secrets.refs()} & {"ann", "amy"} == {"amy"}
    text = (folder.path / "multidb.yaml").read_text()
    assert text == MANIFEST.replace("  ann:", "  amy:").replace("db: 5", f"db: {now['REDIS_DB']}")
    folder.ok("plan", "--check")
    folder.ok("health", "amy")
    audited = folder.ok("audit", "--json").json()
    assert (audited["breaches"], audited["holes"]) == ([], [])

    (listed,) = folder.ok("backups", "list", "amy", "--json").json()["sets"]
    assert (listed["set"], listed["app"], listed["made_as"]) == (made["set"], "amy", "ann")
    folder.ok("backups", "verify", "amy")
    with psycopg.connect(now["DATABASE_URL"]) as connection:
        connection.execute("DELETE FROM notes")
    folder.ok("restore", "amy", "--replace")
    assert read(folder.variables("amy")) == before
    again = folder.run("rename-app", "ann", "amy")
    assert (again.code, "multidb show amy" in again.err) == (2, True)


def test_back_before_all_is_there_with_the_credentials_that_it_had(folder: Folder) -> None:
    env = folder.variables("bob")
    before, text = read(env), (folder.path / "multidb.yaml").read_text()
    process = stopped_at(
        folder, "multidb.backup.restoring:_Restore._exchange", "rename-app", "bob", "bea", "--yes-destroy", "bob"
    )
    assert process is not None
    kill(process)
    for command in (["remove-app", "bob"], ["purge", "bob"], ["add-app", "bea", "--yes"], ["undo-remove", "bea"]):
        refused = folder.run(*command)
        assert (refused.code, "multidb rename-app bob bea --abort" in refused.err) == (3, True), command
    told = folder.run("health", "bob")
    assert (told.code, "rename-app bob bea" in told.out) == (1, True)
    process = stopped_at(folder, "multidb.renaming:removal.purge", "rename-app", "bob", "bea", "--abort")
    assert process is not None
    kill(process)
    assert read(env) == before, "back at work, before what was copied is gone"
    assert folder.run("rename-app", "bob", "bea").code == 3
    folder.ok("rename-app", "bob", "bea", "--abort")
    assert folder.variables("bob") == env
    assert read(env) == before
    assert (folder.path / "multidb.yaml").read_text() == text
    assert not [name for name in on_postgres(folder) if name.startswith("bea")]
    folder.ok("plan", "--check")


def test_a_transaction_that_is_prepared_at_the_last_moment_is_not_lost(folder: Folder) -> None:
    env = folder.variables("bob")
    place = urlsplit(env["DATABASE_URL"])
    password = ProjectState(folder.path).secrets.get(admin_ref("postgres", "postgres"))
    assert password is not None
    admin = {"host": place.hostname, "port": place.port, "user": "postgres", "password": password.reveal()}
    with psycopg.connect(**admin, dbname="postgres", autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
    folder.ok("restart", "postgres")
    step = "multidb.renaming:removal.suspend"
    process = stopped_at(folder, step, "rename-app", "bob", "bea", "--no-backup", "--yes-destroy", "bob")
    assert process is not None
    with psycopg.connect(owning(env), autocommit=True) as connection:
        connection.execute("BEGIN; CREATE TABLE late (); PREPARE TRANSACTION 'late'")
    code, said = go_on(process)
    assert (code, "prepared transaction late" in said, "--abort" in said) == (3, True, True), said
    folder.ok("rename-app", "bob", "bea", "--abort")
    with psycopg.connect(owning(env), autocommit=True) as connection:
        connection.execute("COMMIT PREPARED 'late'")
        connection.execute("DROP TABLE late")
    folder.ok("plan", "--check")


def test_keys_under_a_prefix_get_the_new_one(folder: Folder) -> None:
    with redis.Redis.from_url(folder.variables("pam")["REDIS_URL"], decode_responses=True) as client:
        client.set("pam:note", "kept")
    done = folder.ok("rename-app", "pam", "pia", "--yes-destroy", "pam", "--json")
    document = done.json()
    assert (document["app"], document["was"], document["breaches"]) == ("pia", "pam", [])
    assert "bob names pam:news under redis.channels, where pia will not be heard" in done.err
    assert document["mentions"] == [], "what others name is no text of its own"
    assert document["final_set"]
    with redis.Redis.from_url(folder.variables("pia")["REDIS_URL"], decode_responses=True) as client:
        assert client.get("pia:note") == "kept"
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("pam:note")
    folder.ok("plan", "--check")


def test_a_name_that_something_on_a_server_has_is_refused(folder: Folder) -> None:
    text = (folder.path / "multidb.yaml").read_text()
    (folder.path / "multidb.yaml").write_text(text + "  eve: {stores: [redis]}\n")
    folder.ok("apply", "--yes")
    (folder.path / "multidb.yaml").write_text(text)
    refused = folder.run("rename-app", "bob", "eve", "--yes-destroy", "bob")
    assert (refused.code, "multidb remove-app eve" in refused.err) == (3, True)
    folder.ok("remove-app", "eve", "--no-backup", "--yes")
    refused = folder.run("rename-app", "bob", "eve", "--yes-destroy", "bob")
    assert (refused.code, "multidb purge eve" in refused.err) == (3, True)
    folder.ok("plan", "--check")


@pytest.mark.rare
def test_a_neo4j_of_its_own_gets_the_new_name() -> None:
    with tempfile.TemporaryDirectory(prefix="graphs-") as name:
        path = Path(name)
        path.chmod(0o755)
        folder = Folder(path, [])
        folder.manifest("version: 1\nproject: graphs\nruntime: embedded\napps:\n  ann: {stores: [neo4j, redis]}\n")
        folder.ok("up", timeout=500)
        try:
            folder.ok("apply", "--yes", timeout=500)
            folder.ok("up", timeout=500)
            folder.ok("apply", "--yes", timeout=500)
            env = folder.variables("ann")
            graph(env, "CREATE (:Note {text: 'kept'})-[:OF]->(:Person {name: 'ann'})")
            for step in ("multidb.backup.cloning:restore", "multidb.renaming:record_name", "multidb.renaming:drop"):
                process = stopped_at(folder, step, "rename-app", "ann", "amy", "--yes-destroy", "ann", "--no-backup")
                assert process is not None, step
                kill(process)
            folder.ok("rename-app", "ann", "amy", timeout=500)
            now = folder.variables("amy")
            assert graph(now, "MATCH (n:Note)-[:OF]->(p) RETURN n.text, p.name") == [["kept", "ann"]]
            folder.ok("plan", "--check", timeout=500)
            servers = {each["server"] for each in folder.ok("status", "--json").json()["servers"]}
            assert "neo4j-amy" in servers
            assert "neo4j-ann" not in servers
            assert not list((path / ".multidb/servers").glob("*neo4j-ann*"))
        finally:
            folder.run("down", timeout=500)


def graph(env: dict[str, str], query: str) -> list[list[Any]]:
    with neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=(env["NEO4J_USER"], env["NEO4J_PASSWORD"])) as driver:
        found = driver.execute_query(query, database_=env["NEO4J_DATABASE"])
    return [list(record.values()) for record in found.records]
