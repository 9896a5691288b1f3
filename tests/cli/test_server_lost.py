"""A server that is killed in the middle of an apply: others go on, the report is true, the next run ends the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.command import REPOSITORY, Folder, project_folder

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
