"""A project as its folder has it: the checked manifest, and the files of its deployment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from multidb import manifest
from multidb.document import digest
from multidb.errors import MultidbError
from multidb.model import Project
from multidb.model.state_options import is_folder
from multidb.provisioners import INCLUDED, known_stores, provisioner
from multidb.secret_stores import secret_options
from multidb.state import ProjectState
from multidb.state_store import refuse_moved
from multidb.state_stores import open_state, state_address
from multidb.tombstone import tombstones

if TYPE_CHECKING:
    from multidb.deployment import Deployment

__all__ = ["is_current", "is_unchanged", "load_deployment", "load_project", "store_schemas"]


def store_schemas() -> dict[str, manifest.StoreSchema]:
    """What the manifest has to know of each store, taken from the provisioners."""
    return {name: manifest.StoreSchema.of(provisioner(name), usual=name in INCLUDED) for name in known_stores()}


def load_project(
    path: Path, overlay: str | None = None, texts: Mapping[Path, str] | None = None, *, offline: bool = False
) -> Project:
    """Reads and checks the manifest. `ManifestError` lists every problem at once.

    Args:
        texts: what is read in the place of these files, which are not written yet.
        offline: do not ask a state that is kept elsewhere, or was moved there, and do without one here that cannot be
            read: nothing is known of removed apps then.

    Raises:
        StateUnavailable: the state is kept elsewhere, and cannot be reached.
    """
    here = ProjectState(path.parent)
    try:
        kept = here.store.read().document
        removed = {} if "moved" in kept else _removed(here)
    except MultidbError:
        if not offline:
            raise
        kept, removed = {}, {}

    def load(removed: Mapping[str, manifest.Removed]) -> Project:
        kinds = secret_options()
        return manifest.load(path, store_schemas(), overlay, removed, texts, kinds, state_address)

    project = load(removed)
    if is_folder(project.state):
        if not offline:
            refuse_moved(kept, here.store.title)
        return project
    removed = {} if offline else _removed(open_state(project))
    return load(removed) if removed else project


def is_current(project: Project, state: ProjectState) -> bool:
    """Whether reading the manifest again would find the apps of `project` as they are there: none of the files that it
    was read from has changed since, and no app was removed or came back."""
    return is_unchanged(project) and project.removed.keys() == tombstones(state).keys()


def is_unchanged(project: Project) -> bool:
    """Whether none of the files that the manifest was read from has changed since."""
    try:
        return all(digest(Path(file).read_bytes()) == known for file, known in project.sources.items())
    except OSError:
        return False


def _removed(state: ProjectState) -> dict[str, manifest.Removed]:
    return {app: stone.removed for app, stone in tombstones(state).items()}


def load_deployment(path: Path, overlay: str | None = None, *, offline: bool = False) -> Deployment:
    """The files of the manifest's deployment. `ManifestError`, and `offline`, as for `load_project`."""
    from multidb.deployment import Deployment

    project = load_project(path, overlay, offline=offline)
    return Deployment(project, open_state(project))
