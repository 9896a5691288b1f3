"""The file of a graph, and the digests by which two are compared."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.errors import ArchiveError
from multidb.provisioners.neo4j.backup.graph import decoded
from multidb.provisioners.neo4j.backup.graph_file import HEAD, Line, Numbers, Tally, read, write
from multidb.provisioners.neo4j.backup.values import Spelled, decode, encode

NODES: list[Line] = [{"node": n, "labels": ["A"] if n % 2 else [], "properties": {"n": n // 3}} for n in range(20)]
LINKS: list[Line] = [
    {"relationship": "R", "from": n, "to": (n * 7) % 20, "properties": {"w": {"float": "nan"}}} for n in range(20)
]


def tally(lines: list[Line]) -> Tally:
    with Numbers() as numbers:
        found = Tally(numbers)
        for line in lines:
            found.add(line)
        return found


def test_digests_depend_neither_on_order_nor_on_numbers() -> None:
    shuffled = random.Random(7)
    nodes = [{**line, "node": line["node"] * 31 + 5} for line in NODES]
    links = [{**line, "from": line["from"] * 31 + 5, "to": line["to"] * 31 + 5} for line in LINKS]
    shuffled.shuffle(nodes)
    shuffled.shuffle(links)
    assert tally([*nodes, *links]).measures() == tally([*NODES, *LINKS]).measures()


def test_an_end_moved_to_another_node_is_seen_where_only_the_end_changes() -> None:
    moved = [*LINKS[:-1], {**LINKS[-1], "to": 0}]
    before, after = tally([*NODES, *LINKS]).measures(), tally([*NODES, *moved]).measures()
    assert before.counts == after.counts
    assert {k for k, v in before.fingerprints.items() if after.fingerprints[k] != v} == {"relationships", "type R"}


def test_a_relationship_to_a_node_that_came_too_late_counts_for_nothing() -> None:
    with Numbers() as numbers:
        found = Tally(numbers)
        assert found.add(NODES[0])
        assert not found.add({"relationship": "R", "from": 0, "to": 1, "properties": {}})
        assert found.measures().counts["relationships"] == 0


def test_numbers_of_nodes_may_have_gaps() -> None:
    with Numbers() as numbers:
        numbers[10_000_000_000] = 7
        assert [numbers[10_000_000_000], numbers[3], numbers[20_000_000_000]] == [7, 0, 0]


def whole() -> bytes:
    stream = io.BytesIO()
    for line in (HEAD, *NODES, *LINKS, tally([*NODES, *LINKS]).end()):
        write(stream, line)
    return stream.getvalue()


def test_what_is_written_is_read() -> None:
    assert list(read(io.BytesIO(whole()), "x")) == [*NODES, *LINKS]


def test_a_file_cut_off_anywhere_is_refused() -> None:
    content = whole()
    for length in range(len(content)):
        with pytest.raises(ArchiveError):
            list(read(io.BytesIO(content[:length]), "x"))


def test_a_value_of_no_known_type_is_refused_both_ways() -> None:
    values: list[Any] = [object(), {"map": 1}]
    for value in values:
        with pytest.raises(TypeError):
            encode(value)
    for text in ({"unknown": 1}, {"date": "yesterday"}, {"point": [1.0], "srid": 1}, {"bytes": "%"}):
        with pytest.raises((KeyError, ValueError)):
            decode(text)


def test_bytes_come_back() -> None:
    assert decode(encode(bytes(range(256)))) == bytes(range(256))


SCHEMA: list[Line] = [
    {"constraint": "c", "type": "UNIQUENESS", "on": ["NODE", ["A"], ["n"]], "create": "CREATE CONSTRAINT `c`"},
    {"index": "i", "type": "RANGE", "on": ["NODE", ["A"], ["n"]], "create": "CREATE INDEX `i`"},
]
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["float", "date", "duration", "point", "srid", "vector", "text", "of", "zone"]), inner
        )
    ),
    max_leaves=6,
)


@given(st.sampled_from([*NODES[:2], *LINKS[:2], *SCHEMA]), st.data())
def test_a_line_of_other_types_is_refused_or_harmless(line: Line, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(line)))
    bad = {**line, key: data.draw(junk)}
    end = {"end": dict.fromkeys(("nodes", "relationships", "constraints", "indexes"), 0)}
    end["end"][
        {"node": "nodes", "relationship": "relationships", "constraint": "constraints"}.get(next(iter(line)), "indexes")
    ] = 1
    stream = io.BytesIO(b"".join(json.dumps(each).encode() + b"\n" for each in (HEAD, bad, end)))
    try:
        lines = list(read(stream, "here"))
        properties = [decoded(each) for each in lines if "properties" in each]
    except ArchiveError:
        return
    assert json.dumps(lines) == json.dumps([bad])  # as text: NaN is not itself
    assert all(isinstance(values, dict) for values, *_ in properties)
    with Numbers() as numbers:
        for each in lines:
            if "node" in each:
                numbers[each["node"]] = 1
                assert numbers[each["node"]] == 1


def test_a_file_as_deep_as_a_well_is_damaged() -> None:
    with pytest.raises(ArchiveError, match="damaged"):
        list(read(io.BytesIO(b'{"node": ' + b"[" * 100_000 + b"\n"), "here"))


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("-0753-04-21T12:00:00+00:49:56[Europe/Rome]", "-0753-04-21T12:00:00[Europe/Rome]"),
        ("+12026-01-01T00:00:00+01:00[Europe/Berlin]", "+12026-01-01T00:00:00+01:00[Europe/Berlin]"),
        ("-0753-04-21T12:00:00+00:49:56", "-0753-04-21T12:00:00+00:49:56"),
    ],
)
def test_no_offset_with_seconds_is_sent_where_a_zone_says_it(written: str, sent: str) -> None:
    """Neo4j 5 writes such a text and does not read it."""
    assert decode({"text": written, "of": "datetime"}) == Spelled("datetime", sent)
