"""Copies of servers that are no processes of this machine, brought up on it all the same: it needs the program."""

from __future__ import annotations

from contextlib import AbstractContextManager

from multidb.errors import UsageError
from multidb.model import Progress, Project, Revival, Server
from multidb.runtime.hosted import admin_ref
from multidb.secrets import Secret
from multidb.state import ProjectState

__all__ = ["admin_of_copy", "clear_copies", "forget_copy", "revived_here"]


def revived_here(
    project: Project, state: ProjectState, server: Server, revival: Revival, progress: Progress
) -> AbstractContextManager[Server] | None:
    """See `Runtime.revived`."""
    from multidb.runtime.embedded import EmbeddedRuntime

    return EmbeddedRuntime(project, state).revived(server, revival, progress)


def forget_copy(project: Project, state: ProjectState, server: Server) -> None:
    """See `Runtime.forget_copy`."""
    from multidb.runtime.embedded import EmbeddedRuntime

    EmbeddedRuntime(project, state).forget_copy(server)


def admin_of_copy(state: ProjectState, server: Server) -> Secret:
    """The admin's password on a copy. `UsageError` where there is none any more."""
    secret = state.secrets.get(admin_ref(server.name, server.store))
    if secret is None:
        raise UsageError("has no admin password", where=f"server {server.name}", hint="run the command again")
    return secret


def clear_copies(project: Project, state: ProjectState, progress: Progress) -> None:
    """Ends those that a killed run has left."""
    from multidb.runtime.embedded import EmbeddedRuntime

    EmbeddedRuntime(project, state).clear_scratch(progress)
