"""The JSON Schema says what the reader says, in the words that editors show."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from multidb.manifest import schema
from multidb.manifest.schema import StoreSchema, shape_of
from multidb.project import store_schemas
from tests.support.toy_stores import STORES

SCHEMA = schema(STORES)
HEAD = {"version": 1, "project": "digi"}


def accepts(document: object) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


def test_it_is_a_schema_of_draft_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("stores", [STORES, store_schemas()], ids=["of tests", "included"])
def test_the_models_of_the_same_stores_are_made_once(stores: dict[str, StoreSchema]) -> None:
    shape = shape_of({name: replace(store) for name, store in stores.items()})
    assert shape_of({name: replace(store) for name, store in stores.items()}) is shape
    name, store = next(iter(stores.items()))
    assert shape_of({**stores, name: replace(store, usual=not store.usual)}) is not shape


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"apps": None, "servers": None, "defaults": {"tables": None}, "external": {}},
        {"apps": {"lernmi": None, "devao": {"tables": None, "stores": ["tables"]}}},
        {"defaults": {"vectors": {"collections": {"docs": {"distance": "dot"}}}}},
        {"apps": {"aa": {"deploy": {"ports": [80, "80:80"]}, "quota": {"cache": "5GB"}}}},
        {"known": None},
        {"known": {"tables": ["monitor", "it's me"], "cache": None}},
    ],
)
def test_it_accepts_what_loads(more: dict[str, object]) -> None:
    assert accepts({**HEAD, **more})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 2, "project": "digi"},
        {**HEAD, "aps": {}},
        {**HEAD, "apps": {"Lernmi": {}}},
        {**HEAD, "apps": {"aa_": {}}},
        {**HEAD, "apps": {"lernmi": {"stores": ["tabels"]}}},
        {**HEAD, "apps": {"lernmi": {"tables": {"connection_limt": 3}}}},
        {**HEAD, "apps": {"lernmi": {"vectors": {"collections": {"docs": {"distance": "dot"}}}}}},
        {**HEAD, "defaults": {"tables": {"connection_limt": 3}}},
        {**HEAD, "external": {"tables": {}}},
        {**HEAD, "known": {"tables": "monitor"}},
        {**HEAD, "known": {"tables": ["two\nlines"]}},
        {**HEAD, "known": {"table": []}},
        {**HEAD, "apps": {"lernmi": {"deploy": {"ports": ["http"]}}}},
    ],
)
def test_it_refuses_what_does_not_load(document: object) -> None:
    assert not accepts(document)


def test_an_overlay_needs_nothing_and_is_checked_for_the_rest() -> None:
    overlay = jsonschema.Draft202012Validator(schema(STORES, overlay=True))

    for fine in ({}, {"runtime": "external"}, {"apps": {"lernmi": {"vectors": {"collections": {"docs": {}}}}}}):
        assert overlay.is_valid(fine), fine
    for wrong in ({"version": 2}, {"aps": {}}, {"apps": {"lernmi": {"tables": {"connection_limt": 3}}}}):
        assert not overlay.is_valid(wrong), wrong


def test_the_keys_of_an_app_and_their_descriptions_are_there_for_completion() -> None:
    entry = SCHEMA["$defs"]["AppEntry"]["properties"]
    known = {"stores", "tenant_id", "profile", "labels", "quota", "backup", "deploy", "rotate", "files", "mode"}
    assert known | set(STORES) == set(entry)
    assert SCHEMA["$defs"]["TableOptions"]["properties"]["connection_limit"]["description"] == "Connections at once."
    for section in ("", "AppEntry", "Backup", "Keep", "Deploy", "AppDeploy", "AppBackup"):
        part = SCHEMA["$defs"][section] if section else SCHEMA
        undescribed = [name for name, field in part["properties"].items() if not field.get("description")]
        assert not undescribed, section


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> Iterator[str]:
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if key == "$ref":
                yield value
            elif isinstance(value, dict | list):
                yield from references(value)

    assert {name.removeprefix("#/$defs/") for name in references(SCHEMA)} <= set(SCHEMA["$defs"])


def test_without_a_model_for_addresses_there_is_no_such_key() -> None:
    stores = {name: replace(store, address=None) for name, store in STORES.items()}
    assert "tables" not in schema(stores)["$defs"]["External"].get("properties", {})
