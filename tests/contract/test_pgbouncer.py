"""The profile pgbouncer on a real PgBouncer: what is rendered for it, with the addresses of this test put in.

A PgBouncer of 1.19 or later is wanted, on the PATH or named by MULTIDB_PGBOUNCER. Debian 12's is older, and cannot look
passwords up in another database than the app's: what does not depend on that is tried with it, too.
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
from urllib.parse import SplitResult, quote, urlsplit

import psycopg
import pytest

from multidb.engine import Engine
from multidb.environment import environment
from multidb.fleet import Fleet
from multidb.ports import choose
from multidb.project import load_deployment, load_project
from multidb.secrets import Secret
from tests.support.postgres_servers import SUPERUSER, Cluster, cluster
from tests.support.rotating import OneRotation

pytestmark = pytest.mark.server
PASSWORD = "the-poolers-own-password"
_ELSEWHERE = (1, 19)  # auth_dbname
_SESSIONS = "FROM pg_stat_activity WHERE usename ="


def _found() -> tuple[str, tuple[int, int]]:
    """A PgBouncer, and its version."""
    program = os.environ.get("MULTIDB_PGBOUNCER") or shutil.which("pgbouncer")
    if program is None:
        pytest.skip("no PgBouncer on this machine; name one of 1.19 or later in MULTIDB_PGBOUNCER")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    assert found is not None
    return program, (int(found[1]), int(found[2]))


def _program() -> str:
    program, version = _found()
    if version < _ELSEWHERE:
        pytest.skip(f"PgBouncer {version[0]}.{version[1]} cannot look up passwords in another database (1.19 can)")
    return program


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    _found()
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


def _rendered(folder: Path) -> Path:
    """The folder with what is rendered for the pooler."""
    folder.mkdir()
    head = "version: 1\nproject: pooled\nruntime: compose\ndeploy: {profiles: [pgbouncer]}\n"
    (folder / "multidb.yaml").write_text(head + "apps: {ann: {stores: [postgres]}}\n")
    deployment = load_deployment(folder / "multidb.yaml")
    deployment.write(deployment.files(new_secrets=True))
    return folder / "infrastructure" / "pgbouncer"


def test_a_new_app_is_pooled_without_any_edit_and_stays_apart(
    server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _program()
    rendered = _rendered(tmp_path / "compose")
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
    assert engine.apply(plan=engine.plan()).error() is None

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


def test_both_logins_of_a_rotation_are_pooled_without_an_edit_or_a_reload(
    server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, version = _found()
    rendered = _rendered(tmp_path / "compose")
    _set_up(server, rendered / "setup.sh")
    monkeypatch.setenv("TURNED_ADMIN", server.password)
    address = f"postgresql://{SUPERUSER}@127.0.0.1:{server.port}/postgres"
    (tmp_path / "multidb.yaml").write_text(
        "version: 1\nproject: turned\nruntime: external\n"
        f'external: {{postgres: {{url: "{address}", password: {{env: TURNED_ADMIN}}}}}}\n'
        "apps: {cyd: {stores: [postgres]}, dan: {stores: [postgres]}}\n"
    )
    engine = Engine(Fleet(load_project(tmp_path / "multidb.yaml")))
    assert engine.apply().error() is None
    # A client that is connected and whose login is off waits for a connection to the server, two minutes by default.
    config = (rendered / "pgbouncer.ini").read_text() + "query_wait_timeout = 5\n"
    if version < _ELSEWHERE:  # it looks passwords up in each app's database, with rights of its own for that
        config = config.replace("auth_dbname = postgres", "").replace("max_prepared_statements = 200", "")
        lookup = server.sql("SELECT pg_get_functiondef('multidb_pgbouncer.lookup(text)'::regprocedure)")[0][0]
        server.sql("ALTER ROLE multidb_pgbouncer SUPERUSER")
        for app in ("cyd", "dan"):
            server.sql("CREATE SCHEMA multidb_pgbouncer", database=app)
            server.sql(lookup.replace("SECURITY DEFINER", "SECURITY INVOKER"), database=app)

    def address_of(app: str) -> SplitResult:
        url = environment(engine.fleet, app).env["DATABASE_URL"]
        assert isinstance(url, Secret)
        return urlsplit(url.reveal())

    def written() -> bool:
        return False

    with _pooler(program, config, server) as port:

        def connect(url: SplitResult) -> psycopg.Connection:
            address = f"postgresql://{url.username}:{url.password}@127.0.0.1:{port}{url.path}"
            return psycopg.connect(address, autocommit=True, prepare_threshold=None)

        def login(connection: psycopg.Connection) -> object:
            (row,) = connection.execute("SELECT session_user").fetchall()
            return row[0]

        with connect(address_of("dan")) as other:
            for turn in range(3):
                former = address_of("cyd")
                with connect(former) as session:
                    before = login(session)
                    OneRotation(engine, "cyd", written).prepare()
                    now = address_of("cyd")
                    assert now != former
                    assert login(session) == before, "a connection of the app's goes on"
                    for url in (former, now):  # each a new connection to the pooler
                        with connect(url) as made:
                            assert login(made) == url.username
                    assert OneRotation(engine, "cyd", written).uses()["postgres"], turn
                    OneRotation(engine, "cyd", written).finish(force=True)
                    if turn == 2:  # the pooler remembers for a while that a login failed
                        with pytest.raises(psycopg.OperationalError):
                            login(session)
                with pytest.raises(psycopg.OperationalError):
                    connect(former)
                with connect(now) as made:
                    assert login(made) == now.username
                assert login(other) == "dan_user", "nobody else notices"

            role = now.username
            with connect(now) as session:  # as an app that is restored, and whose logins are off meanwhile
                server.sql(f"ALTER ROLE {role} NOLOGIN", f"SELECT pg_terminate_backend(pid, 5000) {_SESSIONS} '{role}'")
                with pytest.raises(psycopg.OperationalError):
                    login(session)
            server.sql(f"ALTER ROLE {role} LOGIN")
            on = time.monotonic()
            while True:
                with contextlib.suppress(psycopg.OperationalError), connect(now) as made:
                    assert login(made) == role
                    break
                assert time.monotonic() < on + 10, "the pooler keeps the app out"
                time.sleep(0.2)
