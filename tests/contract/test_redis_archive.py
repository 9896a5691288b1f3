"""Redis and Valkey: sets made, tried out, loaded and swapped in, on real servers."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import io
import random
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from multidb.errors import ArchiveError, MultidbError, ServerError, WrongVersion
from multidb.model import App, PlaceKind
from multidb.provisioners.redis.backup.keys_file import KeysReader
from multidb.provisioners.redis.driver.batch_connection import BatchConnection
from tests.contract.case_redis import ADMIN, as_admin, as_app, real_server, valkey_binary
from tests.contract.redis_sets import Files, backup, content, fill, place_of, quiet, used_memory
from tests.contract.redis_stage import Stage, on_stage, redis_servers, stage, valkey  # noqa: F401
from tests.support.case import RealServer
from tests.support.checkpoints import Killed

pytestmark = pytest.mark.server


def of_app(stage: Stage, app: App) -> tuple[int, bytes]:
    return stage.context.numbers[app.id], f"{app.id}:".encode() if stage.prefix else b""


def test_what_comes_back_is_what_went_in_and_no_app_can_reach_it_meanwhile(stage: Stage) -> None:
    later = int(time.time() * 1000) + 3_600_000
    fill(stage, stage.alpha, later)
    fill(stage, stage.beta, later)
    before = content(stage, stage.alpha, *of_app(stage, stage.alpha))
    assert len(before) == 20
    part, files = backup(stage, stage.alpha)
    assert sum(part.measures.counts.values()) == 18
    assert (part.details["keys"], part.details["expiring"]) == (20, 2)
    assert part.measures.counts["stream keys"] == 1
    assert not part.consistent

    with stage.archive() as archive:
        place = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
        assert archive.is_empty(place)
        archive.restore(place, part, files, quiet)
        number, prefix = place_of(place)
        assert content(stage, stage.alpha, number, prefix) == before
        assert archive.measure(place) == part.measures == archive.measure(archive.live(stage.alpha, stage.context))
        assert [found.name for found in archive.leftovers(stage.alpha, stage.context)] == [place.name]
        for app in (stage.alpha, stage.beta):
            with as_app(stage.project.tenant(app.id)) as client, pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command("SELECT", number) if number else client.execute_command("GET", prefix + b"text")
        assert stage.project.in_sync("alpha", "beta")
        with stage.project.connect() as session:  # a new app gets another number
            apps = [stage.alpha, stage.beta, App("gamma", "gamma", {"redis": stage.alpha.stores["redis"]})]
            assert number == 0 or stage.project.context(session, apps).numbers["gamma"] != number

        stage.raw(stage.alpha).execute_command("APPEND", of_app(stage, stage.alpha)[1] + b"text", "!")
        assert archive.measure(archive.live(stage.alpha, stage.context)) != part.measures
        archive.discard(place)
        archive.discard(place)
        assert archive.leftovers(stage.alpha, stage.context) == []
        assert content(stage, stage.alpha, number, prefix) == {}
    with as_admin(stage.real) as client:
        assert set(client.execute_command("ACL", "USERS")) == {"default", ADMIN, "alpha_user", "beta_user"}
    assert len(content(stage, stage.beta, *of_app(stage, stage.beta))) == 20


def test_new_data_takes_the_place_of_the_old_in_one_step(stage: Stage) -> None:
    later = int(time.time() * 1000) + 3_600_000
    fill(stage, stage.alpha, later)
    before = content(stage, stage.alpha, *of_app(stage, stage.alpha))
    part, files = backup(stage, stage.alpha)
    raw, prefix = stage.raw(stage.alpha), of_app(stage, stage.alpha)[1]
    raw.execute_command("DEL", prefix + b"text")
    raw.execute_command("SET", prefix + b"made since", "x")
    with as_app(stage.project.tenant("alpha")) as client, stage.archive() as archive:
        client.execute_command("PING")
        new = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.restore(new, part, files, quiet)
        archive.replace(new, stage.context)
        assert archive.leftovers(stage.alpha, stage.context) == []
        with pytest.raises(ArchiveError, match="no new place"):
            archive.replace(new, stage.context)
        with pytest.raises(redis.ConnectionError):
            client.execute_command("PING")
    assert content(stage, stage.alpha, *of_app(stage, stage.alpha)) == before
    assert content(stage, stage.alpha, *place_of(new)) == {}
    assert stage.project.in_sync("alpha", "beta")
    with as_app(stage.project.tenant("alpha")) as client:
        assert client.execute_command("GET", f"{stage.prefix}text") == "hello"


def test_data_that_has_taken_its_place_is_no_new_place_for_a_run_that_comes_after_a_crash(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stage, stage.alpha, int(time.time() * 1000) + 3_600_000)
    before = content(stage, stage.alpha, *of_app(stage, stage.alpha))
    part, files = backup(stage, stage.alpha)
    with stage.archive() as archive:
        new = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        archive.restore(new, part, files, quiet)
        stage.raw(stage.alpha).execute_command("SET", of_app(stage, stage.alpha)[1] + b"made since", "x")
        monkeypatch.setattr(archive, "_save", dies)
        with pytest.raises(Killed):
            archive.replace(new, stage.context)
    with stage.archive() as archive:
        left = archive.leftovers(stage.alpha, stage.context)
        assert [place.kind for place in left] == ([] if stage.prefix else [PlaceKind.SCRATCH])
        for place in left:
            archive.discard(place)
        assert archive.leftovers(stage.alpha, stage.context) == []
    assert content(stage, stage.alpha, *of_app(stage, stage.alpha)) == before
    assert content(stage, stage.alpha, *place_of(new)) == {}


def dies() -> None:
    raise Killed


def test_a_set_is_loaded_for_another_app(stage: Stage) -> None:
    fill(stage, stage.alpha, int(time.time() * 1000) + 3_600_000)
    part, files = backup(stage, stage.alpha)
    with stage.archive() as archive:
        new = archive.prepare(PlaceKind.NEW, stage.beta, stage.context)
        archive.restore(new, part, files, quiet)
        archive.replace(new, stage.context)
        assert archive.measure(archive.live(stage.beta, stage.context)) == part.measures
    with as_app(stage.project.tenant("beta")) as client:
        assert client.execute_command("GET", "beta:text" if stage.prefix else "text") == "hello"


def test_what_a_crash_has_left_is_found_and_used_again(stage: Stage) -> None:
    fill(stage, stage.alpha, int(time.time() * 1000) + 3_600_000)
    part, files = backup(stage, stage.alpha)
    with stage.archive() as archive:
        left = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
        archive.restore(left, part, files, quiet)  # and the process dies here
    with stage.archive() as archive:
        others = archive.prepare(PlaceKind.SCRATCH, stage.beta, stage.context)
        new = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
        assert len({left.name, others.name, new.name}) == 3
        assert {place.name for place in archive.leftovers(stage.alpha, stage.context)} == {left.name, new.name}
        assert not archive.is_empty(left)
        again = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
        assert again == left
        assert archive.is_empty(again)
        assert not archive.is_empty(archive.live(stage.alpha, stage.context))
        with pytest.raises(ValueError, match="live"):
            archive.discard(archive.live(stage.alpha, stage.context))
    with stage.project.connect() as session:  # removing the app takes its places along
        for _ in session.run(session.removal(stage.alpha, stage.context), stage.project.secrets):
            pass
        assert session.removal(stage.alpha, stage.context) == ()
    assert content(stage, stage.alpha, *of_app(stage, stage.alpha)) == {}
    gone = replace(stage.context, numbers={"beta": stage.context.numbers["beta"]})
    with stage.archive() as archive:  # a set of it can be proved still
        place = archive.prepare(PlaceKind.SCRATCH, stage.alpha, gone)
        archive.restore(place, part, files, quiet)
        assert archive.measure(place) == part.measures
        assert archive.is_empty(archive.live(stage.beta, gone))
        archive.discard(place)
    with as_admin(stage.real) as client:
        assert not any("alpha" in user for user in client.execute_command("ACL", "USERS"))


def test_a_damaged_file_is_refused(valkey: Stage) -> None:
    client = valkey.raw(valkey.alpha)
    for i in range(40):
        client.execute_command("SET", f"key{i}", f"value{i}" * 10, "PX", 10_000_000)
    part, files = backup(valkey, valkey.alpha)
    whole = files.content["keys.bin"]
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    damaged = [whole[:at] for at in (0, 5, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(8)))]
    for _ in range(40):
        at = chance.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
    damaged.append(whole + b"x")
    with valkey.archive() as archive:
        place = archive.prepare(PlaceKind.SCRATCH, valkey.alpha, valkey.context)
        for data in damaged:
            with pytest.raises(MultidbError):
                archive.restore(place, part, Files({"keys.bin": data}), quiet)
        archive.restore(place, part, files, quiet)  # the control


def test_keys_that_have_expired_stay_away_and_an_empty_place_is_a_set_too(valkey: Stage) -> None:
    empty, files = backup(valkey, valkey.alpha)
    assert empty.measures.counts == {}
    with valkey.archive() as archive:
        place = archive.prepare(PlaceKind.SCRATCH, valkey.alpha, valkey.context)
        archive.restore(place, empty, files, quiet)
        assert archive.is_empty(place)
        client = valkey.raw(valkey.alpha)
        client.execute_command("SET", "long", "x")
        client.execute_command("HSET", "fields", "stays", "x", "goes", "x")
        client.execute_command("HEXPIRE", "fields", 1000, "FIELDS", 1, "goes")
        client.execute_command("SET", "short", "x", "PX", 3000)
        part, files = backup(valkey, valkey.alpha)
        assert part.measures.counts == {"string keys": 1}
        assert part.details["expiring"] == 2
        while client.execute_command("EXISTS", "short"):
            time.sleep(0.05)
        said: list[str] = []
        archive.restore(place, part, files, lambda subject, message, done=None, total=None: said.append(message))
        assert "1 key has expired since; left out" in said
        assert set(content(valkey, valkey.alpha, *place_of(place))) == {b"long", b"fields"}
        with as_admin(valkey.real, place_of(place)[0]) as scratch:
            assert 0 < scratch.execute_command("HTTL", "fields", "FIELDS", 1, "goes")[0] <= 1000
        assert archive.measure(place) == part.measures


def test_writes_go_on_during_a_backup(valkey: Stage) -> None:
    """20,000 keys that stay are in the set, each once, while a writer makes the server's tables grow and shrink."""
    client = valkey.raw(valkey.alpha)
    for start in range(0, 20_000, 5_000):
        words = [word for i in range(start, start + 5_000) for word in (f"stays{i}".encode(), f"value{i}")]
        client.execute_command("MSET", *words)
    stop = threading.Event()

    def write() -> None:
        with valkey.raw(valkey.alpha) as other:
            for round_ in range(1_000):
                names = [f"passes{round_}-{i}".encode() for i in range(4_000)]
                other.execute_command("MSET", *(word for name in names for word in (name, "x")))
                other.execute_command("DEL", *names[: 4_000 - round_ % 3])
                if stop.wait(0.02):
                    return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        part, files = backup(valkey, valkey.alpha)
    finally:
        stop.set()
        writer.join()
    keys = [record.key for record in KeysReader(io.BytesIO(files.content["keys.bin"]))]
    assert len(keys) == len(set(keys)) == part.details["keys"]
    assert sum(key.startswith(b"stays") for key in keys) == 20_000
    with valkey.archive() as archive:
        place = archive.prepare(PlaceKind.SCRATCH, valkey.alpha, valkey.context)
        archive.restore(place, part, files, quiet)
        assert archive.measure(place) == part.measures


