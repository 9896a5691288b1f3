"""A set brought to another target as it is, without asking a server: for a target that was away when the set was made.

The set's files never change, so a copy that was interrupted goes on where it was: files that are there stay, and within
a file a target that keeps parts (S3) is sent only those that it lacks. A set that is being made cannot go on like that:
its bytes come from a server and are nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Final

from multidb.backup.creation import repository, targets_of
from multidb.backup.journal import COPYING, Journal
from multidb.backup.rate import Rate
from multidb.backup.repository import Copy, Repository
from multidb.backup.sets import MANIFEST, VERIFIED, StoredFile
from multidb.backup.settings import settings
from multidb.backup.streams import Upload, checked
from multidb.backup.targets import Target
from multidb.errors import ArchiveError, MultidbError, TargetError
from multidb.fleet import Fleet
from multidb.model import Progress

__all__ = ["catch_up", "copy_set", "settle"]

_BLOCK: Final = 1024 * 1024


def copy_set(copy: Copy, to: Target, progress: Progress) -> bool:
    """Gives a target the set, each file compared with the set's checksum on its way; its manifest last, so that it is a
    set there when it is whole. Whether there was anything to do. The caller holds `exclusively`.

    Raises:
        ArchiveError: the set cannot be read, or is not as it was written; nothing of it is left on the target.
        TargetError: a target failed; the same again goes on.
    """
    if copy.backup_set is None:
        raise ArchiveError(copy.problem, where=copy.where, hint="take another set")
    folder = copy.backup_set.folder
    there = dict(to.list(folder))
    if f"{folder}/{MANIFEST}" in there:
        return False
    files = [file for stored in copy.backup_set.all_parts.values() for file in stored.files]
    rate = Rate(progress, copy.owner, sum(file.stored_size for file in files))
    rate.doing = f"copying to {to.name}"
    try:
        for file in files:
            if there.get(f"{folder}/{file.stored}") != file.stored_size:
                _copy_file(copy, file, to, rate)
            else:
                rate(file.stored_size)
        to.sweep(folder)  # once there is a manifest, nobody looks for what other runs have left
        for name in (VERIFIED, MANIFEST) if copy.verification else (MANIFEST,):
            _copy_small(copy.target, f"{folder}/{name}", to)
        if copy.owner != copy.app:
            Repository(copy.backup_set.project, [to], copy.names).mark_names(to)
    except TargetError:
        raise
    except ArchiveError:
        Repository(copy.backup_set.project, [to]).remove(to, folder)
        raise
    return True


def catch_up(fleet: Fleet, progress: Progress) -> tuple[list[str], dict[str, MultidbError]]:
    """Brings sets to the targets that failed when they were made, where the manifest still names them. Says what was
    done, and by app what could not be. The caller holds `exclusively`.
    """
    journal = Journal(fleet.state)
    done: list[str] = []
    problems: dict[str, MultidbError] = {}
    for app_id, note in journal.open(COPYING).items():
        try:
            done += _bring(fleet, app_id, note, progress)
        except MultidbError as error:
            problems[app_id] = error
        else:
            settle(journal, app_id, note["id"], note["to"])
    return done, problems


def settle(journal: Journal, app_id: str, set_id: str, targets: Sequence[str]) -> None:
    """Strikes out that these targets lack the set."""
    note = journal.open(COPYING).get(app_id)
    if note is None or note["id"] != set_id:
        return
    if left := [name for name in note["to"] if name not in targets]:
        journal.begin(COPYING, app_id, {**note, "to": left})
        return
    journal.end(COPYING, app_id)
    if journal.known(app_id).get("newest") == set_id:
        journal.learn(app_id, failed=None)


def _bring(fleet: Fleet, app_id: str, note: Mapping[str, Any], progress: Progress) -> list[str]:
    copies = repository(fleet, [note["from"]]).copies([app_id])
    source = next((copy for copy in copies if copy.id == note["id"]), None)
    if source is None:  # removed meanwhile: there is nothing to bring
        return []
    app = fleet.project.apps.get(app_id)
    targets: Sequence[str] = settings(fleet.project, app).to if app else fleet.project.backup.to
    lacking = targets_of(fleet, [name for name in note["to"] if name in targets])
    return [f"{app_id}: {to.name} has set {source.id} now, too" for to in lacking if copy_set(source, to, progress)]


def _copy_file(copy: Copy, file: StoredFile, to: Target, rate: Rate) -> None:
    assert copy.backup_set is not None
    path = f"{copy.backup_set.folder}/{file.stored}"
    with copy.target.open(path) as raw:
        _send(checked(raw, file, f"{copy.where} {file.stored}"), to.resume(path), rate)


def _copy_small(source: Target, path: str, to: Target) -> None:
    with source.open(path) as file:
        _send(file, to.create(path))


def _send(source: BinaryIO, upload: Upload, counted: Callable[[int], None] = lambda size: None) -> None:
    try:
        while block := source.read(_BLOCK):
            upload.write(block)
            counted(len(block))
        upload.commit()
    except BaseException:
        upload.abort()
        raise
