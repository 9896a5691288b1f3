"""Databases with extensions come back with them, in their version, their schema and what is configured of them, and
nothing of an extension becomes the app's: on real servers, with extensions of the distribution and of our own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from multidb.errors import ArchiveError, NotAllowed, Refused, StatementFailed
from multidb.model import App, Part, PlaceKind
from multidb.provisioners.postgres.provision import admin_inside
from tests.contract.postgres_sets import Files, archive, backed_up, brought_back, quiet
from tests.contract.postgres_site import Site, restrict
from tests.support.postgres_extensions import FILES
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server

_HAVE = """SELECT e.extname, e.extversion, n.nspname, pg_get_userbyid(e.extowner)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 1"""


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, shipped=FILES) as made:
        yield made


@pytest.fixture(params=[SUPERUSER, PLATFORM])
def site(served: Cluster, request: pytest.FixtureRequest) -> Site:
    return Site(served, request.param)


@pytest.fixture
def superuser(served: Cluster) -> Site:
    return Site(served)


def an_app(site: Site, *extensions: str, make: tuple[str, ...] = (), **options: Any) -> App:
    """An app that has made these extensions by itself; `make` is SQL of the superuser in its database."""
    app = site.app(**options)
    site.apply([app])
    with site.enter(app, "migrate" if options.get("roles") == "split" else "user") as session:
        session.execute("CREATE SCHEMA kept")
        for extension in extensions:
            session.execute(f"CREATE EXTENSION {extension}".encode())
    if make:
        site.served.sql(*make, database=app.id)
    return app


def made_another_apps(site: Site, app: App, part: Part, files: Files, **options: Any) -> App:
    """The set as a new app's, as `clone` and `restore --as` do it."""
    other = site.app(**options)
    site.apply([other])
    brought_back(site, other, part, files)
    return other


def test_an_extension_of_an_apps_own_comes_back_in_its_version_and_schema_and_is_its_own(site: Site) -> None:
    app = an_app(site, "tt_trusted SCHEMA kept VERSION '1.0'", "hstore SCHEMA kept", "tt_own", "btree_gin")
    with site.enter(app) as session:
        session.execute("ALTER EXTENSION hstore UPDATE TO '1.8'")
        session.execute("CREATE TABLE felt (m kept.mood, p kept.pair, s kept.span, n kept.positive, h kept.hstore)")
        session.execute("INSERT INTO felt VALUES ('well', (1, 'x'), '[2020-01-01,2021-01-01)', 3, 'a=>1')")
        session.execute("INSERT INTO choice VALUES (1, 'one'), (2, 'two')")
    assert not site.changes([app])
    have = site.served.sql(_HAVE, database=app.id)
    assert ("tt_trusted", "1.0", "kept", f"{app.id}_owner") in have
    part, files = backed_up(site, app)
    with site.enter(app) as session:
        session.execute("DROP EXTENSION tt_own, btree_gin")
        session.execute("ALTER EXTENSION tt_trusted UPDATE")
    brought_back(site, app, part, files)
    other = made_another_apps(site, app, part, files)
    assert site.served.sql(_HAVE, database=app.id) == have
    for each in (app, other):
        assert site.served.sql("SELECT * FROM choice ORDER BY 1", database=each.id) == [(1, "one"), (2, "two")]
        with site.enter(each) as session:
            session.execute("DROP EXTENSION tt_own, btree_gin, tt_trusted, hstore CASCADE")


