"""The end of an app: out of the manifest with its logins off, back again as it was, or gone for good.

Every step is written down before it is taken (`multidb.tombstone`), and every step may be repeated, so that a run which
was interrupted anywhere is finished by the same command. Whoever calls these functions holds the app's lock
(`ProjectState.lock_apps`) and has read the manifest under it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from multidb import files, manifest
from multidb.alternation import forget_alternations
from multidb.backup import cloning
from multidb.backup.app_files.own import remove_own
from multidb.backup.journal import Journal
from multidb.backup.places import require_not_following
from multidb.baseline import Baseline
from multidb.closure import reopen
from multidb.credentials import FIRST_ISSUED, ISSUED
from multidb.document import Unreadable, inside
from multidb.errors import (
    AuthenticationFailed,
    MultidbError,
    NotAllowed,
    PartlyApplied,
    Refused,
    ServerError,
    UsageError,
    first_hint,
)
from multidb.fleet import Fleet, Scope
from multidb.model import App, Facts, Isolation, Progress, Project, Server
from multidb.moves import require_not_moving
from multidb.numbers import forget_numbers
from multidb.provisioners import provisioner
from multidb.read_only import forget_read_only
from multidb.renames import renames
from multidb.render.env import is_ours
from multidb.tombstone import Edit, Phase, Tombstone, forget, tombstones, write_tombstone

__all__ = [
    "expired",
    "manifest_files",
    "path_in_project",
    "purge",
    "remove",
    "restored",
    "restoring",
    "suspend",
    "the_removed",
]

_ROUNDS: Final = 5  # of dropping what is left; each finds what another session made meanwhile
_FOR_GOOD: Final = (Phase.ENDING, Phase.PURGING)  # somebody, or an app's own label, has said that it ends
_OURS: Final = (".env", ".env.example", "docker-compose.yml")


def remove(fleet: Fleet, app_id: str, *, grace: timedelta, backup: str, progress: Progress) -> Tombstone:
    """Takes the app out of the manifest, turns its logins off and tries that they are; its data stays.

    Args:
        fleet: of a project that has the app, or had it when an earlier run was interrupted (`the_removed`).
        grace: for how long it is meant to be kept.
        backup: the id of its final set; empty when there is none.

    Raises:
        PartlyApplied: a server did not let it be done; the app is out of the manifest, and the same again finishes.
    """
    stone = _taken_out(fleet, app_id, Phase.REMOVING, grace, backup)
    suspend(fleet, app_id, progress, command=f"multidb remove-app {app_id}")
    _drop_files(fleet, app_id, [".env"])
    stone = dataclasses.replace(stone, phase=Phase.REMOVED)
    write_tombstone(fleet.state, stone)
    fleet.runtime.retire(fleet.project.apps[app_id], progress)
    return stone


def suspend(fleet: Fleet, app_id: str, progress: Progress, *, command: str) -> None:
    """Turns the logins of an app off on all of its servers, and tries that they are.

    Args:
        command: the command line that goes on where it was not done.

    Raises:
        PartlyApplied: a server did not let it be done.
    """
    app = fleet.project.apps[app_id]
    failed = _on_servers(fleet, app, lambda server: _suspend(fleet, server, app, progress))
    if failed:
        raise _unfinished(failed, command)


def restoring(fleet: Fleet, app_id: str) -> None:
    """Puts the app back into the manifest. What is left to do is `multidb apply` for it and its variables, then
    `restored`.

    Raises:
        UsageError: it was not removed, or its file is laid out in a way that cannot be edited.
        Refused: it is being purged.
    """
    stone = the_removed(fleet, app_id)
    if stone.phase in _FOR_GOOD:
        raise Refused(
            "it is being purged, and some of it may be gone already",
            where=f"app {app_id}",
            hint=f"finish it: multidb purge {app_id}; then bring it back from its set {stone.backup or '(none)'}",
        )
    write_tombstone(fleet.state, dataclasses.replace(stone, phase=Phase.RESTORING))
    with fleet.state.turn("manifest"):
        # The manifest may have its entry again, and maybe in another file; what was laid over it may still be wanting.
        for edit in stone.edits[1 if app_id in fleet.project.returned else 0 :]:
            _put_back(Path(fleet.project.root) / edit.file, app_id, edit)


def restored(fleet: Fleet, app_id: str) -> None:
    """The app is as it was: nothing has to be remembered of its absence."""
    forget(fleet.state, app_id)


def purge(fleet: Fleet, app_id: str, progress: Progress, *, command: str = "") -> None:
    """Drops everything that the app has: on the servers what carries our mark, then its credentials and files that we
    wrote, and the folder of its files where we made it for a clone. Its backup sets stay. An app that is in the
    manifest is taken out first.

    Args:
        command: the command line that goes on where it was not done; empty: that of ``purge`` itself.

    Raises:
        PartlyApplied: a server did not let it be done; the same again finishes.
    """
    stone = _taken_out(fleet, app_id, Phase.ENDING)
    write_tombstone(fleet.state, dataclasses.replace(stone, phase=Phase.PURGING))
    app = fleet.project.apps[app_id]
    failed = _on_servers(fleet, app, lambda server: _drop(fleet, server, app, progress))
    if failed:
        raise _unfinished(failed, command or f"multidb purge {app_id}")
    fleet.runtime.retire(app, progress, erase=True)
    remove_own(fleet.project, app_id)
    _forget_everything(fleet, app_id)
    forget(fleet.state, app_id)


def expired(fleet: Fleet, now: datetime) -> list[App]:
    """The clones that `purge` is to end: those of the manifest whose time is up, and those of them that an interrupted
    run has left half gone. What a person has removed is kept, whatever its labels say.
    """
    half_gone = {app for app, stone in tombstones(fleet.state).items() if stone.phase in _FOR_GOOD}
    project = fleet.project
    removed = {name: app for name, app in project.removed.items() if name in half_gone}
    renamed = {name for rename in renames(fleet.state).values() for name in (rename.old, rename.new)}
    return [app for app in cloning.expired({**project.apps, **removed}, now) if app.id not in renamed]


def the_removed(fleet: Fleet, app_id: str) -> Tombstone:
    """The tombstone of a removed app; `UsageError` when there is none."""
    stone = tombstones(fleet.state).get(app_id)
    if stone is None:
        known = ", ".join(tombstones(fleet.state)) or "none"
        raise UsageError(f"app {app_id} was not removed", hint=f"removed apps: {known}")
    return stone


# --- the manifest ----------------------------------------------------------------------------------------------------


def _taken_out(fleet: Fleet, app_id: str, phase: Phase, grace: timedelta = timedelta(0), backup: str = "") -> Tombstone:
    """Takes the app out of the manifest, once that is written down; an earlier run's tombstone goes on in `phase`."""
    require_not_following(fleet.state, app_id)
    require_not_moving(fleet.state, app_id)
    state = fleet.state
    stone = tombstones(state).get(app_id)
    if stone is None or (stone.phase is Phase.RESTORING and phase is Phase.REMOVING):
        now, known = datetime.now(UTC), {edit.file: edit for edit in stone.edits} if stone else {}
        known |= {edit.file: edit for edit in _edits(fleet, app_id)}  # an undo that died may have left some files out
        stone = Tombstone(app_id, phase, now, now + grace, tuple(known.values()), backup)
    else:
        stone = dataclasses.replace(stone, phase=phase, backup=stone.backup or backup)
    write_tombstone(state, stone)
    _take_out(fleet, stone)
    if app_id in fleet.project.returned:  # an old manifest, which may have it in another file
        path = Path(fleet.project.returned[app_id].rsplit(":", 2)[0]).resolve()
        name = str(path.relative_to(Path(fleet.project.root).resolve()))
        _take_out(fleet, dataclasses.replace(stone, edits=(Edit(name, "", "", {}),)))
    return stone


