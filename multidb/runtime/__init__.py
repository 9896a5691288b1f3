"""Where the servers come from: processes that multidb runs (`embedded`), containers (`compose`), or servers that exist
already (`external`).

A runtime knows nothing of apps' resources; it starts, stops and locates servers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from multidb.errors import MultidbError, ServerDown
from multidb.model import App, Endpoint, Progress, Project, Revival, RuntimeKind, Server, TakeOffline
from multidb.secrets import Secret
from multidb.state import ProjectState

__all__ = ["Restarted", "Runtime", "ServerState", "ServerStatus", "inside", "open_runtime"]


class ServerState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    SKIPPED = "skipped"  # cannot be had on this machine; `message` says why, the rest works without it
    FAILED = "failed"  # should run and does not


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of the runtime, as `multidb status` shows it."""

    name: str
    store: str
    state: ServerState
    server: Server | None  # None when it has no address (skipped)
    message: str = ""  # version when running; the reason otherwise
    pid: int | None = None
    error: MultidbError | None = None  # why it cannot be started, though the project has had it

    @property
    def start_hint(self) -> str:
        """What to do about it while it does not run."""
        return self.server.start_hint if self.server is not None else "start it: multidb up"

    def without_apps(self) -> ServerStatus:
        """The same, of a server that runs though no app uses it (any more)."""
        return replace(self, message=f"{self.message}; no app of the manifest uses it; multidb down stops it")

    def not_running(self) -> ServerDown:
        """What is wrong with a server that was not started, or that cannot be."""
        if self.error is not None:
            return ServerDown(self.error.message, where=f"server {self.name}", hint=self.error.hint)
        return ServerDown("is not running", where=f"server {self.name}", hint=self.start_hint)


@dataclass(frozen=True, slots=True)
class Restarted:
    """A server after a restart. `stopped`: it ran before, and whoever was connected to it was cut off."""

    status: ServerStatus
    stopped: bool


