"""What an app's database is beside its rows comes back, or is named before anything is done: on real servers."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb.errors import ArchiveError, MultidbError, Refused, WrongVersion
from multidb.model import App, Part, PlaceKind, TableArchive
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.backup.locales import Locale
from tests.contract.postgres_sets import archive, backed_up, brought_back, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, binaries, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, allow_in_place_tablespaces="on") as made:
        yield made


@pytest.fixture(params=[SUPERUSER, PLATFORM])
def site(served: Cluster, request: pytest.FixtureRequest) -> Site:
    return Site(served, request.param)


# --- encoding and locale ---

_KEPT = """SELECT pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d) ->> 'datlocprovider',
  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), to_jsonb(d) ->> 'daticurules'
FROM pg_database d WHERE datname = """


@pytest.mark.parametrize(
    "made_with",
    [
        "ENCODING 'LATIN1' LOCALE 'C'",
        "ENCODING 'LATIN9' LC_COLLATE 'C' LC_CTYPE 'POSIX'",
        "ENCODING 'EUC_JP' LOCALE 'C'",
        "ENCODING 'SQL_ASCII' LOCALE 'C'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en' ICU_RULES '& b < a'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
    ],
)
def test_a_database_is_made_again_in_its_encoding_and_its_locale(site: Site, made_with: str) -> None:
    app, other = site.app(), site.app()
    major = int(site.served.sql("SHOW server_version_num")[0][0]) // 10000
    if ("BUILTIN" in made_with and major < 17) or ("RULES" in made_with and major < 16):
        pytest.skip("this server has no such thing")
    try:
        site.served.sql(f"CREATE DATABASE {app.id} TEMPLATE template0 {made_with} OWNER {site.admin}")
    except psycopg.errors.FeatureNotSupported as reason:
        pytest.skip(str(reason))  # the wheel's server was built without ICU
    site.apply([app], adopt=[app.id])
    site.apply([other])
    text = (
        "caf\u00e9 \u00fc"
        if "LATIN" in made_with or "UTF8" in made_with
        else "\u65e5\u672c"
        if "EUC" in made_with
        else "abc"
    )
    with site.enter(app) as session:
        session.execute("SET client_encoding = 'UTF8'")
        session.execute("CREATE TABLE words (w text PRIMARY KEY)")
        session.execute("INSERT INTO words VALUES (%s), ('b'), ('a')", (text,))
        if "ASCII" in made_with:
            session.execute(r"INSERT INTO words VALUES (E'\\xe9\\xff')")
    kept = site.served.sql(f"{_KEPT} '{app.id}'")
    part, files = backed_up(site, app)
    brought_back(site, app, part, files)
    assert site.served.sql(f"{_KEPT} '{app.id}'") == kept
    with archive(site) as (opened, context):  # of an app whose own database is another
        place = opened.prepare(PlaceKind.NEW, other, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.replace(place, context)
    site.apply([other])
    assert site.served.sql(f"{_KEPT} '{other.id}'") == kept
    with site.enter(other) as session:
        assert session.execute("SELECT count(*) FROM words WHERE convert_to(w, 'SQL_ASCII') <> ''").fetchone() in (
            (3,),
            (4,),
        )


def test_what_a_server_cannot_make_is_said_before_anything_goes(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    said: Any = part.details["locale"]
    for change, error, message in (
        (
            {"collate": "tlh_QO", "ctype": "tlh_QO"},
            WrongVersion,
            r"cannot make a database like the set's \(encoding UTF8",
        ),
        ({"encoding": "KLINGON"}, WrongVersion, "cannot make a database like the set's"),
        ({"encoding": "UTF8' OWNER x; --"}, ArchiveError, "no database is made with encoding"),
        ({"collate": 7}, ArchiveError, "collate of the database's locale"),
        ({"provider": "x"}, ArchiveError, "no database is made with"),
    ):
        wrong = Part(
            part.format, part.server, part.client, True, part.measures, {**part.details, "locale": said | change}
        )
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            with pytest.raises(error, match=message):
                opened.restore(place, wrong, files, quiet)
            opened.discard(place)
            assert opened.leftovers(app, context) == []
    assert site.enter(app).execute("SELECT a FROM t").fetchone() == (1,)
    assert Locale.read(said).document() == said


# --- rights ---

_RIGHTS = """
SELECT 'relation', oid::regclass::text, array(SELECT a::text FROM unnest(relacl) a ORDER BY 1)::text FROM pg_class
  WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relnamespace::regnamespace::text !~ '^pg_'
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute
  WHERE attrelid >= 16384 AND attacl IS NOT NULL
UNION ALL SELECT 'routine', oid::regprocedure::text, array(SELECT a::text FROM unnest(proacl) a ORDER BY 1)::text
  FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'type', oid::regtype::text, coalesce(typacl, acldefault('T', typowner))::text FROM pg_type
  WHERE oid >= 16384 AND typtype IN ('e', 'd')
