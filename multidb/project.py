"""A project as its folder has it: the checked manifest, and the files of its deployment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from multidb import manifest
from multidb.model import Project
from multidb.provisioners import INCLUDED, STORES, provisioner
from multidb.secret_stores import open_state, secret_options
from multidb.state import ProjectState
from multidb.tombstone import tombstones

if TYPE_CHECKING:
    from multidb.deployment import Deployment

__all__ = ["load_deployment", "load_project", "store_schemas"]


def store_schemas() -> dict[str, manifest.StoreSchema]:
    """What the manifest has to know of each store, taken from the provisioners."""
    return {name: manifest.StoreSchema.of(provisioner(name), usual=name in INCLUDED) for name in STORES}


def load_project(path: Path, overlay: str | None = None, texts: Mapping[Path, str] | None = None) -> Project:
    """Reads and checks the manifest. `ManifestError` lists every problem at once.

    Args:
        texts: what is read in the place of these files, which are not written yet.
    """
    removed = {app: stone.removed for app, stone in tombstones(ProjectState(path.parent)).items()}
    return manifest.load(path, store_schemas(), overlay=overlay, removed=removed, texts=texts, secrets=secret_options())


def load_deployment(path: Path, overlay: str | None = None) -> Deployment:
    """The files of the manifest's deployment. `ManifestError` as for `load_project`."""
    from multidb.deployment import Deployment

    project = load_project(path, overlay)
    return Deployment(project, open_state(project))
