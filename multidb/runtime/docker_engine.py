"""The Docker engine, as far as multidb needs it: containers, volumes and networks of one compose project, and images.

Only what Compose has labelled with the project's name is ever seen or touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from multidb.errors import MultidbError, RuntimeUnavailable, ServerError
from multidb.runtime.container_state import ContainerState, read

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["DockerEngine", "address"]

_PROJECT: Final = "com.docker.compose.project"
_SERVICE: Final = "com.docker.compose.service"
_SLOWEST: Final = 120.0  # seconds that one call may take; stopping and pulling are given their own time
_LOCAL: Final = ("unix", "npipe")


class DockerEngine:
    """A connection to the engine. Made by every command anew and cheap: nothing is asked before the first call.

    Raises:
        RuntimeUnavailable: the engine does not run, or does not let us in. By any method.
    """

    def __init__(self, project: str) -> None:
        self._project = project
        self._opened: DockerClient | None = None

    def containers(self) -> dict[str, ContainerState]:
        """The project's containers by service, running or not."""
        with _clear(self._where):
            return {seen.service: seen for seen in (read(container.attrs) for container in self._containers())}

    def volumes(self) -> list[str]:
        """The names of the project's volumes."""
        with _clear(self._where):
            return sorted(str(volume.name) for volume in self._client().volumes.list(filters=self._ours))

    def logs(self, service: str, lines: int, follow: bool) -> Iterator[str]:
        """What a service has printed last, line by line; with `follow` also what it prints from now on."""
        with _clear(self._where):
            for container in self._containers(service):
                rest = ""
                for chunk in container.logs(stream=True, follow=follow, tail=lines):
                    *whole, rest = (rest + chunk.decode(errors="replace")).split("\n")
                    yield from whole
                if rest:
                    yield rest

    def last_words(self, service: str, lines: int = 5) -> str:
        """The end of a service's log, indented; empty when there is none."""
        return "\n".join(f"  {line}" for line in self.logs(service, lines, follow=False) if line.strip())

    def has(self, image: str) -> bool:
        """Whether the image is on this machine."""
        from docker.errors import ImageNotFound

        with _clear(self._where):
            try:
                self._client().images.get(image)
            except ImageNotFound:
                return False
            return True

    def pull(self, image: str, heard: Callable[[float, float], None]) -> None:
        """Fetches an image. `heard` is told how many bytes are here, of how many that are known so far.

        Raises:
            ServerError: there is no such image, or the registry cannot be reached or does not let us in.
        """
        from docker.errors import APIError

        parts: dict[str, tuple[float, float]] = {}
        with _clear(self._where):
            try:
                for step in self._client().api.pull(image, tag=_tag(image), stream=True, decode=True):
                    if "error" in step:
                        raise _no_image(image, str(step["error"]))
                    detail = step.get("progressDetail") or {}
                    if detail.get("total") and step.get("status") == "Downloading":
                        parts[step["id"]] = (float(detail["current"]), float(detail["total"]))
                        heard(sum(done for done, _ in parts.values()), sum(total for _, total in parts.values()))
            except APIError as error:
                raise _no_image(image, str(error.explanation or error)) from None

    def stop(self, service: str, seconds: int) -> None:
        """Stops a service's container and removes it; its volumes stay. Killed if it does not leave in time."""
        from docker.errors import NotFound

        with _clear(self._where):
            for container in self._containers(service):
                with contextlib.suppress(NotFound):  # gone by itself meanwhile
                    container.stop(timeout=seconds)
                    container.remove()

    def execute(self, service: str, command: Sequence[str]) -> None:
        """Runs a command in a service's container, as the user of its image.

        Raises:
            ServerError: it failed, or there is no such container that runs.
        """
        from docker.errors import APIError

        with _clear(self._where):
            running = self._containers(service)
            try:
                ended = [container.exec_run(list(command)) for container in running]
            except APIError as error:
                raise ServerError(str(error.explanation or error), where=service) from None
        for code, printed in ended:
            if code:
                text = printed.decode(errors="replace").strip()
                raise ServerError(f"{command[0]} ended with {code}: {text}", where=service)
        if not ended:
            raise ServerError("its container is gone", where=service)

    def remove_networks(self) -> list[str]:
        """Removes the project's networks. Those that containers of others (the apps) are still in stay; their names."""
        from docker.errors import APIError, NotFound

        kept = []
        with _clear(self._where):
            for network in self._client().networks.list(filters=self._ours):
                try:
                    network.remove()
                except NotFound:
                    continue
                except APIError as error:
                    if error.status_code != 403:  # active endpoints
                        raise
                    kept.append(str(network.name))
        return kept

    def remove_volumes(self, only: Collection[str] | None = None) -> list[str]:
        """Removes the project's volumes (or those of these names) with everything in them; their names."""
        removed = []
        with _clear(self._where):
            for volume in self._client().volumes.list(filters=self._ours):
                if only is not None and volume.name not in only:
                    continue
                volume.remove()
                removed.append(str(volume.name))
        return removed

    @property
    def environment(self) -> dict[str, str]:
        """What makes the Docker command line talk to the same engine."""
        where = self._where
        return {"DOCKER_HOST": where} if where else {}

    @property
    def _ours(self) -> dict[str, Any]:
        return {"label": f"{_PROJECT}={self._project}"}

    @property
    def _where(self) -> str:
        return address(os.environ)

    def _client(self) -> DockerClient:
        if self._opened is None:
            import docker

            where = self._where
            if where and urlsplit(where).scheme not in _LOCAL:
                raise RuntimeUnavailable(
                    f"the Docker engine is on another machine ({where}), where multidb cannot reach its servers",
                    hint="use this machine's engine (unset DOCKER_HOST), or run multidb there",
                )
            self._opened = docker.DockerClient(base_url=where or None, version="auto", timeout=int(_SLOWEST))
        return self._opened

    def _containers(self, service: str | None = None) -> Sequence[Any]:
        labels = [f"{_PROJECT}={self._project}", *([f"{_SERVICE}={service}"] if service else [])]
        # A container may go between being listed and being looked at.
        containers: Sequence[Any] = self._client().containers.list(
            all=True, filters={"label": labels}, ignore_removed=True
        )
        return [
            container
            for container in containers
            if container.labels.get("com.docker.compose.oneoff", "False") != "True"
        ]