@pytest.mark.parametrize("made_by", ["app", "admin"])
def test_what_is_configured_comes_back_and_is_loaded_by_a_login_without_power(superuser: Site, made_by: str) -> None:
    create = "CREATE EXTENSION tt_trusted SCHEMA kept"
    app = an_app(superuser, make=(create,) if made_by == "admin" else ())
    if made_by == "app":
        with superuser.enter(app) as session:
            session.execute(create.encode())
    configured = (
        "INSERT INTO kept.setting VALUES ('ours', 'kept')",
        "SELECT setval('kept.setting_number', 77)",
        "UPDATE kept.setting SET value = 'changed' WHERE shipped",
    )
    superuser.served.sql(*configured, database=app.id)
    have = superuser.served.sql(_HAVE, database=app.id)
    part, files = backed_up(superuser, app)
    superuser.served.sql("DELETE FROM kept.setting WHERE NOT shipped", database=app.id)
    brought_back(superuser, app, part, files)
    other = made_another_apps(superuser, app, part, files)
    assert superuser.served.sql(_HAVE, database=app.id) == have
    for each in (app, other):
        sql = superuser.served.sql
        rows = sql("SELECT name, value FROM kept.setting ORDER BY 1", database=each.id)
        assert rows == [("given", "by the script"), ("ours", "kept")]
        assert sql("SELECT last_value FROM kept.setting_number", database=each.id) == [(77,)]
        wrote = sql("SELECT who, really FROM kept.writer WHERE who <> 'postgres'", database=each.id)
        assert wrote == [(f"{each.id}__delegate",) * 2]
        left = "SELECT relname FROM pg_class WHERE relnamespace = 'kept'::regnamespace AND relacl::text ~ '__delegate'"
        assert sql(left, database=each.id) == []
        with superuser.enter(each) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("INSERT INTO kept.setting VALUES ('more', '')")


def test_measures_tell_what_is_configured(superuser: Site) -> None:
    app = an_app(superuser, "tt_trusted SCHEMA kept")
    superuser.served.sql("INSERT INTO kept.setting VALUES ('ours', 'kept')", database=app.id)
    part, files = backed_up(superuser, app)
    with archive(superuser) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        superuser.served.sql("UPDATE kept.setting SET value = 'x' WHERE NOT shipped", database=place.name)
        assert opened.measure(place) != part.measures
        opened.discard(place)


def test_rows_that_nobody_may_load_are_said_and_none_are_no_matter(served: Cluster) -> None:
    platform = Site(served, PLATFORM)
    app = an_app(platform, "tt_trusted SCHEMA kept")
    brought_back(platform, app, *backed_up(platform, app))
    served.sql("INSERT INTO kept.setting VALUES ('ours', 'kept')", database=app.id)
    part, files = backed_up(platform, app)
    with archive(platform) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        with pytest.raises(NotAllowed, match=rf"app {app.id} has configured of extensions \(tt_trusted\)") as raised:
            opened.restore(place, part, files, quiet)
        opened.discard(place)
    assert "use a superuser as the admin login" in str(raised.value.hint)
    assert served.sql("SELECT count(*) FROM kept.setting", database=app.id) == [(2,)]


def test_a_script_finds_what_it_needs_and_what_it_leaves_is_the_apps(superuser: Site) -> None:
    app = an_app(superuser, "tt_trusted SCHEMA kept")
    superuser.served.sql("SET search_path = public", f"ALTER DATABASE {app.id} SET search_path = kept, public")
    with psycopg.connect(
        host="127.0.0.1", port=superuser.served.port, user=SUPERUSER, password=superuser.served.password, dbname=app.id
    ) as session:
        session.execute("CREATE EXTENSION tt_admins")
        session.execute("ALTER SCHEMA tt_rooms OWNER TO " + f"{app.id}_owner")
        session.execute(f"GRANT SELECT ON secret TO {app.id}_owner")
        session.execute("INSERT INTO secret VALUES ('word')")
    superuser.served.sql(f"ALTER DATABASE {app.id} RESET search_path")
    with superuser.enter(app) as session:
        session.execute("CREATE TABLE tt_rooms.one (a int)")
    have = superuser.served.sql(_HAVE, database=app.id)
    part, files = backed_up(superuser, app)
    for _ in range(2):  # a set of what came back brings it back, too
        brought_back(superuser, app, part, files)
        assert superuser.served.sql(_HAVE, database=app.id) == have
        set_ = f"""SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
          WHERE datname = '{app.id}' AND setrole = 0"""
        assert superuser.served.sql(set_) == []
        assert superuser.served.sql("SELECT * FROM kept.secret", database=app.id) == [("word",)]
        with superuser.enter(app) as session:
            session.execute("INSERT INTO tt_rooms.one VALUES (1)")
            session.execute("CREATE TABLE IF NOT EXISTS tt_rooms.two (a int)")
        part, files = backed_up(superuser, app)


