"""An app's end through the command line, on real servers: out, back, gone, and killed in between."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis

from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.stopped import kill, stopped_at

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: ends
runtime: embedded
apps:
  ann: {stores: [postgres, qdrant, redis]} # goes
  bob: {stores: [postgres, redis]}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("ends-", MANIFEST) as found:
        found.ok("up")
        yield found


@pytest.fixture
def applied(folder: Folder) -> Folder:
    if "ann" in folder.ok("purge", "--json").json()["removed"]:
        folder.ok("purge", "ann", "--yes-destroy", "ann")
    folder.manifest(MANIFEST)
    folder.ok("apply", "--yes")
    write(folder.variables("ann"))
    return folder


def write(env: dict[str, str]) -> None:
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("DROP TABLE IF EXISTS notes")
        connection.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
    with redis.Redis.from_url(env["REDIS_URL"], decode_responses=True) as client:
        client.set("note", "kept")


def read(env: dict[str, str]) -> list[Any]:
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        found = connection.execute("SELECT text FROM notes").fetchall()
    with redis.Redis.from_url(env["REDIS_URL"], decode_responses=True) as client:
        return [found, client.get("note")]


def refused(env: dict[str, str]) -> bool:
    """Whether every credential of the app is dead."""
    for name, value in env.items():
        if name.endswith("_URL") and value.startswith("postgresql:"):
            with pytest.raises(psycopg.OperationalError, match=r"not permitted to log in|authentication failed"):
                psycopg.connect(value)
    with redis.Redis.from_url(env["REDIS_URL"]) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    return True


def test_out_and_back(applied: Folder) -> None:
    before, env = (applied.path / "multidb.yaml").read_text(), applied.variables("ann")
    with psycopg.connect(env["DATABASE_URL"]) as busy:  # a session that is open is ended
        done = applied.ok("remove-app", "ann", "--yes")
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
    assert "multidb undo-remove ann" in done.out
    sets = applied.ok("backups", "list", "--json").json()["sets"]
    (final,) = (each for each in sets if each["app"] == "ann" and each["set"] in done.out)
    assert final["verified"], "its final set was restored and compared"
    assert refused(env)
    assert "ann" not in (applied.path / "multidb.yaml").read_text()
    assert not (applied.path / "apps/ann/.env").exists()
    applied.ok("plan", "--check")  # what is kept of it is no drift
    assert applied.ok("audit", "--json").json()["holes"] == []  # nor a stranger's
    assert applied.run("env", "ann").code == 2
    again = applied.run("remove-app", "ann", "--yes")
    assert (again.code, "undo-remove" in again.err) == (2, True)

    applied.ok("undo-remove", "ann")
    assert (applied.path / "multidb.yaml").read_text() == before
    assert applied.variables("ann") == env
    assert read(env) == [[("kept",)], "kept"]


def test_gone_for_good(applied: Folder) -> None:
    env, others = applied.variables("ann"), applied.variables("bob")
    assert applied.run("purge", "ann", "--yes-destroy", "ann").code == 3, "an app in use is not purged"
    applied.ok("remove-app", "ann", "--no-backup", "--yes")
    assert applied.run("purge", "ann").code == 3, "nobody there to type its name"
    assert applied.run("purge", "ann", "--yes-destroy", "bob").code == 3
    applied.ok("purge", "ann", "--yes-destroy", "ann")
    assert refused(env)
    assert {ref.owner for ref in ProjectState(applied.path).secrets.refs()} & {"ann", "bob"} == {"bob"}
    with psycopg.connect(others["DATABASE_URL"]) as connection:
        names = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
        assert not [name for (name,) in connection.execute(names) if name.startswith("ann")]
    applied.ok("plan", "--check")
    applied.manifest(MANIFEST)
    applied.ok("apply", "--yes")
    with redis.Redis.from_url(applied.variables("ann")["REDIS_URL"]) as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("command", ["remove-app", "purge", "undo-remove"])
def test_killed_anywhere_the_same_again_finishes(applied: Folder, command: str) -> None:
    env = applied.variables("ann")
    arguments = {"remove-app": ["--no-backup", "--yes"], "purge": ["--yes-destroy", "ann"], "undo-remove": []}[command]
    if command != "remove-app":
        applied.ok("remove-app", "ann", "--no-backup", "--yes")
    seed = int(os.environ.get("MULTIDB_TEST_SEED", str(random.randrange(10**6))))
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(3):
        process = applied.begin(command, "ann", *arguments)
        time.sleep(dice.uniform(0.2, 1.6))
        process.kill()
        process.communicate()
    last = applied.run(command, "ann", *arguments)
    done_before = last.code in (2, 3)  # a run that was not killed in time has finished it
    assert last.code == 0 or done_before, last.err
    if command == "undo-remove":
        assert read(env) == [[("kept",)], "kept"]
        return
    assert refused(env)
    assert applied.ok("purge", "--json").json()["removed"].keys() == ({"ann"} if command == "remove-app" else set())


@pytest.mark.parametrize(
    ("command", "arguments", "step"),
    [
        ("remove-app", ["--no-backup", "--yes"], "multidb.removal:_drop_files"),
        ("undo-remove", [], "multidb.cli.undo_remove:write_env_files"),
    ],
)
def test_killed_before_its_env_file_the_same_again_finishes(
    applied: Folder, command: str, arguments: list[str], step: str
) -> None:
    """It was said to be removed already, or not to be removed, with a file that stayed, or was missing."""
    if command == "undo-remove":
        applied.ok("remove-app", "ann", "--no-backup", "--yes")
    process = stopped_at(applied, step, command, "ann", *arguments)
    assert process is not None
    kill(process)
    applied.ok(command, "ann", *arguments)
    assert (applied.path / "apps/ann/.env").exists() == (command == "undo-remove")
