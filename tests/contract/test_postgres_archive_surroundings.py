"""What a load depends on beside rows: where the app looks names up, its time zone, the encoding of its answers, who
may do what, what is set. On real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from multidb.errors import ArchiveError, ServerError
from multidb.model import App, PlaceKind, TableArchive
from multidb.provisioners.postgres.isolation import rights
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
CREATE FUNCTION shop.alike(text, text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN plain($1) = $2; END';
CREATE OPERATOR shop.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = shop.alike);
CREATE TABLE shop.pairs (a text, b text, CHECK (a OPERATOR(shop.===) b));
INSERT INTO shop.pairs VALUES ('DE', 'de');
CREATE TABLE shop.parts (of text) PARTITION BY LIST (shop.derived(of));
CREATE TABLE shop.part PARTITION OF shop.parts FOR VALUES IN ('de');
INSERT INTO shop.parts VALUES ('DE');
"""
# Later versions look no names up while they make these, in the app neither.
_BY_NAME_BEFORE_17 = """
CREATE INDEX by_derived ON shop.orders (shop.derived(of));
CREATE FUNCTION shop.joined(text, text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 || plain($2); END';
CREATE AGGREGATE shop.glued(text) (SFUNC = shop.joined, STYPE = text, INITCOND = '');
CREATE MATERIALIZED VIEW shop.seen AS SELECT shop.glued(a) AS of FROM shop.pairs;
"""
_CALLED_ALONE = """
CREATE SCHEMA shop;
CREATE FUNCTION shop.plain(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
CREATE FUNCTION shop.plain_of(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN plain($1); END';
CREATE FUNCTION shop.alike(text, text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN plain($1) = $2; END';
CREATE OPERATOR shop.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = shop.alike);
CREATE FUNCTION shop.joined(text, text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 || plain($2); END';
CREATE AGGREGATE shop.glued(text) (SFUNC = shop.joined, STYPE = text, INITCOND = '');
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
        if _major(site) < 17:
            session.execute(_BY_NAME_BEFORE_17.encode())
    for target in (app, _as_another(site, app)):
        with site.enter(target) as session:
            assert session.execute("SELECT country, of, small FROM orders ORDER BY 1").fetchall() == [
                ("DE", "de", "de"),
                ("de", "DE", "de"),
            ]
            if _major(site) < 17:
                assert session.execute("SELECT of FROM seen").fetchall() == [("de",)]
    if _major(site) < 17:
        with site.enter(app) as session:
            session.execute("DROP MATERIALIZED VIEW shop.seen")  # which is made of one of them
    _alone(site, app, "shop.orders", "shop.pairs", "shop.parts")


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE t (a text, b text, CHECK (a OPERATOR(shop.===) b)); INSERT INTO t VALUES ('A', 'a')",
        "CREATE TABLE t (a text) PARTITION BY LIST (shop.plain_of(a)); "
        "CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); INSERT INTO t VALUES ('A')",
        "CREATE TABLE t AS SELECT 'A' AS a; CREATE INDEX ON t (shop.plain_of(a))",
        "CREATE TABLE t AS SELECT 'A' AS a; CREATE MATERIALIZED VIEW m AS SELECT shop.glued(a) FROM t",
        "CREATE MATERIALIZED VIEW m AS SELECT shop.plain_of('A')",
    ],
    ids=["operator", "partition key", "index", "aggregate", "no table"],
)
@pytest.mark.rare
def test_one_function_that_is_called_is_enough(site: Site, text: str) -> None:
    if _major(site) >= 17 and ("INDEX" in text or "VIEW" in text):
        pytest.skip("it looks no names up while it makes these, in the app neither")
    app = site.app()
    site.apply([app])
    site.served.sql(f"ALTER DATABASE {app.id} SET search_path = shop, public")
    with site.enter(app) as session:
        session.execute(_CALLED_ALONE.encode())
        session.execute(text.encode())
    _as_another(site, app)


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


@pytest.mark.rare
def test_a_time_zone_of_the_server_goes_with_the_set(site: Site) -> None:
    with cluster(15, TimeZone="Asia/Tokyo") as eastern:
        away = Site(eastern)
        app = away.app()
        away.apply([app])
        with away.enter(app) as session:
            session.execute(_OF_DAYS.encode())
        part, files = backed_up(away, app)
        assert part.details["zone"] == "Asia/Tokyo"
        brought_back(away, app, part, files)
        with away.enter(app) as session:
            session.execute("DROP MATERIALIZED VIEW days")
        _alone(away, app, "visits")
        other = site.app()
        site.apply([other])
        brought_back(site, other, part, files)
    with site.enter(other) as session:
        assert session.execute("SELECT day::text FROM days").fetchall() == [("2024-01-01",)]


def test_a_time_zone_or_a_path_that_is_none_is_data(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    assert (part.details["zone"], part.details["path"]) == (site.served.sql("SHOW TimeZone")[0][0], None)
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
    given = """SELECT c.relname, coalesce(a.attname, ''), x::text FROM pg_class c
      CROSS JOIN LATERAL (SELECT NULL AS attname, c.relacl AS acl UNION ALL
        SELECT attname, attacl FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) a, unnest(a.acl) x
      WHERE c.relname ~ '^users|^other' AND c.relkind IN ('r', 'S') ORDER BY 1, 2, 3"""
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
    before = site.served.sql(given, database=app.id)
    assert [each for *_, each in before if each == f"=r/{app.id}_user"], "passed on, by whom it was"
    _alone(site, app, "users")
    assert site.served.sql(given, database=app.id) == before
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


def test_large_objects_alike_are_one_line_of_a_set(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of a million of them would be longer than any that is read, and so would an answer about them."""
    monkeypatch.setattr(
        rights, "MOST_OBJECTS", 200
    )  # they come in four answers, the third of which is the last full one
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
        rights.objects({"objects": [["a_owner", [], spans]]}, str)


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


