"""Where a project's state is kept: in its folder, on a server of a store that can keep one, or at an address. The kinds
of places that have addresses are those that come with multidb, each a module here, and those that packages installed
beside it add as entry points of the group ``multidb.states``.

    [project.entry-points."multidb.states"]
    toy = "multidb_toy.state"                # the module whose ``STATE_STORE`` it is; for addresses toy://...
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from multidb.entry_points import added_modules, record_in, unusable
from multidb.errors import MultidbError, StateUnavailable, UsageError
from multidb.model import Project, Server
from multidb.model.state_options import INCLUDED_STATES, StateAddress, is_folder, scheme_of
from multidb.provisioners import provisioner
from multidb.runtime import open_runtime
from multidb.secret_stores import open_secret_store
from multidb.secrets import Secret
from multidb.state import FILE, ProjectState, holder
from multidb.state_folder import FolderStateStore
from multidb.state_store import StateStore
from multidb.state_stores.kind import StateStoreKind

__all__ = ["open_state", "open_state_store", "state_address", "state_store_kind"]

_GROUP: Final = "multidb.states"


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
    if scheme := scheme_of(address):
        return state_store_kind(scheme).open(address, project.name, root)
    keeper = provisioner(address).state_store
    assert keeper is not None, f"the manifest was not checked: {address}"
    return keeper(lambda: _reached(project, address), project.name, f"multidb state of {holder('')['user']}")


def state_address(scheme: str) -> StateAddress | None:
    """How addresses with this scheme look; None: there is no such kind of place.

    Raises:
        UsageError: the package that adds it cannot be used.
    """
    if scheme in INCLUDED_STATES:
        return INCLUDED_STATES[scheme]
    return state_store_kind(scheme).address if scheme in _added() else None


@cache
def state_store_kind(scheme: str) -> StateStoreKind:
    """The kind of place whose addresses begin so.

    Raises:
        UsageError: there is no such kind; or the package that adds it cannot be used.
    """
    module = f"{__name__}.{scheme}" if scheme in INCLUDED_STATES else _added().get(scheme, "")
    if not module:
        known = ", ".join([*INCLUDED_STATES, *_added()])
        raise UsageError(f"no state can be kept in {scheme}://", hint=f"addresses that can: {known}")
    where = f"state {scheme}://"
    kind = record_in(module, "STATE_STORE", where)
    if not isinstance(kind, StateStoreKind) or kind.scheme != scheme:
        raise unusable(module, "has no STATE_STORE of this scheme", where)
    return kind


@cache
def _added() -> Mapping[str, str]:
    """By scheme the modules of the kinds that other packages add. None takes the place of one of ours."""
    return added_modules(_GROUP, INCLUDED_STATES)


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
