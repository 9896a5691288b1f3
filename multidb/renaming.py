"""An app gets another name, on every server and wherever it is remembered: it is copied and compared, then the names
are exchanged, then what the old one had is dropped.

Every step is written down before it is taken (`multidb.renames`), and every step may be repeated, so that a run which
was interrupted anywhere is finished by the same command; until all of the data is there it can be aborted as well. The
logins of both names are never on at once. Whoever calls these functions holds `exclusively` and the locks of both apps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from multidb import files, manifest, notification, removal
from multidb.backup import cloning
from multidb.backup.creation import repository
from multidb.backup.journal import Journal
from multidb.backup.labels import CLONE_OF
from multidb.backup.live_data import require_unbound
from multidb.backup.places import require_not_following
from multidb.backup.set_ids import is_set_id, made_at
from multidb.backup.sets import declaration
from multidb.document import in_future
from multidb.engine import Engine
from multidb.errors import ArchiveError, ManifestError, Refused, UsageError
from multidb.fleet import Fleet, Scope
from multidb.health_history import HealthHistory
from multidb.model import App, Progress, Project
from multidb.numbers import numbers_by_server
from multidb.provisioners import known_stores, provisioner
from multidb.read_only import rename_read_only
from multidb.renames import FormerName, Rename, RenamePhase, end_rename, former_names, record_name, write_rename
from multidb.state import ProjectState
from multidb.tombstone import Edit, Phase, Tombstone, tombstones, write_tombstone
from multidb.usage import History

__all__ = ["Renaming", "abort", "beside", "copy_over", "draft", "drop", "exchange", "mark_targets", "renamed_names"]

Load = Callable[[Mapping[Path, str]], Project]
"""Reads and checks the manifest, with other texts in the place of some files."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """What a rename would write into the manifest.

    Args:
        app: the app under its new name, as the manifest would have it.
        texts: by file, its text before and after.
    """

    app: App
    texts: Mapping[Path, tuple[str, str]]


def draft(project: Project, old: str, new: str, load: Load) -> Renaming:
    """The manifest with the app under its new name, checked as a whole.

    Args:
        project: it has `old`.

    Raises:
        UsageError: it would be wrong; or it is laid out in a way that cannot be edited safely.
    """
    app = project.apps[old]
    texts = {}
    for path, text in _files_naming(project, app):
        removal.path_in_project(path, Path(project.root))
        texts[path] = text, _edited(text, old, new, {})
        _edited(text, old, new, dict.fromkeys(_numbered(app), 1))  # what is refused then is refused now
    try:
        renamed = load({path: after for path, (_, after) in texts.items()})
    except ManifestError as error:
        sentences = [problem.message for problem in error.problems]
        raise UsageError(
            "; ".join(sentences), where=project.file, hint="nothing was changed; choose another name"
        ) from None
    return Renaming(renamed.apps[new], texts)


def beside(app: App) -> App:
    """The app under its new name while the old one is still there: what only one of them can have (a number that the
    manifest names) is left to be chosen."""
    stores = dict(app.stores)
    for store in _numbered(app):
        options = stores[store]
        chosen = {name: type(options).model_fields[name].default for name in _integers(dict(options))}
        stores[store] = options.model_copy(update=chosen)
    return replace(app, stores=stores)


def renamed_names(old: App, new: App) -> dict[str, list[tuple[str, str, str]]]:
    """By store, each name that becomes another: what it is, as it is, and as it will be."""
    renamed = {}
    for store in old.stores:
        names = provisioner(store).derived_names
        pairs = zip(names(old), names(new), strict=True)
        renamed[store] = [(was.space, was.name, becomes.name) for was, becomes in pairs if was.name != becomes.name]
    return renamed


def copy_over(engine: Engine, rename: Rename, progress: Progress) -> tuple[str, ...]:
    """Gives the new name all that the old one has, and compares it. The logins of both are off from here on.

    Args:
        engine: of a project with both, `rename` being written down.

    Returns:
        What the new one does not have.

    Raises:
        MultidbError: it could not be done; the same again begins anew.
    """
    require_not_following(engine.state, rename.old)
    removal.suspend(engine.fleet, rename.old, progress, command=rename.command)
    old = engine.project.apps[rename.old]
    require_unbound(engine, old, list(old.stores))  # whatever came until its logins were off
    engine.fleet.start(rename.new)
    error = engine.apply(Scope(apps=frozenset({rename.new}))).error()
    if error is not None:
        raise error
    return cloning.carry(engine, rename.old, engine.project.apps[rename.new], progress)


def exchange(fleet: Fleet, rename: Rename) -> Rename:
    """Makes the new name the one of the manifest and of all that is remembered of the app, and the old one a removed
    app. What is left to do is to apply the manifest for the new one, then `drop`.

    Args:
        fleet: of a project that has the old one, unless an earlier run has come so far.
    """
    state = fleet.state
    rename = replace(rename, phase=RenamePhase.EXCHANGING)
    write_rename(state, rename)
    if rename.old not in tombstones(state):
        write_tombstone(state, _tombstone(fleet.project, rename))
    _record(state, rename)
    numbers = _numbers(fleet, rename.new)
    with state.turn("manifest"):
        for path in _files_to_edit(fleet.project, tombstones(state)[rename.old], rename):
            text = files.read_text(path) or ""
            after = _edited(text, rename.old, rename.new, numbers)
            if after != text:
                files.write_text(path, after)
    return rename


def mark_targets(fleet: Fleet) -> dict[str, ArchiveError]:
    """Writes down on every target, for other machines, which sets under earlier names are whose.

    Returns:
        By target, why it could not be done there; this machine knows it all the same, and tells the target with the
        next backup.
    """
    home, problems = repository(fleet), {}
    for target in home.targets:
        try:
            home.mark_names(target)
        except ArchiveError as error:
            problems[target.name] = error
    return problems


def drop(fleet: Fleet, rename: Rename, progress: Progress) -> None:
    """Drops all that the old name has, and ends the rename.

    Args:
        fleet: of a project with the old one, if there is a tombstone of it.

    Raises:
        PartlyApplied: a server did not let it be done; the same again finishes.
    """
    write_rename(fleet.state, replace(rename, phase=RenamePhase.DROPPING))
    if rename.old in tombstones(fleet.state):
        removal.purge(fleet, rename.old, progress, command=rename.command)
    end_rename(fleet.state, rename.old)


def abort(engine: Engine, rename: Rename, progress: Progress) -> None:
    """Turns the logins of the old name on again, then drops all that the new one has.

    Args:
        engine: of a project with both.

    Raises:
        Refused: the new one has all of the data, and may be in use.
        MultidbError: it could not be done; the same again goes on.
    """
    if rename.phase not in (RenamePhase.COPYING, RenamePhase.ABORTING):
        raise Refused(
            f"{rename.new} has all of its data already, and may be in use",
            where=f"app {rename.old}",
            hint=f"finish it: {rename.command}; then back: multidb rename-app {rename.new} {rename.old}",
        )
    rename = replace(rename, phase=RenamePhase.ABORTING)
    write_rename(engine.state, rename)
    error = engine.apply(Scope(apps=frozenset({rename.old}))).error()
    if error is not None:
        raise error
    removal.purge(engine.fleet, rename.new, progress, command=rename.command)
    end_rename(engine.state, rename.old)


# --- the manifest ----------------------------------------------------------------------------------------------------


def _files_naming(project: Project, app: App) -> Iterator[tuple[Path, str]]:
    """The files that name the app, each once, with their texts: those with its entry, those with its clones'."""
    texts = removal.manifest_files(project, app)
    for clone in _clones(project, app.id):
        texts |= removal.manifest_files(project, clone)
    yield from {path.resolve(): (path, text) for path, text in texts.items()}.values()


