"""An app on a real Postgres as its operator sees it: health, walls, usage, and its end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from multidb.errors import AuthenticationFailed, ServerError, ServerSlow
from multidb.model import App, Health, Hole, Inspection, Outcome, Search, Status, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.driver import connection
from multidb.provisioners.postgres.isolation.sessions import patiently, session_of
from multidb.provisioners.postgres.provision.logins import logins
from tests.contract.postgres_site import Site, probes, restrict, tenant
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, max_prepared_transactions="5", max_connections="60") as made:
        yield made


@pytest.fixture(params=[SUPERUSER, PLATFORM])
def site(request: pytest.FixtureRequest, served: Cluster) -> Site:
    return Site(served, request.param)


@pytest.fixture
def super_site(served: Cluster) -> Site:
    return Site(served)


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


def _until_it_has(site: Site, app: App, sessions: int) -> None:
    """A connection that was closed here goes on for a moment there."""
    count = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{app.id}_user'"
    deadline = time.monotonic() + 30
    while site.served.sql(count) != [(sessions,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _until_it_is(site: Site, app: App, message: str) -> None:
    """A server reads its files again in a moment."""
    deadline = time.monotonic() + 30
    while (found := health(site, app)[1]) != message:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_what_needs_a_person_is_degraded_and_what_is_refused_is_unhealthy(super_site: Site) -> None:
    app, sql = super_site.app(connection_limit=10), super_site.served.sql
    super_site.apply([app])
    with contextlib.ExitStack() as held:
        for _ in range(9):
            held.enter_context(super_site.enter(app))
        status, message = health(super_site, app)
        assert (status, "9 of its 10 connections" in message) == (Status.DEGRADED, True), message
        _until_it_has(super_site, app, 9)
        held.enter_context(super_site.enter(app))
        status, message = health(super_site, app)
        assert (status, "all the connections" in message) == (Status.UNHEALTHY, True), message
    assert health(super_site, app, read_only=frozenset({app.id}))[0] is Status.DEGRADED
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


@pytest.mark.parametrize(
    "setting", [f"ALTER {whose} {{}} default_transaction_read_only" for whose in ("ROLE ALL", "SYSTEM")]
)
def test_what_makes_every_app_read_only_is_taken_back_where_it_stands(super_site: Site, setting: str) -> None:
    app, sql = super_site.app(), super_site.served.sql
    super_site.apply([app])
    mend = setting.format("RESET")
    assert PROVISIONER.check_health is not None
    sql(f"{setting.format('SET')} = on", "SELECT pg_reload_conf()")
    try:
        _until_it_is(super_site, app, "the transactions of all apps are read-only")
        assert mend in PROVISIONER.check_health(tenant(super_site, app), True).fix
    finally:
        sql("SET default_transaction_read_only = off", mend, "SELECT pg_reload_conf()")
    _until_it_is(super_site, app, "wrote and read")


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
            assert time.monotonic() - started < 10


def test_no_server_is_a_server_error_without_a_password(super_site: Site) -> None:
    app = super_site.app()
    super_site.generate([app])
    known = tenant(super_site, app)
    server = replace(known.server, endpoint=replace(known.server.endpoint, port=1))
    with pytest.raises(ServerError) as raised:
        PROVISIONER.check_health(replace(known, server=server), True)  # type: ignore[misc]
    assert "postgresql://" not in str(raised.value)


# --- the walls ---


def test_every_wall_holds_and_every_probe_works(super_site: Site) -> None:
    apps = [super_site.app(), super_site.app(roles="split")]
    super_site.apply(apps)
    before = super_site.served.sql("SELECT oid, datacl::text FROM pg_database ORDER BY 1")
    for attacker, victim in (apps, apps[::-1]):
        found = probes(super_site, attacker, victim)
        assert {probe.got for probe in found} == {Outcome.REFUSED}, [p for p in found if p.got is not Outcome.REFUSED]
        assert len(found) >= 120
        assert {probe.target for probe in found} == {None, victim.id}
    assert super_site.served.sql("SELECT oid, datacl::text FROM pg_database ORDER BY 1") == before
    assert not super_site.changes(apps)


def test_a_connection_limit_of_one_is_enough_to_prove_the_walls(super_site: Site) -> None:
    one, other = super_site.app(connection_limit=1), super_site.app(connection_limit=1)
    super_site.apply([one, other])
    with super_site.enter(other):  # its only connection, as when it attacks at the same time
        found = probes(super_site, one, other)
    assert {probe.got for probe in found} == {Outcome.REFUSED}, [p for p in found if p.got is not Outcome.REFUSED]
    assert {"connect as user", "cancel a query", "read its queries"} <= {probe.name for probe in found}
    passing = _entered_when_free(super_site, one)  # another's check at the same moment
    threading.Timer(0.6, passing.close).start()
    assert {probe.got for probe in probes(super_site, one, other)} == {Outcome.REFUSED}
    with _entered_when_free(super_site, one), pytest.raises(ServerError) as taken:
        probes(super_site, one, other)
    assert "connection_limit" in str(taken.value.hint)


def test_no_limit_in_time_of_an_app_ends_an_attempt(super_site: Site) -> None:
    """On a busy machine the control of one took longer than the app's statement_timeout: its walls were not proved."""
    app, sql = super_site.app(), super_site.served.sql
    super_site.apply([app])
    limits = [
        str(name)
        for (name,) in sql("SELECT name FROM pg_settings WHERE name ~ '_timeout$' AND context = 'user' AND unit = 'ms'")
        if not str(name).startswith(("deadlock", "wal", "tcp"))
    ]
    assert {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} <= {*limits}
    for name in limits:
        sql(f"ALTER ROLE {app.id}_user SET {name} = '1h'")
    victim = tenant(super_site, app)
    asked = "SELECT " + ", ".join(f"current_setting('{name}')" for name in limits)
    for session in (session_of(victim), patiently(victim, next(logins(victim)))):
        with session:
            assert session.send(asked).rows[-1] == ["0"] * len(limits)


