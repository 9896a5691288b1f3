"""`postgres: {replica: ...}` with a replica that streams: what only reads is read there, and follows all that multidb
does to the server."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from multidb.client import connect
from tests.support.command import Folder, project_folder
from tests.support.postgres_servers import SUPERUSER, cluster, replica_of

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

WHERE = "SELECT pg_is_in_recovery(), session_user, (SELECT sum(a) FROM orders)"


def test_what_only_reads_is_read_on_the_replica() -> None:
    with cluster(18) as primary, replica_of(primary) as replica:
        manifest = (
            "version: 1\nproject: shop\nruntime: external\n"
            f'external: {{postgres: {{url: "postgresql://{SUPERUSER}@127.0.0.1:{primary.port}/postgres", '
            "password: {env: ADMIN_OF_THE_TEST}}}\n"
            "apps:\n  sales:\n    stores: [postgres]\n"
            f"    postgres: {{replica: '127.0.0.1:{replica.port}', readers: {{bi: {{tables: [public.orders]}}}}}}\n"
        )
        with project_folder("replica-", manifest) as folder:
            admin = {"ADMIN_OF_THE_TEST": primary.password}
            folder.ok("apply", "--yes", env=admin)
            folder.ok("connect", "sales", stdin="CREATE TABLE orders (a int); INSERT INTO orders VALUES (1), (2)")
            folder.ok("apply", "--yes", env=admin)
            reads_there(folder, "sales_readonly")
            assert asked(folder.variables("sales")["DATABASE_URL"]) == (False, "sales_user", 3)
            assert within_a_while(lambda: asked(folder.variables("sales")["SALES_DB_READER_BI_URL"])) == (
                *(True, "sales_reader_bi", 3),
            )
            folder.ok("rotate", "sales", "--now", "--yes", env=admin)
            reads_there(folder, "sales_readonly_b")
            standing_by(folder, manifest.replace(f":{primary.port}/", f":{replica.port}/"), admin)
            folder.manifest(manifest)
            replica.stop()
            with pytest.raises(psycopg.OperationalError):
                asked(folder.variables("sales")["SALES_DB_READONLY_URL"])
            assert "healthy" in folder.ok("health", env=admin).out


def standing_by(folder: Folder, manifest: str, admin: dict[str, str]) -> None:
    """What changes something is refused by what the server is, and what looks says it."""
    folder.manifest(f"{manifest}  other: {{stores: [postgres]}}\n")
    for command in (["apply", "--yes"], ["rotate", "sales"]):
        refused = folder.run(*command, env=admin)
        assert "is a standby, where nothing can be changed" in refused.out + refused.err
        assert "name the primary server in the manifest" in refused.out + refused.err
    for command in (["doctor"], ["validate", "--connect"]):
        told = folder.run(*command, env=admin)
        assert (told.code > 0, "is a standby, where nothing can be changed" in told.out) == (True, True)


def reads_there(folder: Folder, login: str) -> None:
    def read() -> object:
        with connect(variables=folder.variables("sales"), read_only=True) as app:
            return app.postgres.run(lambda connection: connection.execute(WHERE).fetchone())

    assert within_a_while(read) == (True, login, 3)


def asked(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute(WHERE).fetchone()


def within_a_while(ask: Callable[[], object]) -> object:
    """What it answers once the replica has what the server has."""
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = ask()
        except psycopg.Error:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return answer
