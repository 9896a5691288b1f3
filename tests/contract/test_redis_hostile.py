"""Redis and Valkey with an app, or a set, that means harm: what multidb reads of it, and what it may hold up."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from multidb.backup.places import differences
from multidb.errors import ArchiveError, Locked, MultidbError, NotAllowed, Refused, ServerDown, ServerError, ServerSlow
from multidb.model import Inspection, PlaceKind
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.backup.keys_file import NEVER, KeysReader, KeysWriter, Record
from multidb.provisioners.redis.driver.connection import NoConnectionLeft
from multidb.provisioners.redis.provision.numbers import lock_number
from multidb.provisioners.redis.provision.resources import RedisFacts
from tests.contract.case_redis import ADMIN, as_admin, as_app, real_server, redis_binary, valkey_binary
from tests.contract.redis_project import Project
from tests.contract.redis_sets import Files, backup, place_of, quiet
from tests.contract.redis_stage import Stage, on_stage, redis_servers, stage, valkey  # noqa: F401

pytestmark = pytest.mark.server

HOSTILE_NAMES = (b"\x1b[2J\x1b]0;x\x07", b"a\r\n+OK\r\n$3\r\nfoo\r\n", b"\xff\xfe\x00", b"*?[a]\\", b"x" * 300_000, b"")


# --- one app holds up the server -------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary], ids=["valkey-9", "redis-7"])
def test_a_script_that_has_written_can_be_ended_by_nobody(tmp_path: Path, binary: Any) -> None:
    """Why scripts are an option (decision 22). A server on which this fails has found a limit."""
    with real_server(tmp_path, binary=binary, settings=("busy-reply-threshold 100",)) as real:
        project = Project(real, scripts=True)
        project.apply("alpha")
        loop = "redis.call('SET', KEYS[1], '1') while true do end"

        def hold() -> None:
            with contextlib.suppress(redis.RedisError), as_app(project.tenant("alpha")) as client:
                client.execute_command("EVAL", loop, "1", "alpha:x")

        thread = threading.Thread(target=hold, daemon=True)
        with as_admin(real) as admin:
            admin.execute_command("PING")
            thread.start()
            with pytest.raises(ServerSlow, match="a script keeps the server from serving anybody") as caught:
                deque((project.connect().__exit__() for _ in itertools.count()), maxlen=0)
            assert "SHUTDOWN NOSAVE" in (caught.value.hint or "")
            for words in (("SCRIPT", "KILL"), ("FUNCTION", "KILL"), ("CLIENT", "KILL", "USER", "alpha_user")):
                with pytest.raises(redis.ResponseError, match=r"^(UNKILLABLE|BUSY)"):
                    admin.execute_command(*words)
        assert real.restart is not None
        real.restart()
        project.options = {}
        assert not project.in_sync("alpha")
        project.apply("alpha")
        with as_app(project.tenant("alpha")) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command("EVAL", loop, "1", "alpha:x")


@contextlib.contextmanager
def every_connection(stage: Stage, app: str, most: int) -> Iterator[tuple[list[redis.Redis], threading.Event]]:
    """An app that holds all connections that the server still has, and takes each one that it loses, until told."""
    stop = threading.Event()
    held: list[redis.Redis] = []
    url = stage.project.tenant(app).env["REDIS_URL"]

    def take() -> bool:
        try:
            client = redis.Redis.from_url(url, single_connection_client=True, retry=Retry(NoBackoff(), 0))
            client.execute_command("PING")
        except redis.RedisError:
            return False
        held.append(client)
        return True

    def again() -> None:
        while not stop.wait(0.02):
            take()

    with as_admin(stage.real) as admin:
        admin.execute_command("CONFIG", "SET", "maxclients", most)
        while take():
            pass
        thread = threading.Thread(target=again, daemon=True)
        thread.start()
        try:
            yield held, stop
        finally:
            stop.set()
            thread.join()
            for client in held:
                client.close()
            admin.execute_command("CONFIG", "SET", "maxclients", 10_000)


def test_an_app_that_takes_all_connections_stops_no_apply_and_no_suspension(stage: Stage) -> None:
    with stage.project.connect() as session, as_app(stage.project.tenant("beta")) as other:
        other.execute_command("PING")
        with every_connection(stage, "alpha", 40):
            with session.lock("realtest", "multidb apply by me@here"):
                context = replace(stage.context, facts=session.facts, read_only=frozenset({"beta"}))
                apps = [stage.alpha, stage.beta]
                desired = PROVISIONER.desired(apps, context)
                live = session.inspect(Inspection(context, apps, desired, stage.project.secrets))
                assert [one.name for one in live if one.name == "beta_user"]
            statements = session.suspension(stage.alpha, context)
            assert len(list(session.run(statements, stage.project.secrets))) == len(statements) > 0
            other.execute_command("PING")  # what it cost, it cost alpha
            with stage.project.connect() as later:  # and there is room again
                assert later.suspension(stage.alpha, context) == ()
        other.execute_command("PING")


@contextlib.contextmanager
def writes_refused(admin: redis.Redis, why: str) -> Iterator[None]:
    """A server that takes no writes: no memory is left, its replicas are gone, its last save has failed."""
    if why == "MISCONF":
        folder, name = (admin.execute_command("CONFIG", "GET", key)[1] for key in ("dir", "dbfilename"))
        in_the_way = Path(folder) / name / "folder"
        in_the_way.parent.unlink(missing_ok=True)
        in_the_way.mkdir(parents=True)
    settings = {"OOM": ("maxmemory", "1"), "NOREPLICAS": ("min-replicas-to-write", "1"), "MISCONF": ("save", "900 1")}
    setting, value = settings[why]
    former = admin.execute_command("CONFIG", "GET", setting)[1]
    admin.execute_command("CONFIG", "SET", setting, value)
    try:
        if why == "MISCONF":
            admin.execute_command("BGSAVE")
            until = time.monotonic() + 30
            while "rdb_last_bgsave_status:err" not in admin.execute_command("INFO", "persistence"):
                assert time.monotonic() < until
                time.sleep(0.05)
        yield
    finally:
        admin.execute_command("CONFIG", "SET", setting, former)
        if why == "MISCONF":
            in_the_way.rmdir()
            in_the_way.parent.rmdir()
            admin.execute_command("SAVE")


@pytest.fixture
def renewed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a holder that is there sees it soon."""
    monkeypatch.setattr("multidb.provisioners.redis.provision.lock.RENEWAL_INTERVAL", 0.05)