class Runtime(Protocol):
    """What the engine asks of a runtime. All calls may be repeated at will."""

    def up(self, progress: Progress, only: Sequence[str] | None = None) -> list[ServerStatus]:
        """Starts what is not running (or only the servers so named) and returns when each answers.
        A server that cannot be had is reported `SKIPPED`, one that does not come up `FAILED`; the others go on."""

    def to_fetch(self, only: Sequence[str] | None = None) -> list[str]:
        """What the next `up` fetches from the network before it can start these servers, for people: what, from where
        and how much. Empty where everything is there, or somebody else does it."""

    def switch(self, stores: Sequence[str]) -> None:
        """Lets the servers of these stores be another product than the project has had, when `up` next starts them:
        what this machine has now. No data is converted or deleted.

        Raises:
            UsageError: no app uses such a store, or its server runs.
            Refused: servers are not processes of this machine.
        """

    def down(self, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """Stops exactly what `up` started. Data stays, unless `erase` asks for its end; the caller has asked, twice.

        Raises:
            Refused: with `erase`, the servers keep their data elsewhere than in volumes that are ours to delete.
        """

    def restart(self, progress: Progress, only: Sequence[str] | None = None) -> list[Restarted]:
        """Stops what runs and starts it again (or only the servers so named), and returns when each answers; starts
        what did not run. Data stays. A server that is known not to come up again is not stopped: it is `FAILED`.

        Raises:
            Refused: the servers are not ours to restart.
        """

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """Stops the servers that serve nobody but `app`, where they are ours; with `erase` their data goes as well."""

    def status(self) -> list[ServerStatus]:
        """Every server that the manifest asks for, without starting any, and those of ours that run all the same."""

    def servers(self) -> list[Server]:
        """Every server that has an address, running or not. Also the ones that no app uses yet, or any more, of those
        that exist already, and of ours while they run."""

    def missing(self) -> list[ServerStatus]:
        """The servers that the manifest asks for and that have no address: never started, or not to be had here."""

    def app_endpoints(self) -> Mapping[str, Endpoint]:
        """By the name of each server whose address is known, where the apps reach it, which may be another way than
        ours."""

    def names_for(self, app: App) -> list[str]:
        """The names of the servers that `app` uses and that `up` can start; none where they are not ours to start."""

    def admin(self, server: Server) -> Secret | None:
        """The admin's password on `server`; None where the store has no authentication (a local folder).
        `UsageError` when the environment variable or file that should hold it is missing."""

    def tells_admin(self, server: Server) -> bool:
        """Whether the server is told its admin's password at each of its starts by something that only a restart of
        ours changes, so that until then a start of its own gives it the former one back."""

    def scratch(self, server: Server, progress: Progress, *, adoptable: bool) -> AbstractContextManager[Server] | None:
        """A second, empty server of the same kind, version and options as `server`, for the block, that no app has
        credentials for: see ``Archive.prepare``. `admin` knows it. At the end it is stopped and its data removed,
        unless `adopt` took it. One that a killed run has left is ended by the next `scratch`, by `up` and by `down`.

        One that is `Server.kept` is there already and stays; what was loaded into it is the caller's to take away, and
        may still be there when the caller before died.

        Args:
            adoptable: it has to be one that `adopt` can take.

        None where the runtime has none and cannot start one: then nothing replaces it.
        """

    def revived(self, server: Server, revival: Revival, progress: Progress) -> AbstractContextManager[Server] | None:
        """A copy of `server` as of a moment, as a scratch server, for the block: nobody but the admin and who works for
        multidb gets in, and nothing that the server had at work is. `admin` knows it. None where the runtime cannot
        bring one up.

        Raises:
            Locked: another run has one for this server, or an ``up`` or ``down`` works on this project.
            ArchiveError, WrongVersion, RuntimeUnavailable, TargetError: as in `RevivableKind.revive`.
            ServerError: it does not start.
        """

    def forget_copy(self, server: Server) -> None:
        """Removes the copy of `server` that was kept (`Revival.keep`). None there is fine.

        Raises:
            Locked: another run is at it.
        """

    def without_scratch(self, server: Server) -> AbstractContextManager[None]:
        """In the block `server` has no scratch server that could be adopted: `Locked` while another run has one."""

    def adopt(self, server: Server, scratch: Server, progress: Progress) -> None:
        """Puts the data of `scratch` in the place of that of `server` and starts it anew at its old address: a moment
        of downtime, then all of the new data. Killed anywhere, the next `up` finds the old data or the new, whole.
        Logins of apps are not in the new data: `multidb apply` makes them again.
        """

    def take_offline(self, server: Server) -> TakeOffline | None:
        """How to stop `server` for a block and start it again after it, at its old address; None where it is not ours
        to stop, or has no tool that works on its files. One at a time: `Locked` while another is offline, or an ``up``
        or ``down`` is under way. After a kill it stays stopped until `resume` or `up`."""

    def recover(self, name: str, progress: Progress) -> Server:
        """Lets multidb back into the server `name` when somebody has changed its admin's password: stops it, takes all
        of its logins away and starts it with the admin's own. Nobody gets in meanwhile, no other data is touched.
        Logins of apps come back with ``apply``. Killed anywhere, the next `up` goes on with it.

        `Refused` where the server is not ours to stop.
        """

    def resume(self, progress: Progress) -> list[ServerStatus]:
        """Starts the servers that a killed run has left offline, and ends the copies and scratch servers that it has
        left; an entry for each that did not run."""

    def logs(self, name: str, lines: int, follow: bool) -> Iterator[str]:
        """The last `lines` lines that the server `name` has said; with `follow` also each new one, without an end.

        `Refused` where its logs are not ours to read."""


def inside() -> bool:
    """Whether this process runs in a container of the servers' own network (``MULTIDB_INSIDE=1``), as the sidecars do
    that multidb renders: servers are reached by their names then, and there is no engine to ask."""
    return os.environ.get("MULTIDB_INSIDE") == "1"


def open_runtime(project: Project, state: ProjectState) -> Runtime:
    """The runtime that the manifest asks for. Starts nothing and reads nothing."""
    if project.runtime is RuntimeKind.EMBEDDED and not inside():
        from multidb.runtime.embedded import EmbeddedRuntime

        return EmbeddedRuntime(project, state)
    if project.runtime.starts_servers:
        from multidb.runtime.compose import ComposeRuntime

        return ComposeRuntime(project, state)
    from multidb.runtime.external import ExternalRuntime

    return ExternalRuntime(project, state)
