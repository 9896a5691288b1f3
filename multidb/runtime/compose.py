"""The compose runtime: the servers of the rendered compose file, as containers of this machine's Docker engine.

Compose makes the containers out of the file; everything else (health, addresses, logs, stopping) is asked of the engine
itself, which takes a few milliseconds and works whatever has become of the file. Servers are reached on the loopback
address, or, with ``expose: none``, at their address in the deployment's own network.

With strategy ``separate`` there is one such file, and one project of Compose, for each app.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from multidb.admin_credentials import forget_admin_change, other_password
from multidb.concurrency import side_by_side
from multidb.deployment import (
    Deployment,
    app_endpoint,
    containers,
    secured,
)
from multidb.errors import AuthenticationFailed, MultidbError, Refused, ServerDown, ServerError, ServerSlow, UsageError
from multidb.model import App, Endpoint, Progress, Project, Server, Session
from multidb.model.container import Container, Pooler, poolers
from multidb.ports import LOOPBACK, is_taken
from multidb.provisioners import provisioner
from multidb.render.deployment import CA_FILE, volumes_beside
from multidb.runtime import Restarted, ServerState, ServerStatus, compose_tool, inside
from multidb.runtime.container_state import ContainerState, Verdict, judge
from multidb.runtime.docker_engine import DockerEngine
from multidb.runtime.operation import LOCK_TIMEOUT, clear_errors, one_at_a_time, selected
from multidb.secrets import Secret
from multidb.state import ProjectState
from multidb.variables import compose_project

__all__ = ["ComposeRuntime", "located", "outdated"]

_PAUSE: Final = 0.5  # seconds between two looks at the containers
_RECORD: Final = "compose"  # the section of the state that holds the volumes which an ``up`` here may have made
_STOP_LIMIT: Final = 60  # seconds until a container that does not leave is killed
_CERTIFICATE: Final = ("server.crt", "server.key")
_COPYING: Final = ("sh", "/etc/multidb-tls/key.sh")  # puts them where the server may read them, as its start does
_TRUSTED: Final = "ca.crt"  # read by who asks the server, whenever that is; a server does not look at it


@dataclass(frozen=True)
class _Stack:
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


class ComposeRuntime:
    """A `Runtime` of containers, for the stores that apps of the manifest use.

    Args:
        state: its secret store keeps the admins' passwords.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project
        self._state = state
        self._containers = containers(project)
        self._exposed = project.deploy.expose == "loopback"
        self._inside = inside()
        self._tls = project.deploy.tls != "none"
        self._poolers = poolers(self._containers, project.deploy.profiles)
        self._stacks = self._stacks_there()

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
            return self._brought_up(self._chosen(only), self._ours(), report)

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
            running = [(stack, service) for stack in self._stacks for service in stack.seen()]
            if erase:
                self._refuse_unknown_volumes()
            stopped = side_by_side(lambda container: self._stop(*container, report), running, finishing=True)
            for stack in self._stacks:
                stack.engine.remove_networks()
            erased = [volume for stack in self._stacks for volume in (stack.engine.remove_volumes() if erase else ())]
        known = {container.name: (container.server, container.store) for container in self._containers}
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
            chosen, seen = self._chosen(only), self._ours()

            def stop(container: Container) -> None:
                if seen[container.name].status == "running":
                    stopped.add(container.server)
                self._stop(self._stack(container), container.name, report)

            statuses = self._brought_up(chosen, seen, report, stop)
        return [Restarted(status, status.name in stopped) for status in statuses]

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """See `Runtime.retire`.

        Raises:
            Locked: an ``up`` or ``down`` works on this project.
            Refused: the containers belong to another folder; or volumes do, as far as can be told.
            RuntimeUnavailable: no engine.
        """
        report = one_at_a_time(progress)
        own = [container for container in self._containers if container.app == app.id]
        if not own:
            return []
        with clear_errors(), self._state.machine_lock("runtime", "multidb"):
            running = [container for container in own if container.name in self._ours()]
            stopped = [self._stop(self._stack(container), container.name, report) for container in running]
            if erase:
                self._refuse_unknown_volumes()
                for container in own:
                    self._stack(container).engine.remove_volumes([self._volume(container)])
                for container in own:
                    self._state.secrets.delete(self._state.secrets.refs(container.admin_ref.owner))
                    forget_admin_change(self._state, container.server)
        return [
            ServerStatus(container.server, container.store, ServerState.STOPPED, None, message)
            for container, message in zip(running, stopped, strict=True)
        ]

    def tells_admin(self, server: Server) -> bool:
        """See `Runtime.tells_admin`: a container has the environment that it was made with."""
        return self._container(server.name).admin_at_start

    def scratch(
        self, server: Server, progress: Progress, *, adoptable: bool
    ) -> contextlib.AbstractContextManager[Server] | None:
        """See `Runtime.scratch`. With the profile ``backup`` it is the server ``scratch-<store>``, which stays and so
        is `Server.kept`; the data of one container cannot become another's."""
        scratch_servers = [
            container for container in self._containers if container.scratch and container.store == server.store
        ]
        if adoptable or server.app is None or not scratch_servers:
            return None
        seen = {} if self._exposed or self._inside else self._ours()
        scratch = self._located(scratch_servers[0], seen.get(scratch_servers[0].name))
        return None if scratch is None else self._lent(replace(scratch, app=server.app, scratch=True, kept=True))

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
        seen = self._ours()
        servers = side_by_side(
            lambda status: self._look(status, seen.get(status.name)), self._containers, finishing=True
        )
        pooled = [_pooler(pooler, server, judge(seen.get(name))) for name, (pooler, server) in self._poolers.items()]
        return [*servers, *pooled]

    def servers(self) -> list[Server]:
        """See `Runtime.servers`. One that was never started has no password and counts as having no address."""
        seen = {} if self._exposed or self._inside else self._ours()
        own = [container for container in self._containers if not container.scratch]
        servers = [self._located(container, seen.get(container.name)) for container in own]
        return [server for server in servers if server is not None]

    def missing(self) -> list[ServerStatus]:
        """See `Runtime.missing`."""
        located = {server.name for server in self.servers()}
        return [
            ServerStatus(container.server, container.store, ServerState.STOPPED, None, "not started; multidb up")
            for container in self._containers
            if container.server not in located and not container.scratch
        ]

    def app_endpoints(self) -> dict[str, Endpoint]:
        """See `Runtime.app_endpoints`: names and ports in the containers' network, known before any was started."""
        own = [container for container in self._containers if not container.scratch]
        return {container.server: app_endpoint(self._project, container) for container in own}

    def names_for(self, app: App) -> list[str]:
        """See `Runtime.names_for`."""
        return [
            container.server
            for container in self._containers
            if container.store in app.stores and container.serves(app.id)
        ]

    def admin(self, server: Server) -> Secret | None:
        """See `Runtime.admin`."""
        secret = self._state.secrets.get(self._container(server.name).admin_ref)
        if secret is None:
            raise UsageError("has no admin password yet", where=f"server {server.name}", hint="start it: multidb up")
        return secret

    def logs(self, name: str, lines: int, follow: bool) -> Iterator[str]:
        """See `Runtime.logs`."""
        container = self._container(name)
        return self._stack(container).engine.logs(container.name, lines, follow)

    def _stacks_there(self) -> list[_Stack]:
        root, name = Path(self._project.root).resolve(), self._project.name
        if self._project.deploy.strategy != "separate":
            file = root / "infrastructure" / "docker-compose.yml"
            return [_Stack(name, file, self._containers, DockerEngine(name))]
        stacks = []
        for app in self._project.apps:
            file, project = root / "apps" / app / "docker-compose.yml", compose_project(self._project, app)
            here = [container for container in self._containers if container.app == app]
            stacks.append(_Stack(project, file, here, DockerEngine(project)))
        return stacks

    @contextlib.contextmanager
    def _lent(self, scratch: Server) -> Iterator[Server]:
        with self._state.machine_lock(scratch.name, "multidb"):
            yield scratch

    def _stack(self, container: Container) -> _Stack:
        (stack,) = [stack for stack in self._stacks if container in stack.containers]
        return stack

    def _ours(self) -> dict[str, ContainerState]:
        """The containers of the project by service, which is a name that no two of its servers share."""
        return {service: seen for stack in self._stacks for service, seen in stack.seen().items()}

    # Before anything is started

    def _brought_up(
        self,
        chosen: Sequence[Container],
        seen: Mapping[str, ContainerState],
        report: Progress,
        stop: Callable[[Container], None] | None = None,
    ) -> list[ServerStatus]:
        """The servers, and the poolers of theirs, once each answers or is known not to.

        Args:
            stop: stops the container of a server that can be started again; None: only those older than their files
                are stopped.
        """
        compose_tool.command()
        self._refuse_lost(chosen)
        self._render()
        with self._state.change(_RECORD) as record:
            record["volumes"] = sorted(self._own_volumes().union(record.get("volumes", ())))
        outcome = self._unfit(chosen, seen, report)
        fit = [container for container in chosen if container.server not in outcome]
        if stop is None:
            self._stop_outdated(fit, seen, report)
        else:
            side_by_side(stop, [container for container in fit if container.name in seen], finishing=True)
        if fit:
            outcome |= self._started(fit, report)
        pooled = self._poolers_started(outcome, seen, report)
        return [*(outcome[container.server] for container in chosen), *pooled]

    def _render(self) -> None:
        deployment = Deployment(self._project, self._state)
        deployment.write(deployment.files(new_secrets=True))

    def _chosen(self, only: Sequence[str] | None) -> list[Container]:
        servers = {(container.server, container.store): container for container in self._containers}
        return selected(servers, only, self._project.file)

    def _container(self, name: str) -> Container:
        (container,) = self._chosen([name])
        return container

    def _refuse_lost(self, chosen: Sequence[Container]) -> None:
        """A volume whose admin password nobody knows cannot be used, and is not ours to overwrite."""
        unknown = [container for container in chosen if self._state.secrets.get(container.admin_ref) is None]
        volumes = self._volumes() if unknown else set()
        for container in unknown:
            volume = self._volume(container)
            if volume in volumes:
                raise UsageError(
                    f"its data is there (volume {volume}), and its admin password is not in "
                    f"{self._state.where_secrets_are}",
                    where=f"server {container.server}",
                    hint=f"restore it from a copy, or begin with an empty server: docker volume rm {volume}",
                )

    def _refuse_unknown_volumes(self) -> None:
        """Volumes do not say which folder they were made from: only those that an ``up`` here knew may be deleted."""
        unknown = sorted(self._volumes() - set(self._state.read(_RECORD).get("volumes", ())))
        if unknown:
            raise Refused(
                f"not made by a multidb up in this folder: {', '.join(unknown)}; nothing was stopped or deleted",
                where=self._project.file,
                hint=f"when their data is really to go: docker volume rm {' '.join(unknown)}",
            )

    def _own_volumes(self) -> set[str]:
        """The volumes of the rendered files: the servers', and those of the services beside them."""
        return {
            *(self._volume(container) for container in self._containers),
            *(f"{self._project.name}_{name}" for name in volumes_beside(self._project.deploy.profiles)),
        }

    def _volumes(self) -> set[str]:
        return {volume for stack in self._stacks for volume in stack.engine.volumes()}

    def _volume(self, container: Container) -> str:
        return f"{self._project.name}_{container.volume}"

    def _unfit(
        self, chosen: Sequence[Container], seen: Mapping[str, ContainerState], report: Progress
    ) -> dict[str, ServerStatus]:
        """The servers that cannot be started, by name: one is paused, a port is taken, an image cannot be had."""

        def problem(container: Container) -> MultidbError | None:
            present = seen.get(container.name)
            if present is not None and present.status == "paused":  # it holds its port, and Compose starts none
                return UsageError("its container is paused", hint=f"{present.way_on}, then: multidb up")
            if self._exposed and (present is None or present.status != "running"):
                for option, port in container.published.items():
                    if is_taken(port):
                        return UsageError(
                            f"port {port} is taken by another process",
                            hint=f"stop that process, or set another servers.{container.store}.{option}",
                        )
            try:
                self._fetch(container, report)
            except ServerError as error:
                return error
            return None

        problems = zip(chosen, side_by_side(problem, chosen, finishing=True), strict=True)
        return {
            container.server: self._failed(container, error.sentence())
            for container, error in problems
            if error is not None
        }

    def _fetch(self, container: Container, report: Progress) -> None:
        engine = self._stack(container).engine
        if not engine.has(container.image):
            report(container.server, f"pulling {container.image}")
            engine.pull(
                container.image, lambda done, total: report(container.server, f"pulling {container.image}", done, total)
            )

    def _stop_outdated(self, chosen: Iterable[Container], seen: Mapping[str, ContainerState], report: Progress) -> None:
        """Stops the servers whose mounted files are newer than their last start (another configuration, a renewed
        certificate), of which Compose takes no notice. It makes them anew. A server that can take a certificate while
        it runs does so, and nobody is refused."""
        for container in chosen:
            stack, present = self._stack(container), seen.get(container.name)
            mounted = [stack.folder / path for path in container.files]
            own = [*(stack.folder / "tls" / container.name).glob("*")]
            mounted += [path for path in own if path.name not in (*_CERTIFICATE, _TRUSTED)]
            renewed = outdated(present, [path for path in own if path.name in _CERTIFICATE])
            if outdated(present, mounted) or (renewed and not self._takes_certificate(container, present, report)):
                self._stop(stack, container.name, report)

    def _takes_certificate(self, container: Container, seen: ContainerState | None, report: Progress) -> bool:
        """Has a server that runs take the certificate that was made for it, where it can."""
        server, secret = self._located(container, seen), self._state.secrets.get(container.admin_ref)
        if not container.takes_certificate or server is None or secret is None:
            return False
        report(container.server, "taking another certificate")
        try:
            self._stack(container).engine.execute(container.name, _COPYING)
            with self._session(server, secret) as session:
                for _ in session.run(container.takes_certificate, self._state.secrets):
                    pass
        except ServerError:  # a start does the same
            return False
        return True

    # Starting and waiting

    def _started(self, containers: Sequence[Container], report: Progress) -> dict[str, ServerStatus]:
        """Has Compose start the servers, and waits for them. One that it cannot start does not keep the others."""
        for container in containers:
            report(container.server, "starting")
        failed: dict[str, ServerStatus] = {}
        for stack in self._stacks:
            here = [container for container in containers if container in stack.containers]
            try:
                if here:
                    self._compose_up(stack, [container.name for container in here], report)
            except ServerError as error:
                failed |= self._left(stack, here, error)
                if len(failed) == len(containers):
                    raise
        return failed | self._healthy([container for container in containers if container.server not in failed], report)

    def _left(self, stack: _Stack, containers: Sequence[Container], error: ServerError) -> dict[str, ServerStatus]:
        """The servers of a stack that Compose has given up on, by name."""
        seen = stack.engine.containers()
        left = [
            container
            for container in containers
            if container.name not in seen or seen[container.name].status == "created"
        ]
        reasons = {
            container.server: judge(seen.get(container.name)).message for container in left if container.name in seen
        }
        return {
            container.server: self._failed(container, reasons.get(container.server, error.sentence()))
            for container in left
        }

    def _compose_up(self, stack: _Stack, services: Sequence[str], report: Progress) -> None:
        def heard(line: str) -> None:
            report("docker compose", line)

        limit = self._project.progress_timeout
        compose_tool.up(stack.file, stack.project, services, stack.engine.environment, heard, limit)

    def _poolers_started(
        self, servers: Mapping[str, ServerStatus], seen: Mapping[str, ContainerState], report: Progress
    ) -> list[ServerStatus]:
        """The poolers, each started once its server runs: nobody can log in through it before."""
        started = []
        for pooler, container in self._poolers.values():
            status = servers.get(container.server)
            if status is not None:
                running = status.state is ServerState.RUNNING
                waits = Verdict(ServerState.FAILED, f"waits for {container.server}")
                verdict = self._pooler_started(pooler, container, seen, report) if running else waits
                started.append(_pooler(pooler, container, verdict))
        return started

    def _pooler_started(
        self, pooler: Pooler, container: Container, seen: Mapping[str, ContainerState], report: Progress
    ) -> Verdict:
        stack, name = self._stack(container), pooler.name
        report(name, "starting")
        if outdated(seen.get(name), [stack.folder / name, stack.folder / "tls" / name]):
            self._stop(stack, name, report)
        try:
            self._compose_up(stack, [name], report)
        except MultidbError as error:
            return Verdict(ServerState.FAILED, error.sentence())
        began = time.monotonic()
        while True:
            verdict, waited = judge(stack.engine.containers().get(name)), time.monotonic() - began
            if verdict.state is ServerState.RUNNING:
                return verdict
            if verdict.final or waited > pooler.start_timeout:
                words = _ending(stack.engine, name)
                message = f"{verdict.message}; its log{words}" if words else verdict.message
                return Verdict(ServerState.FAILED, message)
            report(name, verdict.message, waited)
            time.sleep(_PAUSE)

    def _healthy(self, containers: Sequence[Container], report: Progress) -> dict[str, ServerStatus]:
        """Waits for each container's health, and then for a real login. The outcome by name."""
        outcome: dict[str, ServerStatus] = {}
        began = time.monotonic()
        while len(outcome) < len(containers):
            seen = self._ours()
            waited = time.monotonic() - began
            for container in containers:
                if container.server not in outcome:
                    status = self._settled(container, seen.get(container.name), waited, report)
                    if status is not None:
                        outcome[container.server] = status
            if len(outcome) < len(containers):
                time.sleep(_PAUSE)
        return outcome

    def _settled(
        self, container: Container, seen: ContainerState | None, waited: float, report: Progress
    ) -> ServerStatus | None:
        """The final word on a server that is being started; None while it may still change."""
        verdict = judge(seen)
        if verdict.state is ServerState.RUNNING:
            status = self._asked(container, seen)
            if status is not None:
                return status
            verdict = Verdict(ServerState.FAILED, "is healthy and does not answer yet", final=False)
        if verdict.final or waited > container.start_timeout:
            late = "" if verdict.final else f" after {waited:.0f} s"
            return self._failed(container, self._with_log(container, f"{verdict.message}{late}"))
        report(container.server, verdict.message, waited)
        return None

    def _look(self, container: Container, seen: ContainerState | None) -> ServerStatus:
        verdict = judge(seen)
        if verdict.state is ServerState.RUNNING:
            asked = self._asked(container, seen)
            return asked if asked is not None else self._failed(container, "runs and does not answer", seen)
        server = self._located(container, seen)
        return ServerStatus(container.server, container.store, verdict.state, server, verdict.message, _pid(seen))

    def _asked(self, container: Container, seen: ContainerState | None) -> ServerStatus | None:
        """What the server says of itself after a login as its admin; None when it does not answer."""
        server = self._located(container, seen)
        secret = self._state.secrets.get(container.admin_ref)
        if server is None or secret is None:
            return self._failed(container, "runs, and its admin password or its address is not known", seen)
        try:
            version = self._version(server, secret)
        except AuthenticationFailed as error:
            hint = (
                f"its volume was made with another password; restore {self._state.where_secrets_are}, "
                "or: multidb down --volumes"
            )
            return self._failed(container, f"{error.message}; {hint}", seen)
        except (ServerDown, ServerSlow):
            return None
        except MultidbError as error:
            return self._failed(container, error.sentence(), seen)
        return ServerStatus(container.server, container.store, ServerState.RUNNING, server, version, _pid(seen))

    def _version(self, server: Server, secret: Secret) -> str:
        """What a login says the server is."""
        with self._session(server, secret) as session:
            return f"{session.facts.product} {session.facts.version}"

    def _session(self, server: Server, secret: Secret) -> Session:
        """A session of the admin's, also by the other of two passwords while one replaces the other."""
        connect = provisioner(server.store).connect
        try:
            return connect(server, secret, "multidb up")
        except AuthenticationFailed:
            other = other_password(self._state, server.name, server.store)
            if other is None:
                raise
            return connect(server, other, "multidb up")

    def _failed(self, container: Container, message: str, seen: ContainerState | None = None) -> ServerStatus:
        server = self._located(container, seen)
        return ServerStatus(container.server, container.store, ServerState.FAILED, server, message, _pid(seen))

    def _with_log(self, container: Container, problem: str) -> str:
        tail = f"; multidb logs {container.server}"
        return f"{problem}{tail}{_ending(self._stack(container).engine, container.name)}"

    def _located(self, container: Container, seen: ContainerState | None) -> Server | None:
        if self._state.secrets.get(container.admin_ref) is None:
            return None
        stack = self._stack(container)
        server = (
            named(container) if self._inside else located(container, seen, None if self._exposed else stack.project)
        )
        if server is None:
            return None
        if not self._inside:
            server = replace(server, container=(stack.project, container.name))
        if not self._tls:
            return server
        return replace(server, endpoint=secured(server.endpoint, container, str(stack.folder / CA_FILE)))

    # Stopping

    def _stop(self, stack: _Stack, service: str, report: Progress) -> str:
        began = time.monotonic()
        report(service, "stopping")
        stack.engine.stop(service, _STOP_LIMIT)
        return f"stopped in {time.monotonic() - began:.1f} s"


def outdated(seen: ContainerState | None, mounted: Iterable[Path]) -> bool:
    """Whether a container runs that was started before one of the files (or a file in one of the folders) changed."""
    if seen is None or seen.status != "running":
        return False
    files = [file for path in mounted for file in (path.iterdir() if path.is_dir() else [path]) if file.exists()]
    return any(file.stat().st_mtime > seen.started for file in files)


def _pid(seen: ContainerState | None) -> int | None:
    return seen.pid if seen is not None else None


def _ending(engine: DockerEngine, service: str) -> str:
    """How a service's log ends, to follow a sentence about it; empty where it has said nothing."""
    with contextlib.suppress(MultidbError):
        if words := engine.last_words(service):
            return f" ends with:\n{words}"
    return ""


def _pooler(pooler: Pooler, container: Container, verdict: Verdict) -> ServerStatus:
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
