"""An app that means harm, and sets that do, on Qdrant: what multidb's own hands read, follow and load of them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import pickle
import sqlite3
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multidb.errors import ArchiveError, Conflict, ServerDown
from multidb.model import Part, PlaceKind
from multidb.provisioners.qdrant.backup import points
from multidb.provisioners.qdrant.provision.options import ServerOptions
from tests.contract.case_qdrant import ask, local_folder, opened, real_server
from tests.contract.qdrant_driver import Driver, app
from tests.contract.qdrant_sets import Files, archive, contents, put, quiet, saved
from tests.support.case import RealServer

pytestmark = pytest.mark.server

DOCS: dict[str, Any] = {"docs": {"size": 2, "distance": "dot"}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("qdrant"), own=True) as real:
        yield real


@pytest.fixture
def served(shared: RealServer) -> Iterator[Driver]:
    driver = Driver(shared, app("lernmi", **DOCS), app("lernmi_two", **DOCS))
    driver.apply()
    yield driver
    for entry in ask(shared, "GET", "/collections").json()["result"]["collections"]:
        ask(shared, "DELETE", f"/collections/{entry['name']}").raise_for_status()


@pytest.fixture(params=["server", "local"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """Two apps whose collections' names could meet: lernmi's two_docs, and lernmi_two's docs."""
    if request.param == "server":
        yield request.getfixturevalue("served")
        return
    with local_folder(tmp_path) as real:
        found = Driver(real, app("lernmi", **DOCS), app("lernmi_two", **DOCS))
        found.apply()
        yield found


def named(part: Part, files: Files, **changed: Any) -> Part:
    """The part with its one collection said to be something else."""
    (entry,) = part.details["collections"]  # type: ignore[misc, attr-defined]
    kind = changed.get("type", entry["type"])
    file = f"{kind}.{entry['file'].rpartition('.')[2]}"
    files.held[file] = files.held[entry["file"]]
    return replace(part, details={**part.details, "collections": [{**entry, "file": file, **changed}]})


def test_a_set_does_not_reach_into_another_apps_collection(driver: Driver) -> None:
    put(driver.real, "lernmi_docs", [{"id": 1, "vector": [1, 2], "payload": {"from": "the set"}}])
    put(driver.real, "lernmi_two_docs", [{"id": 1, "vector": [3, 4], "payload": {"of": "the other app"}}])
    before = contents(driver.real, "lernmi_two_docs")
    context, lernmi = driver.context(), driver.apps[0]
    part, files = saved(driver)
    hostile = named(part, files, type="two_docs")
    with archive(driver.real) as open_:
        with pytest.raises(Conflict, match="lernmi_two_docs is not lernmi's"):
            open_.restore(open_.live(lernmi, context), hostile, files, quiet)
        new = open_.prepare(PlaceKind.NEW, lernmi, context)
        open_.restore(new, hostile, files, quiet)
        with pytest.raises(Conflict, match="lernmi_two_docs is not lernmi's"):
            open_.replace(new, context)
        open_.discard(new)
        for changed in ({"type": "../docs"}, {"created": {"init_from": {"collection": "lernmi_two_docs"}}}):
            with pytest.raises(ArchiveError, match="not what a backup writes"):
                open_.restore(open_.live(lernmi, context), named(part, files, **changed), files, quiet)
    assert contents(driver.real, "lernmi_two_docs") == before
    assert not driver.changes()


def test_a_folder_of_traps_is_read_or_named(tmp_path: Path) -> None:
    """In local mode an app writes into the very folder that multidb reads."""
    with local_folder(tmp_path) as real:
        driver = Driver(real, app("lernmi", **DOCS))
        driver.apply()
        payload = {"a": float("inf"), "b": float("nan"), "c\0": "\ud7ff"}
        put(real, "lernmi_docs", [{"id": 1, "vector": [float("inf"), 2], "payload": payload}])
        part, files = saved(driver)
        context, lernmi = driver.context(), driver.apps[0]
        with archive(real) as open_:
            scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
            open_.restore(scratch, part, files, quiet)
            assert open_.measure(scratch) == part.measures
            open_.discard(scratch)


