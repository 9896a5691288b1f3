"""The containers of a project: which there are, what runs of them, and how the server in each is reached.

Asked of Docker's engine itself, which takes a few milliseconds and works whatever has become of the compose files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from multidb.admin_credentials import other_password
from multidb.concurrency import side_by_side
from multidb.deployment import containers, secured, unused_containers
from multidb.errors import AuthenticationFailed, MultidbError, Refused, RuntimeUnavailable, ServerDown, ServerSlow
from multidb.model import Endpoint, Progress, Project, Server, Session
from multidb.model.container import Container, Pooler, poolers
from multidb.ports import LOOPBACK
from multidb.provisioners import provisioner
from multidb.render.deployment import CA_FILE, volumes_beside
from multidb.runtime import ServerState, ServerStatus, inside
from multidb.runtime.container_state import ContainerState, Verdict, judge
from multidb.runtime.docker_engine import DockerEngine
from multidb.runtime.operation import selected
from multidb.secrets import Secret
from multidb.state import ProjectState
from multidb.variables import compose_project

__all__ = ["RECORD", "ComposeServers", "Stack", "last_lines", "located", "named", "pooler_status"]

RECORD: Final = "compose"
"""The section of the state that holds the volumes which an ``up`` here may have made."""

_STOP_LIMIT: Final = 60  # seconds until a container that does not leave is killed


@dataclass(frozen=True)
class Stack:
    """One compose file and what runs from it.

    Args:
        project: what Compose calls it; also the name of its network.
    """

    project: str
    file: Path
    containers: Sequence[Container]
    engine: DockerEngine

    @property
    def folder(self) -> Path:
        return self.file.parent

    def seen(self) -> dict[str, ContainerState]:
        """Its containers by service. `Refused` when another folder has made them: a second checkout, or another
        project of the same name, whose servers would be replaced by ours."""
        seen = self.engine.containers()
        for container in seen.values():
            if container.folder and Path(container.folder).resolve() != self.folder:
                raise Refused(
                    f"containers of the project {self.project} were made from {container.folder}, not from "
                    f"{self.folder}",
                    where=str(self.file),
                    hint="stop them there (multidb down), or change the name after project: in this manifest",
                )
        return seen


class ComposeServers:
    """What the containers of a project are, and what is known of them now.

    Args:
        state: its secret store keeps the admins' passwords.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project
        self._state = state
        self.containers = containers(project)
        self.exposed = project.deploy.expose == "loopback"
        self._inside = inside()
        self._tls = project.deploy.tls != "none"
        self.poolers = poolers(self.containers, project.deploy.profiles)
        self.stacks = self._stacks_there()

    def chosen(self, only: Sequence[str] | None) -> list[Container]:
        """Those of the servers, or of all servers of the stores, that `only` names. `UsageError`: there is no such."""
        servers = {(container.server, container.store): container for container in self.containers}
        return selected(servers, only, self._project.file)

    @cached_property
    def unused(self) -> list[Container]:
        """Servers that run though no app of the manifest uses them (any more), of those that apps share. None where
        the engine cannot be asked."""
        if self._inside:
            return []
        known = set(self._state.read(RECORD).get("volumes", ()))
        idle = [container for container in unused_containers(self._project) if self.volume(container) in known]
        idle = [container for container in idle if self._state.secrets.get(container.admin_ref) is not None]
        with contextlib.suppress(Refused, RuntimeUnavailable):
            seen = self.seen() if idle else {}
            running = {service for service, container in seen.items() if container.status == "running"}
            return [container for container in idle if container.name in running]
        return []

    def container(self, name: str) -> Container:
        """That of the server `name`."""
        used = [container for container in self.containers if container.server == name]
        (container,) = used or [unused for unused in self.unused if unused.server == name] or self.chosen([name])
        return container

    def stack(self, container: Container) -> Stack:
        """The compose file that it is in, or was, where no app uses it any more: all apps share that one."""
        return next((stack for stack in self.stacks if container in stack.containers), self.stacks[0])

    def seen(self) -> dict[str, ContainerState]:
        """The containers that there are by service, which is a name that no two of the project's servers share."""
        return {service: seen for stack in self.stacks for service, seen in stack.seen().items()}

    def seen_for_addresses(self) -> dict[str, ContainerState]:
        """As `seen`; nothing where addresses are known without asking."""
        return {} if self.exposed or self._inside else self.seen()

    def volume(self, container: Container) -> str:
        """What Docker calls the volume of its data."""
        return f"{self._project.name}_{container.volume}"

    def volumes(self) -> set[str]:
        """All that there are under the project's name."""
        return {volume for stack in self.stacks for volume in stack.engine.volumes()}

    def own_volumes(self) -> set[str]:
        """The volumes of the rendered files: the servers', and those of the services beside them."""
        return {
            *(self.volume(container) for container in self.containers),
            *(f"{self._project.name}_{name}" for name in volumes_beside(self._project.deploy.profiles)),
        }

    def statuses(self) -> list[ServerStatus]:
        """What each server and pooler says of itself now."""
        seen = self.seen()
        servers = side_by_side(
            lambda container: self._look(container, seen.get(container.name)), self.containers, finishing=True
        )
        idle = [self._look(container, seen.get(container.name)).without_apps() for container in self.unused]
        pooled = [
            pooler_status(pooler, server, judge(seen.get(name))) for name, (pooler, server) in self.poolers.items()
        ]
        return [*servers, *idle, *pooled]

    def ask(self, container: Container, seen: ContainerState | None) -> ServerStatus | None:
        """What the server says of itself after a login as its admin; None when it does not answer."""
        server = self.located(container, seen)
        secret = self._state.secrets.get(container.admin_ref)
        if server is None or secret is None:
            return self.failed(container, "runs, and its admin password or its address is not known", seen)
        try:
            version = self._version(server, secret)
        except AuthenticationFailed as error:
            hint = (
                f"its volume was made with another password; restore {self._state.where_secrets_are}, "
                "or: multidb down --volumes"
            )
            return self.failed(container, f"{error.message}; {hint}", seen)
        except (ServerDown, ServerSlow):
            return None
        except MultidbError as error:
            return self.failed(container, error.sentence(), seen)
        return ServerStatus(container.server, container.store, ServerState.RUNNING, server, version, _pid(seen))

    def session(self, server: Server, secret: Secret) -> Session:
        """A session of the admin's, also by the other of two passwords while one replaces the other."""
        connect = provisioner(server.store).connect
        try:
            return connect(server, secret, "multidb up")
        except AuthenticationFailed:
            other = other_password(self._state, server.name, server.store)
            if other is None:
                raise
            return connect(server, other, "multidb up")

    def failed(self, container: Container, message: str, seen: ContainerState | None = None) -> ServerStatus:
        """The status of a server that does not work, and why."""
        server = self.located(container, seen)
        return ServerStatus(container.server, container.store, ServerState.FAILED, server, message, _pid(seen))

    def located(self, container: Container, seen: ContainerState | None) -> Server | None:
        """The server in the container as it is reached from here; None where it has no address or no password."""
        if self._state.secrets.get(container.admin_ref) is None:
            return None
        stack = self.stack(container)
        server = named(container) if self._inside else located(container, seen, None if self.exposed else stack.project)
        if server is None:
            return None
        if not self._inside:
            server = replace(server, container=(stack.project, container.name))
        if not self._tls:
            return server
        return replace(server, endpoint=secured(server.endpoint, container, str(stack.folder / CA_FILE)))

    def stop(self, stack: Stack, service: str, report: Progress) -> str:
        """Stops a container. Says how long it took."""
        began = time.monotonic()
        report(service, "stopping")
        stack.engine.stop(service, _STOP_LIMIT)
        return f"stopped in {time.monotonic() - began:.1f} s"

    def _look(self, container: Container, seen: ContainerState | None) -> ServerStatus:
        verdict = judge(seen)
        if verdict.state is ServerState.RUNNING:
            asked = self.ask(container, seen)
            return asked if asked is not None else self.failed(container, "runs and does not answer", seen)
        server = self.located(container, seen)
        return ServerStatus(container.server, container.store, verdict.state, server, verdict.message, _pid(seen))

    def _version(self, server: Server, secret: Secret) -> str:
        """What a login says the server is."""
        with self.session(server, secret) as session:
            return f"{session.facts.product} {session.facts.version}"

    def _stacks_there(self) -> list[Stack]:
        root, name = Path(self._project.root).resolve(), self._project.name
        if self._project.deploy.strategy != "separate":
            file = root / "infrastructure" / "docker-compose.yml"
            return [Stack(name, file, self.containers, DockerEngine(name))]
        stacks = []
        for app in self._project.apps:
            file, project = root / "apps" / app / "docker-compose.yml", compose_project(self._project, app)
            here = [container for container in self.containers if container.app == app]
            stacks.append(Stack(project, file, here, DockerEngine(project)))
        return stacks


