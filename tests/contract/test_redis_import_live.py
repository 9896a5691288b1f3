"""Keys of a Redis or Valkey elsewhere, and a Postgres with them, by `multidb import --live`, `--cutover` and `--abort`.
On real servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.contract.case_redis import ADMIN, PASSWORD, as_admin, real_server, valkey_binary
from tests.contract.redis_elsewhere import NUMBER, OTHER, Elsewhere, Writers
from tests.support.command import Folder, Ran, project_folder
from tests.support.postgres_servers import cluster
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

ROWS = 2_000
MANIFEST = "version: 1\nproject: moving\nruntime: embedded\nbackup: {to: [sets/]}\napps:\n  shop:\n    stores: "
PASSWORDS = {"MULTIDB_IMPORT_REDIS_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with real_server(tmp_path_factory.mktemp("old"), binary=valkey_binary, settings=["appendonly yes"]) as real:
        yield Elsewhere(real)


@pytest.fixture(scope="module")
def served() -> Iterator[Folder]:
    with project_folder("moving-", f"{MANIFEST}[redis]\n  other: {{stores: [redis]}}\n") as folder:
        folder.ok("up")
        folder.ok("apply", "--yes")
        yield folder


@pytest.fixture
def case(served: Folder, old: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Folder, Elsewhere]]:
    """The app has nothing, and the source has `ROWS` keys, beside somebody else's."""
    monkeypatch.setenv("MULTIDB_IMPORT_REDIS_PASSWORD", PASSWORD)
    filled(old)
    with app(served) as client:
        client.flushdb()
    yield served, old
    if following(served):
        assert run(served, "--abort").code == 0
    with as_admin(old.real) as client:
        client.execute_command("CONFIG", "SET", "min-replicas-to-write", 0)
        client.execute_command("CLIENT", "UNPAUSE")
        client.execute_command("FLUSHALL")


def filled(old: Elsewhere) -> None:
    with old.raw() as client:
        client.execute_command("CONFIG", "SET", "min-replicas-to-write", 0)
        client.execute_command("FLUSHALL")
        client.execute_command("MSET", *(word for n in range(ROWS) for word in (f"old:{n}", f"value {n}")))
        client.execute_command("XGROUP", "CREATE", "log", "g", "0", "MKSTREAM")
        client.execute_command("XGROUP", "CREATE", "old:log", "g", "0", "MKSTREAM")
        client.execute_command("SELECT", OTHER)
        client.execute_command("SET", "theirs", 1)


def where(old: Elsewhere) -> str:
    endpoint = old.real.server.endpoint
    return f"redis://{ADMIN}@{endpoint.host}:{endpoint.port}/{NUMBER}"


def run(folder: Folder, *arguments: str, env: dict[str, str] | None = None) -> Ran:
    done = folder.run("import", "shop", *arguments, env=PASSWORDS | (env or {}))
    assert PASSWORD not in done.out + done.err
    return done


def app(folder: Folder, name: str = "shop") -> redis.Redis:
    return redis.Redis.from_url(folder.variables(name)["REDIS_URL"])


def following(folder: Folder) -> Any:
    return ProjectState(folder.path).read("backup-work").get("following", {})


def users(folder: Folder) -> set[str]:
    """On the apps' server, those by whom places are held among them."""
    admin = ProjectState(folder.path).secrets.get(admin_ref("redis", "redis"))
    assert admin is not None
    place = urlsplit(str(folder.variables("shop")["REDIS_URL"]))
    with redis.Redis(
        host=str(place.hostname),
        port=place.port or 0,
        username="multidb_admin",
        password=admin.reveal(),
        decode_responses=True,
    ) as client:
        return set(client.acl_users())


def sessions(old: Elsewhere) -> list[str]:
    """Those of ours at the source."""
    with as_admin(old.real) as client:
        lines = str(client.execute_command("CLIENT", "LIST")).splitlines()
    return [line for line in lines if " name=multidb " in line]