class Trap:
    """What is run by whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def planted(real: RealServer, content: bytes) -> None:
    """A row in the table of points, as whoever can write the folder can write it."""
    file = Path(real.server.endpoint.path) / "collection" / "lernmi_docs" / "storage.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as storage, storage:
        storage.execute("DELETE FROM points")
        storage.execute("INSERT INTO points VALUES (?, ?)", ("trap", content))


def test_what_lies_in_a_local_folder_is_never_run(tmp_path: Path) -> None:
    from qdrant_client.http.models import PointStruct

    ran = tmp_path / "ran"
    with local_folder(tmp_path) as real:
        driver = Driver(real, app("lernmi", **DOCS))
        driver.apply()
        held = PointStruct.model_construct(id=1, vector=[1.0, 2.0], payload={"trap": Trap(ran)})
        for content in (pickle.dumps(Trap(ran)), pickle.dumps(held)):
            planted(real, content)
            for use in (driver.changes, driver.holes, lambda: saved(driver)):
                with pytest.raises(ServerDown, match="calls pathlib"):
                    use()
        assert not ran.exists()
        pickle.loads(pickle.dumps(Trap(ran)))
        assert ran.exists(), "it is a trap"
        for content in (b"", b"not a pickle", pickle.dumps("no point"), pickle.dumps({"id": 1})):
            planted(real, content)
            with pytest.raises(ServerDown, match="the folder cannot be opened"):
                driver.changes()


def test_values_of_every_kind_come_out_of_a_local_folder(tmp_path: Path) -> None:
    from qdrant_client import models

    values = {
        "uuid": uuid.UUID(int=7),
        "moment": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 1, 1),
        "set": {1, 2},
    }
    with local_folder(tmp_path) as real:
        driver = Driver(real, app("lernmi", **DOCS))
        driver.apply()
        put(real, "lernmi_docs", [{"id": str(uuid.UUID(int=1)), "vector": [1, 2], "payload": values}])
        with opened(real.server.endpoint.path) as client:
            point = str(uuid.UUID(int=1))
            client.update_vectors("lernmi_docs", [models.PointVectors(id=point, vector=[3, 4])])
            client.set_payload("lernmi_docs", {"more": values}, [point])
        part, files = saved(driver)
        context, lernmi = driver.context(), driver.apps[0]
        with archive(real) as open_:
            scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
            open_.restore(scratch, part, files, quiet)
            assert open_.measure(scratch) == part.measures
            open_.discard(scratch)


def test_answers_have_an_end(served: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x" * 20_000
    put(served.real, "lernmi_docs", [{"id": n, "vector": [n, 1], "payload": {"text": text}} for n in range(300)])
    served.options = ServerOptions(backup="points")
    whole, _ = saved(served)
    monkeypatch.setattr(points, "LARGEST_ANSWER", 1_000_000)
    part, _ = saved(served)
    assert part.measures == whole.measures
    monkeypatch.setattr(points, "LARGEST_ANSWER", 10_000)
    with pytest.raises(ArchiveError, match="has more than"):
        saved(served)


def test_a_vector_without_a_number_is_measured_in_a_snapshot_and_named_in_points(served: Driver) -> None:
    import grpc
    from qdrant_client import QdrantClient, models

    endpoint, admin = served.real.server.endpoint, served.real.admin
    assert admin
    client = QdrantClient(
        host=endpoint.host,
        port=endpoint.port,
        grpc_port=int(endpoint.params["grpc_port"]),
        api_key=admin.reveal(),
        https=False,
        prefer_grpc=True,
    )
    try:
        client.upsert("lernmi_docs", [models.PointStruct(id=1, vector=[float("inf"), 1.0], payload={})], wait=True)
    except grpc.RpcError as error:
        pytest.skip(f"this server takes no such vector: {error.args}")
    finally:
        client.close()
    part, files = saved(served)
    context, lernmi = served.context(), served.apps[0]
    with archive(served.real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        open_.restore(scratch, part, files, quiet)
        assert open_.measure(scratch) == part.measures
        open_.discard(scratch)
    served.options = ServerOptions(backup="points")
    with pytest.raises(ArchiveError, match="no number"):
        saved(served)


def test_no_token_of_an_app_writes_what_multidb_reads_as_its_own(served: Driver) -> None:
    """The owner's mark, the registry, aliases, snapshots of any kind: refused, with whatever right a token may list."""
    lernmi = served.apps[0]
    token = served.token(lernmi.id)
    mark = {"metadata": {"multidb": {"project": "contract", "app": "lernmi_two"}}}
    registry = "/collections/multidb__tokens__contract"
    alias = {"create_alias": {"collection_name": "lernmi_docs", "alias_name": "lernmi_two_more"}}
    attempts: list[tuple[str, str, Any]] = [
        ("PATCH", "/collections/lernmi_docs", mark),
        ("PUT", "/collections/lernmi_own", {"vectors": {"size": 2, "distance": "Dot"}, **mark}),
        ("PUT", f"{registry}/points?wait=true", {"points": [{"id": 1, "vector": {}, "payload": {"app": "lernmi"}}]}),
        ("POST", f"{registry}/points/scroll", {}),
        ("POST", "/collections/aliases", {"actions": [alias]}),
        ("PUT", "/collections/lernmi_docs/snapshots/recover", {"location": "http://127.0.0.1:1/x"}),
        ("POST", "/collections/lernmi_docs/snapshots", None),
        ("GET", "/collections/lernmi_two_docs/snapshots", None),
        ("POST", "/snapshots", None),
        ("PUT", "/collections/lernmi_docs/index", {"field_name": "x", "field_schema": "keyword"}),
    ]
    for verb, path, body in attempts:
        assert ask(served.real, verb, path, body, key=token).status_code == 403, (verb, path)
    lookup = {"query": 1, "lookup_from": {"collection": "multidb__tokens__contract"}}
    assert ask(served.real, "POST", "/collections/lernmi_docs/points/query", lookup, key=token).status_code == 403
    assert not served.changes()


