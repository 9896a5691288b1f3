"""An app's entry in the manifest, added or changed as text, for the commands that make an app or give it more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import Any

from multidb import files, manifest
from multidb.cli.options import Run
from multidb.cli.output import Output
from multidb.errors import ManifestError, Refused, StalePlan, UsageError
from multidb.model import App, Project
from multidb.renames import rename_of
from multidb.state import ProjectState
from multidb.state_stores import open_state
from multidb.tombstone import ways_of_removed

__all__ = ["Draft", "draft_entry", "show_draft", "show_edit", "take_back", "write_draft"]

_CONTEXT = 1  # lines around an edit

_Edit = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Draft:
    """An edit of the manifest that is not written yet.

    Args:
        project: as the manifest says it with the edit.
        added: the app is new; else its entry is changed, where it is.
        path: the file that is edited, which may be one that the manifest includes.
        before, after: its text; equal where nothing has to be written.
        edit: what makes the one of the other, for a file that was changed meanwhile.
    """

    project: Project
    app: str
    added: bool
    path: Path
    before: str
    after: str
    edit: _Edit

    @property
    def lines(self) -> list[str]:
        """What is taken out (``-``) and put in (``+``), between the lines around it."""
        return _lines(self.before, self.after)

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"file": str(self.path), "added": self.added, "lines": self.lines}


def draft_entry(
    run: Run,
    new: str,
    entry: Callable[[Project], Mapping[str, Any]],
    changes: Callable[[Project, Mapping[str, Any]], Mapping[str, Any]],
) -> Draft:
    """The manifest with the app: its `entry` where there is none yet, and `changes` laid over the one that there is.

    Args:
        changes: of the project, which has the app, and what its entry says.

    Raises:
        ManifestError: the manifest is wrong.
        UsageError: it would be wrong with the edit; or it is laid out in a way that cannot be edited safely; or such an
            app was removed and not purged.
    """
    known = run.project()
    if new in known.removed:
        raise UsageError(
            f"app {new} was {known.removed[new].where}, and what it had is still kept",
            hint=ways_of_removed(new),
        )
    added = new not in known.apps
    if added and (rename := rename_of(open_state(known), new)) is not None:
        raise Refused(
            f"{rename.old} is being renamed to {rename.new}, so {new} is taken",
            where=f"app {rename.old}",
            hint=rename.way_on,
        )
    if added:
        asked, path = entry(known), run.file
        edit: _Edit = lambda text: manifest.add_app(text, new, asked)  # noqa: E731
    else:
        path = _file_of(run, known.apps[new])
        changed = changes(known, manifest.entry_of(files.read_text(path) or "", new) or {})
        edit = (lambda text: manifest.change_app(text, new, changed)) if changed else (lambda text: text)
    before = files.read_text(path) or ""
    after = edit(before)
    project = known if after == before else _checked(run, path, after)
    return Draft(project, new, added, path, before, after, edit)


def write_draft(run: Run, draft: Draft) -> Project:
    """Puts the edit into its file. What another run has written meanwhile stays.

    Returns:
        The project as the manifest says it now.

    Raises:
        StalePlan: the app is not what it was when somebody was asked.
    """
    if draft.before == draft.after:
        return draft.project
    # One at a time: reading, changing and writing the manifest must not lose what another run adds meanwhile.
    with ProjectState(run.file.parent).turn("manifest"):
        now = files.read_text(draft.path) or ""
        if now == draft.before:
            files.write_text(draft.path, draft.after)
            return draft.project
        try:
            after = draft.edit(now)
            project = _checked(run, draft.path, after)
        except UsageError as error:
            raise StalePlan(error.message, where=str(draft.path), hint="run the command again") from None
        if _without_place(project.apps[draft.app]) != _without_place(draft.project.apps[draft.app]):
            raise StalePlan(
                f"the entry of {draft.app} was changed meanwhile", where=str(draft.path), hint="run the command again"
            )
        files.write_text(draft.path, after)
        return project


def take_back(run: Run, draft: Draft) -> None:
    """Undoes `write_draft`, as far as the file still is what it was then."""
    with ProjectState(run.file.parent).turn("manifest"):
        if files.read_text(draft.path) == draft.after != draft.before:
            files.write_text(draft.path, draft.before)


def show_draft(output: Output, draft: Draft) -> None:
    """The edit as lines that go and lines that come."""
    show_edit(output, draft.path, draft.before, draft.after)


def show_edit(output: Output, path: Path, before: str, after: str) -> None:
    """An edit of a file as lines that go and lines that come; nothing where there is none."""
    if before == after:
        return
    output.say(str(path), style="bold")
    for line in _lines(before, after):
        output.say(f"  {line}", style={"+": "green", "-": "red"}.get(line[:1]), verbatim=True)
    output.say()


def _lines(before: str, after: str) -> list[str]:
    diff = unified_diff(before.splitlines(), after.splitlines(), n=_CONTEXT, lineterm="")
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def _checked(run: Run, path: Path, text: str) -> Project:
    """The project as it would be. The lines of what is wrong with it stand in no file, so none is cited."""
    from multidb.project import load_project

    try:
        return load_project(run.file, run.overlay, {path: text})
    except ManifestError as error:
        sentences = [
            f"{problem.message}{f'. {problem.suggestion}' if problem.suggestion else ''}" for problem in error.problems
        ]
        raise UsageError(
            "; ".join(sentences),
            hint="nothing was written; what can be said: multidb add-app --help",
        ) from None


def _file_of(run: Run, app: App) -> Path:
    """The file that has the app's entry: the manifest, or one that it includes."""
    text = files.read_text(run.file)
    included = Path(app.where.rsplit(":", 2)[0])
    return run.file if text is not None and manifest.entry_of(text, app.id) is not None else included


def _without_place(app: App) -> App:
    return replace(app, where="")