def test_a_server_without_memory_gives_a_set_and_loses_nothing_by_taking_one(valkey: Stage) -> None:
    for app in (valkey.alpha, valkey.beta):
        with valkey.raw(app) as client:
            client.execute_command("MSET", *(word for i in range(800) for word in (f"k{i}", random.randbytes(5_000))))
    part, files = backup(valkey, valkey.alpha)
    empty = Files({"keys.bin": files.content["keys.bin"][:12] + b"\0" * 9})
    empty.content["keys.bin"] += zlib.crc32(empty.content["keys.bin"]).to_bytes(4, "big")

    def limited(policy: str, more: int) -> None:
        with as_admin(valkey.real) as client:
            client.execute_command("CONFIG", "SET", "maxmemory-policy", policy)
            client.execute_command("CONFIG", "SET", "maxmemory", max(0, used_memory(client) + more))

    try:
        with valkey.archive() as archive:
            for policy, says in (
                ("noeviction", "no memory left"),
                ("allkeys-lru", "push out keys"),
                ("volatile-ttl", "push out keys"),
            ):
                place = archive.prepare(PlaceKind.NEW, valkey.alpha, valkey.context)
                limited(policy, 2_000_000)
                with pytest.raises(ServerError, match=says) as refused:
                    archive.restore(place, part, files, quiet)
                assert "maxmemory" in refused.value.hint
                archive.discard(place)
                assert archive.leftovers(valkey.alpha, valkey.context) == []
                for app in (valkey.alpha, valkey.beta):
                    with valkey.raw(app) as client:
                        assert client.execute_command("DBSIZE") == 800
                limited(policy, 50_000_000)
                archive.restore(archive.prepare(PlaceKind.NEW, valkey.alpha, valkey.context), part, files, quiet)
                archive.discard(place)
            limited("noeviction", -1_000_000)
            assert backup(valkey, valkey.alpha)[0].measures == part.measures
            place = archive.prepare(PlaceKind.NEW, valkey.alpha, valkey.context)  # which takes none
            with pytest.raises(ServerError, match="no memory left"):
                archive.restore(place, part, empty, quiet)
            archive.discard(place)
    finally:
        limited("noeviction", -1 << 62)


