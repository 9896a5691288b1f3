"""Backups on real Postgres and Valkey through the command line: made, proved, damaged, brought back, cloned."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import redis

from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.project import load_project
from multidb.provisioners.postgres.backup import programs
from multidb.state import ProjectState
from multidb.tombstone import tombstones
from tests.support.command import REPOSITORY, Folder, project_folder
from tests.support.postgres_admin import as_admin
from tests.support.receiver import listening

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: kept
runtime: embedded
apps:
  ann: {stores: [postgres, redis], redis: {db: 3}}
  bob: {stores: [postgres, redis]}
backup: {to: [sets/], verify: always}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("kept-", MANIFEST) as found:
        found.ok("up")
        found.ok("apply", "--yes")
        for app in ("ann", "bob"):
            fill(found, app)
        yield found


def fill(folder: Folder, app: str) -> None:
    env = folder.variables(app)
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY, email text, note bytea)")
        connection.execute(
            "INSERT INTO people (email, note) SELECT n || '@example.org', '\\xff00' FROM generate_series(1, 500) n"
        )
        connection.execute('CREATE TABLE "Odd ""one""" AS SELECT id FROM people')
        connection.execute("CREATE VIEW recent AS SELECT * FROM people ORDER BY id DESC LIMIT 5")
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        client.set("greeting", "hello")
        client.set("soon gone", b"\xff\x00", ex=86400)
        client.xadd("events", {"kind": "login"})
        client.xgroup_create("events", "readers")


def contents(folder: Folder, app: str) -> tuple[object, object, object]:
    env = folder.variables(app)
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        rows = connection.execute("SELECT count(*), min(email), max(id) FROM people").fetchone()
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        keys = sorted(client.scan_iter()) if app == "ann" else client.get("greeting")
        return rows, keys, client.xinfo_groups("events")[0]["name"]


def change(folder: Folder, app: str) -> None:
    env = folder.variables(app)
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("DELETE FROM people WHERE id > 3")
        connection.execute("CREATE TABLE later ()")
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        client.set("later", "1")
        client.delete("events")


@pytest.fixture(scope="module")
def sets(folder: Folder) -> dict[str, str]:
    """Ids by app, of one backup of both, proved."""
    document = folder.ok("backup", "--json").json()
    assert document["ok"]
    assert {each["app"]: each["verified"] for each in document["sets"]} == {"ann": True, "bob": True}
    return {each["app"]: each["set"] for each in document["sets"]}


def test_a_set_tells_of_real_data(folder: Folder, sets: dict[str, str]) -> None:
    (shown,) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
    assert shown["verified"]
    counts = shown["stores"]["postgres"]["counts"]
    assert 500 in counts.values()
    manifest = json.loads((folder.path / "sets/kept/ann" / sets["ann"] / "manifest.json").read_text())
    assert manifest["stores"]["redis"]["server"].startswith("Valkey")
    secrets = json.loads((folder.path / ".multidb/secrets.json").read_text())["secrets"].values()
    everything = b"".join(path.read_bytes() for path in (folder.path / "sets").rglob("*") if path.is_file())
    assert not [secret for secret in secrets if len(secret) > 8 and secret.encode() in everything]


def sent_as_admin(folder: Folder, text: str, database: str = "postgres") -> list[tuple[object, ...]]:
    with as_admin(folder, database) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description is not None else []


