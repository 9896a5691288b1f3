"""What is special to Postgres, on real servers: cost in round trips, gaps between statements, locks, logs, rights."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import pq

from multidb.errors import Locked, NotAllowed, Refused, ServerError, ServerSlow, StatementFailed, WrongVersion
from multidb.model import Action, App, Inspection, Isolation, Statement, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.driver import connection
from multidb.provisioners.postgres.provision import scram, session
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import password_ref
from multidb.provisioners.postgres.provision.session import PostgresSession
from multidb.provisioners.postgres.provision.transactions import batches
from multidb.secrets import Secret
from tests.contract.postgres_site import NUMBERS, Site
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, log_statement="all", log_min_error_statement="error") as made:
        yield made


@pytest.fixture
def site(served: Cluster) -> Site:
    return Site(served)


@pytest.fixture
def platform(served: Cluster) -> Site:
    return Site(served, PLATFORM)


# --- cost ---


def test_the_number_of_round_trips_is_constant_per_server_and_one_per_database(site: Site) -> None:
    costs = {}
    for count in (3, 6):
        apps = [site.app() for _ in range(count)]
        site.apply(apps)
        for deep in (False, True):
            with site.connect() as session:
                before = (session.traffic.connections, session.traffic.round_trips)
                assert not site.plan(session, apps, deep=deep)
                after = (session.traffic.connections, session.traffic.round_trips)
            costs[count, deep] = (after[0] - before[0], after[1] - before[1])
    # and one, before many connections, to be spared the work of a password at each
    many = 8 if connection.TAKES_KEYS else 7
    assert costs == {(3, False): (0, 1), (6, False): (0, 1), (3, True): (3, 4), (6, True): (6, many)}


def test_an_apply_opens_one_connection_per_database(site: Site) -> None:
    apps = [site.app() for _ in range(4)]
    with site.connect() as session:
        todo = site.statements(session, apps)
        before = session.traffic.connections
        steps = list(session.run(todo, site.secrets))
        # and one more to see who is in the way, where a statement lasts
        assert session.traffic.connections - before in (4, 5)
    assert steps[-1] == len(todo)
    assert len(steps) == 1 + 4 + 1 + 4, "all roles, each database, all access, each inside"


def test_keys_that_do_not_fit_any_longer_cost_no_plan(site: Site) -> None:
    apps = [site.app() for _ in range(6)]
    site.apply(apps)
    with site.connect() as session:
        assert not site.plan(session, apps)
        # The same password under another salt: what was derived from it is of no use.
        verifier = scram.verifier(site.served.password)
        site.served.sql(f"ALTER ROLE {SUPERUSER} PASSWORD {literal(verifier)}")
        assert not site.plan(session, apps)
        before = session.traffic.connections
        assert not site.plan(session, apps)
        assert session.traffic.connections - before == 6, "tried once, and not at every connection"


# What somebody may have changed inside a database that is as it should be, and what the plan has to name.
_DRIFTS = {
    "a right on the schema": ("GRANT CREATE ON SCHEMA public TO {app}_ro", "schema_privileges"),
    "a right that may be passed on": (
        "GRANT USAGE ON SCHEMA public TO {app}_ro WITH GRANT OPTION",
        "schema_privileges",
    ),
    "a right of a name in quotes": ('GRANT CREATE ON SCHEMA public TO "Odd, {app}"', "schema_privileges"),
    "a right taken": ("REVOKE USAGE ON SCHEMA public FROM {app}_ro", "schema_privileges"),
    "the owner of the schema": ("ALTER SCHEMA public OWNER TO postgres", "schema_owner"),
    "no schema": ("DROP SCHEMA public CASCADE", "schema_owner"),
    "a default right": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {app}_owner GRANT DELETE ON TABLES TO {app}_ro",
        "default_privileges",
    ),
    "functions for everybody": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {app}_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "default_privileges",
    ),
    "a default right of a login": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {app}_user REVOKE SELECT ON TABLES FROM {app}_ro",
        "default_privileges",
    ),
    "a login's functions for everybody": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {app}_migrate GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "default_privileges",
    ),
    "a maker of large objects": ("GRANT EXECUTE ON FUNCTION pg_catalog.lo_creat(int) TO PUBLIC", "large_objects"),
    "an extension": ("DROP EXTENSION pg_trgm", "extensions"),
    "a table": ("CREATE TABLE public.t (a int)", "misowned"),
    "a function": ("CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "misowned"),
    "a type": ("CREATE TYPE public.e AS ENUM ('a')", "misowned"),
    "a schema": ("CREATE SCHEMA more", "misowned"),
}


@pytest.mark.parametrize("drift", _DRIFTS)
def test_a_look_inside_sees_every_drift_of_what_was_well(drifting: tuple[Site, App], drift: str) -> None:
    site, app = drifting
    statement, named = _DRIFTS[drift]
    site.served.sql(statement.format(app=app.id), database=app.id)
    [change] = site.changes([app])
    assert named in [field.field for field in change.fields]
    site.apply([app])
    assert not site.changes([app])


@pytest.fixture(scope="module")
def drifting(served: Cluster) -> tuple[Site, App]:
    """An app with an extension, whose functions are the administrator's, and with things of its own."""
    site = Site(served)
    app = site.app(extensions=["pg_trgm"], roles="split")
    site.apply([app])
    with site.enter(app, "migrate") as connection:
        connection.execute("CREATE TABLE own (id serial, span int4range)")
    site.served.sql(f'CREATE ROLE "Odd, {app.id}"')
    assert not site.changes([app])
    return site, app


