"""Databases as hostile as real ones get, backed up and brought back on real servers, compared by every catalog."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from multidb.errors import Refused
from multidb.model import App, Part, PlaceKind
from tests.contract import postgres_schemas as schemas
from tests.contract.postgres_inventory import Inventory, difference, inventory, unknown
from tests.contract.postgres_sets import Files, archive, backed_up, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_extensions import FILES
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, shipped=FILES) as made:
        yield made


def _major(served: Cluster) -> int:
    return int(served.sql("SHOW server_version_num")[0][0]) // 10000


def _session(served: Cluster, database: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1",
        port=served.port,
        user=SUPERUSER,
        password=served.password,
        dbname=database,
        client_encoding="UTF8",
        autocommit=True,
    )


def _extras(served: Cluster) -> frozenset[str]:
    """What this build of the server has, whatever its version."""
    with _session(served, "postgres") as session:
        found = set()
        for extra, tried in (
            ("icu", "CREATE TEMPORARY TABLE t (t text COLLATE \"und-x-icu\"); SELECT 'a' < t FROM t"),
            ("xml", "SELECT xml '<a/>'"),
        ):
            with contextlib.suppress(psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedObject):
                session.execute(tried)
                found.add(extra)
        names = ("citext", "hstore", "ltree", "pg_trgm", "btree_gin", "btree_gist", "intarray", "tt_trusted")
        query = "SELECT DISTINCT name FROM pg_available_extension_versions WHERE trusted AND name = ANY(%s)"
        found |= {f"extension {name}" for (name,) in session.execute(query, (list(names),)).fetchall()}
    return frozenset(found)


def _renamed(app: App) -> Callable[[str], str]:
    """A role of the app is called alike whichever app it is."""
    return lambda role: f"app{role[len(app.id) :]}" if re.fullmatch(f"{app.id}(_[a-z_]+)?", role) else role


def _taken(site: Site, app: App, database: str) -> Inventory:
    with _session(site.served, database) as session:
        return inventory(session, _renamed(app))


def _dumped(site: Site, app: App) -> list[str]:
    """What pg_dump says of how the app's database is made, whichever app it is; rights aside, which have no order."""
    served = site.served
    address = f"host=127.0.0.1 port={served.port} user={SUPERUSER} dbname={app.id}"
    made = subprocess.run(
        [served.binaries / "pg_dump", "--schema-only", "--no-acl", f"--dbname={address}"],
        env={"PGPASSWORD": served.password, "PGCLIENTENCODING": "UTF8"},
        check=True,
        capture_output=True,
        text=True,
    )
    text = re.sub(rf"\b{app.id}_(owner|rw|ro|user|readonly|migrate)\b", r"app_\1", made.stdout)
    # the roles of a policy are in the order in which pg_dump finds them in a catalog of the server
    text = re.sub(
        r"(?<= TO )app_\w+(, app_\w+)+(?= USING )", lambda roles: ", ".join(sorted(roles[0].split(", "))), text
    )
    return [line for line in text.splitlines() if not line.startswith(("\\restrict ", "\\unrestrict "))]


def _fill(site: Site, app: App, login: str, made: schemas.Schema) -> None:
    """Makes the schema in the app's database.

    Args:
        login: by which the app makes what it needs.
    """
    roles = {schemas.OWNER: "owner", schemas.RW: "rw", schemas.RO: "ro", schemas.USER: "user"}
    for name, statements in ((login, made.statements), ("user", made.by_user)):
        with site.enter(app, name) as session:
            session.execute(b"SET client_encoding = 'UTF8'")
            for statement in statements:
                text = statement
                for placeholder, role in roles.items():
                    text = text.replace(placeholder, f"{app.id}_{role}")
                text = text.replace("IN DATABASE DATABASE", f"IN DATABASE {app.id}")
                try:
                    session.execute(text.encode())
                except psycopg.Error as error:
                    pytest.fail(f"the schema is none: {error}\n{text}")
    for text in filter(None, made.settings):
        login_ = text.replace(schemas.USER, f"{app.id}_user")
        site.served.sql(login_.replace("DATABASE DATABASE", f"DATABASE {app.id}"))


