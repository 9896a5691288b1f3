"""A Postgres app's data as a dump and back, on real servers, with data that bites."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb.errors import ArchiveError, Conflict, Refused, ServerError, WrongVersion
from multidb.model import App, Part, Place, PlaceKind, ScriptArchive, TableArchive
from multidb.provisioners.postgres.backup import programs
from tests.contract.postgres_sets import Files, archive, backed_up, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import PLATFORM, Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, 15])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, max_prepared_transactions="5") as made:
        yield made


@pytest.fixture(scope="module")
def site(served: Cluster) -> Site:
    return Site(served)


def restored(site: Site, app: App, part: Part, files: Files, kind: PlaceKind = PlaceKind.SCRATCH) -> Place:
    with archive(site) as (opened, context):
        place = opened.prepare(kind, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        return place


BITING = Path(__file__).with_name("postgres_biting.sql").read_text(encoding="utf-8")


def fill(site: Site, app: App) -> None:
    with site.enter(app) as session:
        session.execute("CREATE SCHEMA ext")
        for extension in ("hstore", "ltree"):
            session.execute(f"CREATE EXTENSION {extension}".encode())
        session.execute("CREATE EXTENSION citext SCHEMA ext")
        session.execute("CREATE TABLE worded (w ext.citext UNIQUE)")
        session.execute("INSERT INTO worded VALUES ('Word')")
        for statement in BITING.replace("{app}", app.id).encode().split(b";\n"):
            if statement.strip():
                session.execute(statement)
    site.served.sql("CREATE TABLE foreign_owned (a int)", "INSERT INTO foreign_owned VALUES (1), (2)", database=app.id)
    for extra in ("CREATE EXTENSION pageinspect", "UPDATE every_type SET x = '<a>x</a>'"):
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # not every build of the server has it
            site.served.sql(extra, database=app.id)


def facts_of(site: Site, database: str) -> list[Any]:
    """What a person would look at, beside the data."""
    sql = site.served.sql
    return [
        sql("SELECT last_value, is_called FROM generated_s_seq", database=database),
        sql("SELECT n, s FROM summed", database=database),
        sql("SELECT n FROM visible", database=database),  # what its owner sees of a table that hides rows from it
        sql("SELECT last_value, increment_by FROM pg_sequences WHERE sequencename LIKE 'quoted%'", database=database),
        sql("SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE relname LIKE 'quoted%'", database=database)[
            :1
        ],
        sql("SELECT lo_get(4242) = decode(repeat('ab00', 5000), 'hex'), lo_get(4243)", database=database),
        sql("SELECT 'word'::ext.citext = w FROM worded", database=database),
        sql("SELECT conname, condeferrable FROM pg_constraint WHERE contype = 'f' ORDER BY 1", database=database),
        sql("SELECT extname, extversion FROM pg_extension ORDER BY 1", database=database),
        sql("SELECT polname, polcmd, polpermissive FROM pg_policy ORDER BY 1", database=database),
    ]


@dataclass(frozen=True)
class Bitten:
    """An app with the data that bites, and its backup."""

    app: App
    part: Part
    files: Files


@pytest.fixture(scope="module")
def bitten(site: Site) -> Bitten:
    app = site.app()
    site.apply([app])
    fill(site, app)
    with pytest.raises(ArchiveError, match=r"table public\.foreign_owned \(of postgres\)") as raised:
        backed_up(site, app)
    assert 'ALTER TABLE public.foreign_owned OWNER TO "' in str(raised.value.hint)
    given = f"GRANT SELECT ON public.foreign_owned TO {app.id}_ro"
    site.served.sql(f"ALTER TABLE public.foreign_owned OWNER TO {app.id}_owner", given, database=app.id)
    return Bitten(app, *backed_up(site, app))


# --- there and back ---


def test_what_bites_comes_back_as_it_was(site: Site, bitten: Bitten) -> None:
    app, part, files = bitten.app, bitten.part, bitten.files
    assert part.consistent
    assert part.measures.counts["table public.foreign_owned"] == 2
    assert part.measures.counts["table public.parent"] == 1, "a child's rows are the child's"
    assert part.measures.counts["large objects"] == 2
    place = restored(site, app, part, files)
    assert facts_of(site, place.name) == facts_of(site, app.id)
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE oid > 16384 AND relkind IN ('r', 'v', 'm')"
    assert site.served.sql(f"{owners} AND relname NOT LIKE 'pg_%'", database=place.name) == [(f"{app.id}_owner",)]
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(site.enter(app).info.dsn, dbname=place.name, password=site.enter(app).info.password)
    assert site.served.sql(f"SELECT count(*) FROM pg_roles WHERE rolname = '{app.id}__delegate'") == [(0,)]
    for change, name in (
        ("UPDATE every_type SET f8 = 1 WHERE f4 = 'NaN'", "table public.every_type"),
        ("SELECT lo_put(4242, 9, 'x')", "large objects"),
        ("UPDATE generated SET a = CASE s WHEN 1 THEN 0 ELSE 3 END WHERE s < 3", "table public.generated"),
        ("UPDATE parted_1 SET v = 'row ' || 3 - k WHERE k < 3", "table public.parted_1"),  # two rows change values
        ('UPDATE "quoted ""names""; -- 🐘" SET t = coalesce(t, \'\')', 'table public."quoted ""names""; -- 🐘"'),
    ):
        site.served.sql(change, database=place.name)
        with archive(site) as (opened, _):
            found = opened.measure(place)
        assert found.counts == part.measures.counts
        assert found.fingerprints[name] != part.measures.fingerprints[name], change
    with archive(site) as (opened, context):
        assert opened.leftovers(app, context) == [place]
        opened.discard(place)
        opened.discard(place)
        assert opened.leftovers(app, context) == []


def test_as_another_app_every_name_is_the_others(site: Site, bitten: Bitten) -> None:
    app, part, files = bitten.app, bitten.part, bitten.files
    extensions: Any = part.details["extensions"]  # one that takes an admin is given by the manifest only
    other = site.app(extensions=tuple(name for name, *_ in extensions if name == "pageinspect"))
    site.apply([other])
    with archive(site) as (opened, context):
        assert opened.is_empty(opened.live(other, context))
        assert not opened.is_empty(opened.live(app, context))
    place = restored(site, other, part, files, PlaceKind.NEW)
    with archive(site) as (opened, context):
        opened.replace(place, context)
    policies = "SELECT roles::text FROM pg_policies WHERE policyname = 'named; one'"
    assert site.served.sql(policies, database=other.id) == [(f"{{{other.id}_ro,{other.id}_rw}}",)]
    site.apply([other])
    assert not site.changes([other])
    with site.enter(other) as session:
        assert session.execute("SELECT count(*) FROM parted").fetchone() == (500,)
    with site.enter(other, "readonly") as session:
        assert session.execute("SELECT what FROM secretive").fetchall() == []
        assert session.execute("SELECT a FROM foreign_owned ORDER BY 1").fetchall() == [(1,), (2,)]


def test_an_admin_who_is_no_superuser_can_do_it_too(served: Cluster) -> None:
    site = Site(served, PLATFORM)
    app = site.app(roles="split")
    site.apply([app])
    with site.enter(app, "migrate") as session:
        session.execute("CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 10) g")
        session.execute("SELECT lo_from_bytea(77, 'abc')")
    part, files = backed_up(site, app)
    place = restored(site, app, part, files, PlaceKind.NEW)
    with archive(site) as (opened, context):
        opened.replace(place, context)
        assert opened.leftovers(app, context) == []
    site.apply([app])
    assert not site.changes([app])
    with site.enter(app) as session:
        assert session.execute("SELECT sum(a) FROM t").fetchone() == (55,)


def test_the_dump_and_its_measures_are_of_one_moment_while_others_write(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE a (n serial, pad text); CREATE TABLE b (n int)")
        session.execute("INSERT INTO a (pad) SELECT repeat('x', 500) FROM generate_series(1, 20000)")
    stop = threading.Event()

    def write() -> None:
        with site.enter(app) as writer:
            while not stop.is_set():  # what is in one table is in the other, always
                new = "WITH new AS (INSERT INTO a (pad) VALUES ('y') RETURNING n)"
                writer.execute(f"{new} INSERT INTO b SELECT n FROM new".encode())

    writing = threading.Thread(target=write)
    writing.start()
    try:
        time.sleep(0.2)
        part, files = backed_up(site, app)
    finally:
        stop.set()
        writing.join()
    assert part.measures.counts["table public.b"] > 0
    assert part.measures.counts["table public.a"] == part.measures.counts["table public.b"] + 20000
    restored(site, app, part, files)


# --- what must not happen ---


def test_a_file_that_is_not_whole_is_refused(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
    part, files = backed_up(site, app)
    whole = files.content["dump.pgc"]
    for content in (b"", b"not a dump", whole[: len(whole) // 2], whole[:-7], whole[:100] + whole[50_000:]):
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            with pytest.raises(ArchiveError):
                opened.restore(place, part, Files(**{"dump.pgc": content}), quiet)
            opened.discard(place)
    assert site.enter(app).execute("SELECT count(*) FROM t").fetchone() == (20000,)


def test_a_function_in_the_data_does_not_run_as_the_admin(site: Site) -> None:
    """An app plants it in a constraint; loading calls it. In a cast of its own type: measuring does not call it."""
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        body = (
            "BEGIN RESET ROLE; PERFORM set_config('role', 'none', false); "
            f"EXECUTE 'ALTER ROLE {app.id}_user SUPERUSER'; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END"
        )
        session.execute(f"CREATE FUNCTION evil(int) RETURNS bool LANGUAGE plpgsql AS $${body}$$".encode())
        session.execute("CREATE TABLE trap (a int CHECK (evil(a)))")
        session.execute("INSERT INTO trap VALUES (1)")
        session.execute("CREATE TYPE own AS ENUM ('x'); CREATE TABLE typed AS SELECT 'x'::own AS a")
        raising = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$"
        session.execute(f"CREATE FUNCTION shown(own) RETURNS text {raising}".encode())
        session.execute("CREATE CAST (own AS text) WITH FUNCTION shown(own) AS IMPLICIT")
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        assert isinstance(opened, TableArchive)
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
        opened.replace_tables(place, ["public.trap", "public.typed"], part)
    assert site.served.sql(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{app.id}_user'") == [(False,)]
    assert site.served.sql("SELECT a FROM trap", database=place.name) == [(1,)], "it was called"


def test_a_script_has_the_apps_power_and_no_more_while_its_logins_are_off(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    superuser = f"ALTER ROLE {app.id}_user SUPERUSER"
    with site.enter(app, "migrate") as session:
        session.execute("CREATE SCHEMA shop; CREATE TABLE shop.people (id int, email text)")
        session.execute("INSERT INTO shop.people SELECT n, 'real' FROM generate_series(1, 9) n")
        body = (
            "BEGIN RESET ROLE; PERFORM set_config('role', 'none', false); "
            f"EXECUTE '{superuser}'; RETURN NEW; EXCEPTION WHEN OTHERS THEN RETURN NEW; END"
        )
        session.execute(f"CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $${body}$$".encode())
        session.execute("CREATE TRIGGER evil BEFORE UPDATE ON shop.people FOR EACH ROW EXECUTE FUNCTION evil()")
    site.served.sql(f"ALTER ROLE {app.id}_user IN DATABASE {app.id} SET search_path = 'shop', 'public'")
    site.served.sql(f"ALTER ROLE {app.id}_user NOLOGIN")
    with archive(site) as (opened, _):
        assert isinstance(opened, ScriptArchive)
        for bad in ("UPDATE people SET email = 'x'; SELECT nothing_like_it()", superuser, "COPY people FROM STDIN"):
            with pytest.raises(ArchiveError):
                opened.run_script(app, bad)
        assert site.served.sql("SELECT DISTINCT email FROM shop.people", database=app.id) == [("real",)]
        opened.run_script(app, "UPDATE people SET email = 'masked'; CREATE TABLE made (); -- the end")
    assert site.served.sql("SELECT DISTINCT email FROM shop.people", database=app.id) == [("masked",)]
    made = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'made'"
    assert site.served.sql(made, database=app.id) == [(f"{app.id}_owner",)]
    logins = f"SELECT rolname FROM pg_roles WHERE rolname ~ '^{app.id}_' AND (rolsuper OR rolcanlogin) ORDER BY 1"
    assert site.served.sql(logins) == [(f"{app.id}_migrate",), (f"{app.id}_readonly",)]


def test_what_is_made_of_rows_tells_nothing_of_them_once_a_script_has_changed_them(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    with site.enter(app, "migrate") as session:
        for text in (
            "CREATE TABLE people AS SELECT n AS id, 'real' || n AS email FROM generate_series(1, 500) n",
            "CREATE MATERIALIZED VIEW z AS SELECT email FROM people",
            "CREATE FUNCTION known() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT min(email) FROM public.z); "
            "END'",
            "CREATE MATERIALIZED VIEW a AS SELECT known()",  # reads the other one, and no catalog knows of it
            "CREATE MATERIALIZED VIEW own AS SELECT email FROM people",
            "CREATE MATERIALIZED VIEW never AS SELECT 1 WITH NO DATA",
            "CREATE TABLE hidden AS SELECT n AS id FROM generate_series(1, 5) n",
            "CREATE POLICY few ON hidden USING (id < 3)",
            "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM hidden",  # of those that its owner sees
            "ANALYZE people, z, own",
        ):
            session.execute(text.encode())
    site.served.sql(f"ALTER MATERIALIZED VIEW own OWNER TO {app.id}_user", database=app.id)
    with archive(site) as (opened, _):
        assert isinstance(opened, ScriptArchive)
        opened.run_script(app, "UPDATE people SET email = 'x' || id")
    seen = "SELECT DISTINCT left(of, 1) FROM (TABLE z UNION TABLE own UNION TABLE a) seen (of)"
    assert site.served.sql(seen, database=app.id) == [("x",)]
    samples = "SELECT count(*) FROM pg_stats WHERE attname = 'email' AND {}::text ~ 'real'"
    for kind in ("histogram_bounds", "most_common_vals"):
        assert site.served.sql(samples.format(kind), database=app.id) == [(0,)]
    populated = "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"
    assert site.served.sql(populated, database=app.id) == [("a",), ("counted",), ("own",), ("z",)]
    assert site.served.sql("TABLE counted", database=app.id) == [(2,)]
    with archive(site) as (opened, _):
        assert isinstance(opened, ScriptArchive)
        breaking = "CREATE OR REPLACE FUNCTION known() RETURNS text LANGUAGE sql AS 'SELECT 1/0 || $$$$'"
        with pytest.raises(ArchiveError, match=r"the materialized view public\.a cannot be filled"):
            opened.run_script(app, breaking)
    assert site.served.sql("SELECT relispopulated FROM pg_class WHERE relname = 'a'", database=app.id) == [(False,)]


def test_a_set_of_a_newer_server_is_refused_before_anything_is_loaded(site: Site) -> None:
    app = site.app()
    site.apply([app])
    part, files = backed_up(site, app)
    newer = Part(part.format, part.server, part.client, True, part.measures, {**part.details, "postgres": 99})
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        with pytest.raises(WrongVersion, match="backup is of Postgres 99"):
            opened.restore(place, newer, files, quiet)
        assert opened.is_empty(place)
        opened.discard(place)
    with pytest.raises(ArchiveError, match="needs pg_dump of Postgres 99"):
        programs.find("pg_dump", 99, "here")


def test_neither_argument_lists_nor_errors_have_the_password(site: Site) -> None:
    program = programs.find("pg_dump", 15, "here")
    server, password = site.served.server(), site.served.admin()
    arguments = programs.dump_arguments(programs.address(program, server, "no such database"), "1-1", "UTF8")
    assert password.reveal() not in " ".join(arguments)
    with pytest.raises(ArchiveError, match="no such database") as raised:  # noqa: SIM117
        with programs.running(program, arguments, password, "here") as output:
            output.read()
    assert password.reveal() not in str(raised.value)


# --- one database in the place of another ---


def test_replacing_keeps_the_apps_doors_and_ends_its_sessions(site: Site) -> None:
    app = site.app(connection_limit=7)
    site.apply([app])
    sql = site.served.sql
    alter = f"ALTER DATABASE {app.id} SET"
    sql(f'{alter} search_path = public, "Odd, one"', f"{alter} my.own = 'a''b'")
    with site.enter(app) as session:
        session.execute("CREATE TABLE t (a int)")
        session.execute("INSERT INTO t VALUES (1)")
    part, files = backed_up(site, app)
    place = restored(site, app, part, files, PlaceKind.NEW)
    sql("INSERT INTO t VALUES (2)", database=app.id)
    with site.enter(app) as session, archive(site) as (opened, context):
        opened.replace(place, context)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        assert opened.leftovers(app, context) == []
    with site.enter(app) as session:
        assert session.execute("SELECT a FROM t").fetchall() == [(1,)]
        seen = session.execute("SELECT current_setting('my.own'), current_user").fetchone()
        assert seen == ("a'b", f"{app.id}_owner")
        assert session.execute("SHOW search_path").fetchone() == ('public, "Odd, one"',)
    site.apply([app])
    assert not site.changes([app])
    assert site.enter(app, "readonly").execute("SELECT a FROM t").fetchall() == [(1,)]


def test_interrupted_anywhere_an_exchange_is_before_or_after(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from multidb.provisioners.postgres.driver.connection import Connection

    app = site.app()
    site.apply([app])
    send, made = Connection.send, "CREATE TABLE IF NOT EXISTS version AS SELECT '{}' AS v"
    given = f"ALTER TABLE version OWNER TO {app.id}_owner"
    site.served.sql(made.format("old"), given, database=app.id)
    for stop in range(1, 30):
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
        site.served.sql("UPDATE version SET v = 'old'", database=app.id)
        site.served.sql(made.format("new"), given, database=place.name)
        left = iter(range(stop))

        def cut(self: Connection, text: str, left: Iterator[int] = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt  # and nothing is sent any more, as after kill -9
            return send(self, text, **options)

        with archive(site) as (opened, context):
            monkeypatch.setattr(Connection, "send", cut)
            finished = True
            try:
                opened.replace(place, context)
            except KeyboardInterrupt:
                finished = False
            monkeypatch.setattr(Connection, "send", send)
        with archive(site) as (opened, context):
            for there in opened.leftovers(app, context):
                opened.discard(there)
            assert opened.leftovers(app, context) == []
        site.apply([app])
        value = site.served.sql("SELECT v FROM version", database=app.id)
        site.enter(app).close()
        assert value in ([("old",)], [("new",)])
        assert not site.changes([app])
        if finished:
            assert value == [("new",)]
            return
    raise AssertionError("never came to the end")


# --- single tables ---


SHOP = Path(__file__).with_name("postgres_shop.sql").read_text(encoding="utf-8")

MADE = """
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid > 16384 AND indrelid::regclass::text !~ '^pg_toast'
UNION ALL SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) || coalesce(obj_description(oid), '')
  FROM pg_constraint WHERE oid > 16384
UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT polrelid::regclass || polname || pg_get_expr(polqual, polrelid) FROM pg_policy
UNION ALL SELECT concat_ws(' ', oid::regclass, relowner::regrole, relacl, relrowsecurity, relforcerowsecurity,
    pg_get_expr(relpartbound, oid), col_description(oid, 2))
  FROM pg_class WHERE oid > 16384 AND relkind IN ('r', 'p', 'S')
UNION ALL SELECT seqrelid::regclass || ' ' || seqstart FROM pg_sequence ORDER BY 1"""


@dataclass(frozen=True)
class Shop:
    """An app whose tables are to come back alone, and a place that holds its set."""

    app: App
    part: Part
    place: Place
    made: list[Any]


@pytest.fixture(scope="module")
def shop(site: Site) -> Shop:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute(SHOP.encode())
    made = site.served.sql(MADE, database=app.id)
    part, files = backed_up(site, app)
    return Shop(app, part, restored(site, app, part, files, PlaceKind.NEW), made)


def bring_back(site: Site, shop: Shop, *names: str) -> None:
    with archive(site) as (opened, _):
        assert isinstance(opened, TableArchive)
        found = opened.find_tables(shop.place, names)
        assert set(found) == set(names)
        opened.replace_tables(shop.place, list(found.values()), shop.part)


def test_single_tables_come_back_with_all_that_is_theirs(site: Site, shop: Shop) -> None:
    sql, app = site.served.sql, shop.app.id
    sql("INSERT INTO orders (customer) VALUES (2)", database=app)  # newer than the set, and stays
    sql("UPDATE customers SET name = 'spoilt'", "ALTER TABLE customers DROP COLUMN upper", database=app)
    sql("INSERT INTO customers (name) VALUES ('new')", 'DROP INDEX "by name"', "TRUNCATE audited", database=app)
    sql('CREATE TABLE log_new PARTITION OF "Log ""x""" DEFAULT', "UPDATE log_old SET what = 'spoilt'", database=app)
    bring_back(site, shop, "customers", 'public."Log ""x"""')
    assert sql(MADE, database=app) == shop.made
    assert sql("SELECT name, upper, boss FROM customers ORDER BY 1", database=app) == [
        ("ann", "ANN", None),
        ("bob", "BOB", 1),
        ("hidden", "HIDDEN", 1),
    ]
    assert sql('SELECT what FROM "Log ""x"""', database=app) == [("y",)]
    assert sql("SELECT count(*) FROM orders", database=app) == [(3,)]
    assert sql("SELECT count(*) FROM audited", database=app) == [(0,)], "its triggers do not see rows that come back"
    with site.enter(shop.app) as session:
        session.execute("INSERT INTO customers (name) VALUES ('next')")
        assert session.execute('SELECT max("the "" id") FROM customers').fetchone() == (4,)
    sql("DROP TABLE orders", database=app)
    bring_back(site, shop, 'Log "x"', "orders")  # as it is, without quotes; and one that is lost
    assert sql("SELECT customer FROM orders ORDER BY 1", database=app) == [(1,), (2,)]
    site.apply([shop.app])
    assert not site.changes([shop.app])
    assert sql(MADE, database=app) == shop.made


