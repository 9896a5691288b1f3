"""`multidb connect --migrate`: programs that change an app's schema, by every way in which they find the database."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.support.command import Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

MANIFEST = """\
version: 1
project: migrations
runtime: embedded
defaults: {postgres: {statement_timeout: 200ms, idle_in_transaction_session_timeout: 300ms}}
apps:
  ann: {stores: [postgres, redis]}
  bob: {stores: [postgres], postgres: {roles: split}}
"""

# Each way asks who it is and how long it may take, then takes longer than the app's everyday statements may.
PROGRAM = """\
import asyncio, os, sys, time
import asyncpg, psycopg
questions = ["SHOW statement_timeout", "SHOW idle_in_transaction_session_timeout", "SELECT session_user"]
for address in (os.environ["DATABASE_URL"], ""):
    with psycopg.connect(address) as connection:
        print(*(connection.execute(question).fetchone()[0] for question in questions))
        connection.execute("CREATE TABLE made ()")
        connection.execute("SELECT pg_sleep(0.5)")
        time.sleep(0.5)
        connection.execute("DROP TABLE made")

async def ask():
    connection = await asyncpg.connect(os.environ["DATABASE_URL_ASYNC"].replace("+asyncpg", ""))
    print(*[await connection.fetchval(question) for question in questions])
    await connection.execute("CREATE TABLE made (); DROP TABLE made")
    await connection.close()

asyncio.run(ask())
print(os.environ["POSTGRES_USER"])
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("migrations-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.mark.parametrize(
    ("app", "login", "by_asyncpg"), [("ann", "ann_user", "200ms 300ms"), ("bob", "bob_migrate", "0 0")]
)
def test_a_migration_may_take_its_time_and_owns_the_schema(
    folder: Folder, app: str, login: str, by_asyncpg: str
) -> None:
    """asyncpg takes no options by an address: only a login of its own is without limits there."""
    done = folder.ok("connect", app, "--migrate", "--", sys.executable, "-c", PROGRAM)
    assert done.out.splitlines() == [*[f"0 0 {login}"] * 2, f"{by_asyncpg} {login}", login]


@pytest.mark.parametrize("app", ["ann", "bob"])
def test_without_it_the_limits_stand(folder: Folder, app: str) -> None:
    assert folder.ok("connect", app, stdin="SHOW statement_timeout").out.split()[1] == "200ms"
    assert "statement timeout" in folder.run("connect", app, stdin="SELECT pg_sleep(2)").err
    assert folder.ok("connect", app, "--migrate", stdin="SHOW statement_timeout").out.split()[1] == "0"


def test_what_has_no_migrations_says_so(folder: Folder) -> None:
    refused = folder.run("connect", "ann", "--store", "redis", "--migrate", stdin="PING")
    assert (refused.code, "leave --migrate out" in refused.err) == (2, True)
    both = folder.run("connect", "ann", "--migrate", "--read-only", stdin="SELECT 1")
    assert (both.code, "do not go together" in both.err) == (2, True)