UNION ALL SELECT 'schema', nspname, array(SELECT a::text FROM unnest(nspacl) a ORDER BY 1)::text FROM pg_namespace
  WHERE oid >= 16384 AND nspname !~ '^pg_' OR nspname = 'public'
UNION ALL SELECT 'large object', oid::text, lomowner::regrole || coalesce(lomacl, acldefault('L', lomowner))::text
  FROM pg_largeobject_metadata
UNION ALL SELECT 'default',
  concat_ws(' ', defaclrole::regrole, nullif(defaclnamespace, 0)::regnamespace, defaclobjtype),
  array(SELECT a::text FROM unnest(defaclacl) a ORDER BY 1)::text FROM pg_default_acl
ORDER BY 1, 2"""


def _rights(site: Site, database: str) -> list[Any]:
    return [
        tuple(str(each).replace(database, "app") for each in row) for row in site.served.sql(_RIGHTS, database=database)
    ]


def _with_rights(site: Site, app: App) -> None:
    """Narrowed, widened, by column, by default, on every kind of thing; and large objects of every login."""
    name = app.id
    with site.enter(app, "migrate") as session:
        for text in (
            "CREATE SCHEMA shop; CREATE SCHEMA shut",
            'CREATE TABLE users (id int, email text, "odd ""one" int); INSERT INTO users VALUES (1, \'ann\', 2)',
            f'REVOKE ALL ON users FROM {name}_ro; GRANT SELECT (id), SELECT ("odd ""one") ON users TO {name}_ro',
            f"CREATE TABLE shop.usual (id serial); REVOKE INSERT ON shop.usual FROM {name}_rw",
            f"CREATE TABLE secret (id int); REVOKE ALL ON secret FROM {name}_ro, {name}_rw",
            "CREATE VIEW open_to_all AS SELECT 1 AS a; GRANT SELECT ON open_to_all TO PUBLIC",
            f"CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM users; REVOKE ALL ON counted FROM {name}_ro",
            f"CREATE SEQUENCE numbers; REVOKE ALL ON numbers FROM {name}_rw; GRANT USAGE ON numbers TO {name}_user",
            "CREATE FUNCTION shop.twice(int, text[]) RETURNS int LANGUAGE sql AS 'SELECT 2'",
            f"REVOKE ALL ON FUNCTION shop.twice FROM {name}_ro; GRANT EXECUTE ON FUNCTION shop.twice TO PUBLIC",
            "CREATE TYPE mood AS ENUM ('a'); REVOKE USAGE ON TYPE mood FROM PUBLIC",
            "CREATE DOMAIN small AS int",
            f"CREATE TABLE passed (id int); GRANT SELECT ON passed TO {name}_rw WITH GRANT OPTION",
            f"REVOKE DELETE, TRUNCATE ON passed FROM {name}_owner",
            f"REVOKE ALL ON SCHEMA shut FROM {name}_ro, {name}_rw",
            f"GRANT CREATE ON SCHEMA shop TO {name}_rw",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT TRUNCATE ON TABLES TO {name}_rw",
            "CREATE TABLE shop.by_schema (id int)",
            f"SELECT lo_from_bytea(41, 'owner'); GRANT SELECT ON LARGE OBJECT 41 TO {name}_ro, {name}_user",
            f"CREATE SCHEMA of_rw; GRANT ALL ON SCHEMA of_rw TO {name}_user",
            # What is filled has to be filled again, whatever the owner gives itself on what it makes.
            f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM {name}_owner",
            f"CREATE TABLE after_that (id int); GRANT SELECT ON after_that TO {name}_owner",
        ):
            session.execute(text.encode())
    with site.enter(app) as session:
        session.execute(f"SELECT lo_from_bytea(42, 'user'); GRANT SELECT ON LARGE OBJECT 42 TO {name}_readonly")


@pytest.mark.parametrize("as_other", [False, True])
def test_who_may_do_what_comes_back(site: Site, as_other: bool) -> None:
    app = site.app(roles="split")
    target = site.app(roles="split") if as_other else app
    site.apply([app])
    _with_rights(site, app)
    before = _rights(site, app.id)
    part, files = backed_up(site, app)
    if as_other:
        site.apply([target])
    else:
        with site.enter(app, "migrate") as session:
            session.execute("DROP TABLE secret; GRANT ALL ON users TO PUBLIC")
    brought_back(site, target, part, files)
    assert _rights(site, target.id) == before
    with site.enter(target, "readonly") as session:
        assert session.execute("SELECT id FROM users").fetchall() == [(1,)]
        for refused in ("SELECT email FROM users", "SELECT * FROM secret", "SELECT * FROM counted"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(refused.encode())
    with site.enter(target) as session:
        assert session.execute("SELECT lo_get(42), lo_get(41)").fetchone() == (b"user", b"owner")
        session.execute("SELECT lo_put(42, 0, 'U')")


def test_a_set_of_before_gets_its_rights_from_the_manifest(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    old = {name: value for name, value in part.details.items() if name not in ("rights", "locale")}
    brought_back(site, app, Part(part.format, part.server, part.client, True, part.measures, old), files)
    assert site.enter(app, "readonly").execute("SELECT a FROM t").fetchone() == (1,)


def test_rights_in_a_set_are_data(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute(f"CREATE TABLE t AS SELECT 1 AS a; REVOKE ALL ON t FROM {app.id}_ro")
    part, files = backed_up(site, app)
    said: Any = part.details["rights"]
    ((kind, names, args, column, owner, acl),) = said["things"]
    hostile = 'x"; CREATE ROLE pwned SUPERUSER; --'
    for wrong in (
        [["role", names, args, column, owner, acl]],
        [[kind, ["public", hostile], args, column, owner, acl]],
        [[kind, names, args, hostile, "", [["", "SELECT", False]]]],
        [[kind, names, args, column, owner, [["", "SELECT ON t TO x; --", False]]]],
        [[kind, names, args, column, owner, [["", "SELECT", "yes"]]]],
        [[kind, "public", 7]],
        "things",
    ):
        details = {**part.details, "rights": {"defaults": said["defaults"], "things": wrong}}
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            with pytest.raises(MultidbError):
                opened.restore(
                    place, Part(part.format, part.server, part.client, True, part.measures, details), files, quiet
                )
            opened.discard(place)
    assert site.served.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'pwned'") == [(0,)]


# --- settings ---

_SET = """SELECT coalesce(r.rolname, ''), unnest(s.setconfig) FROM pg_db_role_setting s
JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE d.datname = '{}' ORDER BY 1, 2"""


def _settings(site: Site, app: App) -> list[tuple[str, str]]:
    return [
        (role.replace(app.id, "app"), text.replace(app.id, "app"))
        for role, text in site.served.sql(_SET.format(app.id))
    ]


@pytest.mark.parametrize("as_other", [False, True])
def test_settings_come_back(site: Site, as_other: bool) -> None:
    app = site.app()
    target = site.app() if as_other else app
    site.apply([app])
    sql, login = site.served.sql, f"ALTER ROLE {app.id}_user IN DATABASE {app.id}"
    sql(
        f'{login} SET search_path = shop, public, "Odd; one"',
        f"{login} SET work_mem = '7MB'",
        f"ALTER DATABASE {app.id} SET TimeZone = 'Asia/Tokyo'",
        f"ALTER DATABASE {app.id} SET DateStyle = 'SQL, DMY'",
    )
    if site.admin == SUPERUSER:
        sql(f"ALTER DATABASE {app.id} SET my.own = 'it''s'")
    before = _settings(site, app)
    part, files = backed_up(site, app)
    if as_other:
        site.apply([target])
    else:
        sql(f"{login} SET search_path = spoilt", f"{login} SET random_page_cost = 2")
    brought_back(site, target, part, files)
    later = [] if as_other else [("app_user", "random_page_cost=2")]
    assert _settings(site, target) == sorted([*before, *later])


def test_a_set_sets_nothing_that_takes_an_admin(site: Site) -> None:
    app = site.app()
    site.apply([app])
    part, files = backed_up(site, app)
    said: list[str] = []
    wrong = ["session_preload_libraries=x", "lo_compat_privileges=on", "plpgsql.extra_errors=all", "role=postgres",
             "dblink.x=1", "no such=1", "a.b; DROP ROLE x=1"]  # fmt: skip
    details = {**part.details, "settings": [[None, wrong], [f"{app.id}_user", wrong], ["postgres", ["work_mem=64kB"]]]}
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        set_ = Part(part.format, part.server, part.client, True, part.measures, details)
        opened.restore(place, set_, files, lambda subject, message, *_: said.append(message))
        found = [text for _, text in site.served.sql(_SET.format(place.name))]
        assert found in ([], ['"a.b; DROP ROLE x"=1'])
        assert any("session_preload_libraries" in text for text in said)
        for nonsense in ("x", [1], [["x"]], [[1, ["a=b"]]], [["x", [1]]]):
            place = opened.prepare(PlaceKind.NEW, app, context)
            bad = Part(part.format, part.server, part.client, True, part.measures, {**details, "settings": nonsense})
            with pytest.raises((ValueError, ArchiveError)):
                opened.restore(place, bad, files, quiet)
        opened.discard(place)


# --- what is bound to a database ---


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def replicating(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, wal_level="logical", max_prepared_transactions="5") as made:
        yield made


@pytest.mark.parametrize("admin", [SUPERUSER, PLATFORM])
def test_what_is_bound_to_a_database_is_refused_by_name_before_the_exchange(replicating: Cluster, admin: str) -> None:
    site = Site(replicating, admin)
    app, other = site.app(), site.app()
    site.apply([app, other])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    subscription = "CREATE SUBSCRIPTION \"s ub\" CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)"
    for made, name in (
        (f"SELECT pg_create_logical_replication_slot('slot_{app.id}', 'pgoutput')", f"replication slot slot_{app.id}"),
        (subscription, "subscription s ub"),
        (f"BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'of {app.id}'", f"prepared transaction of {app.id}"),
    ):
        with archive(site) as (opened, context):
            loaded = opened.prepare(PlaceKind.NEW, app, context)
            opened.restore(loaded, part, files, quiet)
            replicating.sql(made, database=app.id)
            with pytest.raises(Refused, match=name) as raised:
                opened.replace(loaded, context)
            with pytest.raises(Refused, match=name):
                opened.prepare(PlaceKind.NEW, app, context)
            assert opened.leftovers(app, context) == [loaded]
            assert isinstance(opened, TableArchive)
            beside = opened.prepare(PlaceKind.SCRATCH, app, context)  # a proof, and single tables, do no harm to it
            opened.restore(beside, part, files, quiet)
            if "prepared" not in name:  # which holds a lock on the table
                opened.replace_tables(beside, ["public.t"], part)
            opened.discard(beside)
            backed_up(site, app)
            backed_up(site, other)
            ends = str(raised.value.hint).split(f"in database {app.id}: ")[1].split("; then run")[0]
            replicating.sql(*ends.split("; "), database=app.id)
            opened.replace(loaded, context)
        site.apply([app])
        assert not site.changes([app])
        assert site.enter(app).execute("SELECT a FROM t").fetchone() == (1,)


@contextlib.contextmanager
def _consumer(served: Cluster, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that takes what the server writes from a slot, until it is ended."""
    address = ("--host=127.0.0.1", f"--port={served.port}", f"--username={SUPERUSER}")
    command = [served.binaries / program, *address, *arguments, "--no-loop", "--status-interval=1"]
    with subprocess.Popen(command, env={"PGPASSWORD": served.password}, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def _until(served: Cluster, query: str) -> None:
    deadline = time.monotonic() + 60
    while served.sql(query) != [(True,)]:
        assert time.monotonic() < deadline, query
        time.sleep(0.05)


@pytest.mark.rare
def test_a_slot_in_use_is_refused_and_ended_by_what_is_said_and_a_standbys_is_left(
    replicating: Cluster, tmp_path: Path
) -> None:
    site = Site(replicating)
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    logical, physical = f"used_{app.id}", f"standby_{app.id}"
    replicating.sql(
        f"SELECT pg_create_logical_replication_slot('{logical}', 'test_decoding')",
        f"SELECT pg_create_physical_replication_slot('{physical}', true)",
        database=app.id,
    )
    used = "SELECT bool_and(active) FROM pg_replication_slots WHERE slot_name IN ('{}', '{}')"
    takes = (f"--slot={logical}", f"--dbname={app.id}", "--start", "--file=-")
    with (
        _consumer(replicating, "pg_receivewal", f"--slot={physical}", f"--directory={tmp_path}") as standby,
        _consumer(replicating, "pg_recvlogical", *takes) as consumer,
    ):
        _until(replicating, used.format(logical, physical))
        with archive(site) as (opened, context):
            with pytest.raises(Refused, match=f": replication slot {logical} would not outlive") as raised:
                opened.prepare(PlaceKind.NEW, app, context)
            assert consumer.poll() is None, "a refusal ends nobody"
            ends = str(raised.value.hint).split(f"in database {app.id}: ")[1].split("; then run")[0]
            replicating.sql(*ends.split("; "), database=app.id)
            assert consumer.wait(timeout=60) != 0
        brought_back(site, app, part, files)
        _until(replicating, used.format(physical, physical))
        assert standby.poll() is None
    replicating.sql(f"SELECT pg_drop_replication_slot('{physical}')")


BOUND = Path(__file__).with_name("postgres_bound.sql").read_text(encoding="utf-8")


def _schema(site: Site, app: App) -> list[str]:
    """What `pg_dump` says of the app's database, for one whose name is app."""
    served = site.served
    asked = subprocess.run(
        [
            *(served.binaries / "pg_dump", "--schema-only", "--host=127.0.0.1", f"--port={served.port}"),
            *("--username=postgres", f"--dbname={app.id}"),
        ],
        env={"PGPASSWORD": served.password},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = asked.stdout.replace(app.id, "app").splitlines()
    return [line for line in lines if line and not line.startswith(("--", "\\"))]


def test_every_kind_of_thing_that_an_app_can_make_comes_back(served: Cluster) -> None:
    site = Site(served)
    app, other = site.app(), site.app()
    site.apply([app, other])
    number = int(served.sql("SHOW server_version_num")[0][0])
    with site.enter(app) as session:
        for text in BOUND.replace("{app}", app.id).encode().split(b";\n"):
            if text.strip() and not (number < 180000 and b"VIRTUAL" in text):
                session.execute(text)
    site.apply([app])
    before = _schema(site, app)
    assert sum("COMMENT ON POLICY" in line for line in before) == 3
    assert any("COMMENT ON EXTENSION citext IS 'of this app'" in line for line in before)
    part, files = backed_up(site, app)
    assert part.notes == ()
    for target in (other, app):
        brought_back(site, target, part, files)
        assert _schema(site, target) == before
        with site.enter(target) as session:
            session.execute("SET search_path = sequences")
            assert session.execute("SELECT nextval('counted'), nextval('counted')").fetchone() == (13, 18)


# What takes a superuser: how it is made, what it is called, whether a load can leave it out.
_OF_ADMINS = (
    ("CREATE PUBLICATION \"every one\" FOR ALL TABLES; COMMENT ON PUBLICATION \"every one\" IS 'x'",
     'publication "every one"', True),
    ("CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA public, TABLE s.t", "publication of_schema", True),
    ("CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION noting(); "
     "COMMENT ON EVENT TRIGGER noted IS 'x'", "event trigger noted", True),
    ("CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER \"far away\" FOREIGN DATA WRAPPER wrapper; "
     "COMMENT ON SERVER \"far away\" IS 'x'; "
     "CREATE USER MAPPING FOR {app}_user SERVER \"far away\" OPTIONS (password 'geheim'); "
     "CREATE FOREIGN TABLE \"S x\".\"far t\" (id serial, a int CONSTRAINT \"c x\" CHECK (a > 0), b int DEFAULT 3) "
     "SERVER \"far away\"; CREATE STATISTICS \"S x\".\"st x\" ON a, b FROM \"S x\".\"far t\"; "
     "CREATE TRIGGER \"t x\" BEFORE INSERT ON \"S x\".\"far t\" FOR EACH ROW EXECUTE FUNCTION trying(); "
     "COMMENT ON FOREIGN TABLE \"S x\".\"far t\" IS 'x'; COMMENT ON COLUMN \"S x\".\"far t\".a IS 'x'; "
     "COMMENT ON CONSTRAINT \"c x\" ON \"S x\".\"far t\" IS 'x'; "
     "COMMENT ON TRIGGER \"t x\" ON \"S x\".\"far t\" IS 'x'; "
     "COMMENT ON STATISTICS \"S x\".\"st x\" IS 'x'; COMMENT ON SEQUENCE \"S x\".\"far t_id_seq\" IS 'x'; "
     "ALTER TABLE \"S x\".\"far t\" OWNER TO {app}_owner",
     'foreign table "S x"."far t"', True),
    ("CREATE VIEW over_there AS SELECT * FROM \"S x\".\"far t\"; CREATE VIEW seen_there AS SELECT a FROM over_there",
     'foreign table "S x"."far t" (with view public.over_there, view public.seen_there)', False),
    ("CREATE ACCESS METHOD ways TYPE INDEX HANDLER bthandler", "access method ways", False),
    ("CREATE LANGUAGE tongue HANDLER plpgsql_call_handler", "language tongue", False),
    ("CREATE FUNCTION inner_one() RETURNS int LANGUAGE internal AS 'pg_backend_pid'",
     "function public.inner_one()", False),
    ("CREATE FUNCTION tight() RETURNS int LEAKPROOF LANGUAGE sql AS 'SELECT 1'", "function public.tight()", False),
    ("CREATE FUNCTION quiet() RETURNS int LANGUAGE sql SET log_min_messages = error AS 'SELECT 1'",
     "function public.quiet()", False),
    ("CREATE FUNCTION tenant() RETURNS int LANGUAGE sql SET app.tenant = '7' AS 'SELECT 1'",
     "function public.tenant()", False),
    ("CREATE AGGREGATE piled (int8) (SFUNC = int8_avg_accum, STYPE = internal, FINALFUNC = numeric_poly_sum)",
     "aggregate public.piled(bigint)", False),
    ("CREATE VIEW summed AS SELECT piled(a) FROM s.t", "aggregate public.piled(bigint) (with view public.summed)",
     False),
    ("CREATE TYPE shell", "type public.shell", False),
    ("CREATE OPERATOR CLASS numbers FOR TYPE int4 USING btree AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int4, int4)",
     "operator class public.numbers USING btree", False),
    ("CREATE INDEX by_number ON s.t (a numbers)", "operator class public.numbers USING btree (with index s.by_number)",
     False),
    ("CREATE TEXT SEARCH PARSER words (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, "
     "LEXTYPES = prsd_lextype)", "text search parser public.words", False),
    ("CREATE CAST (int4 AS xid) WITHOUT FUNCTION", "cast (integer AS pg_catalog.xid)", False),
    ("CREATE TRANSFORM FOR int4 LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))",
     "transform for integer", False),
)  # fmt: skip


_USED = ("CREATE FOREIGN", "CREATE AGGREGATE", "CREATE OPERATOR CLASS")


def test_what_takes_an_admin_is_named_before_the_exchange(served: Cluster) -> None:
    site = Site(served)
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute('CREATE SCHEMA "S x"; CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS a')
        session.execute("CREATE FUNCTION noting() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end'")
        session.execute("CREATE FUNCTION trying() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end'")
    lasting = site.app()
    site.apply([lasting])
    for made, name, alone in _OF_ADMINS:
        served.sql(*made.replace("{app}", app.id).split("; "), database=app.id)
        with archive(site) as (opened, context):
            with pytest.raises(Refused) as raised:
                opened.prepare(PlaceKind.NEW, app, context)
            assert name in raised.value.message
            assert "geheim" not in str(raised.value) + str(raised.value.hint)
            part, files = backed_up(site, app)
            assert name.split(" (with ")[0] in str(part.notes)
            assert "geheim" not in str(part)
            for kind, target in ((PlaceKind.SCRATCH, app), (PlaceKind.NEW, lasting)):
                place = opened.prepare(kind, target, context)
                if alone:
                    opened.restore(place, part, files, quiet)
                    assert opened.measure(place) == part.measures
                else:
                    with pytest.raises(Refused) as refused:
                        opened.restore(place, part, files, quiet)
                    assert name.split(" (with ")[0] in refused.value.message
                opened.discard(place)
        if made.startswith(_USED):
            continue  # for what is made of it in the next line
        ends = str(raised.value.hint).split(f"in database {app.id}: ")[1].split("; then run")[0]
        served.sql(*ends.split("; "), database=app.id)
        part, files = backed_up(site, app)
        assert part.notes == ()
    brought_back(site, app, part, files)
    assert site.enter(app).execute("SELECT a FROM s.t").fetchone() == (1,)


def test_what_a_set_says_of_it_is_data(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    said: Any = part.details["beyond"]
    for wrong in (
        "x",
        {**said, "things": [{"type": "x"}]},
        {**said, "labels": [7]},
        {**said, "mappings": ["x"]},
        {**said, "tablespaces": "x\0"},
    ):
        bad = Part(part.format, part.server, part.client, True, part.measures, {**part.details, "beyond": wrong})
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            with pytest.raises(ArchiveError, match="does not say what no load can make"):
                opened.restore(place, bad, files, quiet)
            opened.discard(place)


def test_a_set_with_security_labels_wants_who_looks_after_them(served: Cluster) -> None:
    site = Site(served)
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    served.sql(
        "SET allow_system_table_mods = on",
        "INSERT INTO pg_seclabel VALUES ('t'::regclass, 'pg_class'::regclass, 0, 'anon', 'MASKED')",
        database=app.id,
    )
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        with pytest.raises(Refused, match="security labels of anon, which the server does not have loaded"):
            opened.restore(place, part, files, quiet)
        opened.discard(place)
        served.sql(
            "SET allow_system_table_mods = on",
            "INSERT INTO pg_shseclabel SELECT oid, 'pg_database'::regclass, 'anon', 'MASKED' FROM pg_database "
            f"WHERE datname = '{app.id}'",
        )
        with pytest.raises(Refused, match="the database's security label of anon"):
            opened.prepare(PlaceKind.NEW, app, context)


_LABELS = "SELECT objtype, objname, provider, label FROM pg_seclabels WHERE objtype <> 'database' ORDER BY 1, 2"


@pytest.mark.rare
@pytest.mark.parametrize("major", [18, 15])
def test_security_labels_come_along_where_who_looks_after_them_is_loaded(major: int) -> None:
    with _provider(major) as provider, cluster(major, shared_preload_libraries=str(provider)) as served:
        site = Site(served)
        app, other = site.app(), site.app()
        site.apply([app, other])
        with site.enter(app) as session:
            session.execute("CREATE TABLE t AS SELECT 1 AS a; CREATE VIEW v AS SELECT a FROM t")
            session.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT lo_create(7)")
            for what in ("COLUMN t.a", "TABLE t", "VIEW v", "FUNCTION f()", "SCHEMA public", "LARGE OBJECT 7"):
                session.execute(f"SECURITY LABEL FOR anon ON {what} IS 'MASKED'".encode())
        before = served.sql(_LABELS, database=app.id)
        assert len(before) == 6
        part, files = backed_up(site, app)
        for target in (other, app):
            brought_back(site, target, part, files)
            assert served.sql(_LABELS, database=target.id) == before
        served.sql(f"SECURITY LABEL FOR anon ON DATABASE {app.id} IS 'MASKED'")
        with archive(site) as (opened, context), pytest.raises(Refused, match="security label of anon") as raised:
            opened.prepare(PlaceKind.NEW, app, context)
        ends = str(raised.value.hint).split(f"in database {app.id}: ")[1].split("; then run")[0]
        served.sql(ends, database=app.id)
        brought_back(site, app, part, files)


@contextlib.contextmanager
def _provider(major: int) -> Iterator[Path]:
    """A library that looks after the security labels of ``anon``, made here of its source."""
    config = binaries(major) / "pg_config"
    asked = subprocess.run([config, "--includedir-server"], capture_output=True, text=True, check=False)
    headers = Path(asked.stdout.strip())
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not (headers / "postgres.h").exists():
        pytest.skip(f"no compiler, or no headers of Postgres {major} (Debian: postgresql-server-dev-{major})")
    source = Path(__file__).with_name("postgres_labels.c")
    with tempfile.TemporaryDirectory(prefix="multidb-labels-") as folder:
        Path(folder).chmod(0o755)  # the server runs as nobody
        made = Path(folder) / "labels.so"
        command = [compiler, "-shared", "-fPIC", f"-I{headers}", "-o", made, source]
        subprocess.run(command, check=True, capture_output=True)
        yield made


def test_tablespaces_are_kept_where_the_app_may_use_them(served: Cluster) -> None:
    site = Site(served)
    app, other = site.app(), site.app()
    site.apply([app, other])
    if not served.sql("SELECT FROM pg_tablespace WHERE spcname = 'Fast disk'"):
        served.sql("CREATE TABLESPACE \"Fast disk\" LOCATION ''", "CREATE TABLESPACE home LOCATION ''")
    served.sql(
        f'GRANT CREATE ON TABLESPACE "Fast disk" TO {app.id}_owner', f"ALTER DATABASE {app.id} SET TABLESPACE home"
    )
    with site.enter(app) as session:
        session.execute('CREATE TABLE t TABLESPACE "Fast disk" AS SELECT 1 AS a')
    part, files = backed_up(site, app)
    assert part.notes == ()
    for target, kept in ((other, (None, "pg_default")), (app, ("Fast disk", "home"))):
        brought_back(site, target, part, files)
        ((table,),) = served.sql("SELECT tablespace FROM pg_tables WHERE tablename = 't'", database=target.id)
        ((whole,),) = served.sql(
            "SELECT spcname FROM pg_tablespace t JOIN pg_database d ON d.dattablespace = t.oid "
            f"WHERE datname = '{target.id}'"
        )
        assert (table, whole) == kept
    served.sql(f'REVOKE CREATE ON TABLESPACE "Fast disk" FROM {app.id}_owner')
    (note,) = backed_up(site, app)[0].notes
    served.sql(note.partition(": ")[2])
    assert backed_up(site, app)[0].notes == ()


_STORED = """SELECT c.relname, attname, attstorage::text, coalesce(to_jsonb(a) ->> 'attcompression', '')
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
WHERE relnamespace = 'public'::regnamespace AND attnum > 0 ORDER BY 1, 2"""


def test_long_values_under_another_storage_than_they_were_stored_in_come_back(site: Site) -> None:
    app, other = site.app(), site.app()
    site.apply([app, other])
    with site.enter(app) as session:
        session.execute('CREATE TABLE "t T" (id int, "a A" text, b text, c text, UNIQUE (id, "a A"))')
        session.execute('CREATE INDEX ON "t T" (b); CREATE INDEX ON "t T" ("a A") INCLUDE (id)')
        rows = "1, repeat('x', 100000), repeat('y', 100000), repeat('z', 100000)"
        session.execute(f'INSERT INTO "t T" VALUES ({rows})'.encode())
        session.execute('CREATE MATERIALIZED VIEW seen AS SELECT * FROM "t T"; CREATE INDEX ON seen ("a A")')
        session.execute('ALTER MATERIALIZED VIEW seen ALTER "a A" SET STORAGE EXTERNAL')
        session.execute('ALTER TABLE "t T" ALTER "a A" SET STORAGE EXTERNAL, ALTER c SET STORAGE PLAIN')
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # the wheel's server has no other compression
            session.execute('ALTER TABLE "t T" ALTER b SET COMPRESSION lz4')
        session.execute("CREATE TABLE hashed (a text, b text, c text[], d text)")
        session.execute("CREATE INDEX ON hashed USING hash (a); CREATE INDEX ON hashed USING gin (c)")
        session.execute("ALTER TABLE hashed ALTER a SET STORAGE EXTERNAL, ALTER c SET STORAGE MAIN")
        session.execute("ALTER TABLE hashed ALTER a SET COMPRESSION pglz, ALTER b SET STORAGE EXTERNAL")
        session.execute("ALTER TABLE hashed ALTER b SET COMPRESSION pglz, ALTER d SET STORAGE EXTERNAL")
        session.execute("CREATE INDEX ON hashed USING hash (b)")
    before = site.served.sql(_STORED, database=app.id)
    part, files = backed_up(site, app)
    for target in (other, app):
        brought_back(site, target, part, files)
        assert site.served.sql(_STORED, database=target.id) == before
    with archive(site) as (opened, context):
        assert isinstance(opened, TableArchive)
        beside = opened.prepare(PlaceKind.SCRATCH, other, context)
        opened.restore(beside, part, files, quiet)
        with site.enter(other) as session:
            session.execute("DROP MATERIALIZED VIEW seen")
        opened.replace_tables(beside, ['public."t T"'], part)
        for wrong in ("x", [["a"]], [["public", "t T", "b", "STORAGE", "EXTERNAL", "EXTERNAL; DROP TABLE x"]]):
            bad = Part(part.format, part.server, part.client, True, part.measures, {**part.details, "storage": wrong})
            beside = opened.prepare(PlaceKind.SCRATCH, other, context)
            with pytest.raises(ArchiveError, match="does not say how columns are stored"):
                opened.restore(beside, bad, files, quiet)
        opened.discard(beside)
    stored = site.served.sql(_STORED, database=other.id)
    assert stored == [each for each in before if not each[0].startswith("seen")]


def test_a_table_alone_stays_in_its_publications(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t (id int PRIMARY KEY, n int, \"O dd\" text); INSERT INTO t VALUES (1, 2, 'x')")
        session.execute("CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT")
        session.execute('CREATE PUBLICATION "so;me" FOR TABLE t (id, "O dd") WHERE (id > 0), p; CREATE PUBLICATION q')
        session.execute("CREATE STATISTICS st ON id, n FROM t; COMMENT ON STATISTICS st IS 'some'")
        session.execute("ALTER STATISTICS st SET STATISTICS 9")
    part, files = backed_up(site, app)
    before = _schema(site, app)
    with site.enter(app) as session:
        session.execute("UPDATE t SET n = 7; ALTER PUBLICATION q ADD TABLE ONLY p1")
    with archive(site) as (opened, context):
        assert isinstance(opened, TableArchive)
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
        opened.replace_tables(place, ["public.t", "public.p"], part)
        opened.discard(place)
    after = _schema(site, app)
    assert [line for line in after if line not in before] == ["ALTER PUBLICATION q ADD TABLE ONLY public.p1;"]
    assert [line for line in before if line not in after] == []
    assert site.enter(app).execute("SELECT n FROM t").fetchone() == (2,)


# --- size ---


@pytest.mark.parametrize(
    "question",
    [
        "_COUNTS",
        "_PLANNED",
        "CALLS",
        "INVALID",
        "HIDDEN",
        "UNREADABLE",
        "EMPTY",
        "POLICIES",
        "SCHEMAS",
        "OUTWARD",
        "INWARD",
    ],
)
def test_what_is_asked_of_a_database_grows_with_it_and_no_faster(served: Cluster, question: str) -> None:
    site = Site(served)
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        for number in range(200):  # the server has no statistics of them yet, as in a database that was just loaded
            tables = " ".join(f"CREATE TABLE t{table} (n int PRIMARY KEY)" for table in range(3))
            session.execute(f"CREATE SCHEMA s{number} {tables}".encode())
    about = "s7" if question in ("OUTWARD", "INWARD") else f"{app.id}_owner"
    text = getattr(contents, question).replace("$1", f"'{about}'")
    ((relations,),) = served.sql("SELECT count(*) FROM pg_class", database=app.id)
    ((explained,),) = served.sql(*contents.READING, f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", database=app.id)
    assert max(_looked_at(explained[0]["Plan"])) < 4 * relations


def _looked_at(node: dict[str, Any]) -> Iterator[float]:
    """How many rows each node of a plan, and what is under it, has looked at."""
    yield (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    yield node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"]
    for part in node.get("Plans", ()):
        yield from _looked_at(part)


@pytest.mark.rare
def test_a_large_object_of_more_than_a_value_can_have_is_backed_up(served: Cluster) -> None:
    site = Site(served)
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("SELECT lo_from_bytea(1, 'small'), lo_from_bytea(2, ''), lo_create(3), lo_create(4)")
        session.execute(
            "SET statement_timeout = 0; SELECT lo_put(3, 1100000000, 'end')"
        )  # what is between takes no room
        session.execute(f"SELECT lo_put(4, {contents._PIECE - 1}, 'x')")  # exactly one piece
    part, _ = backed_up(site, app)
    assert part.measures.counts["large objects"] == 4
    assert "large objects" not in part.measures.fingerprints
    for change in ("lo_put(3, 1100000001, 'x')", "lo_put(2, 0, ' ')"):
        with site.enter(app) as session:
            session.execute(f"SELECT {change}".encode())
        with archive(site) as (opened, context):
            found = opened.measure(opened.live(app, context)).fingerprints["large objects, in pieces"]
        assert found != part.measures.fingerprints["large objects, in pieces"], change
    with site.enter(app) as session:
        session.execute("SELECT lo_unlink(3), lo_unlink(4)")
        session.execute("SELECT lo_unlink(2), lo_from_bytea(2, '')")
        earlier = "SELECT sum(hashtextextended(oid || ' ' || md5(lo_get(oid)), 0))::text FROM pg_largeobject_metadata"
        wanted = session.execute(earlier.encode()).fetchone()
    with archive(site) as (opened, context):
        assert wanted == (opened.measure(opened.live(app, context)).fingerprints["large objects"],)