def test_a_snapshot_that_holds_something_else_leaves_its_collection_and_the_server_alone(
    served: Driver, tmp_path: Path
) -> None:
    put(served.real, "lernmi_docs", [{"id": 1, "vector": [1, 2], "payload": {}}])
    put(served.real, "lernmi_two_docs", [{"id": 1, "vector": [3, 4], "payload": {"of": "the other app"}}])
    before = contents(served.real, "lernmi_two_docs")
    part, files = saved(served)
    context, lernmi = served.context(), served.apps[0]
    outside = tmp_path / "outside"
    for name in ("../../../../../outside", str(outside), "../lernmi_two_docs/config.json"):
        hostile = _with_member(files.held["docs.snapshot"], name, b"{}")
        bad = Files()
        bad.held["docs.snapshot"] = hostile
        checked = named(part, bad, sha256=hashlib.sha256(hostile).hexdigest())
        with archive(served.real) as open_:
            scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
            with contextlib.suppress(ArchiveError):
                open_.restore(scratch, checked, bad, quiet)
            open_.discard(scratch)
    assert not outside.exists()
    other = _with_metadata(files.held["docs.snapshot"], {"multidb": {"project": "contract", "app": "lernmi_two"}})
    bad = Files()
    bad.held["docs.snapshot"] = other
    checked = named(part, bad, sha256=hashlib.sha256(other).hexdigest())
    with archive(served.real) as open_:
        new = open_.prepare(PlaceKind.NEW, lernmi, context)
        with contextlib.suppress(ArchiveError):
            open_.restore(new, checked, bad, quiet)
            assert [place.name for place in open_.leftovers(lernmi, context)] == [new.name], "it lost its mark"
        open_.discard(new)
    assert contents(served.real, "lernmi_two_docs") == before
    assert not served.changes()


def _with_member(snapshot: bytes, name: str, content: bytes) -> bytes:
    """The tar with one more file in it, of any name."""
    out = io.BytesIO(snapshot)
    with tarfile.open(fileobj=out, mode="a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _with_metadata(snapshot: bytes, metadata: Any) -> bytes:
    """The tar with other metadata in its collection's configuration."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(snapshot)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source.getmembers():
            file = source.extractfile(member)
            content = file.read() if file else b""
            if member.name.rpartition("/")[2] == "config.json" and b"metadata" in content:
                content = json.dumps({**json.loads(content), "metadata": metadata}).encode()
                member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_local_mode_is_one_folder_for_all(tmp_path: Path) -> None:
    """No wall is promised there, and what an app overwrites of a mark is told as a conflict, never followed."""
    with local_folder(tmp_path) as real:
        driver = Driver(real, app("lernmi", **DOCS), app("lernmi_two", **DOCS))
        driver.apply()
        of_another = {"project": "contract", "app": "lernmi_two"}
        for mark in ("x", ["x"], {"project": "contract", "app": ["lernmi"]}, of_another):
            with opened(real.server.endpoint.path) as client:
                client.update_collection("lernmi_docs", metadata={"multidb": mark, "multidb_place": mark})
            assert [change.action.value for change in driver.changes() if change.resource.name == "lernmi_docs"] == [
                "conflict"
            ]
            assert [hole.name for hole in driver.holes()] == []
