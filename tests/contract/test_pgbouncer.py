"""The profile pgbouncer on a real PgBouncer: what is rendered for it, with the addresses of this test put in.

A PgBouncer of 1.19 or later is wanted, on the PATH or named by MULTIDB_PGBOUNCER; Debian 12's is too old.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from multidb.engine import Engine
from multidb.environment import environment
from multidb.fleet import Fleet
from multidb.ports import choose
from multidb.project import load_deployment, load_project
from tests.support.postgres_servers import SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server
PASSWORD = "the-poolers-own-password"


def _program() -> str:
    program = os.environ.get("MULTIDB_PGBOUNCER") or shutil.which("pgbouncer")
    if program is None:
        pytest.skip("no PgBouncer on this machine; name one of 1.19 or later in MULTIDB_PGBOUNCER")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    assert found is not None
    if (int(found[1]), int(found[2])) < (1, 19):
        pytest.skip(f"{found[0]} cannot look up passwords in another database (1.19 can)")
    return program


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    _program()
    with cluster(18, log_statement="all") as made:
        yield made


def _set_up(server: Cluster, script: Path) -> None:
    subprocess.run(
        ["sh", script],
        env={
            "PATH": f"{server.binaries}:/usr/bin:/bin",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": "postgres",
            "PGPASSWORD": server.password,
            "PGBOUNCER_PASSWORD": PASSWORD,
        },
        check=True,
        capture_output=True,
        timeout=60,
    )


@contextlib.contextmanager
def _pooler(program: str, rendered: str, server: Cluster) -> Iterator[int]:
    """PgBouncer with the rendered configuration; only where Postgres is, and where it listens itself, is changed."""
    port = choose(())
    with tempfile.TemporaryDirectory(prefix="mdb-pgb-") as folder:
        users, config = Path(folder) / "userlist.txt", Path(folder) / "pgbouncer.ini"
        users.write_text(f'"multidb_pgbouncer" "{PASSWORD}"\n')
        text = rendered.replace("host=postgres port=5432", f"host=127.0.0.1 port={server.port}")
        text = text.replace("listen_port = 6432", f"listen_port = {port}").replace("= 0.0.0.0", "= 127.0.0.1")
        config.write_text(text.replace("/run/multidb/userlist.txt", str(users)))
        options = {}
        if os.getuid() == 0:  # PgBouncer refuses to be root
            nobody = pwd.getpwnam("nobody")
            for path in (Path(folder), users, config):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with subprocess.Popen([program, config], stderr=subprocess.PIPE, **options) as process:
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and process.poll() is None:
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    time.sleep(0.1)
                yield port
            finally:
                process.terminate()
                process.wait(60)


def test_a_new_app_is_pooled_without_any_edit_and_stays_apart(
    server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _program()
    (tmp_path / "compose").mkdir()
    head = "version: 1\nproject: pooled\nruntime: compose\ndeploy: {profiles: [pgbouncer]}\n"
    (tmp_path / "compose" / "multidb.yaml").write_text(head + "apps: {ann: {stores: [postgres]}}\n")
    deployment = load_deployment(tmp_path / "compose" / "multidb.yaml")
    deployment.write(deployment.files(new_secrets=True))
    rendered = tmp_path / "compose" / "infrastructure" / "pgbouncer"
    for _ in range(2):  # it may run any number of times
        _set_up(server, rendered / "setup.sh")
    log = server.log.read_text()
    assert "CREATE ROLE multidb_pgbouncer" in log
    assert PASSWORD not in log

    monkeypatch.setenv("POOLED_ADMIN", server.password)
    address = f"postgresql://{SUPERUSER}@127.0.0.1:{server.port}/postgres"
    head = f'external: {{postgres: {{url: "{address}", password: {{env: POOLED_ADMIN}}}}}}\n'
    head = f"version: 1\nproject: pooled\nruntime: external\n{head}"
    path = tmp_path / "multidb.yaml"
    path.write_text(head + "apps: {ann: {stores: [postgres]}}\n")
    engine = Engine(Fleet(load_project(path)))
    assert engine.apply().error() is None

    with _pooler(program, (rendered / "pgbouncer.ini").read_text(), server) as port:

        def connect(app: str, database: str | None = None, password: str | None = None) -> psycopg.Connection:
            url = urlsplit(environment(engine.fleet, app).env["DATABASE_URL"].reveal())  # type: ignore[union-attr]
            word = quote(password) if password else url.password
            return psycopg.connect(f"postgresql://{url.username}:{word}@127.0.0.1:{port}/{database or app}")

        with connect("ann") as connection:
            assert connection.execute("SELECT current_database(), current_user").fetchone() == ("ann", "ann_owner")
        path.write_text(head + "apps: {ann: {stores: [postgres]}, bob: {stores: [postgres]}}\n")
        engine = Engine(Fleet(load_project(path)))
        assert engine.apply().error() is None, "the pooler's own login and schema are no drift"
        assert not engine.plan().changes
        with connect("bob") as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("bob",)
        for app, database, password in (("ann", "bob", None), ("bob", "ann", None), ("ann", None, "wrong")):
            with pytest.raises(psycopg.OperationalError):
                connect(app, database, password)
        with pytest.raises(psycopg.OperationalError):  # a superuser's password is not looked up
            psycopg.connect(f"postgresql://{SUPERUSER}:{quote(server.password)}@127.0.0.1:{port}/postgres")