def test_what_was_changed_comes_back_and_is_alone(folder: Folder, sets: dict[str, str]) -> None:
    before, other = contents(folder, "ann"), contents(folder, "bob")
    change(folder, "ann")
    refused = folder.run("restore", sets["ann"])
    assert refused.code == 3
    assert "--replace" in refused.err
    document = folder.ok("restore", sets["ann"], "--replace", "--json").json()
    assert document["safety_set"]
    assert document["breaches"] == []
    assert contents(folder, "ann") == before
    assert contents(folder, "bob") == other
    folder.ok("plan", "--check")
    env = folder.variables("ann")
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("INSERT INTO people (email) VALUES ('new')")  # identity goes on, rights are there
        connection.execute("DELETE FROM people WHERE email = 'new'")
    with psycopg.connect(env["ANN_DB_READONLY_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM recent").fetchone() == (5,)


def test_what_is_open_elsewhere_is_said_and_only_the_apps_own_fails_its_restore(
    folder: Folder, sets: dict[str, str]
) -> None:
    restore = ("restore", sets["ann"], "--store", "redis", "--replace", "--no-safety-set")
    sent_as_admin(folder, "GRANT CONNECT ON DATABASE bob TO PUBLIC")
    document = folder.ok(*restore, "--json").json()
    assert (document["ok"], document["breaches"]) == (True, [])
    assert any("bob" in line for line in document["open_elsewhere"])
    sent_as_admin(folder, "GRANT SELECT ON people TO bob_user", "ann")
    said = folder.run(*restore, "--json")
    assert (said.code, said.json()["ok"]) == (1, False), said.out
    assert any("people" in line for line in said.json()["breaches"])
    sent_as_admin(folder, "REVOKE CONNECT ON DATABASE bob FROM PUBLIC")
    sent_as_admin(folder, "REVOKE SELECT ON people FROM bob_user", "ann")
    folder.ok("plan", "--check")


def test_a_table_alone_comes_back(folder: Folder, sets: dict[str, str]) -> None:
    with psycopg.connect(folder.variables("bob")["DATABASE_URL"]) as connection:
        connection.execute('DELETE FROM "Odd ""one"""')
        connection.execute("INSERT INTO people (email) VALUES ('newer')")
    (odd, name) = ("--table", 'public."Odd ""one"""')
    refused = folder.run("restore", sets["bob"], odd, name)
    assert (refused.code, "--replace" in refused.err) == (3, True)
    assert folder.run("restore", sets["bob"], odd, name, "--as", "carl").code == 2
    document = folder.ok("restore", sets["bob"], odd, name, "--replace", "--json").json()
    assert (document["tables"], document["breaches"], bool(document["safety_set"])) == ([name], [], True)
    folder.ok("plan", "--check")
    with psycopg.connect(folder.variables("bob")["BOB_DB_READONLY_URL"]) as connection:
        assert connection.execute('SELECT count(*) FROM "Odd ""one"""').fetchone() == (500,)
        assert connection.execute("SELECT count(*) FROM people WHERE email = 'newer'").fetchone() == (1,)
    with psycopg.connect(folder.variables("bob")["DATABASE_URL"]) as connection:
        connection.execute("DELETE FROM people WHERE email = 'newer'")


def test_a_clone_is_masked_alone_and_goes_when_its_time_is_up(folder: Folder, sets: dict[str, str]) -> None:
    mask = folder.path / "mask.sql"
    mask.write_text("UPDATE people SET email = 'x';\nSELECT nothing_like_this();")
    failed = folder.run("clone", "ann", "ann_pr42", "--ttl", "1s", "--mask", str(mask))
    assert failed.code == 6
    assert "nothing_like_this" in failed.err
    env = folder.run("env", "ann_pr42", "--format", "json", "--reveal").json()
    with pytest.raises(psycopg.OperationalError):  # nobody sees what is not masked
        psycopg.connect(env["DATABASE_URL"]).close()
    mask.write_text("UPDATE people SET email = 'person ' || id;\nALTER TABLE people DROP COLUMN note CASCADE;")
    document = folder.ok("clone", "ann", "ann_pr42", "--mask", str(mask), "--json").json()
    assert document["breaches"] == []
    env = folder.variables("ann_pr42")
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*), min(email) FROM people").fetchone() == (500, "person 1")
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        assert client.get("greeting") == b"hello"
    assert contents(folder, "ann")[0] == (500, "100@example.org", 500)
    document = folder.ok("expire", "--dry-run", "--json").json()
    assert (document["expired"], document["removed"]) == (["ann_pr42"], [])
    said = watched_until_gone(folder, "ann_pr42")
    assert "removed ann_pr42, a clone of ann until" in said
    assert "ann_pr42" not in (folder.path / "multidb.yaml").read_text()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(env["DATABASE_URL"]).close()
    assert folder.ok("expire", "--json").json()["removed"] == []


