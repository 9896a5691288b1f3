"""Apps that share a database, a schema each, on real servers: what each has, what the wall is, and how an app ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from multidb.client import connect
from multidb.errors import Refused, StatementFailed
from multidb.model import Action, App, Hole, Inspection, Outcome, PlaceKind, SharingSession, Status, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.provision.existing import places
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.secrets import Secret
from tests.contract.postgres_sets import archive, backed_up, brought_back, quiet
from tests.contract.postgres_sharing import enter, home, sharing
from tests.contract.postgres_site import NUMBERS, Site, probes, restrict, tenant
from tests.support.postgres_servers import PLATFORM, SUPERUSER, cluster

pytestmark = pytest.mark.server

CASES = [
    pytest.param((18, SUPERUSER), id="18"),
    pytest.param((15, SUPERUSER), id="15", marks=pytest.mark.rare),
    pytest.param((18, PLATFORM), id="18 lesser admin", marks=pytest.mark.rare),
    pytest.param((15, PLATFORM), id="15 lesser admin", marks=pytest.mark.rare),
]


@pytest.fixture(scope="module", params=CASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    major, admin = request.param
    with cluster(major) as served:
        yield Site(served, admin)


@pytest.fixture
def apps(site: Site) -> tuple[App, App]:
    brain = sharing(extensions=("ltree",))
    commerce = sharing(home(brain)[0], roles="split", reads=(brain.id,), extensions=("ltree", "citext"))
    site.apply([brain, commerce])
    return brain, commerce


def test_an_app_works_in_its_schema_and_nothing_is_left_to_change(site: Site, apps: tuple[App, App]) -> None:
    brain, commerce = apps
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE notes (id serial, path ltree); INSERT INTO notes (path) VALUES ('a.b')")
        where = connection.execute("SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'notes'").fetchone()
        assert where == (home(brain)[1], f"{brain.id}_owner")
    with enter(site, commerce, "migrate") as connection:
        connection.execute("CREATE TABLE orders (id serial PRIMARY KEY, who citext)")
    with enter(site, commerce) as connection:
        connection.execute("INSERT INTO orders (who) VALUES ('X')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE orders")
    with enter(site, commerce, "readonly") as connection:
        assert connection.execute("SELECT who FROM orders").fetchall() == [("X",)]
        assert connection.execute(f"SELECT path::text FROM {home(brain)[1]}.notes").fetchall() == [("a.b",)]
    assert not site.changes(apps)
    assert not site.changes(apps, deep=False)
    assert not site.changes(apps[:1])
    assert not site.changes(apps[1:])


def test_its_address_leads_there(site: Site, apps: tuple[App, App]) -> None:
    brain, _ = apps
    env = tenant(site, brain).env
    assert env["POSTGRES_DB"], env["POSTGRES_SCHEMA"] == home(brain)
    with psycopg.connect(env["DATABASE_URL"].reveal()) as connection:  # type: ignore[union-attr]
        assert connection.execute("SELECT current_schemas(false)").fetchone() == ([home(brain)[1], "extensions"],)


def test_the_client_opens_a_pool_as_the_manifest_says_and_works_in_the_schema(site: Site) -> None:
    app = sharing(pool={"min": 1, "max": 3})
    site.apply([app])
    env = tenant(site, app).env
    variables = {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}
    with connect(variables={"APP_NAME": app.id, **variables}) as place:
        assert (place.postgres.pool.min_size, place.postgres.pool.max_size) == (1, 3)
        place.postgres.run(lambda connection: connection.execute("CREATE TABLE made (a int)"))
    with enter(site, app) as connection:
        assert connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'made'").fetchone() == (
            home(app)[1],
        )


def test_a_scan_finds_no_app_in_a_shared_database(site: Site, apps: tuple[App, App]) -> None:
    with site.connect() as session:
        found = places(session.existing(), ())
    assert home(apps[0])[0] not in {place.name for place in found}


def test_who_has_a_server_alone_shares_no_database(site: Site) -> None:
    app = sharing(reads=("elsewhere",))
    with site.connect() as session:
        for server in (
            replace(site.served.server(site.admin), app=app.id),
            replace(site.served.server(site.admin), apps=frozenset({app.id})),
        ):
            context = StoreContext("site", session.facts, server=server)
            inspection = Inspection(context, [app], PROVISIONER.desired([app], context), site.secrets)
            session.inspect(inspection)
            assert "in database" in str(inspection.unread[app.id]) or "to itself" in str(inspection.unread[app.id])


def test_a_set_is_one_schema_and_comes_back_in_one_step(site: Site, apps: tuple[App, App]) -> None:
    brain, commerce = apps
    schema = home(brain)[1]
    with enter(site, brain) as connection:
        connection.execute(
            "CREATE TABLE notes (id serial PRIMARY KEY, path ltree); INSERT INTO notes (path) VALUES ('a.b'), ('c');"
            "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';"
            "CREATE INDEX doubled ON notes (twice(id)); CREATE VIEW seen AS SELECT * FROM notes;"
            f"CREATE TABLE kept (a int); REVOKE ALL ON kept FROM {brain.id}_ro; COMMENT ON TABLE kept IS 'kept'"
        )
    with enter(site, commerce, "migrate") as connection:
        connection.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    part, files = backed_up(site, brain)
    assert part.measures.counts[f"table {schema}.notes"] == 2
    assert not any("orders" in name for name in part.measures.counts)
    with archive(site) as (opened, context):
        scratch = opened.prepare(PlaceKind.SCRATCH, brain, context)
        opened.restore(scratch, part, files, quiet)
        assert opened.measure(scratch) == part.measures
        opened.discard(scratch)
    with enter(site, brain) as connection:
        connection.execute("DELETE FROM notes; CREATE TABLE more (a int)")
    brought_back(site, brain, part, files)
    with archive(site) as (opened, context):
        assert opened.measure(opened.live(brain, context)) == part.measures
        assert not opened.leftovers(brain, context)
    assert not site.changes(apps)
    with enter(site, brain) as connection:
        assert connection.execute("SELECT path::text FROM seen ORDER BY id").fetchall() == [("a.b",), ("c",)]
        assert connection.execute("SELECT nextval('notes_id_seq')").fetchone() == (3,)
    with enter(site, brain, "readonly") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM kept")
    with enter(site, commerce) as connection:
        assert connection.execute(f"SELECT count(*) FROM {schema}.notes").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)


GIVEN = """
SELECT t.typname::text, has_type_privilege('{app}_ro', t.oid, 'USAGE WITH GRANT OPTION'),
  has_type_privilege('public', t.oid, 'USAGE') FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = '{schema}' AND t.typtype IN ('d', 'e')
