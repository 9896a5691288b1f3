"""The file of a set and what it is measured by."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

from multidb.errors import ArchiveError
from multidb.provisioners.redis.backup.encodings import Limits
from multidb.provisioners.redis.backup.keys import names
from multidb.provisioners.redis.backup.keys_file import NEVER, KeysReader, KeysWriter, Record
from multidb.provisioners.redis.observe.tally import Seen, Tally

FOOTER = b"\x50\x00" + bytes(8)
STRING = b"\x00\x05hello" + FOOTER
HASH = b"\x04\x02" + b"\x01a\xc0\x07" + b"\x01b\xc3\x04\x1e\x01xx\xe0" + FOOTER  # a number, a compressed string
SAME_HASH = b"\x04\x02" + b"\x01b\xc3\x04\x1e\x01xx\xe0" + b"\x01a\xc0\x07" + FOOTER
RECORDS = [Record(b"", STRING, NEVER), Record(b"\x00\xff\n", HASH, NEVER), Record(b"soon", STRING, 1_700_000_000_000)]


def file_of(records: list[Record]) -> bytes:
    out = io.BytesIO()
    writer = KeysWriter(out, 80)
    for record in records:
        writer.write(record)
    writer.close()
    return out.getvalue()


def test_records_come_back_as_they_were() -> None:
    reader = KeysReader(io.BytesIO(file_of(RECORDS)))
    assert list(reader) == RECORDS
    assert reader.rdb == 80
    assert list(KeysReader(io.BytesIO(file_of([])))) == []


def test_the_format_is_as_it_is_documented() -> None:
    assert file_of(RECORDS[2:])[:-4] == (
        b"MDBREDIS\x00\x01\x00\x50"
        + b"\x01"
        + (1_700_000_000_000).to_bytes(8)
        + (4).to_bytes(4)
        + len(STRING).to_bytes(8)
        + b"soon"
        + STRING
        + b"\x00"
        + (1).to_bytes(8)
    )


def test_every_cut_and_every_flipped_bit_is_seen() -> None:
    whole = file_of(RECORDS)
    damaged = [whole[:at] for at in range(len(whole))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)
    ]
    for data in (*damaged, whole + b"x", b""):
        with pytest.raises(ArchiveError):
            list(KeysReader(io.BytesIO(data)))


def measured(*records: Record) -> Any:
    tally = Tally()
    for record in records:
        tally.add(record)
    return tally.measures()


def test_fingerprints_know_no_order_and_every_difference() -> None:
    first, second, _ = RECORDS
    assert measured(first, second) == measured(second, first)
    assert measured(first, second).counts == {"hash keys": 1, "string keys": 1}
    assert set(measured(first, second).fingerprints) == {"string keys", "hash keys, RDB 80"}
    assert measured(Record(b"h", HASH, NEVER)) == measured(Record(b"h", SAME_HASH, NEVER))
    assert measured(first) != measured(Record(b"x", STRING, NEVER))
    assert measured(first) != measured(Record(b"", STRING.replace(b"hello", b"hallo"), NEVER))
    # neither may a key take over what belongs to its value
    assert measured(Record(b"a", b"\x00b" + FOOTER, NEVER)) != measured(Record(b"a\x00", b"\x00b" + FOOTER, NEVER))


def test_what_expires_is_not_measured() -> None:
    tally = Tally()
    tally.add(RECORDS[2])
    tally.add(Record(b"fields", b"\x16\x01" + FOOTER, NEVER))
    assert tally.expiring == 2
    assert tally.measures().counts == {}


def table(kind: int, *elements: bytes, score: bytes = b"") -> bytes:
    count = len(elements) // (2 if kind == 4 else 1)
    return bytes([kind, 0x40 | count >> 8, count & 0xFF]) + b"".join(each + score for each in elements) + FOOTER


SHORT, LONG = b"\x01a", b"\x40\x41" + b"a" * 65
NUMBER, PACKED = b"\xc1\x00\x01", b"\xc3\x05\x40\x80\x01xx\xe0\x70"  # 16 bits; 128 bytes in five


@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        (table(4, *[SHORT, NUMBER] * 512), True),
        (table(4, *[SHORT, NUMBER] * 513), False),
        (table(4, SHORT, LONG), False),
        (table(4, SHORT, PACKED), False),
        (table(2, *[SHORT] * 128), True),
        (table(2, *[SHORT] * 129), True),  # could be numbers
        (table(2, *[b"\x15" + b"a" * 21] * 129), False),
        (table(2, *[SHORT] * 513), False),
        (table(5, *[SHORT] * 128, score=b"\xff" * 8), True),
        (table(5, *[SHORT] * 129, score=b"\x00" * 8), False),
        (table(5, SHORT, LONG, score=b"\xc3" * 8), False),
        (table(3, SHORT, score=b"\xff"), True),
        (table(3, SHORT, LONG, score=b"\x031.5"), False),
        (STRING, False),
        (b"\x10\x05hello" + FOOTER, False),
    ],
)
def test_which_values_a_restore_gives_another_shape(payload: bytes, changes: bool) -> None:
    assert Limits().changes(payload) is changes


def test_the_limits_are_the_servers_own_and_stand_with_what_depends_on_them() -> None:
    narrow = Limits.read(
        {"hash-max-ziplist-entries": "8", "hash-max-ziplist-value": "16", "set-max-intset-entries": "9"}
    )
    assert narrow == Limits(hash=(8, 16), set=(0, 0), numbers=9)
    assert not narrow.changes(table(4, *[SHORT, SHORT] * 9))
    assert not narrow.changes(table(2, *[SHORT] * 10))
    assert Limits.read({}) == Limits()
    tally = Tally(narrow)
    for record in RECORDS[:2]:
        tally.add(record)
    assert set(tally.measures().fingerprints) == {"string keys", "hash keys, RDB 80, limits 8/16"}
    redis_7 = Limits(set=(0, 0))
    assert [redis_7.suffix(name) for name in ("hash keys", "set keys", "list keys", "string keys")] == [""] * 4


def test_of_a_modules_value_only_the_key_is_compared() -> None:
    vectors, other = (b"\x07\x81" + b"vectors!" + rest + FOOTER for rest in (b"1 2 3", b"3 2 1"))
    assert measured(Record(b"v", vectors, NEVER)) == measured(Record(b"v", other, NEVER))
    assert measured(Record(b"v", vectors, NEVER)) != measured(Record(b"w", vectors, NEVER))
    assert measured(Record(b"v", vectors, NEVER)).counts == {"other keys": 1}


# What Redis 8.2.3 gave for three elements of two dimensions, one of them with attributes, and once it was restored.
VECTORS = bytes.fromhex(
    "0781bde72da2bb1eb40002020203025000020205016305000508f304353ff304353f02080203028001000000020202200202"
    "020102813e95f61a0000000002803fb504f305016205000508000000000000803f0208020202800100000002020220020102"
    "0302813f8000000000000002803f80000005016105077b226e223a317d05080000803f000000000208020102800100000002"
    "0202200202020302813f8000000000000002803f800000000c006808d72d2273773b"
)
RESTORED = bytes.fromhex(
    "0781bde72da2bb1eb40002020203025000020205016105077b226e223a317d05080000803f00000000020802010280010000"
    "00020202200202020302813f8000000000000002803f80000005016205000508000000000000803f02080202028001000000"
    "020202200201020302813f8000000000000002803f80000005016305000508f304353ff304353f0208020302800100000002"
    "0202200201020202813e95f61a0000000002803fb504f3000c00741055dbb6d834d0"
)


def test_of_a_vector_set_the_elements_are_compared_in_any_order() -> None:
    def of(payload: bytes) -> Any:
        return measured(Record(b"v", payload, NEVER))

    assert VECTORS[:-10] != RESTORED[:-10]
    assert of(VECTORS) == of(RESTORED)
    assert set(of(VECTORS).fingerprints) == {"names of other keys, RDB 12", "vector sets, RDB 12"}
    for part in (b"a\x05\x07", b'{"n":1}', b"\x00\x00\x80?\x00\x00\x00\x00", b"\x02\x50\x00"):
        assert VECTORS.count(part) == 1
        other = of(VECTORS.replace(part, part[:-1] + bytes([part[-1] ^ 1])))
        assert other != of(VECTORS), part
    for cut in range(11, len(VECTORS) - 10):  # another form of it, whatever that is, counts by its name
        assert list(of(VECTORS[:cut] + VECTORS[-10:]).fingerprints) == ["names of other keys, RDB 12"], cut


def test_a_key_is_seen_once() -> None:
    keys = [random.Random(7).randbytes(12) for _ in range(1)] + [b"%d" % i for i in range(20_000)]
    seen = Seen()
    assert not any(seen.before(key) for key in keys)
    assert all(seen.before(key) for key in keys)


class Repeating:
    """A server whose SCAN names keys twice, as while its table is resized."""

    def __init__(self) -> None:
        self.pages = [[b"1", [b"a", b"b"]], [b"2", [b"b", b"c", b"a"]], [b"0", [b"c"]]]

    def send(self, commands: list[tuple[Any, ...]]) -> None:
        assert commands[0][0] == "SCAN"

    def receive(self) -> Any:
        return self.pages.pop(0)


def test_what_scan_names_twice_is_taken_once() -> None:
    lane: Any = Repeating()
    assert list(names(lane, "")) == [b"a", b"b", b"c"]
