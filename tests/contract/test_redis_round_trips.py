"""Whatever keys an app has come back: an inventory in each type's own terms before a set, and after it was tried out,
loaded for another app, and put in the place of what is there."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest
import redis

from multidb.model import App, PlaceKind
from tests.contract import redis_grammar
from tests.contract.redis_sets import backup, quiet
from tests.contract.redis_stage import Stage, on_stage, redis_servers, stage  # noqa: F401
from tests.support.case import RealServer

pytestmark = pytest.mark.server

SEEDS = [1, 2, *(pytest.param(seed, marks=pytest.mark.rare) for seed in range(3, 30))]
KEYS = 60
_LAYOUT = (b"radix-tree-keys", b"radix-tree-nodes")


def prefix_of(stage: Stage, app: App) -> bytes:
    return f"{app.id}:".encode() if stage.prefix else b""


def fill(stage: Stage, random: Random) -> None:
    known, now = stage.context.facts.commands.names, round(time.time() * 1000)
    with stage.raw(stage.alpha) as client, client.pipeline(transaction=False) as pipeline:
        for number in range(KEYS):
            key = prefix_of(stage, stage.alpha) + redis_grammar.name(random, number)
            for words in redis_grammar.commands(random, key, now, known):
                pipeline.execute_command(*words)
        answers = pipeline.execute(raise_on_error=False)
    assert not [answer for answer in answers if isinstance(answer, Exception) and "no such key" not in str(answer)]


def inventory(stage: Stage, app: App) -> dict[bytes, Any]:
    """Every key that an app has: its type, its expiry, and what the commands of its type tell of it."""
    begin = prefix_of(stage, app)
    with stage.raw(app) as client:
        keys = client.execute_command("KEYS", begin + b"*")
        return {
            key.removeprefix(begin): (read(client, key, stage), client.execute_command("PEXPIRETIME", key))
            for key in keys
        }


def read(client: redis.Redis, key: bytes, stage: Stage) -> tuple[bytes, Any]:
    ask = client.execute_command
    match kind := ask("TYPE", key):
        case b"string":
            return kind, ask("GET", key)
        case b"list":
            return kind, ask("LRANGE", key, 0, -1)
        case b"set":
            return kind, sorted(ask("SMEMBERS", key))
        case b"zset":
            # In one piece the servers write the score -0 as 0, which is equal to it.
            return kind, [b"0" if word == b"-0" else word for word in ask("ZRANGE", key, 0, -1, "WITHSCORES")]
        case b"stream":
            return kind, without(ask("XINFO", "STREAM", key, "FULL", "COUNT", 0), *_LAYOUT)
        case b"vectorset":
            elements = sorted(ask("VRANDMEMBER", key, 1000))
            told = [(name, ask("VEMB", key, name, "RAW"), ask("VGETATTR", key, name)) for name in elements]
            links = [[sorted(layer) for layer in ask("VLINKS", key, name)] for name in elements]
            return kind, [without(ask("VINFO", key), b"vset-uid"), told, links]
        case b"ReJSON-RL":
            return kind, ask("JSON.GET", key)
    assert kind == b"hash"
    words = ask("HGETALL", key)
    fields, ends = words[::2], [None] * len(words)
    if "hpexpiretime" in stage.context.facts.commands.names:
        ends = ask("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
    return kind, sorted(zip(fields, words[1::2], ends, strict=False))


def without(described: list[Any], *left_out: bytes) -> list[Any]:
    """A description without what is of the server: a number that it has given, how a value lies in memory."""
    pairs = zip(described[::2], described[1::2], strict=True)
    return [(name, value) for name, value in pairs if name not in left_out]


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_come_back_as_they_were(stage: Stage, seed: int) -> None:
    fill(stage, Random(seed))
    before = inventory(stage, stage.alpha)
    assert len(before) > KEYS * 3 // 4
    part, files = backup(stage, stage.alpha)
    assert part.details["keys"] == len(before)
    with stage.archive() as archive:
        scratch = archive.prepare(PlaceKind.SCRATCH, stage.alpha, stage.context)
        archive.restore(scratch, part, files, quiet)
        assert archive.measure(scratch) == part.measures
        archive.discard(scratch)
        assert archive.measure(archive.live(stage.alpha, stage.context)) == part.measures
        for app in (stage.beta, stage.alpha):
            with stage.raw(app) as client:
                for key in client.execute_command("KEYS", prefix_of(stage, app) + b"*")[::2]:
                    client.execute_command("DEL", key)
                client.execute_command("SET", prefix_of(stage, app) + b"later", 1)
            new = archive.prepare(PlaceKind.NEW, app, stage.context)
            archive.restore(new, part, files, quiet)
            archive.replace(new, stage.context)
            assert inventory(stage, app) == before
            assert archive.measure(archive.live(app, stage.context)) == part.measures


def test_another_element_of_a_vector_set_is_another_content(redis_servers: dict[str, RealServer]) -> None:
    with on_stage(redis_servers, "redis-8", {}) as stage, stage.raw(stage.alpha) as client, stage.archive() as archive:
        ask, live = client.execute_command, archive.live(stage.alpha, stage.context)
        for number in range(20):
            ask("VADD", "v", "VALUES", 2, number, 1, f"element {number}", "SETATTR", '{"a": 1}')
        before, card = archive.measure(live), ask("VCARD", "v")
        ask("RESTORE", "again", 0, ask("DUMP", "v"))
        ask("RENAME", "again", "v")
        assert archive.measure(live) == before, "the links between elements are in another order"
        for change in (
            ("VADD", "v", "VALUES", 2, 7, 1.5, "element 7"),
            ("VADD", "v", "VALUES", 2, 7, -1, "element 7"),
            ("VSETATTR", "v", "element 7", '{"a": 2}'),
            ("VSETATTR", "v", "element 7", ""),
        ):
            last = archive.measure(live)
            ask(*change)
            assert ask("VCARD", "v") == card
            assert archive.measure(live).counts == before.counts
            assert archive.measure(live) not in (before, last), change
