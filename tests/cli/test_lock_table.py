"""A server whose table of locks is too small for an app's tables: what is said, and that nothing is half done."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.command import Folder, Ran, project_folder
from tests.support.postgres_admin import as_admin

pytestmark = pytest.mark.server

MANIFEST = """
version: 1
project: locks
runtime: embedded
servers: {postgres: {max_connections: 20}}
apps:
  ann: {stores: [postgres]}
  wide: {stores: [postgres], postgres: {database: shared, schema: wide}}
  small: {stores: [postgres], postgres: {database: shared, schema: small}}
"""
TABLES = 900
ROOM = "ALTER SYSTEM SET max_locks_per_transaction"


@pytest.fixture
def folder() -> Iterator[Folder]:
    with project_folder("locks-", MANIFEST) as found:
        yield found


def _room_for_locks(folder: Folder, each: int) -> None:
    with as_admin(folder) as admin:
        admin.execute(f"{ROOM} = {each}")
    folder.ok("restart", "postgres", "--yes")


def _says_the_way_on(ran: Ran, code: int) -> bool:
    assert ran.code == code, ran.out + ran.err
    assert "out of shared memory" in ran.err + ran.out
    return ROOM in " ".join((ran.err + ran.out).split())


def test_who_has_more_tables_than_the_server_has_locks_is_told_the_way_on(folder: Folder) -> None:
    folder.ok("up")
    folder.ok("apply", "--yes")
    for app in ("ann", "wide"):
        with psycopg.connect(folder.ok("env", app, "--format", "json", "--reveal").json()["DATABASE_URL"]) as as_app:
            for number in range(TABLES):
                as_app.execute(f"CREATE TABLE a_table_of_many_{number} (id int PRIMARY KEY, text text)")
                if number % 100 == 0:
                    as_app.commit()
    folder.ok("backup", "ann", "wide")
    folder.ok("restore", "wide", "--replace", "--no-safety-set", "--yes")  # what it replaces is dropped by and by
    _room_for_locks(folder, 10)

    for app in ("ann", "wide"):
        assert _says_the_way_on(folder.run("backup", app), 6)
        assert _says_the_way_on(folder.run("backups", "verify", app), 6)
        refused = folder.run("restore", app, "--replace", "--yes")
        assert _says_the_way_on(refused, 6)
        assert "nothing was changed" in refused.err
    folder.ok("backup", "small")
    folder.ok("plan", "--check")
    folder.ok("health")
    folder.ok("remove-app", "wide", "--no-backup", "--yes")
    purged = folder.run("purge", "wide", "--yes-destroy", "wide")
    assert _says_the_way_on(purged, 5)
    assert "multidb purge wide" in purged.err

    _room_for_locks(folder, 512)
    folder.ok("purge", "wide", "--yes-destroy", "wide")
    folder.ok("restore", "ann", "--replace", "--yes")
    folder.ok("health")
