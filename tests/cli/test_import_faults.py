"""An import that is killed, loses its source, has no room or is large. On real servers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from multidb.state import ProjectState
from tests.support.command import REPOSITORY, Folder, Ran
from tests.support.importing import PASSWORD, databases, emptied, importing_project, there
from tests.support.postgres_admin import as_admin
from tests.support.postgres_servers import Cluster, cluster
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1800)]

READER = "old_reader"
KILLS = 12
LARGEST = 200_000  # kB of the process, whatever is imported


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with cluster(18) as served:
        served.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data", "CREATE DATABASE old")
        served.sql("CREATE TABLE lines (id int PRIMARY KEY, version int, noise text)", database="old")
        yield served


@pytest.fixture(scope="module")
def served() -> Iterator[Folder]:
    with importing_project() as made:
        yield made


@pytest.fixture
def folder(served: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("MULTIDB_IMPORT_POSTGRES_PASSWORD", PASSWORD)
    return emptied(served)


def filled(source: Cluster, rows: int, version: int = 0) -> str:
    """The source with so many rows of 300 bytes; its address."""
    source.sql(
        "TRUNCATE lines",
        f"INSERT INTO lines SELECT n, {version}, repeat(md5(n::text), 9) FROM generate_series(1, {rows}) n",
        database="old",
    )
    return f"postgresql://{READER}@127.0.0.1:{source.port}/old"


def run(folder: Folder, *arguments: str) -> Ran:
    return folder.run("import", "shop", *arguments, env={"MULTIDB_IMPORT_POSTGRES_PASSWORD": PASSWORD})


def versions(folder: Folder) -> list[tuple[int, int]]:
    """What the app has: the rows of each version of the source."""
    if not there(folder):
        return []
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        return list(connection.execute("SELECT version, count(*) FROM lines GROUP BY version"))


@pytest.mark.rare
def test_killed_at_any_moment_the_app_has_all_of_one_or_all_of_the_other(folder: Folder, source: Cluster) -> None:
    seed = int(os.environ.get("MULTIDB_TEST_SEED") or random.randrange(10**6))
    print(f"seed {seed}")
    chance, rows = random.Random(seed), 20_000
    began = time.monotonic()
    assert run(folder, "--from-postgres", filled(source, rows), "--yes").code == 0
    usual = time.monotonic() - began
    possible = {0}  # what the app may have: what it had, and all that was killed since that was looked at
    for version in range(1, KILLS + 1):
        old = filled(source, rows, version)
        command = ("import", "shop", "--from-postgres", old, "--yes", "--replace", "--no-safety-set")
        process = folder.begin(*command)
        time.sleep(chance.uniform(0.3, 1.0) * usual)
        process.kill()
        process.communicate()
        possible.add(version)
        if version % 3 == 0:
            folder.ok("backup", "other")  # finishes or clears away what is left
        elif version % 3 == 1:
            done = folder.run(*command, env={"MULTIDB_IMPORT_POSTGRES_PASSWORD": PASSWORD})
            assert done.code == 0, f"seed {seed}, {version}: {done.out}{done.err}"
            possible = {version}
        assert version % 3 == 2 or not [name for name in databases(folder) if "__" in name], f"seed {seed}, {version}"
        if version % 3 != 2:
            ((has, count),) = versions(folder)
            assert (has in possible, count) == (True, rows), f"seed {seed}, {version}: {has}, of {possible}"
            possible = {has}
    assert run(folder, "--from-postgres", old, "--yes", "--replace", "--no-safety-set").code == 0
    assert versions(folder) == [(KILLS, rows)]
    assert ProjectState(folder.path).read("backup-work").get("importing", {}) == {}
    folder.ok("plan", "--check")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("multidb.provisioners.postgres.backup.source:PostgresSource._held", marks=pytest.mark.rare),
        "multidb.provisioners.postgres.backup.restore:_spool",
        pytest.param("multidb.provisioners.postgres.backup.source:PostgresSource.measure", marks=pytest.mark.rare),
    ],
)
def test_a_source_that_is_gone_in_the_middle_is_one_error_and_the_same_goes_on(
    folder: Folder, source: Cluster, step: str
) -> None:
    old = filled(source, 20_000)
    process = stopped_at(folder, step, "import", "shop", "--from-postgres", old, "--yes")
    assert process is not None
    source.crash()
    try:
        code, said = go_on(process)
    finally:
        source.start()
    assert (code in (4, 6), "Traceback" in said, said.count("Error:")) == (True, False, 1), said
    assert there(folder) == []
    done = run(folder, "--from-postgres", old, "--yes")
    assert done.code == 0, done.out + done.err
    assert versions(folder) == [(0, 20_000)]
    assert not [name for name in databases(folder) if "__" in name]


def test_an_exchange_that_is_refused_leaves_nothing_for_later_runs(folder: Folder, source: Cluster) -> None:
    """Somebody binds something to the app's database between the last look and the exchange."""
    assert run(folder, "--from-postgres", filled(source, 10), "--yes").code == 0
    wanted = ("import", "shop", "--from-postgres", filled(source, 10, 1), "--yes", "--replace", "--no-safety-set")
    process = stopped_at(folder, "multidb.provisioners.postgres.backup.place_databases:replace", *wanted)
    assert process is not None
    with as_admin(folder, "shop") as admin:
        admin.execute("CREATE SUBSCRIPTION heard CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)")
        code, said = go_on(process)
        assert (code, "subscription heard" in said) == (3, True), said
        admin.execute("ALTER SUBSCRIPTION heard SET (slot_name = NONE)")
        admin.execute("DROP SUBSCRIPTION heard")
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        connection.execute("INSERT INTO lines VALUES (11, 2)")
    folder.ok("backup", "shop")
    assert sorted(versions(folder)) == [(0, 10), (2, 1)], "what the app has written since stays"
    assert not [name for name in databases(folder) if "__" in name]
    assert ProjectState(folder.path).read("backup-work").get("importing", {}) == {}


