"""The files of an app as a part of its sets: written, loaded beside what is there, compared, put in its place."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from multidb import __version__
from multidb.backup.app_files.entries import Omissions, Tally, merged
from multidb.backup.app_files.locations import Location, StagedFiles, explaining, open_location, staged_in
from multidb.backup.app_files.tar import TarWriter, members
from multidb.backup.app_files.tree import remove_tree
from multidb.backup.places import differences
from multidb.backup.sets import StoredPart
from multidb.backup.streams import StoreReader
from multidb.document import printable
from multidb.errors import ArchiveError, UsageError
from multidb.model import App, ArchiveWriter, Part, Project, listed
from multidb.state import ProjectState

__all__ = [
    "clear_scratch",
    "load",
    "locations_of",
    "names_in",
    "occupied_names",
    "staged",
    "tried",
    "write",
]

_TAR: Final = "files.tar"
_FORMAT: Final = "tar 1"
_SCRATCH: Final = "files"


def locations_of(project: Project, app: App, names: Collection[str] | None = None) -> dict[str, Location]:
    """By name, where the manifest has the app's files.

    Args:
        names: only these.

    Raises:
        UsageError: the manifest has no such location; or storage of that kind is not to be had here.
    """
    names = app.files if names is None else names
    if unknown := [name for name in names if name not in app.files]:
        raise UsageError(
            f"app {app.id} has no files {listed([printable(name) for name in unknown])}",
            where=app.where,
            hint="name them in the manifest (files: [..]), or leave files out: --store ...",
        )
    root = Path(project.root)
    return {name: open_location(name, app.files[name], root, project.progress_timeout) for name in names}


def write(locations: Mapping[str, Location], writer: ArchiveWriter) -> Part:
    """Writes all that is in the locations.

    Raises:
        ArchiveError: something of it cannot be read.
    """
    measures, notes = {}, []
    with writer.file(_TAR) as stream, TarWriter(stream) as tar:
        for name, location in locations.items():
            tally, omissions, there = Tally(name), Omissions(), False
            for entry in location.entries(omissions):
                tar.add(name, entry, tally, omissions)
                there = True
            if there:
                measures[name] = tally.measures()
            else:
                notes.append(f"{printable(name)} is not there, and is left as it is when the set is brought back")
            notes += omissions.notes(name)
    return Part(
        format=_FORMAT,
        server=f"files of {platform.system()}",
        client=f"multidb {__version__}",
        consistent=False,
        measures=merged(measures),
        details={"locations": list(measures), "notes": notes},
    )


def names_in(stored: StoredPart) -> list[str]:
    """The locations that a set has files of.

    Raises:
        ArchiveError: it says what no multidb writes.
    """
    names = stored.part.details.get("locations")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ArchiveError("what the set says of its files is not what this multidb writes", hint="take another set")
    return [name for name in names if isinstance(name, str)]


def occupied_names(locations: Mapping[str, Location]) -> list[str]:
    """Those that have something that could be lost."""
    return [name for name, location in locations.items() if not location.is_empty()]


@contextmanager
def staged(locations: Mapping[str, Location], state: ProjectState) -> Iterator[dict[str, StagedFiles]]:
    """New files of each location beside it, to be loaded; gone after the block.

    Raises:
        ArchiveError, Refused: they cannot be there.
    """
    with scratch(state) as folder, ExitStack() as stack:
        yield {name: stack.enter_context(location.staged(folder)) for name, location in locations.items()}


@contextmanager
def tried(names: Sequence[str], state: ProjectState) -> Iterator[dict[str, StagedFiles]]:
    """The same in a folder of the state's, which nobody else reads, to see whether they can be loaded."""
    with scratch(state) as folder, ExitStack() as stack:
        yield {name: stack.enter_context(staged_in(name, folder)) for name in names}


def load(stored: StoredPart, reader: StoreReader, new: Mapping[str, StagedFiles]) -> None:
    """Loads a set's files and compares what is there then with what was measured for the set.

    Raises:
        ArchiveError: it is another; or a name in it leads elsewhere.
        TargetError: the disk is full, which says nothing of the set.
    """
    with explaining(listed([str(files.place.parent) for files in new.values()])):
        with reader.file(_TAR) as stream:
            for member in members(stream, new):
                new[member.location].add(member)
        for files in new.values():
            files.finish()
        actual = merged({name: files.measure() for name, files in new.items()})
    if other := list(differences(stored.part.measures, actual)):
        raise ArchiveError(f"its files are not what was backed up: {listed(other, between='; ')}", hint="take another")


@contextmanager
def scratch(state: ProjectState) -> Iterator[Path]:
    """A folder for what is on its way, and for nobody else."""
    clear_scratch(state)
    folder = state.folder / _SCRATCH
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        clear_scratch(state)


def clear_scratch(state: ProjectState) -> None:
    """Removes what a run that died has left there."""
    if (state.folder / _SCRATCH).is_dir():
        with suppress(OSError):
            folder = os.open(state.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                remove_tree(folder, _SCRATCH)
            finally:
                os.close(folder)
