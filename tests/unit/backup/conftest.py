"""A project of two apps on two stores that are folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.project import load_project
from multidb.state import ProjectState
from tests.support.installed import added_stores
from tests.unit.backup.cabinet import FAULTS, ONE_PLACE, FolderRuntime, write_rows

MANIFEST = """\
version: 1
project: shop
apps:
  ann: {stores: [cabinet, drawer]}
  bob: {stores: [cabinet, drawer], cabinet: {colour: blue}}
backup: {to: [sets/], verify: always}
"""


@pytest.fixture(scope="module", autouse=True)
def known_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    stores = {"cabinet": "tests.unit.backup.cabinet", "drawer": "tests.unit.backup.drawer"}
    with added_stores(tmp_path_factory.mktemp("packages"), **stores):
        yield


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    FAULTS.clear()
    ONE_PLACE.clear()


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
