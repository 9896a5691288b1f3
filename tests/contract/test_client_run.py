"""The client for apps on real Postgres and Valkey: its place, rotations and restarts under load, health and routes."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from multidb.client import AppPlace, CallRefused, connect
from multidb.client.redis import SharedChannel
from multidb.client.redis.keys import KEYED, KEYLESS, key_positions, name_of
from multidb.ports import choose
from tests.contract.case_redis import valkey_binary
from tests.support.command import Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

MANIFEST = """\
version: 1
project: clients
runtime: embedded
apps:
  ann: {stores: [postgres, redis], redis: {channels: ["rq:pubsub:*"], scripts: true}}
  bob: {stores: [redis], redis: {isolation: prefix, scripts: true, channels: ["rq:pubsub:*"]}}
  cyd: {stores: [postgres, redis]}
  dan: {stores: [postgres, redis]}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("clients-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


def env_file(folder: Folder, app: str) -> Path:
    return folder.path / "apps" / app / ".env"


@contextmanager
def place(folder: Folder, app: str, **options: Any) -> Iterator[AppPlace]:
    options = {"watch": 0.1, **options}
    drivers = {"redis": {"decode_responses": True}, **options.pop("options", {})}
    with connect(env_file=env_file(folder, app), options=drivers, **options) as found:
        yield found


# --- Redis ---------------------------------------------------------------------------------------------------------


def test_keys_are_put_under_the_prefix_and_answers_are_without(folder: Folder) -> None:
    with place(folder, "bob") as app:
        client = app.redis
        assert client.set("a", "1") is True
        assert client.get("a") == "1"
        assert client.mget(["a", "b"]) == ["1", None]
        assert client.mset({"b": "2", "c": "3"}) is True
        assert client.exists("a", "b", "c", "d") == 3
        client.rpush("list", "x", "y")
        assert client.blpop(["nothing", "list"], timeout=1) in (("list", "x"), ["list", "x"])
        assert client.lmpop(2, "nothing", "list", direction="LEFT")[0] == "list"
        client.zadd("scores", {"m": 1.0})
        client.zadd("more", {"m": 2.0})
        client.zunionstore("sum", ["scores", "more"])
        assert client.zscore("sum", "m") == 3.0
        client.xadd("stream", {"f": "v"})
        client.xgroup_create("stream", "group", id="0")
        answer = client.xreadgroup("group", "me", {"stream": ">"})
        assert "stream" in repr(answer)
        assert "bob:" not in repr(answer)
        assert client.xinfo_stream("stream")["length"] == 1
        assert client.object("encoding", "a") == "int"
        assert client.eval("return redis.call('GET', KEYS[1]) .. ARGV[1]", 1, "a", "!") == "1!"
        script = client.register_script("return redis.call('INCR', KEYS[1])")
        assert (script(keys=["n"]), script(keys=["n"])) == (1, 2)
        with client.lock("lock", timeout=5):
            assert client.exists("lock") == 1
        assert client.delete("a", "b", "c", "list", "scores", "more", "sum", "stream", "n") >= 7
    raw = _bare(folder, "bob")
    with place(folder, "bob") as app:
        app.redis.set("seen", "1")
    assert raw.get("bob:seen") == "1", "as the server has it"
    with pytest.raises(redis.exceptions.NoPermissionError):
        raw.get("seen")


def _bare(folder: Folder, app: str) -> redis.Redis:
    variables = connect(env_file=env_file(folder, app))._source
    return redis.Redis.from_url(variables["REDIS_URL"], decode_responses=True)


def test_pipelines_and_transactions_are_put_under_the_prefix(folder: Folder) -> None:
    with place(folder, "bob") as app:
        client = app.redis
        for transaction in (True, False):
            with client.pipeline(transaction=transaction) as pipe:
                answers = pipe.set("t", "1").incr("t").get("t").blpop("nothing", timeout=0.01).execute()
            assert answers == [True, 2, "2", None]

        def raise_it(pipe: Any) -> None:
            value = int(pipe.get("t"))
            pipe.multi()
            pipe.set("t", value * 10)

        client.transaction(raise_it, "t")
        assert client.get("t") == "20"
        with client.pipeline() as pipe:
            pipe.watch("t")
            client.set("t", "changed")
            pipe.multi()
            pipe.get("t")
            with pytest.raises(redis.WatchError):
                pipe.execute()
        single = client.client()
        assert single.get("t") == "changed"
        single.close()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("KEYS", "*"), "KEYS is refused in prefix mode: it reads or changes the keys of all apps"),
        (("SCAN", 0), "SCAN is refused"),
        (("RANDOMKEY",), "RANDOMKEY is refused"),
        (("FLUSHDB",), "FLUSHDB is refused"),
        (("SORT", "a", "BY", "x_*"), "inside a pattern"),
        (("SELECT", 3), "the app lives in one DB"),
        (("PUBSUB", "CHANNELS"), "PUBSUB CHANNELS is refused"),
        (("PUBSUB CHANNELS",), "PUBSUB CHANNELS is refused"),
        (("FT.SEARCH", "index", "*"), "FT.SEARCH is refused in prefix mode: where its keys are is not known here"),
        (("EVAL", "return 1", "many"), "how many keys follow has to be a number"),
    ],
)
def test_what_cannot_be_prefixed_is_refused_in_words(folder: Folder, words: tuple[Any, ...], why: str) -> None:
    with place(folder, "bob") as app:
        for client in (app.redis, app.redis.pipeline()):
            with pytest.raises(CallRefused, match=why):
                client.execute_command(*words)
        with pytest.raises(CallRefused, match="MONITOR"):
            app.redis.monitor()


