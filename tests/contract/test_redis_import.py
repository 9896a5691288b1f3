"""Redis and Valkey: keys of another server, or of an RDB file, brought into an app's place."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from multidb.errors import (
    ArchiveError,
    AuthenticationFailed,
    MultidbError,
    NotAllowed,
    ServerDown,
    ServerError,
    UsageError,
)
from multidb.model import App, ImportOptions, Measures, PlaceKind, SourceLocation
from multidb.ports import choose
from multidb.provisioners.redis.backup import transfer
from multidb.provisioners.redis.backup.source import RedisSource
from multidb.provisioners.redis.driver.batch_connection import BatchConnection
from multidb.provisioners.redis.hosting.rdb_file import served
from tests.contract.case_redis import PASSWORD, as_admin
from tests.contract.redis_elsewhere import NUMBER, Elsewhere, held
from tests.contract.redis_sets import READS, fill, place_of, quiet
from tests.contract.redis_stage import Stage, on_stage, redis_servers  # noqa: F401
from tests.support.case import RealServer
from tests.support.checkpoints import Killed, Marks

pytestmark = pytest.mark.server

_LAG = re.compile(r"b'lag', (?:\d+|None), ")
ELSEWHERE = App("elsewhere", "elsewhere", {})
PAIRS = (
    ("valkey-9", "valkey-9", {}),
    ("redis-7", "valkey-9", {}),
    ("redis-8", "valkey-9", {}),
    ("valkey-9", "redis-7", {"isolation": "prefix", "scripts": True}),
    ("redis-7", "redis-8", {}),
)
OLDER = (
    ("redis-6", "valkey-9", {}),
    ("valkey-9", "redis-6", {}),
    ("redis-7", "redis-6", {"isolation": "prefix", "scripts": True}),
    ("redis-6", "redis-6", {}),
)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that no other run of this machine looks through, or clears."""
    with tempfile.TemporaryDirectory(prefix="imports-") as name:
        Path(name).chmod(0o755)  # as root, a server runs as another user, who has to get in
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def pair(request: pytest.FixtureRequest, redis_servers: dict[str, RealServer]) -> Iterator[tuple[Elsewhere, Stage]]:
    yield from paired(request, redis_servers)


