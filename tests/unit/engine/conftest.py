"""An engine over the toy store, which is installed beside multidb for these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from multidb_toy.resources import ServerOptions

from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.model import Endpoint, Project, Server
from multidb.project import load_project
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.installed import added_stores
from tests.support.toy_store import SHELF

MANIFEST = """\
version: 1
project: shop
runtime: embedded
apps:
  ann: {stores: [toy]}
  bob: {stores: [toy], toy: {colour: blue}}
"""


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with added_stores(tmp_path_factory.mktemp("packages"), toy="tests.support.toy_store"):
        yield


@pytest.fixture(autouse=True)
def empty_shelf() -> None:
    SHELF.__init__()  # type: ignore[misc]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "multidb.yaml").write_text(MANIFEST)
    return load_project(tmp_path / "multidb.yaml")


@pytest.fixture
def engine(project: Project) -> Engine:
    server = Server("toy", "toy", Endpoint("shelf", 1))
    runtime = GivenRuntime(RealServer(server, None, ServerOptions()))
    return Engine(Fleet(project, ProjectState(Path(project.root)), runtime=runtime))
