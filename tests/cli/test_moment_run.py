"""Point in time of one app on a real Postgres through the command line: archived, brought back as of a moment, refused,
pruned, damaged, killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import datetime

import psycopg
import pytest

from multidb.backup.continuous.moments import revived
from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.model import unwatched
from multidb.project import load_project
from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.moments import now, scratch_processes
from tests.support.postgres_admin import as_admin

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: turned-back
runtime: embedded
apps:
  ann: {stores: [postgres, redis]}
  bob: {stores: [postgres]}
backup: {to: [sets/], every: 52w, verify: never%s}
"""
ARCHIVED = ", postgres: {continuous: true}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("turned-back-", MANIFEST % ARCHIVED) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        with database(made, "bob") as bob:
            bob.execute("CREATE TABLE ledger AS SELECT n FROM generate_series(1, 100000) n")
            bob.execute("VACUUM (FREEZE) ledger")  # nobody writes into it by reading it
        made.ok("backup", "--due")
        yield made


def database(folder: Folder, app: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(folder.variables(app)["DATABASE_URL"], autocommit=True)


def rows(folder: Folder, app: str, table: str = "orders") -> object:
    with database(folder, app) as connection:
        return connection.execute(f"SELECT count(*), sum(id) FROM {table}").fetchone()


@pytest.fixture(scope="module")
def moments(folder: Folder) -> dict[str, str]:
    """What ann did, by the moment after it."""
    at = {}
    with database(folder, "ann") as ann:
        ann.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        ann.execute("INSERT INTO orders SELECT n, 'x' FROM generate_series(1, 1000) n")
        at["thousand"] = now()
        ann.execute("DELETE FROM orders WHERE id > 400")
        at["four hundred"] = now()
        ann.execute("DROP TABLE orders")
        at["dropped"] = now()
    folder.ok("backup", "--due")
    return at


def test_the_list_says_to_which_moments_an_app_can_be_brought_back(folder: Folder, moments: dict[str, str]) -> None:
    (archive,) = folder.ok("backups", "list", "--json").json()["archives"]
    assert archive["server"] == "postgres"
    assert archive["bases"]
    assert archive["problem"] is None
    assert (
        archive["since"]
        < moments["thousand"].replace(" ", "T")
        < moments["dropped"].replace(" ", "T")
        < archive["until"]
    )
    assert "any moment from" in folder.ok("backups", "list").out


def test_an_app_is_as_it_was_before_a_table_was_dropped_and_nobody_else_is_touched(
    folder: Folder, moments: dict[str, str]
) -> None:
    with database(folder, "bob") as bob:
        done = folder.ok("restore", "ann", "--at", moments["thousand"], "--replace", "--json").json()
        assert bob.execute("SELECT count(*) FROM ledger").fetchone() == (100000,)  # the same session
    assert rows(folder, "ann") == (1000, 500500)
    assert datetime.fromisoformat(done["at"]) == datetime.fromisoformat(moments["thousand"])
    assert [nearest["store"] for nearest in done["nearest"]] == ["redis"]
    assert 0 < done["nearest"][0]["seconds_before"] < 600
    again = folder.ok("restore", "ann", "--at", moments["four hundred"], "--replace")
    assert rows(folder, "ann") == (400, 80200)
    assert "redis is left as it is" in again.err
    assert not (folder.path / ".multidb" / "moments").exists()
    assert not scratch_processes(folder)
    assert not (folder.path / ".multidb" / "servers" / "scratch-postgres").exists()


def test_it_is_looked_at_beside_the_app_and_single_tables_come_back(folder: Folder, moments: dict[str, str]) -> None:
    folder.ok("restore", "ann", "--at", moments["thousand"], "--as", "ann_then")
    assert rows(folder, "ann_then") == (1000, 500500)
    with database(folder, "ann") as ann:
        ann.execute("DROP TABLE IF EXISTS orders")
        ann.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS id")
    folder.ok("restore", "ann", "--at", moments["thousand"], "--table", "orders", "--replace")
    assert rows(folder, "ann") == (1000, 500500)
    assert rows(folder, "ann", "kept") == (1, 1)
    folder.ok("remove-app", "ann_then", "--yes", "--no-backup")
    folder.ok("purge", "ann_then", "--yes-destroy", "ann_then")


def test_a_moment_is_proved_like_a_set(folder: Folder, moments: dict[str, str]) -> None:
    before = ProjectState(folder.path).read("backups")
    for at in (moments["thousand"], "newest"):
        (tried,) = folder.ok("backups", "verify", "ann", "--at", at, "--json").json()["sets"]
        assert tried["verified"]
    assert ProjectState(folder.path).read("backups") == before  # it says nothing of the sets
    assert folder.run("backups", "verify", "--at", "newest").code == 2
    assert not scratch_processes(folder)


def test_health_says_how_new_the_newest_moment_is(folder: Folder, moments: dict[str, str]) -> None:
    folder.ok("backup", "--due")
    health = folder.run("health", "ann", "--json").json()
    assert "any moment until" in json.dumps(health)


def test_what_was_written_since_the_last_round_is_taken_first(folder: Folder, moments: dict[str, str]) -> None:
    with database(folder, "ann") as ann:
        ann.execute("CREATE TABLE late AS SELECT 7 AS id")
        moment = now()
        ann.execute("UPDATE late SET id = 8")
    folder.ok("restore", "ann", "--at", moment, "--replace")
    assert rows(folder, "ann", "late") == (1, 7)


def test_a_moment_that_cannot_be_had_is_refused_with_those_that_can(folder: Folder, moments: dict[str, str]) -> None:
    for at, words in (
        ("2020-01-01 10:00", "cannot be gone back to"),
        ("2300-01-01 10:00", "has not come yet"),
        ("yesterday", "is no moment"),
    ):
        refused = folder.run("restore", "ann", "--at", at, "--replace")
        assert refused.code == 2
        assert words in refused.err
    assert "it has any moment from" in folder.run("restore", "ann", "--at", "2020-01-01 10:00").err
    newest = folder.run("restore", "ann", "--at", "2020-01-01 10:00").err.partition("--at '")[2].partition("'")[0]
    folder.ok("restore", "ann", "--at", newest, "--replace")
    assert folder.run("restore", "nobody", "--at", newest).code == 2


def test_the_copy_of_the_server_lets_nobody_in_and_nothing_runs_in_it(folder: Folder, moments: dict[str, str]) -> None:
    engine = Engine(Fleet(load_project(folder.path / "multidb.yaml")))
    moment = datetime.fromisoformat(moments["thousand"])
    urls = {app: folder.variables(app)["DATABASE_URL"] for app in ("ann", "bob")}
    with revived(engine, engine.project.apps["ann"], moment, progress=unwatched) as there:
        scratch = there.server
        assert scratch_processes(folder)
        password = engine.fleet.runtime.admin(scratch)
        assert password is not None
        port = scratch.endpoint.port
        login = {"host": "127.0.0.1", "port": port, "user": "postgres", "password": password.reveal()}
        with psycopg.connect(**login, dbname="ann") as connection:  # the control: it is that server
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1000,)
            off = ("autovacuum", "event_triggers", "archive_mode", "max_logical_replication_workers")
            shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in off}
            assert shown == {name: ("0" if name.startswith("max") else "off",) for name in off}
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
            psycopg.connect(**login, dbname="bob")  # whose files are not there: it would be the end of the server
        for app, url in urls.items():
            known = psycopg.conninfo.conninfo_to_dict(url)
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
                psycopg.connect(**{**known, "port": port, "dbname": app})
        with psycopg.connect(**login, dbname="ann") as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1000,)
        of_bob = folder.path / ".multidb" / "servers" / "scratch-postgres" / "data" / "base"
        sizes = [(path.stat().st_size, path.stat().st_blocks) for path in of_bob.rglob("*") if path.is_file()]
        assert any(size > 2**20 and not blocks for size, blocks in sizes)  # bob's table: its size, and nothing in it
    assert not scratch_processes(folder)


