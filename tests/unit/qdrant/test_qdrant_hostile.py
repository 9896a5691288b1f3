"""What an app writes, and what a set says, read with care: points of any size and shape, marks, entries of a part."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.errors import ArchiveError
from multidb.model import Endpoint, Measures, Part, Server, StoreContext
from multidb.provisioners.qdrant.backup.configuration import creation, indexes, settings, unkept, without_limits
from multidb.provisioners.qdrant.backup.entries import entries_of
from multidb.provisioners.qdrant.backup.places import PlaceMark
from multidb.provisioners.qdrant.backup.points import Fingerprint, pages, read_lines, write_lines
from multidb.provisioners.qdrant.driver.transport import AnswerTooLarge, Reply
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.removal import orphans
from multidb.provisioners.qdrant.provision.resources import QdrantFacts, owner_of
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.secrets import Secret

SERVER = Server("qdrant", "qdrant", Endpoint("127.0.0.1", 6333))
ENTRY: dict[str, Any] = {
    "type": "docs",
    "created": {"vectors": {"size": 4, "distance": "Cosine"}, "shard_number": 1},
    "file": "docs.snapshot",
    "aliases": ["lernmi_search"],
    "sha256": "0" * 64,
}

DETAILS: dict[str, Any] = {
    "config": {
        "params": {"vectors": {"a": {"size": 4, "distance": "Dot", "datatype": "uint8"}}, "read_fan_out_factor": 2},
        "hnsw_config": {"m": 16, "payload_m": None},
        "optimizer_config": {"max_segment_size": 5_000, "memmap_threshold": None},
        "strict_mode_config": {"enabled": True, "upsert_max_batchsize": 0, "max_query_limit": 9},
        "metadata": {"multidb": {"project": "digi", "app": "lernmi"}, "note": [None]},
    },
    "payload_schema": {
        "k": {"data_type": "keyword", "points": 7},
        "n": {"data_type": "integer", "params": {"type": "integer", "lookup": True, "range": None}, "points": 0},
    },
}


class Points:
    """A collection of points of these sizes in bytes, whose answers may be too large."""

    several = True

    def __init__(self, sizes: Sequence[int], most: int) -> None:
        self.sizes, self.most, self.asked = sizes, most, 0

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        assert most is not None, "any number of bytes would be taken"
        self.asked += 1
        start = int(call.body.get("offset", 0))
        end = min(start + int(call.body["limit"]), len(self.sizes))
        if sum(self.sizes[start:end]) > self.most:
            raise AnswerTooLarge
        found = [{"id": number, "payload": {}, "vector": []} for number in range(start, end)]
        return Reply(200, {"points": found, "next_page_offset": end if end < len(self.sizes) else None})

    def close(self) -> None: ...


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 40))
def test_every_point_comes_once_whatever_they_weigh(sizes: list[int], size: int) -> None:
    collection = Points(sizes, 100)
    found = [point["id"] for page in pages(SERVER, collection, "c", size) for point in page.points]
    assert found == list(range(len(sizes)))


def test_a_few_large_points_do_not_make_all_pages_small() -> None:
    collection = Points([90, 90, 90, *[1] * 5_000], 100)
    assert sum(len(page.points) for page in pages(SERVER, collection, "c", 100)) == 5_003
    assert collection.asked < 100


def test_a_point_that_is_too_large_is_named() -> None:
    with pytest.raises(ArchiveError, match="point 2 of c has more than"):
        list(pages(SERVER, Points([1, 1, 500, 1], 100), "c", 10))


@pytest.mark.parametrize(
    "vector", [[1.0, None], {"a": [None]}, [[1.0], [None]], {"s": {"indices": [1], "values": [None]}}]
)
def test_a_component_that_is_no_number_is_measured_and_not_written(vector: Any) -> None:
    point = {"id": 1, "payload": {}, "vector": vector}
    Fingerprint("lernmi").add([point])
    with pytest.raises(ArchiveError, match="point 1 has a component that is no number"):
        write_lines(io.BytesIO(), [point])


def test_local_modes_own_nan_comes_back() -> None:
    out = io.BytesIO()
    write_lines(out, [{"id": 1, "payload": {"a": nan}, "vector": [nan, 1.0]}])
    ((point,),) = read_lines(io.BytesIO(out.getvalue()), "docs.jsonl", 10)
    assert [str(value) for value in point["vector"]] == ["nan", "1.0"]


def test_a_line_as_deep_as_a_well_is_no_point() -> None:
    deep = b'{"id": 1, "vector": [], "payload": ' + b"[" * 100_000 + b"\n"
    with pytest.raises(ArchiveError, match=r"line 1 of docs\.jsonl is no point"):
        list(read_lines(io.BytesIO(deep), "docs.jsonl", 10))


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["new", "digi", "lernmi", "docs"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "project", "app", "type", "replacing", "aliases", "settings", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(junk)
def test_a_mark_of_any_shape_is_a_mark_or_none(mark: Any) -> None:
    details = {"config": {"metadata": {"multidb": mark, "multidb_place": mark}}}
    found, owner = PlaceMark.read(details), owner_of(details)
    assert found is None or PlaceMark.read({"config": {"metadata": found.metadata}}) == found
    assert owner is None or (mark["project"], mark["app"]) == (owner.project, owner.app)


def part(entries: Any) -> Part:
    return Part("qdrant snapshot 1", "Qdrant 1.18.3", "multidb", True, Measures({}, {}), {"collections": entries})


def test_what_a_backup_writes_is_taken() -> None:
    assert entries_of(part(json.loads(json.dumps([ENTRY])))) == [ENTRY]
    whole = {**ENTRY, "indexes": indexes(DETAILS), "settings": settings(DETAILS), "created": creation(DETAILS)}
    assert entries_of(part([whole])) == [whole]


def test_a_collection_of_an_app_over_its_quota_is_made_again_without_that() -> None:
    kept = settings(DETAILS)
    assert kept["strict_mode_config"] == {"enabled": True, "max_query_limit": 9}
    assert kept["metadata"] == {"note": [None]}
    assert without_limits(kept) == {"strict_mode_config": {"enabled": False, "max_query_limit": 9}}


@pytest.mark.parametrize(
    ("path", "value", "lost"),
    [
        (("config", "hnsw_config", "m"), 0, "hnsw_config.m"),
        (("config", "params", "vectors", "a", "datatype"), None, "vectors.a.datatype"),
        (("config", "optimizer_config", "max_segment_size"), None, "optimizers_config.max_segment_size"),
        (("config", "strict_mode_config", "max_query_limit"), 10, "strict_mode_config.max_query_limit"),
        (("payload_schema", "n", "params", "lookup"), False, "indexes.n.lookup"),
        (("payload_schema", "k"), {"data_type": "text"}, "indexes.k"),
    ],
)
def test_what_a_server_does_not_keep_is_named(path: tuple[str, ...], value: Any, lost: str) -> None:
    entry = {"created": creation(DETAILS), "indexes": indexes(DETAILS), "settings": settings(DETAILS)}
    assert unkept(entry, DETAILS) == []
    other = json.loads(json.dumps(DETAILS))
    *way, last = path
    inner = other
    for key in way:
        inner = inner[key]
    inner[last] = value
    assert unkept(entry, other) == [lost]


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "../docs"},
        {"type": "b/knowledge"},
        {"type": None},
        {"file": "../docs.snapshot"},
        {"created": {"vectors": {}, "init_from": {"collection": "devao_knowledge"}}},
        {"created": {"vectors": {}, "metadata": {"multidb": {}}}},
        {"created": []},
        {"indexes": ["docs"]},
        {"indexes": {"docs": None}},
        {"indexes": {"": "keyword"}},
        {"settings": []},
        {"settings": {"strict_mode_config": 1}},
        {"settings": {"optimizers_config": {}}},
        {"settings": {"metadata": {"multidb": {"project": "digi", "app": "devao"}}}},
        {"settings": {"metadata": {"multidb_place": {}}}},
        {"settings": {"params": {"replication_factor": 9}}},
        {"aliases": ["multidb__tokens__digi"]},
        {"aliases": [1]},
        {"aliases": None},
        {"sha256": "0"},
        {"sha256": None},
    ],
)
def test_an_entry_that_no_backup_writes_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ArchiveError, match="not what a backup writes"):
        entries_of(part([{**ENTRY, **changed}]))


@pytest.mark.parametrize("entries", [None, {}, "docs", [None], [ENTRY, ENTRY]])
def test_entries_of_another_shape_are_refused(entries: Any) -> None:
    with pytest.raises(ArchiveError):
        entries_of(part(entries))


class Marked:
    """A server with many collections of others, whose telemetry leaves out `silent` of them."""

    several = True

    def __init__(self, number: int, silent: int) -> None:
        self.names, self.silent, self.asked = [f"others_{n}" for n in range(number)], silent, 0

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        self.asked += 1
        found = {name: {"config": _marked(f"app{n}")} for n, name in enumerate(self.names)}
        if call.target == "/collections":
            return Reply(200, {"collections": [{"name": name} for name in self.names]})
        if call.target.startswith("/telemetry"):
            told = [{"id": name, **found[name]} for name in self.names[self.silent :]]
            return Reply(200, {"collections": {"collections": told}})
        name = call.target.rpartition("/")[2]
        return Reply(200, found[name]) if name in found else Reply(404, None, "not found")

    def close(self) -> None: ...


def _marked(app: str) -> dict[str, Any]:
    return {"metadata": {"multidb": {"project": "digi", "app": app}}}


@pytest.mark.parametrize(("number", "silent", "calls"), [(5, 0, 3), (500, 0, 3), (500, 2, 5)])
def test_orphans_are_found_with_a_few_calls_however_many_collections_there_are(
    number: int, silent: int, calls: int
) -> None:
    server = Marked(number, silent)
    found = orphans(Catalog(SERVER, server), StoreContext("digi", QdrantFacts("Qdrant", "1.18.3")), {"app3"})
    assert found == {f"app{n}": [f"collection others_{n}"] for n in range(number) if n != 3}
    assert server.asked == calls