UNION ALL SELECT c.relname::text, has_table_privilege('{app}_rw', c.oid, 'TRIGGER'), false
FROM pg_class c WHERE c.oid = to_regclass('{schema}.table_later') ORDER BY 1"""


def test_rights_on_types_and_what_is_given_by_default_come_back(site: Site) -> None:
    app = sharing()
    other = sharing(home(app)[0])
    site.apply([app, other])
    with enter(site, app) as connection:
        connection.execute(
            f"CREATE TYPE passed_on AS ENUM (); GRANT USAGE ON TYPE passed_on TO {app.id}_ro WITH GRANT OPTION;"
            "CREATE DOMAIN closed AS int; REVOKE USAGE ON DOMAIN closed FROM PUBLIC; CREATE TYPE plain AS ENUM ();"
            f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO {app.id}_ro WITH GRANT OPTION;"
            "CREATE TYPE new AS ENUM ();"
            "ALTER DEFAULT PRIVILEGES REVOKE INSERT ON TABLES FROM CURRENT_USER;"
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {home(app)[1]} GRANT TRIGGER ON TABLES TO {app.id}_rw;"
            f"CREATE TABLE filled (a int); GRANT INSERT ON filled TO {app.id}_owner; INSERT INTO filled VALUES (1)"
        )
    part, files = backed_up(site, app)
    for target in (app, other):
        brought_back(site, target, part, files)
        with enter(site, target) as connection:
            connection.execute("CREATE TYPE later AS ENUM (); CREATE TABLE table_later ()")
        assert inside(site, target, GIVEN.format(app=target.id, schema=home(target)[1])) == [
            ("closed", False, False),
            ("later", True, True),
            ("new", True, True),
            ("passed_on", True, True),
            ("plain", False, True),
            ("table_later", True, False),
        ]


def inside(site: Site, app: App, *statements: str) -> list[Any]:
    """Statements of the superuser's in the shared database."""
    return site.served.sql(*statements, database=home(app)[0])


