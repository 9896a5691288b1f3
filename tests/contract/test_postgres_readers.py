"""`postgres: {readers: {...}}` on real servers: what a reader may read, what it may not, and what becomes of that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from multidb.model import Alternates, App, Inspection, Outcome, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.secrets import Alternate
from tests.contract.postgres_sets import backed_up, brought_back
from tests.contract.postgres_site import Site, probes
from tests.support.postgres_servers import PLATFORM, SUPERUSER, cluster

pytestmark = pytest.mark.server

CASES = [
    pytest.param((18, SUPERUSER), id="18"),
    *(pytest.param((major, PLATFORM), id=f"{major} lesser admin", marks=pytest.mark.rare) for major in (18, 15)),
]
READERS: dict[str, Any] = {
    "whole": {},
    "some": {"tables": ["public.orders", 'public."; DROP', "later.*", "never.there"]},
    "shop": {"tables": ["public.*"], "connection_limit": 1},
}


@pytest.fixture(scope="module", params=CASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    major, admin = request.param
    with cluster(major) as served:
        yield Site(served, admin)


def changed(app: App, **options: Any) -> App:
    known = AppOptions.of(app.stores["postgres"]).model_dump(by_alias=True)
    return replace(app, stores={"postgres": AppOptions.model_validate({**known, **options})})


def as_owner(site: Site, app: App, *texts: str) -> None:
    login = "migrate" if AppOptions.of(app.stores["postgres"]).roles == "split" else "user"
    with site.enter(app, login) as connection:
        for text in texts:
            connection.execute(text.encode())


def readable(site: Site, app: App, login: str, *tables: str) -> list[bool]:
    allowed = []
    with site.enter(app, login) as connection:
        connection.execute("SET default_transaction_read_only = off")
        for table in tables:
            try:
                connection.execute(f"SELECT * FROM {table}".encode())
                allowed.append(True)
            except psycopg.errors.InsufficientPrivilege:
                allowed.append(False)
            for text in (f"DELETE FROM {table}", f"SELECT * FROM {table} FOR UPDATE", "CREATE TABLE x (a int)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(text.encode())
    return allowed


@pytest.mark.parametrize("roles", ["simple", "split"])
def test_a_reader_reads_its_tables_and_nothing_else(site: Site, roles: str) -> None:
    app = site.app(roles=roles, readers=READERS, extensions=("hstore",))
    site.apply([app])
    assert not site.changes([app])
    as_owner(
        site,
        app,
        "CREATE TABLE orders (a int); CREATE TABLE people (a int); CREATE SCHEMA later; CREATE SCHEMA hidden",
        'CREATE TABLE """; DROP" (a int); CREATE TABLE later.first (a int); CREATE TABLE hidden.first (a int)',
        "CREATE VIEW seen AS SELECT * FROM people",
    )
    tables = ("orders", 'public."""; DROP"', "people", "seen", "later.first", "hidden.first")
    assert readable(site, app, "reader_whole", *tables) == [True] * 6
    assert readable(site, app, "reader_shop", *tables) == [True, True, True, True, False, False]
    assert readable(site, app, "reader_some", *tables) == [False] * 6  # they are there since
    named = site.app(readers={"odd": {"tables": ['public."; DROP']}})
    assert AppOptions.of(named.stores["postgres"]).readers["odd"].tables == ('public."; DROP',)
    site.apply([app])
    assert readable(site, app, "reader_some", *tables) == [True, True, False, False, True, False]
    as_owner(site, app, "CREATE TABLE later.second (a int)", "DROP TABLE orders; CREATE TABLE orders (a int)")
    assert readable(site, app, "reader_some", "later.second", "orders") == [True, False]
    (change,) = site.changes([app])
    assert [statement.text for statement in change.statements if "SELECT" in statement.text] == [
        f'GRANT SELECT ON TABLE "public"."orders" TO "{app.id}_reads_some"',
        f'ALTER DEFAULT PRIVILEGES FOR ROLE "{app.id}_owner" IN SCHEMA "later" GRANT SELECT ON TABLES '
        f'TO "{app.id}_reads_some"',
    ]
    site.apply([app])
    assert readable(site, app, "reader_some", "later.second", "orders") == [True, True]
    assert not site.changes([app])


def test_what_a_reader_was_given_besides_is_drift_and_taken_back(site: Site) -> None:
    app = site.app(readers=READERS)
    site.apply([app])
    reads = f"{app.id}_reads_some"
    as_owner(
        site,
        app,
        "CREATE TABLE orders (a int); CREATE TABLE people (a int); CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int)",
    )
    site.apply([app])
    for text in (
        f"GRANT SELECT ON people TO {reads}",
        f"GRANT SELECT (a) ON people TO {reads}",
        f"GRANT INSERT ON orders TO {reads}",
        f"GRANT USAGE ON SCHEMA hidden TO {reads}",
        f"GRANT CREATE ON SCHEMA public TO {reads}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA hidden GRANT SELECT ON TABLES TO {reads}",
    ):
        as_owner(site, app, text)
        (change,) = site.changes([app])
        assert [field.field for field in change.fields] in (["surplus"], ["schema_privileges"]), text
        site.apply([app])
        assert not site.changes([app]), text
        assert readable(site, app, "reader_some", "orders", "people") == [True, False], text