def _entered_when_free(site: Site, app: App) -> psycopg.Connection[Any]:
    """A server counts a session until its process has ended, a moment after its client has gone."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return site.enter(app)
        except psycopg.OperationalError as error:
            if "too many connections" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_the_walls_of_an_app_over_its_quota_are_proved_too(super_site: Site) -> None:
    full, other = super_site.app(), super_site.app()
    super_site.apply([full, other])
    restrict(super_site, full, read_only=True)
    with super_site.enter(full) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("CREATE TABLE more (a int)")
    found = probes(super_site, full, other, read_only=frozenset({full.id}))
    assert {probe.got for probe in found} == {Outcome.REFUSED}, [p for p in found if p.got is not Outcome.REFUSED]


BREACHES = (
    ("GRANT SELECT ON pg_authid TO {a}_user", "read password verifiers as user, without its role"),
    ("GRANT SELECT ON pg_authid TO {a}_readonly", "read password verifiers as readonly"),
    ("GRANT SELECT ON pg_shadow TO {a}_user", "read what is the server's as user, without its role"),
    ("GRANT SELECT ON pg_user_mapping TO {a}_owner", "read user mappings"),
    ("GRANT UPDATE ON pg_shadow TO {a}_readonly", "UPDATE what is the server's as readonly"),
    ("GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO {a}_readonly", "read a server file as bytes as readonly"),
    ("GRANT EXECUTE ON FUNCTION lo_export(oid, text) TO {a}_user", "export to a server file as user, without its role"),
    ("GRANT EXECUTE ON FUNCTION pg_rotate_logfile() TO {a}_readonly", "call what is the server's as readonly"),
    ("GRANT pg_read_all_stats TO {a}_readonly", "belong to a predefined role as readonly"),
    ("GRANT TEMPORARY ON DATABASE {a} TO {a}_readonly", "make a temporary table with the read-only login"),
    ("GRANT CONNECT ON DATABASE {b} TO PUBLIC", "connect as user"),
    ("GRANT CONNECT ON DATABASE postgres TO PUBLIC", "connect to postgres as readonly"),
    ("GRANT {b}_owner TO {a}_user", "become the owner"),
    ("GRANT {b}_ro TO {a}_user", "become the reader"),
    ("GRANT pg_read_all_data TO {a}_user", "become pg_read_all_data"),
    ("GRANT {b}_user TO {a}_owner", "cancel a query"),
    ("ALTER ROLE {a}_user SUPERUSER", "become pg_execute_server_program"),
    ("ALTER DATABASE {b} OWNER TO {a}_owner", "own the database"),
    ("ALTER ROLE {a}_owner CREATEDB", "CREATE DATABASE"),
    ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC", "read a server file"),
)


def test_a_wall_that_is_open_is_a_breach(super_site: Site) -> None:
    sql, a, b = super_site.served.sql, super_site.app(), super_site.app()
    super_site.apply([a, b])
    for opening, name in BREACHES:
        here = a.id if "FUNCTION" in opening or " ON pg_" in opening else "postgres"
        sql(opening.format(a=a.id, b=b.id), database=here)
        breaches = [probe.name for probe in probes(super_site, a, b) if probe.breach]
        assert name in breaches, (opening, breaches)
        if here == a.id:
            closing = opening.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")
            sql(closing.format(a=a.id, b=b.id), database=here)
        super_site.apply([a, b])


def test_a_database_that_is_not_there_is_nobodys(super_site: Site) -> None:
    """As where it could not be made, because the disk was full."""
    a, b = super_site.app(), super_site.app()
    super_site.apply([a, b])
    super_site.served.sql(f"DROP DATABASE {b.id}")
    found = probes(super_site, a, b)
    assert [probe for probe in found if probe.breach] == []
    assert next(probe for probe in found if probe.name == "own the database").got is Outcome.BROKEN
    super_site.apply([a, b])


@pytest.mark.parametrize("right", ["SET ON PARAMETER log_statement", "ALTER SYSTEM ON PARAMETER work_mem"])
def test_settings_of_the_server_are_a_wall(super_site: Site, right: str) -> None:
    if super_site.served.sql("SHOW server_version_num")[0][0] < "150000":
        pytest.skip("granted since 15")
    a, b = super_site.app(), super_site.app()
    super_site.apply([a, b])
    super_site.served.sql(f"GRANT {right} TO {a.id}_user")
    try:
        breaches = {probe.name for probe in probes(super_site, a, b) if probe.breach}
    finally:
        super_site.served.sql(f"REVOKE {right} FROM {a.id}_user")
    expected = {"SET what is the server's", "change server settings"}
    if "SYSTEM" in right:
        expected = {"ALTER SYSTEM", "ALTER SYSTEM, anything"}
    assert breaches == {f"{name} as user, without its role" for name in expected}


def test_a_line_without_a_password_is_a_breach_to_whomever_it_lets_in(super_site: Site) -> None:
    a, b = super_site.app(), super_site.app()
    super_site.apply([a, b])
    file = super_site.served.data / "pg_hba.conf"
    text = file.read_text()
    try:
        file.write_text(f"host {a.id} {a.id}_readonly 127.0.0.1/32 trust\n{text}")
        super_site.served.sql("SELECT pg_reload_conf()")
        until = time.monotonic() + 20
        while True:
            breaches = [probe.name for probe in probes(super_site, a, b) if probe.breach]
            if breaches or time.monotonic() > until:
                break
        assert breaches == ["log in without the password as readonly"]
    finally:
        file.write_text(text)
        super_site.served.sql("SELECT pg_reload_conf()")


def test_what_an_app_has_made_does_not_keep_a_wall_from_being_proved(super_site: Site) -> None:
    """Every trusted extension, one after the other; and things that stand in the way of one."""
    a, b = super_site.app(), super_site.app()
    super_site.apply([a, b])
    found = probes(super_site, a, b)
    assert {probe.got for probe in found} == {Outcome.REFUSED}
    trusted = super_site.served.sql(
        "SELECT name FROM pg_available_extension_versions WHERE trusted AND requires IS NULL AND "
        "name <> 'plpgsql' GROUP BY 1"
    )
    with super_site.enter(a) as session:
        session.execute("CREATE EXTENSION btree_gin")
        session.execute("CREATE TYPE public.gbtreekey4 AS ENUM ('in the way of btree_gist')")
        assert {probe.got for probe in probes(super_site, a, b)} == {Outcome.REFUSED}
        session.execute("DROP TYPE public.gbtreekey4")
        for (name,) in trusted:
            session.execute(f'CREATE EXTENSION IF NOT EXISTS "{name}"')
    found = probes(super_site, a, b)
    assert {probe.got for probe in found} == {Outcome.REFUSED}, [p for p in found if p.got is not Outcome.REFUSED]


def test_a_probe_whose_control_fails_proves_nothing(super_site: Site) -> None:
    a, b = super_site.app(), super_site.app()
    super_site.apply([a, b])
    super_site.served.sql(f"ALTER ROLE {b.id}_ro RENAME TO {b.id}_gone", f"ALTER ROLE {b.id}_user NOLOGIN")
    found = {probe.name: probe for probe in probes(super_site, a, b)}
    assert found["become the reader"].got is Outcome.BROKEN
    assert found["cancel a query"].got is Outcome.BROKEN
    assert found["connect as user"].got is Outcome.REFUSED


def search(site: Site, *apps: App) -> Search:
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        desired = PROVISIONER.desired(apps, context)
        return session.search(Inspection(context, apps, desired, site.secrets))


def holes(site: Site, *apps: App, strangers: bool = False) -> dict[str, Hole]:
    """But for those of the server's two administrators, whom somebody knows."""
    found = [hole for hole in search(site, *apps).holes if hole.account not in (PLATFORM, SUPERUSER)]
    return {hole.subject: hole for hole in found if strangers or "not in the manifest" not in hole.name}