def test_what_was_changed_on_the_target_is_not_brought_up(folder: Folder, moments: dict[str, str]) -> None:
    top = folder.path / "sets" / "_continuous" / "turned-back" / "postgres"
    copy = folder.path / "aside"
    shutil.copytree(top, copy)
    try:
        (stream,) = top.iterdir()
        (base,) = stream.glob("base/*/base.json")
        base.write_text(base.read_text().replace('"first": "0000000100000000', '"first": "0000000100000001'))
        refused = folder.run("restore", "ann", "--at", moments["thousand"], "--replace")
        assert refused.code == 2
        assert "cannot be gone back to" in refused.err
        base.write_bytes((copy / base.relative_to(top)).read_bytes())
        log = sorted(stream.glob("log/0*"))
        for path in log:  # what is there, under another name: a file of WAL in the place of another
            path.write_bytes(log[-1].read_bytes())
        refused = folder.run("restore", "ann", "--at", moments["thousand"], "--replace")
        assert refused.code == 6
        assert "was not written by this project" in refused.err
        log[-1].unlink()
    finally:
        shutil.rmtree(top)
        shutil.move(copy, top)
    folder.ok("restore", "ann", "--at", moments["thousand"], "--replace")


@pytest.mark.rare
def test_killed_anywhere_nothing_is_left_running_and_the_next_run_goes_on(
    folder: Folder, moments: dict[str, str], request: pytest.FixtureRequest
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    began = time.monotonic()
    folder.ok("restore", "ann", "--at", moments["thousand"], "--replace")
    whole = time.monotonic() - began
    for _ in range(10):
        process = folder.begin("restore", "ann", "--at", moments["four hundred"], "--replace")
        time.sleep(chance.uniform(0.1, whole))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with database(folder, "bob") as bob:
            assert bob.execute("SELECT count(*) FROM ledger").fetchone() == (100000,)
    folder.ok("restore", "ann", "--at", moments["thousand"], "--replace")
    assert rows(folder, "ann") == (1000, 500500)
    assert not scratch_processes(folder)
    assert not (folder.path / ".multidb" / "servers" / "scratch-postgres").exists()
    assert not (folder.path / ".multidb" / "moments").exists()
    with as_admin(folder) as connection:
        (left,) = (
            connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'ann\\_\\_%'").fetchone() or ()
        )
        assert left == 0


def test_two_at_once_and_one_waits_its_turn(folder: Folder, moments: dict[str, str]) -> None:
    first = folder.begin("restore", "ann", "--at", moments["thousand"], "--replace")
    second = folder.begin("restore", "ann", "--at", moments["four hundred"], "--replace")
    codes = {first.wait(), second.wait()}
    told = f"{first.communicate()[1]}{second.communicate()[1]}"
    assert codes == {0, 3}
    assert "Traceback" not in told
    assert rows(folder, "ann") in ((1000, 500500), (400, 80200))


def test_what_nobody_needs_any_more_goes_and_the_rest_can_be_had(folder: Folder) -> None:
    folder.manifest(MANIFEST % ", postgres: {continuous: true, base_every: 1s, keep: 2s}")
    try:
        with database(folder, "ann") as ann:
            ann.execute("CREATE TABLE IF NOT EXISTS ticks (id serial, at timestamptz DEFAULT clock_timestamp())")
            for _ in range(4):
                ann.execute("INSERT INTO ticks DEFAULT VALUES")
                made = folder.ok("backup", "--due", "--json").json()["archived"][0]
                assert made["base"]
                assert made["error"] is None
                time.sleep(1)
            (count,) = ann.execute("SELECT count(*) FROM ticks").fetchone() or (0,)
        (archive,) = folder.ok("backups", "list", "--json").json()["archives"]
        assert len(archive["bases"]) < 4
        top = folder.path / "sets" / "_continuous" / "turned-back" / "postgres" / archive["stream"]
        assert {path.name for path in (top / "base").iterdir()} == set(archive["bases"])
        folder.ok("restore", "ann", "--at", archive["until"], "--replace")
        with database(folder, "ann") as ann:
            assert ann.execute("SELECT count(*) FROM ticks").fetchone() == (count,)
        folder.ok("restore", "ann", "--at", archive["since"], "--replace")
    finally:
        folder.manifest(MANIFEST % ARCHIVED)


def test_a_gap_is_a_new_beginning_and_no_moment_is_in_it(folder: Folder) -> None:
    with as_admin(folder) as connection:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'multidb%'"
        )
    gap = now()
    with database(folder, "ann") as ann:
        ann.execute("CREATE TABLE missed AS SELECT 1 AS id")
    done = folder.ok("backup", "--due", "--json").json()["archived"][0]
    assert "dropped some of its log" in done["began"]
    assert done["base"]
    refused = folder.run("restore", "ann", "--at", gap, "--replace")
    assert refused.code == 2
    assert refused.err.count(" to ") >= 2


