"""A new entry in the manifest, for the commands that make an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multidb import files, manifest
from multidb.cli.options import Run
from multidb.cli.output import Output
from multidb.errors import UsageError
from multidb.model import Project
from multidb.state import ProjectState

__all__ = ["ensure_entry"]


def ensure_entry(run: Run, output: Output, new: str, entry: Mapping[str, Any]) -> tuple[Project, bool]:
    """Adds an app to the manifest's text, if it is not in it.

    Returns:
        The project with the app, as the manifest says it now; and whether the app was added.

    Raises:
        ManifestError: the manifest is wrong, or would be with the entry; it is as it was.
        UsageError: it is laid out in a way that cannot be edited safely; or such an app was removed and not purged.
    """
    if not run.file.exists():
        run.project()  # says so, and what to do; and nothing is written beside what is not there
    # One at a time: reading, changing and writing the manifest must not lose what another run adds meanwhile.
    with ProjectState(run.file.parent).turn("manifest"):
        known = run.project()
        if new in known.apps:
            output.note(f"{new} is in {known.apps[new].where} already")
            return known, False
        if new in known.removed:
            raise UsageError(
                f"app {new} was {known.removed[new].where}, and what it had is still kept",
                hint=f"bring it back: multidb undo-remove {new}; or end it for good: multidb purge {new}",
            )
        before = files.read_text(run.file) or ""
        files.write_text(run.file, manifest.add_app(before, new, entry))
        try:
            project = run.project()
        except BaseException:  # an entry that makes the manifest wrong is taken back before the problem is reported
            files.write_text(run.file, before)
            raise
        output.note(f"Added {new} to {run.file}")
        return project, True