def test_a_library_that_is_missing_is_named_with_what_resets_it(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(f"ALTER DATABASE {app.id} SET session_preload_libraries = 'nowhere'")
    with pytest.raises(ServerError, match=r"lets nobody in.*nowhere") as raised:
        backed_up(site, app)
    assert "RESET session_preload_libraries" in raised.value.hint
    site.served.sql(f"ALTER DATABASE {app.id} RESET session_preload_libraries")
    backed_up(site, app)


def test_a_check_of_a_domain_that_rows_need_not_pass_is_made_after_them(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        for number in range(4):  # several at once would be made beside the rows
            session.execute(f"CREATE DOMAIN d{number} AS int; CREATE TABLE t{number} (n d{number})".encode())
            session.execute(f"INSERT INTO t{number} SELECT generate_series(1, 5000)".encode())
            session.execute(f"ALTER DOMAIN d{number} ADD CONSTRAINT few CHECK (VALUE < 3) NOT VALID".encode())
            session.execute(f"COMMENT ON CONSTRAINT few ON DOMAIN d{number} IS 'some'".encode())
    brought_back(site, app, *backed_up(site, app))


_BROKEN = {
    "foreign key": "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int CONSTRAINT to_p REFERENCES p)",
    "check": """CREATE FUNCTION fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
      CREATE TABLE c (p int CONSTRAINT to_p CHECK (fine(p)))""",
    "unique": """CREATE FUNCTION fine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT random() * 1000000';
      CREATE TABLE c (p int); CREATE UNIQUE INDEX to_p ON c (fine(p))""",
}


@pytest.mark.parametrize(
    "kind", [pytest.param("foreign key"), *(pytest.param(kind, marks=pytest.mark.rare) for kind in ("check", "unique"))]
)
def test_rows_that_break_a_constraint_are_named_by_it_and_load_once_it_is_not_valid(site: Site, kind: str) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute(_BROKEN[kind].encode())
    orphans = "SET session_replication_role = replica", "INSERT INTO c VALUES (7), (8)"
    site.served.sql(*orphans, database=app.id)
    with site.enter(app) as session:
        if kind != "foreign key":
            kept = (
                "bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 7'"
                if kind == "check"
                else "int LANGUAGE sql IMMUTABLE AS 'SELECT 1'"
            )
            session.execute(f"CREATE OR REPLACE FUNCTION fine(int) RETURNS {kept}".encode())
    with pytest.raises(ArchiveError) as raised:
        brought_back(site, app, *backed_up(site, app))
    assert "to_p" in raised.value.message
    assert re.fullmatch(r'rows of table (public\.)?c break .+ "to_p", and no server loads them', raised.value.message)
    assert "NOT VALID" in raised.value.hint
    if kind == "unique":
        return
    definition = "FOREIGN KEY (p) REFERENCES p" if kind == "foreign key" else "CHECK (fine(p))"
    with site.enter(app) as session:
        session.execute(f"ALTER TABLE c DROP CONSTRAINT to_p, ADD CONSTRAINT to_p {definition} NOT VALID".encode())
    brought_back(site, app, *backed_up(site, app))
