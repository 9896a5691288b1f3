"""Every place of a project's state keeps what `multidb.state_store.StateStore` promises, on the real thing: a folder,
S3 as SeaweedFS has it (with --all also as moto), Postgres (18, with --all also 15), and a place that another package
adds."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb import state_stores
from multidb.document import moment
from multidb.errors import Conflict, Locked, NewerFormat, Refused, StateUnavailable, UsageError
from multidb.model import Project, RuntimeKind, Server
from multidb.provisioners.postgres.driver.state_store import PostgresStateStore, database_of
from multidb.secrets import Secret
from multidb.state import holder
from multidb.state_folder import FolderStateStore
from multidb.state_store import StateStore
from multidb.state_stores import open_state_store
from multidb.state_stores.s3 import S3StateStore
from tests.support import seaweedfs, toy_package
from tests.support.command import REPOSITORY
from tests.support.odd_storage import Ahead, Careless, Mute, listening
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server

_RARE = pytest.mark.rare
_KINDS = ("folder", "s3", pytest.param("moto", marks=_RARE), "postgres", pytest.param("postgres15", marks=_RARE), "toy")
_LEASE = 2.0
_PROJECT = "digi"

_RUN = """
import json, os, sys, time
from tests.contract.test_state_stores import opened
given = json.loads(sys.argv[1])
store = opened(given)
if given["does"] == "hold":
    with store.lock("apply-x", {"command": "multidb apply", "user": "ann@there", "pid": os.getpid(), "since": "now"}):
        print("held", flush=True)
        sys.stdin.read()
else:
    for number in range(given["times"]):
        with store.change({"command": "multidb add-app", "user": "ann@there", "pid": os.getpid(), "since": "now"}) as s:
            s.setdefault("counts", {})
            s["counts"]["all"] = s["counts"].get("all", 0) + 1
"""


@dataclass(frozen=True)
class Place:
    """One empty place, which several runs open."""

    kind: str
    where: dict[str, Any]  # plain values, for other processes
    write: Callable[[str], None]  # puts a text where the state stands

    def open(self, project: str = _PROJECT) -> StateStore:
        return opened({**self.where, "kind": self.kind, "project": project})

    def env(self) -> dict[str, str]:
        """Of another process, which finds what this one does."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), self.where.get("packages", "")])}

    def run(self, does: str, **more: Any) -> subprocess.Popen[str]:
        """Another process that has opened it."""
        given = json.dumps({**self.where, "kind": self.kind, "project": _PROJECT, "does": does, **more})
        return subprocess.Popen(
            [sys.executable, "-c", _RUN, given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.env(),
        )


def opened(given: dict[str, Any]) -> StateStore:
    """The place that these plain values describe."""
    match given["kind"]:
        case "folder":
            return FolderStateStore(Path(given["folder"]))
        case "postgres":
            return PostgresStateStore(lambda: reached(given), given["project"], "multidb test")
        case "toy":
            return open_state_store(Project(given["project"], RuntimeKind.EXTERNAL, {}, ()), given["address"])
    return S3StateStore(given["address"], given["project"], lease=_LEASE)


def reached(given: dict[str, Any]) -> tuple[Server, Secret]:
    from multidb.model import Endpoint

    endpoint = Endpoint("127.0.0.1", given["port"], user=given["admin"], database="postgres")
    return Server("postgres", "postgres", endpoint, timeout=10), Secret(given["password"])


@pytest.fixture(scope="module")
def seaweed() -> Iterator[seaweedfs.S3Server]:
    with seaweedfs.s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        client = seaweedfs.client(f"http://{host}:{port}")
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):  # moto is one for all in this process
            client.create_bucket(
                Bucket=seaweedfs.BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
            )
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    with cluster(18) as running:
        yield running


@pytest.fixture(scope="module")
def postgres15() -> Iterator[Cluster]:
    with cluster(15) as running:
        yield running