def manifest_files(project: Project, app: App) -> dict[Path, str]:
    """The files that have an entry of the app, each with its text: the manifest or the file that it includes, then what
    is laid over it."""
    main = Path(project.root) / project.file
    included = Path(app.where.rsplit(":", 2)[0])
    overlays = sorted(main.parent.glob(f"{main.stem}.*{main.suffix}"))
    texts = {path: files.read_text(path) for path in _unique(main, included, *overlays) if path.is_file()}
    return {
        path: text for path, text in texts.items() if text is not None and manifest.entry_of(text, app.id) is not None
    }


def _edits(fleet: Fleet, app_id: str) -> tuple[Edit, ...]:
    """What has to be changed where."""
    root = Path(fleet.project.root)
    main = root / fleet.project.file
    edits: dict[str, Edit] = {}
    for path, text in manifest_files(fleet.project, fleet.project.apps[app_id]).items():
        entry = manifest.entry_of(text, app_id)
        if entry is not None:
            name = path_in_project(path, root)
            edits[name] = Edit(name, text, manifest.remove_app(text, app_id), entry)
    if not edits:  # on the servers only: an undo gives it an entry
        name = path_in_project(main, root)
        edits[name] = Edit(name, "", "", {"stores": list(fleet.project.apps[app_id].stores)})
    return tuple(edits.values())


def _unique(*paths: Path) -> list[Path]:
    """Without those that are the same file by another name."""
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path)
    return list(unique.values())


def path_in_project(path: Path, root: Path) -> str:
    """The file's name in the project's folder. Links stay as they are: they are the operator's, and the file they mean
    may lie elsewhere."""
    name = os.path.relpath(os.path.abspath(path), os.path.abspath(root))  # noqa: PTH100  pathlib would follow links
    try:
        return inside(name)
    except Unreadable:
        raise UsageError(
            "is not in the manifest's folder, so the app's entry in it cannot be taken out and put back",
            where=str(path),
            hint="take it out by hand, then: multidb plan says what is left",
        ) from None