def test_a_target_that_is_full_costs_nothing_but_time(folder: Folder) -> None:
    folder.manifest((MANIFEST % ARCHIVED).replace("sets/", "/dev/full/sets"))
    try:
        with database(folder, "ann") as ann:
            ann.execute("CREATE TABLE IF NOT EXISTS later AS SELECT 1 AS id")
        failed = folder.run("backup", "--due", "--json")
        assert failed.code == 6
        assert failed.json()["archived"][0]["error"]
    finally:
        folder.manifest(MANIFEST % ARCHIVED)
    done = folder.ok("backup", "--due", "--json").json()["archived"][0]
    assert not done["began"]


def test_sets_of_an_app_that_are_encrypted_do_not_lie_beside_it_in_plain(folder: Folder) -> None:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    key = folder.path / "key.txt"
    key.write_text(f"{identity}\n")
    key.chmod(0o600)
    recipients = f"encrypt: {{recipients: [{identity.to_public()}]}}"
    own = (MANIFEST % ARCHIVED).replace("{stores: [postgres]}", f"{{stores: [postgres], backup: {{{recipients}}}}}")
    folder.manifest(own)
    try:
        refused = folder.run("backup", "--due")
        assert refused.code == 6
        assert "in plain" in refused.err
        folder.manifest((MANIFEST % f"{ARCHIVED}, {recipients}").replace("sets/", "hidden/"))
        folder.ok("backup", "--due")
        with database(folder, "ann") as ann:
            ann.execute("CREATE TABLE secrets AS SELECT 5 AS id")
            moment = now()
            ann.execute("DROP TABLE secrets")
        folder.ok("backup", "--due")
        stored = [path for path in (folder.path / "hidden" / "_continuous").rglob("*") if path.is_file()]
        assert {path.suffix for path in stored} == {".age", ".json"}
        refused = folder.run("restore", "ann", "--at", moment, "--replace")
        assert refused.code == 6
        assert "no key was given" in refused.err
        folder.ok("restore", "ann", "--at", moment, "--replace", "--identity", str(key))
        assert rows(folder, "ann", "secrets") == (1, 5)
    finally:
        folder.manifest(MANIFEST % ARCHIVED)