def test_the_table_is_the_servers() -> None:
    """Each command of the server that names keys is in the table, with the positions that COMMAND GETKEYS finds."""
    with _server_without_walls() as client:
        commands = _commands(client)
        ours = {**KEYED, **dict.fromkeys(KEYLESS)}
        missing = {name for name, (keys, rights) in commands.items() if keys and "admin" not in rights} - set(KEYED)
        assert missing <= {"sort", "sort_ro", "migrate", "move", "clusterscan", "restore-asking"} | {
            "spublish",
            "ssubscribe",
            "sunsubscribe",
        }
        assert not [name for name in KEYLESS if commands.get(name, (False, ()))[0]], "none of these names a key"
        tried = 0
        for name in sorted(set(ours) & set(commands) & set(KEYED)):
            for words in _examples(name):
                try:
                    keys = client.execute_command("COMMAND GETKEYS", *words)
                    positions = key_positions(name, words)
                except (redis.ResponseError, CallRefused):
                    continue
                assert sorted(words[position] for position in positions) == sorted(keys), words
                tried += 1
                break
        assert tried > 190


def _examples(name: str) -> Iterator[list[str]]:
    """Arguments of many shapes, one of which the server takes for the command."""
    head = name.split("|")
    for count in range(1, 9):
        yield [*head, *(f"k{n}" for n in range(count))]
    yield [*head, "2", "k1", "k2", "LEFT"]
    yield [*head, "1", "2", "k1", "k2", "LEFT"]
    yield [*head, "to", "2", "k1", "k2"]
    yield [*head, "body", "2", "k1", "k2", "argument"]
    yield [*head, "1", "k1", "v1"]
    yield [*head, "BLOCK", "1", "STREAMS", "s1", "s2", "0", "0"]
    yield [*head, "GROUP", "g", "STREAMS", "STREAMS", "s1", "s2", "0", "0"]
    yield [*head, "k1", "1", "2", "3", "km", "STORE", "k2"]
    yield [*head, "k1", "m", "3", "km", "STORE", "k2"]
    yield [*head, "AND", "k1", "k2", "k3"]


@contextmanager
def _server_without_walls() -> Iterator[redis.Redis]:
    port = choose(())
    command = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, decode_responses=True, protocol=2) as client:
            assert _until(lambda: _answers(client))
            yield client
    finally:
        process.terminate()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _commands(client: redis.Redis) -> dict[str, tuple[bool, tuple[str, ...]]]:
    """By command and subcommand: whether it names keys, and its flags."""

    def walk(row: list[Any]) -> Iterator[tuple[str, tuple[bool, tuple[str, ...]]]]:
        if row[9]:
            for inner in row[9]:
                yield from walk(inner)
        else:
            yield row[0], (bool(row[8]), tuple(row[2]))

    connection = client.connection_pool.get_connection()
    connection.send_command("COMMAND")
    rows = connection.read_response()
    client.connection_pool.release(connection)
    return dict(entry for row in rows for entry in walk(row))


