"""Redis and Valkey: a copy of keys elsewhere that is caught up while they are written, and the moment when nobody does
any more."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from multidb.errors import NotAllowed, ServerDown, ServerSlow
from multidb.model import App, ComparingArchive, FollowedSource, ImportOptions, Place, PlaceKind
from multidb.provisioners.redis.backup import following, pause
from multidb.provisioners.redis.backup.changes import Changes
from multidb.provisioners.redis.backup.followed import FollowedRedis
from multidb.provisioners.redis.backup.globs import matcher
from multidb.provisioners.redis.driver.batch_connection import BatchConnection
from tests.contract.case_redis import ADMIN, PASSWORD, as_admin, real_server, valkey_binary
from tests.contract.redis_elsewhere import NUMBER, OTHER, Elsewhere, Writers, held
from tests.contract.redis_sets import fill, place_of, quiet
from tests.contract.redis_stage import Stage, on_stage, redis_servers  # noqa: F401
from tests.support.case import RealServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

ELSEWHERE = App("elsewhere", "elsewhere", {})
PAIRS = (
    ("another valkey-9", "valkey-9", {}),
    ("redis-7", "valkey-9", {}),
    ("redis-8", "valkey-9", {}),
    ("another valkey-9", "redis-7", {"isolation": "prefix", "scripts": True}),
    ("redis-7", "redis-8", {}),
)


@pytest.fixture(scope="module")
def sources(
    redis_servers: dict[str, RealServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RealServer]]:
    """The servers, and one more that no app is on."""
    with real_server(tmp_path_factory.mktemp("another"), binary=valkey_binary) as another:
        yield {**redis_servers, "another valkey-9": another}


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def pair(
    request: pytest.FixtureRequest, sources: dict[str, RealServer], redis_servers: dict[str, RealServer]
) -> Iterator[tuple[Elsewhere, Stage]]:
    there, here, options = request.param
    if there not in sources:
        pytest.skip(f"{there} is not installed")
    with on_stage(redis_servers, here, options) as stage, elsewhere(sources[there]) as other:
        yield other, stage


@pytest.fixture
def plain(sources: dict[str, RealServer], redis_servers: dict[str, RealServer]) -> Iterator[tuple[Elsewhere, Stage]]:
    with on_stage(redis_servers, "valkey-9", {}) as stage, elsewhere(sources["another valkey-9"]) as other:
        yield other, stage


@contextlib.contextmanager
def elsewhere(real: RealServer) -> Iterator[Elsewhere]:
    other = Elsewhere(real)
    with as_admin(real) as client:
        client.execute_command("FLUSHALL")
    yield other
    with as_admin(real) as client:
        client.execute_command("CONFIG", "SET", "min-replicas-to-write", 0)
        client.execute_command("CLIENT", "UNPAUSE")
        client.execute_command("FLUSHALL")


def begun(stage: Stage, source: FollowedRedis) -> Place:
    """A copy, as an import that follows begins one."""
    with stage.archive() as archive, source:
        assert isinstance(source, FollowedSource)
        assert isinstance(archive, ComparingArchive)
        assert archive.survey(stage.alpha, stage.context, source).following == ""
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.follow(place, source, "mark", quiet)
        archive.catch_up(place, source, "mark", quiet)
        assert archive.lag(place, source, "mark").size is None
    return place


@contextlib.contextmanager
def cut_over(stage: Stage, source: FollowedRedis, place: Place) -> Iterator[float]:
    """The place is what the source is, in the block, in which nobody can write there. Seconds that it took."""
    with stage.archive() as archive, source:
        archive.catch_up(place, source, "mark", quiet)
        began = time.monotonic()
        source.stop_writing()
        archive.drain(place, source, "mark", quiet)
        assert archive.unlike(place, source) == []
        source.require_stopped()
        yield time.monotonic() - began


def test_a_copy_that_is_caught_up_while_it_is_written_loses_nothing_that_was_acknowledged(
    pair: tuple[Elsewhere, Stage],
) -> None:
    there, stage = pair
    fill(there, ELSEWHERE, int(time.time() * 1000) + 3_600_000)  # type: ignore[arg-type]
    with there.raw() as client:
        client.execute_command("XGROUP", "CREATE", "log", "g", "0", "MKSTREAM")
        client.execute_command("SELECT", OTHER)
        client.execute_command("SET", "theirs", 1)
    with Writers(there) as writers:
        writers.until(200)
        place = begun(stage, there.source())
        writers.until(200)
        with there.raw() as client:
            client.execute_command("DEL", b"list", b"hash of many")
            client.execute_command("SELECT", OTHER)
            client.execute_command("FLUSHDB")
            client.execute_command("SET", "theirs", 2)
        with cut_over(stage, there.source(), place) as seconds:
            before = writers.done
            print(f"nobody could write for {seconds:.3f} s, {before} writes before")
            number, prefix = place_of(place)
            time.sleep(0.1)
            assert writers.done == before, "nobody can write"
            assert held(stage, number, prefix) == held(there, NUMBER)
            with contextlib.closing(raw(stage, number)) as client:
                for key, value in writers.said.items():
                    if key not in writers.unsure:
                        assert client.execute_command("GET", prefix + key) == value, key
    with stage.archive() as archive:
        archive.discard(place)


def raw(stage: Stage, number: int) -> redis.Redis:
    endpoint = stage.real.server.endpoint
    client = redis.Redis(
        host=endpoint.host, port=endpoint.port, username=ADMIN, password=PASSWORD, db=number, protocol=2
    )
    client.response_callbacks.clear()
    return client


# Of each type of value, what changes it. Redis 8 and Valkey 9 have those about single fields of hashes.
CHANGES = (
    "SET s w|APPEND s x|SETRANGE s 1 y|GETEX s PX 100000|EXPIRE s 100|GETDEL s|SETBIT s 1 1|BITFIELD s SET u8 0 3|"
    "INCR n|DEL s|UNLINK s|RENAME s s2|COPY s s3|MOVE s 7|LPUSH l x|LPOP l|LSET l 0 q|LTRIM l 0 0|LINSERT l BEFORE a k|"
    "LMOVE l l2 LEFT RIGHT|LREM l 0 a|SORT l ALPHA STORE l4|LMPOP 1 l LEFT|HSET h f 2|HDEL h f|HINCRBY h f 1|"
    "HEXPIRE h 100 FIELDS 1 f|HSETEX h EX 10 FIELDS 1 f v|HGETDEL h FIELDS 1 f|ZADD z 5 a|ZINCRBY z 1 a|ZREM z a|"
    "ZPOPMIN z|ZRANGESTORE z2 z 0 -1|SADD t c|SREM t a|SPOP t|SMOVE t t2 a|SINTERSTORE t3 t|GEOADD g 2 2 b|PFADD p c|"
    "PFMERGE p2 p|PFCOUNT p|XADD x 2-1 a b|XDEL x 1-1|XTRIM x MAXLEN 0|BITOP NOT s9 s|FLUSHDB|FLUSHALL"
)
# ChangedKeys to nobody, so streams are compared again while nobody writes.
GROUPS = "XSETID x 9-9|XGROUP CREATE x g2 0|XGROUP CREATECONSUMER x g c|XREADGROUP GROUP g c STREAMS x >|XACK x g 1-1"
BEFORE = (
    "SET s v|SET n 1|RPUSH l a b c|HSET h f 1 g 2|ZADD z 1 a 2 b|SADD t a b|XADD x 1-1 f v|XGROUP CREATE x g 0|"
    "GEOADD g 1 1 a|PFADD p a b"
)


def lane(there: Elsewhere, number: int = NUMBER) -> BatchConnection:
    connection = BatchConnection(there.real.server)
    connection.login(ADMIN, PASSWORD, number)
    return connection


def state(client: redis.Redis) -> dict[bytes, Any]:
    return {
        key: (client.execute_command("DUMP", key), client.execute_command("PTTL", key) > 0)
        for key in client.execute_command("KEYS", "*")
    }


@pytest.mark.parametrize("product", ["another valkey-9", "redis-7", "redis-8"])
def test_every_change_of_a_key_is_told_but_of_a_streams_groups(product: str, sources: dict[str, RealServer]) -> None:
    if product not in sources:
        pytest.skip(f"{product} is not installed")
    with elsewhere(sources[product]) as there, there.raw() as client, lane(there, 0) as connection:
        changes = Changes(connection, b"", lambda _: True)
        for words in f"{CHANGES}|{GROUPS}".split("|"):
            client.execute_command("FLUSHDB")
            for line in BEFORE.split("|"):
                client.execute_command(*line.split(" "))
            changes.take()
            before = state(client)
            changes.take()
            try:
                client.execute_command(*words.split(" "))
            except redis.ResponseError as error:
                if "unknown command" in str(error):
                    continue
                raise
            news, after = changes.take(), state(client)
            changed = {key for key in before | after if before.get(key) != after.get(key)}
            assert news.emptied == words.startswith("FLUSH"), words
            assert not news.anything, words
            missed = changed - news.keys if not news.emptied else set()
            assert missed <= ({b"x"} if words in GROUPS else set()), words
        client.execute_command("SET", "short", 1, "PX", 50)
        changes.take()
        time.sleep(1)
        assert b"short" in changes.take().keys
        client.execute_command("SWAPDB", NUMBER, OTHER)
        assert changes.take().anything
        assert not changes.take()


def test_more_than_is_kept_is_anything(plain: tuple[Elsewhere, Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    there, _ = plain
    monkeypatch.setattr("multidb.provisioners.redis.backup.changes.MOST", 1_000)
    with there.raw() as client, lane(there) as connection:
        changes = Changes(connection, b"a", lambda key: key != b"a no")
        for key in ("a yes", "a no", "b"):
            client.execute_command("SET", key, 1)
        assert (changed := changes.take()).keys == {b"a yes"}
        assert not changed.anything
        for number in range(20):
            client.execute_command("SET", f"a{number}", 1)
        assert (changed := changes.take()).anything
        assert not changed.keys
        assert not changes.take()


def test_a_name_matches_a_pattern_as_the_server_says(plain: tuple[Elsewhere, Stage]) -> None:
    there, _ = plain
    chance = random.Random(5)
    names = [bytes(chance.choice(b"ab-]^[\\*?\n\xff") for _ in range(chance.randrange(1, 5))) for _ in range(150)]
    patterns = [
        bytes(chance.choice(b"ab**??[[]]^-\\\n\xff") for _ in range(chance.randrange(1, 8))) for _ in range(700)
    ]
    with there.raw() as client:
        client.execute_command("MSET", *(word for name in names for word in (name, b"")))
        for pattern in (*patterns, b"[a-", b"[^", b"[]", b"[^]", b"[b-a]", b"a\\", b"[\\", b"[\\]]", b"*"):
            matches = matcher(pattern)
            found = {name for name in names if matches(name)}
            assert found == set(client.execute_command("KEYS", pattern)), pattern


@pytest.mark.parametrize("options", [{"prefix": "sh*p:"}, {"prefix": "sh*p:", "pattern": "*live*"}, {}])
def test_what_is_chosen_is_followed_and_nothing_else(plain: tuple[Elsewhere, Stage], options: dict[str, str]) -> None:
    there, stage = plain
    with there.raw() as client, Writers(there, b"sh*p:") as writers, Writers(there, b"shop:"):
        client.execute_command("MSET", "sh*p:live", 1, "sh*p:quiet", 1, "shop:live", 1)
        client.execute_command("XGROUP", "CREATE", "sh*p:log", "g", "0", "MKSTREAM")
        writers.until(100)
        place = begun(stage, there.source(**options))
        client.execute_command("MSET", "sh*p:live 2", 1, "sh*p:quiet", 2, "shop:live", 2)
        writers.until(100)
        with cut_over(stage, there.source(**options), place):
            matches = matcher(options.get("pattern", "*").encode())
            prefix = options.get("prefix", "").encode()
            wanted = {
                key.removeprefix(prefix): value
                for key, value in held(there, NUMBER).items()
                if key.startswith(prefix) and matches(key)
            }
            assert (b"live 2" in wanted, b"quiet" in wanted) == (
                bool(prefix),
                "pattern" not in options and bool(prefix),
            )
            assert held(stage, *place_of(place)) == wanted


def test_a_server_that_is_the_apps_alone_stays_closed_until_it_is_opened(plain: tuple[Elsewhere, Stage]) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("XGROUP", "CREATE", "log", "g", "0", "MKSTREAM")
    place = begun(stage, there.source())
    with Writers(there) as writers, there.source() as source:
        assert "CONFIG SET min-replicas-to-write 0" in source.stopping()
        writers.until(20)
        with cut_over(stage, there.source(), place):
            done = writers.done
        time.sleep(0.3)
        assert writers.done == done
        assert writers.refused
        assert all("NOREPLICAS" in why for why in writers.refused)
    with there.raw() as client, pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        client.execute_command("EVAL", "redis.call('SET', 'a', 2)", 0)
    with there.source() as source:
        source.allow_writing()
    with there.raw() as client:
        client.execute_command("SET", "a", 2)


def test_a_server_that_others_use_is_written_again_but_not_by_who_waited(plain: tuple[Elsewhere, Stage]) -> None:
    there, stage = plain
    with there.raw() as client, there.raw() as theirs:
        client.execute_command("SET", "a", 1)
        theirs.execute_command("SELECT", OTHER)
        theirs.execute_command("SET", "a", 1)
        place = begun(stage, there.source())
        waiting: list[Any] = []

        def write(on: redis.Redis) -> None:
            try:
                waiting.append(on.execute_command("SET", "a", "late"))
            except redis.RedisError as error:
                waiting.append(error)

        with there.source() as source:
            assert f"sessions in DB {NUMBER} are ended" in source.stopping()
            assert "in every DB" in source.stopping()
        with cut_over(stage, there.source(), place):
            threads = [threading.Thread(target=write, args=(one,)) for one in (client, theirs)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            assert waiting == []
        for thread in threads:
            thread.join(10)
        assert sorted(map(type, waiting), key=str) == sorted([bytes, redis.ConnectionError], key=str)
        assert there.raw().execute_command("GET", "a") == b"1"
        there.raw().execute_command("SET", "a", 2)
        with as_admin(there.real) as admin:
            assert admin.execute_command("CONFIG", "GET", "min-replicas-to-write")[1] == "0"


def test_a_setting_that_the_source_has_is_left_alone(plain: tuple[Elsewhere, Stage]) -> None:
    there, _ = plain
    with there.raw() as client:
        client.execute_command("SET", "a", 1)
        client.execute_command("CONFIG", "SET", "min-replicas-to-write", 3)
        with there.source() as source:
            source.stop_writing()
            source.require_stopped()
            source.allow_writing()
        assert client.execute_command("CONFIG", "GET", "min-replicas-to-write")[1] == b"3"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("-client|tracking -hello", "+client|tracking"),
        ("-client|pause", "+client|pause +client|unpause"),
        ("-info", ""),
    ],
)
def test_a_login_that_may_not_follow_is_said_what_it_lacks(
    plain: tuple[Elsewhere, Stage], missing: str, words: str
) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("SET", "a", 1)
        rules = ["reset", "on", "~*", "+@read", "+@connection", "+client", "+info"]
        client.execute_command("ACL", "SETUSER", "reader", *rules, f">{PASSWORD}", *missing.split(" "))
        with FollowedRedis(there.location("reader"), ImportOptions()) as source:
            following = source.survey(stage.alpha, stage.context).following
            assert following.endswith(f"ACL SETUSER reader {words}, at the source") if words else following == ""
            if missing == "-client|pause":
                with pytest.raises(NotAllowed) as refused:
                    source.stop_writing()
                assert "ACL SETUSER reader +client|pause +client|unpause, at the source" in (refused.value.hint or "")
                client.execute_command("ACL", "SETUSER", "reader", "+client|pause", "+client|unpause")
                source.stop_writing()
                source.allow_writing()
        client.execute_command("ACL", "DELUSER", "reader")


def test_where_it_is_not_said_whether_dbs_were_exchanged_everything_is_compared_again(
    plain: tuple[Elsewhere, Stage],
) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("MSET", "a", 1, "b", 1)
        rules = ["reset", "on", "~*", "+@read", "+@connection", "+client"]
        client.execute_command("ACL", "SETUSER", "reader", *rules, f">{PASSWORD}")
        source = FollowedRedis(there.location("reader"), ImportOptions())
        place = begun(stage, source)
        for may_ask in (False, True):
            if may_ask:
                client.execute_command("ACL", "SETUSER", "reader", "+info")
            client.execute_command("SELECT", OTHER)
            client.execute_command("MSET", "a", 2, "c", 2)
            client.execute_command("SELECT", NUMBER)
            with stage.archive() as archive, source:
                archive.catch_up(place, source, "mark", quiet)
                client.execute_command("SWAPDB", NUMBER, OTHER)
                source.stop_writing()
                archive.drain(place, source, "mark", quiet)
                source.require_stopped()
                assert held(stage, *place_of(place)) == held(there, NUMBER)
                source.allow_writing()
        client.execute_command("ACL", "DELUSER", "reader")


def test_what_is_read_and_acknowledged_in_a_streams_groups_is_here_too(plain: tuple[Elsewhere, Stage]) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("XADD", "log", "1-1", "n", 1)
        client.execute_command("XADD", "log", "1-2", "n", 2)
        client.execute_command("XGROUP", "CREATE", "log", "g", "0")
        place = begun(stage, there.source())
        with stage.archive() as archive, there.source() as source:
            archive.catch_up(place, source, "mark", quiet)
            client.execute_command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "log", ">")
            client.execute_command("XACK", "log", "g", "1-1")
            source.stop_writing()
            archive.drain(place, source, "mark", quiet)
            source.require_stopped()
            with raw(stage, place_of(place)[0]) as own:
                assert own.execute_command("XPENDING", "log", "g")[:2] == [1, b"1-2"]
            source.allow_writing()


def test_keys_that_go_with_their_whole_db_go_here_too(plain: tuple[Elsewhere, Stage]) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("MSET", "a", 1, "b", 1)
        place = begun(stage, there.source())
        with stage.archive() as archive, there.source() as source:
            archive.catch_up(place, source, "mark", quiet)
            client.execute_command("FLUSHDB")
            client.execute_command("SET", "b", 2)
            source.stop_writing()
            archive.drain(place, source, "mark", quiet)
            source.require_stopped()
            assert held(stage, *place_of(place)) == held(there, NUMBER)
            assert len(held(there, NUMBER)) == 1
            source.allow_writing()


def test_what_cannot_be_followed_says_why(plain: tuple[Elsewhere, Stage], redis_servers: dict[str, RealServer]) -> None:
    there, stage = plain
    with there.raw() as client, as_admin(redis_servers["valkey-9"]) as own:
        client.execute_command("SET", "a", 1)
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
        with there.source() as source:
            assert "name its primary" in source.survey(stage.alpha, stage.context).following
        client.execute_command("REPLICAOF", "NO", "ONE")
        own.execute_command("SET", "a", 1)
        itself = Elsewhere(redis_servers["valkey-9"])
        with FollowedRedis(itself.location(number=0), ImportOptions()) as source, stage.archive() as archive:
            assert "own server" in archive.survey(stage.alpha, stage.context, source).following


def test_what_does_not_become_the_same_is_said(plain: tuple[Elsewhere, Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("MSET", "a", 1, "b", 1, "c\n", 1)
        place = begun(stage, there.source())
        number, _ = place_of(place)
        with raw(stage, number) as own:
            own.execute_command("SET", "c\n", "another")
            own.execute_command("SET", "d", "nowhere else")
        with cut_over(stage, there.source(), place):
            assert held(stage, number) == held(there, NUMBER)
        load = following.Transfer._load
        monkeypatch.setattr(
            following.Transfer, "_load", lambda self, records: load(self, [one for one in records if one.key == b"a"])
        )
        client.execute_command("CONFIG", "SET", "min-replicas-to-write", 0)
        client.execute_command("MSET", "a", 2, "c\n", 2)
        with stage.archive() as archive, there.source() as source:
            archive.catch_up(place, source, "mark", quiet)
            source.stop_writing()
            archive.drain(place, source, "mark", quiet)
            assert archive.unlike(place, source) == ['key "c\\x0a": another content, or missing']
            source.allow_writing()


def test_a_pause_that_was_broken_or_a_write_in_it_is_noticed(
    plain: tuple[Elsewhere, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, stage = plain
    with there.raw() as client:
        client.execute_command("SET", "a", 1)
        client.execute_command("SELECT", OTHER)
        client.execute_command("SET", "a", 1)
        client.execute_command("SELECT", NUMBER)
        place = begun(stage, there.source())
        with stage.archive() as archive, there.source() as source:
            archive.catch_up(place, source, "mark", quiet)
            source.stop_writing()
            archive.drain(place, source, "mark", quiet)
            source.require_stopped()
            client.execute_command("CLIENT", "UNPAUSE")
            client.execute_command("SET", "a", 2)
            with pytest.raises(ServerSlow):
                source.require_stopped()
            source.allow_writing()
        monkeypatch.setattr(pause, "SECONDS", 0.2)
        with there.source() as source:
            source.stop_writing()
            time.sleep(0.5)
            with pytest.raises(ServerSlow):
                source.require_stopped()
            source.allow_writing()
        monkeypatch.setattr(pause, "RENEWED", 0.05)
        with there.source() as source:
            source.stop_writing()
            time.sleep(0.8)
            source.require_stopped()
            source.allow_writing()
            client.execute_command("SET", "a", 3)


def test_a_source_that_goes_in_the_middle_is_an_error_and_the_next_run_goes_on(
    plain: tuple[Elsewhere, Stage], tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, stage = plain
    with real_server(tmp_path_factory.mktemp("gone"), binary=valkey_binary, settings=["appendonly yes"]) as real:
        there = Elsewhere(real)
        with there.raw() as client:
            client.execute_command("MSET", *(word for n in range(5_000) for word in (f"key {n}", n)))
        place = begun(stage, there.source())
        with stage.archive() as archive, contextlib.ExitStack() as stack:
            source = stack.enter_context(there.source())
            archive.catch_up(place, source, "mark", quiet)
            source.stop_writing()
            assert real.kill is not None
            real.kill()
            with pytest.raises(ServerDown) as gone:
                archive.drain(place, source, "mark", quiet)
            assert "source redis://" in str(gone.value)
            with pytest.raises(ServerDown):
                source.require_stopped()
            with pytest.raises(ServerDown):
                source.allow_writing()
            assert real.restart is not None
            real.restart()
        with there.raw() as client:
            client.execute_command("SET", "key 7", "another")  # nothing was left that stops it
        with cut_over(stage, there.source(), place):
            assert held(stage, *place_of(place)) == held(there, NUMBER)