HOLES = (
    ("postgres", "GRANT CONNECT ON DATABASE {a} TO PUBLIC", "database {a}"),
    ("postgres", "GRANT CONNECT, CREATE ON DATABASE {a} TO {b}_user", "database {a}"),
    ("postgres", "GRANT CONNECT ON DATABASE postgres TO PUBLIC", "database postgres"),
    ("postgres", "GRANT {a}_owner TO {b}_user", "role {a}_owner"),
    ("postgres", "GRANT pg_read_all_data TO {a}_user", "role pg_read_all_data"),
    ("postgres", "ALTER ROLE {a}_user SUPERUSER", "role {a}_user"),
    ("postgres", "ALTER ROLE {a}_readonly BYPASSRLS", "role {a}_readonly"),
    ("postgres", "ALTER ROLE {a}_owner LOGIN", "role {a}_owner"),
    ("postgres", "ALTER ROLE {a}_user PASSWORD NULL", "login {a}_user"),
    ("postgres", "SET password_encryption = md5; ALTER ROLE {a}_user PASSWORD 'x'", "login {a}_user"),
    ("{a}", "GRANT USAGE ON SCHEMA public TO PUBLIC", "schema public in database {a}"),
    ("{a}", "CREATE TABLE t (a int); GRANT SELECT ON t TO {b}_user", "table public.t in database {a}"),
    ("{a}", "CREATE SEQUENCE s; GRANT USAGE ON s TO PUBLIC", "sequence public.s in database {a}"),
    (
        "{a}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {a}_owner IN SCHEMA public GRANT SELECT ON TABLES TO {b}_user",
        "default privileges for role {a}_owner in schema public in database {a}",
    ),
    (
        "postgres",
        "CREATE DATABASE {a}__scratch; COMMENT ON DATABASE {a}__scratch IS 'multidb-place:site/{a}'",
        "database {a}__scratch",
    ),
    ("postgres", "CREATE DATABASE {a}__new ALLOW_CONNECTIONS false", "database {a}__new"),  # killed before its mark
)