def test_what_an_app_does_to_an_extension_that_is_its_own_stays_without_power(superuser: Site) -> None:
    app = an_app(superuser, "tt_own")
    with superuser.enter(app) as session:
        session.execute("CREATE TABLE seen (who text, mighty bool)")
        session.execute(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; INSERT INTO public.seen "
            "SELECT session_user, rolsuper FROM pg_roles WHERE rolname = session_user; RETURN NEW; END $$"
        )
        session.execute("CREATE TRIGGER looks BEFORE INSERT ON choice FOR EACH ROW EXECUTE FUNCTION look()")
        session.execute("CREATE FUNCTION word() RETURNS text LANGUAGE sql AS $$ SELECT 'default' $$")
        session.execute("ALTER TABLE choice ALTER word SET DEFAULT word()")
        session.execute("INSERT INTO choice VALUES (1)")
        session.execute("DELETE FROM seen")
        # a table of its own where the extension's was, which then is no configuration of anybody's
        session.execute("CREATE EXTENSION tt_trusted SCHEMA kept")
    brought_back(superuser, app, *backed_up(superuser, app))
    assert superuser.served.sql("SELECT * FROM choice", database=app.id) == [(1, "default")]
    assert superuser.served.sql("SELECT count(*) FROM seen WHERE mighty", database=app.id) == [(0,)]
    with superuser.enter(app) as session:
        session.execute("ALTER EXTENSION tt_own DROP TABLE choice")
        session.execute("DROP EXTENSION tt_own")
        session.execute("INSERT INTO choice VALUES (2)")
    brought_back(superuser, app, *backed_up(superuser, app))
    assert superuser.served.sql("SELECT id FROM choice ORDER BY 1", database=app.id) == [(1,), (2,)]


def test_a_set_gives_no_table_to_write_that_is_no_extensions(superuser: Site, monkeypatch: Any) -> None:
    app = an_app(superuser, "tt_trusted SCHEMA kept")
    superuser.served.sql("INSERT INTO kept.setting VALUES ('ours', '')", database=app.id)
    part, files = backed_up(superuser, app)
    part.details["extensions"][:] = []  # type: ignore[index]
    given: list[str] = []
    monkeypatch.setattr(admin_inside.AdminInside, "let_fill", lambda self, relation, login: given.append(relation.name))
    with archive(superuser) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        with pytest.raises(ArchiveError, match="setting"):
            opened.restore(place, part, files, quiet)
        opened.discard(place)
    assert given == []


