"""An app's keys on a Redis or Valkey server: filled, told, and sets of them kept in memory."""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from multidb.model import App, Part, Place
from tests.contract.redis_stage import Stage

READS: dict[bytes, Callable[[bytes], tuple[Any, ...]]] = {
    b"string": lambda key: ("GET", key),
    b"hash": lambda key: ("HGETALL", key),
    b"list": lambda key: ("LRANGE", key, 0, -1),
    b"set": lambda key: ("SMEMBERS", key),
    b"zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
    b"stream": lambda key: ("XINFO", "STREAM", key, "FULL", "COUNT", 0),
}
"""By type, the command that tells a value."""


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    pass


@dataclass
class Files:
    """A set in memory: writer and reader in one."""

    content: dict[str, bytes] = field(default_factory=dict)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        buffer = io.BytesIO()
        yield buffer
        self.content[name] = buffer.getvalue()

    def names(self) -> Sequence[str]:
        return list(self.content)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.content[name])


class Writer:
    def __init__(self, files: Files) -> None:
        self._files = files

    def file(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return self._files.writing(name)


def backup(stage: Stage, app: App) -> tuple[Part, Files]:
    files = Files()
    with stage.archive() as archive:
        return archive.backup(app, stage.context, Writer(files), quiet), files


def used_memory(client: Any) -> int:
    """Bytes that the server uses, once nothing of what was removed is still being freed in the background."""
    deadline = time.monotonic() + 60
    while True:
        info = client.execute_command("INFO", "memory")
        text = info.decode() if isinstance(info, bytes) else info
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if fields["lazyfree_pending_objects"] == "0":
            return int(fields["used_memory"])
        assert time.monotonic() < deadline, fields
        time.sleep(0.01)


def fill(stage: Stage, app: App, later: int) -> None:
    """Every type in its small and its large encoding, odd keys, expiries, a stream with a group at work."""
    client = stage.raw(app)
    prefix = f"{app.id}:".encode() if stage.prefix else b""

    def say(*words: Any) -> Any:
        return client.execute_command(words[0], prefix + words[1], *words[2:])

    say("SET", b"text", "hello")
    say("SET", b"number", 12345)
    say("SET", b"", "the key without a name")
    say("SET", b"\x00\xff\xfe\r\n *?[a]\\", bytes(range(256)))
    say("SET", b"large", random.Random(1).randbytes(3_000_000))
    say("SETBIT", b"bits", 10_000, 1)
    say("HSET", b"hash", "a", 1, "b", 2.5)
    say("HSET", b"hash of many", *(word for i in range(700) for word in (f"field{i}", f"value{i}" * (i % 9))))
    say("RPUSH", b"list", *range(5))
    say("RPUSH", b"list of many", *(f"item{i}" * 20 for i in range(900)))
    say("SADD", b"set of numbers", *range(20))
    say("SADD", b"set", "a", "b", "c")
    say("SADD", b"set of many", *range(10**6, 10**6 + 700), *(f"member{i}" * 5 for i in range(700)))
    say("ZADD", b"scores", 1, "a", 2.5, "b", "-inf", "c")
    say("ZADD", b"scores of many", *(word for i in range(700) for word in (i / 3, f"m{i}")))
    say("PFADD", b"unique", *range(2000))
    say("GEOADD", b"places", 13.4, 52.5, "Berlin")
    for i in range(250):
        say("XADD", b"stream", f"{i + 1}-0", "field", i)
    say("XDEL", b"stream", "17-0")
    client.execute_command("XGROUP", "CREATE", prefix + b"stream", "workers", "0")
    client.execute_command("XREADGROUP", "GROUP", "workers", "one", "COUNT", 7, "STREAMS", prefix + b"stream", ">")
    say("XACK", b"stream", "workers", "3-0")
    say("SET", b"expires", "soon", "PXAT", later)
    say("HSET", b"expires too", "a", 1)
    say("PEXPIREAT", b"expires too", later + 1)


def content(stage: Stage, app: App, number: int, prefix: bytes) -> dict[bytes, tuple[bytes, int]]:
    """Every key under a prefix in a DB, with what it holds in its type's own terms, and its expiry."""
    found: dict[bytes, tuple[bytes, int]] = {}
    with stage.raw(app) as client, client.pipeline() as pipeline:
        pipeline.response_callbacks.clear()
        pipeline.execute_command("SELECT", number)
        pipeline.execute_command("KEYS", prefix.replace(b"\\", b"\\\\") + b"*")
        _, keys = pipeline.execute()
        for key in sorted(keys):
            pipeline.execute_command("SELECT", number)
            pipeline.execute_command("TYPE", key)
            kind = pipeline.execute()[1]
            if kind == b"none":  # it has expired meanwhile
                continue
            pipeline.execute_command("SELECT", number)
            pipeline.execute_command(*READS[kind](key))
            pipeline.execute_command("PEXPIRETIME", key)
            _, value, expiry = pipeline.execute()
            if kind == b"set":
                value = sorted(value)
            if kind == b"hash":
                value = sorted(zip(value[::2], value[1::2], strict=True))
            found[key.removeprefix(prefix)] = (repr((kind, _timeless(value))).encode(), expiry)
    return found


def _timeless(value: Any) -> Any:
    """A stream's description without what a restore need not keep: how its nodes lie in memory, when a consumer was
    seen."""
    if isinstance(value, list):
        skip = {b"radix-tree-keys", b"radix-tree-nodes", b"seen-time", b"active-time"}
        pairs = [i for i, item in enumerate(value) if isinstance(item, bytes) and item in skip]
        gone = {*pairs, *(i + 1 for i in pairs)}
        return [_timeless(item) for i, item in enumerate(value) if i not in gone]
    return value


def place_of(place: Place) -> tuple[int, bytes]:
    if place.name.startswith("DB "):
        return int(place.name[3:]), b""
    return 0, place.name.removeprefix("keys ").removesuffix("*").encode()
