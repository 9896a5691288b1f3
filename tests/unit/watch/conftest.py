"""An engine over the toy store, on one server for all apps or on one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from multidb_toy.resources import ServerOptions

import multidb.provisioners
from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.model import App, Endpoint, Project, Server
from multidb.project import load_project
from multidb.runtime import ServerStatus
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.toy_store import SHELF

OpenShop = Callable[..., Engine]


class OneEach(GivenRuntime):
    """A server of its own for each app; those named in `lacking` are not there, for the given reason."""

    def __init__(self, project: Project, lacking: dict[str, ServerStatus] | None = None) -> None:
        self._apps = list(project.apps)
        self._lacking = lacking or {}

    def servers(self) -> list[Server]:
        return [
            Server(f"toy-{app}", "toy", Endpoint("shelf", 1), app=app) for app in self._apps if app not in self._lacking
        ]

    def missing(self) -> list[ServerStatus]:
        return list(self._lacking.values())

    def names_for(self, app: App) -> list[str]:
        return [f"toy-{app.id}"]

    def admin(self, server: Server) -> Secret | None:
        return None


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registry line; and an empty shelf for each test."""
    monkeypatch.setattr(multidb.provisioners, "STORES", {"toy": "tests.support.toy_store"})
    monkeypatch.setattr("multidb.project.STORES", {"toy": "tests.support.toy_store"})
    monkeypatch.setattr("multidb.project.INCLUDED", {"toy": "tests.support.toy_store"})
    multidb.provisioners.provisioner.cache_clear()
    SHELF.__init__()  # type: ignore[misc]
    yield
    multidb.provisioners.provisioner.cache_clear()


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
        lines = "".join(f"  {app}: {entry}\n" for app, entry in entries.items())
        head = f"version: 1\nproject: shop\nruntime: embedded\nknown: {known}\n"
        (tmp_path / "multidb.yaml").write_text(f"{head}apps:\n{lines}")
        project = load_project(tmp_path / "multidb.yaml")
        one = GivenRuntime(RealServer(Server("toy", "toy", Endpoint("shelf", 1), timeout=1), None, ServerOptions()))
        engine = Engine(
            Fleet(project, ProjectState(tmp_path), runtime=OneEach(project, lacking) if each or lacking else one)
        )
        if apply:
            assert engine.apply().error() is None
        return engine

    return opened


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    """Progress that nobody watches."""