@pytest.mark.usefixtures("renewed_often")
@pytest.mark.parametrize("why", ["OOM", "NOREPLICAS", "MISCONF"])
def test_a_server_that_takes_no_writes_has_a_lock_and_turns_an_app_off(stage: Stage, why: str) -> None:
    with stage.project.connect() as session, stage.project.connect() as second, as_admin(stage.real) as admin:
        with writes_refused(admin, why):
            with as_app(stage.project.tenant("alpha")) as client, pytest.raises(redis.ResponseError):
                client.set("alpha:more", "1")
            with session.lock("realtest", "multidb apply by me@here"):
                with pytest.raises(Locked, match="me@here"), second.lock("realtest", "another"):
                    pass
                context = replace(stage.context, facts=session.facts)
                for end in (session.suspension, session.removal) if why == "OOM" else (session.suspension,):
                    statements = end(stage.alpha, context)
                    assert len(list(session.run(statements, stage.project.secrets))) == len(statements) > 0
            assert not stage.project.in_sync("alpha")
            stage.project.apply("alpha")
        assert stage.project.in_sync("alpha")
        assert admin.execute_command("PUBSUB", "CHANNELS", "__multidb__*") == []


@pytest.mark.parametrize("why", ["NOREPLICAS", "MISCONF"])
def test_a_restore_says_why_a_server_takes_no_writes(valkey: Stage, why: str) -> None:
    valkey.raw(valkey.alpha).execute_command("SET", "a", "1")
    part, files = backup(valkey, valkey.alpha)
    with valkey.archive() as archive, as_admin(valkey.real) as admin:
        place = archive.prepare(PlaceKind.NEW, valkey.alpha, valkey.context)
        with writes_refused(admin, why), pytest.raises(ServerError, match="refuses writes") as refused:
            archive.restore(place, part, files, quiet)
        assert "BGSAVE" in refused.value.hint if why == "MISCONF" else "replicas" in refused.value.hint
        archive.restore(place, part, files, quiet)
        archive.discard(place)


