"""The folder that multidb makes for the files of an app that it makes of another one: ``apps/<app>/files/``.

It is multidb's to remove, as long as the mark in it says so; no other folder with files of an app is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from multidb import files
from multidb.backup.app_files.locations import explaining, opened
from multidb.backup.app_files.tree import remove_tree
from multidb.backup.sets import FILES
from multidb.model import Owner, Project
from multidb.model.file_options import is_url

__all__ = ["beside", "locations_left", "make_own", "remove_own"]

_MARK: Final = ".multidb"


def beside(declaration: Mapping[str, Any], app: str) -> dict[str, dict[str, str]]:
    """What the entry of a new app says of files, where it is made of one with this declaration: all of them in the
    folder of its own. Empty where there are none."""
    names: Iterable[str] = declaration.get(FILES) or ()
    own = {name: f"apps/{app}/{FILES}/{name}" for name in names}
    return {FILES: own} if own else {}


def make_own(project: Project, app: str) -> None:
    """Makes the folder, if the app has files there, and marks it. One that is there without a mark stays without."""
    folder = _folder(project, app)
    if any(location.startswith(f"apps/{app}/{FILES}/") for location in project.apps[app].files.values()):
        with suppress(FileExistsError), explaining(str(folder)):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            files.write_text(folder / _MARK, json.dumps(_mark(project, app)) + "\n", mode=files.PUBLIC)


def remove_own(project: Project, app: str) -> bool:
    """Removes the folder where it is marked as this app's and no other app has files there. Whether it is gone now.

    Raises:
        ArchiveError: it cannot be removed.
    """
    folder = _folder(project, app)
    everybody = {**project.removed, **project.apps}
    others = [other for name, other in everybody.items() if name != app]
    if any(location.startswith(f"apps/{app}/{FILES}/") for other in others for location in other.files.values()):
        return False
    text = files.read_text(folder / _MARK) if folder.is_dir() and not folder.is_symlink() else None
    if text is None or text.strip() != json.dumps(_mark(project, app)):
        return False
    with explaining(str(folder)), ExitStack() as stack:
        above = os.open(project.root, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, above)
        for step in ("apps", app):
            above = stack.enter_context(opened(above, step))
        remove_tree(above, FILES)
    return True


def locations_left(project: Project, app: str) -> list[str]:
    """The locations of a purged app's files that are there still, as far as they are on this machine."""
    known = {**project.removed, **project.apps}.get(app)
    locations = known.files.values() if known is not None else ()
    return [location for location in locations if is_url(location) or Path(project.root, location).exists()]


def _folder(project: Project, app: str) -> Path:
    return Path(project.root, "apps", app, FILES)


def _mark(project: Project, app: str) -> dict[str, str]:
    return {"owner": str(Owner(project.name, app))}