@pytest.mark.parametrize("app", ["ann", "bob"])
def test_channels_are_the_apps_in_both_modes_and_shared_ones_are_everybodys(folder: Folder, app: str) -> None:
    with place(folder, app) as found:
        client = found.redis
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            heard: list[Any] = []
            pubsub.subscribe("news", SharedChannel("rq:pubsub:x"), handled=heard.append)
            pubsub.psubscribe("*", SharedChannel("rq:pubsub:*"))
            with pytest.raises(CallRefused, match="PSUBSCRIBE all"):
                pubsub.psubscribe("all.*")
            assert client.publish("news", "1") == 2, "by its name, and by the pattern"
            client.publish("other", "2")
            client.publish("handled", "3")
            client.publish(SharedChannel("rq:pubsub:x"), "4")
            messages: list[Any] = []
            deadline = time.monotonic() + 20
            while (len(messages) < 6 or not heard) and time.monotonic() < deadline:
                message = pubsub.get_message(timeout=0.2)
                if message is not None:
                    messages.append(message)
        assert {(one["type"], one["pattern"], one["channel"], one["data"]) for one in messages} == {
            ("message", None, "news", "1"),
            ("pmessage", "*", "news", "1"),
            ("pmessage", "*", "other", "2"),
            ("pmessage", "*", "handled", "3"),
            ("message", None, "rq:pubsub:x", "4"),
            ("pmessage", "rq:pubsub:*", "rq:pubsub:x", "4"),
        }
        assert [one["data"] for one in heard] == ["3"]


def test_the_client_to_await_does_the_same(folder: Folder) -> None:
    async def work() -> None:
        found = connect(env_file=env_file(folder, "bob"), options={"redis": {"decode_responses": True}})
        async with found as app:
            client = app.redis_async
            await client.set("async", "1")
            assert await client.get("async") == "1"
            async with client.pipeline() as pipe:
                assert await pipe.incr("async").get("async").execute() == [2, "2"]
            await client.rpush("waiting", "x")
            assert list(await client.blpop(["waiting"], timeout=1)) == ["waiting", "x"]
            assert await client.register_script("return redis.call('GET', KEYS[1])")(keys=["async"]) == "2"
            with pytest.raises(CallRefused, match="SCAN is refused"):
                await client.scan()
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe("news")
                for _ in range(100):
                    if await client.publish("news", "1") == 1:
                        break
                    await asyncio.sleep(0.05)
                message = None
                while message is None:
                    message = await pubsub.get_message(timeout=1)
                assert (message["channel"], message["data"]) == ("news", "1")

    asyncio.run(work())


def test_a_client_that_only_reads_refuses_what_writes(folder: Folder) -> None:
    with place(folder, "ann") as app:
        app.redis.set("there", "1")
        with app.postgres.pool.connection() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
    for app_name in ("ann", "bob"):
        with place(folder, app_name, read_only=True) as app:
            app.redis.get("there")
            for words in (("SET", "a", "1"), ("EVAL", "x", 0), ("PUBLISH", "c", "m"), ("FLUSHDB",), ("NEW.ONE", "a")):
                with pytest.raises(CallRefused):
                    app.redis.execute_command(*words)
    with place(folder, "ann", read_only=True) as app, app.postgres.pool.connection() as connection:
        assert connection.execute("SELECT session_user").fetchone() == ("ann_readonly",)
        connection.rollback()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO notes VALUES ('x')")
        connection.rollback()
        connection.execute("SET default_transaction_read_only = off")
        connection.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO notes VALUES ('x')")


# --- rotation and restart ------------------------------------------------------------------------------------------


class Load:
    """Requests, one after another in each of several threads, until it is told to end. A request that fails is lost."""

    def __init__(self, *works: Callable[[], object]) -> None:
        self.done = [0] * len(works)
        self.lost: list[str] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(n, work)) for n, work in enumerate(works)]

    def _go(self, number: int, work: Callable[[], object]) -> None:
        while not self._end.is_set():
            try:
                work()
                self.done[number] += 1
            except Exception as error:
                self.lost.append(f"{number}: {type(error).__name__}: {error}")
            time.sleep(0.002)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        assert _until(lambda: all(self.done) or bool(self.lost))
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def lost_only_in_commit(self, rows: int, transactions: Sequence[int] = (0,)) -> None:
        """The first work adds a row. Of each work that is a transaction, also of one that only reads, at most the
        COMMIT under way was lost, of which nobody knows whether it is done; it was told, and not made twice."""
        lost = [line.split(": ")[:2] for line in self.lost]
        assert sorted(lost) == [[str(work), "OperationalError"] for work in transactions if self._lost(work)], self.lost
        assert self.done[0] <= rows <= self.done[0] + self._lost(0)

    def _lost(self, work: int) -> int:
        return sum(line.startswith(f"{work}: ") for line in self.lost)

    def goes_on(self) -> bool:
        """Whether every thread has had an answer after this moment."""
        before = list(self.done)
        return _until(lambda: all(now > then + 3 for now, then in zip(self.done, before, strict=True)))


