"""Databases that somebody else has made, in the three modes of an app: watched, added to, taken over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.postgres_servers import PLATFORM, cluster

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: taken
runtime: embedded
apps:
  own: {stores: [postgres]}
"""
THEIRS = (
    "CREATE ROLE bob LOGIN PASSWORD 'bob'",
    "CREATE ROLE report LOGIN PASSWORD 'report'",
    "CREATE ROLE crm_user LOGIN PASSWORD 'theirs' CONNECTION LIMIT 7",
    "GRANT report TO crm_user",
    "CREATE DATABASE crm OWNER bob",
    "COMMENT ON DATABASE crm IS 'of the sales department'",
    "GRANT CONNECT ON DATABASE crm TO report",
)
INSIDE = (
    "CREATE EXTENSION pg_trgm",
    "CREATE SCHEMA sales AUTHORIZATION bob",
    "CREATE TABLE sales.orders AS SELECT n AS id FROM generate_series(1, 100) n",
    "ALTER TABLE sales.orders OWNER TO bob",
    "GRANT USAGE ON SCHEMA sales TO report",
    "GRANT SELECT ON sales.orders TO report",
    "ALTER DEFAULT PRIVILEGES FOR ROLE bob GRANT SELECT ON TABLES TO report",
)
STATE = """
SELECT json_build_object(
  'roles', (SELECT json_agg(json_build_array(rolname, rolcanlogin, rolconnlimit, rolpassword,
              shobj_description(oid, 'pg_authid')) ORDER BY rolname) FROM pg_authid WHERE rolname = ANY (%s)),
  'members', (SELECT json_agg(json_build_array(roleid::regrole, member::regrole) ORDER BY 1::text)
              FROM pg_auth_members WHERE member::regrole::text = ANY (%s)),
  'database', (SELECT json_build_array(datdba::regrole, datconnlimit, shobj_description(oid, 'pg_database'))
               FROM pg_database WHERE datname = 'crm'),
  'acl', (SELECT json_agg(x::text ORDER BY x::text) FROM pg_database, unnest(datacl) x WHERE datname = 'crm'),
  'settings', (SELECT json_agg(s::text ORDER BY s::text) FROM pg_db_role_setting s))::text"""
INNER = """
SELECT json_build_object(
  'owners', (SELECT json_agg(json_build_array(relname, relowner::regrole) ORDER BY relname) FROM pg_class
             WHERE relnamespace = 'sales'::regnamespace),
  'acl', (SELECT json_agg(x::text ORDER BY x::text) FROM pg_class, unnest(relacl) x WHERE relname = 'orders'),
  'schemas', (SELECT json_agg(json_build_array(nspname, nspowner::regrole) ORDER BY nspname) FROM pg_namespace
              WHERE nspname IN ('sales', 'public')),
  'defaults', (SELECT json_agg(d::text ORDER BY d::text) FROM pg_default_acl d),
  'extensions', (SELECT json_agg(extname ORDER BY extname) FROM pg_extension))::text"""