def test_a_server_that_has_no_flushdb_takes_sets_and_lets_apps_be_removed(tmp_path: Path) -> None:
    """Some charts and images come so. Each place that was made for a set, and each removal, ended with its refusal."""
    off = tuple(f'rename-command {command} ""' for command in ("FLUSHDB", "FLUSHALL"))
    with real_server(tmp_path, binary=valkey_binary, settings=off) as real:
        stage = Stage(real, {})
        assert stage.project.in_sync("alpha", "beta")
        with stage.raw(stage.alpha) as raw, stage.raw(stage.beta) as other:
            raw.execute_command("MSET", *(word for i in range(3_000) for word in (f"k{i}", i)))
            other.execute_command("SET", "a", "1")
            part, files = backup(stage, stage.alpha)
            raw.execute_command("MSET", "since", "1", "k7", "other")
            with stage.archive() as archive:
                new = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
                archive.restore(new, part, files, quiet)
                archive.replace(new, stage.context)
                assert archive.measure(archive.live(stage.alpha, stage.context)) == part.measures
                assert archive.leftovers(stage.alpha, stage.context) == []
            assert raw.execute_command("INFO", "keyspace").count(b":keys=") == 2
            with stage.project.connect() as session:
                removal = session.removal(stage.alpha, replace(stage.context, facts=session.facts))
                assert len(list(session.run(removal, stage.project.secrets))) == len(removal)
            assert (raw.execute_command("DBSIZE"), other.execute_command("DBSIZE")) == (0, 1)