def _until(true: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _select(app: AppPlace) -> Callable[[], object]:
    def work() -> object:
        with app.postgres.pool.connection() as connection:
            return connection.execute("SELECT session_user").fetchone()

    return work


def _finish(folder: Folder, app: str) -> None:
    """Within the time that a busy machine takes; without --force, which would end sessions."""
    for _ in range(5):
        ran = folder.run("rotate", app, "--finish", "--yes")
        print(ran.out, ran.err)
        if ran.code == 0:
            return
    raise AssertionError(ran.out + ran.err)


def _one(connection: Any) -> Any:
    return connection.execute("SELECT 1").fetchone()


def test_a_rotation_under_load_loses_no_request(folder: Folder) -> None:
    """Prepared, picked up without a restart, finished. `--finish` is not forced: it is refused while anybody uses the
    former login."""
    with place(folder, "ann") as app:
        client, pool = app.redis, app.postgres
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("news")
            with Load(
                _select(app),
                lambda: pool.run(lambda connection: connection.execute("SELECT 1").fetchone()),
                lambda: client.incr("counted"),
                lambda: client.pipeline().incr("piped").get("piped").execute(),
                lambda: client.blpop("nothing", timeout=1),
                lambda: pubsub.get_message(timeout=0.1),
            ) as load:
                folder.ok("rotate", "ann")
                assert load.goes_on()
                assert _until(lambda: _select(app)() == ("ann_user_b",))
                _finish(folder, "ann")
                assert load.goes_on()
            assert load.lost == []
            assert load.done[2] == int(client.get("counted")), "and none was made twice"


def test_a_leak_ends_sessions_at_once_and_the_client_goes_on(folder: Folder) -> None:
    """`--now` ends sessions in the middle of their work: work that is given to `run` is done all the same, and commands
    that were not sent are."""
    with place(folder, "cyd") as app:

        def add(connection: Any) -> None:
            connection.execute("INSERT INTO added VALUES (1)")

        app.postgres.run(lambda connection: connection.execute("CREATE TABLE added (n int)"))
        with Load(lambda: app.postgres.run(add), lambda: app.redis.get("x")) as load:
            folder.ok("rotate", "cyd", "--now", "--yes")
            assert load.goes_on()
        with app.postgres.pool.connection() as connection:
            (rows,) = connection.execute("SELECT count(*) FROM added").fetchone() or (0,)
        load.lost_only_in_commit(rows)


def test_without_watching_a_refusal_has_the_file_read_again(folder: Folder) -> None:
    with place(folder, "cyd", watch=0) as app:
        before = _select(app)()
        app.redis.set("a", "1")
        folder.ok("rotate", "cyd", "--now", "--yes")
        assert app.redis.get("a") == "1"
        assert app.postgres.run(lambda connection: connection.execute("SELECT session_user").fetchone()) != before


def test_a_restart_of_the_servers_loses_at_most_the_commit_under_way(folder: Folder) -> None:
    with place(folder, "ann", retry_for=120, options={"postgres": {"timeout": 120}}) as app:

        def add(connection: Any) -> None:
            connection.execute("INSERT INTO survived VALUES (1)")

        app.postgres.run(lambda connection: connection.execute("CREATE TABLE survived (n int)"))
        with Load(lambda: app.postgres.run(add), lambda: app.redis.get("x"), lambda: app.postgres.run(_one)) as load:
            folder.ok("restart", "--yes")
            assert load.goes_on()
        with app.postgres.pool.connection() as connection:
            (rows,) = connection.execute("SELECT count(*) FROM survived").fetchone() or (0,)
        load.lost_only_in_commit(rows, transactions=(0, 2))


def test_sessions_that_the_server_ended_are_replaced_all_at_once(folder: Folder) -> None:
    """Found one by one they would cost a longer wait each, 15 seconds for these."""
    with place(folder, "ann", options={"postgres": {"min_size": 6, "max_size": 6, "timeout": 5}}) as app:
        pool = app.postgres.pool
        pool.wait()
        held = [pool.getconn() for _ in range(6)]
        for connection in held:
            pool.putconn(connection)
        with psycopg.connect(app.postgres.url) as other:
            other.execute("SET ROLE NONE")  # sessions belong to the login, not to the owner as whom it works
            for connection in held:
                ended = other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
                assert ended.fetchone() == (True,)
        with pool.connection() as connection:
            assert _one(connection)


def test_a_pool_that_waits_begins_anew_when_it_gave_up(folder: Folder) -> None:
    """The server is away for longer than the pool tries: whoever waits has a connection soon after it is back."""
    with place(folder, "ann", options={"postgres": {"timeout": 60}}) as app:
        real = app.postgres.url
        away = psycopg.conninfo.make_conninfo(real, port=choose(set()))
        tries: list[float] = []

        def address() -> str:
            tries.append(time.monotonic())
            return away if len(tries) < 10 else real

        app.postgres.pool.conninfo = address
        with app.postgres.pool.connection() as connection:
            assert _one(connection)
        waits = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert max(waits) < 4


def test_a_rotation_of_clients_to_await(folder: Folder) -> None:
    async def work() -> tuple[int, list[str]]:
        async with connect(env_file=env_file(folder, "dan"), watch=0.1) as app:
            await app.postgres.open()
            done, lost, end = 0, [], asyncio.Event()

            async def ask() -> None:
                nonlocal done
                while not end.is_set():
                    try:
                        async with app.postgres.async_pool.connection() as connection:
                            await connection.execute("SELECT 1")
                        await app.redis_async.get("x")
                        done += 1
                    except Exception as error:
                        lost.append(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.005)

            tasks = [asyncio.create_task(ask()) for _ in range(3)]
            await asyncio.to_thread(folder.ok, "rotate", "dan")
            await asyncio.to_thread(_finish, folder, "dan")
            before = done
            while done < before + 5:
                await asyncio.sleep(0.05)
            end.set()
            await asyncio.gather(*tasks)
            assert await app.postgres.run_async(_user) == ("dan_user_b",)
            return done, lost

    async def _user(connection: Any) -> Any:
        return await (await connection.execute("SELECT session_user")).fetchone()

    done, lost = asyncio.run(work())
    assert lost == []
    assert done > 20


# --- health --------------------------------------------------------------------------------------------------------


def test_health_is_what_the_project_says_of_the_app(folder: Folder) -> None:
    with place(folder, "ann") as app:
        ours = app.health().document()
    theirs = json.loads(folder.run("health", "ann", "--json").out)
    assert ours["status"] == theirs["apps"]["ann"]["stores"]["postgres"]["status"] == "healthy"
    assert set(ours) <= set(theirs)
    assert set(ours["apps"]["ann"]["stores"]) == set(theirs["apps"]["ann"]["stores"])
    for store, health in ours["apps"]["ann"]["stores"].items():
        assert set(health) <= set(theirs["apps"]["ann"]["stores"][store])


def test_health_of_an_app_whose_server_is_away(folder: Folder) -> None:
    variables = dict(connect(env_file=env_file(folder, "ann"))._source._variables)
    gone = {**variables, "REDIS_PORT": "1"}
    with connect(variables=gone, retry_for=0) as app:
        health = app.health()
        assert (health.status, health.http_status) == ("unhealthy", 503)
        assert (health.stores["redis"].reached, health.stores["postgres"].status) == (False, "healthy")
    wrong = {**variables, "REDIS_PASSWORD": "wrong"}
    with connect(variables=wrong, retry_for=0) as app:
        redis_health = app.health().stores["redis"]
        assert (redis_health.status, redis_health.reached) == ("unhealthy", True)
        assert "wrong" not in json.dumps(app.health().document())


def test_a_server_that_hangs_costs_the_timeout_and_not_the_others(folder: Folder) -> None:
    with place(folder, "ann") as app:
        app.redis.get("x")
        process = _valkey_process(folder)
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            health = app.health(timeout=1.0)
            assert time.monotonic() - began < 10
            assert health.stores["redis"].message == "no answer within 1 s"
            assert health.stores["postgres"].status == "healthy"
        finally:
            process.send_signal(signal.SIGCONT)


def _valkey_process(folder: Folder) -> psutil.Process:
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("MULTIDB_SERVER", "").startswith(f"{folder.path}/")
        except psutil.Error:
            continue
        if marked and "valkey" in " ".join(process.cmdline()):
            return process
    raise AssertionError("no server")


def test_a_name_finds_the_env_file_beside_the_manifest(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path / "apps")
    monkeypatch.delenv("MULTIDB_FILE", raising=False)
    with connect("bob") as app:
        assert (app.app, app.stores) == ("bob", ("redis",))
        assert app.redis.ping() is True


def test_sqlalchemy_takes_the_address(folder: Folder) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with place(folder, "ann") as app:
        engine = sqlalchemy.create_engine(app.postgres.sqlalchemy_url())
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "ann"
        engine.dispose()
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=app.postgres.creator)
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "ann"
        engine.dispose()
        assert name_of("GET", "a") == "get"
