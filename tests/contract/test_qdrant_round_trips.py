"""Whatever a collection is comes back: an inventory before a set, after its scratch, its clone, its replacement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from qdrant_client import models

from multidb.backup.places import differences
from multidb.model import PlaceKind
from multidb.provisioners.qdrant.provision.options import ServerOptions
from tests.contract import qdrant_grammar
from tests.contract.case_qdrant import ask, local_folder, opened, real_server
from tests.contract.qdrant_driver import Driver, app
from tests.contract.qdrant_sets import archive, quiet, saved
from tests.support.case import RealServer

pytestmark = pytest.mark.server

KINDS = ("one", "two")
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.rare) for seed in range(2, 20))]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("qdrant"), own=True) as real:
        yield real


@pytest.fixture
def real(shared: RealServer) -> Iterator[RealServer]:
    yield shared
    for entry in ask(shared, "GET", "/collections").json()["result"]["collections"]:
        ask(shared, "DELETE", f"/collections/{entry['name']}").raise_for_status()


def make(real: RealServer, random: Random, name: str, owner: str) -> None:
    """A collection of the grammar, with its alias."""
    body = qdrant_grammar.collection(random, {"multidb": {"project": "contract", "app": owner}})
    made = ask(real, "PUT", f"/collections/{name}", body)
    assert made.status_code == 200, (made.text, body)
    if random.random() < 0.3:
        ask(real, "PATCH", f"/collections/{name}", {"params": {"read_fan_out_factor": 2}}).raise_for_status()
    for index in qdrant_grammar.indexes(random):
        ask(real, "PUT", f"/collections/{name}/index?wait=true", index)  # a limit may refuse some
    if points := qdrant_grammar.points(random, body):
        answer = ask(real, "PUT", f"/collections/{name}/points?wait=true", {"points": points})
        assert answer.status_code == 200, (answer.text, body, points[0])
    alias = {"create_alias": {"collection_name": name, "alias_name": f"{name}_now"}}
    ask(real, "POST", "/collections/aliases", {"actions": [alias]}).raise_for_status()


def inventory(real: RealServer, owner: str, prefix: str = "") -> dict[str, Any]:
    """All that the server says of an app's collections, by type, without what is multidb's."""
    found: dict[str, Any] = {}
    aliases = ask(real, "GET", "/aliases").json()["result"]["aliases"]
    for kind in KINDS:
        name = f"{prefix or owner + '_'}{kind}"
        details = ask(real, "GET", f"/collections/{name}").json()["result"]
        config, metadata = details["config"], dict(details["config"].pop("metadata"))
        metadata.pop("multidb", None), metadata.pop("multidb_place", None)
        schema = {field: {**each, "points": None} for field, each in details["payload_schema"].items()}
        points: list[Any] = []
        page: dict[str, Any] = {"next_page_offset": None}
        while True:
            body = {"limit": 9, "with_vector": True, "offset": page["next_page_offset"]}
            page = ask(real, "POST", f"/collections/{name}/points/scroll", body).json()["result"]
            points += page["points"]
            if page["next_page_offset"] is None:
                break
        for point in points:
            if (point["payload"] or {}).get("tenant_id") == owner:
                point["payload"]["tenant_id"] = "its own"
            for vector in point["vector"].values() if isinstance(point["vector"], dict) else ():
                if isinstance(vector, dict):
                    pairs = sorted(zip(vector["indices"], vector["values"], strict=True))
                    vector.update(indices=[at for at, _ in pairs], values=[value for _, value in pairs])
        names = sorted(each["alias_name"].removeprefix(owner) for each in aliases if each["collection_name"] == name)
        found[kind] = {
            "config": config,
            "metadata": metadata,
            "indexes": schema,
            "points": sorted(points, key=lambda point: str(point["id"])),
            "aliases": names,
        }
    return found


def spoil(real: RealServer, random: Random, name: str) -> None:
    """Makes the collection another one, by a little or altogether."""
    match random.randrange(4):
        case 0:
            ask(real, "DELETE", f"/collections/{name}").raise_for_status()
            if random.random() < 0.5:
                make(real, Random(random.random()), name, "lernmi")
        case 1:
            if some := [each["id"] for each in inventory_points(real, name)[:2]]:
                ask(real, "POST", f"/collections/{name}/points/delete?wait=true", {"points": some}).raise_for_status()
            ask(real, "PATCH", f"/collections/{name}", {"metadata": {"later": 1}}).raise_for_status()
        case 2:
            ask(real, "PATCH", f"/collections/{name}", {"hnsw_config": {"ef_construct": 77}}).raise_for_status()
            for field in ask(real, "GET", f"/collections/{name}").json()["result"]["payload_schema"]:
                ask(real, "DELETE", f"/collections/{name}/index/{field}?wait=true")
        case 3:
            index = {"field_name": "later", "field_schema": "bool"}
            ask(real, "PATCH", f"/collections/{name}", {"strict_mode_config": {"max_payload_index_count": 99}})
            ask(real, "PUT", f"/collections/{name}/index?wait=true", index).raise_for_status()


def inventory_points(real: RealServer, name: str) -> list[Any]:
    found: list[Any] = ask(real, "POST", f"/collections/{name}/points/scroll", {"limit": 9}).json()["result"]["points"]
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", ["snapshot", "points"])
def test_a_collection_comes_back_as_it_was(real: RealServer, shape: str, seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    kinds: dict[str, Any] = {kind: {"size": 4} for kind in KINDS}
    driver = Driver(real, app("lernmi", **kinds), app("devao", **kinds), options=ServerOptions(backup=shape))
    lernmi, devao = driver.apps
    for kind in KINDS:
        make(real, random, f"lernmi_{kind}", "lernmi")
    before, context = inventory(real, "lernmi"), driver.context()
    part, files = saved(driver)
    with archive(real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        open_.restore(scratch, part, files, quiet)
        assert open_.measure(scratch) == part.measures
        tried = inventory(real, "lernmi", "multidb__scratch__contract__lernmi__")
        for kind in KINDS:
            assert tried[kind]["points"] == before[kind]["points"]
            assert tried[kind]["indexes"] == before[kind]["indexes"]
        open_.discard(scratch)

        clone = open_.prepare(PlaceKind.NEW, devao, context)
        open_.restore(clone, part, files, quiet)
        open_.replace(clone, context)
        assert inventory(real, "devao") == before
        assert open_.measure(open_.live(devao, context)) == part.measures

        for kind in KINDS:
            spoil(real, random, f"lernmi_{kind}")
        new = open_.prepare(PlaceKind.NEW, lernmi, context)
        open_.restore(new, part, files, quiet)
        open_.replace(new, context)
        assert inventory(real, "lernmi") == before
        assert open_.measure(open_.live(lernmi, context)) == part.measures
    if shape == "points":
        with local_folder(tmp_path) as local:
            there = Driver(local, lernmi).context()
        with archive(local) as open_:
            new = open_.prepare(PlaceKind.NEW, lernmi, there)
            open_.restore(new, part, files, quiet)
            open_.replace(new, there)
            assert not list(differences(part.measures, open_.measure(open_.live(lernmi, there))))


def fill_folder(path: str, random: Random) -> None:
    """Collections of the grammar, as far as the client's local mode has them: vectors, points, metadata, aliases."""
    with opened(path) as client:
        for kind in KINDS:
            name, mark = f"lernmi_{kind}", {"multidb": {"project": "contract", "app": "lernmi"}}
            body = qdrant_grammar.collection(random, mark)
            told = models.CreateCollection(
                vectors=body["vectors"], sparse_vectors=body.get("sparse_vectors"), metadata=body["metadata"]
            )
            client.create_collection(
                name,
                vectors_config=told.vectors,
                sparse_vectors_config=told.sparse_vectors,
                metadata=told.metadata,
            )
            if points := qdrant_grammar.points(random, body):
                client.upsert(name, [models.PointStruct(**point) for point in points])
            operation = models.CreateAlias(collection_name=name, alias_name=f"{name}_now")
            client.update_collection_aliases([models.CreateAliasOperation(create_alias=operation)])


