"""Points as lines and as fingerprints, and the marks of places; no server."""

from __future__ import annotations

import io
from typing import Any

import pytest

from multidb.errors import ArchiveError
from multidb.model import Owner, PlaceKind
from multidb.provisioners.qdrant.backup.places import PlaceMark
from multidb.provisioners.qdrant.backup.points import Fingerprint, page_size, read_lines, with_tenant, write_lines

POINTS: list[dict[str, Any]] = [
    {"id": 1, "payload": {"tenant_id": "lernmi", "a": {"x": 1, "y": None}}, "vector": [0.1, 0.2]},
    {"id": "00000000-0000-0000-0000-000000000001", "payload": None, "vector": {"m": [[1.0, 2.0], [3.0, 4.0]]}},
    {"id": 2**64 - 1, "payload": {"ü": "\u2028\n"}, "vector": {"s": {"indices": [9, 2], "values": [0.5, 1.5]}}},
]


def fingerprint(points: list[dict[str, Any]], tenant: str = "lernmi") -> tuple[int, str, str]:
    found = Fingerprint(tenant)
    found.add(points)
    return found.count, found.points, found.vectors


def test_lines_come_back_as_the_points_they_were() -> None:
    out = io.BytesIO()
    write_lines(out, POINTS)
    assert out.getvalue().count(b"\n") == len(POINTS)
    out.seek(0)
    batches = list(read_lines(out, "docs.jsonl", 2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert fingerprint([dict(point) for batch in batches for point in batch]) == fingerprint(POINTS)


def test_a_line_that_is_cut_is_named() -> None:
    out = io.BytesIO()
    write_lines(out, POINTS)
    with pytest.raises(ArchiveError, match=r"line 3 of docs\.jsonl"):
        list(read_lines(io.BytesIO(out.getvalue()[:-5]), "docs.jsonl", 10))


def test_a_fingerprint_knows_no_order_and_sees_every_change() -> None:
    whole = fingerprint(POINTS)
    assert fingerprint(POINTS[::-1]) == whole
    turned = {"id": 2**64 - 1, "payload": {"ü": "\u2028\n"}, "vector": {"s": {"indices": [2, 9], "values": [1.5, 0.5]}}}
    assert fingerprint([*POINTS[:2], turned]) == whole, "the order inside a sparse vector means nothing"
    for change in (
        {"payload": {"tenant_id": "lernmi", "a": {"x": 1, "y": 0}}},
        {"id": 3},
        {"id": "1"},
    ):
        assert fingerprint([{**POINTS[0], **change}, *POINTS[1:]])[1] != whole[1]
    assert fingerprint(POINTS[:2])[1] != whole[1]
    for vector in ([0.2, 0.1], [0.1, 0.2000001], {"other": [0.1, 0.2]}, [[0.1], [0.2]]):
        changed = fingerprint([{**POINTS[0], "vector": vector}, *POINTS[1:]])
        assert (changed[1], changed[2] != whole[2]) == (whole[1], True)
    rows = {**POINTS[1], "vector": {"m": [[1.0], [2.0, 3.0, 4.0]]}}
    assert fingerprint([POINTS[0], rows, POINTS[2]])[2] != whole[2]


def test_a_copy_for_another_app_has_the_same_fingerprint() -> None:
    copied = [dict(with_tenant(point, "lernmi", "devao")) for point in POINTS]
    assert copied[0]["payload"]["tenant_id"] == "devao"
    assert fingerprint(copied, "devao") == fingerprint(POINTS)
    assert fingerprint(copied) != fingerprint(POINTS)
    assert with_tenant({"id": 1, "payload": {"tenant_id": "a customer"}}, "lernmi", "devao")["payload"] == {
        "tenant_id": "a customer"
    }


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"params": {"vectors": {"size": 4}}}, 1000),
        ({"params": {"vectors": {"size": 384}}}, 390),
        ({"params": {"vectors": {"size": 65_536, "multivector_config": {}}}}, 2),
        ({"params": {"vectors": {"size": 4}}, "strict_mode_config": {"max_query_limit": 7}}, 7),
        ({"params": {}}, 1000),
    ],
)
def test_a_page_is_small_whatever_the_vectors(config: dict[str, Any], size: int) -> None:
    assert page_size({"config": config}) == size


def test_a_places_mark_is_read_back_and_is_no_apps() -> None:
    mark = PlaceMark(PlaceKind.NEW, Owner("digi", "lernmi"), "docs", replacing=True, aliases=("lernmi_search",))
    details = {"config": {"metadata": mark.metadata}}
    assert PlaceMark.read(details) == mark
    assert mark.collection == "multidb__new__digi__lernmi__docs"
    assert "multidb" not in mark.metadata, "a plan would take it for a collection of the app"
    assert PlaceMark.read({"config": {"metadata": {"multidb": {"project": "digi", "app": "lernmi"}}}}) is None
