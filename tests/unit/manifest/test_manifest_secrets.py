"""Where a manifest has its secrets kept: one kind of store, with what that has to be told, and no credential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from multidb.errors import ManifestError
from multidb.manifest import load, schema
from multidb.model.secret_options import SecretStoreSpec
from tests.support.toy_stores import STORES

HEAD = {"version": 1, "project": "digi"}
KEY = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
VAULT = {"url": "https://vault.example.com:8200", "mount": "kv", "path": "multidb/digi"}
GOOD: list[Any] = [
    {"age": {"file": "secrets.age", "recipients": [KEY]}},
    {"sops": {"file": "infrastructure/secrets.enc.yaml"}},
    {"vault": VAULT},
    {"vault": {**VAULT, "url": "http://127.0.0.1:8200"}},
    {"aws": {"region": "eu-central-1", "prefix": "multidb/digi"}},
]
BAD: list[tuple[Any, str]] = [
    ({}, "exactly one of file, age, sops, vault, aws"),
    ({"vault": VAULT, "sops": {"file": "x.yaml"}}, "exactly one"),
    ("vault", "url"),
    ("valut", "must be one of file, age, sops, vault, aws"),
    ({"age": {"file": "../secrets.age", "recipients": [KEY]}}, "a file in the manifest's folder"),
    ({"age": {"file": "secrets.age", "recipients": []}}, "recipients"),
    ({"age": {"file": "secrets.age", "recipients": ["AGE-SECRET-KEY-1QQQ"]}}, "public key"),
    ({"vault": {**VAULT, "url": "http://vault.example.com"}}, "http on this machine only"),
    ({"vault": {**VAULT, "url": "http://127.0.0.1.example.com"}}, "http on this machine only"),
    ({"vault": {**VAULT, "url": "https://me:pw@vault.example.com"}}, "no user or password"),
    ({"vault": {**VAULT, "path": "a/../../sys"}}, "must be a path"),
    ({"vault": {**VAULT, "token": "hvs.x"}}, "token"),
    ({"aws": {"region": "eu-central-1", "prefix": "/x"}}, "must be a path"),
]


def _load(folder: Path, secrets: Any, overlay: Any = None) -> SecretStoreSpec:
    (folder / "multidb.yaml").write_text(json.dumps({**HEAD, "secrets": secrets}))
    if overlay is not None:
        (folder / "multidb.prod.yaml").write_text(json.dumps({"secrets": overlay}))
    return load(folder / "multidb.yaml", STORES, overlay=None if overlay is None else "prod").secrets


@pytest.mark.parametrize("secrets", GOOD)
def test_a_kind_with_its_options(tmp_path: Path, secrets: dict[str, Any]) -> None:
    spec = _load(tmp_path, secrets)
    assert spec.options is not None
    assert {spec.kind: json.loads(spec.options.model_dump_json())} == secrets
    assert jsonschema.Draft202012Validator(schema(STORES)).is_valid({**HEAD, "secrets": secrets})


@pytest.mark.parametrize("secrets", ["file", {"file": {}}, None])
def test_the_file_of_the_folder(tmp_path: Path, secrets: Any) -> None:
    assert _load(tmp_path, secrets).kind == "file"
    assert jsonschema.Draft202012Validator(schema(STORES)).is_valid({**HEAD, "secrets": secrets})


@pytest.mark.parametrize(("secrets", "words"), BAD)
def test_what_is_wrong_is_said_at_its_line(tmp_path: Path, secrets: Any, words: str) -> None:
    with pytest.raises(ManifestError) as wrong:
        _load(tmp_path, secrets)
    assert words in str(wrong.value)
    assert "multidb.yaml:1:" in str(wrong.value)


def test_an_overlay_names_another_kind_or_changes_the_same(tmp_path: Path) -> None:
    assert _load(tmp_path, {"vault": VAULT}, {"vault": {"path": "multidb/prod"}}).options.path == "multidb/prod"  # type: ignore[union-attr]
    assert _load(tmp_path, {"sops": {"file": "x.yaml"}}, {"vault": VAULT}).kind == "vault"
    assert _load(tmp_path, {"vault": VAULT}, "file").kind == "file"
