"""The examples, as they stand in examples/, on the servers of a project, in each form of roles and of isolation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from multidb.ports import choose
from tests.support.command import REPOSITORY, Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(300)]

MANIFEST = """\
version: 1
project: examples
runtime: embedded
apps:
  jobs: {stores: [postgres, redis], redis: {profile: bullmq}}
  jobs2: {stores: [postgres, redis], redis: {profile: bullmq, isolation: prefix}}
  notes: {stores: [postgres, redis]}
  notes2: {stores: [postgres, redis], redis: {isolation: prefix}}
  shop: {stores: [postgres, redis], postgres: {test_database: true}}
  shop2: {stores: [postgres, redis], postgres: {roles: split, test_database: true}, redis: {isolation: prefix}}
"""
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("examples-", MANIFEST) as made:
        for name in ("clients", "examples"):
            shutil.copytree(REPOSITORY / name, made.path / name)
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@contextmanager
def served(command: list[str], at: Path, port: int, env: dict[str, str]) -> Iterator[httpx.Client]:
    log = at / "served.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=at, env={**os.environ, "PATH": PATH, **env}, stdout=out, stderr=out)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                deadline = time.monotonic() + 60
                while not _answers(client):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
                yield client
        finally:
            process.terminate()
            process.wait(30)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/databases").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("app", ["notes", "notes2"])
def test_fastapi_through_a_rotation(folder: Folder, app: str) -> None:
    port, env = choose(set()), {"MULTIDB_ENV_FILE": str(folder.path / "apps" / app / ".env")}
    command = [sys.executable, "-m", "uvicorn", "main:application", "--port", str(port)]
    with served(command, folder.path / "examples/fastapi", port, env) as client:
        number = client.post("/notes", params={"text": "a word to find"}).json()["id"]
        assert client.get(f"/notes/{number}").json() == {"text": "a word to find", "readers": 1}
        folder.ok("rotate", app)
        assert client.get("/search", params={"words": "word"}).json() == [number]
        time.sleep(2.5)  # the client looks at its file each second
        assert client.get(f"/notes/{number}").json()["readers"] == 2
        folder.ok("rotate", app, "--finish", "--yes")
        assert client.get(f"/notes/{number}").json()["readers"] == 3
        assert client.get("/health/databases").json()["status"] == "healthy"


@pytest.fixture(scope="module")
def built(folder: Folder) -> Path:
    """The example for Node.js, with its packages."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: the example's drivers are packages of Node.js")
    at = folder.path / "examples/node"
    program_output([npm, "install", "--silent", "--no-audit"], at)
    program_output([npm, "run", "build"], at)
    return at


@pytest.mark.parametrize("app", ["jobs", "jobs2"])
def test_node_through_a_rotation(folder: Folder, built: Path, app: str) -> None:
    port = choose(set())
    env = {"MULTIDB_ENV_FILE": str(folder.path / "apps" / app / ".env"), "PORT": str(port)}
    command = ["multidb", "connect", app, "--file", str(folder.path / "multidb.yaml"), "--", "node", "server.js"]
    with served(command, built, port, env) as client:
        number = client.post("/notes", params={"text": "three words here"}).json()["id"]
        deadline = time.monotonic() + 30
        while client.get(f"/notes/{number}").json()["words"] != 3:
            assert time.monotonic() < deadline, "the worker has not counted the words"
            time.sleep(0.1)
        readers = client.get(f"/notes/{number}").json()["readers"]
        folder.ok("rotate", app)
        time.sleep(2)  # the client looks at its file each second
        assert client.get(f"/notes/{number}").json()["readers"] == readers + 1
        assert client.get("/notes/999").status_code == 404
        assert client.get("/health/databases").json()["status"] == "healthy"
    with served(command, built, port, env) as client:  # a worker with the new credentials
        folder.ok("rotate", app, "--finish", "--yes")
        number = client.post("/notes", params={"text": "two words"}).json()["id"]
        deadline = time.monotonic() + 30
        while client.get(f"/notes/{number}").json()["words"] != 2:
            assert time.monotonic() < deadline, "the worker has not counted the words"
            time.sleep(0.1)


@pytest.mark.parametrize("app", ["shop", "shop2"])
def test_django_migrates_and_serves(folder: Folder, app: str) -> None:
    at = folder.path / "examples/django"
    manage = [sys.executable, "manage.py"]

    def connected(*options: str) -> list[str]:
        return ["multidb", "connect", app, "--file", str(folder.path / "multidb.yaml"), *options, "--", *manage]

    env: dict[str, Any] = {**os.environ, "PATH": PATH}
    for command in (["migrate"], ["makemigrations", "--check", "--dry-run"]):
        done = subprocess.run(
            [*connected("--migrate"), *command],
            cwd=at,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    port = choose(set())
    with served([*connected(), "runserver", "--noreload", str(port)], at, port, {}) as client:
        number = client.post("/notes", data={"text": "hello"}).json()["id"]
        assert [client.get(f"/notes/{number}").json()["readers"] for _ in range(2)] == [1, 2]
        assert client.get("/notes/999").status_code == 404


@pytest.mark.parametrize("app", ["shop", "shop2"])
def test_djangos_test_runner_as_often_as_one_likes(folder: Folder, app: str) -> None:
    """Also on what a run that was killed has left: tables without a record of their migrations."""
    command = [
        "multidb",
        "connect",
        app,
        "--file",
        str(folder.path / "multidb.yaml"),
        "--migrate",
        "--",
        sys.executable,
    ]

    def tested(*options: str) -> None:
        done = subprocess.run(
            [*command, "manage.py", "test", "--noinput", *options],
            cwd=folder.path / "examples/django",
            env={**os.environ, "PATH": PATH},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ran 1 test" in done.stderr

    tested()
    with psycopg.connect(folder.variables(app)["TEST_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("CREATE TABLE left_by_a_test (a int)")
        connection.execute("DROP TABLE django_migrations")
        tested()
        there = "SELECT to_regclass('left_by_a_test') IS NOT NULL, to_regclass('django_migrations') IS NOT NULL"
        assert connection.execute(there).fetchone() == (False, True)
        connection.execute("CREATE TABLE left_by_a_test (a int)")
        tested("--keepdb")
        assert connection.execute(there).fetchone() == (True, True)
