"""An app that means harm stops neither the operator nor the other apps: locks, connections, on real Postgres."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb.engine import Engine
from multidb.errors import Locked, PartlyApplied
from multidb.fleet import Fleet
from multidb.model import App, Project, RuntimeKind, ServerSpec
from multidb.provisioners.postgres.driver import connection as driver
from multidb.provisioners.postgres.provision.options import AppOptions, ServerOptions
from multidb.provisioners.postgres.provision.removal import HEIR
from multidb.provisioners.postgres.provision.resources import password_ref
from multidb.provisioners.postgres.provision.session import LOCK_CLASS
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, max_connections="30", max_prepared_transactions="5") as made:
        for name in ("postgres", "template1"):  # as managed services do
            made.sql(f"ALTER DATABASE {name} OWNER TO {PLATFORM}")
        yield made


class Site:
    """A project of four apps; the first one is hostile."""

    def __init__(self, served: Cluster, admin: str, folder: Path) -> None:
        self.served = served
        self.admin = admin
        self.apps = [f"o{next(_numbers)}" for _ in range(4)]
        self.hostile, *self.others = self.apps
        self.project = Project(
            name=f"p{next(_numbers)}",
            runtime=RuntimeKind.EMBEDDED,
            apps={app: App(app, app, {"postgres": AppOptions()}, where=f"multidb.yaml:{app}") for app in self.apps},
            servers=(ServerSpec("postgres", "postgres", ServerOptions()),),
            root=str(folder),
        )
        self.state = ProjectState(folder)

    def engine(self) -> Engine:
        real = RealServer(self.served.server(self.admin), self.served.admin(self.admin), ServerOptions())
        return Engine(Fleet(self.project, self.state, runtime=GivenRuntime(real), command="test"))

    def enter(self, app: str, database: str = "") -> psycopg.Connection[Any]:
        """A session with the app's own login that is that login, and not the owner that it becomes."""
        password = self.state.secrets.get(password_ref(app, "user"))
        assert password is not None
        connection = psycopg.connect(
            host="127.0.0.1",
            port=self.served.port,
            user=f"{app}_user",
            password=password.reveal(),
            dbname=database or app,
            autocommit=True,
        )
        connection.execute("SET ROLE NONE")
        return connection

    def drift(self) -> None:
        """Something to do for the login of every app, and for the inside of its database."""
        for app in self.apps:
            self.served.sql(f"ALTER ROLE {app}_user CONNECTION LIMIT 7")
            self.served.sql(f"GRANT USAGE ON SCHEMA public TO {PLATFORM}", database=app)

    def may_log_in(self, app: str) -> bool:
        return self.served.sql(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{app}_user'") == [(True,)]


@pytest.fixture(params=[SUPERUSER, pytest.param(PLATFORM, marks=pytest.mark.rare)])
def site(request: pytest.FixtureRequest, served: Cluster, tmp_path: Path) -> Iterator[Site]:
    site = Site(served, request.param, tmp_path)
    report = site.engine().apply()
    assert report.error() is None
    yield site
    for app in site.apps:
        served.sql(f"DROP DATABASE IF EXISTS {app} WITH (FORCE)")


@contextlib.contextmanager
def _back_again(site: Site, *held: str) -> Iterator[list[int]]:
    """Sessions of the hostile app that come back whenever they are ended, and hold their locks at once."""
    over, pids = threading.Event(), list[int]()

    def come() -> None:
        while not over.is_set():
            try:
                with site.enter(site.hostile) as session:
                    session.execute("BEGIN")
                    for text in held:
                        session.execute(text.encode())
                    pids.append(session.info.backend_pid)
                    while not over.is_set():
                        session.execute("SELECT 1")
                        over.wait(0.01)
            except psycopg.Error:
                over.wait(0.01)

    threads = [threading.Thread(target=come, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while not pids:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield pids
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=20)


def _password(site: Site) -> str:
    return f"ALTER ROLE {site.hostile}_user PASSWORD 'of its own'"


def test_a_lock_on_its_own_login_costs_an_app_its_own_changes(site: Site) -> None:
    site.drift()
    with site.enter(site.hostile) as session:
        session.execute("BEGIN")
        session.execute(_password(site).encode())
        pid = session.info.backend_pid
        started = time.monotonic()
        report = site.engine().apply()
        assert time.monotonic() - started < 30
    (server,) = report.servers
    assert {change.resource.app for change in server.done} >= set(site.others)
    assert {failure.change.resource.name for failure in server.failures} == {f"{site.hostile}_user"}
    assert f"held by a session of its own (process {pid} of {site.hostile}_user" in server.failures[0].error.message
    if site.admin == SUPERUSER:
        assert "from 127.0.0.1)" in server.failures[0].error.message
    assert {change.resource.app for change in server.not_tried} <= {site.hostile}
    error = report.error()
    assert isinstance(error, PartlyApplied)
    assert error.exit_code == 5
    assert site.engine().apply().error() is None, "once it has let go, all is done"
    assert site.engine().plan().in_sync


@pytest.mark.parametrize(
    "held",
    [
        "SET ROLE {app}_owner; GRANT USAGE ON SCHEMA public TO {app}_user",
        "SET ROLE {app}_owner; DROP SCHEMA public CASCADE",
    ],
)
def test_a_lock_inside_its_database_costs_an_app_its_own_changes(site: Site, held: str) -> None:
    site.drift()
    with site.enter(site.hostile) as session:
        session.execute("BEGIN")
        session.execute(held.format(app=site.hostile).encode())
        report = site.engine().apply()
    (server,) = report.servers
    assert {failure.change.resource.app for failure in server.failures} == {site.hostile}
    assert "held by a session of its own" in server.failures[0].error.message
    wanting = {change.resource.app for change in site.engine().plan().changes}
    assert wanting <= {site.hostile}, "the others' are done"
    assert site.engine().apply().error() is None


def test_a_lock_on_its_database_costs_an_app_its_own_changes(site: Site) -> None:
    """A grant that grants nothing, by somebody who may not, still locks the database's row."""
    for app in site.apps:
        site.served.sql(f"REVOKE CONNECT ON DATABASE {app} FROM {app}_readonly, {app}_ro")
        site.served.sql(f"GRANT TEMPORARY ON DATABASE {app} TO PUBLIC")
    with site.enter(site.hostile) as session:
        session.execute("BEGIN")
        session.execute(f"GRANT CONNECT ON DATABASE {site.hostile} TO {site.hostile}_user".encode())
        report = site.engine().apply()
        (server,) = report.servers
        assert {failure.change.resource.app for failure in server.failures} <= {site.hostile}
        assert {change.resource.app for change in site.engine().plan().changes} <= {site.hostile}
    assert site.engine().apply().error() is None
    assert site.engine().plan().in_sync


@pytest.mark.parametrize("inside", [False, True])
def test_removed_although_it_holds_its_login_and_comes_back(site: Site, inside: bool) -> None:
    engine = site.engine()
    (server,) = engine.fleet.runtime.servers()
    app = site.project.apps[site.hostile]
    held = [_password(site), *([f"SET ROLE {site.hostile}_owner", "CREATE TABLE t (n int)"] if inside else [])]
    with site.enter(site.others[0]) as bystander, _back_again(site, *held) as pids:
        engine.fleet.suspend(app, server)
        assert not site.may_log_in(site.hostile)
        left = site.served.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{site.hostile}_user'")
        assert left == [(0,)]
        assert pids
        with engine.fleet.locked(server) as session:
            for _round in range(3):
                todo = session.removal(app, engine.fleet.context(server, session))
                list(session.run(todo, site.state.secrets))
        bystander.execute("SELECT 1")
    roles = site.served.sql(f"SELECT count(*) FROM pg_roles WHERE rolname ~ '^{site.hostile}_'")
    assert roles == [(0,)]
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{site.hostile}'") == [(0,)]
    assert {change.resource.app for change in site.engine().plan().changes} == {site.hostile}


def test_a_database_with_a_busy_session_is_dropped(site: Site) -> None:
    engine = site.engine()
    (server,) = engine.fleet.runtime.servers()
    app = site.project.apps[site.hostile]
    with _back_again(site, "SET ROLE NONE"), engine.fleet.locked(server) as session:
        for _round in range(3):
            list(session.run(session.removal(app, engine.fleet.context(server, session)), site.state.secrets))
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{site.hostile}'") == [(0,)]


def test_what_a_removed_app_leaves_elsewhere_is_nobodys(site: Site) -> None:
    if site.admin == PLATFORM:
        pytest.skip("the objects of others are beyond an admin who is no superuser")
    other, sql = site.others[0], site.served.sql
    sql(
        f"CREATE SCHEMA theirs AUTHORIZATION {site.hostile}_owner",
        f"SET ROLE {site.hostile}_owner",
        "CREATE FUNCTION theirs.power() RETURNS name SECURITY DEFINER LANGUAGE sql AS 'SELECT current_user'",
        database=other,
    )
    engine = site.engine()
    (server,) = engine.fleet.runtime.servers()
    app = site.project.apps[site.hostile]
    with engine.fleet.locked(server) as session:
        todo = session.removal(app, engine.fleet.context(server, session))
        assert not [each.text for each in todo if "CURRENT_USER" in each.text or f'"{SUPERUSER}"' in each.text]
        list(session.run(todo, site.state.secrets))
    assert sql("SELECT theirs.power()", database=other) == [(HEIR,)]
    powers = "rolsuper OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
    assert sql(f"SELECT {powers} FROM pg_roles WHERE rolname = '{HEIR}'") == [(False,)]
    sql("DROP SCHEMA theirs CASCADE", database=other)


def test_an_app_that_takes_the_lock_of_the_project_keeps_nobody_out(site: Site) -> None:
    """Before the first apply, and on a managed server always, every login may connect to the maintenance database."""
    import zlib

    key = zlib.crc32(site.project.name.encode()) - 2**31
    site.drift()
    site.served.sql("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    with site.enter(site.hostile, database="postgres") as session:
        session.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {key})".encode())
        report = site.engine().apply()
        if site.admin == SUPERUSER:
            assert report.error() is None
        else:
            error = report.error()
            assert isinstance(error, Locked)
            assert f"held by {site.hostile}_user, who is no admin" in str(error)
    assert site.engine().apply().error() is None


def test_an_app_whose_catalogs_are_too_much_costs_nobody_else_a_plan(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LARGEST_ANSWER", 60_000)
    site.drift()
    with site.enter(site.hostile) as session:
        session.execute(f"SET ROLE {site.hostile}_owner".encode())
        session.execute(b"DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('CREATE SCHEMA %I', "
                        b"repeat('s', 50) || n); END LOOP; END $$")  # fmt: skip
    plan = site.engine().plan()
    assert {change.resource.app for change in plan.changes} == set(site.others)
    ((_, error),) = plan.errors
    assert f"database {site.hostile}: sends" in error.message
    report = site.engine().apply()
    assert {change.resource.app for change in report.done} == set(site.others)
    assert isinstance(report.error(), PartlyApplied)


def test_an_app_that_takes_every_connection_does_not_keep_the_admin_out(site: Site) -> None:
    if site.admin == PLATFORM:
        pytest.skip("the server keeps connections for superusers only")
    site.drift()
    with contextlib.ExitStack() as stack:
        site.served.sql(f"ALTER ROLE {site.hostile}_user CONNECTION LIMIT -1")
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(site.enter(site.hostile))
        report = site.engine().apply()
        assert report.error() is None
        assert site.engine().plan().in_sync