def watched_until_gone(folder: Folder, app: str) -> str:
    """What `multidb backup --watch`, the sidecar's command, says until the app is gone and it is told to end."""
    command = [sys.executable, "-c", "from multidb.cli import main; main()", "backup", "--watch"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    watching = subprocess.Popen(command, cwd=folder.path, stdout=subprocess.PIPE, text=True, env=env)
    state, until = ProjectState(folder.path), time.monotonic() + 60
    while app in (folder.path / "multidb.yaml").read_text() or app in tombstones(state):
        assert time.monotonic() < until, f"{app} is still there"
        assert watching.poll() is None
        time.sleep(0.1)
    watching.send_signal(signal.SIGTERM)
    said, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    return said


def test_a_damaged_set_is_named_with_exit_1_and_a_failing_app_with_exit_6(folder: Folder, sets: dict[str, str]) -> None:
    made = folder.ok("backup", "bob", "--json", "--to", "other/").json()["sets"][0]["set"]
    path = folder.path / "other/kept/bob" / made / "postgres/dump.pgc.zst"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    told = folder.run("backups", "verify", "--from", "other/")
    assert told.code == 1
    assert "postgres/dump.pgc.zst" in told.out
    refused = folder.run("backups", "copy", f"bob/{made}", "--from", "other/", "--to", "third/", "--json")
    assert (refused.code, refused.json()["copied"]) == (6, [])
    assert "postgres/dump.pgc.zst" in refused.json()["failed"][0]["where"]
    copied = folder.ok("backups", "copy", f"bob/{sets['bob']}", "--to", "third/", "--json").json()["copied"]
    assert copied == [{"app": "bob", "set": sets["bob"], "target": "third/"}]
    (found,) = folder.ok("backups", "list", "--from", "third/", "--json").json()["sets"]
    assert (found["set"], found["verified"]) == (sets["bob"], True)
    (folder.path / "file").touch()
    with listening() as receiver:
        (folder.path / "hook").write_text(receiver.address)
        folder.manifest(MANIFEST + "notify: {webhooks: [{url: {file: hook}}]}\n")
        failed = folder.run("backup", "bob", "--to", "file/x", "--notify")
        folder.manifest(MANIFEST)
    assert failed.code == 6
    assert len([line for line in failed.err.splitlines() if line.startswith("bob: file/x:")]) == 1
    ((_, _, message),) = receiver.heard
    assert [(alarm["kind"], alarm["app"]) for alarm in message["alarms"]] == [("backup", "bob")]
    assert "the last backup failed: file/x" in message["alarms"][0]["message"]


def test_one_app_in_trouble_costs_no_other_its_set_and_is_not_left_half_way(
    folder: Folder, sets: dict[str, str]
) -> None:
    as_admin = partial(sent_as_admin, folder)
    folder.ok("add-app", "carl", "--stores", "postgres", "--yes")
    folder.ok("backup", "carl")
    as_admin("CREATE SUBSCRIPTION heard CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)", "carl")
    as_admin("CREATE PUBLICATION everything FOR ALL TABLES", "carl")
    told = folder.run("backup", "carl")
    assert told.code == 0
    assert "carl: postgres: a restore does not make publication everything" in " ".join(told.err.split())
    before = as_admin("SELECT datname FROM pg_database", "postgres")
    refused = folder.run("restore", "carl", "--replace")
    assert refused.code == 3
    assert "subscription heard" in refused.err
    assert as_admin("SELECT datname FROM pg_database", "postgres") == before
    as_admin(
        "ALTER SUBSCRIPTION heard DISABLE; ALTER SUBSCRIPTION heard SET (slot_name = NONE); DROP SUBSCRIPTION heard",
        "carl",
    )
    refused = folder.run("restore", "carl", "--replace")
    assert (refused.code, "publication everything" in refused.err) == (3, True)
    beside = folder.ok("restore", "carl", "--as", "carla")
    assert "postgres: a restore does not make publication everything" in " ".join(beside.err.split())
    as_admin("CREATE TABLE of_admin (a int)", "carl")
    everybody = folder.run("backup", "--json")
    assert everybody.code == 6
    assert {each["app"] for each in everybody.json()["failed"]} == {"carl"}
    assert {each["app"] for each in everybody.json()["sets"]} == {"ann", "bob", "carla"}
    assert folder.ok("backup", "bob", "--json").json()["failed"] == []
    for app in ("carl", "carla"):
        folder.ok("remove-app", app, "--no-backup", "--yes")
        folder.ok("purge", app, "--yes-destroy", app)


def blocks() -> dict[str, str]:
    text = (REPOSITORY / "docs/restore-by-hand.md").read_text()
    return dict(re.findall(r"```sh (\w+)\n(.*?)```", text, re.DOTALL))


def test_the_page_on_restoring_by_hand_is_right(folder: Folder, sets: dict[str, str], tmp_path: Path) -> None:
    engine = Engine(Fleet(load_project(folder.path / "multidb.yaml")))
    server = next(server for server in engine.fleet.runtime.servers() if server.store == "postgres")
    password = engine.fleet.runtime.admin(server)
    assert password is not None
    where = server.endpoint
    cache = next(server for server in engine.fleet.runtime.servers() if server.store == "redis")
    keys, keys_password = cache.endpoint, engine.fleet.runtime.admin(cache)
    assert keys_password is not None
    number = folder.variables("bob")["REDIS_DB"]
    with redis.Redis.from_url(folder.variables("bob")["REDIS_URL"]) as client:
        client.delete("greeting", "events", "soon gone")
    env = {
        **os.environ,
        "PATH": f"{Path(programs.find('pg_restore', 18, 'here').path).parent}:{os.environ['PATH']}",
        "SET": str(folder.path / "sets/kept/ann" / sets["ann"]),
        "WORK": str(tmp_path),
        "PGHOST": where.host,
        "PGPORT": str(where.port),
        "PGUSER": where.user,
        "PGPASSWORD": password.reveal(),
        "OWNER": "bob_owner",
        "DATABASE": "by_hand",
        "REDIS_ADDRESS": f"redis://{keys.user}:{keys_password.reveal()}@{keys.host}:{keys.port}/{number}",
    }
    found = blocks()
    assert set(found) == {"whole", "postgres", "redis", "neo4j"}
    for script in (found["whole"], found["postgres"], found["redis"]):  # Neo4j's: test_neo4j_archive.py
        ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    login = {"host": where.host, "port": where.port, "user": where.user, "password": password.reveal()}
    with psycopg.connect(**login, dbname="by_hand") as connection:  # type: ignore[arg-type]
        assert connection.execute("SELECT count(*), min(email) FROM people").fetchone() == (500, "100@example.org")
    with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute("DROP DATABASE by_hand")
    with redis.Redis.from_url(folder.variables("bob")["REDIS_URL"]) as client:
        assert client.get("greeting") == b"hello"
        assert 0 < client.ttl("soon gone") <= 86400
        assert client.xinfo_groups("events")[0]["name"] == b"readers"