DRIFTS = {
    "everybody connects": "GRANT CONNECT ON DATABASE {database} TO PUBLIC",
    "an app makes schemas": "GRANT CREATE ON DATABASE {database} TO {app}_owner",
    "everybody makes things in public": "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "everybody makes things among extensions": "GRANT CREATE ON SCHEMA extensions TO PUBLIC",
    "another app comes in": "GRANT USAGE ON SCHEMA {schema} TO {other}_owner",
    "the schema is the app's": "ALTER SCHEMA {schema} OWNER TO {app}_owner",
    "a login looks elsewhere": "ALTER ROLE {app}_user IN DATABASE {database} SET search_path = public",
    "the owner gives everybody what it makes": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {app}_owner GRANT SELECT ON TABLES TO PUBLIC"
    ),
    "a table of somebody else's": "CREATE TABLE {schema}.strange (a int)",
    "the reader reads no more": "REVOKE USAGE ON SCHEMA {schema} FROM {other}_peer_{app}",
    "the reader may write": "GRANT INSERT ON {schema}.notes TO {other}_peer_{app}",
}


@pytest.mark.parametrize("what", DRIFTS)
def test_what_is_changed_by_hand_is_seen_and_put_back(site: Site, apps: tuple[App, App], what: str) -> None:
    brain, commerce = apps
    database, schema = home(brain)
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (a int)")
    names = {"database": database, "schema": schema, "app": brain.id, "other": commerce.id}
    as_who = {
        "the reader may write": f"{brain.id}_owner",
        "a login looks elsewhere": SUPERUSER,
        "the schema is the app's": SUPERUSER,
        "the owner gives everybody what it makes": SUPERUSER,
    }
    inside(site, brain, f"SET ROLE {as_who.get(what, site.admin)}", DRIFTS[what].format_map(names))
    changes = site.changes(apps)
    assert changes
    site.apply(apps)
    assert not site.changes(apps)
    with enter(site, commerce) as connection:
        connection.execute(f"SELECT * FROM {schema}.notes")


def test_what_is_opened_by_hand_is_a_hole_and_a_breach_that_the_printed_statement_closes(
    site: Site, apps: tuple[App, App]
) -> None:
    brain, commerce = apps
    database, schema = home(brain)
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (a int); CREATE FUNCTION one() RETURNS int RETURN 1")

    def search(scope: tuple[App, ...] = apps) -> tuple[Hole, ...]:
        with site.connect() as session:
            context = StoreContext("site", session.facts)
            desired = PROVISIONER.desired(scope, context)
            return session.search(Inspection(context, scope, desired, site.secrets)).holes

    assert [hole for hole in search() if database in hole.subject] == []
    assert [hole for hole in search(apps[:1]) if database in hole.subject] == []
    opened = (
        (
            f"GRANT USAGE ON SCHEMA {schema} TO {commerce.id}_rw; GRANT INSERT ON {schema}.notes TO {commerce.id}_rw",
            True,
        ),
        (f"GRANT SELECT (a) ON {schema}.notes TO PUBLIC", False),
        (f"GRANT CREATE ON SCHEMA extensions TO {commerce.id}_owner", True),
        (f"CREATE TABLE public.trap (a int); ALTER TABLE public.trap OWNER TO {commerce.id}_owner", False),
        (f"ALTER TABLE {schema}.notes OWNER TO {commerce.id}_owner", True),
        (f"GRANT CREATE ON DATABASE {database} TO {commerce.id}_owner", True),
    )
    for text, breach in opened:
        inside(site, brain, *text.split("; "))
        holes = [hole for hole in search() if database in hole.subject]
        assert holes, text
        if breach and site.admin == SUPERUSER:
            assert [one for one in probes(site, commerce, brain) if one.breach], text
        for hole in holes:
            inside(site, brain, *(line for line in hole.closes if not line.startswith("\\connect")))
        assert [hole for hole in search() if database in hole.subject] == [], text
    site.apply(apps)
    assert not site.changes(apps)
    assert not [one for one in probes(site, commerce, brain) if one.breach or one.got is Outcome.BROKEN]
    inside(site, brain, f"GRANT EXECUTE ON FUNCTION {schema}.one() TO {commerce.id}_rw")
    assert "call its functions" in {one.name for one in probes(site, commerce, brain) if one.breach}


