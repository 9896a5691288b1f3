"""Clones on real Postgres and Valkey through the command line: shut until masked, made anew only when asked."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from multidb.tombstone import tombstones
from tests.support.command import Folder, project_folder
from tests.support.stopped import kill, stopped_at

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: previews
runtime: embedded
apps:
  ann: {stores: [postgres, redis], redis: {channels: ["jobs:*", "bob:*"]}}
  bob: {stores: [redis], redis: {channels: ["jobs:*"]}}
"""
MASK = "UPDATE people SET email = 'person ' || id"
PEOPLE = 500


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("previews-", MANIFEST) as found:
        (found.path / "mask.sql").write_text(MASK)
        (found.path / "slow.sql").write_text(f"SELECT pg_sleep(600); {MASK}")
        found.ok("up")
        found.ok("apply", "--yes")
        with psycopg.connect(found.variables("ann")["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE people (id int PRIMARY KEY, email text)")
            query = "INSERT INTO people SELECT n, n || '@example.org' FROM generate_series(1, %s) n"
            connection.execute(query, (PEOPLE,))
        with redis.Redis.from_url(found.variables("ann")["REDIS_URL"]) as client:
            client.set("greeting", "hello")
        yield found


def emails(env: dict[str, str]) -> tuple[int, str]:
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT count(*), min(email) FROM people").fetchone()
        assert row is not None
        return row[0], row[1]


MASKED, PLAIN = (PEOPLE, "person 1"), (PEOPLE, "100@example.org")


def shut(env: dict[str, str]) -> bool:
    """Whether no credential of the app is let in."""
    for address in (value for value in env.values() if str(value).startswith("postgresql:")):
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            psycopg.connect(address)
    with redis.Redis.from_url(env["REDIS_URL"]) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    return True


def _admins(folder: Folder) -> str:
    """Where the admin of the server gets in; only a superuser sees what others have sent."""
    secret = ProjectState(folder.path).secrets.get(admin_ref("postgres", "postgres"))
    assert secret is not None
    there = urlsplit(folder.variables("ann")["DATABASE_URL"])
    return f"postgresql://postgres:{secret.reveal()}@{there.hostname}:{there.port}/postgres"


def masking(folder: Folder, *arguments: str) -> subprocess.Popen[str]:
    """A clone at the moment when its data is there and its masking SQL is at work."""
    process = folder.begin("clone", *arguments)
    at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'pr' AND query ~ 'pg_sleep.600'"
    with psycopg.connect(_admins(folder), autocommit=True) as watching:
        until = time.monotonic() + 120
        while watching.execute(at_work).fetchone() != (1,):
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < until
            time.sleep(0.02)
    return process


def test_nobody_sees_a_clone_before_it_is_masked_whatever_is_run(folder: Folder) -> None:
    document = folder.ok("clone", "ann", "pr", "--mask", "mask.sql", "--json").json()
    assert (document["breaches"], document["safety_set"]) == ([], None)
    env = folder.variables("pr")  # somebody holds its env file from now on
    assert emails(env) == MASKED
    folder.ok("plan", "--check")

    refused = folder.run("clone", "ann", "pr", "--mask", "slow.sql")
    assert (refused.code, "--replace" in refused.err, emails(env)) == (3, True, MASKED)

    process = masking(folder, "ann", "pr", "--replace", "--mask", "slow.sql")
    try:
        assert shut(env)
        folder.ok("apply", "--yes")
        assert shut(env), "apply, while it is masked"
    finally:
        process.kill()
        process.communicate()
    (safety,) = (each for each in folder.ok("backups", "list", "pr", "--json").json()["sets"])
    for command in (["apply", "--yes"], ["up"], ["backup"], ["expire"], ["backups", "verify", "ann"]):
        folder.ok(*command)
        assert shut(env), command
    checked = folder.run("plan", "--check")
    assert (checked.code, "multidb clone ann pr --mask FILE.sql" in checked.out) == (1, True)
    told = folder.run("health", "pr")
    assert (told.code, "clone ann pr" in told.out) == (1, True)
    assert folder.run("backup", "pr").code == 6, "what it has now is no one's"
    forgotten = folder.run("clone", "ann", "pr")
    assert (forgotten.code, "--mask" in forgotten.err) == (3, True)
    assert shut(env)

    folder.ok("remove-app", "pr", "--yes")
    folder.ok("undo-remove", "pr")
    assert shut(env), "undo-remove"
    folder.ok("clone", "ann", "pr", "--mask", "mask.sql")
    assert emails(env) == MASKED
    folder.ok("plan", "--check")
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("DELETE FROM people")
    folder.ok("restore", safety["set"], "--replace")
    assert emails(env) == MASKED
    assert emails(folder.variables("ann")) == PLAIN


def test_a_clone_reaches_nobody_through_its_originals_channels(folder: Folder) -> None:
    told = folder.ok("clone", "ann", "deaf", "--json")
    assert told.json()["breaches"] == [], "what ann shares by the manifest is no breach"
    assert "redis.channels of ann (jobs:*, bob:*)" in told.err
    with redis.Redis.from_url(folder.variables("deaf")["REDIS_URL"]) as client:
        for channel in ("jobs:new", "bob:events"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.publish(channel, "x")
    assert folder.ok("clone", "ann", "hears", "--share-channels", "--json").json()["breaches"] == []
    with redis.Redis.from_url(folder.variables("hears")["REDIS_URL"]) as client:
        client.publish("jobs:new", "x")


def test_what_the_manifest_shares_is_no_breach(folder: Folder) -> None:
    audited = folder.ok("audit", "--json").json()
    assert (audited["breaches"], audited["holes"]) == ([], [])
    open_ones = [each for each in audited["probes"] if each["detail"] == "shared by the manifest"]
    assert {("ann", "bob", "PUBLISH"), ("ann", "bob", "PSUBSCRIBE")} <= {
        (each["app"], each["against"], each["probe"]) for each in open_ones
    }
    assert {each["against"] for each in open_ones} == {"bob"}
    said = json.dumps(audited["remarks"])
    assert "channels jobs:*" in said
    assert "shared by the manifest" in said


def test_a_clone_that_could_not_be_made_is_known_for_unfinished(folder: Folder) -> None:
    before = (folder.path / "multidb.yaml").read_text()
    refused = folder.run("clone", "bob", "nobody", "--mask", "mask.sql")
    assert (refused.code, "masking SQL is for Postgres" in refused.err) == (2, True)
    assert (folder.path / "multidb.yaml").read_text() == before, "what is refused adds no app"

    stopped = stopped_at(folder, "multidb.cli.restore:ready", "clone", "ann", "half")
    assert stopped is not None
    kill(stopped)
    folder.ok("apply", "--yes")
    checked = folder.run("plan", "--check")
    assert (checked.code, "multidb clone ann half" in checked.out) == (1, True)
    assert shut(folder.variables("half"))
    folder.ok("clone", "ann", "half")
    assert emails(folder.variables("half")) == PLAIN
    folder.ok("plan", "--check")


@pytest.mark.parametrize("making", [("clone", "ann", "taken"), ("restore", "ann", "--as", "taken")])
def test_a_copy_whose_place_is_somebodys_is_refused_before_anything_is_written(
    folder: Folder, making: tuple[str, ...]
) -> None:
    folder.ok("backup", "ann")
    before = (folder.path / "multidb.yaml").read_text()
    with psycopg.connect(_admins(folder), autocommit=True) as connection:
        connection.execute("CREATE ROLE taken_owner")  # somebody's
        try:
            refused = folder.run(*making)
            assert (refused.code, "taken_owner" in refused.err, "another name" in refused.err) == (3, True, True)
        finally:
            connection.execute("DROP ROLE taken_owner")
    assert (folder.path / "multidb.yaml").read_text() == before
    assert "taken" not in folder.ok("plan", "--json").out
    folder.ok("plan", "--check")


def test_a_plan_of_a_manifest_without_the_app_takes_no_unfinished_clone_for_removed(folder: Folder) -> None:
    """As of another folder of the project, or on another branch."""
    before = (folder.path / "multidb.yaml").read_text()
    stopped = stopped_at(folder, "multidb.backup.cloning:_mask", "clone", "ann", "elsewhere", "--mask", "mask.sql")
    assert stopped is not None
    kill(stopped)
    after = (folder.path / "multidb.yaml").read_text()
    folder.manifest(before)
    checked = folder.run("plan", "--check")
    assert checked.code == 1
    assert "multidb clone ann elsewhere --mask FILE.sql" in " ".join(checked.out.split())
    assert tombstones(ProjectState(folder.path)) == {}
    folder.manifest(after)
    folder.ok("clone", "ann", "elsewhere", "--mask", "mask.sql")
    assert emails(folder.variables("elsewhere")) == MASKED


def test_a_plan_of_a_manifest_without_the_app_leaves_one_alone_whose_logins_are_off_for_a_set(folder: Folder) -> None:
    """It was taken for removed, and stayed off when its set was made."""
    before = (folder.path / "multidb.yaml").read_text()
    stopped = stopped_at(folder, "multidb.backup.creation:turn_on", "backup", "bob", "--quiesce")
    assert stopped is not None
    without = before.replace("  bob: ", "  # bob: ")
    folder.manifest(without)
    folder.run("plan", "--check")
    kill(stopped)
    folder.run("plan", "--check")
    assert tombstones(ProjectState(folder.path)) == {}
    folder.manifest(before)
    folder.ok("backup", "bob")
    with redis.Redis.from_url(folder.variables("bob")["REDIS_URL"]) as client:
        assert client.ping()
