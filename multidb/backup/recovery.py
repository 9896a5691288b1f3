"""What a run that died has left, undone or finished by the next one. Nothing is guessed: the journal has a note of all
that was begun and not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, Final

from multidb.backup.app_files.part import clear_scratch
from multidb.backup.continuous.moments import clear_moments
from multidb.backup.creation import ServerContexts, targets_of, turn_on
from multidb.backup.encryption import Identities
from multidb.backup.following import followed_import
from multidb.backup.importing import finish_import
from multidb.backup.journal import FOLLOWING, IMPORTING, MAKING, PAUSED, RESTORING, VERIFYING, Journal
from multidb.backup.places import EVERY_KIND, clear
from multidb.backup.repository import Repository
from multidb.backup.restoring import finish_restore
from multidb.backup.set_ids import is_set_id
from multidb.backup.sets import MANIFEST
from multidb.closure import Closure, closures
from multidb.document import printable
from multidb.engine import Engine
from multidb.errors import Locked, MultidbError, Refused, ServerDown, UsageError
from multidb.fleet import Scope
from multidb.model import App, PlaceKind, Progress
from multidb.provisioners import provisioner
from multidb.runtime import ServerState

__all__ = ["recover"]

_OF_APPS: Final = (RESTORING, IMPORTING, PAUSED)  # what is done to what an app has, and nothing without it


def recover(
    engine: Engine,
    keys: Identities | None,
    progress: Progress,
    held: Collection[str] = (),
    going_on: Collection[str] = (),
) -> tuple[list[str], dict[str, MultidbError]]:
    """Says what was put right, and by app what could not be now and is left to the next run. The caller holds
    `exclusively`, so whatever the journal has is nobody's work any more. An app with which another command is at work
    (`ProjectState.lock_apps`) is left alone.

    Args:
        held: the apps whose lock the caller has.
        going_on: the apps whose import the caller goes on with.
    """
    journal, closed = Journal(engine.state), closures(engine.state)
    done, problems = _started(engine, progress)
    clear_scratch(engine.state)

    def restoring(app: str, note: Mapping[str, Any]) -> str:
        if app in closed and not (closed[app].restore or closed[app].exchange):
            return _clear_clone(engine, closed[app], note)
        return finish_restore(engine, app, note, keys, progress)

    def logins(app: str, note: Mapping[str, Any]) -> str:
        turn_on(engine, app)
        return "its logins are on again, which an interrupted run left off"

    def scratch(app: str, note: Mapping[str, Any]) -> str:
        _clear_places(engine, app, note, {PlaceKind.SCRATCH})  # a new place is of a restore that is to be finished
        return "removed the scratch places that an interrupted run left"

    def half_made(app: str, note: Mapping[str, Any]) -> str:
        _remove_half_made(engine, app, note)
        return "removed what an interrupted backup left"

    work: tuple[tuple[str, Callable[[str, Mapping[str, Any]], str]], ...] = (
        (RESTORING, restoring),
        (IMPORTING, lambda app, note: finish_import(engine, app, note, progress)),
        (PAUSED, logins),
        (VERIFYING, scratch),
        (MAKING, half_made),
    )
    for kind, put_right in work:
        own = frozenset(going_on if kind == IMPORTING else ())
        for app, note in _others(journal.open(kind), own):
            if app not in engine.project.apps and (kind in _OF_APPS or app in closed):
                continue  # until it is back, or purged: a manifest of another folder, or an old one, may not have it
            try:
                with engine.state.lock_apps({app}.difference(held), "multidb, finishing what was interrupted"):
                    progress(app, "finishing what was interrupted")
                    done.append(f"{app}: {put_right(app, note)}")
                    journal.end(kind, app)
            except Locked:
                continue
            except MultidbError as error:
                problems[app] = error
    clear_moments(engine.state)
    problems |= _begun_imports(engine, {*held, *going_on})
    return done, problems


def _begun_imports(engine: Engine, own: set[str]) -> dict[str, MultidbError]:
    """Imports that were to follow their source, and whose run died while they were begun: the source keeps its log."""
    return {
        app: Refused(
            "an import that was to follow its source was interrupted while it was begun, and the source keeps its log",
            where=f"app {app}",
            hint=f"give it up: multidb import {app} --abort; then begin again",
        )
        for app in Journal(engine.state).open(FOLLOWING)
        if app not in own and (followed := followed_import(engine, app)) is not None and not followed.is_begun
    }


def _others(notes: Mapping[str, dict[str, Any]], own: frozenset[str]) -> list[tuple[str, dict[str, Any]]]:
    return [(app, note) for app, note in notes.items() if app not in own]


def _started(engine: Engine, progress: Progress) -> tuple[list[str], dict[str, MultidbError]]:
    """Starts the servers that an interrupted run had stopped."""
    done: list[str] = []
    problems: dict[str, MultidbError] = {}
    for status in engine.fleet.runtime.resume(progress):
        if status.state is ServerState.RUNNING:
            done.append(f"{status.name}: started, which an interrupted run had stopped")
        else:
            problems[status.name] = ServerDown(status.message, where=f"server {status.name}", hint="multidb up")
    return done, problems


def _clear_clone(engine: Engine, closure: Closure, note: Mapping[str, Any]) -> str:
    """What it was loaded from is gone with its run, and nobody has seen what is there."""
    _clear_places(engine, closure.app, note)
    work = "move" if closure.move is not None else "rename" if closure.rename is not None else "clone"
    return f"removed what an interrupted {work} left; its logins stay off; {closure.way_on}"


def _clear_places(
    engine: Engine, app_id: str, note: Mapping[str, Any], kinds: Container[PlaceKind] = EVERY_KIND
) -> None:
    stores = {store: provisioner(store).app_options() for store in note["stores"]}
    app = engine.project.apps.get(app_id) or App(app_id, app_id, stores)  # sets outlive their apps, and can be verified
    apps = frozenset({app_id}) if app_id in engine.project.apps else None
    server_contexts = ServerContexts(engine.fleet, Scope(apps, frozenset(stores)))
    for store in stores:
        if server_context := server_contexts.of(app, store):
            clear(engine.fleet, server_context[0], app, server_context[1], kinds)


def _remove_half_made(engine: Engine, app_id: str, note: Mapping[str, Any]) -> None:
    """A set that was finished in the moment before the run died stays."""
    folder = str(note["folder"])
    own, _, set_id = folder.rpartition("/")
    if own != f"{engine.project.name}/{app_id}" or not is_set_id(set_id):
        raise UsageError(
            f"the state says that a set of {app_id} was begun in {printable(folder)}, where none of its sets is",
            where=engine.state.store.title,
            hint="restore the file from a copy, or take that note out of its section backup-work",
        )
    for target in targets_of(engine.fleet, note["to"]):
        if not any(path == f"{folder}/{MANIFEST}" for path, _ in target.list(folder)):
            Repository(engine.project.name, [target]).remove(target, folder)