def test_turned_off_the_server_keeps_nothing_for_it(folder: Folder) -> None:
    folder.ok("backup", "--due")
    with as_admin(folder) as connection:
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (1,)
    folder.manifest(MANIFEST % "")
    try:
        folder.ok("backup", "--due")
        with as_admin(folder) as connection:
            assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
        refused = folder.run("restore", "ann", "--at", now(), "--replace")
        assert refused.code == 2
        assert "continuous: true" in refused.err
    finally:
        folder.manifest(MANIFEST % ARCHIVED)


@pytest.mark.rare
def test_rounds_that_are_killed_leave_no_gap(folder: Folder) -> None:
    folder.ok("backup", "--due")
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    streams = {archive["stream"] for archive in folder.ok("backups", "list", "--json").json()["archives"]}
    at: dict[int, str] = {}
    with database(folder, "ann") as ann:
        ann.execute("CREATE TABLE steps (id int)")
        for number in range(1, 11):
            ann.execute("INSERT INTO steps VALUES (%s)", (number,))
            at[number] = now()
            process = folder.begin("backup", "--due")
            time.sleep(chance.uniform(0.3, 2.5))
            process.send_signal(signal.SIGKILL)
            process.communicate()
    done = folder.ok("backup", "--due", "--json").json()["archived"][0]
    assert not done["began"]
    assert {archive["stream"] for archive in folder.ok("backups", "list", "--json").json()["archives"]} == streams
    for number in (1, 6, 10):
        folder.ok("restore", "ann", "--at", at[number], "--table", "steps", "--replace")
        with database(folder, "ann") as ann:
            assert ann.execute("SELECT max(id) FROM steps").fetchone() == (number,)


@pytest.mark.rare
def test_a_server_that_exists_already_is_archived_and_its_copy_is_brought_up_here(folder: Folder) -> None:
    secret = ProjectState(folder.path).secrets.get(admin_ref("postgres", "postgres"))
    assert secret is not None
    port = ProjectState(folder.path).read("ports")["postgres"]
    theirs = (
        "version: 1\nproject: theirs\nruntime: external\n"
        f"external: {{postgres: {{url: 'postgresql://postgres@127.0.0.1:{port}', password: {{env: ADMIN}}}}}}\n"
        "apps: {eve: {stores: [postgres]}}\n"
        "backup: {to: [sets/], every: 52w, verify: never, postgres: {continuous: true}}\n"
    )
    with project_folder("theirs-", theirs) as other:
        env = {"ADMIN": secret.reveal()}
        other.ok("apply", "--yes", env=env)
        other.ok("backup", "--due", env=env)
        url = other.ok("env", "eve", "--format", "json", "--reveal", env=env).json()["DATABASE_URL"]
        with psycopg.connect(url, autocommit=True) as eve:
            eve.execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 10) n")
            moment = now()
            eve.execute("DROP TABLE orders")
        other.ok("restore", "eve", "--at", moment, "--replace", env=env)
        with psycopg.connect(url) as eve:
            assert eve.execute("SELECT count(*) FROM orders").fetchone() == (10,)
        assert not scratch_processes(other)
        other.manifest(theirs.replace(", postgres: {continuous: true}", ""))
        other.ok("backup", "--due", env=env)  # the slot goes
    with as_admin(folder) as connection:
        left = connection.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'multidb_theirs%'")
        assert left.fetchone() == (0,)


@pytest.mark.rare
def test_the_watch_archives_beside_its_other_work(folder: Folder) -> None:
    moment = now().replace(" ", "T")
    with database(folder, "ann") as ann:
        ann.execute("CREATE TABLE IF NOT EXISTS watched (id int)")
    watch = folder.begin("backup", "--watch")
    try:
        ends = time.monotonic() + 60
        while ProjectState(folder.path).read("continuous").get("postgres", {}).get("when", "") < moment:
            assert time.monotonic() < ends, "nothing was archived"
            time.sleep(0.2)
    finally:
        watch.send_signal(signal.SIGTERM)
        _, err = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert "Traceback" not in err