def folder_inventory(path: str, prefix: str = "lernmi_") -> dict[str, Any]:
    """All that the client says of the app's collections, without what is multidb's."""
    found: dict[str, Any] = {}
    with opened(path) as client:
        for kind in KINDS:
            told = client.get_collection(f"{prefix}{kind}").model_dump(mode="json")
            metadata = told["config"]["metadata"]
            metadata.pop("multidb", None), metadata.pop("multidb_place", None)
            entries, _ = client.scroll(f"{prefix}{kind}", limit=1000, with_vectors=True)
            points = [entry.model_dump(mode="json") for entry in entries]
            aliases = client.get_collection_aliases(f"{prefix}{kind}").aliases
            found[kind] = {
                "collection": told,
                "vectors": {point["id"]: _vectors(point, told) for point in points},
                "payloads": {point["id"]: repr(point["payload"]) for point in points},
                "aliases": sorted(each.alias_name for each in aliases),
            }
    return found


def _vectors(point: Any, told: dict[str, Any]) -> dict[str, Any]:
    """The vectors of a point by their names, as rows of numbers; of length 1 where only the direction counts."""
    params = told["config"]["params"]["vectors"] or {}
    params = {"": params} if "distance" in params else params
    vectors = point["vector"] if isinstance(point["vector"], dict) else {"": point["vector"] or []}
    found: dict[str, Any] = {}
    for name, vector in vectors.items():
        if name not in params:
            found[name] = sorted(zip(vector["indices"], vector["values"], strict=True))
            continue
        rows = vector if vector and isinstance(vector[0], list) else [vector]
        cosine = params[name]["distance"] == "Cosine"
        found[name] = [[x / (math.hypot(*row) if cosine else 1) for x in row] for row in rows]
    return found


def close(one: Any, other: Any) -> bool:
    """Whether they are alike: local mode gives numbers as they came, or as float32 has them."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_collection_of_a_folder_comes_back_as_it_was(seed: int, tmp_path: Path) -> None:
    random, kinds = Random(seed), {kind: {"size": 4} for kind in KINDS}
    with local_folder(tmp_path) as real:
        assert real.server.endpoint.path is not None
        path = real.server.endpoint.path
        driver = Driver(real, app("lernmi", **kinds))
        fill_folder(path, random)
        before, context = folder_inventory(path), driver.context()
        assert any(kind["payloads"] for kind in before.values())
        part, files = saved(driver)
        with archive(real) as open_:
            scratch = open_.prepare(PlaceKind.SCRATCH, driver.apps[0], context)
            open_.restore(scratch, part, files, quiet)
            assert open_.measure(scratch) == part.measures
            open_.discard(scratch)
        with opened(path) as client:
            client.delete_collection("lernmi_one")
            client.delete("lernmi_two", points_selector=models.Filter())
        with archive(real) as open_:
            new = open_.prepare(PlaceKind.NEW, driver.apps[0], context)
            open_.restore(new, part, files, quiet)
            open_.replace(new, context)
            assert open_.measure(open_.live(driver.apps[0], context)) == part.measures
        after = folder_inventory(path)
        for kind in KINDS:
            assert close(before[kind].pop("vectors"), after[kind].pop("vectors"))
        assert after == before
