"""What becomes an app of what stands on servers, and what does not: the stores' pure halves of a scan."""

from __future__ import annotations

import json
from typing import Any

import pytest

from multidb.model import ExistingPlace, Owner
from multidb.provisioners import provisioner
from multidb.provisioners.neo4j.provision.existing import ExistingGraphs
from multidb.provisioners.postgres.provision.existing import INSIDE, ExistingDatabases, enterable
from multidb.provisioners.qdrant.provision.existing import ExistingCollections


def places(store: str, read: Any, known: tuple[str, ...] = ()) -> dict[str, ExistingPlace]:
    scanning = provisioner(store).scanning
    assert scanning is not None
    return {place.name: place for place in scanning.places(read, known)}


def database(name: str, **more: Any) -> dict[str, Any]:
    row = {"name": name, "owner": "bob", "mark": None, "open": True, "template": False, "limit": -1}
    return {**row, "encoding": "UTF8", "settings": 0, "public": False, "accounts": None, **more}


def databases(*rows: dict[str, Any], roles: dict[str, Any] | None = None, **insides: str) -> ExistingDatabases:
    return ExistingDatabases(json.dumps({"databases": rows, "roles": roles or {}}), insides)


def test_the_servers_own_and_what_multidb_keeps_for_a_step_are_no_places() -> None:
    read = databases(
        database("postgres"),
        database("template1", template=True),
        database("crm__scratch", mark="multidb-place:shop/crm"),
        database("crm"),
    )
    assert list(places("postgres", read)) == ["crm"]
    assert enterable(read.answer) == ["crm"]


def test_a_database_of_another_project_says_so_and_is_not_entered() -> None:
    read = databases(database("crm", mark="multidb:other/crm 12345678"))
    assert places("postgres", read)["crm"].owner == Owner("other", "crm")
    assert enterable(read.answer) == []


def test_who_else_gets_in_is_known_through_their_roles_and_without_end() -> None:
    def role(members: list[str] | None = None, login: bool = True, superuser: bool = False) -> dict[str, Any]:
        return {"login": login, "superuser": superuser, "mark": None, "members": members}

    roles = {
        "bob": role(["staff"]),
        "staff": role(["bob", "eve", "root"], login=False),
        "eve": role(),
        "root": role(superuser=True),
        "crm_user": role(),
        "other": role(),
    }
    read = databases(database("crm", accounts=["crm_user"]), roles=roles)
    assert places("postgres", read)["crm"].accounts == ("bob", "eve")


def test_extensions_that_no_manifest_can_name_are_left_out() -> None:
    inside = json.dumps({"extensions": ["vector", 'a"; DROP'], "schemas": None, "owners": None, "tables": 0})
    place = places("postgres", databases(database("crm"), crm=inside))["crm"]
    assert place.options == {"extensions": ["vector"]}
    assert "pg_extension" in INSIDE


def collection(**params: Any) -> dict[str, Any]:
    return {"config": {"params": params}}


def test_collections_belong_to_the_longest_id_that_is_known() -> None:
    vectors = {"size": 4, "distance": "Dot"}
    names = ["shop_docs", "shop_eu_docs", "new_docs", "nothing", "multidb__tokens__x", "Shop_docs"]
    read = ExistingCollections({name: collection(vectors=vectors) for name in names}, {"now": "shop_docs"})
    made = places("qdrant", read, ("shop", "shop_eu"))
    assert {name: place.app for name, place in made.items()} == {
        "shop_docs": "shop",
        "shop_eu_docs": "shop_eu",
        "new_docs": "new",
        "nothing": "",
        "Shop_docs": "",
    }
    assert made["shop_docs"].options == {"collections": {"docs": {"size": 4, "distance": "dot"}}}
    assert made["shop_docs"].notes == ("the alias now stands for it",)


@pytest.mark.parametrize(
    ("params", "options"),
    [
        (
            {"vectors": {"a": {"size": 2, "distance": "Cosine"}}},
            {"vectors": {"a": {"size": 2, "distance": "cosine"}}},
        ),
        ({"vectors": {}, "sparse_vectors": {"words": {}}}, {"sparse": {"words": {}}}),
        ({"vectors": {"size": 2, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}}}, None),
        ({"vectors": {"size": 2, "distance": "Hamming"}}, None),
        (
            {"vectors": {"size": 2, "distance": "Dot", "multivector_config": None, "datatype": None}},
            {"size": 2, "distance": "dot"},
        ),
        (
            {"vectors": {"size": 2, "distance": "Dot", "datatype": "float16"}},
            {"size": 2, "distance": "dot", "datatype": "float16"},
        ),
        ({"vectors": {"size": 2, "distance": "Dot", "datatype": "float32"}}, {"size": 2, "distance": "dot"}),
        ({"vectors": {"size": 2, "distance": "Dot", "datatype": "turbo4"}}, None),
        (
            {"vectors": {"size": {"size": 2, "distance": "Dot"}}},
            {"vectors": {"size": {"size": 2, "distance": "dot"}}},
        ),
        (
            {"vectors": None, "sparse_vectors": {"a": {"modifier": "idf"}, "b": {"modifier": "none"}, "c": None}},
            {"sparse": {"a": {"modifier": "idf"}, "b": {}, "c": {}}},
        ),
        ({"vectors": {"size": 2, "distance": "Dot"}, "sparse_vectors": {"a": {"modifier": "log"}}}, None),
        ({}, None),
    ],
)
def test_forms_of_vectors(params: dict[str, Any], options: dict[str, Any] | None) -> None:
    place = places("qdrant", ExistingCollections({"shop_docs": collection(**params)}, {}))["shop_docs"]
    assert place.options == ({"collections": {"docs": options}} if options is not None else {})
    assert bool(place.reason) is (options is None)
    scanning = provisioner("qdrant").scanning
    assert scanning is not None
    assert scanning.options is not None
    if options is not None:
        assert scanning.options([place]) == place.options


def test_graphs() -> None:
    read = ExistingGraphs(("beep-boop", "neo4j", "x", "known"), "neo4j", 12, (Owner("other", "known"),))
    made = places("neo4j", read)
    assert {name: (place.app, bool(place.reason)) for name, place in made.items()} == {
        "beep-boop": ("beep_boop", False),
        "x": ("", True),
        "known": ("known", False),
        "neo4j": ("", True),
    }
    shared = ExistingGraphs(("neo4j",), "neo4j", 12, (Owner("other", "one"), Owner("other", "two")))
    scanning = provisioner("neo4j").scanning
    assert scanning is not None
    both = [(place.name, place.app, place.owner, place.reason) for place in scanning.places(shared, ())]
    assert both == [("neo4j", app, Owner("other", app), "") for app in ("one", "two")]
    alone = places("neo4j", ExistingGraphs(("neo4j",), "neo4j", 12, ()))
    assert "12 nodes" in alone["neo4j"].reason