def _pid(seen: ContainerState | None) -> int | None:
    return seen.pid if seen is not None else None


def last_lines(engine: DockerEngine, service: str) -> str:
    """How a service's log ends, to follow a sentence about it; empty where it has said nothing."""
    with contextlib.suppress(MultidbError):
        if words := engine.last_words(service):
            return f" ends with:\n{words}"
    return ""


def pooler_status(pooler: Pooler, container: Container, verdict: Verdict) -> ServerStatus:
    """The status of a pooler in front of the server in `container`."""
    return ServerStatus(pooler.name, container.store, verdict.state, None, verdict.message)


def named(container: Container) -> Server:
    """The server in a container as its neighbours in the network reach it."""
    return Server(
        container.server,
        container.store,
        _endpoint(container, container.name, container.ports),
        app=container.app,
        apps=container.apps,
    )


def located(container: Container, seen: ContainerState | None, network: str | None) -> Server | None:
    """The server in a container as multidb reaches it; None when it has no address now.

    Args:
        network: the network in which it has an address; None where it is published on the loopback address.
    """
    if network is None:
        where = _endpoint(container, LOOPBACK, container.published)
    else:
        address = seen.addresses.get(network) if seen is not None else None
        if address is None:
            return None
        where = _endpoint(container, address, container.ports)
    return Server(container.server, container.store, where, app=container.app, apps=container.apps)


def _endpoint(container: Container, host: str, ports: Mapping[str, int]) -> Endpoint:
    others = {option: str(port) for option, port in ports.items() if option != "port"}
    return Endpoint(host=host, port=ports["port"], user=container.admin, database=container.database, params=others)