def test_keys_are_copied_while_they_are_written_and_none_that_was_acknowledged_is_lost(
    case: tuple[Folder, Elsewhere],
) -> None:
    folder, old = case
    with Writers(old, b"old:") as writers:
        writers.until(100)
        begun = run(folder, "--from-redis", where(old), "--prefix", "old:", "--live", "--yes")
        assert begun.code == 0, begun.out + begun.err
        assert "brings it up to date" in begun.out
        refused = run(folder, "--from-redis", where(old), "--yes")
        assert (refused.code, "--cutover" in refused.err) == (3, True)
        folder.ok("backup", "shop")
        (lag,) = run(folder, "--live", "--json").json()["data"]["following"]
        assert (lag["store"], lag["size"], lag["problem"]) == ("redis", None, None)
        assert lag["as_of"]
        with app(folder) as client:
            assert client.dbsize() == 0
        writers.until(100)
        done = run(folder, "--cutover", "--yes", "--json")
        assert done.code == 0, done.out + done.err
        time.sleep(0.1)
    data = done.json()["data"]
    assert (data["imported"], data["left"]) == (True, [])
    assert "in every DB" in data["stopping"]["redis"]
    print(f"downtime {data['downtime']} s, {writers.done} writes")
    assert following(folder) == {}
    assert sessions(old) == []
    with app(folder) as client:
        assert client.mget("0", f"{ROWS - 1}", "log", "theirs")[:2] == [b"value 0", f"value {ROWS - 1}".encode()]
    assert folder.ok("audit", "--json").json()["breaches"] == []
    folder.ok("plan", "--check")


