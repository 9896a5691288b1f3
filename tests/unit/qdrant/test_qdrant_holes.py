"""What is read on a Qdrant, turned into holes. Real servers are asked in the contract suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from multidb.model import Endpoint, Inspection, Search, Server, StoreContext
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.driver.transport import Reply
from multidb.provisioners.qdrant.isolation.holes import search
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.resources import admission_id, registry_name
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.secrets import MemorySecretStore, Secret
from tests.unit.qdrant.apps import LOCAL, RBAC, app

SERVER = Server("qdrant", "qdrant", Endpoint("127.0.0.1", 6333))
REGISTRY = registry_name("digi")
OWN = admission_id(REGISTRY, "lernmi")


class Answers:
    """A server that answers each path as it was told to; 404 else."""

    several = True

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        return Reply(200, self.answers[call.target]) if call.target in self.answers else Reply(404, None, "not found")

    def close(self) -> None: ...


def found(answers: Mapping[str, Any], known: frozenset[str] = frozenset(), facts: Any = RBAC, **more: Any) -> Search:
    context = StoreContext("digi", facts, known=known, **more)
    apps = [app(), app("devao")]
    inspection = Inspection(context, apps, PROVISIONER.desired(apps, context), MemorySecretStore())
    nothing = {"/collections": {"collections": []}, "/aliases": {"aliases": []}, "/snapshots": []}
    return search(Catalog(SERVER, Answers({**nothing, **answers})), inspection, None)


def collection(name: str, metadata: Any = None) -> dict[str, Any]:
    described = {"config": {"metadata": metadata, "params": {"vectors": {}}}, "payload_schema": {}}
    return {"/collections": {"collections": [{"name": name}]}, f"/collections/{name}": described}


def test_snapshots_of_everything_are_holes() -> None:
    (hole,) = found({"/snapshots": [{"name": "full snapshot.snapshot"}]}).holes
    assert (hole.name, hole.closes) == ("snapshot of everything kept", ("DELETE /snapshots/full%20snapshot.snapshot",))


@pytest.mark.parametrize("metadata", [None, {"multidb": "x"}, {"multidb": {"project": 1, "app": []}}])
def test_an_overwritten_mark_hides_no_snapshot(metadata: Any) -> None:
    kept = {"/collections/lernmi_old/snapshots": [{"name": "a.snapshot"}]}
    (hole,) = found({**collection("lernmi_old", metadata), **kept}).holes
    assert (hole.name, hole.app) == ("snapshots kept", "lernmi")


def test_snapshots_of_another_project_are_its_own_business() -> None:
    kept = {"/collections/lernmi_old/snapshots": [{"name": "a.snapshot"}]}
    assert found({**collection("lernmi_old", {"multidb": {"project": "else", "app": "lernmi"}}), **kept}).holes == ()


@pytest.mark.parametrize(
    ("point", "payload", "names"),
    [
        (OWN, {"app": "lernmi"}, []),
        (7, {"app": "lernmi"}, ["second admission"]),
        (OWN, {"app": "devao"}, ["second admission"]),
        (7, {"app": "gone"}, ["token of an app that is gone"]),
        (7, {"app": ["lernmi"]}, []),
        (7, None, []),
    ],
)
def test_who_is_let_in(point: Any, payload: Any, names: list[str]) -> None:
    page = {"points": [{"id": point, "payload": payload}], "next_page_offset": None}
    holes = found({f"/collections/{REGISTRY}/points/scroll": page}).holes
    assert [hole.name for hole in holes] == names
    if names == ["second admission"]:
        assert Call.parse(holes[0].closes[0]).body == {"points": [point]}


def test_an_alias_in_multidbs_own_names_is_a_hole() -> None:
    alias = {"alias_name": "multidb__tokens__later", "collection_name": "lernmi_knowledge"}
    (hole,) = found({"/aliases": {"aliases": [alias]}}).holes
    assert hole.name == "alias in multidb's own names"


def test_keys_that_cannot_be_asked_for_are_told_until_they_are_known() -> None:
    (remark,) = found({}).remarks
    assert "service.alt_api_key or service.read_only_api_key" in remark.message
    (remark,) = found({}, frozenset({"alt_api_key"})).remarks
    assert "alt_api_key" not in remark.message.partition("Look into")[0]
    assert found({}, frozenset({"alt_api_key", "read_only_api_key"})).remarks == ()
    assert found({}, facts=LOCAL).remarks == ()
    assert found({}, configured=True).remarks == ()
