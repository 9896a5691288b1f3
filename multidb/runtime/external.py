"""The external runtime: servers that exist already, on another host or as a managed service. multidb only reaches them,
where `multidb.model.Address` says.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from multidb.concurrency import side_by_side
from multidb.errors import Refused, UsageError
from multidb.model import Address, App, Endpoint, Progress, Project, Revival, Server, ServerSpec
from multidb.runtime import Restarted, ServerState, ServerStatus
from multidb.runtime.copies import admin_of_copy, clear_copies, forget_copy, revived_here
from multidb.secrets import Secret
from multidb.state import ProjectState

__all__ = ["ExternalRuntime"]


class ExternalRuntime:
    """A `Runtime` that starts and stops nothing.

    Args:
        project: each of its `servers` that an app uses has an address.
        state: has the copies that are brought up here.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project
        self._state = state
        self._root = Path(project.root)

    def up(self, progress: Progress, only: Sequence[str] | None = None) -> list[ServerStatus]:
        """Refuses: these servers are not ours to start."""
        raise self._not_ours("start")

    def to_fetch(self, only: Sequence[str] | None = None) -> list[str]:
        """See `Runtime.to_fetch`. None of these servers is ours to have."""
        return []

    def switch(self, stores: Sequence[str]) -> None:
        """Refuses: these servers are not ours to choose."""
        raise self._not_ours("choose")

    def down(self, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """Refuses: these servers are not ours to stop."""
        raise self._not_ours("stop")

    def restart(self, progress: Progress, only: Sequence[str] | None = None) -> list[Restarted]:
        """Refuses: these servers are not ours to restart."""
        raise self._not_ours("restart", "whoever runs them restarts them; then, here: multidb status")

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """Nothing: none of these servers is ours."""
        return []

    def tells_admin(self, server: Server) -> bool:
        """See `Runtime.tells_admin`: nothing of ours does."""
        return False

    def scratch(self, server: Server, progress: Progress, *, adoptable: bool) -> None:
        """None: these servers are not ours to start."""

    def revived(self, server: Server, revival: Revival, progress: Progress) -> AbstractContextManager[Server] | None:
        """See `Runtime.revived`: on this machine, whatever the server itself runs on."""
        return revived_here(self._project, self._state, server, revival, progress)

    def forget_copy(self, server: Server) -> None:
        """See `Runtime.forget_copy`."""
        forget_copy(self._project, self._state, server)

    def without_scratch(self, server: Server) -> AbstractContextManager[None]:
        """See `Runtime.without_scratch`: none can be adopted here."""
        return nullcontext()

    def adopt(self, server: Server, scratch: Server, progress: Progress) -> None:
        """Refuses: these servers are not ours to change."""
        raise self._not_ours("replace")

    def take_offline(self, server: Server) -> None:
        """None: these servers are not ours to stop."""

    def recover(self, name: str, progress: Progress) -> Server:
        """Refuses: these servers are not ours to stop."""
        raise self._not_ours("stop")

    def resume(self, progress: Progress) -> list[ServerStatus]:
        """See `Runtime.resume`. None of these servers is taken offline."""
        clear_copies(self._project, self._state, progress)
        return []

    def status(self) -> list[ServerStatus]:
        """Whether something listens at each address; nobody logs in for that."""
        return side_by_side(_reached, self.servers(), finishing=True)

    def servers(self) -> list[Server]:
        """See `Runtime.servers`: every server that the manifest names, whether an app uses it or not.

        Raises:
            UsageError: a server that an app uses has no address.
        """
        servers = []
        for spec in self._project.servers:
            if spec.address is not None or self._project.apps_on(spec):
                entry = self._entry(spec)
                endpoint, timeout = entry.endpoint(self._root), entry.timeout
                servers.append(Server(spec.name, spec.store, endpoint, timeout=timeout, apps=spec.apps, external=True))
        return servers

    def missing(self) -> list[ServerStatus]:
        """See `Runtime.missing`. Every server here has an address."""
        return []

    def names_for(self, app: App) -> list[str]:
        """See `Runtime.names_for`. None of these is ours to start."""
        return []

    def admin(self, server: Server) -> Secret | None:
        """See `Runtime.admin`. None also where the manifest names no password: the server asks for none."""
        if server.scratch:
            return admin_of_copy(self._state, server)
        source = self._entry_of(server).password
        if server.endpoint.path or source is None:
            return None
        return source.read(self._root, f"server {server.name}", "the admin's password")

    def app_endpoints(self) -> dict[str, Endpoint]:
        """See `Runtime.app_endpoints`: the entry's ``app_url`` where it has one."""
        return {server.name: self._entry_of(server).app_endpoint(self._root) for server in self.servers()}

    def logs(self, name: str, lines: int, follow: bool) -> Iterator[str]:
        """Refuses: nobody but the servers' own administrators can read these."""
        raise self._not_ours("read the logs of")

    def _entry_of(self, server: Server) -> Address:
        spec = self._project.spec_of(server.name, server.store)
        assert spec is not None
        return self._entry(spec)

    def _entry(self, spec: ServerSpec) -> Address:
        if spec.address is None:
            raise UsageError(
                "is missing, and apps use this store",
                where=f"{self._project.file}, external.{spec.name}",
                hint=f'add: external: {{{spec.name}: {{url: "...", password: {{env: NAME}}}}}}',
            )
        return spec.address

    def _not_ours(self, verb: str, hint: str = "multidb status shows whether they can be reached") -> Refused:
        return Refused(
            f"these servers are not ours to {verb}: the manifest says runtime: external",
            where=self._project.file,
            hint=hint,
        )


def _reached(server: Server) -> ServerStatus:
    endpoint = server.endpoint
    if endpoint.path:
        if Path(endpoint.path).is_dir():
            local = "local mode: a folder, no server process"
            return ServerStatus(server.name, server.store, ServerState.RUNNING, server, local)
        absent = "local mode: the folder is not there"
        return ServerStatus(server.name, server.store, ServerState.STOPPED, server, absent)
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=server.timeout):
            return ServerStatus(server.name, server.store, ServerState.RUNNING, server, "accepts connections")
    except TimeoutError:
        reason = f"does not answer within {server.timeout:g} s"
    except OSError as error:
        reason = f"cannot be reached: {error.strerror or error}"
    return ServerStatus(server.name, server.store, ServerState.FAILED, server, reason)
