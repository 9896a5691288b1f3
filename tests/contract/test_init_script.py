"""``scripts/init-multiple-databases.sh`` on real servers, run as the official Postgres image runs it.

That is: by psql, through the socket (the temporary server has no TCP), as POSTGRES_USER with PGPASSWORD set, and either
executed or, where the file is not executable, read into the image's own bash.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from multidb.engine import Engine
from multidb.environment import environment
from multidb.fleet import Fleet, Scope
from multidb.model import Action
from multidb.project import load_project
from tests.support.command import REPOSITORY
from tests.support.postgres_servers import SUPERUSER, Cluster, cluster

SCRIPT = REPOSITORY / "scripts" / "init-multiple-databases.sh"
pytestmark = pytest.mark.server


@dataclass
class Image:
    """The conditions of the image, around a server."""

    cluster: Cluster
    sockets: Path

    def init(self, databases: str, *, sourced: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the script as docker-entrypoint.sh does: directly, or read into a bash that has `set -Eeo pipefail`."""
        command = ["bash", "-c", f'set -Eeo pipefail; . "{SCRIPT}"; echo went on'] if sourced else [str(SCRIPT)]
        return subprocess.run(
            command,
            env={
                "PATH": f"{self.cluster.binaries}:/usr/bin:/bin",
                "PGHOST": str(self.sockets),
                "PGPORT": str(self.cluster.port),
                "PGPASSWORD": self.cluster.password,
                "POSTGRES_USER": SUPERUSER,
                "POSTGRES_DB": SUPERUSER,
                "POSTGRES_MULTIPLE_DATABASES": databases,
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log_in(self, user: str, password: str, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.cluster.port, user=user, password=password, dbname=database, autocommit=True
        )

    def databases(self) -> set[str]:
        rows = self.cluster.sql("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'")
        return {name for (name,) in rows}


@pytest.fixture(scope="module", params=[15, 18])
def image(request: pytest.FixtureRequest) -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="mdb-") as folder:
        os.chmod(folder, 0o777)  # noqa: PTH101 (the server runs as somebody else)
        with cluster(request.param, unix_socket_directories=folder, log_statement="all") as server:
            yield Image(server, Path(folder))


@pytest.mark.parametrize("sourced", [False, True], ids=["executed", "sourced"])
def test_each_name_gets_a_database_and_a_login_that_no_other_can_enter(image: Image, sourced: bool) -> None:
    shop, blog = f"shop_{sourced:d}".lower(), f"blog_{sourced:d}".lower()
    ran = image.init(
        f" {shop}, {blog},",
        sourced=sourced,
        **{f"{shop.upper()}_DB_PASSWORD": "it's $a \"pass\\word", f"{blog.upper()}_DB_PASSWORD": "second-password"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ("went on" in ran.stdout) == sourced
    with image.log_in(f"{shop}_user", "it's $a \"pass\\word", shop) as own:  # the positive control
        own.execute("CREATE TABLE goods (name text)")
        assert own.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'goods'").fetchone() == (
            f"{shop}_owner",
        )
    for database in (blog, "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            image.log_in(f"{shop}_user", "it's $a \"pass\\word", database)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        image.log_in(f"{shop}_user", "second-password", shop)


def test_run_again_it_changes_nothing_and_keeps_passwords(image: Image) -> None:
    assert image.init("twice", TWICE_DB_PASSWORD="the-first-password").returncode == 0
    with image.log_in("twice_user", "the-first-password", "twice") as connection:
        connection.execute("CREATE TABLE kept (n int)")
    before = image.cluster.sql("SELECT datacl::text, oid FROM pg_database WHERE datname = 'twice'")
    again = image.init(
        # By hand, in the container: the image gives PGPASSWORD at the first start only.
        "twice,later",
        TWICE_DB_PASSWORD="another-password",
        PGPASSWORD="",
        POSTGRES_PASSWORD=image.cluster.password,
    )
    assert again.returncode == 0, again.stderr
    assert image.cluster.sql("SELECT datacl::text, oid FROM pg_database WHERE datname = 'twice'") == before
    with image.log_in("twice_user", "the-first-password", "twice") as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    assert "later" in image.databases()


def test_what_an_interrupted_run_left_is_finished(image: Image) -> None:
    image.cluster.sql(
        "CREATE ROLE half_owner NOLOGIN", "CREATE DATABASE half TEMPLATE template0 ALLOW_CONNECTIONS false"
    )
    assert image.init("half", HALF_DB_PASSWORD="half-a-password").returncode == 0
    with image.log_in("half_user", "half-a-password", "half") as connection:
        connection.execute("CREATE TABLE whole (n int)")


_SHAPES = ["a", "x" * 32, "Shop", "1shop", "shop-one", "shop_", "_shop", "shöp", "postgres", "template1", "pg_shop"]
_ATTACKS = ["sh op", 'sh"op', "sh';DROP ROLE x", "$(id)", "`id`", "*", "shop\nblog", "shop;blog", "--help", "\\!id"]


@pytest.mark.parametrize("name", [*_SHAPES, *_ATTACKS])
def test_one_hostile_name_and_nothing_is_made(image: Image, name: str) -> None:
    before = image.databases()
    ran = image.init(f"innocent,{name}")
    assert ran.returncode == 1
    assert "init-multiple-databases: " in ran.stderr
    assert image.databases() == before


def test_passwords_come_from_files_too_and_never_from_both(image: Image, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-a-file\n")
    assert image.init("filed", FILED_DB_PASSWORD_FILE=str(secret)).returncode == 0
    image.log_in("filed_user", "from-a-file", "filed").close()
    both = image.init("both", BOTH_DB_PASSWORD_FILE=str(secret), BOTH_DB_PASSWORD="x-password")
    assert (both.returncode, "both" in image.databases()) == (1, False)
    assert "BOTH_DB_PASSWORD and BOTH_DB_PASSWORD_FILE" in both.stderr
    gone = image.init("gone", GONE_DB_PASSWORD_FILE=str(tmp_path / "nothing"))
    assert (gone.returncode, "gone" in image.databases()) == (1, False)


def test_no_password_reaches_the_log_or_the_output_even_when_every_statement_is_logged(image: Image) -> None:
    ran = image.init("quiet", QUIET_DB_PASSWORD="a-password-that-must-not-be-seen")
    log = image.cluster.log.read_text()
    assert "CREATE ROLE quiet_user" in log, "the log has the statements"
    assert "SCRAM-SHA-256$" in log, "and the verifier"
    assert "a-password-that-must-not-be-seen" not in log + ran.stdout + ran.stderr


def test_without_a_password_nobody_can_log_in(image: Image) -> None:
    assert image.init("closed").returncode == 0
    assert image.cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'closed_user'") == [(None,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        image.log_in("closed_user", "anything", "closed")


def _engine(image: Image, folder: Path, app: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("INIT_ADMIN_PASSWORD", image.cluster.password)
    address = f"postgresql://{SUPERUSER}@127.0.0.1:{image.cluster.port}/postgres"
    (folder / "multidb.yaml").write_text(
        "version: 1\nproject: digi\nruntime: external\n"
        f'external: {{postgres: {{url: "{address}", password: {{env: INIT_ADMIN_PASSWORD}}}}}}\n'
        f"apps: {{{app}: {{stores: [postgres]}}}}\n"
    )
    return Engine(Fleet(load_project(folder / "multidb.yaml")))


def test_apply_adopts_what_the_script_made_and_only_adds(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image.init("taken", TAKEN_DB_PASSWORD="the-old-password").returncode == 0
    with image.log_in("taken_user", "the-old-password", "taken") as connection:
        connection.execute("CREATE TABLE old (n int)")
        connection.execute("INSERT INTO old VALUES (7)")
    engine = _engine(image, tmp_path, "taken", monkeypatch)
    assert engine.plan().conflicts, "what carries no mark is not touched without being asked"
    scope = Scope(adopt=frozenset({"taken"}))
    plan = engine.plan(scope)
    assert {change.action for change in plan.changes} <= {Action.CREATE, Action.UPDATE}
    assert engine.apply(scope, plan).error() is None
    assert not engine.plan().changes
    url = environment(engine.fleet, "taken").env["DATABASE_URL"]
    with psycopg.connect(url.reveal()) as connection:  # type: ignore[union-attr]
        assert connection.execute("SELECT n FROM old").fetchone() == (7,)


def test_with_the_project_given_apply_goes_on_without_being_asked(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image.init("marked", MULTIDB_PROJECT="digi").returncode == 0
    engine = _engine(image, tmp_path, "marked", monkeypatch)
    plan = engine.plan()
    assert not plan.conflicts
    assert {change.action for change in plan.changes} <= {Action.CREATE, Action.UPDATE}
    assert engine.apply().error() is None
    assert not engine.plan().changes
    psycopg.connect(environment(engine.fleet, "marked").env["DATABASE_URL"].reveal()).close()  # type: ignore[union-attr]


def test_shellcheck_has_nothing_to_say() -> None:
    import shutil

    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine (Debian: apt-get install shellcheck)")
    scripts = [SCRIPT, *(REPOSITORY / "infrastructure").rglob("*.sh")]
    ran = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