def test_one_question_is_enough_where_all_is_well(drifting: tuple[Site, App]) -> None:
    """An extension is no reason for a second one."""
    site, app = drifting
    with site.connect() as session:
        before = session.traffic.round_trips
        assert not site.plan(session, [app])
        assert session.traffic.round_trips - before == 2


# --- gaps ---


def test_stopped_after_any_step_the_next_apply_converges(site: Site) -> None:
    """The process ends between two messages: every such place is tried."""
    for gap in range(1, 6):
        apps = [site.app(extensions=("ltree",)), site.app()]
        with site.connect() as session:
            todo = site.statements(session, apps)
            end = [start for start, _ in batches(todo)][gap]  # also between insides, which are sent at the same time
            assert len(list(session.run(todo[:end], site.secrets))) == gap
        left = site.changes(apps, deep=False)
        assert left, f"after step {gap} a shallow look sees that something is missing"
        assert all(change.action is not Action.CONFLICT for change in left), f"step {gap}"
        site.apply(apps, deep=False)
        assert not site.changes(apps), f"step {gap}"
        site.clean(*apps)


def test_a_failed_statement_takes_its_transaction_with_it(site: Site) -> None:
    name = f"s{next(NUMBERS)}"
    todo = [
        Statement(f"CREATE ROLE {name}_done"),
        Statement(f"CREATE ROLE {name}_gone", atomic=True),
        Statement("CREATE ROLE pg_forbidden", atomic=True),
        Statement(f"CREATE ROLE {name}_untried", atomic=True),
    ]
    with site.connect() as session, pytest.raises(StatementFailed) as caught:
        list(session.run(todo, site.secrets))
    assert (caught.value.index, caught.value.durable) == (2, 1)
    assert "pg_forbidden" in str(caught.value)
    left = site.served.sql(f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{name}%'")
    assert left == [(f"{name}_done",)]


def test_a_statement_that_cannot_be_read_is_told_from_its_neighbours(site: Site) -> None:
    todo = [
        Statement("SELECT 'ü'", atomic=True),
        Statement("SELEKT 1", atomic=True),
        Statement("SELECT 2", atomic=True),
    ]
    with site.connect() as session, pytest.raises(StatementFailed) as caught:
        list(session.run(todo, site.secrets))
    assert (caught.value.index, caught.value.durable) == (1, 0)


def test_a_grant_that_granted_nothing_is_a_failure(site: Site, platform: Site) -> None:
    todo = [
        Statement("SELECT 1", atomic=True),
        Statement("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC", atomic=True),
    ]
    site.served.sql("GRANT CONNECT ON DATABASE template1 TO PUBLIC")
    with platform.connect() as session, pytest.raises(StatementFailed, match="could be revoked") as caught:
        list(session.run(todo, platform.secrets))
    assert (caught.value.index, caught.value.durable) == (1, 0)
    assert PLATFORM in (caught.value.hint or "")
    with site.connect() as session:
        assert list(session.run(todo, site.secrets)) == [2], "the owner's revoke is one"


def test_concurrent_changes_of_the_same_role_are_retried(site: Site) -> None:
    """Four runs alter one role until the server has said `tuple concurrently updated`, and none fails."""
    role = f"s{next(NUMBERS)}_busy"
    site.served.sql(f"CREATE ROLE {role}")
    errors: list[Exception] = []

    def work() -> None:
        try:
            with site.connect() as session:
                list(
                    session.run([Statement(f"ALTER ROLE {role} CONNECTION LIMIT {n}") for n in range(25)], site.secrets)
                )
        except Exception as error:
            errors.append(error)

    deadline = time.monotonic() + 30
    while "tuple concurrently updated" not in site.served.log.read_text(errors="replace"):
        assert time.monotonic() < deadline, "the control: it never happened"
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_a_deadlock_is_survived(site: Site) -> None:
    """We hold `one` and want `two`, somebody else the other way round; the server ends whoever waited first: us."""
    name = f"s{next(NUMBERS)}"
    site.served.sql(f"CREATE TABLE {name}_one ()", f"CREATE TABLE {name}_two ()")
    todo = [
        Statement(f"COMMENT ON TABLE public.{name}_one IS 'ours'", atomic=True),
        Statement(f"COMMENT ON TABLE public.{name}_two IS 'ours'", atomic=True),
    ]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'in our way'"
    password = site.served.admin().reveal()
    with (
        psycopg.connect(
            host="127.0.0.1", port=site.served.port, user=SUPERUSER, password=password, dbname="postgres"
        ) as rival,
        site.connect("in our way") as session,
    ):
        rival.execute(f"LOCK TABLE {name}_two".encode())
        ours = threading.Thread(target=lambda: list(session.run(todo, site.secrets)))
        ours.start()
        deadline = time.monotonic() + 60
        while site.served.sql(waiting) != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        rival.execute(f"LOCK TABLE {name}_one".encode())
        rival.commit()
        ours.join()
    assert "deadlock detected" in site.served.log.read_text(errors="replace"), "the control: it happened"
    query = f"SELECT obj_description('{name}_one'::regclass), obj_description('{name}_two'::regclass)"
    assert site.served.sql(query) == [("ours", "ours")]
    site.served.sql(f"DROP TABLE {name}_one, {name}_two")


def test_the_inside_of_a_database_does_not_wait_for_that_of_another(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOCK_TIMEOUT", 120_000)
    apps = held, other = [site.app(), site.app()]
    site.apply(apps)
    grant = f"GRANT CREATE ON SCHEMA public TO {PLATFORM}"
    query = f"SELECT has_schema_privilege('{PLATFORM}', 'public', 'CREATE')"
    todo = [Statement(grant, scope=app.id, atomic=True, app=app.id) for app in apps]
    durable: list[int] = []
    with (
        psycopg.connect(
            host="127.0.0.1",
            port=site.served.port,
            user=SUPERUSER,
            password=site.served.admin().reveal(),
            dbname=held.id,
        ) as rival,
        site.connect() as opened,
    ):
        rival.execute(grant.encode())
        ours = threading.Thread(target=lambda: durable.extend(opened.run(todo, site.secrets)))
        ours.start()
        deadline = time.monotonic() + 60
        while site.served.sql(query, database=other.id) != [(True,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert site.served.sql(query, database=held.id) == [(False,)], "the control: it is held"
        rival.rollback()
        ours.join()
    assert durable == [1, 2]
    assert site.served.sql(query, database=held.id) == [(True,)]
    site.clean(*apps)


def test_no_variable_of_the_environment_says_where_to_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a value with which libpq connects elsewhere, or not at all."""
    app = site.app()
    variables = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    with monkeypatch.context() as environment:
        for variable in variables | {"PGTZ", "PGDATESTYLE", "PGGEQO"}:
            environment.setenv(variable, {"PGHOSTADDR": "192.0.2.1", "PGPORT": "1"}.get(variable, "nonsense"))
        with pytest.raises(psycopg.Error):  # the control
            psycopg.connect(host="127.0.0.1", port=site.served.port, user=SUPERUSER, dbname="postgres").close()
        site.apply([app])
        assert not site.changes([app])
    site.clean(app)


def test_a_session_in_template1_is_in_nobodys_way(site: Site) -> None:
    """Whoever copies that template fails while anybody is in it; it is also where local additions are."""
    app = site.app()
    password = site.served.admin().reveal()
    address = {"host": "127.0.0.1", "port": str(site.served.port), "user": SUPERUSER, "password": password}
    with psycopg.connect(psycopg.conninfo.make_conninfo(dbname="template1", **address)):
        with pytest.raises(psycopg.errors.ObjectInUse):
            site.served.sql("CREATE DATABASE copied TEMPLATE template1")
        site.apply([app])
    assert not site.changes([app])


def test_what_somebody_else_creates_meanwhile_is_said_so(site: Site) -> None:
    app = site.app()
    with site.connect() as session:
        todo = site.statements(session, [app])
        site.served.sql(f"CREATE ROLE {app.id}_owner")
        with pytest.raises(StatementFailed) as caught:
            list(session.run(todo, site.secrets))
    assert "somebody else" in (caught.value.hint or "")
    assert caught.value.durable == 0


# --- lock, slowness, version ---


def test_the_lock_says_who_holds_it_and_since_when(site: Site) -> None:
    with site.connect() as one, site.connect() as two, one.lock("site", "multidb apply ada@host"):
        started = time.monotonic()
        with pytest.raises(Locked) as caught, two.lock("site", "multidb apply bob@host"):
            pass
        assert time.monotonic() - started < 30
        with two.lock("another project", "multidb apply bob@host"):
            pass
    assert "multidb apply ada@host" in str(caught.value)
    assert "since 20" in str(caught.value)
    with site.connect() as two, two.lock("site", "multidb apply bob@host"):
        pass


def test_a_lock_waits_a_moment(site: Site) -> None:
    with site.connect() as one, site.connect() as two:
        first = one.lock("site", "first")
        first.__enter__()
        threading.Timer(0.5, lambda: first.__exit__(None, None, None)).start()
        with two.lock("site", "second"):
            pass


def test_a_server_that_stops_answering_in_the_middle_costs_one_timeout(served: Cluster) -> None:
    site = Site(served)
    apps = [site.app() for _ in range(6)]
    site.apply(apps)
    patient, site.timeout = site.timeout, 4.0
    with site.connect() as session:
        served.freeze()
        try:
            started = time.monotonic()
            with pytest.raises(ServerSlow):
                site.plan(session, apps)
            assert time.monotonic() - started < 20, "one after the other they take 24 s"
        finally:
            served.thaw()
    site.timeout = patient
    assert not site.changes(apps)


def test_an_old_server_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.provisioners.postgres.driver.connection.Connection.version", 120022)
    with pytest.raises(WrongVersion, match="Postgres 12"):
        site.connect()


# --- secrets, quoting ---


def test_no_password_reaches_the_log(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    site.enter(app).close()
    log = site.served.log.read_text(errors="replace")
    assert f'CREATE ROLE "{app.id}_user"' in log, "the control: statements are logged"
    for slot in ("user", "readonly", "migrate"):
        password = site.secrets.get(password_ref(app.id, slot))
        assert password is not None
        assert password.reveal() not in log


def test_what_is_shown_is_what_the_server_is_sent(site: Site) -> None:
    """By the server's own log: each statement, in order, with the verifier in its place, and nothing that changes
    anything besides."""
    app = site.app(roles="split", extensions=("ltree",))
    with site.connect() as session:
        todo = site.statements(session, [app])
        start = site.served.log.stat().st_size
        list(session.run(todo, site.secrets))
    shown = []
    for statement in todo:
        text = statement.text
        for parameter, ref in statement.binds:
            verifier = site.secrets.get(ref)
            assert verifier is not None
            text = text.replace(f":'{parameter}'", literal(verifier.reveal()))
        shown.append(text)
    logged = site.served.log.read_bytes()[start:].decode()
    found = re.findall(
        r"LOG:  statement: (.*?)(?=^[^\n\t]*(?:LOG|ERROR|WARNING|NOTICE):|\Z)", logged, re.DOTALL | re.MULTILINE
    )
    sent = [line.strip() for message in found for line in message.split(";\n")]
    own = (
        "BEGIN",
        "COMMIT",
        "SET statement_timeout = 0",
        "SET search_path = pg_catalog,pg_temp",
    )
    assert [line for line in sent if line not in own] == shown


def test_no_password_is_in_an_error(site: Site) -> None:
    wrong = Secret("a-very-wrong-password")
    with pytest.raises(ServerError) as caught:
        PostgresSession(site.served.server(), wrong, "test")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert wrong.reveal() not in repr(chain) + str(chain) + repr(vars(chain))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


@pytest.mark.parametrize("name", ['a"b', "a'b", "Ä$%\\ü;--", "x" * 63, "\U0001f418" * 15, "$$", ":'verifier'", " "])
def test_any_name_and_text_goes_through(site: Site, name: str) -> None:
    todo = [
        Statement(f"CREATE ROLE {identifier(name)}", atomic=True),
        Statement(f"COMMENT ON ROLE {identifier(name)} IS {literal(name)}", atomic=True),
    ]
    with site.connect() as session:
        list(session.run(todo, site.secrets))
    try:
        query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = " + literal(name)
        assert site.served.sql(query) == [(name,)]
    finally:
        site.served.sql(f"DROP ROLE {identifier(name)}")


def test_a_password_with_any_characters_logs_in(site: Site) -> None:
    app = site.app()
    site.generate([app])
    nasty = Secret("p'a\"$s%s\\w@:/ö rd")
    derive = next(spec.derive for spec in PROVISIONER.secrets(app) if spec.derive)
    assert derive is not None
    refs = [spec.ref for spec in PROVISIONER.secrets(app)]
    site.secrets.put({refs[0]: nasty, refs[1]: Secret(derive(nasty.reveal()))})
    site.apply([app])
    with site.enter(app) as session:
        assert session.execute("SELECT session_user, current_user").fetchone() == (f"{app.id}_user", f"{app.id}_owner")


def test_another_verifier_of_the_same_password_is_no_drift(site: Site) -> None:
    app = site.app()
    site.apply([app])
    derive = PROVISIONER.secrets(app)[1].derive
    password = site.secrets.get(password_ref(app.id, "user"))
    assert derive is not None
    assert password is not None
    site.served.sql(f"ALTER ROLE {app.id}_user PASSWORD '{derive(password.reveal())}'")
    assert not site.changes([app])


def test_a_lost_secret_is_seen_and_shown(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.secrets.delete([password_ref(app.id, "user")])
    (change,) = site.changes([app])
    assert [(field.field, field.old) for field in change.fields] == [("password", "lost")]


# --- reading and owning ---


def test_the_reader_reads_what_is_made_later_wherever_it_is(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    with site.enter(app, "migrate") as owner:
        for statement in (
            "CREATE TABLE late (id serial)",
            "CREATE SCHEMA aside",
            "CREATE TABLE aside.late (id serial)",
            "CREATE FUNCTION aside.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            owner.execute(statement.encode())
    with site.enter(app, "user") as user:
        user.execute("INSERT INTO aside.late DEFAULT VALUES")
    with site.enter(app, "readonly") as reader:
        assert reader.execute("SELECT id, aside.one() FROM aside.late").fetchall() == [(1, 1)]
        assert reader.execute("SHOW statement_timeout").fetchone() == ("30s",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader.execute("INSERT INTO late DEFAULT VALUES")
    assert not site.changes([app])


_OF_LOGINS = """CREATE TYPE {s}.mood_{of} AS ENUM ('fine');
CREATE TABLE {s}.of_{of} (id serial, mood {s}.mood_{of} DEFAULT 'fine'); INSERT INTO {s}.of_{of} DEFAULT VALUES;
CREATE VIEW {s}.seen_{of} AS SELECT 1 AS one; CREATE SEQUENCE {s}.next_{of};
CREATE FUNCTION {s}.two_{of}() RETURNS int LANGUAGE sql AS 'SELECT 2'"""


@pytest.mark.parametrize("admin", [SUPERUSER, PLATFORM])
def test_each_login_reads_what_the_others_make_before_and_after_it_is_the_owners(served: Cluster, admin: str) -> None:
    site = Site(served, admin)
    app, other = site.app(roles="split"), site.app(roles="split")
    site.apply([app, other])
    logins = {"user": "", "migrate": "SET ROLE NONE", "owner": ""}
    with site.enter(app, "migrate") as owner:
        owner.execute(f"CREATE SCHEMA drafts; GRANT CREATE ON SCHEMA drafts TO {app.id}_user, {app.id}_migrate")
        owner.execute(f"GRANT USAGE ON SCHEMA drafts TO {app.id}_migrate")
    for of, first in logins.items():
        with site.enter(app, "migrate" if of == "owner" else of) as login:
            login.execute(f"{first}; {_OF_LOGINS.format(s='drafts', of=of)}".encode())

    def everybody_reads() -> None:
        for of in logins:
            reading = f"SELECT o.id, o.mood::text, v.one, drafts.two_{of}() FROM drafts.of_{of} o, drafts.seen_{of} v"
            for login in ("user", "readonly", "migrate"):
                with site.enter(app, login) as session:
                    assert session.execute(reading.encode()).fetchall()[:1] == [(1, "fine", 1, 2)]
                    session.execute(f"SELECT last_value FROM drafts.next_{of}".encode())
                    writing = f"INSERT INTO drafts.of_{of} DEFAULT VALUES; SELECT nextval('drafts.next_{of}')"
                    session.execute("SET default_transaction_read_only = off")
                    if login == "readonly":
                        for text in (writing.split("; ")[0], writing.split("; ")[1], f"DELETE FROM drafts.of_{of}"):
                            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                                session.execute(text.encode())
                    else:
                        session.execute(writing.encode())
        owners = "SELECT privilege_type FROM pg_class, aclexplode(relacl) WHERE relname = 'of_user' AND grantee = {}"
        held = served.sql(owners.format(f"'{app.id}_owner'::regrole"), database=app.id)
        assert {right for (right,) in held} >= {"TRUNCATE", "REFERENCES", "TRIGGER"}

    everybody_reads()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        site.enter(other, database=app.id)
    (change,) = site.changes([app])
    assert [field.field for field in change.fields] == ["misowned"]
    site.apply([app])
    assert not site.changes([app])
    everybody_reads()
    memberships = "SELECT count(*) FROM pg_auth_members WHERE member = '{}'::regrole AND roleid = '{}'::regrole"
    if admin == PLATFORM:
        usable = (
            " AND (inherit_option OR set_option)" if served.sql("SHOW server_version_num")[0][0] >= "160000" else ""
        )
        for login in ("user", "migrate"):
            joined = served.sql(memberships.format(PLATFORM, f"{app.id}_{login}") + usable)
            assert joined == [(0,)], "the admin has left the logins"


@pytest.mark.parametrize("admin", [SUPERUSER, PLATFORM])
def test_the_writing_login_refreshes_where_the_server_has_a_right_for_it(served: Cluster, admin: str) -> None:
    site = Site(served, admin)
    app = site.app(roles="split", extensions=("ltree",))
    site.apply([app])
    newer = served.sql("SHOW server_version_num")[0][0] >= "170000"
    with site.enter(app, "migrate") as owner:
        if newer:  # as it was made before there was such a right
            owner.execute(f"ALTER DEFAULT PRIVILEGES REVOKE MAINTAIN ON TABLES FROM {app.id}_rw")
        owner.execute("CREATE MATERIALIZED VIEW counted AS SELECT 1 AS a")
    if newer:
        # a view that an extension keeps from everybody is in nobody's way
        served.sql("CREATE EXTENSION pg_buffercache SCHEMA public", database=app.id)
        (change,) = site.changes([app])
        assert [field.field for field in change.fields] == ["default_privileges"]
        site.apply([app])
        assert not site.changes([app])
        with site.enter(app, "migrate") as owner:
            owner.execute("CREATE MATERIALIZED VIEW later AS SELECT 1 AS a")
    for login in ("user", "readonly"):
        with site.enter(app, login) as session:
            session.execute("SET default_transaction_read_only = off")
            for view in ("counted", "later") if newer else ("counted",):
                for text in (f"REFRESH MATERIALIZED VIEW {view}", f"REINDEX TABLE {view}"):
                    if newer and login == "user":
                        session.execute(text.encode())
                        continue
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        session.execute(text.encode())


def test_an_app_that_cannot_do_without_it_is_refused_by_name_where_there_is_no_such_right(site: Site) -> None:
    app, simple = site.app(roles="split", maintain=True), site.app(maintain=True)
    site.apply([simple])
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        inspection = Inspection(context, [app, simple], PROVISIONER.desired([app, simple], context), site.secrets)
        session.inspect(inspection)
        newer = session.facts.number >= 170000
    assert list(inspection.unread) == ([] if newer else [app.id])
    assert newer or "Postgres 17" in str(inspection.unread[app.id].hint)


def test_no_app_has_the_database_in_which_the_admin_begins(site: Site) -> None:
    app, other = site.app(), site.app()
    site.served.sql(f"CREATE DATABASE {app.id}")
    server = site.served.server()
    server = replace(server, endpoint=replace(server.endpoint, database=app.id))
    with PostgresSession(server, site.served.admin(), "multidb test") as session:
        context = StoreContext("site", session.facts)
        inspection = Inspection(context, [app, other], PROVISIONER.desired([app, other], context), site.secrets)
        session.inspect(inspection)
    assert list(inspection.unread) == [app.id]
    assert f"database {app.id} is the one that the server's address names" in inspection.unread[app.id].message
    site.apply([app, other], adopt=[app.id])
    assert not site.changes([app, other])
    with PostgresSession(server, site.served.admin(), "multidb test") as session:
        with pytest.raises(Refused, match="cannot be dropped from there"):
            session.removal(app, StoreContext("site", session.facts))
        assert session.removal(other, StoreContext("site", session.facts))
    site.enter(app).close()
    with site.connect() as session:
        list(session.run(session.removal(app, StoreContext("site", session.facts)), site.secrets))
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{app.id}'") == [(0,)]


def test_what_is_newly_wanted_inside_is_seen_from_outside(site: Site) -> None:
    app = site.app()
    site.apply([app])
    more = App(app.id, app.id, {"postgres": AppOptions(extensions=("ltree",))})
    (change,) = site.changes([more], deep=False)
    assert {field.field for field in change.fields} == {"extensions", "revision"}
    site.apply([more], deep=False)
    assert not site.changes([more])


def test_another_kind_of_roles_takes_the_old_memberships_away(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    simple = App(app.id, app.id, {"postgres": AppOptions()})
    site.apply([simple])
    assert not site.changes([simple])
    members = site.served.sql(
        f"SELECT member::regrole::text FROM pg_auth_members WHERE roleid = '{app.id}_owner'::regrole"
    )
    assert members == [(f"{app.id}_user",)], "the migration login is left, without its rights"


def test_a_limited_plan_leaves_other_apps_alone(site: Site) -> None:
    one, two = site.app(), site.app()
    site.apply([one, two])
    site.served.sql(f"GRANT {two.id}_ro TO {two.id}_user")
    assert not site.changes([one])
    (change,) = site.changes([one, two])
    assert change.action is Action.DELETE


def test_a_lost_comment_is_a_conflict_that_adopting_mends(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(f"COMMENT ON ROLE {app.id}_owner IS NULL", f"COMMENT ON DATABASE {app.id} IS 'my notes'")
    assert {change.action for change in site.changes([app])} == {Action.CONFLICT}
    site.apply([app], adopt=[app.id])
    assert not site.changes([app])


def test_lost_marks_of_logins_are_adopted_by_an_admin_who_is_no_superuser(served: Cluster) -> None:
    """Who may not read verifiers tries the passwords, also of logins that do not say any more whose they are."""
    site = Site(served, PLATFORM)
    app = site.app(roles="split")
    site.apply([app])
    roles = [f"{app.id}_{each}" for each in ("owner", "rw", "ro", "user", "readonly", "migrate")]
    served.sql(*(f"COMMENT ON ROLE {role} IS NULL" for role in roles), f"COMMENT ON DATABASE {app.id} IS NULL")
    assert {change.action for change in site.changes([app])} == {Action.CONFLICT}
    site.apply([app], adopt=[app.id])
    assert not site.changes([app])


def test_an_apps_own_functions_are_not_called_by_the_admin(site: Site) -> None:
    """A function with a better fitting signature in schema public would run with the superuser's rights."""
    app = site.app()
    site.apply([app])
    with site.enter(app) as owner:
        owner.execute("CREATE TABLE caught (who text)")
        for signature in ("quote_ident(name)", "format(text, name, name)", "starts_with(text, text)"):
            owner.execute(
                f"CREATE FUNCTION public.{signature} RETURNS text LANGUAGE sql "
                "AS 'INSERT INTO public.caught VALUES (current_user) RETURNING who'".encode()
            )
        assert not site.changes([app])
        assert owner.execute("SELECT * FROM caught").fetchall() == []


# --- an admin who is no superuser ---


def test_a_database_that_the_admin_cannot_close_is_reported_and_not_promised(platform: Site) -> None:
    app = platform.app()
    platform.served.sql("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    with platform.connect() as session:
        level, why = PROVISIONER.isolation(app, session.facts)
        assert level is Isolation.PARTIAL
        assert "REVOKE CONNECT, TEMPORARY ON DATABASE" in why
    platform.apply([app])
    assert not platform.changes([app])
    platform.enter(app).close()


def test_without_superuser_a_password_is_tried_by_a_deep_look_only(platform: Site) -> None:
    app = platform.app()
    platform.apply([app])
    platform.served.sql(f"ALTER ROLE {app.id}_readonly PASSWORD 'by hand'")
    assert not platform.changes([app], deep=False)
    (change,) = platform.changes([app])
    assert [(field.field, field.old) for field in change.fields] == [("password", "other")]
    platform.apply([app])
    platform.enter(app, "readonly").close()


def test_an_extension_that_only_a_superuser_may_create(platform: Site) -> None:
    (name,) = platform.served.sql(
        "SELECT name FROM pg_available_extension_versions WHERE superuser AND NOT trusted AND requires IS NULL LIMIT 1"
    )[0]
    app = platform.app(extensions=(name,))
    with pytest.raises(NotAllowed, match=f"may not create the extension {name}"):
        platform.changes([app])
    with pytest.raises(ServerError, match="the server has no extension no_such_thing"):
        platform.changes([platform.app(extensions=("no_such_thing",))])


def test_a_membership_that_the_admin_cannot_take_back_is_a_failure_not_a_silence(platform: Site) -> None:
    app = platform.app()
    platform.apply([app])
    platform.served.sql(f"GRANT {app.id}_ro TO pg_monitor")
    with platform.connect() as session:
        if not session.facts.membership_options:
            platform.apply([app])
            assert not platform.changes([app]), "before 16 any administrator of a role may"
            return
        with pytest.raises(StatementFailed) as caught:
            list(session.run(platform.statements(session, [app]), platform.secrets))
    assert "superuser" in (caught.value.hint or "")
    platform.served.sql(f"REVOKE {app.id}_ro FROM pg_monitor")
