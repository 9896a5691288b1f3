"""An app that means harm, and what backing it up, proving, restoring and replacing do in its database: on real servers.

Every trap writes into the server's log who called it. No login with more rights than the app's is ever among those.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from multidb.errors import ArchiveError, Conflict, MultidbError, NotAllowed, ServerSlow
from multidb.model import App, PlaceKind, TableArchive
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.provision import catalog_text, setting_values
from multidb.provisioners.postgres.provision.quoting import identifier, literal, variable
from tests.contract.postgres_sets import Files, archive, backed_up, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster
from tests.support.postgres_traps import TRAP, TRAPPED, caught_in

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    prefix = "<%u@%d> "
    with cluster(request.param, log_statement="all", log_line_prefix=prefix, max_prepared_transactions="5") as made:
        yield made


@pytest.fixture(params=[SUPERUSER, PLATFORM])
def site(served: Cluster, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(served, request.param)
    yield made
    assert served.sql("SELECT rolname FROM pg_roles WHERE rolname ~ 'pwned|__delegate|__owner'") == []
    powerful = "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolcreaterole) AND oid >= 16384"
    assert served.sql(powerful) == [(PLATFORM,)]
    assert not caught_as_admin(served)


def caught(served: Cluster) -> set[tuple[str, str]]:
    """Which trap was called by which login, since the server was started."""
    return caught_in(served.log)


def caught_as_admin(served: Cluster) -> set[tuple[str, str]]:
    return {each for each in caught(served) if each[1] in (SUPERUSER, PLATFORM)}


def _left_alone(site: Site, database: str) -> None:
    """Waits until our own look at it, as a superuser, is over: not every admin could end it."""
    while site.served.sql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = {literal(database)}") != [(0,)]:
        time.sleep(0.02)


def trapped(site: Site, **options: Any) -> App:
    app = site.app(**options)
    site.apply([app])
    with site.enter(app) as session:
        for text in [TRAP, *filter(str.strip, TRAPPED.split(";\n"))]:
            session.execute(text.replace("{app}", app.id).encode())
    return app


def everything(site: Site, app: App) -> None:
    """A backup, its proof, single tables of it, and all of it in the place of what is there."""
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        assert isinstance(opened, TableArchive)
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        found = opened.find_tables(place, ["checked", "typed"])
        opened.replace_tables(place, list(found.values()), part)
        opened.replace(place, context)


def test_no_trap_is_ever_called_by_a_login_that_may_do_more_than_the_app(site: Site) -> None:
    app = trapped(site)
    before = caught(site.served)
    everything(site, app)
    new = caught(site.served) - before
    assert {tag for tag, _ in new} >= {"check", "domain", "index", "materialized"}, "the traps are there and work"
    assert {who for _, who in new} == {f"{app.id}__delegate"}
    site.apply([app])
    assert not site.changes([app])


# All that the admin's login may send to a database that an app owns: docs/decisions/0019.
ALLOWED = (
    r"ALTER SCHEMA \"public\" OWNER TO \"\w+_owner\"",
    r"SET search_path = pg_catalog,pg_temp",
    r"CREATE EXTENSION IF NOT EXISTS \"\w+\" SCHEMA \"\w+\" VERSION '[0-9.]+'",
    r"\s*WITH asked \(answer\) AS MATERIALIZED \(\s*WITH object AS \(SELECT 0 AS number, 'pg_publication'::.*",
    r"\s*WITH asked \(answer\) AS MATERIALIZED \(\s*WITH object AS \(SELECT 'pg_class'::regclass::oid .*",
    r"\s*WITH asked \(answer\) AS MATERIALIZED \(SELECT EXISTS \(SELECT FROM pg_default_acl\)\) .*",
    r"\s*WITH asked \(answer\) AS MATERIALIZED \(SELECT \S+\(json_agg\(extname\), \S+\) FROM pg_extension\) .*",
)


def test_the_admin_sends_to_an_apps_database_what_the_list_has_and_nothing_else(served: Cluster) -> None:
    site = Site(served)
    app = trapped(site, extensions=("pageinspect",))
    start = served.log.stat().st_size
    everything(site, app)
    with served.log.open(encoding="utf-8", errors="replace") as log:
        log.seek(start)
        text = re.sub(r"\n\t", " ", log.read())
    within = rf"<{SUPERUSER}@{app.id}(?:__new)?> LOG:  (?:statement|execute \S+): (.*)"
    sent = re.findall(within, text)
    assert len(sent) >= 4
    assert [each for each in sent if not any(re.fullmatch(allowed, each) for allowed in ALLOWED)] == []


def test_a_view_in_a_tables_place_is_not_read(site: Site) -> None:
    """The app waits until its table is waited for, and then there is a view of its name."""
    for swap in (
        "DROP TABLE {t}; CREATE VIEW {t} AS SELECT public.trap('swapped', 1) AS a",
        "ALTER TABLE {t} RENAME TO moved_{t}; CREATE VIEW {t} AS SELECT public.trap('swapped', 1) AS a",
        "DROP TABLE {t}; CREATE MATERIALIZED VIEW {t} AS SELECT public.trap('swapped', 1) AS a",
        "CREATE RULE \"_RETURN\" AS ON SELECT TO {t} DO INSTEAD SELECT 1 AS a WHERE trap('swapped', 1)",
    ):
        app = trapped(site)
        session = site.enter(app)
        session.execute("CREATE TABLE bait (a int)")
        session.execute("BEGIN; LOCK TABLE bait")
        try:
            session.execute(swap.replace("{t}", "bait").encode())
        except psycopg.errors.Error:  # a table does not become a view from 16 on
            session.close()
            continue

        def spring(session: psycopg.Connection[Any] = session, app: App = app) -> None:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
            for _ in range(300):
                if site.served.sql(waiting.replace("%s", literal(app.id))) != [(0,)]:
                    break
                time.sleep(0.05)
            session.execute("COMMIT")

        springing = threading.Thread(target=spring)
        springing.start()
        before = caught(site.served)
        with pytest.raises(ArchiveError, match="the app changes its tables at this moment"):
            backed_up(site, app)
        springing.join()
        session.close()
        assert ("swapped", f"{app.id}__delegate") not in caught(site.served) - before
        assert not caught_as_admin(site.served)
        with site.enter(app) as again:
            again.execute("DROP VIEW IF EXISTS nothing")
        backed_up(site, app)


def test_what_the_loading_login_makes_never_is_the_admins(site: Site) -> None:
    """A function in a CHECK leaves the owner role and makes, as the login that loads, whatever a login can make."""
    gifts = {
        "extension": [
            "CREATE EXTENSION citext SCHEMA public",
            "CREATE FUNCTION public.gift() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT session_user::text'",
            "ALTER EXTENSION citext ADD FUNCTION public.gift()",
        ],
        "function": [
            "CREATE SCHEMA gifts",
            "CREATE FUNCTION gifts.gift() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT session_user::text'",
            "CREATE DOMAIN gifts.d AS int",
            "CREATE CAST (gifts.d AS text) WITH INOUT",
        ],
        "others": [
            "SELECT lo_from_bytea(815, 'x')",
            "CREATE SCHEMA theirs",
            "CREATE TABLE theirs.t (a int)",
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
            'CREATE COLLATION theirs.c FROM "C"',
            "CREATE PUBLICATION told FOR TABLE theirs.t",
            "ALTER ROLE CURRENT_USER SET search_path = theirs",
            "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
        ],
        "password": ["CREATE SCHEMA theirs", "ALTER ROLE CURRENT_USER PASSWORD 'known'"],
    }
    for kind, texts in gifts.items():
        app = site.app()
        site.apply([app])
        tried = " ".join(
            f"BEGIN EXECUTE {literal(text)}; EXCEPTION WHEN OTHERS THEN "
            f"RAISE LOG 'gift % failed: %', {literal(text)}, SQLERRM; END;"
            for text in texts
        )
        body = f"BEGIN IF session_user = {literal(app.id + '_user')} THEN RETURN true; END IF; RESET ROLE; {tried}"
        with site.enter(app) as session:
            session.execute(
                f"CREATE FUNCTION give(int) RETURNS bool LANGUAGE plpgsql AS $x${body} RETURN true; END $x$".encode()
            )
            session.execute("CREATE TABLE t (a int CHECK (give(a))); INSERT INTO t VALUES (1)")
        part, files = backed_up(site, app)
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            if kind == "extension":
                with pytest.raises(ArchiveError, match=r"made .* which belongs to postgres and not to the app"):
                    opened.restore(place, part, files, quiet)
            elif kind == "password":  # the connections that come after it are lost, and nothing else
                with contextlib.suppress(ArchiveError):
                    opened.restore(place, part, files, quiet)
            else:
                opened.restore(place, part, files, quiet)
                named = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('gifts', 'theirs')"
                assert site.served.sql(named, database=place.name) == [(1,)], "it was made"
            others = contents.owned_by_others([f"{app.id}_owner"])
            left = [each for each in site.served.sql(others, database=place.name)[0][0] if each[2] != SUPERUSER]
            assert left == []
            mighty = "SELECT proname FROM pg_proc WHERE prosecdef AND proowner = 10"
            assert site.served.sql(mighty, database=place.name) == []
            _left_alone(site, place.name)
            opened.discard(place)
        failed = re.findall(r"LOG:  gift (.*) failed: (.*)", site.served.log.read_text(errors="replace"))
        assert failed == []
        assert site.served.sql(f"SELECT count(*) FROM pg_roles WHERE rolname ~ '^{app.id}__'") == [(0,)]


def test_every_catalog_with_an_owner_is_looked_through(served: Cluster) -> None:
    known = served.sql(
        "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND NOT c.relisshared "
        "AND a.atttypid = 'oid'::regtype AND (a.attname LIKE '%owner' OR a.attname = 'defaclrole')"
    )
    assert dict(known) == contents.OWNED


def test_settings_of_an_app_are_data(site: Site) -> None:
    app = site.app()
    site.apply([app])
    role = f"ALTER ROLE {app.id}_user IN DATABASE {app.id}"
    hostile = "x;CREATE/**/ROLE/**/pwned/**/SUPERUSER;--"
    with site.enter(app) as session:
        session.execute("SET ROLE NONE")
        session.execute("SELECT set_config('search_path', %s, false)", (hostile,))
        session.execute(f"{role} SET search_path FROM CURRENT".encode())
        session.execute(f"{role} SET DateStyle = 'SQL, DMY'".encode())
    if site.admin == SUPERUSER:  # the other may not give what it may not set
        site.served.sql(f"{role} SET my.own = " + literal("'; CREATE ROLE pwned SUPERUSER; --\\'"))
    before = site.served.sql(f"SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{app.id}_user'::regrole")
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        opened.replace(place, context)
    after = site.served.sql(f"SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{app.id}_user'::regrole")
    assert _read(after[0][0]) == _read(before[0][0])
    assert _read(after[0][0])["search_path"] == [hostile.lower()]


def _read(config: list[str]) -> dict[str, Any]:
    pairs = (entry.partition("=") for entry in config)
    return {name: setting_values.members(value) if name == "search_path" else value for name, _, value in pairs}


nasty = st.text(st.sampled_from("aB;'\"\\,. \t\n$/*-=()é🐘\x01"), max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=nasty, path=nasty, name=st.text(st.sampled_from("aB;'\" ;-é\\"), min_size=1, max_size=6))
@example(value="'; DROP ROLE x; --", path='a"b""c", D', name="x;y")
@example(value="\\'", path='"', name='"')
@example(value="", path="", name="a")
def test_what_is_made_of_a_catalogs_text_is_what_was_in_it(served: Cluster, value: str, path: str, name: str) -> None:
    """The server is the judge: as it reads a setting that somebody stored, so it reads the one that was made of it."""
    with psycopg.connect(
        host="127.0.0.1", port=served.port, user=SUPERUSER, password=served.password, dbname="postgres", autocommit=True
    ) as session:
        session.execute("DROP ROLE IF EXISTS one, two")
        session.execute("CREATE ROLE one; CREATE ROLE two")
        roles = session.execute("SELECT count(*) FROM pg_roles").fetchone()
        stored = {f"my.{name}": value, "search_path": path}
        taken = {}
        for key, text in stored.items():
            with contextlib.suppress(psycopg.Error):  # no name, or no list, for this server either
                session.execute("SELECT set_config(%s, %s, false)", (key, text))
                session.execute(f"ALTER ROLE one IN DATABASE postgres SET {variable(key)} FROM CURRENT".encode())
                taken[key] = text
        session.execute("RESET ALL")
        config = "SELECT setconfig FROM pg_db_role_setting WHERE setrole = %s::regrole"
        before = (session.execute(config, ("one",)).fetchone() or [[]])[0]
        assert len(before) == len(taken)
        for entry in before:
            session.execute(catalog_text.setting("postgres", "two", entry).encode())
        after = (session.execute(config, ("two",)).fetchone() or [[]])[0]
        assert [_folded(each) for each in after] == [_folded(each) for each in before]
        assert session.execute("SELECT count(*) FROM pg_roles").fetchone() == roles
        session.execute("DROP ROLE one, two")


def _folded(entry: str) -> tuple[str, object]:
    name, _, value = entry.partition("=")
    return name, (setting_values.members(value) or [""]) if name == "search_path" else value


def test_names_of_roles_and_databases_are_quoted(served: Cluster) -> None:
    odd = 'od"d; CREATE ROLE pwned; --'
    served.sql(f"CREATE ROLE {identifier(odd)}", f"CREATE DATABASE {identifier(odd)}")
    served.sql(catalog_text.privilege(odd, odd, "CONNECT"), catalog_text.setting(odd, odd, "my.own=x"))
    found = served.sql(f"SELECT datacl::text FROM pg_database WHERE datname = {literal(odd)}")
    assert "=c/" in found[0][0]
    assert served.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'pwned'") == [(0,)]
    served.sql(f"DROP DATABASE {identifier(odd)}", f"DROP ROLE {identifier(odd)}")
    for wrong in ("CONNECT, CREATE", "connect", "CONNECT ON DATABASE x TO y; --"):
        with pytest.raises(ValueError, match="no privilege"):
            catalog_text.privilege(odd, None, wrong)


def test_what_any_login_of_the_app_has_made_is_in_the_set(site: Site) -> None:
    app = site.app(roles="split")
    site.apply([app])
    makers = "EXECUTE ON FUNCTION lo_from_bytea(oid, bytea)"
    site.served.sql(f"GRANT {makers} TO PUBLIC", database=app.id)  # as every new database has it
    with site.enter(app, "migrate") as session:
        session.execute(f"CREATE SCHEMA of_user; GRANT ALL ON SCHEMA of_user TO {app.id}_user".encode())
        session.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        session.execute("SET ROLE NONE; SELECT lo_from_bytea(7, 'migrate')")
    with site.enter(app) as session:
        session.execute("CREATE TABLE of_user.mine (a serial); INSERT INTO of_user.mine VALUES (1), (2)")
        session.execute("SELECT lo_from_bytea(8, 'user')")
    with site.enter(app, "readonly") as session:
        session.execute("SET default_transaction_read_only = off")
        session.execute("SELECT lo_from_bytea(9, 'readonly')")
    site.served.sql(f"REVOKE {makers} FROM PUBLIC", database=app.id)
    part, files = backed_up(site, app)
    assert part.measures.counts["table of_user.mine"] == 2
    assert part.measures.counts["large objects"] == 3
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.discard(place)


def test_rows_hidden_from_the_owner_are_read_or_said(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE hidden (a int); INSERT INTO hidden VALUES (1), (2)")
        session.execute("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY")
    if site.admin == SUPERUSER:
        part, _ = backed_up(site, app)
        assert part.measures.counts["table public.hidden"] == 2
        return
    with pytest.raises(NotAllowed, match=r"row security hides rows of public\.hidden") as raised:
        backed_up(site, app)
    assert "ALTER TABLE public.hidden NO FORCE ROW LEVEL SECURITY" in str(raised.value.hint)
    with site.enter(app) as session:
        session.execute("ALTER TABLE public.hidden NO FORCE ROW LEVEL SECURITY")
    backed_up(site, app)


def test_things_of_others_are_refused_by_name(site: Site) -> None:
    app = site.app()
    site.apply([app])
    sql = site.served.sql
    for made, name, gone in (
        ('CREATE TABLE "odd one" (a int)', 'table public."odd one" (of postgres)', 'DROP TABLE "odd one"'),
        ("CREATE SEQUENCE counted", "sequence public.counted (of postgres)", "DROP SEQUENCE counted"),
        ("SELECT lo_from_bytea(99, 'x')", "large object 99 (of postgres)", "SELECT lo_unlink(99)"),
    ):
        sql(made, database=app.id)
        with pytest.raises(ArchiveError, match=re.escape(name)) as raised:
            backed_up(site, app)
        given_back = re.search(r"ALTER .* OWNER TO \"\w+\"", str(raised.value.hint))
        assert given_back is not None
        sql(given_back[0], database=app.id)
        backed_up(site, app)
        sql(gone, database=app.id)
    with site.enter(app) as session:
        session.execute("CREATE SCHEMA app_schema")
    sql("CREATE VIEW app_schema.theirs AS SELECT 1", database=app.id)
    backed_up(site, app)  # it has no rows of its own


def test_a_table_held_for_ever_costs_a_while_and_this_app_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [text.replace(f"'{contents.LOCK_TIMEOUT}s'", "'500ms'") for text in contents.READING]
    monkeypatch.setattr(contents, "READING", quick)
    apps = [site.app(), site.app()]
    site.apply(apps)
    for app in apps:
        with site.enter(app) as session:
            session.execute("CREATE TABLE t (a int)")
    holder = site.enter(apps[0])
    holder.execute("BEGIN; LOCK TABLE t")
    with pytest.raises(ServerSlow, match=f"held .* by a session of {apps[0].id}_user") as raised:
        backed_up(site, apps[0])
    backed_up(site, apps[1])
    ending = re.search(r"SELECT pg_terminate_backend\(\d+\)", str(raised.value.hint))
    assert ending is not None
    site.served.sql(ending[0])
    holder.close()
    backed_up(site, apps[0])


def test_a_login_of_that_name_that_is_not_ours_is_left_alone(served: Cluster) -> None:
    site = Site(served)
    app = site.app()
    site.apply([app])
    served.sql(f"CREATE ROLE {app.id}__delegate LOGIN")
    with pytest.raises(Conflict, match="exists and multidb did not make it"):
        backed_up(site, app)
    served.sql(f"DROP ROLE {app.id}__delegate")
    backed_up(site, app)


def test_a_set_names_no_extension_that_nobody_gave_the_app(site: Site) -> None:
    app = site.app()
    site.apply([app])
    part, files = backed_up(site, app)
    for entry, message in (
        (["dblink", "1.2", "public"], "takes an admin, and nothing gives it to app"),
        (['x"; CREATE ROLE pwned; --', "1", "public"], "the server lacks extensions"),
        (["citext", "1", "pg_toast"], "which is the server's own"),
        (["citext", "1", "information_schema"], "which is the server's own"),
        (["citext"], "names no extension"),
        (["citext", "1", "public", "postgres", "more"], "names no extension"),
        (["citext", "1' CASCADE; --", "public", "postgres"], "the server lacks extensions"),
        ([1, 2, 3], "names no extension"),
        (["x" * 64, "1", "public"], "no name of an extension"),
    ):
        part.details["extensions"][:] = [entry]  # type: ignore[index]
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.SCRATCH, app, context)
            with pytest.raises(MultidbError, match=message):
                opened.restore(place, part, files, quiet)
            assert site.served.sql("SELECT extname FROM pg_extension", database=place.name) == [("plpgsql",)]
            _left_alone(site, place.name)
            opened.discard(place)


def test_a_set_is_tried_where_the_app_never_was(site: Site) -> None:
    app = trapped(site)
    part, files = backed_up(site, app)
    other = App(f"{app.id}_away", f"{app.id}_away", app.stores)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, other, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE oid >= 16384"
        assert site.served.sql(owners, database=place.name) == [(f"{other.id}__owner",)]
        _left_alone(site, place.name)
        opened.discard(place)


def test_a_policy_in_a_set_is_made_without_power(site: Site) -> None:
    """A set is a file: what it calls an expression may be anything."""
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute(
            f"CREATE TABLE t (a int); CREATE POLICY p ON t FOR SELECT TO {app.id}_ro USING (a > 1)".encode()
        )
    part, files = backed_up(site, app)
    entry = part.details["policies"][0]  # type: ignore[index]
    for expression in ("true); CREATE ROLE pwned SUPERUSER; --", "true); RESET ROLE; CREATE ROLE pwned; --"):
        entry["using"] = expression
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.SCRATCH, app, context)
            with pytest.raises(MultidbError):
                opened.restore(place, part, files, quiet)
            opened.discard(place)
    entry["command"] = "SELECT TO PUBLIC; --"
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        with pytest.raises(ArchiveError, match="no command"):
            opened.restore(place, part, files, quiet)
        opened.discard(place)


def test_an_empty_set_of_files_is_no_dump(site: Site) -> None:
    app = site.app()
    site.apply([app])
    part, _ = backed_up(site, app)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        with pytest.raises(ArchiveError, match="no dump"):
            opened.restore(place, part, Files(**{"dump.pgc": b""}), quiet)
        opened.discard(place)


def test_a_step_under_way_is_no_drift_and_what_a_killed_one_leaves_goes(site: Site, monkeypatch: Any) -> None:
    app = site.app()
    site.apply([app])
    part, files = backed_up(site, app)

    class Slow(Files):
        @contextlib.contextmanager
        def file(self, name: str) -> Iterator[Any]:
            assert not site.changes([app]), "in the middle of a backup"
            with super().file(name) as written:
                yield written

    with archive(site) as (opened, context):
        opened.backup(app, context, Slow(), quiet)
        monkeypatch.setattr("multidb.provisioners.postgres.backup.delegate.Delegates._end", lambda *_: None)
        opened.is_empty(opened.live(app, context))  # and the process dies
        monkeypatch.undo()
    left = f"SELECT count(*) FROM pg_roles WHERE rolname = '{app.id}__delegate'"
    assert site.served.sql(left) == [(1,)]
    assert not site.changes([app])
    backed_up(site, app)
    assert site.served.sql(left) == [(0,)]
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
        opened.discard(place)


@pytest.mark.parametrize(
    ("held", "prepared"),
    [
        ("DROP SEQUENCE counted", False),
        ("DROP VIEW looked", False),
        ("LOCK TABLE t", True),
        ("LOCK TABLE parted", True),
    ],
)
def test_whatever_an_app_holds_ends_the_backup_in_its_time(
    served: Cluster, monkeypatch: pytest.MonkeyPatch, held: str, prepared: bool
) -> None:
    monkeypatch.setattr(contents, "READING", [text.replace("'60s'", "'500ms'") for text in contents.READING])
    monkeypatch.setattr(contents, "LOCK_TIMEOUT", 1)
    monkeypatch.setattr("multidb.provisioners.postgres.backup.dump.LOOK_INTERVAL", 0.3)
    site = Site(served)
    app = site.app()
    site.apply([app])
    holder = site.enter(app)
    holder.execute("CREATE SEQUENCE counted; CREATE VIEW looked AS SELECT 1 AS a; CREATE TABLE t (a int)")
    holder.execute("CREATE TABLE parted (a int) PARTITION BY LIST (a)")
    holder.execute(f"BEGIN; {held}".encode())
    if prepared:
        holder.execute(f"PREPARE TRANSACTION 'of {app.id}'".encode())
    who = f"the prepared transaction of {app.id}" if prepared else f"a session of {app.id}_user"
    with pytest.raises(ServerSlow, match=f"something in {app.id} was held for .* by {who}") as raised:
        backed_up(site, app)
    ending = re.search(r"(SELECT pg_terminate_backend\(\d+\)|ROLLBACK PREPARED '.*');", str(raised.value.hint))
    assert ending is not None
    served.sql(ending[1], database=app.id)
    holder.close()
    backed_up(site, app)


@pytest.mark.rare
def test_a_function_that_never_ends_ends_with_the_load(served: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.provisioners.postgres.backup.loading.SHORTEST_LIMIT", 3.0)
    limit = contents.STATEMENT_LIMIT.replace("3600000", "1000")
    monkeypatch.setattr(contents, "STATEMENT_LIMIT", limit)
    site = Site(served)
    loading, planning = site.app(), site.app()
    site.apply([loading, planning])
    body = (
        "CREATE FUNCTION nap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
        "IF session_user::text ~ 'delegate' THEN PERFORM pg_catalog.pg_sleep(600); END IF; RETURN 1; END $$"
    )
    for app, trap in (
        (loading, "CREATE TABLE t (a int CHECK (nap(a) = 1)); INSERT INTO t VALUES (1)"),
        (planning, "CREATE TABLE t (a int); CREATE INDEX ON t (a, (public.nap(1))); INSERT INTO t VALUES (1)"),
    ):
        with site.enter(app) as session:
            session.execute(body)
            session.execute(trap.encode())
    start = time.monotonic()
    with pytest.raises(ServerSlow, match="canceling statement due to statement timeout"):
        backed_up(site, planning)
    part, files = backed_up(site, loading)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, loading, context)
        with pytest.raises(ArchiveError, match="pg_restore had not ended after"):
            opened.restore(place, part, files, quiet)
        opened.discard(place)
    assert time.monotonic() - start < 120
