"""Data from servers that are nobody's here, brought into apps by `multidb import`. On real ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from multidb.state import ProjectState
from tests.support.command import Folder
from tests.support.importing import MANIFEST, PASSWORD, databases, emptied, importing_project, there
from tests.support.postgres_servers import Cluster, cluster
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

READER = "old_reader"
THEIRS = (
    "CREATE SCHEMA sales",
    "CREATE EXTENSION ltree",
    "CREATE TABLE sales.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text, at timestamptz)",
    "INSERT INTO sales.orders (note, at) SELECT 'order ' || n, to_timestamp(n) FROM generate_series(1, 3000) n",
    'CREATE TABLE "Odd ""name""; --" (path ltree, "multidb: \x1b[31m" text)',
    """INSERT INTO "Odd ""name""; --" VALUES ('a.b', 'x')""",
    "CREATE VIEW sales.newest AS SELECT * FROM sales.orders ORDER BY id DESC LIMIT 1",
    "CREATE FUNCTION sales.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'",
    "CREATE PUBLICATION theirs FOR ALL TABLES",
    "SELECT lo_from_bytea(4242, '\\xabcd')",
    "ALTER DATABASE old SET work_mem = '7MB'",
    f"GRANT pg_read_all_data TO {READER}",
    f"GRANT SELECT ON LARGE OBJECT 4242 TO {READER}",
)


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with cluster(18) as served:
        served.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
        served.sql("CREATE ROLE their_owner")
        yield served


@pytest.fixture
def old(source: Cluster) -> Iterator[str]:
    """The address of a database with data, without its password."""
    source.sql("CREATE DATABASE old")
    source.sql(*THEIRS, database="old")
    yield f"postgresql://{READER}@127.0.0.1:{source.port}/old"
    source.sql("DROP DATABASE old WITH (FORCE)")


@pytest.fixture(scope="module")
def served() -> Iterator[Folder]:
    with importing_project() as made:
        yield made


@pytest.fixture
def folder(served: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """The project, whose app has nothing."""
    monkeypatch.setenv("MULTIDB_IMPORT_POSTGRES_PASSWORD", PASSWORD)
    return emptied(served)


def run(folder: Folder, *arguments: str, password: str = PASSWORD) -> Any:
    return folder.run("import", *arguments, env={"MULTIDB_IMPORT_POSTGRES_PASSWORD": password})


def test_it_says_what_would_come_and_changes_nothing(folder: Folder, old: str) -> None:
    done = run(folder, "shop", "--from-postgres", old, "--json")
    assert done.code == 0, done.err
    data = done.json()["data"]
    (survey,) = data["sources"]
    assert (data["imported"], survey["product"].split(".")[0], survey["obstacles"]) == (False, "PostgreSQL 18", [])
    assert survey["counts"]["tables"] == 2
    assert "wal_level is replica" in survey["following"]
    live = run(folder, "shop", "--from-postgres", old, "--live", "--yes")
    assert (live.code, "wal_level is replica" in live.err) == (3, True)
    assert any("publication theirs" in loss for loss in survey["losses"])
    assert any("postgres" in loss and "roles" in loss for loss in survey["losses"])
    assert there(folder) == []
    assert not [name for name in databases(folder) if "__" in name]
    assert PASSWORD not in done.out + done.err


def test_a_login_reads_what_it_may_as_the_role_that_it_becomes(folder: Folder, source: Cluster) -> None:
    """As the logins of apps are, which multidb has made."""
    odd = '"Their ""role\'s"'
    source.sql(
        "CREATE DATABASE older", f"CREATE ROLE {odd}", f"CREATE ROLE worker LOGIN NOINHERIT PASSWORD '{PASSWORD}'"
    )
    source.sql(f"GRANT {odd} TO worker WITH INHERIT FALSE, SET TRUE", f"GRANT CREATE ON DATABASE older TO {odd}")
    source.sql(f"SET ROLE {odd}", "CREATE SCHEMA own", "CREATE TABLE own.t AS SELECT 7 AS a", database="older")
    where = f"postgresql://worker@127.0.0.1:{source.port}/older"
    try:
        refused = run(folder, "shop", "--from-postgres", where, "--yes")
        assert (refused.code, "worker may not read table own.t" in refused.out + refused.err) == (3, True)
        source.sql(f"ALTER ROLE worker SET role = {odd}")
        done = run(folder, "shop", "--from-postgres", where, "--yes")
        assert done.code == 0, done.out + done.err
        assert there(folder) == ["own.t"]
    finally:
        source.sql("DROP DATABASE older WITH (FORCE)", "DROP ROLE worker", f"DROP ROLE {odd}")


def test_it_brings_everything_and_the_app_has_it(folder: Folder, old: str, source: Cluster) -> None:
    done = run(folder, "shop", "--from-postgres", old, "--yes")
    assert done.code == 0, done.out + done.err
    assert PASSWORD not in done.out + done.err
    assert there(folder) == ['public."Odd ""name""; --"', "sales.orders"]
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*), sum(id) FROM sales.orders").fetchone() == (3000, 4501500)
        assert connection.execute("INSERT INTO sales.orders (note) VALUES ('n') RETURNING id").fetchone() == (3001,)
        assert connection.execute("SELECT sales.twice(4), lo_get(4242)").fetchone() == (8, b"\xab\xcd")
        assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)
        connection.execute("CREATE TABLE sales.mine (a int)")
    folder.ok("plan", "--check")
    audited = folder.ok("audit", "--json").json()
    assert (audited["breaches"], audited["holes"]) == ([], [])
    assert source.sql("SELECT count(*) FROM pg_replication_slots") == [(0,)]
    assert not [name for name in databases(folder) if "__" in name]

    again = run(folder, "shop", "--from-postgres", old, "--yes")
    assert (again.code, "--replace" in again.err) == (3, True)
    replaced = run(folder, "shop", "--from-postgres", old, "--yes", "--replace", "--json")
    assert replaced.code == 0, replaced.err
    assert replaced.json()["data"]["safety_set"]
    assert there(folder) == ['public."Odd ""name""; --"', "sales.orders"]


STEPS = (
    "multidb.provisioners.postgres.backup.restore:restore",
    pytest.param("multidb.backup.places:differences", marks=pytest.mark.rare),
    pytest.param("multidb.backup.importing:require_unbound#2", marks=pytest.mark.rare),
    "multidb.provisioners.postgres.backup.place_databases:_exchange",
    pytest.param("multidb.backup.importing:durability", marks=pytest.mark.rare),
)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_the_same_command_goes_on(folder: Folder, old: str, step: str) -> None:
    process = stopped_at(folder, step, "import", "shop", "--from-postgres", old, "--yes")
    assert process is not None, f"it never came to {step}"
    second = run(folder, "shop", "--from-postgres", old, "--yes")
    assert (second.code, "multidb import" in second.err) == (3, True), "two at once"
    kill(process)
    done = run(folder, "shop", "--from-postgres", old, "--yes")
    assert done.code == 0, done.out + done.err
    assert there(folder) == ['public."Odd ""name""; --"', "sales.orders"]
    assert not [name for name in databases(folder) if "__" in name]
    assert ProjectState(folder.path).read("backup-work").get("importing", {}) == {}


def test_killed_it_is_cleared_away_by_another_command_or_given_up(folder: Folder, old: str) -> None:
    for clearing in (("backup", "other"), ("import", "shop", "--abort")):
        process = stopped_at(
            folder, "multidb.backup.importing:differences", "import", "shop", "--from-postgres", old, "--yes"
        )
        assert process is not None
        kill(process)
        assert "shop__new" in databases(folder)
        folder.ok(*clearing)
        assert not [name for name in databases(folder) if "__" in name]
        assert there(folder) == []
    assert folder.run("import", "shop", "--abort").code == 2


def test_a_source_that_is_written_meanwhile_is_said_so(folder: Folder, old: str, source: Cluster) -> None:
    step = "multidb.provisioners.postgres.backup.archive:PostgresArchive.measure"
    for number, accepting in enumerate(((), ("--accept-differences",))):
        process = stopped_at(folder, step, "import", "shop", "--from-postgres", old, "--yes", *accepting)
        assert process is not None
        source.sql("INSERT INTO sales.orders (note) VALUES ('late')", database="old")
        code, said = go_on(process)
        assert f"table sales.orders: {3000 + number:,}, the source says {3001 + number:,}" in said
        assert code == (0 if accepting else 3), said
        assert bool(there(folder)) == bool(accepting)
        assert not [name for name in databases(folder) if "__" in name]


def test_every_bad_source_is_one_clear_error(folder: Folder, old: str, source: Cluster) -> None:
    place = urlsplit(old)
    typed = old.replace(READER, f"{READER}:{PASSWORD}")
    source.sql("CREATE TABLE sales.hidden (a int)", f"REVOKE pg_read_all_data FROM {READER}", database="old")
    for arguments, code, words in (
        (("shop", "--from-postgres", typed), 2, "MULTIDB_IMPORT_POSTGRES_PASSWORD"),
        (("shop", "--from-postgres", "postgresql://"), 2, "no host"),
        (("shop", "--from-postgres", f"{old}?password=x"), 2, "password"),
        (("shop", "--from-postgres", "mysql://u@h/db"), 2, "postgresql://"),
        (("shop", "--from-postgres", "no.dump"), 2, "no such file"),
        (("shop", "--from-postgres", "env:NOT_SET"), 2, "NOT_SET"),
        (("shop", "--from-postgres", old.rpartition("/")[0]), 2, "names no database"),
        (("shop", "--from-postgres", old.replace("/old", "/gone")), 4, "gone"),
        (("shop", "--from-postgres", old.replace(str(place.port), "1")), 4, "start it where it runs"),
        (("shop", "--from-postgres", old, "--yes"), 3, "may not read table"),
        (("shop", "--from-postgres", old, "--pattern", "x"), 2, "--pattern"),
        (("shop", "--from-postgres", old, "--scan"), 2, "--scan"),
        (("nobody", "--from-postgres", old), 2, "nobody"),
        (("--from-postgres", old), 2, "import NAME"),
        (("shop",), 2, "--from-postgres"),
    ):
        done = run(folder, *arguments)
        assert (done.code, words in done.err) == (code, True), f"{arguments}: {done.code} {done.err}"
        assert PASSWORD not in done.out + done.err
    wrong = run(folder, "shop", "--from-postgres", old, password="wrong-one-of-it")
    assert (wrong.code, "MULTIDB_IMPORT_POSTGRES_PASSWORD" in wrong.err) == (4, True)
    assert there(folder) == []


def test_a_superuser_at_the_source_is_warned_of(folder: Folder, old: str, source: Cluster) -> None:
    theirs = old.replace(READER, "postgres")
    for address, password, warned in ((old, PASSWORD, False), (theirs, source.password, True)):
        done = run(folder, "shop", "--from-postgres", address, "--json", password=password)
        (survey,) = done.json()["data"]["sources"]
        assert [("superuser" in warning) for warning in survey["warnings"]] == [True] * warned


CALLED = {
    "index public.called": "CREATE INDEX called ON watched (a) WHERE theirs(1)",
    "index public.computed": "CREATE INDEX computed ON watched ((a + theirs_of(1)))",
    "index public.coerced": "CREATE INDEX coerced ON watched (a) WHERE 1::checked IS NOT NULL",
    "index public.operated": "CREATE INDEX operated ON watched (a) WHERE 1 OPERATOR(public.~~~) 2",
    "statistics public.counted": "CREATE STATISTICS counted ON (a + theirs_of(1)), b FROM watched",
    "partition key of public.parted": "CREATE TABLE parted (a int) PARTITION BY RANGE ((a + theirs_of(1)))",
}
HARMLESS = (
    "CREATE INDEX plain ON watched (a) WHERE mood = 'fine'",
    "CREATE INDEX lower ON watched (lower(mood_text)) WHERE a > 0",
    "CREATE STATISTICS plainly ON a, b FROM watched",
    "CREATE TABLE parts (a checked) PARTITION BY RANGE ((a + 1))",
    "RESET ROLE",
    "CREATE FUNCTION ours(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
    "CREATE INDEX of_ours ON watched (ours(a))",
)


def test_no_superuser_reads_what_would_call_functions_of_others(folder: Folder, source: Cluster) -> None:
    source.sql("CREATE DATABASE planned OWNER their_owner", f"CREATE ROLE worker SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    source.sql("ALTER ROLE worker SET role = their_owner", f"GRANT pg_read_all_data TO {READER}")
    source.sql(
        "SET ROLE their_owner",
        "CREATE TYPE mood AS ENUM ('fine')",
        "CREATE TABLE watched (a int, b int, mood mood, mood_text text)",
        "CREATE FUNCTION theirs(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'",
        "CREATE FUNCTION theirs_of(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
        "CREATE FUNCTION equal(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'",
        "CREATE OPERATOR public.~~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = equal)",
        "CREATE DOMAIN checked AS int CHECK (theirs(VALUE))",
        *HARMLESS,
        database="planned",
    )
    place = f"@127.0.0.1:{source.port}/planned"
    logins = {"postgres": source.password, "worker": PASSWORD, READER: PASSWORD}

    def surveyed(login: str) -> list[str]:
        done = run(folder, "shop", "--from-postgres", f"postgresql://{login}{place}", "--json", password=logins[login])
        (survey,) = done.json()["data"]["sources"]
        return list(survey["obstacles"])

    try:
        assert surveyed("postgres") == []
        source.sql("SET ROLE their_owner", *CALLED.values(), database="planned")
        for login in ("postgres", "worker"):  # also one that becomes another role, which could go back
            (obstacle,) = surveyed(login)
            assert obstacle.startswith(f"{', '.join(sorted(CALLED))} would call"), obstacle
        refused = run(folder, "shop", "--from-postgres", f"postgresql://postgres{place}", "--yes",
                      password=source.password)  # fmt: skip
        assert (refused.code, "name a login that may only read" in refused.err) == (3, True), refused.err
        assert surveyed(READER) == []
        done = run(folder, "shop", "--from-postgres", f"postgresql://{READER}{place}", "--yes")
        assert done.code == 0, done.out + done.err
        assert there(folder) == ["public.watched"]
    finally:
        source.sql("DROP DATABASE planned WITH (FORCE)", "DROP ROLE worker")


def test_the_whole_address_may_be_kept_elsewhere(folder: Folder, old: str) -> None:
    typed = old.replace(READER, f"{READER}:{PASSWORD}")
    kept = folder.path / "address"
    kept.write_text(typed + "\n")
    for reference in (f"file:{kept}", "env:OLD_SHOP"):
        done = folder.run("import", "shop", "--from-postgres", reference, env={"OLD_SHOP": typed})
        assert (done.code, PASSWORD in done.out + done.err) == (0, False), done.err


@pytest.mark.rare
def test_an_encoding_stays_as_it_was(folder: Folder, source: Cluster) -> None:
    source.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        source.sql("CREATE TABLE words (word text)", "INSERT INTO words VALUES (U&'caf\\00E9')", database="latin")
        source.sql(f"GRANT SELECT ON words TO {READER}", database="latin")
        done = run(folder, "shop", "--from-postgres", f"postgresql://{READER}@127.0.0.1:{source.port}/latin", "--yes")
        assert done.code == 0, done.out + done.err
        with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
            assert connection.execute("SHOW server_encoding").fetchone() == ("LATIN1",)
            assert connection.execute("SELECT word, octet_length(word) FROM words").fetchone() == ("caf\u00e9", 4)
    finally:
        source.sql("DROP DATABASE latin WITH (FORCE)")


def test_an_extension_that_takes_an_admin_has_to_be_in_the_manifest(folder: Folder, old: str, source: Cluster) -> None:
    source.sql("CREATE EXTENSION pg_stat_statements", database="old")
    seen = run(folder, "shop", "--from-postgres", old, "--yes")
    assert (seen.code, "extension pg_stat_statements takes an admin" in seen.err) == (3, True), seen.err
    folder.manifest(MANIFEST.replace("shop: {", "shop: {postgres: {extensions: [pg_stat_statements]}, "))
    folder.ok("apply", "--yes")
    done = run(folder, "shop", "--from-postgres", old, "--yes")
    folder.manifest(MANIFEST)
    assert done.code == 0, done.out + done.err
    assert "sales.orders" in there(folder)


@pytest.mark.rare
def test_from_an_older_server_everything_comes_in_its_version(folder: Folder) -> None:
    with cluster(15) as older:
        older.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data", "CREATE DATABASE old")
        older.sql(
            "CREATE EXTENSION ltree",
            "CREATE TABLE paths (path ltree PRIMARY KEY, at timestamptz DEFAULT now(), n numeric, j jsonb, f float8)",
            "INSERT INTO paths SELECT ('a.b' || n)::ltree, now(), n / 3.0, '{\"a\": 1}', n / 7.0 "
            "FROM generate_series(1, 500) n",
            database="old",
        )
        old = f"postgresql://{READER}@127.0.0.1:{older.port}/old"
        done = run(folder, "shop", "--from-postgres", old, "--yes", "--json")
        assert done.code == 0, done.out + done.err
        (survey,) = done.json()["data"]["sources"]
        assert survey["product"].startswith("PostgreSQL 15")
        with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM paths WHERE path ~ 'a.*'").fetchone() == (500,)
            assert connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'ltree'").fetchone() == (
                "1.2",
            )


def dumped(source: Cluster, path: Path, *options: str) -> Path:
    """What pg_dump makes of the database, by its superuser."""
    command = [source.binaries / "pg_dump", *options, "--file", path, "--host=127.0.0.1", f"--port={source.port}"]
    env = {**os.environ, "PGPASSWORD": source.password}
    subprocess.run([*command, "--username=postgres", "old"], env=env, check=True)
    return path


@pytest.mark.parametrize("form", ["custom", pytest.param("directory", marks=pytest.mark.rare)])
def test_a_dump_is_loaded_as_it_lies(folder: Folder, old: str, source: Cluster, tmp_path: Path, form: str) -> None:
    visits = "CREATE TABLE visits (at timestamptz, day date, CHECK (at::date = day))"
    written = "INSERT INTO visits VALUES ('2024-01-01 00:30+09', '2024-01-01')"
    source.sql(visits, "SET TimeZone = 'Asia/Tokyo'", written, database="old")
    parted = "CREATE TABLE parted (n int) PARTITION BY HASH (n)"
    halves = [f"CREATE TABLE half{n} PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in (0, 1)]
    source.sql(parted, *halves, "INSERT INTO parted SELECT generate_series(1, 10)", database="old")
    dump = dumped(source, tmp_path / "old.dump", f"--format={form}", "--load-via-partition-root")
    seen = run(folder, "shop", "--from-postgres", str(dump), "--json")
    assert seen.code == 0, seen.err
    (survey,) = seen.json()["data"]["sources"]
    assert (survey["product"], survey["counts"]["tables"]) == ("dump of PostgreSQL 18, by pg_dump 18", 6)
    assert any("1 publication" in loss for loss in survey["losses"])
    assert there(folder) == []
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:  # a dump does not say its own
        connection.execute("SET ROLE NONE; ALTER ROLE CURRENT_USER IN DATABASE shop SET TimeZone = 'Asia/Tokyo'")
    done = run(folder, "shop", "--from-postgres", str(dump), "--yes")
    assert done.code == 0, done.out + done.err
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*), sum(id) FROM sales.orders").fetchone() == (3000, 4501500)
        assert connection.execute("SELECT sales.twice(4), lo_get(4242)").fetchone() == (8, b"\xab\xcd")
        assert connection.execute("SELECT count(*) FROM parted").fetchone() == (10,)
        assert connection.execute("INSERT INTO sales.orders (note) VALUES ('n') RETURNING id").fetchone() == (3001,)
    folder.ok("plan", "--check")
    live = run(folder, "shop", "--from-postgres", str(dump), "--live", "--yes", "--replace")
    assert (live.code, "does not change" in live.err) == (3, True)


def test_a_dump_that_cannot_be_trusted_or_loaded_changes_nothing(
    folder: Folder, old: str, source: Cluster, tmp_path: Path
) -> None:
    plain = dumped(source, tmp_path / "plain.sql", "--format=plain")
    linked = dumped(source, tmp_path / "linked", "--format=directory")
    next(linked.glob("*.dat.gz")).unlink()
    (linked / "1.dat").symlink_to("/etc/passwd")
    led = dumped(source, tmp_path / "led", "--format=directory")
    toc = (led / "toc.dat").read_bytes()
    names = (file.name.removesuffix(".gz").encode() for file in led.glob("*.dat.gz"))
    data = next(name for name in names if name in toc)  # the files of large objects stand in a list of their own
    (led / "toc.dat").write_bytes(toc.replace(data, b"../" + data[3:]))
    whole = dumped(source, tmp_path / "whole", "--format=custom").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) * 2 // 3])
    source.sql('CREATE POLICY "p" ON sales.orders TO their_owner USING (true)', database="old")
    dumped(source, tmp_path / "policies", "--format=custom")
    for path, code, words in (
        (plain, 6, "--format=custom"),
        (linked, 6, "outside of its folder"),
        (led, 6, "outside of its folder"),
        (tmp_path / "half", 6, "pg_restore"),
        (tmp_path / "policies", 3, "1 row policy for roles by name"),
        (tmp_path, 6, "no folder that pg_dump"),
    ):
        done = run(folder, "shop", "--from-postgres", str(path), "--yes")
        assert (done.code, words in done.err) == (code, True), f"{path}: {done.code} {done.err}"
        assert there(folder) == []
        assert not [name for name in databases(folder) if "__" in name]
