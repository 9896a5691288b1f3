"""`postgres: {test_database: true}` on real servers: walls, rights, size and end as of an app's own database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from multidb.client.errors import CallRefused
from multidb.client.testing import empty_test_database
from multidb.model import Alternates, App, Inspection, Outcome, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from multidb.secrets import Alternate, Secret
from tests.contract.postgres_site import Site, probes, restrict, tenant
from tests.support.postgres_servers import PLATFORM, SUPERUSER, cluster

pytestmark = pytest.mark.server


CASES = [
    pytest.param((18, SUPERUSER), id="18"),
    *(pytest.param((major, PLATFORM), id=f"{major} lesser admin", marks=pytest.mark.rare) for major in (18, 15)),
]


@pytest.fixture(scope="module", params=CASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    major, admin = request.param
    with cluster(major) as served:
        yield Site(served, admin)


@pytest.fixture(scope="module")
def apps(site: Site) -> tuple[App, App]:
    made = (site.app(test_database=True), site.app(roles="split", test_database=True))
    site.apply(made)
    return made


def variables(site: Site, app: App) -> dict[str, str]:
    env = tenant(site, app).env
    return {"APP_NAME": app.id} | {
        name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()
    }


def inside(site: Site, app: App) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(variables(site, app)["TEST_DATABASE_URL"], autocommit=True)


def test_who_runs_tests_owns_what_it_makes_and_nothing_is_left_to_change(site: Site, apps: tuple[App, App]) -> None:
    for app in apps:
        with inside(site, app) as connection:
            assert connection.info.dbname == f"{app.id}_test"
            connection.execute("CREATE TABLE made (a int); CREATE SCHEMA more; CREATE TABLE more.made (a int)")
            owner = connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'").fetchone()
            assert owner == (f"{app.id}_owner",)
        for login, allowed in (("user", True), ("readonly", False)):
            with site.enter(app, login, database=f"{app.id}_test") as connection:
                refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
                connection.execute("SET default_transaction_read_only = off")
                with contextlib.nullcontext() if allowed else refused:
                    connection.execute("INSERT INTO more.made VALUES (1)")
        with site.enter(app) as connection, pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM made")  # its own database is another one
    assert not site.changes(apps)


def test_its_walls_are_those_of_the_apps_own(site: Site, apps: tuple[App, App]) -> None:
    for attacker, victim in (apps, apps[::-1]):
        tried = probes(site, attacker, victim)
        lasting = {"make a large object with the read-only login"}  # where the admin is no superuser
        assert {
            probe.name for probe in tried if probe.got is not probe.expected and probe.name.split(":")[0] not in lasting
        } == set()
        names = {probe.name for probe in tried if probe.got is Outcome.REFUSED}
        test = f"{victim.id}_test"
        assert {f"connect to {test} as user", f"connect to {test} as readonly"} <= names
        assert {f"own the database: {test}", f"see the size: {test}", f"let itself in: {test}"} <= names
        assert f"let everybody in: {attacker.id}_test" in names


def test_a_door_that_is_opened_is_a_breach_and_a_hole_with_the_statement_that_closes_it(
    site: Site, apps: tuple[App, App]
) -> None:
    victim, attacker = apps
    opened = f"{victim.id}_test"
    site.served.sql(f"GRANT CONNECT ON DATABASE {opened} TO PUBLIC")
    breaches = {probe.name for probe in probes(site, attacker, victim) if probe.breach}
    assert f"connect to {opened} as user" in breaches
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        searched = session.search(Inspection(context, apps, PROVISIONER.desired(apps, context), site.secrets))
    (hole,) = (hole for hole in searched.holes if hole.subject == f"database {opened}")
    assert hole.app == victim.id
    site.served.sql(*hole.closes)
    assert not [probe for probe in probes(site, attacker, victim) if probe.breach]
    assert not site.changes(apps)


def test_it_counts_in_the_apps_size_and_is_read_only_with_it(site: Site) -> None:
    app = site.app(test_database=True)
    site.apply([app])
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        before = session.usage(context, [app]).apps[app.id].size
        with inside(site, app) as connection:
            connection.execute("CREATE TABLE big AS SELECT repeat(md5(n::text), 100) FROM generate_series(1, 20000) n")
        after = session.usage(context, [app]).apps[app.id].size
        alone = session.usage(context, [replace(app, stores=site.app().stores)]).apps[app.id].size
    assert before is not None
    assert after is not None
    assert alone is not None
    assert after > before + 1_000_000
    assert alone < before
    assert not restrict(site, app, read_only=True)
    with inside(site, app) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("INSERT INTO big VALUES ('more')")
    assert not restrict(site, app, read_only=False)
    with inside(site, app) as connection:
        connection.execute("INSERT INTO big VALUES ('more')")


def test_a_second_login_of_a_rotation_comes_there_as_the_first(site: Site) -> None:
    app = site.app(test_database=True)
    site.apply([app])
    site.served.sql(f"ALTER ROLE {app.id}_user IN DATABASE {app.id}_test SET work_mem = '8MB'")  # as the app may itself
    both = Alternates(working=frozenset(Alternate), made=tuple(Alternate))
    with site.connect() as session:
        context = StoreContext("site", session.facts, alternates={app.id: both})
        assert site.settle(session, app, context) == []
    with site.enter(app, "user_b", database=f"{app.id}_test") as connection:
        assert connection.execute("SELECT current_user").fetchone() == (f"{app.id}_owner",)
        assert connection.execute("SHOW work_mem").fetchone() == ("8MB",)


def test_one_that_the_manifest_asks_for_no_more_is_shut_and_comes_back_as_it_was(site: Site) -> None:
    app = site.app(test_database=True)
    site.apply([app])
    with inside(site, app) as connection:
        connection.execute("CREATE TABLE kept (a int)")
    former = replace(app, stores=site.app().stores)
    site.apply([former])
    assert not site.changes([former])
    for login in ("user", "readonly"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            site.enter(app, login, database=f"{app.id}_test")
    site.served.sql(f"GRANT CONNECT ON DATABASE {app.id}_test TO PUBLIC")
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        asked = Inspection(context, [former], PROVISIONER.desired([former], context), site.secrets)
        holes = [hole for hole in session.search(asked).holes if hole.subject == f"database {app.id}_test"]
    assert [hole.app for hole in holes] == [app.id]
    site.served.sql(*holes[0].closes)
    assert not site.changes([former])
    site.apply([app])
    assert not site.changes([app])
    with inside(site, app) as connection:
        connection.execute("SELECT * FROM kept")


def test_it_goes_with_the_app(site: Site) -> None:
    app = site.app(test_database=True)
    site.apply([app])
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        gone = replace(app, stores=site.app().stores)  # also where the option was taken out of the manifest before
        for step in (session.suspension, session.removal):
            while todo := step(gone, context):
                list(session.run(todo, site.secrets))
        assert app.id not in session.orphans(context, [])
    assert site.served.sql(f"SELECT datname FROM pg_database WHERE datname ~ '^{app.id}(_|$)'") == []


def test_it_is_emptied_of_everything_but_extensions(site: Site) -> None:
    app = site.app(test_database=True, extensions=("hstore",))
    site.apply([app])
    given = variables(site, app)
    with inside(site, app) as connection:
        for text in (
            "CREATE TYPE mood AS ENUM ('fine')",
            "CREATE TABLE t (id serial, m mood, h hstore)",
            "CREATE VIEW v AS SELECT * FROM t",
            "CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
            "CREATE FUNCTION f(mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()",
            "CREATE SEQUENCE s; CREATE DOMAIN d AS int; CREATE TYPE c AS (a int)",
            "CREATE TYPE r AS RANGE (subtype = int)",
            'CREATE SCHEMA "O\'Brien; DROP"; CREATE TABLE "O\'Brien; DROP"."it""s" (a mood)',
            "CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (2)",
        ):
            connection.execute(text.encode())
    empty_test_database(given)
    with inside(site, app) as connection:
        ours = "NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = o.oid AND d.deptype = 'e')"
        for catalog in ("pg_class", "pg_proc", "pg_type", "pg_namespace"):
            left = f"SELECT o.oid FROM {catalog} o WHERE o.oid > 16384 AND {ours}"
            if catalog == "pg_type":
                left += " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = o.typelem AND d.deptype = 'e')"
            if catalog == "pg_class":
                left += " AND o.relkind <> 't' AND o.relkind <> 'i'"
            assert connection.execute(left.encode()).fetchall() == [], catalog
        assert connection.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall() == [
            ("hstore",),
            ("plpgsql",),
        ]
        connection.execute("CREATE TABLE t (id serial, h hstore)")
    with site.enter(app, "readonly", database=f"{app.id}_test") as connection:
        connection.execute("SELECT * FROM t")
    with pytest.raises(CallRefused, match="left alone"):
        empty_test_database({**given, "TEST_DATABASE_URL": given["DATABASE_URL"]})
    assert not site.changes([app])
