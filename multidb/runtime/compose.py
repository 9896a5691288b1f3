"""The compose runtime: the servers of the rendered compose file, as containers of this machine's Docker engine.

Compose makes the containers out of the file; everything else (health, addresses, logs, stopping) is asked of the engine
itself, which takes a few milliseconds and works whatever has become of the file. Servers are reached on the loopback
address, or, with ``expose: none``, at their address in the deployment's own network.

With strategy ``separate`` there is one such file, and one project of Compose, for each app.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from multidb.admin_credentials import forget_admin_change
from multidb.concurrency import side_by_side
from multidb.deployment import app_endpoint
from multidb.errors import Refused, UsageError
from multidb.model import App, Endpoint, Progress, Project, Revival, Server
from multidb.model.container import Container
from multidb.runtime import Restarted, ServerState, ServerStatus
from multidb.runtime.compose_servers import RECORD, ComposeServers
from multidb.runtime.compose_start import ComposeStart
from multidb.runtime.copies import admin_of_copy, forget_copy, revived_here
from multidb.runtime.operation import LOCK_TIMEOUT, clear_errors, one_at_a_time
from multidb.secrets import Secret
from multidb.state import ProjectState

__all__ = ["ComposeRuntime"]


class ComposeRuntime:
    """A `Runtime` of containers, for the stores that apps of the manifest use.

    Args:
        state: its secret store keeps the admins' passwords.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project
        self._state = state
        self._servers = ComposeServers(project, state)

    def up(self, progress: Progress, only: Sequence[str] | None = None) -> list[ServerStatus]:
        """See `Runtime.up`. Writes the rendered files first, so what runs is what the manifest says. `only` takes names
        of servers, or of stores for all their servers. Apps in the same compose file are not started.

        Raises:
            Locked: another ``up`` or ``down`` works on this project.
            Refused: containers of this name belong to another folder; a rendered file's place is taken by a stranger.
            RuntimeUnavailable: no engine, or no Compose.
            UsageError: `only` names no server of the project; files cannot be written; a password is lost.
        """
        report = one_at_a_time(progress)
        with clear_errors(), self._state.machine_lock("runtime", "multidb up", LOCK_TIMEOUT):
            return self._start(report).run(self._servers.chosen(only), self._servers.seen())

    def to_fetch(self, only: Sequence[str] | None = None) -> list[str]:
        """See `Runtime.to_fetch`. Images are pulled by Docker, which says so itself."""
        return []

    def switch(self, stores: Sequence[str]) -> None:
        """Refuses: the image that the manifest names says what a container is."""
        raise Refused("containers are what their images are", hint="change servers.STORE.image, then: multidb up")

    def down(self, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """See `Runtime.down`. Also ends what else Compose started under the project's name (a pooler, apps).

        Raises:
            Locked: another ``up`` or ``down`` works on this project.
            Refused: containers of this name belong to another folder; or volumes do, as far as can be told.
            RuntimeUnavailable: no engine.
        """
        report = one_at_a_time(progress)
        with clear_errors(), self._state.machine_lock("runtime", "multidb down"):
            running = [(stack, service) for stack in self._servers.stacks for service in stack.seen()]
            if erase:
                self._refuse_unknown_volumes()
            stopped = side_by_side(lambda container: self._servers.stop(*container, report), running, finishing=True)
            for stack in self._servers.stacks:
                stack.engine.remove_networks()
            erased = [
                volume for stack in self._servers.stacks for volume in (stack.engine.remove_volumes() if erase else ())
            ]
        known = {container.name: (container.server, container.store) for container in self._servers.containers}
        statuses = [
            ServerStatus(*known.get(service, (service, "")), ServerState.STOPPED, None, message)
            for (_, service), message in zip(running, stopped, strict=True)
        ]
        gone = [ServerStatus(volume, "", ServerState.STOPPED, None, "its data is deleted") for volume in erased]
        return [*statuses, *gone]

    def restart(self, progress: Progress, only: Sequence[str] | None = None) -> list[Restarted]:
        """See `Runtime.restart`. As `up`, with containers made anew, and of what is beside the servers no more than it.

        Raises:
            Locked: another ``up`` or ``down`` works on this project.
            Refused: containers of this name belong to another folder; a rendered file's place is taken by a stranger.
            RuntimeUnavailable: no engine, or no Compose.
            UsageError: `only` names no server of the project; files cannot be written; a password is lost.
        """
        report, stopped = one_at_a_time(progress), set[str]()
        with clear_errors(), self._state.machine_lock("runtime", "multidb restart", LOCK_TIMEOUT):
            chosen, seen = self._servers.chosen(only), self._servers.seen()

            def stop(container: Container) -> None:
                if seen[container.name].status == "running":
                    stopped.add(container.server)
                self._servers.stop(self._servers.stack(container), container.name, report)

            statuses = self._start(report).run(chosen, seen, stop)
        return [Restarted(status, status.name in stopped) for status in statuses]

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """See `Runtime.retire`.

        Raises:
            Locked: an ``up`` or ``down`` works on this project.
            Refused: the containers belong to another folder; or volumes do, as far as can be told.
            RuntimeUnavailable: no engine.
        """
        report = one_at_a_time(progress)
        own = [container for container in self._servers.containers if container.app == app.id]
        if not own:
            return []
        with clear_errors(), self._state.machine_lock("runtime", "multidb"):
            running = [container for container in own if container.name in self._servers.seen()]
            stopped = [
                self._servers.stop(self._servers.stack(container), container.name, report) for container in running
            ]
            if erase:
                self._refuse_unknown_volumes()
                for container in own:
                    self._servers.stack(container).engine.remove_volumes([self._servers.volume(container)])
                for container in own:
                    self._state.secrets.delete(self._state.secrets.refs(container.admin_ref.owner))
                    forget_admin_change(self._state, container.server)
        return [
            ServerStatus(container.server, container.store, ServerState.STOPPED, None, message)
            for container, message in zip(running, stopped, strict=True)
        ]

    def tells_admin(self, server: Server) -> bool:
        """See `Runtime.tells_admin`: a container has the environment that it was made with."""
        return self._servers.container(server.name).admin_at_start

    def scratch(
        self, server: Server, progress: Progress, *, adoptable: bool
    ) -> contextlib.AbstractContextManager[Server] | None:
        """See `Runtime.scratch`. With the profile ``backup`` it is the server ``scratch-<store>``, which stays and so
        is `Server.kept`; the data of one container cannot become another's."""
        scratch_servers = [
            container for container in self._servers.containers if container.scratch and container.store == server.store
        ]
        if adoptable or server.app is None or not scratch_servers:
            return None
        seen = self._servers.seen_for_addresses()
        scratch = self._servers.located(scratch_servers[0], seen.get(scratch_servers[0].name))
        return None if scratch is None else self._lent(replace(scratch, app=server.app, scratch=True, kept=True))

    def revived(
        self, server: Server, revival: Revival, progress: Progress
    ) -> contextlib.AbstractContextManager[Server] | None:
        """See `Runtime.revived`: as a process of this machine."""
        return revived_here(self._project, self._state, server, revival, progress)

    def forget_copy(self, server: Server) -> None:
        """See `Runtime.forget_copy`."""
        forget_copy(self._project, self._state, server)

    def without_scratch(self, server: Server) -> contextlib.AbstractContextManager[None]:
        """See `Runtime.without_scratch`: none can be adopted here."""
        return contextlib.nullcontext()

    def adopt(self, server: Server, scratch: Server, progress: Progress) -> None:
        """Refuses, since there is no scratch server here."""
        raise Refused("containers are not replaced by others", where=str(server))

    def take_offline(self, server: Server) -> None:
        """None: containers are stopped by `down` only."""

    def recover(self, name: str, progress: Progress) -> Server:
        """Refuses: the files are in the container's volume; the documentation says what to run."""
        raise Refused(
            "multidb does not change files in volumes",
            where=f"server {name}",
            hint="docs/deploying.md, under When an app has locked multidb out of Neo4j, has the three commands",
        )

    def resume(self, progress: Progress) -> list[ServerStatus]:
        """Nothing: none is taken offline."""
        return []

    def status(self) -> list[ServerStatus]:
        """See `Runtime.status`. `RuntimeUnavailable` when there is no engine to ask."""
        return self._servers.statuses()

    def servers(self) -> list[Server]:
        """See `Runtime.servers`. One that was never started has no password and counts as having no address."""
        seen = self._servers.seen_for_addresses()
        own = [container for container in self._servers.containers if not container.scratch]
        there = [*own, *self._servers.unused]
        servers = [self._servers.located(container, seen.get(container.name)) for container in there]
        return [server for server in servers if server is not None]

    def missing(self) -> list[ServerStatus]:
        """See `Runtime.missing`."""
        located = {server.name for server in self.servers()}
        return [
            ServerStatus(container.server, container.store, ServerState.STOPPED, None, "not started; multidb up")
            for container in self._servers.containers
            if container.server not in located and not container.scratch
        ]

    def app_endpoints(self) -> dict[str, Endpoint]:
        """See `Runtime.app_endpoints`: names and ports in the containers' network, known before any was started."""
        own = [container for container in self._servers.containers if not container.scratch]
        return {container.server: app_endpoint(self._project, container) for container in own}

    def names_for(self, app: App) -> list[str]:
        """See `Runtime.names_for`."""
        return [
            container.server
            for container in self._servers.containers
            if container.store in app.stores and container.serves(app.id)
        ]

    def admin(self, server: Server) -> Secret | None:
        """See `Runtime.admin`."""
        if server.scratch and not server.kept:
            return admin_of_copy(self._state, server)
        secret = self._state.secrets.get(self._servers.container(server.name).admin_ref)
        if secret is None:
            raise UsageError("has no admin password yet", where=f"server {server.name}", hint="start it: multidb up")
        return secret

    def logs(self, name: str, lines: int, follow: bool) -> Iterator[str]:
        """See `Runtime.logs`."""
        container = self._servers.container(name)
        return self._servers.stack(container).engine.logs(container.name, lines, follow)

    @contextlib.contextmanager
    def _lent(self, scratch: Server) -> Iterator[Server]:
        with self._state.machine_lock(scratch.name, "multidb"):
            yield scratch

    def _start(self, report: Progress) -> ComposeStart:
        return ComposeStart(self._project, self._state, self._servers, report)

    def _refuse_unknown_volumes(self) -> None:
        """Volumes do not say which folder they were made from: only those that an ``up`` here knew may be deleted."""
        unknown = sorted(self._servers.volumes() - set(self._state.read(RECORD).get("volumes", ())))
        if unknown:
            raise Refused(
                f"not made by a multidb up in this folder: {', '.join(unknown)}; nothing was stopped or deleted",
                where=self._project.file,
                hint=f"when their data is really to go: docker volume rm {' '.join(unknown)}",
            )