def test_each_hole_is_found_and_closed_by_the_statement_that_it_names(super_site: Site) -> None:
    a, b = super_site.app(), super_site.app()
    super_site.apply([a, b])
    assert holes(super_site, a, b) == {}
    for database, opening, subject in HOLES:
        names = {"a": a.id, "b": b.id}
        super_site.served.sql(*opening.format(**names).split("; "), database=database.format(**names))
        found = holes(super_site, a, b)
        assert list(found) == [subject.format(**names)], opening
        hole = found[subject.format(**names)]
        assert hole.app == (None if "database postgres" in subject else a.id)
        assert hole.message
        assert all(line.endswith(";") or line == rf'\connect "{a.id}"' for line in hole.closes), "psql takes them"
        where = a.id if hole.closes[0].startswith(r"\connect") else "postgres"
        super_site.served.sql(*(line for line in hole.closes if line[0] != "\\"), database=where)
        assert holes(super_site, a, b) == {}, hole
        if "NOLOGIN" in hole.closes[-1]:
            super_site.apply([a, b])


def test_a_login_of_an_app_that_the_manifest_has_no_more_is_a_hole(super_site: Site) -> None:
    kept, gone = super_site.app(), super_site.app()
    super_site.apply([kept, gone])
    logins = {f"login {gone.id}_user", f"login {gone.id}_readonly"}
    found = holes(super_site, kept, strangers=True)
    assert logins <= set(found)
    assert f"login {kept.id}_user" not in found
    super_site.served.sql(*(found[subject].closes[0] for subject in logins))
    assert not logins & set(holes(super_site, kept, strangers=True))


