"""`add-app` reads the manifest once, and once more when it has changed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from multidb_toy.resources import ServerOptions

import multidb.provisioners
from multidb import manifest
from multidb.cli.add_app import add_app
from multidb.errors import ManifestError, UsageError
from multidb.model import Endpoint, Server
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.toy_store import SHELF

MANIFEST = "version: 1\nproject: shop\napps:\n  ann: {stores: [toy]}\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The manifest of a project whose server runs."""
    monkeypatch.setitem(multidb.provisioners.STORES, "toy", "tests.support.toy_store")
    multidb.provisioners.provisioner.cache_clear()
    SHELF.__init__()  # type: ignore[misc]
    runtime = GivenRuntime(RealServer(Server("toy", "toy", Endpoint("shelf", 1)), None, ServerOptions()))
    monkeypatch.setattr("multidb.fleet.open_runtime", lambda project, state: runtime)
    path = tmp_path / "multidb.yaml"
    path.write_text(f"# {tmp_path}\n{MANIFEST}")  # a text that was read before is not parsed again
    yield path
    multidb.provisioners.provisioner.cache_clear()


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is parsed as YAML, and what is checked as a manifest."""
    readings: list[str] = []
    parse, check = yaml.compose, manifest.load
    monkeypatch.setattr(yaml, "compose", lambda *args, **options: readings.append("parsed") or parse(*args, **options))
    monkeypatch.setattr(
        manifest, "load", lambda *args, **options: readings.append("checked") or check(*args, **options)
    )
    return readings


def test_a_new_app_costs_one_reading_before_the_edit_and_one_after_it(path: Path, readings: list[str]) -> None:
    assert add_app("bob", file=path, stores="toy") == 0
    assert "bob" in SHELF.boxes
    assert (path.parent / "apps" / "bob" / ".env").exists()
    assert sorted(readings) == ["checked", "checked", "parsed", "parsed"]


def test_an_app_that_is_there_costs_one(path: Path, readings: list[str]) -> None:
    assert add_app("ann", file=path) == 0
    assert "ann" in SHELF.boxes
    assert sorted(readings) == ["checked", "parsed"]


def test_an_entry_that_makes_the_manifest_wrong_is_taken_back(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(ManifestError):
        add_app("bob", file=path, stores="toy", tenant="no tenant")
    assert path.read_text() == before


def test_where_there_is_no_manifest_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such manifest"):
        add_app("bob", file=tmp_path / "multidb.yaml")
    assert list(tmp_path.iterdir()) == []