@pytest.fixture(params=["postgres", pytest.param("postgres15", marks=pytest.mark.rare)])
def keeper(request: pytest.FixtureRequest) -> Cluster:
    """A server that keeps a state."""
    server: Cluster = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_package.install(tmp_path_factory.mktemp("packages"))


@pytest.fixture(params=_KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    kind = request.param
    if kind == "folder":
        path = tmp_path / ".multidb" / "state.json"
        path.parent.mkdir()
        yield Place(kind, {"folder": str(path.parent)}, lambda text: void(path.write_text(text)))
    elif kind == "toy":
        yield _in_toy(request.getfixturevalue("toy"), tmp_path / "digi.db", monkeypatch)
    elif kind.startswith("postgres"):
        yield from _in_postgres(request.getfixturevalue(kind), SUPERUSER)
    else:
        server = request.getfixturevalue("seaweed" if kind == "s3" else "moto")
        yield _in_s3(kind, server if isinstance(server, str) else server.url, tmp_path.name, monkeypatch)


def _in_toy(packages: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.syspath_prepend(packages)
    state_stores._added.cache_clear()

    def write(text: str) -> None:
        _count(place.open())
        with contextlib.closing(sqlite3.connect(path)) as talk:
            talk.execute("UPDATE state SET document = ?", (text,))
            talk.commit()

    return (place := Place("toy", {"address": f"toy://{path}", "packages": str(packages)}, write))


def void(_: object) -> None:
    pass


def _in_s3(kind: str, url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, account: str = "admin") -> Place:
    for name, value in seaweedfs.environment(url, account).items():
        monkeypatch.setenv(name, value)

    def write(text: str) -> None:
        seaweedfs.client(url).put_object(Bucket=seaweedfs.BUCKET, Key=f"{prefix}/state.json", Body=text.encode())

    return Place(kind, {"address": f"s3://{seaweedfs.BUCKET}/{prefix}"}, write)


def _in_postgres(server: Cluster, admin: str) -> Iterator[Place]:
    def write(text: str) -> None:
        place.open().read()
        with place.open().change(holder("test")):
            pass
        quoted = text.replace("'", "''")
        server.sql(f"UPDATE public.multidb_state SET document = '{quoted}'", database=database_of(_PROJECT))

    password = server.password if admin == SUPERUSER else server.platform_password
    place = Place("postgres", {"port": server.port, "admin": admin, "password": password}, write)
    yield place
    server.sql(f'DROP DATABASE IF EXISTS "{database_of(_PROJECT)}" WITH (FORCE)')


def _sections(store: StateStore) -> dict[str, Any]:
    return {name: held for name, held in store.read().document.items() if name not in ("version", "identity")}


# --- what every place promises


def test_what_one_run_writes_another_reads(place: Place) -> None:
    one, other = place.open(), place.open()
    assert one.read().version is None
    assert _sections(other) == {}
    with one.change(holder("test")) as state:
        state["numbers"] = {"redis": {"ann": 3}}
    first = other.read()
    assert _sections(other) == {"numbers": {"redis": {"ann": 3}}}
    with other.change(holder("test")) as state:
        assert state["numbers"] == {"redis": {"ann": 3}}
        state["told"] = {"ü\n\"'$": []}
    assert _sections(one) == {"numbers": {"redis": {"ann": 3}}, "told": {"ü\n\"'$": []}}
    assert one.read().version != first.version
    assert one.read().version == other.read().version


def test_a_change_that_fails_changes_nothing_and_leaves_no_lock(place: Place) -> None:
    store = place.open()
    with store.change(holder("test")) as state:
        state["numbers"] = {"redis": {"ann": 3}}
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            _change_and_fail(store, error)
    assert store.locks() == []
    assert _sections(place.open()) == {"numbers": {"redis": {"ann": 3}}}
    with place.open().change(holder("test")) as state:
        state["numbers"]["redis"]["eve"] = 5
    assert _sections(store) == {"numbers": {"redis": {"ann": 3, "eve": 5}}}


def test_writers_in_processes_and_threads_lose_nothing(place: Place) -> None:
    runs = [place.run("count", times=5) for _ in range(3)]
    store = place.open()

    def count() -> None:
        for _ in range(5):
            with store.change(holder("test")) as state:
                state.setdefault("counts", {})
                state["counts"]["all"] = state["counts"].get("all", 0) + 1

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [_ended(run) for run in runs] == [0, 0, 0]
    assert _sections(store)["counts"] == {"all": 25}
    assert store.locks() == []


def test_a_change_waits_for_the_one_that_is_under_way(place: Place) -> None:
    store, other = place.open(), place.open()
    _count(store)
    waiting = threading.Thread(target=_count, args=(other,))
    with store.change(holder("test")) as state:
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        state["counts"] = {"all": 5}
    waiting.join()
    assert _sections(place.open()) == {"counts": {"all": 6}}


def test_a_lock_is_refused_with_its_holder_and_let_go_by_death(place: Place) -> None:
    store = place.open()
    run = place.run("hold")
    assert run.stdout is not None
    assert run.stdout.readline() == "held\n"
    told: list[str] = []
    with (
        pytest.raises(Locked, match=f"multidb apply by .*, process {run.pid}, since ") as refused,
        store.lock("apply-x", holder("me"), 0.3, told.append),
    ):
        pass
    assert refused.value.hint
    assert [str(run.pid) in who for who in told] == [True]
    assert [(lock.name, lock.pid) for lock in store.locks()] == [("apply-x", run.pid)]
    with store.lock("apply-y", holder("me")), store.change(holder("me")) as state:
        state["told"] = {}
    run.kill()
    assert _ended(run) < 0
    with store.lock("apply-x", holder("me"), 4 * _LEASE):
        assert [(lock.name, lock.pid) for lock in store.locks()] == [("apply-x", os.getpid())]
    assert store.locks() == []


def test_a_lock_that_is_used_for_long_stays_its_holders(place: Place) -> None:
    store, other = place.open(), place.open()
    with store.lock("apply-x", holder("me")):
        with pytest.raises(Locked), other.lock("apply-x", holder("me"), 2 * _LEASE):
            pass
        with store.change(holder("me")) as state:
            state["told"] = {}
    with other.lock("apply-x", holder("me")):
        pass


def test_who_is_taken_for_dead_can_write_no_more(place: Place) -> None:
    store, other = place.open(), place.open()
    with pytest.raises(UsageError, match="no such lock"):
        other.unlock("4711")
    if place.kind == "folder":  # a process of this machine is ended, its lock goes with it
        with store.lock("apply-x", holder("me")), pytest.raises(Refused, match=f"process {os.getpid()}") as refused:
            other.unlock("apply-x")
        assert f"kill {os.getpid()}" in str(refused.value.hint)
        return
    with store.change(holder("me")) as state:
        state["numbers"] = {"redis": {"ann": 1}}
    with store.lock("apply-x", holder("me")):
        (held,) = other.locks()
        assert other.unlock(held.id).pid == os.getpid()
        with other.lock("apply-x", holder("another"), 2.0):
            with pytest.raises((Locked, StateUnavailable), match=r"nothing was written|writes no more"):
                _count(store, "numbers")
            _count(other, "numbers")
    assert _sections(place.open())["numbers"] == {"redis": {"ann": 1}, "all": 1}
    _count(store, "numbers")
    assert _sections(place.open())["numbers"] == {"redis": {"ann": 1}, "all": 2}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"version": 1, "numbers": {"redis"', UsageError, "is damaged: it is not JSON"),
        ('{"version": 1, "numbers": 3}', UsageError, "is damaged"),
        ('{"version": 999}', NewerFormat, "newer multidb"),
    ],
)
def test_what_makes_no_sense_is_said_to_be_so_and_left_alone(
    place: Place, text: str, error: type[Exception], message: str
) -> None:
    place.write(text)
    store = place.open()
    with pytest.raises(error, match=message):
        store.read()
    with pytest.raises(error, match=message):
        _count(store)
    with pytest.raises(error, match=message):
        place.open().read()


def test_another_projects_state_is_left_alone(place: Place) -> None:
    if place.kind != "folder":  # which goes with its manifest
        _count(place.open("other"))
        if place.kind == "postgres":  # has a database for each project
            assert _sections(place.open()) == {}
            return
        with pytest.raises(Refused, match="is the state of the project other, and this is digi"):
            place.open().read()
        with pytest.raises(Refused, match="project other"):
            _count(place.open())
        assert _sections(place.open("other")) == {"counts": {"all": 1}}


# --- S3


@pytest.fixture(params=["s3", pytest.param("moto", marks=_RARE)])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    server = request.getfixturevalue("seaweed" if request.param == "s3" else "moto")
    return _in_s3(request.param, server if isinstance(server, str) else server.url, tmp_path.name, monkeypatch)


def test_a_lease_that_was_slept_over_is_lost_with_all_that_hangs_on_it(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a laptop is shut: the process is there, and renews nothing for longer than the lease."""
    sleeper, other = bucket.open(), bucket.open()
    monkeypatch.setattr(sleeper, "_renew", lambda: None)
    _count(sleeper)
    with sleeper.lock("apply-x", holder("sleeper")):
        time.sleep(_LEASE)
        with other.lock("apply-x", holder("other"), 2 * _LEASE):
            with pytest.raises(Locked, match=r"lock apply-x was taken from this run.*other by .* has it now"):
                _count(sleeper)
            with pytest.raises(Locked, match="taken"), sleeper.lock("apply-y", holder("sleeper")):
                pass
            _count(other)
    assert _sections(bucket.open()) == {"counts": {"all": 2}}
    assert bucket.open().locks() == []


def test_of_two_that_begin_a_state_at_once_neither_is_lost(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = bucket.open(), bucket.open()
    meanwhile, read = [lambda: _count(other)], store._get

    def overtaken() -> Any:
        there = read()
        while meanwhile:
            meanwhile.pop()()
        return there

    monkeypatch.setattr(store, "_get", overtaken)
    _count(store)
    assert _sections(bucket.open()) == {"counts": {"all": 2}}


def test_a_write_whose_answer_is_lost_is_not_taken_for_anothers(
    seaweed: seaweedfs.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent again, and refused by then: of the version that it has made itself."""
    handler = type("Handler", (Mute,), {"behind": seaweed.url, "tries": {}})
    with listening(handler) as url:
        store = _in_s3("s3", url, tmp_path.name, monkeypatch).open()
        began = time.monotonic()
        with store.lock("apply-x", holder("me")):
            _count(store)
        assert store.write_file("usage.jsonl", "one", None)
        version = store.read_file("usage.jsonl").version
        assert store.write_file("usage.jsonl", "two", version)
        assert not store.write_file("usage.jsonl", "three", version)
        assert time.monotonic() - began < 10 * _LEASE
    assert max(handler.tries.values()) > 1
    direct = _in_s3("s3", seaweed.url, tmp_path.name, monkeypatch).open()
    assert (_sections(direct), direct.locks()) == ({"counts": {"all": 1}}, [])
    assert direct.read_file("usage.jsonl").text == "two"


def test_a_lease_ends_by_the_clock_of_the_storage(
    seaweed: seaweedfs.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(type("Handler", (Ahead,), {"behind": seaweed.url})) as url:
        place = _in_s3("s3", url, tmp_path.name, monkeypatch)
        store, other = place.open(), place.open()
        monkeypatch.setattr(store, "_renew", lambda: None)  # which may be in another minute
        with store.lock("apply-x", holder("me")):
            (held,) = other.locks()
            assert moment(held.until) - datetime.now(UTC) > timedelta(minutes=50)
            with pytest.raises(Locked) as refused, other.lock("apply-x", holder("me")):
                pass
            assert f"a dead one loses its lock at {held.until[11:17]}" in str(refused.value.hint)


def test_no_two_holders_are_called_the_same(bucket: Place) -> None:
    """So that who unlocks a lock that was seen does not take the one that has been taken since."""
    store, other, seen = bucket.open(), bucket.open(), []
    for run in (store, other, store):
        with run.lock("apply-x", holder("me")), run.lock("apply-y", holder("me")):
            seen += [int(lock.id) for lock in other.locks()]
            _count(run)
    assert seen == sorted(set(seen))
    with store.lock("apply-x", holder("me")), pytest.raises(UsageError, match="no such lock"):
        other.unlock(str(seen[0]))


def test_what_one_part_of_a_run_takes_or_gives_back_is_not_lost_to_another(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of one run work side by side: what one has read may be older than the locks that another has taken."""
    store = bucket.open()
    _count(store)
    meanwhile: list[Callable[[], object]] = []
    read, locks = store._get, contextlib.ExitStack()

    def overtaken() -> Any:
        there = read()
        while meanwhile:
            meanwhile.pop()()
        return there

    monkeypatch.setattr(store, "_get", overtaken)
    with locks:
        meanwhile.append(lambda: locks.enter_context(store.lock("apply-y", holder("part"))))
        with store.lock("apply-x", holder("part")):
            assert [lock.name for lock in store.locks()] == ["apply-x", "apply-y"]
            with store.change(holder("part")) as document:
                document["counts"] = {"all": 7}
                locks.enter_context(store.lock("apply-z", holder("part")))
            meanwhile.append(locks.close)
            _count(store)
    with pytest.raises(Locked, match="the lock state was taken from this run"):
        _change_and_unlock(store)
    assert _sections(bucket.open()) == {"counts": {"all": 8}}
    assert bucket.open().locks() == []


def test_a_lease_is_renewed_also_where_somebody_writes_before_each_first_try(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with many runs at once: a renewal that only tries now and then would lose its lease to their writes."""
    store, other = S3StateStore(bucket.where["address"], _PROJECT), bucket.open()
    looks, read = itertools.count(), store._get

    def overtaken() -> Any:
        there = read()
        if next(looks) == 0:
            _count(other)
        return there

    with store.lock("apply-x", holder("me")):
        (before,) = other.locks()
        time.sleep(1.1)  # the storage tells the time to a second
        monkeypatch.setattr(store, "_get", overtaken)
        store._renew_all(dict(store._mine))
        (after,) = other.locks()
        assert (after.id, after.name) == (before.id, "apply-x")
        assert after.until > before.until
    assert next(looks) > 1
    store._renew_all({"of a lock that is gone"})
    assert other.locks() == []


def test_an_empty_place_in_no_bucket_is_none(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = S3StateStore("s3://no-such-bucket/digi", _PROJECT)
    for use in (nowhere.read, nowhere.locks, lambda: _count(nowhere)):
        with pytest.raises(StateUnavailable, match="there is no bucket no-such-bucket") as error:
            use()
    assert error.value.exit_code == 4
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    gone = bucket.open()
    for use in (gone.read, lambda: _count(gone)):
        with pytest.raises(StateUnavailable, match="cannot be reached") as error:
            use()
        assert "secret-of" not in str(error.value)


def test_without_rights_nothing_is_read_or_written(
    seaweed: seaweedfs.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _count(_in_s3("s3", seaweed.url, tmp_path.name, monkeypatch).open())
    reader = _in_s3("s3", seaweed.url, tmp_path.name, monkeypatch, "reader").open()
    assert _sections(reader) == {"counts": {"all": 1}}
    with pytest.raises(StateUnavailable, match="may not write"):
        _count(reader)
    stranger = _in_s3("s3", seaweed.url, tmp_path.name, monkeypatch, "stranger").open()
    with pytest.raises(StateUnavailable, match="may not read"):
        stranger.read()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StateUnavailable, match="credentials"):
        S3StateStore(f"s3://{seaweedfs.BUCKET}/{tmp_path.name}", _PROJECT).read()


@pytest.mark.parametrize("keeps", ["", "If-None-Match", "If-Match"])
def test_storage_that_ignores_a_condition_is_refused_before_anything_is_written(
    keeps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = type("Handler", (Careless,), {"objects": {}, "keeps": keeps})
    with listening(handler) as url:
        for name, value in seaweedfs.environment(url).items():
            monkeypatch.setenv(name, value)
        store = S3StateStore("s3://states/digi", _PROJECT)
        for use in (lambda: _count(store), lambda: _hold(store)):
            with pytest.raises(StateUnavailable, match="writes whatever a write depends on") as error:
                use()
            assert "state: .multidb/" in str(error.value.hint)
        assert list(handler.objects) == ["/states/digi/state.json.probe"]


# --- Postgres


@pytest.mark.parametrize("admin", [SUPERUSER, PLATFORM])
def test_no_app_can_reach_the_state(keeper: Cluster, admin: str) -> None:
    for place in _in_postgres(keeper, admin):
        _count(place.open())
        name = database_of(_PROJECT)
        keeper.sql("CREATE ROLE app_user LOGIN PASSWORD 'of-the-app'")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(host="127.0.0.1", port=keeper.port, user="app_user", password="of-the-app", dbname=name)
            keeper.sql(f'GRANT CONNECT ON DATABASE "{name}" TO PUBLIC')
            assert _sections(place.open()) == {"counts": {"all": 1}}
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(host="127.0.0.1", port=keeper.port, user="app_user", password="of-the-app", dbname=name)
        finally:
            keeper.sql("DROP ROLE app_user")


def test_a_database_of_somebody_elses_is_left_alone(keeper: Cluster) -> None:
    name = database_of(_PROJECT)
    for place in _in_postgres(keeper, SUPERUSER):
        keeper.sql(f'CREATE DATABASE "{name}"')
        store = place.open()
        for use in (store.read, lambda store=store: _count(store)):
            with pytest.raises(Conflict, match="multidb did not make it"):
                use()
        assert keeper.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=name) == [(0,)]


def test_a_database_that_was_half_made_is_finished(keeper: Cluster) -> None:
    for place in _in_postgres(keeper, SUPERUSER):
        keeper.sql(f'CREATE DATABASE "{database_of(_PROJECT)}" TEMPLATE template0 ALLOW_CONNECTIONS false')
        assert _sections(place.open()) == {}
        _count(place.open())
        assert _sections(place.open()) == {"counts": {"all": 1}}


def test_who_loses_the_connection_loses_the_locks_and_writes_no_more(keeper: Cluster) -> None:
    for place in _in_postgres(keeper, SUPERUSER):
        store = place.open()
        _count(store)
        with store.lock("apply-x", holder("me")):
            keeper.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'multidb-state-%'")
            for _ in range(2):
                with pytest.raises(StateUnavailable):
                    _count(store)
        _count(store)
        assert _sections(place.open()) == {"counts": {"all": 2}}


def _count(store: StateStore, section: str = "counts") -> None:
    with store.change(holder("test")) as state:
        state.setdefault(section, {})
        state[section]["all"] = state[section].get("all", 0) + 1


def _change_and_fail(store: StateStore, error: type[BaseException]) -> None:
    with store.change(holder("test")) as state:
        state["numbers"]["redis"]["bob"] = 4
        raise error


def _change_and_unlock(store: StateStore) -> None:
    with store.change(holder("part")) as document:
        store.unlock(next(lock.id for lock in store.locks() if lock.name == "state"))
        document["counts"] = {"all": 9}


def _hold(store: StateStore) -> None:
    with store.lock("apply-x", holder("test")):
        pass


def _ended(run: subprocess.Popen[str]) -> int:
    for stream in (run.stdin, run.stdout):
        assert stream is not None
        stream.close()
    return run.wait(60)
