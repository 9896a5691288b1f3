"""A server that is killed in the middle: others go on, the report is true, the next run ends the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from tests.support.command import REPOSITORY, Folder, project_folder
from tests.support.qdrant_project import count, put_points, qdrant_folder
from tests.support.stopped import go_on, stopped_at

pytestmark = pytest.mark.server

APPS = [f"app_{number}" for number in range(16)]
MANIFEST = "version: 1\nproject: lost\nruntime: embedded\napps:\n" + "".join(
    f"  {app}: {{stores: [postgres, redis]}}\n" for app in APPS
)


@pytest.fixture
def folder() -> Iterator[Folder]:
    with project_folder("lost-", MANIFEST) as found:
        yield found


def test_a_server_killed_in_the_middle_of_an_apply(folder: Folder) -> None:
    folder.ok("up")
    servers = {each["store"]: each for each in folder.ok("status", "--json").json()["servers"]}
    host, port = servers["postgres"]["address"].split(":")
    secrets = json.loads((folder.path / ".multidb" / "secrets.json").read_text())["secrets"]
    with psycopg.connect(
        host=host, port=port, user="postgres", password=secrets["@postgres/postgres/admin"], dbname="postgres"
    ) as watcher:
        watcher.autocommit = True
        run = subprocess.Popen(
            [sys.executable, "-c", "from multidb.cli import main; main()", "apply", "--yes", "--json"],
            cwd=folder.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        deadline = time.monotonic() + 60
        query = "SELECT count(*) FROM pg_database WHERE datname LIKE 'app!_%' ESCAPE '!'"
        while (watcher.execute(query).fetchone() or (0,))[0] < 3:  # its roles are there, its databases are coming
            assert time.monotonic() < deadline
            assert run.poll() is None
        os.kill(servers["postgres"]["pid"], signal.SIGKILL)
        out, err = run.communicate(timeout=120)
    assert run.returncode == 5, out + err
    assert "Traceback" not in out + err
    document = json.loads(out)
    assert document["ok"] is False
    reports = {each["store"]: each for each in document["servers"]}
    cache, database = reports["redis"], reports["postgres"]
    assert not cache["not_tried"]
    assert {change["app"] for change in cache["done"]} >= set(APPS)
    assert {change["kind"] for change in database["done"]} >= {"role", "database"}
    assert database["failed"]["kind"] == "database"
    left = {change["kind"] for change in database["not_tried"]}
    assert left >= {"database", "access to database", "rights inside database"}
    planned = [change for change in document["plan"]["changes"] if change["store"] == "postgres"]
    assert len(planned) == len(database["done"]) + 1 + len(database["not_tried"])

    assert folder.run("plan").code == 4
    folder.ok("up")
    assert folder.run("plan", "--check").code == 1
    folder.ok("apply", "--yes")
    folder.ok("plan", "--check")
    with psycopg.connect(
        folder.ok("env", APPS[-1], "--format", "json", "--reveal").json()["DATABASE_URL"]
    ) as connection:
        connection.execute("CREATE TABLE works ()")


@pytest.fixture(scope="module")
def vectors() -> Iterator[Folder]:
    """Two apps on a Qdrant, with a set each."""
    with qdrant_folder("lost-qdrant-") as made:
        made.ok("up")
        made.ok("apply", "--yes")
        for app in ("ann", "bob"):
            put_points(made, app, 1, 20)
        made.ok("backup")
        yield made


def kill_while_it_takes_in(folder: Folder, collection: str, number: int, *command: str) -> tuple[int, str]:
    """Kills the Qdrant when it takes in a snapshot, which it does the time of that number in the command: what that has
    said. The server marks a collection so while it exchanges its files, and does not load one that it finds marked."""
    step = f"multidb.provisioners.qdrant.backup.snapshots:Snapshots.recover#{number}"
    process = stopped_at(folder, step, *command)
    assert process is not None
    (server,) = folder.ok("status", "--json").json()["servers"]
    killed = psutil.Process(server["pid"])
    killed.kill()
    psutil.wait_procs([killed], 60)
    collections = folder.path / ".multidb" / "servers" / "qdrant" / "storage" / "collections"
    (collections / collection / "shard_0.initializing").touch()
    ended = go_on(process)
    folder.ok("up")
    return ended


def test_a_qdrant_killed_while_a_set_is_tried_costs_other_apps_nothing(vectors: Folder) -> None:
    """Whatever read what is on the server ended with its error 500, for every app and without an end."""
    place = "multidb__scratch__with_qdrant__ann__notes"
    code, said = kill_while_it_takes_in(vectors, place, 1, "backups", "verify", "ann")
    assert code == 6, said
    vectors.ok("plan", "--check")
    vectors.ok("usage")
    assert "copy left behind" in vectors.run("audit").out
    vectors.ok("backups", "verify", "bob")
    vectors.ok("backups", "verify", "ann")
    vectors.ok("audit")


def test_a_qdrant_killed_while_an_app_is_exchanged_is_finished(vectors: Folder) -> None:
    put_points(vectors, "ann", 101, 5)
    restore = ("restore", "ann", "--replace", "--no-safety-set")
    code, said = kill_while_it_takes_in(vectors, "ann_notes", 2, *restore)
    assert (code, "multidb backup ann" in said) == (4, True), said
    vectors.ok("backup", "bob")
    vectors.ok("backup", "ann")
    assert (count(vectors, "ann"), count(vectors, "bob")) == (20, 20)
    vectors.ok("plan", "--check")


def test_an_app_whose_collection_qdrant_cannot_load_is_brought_back_as_said(vectors: Folder) -> None:
    put_points(vectors, "ann", 201, 5)
    kill_while_it_takes_in(vectors, "ann_notes", 1, "backups", "verify", "bob")
    trouble = vectors.run("health").out
    assert "multidb restore ann --replace --no-safety-set" in " ".join(trouble.split())
    vectors.ok("usage")
    vectors.ok("restore", "ann", "--replace", "--no-safety-set")
    assert count(vectors, "ann") == 20
    vectors.ok("plan", "--check")
    vectors.ok("health")
