"""Where a project's state is kept: in its folder, in S3, or on a server of a store that can keep one."""

from __future__ import annotations

from pathlib import Path

from multidb.errors import MultidbError, StateUnavailable
from multidb.model import Project, Server
from multidb.model.state_options import is_folder, is_s3
from multidb.provisioners import provisioner
from multidb.runtime import open_runtime
from multidb.secret_stores import open_secret_store
from multidb.secrets import Secret
from multidb.state import FILE, ProjectState, holder
from multidb.state_folder import FolderStateStore
from multidb.state_store import StateStore

__all__ = ["open_state", "open_state_store"]


def open_state(project: Project) -> ProjectState:
    """What is remembered of the project, its secrets and its state, where its manifest has them kept. Touches nothing
    yet.

    Raises:
        UsageError: the package for such a place is not installed, or its options make no sense here.
    """
    state = _in_folder(project)
    if is_folder(project.state):
        return state
    store = open_state_store(project, project.state)
    return ProjectState(Path(project.root), state.secrets, state.where_secrets_are, store)


def _in_folder(project: Project) -> ProjectState:
    """With the secrets where the manifest has them kept, and the state in the folder, which of a state that is kept
    elsewhere has what is this machine's."""
    root = Path(project.root)
    if project.secrets.kind == FILE:
        return ProjectState(root)
    return ProjectState(root, open_secret_store(project.secrets, root), str(project.secrets))


def open_state_store(project: Project, address: str) -> StateStore:
    """A place for the state of the project, as its manifest would have it after ``state:``. Touches nothing yet.
    `UsageError` as above."""
    root = Path(project.root)
    if is_folder(address):
        return FolderStateStore(root / ".multidb")
    if is_s3(address):
        from multidb.state_stores.s3 import S3StateStore

        return S3StateStore(address, project.name)
    keeper = provisioner(address).state_store
    assert keeper is not None, f"the manifest was not checked: {address}"
    return keeper(lambda: _reached(project, address), project.name, f"multidb state of {holder('')['user']}")


def _reached(project: Project, name: str) -> tuple[Server, Secret | None]:
    """The server of this name with its admin's password, found without the state: what tells where servers are is this
    machine's."""
    runtime = open_runtime(project, _in_folder(project))
    try:
        server = next((server for server in runtime.servers() if server.name == name), None)
        if server is not None:
            return server, runtime.admin(server)
    except StateUnavailable:
        raise
    except MultidbError as error:
        raise StateUnavailable(str(error), where=f"the state in {name}", hint=error.hint) from None
    raise StateUnavailable(
        f"the server {name} is not there yet, or no app uses it",
        where=f"the state in {name}",
        hint="begin in the folder (state: .multidb/), bring the server up, then: multidb state move --to postgres",
    )
