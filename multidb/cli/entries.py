"""A new entry in the manifest, for the commands that make an app."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multidb import files, manifest
from multidb.cli.options import Run
from multidb.cli.output import Output
from multidb.errors import UsageError
from multidb.project import load_project
from multidb.state import ProjectState

__all__ = ["ensure_entry"]


def ensure_entry(run: Run, output: Output, new: str, entry: Mapping[str, Any]) -> bool:
    """Adds an app to the manifest's text, if it is not in it. Says whether it was added.

    Raises:
        ManifestError: the manifest is wrong, or would be with the entry; it is as it was.
        UsageError: it is laid out in a way that cannot be edited safely; or such an app was removed and not purged.
    """
    load_project(run.file, run.overlay)  # a manifest that is missing or wrong is said before anything is locked
    # One at a time: reading, changing and writing the manifest must not lose what another run adds meanwhile.
    with ProjectState(run.file.parent).turn("manifest"):
        known = load_project(run.file, run.overlay)
        if new in known.apps:
            output.note(f"{new} is in {known.apps[new].where} already")
            return False
        if new in known.removed:
            raise UsageError(
                f"app {new} was {known.removed[new].where}, and what it had is still kept",
                hint=f"bring it back: multidb undo-remove {new}; or end it for good: multidb purge {new}",
            )
        before = files.read_text(run.file) or ""
        files.write_text(run.file, manifest.add_app(before, new, entry))
        _check_or_undo(run.file, run.overlay, before)
        output.note(f"Added {new} to {run.file}")
        return True


def _check_or_undo(file: Path, env: str | None, before: str) -> None:
    """An entry that makes the manifest wrong is taken back before the problem is reported."""
    try:
        load_project(file, env)
    except BaseException:
        files.write_text(file, before)
        raise
