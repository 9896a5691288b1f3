"""Every kind of hole in a real Postgres, opened by hand, found, and closed by the statement that is printed for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from multidb.model import App, Hole, Inspection, Search, StoreContext
from multidb.plan import diff
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.isolation.inventory import HARMLESS, covered
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server

_HOSTILE = "it's \"a\n\\b\u2028🦊"  # a name with everything that breaks a line, or a quote


@dataclass(frozen=True)
class Stage:
    """Two apps on one server, and strangers: ``eve`` may log in, ``grp`` is a role."""

    site: Site
    a: App
    b: App

    def search(self, known: frozenset[str] = frozenset({PLATFORM}), timeout: float = 30.0) -> Search:
        session = Site(self.site.served, timeout=timeout).connect()
        with session:
            context = StoreContext("site", session.facts, known=known)
            desired = PROVISIONER.desired([self.a, self.b], context)
            found = session.search(Inspection(context, [self.a, self.b], desired, self.site.secrets))
        return replace(found, holes=tuple(hole for hole in found.holes if hole.account not in known))

    def holes(self) -> dict[str, Hole]:
        found = self.search()
        assert not found.unread
        return {f"{hole.name}: {hole.subject}": hole for hole in found.holes}

    def run(self, lines: tuple[str, ...]) -> None:
        """As psql would: each line is one statement, and stays one wherever lines are parted."""
        database = SUPERUSER
        session: list[str] = []
        for line in lines:
            assert line.splitlines() == [line]
            if line.startswith("\\connect "):
                database = line.removeprefix("\\connect ").strip('"')
            else:
                assert line.endswith(";") or ";  -- " in line
                session.append(line)
        self.site.served.sql(*session, database=database)


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with cluster(request.param) as served:
        site = Site(served)
        made = Stage(site, site.app(), site.app(roles="split"))
        site.apply([made.a, made.b])
        served.sql(f"REVOKE CONNECT ON DATABASE postgres FROM {PLATFORM}", "CREATE ROLE eve LOGIN", "CREATE ROLE grp")
        yield made


@dataclass(frozen=True)
class Case:
    """What is run as the superuser in a database, the only hole that is found then, and what takes away the rest."""

    where: str
    opening: str
    hole: str
    tidy: str = "SELECT 1"
    since: int = 13

    def __str__(self) -> str:
        return self.opening[:60]

    @property
    def found(self) -> str:
        return self.hole if self.where == "postgres" else f"{self.hole} in database {self.where}"


def _system(right: str, on: str, what: str, to: str = "{a}_user", where: str = "{a}") -> Case:
    kind = what.split(" ")[0]
    suffix = " in database postgres" if where == "postgres" else ""
    return Case(where, f"GRANT {right} ON {on} TO {to}", f"grant on {kind}: {what}{suffix}")


_SHUT = (
    "CREATE FUNCTION public.f({}) RETURNS {} LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NULL;END';"
    " REVOKE EXECUTE ON FUNCTION public.f FROM PUBLIC, {{a}}_user, {{a}}_owner, {{a}}_rw, {{a}}_ro, {{a}}_readonly"
)

CASES = (
    # the server's own catalogs, in whatever database and for whomever
    _system("SELECT", "pg_authid", "table pg_catalog.pg_authid"),
    _system("SELECT", "pg_authid", "table pg_catalog.pg_authid", "{a}_readonly"),
    _system("SELECT", "pg_authid", "table pg_catalog.pg_authid", "PUBLIC", "{b}"),
    _system("SELECT", "pg_authid", "table pg_catalog.pg_authid", "eve", "postgres"),
    _system("SELECT", "pg_shadow", "view pg_catalog.pg_shadow"),
    _system("SELECT", "pg_user_mapping", "table pg_catalog.pg_user_mapping"),
    _system("SELECT", "pg_statistic", "table pg_catalog.pg_statistic", "{a}_ro"),
    _system("SELECT", "pg_hba_file_rules", "view pg_catalog.pg_hba_file_rules"),
    _system("SELECT", "pg_largeobject", "table pg_catalog.pg_largeobject", "{a}_readonly"),
    _system("SELECT (subconninfo)", "pg_subscription", "table pg_catalog.pg_subscription"),
    _system("SELECT (rolname, rolpassword)", "pg_authid", "table pg_catalog.pg_authid", "PUBLIC"),
    _system("INSERT", "pg_catalog.pg_class", "table pg_catalog.pg_class"),
    _system(
        "EXECUTE", "FUNCTION pg_read_binary_file(text)", "function pg_catalog.pg_read_binary_file(pg_catalog.text)"
    ),
    _system(
        "EXECUTE", "FUNCTION lo_export(oid, text)", "function pg_catalog.lo_export(pg_catalog.oid,pg_catalog.text)"
    ),
    _system("EXECUTE", "FUNCTION pg_ls_dir(text)", "function pg_catalog.pg_ls_dir(pg_catalog.text)", "PUBLIC"),
    _system(
        "EXECUTE",
        "FUNCTION pg_stat_file(text)",
        "function pg_catalog.pg_stat_file(pg_catalog.text)",
        "eve",
        "template1",
    ),
    _system("SELECT", "information_schema._pg_user_mappings", "view information_schema._pg_user_mappings", "PUBLIC"),
    _system("CREATE", "SCHEMA pg_catalog", "schema pg_catalog", "{a}_owner"),
    Case(
        "{a}",
        "ALTER FUNCTION pg_read_file(text) OWNER TO eve",
        "owned by another: function pg_catalog.pg_read_file(pg_catalog.text)",
    ),
    # who may do what, and belongs to whom
    Case("postgres", "ALTER ROLE eve SUPERUSER", "role with powers: role eve"),
    Case("postgres", "ALTER ROLE eve CREATEROLE CREATEDB REPLICATION BYPASSRLS", "role with powers: role eve"),
    Case("postgres", "GRANT pg_read_all_data TO eve", "member of a role with powers: role pg_read_all_data"),
    Case("postgres", "GRANT pg_monitor TO grp", "member of a role with powers: role pg_monitor"),
    Case("postgres", "GRANT postgres TO eve", "member of a role with powers: role postgres"),
    Case("postgres", "GRANT plat TO eve", "member of a role with powers: role plat"),
    Case("postgres", "GRANT {b}_rw TO grp; GRANT grp TO eve", "membership: role {b}_rw", "REVOKE grp FROM eve"),
    Case("postgres", "ALTER DATABASE {b} OWNER TO {a}_owner", "owned by another: database {b}"),
    Case("postgres", "ALTER DATABASE postgres OWNER TO eve", "owned by another: database postgres"),
    Case("postgres", "ALTER DATABASE template1 OWNER TO {a}_user", "owned by another: database template1"),
    Case("postgres", "ALTER DATABASE {a} IS_TEMPLATE true", "template: database {a}"),
    Case("postgres", "GRANT CREATE ON DATABASE postgres TO {a}_user", "CREATE for {a}_user: database postgres"),
    Case("postgres", "GRANT CREATE ON DATABASE postgres TO PUBLIC", "connect for everybody: database postgres"),
    Case("postgres", "GRANT TEMPORARY ON DATABASE template0 TO PUBLIC", "TEMPORARY for everybody: database template0"),
    Case("postgres", "ALTER DATABASE template0 ALLOW_CONNECTIONS true", "open template: database template0"),
    Case("postgres", "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC", "CREATE for everybody: tablespace pg_default"),
    Case("postgres", "GRANT CREATE ON TABLESPACE pg_global TO eve", "CREATE for eve: tablespace pg_global"),
    Case(
        "postgres",
        "GRANT SET ON PARAMETER log_statement TO {a}_user",
        "SET for {a}_user: parameter log_statement",
        since=15,
    ),
    Case(
        "postgres",
        "GRANT ALTER SYSTEM ON PARAMETER work_mem TO PUBLIC",
        "ALTER SYSTEM for everybody: parameter work_mem",
        since=15,
    ),
    Case(
        "postgres", "ALTER ROLE {a}_user SET lo_compat_privileges = on", "setting lo_compat_privileges: role {a}_user"
    ),
    Case("postgres", "ALTER DATABASE {a} SET lo_compat_privileges = on", "setting lo_compat_privileges: database {a}"),
    Case(
        "postgres",
        "ALTER ROLE {a}_user IN DATABASE {a} SET session_replication_role = replica",
        "setting session_replication_role: role {a}_user in database {a}",
    ),
    Case("postgres", "ALTER ROLE ALL SET lo_compat_privileges = on", "setting lo_compat_privileges: every role"),
    # what runs or reads with more power than the app
    Case(
        "{a}",
        "CREATE FUNCTION public.f() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$SELECT "
        "rolpassword FROM pg_authid$$",
        "SECURITY DEFINER: function public.f()",
        "DROP FUNCTION public.f()",
    ),
    Case(
        "{a}",
        "CREATE FUNCTION pg_catalog.f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        "SECURITY DEFINER: function f()",
        "DROP FUNCTION pg_catalog.f()",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION btree_gin; CREATE FUNCTION public.f() RETURNS int SECURITY DEFINER "
        "LANGUAGE sql AS 'SELECT 1';"
        " ALTER EXTENSION btree_gin ADD FUNCTION public.f()",
        "SECURITY DEFINER: function public.f()",
        "DROP EXTENSION btree_gin",
    ),
    # what calls a function for whoever may not call it
    Case(
        "{a}",
        f"{_SHUT.format('', 'trigger')}; CREATE TABLE public.t (); GRANT INSERT ON public.t TO {{a}}_rw;"
        " CREATE TRIGGER z BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()",
        "SECURITY DEFINER: function public.f()",
        "DROP TABLE public.t; DROP FUNCTION public.f",
    ),
    Case(
        "{a}",
        f"{_SHUT.format('int, int', 'int')}; CREATE AGGREGATE public.s (int) (sfunc = public.f, stype = int)",
        "SECURITY DEFINER: function public.f(integer,integer)",
        "DROP FUNCTION public.f CASCADE",
    ),
    Case(
        "{a}",
        f"{_SHUT.format('int, int', 'int')}; CREATE OPERATOR CLASS public.o FOR TYPE int USING btree AS OPERATOR 1 <,"
        " OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 public.f(int, int)",
        "SECURITY DEFINER: function public.f(integer,integer)",
        "DROP OPERATOR FAMILY public.o USING btree; DROP FUNCTION public.f CASCADE",
    ),
    Case(
        "{a}",
        "CREATE FUNCTION public.f(text) RETURNS text LANGUAGE internal STRICT AS 'pg_read_file_all'",
        "untrusted language: function public.f(text)",
    ),
    Case(
        "{a}",
        "CREATE VIEW public.v AS SELECT rolpassword FROM pg_authid; GRANT SELECT ON public.v TO {a}_ro",
        "view with another's rights: view public.v",
        "DROP VIEW public.v",
    ),
    Case(
        "{a}",
        "CREATE VIEW public.v AS SELECT * FROM pg_proc; GRANT UPDATE ON public.v TO {a}_rw",
        "view with another's rights: view public.v",
        "DROP VIEW public.v",
    ),
    Case(
        "{a}",
        "CREATE MATERIALIZED VIEW public.v AS SELECT rolpassword FROM pg_authid; GRANT SELECT ON public.v TO {a}_user",
        "view with another's rights: materialized view public.v",
        "DROP MATERIALIZED VIEW public.v",
    ),
    Case(
        "{a}",
        "CREATE TABLE public.t (a text); GRANT INSERT ON public.t TO {a}_rw; CREATE RULE r AS ON INSERT TO public.t"
        " DO ALSO UPDATE pg_authid SET rolsuper = true WHERE rolname = NEW.a",
        "view with another's rights: table public.t",
        "DROP TABLE public.t",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION file_fdw; CREATE SERVER s FOREIGN DATA WRAPPER file_fdw; "
        "CREATE FOREIGN TABLE public.t (a text)"
        " SERVER s OPTIONS (filename '/etc/passwd'); GRANT SELECT ON public.t TO {a}_ro",
        "foreign table: foreign table public.t",
        "DROP EXTENSION file_fdw CASCADE",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;"
        " CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (user 'postgres')",
        "user mapping: server s",
        "DROP EXTENSION postgres_fdw CASCADE",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;"
        " GRANT USAGE ON FOREIGN SERVER s TO {a}_owner",
        "grant on server: server s",
        "DROP EXTENSION postgres_fdw CASCADE",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {a}_owner",
        "grant on foreign-data wrapper: foreign-data wrapper postgres_fdw",
        "DROP EXTENSION postgres_fdw CASCADE",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION dblink; GRANT EXECUTE ON FUNCTION dblink_connect_u(text) TO {a}_owner",
        "grant on function: function public.dblink_connect_u(pg_catalog.text)",
        "DROP EXTENSION dblink",
    ),
    Case("{a}", "UPDATE pg_language SET lanpltrusted = true WHERE lanname = 'c'", "trusted language: language c"),
    Case(
        "postgres",
        "UPDATE pg_language SET lanpltrusted = true WHERE lanname = 'internal'",
        "trusted language: language internal in database postgres",
    ),
    Case(
        "{a}",
        "CREATE FUNCTION public.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.e()",
        "event trigger: event trigger e",
        "DROP EVENT TRIGGER e; DROP FUNCTION public.e()",
    ),
    Case(
        "{a}",
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false);"
        " ALTER SUBSCRIPTION s SET (slot_name = 'x'); ALTER SUBSCRIPTION s ENABLE",
        "subscription: subscription s",
        "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s",
    ),
    # what is the app's own, opened to others
    Case(
        "{a}",
        "CREATE TABLE public.t (x int, y int); GRANT SELECT (x), UPDATE (x, y) ON public.t TO {b}_user",
        "grant on table: table public.t",
        "DROP TABLE public.t",
    ),
    Case(
        "{a}",
        "CREATE TABLE public.t (x int); GRANT ALL ON public.t TO {a}_rw WITH GRANT OPTION; "
        "SET ROLE {a}_rw; GRANT SELECT ON public.t TO eve",
        "grant on table: table public.t",
        "DROP TABLE public.t",
    ),
    Case(
        "{a}",
        "SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
        "grant on large object: large object 4711",
        "SELECT lo_unlink(4711)",
    ),
    Case(
        "{a}",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
        "GRANT EXECUTE ON FUNCTION public.f() TO eve WITH GRANT OPTION",
        "grant on function: function public.f()",
        "DROP FUNCTION public.f()",
    ),
    Case(
        "{a}",
        "CREATE TYPE public.t AS ENUM ('x'); GRANT USAGE ON TYPE public.t TO eve WITH GRANT OPTION",
        "grant on type: type public.t",
        "DROP TYPE public.t",
    ),
    Case("{a}", "CREATE SCHEMA s AUTHORIZATION eve", "owned by another: schema s", "DROP SCHEMA s"),
    Case(
        "{a}",
        "CREATE TABLE public.t (x int); ALTER TABLE public.t OWNER TO {b}_owner",
        "owned by another: table public.t",
        "DROP TABLE public.t",
    ),
    Case(
        "{a}",
        "CREATE AGGREGATE public.g(int) (sfunc = int4pl, stype = int); ALTER AGGREGATE public.g(int) OWNER TO eve",
        "owned by another: aggregate public.g(integer)",
        "DROP AGGREGATE public.g(int)",
    ),
    Case(
        "{a}",
        "CREATE OPERATOR public.=== (leftarg = int, rightarg = int, function = int4pl); "
        "ALTER OPERATOR public.=== (int, int) OWNER TO eve",
        "owned by another: operator public.===(integer,integer)",
        "DROP OPERATOR public.=== (int, int)",
    ),
    Case(
        "{a}",
        "CREATE TABLE public.t (x int, y int); CREATE STATISTICS public.st ON x, y FROM public.t; "
        "ALTER STATISTICS public.st OWNER TO eve",
        "owned by another: statistics object public.st",
        "DROP TABLE public.t",
    ),
    Case(
        "{a}",
        "CREATE COLLATION public.co (locale = 'C'); ALTER COLLATION public.co OWNER TO eve",
        "owned by another: collation public.co",
        "DROP COLLATION public.co",
    ),
    Case(
        "{a}",
        "CREATE TEXT SEARCH DICTIONARY public.di (template = simple); "
        "ALTER TEXT SEARCH DICTIONARY public.di OWNER TO eve",
        "owned by another: text search dictionary public.di",
        "DROP TEXT SEARCH DICTIONARY public.di",
    ),
    Case(
        "{a}",
        "CREATE PUBLICATION p; GRANT CREATE ON DATABASE {a} TO eve; ALTER PUBLICATION p OWNER TO eve; "
        "REVOKE CREATE ON DATABASE {a} FROM eve",
        "owned by another: publication p",
        "DROP PUBLICATION p",
    ),
    Case(
        "{a}",
        "CREATE EXTENSION btree_gin; UPDATE pg_extension SET extowner = 'eve'::regrole WHERE extname = 'btree_gin'",
        "owned by another: extension btree_gin",
        "DROP EXTENSION btree_gin",
    ),
    Case(
        "{a}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO PUBLIC",
        "default privilege: default privileges for role postgres",
    ),
    Case(
        "{a}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {a}_owner IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO eve",
        "default privilege: default privileges for role {a}_owner in schema public",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_found_and_closed_by_what_is_printed(stage: Stage, case: Case) -> None:
    served = stage.site.served
    if int(served.sql("SHOW server_version_num")[0][0]) < case.since * 10000:
        pytest.skip(f"since {case.since}")
    names = {"a": stage.a.id, "b": stage.b.id}
    where = case.where.format(**names)
    assert stage.holes() == {}
    try:
        served.sql(*case.opening.format(**names).split("; "), database=where)
        found = stage.holes()
        assert list(found) == [case.found.format(**names)]
        (hole,) = found.values()
        stage.run(hole.closes)
        assert stage.holes() == {}, hole.closes
    finally:
        for statement in case.tidy.format(**names).split("; "):
            served.sql(statement, database=where)


def test_names_with_everything_in_them_are_closed_by_one_line(stage: Stage) -> None:
    served, a = stage.site.served, stage.a.id
    name = '"' + _HOSTILE.replace('"', '""') + '"'
    served.sql(f"CREATE ROLE {name} LOGIN CREATEDB")
    served.sql(
        f"CREATE SCHEMA {name}",
        f"CREATE TABLE {name}.{name} ({name} int)",
        f"GRANT SELECT ({name}) ON {name}.{name} TO {name}",
        f"GRANT USAGE ON SCHEMA {name} TO PUBLIC",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {a}_owner IN SCHEMA {name} GRANT SELECT ON TABLES TO {name}",
        f"CREATE FUNCTION {name}.{name}() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        database=a,
    )
    try:
        found = stage.holes()
        assert len(found) == 5
        for hole in found.values():
            stage.run(hole.closes)
        assert stage.holes() == {}
    finally:
        served.sql(f"DROP SCHEMA {name} CASCADE", database=a)
        served.sql(f"DROP OWNED BY {name}", database=a)
        served.sql(f"DROP ROLE {name}")


def test_an_apps_large_object_with_a_low_number_is_its_own(stage: Stage) -> None:
    served = stage.site.served
    served.sql("SELECT lo_create(7777)", f"ALTER LARGE OBJECT 7777 OWNER TO {stage.a.id}_owner", database=stage.a.id)
    assert stage.holes() == {}
    served.sql("ALTER LARGE OBJECT 7777 OWNER TO eve", database=stage.a.id)
    (hole,) = stage.holes().values()
    stage.run(hole.closes)
    assert served.sql("SELECT lomowner::regrole::text FROM pg_largeobject_metadata", database=stage.a.id) == [
        (f"{stage.a.id}_owner",)
    ]
    served.sql("SELECT lo_unlink(7777)", database=stage.a.id)


def test_every_catalog_that_has_rights_or_names_a_role_is_looked_at_or_known_to_be_harmless(stage: Stage) -> None:
    """The server itself is asked which there are: what a newer one brings fails here until somebody has looked."""
    rows = stage.site.served.sql(
        "SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relkind = 'r' AND c.oid < 16384 AND a.attnum > 0 AND (a.atttypid = 'aclitem[]'::regtype"
        " OR (a.atttypid = 'oid'::regtype AND a.attname ~ 'owner$'))"
        " UNION SELECT fktable::regclass || '.' || unnest(fkcols) FROM pg_get_catalog_foreign_keys()"
        " WHERE pktable = 'pg_authid'::regclass"
    )
    there = {column for (column,) in rows}
    looked_at = covered() | set(HARMLESS)
    assert there <= looked_at, f"nobody looks at {there - looked_at}"
    assert not covered() & set(HARMLESS)
    assert all(HARMLESS.values()), "each with its reason"
    new = {"pg_parameter_acl.paracl"} if "18" in stage.site.served.binaries.as_posix() else set()
    assert looked_at - there <= new, "what no server has is no proof"


def test_what_the_manifest_knows_is_no_hole_and_no_drift(stage: Stage) -> None:
    served, a = stage.site.served, stage.a.id
    given = (f"{a}_ro TO eve", f"CONNECT ON DATABASE {a} TO eve", "pg_monitor TO eve")
    inside = ("USAGE ON SCHEMA public TO eve", "SELECT ON pg_authid TO eve")
    served.sql(*(f"GRANT {each}" for each in given))
    served.sql(*(f"GRANT {each}" for each in inside), database=a)
    defaults = f"ALTER DEFAULT PRIVILEGES FOR ROLE {a}_owner"
    served.sql(f"{defaults} GRANT SELECT ON TABLES TO eve", database=a)
    try:
        assert stage.search(known=frozenset({PLATFORM, "eve"})).holes == ()
        found = stage.search().holes
        assert {hole.account for hole in found} == {"eve"}
        assert len(found) == 6
        apps = [stage.a, stage.b]
        for known, drift in ((frozenset({"eve"}), False), (frozenset({"adam"}), True)):
            with stage.site.connect() as session:
                context = StoreContext("site", session.facts, known=known)
                desired = PROVISIONER.desired(apps, context)
                live = session.inspect(Inspection(context, apps, desired, stage.site.secrets))
            assert bool(diff(desired, live)) is drift
    finally:
        served.sql(*(f"REVOKE {each.replace(' TO ', ' FROM ')}" for each in given))
        served.sql(*(f"REVOKE {each.replace(' TO ', ' FROM ')}" for each in inside), database=a)
        served.sql(f"{defaults} REVOKE SELECT ON TABLES FROM eve", database=a)


def test_a_database_that_is_taken_over_opens_nothing_that_an_extension_keeps(stage: Stage) -> None:
    served, app = stage.site.served, stage.site.app(extensions=("pageinspect",))
    served.sql(f"CREATE DATABASE {app.id}")
    served.sql("CREATE EXTENSION dblink", "CREATE EXTENSION pg_buffercache", "CREATE TABLE t (a int)", database=app.id)
    stage.site.apply([app], adopt=[app.id])
    try:
        with stage.site.connect() as session:
            context = StoreContext("site", session.facts, known=frozenset({PLATFORM}))
            apps = [stage.a, stage.b, app]
            desired = PROVISIONER.desired(apps, context)
            found = session.search(Inspection(context, apps, desired, stage.site.secrets))
        assert [hole for hole in found.holes if hole.account != PLATFORM] == []
        with stage.site.enter(app, "readonly") as reader:
            reader.execute("SELECT * FROM t")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("SELECT dblink_connect_u('dbname=postgres')")
    finally:
        _end(stage, app)


# On what PostGIS brings: what is done, and the only hole that is found then; {b} is another app.
_SPATIAL = (
    ("GRANT INSERT, UPDATE ON spatial_ref_sys TO PUBLIC", "grant on table: table public.spatial_ref_sys"),
    ("GRANT DELETE ON spatial_ref_sys TO {b}_user", "grant on table: table public.spatial_ref_sys"),
    ("GRANT UPDATE (srtext) ON spatial_ref_sys TO {b}_user", "grant on table: table public.spatial_ref_sys"),
    ("GRANT DELETE ON geometry_columns TO {b}_rw", "grant on view: view public.geometry_columns"),
    ("ALTER TABLE spatial_ref_sys OWNER TO {b}_owner", "owned by another: table public.spatial_ref_sys"),
    (
        "ALTER FUNCTION postgis_version() OWNER TO {b}_owner",
        "owned by another: function public.postgis_version()",
    ),
    (
        "ALTER FUNCTION postgis_version() SECURITY DEFINER",
        "SECURITY DEFINER: function public.postgis_version()",
    ),
    (
        "REVOKE ALL ON FUNCTION postgis_version() FROM PUBLIC; "
        "GRANT EXECUTE ON FUNCTION postgis_version() TO {b}_user WITH GRANT OPTION",
        "grant on function: function public.postgis_version()",
    ),
)


def test_what_is_opened_of_postgis_is_found_and_closed_by_what_is_printed(stage: Stage) -> None:
    served, names = stage.site.served, {"a": stage.a.id, "b": stage.b.id}
    if not served.sql("SELECT FROM pg_available_extensions WHERE name = 'postgis'"):
        pytest.skip("the server lacks postgis (Debian: postgresql-15-postgis-3)")
    for opening, hole in _SPATIAL:
        served.sql("CREATE EXTENSION postgis", database=stage.a.id)
        try:
            assert stage.holes() == {}
            served.sql(*opening.format(**names).split("; "), database=stage.a.id)
            found = stage.holes()
            assert list(found) == [f"{hole} in database {stage.a.id}"], opening
            stage.run(next(iter(found.values())).closes)
            assert stage.holes() == {}, opening
        finally:
            served.sql("DROP EXTENSION postgis", database=stage.a.id)


def _end(stage: Stage, app: App) -> None:
    stage.site.clean(app)
    for role in ("owner", "rw", "ro", "user", "readonly"):
        stage.site.served.sql(f"DROP OWNED BY {app.id}_{role}", f"DROP ROLE {app.id}_{role}")


def test_an_admin_who_may_not_read_everything_says_what_is_not_proved(stage: Stage) -> None:
    assert not stage.search().unread
    stage.site.served.sql(f"GRANT CONNECT ON DATABASE postgres TO {PLATFORM}")
    site = Site(stage.site.served, PLATFORM)
    app = site.app()
    site.apply([app])
    with site.connect() as session:
        context = StoreContext("site", session.facts, known=frozenset({"eve"}))
        found = session.search(Inspection(context, [app], PROVISIONER.desired([app], context), site.secrets))
    try:
        assert {each.catalog for each in found.unread} >= {"pg_authid.rolpassword", "pg_hba_file_rules"}
        assert not any(each.app for each in found.unread)
        assert not [hole for hole in found.holes if hole.app == app.id]
    finally:
        _end(stage, app)
        stage.site.served.sql(f"REVOKE CONNECT ON DATABASE postgres FROM {PLATFORM}")


def test_a_database_that_cannot_be_read_keeps_no_other_from_being_seen(stage: Stage) -> None:
    served = stage.site.served
    served.sql("GRANT SELECT ON pg_authid TO PUBLIC", database=stage.b.id)
    access = {"host": "127.0.0.1", "port": served.port, "user": SUPERUSER, "password": served.password}
    with psycopg.connect(**access, dbname=stage.a.id) as busy:
        busy.execute("LOCK pg_catalog.pg_default_acl IN ACCESS EXCLUSIVE MODE")
        found = stage.search(timeout=3.0)
    served.sql("REVOKE SELECT ON pg_authid FROM PUBLIC", database=stage.b.id)
    assert [each.app for each in found.unread] == [stage.a.id]
    assert [hole.subject for hole in found.holes] == [f"table pg_catalog.pg_authid in database {stage.b.id}"]


@pytest.mark.parametrize(
    ("line", "hole"),
    [
        ("local all all trust", "login without a password"),
        ("host all all 10.1.2.3/32 trust", "login without a password"),
        ("host all all 10.1.2.3/32 ident", "another way in"),
        ("local all all peer map=everybody", "another way in"),
        ("host all all 10.1.2.3/32 password", "password in the clear"),
        ("host all all 10.1.2.3/32 radius radiusservers=127.0.0.1 radiussecrets=x", "another way in"),
        ("host all +{a}_ro 10.1.2.3/32 ident", "another way in"),
        ("host all somebody_else 10.1.2.3/32 ident", None),
        ("local all postgres peer", None),
        ("host all all 10.1.2.3/32 md5", None),
        ("host all all 10.1.2.3/32 reject", None),
    ],
)
def test_lines_of_pg_hba(stage: Stage, line: str, hole: str | None) -> None:
    file = stage.site.served.data / "pg_hba.conf"
    text = file.read_text()
    try:
        file.write_text(f"{text}{line.format(a=stage.a.id)}\n")
        found = stage.search().holes
        assert [each.name for each in found] == ([hole] if hole else [])
        if hole:
            assert "scram-sha-256" in found[0].closes[0]
    finally:
        file.write_text(text)


def test_settings_of_the_whole_server(stage: Stage) -> None:
    served = stage.site.served
    served.sql("ALTER SYSTEM SET lo_compat_privileges = on", "SELECT pg_reload_conf()")
    _until(served, "on")
    (hole,) = stage.holes().values()
    assert hole.name == "setting lo_compat_privileges"
    stage.run(hole.closes)
    _until(served, "off")
    assert stage.holes() == {}


def _until(served: Cluster, value: str) -> None:
    for _ in range(200):
        if served.sql("SHOW lo_compat_privileges") == [(value,)]:
            return
    raise AssertionError(f"it does not become {value}")


def test_who_holds_all_connections_of_a_login_is_told(stage: Stage) -> None:
    site, app = stage.site, stage.a
    served = site.served
    served.sql(f"ALTER ROLE {app.id}_user CONNECTION LIMIT 2")
    held: list[psycopg.Connection] = []
    try:
        for _ in range(2):
            held.append(site.enter(app))
            held[-1].execute("SET application_name = 'a greedy worker'")
        remarks = [remark for remark in stage.search().remarks if remark.subject == f"login {app.id}_user"]
        assert [remark.app for remark in remarks] == [app.id]
        assert "2 connections are held: 2 by a greedy worker from 127.0.0.1, idle" in remarks[0].message
    finally:
        for connection in held:
            connection.close()
        served.sql(f"ALTER ROLE {app.id}_user CONNECTION LIMIT 20")
