"""A runtime that hands out one server that the test run has already started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multidb.model import App, Endpoint, Progress, Project, Revival, Server
from multidb.runtime import Restarted, ServerState, ServerStatus
from multidb.secrets import Secret
from tests.support.case import RealServer


class GivenRuntime:
    def __init__(self, real: RealServer) -> None:
        self._real = real

    def up(self, progress: Progress, only: Sequence[str] | None = None) -> list[ServerStatus]:
        return self.status()

    def to_fetch(self, only: Sequence[str] | None = None) -> list[str]:
        return []

    def switch(self, stores: Sequence[str]) -> None:
        raise AssertionError("there is no other product")

    def down(self, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        return self.status()

    def restart(self, progress: Progress, only: Sequence[str] | None = None) -> list[Restarted]:
        raise AssertionError("others use it")

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        return []

    def tells_admin(self, server: Server) -> bool:
        return False

    def scratch(self, server: Server, progress: Progress, *, adoptable: bool) -> None:
        return None

    def revived(self, server: Server, revival: Revival, progress: Progress) -> None:
        return None

    def forget_copy(self, server: Server) -> None:
        raise AssertionError("there is no copy")

    def without_scratch(self, server: Server) -> AbstractContextManager[None]:
        return nullcontext()

    def adopt(self, server: Server, scratch: Server, progress: Progress) -> None:
        raise AssertionError("there is no scratch server")

    def take_offline(self, server: Server) -> None:
        return None

    def recover(self, name: str, progress: Progress) -> Server:
        raise AssertionError("its admin's password is right")

    def resume(self, progress: Progress) -> list[ServerStatus]:
        return []

    def status(self) -> list[ServerStatus]:
        server = self._real.server
        return [ServerStatus(server.name, server.store, ServerState.RUNNING, server)]

    def servers(self) -> list[Server]:
        return [self._real.server]

    def missing(self) -> list[ServerStatus]:
        return []

    def app_endpoints(self) -> dict[str, Endpoint]:
        return {server.name: server.endpoint for server in self.servers()}

    def names_for(self, app: App) -> list[str]:
        return []

    def admin(self, server: Server) -> Secret | None:
        return self._real.admin

    @staticmethod
    def save(path: Path, case: str, real: RealServer, apps: Sequence[str], root: Path) -> None:
        """Writes down what `load` needs in another process."""
        server = real.server
        document = {
            "case": case,
            "server": {
                **asdict(server),
                "endpoint": {**asdict(server.endpoint), "params": dict(server.endpoint.params)},
            },
            "admin": real.admin.reveal() if real.admin else None,
            "options": real.options.model_dump(mode="json"),
            "apps": list(apps),
            "root": str(root),
        }
        path.write_text(json.dumps(document))
        path.chmod(0o600)

    @staticmethod
    def load(document: dict[str, Any], options: Any) -> RealServer:
        server = Server(**{**document["server"], "endpoint": Endpoint(**document["server"]["endpoint"])})
        return RealServer(server, Secret(document["admin"]) if document["admin"] else None, options)


class OneServerEach(GivenRuntime):
    """A server of the toy store for each app of a project.

    Args:
        lacking: by app, what there is to say of a server that is not there.
    """

    def __init__(self, project: Project, lacking: Mapping[str, ServerStatus] | None = None) -> None:
        self._apps = list(project.apps)
        self._lacking = lacking or {}

    def servers(self) -> list[Server]:
        there = [app for app in self._apps if app not in self._lacking]
        return [Server(f"toy-{app}", "toy", Endpoint("shelf", 1), app=app) for app in there]

    def missing(self) -> list[ServerStatus]:
        return list(self._lacking.values())

    def names_for(self, app: App) -> list[str]:
        return [f"toy-{app.id}"]

    def admin(self, server: Server) -> Secret | None:
        return None