def _files_to_edit(project: Project, stone: Tombstone, rename: Rename) -> Iterator[Path]:
    root = Path(project.root)
    paths = [root / edit.file for edit in stone.edits]
    for clone in _clones(project, rename.old):
        paths += removal.manifest_files(project, clone)
    yield from {path.resolve(): path for path in paths}.values()


def _clones(project: Project, app: str) -> list[App]:
    return [clone for clone in project.apps.values() if clone.labels.get(CLONE_OF) == app]


def _edited(text: str, old: str, new: str, numbers: Mapping[str, int]) -> str:
    """The text of a file with the app under its new name and with what only it can have by that; where an entry names
    numbers, with those that it has now. Its clones are those of the new one."""
    entry = manifest.entry_of(text, old)
    if entry is not None:
        text = manifest.rename_app(text, old, new)
        for store in known_stores():
            options = entry.get(store)
            if isinstance(options, dict) and (own := provisioner(store).own_options(options, new)):
                text = manifest.change_app(text, new, {store: dict(own)})
        for store, number in numbers.items():
            options = entry.get(store)
            if isinstance(options, dict) and (named := _integers(options)):
                text = manifest.change_app(text, new, {store: dict.fromkeys(named, number)})
    for clone in manifest.apps_of(text):
        labels = (manifest.entry_of(text, clone) or {}).get("labels")
        if isinstance(labels, dict) and labels.get(CLONE_OF) == old:
            text = manifest.change_app(text, clone, {"labels": {CLONE_OF: new}})
    return text


