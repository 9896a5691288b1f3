"""Where the keys and channels of a command are, so that the app's prefix can be put before each. Pure.

The positions are those of the servers' own key specifications (``COMMAND``, Valkey 9.1 and Redis 8); a contract test
asks a real server with ``COMMAND GETKEYS`` about each command, and fails at one that is missing here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from multidb.client.errors import CallRefused

__all__ = [
    "KEYED",
    "KEYLESS",
    "REPLIES_WITH_KEY",
    "WRITES",
    "Placement",
    "SharedChannel",
    "channel_positions",
    "key_positions",
    "name_of",
]

# One line for each form. ``2``: a key at 2. ``1:-1:2``: keys from 1 to the last argument, every second (a last position
# that is not negative counts from the first). ``2#1``: at 2 is how many keys follow, each one further. ``STORE@5``: the
# key stands behind the word, which is looked for from 5 on. ``STREAMS@1/2``: keys behind the word, the first half.
_READING: Final = """
1: bitcount bitfield_ro bitpos digest dump expiretime geodist geohash geopos georadius_ro georadiusbymember_ro
1: geosearch get getbit getrange hexists hexpiretime hget hgetall hkeys hlen hmget hpexpiretime hpttl hrandfield hscan
1: hstrlen httl hvals lindex llen lpos lrange pexpiretime pttl scard sismember smembers smismember srandmember sscan
1: strlen substr
1: ttl type vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrange vsim xlen xpending xrange xrevrange zcard
1: zcount zlexcount zmscore zrandmember zrange zrangebylex zrangebyscore zrank zrevrange zrevrangebylex
1: zrevrangebyscore zrevrank zscan zscore
1#1: sintercard zdiff zinter zintercard zunion
1:-1:1: exists mget pfcount sdiff sinter sunion touch watch
1:1:1: lcs
2: memory|usage object|encoding object|freq object|idletime object|refcount xinfo|consumers xinfo|groups xinfo|stream
2#1: eval_ro evalsha_ro fcall_ro
STREAMS@1/2: xread
"""
_WRITING: Final = """
1: append bitfield decr decrby delex delifeq expire expireat geoadd getdel getex getset hdel hexpire hexpireat hgetdel
1: hgetex hincrby hincrbyfloat hmset hpersist hpexpire hpexpireat hset hsetex hsetnx incr incrby incrbyfloat linsert
1: lpop lpush lpushx lrem lset ltrim persist pexpire pexpireat pfadd psetex restore rpop rpush rpushx sadd set setbit
1: setex setnx setrange spop srem vadd vrem vsetattr xack xackdel xadd xautoclaim xclaim xdel xdelex xsetid xtrim
1: zadd zincrby zpopmax zpopmin zrem zremrangebylex zremrangebyrank zremrangebyscore
1 2: blmove brpoplpush copy geosearchstore lmove rename renamenx rpoplpush smove zrangestore
1 2#1: zdiffstore zinterstore zunionstore
1 2:-1:1: pfmerge sdiffstore sinterstore sunionstore
1 STORE@5 STOREDIST@5: georadiusbymember
1 STORE@6 STOREDIST@6: georadius
1#1: lmpop zmpop
1#2: msetex
1:-1:1: del unlink
1:-1:2: mset msetnx
1:-2:1: blpop brpop bzpopmax bzpopmin
2: xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|setid
2 3:-1:1: bitop
2#1: blmpop bzmpop eval evalsha fcall
STREAMS@4/2: xreadgroup
"""

KEYLESS: Final = frozenset(
    {
        *("ping", "echo", "time", "multi", "exec", "discard", "unwatch", "quit", "info", "wait", "waitaof", "hello"),
        *("auth", "readonly", "readwrite", "asking", "acl|whoami", "script|load", "script|exists", "client|id"),
        *("client|info", "client|getname", "client|setname", "client|setinfo", "client|reply", "client|no-touch"),
        "client|capa",
    }
)
"""Commands that name no key and show none of another app's."""

