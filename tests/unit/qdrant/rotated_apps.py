"""A project on a Qdrant in memory, whose apps have two tokens in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multidb.engine import Engine
from multidb.environment import environment
from multidb.errors import AuthenticationFailed, NotAllowed
from multidb.fleet import Fleet
from multidb.model import (
    App,
    Endpoint,
    Project,
    RuntimeKind,
    Server,
    ServerSpec,
    Status,
    Tenant,
)
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.driver import connection
from multidb.provisioners.qdrant.isolation import audit as probes
from multidb.provisioners.qdrant.observe import health
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import (
    registry_name,
)
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.rotating import OneRotation
from tests.unit.qdrant.token_server import Connection, TokenServer

KEY = "a-key-of-the-tests-with-more-than-32-bytes"


SERVER = Server("qdrant", "qdrant", Endpoint("127.0.0.1", 6333))


REGISTRY = registry_name("digi")


CHECK = PROVISIONER.check_health


class World:
    """A project with the apps `lernmi` and `devao` on one server."""

    def __init__(self, folder: Path, server: TokenServer) -> None:
        self.server, self.state = server, ProjectState(folder)
        self.writes: list[dict[str, str]] = []
        settings = AppOptions(collections={"knowledge": {"size": 4}})
        self.project = Project(
            name="digi",
            runtime=RuntimeKind.EMBEDDED,
            apps={name: App(name, name, {"qdrant": settings}) for name in ("lernmi", "devao")},
            servers=(ServerSpec("qdrant", "qdrant", ServerOptions()),),
            root=str(folder),
        )

    @property
    def engine(self) -> Engine:
        runtime: Any = GivenRuntime(RealServer(SERVER, Secret(KEY), ServerOptions()))
        return Engine(Fleet(self.project, self.state, runtime=runtime, command="test"))

    def apply(self) -> None:
        error = self.engine.apply().error()
        assert error is None, error
        assert self.engine.plan().in_sync

    def token(self, app: str = "lernmi") -> str:
        """As the app has it in its variables."""
        value = environment(self.engine.fleet, app).env["QDRANT_API_KEY"]
        assert isinstance(value, Secret)
        return value.reveal()

    def rotation(self) -> OneRotation:
        return OneRotation(self.engine, "lernmi", lambda: False)

    def lets_in(self, token: str, app: str = "lernmi") -> bool:
        """Whether an app that comes with this token can work."""
        options = self.project.apps[app]
        env: dict[str, str | Secret] = {"QDRANT_URL": "http://127.0.0.1:6333", "QDRANT_API_KEY": Secret(token)}
        context = self.engine.fleet.recorded_context(SERVER)
        assert CHECK is not None
        try:
            return CHECK(Tenant(options, SERVER, context, env), False).status is Status.HEALTHY
        except (AuthenticationFailed, NotAllowed):
            return False

    def entries(self) -> set[str]:
        """What the tokens are called that are let in."""
        with self.engine.fleet.open(SERVER) as session:
            catalog: Any = session
            return set(catalog._catalog.admitted(REGISTRY).values())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    server = TokenServer(tmp_path / "qdrant", KEY)
    for module in (connection, health, probes):
        monkeypatch.setattr(module, "Http", lambda _, key: Connection(server, key))
    made = World(tmp_path, server)
    made.apply()
    yield made
    server.close()