@pytest.mark.parametrize("why", ["OOM", "NOREPLICAS", "MISCONF"])
def test_a_set_of_a_server_that_takes_no_writes_comes_back(valkey: Stage, why: str) -> None:
    """A hash that was large once has another shape when it is restored, and only a server that writes tells which: the
    set was one of another content for ever."""
    with valkey.raw(valkey.alpha) as raw:
        raw.execute_command("HSET", "hash", *(word for i in range(600) for word in (f"field {i}", i)))
        raw.execute_command("HDEL", "hash", *(f"field {i}" for i in range(590)))
        raw.execute_command("SET", "text", "1")
        with as_admin(valkey.real) as admin, writes_refused(admin, why):
            part, files = backup(valkey, valkey.alpha)
        with valkey.archive() as archive:
            place = archive.prepare(PlaceKind.SCRATCH, valkey.alpha, valkey.context)
            archive.restore(place, part, files, quiet)
            assert list(differences(part.measures, archive.measure(place))) == []
            raw.execute_command("SELECT", place_of(place)[0])
            raw.execute_command("SET", "text", "2")
            assert list(differences(part.measures, archive.measure(place))) == ["string keys: another content"]
            archive.discard(place)


def test_a_restore_names_what_its_admin_may_not(valkey: Stage) -> None:
    """Also where the commands go in batches."""
    valkey.raw(valkey.alpha).execute_command("SET", "a", "1")
    part, files = backup(valkey, valkey.alpha)
    with valkey.archive() as archive, as_admin(valkey.real) as client:
        place = archive.prepare(PlaceKind.NEW, valkey.alpha, valkey.context)
        for command, act in (
            ("restore", lambda: archive.restore(place, part, files, quiet)),
            ("dump", lambda: backup(valkey, valkey.alpha)),
            ("swapdb", lambda: archive.replace(place, valkey.context)),
        ):
            client.execute_command("ACL", "SETUSER", ADMIN, f"-{command}")
            try:
                with pytest.raises(NotAllowed, match=command) as refused:
                    act()
            finally:
                client.execute_command("ACL", "SETUSER", ADMIN, "+@all")
            assert command.upper() in refused.value.hint
            act()


def test_a_server_that_cuts_off_an_answer_is_not_said_to_be_down(stage: Stage) -> None:
    raw = stage.raw(stage.alpha)
    for i in range(5):
        raw.execute_command("SET", f"{stage.prefix}big{i}", random.randbytes(900_000))
    former = raw.execute_command("CONFIG", "GET", "client-output-buffer-limit")[1]
    raw.execute_command("CONFIG", "SET", "client-output-buffer-limit", "normal 200000 0 0")
    try:
        with pytest.raises(ServerDown, match="ended the connection") as cut:
            backup(stage, stage.alpha)
        assert "client-output-buffer-limit" in cut.value.hint
    finally:
        raw.execute_command("CONFIG", "SET", "client-output-buffer-limit", former)
    backup(stage, stage.alpha)


@pytest.mark.usefixtures("renewed_often")
def test_who_locks_by_a_key_and_who_locks_by_a_channel_keep_each_other_out(valkey: Stage) -> None:
    number = lock_number(RedisFacts.of(valkey.context.facts))
    with valkey.project.connect() as session, as_admin(valkey.real, number) as admin:

        def refused(holder: str) -> None:
            with pytest.raises(Locked, match=holder), session.lock("realtest", "another"):
                pass

        with contextlib.ExitStack() as stack, valkey.project.connect() as first:
            with writes_refused(admin, "NOREPLICAS"):
                stack.enter_context(first.lock("realtest", "multidb apply by me@here"))
            refused("me@here")
            assert not admin.execute_command("EXISTS", "__multidb__:lock")
        holder = {"project": "realtest", "holder": "who@there", "since": "now", "client": admin.client_id()}
        admin.execute_command("SET", "__multidb__:lock", json.dumps(holder))  # as if renewed without end
        with writes_refused(admin, "NOREPLICAS"):
            refused("who@there")
            assert admin.execute_command("PUBSUB", "CHANNELS", "__multidb__*") == []
        admin.execute_command("DEL", "__multidb__:lock")


@pytest.mark.usefixtures("renewed_often")
def test_a_lock_by_a_channel_is_lost_with_its_connection(valkey: Stage) -> None:
    with (
        valkey.project.connect() as session,
        valkey.project.connect() as second,
        as_admin(valkey.real) as admin,
        writes_refused(admin, "NOREPLICAS"),
        session.lock("realtest", "multidb apply by me@here"),
    ):
        statements = session.suspension(valkey.alpha, replace(valkey.context, facts=session.facts))
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        with second.lock("realtest", "another"):
            time.sleep(0.5)
        with pytest.raises(MultidbError, match="lock was lost"):
            list(session.run(statements, valkey.project.secrets))