def _take_out(fleet: Fleet, stone: Tombstone) -> None:
    """What is laid over the app's own entry goes first: alone, it would be another app, without the same labels."""
    with fleet.state.turn("manifest"):
        for edit in reversed(stone.edits):
            path = Path(fleet.project.root) / edit.file
            text = files.read_text(path)
            if text == edit.before:
                files.write_text(path, edit.after)
            elif text is not None and manifest.entry_of(text, stone.app) is not None:
                files.write_text(path, manifest.remove_app(text, stone.app))


def _put_back(path: Path, app_id: str, edit: Edit) -> None:
    text = files.read_text(path)
    if text is None or text == edit.after:
        files.write_text(path, edit.before)
    elif manifest.entry_of(text, app_id) is None:  # changed since: it comes back at the end
        files.write_text(path, manifest.add_app(text, app_id, edit.entry))


# --- the servers -----------------------------------------------------------------------------------------------------


def _on_servers(fleet: Fleet, app: App, work: Callable[[Server], None]) -> dict[str, MultidbError]:
    """`work` on each server of the app that has an address, side by side; by server, why it could not be done. One
    without an address, such as a container that has ended, is an error where the app has a credential on it: what it
    has there is there again when the server is."""
    answers = fleet.on_servers(Scope(apps=frozenset({app.id})), work)
    failed = {answer.name: answer.error for answer in answers if answer.error is not None}
    absent = {answer.name: answer.store for answer in answers if answer.server is None and answer.error is not None}
    if not absent:
        return failed
    shared = {spec.name for spec in fleet.project.servers}  # a server of its own comes and goes as a whole
    made = {ref.store for ref in fleet.state.secrets.refs(app.id)}
    return {
        name: error for name, error in failed.items() if name not in absent or (name in shared and absent[name] in made)
    }


def _suspend(fleet: Fleet, server: Server, app: App, progress: Progress) -> None:
    progress(server.name, f"turning the logins of {app.id} off")
    level, _ = provisioner(server.store).isolation(app, Facts.of(fleet.suspend(app, server).facts))
    if level is not Isolation.NAMING_ONLY:  # there, nothing keeps anybody out
        _require_logins_off(fleet, server, app)


def _require_logins_off(fleet: Fleet, server: Server, app: App) -> None:
    """Tries the app's own credentials, which have to be refused."""
    check = provisioner(server.store).check_health
    tenants, _ = fleet.tenants(Scope(apps=frozenset({app.id}), stores=frozenset({server.store})))
    for tenant in tenants:
        if check is None or tenant.server.name != server.name:
            continue
        try:
            check(tenant, False)
        except (AuthenticationFailed, NotAllowed):
            continue
        raise ServerError(
            f"the logins of {app.id} still work after they were turned off",
            where=str(server),
            hint="see whether the server lets everybody in without a password: multidb audit",
        )


def _drop(fleet: Fleet, server: Server, app: App, progress: Progress) -> None:
    if server.app == app.id:  # a server of its own goes as a whole
        return
    progress(server.name, f"dropping what {app.id} has")
    with fleet.locked(server) as session:
        context = fleet.context(server, session)
        for _round in range(_ROUNDS):
            left = session.removal(app, context)
            if not left:
                return
            for _ in session.run(left, fleet.state.secrets):
                pass
        what = "; ".join(statement.text for statement in session.removal(app, context)[:3])
    if what:
        raise ServerError(
            f"something of {app.id} stays, whatever is dropped: {what}", where=str(server), hint="drop it by hand"
        )


def _unfinished(failed: Mapping[str, MultidbError], command: str) -> PartlyApplied:
    return PartlyApplied(
        "; ".join(f"{server}: {error}" for server, error in failed.items()),
        hint=f"{first_hint(failed.values(), 'correct the cause')}; then finish with: {command}",
    )


# --- what is kept beside the servers ---------------------------------------------------------------------------------


def _forget_everything(fleet: Fleet, app_id: str) -> None:
    state = fleet.state
    Journal(state).forget(app_id)
    reopen(state, app_id)  # another app may take its name
    forget_alternations(state, app_id)
    state.secrets.delete(state.secrets.refs(app_id))
    for section in (ISSUED, FIRST_ISSUED):
        with state.change(section) as issued:
            issued.pop(app_id, None)
    forget_numbers(state, app_id)
    forget_read_only(state, app_id)
    for server in fleet.runtime.servers():
        Baseline(state, server.name).forget(app_id)
    _drop_files(fleet, app_id, _OURS)


def _drop_files(fleet: Fleet, app_id: str, names: Sequence[str]) -> None:
    """Deletes the app's files that multidb wrote, and its folder when nothing else is in it."""
    folder = Path(fleet.project.root) / "apps" / app_id
    for path in list(_written_by_us(folder, names)):
        files.delete(path)


def _written_by_us(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        text = files.read_text(folder / name)
        if text is not None and is_ours(text):
            yield folder / name