_NOT_THE_APPS: Final = "it reads or changes the keys of all apps, of which this app has those with its prefix"
_NAMES_INSIDE: Final = "it names keys inside a pattern or a serialized command, where no prefix can be put"
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("keys", "scan", "randomkey", "dbsize", "flushdb", "flushall", "swapdb", "clusterscan"), _NOT_THE_APPS
    ),
    **dict.fromkeys(("sort", "sort_ro"), f"{_NAMES_INSIDE}: BY and GET"),
    **dict.fromkeys(("move", "select"), "the app lives in one DB, under its prefix"),
    "migrate": "it moves keys to another server",
    "monitor": "it shows the commands of all apps",
    **dict.fromkeys(("pubsub|channels", "pubsub|numsub", "pubsub|numpat"), "it shows the channels of all apps"),
}

_CHANNELS_FROM: Final[Mapping[str, tuple[int, int | None]]] = {
    **dict.fromkeys(("publish", "spublish"), (1, 2)),
    **dict.fromkeys(("subscribe", "unsubscribe", "psubscribe", "punsubscribe"), (1, None)),
    **dict.fromkeys(("ssubscribe", "sunsubscribe"), (1, None)),
}

REPLIES_WITH_KEY: Final = frozenset(
    {"BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX", "LMPOP", "BLMPOP", "ZMPOP", "BZMPOP", "XREAD", "XREADGROUP"}
)
"""Commands that answer with the name of a key."""


def _table(text: str) -> dict[str, tuple[str, ...]]:
    rows = (line.rsplit(": ", 1) for line in text.strip().split("\n"))
    return {name: tuple(form.split()) for form, names in rows for name in names.split()}


KEYED: Final[Mapping[str, tuple[str, ...]]] = _table(_READING) | _table(_WRITING)
"""By command (``xinfo|stream``): the forms of its keys' positions."""

WRITES: Final = frozenset(_table(_WRITING)) | {"publish", "spublish"}
"""Commands that change something, or may."""

_READS: Final = frozenset(_table(_READING)) | {"keys", "scan", "randomkey", "dbsize", "sort_ro"}
_SUBCOMMANDS: Final = frozenset(name.partition("|")[0] for name in (*KEYED, *KEYLESS, *_REFUSED) if "|" in name)


class SharedChannel(str):
    """A channel that the manifest lets several apps use (``channels:``): no prefix is put before it."""

    __slots__ = ()


@functools.lru_cache(maxsize=1024)
def name_of(first: str, second: str) -> str:
    """A command's name as the table has it."""
    words = first.lower().split()
    if len(words) > 1:
        return "|".join(words[:2])
    return f"{words[0]}|{second.lower()}" if words[0] in _SUBCOMMANDS else words[0]


def key_positions(name: str, words: Sequence[Any]) -> list[int]:
    """Where the keys of a command stand; `words` begin with its name, a subcommand is a word of its own.

    Raises:
        CallRefused: what stands where the number of keys should be is no number.
    """
    return [position for form in KEYED[name] for position in _positions(form, words)]