def address(environment: Mapping[str, str]) -> str:
    """Where the Docker command line would look for the engine: ``DOCKER_HOST``, else its current context.

    Empty: the platform's usual place. The library alone knows only ``DOCKER_HOST``, and so would miss Docker Desktop,
    Colima and rootless engines.
    """
    if environment.get("DOCKER_HOST"):
        return environment["DOCKER_HOST"]
    from docker.context import ContextAPI

    with contextlib.suppress(Exception):  # a broken ~/.docker is the command line's to complain about
        context = ContextAPI.get_context(environment.get("DOCKER_CONTEXT"))
        return str(context.Host or "") if context is not None else ""
    return ""


@contextlib.contextmanager
def _clear(where: str) -> Iterator[None]:
    """Turns what the library raises into errors for people."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except MultidbError:
        raise
    except APIError as error:
        raise ServerError(f"the Docker engine refuses: {error.explanation or error}", where=where or None) from None
    except (DockerException, RequestException, OSError) as error:
        raise _no_engine(where, error) from None


def _no_engine(where: str, error: Exception) -> RuntimeUnavailable:
    place = f" at {where}" if where else ""
    if "PermissionError" in str(error) or "Permission denied" in str(error):
        return RuntimeUnavailable(
            f"the Docker engine{place} does not let this user in",
            hint="join its group (sudo usermod -aG docker $USER, then log in again), or use runtime: embedded",
        )
    return RuntimeUnavailable(
        f"no Docker engine answers{place}",
        hint="start it (sudo systemctl start docker, or Docker Desktop), or use runtime: embedded, which needs none",
    )


def _no_image(image: str, reason: str) -> ServerError:
    return ServerError(
        f"the image {image} cannot be pulled: {' '.join(reason.split())}",
        hint="check its name in the manifest (servers.<store>.image), the network, and docker login; "
        f"then try: docker pull {image}",
    )


def _tag(image: str) -> str | None:
    """The tag to ask for: without one, the library would fetch every tag there is."""
    name = image.rpartition("/")[2]
    return None if ":" in name or "@" in name else "latest"