def test_what_an_app_has_given_to_an_extension_is_named_before_it_would_be_lost(site: Site) -> None:
    app = an_app(site, "hstore")
    with site.enter(app) as session:
        session.execute('CREATE TABLE kept."t %" AS SELECT 7 AS a')
        session.execute("CREATE FUNCTION kept.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        session.execute('CREATE VIEW kept.v AS SELECT kept.f(a), a FROM kept."t %"')
        assert backed_up(site, app)[0].notes == ()
        session.execute('ALTER EXTENSION hstore ADD TABLE kept."t %"; ALTER EXTENSION hstore ADD FUNCTION kept.f')
    part, _ = backed_up(site, app)
    (note,) = part.notes
    assert 'does not have table kept."t %" (of extension hstore), function kept.f(integer)' in note.replace(
        " and ", ", "
    )
    with archive(site) as (opened, context), pytest.raises(Refused, match="would not outlive") as raised:
        opened.prepare(PlaceKind.NEW, app, context)
    ends = str(raised.value.hint).split(f"in database {app.id}: ")[1].split("; then run")[0]
    with site.enter(app) as session:
        session.execute(ends.encode())
    part, files = backed_up(site, app)
    assert part.notes == ()
    brought_back(site, app, part, files)
    assert site.enter(app).execute("SELECT * FROM kept.v").fetchone() == (1, 7)


def test_what_the_server_lacks_is_named_with_its_app(superuser: Site) -> None:
    app = an_app(superuser, "tt_trusted SCHEMA kept")
    part, files = backed_up(superuser, app)
    entries: Any = part.details["extensions"]
    said: list[str] = []
    for name, version, message in (
        ("tt_trusted", "9.9", rf"the backup of app {app.id} needs: tt_trusted 9\.9 \(it has 2\.0\)"),
        ("tt_nowhere", "1", rf"the backup of app {app.id} needs: tt_nowhere 1$"),
        ("tt_trusted", "0.5", ""),  # it says itself how that becomes the version that is there
    ):
        entries[:] = [[name, version, "kept", f"{app.id}_owner"]]
        with archive(superuser) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            if message:
                with pytest.raises(ArchiveError, match=message) as raised:
                    opened.restore(place, part, files, quiet)
                assert "pg_available_extension_versions" in str(raised.value.hint)
                assert (
                    superuser.served.sql("SELECT nspname FROM pg_namespace WHERE nspname = 'kept'", database=place.name)
                    == []
                )
            else:
                opened.restore(place, part, files, lambda subject, text, *_: said.append(f"{subject}: {text}"))
                assert superuser.served.sql(_HAVE, database=place.name)[0][1] == "2.0"
            opened.discard(place)
    assert f"{app.id}: extension tt_trusted becomes 2.0: the server has 0.5 of the set no longer" in said


def test_one_that_is_made_in_one_database_only_is_said_by_name(superuser: Site) -> None:
    app = an_app(superuser, make=("CREATE EXTENSION tt_single",))
    part, files = backed_up(superuser, app)
    with archive(superuser) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        with pytest.raises(ArchiveError, match=f"extension tt_single 1 of app {app.id} cannot be made in") as raised:
            opened.restore(place, part, files, quiet)
        opened.discard(place)
    assert f'in database {app.id}, DROP EXTENSION "tt_single", then multidb backup {app.id}' in str(raised.value.hint)


def test_what_an_extension_keeps_apart_by_login_is_in_no_set(superuser: Site) -> None:
    make = ("CREATE EXTENSION tt_apart", "INSERT INTO job VALUES ('a secret')")
    app = an_app(superuser, make=make)
    said: list[str] = []
    files = Files()
    with archive(superuser) as (opened, context):
        part = opened.backup(app, context, files, lambda subject, text, *_: said.append(text))
    assert "rows of public.job are not in the set: extension tt_apart shows an app some of them only" in said
    brought_back(superuser, app, part, files)
    assert superuser.served.sql("SELECT * FROM job", database=app.id) == []


def test_configuration_that_an_app_may_not_read_is_named_and_its_grant_works(superuser: Site) -> None:
    app = an_app(superuser, make=("CREATE EXTENSION tt_own", "INSERT INTO choice VALUES (1, 'one')"))
    with pytest.raises(ArchiveError, match=r"table public\.choice \(of extension tt_own\)") as raised:
        backed_up(superuser, app)
    grants = str(raised.value.hint).partition("in its database: ")[2].partition("; then run")[0]
    superuser.served.sql(*grants.split("; "), database=app.id)
    part, files = backed_up(superuser, app)
    brought_back(superuser, app, part, files)
    brought_back(superuser, app, *backed_up(superuser, app))  # what came back can be backed up
    assert superuser.served.sql("SELECT * FROM choice", database=app.id) == [(1, "one")]
    owner = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'choice'"
    assert superuser.served.sql(owner, database=app.id) == [("postgres",)]


def test_a_database_with_extensions_only_is_empty_and_nothing_of_them_is_handed_over(site: Site) -> None:
    app = an_app(site, "tt_trusted", "tt_own", "btree_gist")
    assert not site.changes([app])
    with archive(site) as (opened, context):
        assert opened.is_empty(opened.live(app, context))
        with site.enter(app) as session:
            session.execute("CREATE TYPE mine AS (a int)")
        assert not opened.is_empty(opened.live(app, context))


def test_types_of_an_extension_stay_where_a_database_is_taken_over(superuser: Site) -> None:
    app = superuser.app()
    superuser.served.sql(f"CREATE DATABASE {app.id}")
    superuser.served.sql("CREATE EXTENSION tt_trusted", "CREATE TYPE mine AS (a int)", database=app.id)
    whose = (
        "SELECT typname, pg_get_userbyid(typowner) FROM pg_type WHERE typname IN ('pair', 'mood', 'mine') ORDER BY 1"
    )
    superuser.apply([app], adopt=[app.id])
    superuser.apply([app])
    assert superuser.served.sql(whose, database=app.id) == [
        ("mine", f"{app.id}_owner"),
        ("mood", "postgres"),
        ("pair", "postgres"),
    ]


def test_a_script_with_a_schema_of_its_own_meets_no_function_of_the_app_either(superuser: Site) -> None:
    app = an_app(superuser)
    with superuser.enter(app) as session:
        session.execute("CREATE FUNCTION public.soundex(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
    wanting = App(app.id, app.id, superuser.app(extensions=("tt_fixed",)).stores)
    with pytest.raises(StatementFailed, match="the schema public holds 1 functions"):
        superuser.apply([wanting])
    with superuser.enter(app) as session:
        session.execute("DROP FUNCTION public.soundex")
    superuser.apply([wanting])
    assert [row[:3] for row in superuser.served.sql(_HAVE, database=app.id)] == [("tt_fixed", "1", "tt_fixed")]


_MEMBERS = """SELECT d.objid::regclass::text, relacl::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
  WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
UNION ALL SELECT d.objid::regprocedure::text, proacl::text FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
  WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
  AND p.oid >= 16384 ORDER BY 1"""


@pytest.mark.parametrize("roles", ["simple", "split"])
def test_no_right_of_an_apps_logins_reaches_what_an_extension_has(served: Cluster, site: Site, roles: str) -> None:
    app = site.app(roles=roles)
    served.sql(f"CREATE DATABASE {app.id} OWNER {site.admin}")
    served.sql("CREATE EXTENSION tt_some SCHEMA public", database=app.id)
    made = ("CREATE TABLE own (id serial, a int)", "CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'",
            "REVOKE ALL ON FUNCTION two() FROM PUBLIC", "INSERT INTO own (a) VALUES (1), (2)")  # fmt: skip
    served.sql(f"SET ROLE {site.admin}", f"GRANT CREATE ON SCHEMA public TO {site.admin}", database=app.id)
    served.sql(f"SET ROLE {site.admin}", *made, database=app.id)
    members = served.sql(_MEMBERS, database=app.id)
    assert len(members) == 6

    def reached() -> None:
        assert served.sql(_MEMBERS, database=app.id) == members
        for login, writes in (("user", True), ("readonly", False)):
            with site.enter(app, login) as session:
                session.execute("SET default_transaction_read_only = off")
                assert session.execute("SELECT two(), open_to_all(), count(*) FROM displayed").fetchone() == (2, 1, 0)
                refused = ["SELECT * FROM hidden", "DELETE FROM displayed", "SELECT closed(1)", "SELECT * FROM looked"]
                if not writes:
                    refused.append("INSERT INTO own (a) VALUES (3)")
                else:
                    session.execute("INSERT INTO own (a) VALUES (3)")
                for text in refused:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        session.execute(text.encode())

    site.apply([app], adopt=[app.id])
    assert not site.changes([app])
    reached()
    assert restrict(site, app, read_only=True) == []
    with site.enter(app) as session:
        session.execute("DELETE FROM own WHERE a = 1")
        for text in ("DELETE FROM displayed", "INSERT INTO own (a) VALUES (1)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(text.encode())
    assert served.sql(_MEMBERS, database=app.id) == members
    assert restrict(site, app, read_only=False) == []
    reached()
    # as earlier versions did, and only a superuser may take back
    served.sql(f"GRANT DELETE, TRUNCATE ON displayed, looked TO {app.id}_restricted", database=app.id)
    takes_back = [
        f'REVOKE DELETE, TRUNCATE ON TABLE public.{table} FROM "{app.id}_restricted"'
        for table in ("displayed", "looked")
    ]
    sent = [statement.text for change in site.changes([app]) for statement in change.statements]
    assert sent == (takes_back if site.admin == SUPERUSER else [])
    site.apply([app])
    assert not site.changes([app])
    assert ("_restricted" in str(served.sql(_MEMBERS, database=app.id))) is (site.admin == PLATFORM)


_GIVEN = """SELECT kind, name, grantee, right_, grantor FROM (
  SELECT 'relation' AS kind, c.oid::regclass::text AS name, relacl AS acl, c.oid FROM pg_class c
  UNION ALL SELECT 'routine', oid::regprocedure::text, proacl, oid FROM pg_proc
  UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, attacl, attrelid FROM pg_attribute) t,
  LATERAL (SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE replace(grantee::regrole::text, '{app}_', '') END AS grantee,
    privilege_type || is_grantable::text AS right_, replace(grantor::regrole::text, '{app}_', '') AS grantor
    FROM aclexplode(acl)) x
WHERE EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'e') AND t.oid >= 16384
ORDER BY 1, 2, 3, 4"""
_GIVES = (
    "GRANT SELECT ON displayed TO {app}_ro",
    "GRANT SELECT, UPDATE (a) ON hidden TO {app}_user",
    "GRANT USAGE ON SEQUENCE hidden_number TO {app}_user",
    "GRANT EXECUTE ON FUNCTION closed(int) TO {app}_owner WITH GRANT OPTION",
    "SET ROLE {app}_owner; GRANT EXECUTE ON FUNCTION closed(int) TO {app}_ro; RESET ROLE",
    "REVOKE ALL ON FUNCTION open_to_all() FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION open_to_all() TO {app}_readonly",
)  # fmt: skip


def test_rights_on_what_an_extension_has_come_back_with_who_gave_them_and_a_set_gives_none(superuser: Site) -> None:
    sql = superuser.served.sql
    app = an_app(superuser, roles="split", extensions=("tt_some",))
    untouched = sql(_GIVEN.format(app=app.id), database=app.id)
    sql(*(text.format(app=app.id) for text in _GIVES), database=app.id)
    before = sql(_GIVEN.format(app=app.id), database=app.id)
    assert ("routine", "closed(integer)", "ro", "EXECUTEfalse", "owner") in before
    part, files = backed_up(superuser, app)
    (note,) = part.notes
    assert "public.hidden" in note
    assert "an admin gives them" in note
    brought_back(superuser, app, part, files)
    assert sql(_GIVEN.format(app=app.id), database=app.id) == before
    # Nobody has given the other app anything: what was taken stays taken, what everybody has comes, the rest is said.
    other = superuser.app(roles="split", extensions=("tt_some",))
    superuser.apply([other])
    said: list[str] = []
    with archive(superuser) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, other, context)
        opened.restore(place, part, files, lambda subject, text, *_: said.append(text))
        opened.replace(place, context)
    (left,) = (text for text in said if "an admin gives them: " in text)
    has = sql(_GIVEN.format(app=other.id), database=other.id)
    everybodys = {each for each in before if each[1] in ("displayed", "open_to_all()")}
    assert {each for each in has if each[1] in ("displayed", "open_to_all()")} == everybodys
    rest = {each for each in has if each not in everybodys}
    assert rest == {each for each in untouched if each[1] not in ("displayed", "open_to_all()")}
    sql(*left.partition("an admin gives them: ")[2].split("; "), database=other.id)
    assert {each[:4] for each in sql(_GIVEN.format(app=other.id), database=other.id)} == {each[:4] for each in before}


_GIVES_ON_TRUSTED = (
    "GRANT SELECT ON kept.writer TO {app}_ro",
    "GRANT UPDATE (who) ON kept.writer TO {app}_user",
    "REVOKE INSERT ON kept.writer FROM PUBLIC",
    "REVOKE ALL ON FUNCTION kept.one() FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION kept.one() TO {app}_owner WITH GRANT OPTION",
    "SET ROLE {app}_owner; GRANT EXECUTE ON FUNCTION kept.one() TO {app}_ro; RESET ROLE",
    "GRANT USAGE ON SEQUENCE kept.setting_number TO {app}_user",
)  # fmt: skip


def test_rights_that_an_admin_cannot_give_are_said_with_the_statements_that_do(served: Cluster) -> None:
    platform = Site(served, PLATFORM)
    app = an_app(platform, "tt_trusted SCHEMA kept")  # what is in it is the superuser's
    served.sql(*(text.format(app=app.id) for text in _GIVES_ON_TRUSTED), database=app.id)
    before = served.sql(_GIVEN.format(app=app.id), database=app.id)
    part, files = backed_up(platform, app)
    other, said = platform.app(), list[str]()
    platform.apply([other])
    for target in (app, other):
        said.clear()
        with archive(platform) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, target, context)
            opened.restore(place, part, files, lambda _, text, *__: said.append(text))
            opened.replace(place, context)
        has = served.sql(_GIVEN.format(app=target.id), database=target.id)
        assert {grantee for _, _, grantee, *_ in has} == {SUPERUSER, "PUBLIC"}
        (left,) = (text for text in said if "an admin gives them: " in text)
        served.sql(*left.partition("an admin gives them: ")[2].split("; "), database=target.id)
        has = {each[:4] for each in served.sql(_GIVEN.format(app=target.id), database=target.id)}
        assert has == {each[:4] for each in before}


def test_rights_on_an_extension_of_the_apps_own_come_back(site: Site) -> None:
    app = an_app(site, "tt_own", roles="simple")
    with site.enter(app) as session:
        session.execute(f"GRANT SELECT ON choice TO {app.id}_readonly")
        session.execute(f"REVOKE DELETE ON choice FROM {app.id}_rw")
    before = site.served.sql(_GIVEN.format(app=app.id), database=app.id)
    part, files = backed_up(site, app)
    assert part.notes == ()
    brought_back(site, app, part, files)
    assert site.served.sql(_GIVEN.format(app=app.id), database=app.id) == before
    other = made_another_apps(site, app, part, files)
    assert site.served.sql(_GIVEN.format(app=other.id), database=other.id) == before


# --- extensions of the distribution ---

_POSTGIS = (
    "postgis",
    "fuzzystrmatch",
    "postgis_raster",
    "postgis_topology",
    "postgis_tiger_geocoder",
    "postgis_sfcgal",
    "address_standardizer",
)
_GEOMETRY = """
INSERT INTO spatial_ref_sys SELECT 990001, 'ours', 990001, srtext, proj4text FROM spatial_ref_sys WHERE srid = 3857;
INSERT INTO tiger.geocode_settings VALUES ('debug_reverse_geocode', 'true', 'boolean', 'debug', 'ours');
SELECT topology.CreateTopology('city', 4326);
SELECT topology.AddNode('city', 'SRID=4326;POINT(1 2)')"""


def test_postgis_comes_back(superuser: Site) -> None:
    there = {name for (name,) in superuser.served.sql("SELECT name FROM pg_available_extensions")}
    if lacking := {*_POSTGIS} - there:
        pytest.skip(f"the server lacks {', '.join(sorted(lacking))} (Debian: postgresql-15-postgis-3)")
    app = an_app(superuser, make=tuple(f"CREATE EXTENSION {name}" for name in _POSTGIS))
    sql = superuser.served.sql
    sql(*_GEOMETRY.split(";\n"), database=app.id)
    superuser.apply([app])  # what was made beside the extensions becomes the app's
    with superuser.enter(app) as session:
        session.execute("CREATE TABLE place (id int, at geometry(Point, 990001), r raster)")
        session.execute("CREATE INDEX ON place USING gist (at)")
        # Its rows can be loaded only where the reference system is known already.
        session.execute("ALTER TABLE place ADD there geometry GENERATED ALWAYS AS (ST_Transform(at, 4326)) STORED")
        session.execute(
            "INSERT INTO place VALUES "
            "(1, ST_SetSRID(ST_MakePoint(1e6, 2e6), 990001), ST_MakeEmptyRaster(1, 1, 0, 0, 1))"
        )
        session.execute("CREATE TABLE tiger_data.streets (name text) ")
        session.execute("INSERT INTO tiger_data.streets VALUES ('Main')")
    have = sql(_HAVE, database=app.id)
    looks = (
        "SELECT srid, auth_name FROM spatial_ref_sys WHERE srid > 990000",
        "SELECT count(*) FROM spatial_ref_sys",
        "SELECT name, srid FROM topology.topology",
        "SELECT node_id, ST_AsText(geom) FROM city.node",
        "SELECT name, setting FROM tiger.geocode_settings",
        "SELECT id, ST_AsText(there, 3), ST_Width(r) FROM place",
        "SELECT * FROM tiger_data.streets",
    )
    before = [sql(look, database=app.id) for look in looks]
    part, files = backed_up(superuser, app)
    with superuser.enter(app) as session:
        session.execute("DROP TABLE place")
    brought_back(superuser, app, part, files)
    other = made_another_apps(superuser, app, part, files, extensions=_POSTGIS)
    for each in (app, other):
        assert sql(_HAVE, database=each.id) == have
        assert [sql(look, database=each.id) for look in looks] == before
        assert superuser.changes([each]) == []


def test_a_database_with_pg_cron_says_what_to_do(superuser: Site) -> None:
    if superuser.served.sql("SELECT FROM pg_available_extensions WHERE name = 'pg_cron'") == []:
        pytest.skip("the server lacks pg_cron (Debian: postgresql-15-cron)")
    name = superuser.app().id
    with cluster(15, **{"shared_preload_libraries": "pg_cron", "cron.database_name": name}) as served:
        site = Site(served)
        app = App(name, name, superuser.app().stores)
        site.apply([app])
        served.sql("CREATE EXTENSION pg_cron", "SELECT cron.schedule('0 0 1 1 *', 'SELECT 1')", database=name)
        said: list[str] = []
        files = Files()
        with archive(site) as (opened, context):
            with pytest.raises(ArchiveError, match="may not read") as raised:
                opened.backup(app, context, files, quiet)
            grants = str(raised.value.hint).partition("in its database: ")[2].partition("; then run")[0]
            served.sql(*grants.split("; "), database=name)
            part = opened.backup(app, context, files, lambda subject, text, *_: said.append(text))
            place = opened.prepare(PlaceKind.NEW, app, context)
            with pytest.raises(ArchiveError, match=f"extension pg_cron .* of app {name} cannot be made in") as raised:
                opened.restore(place, part, files, quiet)
            opened.discard(place)
        assert any("cron.job are not in the set" in text for text in said)
        assert "it cannot be loaded beside the app's database, and so not be verified" in " ".join(part.notes)
        assert "DROP EXTENSION" in str(raised.value.hint)
