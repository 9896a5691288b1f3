"""An app that means harm, with a schema in a database that others share: nothing of its making runs as anybody but
itself, the admin sends nothing there but what is on the list, and the others keep what is theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from multidb.errors import ArchiveError, Refused
from multidb.model import App, Inspection, Outcome, PlaceKind, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from tests.contract.postgres_sets import archive, backed_up, brought_back, quiet
from tests.contract.postgres_sharing import enter, home, sharing
from tests.contract.postgres_site import Site, probes
from tests.support import admin_statements
from tests.support.postgres_servers import SUPERUSER, cluster
from tests.support.postgres_watch import LOGGING, Watch

pytestmark = pytest.mark.server

# Wherever an app may put a function that a server calls by itself, and names that a careless query would look up.
_TRAPS = """
CREATE FUNCTION sprung(spot text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
  RAISE LOG 'hostile-trap %', json_build_object('spot', spot, 'how', 'called', 'session', session_user,
    'current', current_user, 'database', current_database(), 'application', current_setting('application_name'),
    'powers', ARRAY(SELECT rolname FROM pg_roles WHERE rolname IN (session_user, current_user)
                    AND (rolsuper OR rolcreaterole OR rolcreatedb)));
  RETURN true; END $$;
CREATE FUNCTION still(spot text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  RETURN {schema}.sprung(spot); END $$;
CREATE DOMAIN trapped AS int CHECK ({schema}.sprung('domain'));
CREATE TABLE prey (id serial PRIMARY KEY, a int CHECK ({schema}.sprung('check')), t trapped,
  made boolean GENERATED ALWAYS AS ({schema}.still('generated')) STORED,
  usual boolean DEFAULT {schema}.sprung('default'));
INSERT INTO prey (a, t) SELECT n, n FROM generate_series(1, 3) n;
CREATE INDEX expressed ON prey ({schema}.still('index'));
CREATE INDEX partial ON prey (a) WHERE {schema}.still('predicate');
CREATE STATISTICS counted ON a, ({schema}.still('statistics')) FROM prey;
CREATE VIEW shown AS SELECT *, {schema}.sprung('view') AS now FROM prey;
CREATE MATERIALIZED VIEW kept AS SELECT *, {schema}.sprung('matview') AS now FROM prey;
ALTER TABLE prey ENABLE ROW LEVEL SECURITY;
CREATE POLICY watched ON prey USING ({schema}.sprung('policy'));
CREATE FUNCTION count(anyelement) RETURNS bigint LANGUAGE sql AS $$ SELECT {schema}.sprung('count')::int::bigint $$;
CREATE FUNCTION format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT {schema}.sprung('format')::text $$;
CREATE FUNCTION quote_ident(text) RETURNS text LANGUAGE sql AS $$ SELECT {schema}.sprung('quote_ident')::text $$;
CREATE FUNCTION same(name, name) RETURNS boolean LANGUAGE sql AS $$ SELECT {schema}.sprung('operator') $$;
CREATE OPERATOR = (LEFTARG = name, RIGHTARG = name, FUNCTION = same);
CREATE TABLE pg_namespace (oid oid, nspname name, nspowner oid);
CREATE TABLE "odd ""name""; DROP ROLE postgres --" (a int);
"""
# What it tries on the others by its own login; each is to be refused.
_ATTACKS = (
    "SELECT * FROM {other}.precious",
    "INSERT INTO {other}.precious VALUES (0)",
    "DROP TABLE {other}.precious",
    "CREATE TABLE {other}.mine (a int)",
    "CREATE VIEW mine AS SELECT * FROM {other}.precious",
    "CREATE FUNCTION {other}.now() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION extensions.now() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.mine (a int)",
    "CREATE SCHEMA mine",
    "CREATE EXTENSION hstore",
    "ALTER SCHEMA {own} RENAME TO {other}_two",
    "ALTER SCHEMA {other} RENAME TO taken",
    "COMMENT ON SCHEMA {own} IS 'multidb:site/somebody'",
    "COMMENT ON SCHEMA {other} IS NULL",
    "DROP SCHEMA {own}",
    "DROP SCHEMA {other} CASCADE",
    "SELECT lo_create(0)",
    "SET ROLE {victim}_owner",
    "GRANT {victim}_rw TO {attacker}_user",
    "ALTER ROLE {victim}_user IN DATABASE {database} SET search_path = {own}",
    "ALTER DATABASE {database} SET search_path = {own}",
    "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION sprung()",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {victim}_owner GRANT ALL ON TABLES TO {attacker}_user",
    "REASSIGN OWNED BY {victim}_owner TO {attacker}_owner",
    "DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{victim}_user'; "
    "RAISE insufficient_privilege; END $$",
)


@dataclass(frozen=True)
class Neighbours:
    """Two apps of one database, and what the server tells of both."""

    site: Site
    watch: Watch
    hostile: App
    victim: App

    def told(self) -> set[str]:
        """Everything since the last look is as it should be; the spots of the traps that ran."""
        told = self.watch.look()
        database = home(self.hostile)[0]
        sent = [one for one in told.sent if one.user == self.site.admin and one.database == database]
        assert [one.text for one in sent if not admin_statements.known(one.text)] == []
        assert not told.failed
        for trap in told.traps:
            assert trap.session.startswith(f"{self.hostile.id}_"), trap
            assert trap.current.startswith(f"{self.hostile.id}_"), trap
            assert not trap.powers, trap
        return {trap.spot for trap in told.traps}

    def precious(self) -> list[tuple[int]]:
        with enter(self.site, self.victim) as connection:
            return connection.execute("SELECT a FROM precious ORDER BY a").fetchall()


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def neighbours(request: pytest.FixtureRequest) -> Iterator[Neighbours]:
    with cluster(request.param, **LOGGING) as served:
        site = Site(served, SUPERUSER)
        hostile = sharing(extensions=("ltree",))
        victim = sharing(home(hostile)[0])
        site.apply([hostile, victim])
        with enter(site, victim) as connection:
            connection.execute("CREATE TABLE precious (a int); INSERT INTO precious VALUES (1), (2)")
        with enter(site, hostile) as connection:
            connection.execute(_TRAPS.replace("{schema}", home(hostile)[1]).encode())
        watch = Watch(served)
        watch.look()
        yield Neighbours(site, watch, hostile, victim)


def test_the_traps_tell(neighbours: Neighbours) -> None:
    """The control: an admin who reads the table is seen by them."""
    database, schema = home(neighbours.hostile)
    neighbours.site.served.sql(f"INSERT INTO {schema}.prey (a) VALUES (9)", database=database)
    neighbours.site.served.sql(f"DELETE FROM {schema}.prey WHERE a = 9", database=database)
    told = neighbours.watch.look()
    assert {trap.session for trap in told.traps} == {"postgres"}
    assert any(not admin_statements.known(one.text) for one in told.sent if one.database == database)


def test_nothing_that_it_tries_works(neighbours: Neighbours) -> None:
    (database, own), (_, other) = home(neighbours.hostile), home(neighbours.victim)
    names = {"own": own, "other": other, "database": database}
    names |= {"attacker": neighbours.hostile.id, "victim": neighbours.victim.id}
    for login in ("user", "readonly"):
        for attack in _ATTACKS:
            with enter(neighbours.site, neighbours.hostile, login) as connection:
                connection.execute("SET default_transaction_read_only = off")
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)):
                    connection.execute(attack.format_map(names).encode())
    assert neighbours.precious() == [(1,), (2,)]
    tried = probes(neighbours.site, neighbours.hostile, neighbours.victim)
    assert [probe for probe in tried if probe.breach or probe.got is Outcome.BROKEN] == []
    neighbours.told()


def test_a_plan_an_audit_and_usage_run_nothing_of_it(neighbours: Neighbours) -> None:
    site, apps = neighbours.site, (neighbours.hostile, neighbours.victim)
    assert not site.changes(apps)
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        searched = session.search(Inspection(context, apps, PROVISIONER.desired(apps, context), site.secrets))
        assert not [hole for hole in searched.holes if hole.app == neighbours.victim.id]
        assert {app for app, used in session.usage(context, apps).apps.items() if used.size} == {app.id for app in apps}
    site.apply([neighbours.victim])
    assert neighbours.told() == set()


def test_sets_are_made_and_come_back_with_its_power_alone(neighbours: Neighbours) -> None:
    site, hostile, victim = neighbours.site, neighbours.hostile, neighbours.victim
    part, files = backed_up(site, hostile)
    with archive(site) as (opened, context):
        scratch = opened.prepare(PlaceKind.SCRATCH, hostile, context)
        with contextlib.suppress(ArchiveError, Refused):  # a trap may be in its own way, and costs nobody else anything
            opened.restore(scratch, part, files, quiet)
        opened.discard(scratch)
    assert neighbours.told()
    kept, of_victim = backed_up(site, victim)
    with enter(site, victim) as connection:
        connection.execute("DELETE FROM precious")
    brought_back(site, victim, kept, of_victim)
    assert neighbours.precious() == [(1,), (2,)]
    assert neighbours.told() == set()


def test_what_it_makes_of_another_app_keeps_neither_from_its_sets(neighbours: Neighbours) -> None:
    """An app that reads another may build on it: its own sets are refused then, in words, and the other's are not."""
    site, victim = neighbours.site, neighbours.victim
    reader = sharing(home(victim)[0], reads=(victim.id,))
    site.apply([victim, reader])
    with enter(site, reader) as connection:
        connection.execute(f"CREATE VIEW built AS SELECT * FROM {home(victim)[1]}.precious")
    with pytest.raises(ArchiveError, match="is made of another app's schema"):
        backed_up(site, reader)
    part, files = backed_up(site, victim)
    with pytest.raises(Refused, match=r"built .* would not outlive"):
        brought_back(site, victim, part, files)
    with enter(site, reader) as connection:
        connection.execute("DROP VIEW built")
    brought_back(site, victim, part, files)
    with enter(site, reader) as connection:
        assert connection.execute(f"SELECT count(*) FROM {home(victim)[1]}.precious").fetchone() == (2,)
    neighbours.told()


def test_it_goes_and_the_others_stay(neighbours: Neighbours) -> None:
    site, hostile = neighbours.site, neighbours.hostile
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        list(session.run(session.removal(hostile, context), site.secrets))
        assert not session.removal(hostile, context)
    neighbours.told()
    assert neighbours.precious() == [(1,), (2,)]
    database, schema = home(hostile)
    left = site.served.sql(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'", database=database)
    assert left == [(0,)]
    assert site.served.sql(f"SELECT rolname FROM pg_roles WHERE rolname ~ '^{hostile.id}_'") == []