def test_who_comes_while_all_connections_are_taken_waits_for_one(valkey: Stage) -> None:
    with every_connection(valkey, "alpha", 30) as (held, stop):
        with pytest.raises(NoConnectionLeft, match="no connection left") as caught:
            valkey.project.connect(timeout=2)
        assert "restart it: multidb restart redis" in (caught.value.hint or "")
        stop.set()
        threading.Timer(0.3, held[0].close).start()
        with valkey.project.connect(timeout=10) as session:
            assert session.facts.product == "Valkey"


@pytest.mark.parametrize(
    "value", ["[" * 100_000, '{"client": "x"}', '{"client": ' + "9" * 5000 + "}", "x" * 10_000_000]
)
def test_no_app_can_take_the_lock_of_an_apply(stage: Stage, value: str) -> None:
    """It is tried in every DB that the app gets into; DB 0 is open to all apps where there are no database rules."""
    for number in (0, stage.context.numbers["alpha"], lock_number(stage.context.facts)):
        with contextlib.suppress(redis.RedisError), as_app(stage.project.tenant("alpha"), db=number) as client:
            client.execute_command("SET", "__multidb__:lock", value)
    with stage.project.connect() as session, session.lock("realtest", "x"):
        pass


def test_a_lock_that_says_nonsense_is_waited_for_and_told_in_short(valkey: Stage) -> None:
    with as_admin(valkey.real) as client:
        client.execute_command("SET", "__multidb__:lock", "[" * 1_000_000 + "\x1b[2J\n")
    with valkey.project.connect() as session, pytest.raises(MultidbError, match="does not say who it is"):
        session.lock("realtest", "x").__enter__()


# --- names and values ------------------------------------------------------------------------------------------------


def test_names_that_an_app_gives_are_data(stage: Stage) -> None:
    """Keys, connections, consumers, list items: read by usage, search, suspension and removal."""
    own = stage.prefix.encode()
    with as_app(stage.project.tenant("alpha")) as client:
        for name in ("user=default", "db=0", "id=1", "name=a,b", "\x1b", 'x"y', "\xff"):
            with contextlib.suppress(redis.ResponseError):
                client.execute_command("CLIENT", "SETNAME", name)
            with contextlib.suppress(redis.ResponseError):
                client.execute_command("CLIENT", "SETINFO", "LIB-NAME", name)
        for name in HOSTILE_NAMES:
            client.execute_command("SET", own + name, name)
            client.execute_command("XADD", own + b"stream", "*", name or b"-", name)
        client.execute_command("XGROUP", "CREATE", own + b"stream", b"\x1b[2J\r\n", "0")
        client.execute_command("XREADGROUP", "GROUP", b"\x1b[2J\r\n", b"c\r\n+OK", "STREAMS", own + b"stream", ">")
        with stage.project.connect() as session:
            used = session.usage(stage.context, [stage.alpha, stage.beta])
            assert used.apps["alpha"].connections == 1
            assert used.apps["alpha"].counts["keys"] == len(HOSTILE_NAMES) + 1
            apps = (stage.alpha, stage.beta)
            desired = PROVISIONER.desired(apps, stage.context)
            assert session.search(Inspection(stage.context, apps, desired, stage.project.secrets)).holes == ()
            part, files = backup(stage, stage.alpha)
            assert part.details["keys"] == len(HOSTILE_NAMES) + 1
            with stage.archive() as archive:
                place = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
                archive.restore(place, part, files, quiet)
                assert archive.measure(place) == part.measures
                archive.discard(place)
            list(session.run(session.removal(stage.alpha, stage.context), stage.project.secrets))
    assert stage.raw(stage.alpha).execute_command("DBSIZE") == 0


def test_a_name_too_long_to_hold_a_hundred_of_is_asked_for_once(valkey: Stage) -> None:
    raw = valkey.raw(valkey.alpha)
    raw.execute_command("SET", b"x" * 20_000_000, "1")
    raw.execute_command("CONFIG", "RESETSTAT")
    with valkey.project.connect() as session:
        assert session.usage(valkey.context, [valkey.alpha]).apps["alpha"].counts["keys"] == 1
    assert b"cmdstat_randomkey:calls=1," in raw.execute_command("INFO", "commandstats")