ROLES = ["bob", "report", "crm_user"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("taken-", MANIFEST) as project:
        project.ok("up")
        project.ok("apply", "--yes")
        yield project


def admin(folder: Folder, database: str = "postgres", user: str = "") -> psycopg.Connection:
    secret = ProjectState(folder.path).secrets.get(admin_ref("postgres", "postgres"))
    assert secret is not None
    there = urlsplit(folder.variables("own")["DATABASE_URL"])
    login = user or f"postgres:{secret.reveal()}"
    return psycopg.connect(f"postgresql://{login}@{there.hostname}:{there.port}/{database}", autocommit=True)


@pytest.fixture
def crm(folder: Folder) -> Iterator[Folder]:
    with admin(folder) as server:
        for statement in THEIRS:
            server.execute(statement)
    with admin(folder, "crm") as inside:
        for statement in INSIDE:
            inside.execute(statement)
    yield folder
    with admin(folder) as server:
        server.execute("DROP DATABASE crm WITH (FORCE)")
        roles = server.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^crm_'").fetchall()
        for (role,) in [*roles, ("bob",), ("report",)]:
            server.execute(f'DROP ROLE "{role}"')  # type: ignore[arg-type]
    (folder.path / "multidb.yaml").write_text(MANIFEST)


def state(folder: Folder) -> tuple[str, str]:
    with admin(folder) as server, admin(folder, "crm") as inside:
        outer = server.execute(STATE, (ROLES, ROLES)).fetchone()
        inner = inside.execute(INNER).fetchone()
    assert outer is not None
    assert inner is not None
    return outer[0], inner[0]


def manage(folder: Folder, mode: str) -> None:
    (folder.path / "multidb.yaml").write_text(f"{MANIFEST}  crm: {{stores: [postgres], mode: {mode}}}\n")


def test_an_app_that_is_observed_is_described_and_never_touched(crm: Folder) -> None:
    before = state(crm)
    manage(crm, "observe")
    planned = crm.ok("plan", "--check", "--json").json()
    assert planned["changes"] == []
    left = {(change["action"], change["kind"], change["name"]) for change in planned["left"]}
    assert ("update", "database", "crm") in left
    assert ("create", "role", "crm_owner") in left
    assert any("OWNER TO" in part["text"] for change in planned["left"] for part in change["statements"])
    assert "differences are left, by the mode of the apps" in crm.ok("plan").out
    crm.ok("apply", "--yes")
    crm.ok("apply", "--yes", "--adopt", "crm")
    assert state(crm) == before
    with admin(crm) as server:
        assert server.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'crm_%'").fetchone() == (1,)
    health = crm.ok("health", "--json")
    assert list(health.json()["apps"]) == ["own"]
    assert "crm: not tried on postgres, where it is only observed" in health.err
    refused = crm.run("env", "crm")
    assert refused.code == 2
    assert "only observed" in refused.err
    assert "mode: additive" in refused.err
    assert not (crm.path / "apps" / "crm" / ".env").exists()


def test_an_app_that_is_added_to_gets_what_is_missing_and_nothing_is_taken_from_others(crm: Folder) -> None:
    with admin(crm) as server:  # somebody's login that is called as the app's would be: left alone, and said
        server.execute("ALTER ROLE crm_user RENAME TO crm_migrate")
        server.execute("ALTER ROLE crm_migrate PASSWORD 'theirs'")
        theirs = ["bob", "report", "crm_migrate"]
        before = server.execute(STATE, (theirs, theirs)).fetchone()
    with admin(crm, "crm") as inside:
        inner = inside.execute(INNER).fetchone()
    manage(crm, "additive")
    texts = [part["text"] for change in crm.ok("plan", "--json").json()["changes"] for part in change["statements"]]
    assert not [text for text in texts if text.startswith(("REVOKE", "DROP")) or " OWNER TO " in text]
    crm.ok("apply", "--yes")
    again = crm.ok("plan", "--check", "--json").json()
    assert again["changes"] == []
    assert {"schema_owner", "misowned"} & {field["field"] for change in again["left"] for field in change["fields"]}
    with admin(crm) as server, admin(crm, "crm") as now:
        after, inner_after = server.execute(STATE, (theirs, theirs)).fetchone(), now.execute(INNER).fetchone()
    assert before is not None
    assert after is not None
    assert after[0].split('"acl"')[0] == before[0].split('"acl"')[0], "roles, memberships, the database and its comment"
    import json

    held, holds = json.loads(inner[0]), json.loads(inner_after[0])  # type: ignore[index]
    assert (holds["owners"], holds["schemas"], holds["extensions"]) == (
        held["owners"],
        held["schemas"],
        held["extensions"],
    )
    assert {*held["acl"]} <= {*holds["acl"]}
    assert {*held["defaults"]} <= {*holds["defaults"]}
    assert {*json.loads(before[0])["acl"]} <= {*json.loads(after[0])["acl"]}
    with psycopg.connect(crm.variables("crm")["DATABASE_URL"]) as app:
        assert app.execute("SELECT count(*) FROM sales.orders").fetchone() == (100,)
        app.execute("INSERT INTO sales.orders VALUES (101)")
        app.execute("CREATE TABLE sales.of_the_app (id int)")
    with psycopg.connect(crm.variables("crm")["CRM_DB_READONLY_URL"]) as reader:
        assert reader.execute("SELECT count(*) FROM sales.orders").fetchone() == (101,)
    with admin(crm, "crm", "report:report") as theirs:
        assert theirs.execute("SELECT count(*) FROM sales.orders").fetchone() == (101,)
    manage(crm, "authoritative")
    assert crm.run("apply", "--yes").code == 3, "it carries no mark, and nobody has said that it is to be taken over"
    crm.ok("apply", "--yes", "--adopt", "crm")
    crm.ok("plan", "--check")
    with psycopg.connect(crm.variables("crm")["DATABASE_URL"]) as app:
        app.execute("ALTER TABLE sales.orders ADD COLUMN note text")


@pytest.mark.rare  # what the test above tries of another login
def test_a_login_of_somebody_elses_is_not_made_the_apps(crm: Folder) -> None:
    before = state(crm)
    manage(crm, "{postgres: additive}")
    crm.ok("apply", "--yes")
    outer = state(crm)[0]
    assert outer.split('"database"')[0] == before[0].split('"database"')[0]
    left = [change for change in crm.ok("plan", "--json").json()["left"] if change["name"] == "crm_user"]
    assert left, "that the app's own login is not the app's is said"
    with admin(crm, "crm", "crm_user:theirs") as theirs:
        assert theirs.execute("SELECT session_user = current_user").fetchone() == (True,)


@pytest.mark.parametrize("major", [18, pytest.param(15, marks=pytest.mark.rare)])
@pytest.mark.parametrize("database_owner", ["bob", pytest.param(PLATFORM, marks=pytest.mark.rare)])
def test_an_admin_that_is_no_superuser_adds_once_it_may_act_as_the_owner(
    tmp_path: Path, major: int, database_owner: str
) -> None:
    """Until then it says what it lacks; afterwards everything is made, and what stays as it is is named."""
    with cluster(major) as server:
        (tmp_path / "password").write_text(server.platform_password)
        server.sql("CREATE ROLE bob LOGIN", "CREATE ROLE report LOGIN", f"CREATE DATABASE crm OWNER {database_owner}")
        server.sql(*(text for text in INSIDE if "EXTENSION" not in text), database="crm")
        folder = Folder(tmp_path, [])
        folder.manifest(f"""\
version: 1
project: taken
runtime: external
external:
  postgres: {{url: "postgresql://{PLATFORM}@127.0.0.1:{server.port}/postgres", password: {{file: password}}}}
apps:
""")
        folder.ok("import", "--scan", "--mode", "additive", "--write", "multidb.yaml")
        refused = folder.run("apply", "--yes")
        assert (refused.code, "failed: " in refused.out) == (4 if database_owner == "bob" else 5, True)
        again = folder.run("apply", "--yes")
        assert (again.code, f'GRANT OWNER TO "{PLATFORM}"' in again.err) == (4, True), again.err
        owners = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'sales.orders'::regclass"
        server.sql(f"GRANT bob TO {PLATFORM}")
        folder.ok("apply", "--yes")
        planned = folder.ok("plan", "--check", "--json").json()
        assert planned["changes"] == []
        assert {"database", "access to database", "rights inside database"} <= {
            change["kind"] for change in planned["left"]
        }
        assert server.sql(owners, database="crm") == [("bob",)]
        assert server.sql("SELECT datdba::regrole::text FROM pg_database WHERE datname = 'crm'") == [(database_owner,)]
        variables = folder.variables("crm")
        with psycopg.connect(variables["DATABASE_URL"]) as app:
            assert app.execute("SELECT count(*) FROM sales.orders").fetchone() == (100,)
            app.execute("INSERT INTO sales.orders VALUES (101)")
            app.execute("CREATE TABLE sales.of_the_app (id int)")
        with psycopg.connect(variables["CRM_DB_READONLY_URL"]) as reader:
            assert reader.execute("SELECT count(*) FROM sales.orders").fetchone() == (101,)
            reader.rollback()
            reader.execute("SET TRANSACTION READ WRITE")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("INSERT INTO sales.orders VALUES (102)")
        assert [app["status"] for app in folder.ok("health", "--json").json()["apps"].values()] == ["healthy"]