@pytest.fixture(params=OLDER, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def one_older(
    request: pytest.FixtureRequest, redis_servers: dict[str, RealServer]
) -> Iterator[tuple[Elsewhere, Stage]]:
    yield from paired(request, redis_servers)


def paired(request: pytest.FixtureRequest, redis_servers: dict[str, RealServer]) -> Iterator[tuple[Elsewhere, Stage]]:
    there, here, options = request.param
    if there not in redis_servers:
        pytest.skip(f"{there} is not installed")
    with on_stage(redis_servers, here, options) as stage:
        other = Elsewhere(redis_servers[there])
        other.raw().execute_command("FLUSHDB")
        yield other, stage
        other.raw().execute_command("FLUSHDB")


@pytest.fixture
def same(redis_servers: dict[str, RealServer]) -> Iterator[tuple[Elsewhere, Stage]]:
    with on_stage(redis_servers, "valkey-9", {}) as stage:
        yield Elsewhere(redis_servers["valkey-9"]), stage  # which also ends with no key in it


def imported(
    stage: Stage, source: RedisSource, marks: Marks | None = None
) -> tuple[Measures, Measures | None, Measures]:
    """What the place has, what was copied and what the source has, after which the place is discarded."""
    with stage.archive() as archive, source:
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.bring_in(place, source, marks or Marks(), quiet)
        answers = archive.measure(place), source.copied(), source.measure(stage.alpha, stage.context)
        archive.discard(place)
    return answers


def test_every_kind_of_value_comes_along_between_any_two_servers(pair: tuple[Elsewhere, Stage]) -> None:
    there, stage = pair
    later = int(time.time() * 1000) + 3_600_000
    fill(there, ELSEWHERE, later)  # type: ignore[arg-type]
    before = held(there, NUMBER)
    with stage.archive() as archive, there.source() as source:
        survey = archive.survey(stage.alpha, stage.context, source)
        assert not survey.obstacles
        assert not survey.estimated
        assert survey.counts["stream keys"] == 1
        assert survey.counts["keys that expire"] == 2
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.bring_in(place, source, Marks(), quiet)
        number, prefix = place_of(place)
        assert held(stage, number, prefix) == before
        measured = archive.measure(place)
        assert sum(measured.counts.values()) == 18
        copied, now = source.copied(), source.measure(stage.alpha, stage.context)
        assert copied is not None
        assert copied.counts == now.counts == measured.counts
        assert agree(copied, measured) == len(measured.fingerprints) == 6
        assert agree(now, measured) >= 5
        archive.replace(place, stage.context)
        live = archive.live(stage.alpha, stage.context)
        assert archive.measure(live).counts == measured.counts
    assert held(there, NUMBER) == before


def test_what_is_pending_of_entries_that_are_gone_comes_along(pair: tuple[Elsewhere, Stage]) -> None:
    there, stage = pair
    with there.raw() as client:
        for name in (b"deleted", b"trimmed", b"nothing left"):
            for number in range(1, 7):
                client.execute_command("XADD", name, f"{number}-1", "field", number)
            for group, count in (("all", 6), ("some", 2)):
                client.execute_command("XGROUP", "CREATE", name, group, "0")
                reads = ("XREADGROUP", "GROUP", group, "one", "COUNT", count, "STREAMS", name, ">")
                client.execute_command(*reads)
        client.execute_command("XTRIM", b"deleted", "MAXLEN", 5)
        client.execute_command("XDEL", b"deleted", "4-1", "6-1")
        client.execute_command("XTRIM", b"trimmed", "MAXLEN", 2)
        client.execute_command("XTRIM", b"nothing left", "MAXLEN", 1)
        client.execute_command("XDEL", b"nothing left", "6-1")
        client.execute_command("XGROUP", "CREATE", b"never any", "all", "$", "MKSTREAM")
    before = held(there, NUMBER)
    assert len(before) == 4
    with stage.archive() as archive, there.source() as source:
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.bring_in(place, source, Marks(), quiet)
        after = held(stage, *place_of(place))
        archive.discard(place)
    # How far a group is behind is reckoned, and by Redis 8 another way.
    assert [_LAG.sub("", repr(each)) for each in (after, before)] == [_LAG.sub("", repr(before))] * 2


def test_every_kind_of_value_comes_along_where_a_server_does_not_count_what_streams_had(
    one_older: tuple[Elsewhere, Stage],
) -> None:
    """Redis 6.2 has no PEXPIRETIME, says nothing of the entries that a stream has had, and cannot be told of them."""
    there, stage = one_older
    fill(there, ELSEWHERE, int(time.time() * 1000) + 3_600_000)  # type: ignore[arg-type]
    before = plainly(there, ELSEWHERE, NUMBER, b"")
    with stage.archive() as archive, there.source() as source:
        assert not archive.survey(stage.alpha, stage.context, source).obstacles
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.bring_in(place, source, Marks(), quiet)
        assert plainly(stage, stage.alpha, *place_of(place)) == before
        measured, copied = archive.measure(place), source.copied()
        assert copied is not None
        assert copied.counts == measured.counts
        assert agree(copied, measured)
        archive.discard(place)


def plainly(stage: Stage | Elsewhere, app: App, number: int, prefix: bytes) -> dict[bytes, Any]:
    """Every key under a prefix in a DB, as every server tells it."""
    reads = {**READS, b"stream": lambda key: ("XRANGE", key, "-", "+")}
    values: dict[bytes, Any] = {}
    with stage.raw(app) as client:
        ask = client.execute_command
        client.connection_pool.connection_kwargs["db"] = number
        for key in ask("KEYS", prefix.replace(b"\\", b"\\\\") + b"*"):
            kind = ask("TYPE", key)
            value = ask(*reads[kind](key))
            if kind in (b"set", b"hash"):
                value = sorted(value)
            if kind == b"zset":  # of whose scores each server has its own spelling
                value = [float(word) if at % 2 else word for at, word in enumerate(value)]
            if kind == b"stream":
                [group] = ask("XINFO", "GROUPS", key)
                pending = [
                    (entry, owner, times) for entry, owner, _, times in ask("XPENDING", key, "workers", "-", "+", 9)
                ]
                value = (value, dict(zip(group[::2], group[1::2], strict=True))[b"last-delivered-id"], pending)
            values[key.removeprefix(prefix)] = (kind, value, round(ask("PTTL", key) / 600_000))
    assert len(values) == 20
    return values


def test_a_key_that_becomes_another_while_it_is_read_by_its_type_comes_as_it_is_then(
    redis_servers: dict[str, RealServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_stage(redis_servers, "redis-7", {}) as stage:
        there = Elsewhere(redis_servers["valkey-9"])
        client = there.raw()
        for name in (b"list", b"gone"):
            client.execute_command("RPUSH", name, "a", "b")
        client.execute_command("SET", b"lock", "x", "PX", 60_000)
        for name in (b"stream", b"group"):
            client.execute_command("XADD", name, "1-1", "f", "v")
            client.execute_command("XGROUP", "CREATE", name, "g", "0")
            client.execute_command("XREADGROUP", "GROUP", "g", "c", "STREAMS", name, ">")
        changes: dict[tuple[Any, ...], tuple[Any, ...]] = {
            ("LRANGE", b"list"): ("SET", b"list", "text"),
            ("LRANGE", b"gone"): ("DEL", b"gone"),
            ("GET", b"lock"): ("DEL", b"lock"),
            ("XINFO", b"STREAM", b"stream"): ("DEL", b"stream"),
            ("XPENDING", b"group"): ("XGROUP", "DESTROY", b"group", "g"),
        }

        class Changing(BatchConnection):
            def send(self, commands: Iterable[Sequence[Any]]) -> None:
                commands = list(commands)
                for words in commands:
                    spoken = tuple(
                        word.encode() if i and isinstance(word, str) else word for i, word in enumerate(words)
                    )
                    for begin in [each for each in changes if each == spoken[: len(each)]]:
                        client.execute_command(*changes.pop(begin))
                super().send(commands)

        monkeypatch.setattr("multidb.provisioners.redis.backup.source.BatchConnection", Changing)
        try:
            with stage.archive() as archive, there.source() as source:
                place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
                archive.bring_in(place, source, Marks(), quiet)
                assert not changes
                assert held(stage, *place_of(place)) == held(there, NUMBER)
                archive.discard(place)
        finally:
            client.execute_command("FLUSHDB")


def test_what_is_chosen_by_prefix_and_pattern_loses_the_prefix(same: tuple[Elsewhere, Stage]) -> None:
    there, stage = same
    with there.raw() as client:
        for key in ("shop:cart:1", "shop:cart:2", "shop:user", "shopping", "sh*p:cart", "other"):
            client.execute_command("SET", key, key)
    for options, keys in (
        ({"prefix": "shop:"}, {b"cart:1", b"cart:2", b"user"}),
        ({"prefix": "shop:", "pattern": "*cart*"}, {b"cart:1", b"cart:2"}),
        ({"pattern": "*:cart*"}, {b"shop:cart:1", b"shop:cart:2", b"sh*p:cart"}),
        ({"prefix": "sh*p:"}, {b"cart"}),
        ({"pattern": "none*"}, set()),
    ):
        with stage.archive() as archive, there.source(**options) as source:
            survey = archive.survey(stage.alpha, stage.context, source)
            assert sum(survey.counts.values()) == len(keys)
            assert not survey.estimated
            place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
            archive.bring_in(place, source, Marks(), quiet)
            assert set(held(stage, *place_of(place))) == keys
            assert archive.measure(place) == source.copied() == source.measure(stage.alpha, stage.context)
            archive.discard(place)


def test_a_run_that_was_killed_goes_on_where_it_was_and_takes_over_what_has_changed(
    same: tuple[Elsewhere, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, stage = same
    monkeypatch.setattr(transfer, "KEYS", 500)
    with there.raw() as client, client.pipeline() as pipeline:
        for number in range(6_000):
            pipeline.execute_command("SET", f"key {number}", number)
        pipeline.execute()
    marks = Marks(most=4)
    with stage.archive() as archive, there.source() as source:
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        with pytest.raises(Killed):
            archive.bring_in(place, source, marks, quiet)
    done = len(held(stage, *place_of(place)))
    assert 2_000 <= done < 5_000
    with there.raw() as client:
        client.execute_command("DEL", *(f"key {number}" for number in range(0, 6_000, 50)))
        client.execute_command("SET", "key 1", "another")
        client.execute_command("PEXPIREAT", "key 2", int(time.time() * 1000) + 3_600_000)
        client.execute_command("SET", "new", "key")
    sent: list[Any] = []
    with stage.archive() as archive, there.source() as source:
        marks = Marks(parts=marks.parts)
        archive.bring_in(place, source, marks, lambda *words: sent.append(words))
        assert next(words[2] for words in sent if words[1] == "loading keys") > 2_000  # not from the beginning
        assert held(stage, *place_of(place)) == held(there, NUMBER)
        assert source.copied() is None  # it is not of one moment
        assert archive.measure(place) == source.measure(stage.alpha, stage.context)
        with there.raw() as client:
            client.execute_command("APPEND", "key 3", "!")
        assert archive.measure(place) != source.measure(stage.alpha, stage.context)
        archive.bring_in(place, source, marks, quiet)  # all is done: what has changed since is taken over
        assert archive.measure(place) == source.measure(stage.alpha, stage.context)
        archive.discard(place)


def saved(there: Elsewhere, folder: Path) -> Path:
    """What SAVE has written, elsewhere."""
    with there.raw() as client:
        client.execute_command("SAVE")
        where = dict(pairs(client.execute_command("CONFIG", "GET", "dir")))[b"dir"].decode()
    return Path(shutil.copy(Path(where) / "dump.rdb", folder / "export.rdb"))


def pairs(words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    yield from zip(words[::2], words[1::2], strict=True)


def of_file(path: Path) -> RedisSource:
    return RedisSource(SourceLocation(str(path), None, path, None), ImportOptions())


@pytest.mark.parametrize("product", ["valkey-9", "redis-7"])
def test_an_rdb_file_is_read_by_a_server_of_our_own_which_is_gone_afterwards(
    product: str, redis_servers: dict[str, RealServer], tmp_path: Path
) -> None:
    if product not in redis_servers:
        pytest.skip(f"{product} is not installed")
    with on_stage(redis_servers, "valkey-9", {}) as stage:
        there = Elsewhere(redis_servers[product])
        with as_admin(there.real) as client:
            client.execute_command("FLUSHALL") if product != "valkey-9" else None
        fill(there, ELSEWHERE, int(time.time() * 1000) + 3_600_000)  # type: ignore[arg-type]
        before, file = held(there, NUMBER), saved(there, tmp_path)
        content_before = file.read_bytes()
        with stage.archive() as archive, of_file(file) as source:
            survey = archive.survey(stage.alpha, stage.context, source)
            assert survey.product.startswith("RDB file, version ")
            assert not survey.obstacles
            place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
            archive.bring_in(place, source, Marks(), quiet)
            assert held(stage, *place_of(place)) == before
            measured = archive.measure(place)
            copied = source.copied()
            assert copied is not None
            assert agree(copied, measured) == 6
            assert agree(source.measure(stage.alpha, stage.context), measured) == 6
            archive.discard(place)
        assert file.read_bytes() == content_before
        assert list(left_behind()) == []
        there.raw().execute_command("FLUSHDB")


def left_behind() -> Iterator[str]:
    """Folders of servers that read RDB files, and their processes."""
    temporary = tempfile.gettempdir()
    yield from (str(folder) for folder in Path(temporary).glob("multidb-rdb-*"))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"{temporary}/multidb-rdb-" in " ".join(process.cmdline()):
                yield str(process)


def test_what_a_killed_run_has_left_of_an_rdb_file_is_cleared_by_the_next(
    same: tuple[Elsewhere, Stage], tmp_path: Path
) -> None:
    there, _ = same
    with there.raw() as client:
        client.execute_command("SET", "secret", "the-only-value-in-this-file" * 10)
    file = saved(there, tmp_path)
    text = (
        "import os, signal, sys; from pathlib import Path; "
        "from multidb.provisioners.redis.hosting.rdb_file import served; "
        "block = served(Path(sys.argv[1])); block.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", text, str(file)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    [folder] = [Path(name) for name in left_behind() if name.startswith("/")]
    assert len(list(left_behind())) == 2
    assert not (folder / "dump.rdb").exists()  # it was removed once it was loaded
    with served(file):
        assert not folder.exists()
    assert list(left_behind()) == []


def test_a_run_that_begins_at_the_same_moment_takes_no_folder_away(
    same: tuple[Elsewhere, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It clears what is left behind; a folder that was made and not yet locked looks like that."""
    there, _ = same
    with there.raw() as client:
        client.execute_command("SET", "key", "value")
    file, lock = saved(there, tmp_path), fcntl.flock
    others: list[int] = []

    def overtaken(descriptor: int, operation: int) -> None:
        if not others:
            others.append(descriptor)
            with served(file):
                pass
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with served(file) as (_, _, product):
        assert product.startswith("RDB file")
    assert others
    assert list(left_behind()) == []


def test_a_file_that_is_no_whole_rdb_file_is_refused(same: tuple[Elsewhere, Stage], tmp_path: Path) -> None:
    there, _ = same
    with there.raw() as client:
        for number in range(200):
            client.execute_command("SET", f"key {number}", "value" * number)
    whole = saved(there, tmp_path).read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 0xFF
    bad = {
        "empty.rdb": b"",
        "text.rdb": b"hello",
        "half.rdb": whole[: len(whole) // 2],
        "altered.rdb": bytes(altered),
        "newer.rdb": b"REDIS9999" + whole[9:],
    }
    for name, content_of in bad.items():
        (tmp_path / name).write_bytes(content_of)
        with pytest.raises(ArchiveError) as caught, of_file(tmp_path / name):
            pass
        assert name in str(caught.value)
        assert caught.value.hint, name
    for path in (tmp_path / "none.rdb", tmp_path):
        with pytest.raises(UsageError, match=r"cannot be read|is a folder"), of_file(path):
            pass
    assert list(left_behind()) == []


def address(url: str) -> SourceLocation:
    return SourceLocation(url, url)


def test_a_source_that_does_not_let_us_read_is_an_error_that_says_what_to_do(same: tuple[Elsewhere, Stage]) -> None:
    there, stage = same
    with as_admin(there.real) as client:
        client.execute_command("ACL", "SETUSER", "little", "on", f">{PASSWORD}", "~public:*", "+@all", "-@admin")
    with there.raw() as client:
        client.execute_command("SET", "public:a", 1)
        client.execute_command("SET", "private", 1)
    nobody = address(f"redis://127.0.0.1:{choose(())}/0")
    wrong: list[tuple[SourceLocation, type[MultidbError], str]] = [
        (there.location(password="wrong-password"), AuthenticationFailed, "MULTIDB_IMPORT_REDIS_PASSWORD"),
        (nobody, ServerDown, "--from-redis"),
        (address("http://127.0.0.1/"), UsageError, "redis://"),
        (address("redis://127.0.0.1/shop"), UsageError, "redis://"),
        (there.location(number=9_999), ServerError, "correct --from-redis"),
    ]
    for location, kind, hint in wrong:
        with pytest.raises(kind) as caught, RedisSource(location, ImportOptions()) as source:
            source.survey(stage.alpha, stage.context)
        assert hint in (caught.value.hint or "")
        assert "wrong-password" not in f"{caught.value}{caught.value.hint}"
    with stage.archive() as archive:
        place = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        with RedisSource(there.location("little"), ImportOptions()) as source, pytest.raises(NotAllowed) as refused:
            archive.bring_in(place, source, Marks(), quiet)
        assert "source redis://" in str(refused.value)
        with RedisSource(there.location("little"), ImportOptions(pattern="public:*")) as source:
            archive.bring_in(place, source, Marks(), quiet)
            assert set(held(stage, *place_of(place))) == {b"public:a"}
        archive.discard(place)


def test_what_stands_against_an_import_and_what_does_not_come_along_is_in_the_survey(
    same: tuple[Elsewhere, Stage],
) -> None:
    there, stage = same
    with as_admin(there.real) as client:
        client.execute_command("FUNCTION", "LOAD", "#!lua name=mine\nserver.register_function('f', function() end)")
    with there.raw() as client:
        client.execute_command("SET", "a", 1)
    empty = RedisSource(there.location(number=9), ImportOptions())
    with empty as source, stage.archive() as archive:
        survey = archive.survey(stage.alpha, stage.context, source)
        [function] = [loss for loss in survey.losses if "function" in loss]
        assert "1 function library" in function
        assert any("DB 5" in loss for loss in survey.losses)
        [obstacle] = survey.obstacles
        assert obstacle.startswith("DB 9 has no key; there are keys in DB 5: name one in the URL (redis://")
    with as_admin(there.real) as client:
        client.execute_command("FUNCTION", "FLUSH")


def agree(one: Measures, other: Measures) -> int:
    """How many fingerprints both have; they are the same."""
    shared = one.fingerprints.keys() & other.fingerprints.keys()
    assert {name: one.fingerprints[name] for name in shared} == {name: other.fingerprints[name] for name in shared}
    return len(shared)
