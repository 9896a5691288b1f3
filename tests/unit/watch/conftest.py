"""An engine over the toy store, on one server for all apps or on one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from multidb_toy.resources import ServerOptions

from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.model import Endpoint, Server
from multidb.project import load_project
from multidb.runtime import ServerStatus
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime, OneServerEach
from tests.support.installed import added_stores
from tests.support.toy_store import SHELF

OpenShop = Callable[..., Engine]


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with added_stores(tmp_path_factory.mktemp("packages"), toy="tests.support.toy_store"):
        yield


@pytest.fixture(autouse=True)
def empty_shelf() -> None:
    SHELF.__init__()  # type: ignore[misc]


@pytest.fixture
def open_shop(tmp_path: Path) -> OpenShop:
    """Makes an engine for apps of the given names and entries; applied unless told otherwise."""

    def opened(
        apps: list[str] | dict[str, str],
        *,
        each: bool = False,
        lacking: dict[str, ServerStatus] | None = None,
        apply: bool = True,
        known: str = "{}",
    ) -> Engine:
        entries = dict.fromkeys(apps, "{}") if isinstance(apps, list) else apps
        lines = "".join(f"  {app}: {{stores: [toy], {entry[1:]}\n" for app, entry in entries.items())
        head = f"version: 1\nproject: shop\nruntime: embedded\nknown: {known}\n"
        (tmp_path / "multidb.yaml").write_text(f"{head}apps:\n{lines}")
        project = load_project(tmp_path / "multidb.yaml")
        one = GivenRuntime(RealServer(Server("toy", "toy", Endpoint("shelf", 1), timeout=1), None, ServerOptions()))
        engine = Engine(
            Fleet(project, ProjectState(tmp_path), runtime=OneServerEach(project, lacking) if each or lacking else one)
        )
        if apply:
            assert engine.apply().error() is None
        return engine

    return opened


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    """Progress that nobody watches."""
