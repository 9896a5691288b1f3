"""The start of containers: the rendered files, what keeps a server from starting, and the wait until each answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from multidb.concurrency import side_by_side
from multidb.deployment import Deployment
from multidb.errors import MultidbError, ServerError, UsageError
from multidb.model import Progress, Project
from multidb.model.container import Container, Pooler
from multidb.ports import is_taken
from multidb.runtime import ServerState, ServerStatus, compose_tool
from multidb.runtime.compose_servers import RECORD, ComposeServers, Stack, last_lines, pooler_status
from multidb.runtime.container_state import ContainerState, Verdict, judge
from multidb.state import ProjectState

__all__ = ["ComposeStart", "outdated"]

_PAUSE: Final = 0.5  # seconds between two looks at the containers
_CERTIFICATE: Final = ("server.crt", "server.key")
_COPYING: Final = ("sh", "/etc/multidb-tls/key.sh")  # puts them where the server may read them, as its start does
_TRUSTED: Final = "ca.crt"  # read by who asks the server, whenever that is; a server does not look at it


class ComposeStart:
    """One start of servers.

    Args:
        report: told what is done.
    """

    def __init__(self, project: Project, state: ProjectState, servers: ComposeServers, report: Progress) -> None:
        self._project = project
        self._state = state
        self._servers = servers
        self._report = report

    def run(
        self,
        chosen: Sequence[Container],
        seen: Mapping[str, ContainerState],
        stop: Callable[[Container], None] | None = None,
    ) -> list[ServerStatus]:
        """The servers, and the poolers of theirs, once each answers or is known not to.

        Args:
            stop: stops the container of a server that can be started again; None: only those older than their files
                are stopped.
        """
        compose_tool.command()
        self._refuse_lost(chosen)
        self.render()
        with self._state.change(RECORD) as record:
            record["volumes"] = sorted(self._servers.own_volumes().union(record.get("volumes", ())))
        outcome = self._unfit(chosen, seen)
        fit = [container for container in chosen if container.server not in outcome]
        if stop is None:
            self.stop_outdated(fit, seen)
        else:
            side_by_side(stop, [container for container in fit if container.name in seen], finishing=True)
        if fit:
            outcome |= self._started(fit)
        pooled = self._poolers_started(outcome, seen)
        return [*(outcome[container.server] for container in chosen), *pooled]

    def render(self) -> None:
        """Writes the files of the deployment, with the secrets that are not there yet."""
        deployment = Deployment(self._project, self._state)
        deployment.write(deployment.files(new_secrets=True))

    def _refuse_lost(self, chosen: Sequence[Container]) -> None:
        """A volume whose admin password nobody knows cannot be used, and is not ours to overwrite."""
        unknown = [container for container in chosen if self._state.secrets.get(container.admin_ref) is None]
        volumes = self._servers.volumes() if unknown else set()
        for container in unknown:
            volume = self._servers.volume(container)
            if volume in volumes:
                raise UsageError(
                    f"its data is there (volume {volume}), and its admin password is not in "
                    f"{self._state.where_secrets_are}",
                    where=f"server {container.server}",
                    hint=f"restore it from a copy, or begin with an empty server: docker volume rm {volume}",
                )

    def _unfit(self, chosen: Sequence[Container], seen: Mapping[str, ContainerState]) -> dict[str, ServerStatus]:
        """The servers that cannot be started, by name: one is paused, a port is taken, an image cannot be had."""

        def problem(container: Container) -> MultidbError | None:
            present = seen.get(container.name)
            if present is not None and present.status == "paused":  # it holds its port, and Compose starts none
                return UsageError("its container is paused", hint=f"{present.way_on}, then: multidb up")
            if self._servers.exposed and (present is None or present.status != "running"):
                for option, port in container.published.items():
                    if is_taken(port):
                        return UsageError(
                            f"port {port} is taken by another process",
                            hint=f"stop that process, or set another servers.{container.store}.{option}",
                        )
            try:
                self._fetch(container)
            except ServerError as error:
                return error
            return None

        problems = zip(chosen, side_by_side(problem, chosen, finishing=True), strict=True)
        return {
            container.server: self._servers.failed(container, error.sentence())
            for container, error in problems
            if error is not None
        }

    def _fetch(self, container: Container) -> None:
        engine = self._servers.stack(container).engine
        if not engine.has(container.image):
            self._report(container.server, f"pulling {container.image}")
            engine.pull(
                container.image,
                lambda done, total: self._report(container.server, f"pulling {container.image}", done, total),
            )

    def stop_outdated(self, chosen: Iterable[Container], seen: Mapping[str, ContainerState]) -> None:
        """Stops the servers whose mounted files are newer than their last start (another configuration, a renewed
        certificate), of which Compose takes no notice. It makes them anew. A server that can take a certificate while
        it runs does so, and nobody is refused."""
        for container in chosen:
            stack, present = self._servers.stack(container), seen.get(container.name)
            mounted = [stack.folder / path for path in container.files]
            own = [*(stack.folder / "tls" / container.name).glob("*")]
            mounted += [path for path in own if path.name not in (*_CERTIFICATE, _TRUSTED)]
            renewed = outdated(present, [path for path in own if path.name in _CERTIFICATE])
            if outdated(present, mounted) or (renewed and not self._takes_certificate(container, present)):
                self._servers.stop(stack, container.name, self._report)

    def _takes_certificate(self, container: Container, seen: ContainerState | None) -> bool:
        """Has a server that runs take the certificate that was made for it, where it can."""
        server, secret = self._servers.located(container, seen), self._state.secrets.get(container.admin_ref)
        if not container.takes_certificate or server is None or secret is None:
            return False
        self._report(container.server, "taking another certificate")
        try:
            self._servers.stack(container).engine.execute(container.name, _COPYING)
            with self._servers.session(server, secret) as session:
                for _ in session.run(container.takes_certificate, self._state.secrets):
                    pass
        except ServerError:  # a start does the same
            return False
        return True

    def _pooler_takes(self, pooler: Pooler, stack: Stack) -> bool:
        """Has a pooler that runs take the certificate that was made for it, and the authority of its server's."""
        if not pooler.takes_certificate:
            return False
        self._report(pooler.name, "taking another certificate")
        try:
            stack.engine.execute(pooler.name, _COPYING)
            stack.engine.execute(pooler.name, pooler.takes_certificate)
        except ServerError:
            return False
        return True

    def _started(self, containers: Sequence[Container]) -> dict[str, ServerStatus]:
        """Has Compose start the servers, and waits for them. One that it cannot start does not keep the others."""
        for container in containers:
            self._report(container.server, "starting")
        failed: dict[str, ServerStatus] = {}
        for stack in self._servers.stacks:
            here = [container for container in containers if container in stack.containers]
            try:
                if here:
                    self._compose_up(stack, [container.name for container in here])
            except ServerError as error:
                failed |= self._left(stack, here, error)
                if len(failed) == len(containers):
                    raise
        return failed | self._healthy([container for container in containers if container.server not in failed])

    def _left(self, stack: Stack, containers: Sequence[Container], error: ServerError) -> dict[str, ServerStatus]:
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
            container.server: self._servers.failed(container, reasons.get(container.server, error.sentence()))
            for container in left
        }

    def _compose_up(self, stack: Stack, services: Sequence[str]) -> None:
        def heard(line: str) -> None:
            self._report("docker compose", line)

        limit = self._project.progress_timeout
        compose_tool.up(stack.file, stack.project, services, stack.engine.environment, heard, limit)

    def _poolers_started(
        self, servers: Mapping[str, ServerStatus], seen: Mapping[str, ContainerState]
    ) -> list[ServerStatus]:
        """The poolers, each started once its server runs: nobody can log in through it before."""
        started = []
        for pooler, container in self._servers.poolers.values():
            status = servers.get(container.server)
            if status is not None:
                running = status.state is ServerState.RUNNING
                waits = Verdict(ServerState.FAILED, f"waits for {container.server}")
                verdict = self._pooler_started(pooler, container, seen) if running else waits
                started.append(pooler_status(pooler, container, verdict))
        return started

    def _pooler_started(self, pooler: Pooler, container: Container, seen: Mapping[str, ContainerState]) -> Verdict:
        stack, name = self._servers.stack(container), pooler.name
        self._report(name, "starting")
        present, own = seen.get(name), [*(stack.folder / "tls" / name).glob("*")]
        known_by_name = [path for path in own if path.name in (*_CERTIFICATE, _TRUSTED)]
        files = [stack.folder / name, *(path for path in own if path not in known_by_name)]
        if outdated(present, files) or (outdated(present, known_by_name) and not self._pooler_takes(pooler, stack)):
            self._servers.stop(stack, name, self._report)
        try:
            self._compose_up(stack, [name])
        except MultidbError as error:
            return Verdict(ServerState.FAILED, error.sentence())
        began = time.monotonic()
        while True:
            verdict, waited = judge(stack.engine.containers().get(name)), time.monotonic() - began
            if verdict.state is ServerState.RUNNING:
                return verdict
            if verdict.final or waited > pooler.start_timeout:
                words = last_lines(stack.engine, name)
                message = f"{verdict.message}; its log{words}" if words else verdict.message
                return Verdict(ServerState.FAILED, message)
            self._report(name, verdict.message, waited)
            time.sleep(_PAUSE)

    def _healthy(self, containers: Sequence[Container]) -> dict[str, ServerStatus]:
        """Waits for each container's health, and then for a real login. The outcome by name."""
        outcome: dict[str, ServerStatus] = {}
        began = time.monotonic()
        while len(outcome) < len(containers):
            seen = self._servers.seen()
            waited = time.monotonic() - began
            for container in containers:
                if container.server not in outcome:
                    status = self._settled(container, seen.get(container.name), waited)
                    if status is not None:
                        outcome[container.server] = status
            if len(outcome) < len(containers):
                time.sleep(_PAUSE)
        return outcome

    def _settled(self, container: Container, seen: ContainerState | None, waited: float) -> ServerStatus | None:
        """The final word on a server that is being started; None while it may still change."""
        verdict = judge(seen)
        if verdict.state is ServerState.RUNNING:
            status = self._servers.ask(container, seen)
            if status is not None:
                return status
            verdict = Verdict(ServerState.FAILED, "is healthy and does not answer yet", final=False)
        if verdict.final or waited > container.start_timeout:
            late = "" if verdict.final else f" after {waited:.0f} s"
            return self._servers.failed(container, self._with_log(container, f"{verdict.message}{late}"))
        self._report(container.server, verdict.message, waited)
        return None

    def _with_log(self, container: Container, problem: str) -> str:
        tail = f"; multidb logs {container.server}"
        return f"{problem}{tail}{last_lines(self._servers.stack(container).engine, container.name)}"


def outdated(seen: ContainerState | None, mounted: Iterable[Path]) -> bool:
    """Whether a container runs that was started before one of the files (or a file in one of the folders) changed."""
    if seen is None or seen.status != "running":
        return False
    files = [file for path in mounted for file in (path.iterdir() if path.is_dir() else [path]) if file.exists()]
    return any(file.stat().st_mtime > seen.started for file in files)