def _refused(site: Site, app: App, made: schemas.Schema) -> None:
    """What takes an admin is named before anything is done, and the statements that are said end it."""
    text, name = made.by_superuser
    with _session(site.served, app.id) as session:
        session.execute(text.replace(schemas.USER, f"{app.id}_user").encode())
        with archive(site) as (opened, context), pytest.raises(Refused) as raised:
            opened.prepare(PlaceKind.NEW, app, context)
        assert name in raised.value.message, text
        assert "geheim" not in f"{raised.value.message}{raised.value.hint}"
        ends = str(raised.value.hint).split(f"in database {app.id}: ", 1)[1].rpartition("; then run")[0]
        if "label" in name:  # whose provider no server has
            ends = "SET allow_system_table_mods = on; DELETE FROM pg_shseclabel"
        session.execute(ends.encode())


def _brought_back(site: Site, target: App, part: Part, files: Files) -> None:
    with archive(site) as (opened, context):
        tried = opened.prepare(PlaceKind.SCRATCH, target, context)
        opened.restore(tried, part, files, quiet)
        assert opened.measure(tried) == part.measures
        opened.discard(tried)
        place = opened.prepare(PlaceKind.NEW, target, context)
        opened.restore(place, part, files, quiet)
        opened.replace(place, context)
    site.apply([target])
    assert not site.changes([target])


def _comes_back(site: Site, seed: int, roles: str, made_with: str = "") -> None:
    """A schema, with what an apply adds to it, in the place of itself and as another app's."""
    app, other = site.app(roles=roles), site.app(roles=roles)
    if made_with:
        site.served.sql(f"CREATE DATABASE {app.id} TEMPLATE template0 {made_with} OWNER {site.admin}")
    site.apply([app, other], adopt=[app.id])
    encoding = "latin-1" if "LATIN1" in made_with else "utf-8"
    extras = _extras(site.served)
    if not made_with:
        extras |= {"utf-8"}
    if site.admin == SUPERUSER:  # who may have row security lifted
        extras |= {"forced"}
    login = "migrate" if roles == "split" else "user"
    # SQL_ASCII knows no letters: what the server makes of two names it would cut within one
    limit = 24 if "ASCII" in made_with else 63
    made = schemas.schema(seed, _major(site.served), encoding, extras, limit)
    _fill(site, app, login, made)
    site.apply([app])
    _refused(site, app, made)
    before, dumped = _taken(site, app, app.id), _dumped(site, app)
    part, files = backed_up(site, app)
    for target in (app, other):
        _brought_back(site, target, part, files)
        assert not difference(before, _taken(site, target, target.id))
        assert _dumped(site, target) == dumped
    site.clean(app, other)


@pytest.mark.parametrize(
    ("seed", "admin", "roles", "made_with"),
    [
        (0, SUPERUSER, "simple", ""),
        (1, PLATFORM, "split", "ENCODING 'SQL_ASCII' LOCALE 'C'"),
        (2, SUPERUSER, "split", "ENCODING 'LATIN1' LOCALE 'C'"),
    ],
)
def test_a_hostile_schema_comes_back_as_it_was(
    served: Cluster, seed: int, admin: str, roles: str, made_with: str
) -> None:
    _comes_back(Site(served, admin), seed, roles, made_with)


@pytest.mark.rare
@pytest.mark.parametrize("seed", range(3, 33))
def test_many_hostile_schemas_come_back_as_they_were(served: Cluster, seed: int) -> None:
    made_with = ["", "ENCODING 'LATIN1' LOCALE 'C'", "ENCODING 'SQL_ASCII' LOCALE 'C'"][seed % 3]
    admin = PLATFORM if seed % 4 == 0 else SUPERUSER
    _comes_back(Site(served, admin), seed, ["simple", "split"][seed % 2], made_with)