def test_with_a_postgres_both_are_cut_over_at_once(
    tmp_path_factory: pytest.TempPathFactory, old: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIDB_IMPORT_REDIS_PASSWORD", PASSWORD)
    with as_admin(old.real) as client:
        client.execute_command("FLUSHALL")
    with old.raw() as client:
        client.execute_command("XGROUP", "CREATE", "log", "g", "0", "MKSTREAM")
    with (
        cluster(18, wal_level="logical") as tables,
        project_folder("both-", f"{MANIFEST}[postgres, redis]\n") as folder,
        Writers(old) as writers,
    ):
        tables.sql("CREATE DATABASE old")
        tables.sql("CREATE TABLE orders (id int PRIMARY KEY)", database="old")
        tables.sql("INSERT INTO orders SELECT generate_series(1, 100)", database="old")
        folder.ok("up")
        folder.ok("apply", "--yes")
        sources = (
            ("--from-postgres", f"postgresql://postgres@127.0.0.1:{tables.port}/old"),
            ("--from-redis", where(old)),
        )
        env = {"MULTIDB_IMPORT_POSTGRES_PASSWORD": tables.password}
        begun = run(folder, *(word for source in sources for word in source), "--live", "--yes", env=env)
        assert begun.code == 0, begun.out + begun.err
        tables.sql("INSERT INTO orders VALUES (101)", database="old")
        writers.until(100)
        lags = run(folder, "--live", "--json", env=env).json()["data"]["following"]
        assert {lag["store"]: lag["as_of"] is None for lag in lags} == {"postgres": True, "redis": False}
        done = run(folder, "--cutover", "--yes", "--json", env=env)
        assert done.code == 0, done.out + done.err
        written = writers.done
        time.sleep(0.2)
        assert writers.done == written, "the source is this app's alone, and stays closed"
        data = done.json()["data"]
        print(f"downtime of both {data['downtime']} s")
        assert "min-replicas-to-write 0" in data["stopping"]["redis"]
        assert "RESET default_transaction_read_only" in data["stopping"]["postgres"]
        with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (101,)
        with app(folder) as client:
            for key, value in writers.said.items():
                if key not in writers.unsure:
                    assert client.get(key) == value, key
        assert following(folder) == {}
    with as_admin(old.real) as client:
        client.execute_command("CONFIG", "SET", "min-replicas-to-write", 0)


def test_given_up_nothing_is_left_on_either_side(case: tuple[Folder, Elsewhere]) -> None:
    folder, old = case
    before = users(folder)
    assert run(folder, "--from-redis", where(old), "--live", "--yes").code == 0
    assert len(users(folder)) == len(before) + 1
    with old.raw() as client:
        client.execute_command("SELECT", OTHER)
        client.execute_command("DEL", "theirs")  # so it is this app's alone, and is closed
    process = stopped_at(
        folder, "multidb.provisioners.redis.backup.archive:RedisArchive.drain", "import", "shop", "--cutover", "--yes"
    )
    assert process is not None
    other = folder.run("import", "shop", "--cutover", "--yes", env=PASSWORDS)
    assert (other.code, "Traceback" in other.err) == (3, False), other.err
    kill(process)
    with old.raw() as client:
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            client.execute_command("SET", "old:0", "another")  # once the pause is over
        assert run(folder, "--abort").code == 0
        assert client.execute_command("SET", "old:0", "another") == b"OK"
        assert client.execute_command("CONFIG", "GET", "min-replicas-to-write")[1] == b"0"
    assert sessions(old) == []
    assert following(folder) == {}
    with app(folder) as client:
        assert client.dbsize() == 0
    assert users(folder) == before
    assert run(folder, "--abort").code == 2


@pytest.mark.rare
def test_a_source_that_is_gone_leaves_nothing_that_is_to_be_taken_away(case: tuple[Folder, Elsewhere]) -> None:
    folder, old = case
    assert run(folder, "--from-redis", where(old), "--live", "--yes").code == 0
    process = stopped_at(
        folder, "multidb.provisioners.redis.backup.following:Following._even", "import", "shop", "--cutover", "--yes"
    )
    assert process is not None
    assert old.real.kill is not None
    assert old.real.restart is not None
    old.real.kill()
    try:
        code, said = go_on(process)
        assert (code, "source redis://" in said, "Traceback" in said) == (4, True, False), said
        cut = run(folder, "--cutover", "--yes")
        assert (cut.code, "start it where it runs" in cut.err) == (4, True), cut.err
        given_up = run(folder, "--abort")
        assert given_up.code == 0, given_up.err
    finally:
        old.real.restart()
    assert following(folder) == {}
    assert run(folder, "--from-redis", where(old), "--live", "--yes").code == 0
    assert run(folder, "--cutover", "--yes").code == 0
    with app(folder) as client:
        assert client.dbsize() == ROWS + 2


STEPS = (
    "multidb.provisioners.redis.backup.transfer:Transfer.run",
    "multidb.backup.following:catch_up_place",
    "multidb.provisioners.redis.backup.following:Following._compare",
    "multidb.provisioners.redis.backup.followed:FollowedRedis.stop_writing",
    "multidb.provisioners.redis.backup.followed:FollowedRedis.require_stopped",
    "multidb.provisioners.redis.backup.keys:Keys.swap",
    "multidb.provisioners.redis.backup.archive:RedisArchive._end_sessions",
    "multidb.provisioners.redis.backup.archive:RedisArchive.discard",
    "multidb.backup.cut_over:taken_away",
)
BEGINNING, EXCHANGED = STEPS[:2], STEPS[6:]


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if "swap" in step else pytest.mark.rare) for step in STEPS]
)
def test_killed_at_a_step_it_goes_on_or_is_given_up(case: tuple[Folder, Elsewhere], step: str) -> None:
    folder, old = case
    live = ("--from-redis", where(old), "--live", "--yes")
    if step in BEGINNING:
        process = stopped_at(folder, step, "import", "shop", *live)
        assert process is not None
        kill(process)
        refused = run(folder, "--live")
        assert (refused.code, "--abort" in refused.err) == (3, True), refused.err
        assert run(folder, "--abort").code == 0
    assert run(folder, *live).code == 0
    if step not in BEGINNING:
        process = stopped_at(folder, step, "import", "shop", "--cutover", "--yes")
        assert process is not None, f"it never came to {step}"
        kill(process)
        folder.ok("backup", "other")
        with app(folder, "other") as client:
            client.set("mine", 1)
    with old.raw() as client:  # nothing holds who writes there any more
        client.execute_command("SET", "old:0", "written since")
    if step in EXCHANGED:
        with app(folder) as client:
            client.set("old:1", "written here since")
    done = run(folder, "--cutover", "--yes")
    assert done.code == 0, done.out + done.err
    with app(folder) as client:
        assert client.dbsize() == ROWS + 2
        assert client.get("old:0") == (b"value 0" if step in EXCHANGED else b"written since")
        assert client.get("old:1") == (b"written here since" if step in EXCHANGED else b"value 1")
    assert following(folder) == {}
    folder.ok("plan", "--check")