def test_what_stands_unmarked_is_told_and_what_was_searched_is_counted(site: Site) -> None:
    app, sql = site.app(), site.served.sql
    site.apply([app])
    copy, other, closed = f"{app.id}__new", f"other_{app.id}", f"closed_{app.id}"
    sql(f"CREATE DATABASE {copy}", f"CREATE DATABASE {other}", f"CREATE DATABASE {closed}")
    sql(f"REVOKE CONNECT ON DATABASE {closed} FROM PUBLIC")
    try:
        hole = holes(site, app)[f"database {copy}"]
        assert hole.app == app.id
        with site.enter(app, database=copy):
            pass  # it is a real one
        sql(*hole.closes)
        assert f"database {copy}" not in holes(site, app)
        found = search(site, app)
        ours = {remark.subject: remark.app for remark in found.remarks if app.id in remark.subject}
        assert ours == {f"database {copy}": app.id, f"database {other}": None}
        before = {each.catalog: each.objects for each in found.catalogs}
        with site.enter(app) as session:
            session.execute("CREATE TABLE t (a int); CREATE SEQUENCE s")
        objects = {each.catalog: each.objects for each in search(site, app).catalogs}
        (inside,) = (catalog for catalog in objects if catalog.startswith("pg_class inside"))
        assert objects[inside] - before[inside] == 2
        assert objects["pg_database"] == sql("SELECT count(*) FROM pg_database")[0][0]
        told = {each.catalog for each in found.unread}
        assert ("pg_hba_file_rules" in objects) is (site.admin == SUPERUSER), "what may not be read is not counted"
        assert ("pg_hba_file_rules" in told) is (site.admin != SUPERUSER), "and said to be unread"
    finally:
        sql(*(f"DROP DATABASE {name}" for name in (copy, other, closed)))


def test_a_line_that_asks_for_no_password_is_a_hole(super_site: Site) -> None:
    file = super_site.served.data / "pg_hba.conf"
    text = file.read_text()
    try:
        file.write_text(f"{text}host all all 10.1.2.3/32 trust\n")
        found = holes(super_site)
        assert any(subject.startswith("pg_hba.conf line") for subject in found)
        assert "10.1.2.3" in next(iter(found.values())).message
    finally:
        file.write_text(text)
    assert holes(super_site) == {}


def test_looking_for_holes_costs_two_round_trips_and_one_for_each_database(site: Site) -> None:
    apps = [site.app() for _ in range(3)]
    site.apply(apps)
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        desired = PROVISIONER.desired(apps, context)
        before = session.traffic.round_trips
        found = session.search(Inspection(context, apps, desired, site.secrets)).holes
        assert not [hole for hole in found if hole.app]
        may_enter = (
            "SELECT count(*) FROM pg_database WHERE datallowconn "
            f"AND has_database_privilege('{site.admin}', oid, 'CONNECT')"
        )
        # and one, before many connections, to be spared the work of a password at each
        keys = session.facts.superuser and connection.TAKES_KEYS
        assert session.traffic.round_trips - before == 2 + keys + site.served.sql(may_enter)[0][0]


