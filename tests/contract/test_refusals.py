"""`multidb doctor APP`: what real servers refused an app, and what its maker is told to do about it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
import redis

from tests.support.command import Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

MANIFEST = """\
version: 1
project: refusals
runtime: embedded
apps:
  ann: {stores: [postgres, redis], postgres: {statement_timeout: 100ms, connection_limit: 2}}
  bob: {stores: [postgres, redis], postgres: {roles: split}, redis: {isolation: prefix}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("refusals-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


def findings(folder: Folder, app: str) -> dict[str, list[dict[str, str]]]:
    """By server, what `doctor` says of the app."""
    said: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(folder.ok("doctor", app, "--json").out)["findings"]:
        said.setdefault(finding["subject"], []).append(finding)
    return said


def hint(found: list[dict[str, str]], part: str) -> str:
    (one,) = [finding for finding in found if part in finding["message"]]
    assert one["level"] == "warning"
    return one["hint"]


def test_what_was_refused_is_said_by_name_with_what_helps(folder: Folder) -> None:
    for _ in range(2):
        folder.ok("audit")  # tries every wall with the apps' logins, which is no trouble of theirs
    for app in ("ann", "bob"):
        assert {server: [one["level"] for one in said] for server, said in findings(folder, app).items()} == {
            "postgres": ["ok"],
            "redis": ["ok"],
        }
    url = folder.variables("ann")["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url):
        for statement in ("SELECT pg_sleep(1)", "SELECT pg_sleep(1)", "CREATE DATABASE more", "SELECT nothing"):
            with suppress(psycopg.Error):
                connection.execute(statement)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
    with psycopg.connect(folder.variables("bob")["DATABASE_URL"]) as connection, suppress(psycopg.Error):
        connection.execute("CREATE TABLE made ()")
    with redis.Redis.from_url(folder.variables("ann")["REDIS_URL"]) as client:
        for words in (("EVAL", "return 1", "0"), ("PUBLISH", "rq:pubsub:\x1b[31m\nx", "y"), ("FLUSHALL",)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
    with redis.Redis.from_url(folder.variables("bob")["REDIS_URL"]) as client:
        for words in (("GET", "elsewhere"), ("SCAN", "0")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
    logged = folder.path / ".multidb/logs/postgres.log"
    deadline = time.monotonic() + 60
    while "permission denied for schema public" not in logged.read_text():  # it is written by another process
        assert time.monotonic() < deadline
        time.sleep(0.05)

    ann, bob = findings(folder, "ann"), findings(folder, "bob")
    assert "statement_timeout" in hint(ann["postgres"], "statement timeout, 2 times")
    assert "--keepdb" in hint(ann["postgres"], "create database")
    assert "connection_limit" in hint(ann["postgres"], "too many connections")
    assert not [one for one in ann["postgres"] if "nothing" in one["message"]], "a mistake is no refusal"
    assert "connect bob --migrate" in hint(bob["postgres"], "permission denied for schema public")
    assert "profile: celery" in hint(ann["redis"], "command eval")
    assert "ann:" in hint(ann["redis"], "channel rq:pubsub:")
    assert "other DBs than the app's own" in hint(ann["redis"], "flushall")
    assert "REDIS_KEY_PREFIX" in hint(bob["redis"], "key elsewhere")
    assert "isolation: database" in hint(bob["redis"], "command scan")
    assert not any("elsewhere" in one["message"] for one in ann["redis"])
    assert "\x1b" not in json.dumps(ann)

    shown = folder.ok("doctor", "ann").out
    assert "refused ann: command eval, last on 20" in shown


def test_an_app_that_is_not_there(folder: Folder) -> None:
    done = folder.run("doctor", "eve")
    assert (done.code, "eve" in done.err) == (2, True)
