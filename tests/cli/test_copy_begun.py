"""A copy whose place could not be made everywhere: what is named goes on. On real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import psycopg
import pytest
import redis

from tests.support.command import Folder, project_folder
from tests.support.postgres_admin import as_admin

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: begun
runtime: embedded
apps: {ann: {stores: [postgres, redis]}}
backup: {to: [sets/], verify: never}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("begun-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        variables = made.variables("ann")
        with psycopg.connect(variables["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE notes AS SELECT 7 AS note")
        with redis.Redis.from_url(variables["REDIS_URL"]) as client:
            client.set("note", "7")
        made.ok("backup", "ann")
        yield made


@pytest.mark.parametrize("command", [("clone", "ann", "pr"), ("restore", "ann", "--as", "old")])
def test_a_place_that_could_not_be_made_is_told_with_the_command_that_brings_the_data(
    folder: Folder, command: tuple[str, ...]
) -> None:
    """It was `multidb apply` alone, after which the app had its places, no data, and no login."""
    other = command[-1]
    with as_admin(folder) as admin:  # this server refuses to make a database, and the other one does its part
        admin.execute("ALTER DATABASE template0 RENAME TO away")
    refused = folder.run(*command)
    said = " ".join(refused.err.split())
    assert refused.code != 0
    assert "then: multidb apply" not in said, said
    named = re.search(r"finish it: multidb ([^;]+);", said)
    assert named, said
    with as_admin(folder) as admin:
        admin.execute("ALTER DATABASE away RENAME TO template0")
    folder.ok(*shlex.split(named[1]))
    variables = folder.variables(other)
    with psycopg.connect(variables["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT note FROM notes").fetchone() == (7,)
    with redis.Redis.from_url(variables["REDIS_URL"]) as client:
        assert client.get("note") == b"7"
    folder.ok("plan", "--check")


def test_a_copy_for_which_a_server_has_no_number_left_leaves_no_entry() -> None:
    manifest = MANIFEST.replace("[postgres, redis]", "[redis]").replace(
        "apps:", "servers: {redis: {databases: 2}}\napps:"
    )
    with project_folder("full-", manifest) as full:
        full.ok("up")
        full.ok("apply", "--yes")
        full.ok("backup", "ann")
        for command in (("clone", "ann", "pr"), ("restore", "ann", "--as", "old")):
            refused = full.run(*command)
            assert (refused.code != 0, "servers.redis.databases" in refused.err) == (True, True), refused.err
        assert (full.path / "multidb.yaml").read_text() == manifest
        full.ok("plan", "--check")
