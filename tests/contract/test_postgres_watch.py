"""An app on a real Postgres as its operator sees it: health, walls, usage, and its end."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from multidb.errors import AuthenticationFailed, ServerError, ServerSlow
from multidb.model import App, Health, Status, StoreContext, Tenant
from multidb.provisioners.postgres import PROVISIONER
from multidb.secrets import Secret
from tests.contract.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster
from tests.contract.test_postgres_server import Site

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, 15])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, max_prepared_transactions="5", max_connections="60") as made:
        yield made


@pytest.fixture(params=[SUPERUSER, PLATFORM])
def site(request: pytest.FixtureRequest, served: Cluster) -> Site:
    return Site(served, request.param)


@pytest.fixture
def super_site(served: Cluster) -> Site:
    return Site(served)


def tenant(site: Site, app: App, **context: Any) -> Tenant:
    server = site.served.server(site.admin, site.timeout)
    made = StoreContext("site", None, server=server, **context)

    def secret(ref: Any) -> Secret:
        value = site.secrets.get(ref)
        assert value is not None
        return value

    return Tenant(app, server, made, PROVISIONER.env(app, made, server.endpoint, secret))


# --- health ---


def health(site: Site, app: App, *, may_write: bool = True, **context: Any) -> tuple[Status, str]:
    assert PROVISIONER.check_health is not None
    try:
        found = PROVISIONER.check_health(tenant(site, app, **context), may_write)
    except AuthenticationFailed as error:
        found = Health(Status.UNHEALTHY, error.message, fix=error.hint or "")
    assert found.status is Status.HEALTHY or found.fix, "what is not well says what to do"
    return found.status, found.message


def test_a_healthy_app_was_written_to_and_nothing_is_left(super_site: Site) -> None:
    apps = [super_site.app(), super_site.app(roles="split")]
    super_site.apply(apps)
    for app in apps:
        assert health(super_site, app) == (Status.HEALTHY, "wrote and read")
        assert health(super_site, app, may_write=False) == (Status.HEALTHY, "read")
        left = (
            "SELECT (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(*) FROM pg_class WHERE oid > 16384)"
        )
        assert super_site.served.sql(left, database=app.id) == [(0, 0)]


def test_what_needs_a_person_is_degraded_and_what_is_refused_is_unhealthy(super_site: Site) -> None:
    app, sql = super_site.app(connection_limit=10), super_site.served.sql
    super_site.apply([app])
    with contextlib.ExitStack() as held:
        for _ in range(9):
            held.enter_context(super_site.enter(app))
        status, message = health(super_site, app)
        assert (status, "9 of its 10 connections" in message) == (Status.DEGRADED, True), message
        held.enter_context(super_site.enter(app))
        status, message = health(super_site, app)
        assert (status, "all the connections" in message) == (Status.UNHEALTHY, True), message
    assert health(super_site, app, restricted=frozenset({app.id}))[0] is Status.DEGRADED
    sql(f"ALTER DATABASE {app.id} SET default_transaction_read_only = on")
    assert health(super_site, app) == (Status.DEGRADED, "the app's transactions are read-only")
    sql(f"ALTER DATABASE {app.id} RESET default_transaction_read_only")
    for break_, mend, words in (
        (f"ALTER ROLE {app.id}_user NOLOGIN", f"ALTER ROLE {app.id}_user LOGIN", "may not enter"),
        (
            f"ALTER DATABASE {app.id} ALLOW_CONNECTIONS false",
            f"ALTER DATABASE {app.id} ALLOW_CONNECTIONS true",
            "enter",
        ),
        (f"REVOKE CONNECT ON DATABASE {app.id} FROM {app.id}_user, {app.id}_owner", "SELECT 1", "may not enter"),
        (f"ALTER ROLE {app.id}_user PASSWORD 'other'", "SELECT 1", "refuses"),
        (f"DROP DATABASE {app.id} WITH (FORCE)", "SELECT 1", "refuses"),
    ):
        sql(break_)
        status, message = health(super_site, app)
        assert (status, words in message) == (Status.UNHEALTHY, True), (break_, message)
        sql(mend)
    super_site.apply([app])
    assert health(super_site, app)[0] is Status.HEALTHY
    sql(f"DROP DATABASE {app.id} WITH (FORCE)")
    assert "is not there" in health(super_site, app)[1]


def test_a_stale_collation_is_degraded(super_site: Site) -> None:
    if super_site.served.sql("SHOW server_version_num")[0][0] < "150000":
        pytest.skip("told by the server since 15")
    app = super_site.app()
    super_site.apply([app])
    super_site.served.sql(f"UPDATE pg_database SET datcollversion = 'old' WHERE datname = '{app.id}'")
    collated = super_site.served.sql("SELECT pg_database_collation_actual_version(oid) FROM pg_database LIMIT 1")
    expected = Status.DEGRADED if collated != [(None,)] else Status.HEALTHY  # locale C has no versions
    assert health(super_site, app)[0] is expected


def test_a_server_that_never_answers_costs_one_timeout(super_site: Site) -> None:
    app = super_site.app()
    super_site.apply([app])
    patient = replace(super_site.served.server(timeout=2.0))
    for there in ("stopped server", "silent proxy"):
        with contextlib.ExitStack() as stack:
            known = tenant(super_site, app)
            if there == "stopped server":
                super_site.served.freeze()
                stack.callback(super_site.served.thaw)
                server = patient
            else:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                server = replace(patient, endpoint=replace(patient.endpoint, port=listener.getsockname()[1]))
            started = time.monotonic()
            with pytest.raises(ServerSlow):
                PROVISIONER.check_health(replace(known, server=server), True)  # type: ignore[misc]
            assert time.monotonic() - started < 3.5


def test_no_server_is_a_server_error_without_a_password(super_site: Site) -> None:
    app = super_site.app()
    super_site.generate([app])
    known = tenant(super_site, app)
    server = replace(known.server, endpoint=replace(known.server.endpoint, port=1))
    with pytest.raises(ServerError) as raised:
        PROVISIONER.check_health(replace(known, server=server), True)  # type: ignore[misc]
    assert "postgresql://" not in str(raised.value)


# --- the end of an app ---


def end(site: Site, app: App, what: str) -> list[str]:
    with site.connect() as session:
        todo = getattr(session, what)(app, StoreContext("site", session.facts))
        list(session.run(todo, site.secrets))
        return [statement.text for statement in todo]


def left_of(site: Site, app: App) -> list[Any]:
    return site.served.sql(
        f"SELECT rolname::text FROM pg_roles WHERE rolname ~ '^{app.id}_' "
        f"UNION ALL SELECT datname FROM pg_database WHERE datname ~ '^{app.id}(_|$)'"
    )


def test_suspended_nobody_of_the_app_gets_in_and_an_apply_brings_it_back(site: Site) -> None:
    app, other = site.app(), site.app()
    site.apply([app, other])
    with site.enter(app) as session, site.enter(other) as bystander:
        session.execute("CREATE TABLE kept (a int)")
        assert end(site, app, "suspension")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        bystander.execute("SELECT 1")
    for login in ("user", "readonly"):
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            site.enter(app, login)
    assert end(site, app, "suspension") == []
    site.apply([app])
    assert site.enter(app).execute("SELECT count(*) FROM kept").fetchone() == (0,)
    assert not site.changes([app])


def test_removed_with_sessions_dependents_elsewhere_and_prepared_transactions(site: Site) -> None:
    app, other = site.app(), site.app()
    site.apply([app, other])
    sql = site.served.sql
    as_superuser = site.admin == SUPERUSER
    if as_superuser:
        sql("CREATE TABLE IF NOT EXISTS elsewhere (a int)", f"GRANT SELECT ON elsewhere TO {app.id}_ro")
        sql(
            f"CREATE SCHEMA theirs AUTHORIZATION {app.id}_owner",
            f"GRANT USAGE ON SCHEMA public TO {app.id}_ro",
            database=other.id,
        )
        sql(f"CREATE ROLE {app.id}_mine", f"ALTER DATABASE {app.id} IS_TEMPLATE true")
        session = site.enter(app)
        session.execute("CREATE TABLE t (a int)")
        session.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'half done'")
    with site.enter(app):
        texts = end(site, app, "removal")
    assert any(text.startswith("DROP DATABASE") for text in texts)
    assert left_of(site, app) == ([(f"{app.id}_mine",)] if as_superuser else []), "only what carries our mark"
    assert end(site, app, "removal") == []
    assert not site.changes([other], deep=False)
    if as_superuser:
        assert sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'theirs'", database=other.id) == [(1,)]
        sql("DROP SCHEMA theirs", database=other.id)


def test_removal_stopped_after_any_statement_is_finished_by_the_next(super_site: Site) -> None:
    for stop in range(1, 30):
        app = super_site.app()
        super_site.apply([app])
        with super_site.connect() as session:
            context = StoreContext("site", session.facts)
            todo = session.removal(app, context)
            list(session.run(todo[:stop], super_site.secrets))
            list(session.run(session.removal(app, context), super_site.secrets))
        assert left_of(super_site, app) == []
        if stop >= len(todo):
            return
    raise AssertionError("never came to the end")


def test_what_carries_no_mark_or_another_projects_is_not_removed(super_site: Site) -> None:
    app = super_site.app()
    super_site.apply([app])
    super_site.served.sql(
        f"COMMENT ON DATABASE {app.id} IS 'multidb:other/{app.id} 00000000'", f"COMMENT ON ROLE {app.id}_ro IS NULL"
    )
    with super_site.connect() as session:
        todo = session.removal(app, StoreContext("site", session.facts))
    assert not [statement.text for statement in todo if statement.text.startswith("DROP DATABASE")]
    assert f'"{app.id}_ro"' not in "".join(statement.text for statement in todo)
