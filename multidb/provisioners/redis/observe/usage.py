"""How much of a server each app uses: keys and connections as the server counts them, memory reckoned from a sample."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from multidb.model import App, AppUsage, Server, ServerUsage, StoreContext, counted
from multidb.provisioners.redis.driver.connection import ask, clients, explained, fields, pipelined
from multidb.provisioners.redis.provision.resources import user_names

__all__ = ["read_usage"]

_SAMPLE = 100  # keys measured for each app; more make the answer better only by their square root
_LONG_NAME = 10_000  # bytes
_SCANS = 20  # at most, of so many keys each, to tell the apps of DB 0 apart
_SCAN_COUNT = 5_000


@dataclass(slots=True)
class _Sample:
    """Keys of one app, and how many it has in all."""

    keys: list[bytes] = field(default_factory=list)
    total: int = 0
    counted: bool = True  # False: `total` was reckoned too


def read_usage(
    server: Server, another: Callable[..., redis.Redis], context: StoreContext, apps: Sequence[App]
) -> ServerUsage:
    """One round trip for what the server counts, three for all samples, and up to 20 where apps share DB 0."""
    with explained(server), another(raw=True) as client:
        sections = [("INFO", section) for section in ("memory", "stats", "keyspace")]
        *info, listed, limit = pipelined(client, [*sections, ("CLIENT", "LIST"), ("CONFIG", "GET", "maxclients")])
        fields_of_info = fields(b"\n".join(info).decode(errors="replace"))
        connections = Counter(c["user"] for c in clients(listed.decode(errors="replace")))
        numbers = {app.id: context.numbers[app.id] for app in apps if app.id in context.numbers}
        samples = _of_databases(client, {app: number for app, number in numbers.items() if number}, fields_of_info)
        samples |= _of_prefixes(client, [app for app, number in numbers.items() if not number], fields_of_info)
        measured = _measured(client, numbers, samples)
    return ServerUsage(
        size=int(fields_of_info["used_memory"]),
        connections=sum(connections.values()),
        connection_limit=int(limit[1]),
        apps={
            app: _app_usage(
                samples[app],
                measured[app],
                sum(connections[user] for user in user_names(app)),
                _expiring(fields_of_info, number),
            )
            for app, number in numbers.items()
        },
        notes=_notes(fields_of_info),
    )


def _of_databases(client: redis.Redis, numbers: Mapping[str, int], info: Mapping[str, str]) -> dict[str, _Sample]:
    totals = {app: _keyspace(info, number).get("keys", 0) for app, number in numbers.items()}
    used = [(app, number) for app, number in numbers.items() if totals[app]]
    samples = {app: _Sample(total=total) for app, total in totals.items()}
    # One key first: where its name is long, all of them may be, and a hundred would be more than can be held here.
    drawn = dict(zip(used, _per_database(client, [(number, [("RANDOMKEY",)]) for _, number in used]), strict=True))
    short = [place for place, keys in drawn.items() if sum(len(key or b"") for key in keys) < _LONG_NAME]
    more = _per_database(client, [(number, [("RANDOMKEY",)] * (_SAMPLE - 1)) for _, number in short])
    for place, keys in zip(short, more, strict=True):
        drawn[place] += keys
    for (app, _), keys in drawn.items():
        samples[app].keys = [key for key in keys if key is not None]
    return samples


def _of_prefixes(client: redis.Redis, apps: Sequence[str], info: Mapping[str, str]) -> dict[str, _Sample]:
    """The buckets that SCAN walks are in no order, so its first ones are a fair sample of DB 0."""
    samples = {app: _Sample() for app in apps}
    everything = _keyspace(info, 0).get("keys", 0)
    if not apps or not everything:
        return samples
    keys_of: dict[str, set[bytes]] = defaultdict(set)
    seen, cursor = 0, b"0"
    for _ in range(_SCANS):
        cursor, keys = ask(client, "SCAN", cursor, "COUNT", _SCAN_COUNT)
        seen += len(keys)
        for key in keys:
            keys_of[key.partition(b":")[0].decode(errors="replace")].add(key)
        if cursor == b"0":
            break
    complete = cursor == b"0"
    for app, sample in samples.items():
        sample.keys = sorted(keys_of[app], key=hash)[:_SAMPLE]
        share = len(keys_of[app]) / seen if seen else 0.0
        sample.total = len(keys_of[app]) if complete else round(share * everything)
        sample.counted = complete
    return samples


def _measured(
    client: redis.Redis, numbers: Mapping[str, int], samples: Mapping[str, _Sample]
) -> dict[str, list[tuple[str, int]]]:
    """Type and bytes of each sampled key that is still there."""
    asked = [
        (numbers[app], [words for key in sample.keys for words in (("TYPE", key), ("MEMORY", "USAGE", key))])
        for app, sample in samples.items()
    ]
    answers = _per_database(client, asked)
    return {
        app: [
            (kind.decode(), size) for kind, size in zip(measured[::2], measured[1::2], strict=True) if size is not None
        ]
        for app, measured in zip(samples, answers, strict=True)
    }


def _per_database(client: redis.Redis, commands: Iterable[tuple[int, Sequence[tuple[Any, ...]]]]) -> list[list[Any]]:
    """The answers to some commands in each of several DBs, all in one round trip."""
    plan = list(commands)
    one_db = all(number == 0 for number, _ in plan)  # a cluster does not know SELECT
    select = 0 if one_db else 1
    lines = [words for number, some in plan for words in ([] if one_db else [("SELECT", number)]) + list(some)]
    answers = iter(pipelined(client, [*lines, *([] if one_db else [("SELECT", 0)])]) if lines else [])
    return [[next(answers) for _ in range(select + len(some))][select:] for _, some in plan]


def _app_usage(sample: _Sample, measured: Sequence[tuple[str, int]], connections: int, expiring: int) -> AppUsage:
    by_kind: Counter[str] = Counter()
    for kind, size in measured:
        by_kind[kind] += size
    scale = sample.total / len(measured) if measured else 0.0
    notes = [f"memory reckoned from {len(measured)} of {counted(sample.total, 'key')}"] if measured else []
    if not sample.counted:
        notes.append("the number of keys is reckoned from a part of DB 0, which all apps share")
    return AppUsage(
        size=round(sum(by_kind.values()) * scale),
        estimated=True,
        connections=connections,
        counts={"keys": sample.total, **({"expiring": expiring} if expiring else {})},
        largest=tuple((f"{kind} keys", round(size * scale)) for kind, size in by_kind.most_common(10)),
        notes=tuple(notes),
    )


def _keyspace(info: Mapping[str, str], number: int) -> dict[str, int]:
    """From ``db3:keys=12,expires=0,...``."""
    parts = (part.partition("=") for part in info.get(f"db{number}", "").split(",") if part)
    return {name: int(value) for name, _, value in parts}


def _expiring(info: Mapping[str, str], number: int) -> int:
    return _keyspace(info, number).get("expires", 0) if number else 0


def _notes(info: Mapping[str, str]) -> tuple[str, ...]:
    hits, misses = int(info["keyspace_hits"]), int(info["keyspace_misses"])
    limit, evicted = int(info.get("maxmemory", 0)), int(info["evicted_keys"])
    notes = [
        f"maxmemory is {limit} bytes, policy {info.get('maxmemory_policy', 'unknown')}; all apps share it"
        if limit
        else "no maxmemory: the apps can take all memory of the machine"
    ]
    if hits + misses:
        notes.append(f"{hits / (hits + misses):.1%} of reads found their key since the server started")
    if evicted:
        keys = counted(evicted, "key was", "keys were")
        notes.append(f"{keys} evicted for lack of memory since the server started, whosever they were")
    return tuple(notes)
