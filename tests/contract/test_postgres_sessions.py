"""Sessions of the admin, on real servers: nothing that a database or a role has stored is in force in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from multidb.errors import AuthenticationFailed, NotAllowed, ServerError, ServerSlow
from multidb.model import App, Endpoint, Inspection, Server, StoreContext, Tenant
from multidb.model.health import Status
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.driver import session_settings
from multidb.provisioners.postgres.driver.connection import Connection, SessionOptions, Traffic
from multidb.provisioners.postgres.driver.session_settings import Powers
from multidb.provisioners.postgres.observe.health import check_health
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.secrets import Secret
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import PLATFORM, Cluster, cluster

pytestmark = pytest.mark.server

BOSS = "boss"  # a superuser whose role the tests may spoil
_numbers = itertools.count(1)

# What ALTER DATABASE and ALTER ROLE can store to lead a session astray, all of it at once. Everybody's, by version:
_HOSTILE = {
    "search_path": "hostile, pg_catalog",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "tcp_user_timeout": "1",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "local_preload_libraries": "nowhere",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Tokyo",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "row_security": "on",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "client_min_messages": "debug5",
    "exit_on_error": "on",
    "password_encryption": "md5",
    "default_tablespace": "nowhere",
    "lc_numeric": "POSIX",
    "role": "stranger",
}
_HOSTILE_SINCE = {
    14: {"idle_session_timeout": "1ms"},
    16: {"createrole_self_grant": "set, inherit"},
    17: {"transaction_timeout": "1ms"},
}
# and those that only a superuser can have stored
_HOSTILE_SUPERUSERS = {
    "session_preload_libraries": "nowhere",
    "session_replication_role": "replica",
    "allow_system_table_mods": "on",
}
_TRAPS = (
    "CREATE SCHEMA IF NOT EXISTS hostile",
    "CREATE OR REPLACE FUNCTION hostile.trap() RETURNS event_trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'a trap ran as %', current_user; END $$",
    "CREATE OR REPLACE FUNCTION hostile.equal(oid, oid) RETURNS boolean LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'a trap ran as %', current_user; END $$",
    "CREATE OPERATOR hostile.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = hostile.equal)",
    "CREATE FUNCTION hostile.pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'a trap ran as %', current_user; END $$",
)


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param) as made:
        made.sql(
            f"CREATE ROLE {BOSS} SUPERUSER LOGIN PASSWORD '{made.platform_password}'",
            "CREATE ROLE stranger",
            f"GRANT stranger TO {PLATFORM}",
        )
        yield made


@pytest.fixture(params=[BOSS, PLATFORM])
def site(request: pytest.FixtureRequest, served: Cluster) -> Iterator[Site]:
    site = Site(served, request.param)
    if request.param == PLATFORM and _major(site) < 15:
        pytest.skip("before Postgres 15 the schema of an app takes a superuser")
    yield site
    served.sql(f"ALTER ROLE {request.param} RESET ALL")


def _major(site: Site) -> int:
    return int(site.served.sql("SHOW server_version_num")[0][0]) // 10000


def _hostile(site: Site) -> dict[str, str]:
    found = dict(_HOSTILE)
    for first, group in _HOSTILE_SINCE.items():
        found |= group if _major(site) >= first else {}
    return found | (_HOSTILE_SUPERUSERS if site.admin == BOSS else {})


def _spoil(site: Site, *apps: App) -> None:
    """Stores the hostile values wherever a session of the admin could get them from."""
    for app in apps:
        site.served.sql(f"SET ROLE {app.id}_owner", *_TRAPS, database=app.id)
    for name, value in _hostile(site).items():
        text = value if name == "search_path" else f"'{value}'"
        for app in apps:
            site.served.sql(
                f"ALTER DATABASE {app.id} SET {name} = {text}",
                f"ALTER ROLE {site.admin} IN DATABASE {app.id} SET {name} = {text}",
            )
        site.served.sql(f"ALTER ROLE {site.admin} SET {name} = {text}")


def _clean(site: Site, *apps: App) -> None:
    with site.connect() as session:
        for app in apps:
            for _ in range(3):
                list(session.run(session.removal(app, StoreContext("site", session.facts)), site.secrets))


def _tenant(site: Site, app: App) -> Tenant:
    server = site.served.server(site.admin)
    with site.connect() as session:
        context = StoreContext("site", session.facts)
    env = PROVISIONER.env(app, context, server.endpoint, lambda ref: site.secrets.get(ref) or Secret(""))
    return Tenant(app, server, context, env)


def test_hostile_settings_change_nothing_that_the_admin_does(site: Site) -> None:
    first, second = site.app(), site.app()
    site.apply([first])
    _spoil(site, first)
    assert {change.resource.app for change in site.changes([first, second])} == {second.id}
    site.apply([first, second])
    assert site.changes([first, second]) == []
    with site.connect() as session:
        usage = session.usage(StoreContext("site", session.facts), [first, second])
        assert set(usage.apps) == {first.id, second.id}
        context = StoreContext("site", session.facts)
        assert session.search(Inspection(context, [first], PROVISIONER.desired([first], context), site.secrets, True))
    _clean(site, first, second)
    left = site.served.sql(f"SELECT datname FROM pg_database WHERE datname IN ('{first.id}', '{second.id}')")
    assert left == []


def test_an_apply_that_works_inside_is_not_led_either(site: Site) -> None:
    """The inside is brought about anew, with an object of another owner in it, under the same settings."""
    app = site.app()
    site.apply([app])
    owner = site.admin if site.admin == PLATFORM else "stranger"
    site.served.sql(
        "CREATE TABLE public.theirs (n int)", f"ALTER TABLE public.theirs OWNER TO {owner}", database=app.id
    )
    _spoil(site, app)
    site.served.sql(f"COMMENT ON DATABASE {app.id} IS 'multidb:site/{app.id} unfinished'")
    site.apply([app])
    with Connection(
        site.served.server(site.admin), site.served.admin(site.admin), "t", Traffic(), database=app.id
    ) as connection:
        owner = connection.ask("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'theirs'", (), 10)
    assert owner == f"{app.id}_owner"
    _clean(site, app)


@pytest.mark.parametrize("database", ["", "app"])
def test_every_setting_holds_in_every_session(site: Site, database: str) -> None:
    app = site.app()
    site.apply([app])
    _spoil(site, app)
    server, password = site.served.server(site.admin), site.served.admin(site.admin)
    options = SessionOptions(lock_timeout=7)
    with Connection(
        server, password, "multidb test", Traffic(), database=database and app.id, options=options
    ) as connection:
        powers = Powers(connection.version, site.admin == BOSS)
        wanted = session_settings.settings(powers, statement_timeout=0, lock_timeout=7, foreign=bool(database))
        rows = connection.send("SELECT name, setting FROM pg_settings", 10).rows
        is_set = {str(name): value for name, value in rows}
        is_set["role"] = connection.ask("SELECT current_setting('role')", (), 10)
        found = {name: (is_set.get(name) or "").replace(", ", ",") for name in wanted}
        assert found == wanted
        assert connection.ask("SELECT current_setting('client_encoding')", (), 10) == "UTF8"
        assert connection.ask("SELECT session_user || ' ' || current_user", (), 10) == f"{site.admin} {site.admin}"
    _clean(site, app)


def test_event_triggers_do_not_fire_or_are_refused(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(f"SET ROLE {app.id}_owner", *_TRAPS, database=app.id)
    quiet = site.admin == BOSS and _major(site) >= 17
    events = ["ddl_command_start", *(["login"] if quiet else [])]
    for event in events:
        site.served.sql(
            f"CREATE EVENT TRIGGER on_{event} ON {event} EXECUTE FUNCTION hostile.trap()",
            f"ALTER EVENT TRIGGER on_{event} ENABLE ALWAYS",
            database=app.id,
        )
    site.served.sql(f"COMMENT ON DATABASE {app.id} IS 'multidb:site/{app.id} unfinished'")
    site.served.sql(f"REVOKE ALL ON DATABASE {app.id} FROM {app.id}_rw")
    if quiet:
        site.apply([app])
        assert site.changes([app]) == []
    else:
        with pytest.raises(ServerError, match=f"event trigger on_ddl_command_start of database {app.id}"):
            site.apply([app])
        site.served.sql(f"DROP DATABASE {app.id} WITH (FORCE)")


def test_the_script_of_an_extension_runs_only_where_nothing_was_prepared(site: Site) -> None:
    """The admin of one that is not trusted is a superuser; its script would find the app's functions in public."""
    if site.admin != BOSS:
        pytest.skip("who is no superuser makes trusted extensions only")
    app = site.app()
    site.apply([app])
    wanting = App(app.id, app.id, {"postgres": AppOptions(extensions=["pageinspect"])})
    with site.enter(app) as connection:
        connection.execute("CREATE FUNCTION public.int4(text, int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        with pytest.raises(ServerError, match="the schema public holds 1 functions"):
            site.apply([wanting])
        connection.execute("DROP FUNCTION public.int4(text, int)")
    site.apply([wanting])
    assert site.changes([wanting]) == []
    _clean(site, app)


def test_no_view_of_an_app_is_read_by_the_admin(site: Site) -> None:
    app = site.app()
    site.apply([app])
    site.served.sql(
        "CREATE VIEW public.shown AS SELECT 1 AS n", "GRANT SELECT ON public.shown TO PUBLIC", database=app.id
    )
    with Connection(
        site.served.server(site.admin), site.served.admin(site.admin), "t", Traffic(), database=app.id
    ) as connection:
        answer = connection.send("SELECT n FROM public.shown", 10)
    assert answer.refusal is not None
    assert "non-system view" in answer.refusal.message
    _clean(site, app)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_read_or_refused(site: Site, encoding: str) -> None:
    name = f"e{next(_numbers)}"
    site.served.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    names = "SELECT json_agg(nspname) FROM pg_namespace WHERE nspname LIKE 'caf%'"
    raw = b'CREATE SCHEMA "caf\xe9"'
    with psycopg.connect(
        host="127.0.0.1", port=site.served.port, user=BOSS, password=site.served.platform_password, dbname=name,
        client_encoding=encoding, autocommit=True,
    ) as connection:  # fmt: skip
        connection.pgconn.exec_(raw)
    if site.admin == BOSS:
        with Connection(site.served.server(BOSS), site.served.admin(BOSS), "t", Traffic(), database=name) as connection:
            if encoding == "LATIN1":
                assert "café" in connection.ask(names, (), 10)
            else:
                with pytest.raises(ServerError, match="invalid byte sequence"):
                    connection.ask(names, (), 10)
    site.served.sql(f"DROP DATABASE {name}")


def test_notices_and_answers_without_end_are_not_taken(site: Site) -> None:
    server, password = site.served.server(site.admin, timeout=3), site.served.admin(site.admin)
    notices = "DO $$ BEGIN LOOP RAISE WARNING 'again'; END LOOP; END $$"
    with (
        Connection(server, password, "t", Traffic()) as connection,
        pytest.raises(ServerError, match="notices, which is not taken"),
    ):
        connection.send(notices, 60)
    with (
        Connection(server, password, "t", Traffic()) as connection,
        pytest.raises(ServerError, match="MiB, which is not taken"),
    ):
        connection.send("SELECT repeat('x', 1000000) FROM generate_series(1, 1000)", 60)
    with Connection(server, password, "t", Traffic()) as connection:
        with pytest.raises(ServerError, match="sends 95 MiB in answer"):
            connection.ask("SELECT repeat('x', 100000000)", (), 60)
        assert connection.ask("SELECT 1", (), 10) == "1", "the connection goes on"


def test_an_app_that_trickles_is_left_in_time(site: Site) -> None:
    """What an app's own login is sent may run the app's code, which may go on for as long as it likes."""
    app = site.app()
    site.apply([app])
    password = site.secrets.get(next(spec.ref for spec in PROVISIONER.secrets(app) if "user" in str(spec.ref)))
    server = site.served.server(site.admin, timeout=1)
    trickle = "DO $$ BEGIN LOOP RAISE WARNING 'again'; PERFORM pg_sleep(0.2); END LOOP; END $$"
    with (
        Connection(server, password, "t", Traffic(), database=app.id, user=f"{app.id}_user") as connection,
        pytest.raises(ServerSlow),
    ):
        connection.send(trickle, 1)
    _clean(site, app)


def test_health_is_not_led_by_what_the_login_has_stored(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as connection:
        for text in (
            "CREATE SCHEMA hostile",
            "CREATE FUNCTION hostile.minus(int, int) RETURNS text LANGUAGE sql AS $$ SELECT repeat('x', 100000000) $$",
            "CREATE OPERATOR hostile.- (LEFTARG = int, RIGHTARG = int, FUNCTION = hostile.minus)",
            "SET ROLE NONE",
            f"ALTER ROLE {app.id}_user SET search_path = hostile, pg_catalog",
            f"ALTER ROLE {app.id}_user SET statement_timeout = '1ms'",
            f"ALTER ROLE {app.id}_user SET client_min_messages = 'debug5'",
        ):
            connection.execute(text)
    assert check_health(_tenant(site, app), True).status is Status.HEALTHY
    _clean(site, app)


def test_a_login_that_an_app_has_shut_itself_out_of_costs_nobody_else(site: Site) -> None:
    """It stores for its own login what no session can begin with."""
    app, other = site.app(), site.app()
    site.apply([app, other])
    with site.enter(app) as connection:
        connection.execute("SET ROLE NONE")
        connection.execute(f"ALTER ROLE {app.id}_user SET local_preload_libraries = 'nowhere'")
    assert site.changes([app, other]) == []
    health = check_health(_tenant(site, app), True)
    assert health.status is Status.UNHEALTHY
    assert "nowhere" in health.message
    assert check_health(_tenant(site, other), True).status is Status.HEALTHY
    _clean(site, app, other)


def test_a_server_that_is_another_one_by_now_is_met_anew(served: Cluster) -> None:
    """What is remembered of a server says only how to begin."""
    site = Site(served, PLATFORM)
    app = site.app()
    site.apply([app])
    served.sql(f"ALTER ROLE {PLATFORM} SUPERUSER")
    with site.connect() as session:
        assert session.facts.superuser
    served.sql(f"ALTER ROLE {PLATFORM} NOSUPERUSER")
    with site.connect() as session:
        assert not session.facts.superuser
    wrong = Server("postgres", "postgres", Endpoint("127.0.0.1", served.port, user=PLATFORM), timeout=3)
    with pytest.raises(AuthenticationFailed):
        Connection(wrong, Secret("wrong"), "t", Traffic())
    with pytest.raises((NotAllowed, ServerError)):
        Connection(site.served.server(PLATFORM), site.served.admin(PLATFORM), "t", Traffic(), database="nowhere")
    _clean(site, app)


@pytest.mark.parametrize("white", [" ", "\n", "\t", "\v", "\f", "\r", "\\", "\\\n"])
def test_a_name_in_the_search_path_sets_nothing_else(site: Site, white: str) -> None:
    """The server parts what a connection is opened with at white space, and an app may have any in a schema's name."""
    if site.admin != BOSS:
        pytest.skip("a superuser's session has most to lose")
    name = f"x{white}-c{white}application_name=evil"
    options = SessionOptions(search_path=("public", name), fresh=True)
    with Connection(site.served.server(BOSS), site.served.admin(BOSS), "t", Traffic(), options=options) as connection:
        assert connection.ask("SELECT current_setting('application_name')", (), 10) == "t"
        reset = connection.ask("SELECT reset_val FROM pg_settings WHERE name = 'search_path'", (), 10)
        assert reset == f'"public", "{name}"'