def test_an_exchange_that_a_server_fails_leaves_the_app_closed_and_names_what_goes_on(
    folder: Folder, source: Cluster
) -> None:
    assert run(folder, "--from-postgres", filled(source, 10), "--yes").code == 0
    wanted = ("import", "shop", "--from-postgres", filled(source, 10, 1), "--yes", "--replace", "--no-safety-set")
    process = stopped_at(folder, "multidb.provisioners.postgres.backup.place_databases:replace", *wanted)
    assert process is not None
    servers = {each["store"]: each for each in folder.ok("status", "--json").json()["servers"]}
    os.kill(servers["postgres"]["pid"], signal.SIGKILL)
    code, said = go_on(process)
    assert (code, "multidb backup shop" in " ".join(said.split())) == (4, True), said
    folder.ok("up")
    folder.ok("apply", "--yes")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        psycopg.connect(folder.variables("shop")["DATABASE_URL"])
    assert "multidb backup shop" in " ".join(folder.run("plan", "--check").out.split())
    folder.ok("backup", "shop")
    assert versions(folder) == [(1, 10)]
    assert ProjectState(folder.path).read("backup-work").get("importing", {}) == {}
    folder.ok("plan", "--check")


def test_an_import_whose_copy_is_lost_in_the_exchange_is_made_again_by_the_command_that_is_named(
    folder: Folder, source: Cluster
) -> None:
    assert run(folder, "--from-postgres", filled(source, 10), "--yes").code == 0
    old = filled(source, 10, 1)
    wanted = ("import", "shop", "--from-postgres", old, "--yes", "--replace", "--no-safety-set")
    process = stopped_at(folder, "multidb.provisioners.postgres.backup.place_databases:replace", *wanted)
    assert process is not None
    kill(process)
    (copied,) = (name for name in databases(folder) if name.startswith("shop__"))
    with as_admin(folder) as admin:
        admin.execute(f'DROP DATABASE "{copied}" WITH (FORCE)')
    with ProjectState(folder.path).change("backup-work") as section:
        section["importing"]["shop"]["passing"] = ["postgres"]  # as of a server with room for one place
    refused = folder.run("backup", "shop")
    assert refused.code != 0
    assert "multidb import shop --from-postgres" in " ".join(refused.err.split())
    assert run(folder, "--from-postgres", old, "--yes").code == 3
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        psycopg.connect(folder.variables("shop")["DATABASE_URL"])
    assert run(folder, "--from-postgres", old, "--yes", "--replace", "--no-safety-set").code == 0
    assert versions(folder) == [(1, 10)]
    folder.ok("plan", "--check")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_disk_without_room_for_the_dump_is_said_so_and_nothing_is_changed(
    folder: Folder, source: Cluster, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    try:
        old = filled(source, 60_000)
        source.sql("UPDATE lines SET noise = md5(random()::text) || md5(random()::text)", database="old")
        full = folder.run(
            *("import", "shop", "--from-postgres", old, "--yes"),
            env={"MULTIDB_IMPORT_POSTGRES_PASSWORD": PASSWORD, "TMPDIR": str(small)},
        )
        assert (full.code, "TMPDIR" in full.err) == (6, True), full.err
        assert there(folder) == []
        assert not [name for name in databases(folder) if "__" in name]
        assert run(folder, "--from-postgres", old, "--yes").code == 0
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


MEASURING = """\
import re, sys
from pathlib import Path
from multidb.cli import main
try:
    main()
finally:
    print("kB", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


@pytest.mark.rare
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory of a process is read from /proc")
def test_memory_does_not_grow_with_the_data(folder: Folder, source: Cluster) -> None:
    peaks = []
    for rows in (60_000, 300_000):
        old = filled(source, rows)
        command = [sys.executable, "-c", MEASURING, "import", "shop", "--from-postgres", old, "--yes", "--replace"]
        done = subprocess.run(
            [*command, "--no-safety-set"],
            cwd=folder.path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        peaks.append(int(done.stderr.rpartition("kB ")[2].split()[0]))
        assert versions(folder) == [(0, rows)]
    print(f"peaks {peaks} kB")
    assert max(peaks) < LARGEST
    assert peaks[1] < peaks[0] * 1.15