def test_a_value_that_no_server_takes_back_is_named(stage: Stage) -> None:
    """A list is stored in pieces, and dumped in one: what is longer than the server reads can't be restored."""
    raw, own = stage.raw(stage.alpha), stage.prefix.encode()
    noise = random.Random(1)
    for _ in range(60):
        raw.execute_command("RPUSH", own + b"large\x1b", noise.randbytes(100_000))
    raw.execute_command("CONFIG", "SET", "proto-max-bulk-len", 1 << 20)
    try:
        with pytest.raises(
            ArchiveError, match=r'value of key "(alpha:)?large\\x1b" is an answer of more than'
        ) as caught:
            backup(stage, stage.alpha)
        assert "proto-max-bulk-len" in (caught.value.hint or "")
    finally:
        raw.execute_command("CONFIG", "SET", "proto-max-bulk-len", 512 << 20)
    part, _ = backup(stage, stage.alpha)
    assert part.details["keys"] == 1


def test_an_app_that_writes_all_the_time_keeps_no_backup_from_ending(stage: Stage) -> None:
    stop, own = threading.Event(), stage.prefix
    written = [0]

    def write() -> None:
        with as_app(stage.project.tenant("alpha")) as client:
            while not stop.is_set():
                words = [word for _ in range(500) for word in (f"{own}{random.random()}", "x")]
                client.execute_command("MSET", *words)
                written[0] += 500

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        while written[0] < 20_000:
            stop.wait(0.01)
        part, _ = backup(stage, stage.alpha)
    finally:
        stop.set()
        thread.join()
    assert int(str(part.details["keys"])) > 1000


# --- sets ------------------------------------------------------------------------------------------------------------

_TABLE = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x95AC9329AC4BC9B5 if _value & 1 else 0)
    _TABLE[_byte] = _value


def signed(body: bytes) -> bytes:
    """A payload as RESTORE takes it: with the CRC-64 that whoever alters one computes anew."""
    crc = 0
    for byte in body:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return body + struct.pack("<Q", crc)


def test_a_set_whose_values_were_altered_crashes_no_server(stage: Stage) -> None:
    """Values with a right checksum and a wrong inside: a Redis that does not look through them falls (7.0, 8.2)."""
    raw, own = stage.raw(stage.alpha), stage.prefix.encode()
    raw.execute_command("HSET", own + b"hash", *(word for i in range(20) for word in (f"field{i}", "v" * 10)))
    raw.execute_command("ZADD", own + b"scores", *(word for i in range(20) for word in (i, f"member{i}")))
    raw.execute_command("XADD", own + b"stream", "1-1", "field", "value")
    part, files = backup(stage, stage.alpha)
    records = list(KeysReader(io.BytesIO(files.content["keys.bin"])))
    noise, refused = random.Random(1), 0
    for _ in range(60):
        out = io.BytesIO()
        writer = KeysWriter(out, int(str(part.details["rdb"])))
        for record in records:
            body = bytearray(record.payload[:-8])
            for _ in range(3):
                body[noise.randrange(3, len(body) - 2)] = noise.randrange(256)
            writer.write(Record(record.key, signed(bytes(body)), NEVER))
        writer.close()
        with stage.archive() as archive:
            place = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
            try:
                archive.restore(place, part, Files({"keys.bin": out.getvalue()}), quiet)
                archive.measure(place)
            except MultidbError:
                refused += 1
            archive.discard(place)
    assert refused > 50
    assert raw.execute_command("PING") == b"PONG"


def test_an_admin_whose_values_are_not_looked_through_loads_none(redis_servers: Any) -> None:
    with on_stage(redis_servers, "redis-7", {}) as stage:
        part, files = backup(stage, stage.alpha)
        with as_admin(stage.real) as client:
            client.execute_command("ACL", "SETUSER", "multidb", "skip-sanitize-payload")
        try:
            with stage.archive() as archive:
                place = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
                with pytest.raises(Refused, match="looks through no value") as caught:
                    archive.restore(place, part, files, quiet)
                archive.discard(place)
        finally:
            assert caught.value.hint is not None
            with as_admin(stage.real) as client:
                client.execute_command(*caught.value.hint.split())


def test_a_set_that_lies_about_lengths_is_refused(valkey: Stage) -> None:
    """Before so much is read."""
    for key, value in ((2**32 - 1, 1), (1, 2**62), (1, (512 << 20) + 1)):
        head = struct.pack(">8sHH", b"MDBREDIS", 1, 11) + struct.pack(">BqIQ", 1, -1, key, value)
        part, _ = backup(valkey, valkey.alpha)
        with valkey.archive() as archive:
            place = archive.prepare(PlaceKind.SCRATCH, valkey.alpha, valkey.context)
            with pytest.raises(ArchiveError, match="key or value of"):
                archive.restore(place, part, Files({"keys.bin": head + b"\0" * 1000}), quiet)
            archive.discard(place)