def _positions(form: str, words: Sequence[Any]) -> Iterator[int]:
    end = len(words)
    if "@" in form:
        word, _, rest = form.partition("@")
        start, _, share = rest.partition("/")
        places = [i for i in range(int(start), end) if _text(words[i]).upper() == word]
        if not places:
            return
        if share:
            first = places[0] + 1
            yield from range(first, first + (end - first) // int(share))
            return
        yield from (position + 1 for position in places[-1:] if position + 1 < end)
    elif "#" in form:
        at, step = map(int, form.split("#"))
        if at >= end:
            return
        try:
            count = int(words[at])
        except (TypeError, ValueError):
            raise CallRefused(f"{_text(words[0])}: how many keys follow has to be a number") from None
        yield from range(at + 1, min(end, at + 1 + count * step), step)
    elif ":" in form:
        first, last, step = map(int, form.split(":"))
        until = end + last if last < 0 else first + last
        yield from range(first, min(until, end - 1) + 1, step)
    elif int(form) < end:
        yield int(form)


def channel_positions(name: str, words: Sequence[Any]) -> range:
    """Where the channels of a command stand."""
    first, until = _CHANNELS_FROM.get(name, (0, 0))
    return range(first, len(words) if until is None else min(until, len(words)))


def _text(word: Any) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


class Placement:
    """An app's place on the server: what is put before its keys and channels, and what it may not send.

    Args:
        keys: the prefix of its keys; empty where it has a DB of its own.
        channels: the prefix of its channels.
    """

    def __init__(self, keys: str, channels: str, *, read_only: bool = False) -> None:
        self.keys = keys
        self.channels = channels
        self._read_only = read_only
        self._channels = channels.encode()
        self._keys = keys.encode()
        plain = not read_only
        self._one_key = {n.upper() for n, form in KEYED.items() if form == ("1",) and (plain or n not in WRITES)}

    def placed(self, words: tuple[Any, ...], encode: Any) -> tuple[Any, ...]:
        """A command with the prefix before each of its keys and channels.

        Args:
            words: as redis-py has them: a name of two words may be one text (``XINFO STREAM``).
            encode: makes bytes of a key that is no text.

        Raises:
            CallRefused: where its keys are is not known, or it is not the app's to send.
        """
        first = words[0]
        if first in self._one_key and len(words) > 1:  # most commands
            return (first, self._key(words[1], encode), *words[2:]) if self.keys else words
        name = name_of(_text(first), _text(words[1]) if len(words) > 1 else "")
        self._require_allowed(name)
        parts = _text(first).split()
        joined = len(parts) > 1
        split = [*parts, *words[1:]] if joined else list(words)
        if self.keys and name in KEYED:
            for position in key_positions(name, split):
                split[position] = self._key(split[position], encode)
        if name == "psubscribe":
            _require_whole(split[1:], encode)
        for position in channel_positions(name, split):
            split[position] = self.channel(split[position], encode)
        return (first, *split[len(parts) :]) if joined else tuple(split)

    def _require_allowed(self, name: str) -> None:
        shown = name.replace("|", " ").upper()
        known = name in KEYED or name in KEYLESS or name in _CHANNELS_FROM
        if self.keys and not known:
            why = _REFUSED.get(name, "where its keys are is not known here, so no prefix can be put before them")
            raise CallRefused(f"{shown} is refused in prefix mode: {why}")
        if self._read_only and (name in WRITES or not (known or name in _READS)):
            raise CallRefused(f"{shown} writes, and this client only reads (read_only=True)")

    def _key(self, key: Any, encode: Any) -> Any:
        return self.keys + key if type(key) is str else self._keys + encode(key)

    def channel(self, channel: Any, encode: Any) -> Any:
        """A channel or pattern of the app's own."""
        if isinstance(channel, SharedChannel):
            return str(channel)
        return self.channels + channel if isinstance(channel, str) else self._channels + encode(channel)

    def own_key(self, key: Any) -> Any:
        """A key of an answer as the app calls it."""
        return _without(key, self.keys, self._keys)

    def own_channel(self, channel: Any) -> Any:
        """A channel of a message as the app calls it; a shared one as it is."""
        return _without(channel, self.channels, self._channels)


def _require_whole(patterns: Sequence[Any], encode: Any) -> None:
    """The server compares a pattern with those of the app's rule as text, not as patterns."""
    for pattern in patterns:
        if not isinstance(pattern, SharedChannel) and encode(pattern) != b"*":
            raise CallRefused(
                f"PSUBSCRIBE {_text(pattern)} is refused: the server lets an app hear all of its channels by one "
                "pattern, '*', and those that the manifest shares, as they stand there (SharedChannel)"
            )


def _without(value: Any, text: str, raw: bytes) -> Any:
    if isinstance(value, str):
        return value.removeprefix(text)
    return value.removeprefix(raw) if isinstance(value, bytes) else value
