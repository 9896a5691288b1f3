"""In what two collections differ, told point by point; no server."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.errors import ArchiveError
from multidb.provisioners.qdrant.backup.delta import Difference, differences
from multidb.provisioners.qdrant.backup.points import are_alike

IDS = st.one_of(st.integers(0, 2**64 - 1), st.uuids().map(str), st.sampled_from([0, 1, 2**64 - 1]))
CONTENTS = st.sampled_from([None, {}, {"a": 1}, {"a": True}, {"a": 1.0}, {"tenant_id": "shop"}, {"tenant_id": "other"}])
VECTORS = st.sampled_from([[1.0, 2.0], [1.0, 2.5], {}, {"m": [1.0]}, {"s": {"indices": [1], "values": [0.5]}}])
SIDES = st.dictionaries(IDS, st.tuples(CONTENTS, VECTORS), max_size=12)


def points(side: dict[Any, tuple[Any, Any]]) -> Iterator[dict[str, Any]]:
    """In the order in which a server gives them."""
    for identity in sorted(side, key=lambda one: (isinstance(one, str), one)):
        content, vector = side[identity]
        yield {"id": identity, "payload": content, "vector": vector}


def told(there: list[Any], here: list[Any], *, directions: Collection[str] = ()) -> list[Difference]:
    return list(differences(there, here, "shop", directions))


@given(SIDES, SIDES, st.sampled_from([(), ("",), ("m",)]))
def test_what_is_told_makes_both_sides_the_same_and_nothing_else_is_told(
    there: dict[Any, Any], here: dict[Any, Any], directions: tuple[str, ...]
) -> None:
    changes = told(list(points(there)), list(points(here)), directions=directions)
    done = dict(here)
    for change in changes:
        if change.point is None:
            del done[change.id]
        else:
            done[change.id] = (change.point["payload"], change.point["vector"])
    same = [{**one, "payload": one["payload"] or {}} for one in points(done)]
    assert repr(same) == repr([{**one, "payload": one["payload"] or {}} for one in points(there)])
    assert len(changes) == len({change.id for change in changes})
    unlike = [one for one in {*there, *here} if repr(_plain(there.get(one))) != repr(_plain(here.get(one)))]
    assert sorted(map(str, unlike)) == sorted(str(change.id) for change in changes)


def _plain(one: Any) -> Any:
    return one and (one[0] or {}, one[1])


def test_each_is_told_before_the_rest_is_read() -> None:
    read: list[int] = []

    def reading() -> Iterator[dict[str, Any]]:
        for number in range(100):
            read.append(number)
            yield {"id": number, "payload": {}, "vector": [1.0]}

    first = next(differences(reading(), iter(()), "shop", ()))
    assert (first.id, len(read)) == (0, 1)


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], ["00000000-0000-0000-0000-000000000001", 5], ["b" * 8], [1, "x"]])
@pytest.mark.parametrize("side", [0, 1])
def test_an_order_that_is_not_that_of_ids_is_an_error(ids: list[Any], side: int) -> None:
    sides: list[list[Any]] = [[], []]
    sides[side] = [{"id": one, "payload": {}, "vector": []} for one in ids]
    with pytest.raises(ArchiveError, match="order of their ids"):
        told(sides[0], sides[1])


def test_last_bits_count_only_where_they_do() -> None:
    one = [{"id": 1, "payload": {}, "vector": [0.6, 0.8]}]
    other = [{"id": 1, "payload": {}, "vector": [0.60000002, 0.79999998]}]
    assert told(one, other, directions={""}) == []
    assert [change.id for change in told(one, other)] == [1]
    assert [change.id for change in told(one, [{**other[0], "vector": [0.61, 0.79]}], directions={""})] == [1]
    assert [change.id for change in told(one, [{**other[0], "payload": {"a": 1}}], directions={""})] == [1]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"a": [1.0, 1.0]}, {"a": [1.0000001, 1.0]}, True),
        ({"a": [3.0, 4.0]}, {"a": [0.6, 0.8]}, True),
        ({"a": [3.0, 4.0]}, {"a": [0.8, 0.6]}, False),
        ({"a": [3.0, 4.0]}, {"a": [-0.6, -0.8]}, False),
        ({"a": [0.0, 0.0]}, {"a": [0.0, 0.0]}, True),
        ({"a": [0.0, 0.0]}, {"a": [0.0, 1.0]}, False),
        ({"b": [3.0, 4.0]}, {"b": [0.6, 0.8]}, False),
        ({"b": [3.0, 4.0]}, {"b": [3.0, 4.0]}, True),
        ({"a": [1.0]}, {"b": [1.0]}, False),
        ({"a": [1.0]}, {"a": [1.0], "b": [1.0]}, False),
        ([1.0, 2.0], [1.0], False),
        ([3.0, 4.0], [0.6, 0.8], True),
        ({"a": [[3.0, 4.0], [1.0, 0.0]]}, {"a": [[0.6, 0.8], [2.0, 0.0]]}, True),
        ({"a": [[3.0, 4.0], [1.0, 0.0]]}, {"a": [[0.6, 0.8], [0.0, 2.0]]}, False),
        ({"a": [[3.0, 4.0]]}, {"a": [3.0, 4.0]}, False),
        ({"s": {"indices": [1, 2], "values": [3.0, 4.0]}}, {"s": {"indices": [2, 1], "values": [4.0, 3.0]}}, True),
        ({"s": {"indices": [1, 2], "values": [3.0, 4.0]}}, {"s": {"indices": [1, 3], "values": [3.0, 4.0]}}, False),
        ({"a": [None, 1.0]}, {"a": [None, 1.0]}, True),
        ({"a": [None, 1.0]}, {"a": [0.0, 1.0]}, False),
        ({"a": []}, {"a": []}, True),
        ({}, [], False),
    ],
)
def test_vectors_are_alike_or_not(one: Any, other: Any, alike: bool) -> None:
    ours, theirs = ({"id": 1, "payload": {}, "vector": vector} for vector in (one, other))
    assert (are_alike(ours, theirs, {"", "a"}), are_alike(theirs, ours, {"", "a"})) == (alike, alike)
