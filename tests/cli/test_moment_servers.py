"""Points in time on servers that are not of the wheel: another major version, whose copies are brought up by an
installation of that."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb.errors import WrongVersion
from multidb.model import HostedServer, Revival
from multidb.provisioners.postgres.hosting.data_folder import DataFolder, databases_of
from multidb.provisioners.postgres.hosting.process import PostgresKind
from multidb.provisioners.postgres.provision.options import ServerOptions
from tests.support import postgres_servers
from tests.support.command import Folder, project_folder
from tests.support.moments import now, scratch_processes
from tests.support.postgres_servers import Cluster

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: elder
runtime: external
external: {{postgres: {{url: 'postgresql://postgres@127.0.0.1:{port}', password: {{env: ADMIN}}}}}}
apps: {{eve: {{stores: [postgres]}}, bob: {{stores: [postgres]}}}}
backup: {{to: [sets/], every: 52w, verify: never, postgres: {{continuous: true}}}}
"""


@pytest.fixture(scope="module")
def debian() -> Iterator[Cluster]:
    settings = {"max_slot_wal_keep_size": "1GB", "shared_preload_libraries": "pg_stat_statements"}
    with postgres_servers.cluster(15, **settings) as made:
        yield made


@pytest.fixture(scope="module")
def elder(debian: Cluster) -> Iterator[tuple[Folder, dict[str, str]]]:
    with project_folder("elder-", MANIFEST.format(port=debian.port)) as folder:
        env = {"ADMIN": debian.password}
        folder.ok("apply", "--yes", env=env)
        folder.ok("backup", "--due", env=env)
        yield folder, env


def url(elder: tuple[Folder, dict[str, str]], app: str) -> str:
    folder, env = elder
    return str(folder.ok("env", app, "--format", "json", "--reveal", env=env).json()["DATABASE_URL"])


@pytest.mark.rare
def test_an_older_server_is_brought_back_by_the_program_of_its_version(elder: tuple[Folder, dict[str, str]]) -> None:
    folder, env = elder
    with psycopg.connect(url(elder, "eve"), autocommit=True) as eve:
        eve.execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 10) n")
        moment = now()
        eve.execute("DROP TABLE orders")
    folder.ok("restore", "eve", "--at", moment, "--replace", env=env)
    with psycopg.connect(url(elder, "eve")) as eve:
        assert eve.execute("SELECT count(*) FROM orders").fetchone() == (10,)
    (tried,) = folder.ok("backups", "verify", "eve", "--at", "newest", "--json", env=env).json()["sets"]
    assert tried["verified"]
    assert not scratch_processes(folder)


def test_what_is_done_to_pages_of_other_databases_that_are_left_out_ends_no_restore(
    debian: Cluster, elder: tuple[Folder, dict[str, str]]
) -> None:
    """As autovacuum does: on a server without checksums, the WAL of it has no page."""
    folder, env = elder
    with psycopg.connect(url(elder, "eve"), autocommit=True) as eve:
        eve.execute("CREATE TABLE kept AS SELECT n AS id FROM generate_series(1, 10) n")
    for app in ("bob", "eve"):
        with psycopg.connect(
            host="127.0.0.1", port=debian.port, dbname=app, user="postgres", password=debian.password, autocommit=True
        ) as admin:
            admin.execute("VACUUM")
    moment = now()
    with psycopg.connect(url(elder, "eve"), autocommit=True) as eve:
        eve.execute("DROP TABLE kept")
    missing = folder.run("restore", "eve", "--at", moment, "--replace", env=env, before=_leave_out_eve)
    assert missing.code != 0
    assert "its WAL changes what the base backup has not: page " in missing.err, (
        "of what is read, nothing is passed over"
    )
    folder.ok("restore", "eve", "--at", moment, "--replace", env=env)
    with psycopg.connect(url(elder, "eve")) as eve:
        assert eve.execute("SELECT count(*) FROM kept").fetchone() == (10,)
    assert not scratch_processes(folder)


def _leave_out_eve() -> None:
    made: Any = DataFolder.__init__

    def without(self: DataFolder, place: Any, revival: Revival, kept: Collection[int]) -> None:
        made(self, place, revival, {number for number in kept if databases_of(revival)[number] != "eve"})

    DataFolder.__init__ = without  # type: ignore[method-assign]


def test_a_copy_is_of_the_version_of_its_server_or_of_none(tmp_path: Path) -> None:
    hosted = HostedServer("postgres", "postgres", "elder", tmp_path, tmp_path / "log", ServerOptions())
    kind = PostgresKind()
    with pytest.raises(WrongVersion) as refused:
        kind.copying(hosted, "PostgreSQL 11.2")
    assert "of PostgreSQL 11.2" in refused.value.message
    assert "postgresql-11" in refused.value.hint
    own = kind.product(hosted)
    if own is not None:
        assert kind.copying(hosted, own).product(hosted) == own
    if Path("/usr/lib/postgresql/15/bin/postgres").exists():
        assert str(kind.copying(hosted, "PostgreSQL 15.1").product(hosted)).startswith("PostgreSQL 15.")