def test_an_index_that_is_not_valid_is_left_out_and_named(served: Cluster) -> None:
    site = Site(served)
    app, said = site.app(), list[str]()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2)")
        session.execute("CREATE TABLE parted (a int) PARTITION BY RANGE (a)")
        session.execute("CREATE INDEX whole ON parted (a)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            session.execute('CREATE UNIQUE INDEX CONCURRENTLY "half done" ON twice (a)')
    files = Files()
    with archive(site) as (opened, context):
        part = opened.backup(app, context, files, lambda _, message, *__: said.append(message))
    assert [each for each in said if "not valid" in each] == [
        'indexes that are not valid, and so not in the set: public."half done"'
    ]
    assert part.measures.counts["indexes"] == 1
    _brought_back(site, app, part, files)


def test_every_catalog_is_compared_or_left_out_for_a_reason(served: Cluster) -> None:
    with _session(served, "postgres") as session:
        assert unknown(session) == []


_CHANGES = (
    "COMMENT ON COLUMN t.b IS 'other'",
    "ALTER TABLE t ALTER COLUMN b SET STORAGE EXTERNAL",
    "ALTER TABLE t ALTER COLUMN a SET STATISTICS 7",
    "ALTER TABLE t ALTER COLUMN b SET DEFAULT 'y'",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "ALTER TABLE t DROP COLUMN a CASCADE",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE t REPLICA IDENTITY FULL",
    "ALTER TABLE t DISABLE TRIGGER fired",
    "ALTER TABLE t SET (toast.autovacuum_enabled = false)",
    "ALTER TABLE t ADD CHECK (a > 0) NOT VALID",
    "ALTER INDEX i RENAME TO j",
    "ALTER POLICY p ON t USING (a > 1)",
    "ALTER TYPE e ADD VALUE 'c' BEFORE 'b'",
    "ALTER FUNCTION f(int) SET work_mem = '1MB'",
    "ALTER FUNCTION f(int) OWNER TO plat",
    "CREATE OR REPLACE FUNCTION f(int DEFAULT 2) RETURNS int LANGUAGE sql RETURN $1",
    "CREATE OR REPLACE VIEW v AS SELECT a FROM t WHERE a > 1",
    "CREATE STATISTICS s ON a, b FROM t",
    "CREATE TABLE u ()",
    "GRANT SELECT ON t TO plat",
    "GRANT SELECT (a) ON t TO plat",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO plat",
    "ALTER DATABASE changed SET work_mem = '1MB'",
    "REFRESH MATERIALIZED VIEW m WITH NO DATA",
    "SELECT nextval('q')",
    "UPDATE t SET b = 'z'",
    "SELECT lo_put(7, 0, 'z')",
    "COMMENT ON LARGE OBJECT 7 IS 'seven'",
    "COMMENT ON SCHEMA public IS 'ours'",
)


def test_a_difference_is_seen(served: Cluster) -> None:
    served.sql("CREATE DATABASE changed TEMPLATE template0")
    with _session(served, "changed") as session:
        session.execute(
            b"CREATE TYPE e AS ENUM ('a', 'b'); CREATE SEQUENCE q; SELECT lo_from_bytea(7, 'x');"
            b"CREATE FUNCTION f(int DEFAULT 1) RETURNS int LANGUAGE sql RETURN $1;"
            b"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            b"CREATE TABLE t (a int, b text); CREATE INDEX i ON t (b); INSERT INTO t VALUES (1, 'x');"
            b"CREATE TRIGGER fired BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION t();"
            b"CREATE POLICY p ON t USING (a > 0); CREATE VIEW v AS SELECT a FROM t;"
            b"CREATE MATERIALIZED VIEW m AS SELECT b FROM t"
        )
        before = inventory(session)
        assert inventory(session) == before
        for change in _CHANGES:
            session.execute(b"BEGIN")
            session.execute(change.encode())
            assert difference(before, inventory(session)), change
            session.execute(b"ROLLBACK")
            session.execute(b"SELECT setval('q', 1, false)")