# --- usage ---


def test_usage_tells_each_app_from_the_others(site: Site) -> None:
    big, small = site.app(connection_limit=7), site.app()
    site.apply([big, small])
    with site.enter(big) as session, site.connect() as admin:
        session.execute(
            'CREATE TABLE "the ""big"" one" AS SELECT g AS id, repeat(\'x\', 100) FROM generate_series(1, 20000) g'
        )
        session.execute("CREATE TABLE little (a int)")
        session.execute("ANALYZE")
        before = admin.traffic.round_trips
        server = admin.usage(StoreContext("site", admin.facts), [big, small])
        assert admin.traffic.round_trips - before <= 2 + 2
    used, other = server.apps[big.id], server.apps[small.id]
    assert used.size
    assert other.size
    assert used.size > other.size + 2_000_000
    assert used.largest[0][0] == 'public."the ""big"" one"'
    assert used.largest[0][1] > 2_000_000
    assert (used.connections, used.connection_limit, other.connections) == (1, 12, 0)
    assert 0 <= used.counts["cache_hit"] <= 1
    assert used.counts["deadlocks"] == 0
    assert server.size
    assert server.size > used.size + other.size - 1
    assert server.connections
    assert server.connection_limit == 57
    assert server.notes
    assert "pg_stat_statements" in server.notes[0]


def test_slow_queries_come_without_their_literals(super_site: Site) -> None:
    app = super_site.app()
    with cluster(18, shared_preload_libraries="pg_stat_statements") as made:
        made.sql("CREATE EXTENSION pg_stat_statements")
        site = Site(made)
        site.apply([app])
        made.sql("SELECT count(*) FROM pg_namespace", database=app.id)
        with site.enter(app) as session, site.connect() as admin:
            session.execute("SELECT count(*), 'a secret literal' FROM generate_series(1, 200000)")
            session.execute("SET application_name = 'another literal'")
            used = admin.usage(StoreContext("site", admin.facts), [app]).apps[app.id]
    assert not any("pg_namespace" in query.text for query in used.slow)
    assert any("generate_series" in query.text and query.calls == 1 and query.total > 0 for query in used.slow)
    assert "literal" not in str(used.slow)
    assert used.counts["queries"] >= 1


# --- over its quota ---