def test_a_server_without_config_gives_a_set(tmp_path: Path) -> None:
    """It has no file that its users could be kept in, and does not tell how long a word may be."""
    off = ('rename-command CONFIG ""',)
    with real_server(tmp_path, binary=valkey_binary, settings=off, keep_users="none") as real:
        stage = Stage(real, {})
        assert stage.project.in_sync("alpha", "beta")
        with as_app(stage.project.tenant("alpha")) as client:
            client.execute_command("MSET", *(word for i in range(100) for word in (f"k{i}", i)))
        part, _ = backup(stage, stage.alpha)
        assert sum(part.measures.counts.values()) == 100, part.measures


def test_a_key_that_is_gone_between_the_two_questions_about_it_is_not_kept_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has an expiry, such as a lock, must not come back without one."""
    raw, own = stage.raw(stage.alpha), stage.prefix.encode()
    for name in (b"lock", b"other"):
        raw.execute_command("SET", own + name, "held", "PX", 60_000)
    raw.execute_command("CONFIG", "RESETSTAT")

    class Halting(BatchConnection):
        """What follows the first value that is asked for is sent once another client has removed its key."""

        def send(self, commands: Iterable[Sequence[Any]]) -> None:
            for words in commands:
                super().send([words])
                if words[0] == "DUMP" and raw.execute_command("EXISTS", own + b"lock") and words[1] == own + b"lock":
                    while b"cmdstat_dump" not in raw.execute_command("INFO", "commandstats"):
                        pass
                    raw.execute_command("DEL", own + b"lock")

    monkeypatch.setattr("multidb.provisioners.redis.backup.keys.BatchConnection", Halting)
    part, files = backup(stage, stage.alpha)
    assert (part.measures.counts, part.details["expiring"]) == ({}, 1)
    assert [record.key for record in KeysReader(io.BytesIO(files.content["keys.bin"]))] == [b"other"]


PREFIXED = ("redis-7", {"isolation": "prefix"})


def test_a_key_that_expires_while_prefixes_are_exchanged_is_gone_and_nothing_else(
    redis_servers: dict[str, RealServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_stage(redis_servers, *PREFIXED) as stage:
        raw = stage.raw(stage.alpha)
        raw.execute_command("MSET", *(word for i in range(50) for word in (f"alpha:k{i}", i)))
        raw.execute_command("SET", "alpha:session", "x", "PX", 1500)
        part, files = backup(stage, stage.alpha)
        raw.execute_command("MSET", "alpha:k7", "other", "alpha:since", "x")

        class Late(BatchConnection):
            def ask(self, *words: Any) -> Any:
                if words == ("EXEC",):
                    while raw.execute_command("EXISTS", "alpha:session", new.name[5:-1] + "session"):
                        time.sleep(0.02)
                return super().ask(*words)

        monkeypatch.setattr("multidb.provisioners.redis.backup.keys.BatchConnection", Late)
        with stage.archive() as archive:
            new = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
            archive.restore(new, part, files, quiet)
            assert raw.execute_command("EXISTS", new.name[5:-1] + "session")
            archive.replace(new, stage.context)
            assert archive.leftovers(stage.alpha, stage.context) == []
            assert archive.measure(archive.live(stage.alpha, stage.context)) == part.measures
        assert raw.execute_command("DBSIZE") == 50


def test_an_exchange_of_prefixes_pushes_nobodys_keys_out(redis_servers: dict[str, RealServer]) -> None:
    """What is queued on the server for it takes memory, too."""
    with on_stage(redis_servers, *PREFIXED) as stage:
        raw = stage.raw(stage.alpha)
        raw.execute_command("MSET", *(word for i in range(20_000) for word in (f"alpha:k{i}", i)))
        part, files = backup(stage, stage.alpha)
        with stage.archive() as archive:
            new = archive.prepare(PlaceKind.NEW, stage.alpha, stage.context)
            archive.restore(new, part, files, quiet)
            used = used_memory(raw)
            raw.execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            raw.execute_command("CONFIG", "SET", "maxmemory", used + 3_000_000)
            try:
                with pytest.raises(ArchiveError, match="push out keys"):
                    archive.replace(new, stage.context)
                assert b"evicted_keys:0\r" in raw.execute_command("INFO", "stats")
                assert raw.execute_command("DBSIZE") == 40_000
                with as_app(stage.project.tenant("alpha")) as client:  # who is let in again
                    assert client.execute_command("GET", "alpha:k7") == "7"
                raw.execute_command("CONFIG", "SET", "maxmemory", used + 30_000_000)
                archive.replace(new, stage.context)
            finally:
                raw.execute_command("CONFIG", "SET", "maxmemory", 0)
                raw.execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
            assert archive.measure(archive.live(stage.alpha, stage.context)) == part.measures


def test_another_version_takes_the_set_or_refuses_it_before_it_loads_anything(
    redis_servers: dict[str, RealServer], valkey: Stage
) -> None:
    with on_stage(redis_servers, "redis-7", {}) as older:
        later = int(time.time() * 1000) + 3_600_000
        fill(valkey, valkey.alpha, later)
        fill(older, older.alpha, later)
        from_older, older_files = backup(older, older.alpha)
        from_newer, newer_files = backup(valkey, valkey.alpha)
        with older.archive() as archive:
            place = archive.prepare(PlaceKind.SCRATCH, older.alpha, older.context)
            with pytest.raises(WrongVersion, match=r"Valkey 9.*Redis 7.* is too old"):
                archive.restore(place, from_newer, newer_files, quiet)
            assert archive.is_empty(place)
        with valkey.archive() as archive:
            place = archive.prepare(PlaceKind.SCRATCH, valkey.alpha, valkey.context)
            archive.restore(place, from_older, older_files, quiet)
            found = archive.measure(place)
            assert found.counts == from_older.measures.counts
            both = set(found.fingerprints) & set(from_older.measures.fingerprints)
            assert both == {"string keys"}
            assert found.fingerprints["string keys"] == from_older.measures.fingerprints["string keys"]


def test_hash_fields_that_expire_come_back_with_their_ends(stage: Stage) -> None:
    """Redis 7.4 and later, Valkey 9: each field has an end of its own, which DUMP carries."""
    if "hpexpireat" not in stage.context.facts.commands:
        pytest.skip("the server's hash fields do not expire")
    raw, own = stage.raw(stage.alpha), stage.prefix.encode()
    later = round(time.time() * 1000) + 3_600_000
    for name, fields in ((b"few", 5), (b"many", 900)):
        raw.execute_command("HSET", own + name, *(word for i in range(fields) for word in (f"f{i}", f"v{i}")))
        raw.execute_command("HPEXPIREAT", own + name, later, "FIELDS", 2, "f1", "f3")
    raw.execute_command("HSET", own + b"plain", "a", 1)
    part, files = backup(stage, stage.alpha)
    assert (part.details["keys"], part.details["expiring"]) == (3, 2)
    with stage.archive() as archive:
        place = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
        archive.restore(place, part, files, quiet)
        assert archive.measure(place) == part.measures
        with stage.raw(stage.alpha) as client:
            client.execute_command("SELECT", int(place.name.removeprefix("DB ")))
            for name, fields in ((b"few", 5), (b"many", 900)):
                ends = client.execute_command("HPEXPIRETIME", name, "FIELDS", 3, "f1", "f2", "f3")
                assert ends == [later, -1, later]
                assert client.execute_command("HLEN", name) == fields
        archive.discard(place)
