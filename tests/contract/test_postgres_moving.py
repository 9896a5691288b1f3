"""Apps that move between a database of their own and a schema in one that apps share, on real servers: what they have
there and back, what their neighbours have, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from multidb.errors import Refused
from multidb.model import App, Move, PlaceKind, StoreContext
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.move_survey import placed
from multidb.provisioners.postgres.provision.options import AppOptions
from tests.contract.postgres_inventory import Inventory, difference, inventory
from tests.contract.postgres_sets import Files, archive, backed_up, quiet
from tests.contract.postgres_sharing import sharing
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import PLATFORM, SUPERUSER, cluster

pytestmark = pytest.mark.server

CASES = [
    pytest.param((18, SUPERUSER), id="18"),
    pytest.param((15, SUPERUSER), id="15", marks=pytest.mark.rare),
    pytest.param((18, PLATFORM), id="18 lesser admin", marks=pytest.mark.rare),
]

# What real applications have, with names that take quotes; bodies that are parsed name the schema, texts do not.
WORLD = """
CREATE TYPE mood AS ENUM ('sad', 'odd "one"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0) DEFAULT 1;
CREATE TYPE pair AS (a int, b mood);
CREATE TYPE reals AS RANGE (SUBTYPE = float8);
CREATE TABLE people (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name citext NOT NULL UNIQUE, feels mood, age positive,
  born date, span int4range, doubled int GENERATED ALWAYS AS (age * 2) STORED, path ltree, both_ pair);
COMMENT ON TABLE people IS 'who is there';
CREATE TABLE "Odd ""table"".x" (id serial PRIMARY KEY, person bigint REFERENCES people ON DELETE CASCADE, "a b" text);
CREATE TABLE log (at timestamptz NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
CREATE SEQUENCE numbers START 7;
CREATE TABLE counted (id int DEFAULT nextval('numbers'), was text DEFAULT upper('x'));
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
CREATE FUNCTION census() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM people; END;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO log VALUES ('2024-01-01', TG_TABLE_NAME); RETURN NEW; END$$;
CREATE TRIGGER noting AFTER INSERT ON "Odd ""table"".x" FOR EACH ROW EXECUTE FUNCTION noted();
CREATE INDEX by_path ON people USING gist (path);
CREATE INDEX by_twice ON people (twice(age)) WHERE feels = 'sad'::mood;
CREATE VIEW sad AS SELECT p.name, census() AS among FROM people p WHERE feels = 'sad';
CREATE MATERIALIZED VIEW ages AS SELECT age, count(*) FROM people GROUP BY age;
CREATE STATISTICS correlated ON age, born FROM people;
CREATE RULE kept AS ON DELETE TO counted DO INSTEAD NOTHING;
ALTER TABLE people ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybodys ON people USING (twice(1) > 0);
CREATE POLICY readers ON people FOR SELECT TO {app}_ro USING (age > 0);
INSERT INTO people (name, feels, age, born, path, both_)
  SELECT 'p' || n, 'sad', n, '2000-01-01', 'a.b', (n, 'sad')::pair FROM generate_series(1, 300) n;
INSERT INTO "Odd ""table"".x" (person, "a b") SELECT id, 'x' FROM people;
INSERT INTO counted SELECT FROM generate_series(1, 5);
REFRESH MATERIALIZED VIEW ages;
REVOKE ALL ON counted FROM {app}_ro;
GRANT SELECT (id) ON counted TO {app}_ro;
GRANT USAGE ON TYPE mood TO {app}_ro WITH GRANT OPTION;
REVOKE USAGE ON TYPE pair FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO {app}_ro;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT TRIGGER ON TABLES TO {app}_rw;
CREATE TYPE given_by_default AS ENUM ();
"""


@pytest.fixture(scope="module", params=CASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    major, admin = request.param
    with cluster(major) as served:
        yield Site(served, admin)


def own(site: Site, **options: Any) -> App:
    """An app with a database of its own, and what `WORLD` says in it."""
    app = site.app(extensions=("citext", "ltree"), **options)
    site.apply([app])
    with site.enter(app, "migrate" if options.get("roles") == "split" else "user") as connection:
        connection.execute(WORLD.format(app=app.id).encode())
        if site.admin == SUPERUSER:  # another admin cannot let anybody read such a table
            connection.execute("ALTER TABLE people FORCE ROW LEVEL SECURITY")
    return app


def in_schema(app: App, database: str, schema: str) -> App:
    return placed(app, {"database": database, "schema": schema})


def surveyed(site: Site, there: App, app: App) -> Move:
    with site.connect() as session:
        return session.survey(there, app, StoreContext("site", session.facts))


def copied(site: Site, there: App, app: App, made: tuple[Any, Files] | None = None) -> None:
    """All that the app has there, in the place that it has here."""
    site.generate([app])
    site.apply([app])
    part, files = made or backed_up(site, there)
    with archive(site) as (opened, context):
        context = replace(context, moving=frozenset({app.id}))
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.require_unbound(app, context)  # type: ignore[attr-defined]
        opened.replace(place, context)
        assert not opened.leftovers(app, context)


def moved(site: Site, there: App, app: App) -> None:
    copied(site, there, app)
    with site.connect() as session:
        context = StoreContext("site", session.facts, moving=frozenset({app.id}))
        while left := session.leaving(there, app, context):
            list(session.run(left, site.secrets))
    site.apply([app])
    assert not site.changes([app])
    assert not site.changes([app], deep=False)


def taken(site: Site, database: str) -> Inventory:
    address = {"host": "127.0.0.1", "port": site.served.port, "user": SUPERUSER, "dbname": database}
    with psycopg.connect(**address, password=site.served.admin(SUPERUSER).reveal()) as connection:  # type: ignore[arg-type]
        return inventory(connection)


@pytest.mark.parametrize("roles", ["simple", pytest.param("split", marks=pytest.mark.rare)])
def test_there_and_back_it_is_what_it_was_and_the_neighbours_notice_nothing(site: Site, roles: str) -> None:
    app = own(site, roles=roles)
    neighbour = sharing(extensions=("citext", "ltree"))
    site.apply([neighbour])
    database = home(neighbour).database
    with site.enter(neighbour, database=database) as connection:
        connection.execute(
            "CREATE TABLE orders (who citext PRIMARY KEY, at ltree); INSERT INTO orders VALUES ('X', 'a')"
        )
    before, beside = taken(site, app.id), taken(site, database)
    shared = in_schema(app, database, "mind")
    found = surveyed(site, app, shared)
    if site.admin != SUPERUSER:
        assert found.obstacles == (
            "extension citext, ltree comes to schema extensions by a superuser alone: use one as the admin",
        )
        with pytest.raises(Refused, match="cannot come to where schema mind of"):
            copied(site, app, shared)
        return
    assert (found.obstacles, found.mentions) == ((), ())
    assert (found.source_title, found.destination_title) == (f"database {app.id}", f"schema mind of {database}")
    assert found.size is not None
    assert found.size > 1_000_000

    moved(site, app, shared)
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{app.id}'") == [(0,)]
    with site.enter(shared, database=database) as connection:
        assert connection.execute("SELECT count(*), max(among) FROM sad").fetchone() == (300, 300)
        assert connection.execute("SELECT nextval('numbers')").fetchone() == (12,)
        connection.execute('INSERT INTO "Odd ""table"".x" (person) SELECT id FROM people WHERE path ~ \'a.*\' LIMIT 1')
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (301,)
        connection.execute("DELETE FROM log WHERE ctid = (SELECT max(ctid) FROM log)")
    with site.enter(shared, "readonly", database=database) as connection:
        assert connection.execute("SELECT count(id) FROM counted").fetchone() == (5,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT was FROM counted")
    with site.enter(neighbour, database=database) as connection:
        assert connection.execute("SELECT * FROM orders").fetchall() == [("X", "a")]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM mind.people")
    assert not site.changes([shared, neighbour])

    found = surveyed(site, shared, app)
    assert (found.obstacles, found.mentions) == ((), ())
    with site.enter(shared, database=database) as connection:
        connection.execute('SELECT setval(\'numbers\', 11); DELETE FROM "Odd ""table"".x" WHERE id > 300')
        connection.execute('SELECT setval(\'"Odd ""table"".x_id_seq"\', 300)')
    moved(site, shared, app)
    after = taken(site, app.id)
    assert difference(before, after) == []
    assert difference(beside, taken(site, database)) == []


MENTIONS = {
    "function public.sums()": "CREATE FUNCTION sums() RETURNS bigint LANGUAGE sql AS 'SELECT 1 FROM public.people'",
    "function public.quoted()": (
        "CREATE FUNCTION quoted() RETURNS void LANGUAGE plpgsql AS "
        "$$BEGIN EXECUTE format('DROP TABLE IF EXISTS %I.gone', 'public'); END$$"
    ),
    "function public.looking()": (
        "CREATE FUNCTION looking() RETURNS int LANGUAGE sql SET search_path = public, pg_temp AS 'SELECT 1'"
    ),
    "procedure public.upper_()": (
        "CREATE PROCEDURE upper_() LANGUAGE plpgsql AS 'BEGIN PERFORM 1 FROM PUBLIC . people; END'"
    ),
    "view public.late": "CREATE VIEW late AS SELECT to_regclass('public.people') AS named",
    "default value for public.defaulted.a": "CREATE TABLE defaulted (a text DEFAULT 'of public.people')",
    "trigger told on public.counted": (
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
        "CREATE TRIGGER told AFTER INSERT ON counted FOR EACH ROW EXECUTE FUNCTION told('public.people')"
    ),
    "policy named on public.counted": "CREATE POLICY named ON counted USING (was <> 'public.x')",
    "setting work_mem of {app}_user in database {app}": "ALTER ROLE {app}_user SET work_mem = '5MB'",
}
UNSAID = """
CREATE FUNCTION public_() RETURNS text LANGUAGE sql AS 'SELECT ''republic.x''';
CREATE VIEW parsed AS SELECT * FROM public.people WHERE nextval('public.numbers'::regclass) > 0;
CREATE FUNCTION granting() RETURNS void LANGUAGE plpgsql AS 'BEGIN GRANT SELECT ON counted TO public; END';
"""


def test_what_is_text_is_named_before_and_what_is_parsed_is_not(site: Site) -> None:
    app = own(site)
    shared = in_schema(app, "somewhere", "mind")
    with site.enter(app) as connection:
        connection.execute(UNSAID)
        assert surveyed(site, app, shared).mentions == ()
        for statement in MENTIONS.values():
            text = statement.format(app=app.id).replace("SET work_mem", f"IN DATABASE {app.id} SET work_mem")
            connection.execute(f"SET ROLE {app.id}_user; {text}; RESET ROLE" if "work_mem" in text else text)
    assert sorted(surveyed(site, app, shared).mentions) == sorted(name.format(app=app.id) for name in MENTIONS)


OBSTACLES = {
    "CREATE SCHEMA more; CREATE TABLE more.t (a int)": "one schema, and the app has things in more, public",
    "SELECT lo_create(0)": "1 large object would stay behind",
    "CREATE CAST (pair AS text) WITH INOUT": "what is in no schema does not go with one",
    "CREATE PUBLICATION told FOR TABLE counted": "publication told",
    "CREATE EXTENSION hstore; CREATE TABLE h (a hstore)": "extension hstore is needed, and not in the manifest",
}


@pytest.mark.parametrize("statement", OBSTACLES)
def test_what_does_not_go_with_a_schema_stands_against_it(site: Site, statement: str) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as connection:
        connection.execute("CREATE TABLE counted (a int); CREATE TYPE pair AS (a int, b int)")
        connection.execute(statement.encode())
    found = surveyed(site, app, in_schema(app, "somewhere", "mind"))
    assert OBSTACLES[statement] in "; ".join(found.obstacles)


def test_a_schema_of_its_own_name_goes_as_it_is(site: Site) -> None:
    kind = "citext" if site.admin == SUPERUSER else "text"  # extensions come elsewhere by a superuser alone
    app = site.app(extensions=() if kind == "text" else (kind,))
    site.apply([app])
    with site.enter(app) as connection:
        connection.execute(
            f"CREATE SCHEMA mind; CREATE TABLE mind.notes (t {kind}); INSERT INTO mind.notes VALUES ('a')".encode()
        )
        connection.execute(
            "CREATE FUNCTION mind.all() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM mind.notes'"
        )
    neighbour = sharing()
    site.apply([neighbour])
    shared = in_schema(app, home(neighbour).database, "mind")
    found = surveyed(site, app, shared)
    assert (found.obstacles, found.mentions) == ((), ())
    moved(site, app, shared)
    with site.enter(shared, database=home(neighbour).database) as connection:
        assert connection.execute("SELECT mind.\"all\"() FROM notes WHERE t = 'a'").fetchone() == (1,)


def test_who_is_read_by_others_moves_when_they_do_not_any_more(site: Site) -> None:
    brain = sharing()
    commerce = sharing(home(brain).database, reads=(brain.id,))
    site.apply([brain, commerce])
    alone = placed(brain, {"database": None, "schema": None})
    found = surveyed(site, brain, alone)
    assert f"{commerce.id} may read its schema: take {brain.id} out of its reads" in "; ".join(found.obstacles)
    there = {"database": home(commerce).database, "schema": home(commerce).schema}
    commerce = replace(commerce, stores={"postgres": AppOptions(**there)})
    site.apply([commerce])
    assert surveyed(site, brain, alone).obstacles == ()


def test_a_set_of_before_comes_back_or_says_what_is_in_its_way(site: Site) -> None:
    if site.admin != SUPERUSER:
        pytest.skip("extensions come elsewhere by a superuser alone")
    app = own(site)
    neighbour = sharing()
    site.apply([neighbour])
    shared = in_schema(app, home(neighbour).database, "mind")
    of_database = backed_up(site, app)
    moved(site, app, shared)
    of_schema = backed_up(site, shared)
    with site.enter(shared, database=home(shared).database) as connection:
        connection.execute("DROP VIEW sad; CREATE TABLE newer (a int)")
    brought_back(site, shared, of_database)
    with site.enter(shared, database=home(shared).database) as connection:
        assert connection.execute("SELECT count(*) FROM sad").fetchone() == (300,)
        assert connection.execute("SELECT to_regclass('newer')").fetchone() == (None,)
        connection.execute("CREATE FUNCTION told() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM mind.people'")
    naming = backed_up(site, shared)
    moved(site, shared, app)
    brought_back(site, app, of_schema)
    with site.enter(app) as connection:
        assert connection.execute("SELECT count(*) FROM sad").fetchone() == (300,)
    with pytest.raises(Refused, match=r"function mind\.told\(\)") as refused:
        brought_back(site, app, naming)
    assert f"multidb move {app.id}" in str(refused.value.hint)
    with site.enter(app) as connection:
        assert connection.execute("SELECT count(*) FROM sad").fetchone() == (300,)


def brought_back(site: Site, app: App, made: tuple[Any, Files]) -> None:
    """A set in the place of what the app has, as a restore does."""
    part, files = made
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        try:
            opened.restore(place, part, files, quiet)
            assert opened.measure(place) == part.measures
            opened.require_unbound(app, context)  # type: ignore[attr-defined]
            opened.replace(place, context)
        finally:
            opened.discard(place)
    site.apply([app])
    assert not site.changes([app])


def test_from_one_shared_database_to_another_it_goes_under_another_name(site: Site) -> None:
    app, neighbour, other = sharing(), sharing(), sharing()
    app = in_schema(app, home(neighbour).database, "mind")
    site.apply([app, neighbour, other])
    with site.enter(app, database=home(app).database) as connection:
        connection.execute("CREATE TABLE notes AS SELECT generate_series(1, 9) AS id; CREATE VIEW seen AS TABLE notes")
        connection.execute("CREATE FUNCTION told() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM mind.notes'")
    with site.enter(neighbour, database=home(neighbour).database) as connection:
        connection.execute("CREATE TABLE kept (a int)")
    there = in_schema(app, home(other).database, "soul")
    found = surveyed(site, app, there)
    assert (found.obstacles, found.mentions) == ((), ("function mind.told()",))
    moved(site, app, there)
    with site.enter(there, database=home(there).database) as connection:
        assert connection.execute("SELECT count(*) FROM seen").fetchone() == (9,)
    schemas = "SELECT nspname FROM pg_namespace WHERE nspname IN ('mind', 'soul')"
    assert site.served.sql(schemas, database=home(neighbour).database) == []
    assert not site.changes([there, neighbour, other])
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        site.enter(there, database=home(neighbour).database)
    with site.enter(neighbour, database=home(neighbour).database) as connection:
        connection.execute("TABLE kept")


def test_text_that_names_a_schema_is_found_where_that_is_left_and_in_the_app_alone(site: Site) -> None:
    app = sharing()
    place = home(app)
    other = sharing(place.database)
    site.apply([app, other])
    for one in (app, other):
        with site.enter(one, database=home(one).database) as connection:
            body = f"SELECT 1 FROM {place.schema}.notes"
            connection.execute(f"CREATE FUNCTION told() RETURNS void LANGUAGE plpgsql AS 'BEGIN {body}; END'".encode())
            connection.execute("CREATE TABLE kept (a int); CREATE VIEW parsed AS SELECT * FROM kept")
    renamed = in_schema(app, place.database, "soul")
    alone = placed(app, {"database": None, "schema": None})
    entry = {"database": place.database, "schema": place.schema}
    with site.connect() as session:
        assert session.mentions(app, entry, renamed) == [f"function {place.schema}.told()"]
        assert session.mentions(other, entry, other) == [f"function {home(other).schema}.told()"]  # a copy beside
        assert session.mentions(app, entry, app) == []  # it keeps its name
        assert session.mentions(app, {**entry, "schema": "kept"}, renamed) == []  # nothing names it
        for is_none in ({}, {"schema": 7}, {"schema": ["mind"]}, {"schema": "a|.*"}, {"schema": ".*"}):
            assert session.mentions(app, is_none, renamed) == []
        assert session.mentions(app, entry, alone) == []  # which is a move
        assert session.mentions(alone, entry, renamed) == []
