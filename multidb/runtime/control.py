"""Starting and stopping single servers of one project, for work that needs them so for a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from multidb.errors import ServerError
from multidb.model import HostedServer, Progress, Server
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.ledger import Ledger, Process
from multidb.runtime.starting import Start
from multidb.state import ProjectState

__all__ = ["Control"]


@dataclass(frozen=True, slots=True)
class Control:
    """Whoever calls it has a lock that keeps others away from the server.

    Args:
        end: ends a recorded process and forgets it.
    """

    state: ProjectState
    ledger: Ledger
    progress: Progress
    end: Callable[[Process, Progress], ServerStatus]

    def start(self, hosted: HostedServer) -> Server:
        """Starts a server and gives it; `ServerError` with the reason when it does not come up."""
        status = Start(self.state, self.ledger, self.progress).all([hosted])[0]
        if status.state is not ServerState.RUNNING or status.server is None:
            raise ServerError(status.message, where=f"server {hosted.name}")
        return status.server

    def stop(self, name: str) -> None:
        """Stops the server of this name, if one is recorded."""
        process = self.ledger.read().get(name)
        if process is not None:
            self.end(process, self.progress)