def test_the_walls_hold_for_readers_and_against_them(site: Site) -> None:
    apps = [site.app(readers=READERS), site.app(readers=READERS, test_database=True)]
    site.apply(apps)
    for app in apps:
        as_owner(site, app, "CREATE TABLE orders (a int); CREATE TABLE people (a int)")
    site.apply(apps)
    tried = probes(site, apps[0], apps[1])
    lasting = {"make a large object with the read-only login"}  # where the admin is no superuser
    unlike = {probe.name for probe in tried if probe.got is not probe.expected}
    assert {name for name in unlike if name.split(":")[0] not in lasting} == set()
    refused = {probe.name for probe in tried if probe.got is Outcome.REFUSED}
    assert {"connect as reader_some", f"connect to {apps[1].id}_test as reader_some"} <= refused
    assert "read other tables with the login of reader_some" in refused
    as_owner(site, apps[0], f"GRANT SELECT ON people TO {apps[0].id}_reads_some")
    breaches = [probe.name for probe in probes(site, apps[0], apps[1]) if probe.breach]
    assert breaches == ["read other tables with the login of reader_some"]
    with pytest.raises(psycopg.OperationalError):
        site.enter(apps[1], "reader_some", database=f"{apps[1].id}_test")


def test_a_reader_that_the_manifest_has_no_more_is_off_and_what_it_has_open_ends(site: Site) -> None:
    app = site.app(readers=READERS)
    site.apply([app])
    as_owner(site, app, "CREATE TABLE orders (a int); CREATE SCHEMA later; CREATE TABLE later.first (a int)")
    site.apply([app])
    with site.enter(app, "reader_some") as some, site.enter(app, "reader_whole") as whole:
        fewer = changed(app, readers={"whole": {}})
        site.apply([fewer])
        assert not site.changes([fewer])
        assert not site.changes([fewer], deep=False)
        rights = "SELECT (SELECT count(*) FROM pg_class WHERE relacl::text ~ '_reads_') + (SELECT count(*) "
        rights += "FROM pg_namespace WHERE nspacl::text ~ '_reads_') + (SELECT count(*) FROM pg_default_acl "
        rights += "WHERE defaclacl::text ~ '_reads_')"
        assert site.served.sql(rights, database=app.id) == [(0,)]
        with site.connect() as session:
            context = StoreContext("site", session.facts)
            asked = Inspection(context, [fewer], PROVISIONER.desired([fewer], context), site.secrets)
            assert [hole for hole in session.search(asked).holes if hole.app == app.id] == []
        whole.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            some.execute("SELECT 1")
    for reader in ("some", "shop"):
        with pytest.raises(psycopg.OperationalError):
            site.enter(app, f"reader_{reader}")
    site.apply([app])  # and on again
    assert not site.changes([app])
    site.enter(app, "reader_some").close()
    another = changed(app, readers={**READERS, "some": {"tables": "all"}})
    as_owner(site, app, "CREATE TABLE people (a int)")
    site.apply([another])
    assert readable(site, another, "reader_some", "people") == [True]
    site.apply([app])
    assert readable(site, app, "reader_some", "people") == [False]
    assert not site.changes([app])


def test_readers_rotate_with_the_app_and_who_uses_them_is_known(site: Site) -> None:
    app = site.app(readers=READERS)
    site.apply([app])
    as_owner(site, app, "CREATE TABLE orders (a int); CREATE TABLE people (a int)")
    both = Alternates(working=frozenset(Alternate), made=tuple(Alternate))
    with site.connect() as session:
        context = StoreContext("site", session.facts, alternates={app.id: both})
        assert site.settle(session, app, context) == []
        with site.enter(app, "reader_some_b"):
            assert [use.login for use in session.in_use({app.id: Alternate.SECOND})[app.id]] == [
                f"{app.id}_reader_some_b"
            ]
            assert session.in_use({app.id: Alternate.FIRST}) == {}
    assert readable(site, app, "reader_some_b", "orders", "people") == [True, False]


def test_rights_of_readers_come_back_with_a_set_also_as_another_apps(site: Site) -> None:
    app, other = (site.app(readers=READERS) for _ in range(2))
    site.apply([app, other])
    as_owner(site, app, "CREATE TABLE orders (a int); CREATE TABLE people (a int); CREATE SCHEMA later")
    as_owner(site, app, "CREATE TABLE later.first (a int)")
    site.apply([app])
    part, files = backed_up(site, app)
    as_owner(site, app, "DROP TABLE orders; DROP SCHEMA later CASCADE")
    for target in (app, other):
        brought_back(site, target, part, files)
        assert readable(site, target, "reader_some", "orders", "people", "later.first") == [True, False, True]
        as_owner(site, target, "CREATE TABLE later.second (a int)")
        assert readable(site, target, "reader_some", "later.second") == [True]
        assert readable(site, target, "reader_shop", "orders", "later.first") == [True, False]
        rights = site.served.sql("SELECT string_agg(relacl::text, ' ') FROM pg_class", database=target.id)
        assert f"{target.id}_reads_some=r/" in str(rights)
        assert target is app or f"{app.id}_reads" not in str(rights)


def test_an_app_goes_with_its_readers(site: Site) -> None:
    app = site.app(readers=READERS)
    site.apply([app])
    with site.connect() as session:
        context = StoreContext("site", session.facts)
        for step in (session.suspension, session.removal):
            while todo := step(changed(app, readers={}), context):
                list(session.run(todo, site.secrets))
    assert site.served.sql(f"SELECT rolname FROM pg_roles WHERE rolname ~ '^{app.id}_'") == []
