"""What a load depends on beside rows: where the app looks names up, its time zone, the encoding of its answers, who
may do what, what is set. On real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from multidb.model import App, PlaceKind, TableArchive
from multidb.provisioners.postgres.isolation.rights import objects
from tests.contract.postgres_sets import archive, backed_up, brought_back, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param) as made:
        yield made


@pytest.fixture
def site(served: Cluster) -> Site:
    return Site(served)


# What a row is checked by looks names up where the app's login does, as functions of many years do.
_BY_NAME = """
CREATE SCHEMA shop;
CREATE TABLE shop.countries (code text);
INSERT INTO shop.countries VALUES ('de');
CREATE FUNCTION shop.plain(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
CREATE FUNCTION shop.known(text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
  $$BEGIN PERFORM FROM countries; RETURN plain($1) = 'de'; END$$;
CREATE FUNCTION shop.derived(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN plain($1); END';
CREATE DOMAIN shop.country AS text CHECK (shop.known(VALUE));
CREATE TABLE shop.orders (country shop.country, of text CHECK (shop.known(of)),
  small text GENERATED ALWAYS AS (shop.derived(of)) STORED);
INSERT INTO shop.orders VALUES ('DE', 'de'), ('de', 'DE');
CREATE INDEX by_country ON shop.orders (country);
"""
_OF_DAYS = """
CREATE TABLE visits (at timestamptz, day date, CHECK (at::date = day));
INSERT INTO visits VALUES ('2024-01-01 00:30+09', '2024-01-01');
CREATE MATERIALIZED VIEW days AS SELECT at::date AS day, count(*) FROM visits GROUP BY 1;
ALTER TABLE visits ENABLE ROW LEVEL SECURITY;
"""


def _major(site: Site) -> int:
    return int(site.served.sql("SHOW server_version_num")[0][0]) // 10000


def _as_another(site: Site, app: App) -> App:
    """Another app that has a set of the first one, loaded and compared."""
    other = site.app()
    site.apply([other])
    brought_back(site, other, *backed_up(site, app))
    return other


def _alone(site: Site, app: App, *tables: str) -> None:
    """Single tables of a set of now, in the place of the app's own."""
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        assert isinstance(opened, TableArchive)
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        found = opened.find_tables(place, tables)
        assert set(found) == set(tables)
        opened.replace_tables(place, list(found.values()), part)
        opened.discard(place)


def test_functions_that_are_called_find_what_they_find_in_the_app(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(f"ALTER ROLE {app.id}_user IN DATABASE {app.id} SET search_path = 'no; such', shop")
    with site.enter(app) as session:
        session.execute(_BY_NAME.encode())
        if _major(site) < 17:  # later ones look no names up there, in the app neither
            session.execute("CREATE MATERIALIZED VIEW shop.seen AS SELECT shop.derived(of) AS of FROM shop.orders")
    for target in (app, _as_another(site, app)):
        with site.enter(target) as session:
            assert session.execute("SELECT country, of, small FROM orders ORDER BY 1").fetchall() == [
                ("DE", "de", "de"),
                ("de", "DE", "de"),
            ]
            if _major(site) < 17:
                assert session.execute("SELECT DISTINCT of FROM seen").fetchall() == [("de",)]
    _alone(site, app, "shop.orders")


def test_days_are_those_of_the_apps_time_zone(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(
        f"ALTER DATABASE {app.id} SET TimeZone = 'America/New_York'",
        f"ALTER ROLE {app.id}_user IN DATABASE {app.id} SET TimeZone = 'Asia/Tokyo'",
    )
    with site.enter(app) as session:
        session.execute(_OF_DAYS.encode())
    for target in (app, _as_another(site, app)):
        with site.enter(target) as session:
            assert session.execute("SELECT day::text FROM days").fetchall() == [("2024-01-01",)]
    with site.enter(app) as session:
        session.execute("DROP MATERIALIZED VIEW days")
    _alone(site, app, "visits")


def test_a_time_zone_or_a_path_that_is_none_is_data(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    assert (part.details["zone"], part.details["path"]) == ("", None)
    for zone, path in (("Mars/Olympus", '"'), ("a\0b", "a\0b"), (7, 7), ("' -c role=postgres", "public")):
        odd = replace(part, details={**part.details, "zone": zone, "path": path})
        brought_back(site, app, odd, files)


def test_text_is_as_it_is_whatever_clients_are_sent(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute(
            "CREATE TABLE \"preis €\" (v text DEFAULT '€'); INSERT INTO \"preis €\" VALUES ('日本')".encode()
        )
    site.served.sql(f"ALTER DATABASE {app.id} SET client_encoding = 'LATIN1'")
    other = _as_another(site, app)
    with site.enter(other) as session:
        session.execute("SET client_encoding = 'UTF8'")
        assert session.execute('SELECT v FROM "preis €"'.encode()).fetchall() == [("日本",)]
    _alone(site, app, "preis €")


def test_in_another_encoding_names_are_found_in_a_set_as_they_are_in_the_app(site: Site) -> None:
    app = site.app()
    site.served.sql(f"CREATE DATABASE {app.id} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    site.apply([app], adopt=[app.id])
    made = (
        'CREATE TABLE "größe" (id serial PRIMARY KEY, "maß" text DEFAULT \'ß\' CHECK ("maß" <> \'ü\'))',
        'INSERT INTO "größe" DEFAULT VALUES',
        "COMMENT ON TABLE \"größe\" IS 'wie groß'",
    )
    with site.enter(app) as session:
        session.execute("SET client_encoding = 'UTF8'")
        for text in made:
            session.execute(text.encode())
    _alone(site, app, "größe")
    beyond = (
        "SET client_encoding = 'UTF8'",
        "CREATE FOREIGN DATA WRAPPER none",
        "CREATE SERVER away FOREIGN DATA WRAPPER none",
        'CREATE FOREIGN TABLE "fern ü" ("maß" int) SERVER away',
        'ALTER FOREIGN TABLE "fern ü" ADD CONSTRAINT "prüft" CHECK ("maß" > 0)',
        'COMMENT ON CONSTRAINT "prüft" ON "fern ü" IS \'ü\'',
        'COMMENT ON COLUMN "fern ü"."maß" IS \'ü\'',
    )
    site.served.sql(*beyond, database=app.id)
    other = _as_another(site, app)
    with site.enter(other) as session:
        session.execute("SET client_encoding = 'UTF8'")
        assert session.execute('SELECT "maß" FROM "größe"'.encode()).fetchall() == [("ß",)]


@pytest.mark.parametrize(("encoding", "odd"), [("SQL_ASCII", rb"\xe9\xff"), ("WIN1252", rb"\x81\x8d")])
def test_a_table_alone_has_the_bytes_that_it_had(site: Site, encoding: str, odd: bytes) -> None:
    app = site.app()
    site.served.sql(f"CREATE DATABASE {app.id} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    site.apply([app], adopt=[app.id])
    with site.enter(app) as session:
        session.execute(f"SET client_encoding = '{encoding}'".encode())
        session.execute(b"CREATE TABLE t (v text); INSERT INTO t VALUES (E'" + odd + b"')")
    _alone(site, app, "t")


def test_a_table_alone_gives_nobody_more_than_the_set_says(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    rights = """SELECT c.relname, coalesce(a.attname, ''), coalesce(a.attacl, c.relacl)::text FROM pg_class c
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attacl IS NOT NULL
      WHERE c.relname ~ '^users|^other' AND c.relkind IN ('r', 'S') ORDER BY 1, 2"""
    with site.enter(app, "migrate") as session:
        for text in (
            "CREATE TABLE users (id serial PRIMARY KEY, email text); CREATE TABLE others (id serial)",
            f"REVOKE ALL ON users FROM {app.id}_ro; GRANT SELECT (id) ON users TO {app.id}_ro",
            f"REVOKE DELETE ON users FROM {app.id}_rw; REVOKE ALL ON users_id_seq FROM {app.id}_rw",
            f"GRANT SELECT ON users TO {app.id}_user WITH GRANT OPTION",
            f"REVOKE ALL ON others FROM {app.id}_ro",
        ):
            session.execute(text.encode())
    with site.enter(app) as session:
        session.execute("GRANT SELECT ON users TO PUBLIC")
    before = site.served.sql(rights, database=app.id)
    _alone(site, app, "users")
    assert site.served.sql(rights, database=app.id) == before
    with site.enter(app, "readonly") as session:
        assert session.execute("SELECT id FROM users").fetchall() == []


def test_a_schema_that_was_public_keeps_what_was_taken_from_it(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    with site.enter(app, "migrate") as session:
        session.execute("ALTER SCHEMA public RENAME TO legacy; CREATE SCHEMA public; CREATE TABLE legacy.t (a int)")
        session.execute(f"REVOKE USAGE ON SCHEMA legacy FROM {app.id}_ro".encode())
    site.apply([app])
    with site.enter(app, "migrate") as session:
        session.execute(f"REVOKE USAGE ON SCHEMA legacy FROM {app.id}_ro".encode())
    brought_back(site, app, *backed_up(site, app))
    may = f"SELECT has_schema_privilege('{app.id}_ro', 'legacy', 'USAGE')"
    assert site.served.sql(may, database=app.id) == [(False,)]


def test_large_objects_alike_are_one_line_of_a_set(site: Site) -> None:
    """A set of a million of them would be longer than any that is read."""
    app = site.app(roles="split")
    site.apply([app])
    numbers = [*range(300_000, 300_600), 300_700, 4_294_967_290]
    with site.enter(app, "migrate") as session:
        if _major(site) >= 18:
            session.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO {app.id}_ro".encode())
        session.execute("SELECT lo_from_bytea(7, 'the owner''s')")
    with site.enter(app) as session:
        session.execute("SELECT count(lo_from_bytea(n, 'x')) FROM unnest(%s::oid[]) n", (numbers,))
        session.execute(f"GRANT SELECT ON LARGE OBJECT 300001, 300002 TO {app.id}_ro".encode())
        session.execute(f"GRANT UPDATE ON LARGE OBJECT 300005 TO {app.id}_readonly WITH GRANT OPTION".encode())
    with site.enter(app, "readonly") as session:
        session.execute("SET default_transaction_read_only = off")
        session.execute(f"GRANT UPDATE ON LARGE OBJECT 300005 TO {app.id}_rw".encode())
    held = """SELECT l.oid::text, pg_get_userbyid(lomowner), array_agg(x::text ORDER BY x::text)
      FROM pg_largeobject_metadata l, aclexplode(coalesce(lomacl, acldefault('L', lomowner))) x
      GROUP BY 1, 2 ORDER BY 1"""
    defaults = "SELECT count(*) FROM pg_default_acl WHERE defaclobjtype = 'L'"
    before = site.served.sql(held, database=app.id), site.served.sql(defaults, database=app.id)
    part, files = backed_up(site, app)
    assert len(json.dumps(part.details["rights"])) < 20_000
    brought_back(site, app, part, files)
    assert (site.served.sql(held, database=app.id), site.served.sql(defaults, database=app.id)) == before


@pytest.mark.parametrize("spans", ["", "x", "1-", "0", "5-3-1", "99999999999", 7])
def test_numbers_of_large_objects_are_data(spans: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        objects({"objects": [["a_owner", [], spans]]}, str)


def test_settings_that_a_login_has_everywhere_go_with_its_app(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(
        f"ALTER ROLE {app.id}_user SET search_path = shop, public",
        f"ALTER ROLE {app.id}_user SET work_mem = '7MB'",
        f"ALTER ROLE {app.id}_user IN DATABASE {app.id} SET work_mem = '9MB'",
    )
    other = _as_another(site, app)
    with site.enter(other) as session:
        assert session.execute("SELECT current_setting('search_path'), current_setting('work_mem')").fetchall() == [
            ("shop, public", "9MB")
        ]
    brought_back(site, app, *backed_up(site, app))
    within = f"""SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
      WHERE d.datname = '{app.id}' AND s.setrole = '{app.id}_user'::regrole"""
    ((settings,),) = site.served.sql(within)
    assert not [each for each in settings if each.startswith("search_path")], "the login has it still"


def test_a_database_that_is_a_template_is_exchanged_too(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    site.served.sql(f"ALTER DATABASE {app.id} IS_TEMPLATE true")
    brought_back(site, app, *backed_up(site, app))
    assert site.served.sql(f"SELECT datname FROM pg_database WHERE datname ~ '^{app.id}__'") == []


def test_whose_rights_do_not_come_back_is_said(site: Site) -> None:
    app = site.app()
    site.apply([app])
    reports = f"reports_{app.id}"
    site.served.sql(f"CREATE ROLE {reports}")
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
        part, _ = backed_up(site, app)
        assert part.details["notes"] == []
        session.execute(f"GRANT SELECT ON t TO {reports}".encode())
    part, _ = backed_up(site, app)
    (note,) = part.notes
    assert note.startswith(f"rights of {reports} in it do not come back")