@pytest.mark.parametrize("roles", ["simple", "split"])
def test_over_its_quota_an_app_reads_and_deletes_until_it_is_lifted(site: Site, roles: str) -> None:
    app = site.app(roles=roles)
    site.apply([app])
    maker = "migrate" if roles == "split" else "user"
    with site.enter(app, maker) as session:
        session.execute("CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 10) g")
        session.execute("CREATE MATERIALIZED VIEW counted AS SELECT a FROM t")
        session.execute("CREATE TABLE only_read (a int)")
        session.execute(f"REVOKE INSERT ON only_read FROM {app.id}_rw")
    acl = "SELECT relname, relacl::text FROM pg_class WHERE relname IN ('t', 'only_read') ORDER BY 1"
    before = site.served.sql(acl, database=app.id)
    with site.enter(app, maker) as open_before:
        assert restrict(site, app, read_only=True) == []
        with pytest.raises(psycopg.OperationalError):
            open_before.execute("INSERT INTO t VALUES (0)")
    for login in {"user", maker}:
        with site.enter(app, login) as session:
            for refused in (
                "INSERT INTO t VALUES (0)",
                "UPDATE t SET a = 0",
                "CREATE TABLE more (a int)",
                "CREATE TEMP TABLE more (a int)",
                "REFRESH MATERIALIZED VIEW counted",
                f"SET ROLE {app.id}_owner",
                f"SET ROLE {app.id}_rw",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(refused.encode())
            assert session.execute("DELETE FROM t WHERE a = (SELECT max(a) FROM t)").rowcount == 1
    status, message = health(site, app, read_only=frozenset({app.id}))
    assert (status, "quota" in message) == (Status.DEGRADED, True)
    assert restrict(site, app, read_only=False) == []
    assert site.served.sql(acl, database=app.id) == before
    with site.enter(app, maker) as session:
        session.execute("CREATE TABLE more (a int)")
    with site.enter(app) as session:
        session.execute("INSERT INTO t VALUES (0)")
    assert not site.changes([app])


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
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {app.id}_owner GRANT SELECT ON TABLES TO {app.id}_ro",
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


# --- the read-only login ---


def test_what_the_read_only_login_cannot_do_however_it_begins_its_transaction(site: Site) -> None:
    """What it may do all the same is in docs/security.md, word for word."""
    for roles in ("simple", "split"):
        app = site.app(roles=roles)
        site.apply([app])
        with site.enter(app, "migrate" if roles == "split" else "user") as owner:
            owner.execute("CREATE TABLE t (a int); CREATE SEQUENCE s; CREATE FUNCTION f() RETURNS int RETURN 1")
            made = owner.execute("SELECT lo_from_bytea(0, 'x')").fetchone()
        refused = [
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "TRUNCATE t",
            "LOCK TABLE t IN EXCLUSIVE MODE",
            "CREATE TABLE u (a int)",
            "CREATE TEMPORARY TABLE u (a int)",
            "CREATE SCHEMA u",
            "CREATE VIEW pg_temp.u AS SELECT 1",
            "SELECT nextval('s')",
            f"SELECT lo_put({made[0]}, 0, 'y')",
            f"SELECT lo_unlink({made[0]})",
            "ALTER ROLE CURRENT_USER CONNECTION LIMIT 100",
            f"ALTER DATABASE {app.id} SET work_mem = '1GB'",
            f"SET ROLE {app.id}_rw",
            "DROP FUNCTION f()",
        ]
        objects = ["SELECT lo_create(0)", "SELECT lo_creat(-1)", "SELECT lo_from_bytea(0, 'x')"]
        for statement in refused + (objects if site.admin == SUPERUSER else []):
            with site.enter(app, "readonly") as session:
                session.execute("BEGIN; SET TRANSACTION READ WRITE")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(statement)
        allowed = ["NOTIFY c", "SELECT pg_advisory_lock(1)", "ALTER ROLE CURRENT_USER SET work_mem = '1MB'"]
        for statement in allowed + ([] if site.admin == SUPERUSER else objects):
            with site.enter(app, "readonly") as session:
                session.execute(f"BEGIN; SET TRANSACTION READ WRITE; {statement}; ROLLBACK")


def test_large_objects_are_the_apps_own_and_no_readers(super_site: Site) -> None:
    simple, split = super_site.app(), super_site.app(roles="split")
    super_site.apply([simple, split])
    for app, login in ((simple, "user"), (split, "user"), (split, "migrate")):
        with super_site.enter(app, login) as session:
            for call in ("lo_create(0)", "lo_creat(-1)", "lo_from_bytea(0, 'x')"):
                assert session.execute(f"SELECT {call}").fetchone()
    sql = super_site.served.sql
    sql("GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC", database=split.id)
    breaches = [probe.name for probe in probes(super_site, split, simple) if probe.breach]
    assert breaches == ["make a large object with the read-only login: lo_create"]
    changes = super_site.changes([simple, split])
    assert [field.field for change in changes for field in change.fields] == ["large_objects"], "a plan repairs it"
    super_site.apply([simple, split])
    assert not [probe for probe in probes(super_site, split, simple) if probe.breach]


def test_where_nobody_can_close_it_it_is_said_and_no_breach(served: Cluster) -> None:
    site = Site(served, PLATFORM)
    a, b = site.app(), site.app()
    site.apply([a, b])
    with site.connect() as session:
        facts = session.facts
    one = tenant(site, a)
    assert PROVISIONER.probe is not None
    found = list(PROVISIONER.probe(replace(one, context=replace(one.context, facts=facts)), [tenant(site, b)]))
    open_ones = [probe for probe in found if probe.got is Outcome.ALLOWED]
    assert {probe.name.partition(":")[0] for probe in open_ones} == {"make a large object with the read-only login"}
    assert not [probe for probe in found if probe.breach]
    assert "the read-only login can make large objects" in PROVISIONER.isolation(a, facts)[1]
