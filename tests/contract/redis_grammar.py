"""Keys as apps make them, by a seed: every type at the borders of its encodings, names and values of any bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random

Word = bytes | str | int | float
Command = tuple[Word, ...]

# How many elements and bytes the servers keep in one piece: 512 (hashes, intsets), 128 (sets, sorted sets), 64 bytes.
_COUNTS = (1, 2, 127, 128, 129, 511, 512, 513)
_LENGTHS = (0, 1, 20, 63, 64, 65, 300)
_NUMBERS = (0, -1, 12, 127, -128, 4095, 2**15, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))


def commands(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    """What makes one key.

    Args:
        now: milliseconds since 1970.
        known: the server's commands, in small letters.
    """
    makers: Sequence[Callable[[Random, bytes, int, Collection[str]], list[Command]]] = (
        *(_string, _hash, _list, _set, _sorted_set, _stream),
        *([_vectors] if "vadd" in known else []),
        *([_json] if "json.set" in known else []),
    )
    made = random.choice(makers)(random, key, now, known)
    if random.random() < 0.3:
        made.append(("PEXPIREAT", key, now + random.randrange(10**7, 10**10)))
    return made


def name(random: Random, number: int) -> bytes:
    """A key's name, another one for each number."""
    odd = (b"", b"\x00", b"\xff\xfe", b"\r\n", b" *?[a]\\", "Größe".encode(), b"\x85\x0b", b"{tag}", b"a" * 300)
    return b"%d" % number + random.choice(odd)


def _text(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.3:
        return b"%d" % random.choice(_NUMBERS)
    if kind < 0.6:
        return random.randbytes(random.choice(_LENGTHS))
    return b"word " * random.randrange(20)


def _texts(random: Random, count: int) -> list[bytes]:
    """That many, no two alike, long ones or short ones only."""
    few = random.choice((3, 40, 64, 70))
    return [b"%d:" % n + _text(random)[:few] for n in range(count)]


def _string(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    match random.randrange(5):
        case 0:
            return [("SETBIT", key, random.randrange(10**5), 1)]
        case 1:
            return [("PFADD", key, *range(random.choice((1, 10, 3_000))))]
        case 2:
            return [("SET", key, random.randbytes(random.choice((1_000, 400_000))))]
    return [("SET", key, _text(random))]


def _hash(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    fields = _texts(random, random.choice(_COUNTS))
    made: list[Command] = [("HSET", key, *(word for field in fields for word in (field, _text(random))))]
    made += _shrunk(random, "HDEL", key, fields)
    if "hpexpireat" in known and random.random() < 0.4:
        ends = now + random.randrange(10**7, 10**10)
        made.append(("HPEXPIREAT", key, ends, "FIELDS", 1, fields[0]))
    return made


def _list(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    made: list[Command] = [("RPUSH", key, *_texts(random, random.choice(_COUNTS)))]
    if random.random() < 0.3:
        made += [("LPUSH", key, random.randbytes(100_000)), ("LINSERT", key, "BEFORE", b"0:", b"x")]
    return [*made, ("LTRIM", key, 0, random.choice((0, 3, 600)))]


def _set(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    count = random.choice(_COUNTS)
    if random.random() < 0.5:
        bits = random.choice((8, 16, 32, 63))
        numbers = sorted({b"%d" % (random.getrandbits(bits) - random.getrandbits(bits)) for _ in range(count)})
        return [("SADD", key, *numbers), *_shrunk(random, "SREM", key, numbers)]
    members = _texts(random, count)
    return [("SADD", key, *members), *_shrunk(random, "SREM", key, members)]


def _sorted_set(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    if random.random() < 0.2:
        return [("GEOADD", key, 13.4, 52.5, "Berlin", -70.6, -33.4, "Santiago")]
    members = _texts(random, random.choice(_COUNTS))
    scores = ("-inf", "+inf", 0, "-0", 1.5, 1e-300, 2**53 + 1, 0.1)
    pairs = [word for member in members for word in (random.choice(scores), member)]
    return [("ZADD", key, *pairs), *_shrunk(random, "ZREM", key, members)]


def _stream(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    count = random.choice((1, 5, 150))
    made: list[Command] = [
        ("XADD", key, f"{n}-{random.choice((0, 7))}", *(b"f", _text(random)), *([b"other", n] if n % 3 else []))
        for n in range(1, count + 1)
    ]
    for group in range(random.randrange(3)):
        made.append(("XGROUP", "CREATE", key, f"group {group}", random.choice(("0", "$", "2-0"))))
        for consumer in range(random.randrange(3)):
            made.append(("XGROUP", "CREATECONSUMER", key, f"group {group}", f"c{consumer}"))
            reads = ("XREADGROUP", "GROUP", f"group {group}", f"c{consumer}", "COUNT", 3, "STREAMS", key, ">")
            made.append(reads)
        made.append(("XACK", key, f"group {group}", "2-0", "2-7"))
    if random.random() < 0.6:  # also what is pending
        made += [("XDEL", key, "1-0", "1-7", f"{count}-0", f"{count}-7")]
    if random.random() < 0.3:
        made += [("XTRIM", key, "MAXLEN", 2)]
    if random.random() < 0.3:
        made += [("XSETID", key, "9000-1", "ENTRIESADDED", 9_000, "MAXDELETEDID", "8000-1")]
    return made


def _vectors(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    kept, dimensions = random.choice(("NOQUANT", "Q8", "BIN")), random.choice((3, 70))
    reduced = ("REDUCE", 2) if random.random() < 0.3 else ()
    made: list[Command] = []
    for number in range(1, 40):
        vector = [random.uniform(-9, 9) for _ in range(dimensions)]
        made.append(("VADD", key, *reduced, "VALUES", dimensions, *vector, f"element {number}", kept))
    if random.random() < 0.6:
        made += [("VSETATTR", key, f"element {number}", '{"year": 1950, "it\'s": "ü"}') for number in (1, 5, 7)]
    return made + [("VREM", key, f"element {number}") for number in range(10, 40, random.choice((2, 7)))]


def _json(random: Random, key: bytes, now: int, known: Collection[str]) -> list[Command]:
    return [("JSON.SET", key, "$", '{"a": [1, 2.5, null, {"ü": "\\n"}]}')]


def _shrunk(random: Random, command: str, key: bytes, elements: Sequence[bytes]) -> list[Command]:
    """Takes most of them away: the server keeps a small value then in the shape of a large one."""
    if random.random() < 0.5 or len(elements) < 20:
        return []
    return [(command, key, *elements[random.choice((1, 5, 100)) :])] if len(elements) > 100 else []