def _numbered(app: App) -> list[str]:
    """Its stores that hand out numbers."""
    return [store for store in app.stores if provisioner(store).allocate is not None]


def _integers(options: Mapping[str, object]) -> list[str]:
    return [name for name, value in options.items() if type(value) is int]


def _numbers(fleet: Fleet, app: str) -> dict[str, int]:
    """By store, the number that the app has there."""
    recorded, runtime = numbers_by_server(fleet.state), fleet.runtime
    stores = {server.name: server.store for server in runtime.servers()}
    stores |= {status.name: status.store for status in runtime.missing()}
    numbers = {store: recorded.get(server, {}).get(app, 0) for server, store in stores.items()}
    return {store: number for store, number in numbers.items() if number}


def _tombstone(project: Project, rename: Rename) -> Tombstone:
    """Of the old name. What its entry said that only one app can have is the new one's."""
    app, now = project.apps[rename.old], datetime.now(UTC)
    names = [removal.path_in_project(path, Path(project.root)) for path in removal.manifest_files(project, app)]
    entry = cloning.entry_for(declaration(app))
    edits = [Edit(name, "", "", {} if number else entry) for number, name in enumerate(names)]
    return Tombstone(rename.old, Phase.PURGING, now, now, tuple(edits), rename.final_set)


# --- what is remembered ----------------------------------------------------------------------------------------------


def _record(state: ProjectState, rename: Rename) -> None:
    """Whatever is known of the app is known of its new name."""
    journal = Journal(state)
    newest = journal.known(rename.old).get("newest") or journal.known(rename.new).get("newest") or ""
    now = datetime.now(UTC).replace(microsecond=0)
    made = [made_at(set_id) for set_id in (newest, rename.final_set) if is_set_id(set_id)]
    if not any(name.old == rename.old and name.when >= rename.since for name in former_names(state)):
        # A set that is dated later than now, by a machine with another clock, is the app's all the same.
        until = max([now, *(moment for moment in made if not in_future(moment, now))])
        record_name(state, FormerName(until, rename.old, rename.new))
    journal.rename(rename.old, rename.new)
    rename_read_only(state, rename.old, rename.new)
    notification.rename(state, rename.old, rename.new)
    History(state).rename(rename.old, rename.new)
    HealthHistory(state).rename(rename.old, rename.new)
