"""A project of two apps on two stores that are folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import multidb.provisioners
from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.project import load_project
from multidb.state import ProjectState
from tests.unit.backup.cabinet import FAULTS, ONE_PLACE, FolderRuntime, write_rows

MANIFEST = """\
version: 1
project: shop
apps:
  ann: {stores: [cabinet, drawer]}
  bob: {stores: [cabinet, drawer], cabinet: {colour: blue}}
backup: {to: [sets/], verify: always}
"""


@pytest.fixture(autouse=True)
def known_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(multidb.provisioners.STORES, "cabinet", "tests.unit.backup.cabinet")
    monkeypatch.setitem(multidb.provisioners.STORES, "drawer", "tests.unit.backup.drawer")
    yield
    FAULTS.clear()
    ONE_PLACE.clear()
    multidb.provisioners.provisioner.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the servers, where each app has some rows."""
    folder = tmp_path / "servers"
    for store in ("cabinet", "drawer"):
        for app in ("ann", "bob"):
            write_rows(folder, store, app, 50, salt=store)
    return folder


@pytest.fixture
def engine(tmp_path: Path, data: Path) -> Engine:
    return make_engine(tmp_path, data)


def make_engine(root: Path, data: Path, manifest: str = MANIFEST) -> Engine:
    (root / "multidb.yaml").write_text(manifest)
    project = load_project(root / "multidb.yaml")
    engine = Engine(Fleet(project, ProjectState(root), runtime=FolderRuntime(project, data)))
    assert engine.apply().error() is None
    return engine
