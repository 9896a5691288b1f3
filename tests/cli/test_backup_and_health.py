"""Backups of many apps and rounds of health at the same time: neither is in the other's way."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.command import Folder

pytestmark = pytest.mark.server

APPS = 20
MANIFEST = """\
version: 1
project: busy
runtime: embedded
backup: {to: [sets/]}
apps:
""" + "".join(f"  app{number}: {{stores: [postgres, redis]}}\n" for number in range(APPS))


def test_every_app_is_well_while_all_are_backed_up() -> None:
    with tempfile.TemporaryDirectory(prefix="busy-") as name, ThreadPoolExecutor(1) as aside:
        path = Path(name)
        path.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        folder = Folder(path, [])
        folder.manifest(MANIFEST)
        folder.ok("up")
        try:
            folder.ok("apply", "--yes")
            env = folder.variables("app7")
            with psycopg.connect(env["DATABASE_URL"]) as connection:
                connection.execute("CREATE TABLE lines AS SELECT n FROM generate_series(1, 1000) n")
            with redis.Redis.from_url(env["REDIS_URL"]) as client:
                client.set("key", "value")
            backup = aside.submit(folder.ok, "backup", "--json")
            rounds = [folder.run("health", "--json").json()]
            while not backup.done():
                rounds.append(folder.run("health", "--json").json())
            listed = folder.ok("backups", "list", "--json").json()["sets"]
        finally:
            folder.run("down")
    assert len(rounds) > 1, "the backup was over before health was asked"
    for document in rounds:
        checks = {
            (app, store): each for app, said in document["apps"].items() for store, each in said["stores"].items()
        }
        assert len(checks) == 2 * APPS
        assert [(*of, each) for of, each in checks.items() if each["status"] != "healthy"] == []
    assert backup.result().json()["ok"]
    assert len({each["app"] for each in listed}) == len(listed) == APPS
    counts = [{store: sum(part["counts"].values()) for store, part in each["stores"].items()} for each in listed]
    assert sorted(each["redis"] for each in counts) == [0] * (APPS - 1) + [1]
    assert max(each["postgres"] for each in counts) >= 1000