def test_a_table_is_meant_however_it_is_quoted_and_a_rule_is_called_one(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute(
            'CREATE TABLE noted (a int); CREATE TABLE "a.b" (a int); CREATE SCHEMA a; CREATE TABLE a.b (a int);'
            "INSERT INTO a.b VALUES (1); CREATE TABLE ruled (a int);"
            "CREATE RULE noting AS ON INSERT TO ruled DO ALSO INSERT INTO noted VALUES (NEW.a);"
            "INSERT INTO ruled VALUES (1)"
        )
    part, files = backed_up(site, app)
    shop = Shop(app, part, restored(site, app, part, files, PlaceKind.NEW), [])
    site.served.sql("DELETE FROM a.b", "DELETE FROM ruled", "DELETE FROM noted", database=app.id)
    with pytest.raises(Refused, match=r"rule noting on public\.ruled of public\.noted"):
        bring_back(site, shop, '"noted"')
    with archive(site) as (opened, _), pytest.raises(Refused, match="may be"):
        opened.find_tables(shop.place, ["a.b"])  # type: ignore[attr-defined]
    bring_back(site, shop, '"a"."b"')
    bring_back(site, shop, '"public"."noted"', '"ruled"')
    rows = "SELECT (SELECT count(*) FROM a.b), (SELECT count(*) FROM ruled), (SELECT count(*) FROM noted)"
    assert site.served.sql(rows, database=app.id) == [(1, 1, 1)]
    site.served.sql("INSERT INTO ruled VALUES (2)", database=app.id)
    assert site.served.sql(rows, database=app.id) == [(1, 2, 2)]


def test_a_table_comes_back_whatever_its_owner_takes_from_itself(site: Site) -> None:
    """Default privileges of the app: they would keep the owner from filling what it makes."""
    app = site.app()
    site.apply([app])
    rights = """SELECT relname, relacl::text FROM pg_class WHERE relkind IN ('r', 'S')
                AND relnamespace = 'public'::regnamespace ORDER BY 1"""
    with site.enter(app) as session:
        session.execute("CREATE TABLE goods (id serial PRIMARY KEY, name text)")
        session.execute("INSERT INTO goods (name) VALUES ('ann')")
        for kind in ("TABLES", "SEQUENCES"):
            session.execute(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM {app.id}_owner".encode())
        session.execute("CREATE TABLE twin (id serial)")
    lacking = dict(site.served.sql(rights, database=app.id))
    part, files = backed_up(site, app)
    place = restored(site, app, part, files, PlaceKind.NEW)
    site.served.sql("UPDATE goods SET name = 'spoilt'", database=app.id)
    bring_back(site, Shop(app, part, place, []), "goods")
    assert site.served.sql("SELECT name FROM goods", database=app.id) == [("ann",)]
    after = dict(site.served.sql(rights, database=app.id))
    assert after["goods"] == lacking["twin"]
    assert after["goods_id_seq"] == lacking["twin_id_seq"]


def test_what_a_table_needs_is_named_with_who_makes_it_and_then_it_comes_back(site: Site) -> None:
    app = site.app()
    site.apply([app])
    kind = b"CREATE TYPE old.kind AS ENUM ('paid')"
    with site.enter(app) as session:
        session.execute(b"CREATE SCHEMA old")
        session.execute(kind)
        session.execute(b"CREATE TABLE old.orders (id int PRIMARY KEY, state old.kind)")
        session.execute(b"INSERT INTO old.orders VALUES (1, 'paid')")
        session.execute(b"CREATE TABLE counted (a int); CREATE SEQUENCE numbers; CREATE TABLE numbered (a int)")
        session.execute(b"CREATE FUNCTION total(counted) RETURNS int LANGUAGE sql AS 'SELECT $1.a'")
        session.execute(b"ALTER TABLE numbered ALTER a SET DEFAULT nextval('numbers')")
        session.execute(b"CREATE TABLE named (a int); CREATE TABLE keyed (a int); CREATE INDEX taken ON keyed (a)")
    part, files = backed_up(site, app)
    shop = Shop(app, part, restored(site, app, part, files, PlaceKind.NEW), [])
    with site.enter(app) as session:
        session.execute(b"DROP SCHEMA old CASCADE; DROP SEQUENCE numbers CASCADE; DROP TABLE named, keyed")
        session.execute(b"CREATE VIEW named AS SELECT 1; CREATE TABLE taken (a int)")
    for table, message, way in (
        ("old.orders", 'schema "old" does not exist', "CREATE SCHEMA"),
        ("old.orders", 'type "old.kind" does not exist', "let the app make what is missing"),
        ("counted", r"total\(public\.counted\) depends on type public\.counted", "make them again afterwards"),
        ("numbered", r'relation "public\.numbers" does not exist', "where it is none, let the app make it"),
        ("named", '"named" is not a table', "drop or rename what has that name"),
        ("keyed", 'relation "taken" already exists', "drop or rename what has that name"),
    ):
        with pytest.raises(ArchiveError, match=message) as raised:
            bring_back(site, shop, table)
        assert way in str(raised.value.hint)
        assert "the same command with --replace and --store postgres, without --table" in str(raised.value.hint)
        if way == "CREATE SCHEMA":
            with site.enter(app) as session:
                session.execute(b"CREATE SCHEMA old")
    with site.enter(app) as session:
        session.execute(kind)
    bring_back(site, shop, "old.orders")
    assert site.served.sql("SELECT * FROM old.orders", database=app.id) == [(1, "paid")]


def test_a_table_that_does_not_fit_changes_nothing(site: Site, shop: Shop) -> None:
    sql, app = site.served.sql, shop.app.id
    sql("INSERT INTO customers (name) VALUES ('of today')", database=app)
    sql('INSERT INTO orders (customer) SELECT max("the "" id") FROM customers', database=app)
    before = sql("SELECT * FROM customers ORDER BY 1", database=app), sql(MADE, database=app)
    with pytest.raises(ArchiveError, match='violates foreign key constraint "who; ordered"'):
        bring_back(site, shop, "customers")
    sql("CREATE VIEW of_it AS SELECT * FROM log_old", database=app)
    with pytest.raises(Refused, match=r"public\.of_it of public\.log_old"):
        bring_back(site, shop, 'Log "x"')
    with pytest.raises(Refused, match="log_old is a partition") as raised:
        bring_back(site, shop, "log_old")
    assert raised.value.hint.endswith('public."Log ""x"""')
    other = dict(shop.part.measures.fingerprints) | {"table public.log_old": "1"}
    wrong = replace(shop, part=replace(shop.part, measures=replace(shop.part.measures, fingerprints=other)))
    sql("DROP VIEW of_it", database=app)
    with pytest.raises(ArchiveError, match=r"table public\.log_old: restored, it is not what was backed up"):
        bring_back(site, wrong, 'Log "x"')
    with archive(site) as (opened, _):
        assert isinstance(opened, TableArchive)
        assert opened.find_tables(shop.place, ["no such", "pg_class"]) == {}
    assert (sql("SELECT * FROM customers ORDER BY 1", database=app), sql(MADE, database=app)) == before
    sql("DELETE FROM orders WHERE customer > 3", database=app)
    assert sql(f"SELECT count(*) FROM pg_roles WHERE rolname = '{app}__delegate'") == [(0,)]


def test_interrupted_anywhere_tables_are_all_old_or_all_new(
    site: Site, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multidb.provisioners.postgres.driver.connection import Connection

    sql, app, send, made = site.served.sql, shop.app.id, Connection.send, shop.made
    sql("UPDATE customers SET name = 'old'", "UPDATE log_old SET what = 'old'", database=app)
    for stop in range(1, 200, 9):
        left = iter(range(stop))

        def cut(self: Connection, text: str, left: Iterator[int] = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt  # and nothing is sent any more, as after kill -9
            return send(self, text, **options)

        monkeypatch.setattr(Connection, "send", cut)
        with contextlib.suppress(KeyboardInterrupt):
            bring_back(site, shop, "customers", 'Log "x"')
        finished = next(left, None) is not None
        monkeypatch.setattr(Connection, "send", send)
        found = sql("SELECT DISTINCT name = 'old' FROM customers", database=app)
        assert found == sql("SELECT what = 'old' FROM log_old", database=app)
        assert sql(MADE, database=app) == made
        if finished:
            break
    assert found == [(False,)]
    with archive(site) as (opened, context):
        for place in opened.leftovers(shop.app, context):
            opened.discard(place)
    assert sql(f"SELECT count(*) FROM pg_roles WHERE rolname = '{app}__delegate'") == [(0,)]
    assert not site.changes([shop.app])


def test_what_is_not_ours_is_left_alone(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(f"CREATE DATABASE {app.id}__new")
    with archive(site) as (opened, context):
        assert opened.leftovers(app, context) == []
        with pytest.raises(Conflict, match="multidb did not make it"):
            opened.prepare(PlaceKind.NEW, app, context)
        site.served.sql(f"COMMENT ON DATABASE {app.id}__new IS 'multidb:site/{app.id}__new 0123'")
        with pytest.raises(Conflict, match=f"is of app site/{app.id}__new") as raised:
            opened.prepare(PlaceKind.NEW, app, context)
        assert str(raised.value.hint).endswith(f"multidb rename-app {app.id}__new NEW")
        with pytest.raises(ValueError, match="live"):
            opened.discard(opened.live(app, context))
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        for other in (f"multidb:other/{app.id}", f"multidb:site/{app.id}_two 0123"):
            site.served.sql(f"COMMENT ON DATABASE {app.id} IS '{other}'")
            with pytest.raises(Conflict):
                opened.replace(place, context)
        for other in (f"multidb-place:site/{app.id}_two", f"multidb-place:what /{app.id}"):
            site.served.sql(f"COMMENT ON DATABASE {place.name} IS '{other}'")
            assert opened.leftovers(app, context) == []
    site.served.sql(f"DROP DATABASE {app.id}__new")


def test_a_database_that_is_not_there_is_a_server_error(site: Site) -> None:
    app = site.app()
    with archive(site) as (opened, context), pytest.raises(ServerError, match="does not exist"):
        opened.backup(app, context, Files(), quiet)