def test_what_one_database_shares_is_declared_and_tried(site: Site, apps: tuple[App, App]) -> None:
    brain, commerce = apps
    open_ = {one.name for one in probes(site, brain, commerce) if one.expected is Outcome.ALLOWED}
    assert {"hear its NOTIFY", "keep it from an advisory lock", "see its names", "see the size"} <= open_
    reads = {one.name: one.got for one in probes(site, commerce, brain) if one.expected is Outcome.ALLOWED}
    assert reads["enter its schema"] is Outcome.ALLOWED
    assert "write its tables" not in reads


def test_who_reads_no_more_is_refused_at_once(site: Site, apps: tuple[App, App]) -> None:
    brain, commerce = apps
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (a int)")
    alone = App(
        commerce.id, commerce.id, {"postgres": AppOptions(database=home(commerce)[0], schema=home(commerce)[1])}
    )
    site.apply([brain, alone])
    assert not site.changes([brain, alone])
    with enter(site, alone) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT * FROM {home(brain)[1]}.notes")


def test_an_app_over_its_quota_reads_and_deletes_there_too(site: Site) -> None:
    app = sharing()
    site.apply([app])
    with enter(site, app) as connection:
        connection.execute("CREATE TABLE big (a int); INSERT INTO big VALUES (1), (2)")
    assert not restrict(site, app, read_only=True)
    with enter(site, app) as connection:
        connection.execute("DELETE FROM big WHERE a = 1")
        for refused in (
            "INSERT INTO big VALUES (3)",
            "CREATE TABLE more (a int)",
            "CREATE TEMPORARY TABLE more (a int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)
    assert not restrict(site, app, read_only=False)
    with enter(site, app) as connection:
        connection.execute("INSERT INTO big VALUES (3)")


def test_readers_and_usage_are_of_the_schema_alone(site: Site) -> None:
    number = next(NUMBERS)
    readers = {"bi": {"tables": [f"of{number}.seen"]}, "all": {}}
    app = App(
        f"s{number}",
        f"s{number}",
        {"postgres": AppOptions(database=f"shared{number}", schema=f"of{number}", readers=readers)},
    )
    other = sharing(f"shared{number}")
    site.apply([app, other])
    with enter(site, app) as connection:
        connection.execute(
            "CREATE TABLE seen (a int); CREATE TABLE unseen AS SELECT repeat('x', 99) FROM generate_series(1, 9999)"
        )
    site.apply([app])
    assert not site.changes([app, other])
    with enter(site, app, "reader_bi") as connection:
        connection.execute("SELECT * FROM seen")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM unseen")
    with enter(site, app, "reader_all") as connection:
        connection.execute("SELECT * FROM unseen")
    with site.connect() as session:
        used = session.usage(StoreContext("site", session.facts), [app, other]).apps
    assert (used[app.id].size or 0) > 900_000
    assert used[other.id].size == 0
    assert [name for name, _ in used[app.id].largest] == [f"of{number}.unseen", f"of{number}.seen"]


def test_health_writes_without_large_objects(site: Site, apps: tuple[App, App]) -> None:
    assert PROVISIONER.check_health is not None
    for app in apps:
        assert PROVISIONER.check_health(tenant(site, app), True).status is Status.HEALTHY
    with enter(site, apps[0]) as connection, contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT lo_create(0)")
        assert site.admin != SUPERUSER, "who is no superuser cannot keep everybody from making some"


def test_the_last_app_leaves_a_database_that_is_dropped_by_its_own_name(site: Site, apps: tuple[App, App]) -> None:
    brain, commerce = apps
    database, schema = home(brain)

    def purge(app: App) -> None:
        with site.connect() as session:
            context = StoreContext("site", session.facts)
            list(session.run(session.removal(app, context), site.secrets))
            assert not session.removal(app, context)

    def orphans() -> Mapping[str, Sequence[str]]:
        with site.connect() as session:
            known = {
                name for one in site.served.sql("SELECT rolname FROM pg_roles") for name in (one[0].split("_")[0],)
            }
            return session.orphans(StoreContext("site", session.facts), known)

    def vacant() -> Sequence[str]:
        with site.connect() as session:
            assert isinstance(session, SharingSession)
            return [*session.vacant(StoreContext("site", session.facts), [database, brain.id, commerce.id])]

    assert not vacant()
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE notes (a int)")
    with pytest.raises(Refused, match=r"take .* out of its reads"):
        purge(brain)
    with enter(site, commerce, "migrate") as connection:
        connection.execute(f"CREATE VIEW built AS SELECT * FROM {schema}.notes")
    purge(App(database, database, {"postgres": AppOptions()}))  # it is in use
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{database}'") == [(1,)]
    alone = App(
        commerce.id,
        commerce.id,
        {"postgres": AppOptions(database=home(commerce)[0], schema=home(commerce)[1], roles="split")},
    )
    site.apply([brain, alone])
    with pytest.raises(StatementFailed, match="built depends on table"):
        purge(brain)
    inside(site, alone, f"DROP VIEW {home(alone)[1]}.built")
    purge(brain)
    assert database not in orphans()
    assert not site.changes([alone])
    purge(alone)
    assert orphans()[database] == [f"database {database}"]
    assert vacant() == [database]
    purge(App(database, database, {"postgres": AppOptions()}))
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{database}'") == [(0,)]
    assert database not in orphans()


def test_a_vacant_database_takes_apps_again(site: Site) -> None:
    app = sharing()
    site.apply([app])
    with site.connect() as session:
        list(session.run(session.removal(app, StoreContext("site", session.facts)), site.secrets))
    site.apply([app])
    assert not site.changes([app])
    mark = site.served.sql(
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{home(app)[0]}'"
    )
    assert mark == [(f"multidb:site/{home(app)[0]} shared",)]


def test_every_statement_may_be_the_last_one(site: Site) -> None:
    """Interrupted after any of its statements, the next run finishes."""
    brain = sharing(extensions=("ltree",))
    commerce = sharing(home(brain)[0], reads=(brain.id,))
    for _ in range(100):
        with site.connect() as session:
            left = site.statements(session, [brain, commerce])
            if not left:
                break
            durable = session.run(left, site.secrets)
            next(durable)  # one batch, and no more
            durable.close()  # type: ignore[attr-defined]
    assert not site.changes([brain, commerce])
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE notes (path ltree)")


def test_what_multidb_did_not_make_is_left_alone(site: Site) -> None:
    taken = sharing()
    site.served.sql(f"CREATE DATABASE {home(taken)[0]} OWNER {site.admin}")
    (change,) = (one for one in site.changes([taken]) if one.action is Action.CONFLICT)
    assert change.resource.kind == "shared database"
    squatted = sharing()
    neighbour = sharing(home(squatted)[0])
    site.apply([neighbour])
    inside(site, squatted, f"CREATE SCHEMA {home(squatted)[1]}", f"CREATE TABLE {home(squatted)[1]}.precious (a int)")
    (change,) = (one for one in site.changes([squatted, neighbour]) if one.action is Action.CONFLICT)
    assert change.resource.kind == "schema"
    if site.admin == SUPERUSER:
        site.apply([squatted, neighbour], adopt=[squatted.id])
        assert not site.changes([squatted, neighbour])
        with enter(site, squatted) as connection:
            connection.execute("INSERT INTO precious VALUES (1)")


def test_a_restore_that_dies_is_taken_away_or_finished(site: Site, apps: tuple[App, App]) -> None:
    brain, _ = apps
    _, schema = home(brain)
    with enter(site, brain) as connection:
        connection.execute("CREATE TABLE notes (a int); INSERT INTO notes VALUES (1)")
    part, files = backed_up(site, brain)
    for left in (f"{schema}__new", f"{schema}__old"):
        inside(
            site,
            brain,
            f"SET ROLE {site.admin}",
            f"CREATE SCHEMA {left}",
            f"COMMENT ON SCHEMA {left} IS 'multidb-place:site/{brain.id}'",
            f"GRANT ALL ON SCHEMA {left} TO {brain.id}_owner",
            f"SET ROLE {brain.id}_owner",
            f"CREATE TABLE {left}.half (a int)",
        )
    with archive(site) as (opened, context):
        places = opened.leftovers(brain, context)
        assert places
        for place in places:
            opened.discard(place)
        assert not opened.leftovers(brain, context)
    brought_back(site, brain, part, files)
    kept = inside(site, brain, f"SELECT count(*) FROM pg_namespace WHERE nspname LIKE '{schema}\\_\\_%'")
    assert kept == [(0,)]
    assert not site.changes(apps)
