"""One run of backup work from beginning to end: finish what was interrupted, make sets, verify one where that is due,
remove what need not stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multidb.backup.continuous.archiving import Round
from multidb.backup.copying import catch_up
from multidb.backup.creation import BackupResult, make_sets, repository
from multidb.backup.encryption import Identities
from multidb.backup.journal import COPYING, Journal, exclusively
from multidb.backup.pruning import carry_out, decide
from multidb.backup.recovery import recover
from multidb.backup.repository import Copy, utc_now
from multidb.backup.schedule import verification_due
from multidb.backup.sets import FILES, Reason, StoredPart
from multidb.backup.settings import settings
from multidb.backup.verifying import Verified, verify
from multidb.closure import closures
from multidb.engine import Engine
from multidb.errors import ArchiveError, MultidbError, WrongKey
from multidb.fleet import Scope
from multidb.model import Progress

__all__ = ["BackupRun", "final_set", "run_catching_up", "run_backups"]


@dataclass(slots=True)
class BackupRun:
    """What one run did.

    Args:
        recovered: what of an earlier run was put right.
        notes: what somebody may want to know, and is no failure.
        errors: by app, what went wrong beside the sets themselves.
        archived: what came of archiving what servers write.
    """

    recovered: list[str] = field(default_factory=list)
    made: list[BackupResult] = field(default_factory=list)
    verified: list[Verified] = field(default_factory=list)
    pruned: list[Copy] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: dict[str, MultidbError] = field(default_factory=dict)
    archived: list[Round] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was tried went well."""
        return (
            all(result.ok for result in self.made)
            and all(verified.ok for verified in self.verified)
            and not self.errors
            and not any(archived.error for archived in self.archived)
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        verdicts = {verified.copy.id: verified.ok for verified in self.verified}
        return {
            "sets": [_set_document(result, verdicts) for result in self.made if result.made],
            "failed": [
                {"app": result.app, "subject": name, **error.document()}
                for result in self.made
                for name, error in result.errors.items()
            ],
            "recovered": self.recovered,
            "notes": self.notes,
            "pruned": [{"app": copy.owner, "set": copy.id, "target": copy.target.name} for copy in self.pruned],
            "errors": {app: error.document() for app, error in self.errors.items()},
            "archived": [archived.document() for archived in self.archived],
        }


def run_backups(
    engine: Engine,
    scope: Scope,
    *,
    scheduled: bool,
    to: Sequence[str] = (),
    quiesce: bool | None = None,
    files: bool | None = None,
    keys: Identities | None = None,
    progress: Progress,
) -> BackupRun:
    """Makes a set of every app in scope.

    Args:
        files: as for `make_sets`.
        scheduled: also verify sets that are due for it, and remove those that need not stay. (With ``verify: always``
            every set is verified, whoever asked for it.)

    Raises:
        Locked: another run is at it.
    """
    engine.fleet.require(scope)
    done = BackupRun()
    if scope.apps is None:
        scope = _without_closed(engine, scope, done)
    with exclusively(engine.state, "backup", progress) as progress:
        done.recovered, problems = recover(engine, keys, progress)
        _sort(engine, scope, problems, done)
        if scheduled:
            _catch_up(engine, scope, done, progress)
        reason = Reason.SCHEDULED if scheduled else Reason.ASKED
        done.made = make_sets(engine, scope, to=to, quiesce=quiesce, files=files, reason=reason, progress=progress)
        for made in done.made:
            done.notes += _notes(made)
            if made.made is not None and made.made.complete:
                _verify_new(engine, made, scheduled, to, keys, done, progress)
                if scheduled and made.ok:
                    _prune(engine, made.app, done)
    return done


def run_catching_up(engine: Engine, progress: Progress) -> BackupRun:
    """Only brings sets to targets that failed when they were made; for a run for which nothing else is due.

    Raises:
        Locked: another run is at it.
    """
    done = BackupRun()
    if Journal(engine.state).open(COPYING):
        with exclusively(engine.state, "backup", progress) as progress:
            _catch_up(engine, Scope(), done, progress)
    return done


def final_set(engine: Engine, app_id: str, keys: Identities | None, progress: Progress, *, command: str) -> str:
    """The id of a set of the app that was made now and verified by restoring it: the last one before it is removed. The
    caller holds the app's lock.

    Args:
        keys: to read it again, where the manifest has it encrypted.
        command: what it is made for (``remove-app lernmi``), which also goes without: ``--no-backup``.

    Raises:
        Locked: another run is at it.
        ArchiveError: it could not be made, or not be verified.
        ServerError: a server is down.
    """
    with exclusively(engine.state, command.partition(" ")[0], progress) as progress:
        recover(engine, keys, progress, held=[app_id])
        (made,) = make_sets(engine, Scope(apps=frozenset({app_id})), reason=Reason.FINAL, progress=progress)
        if made.made is None:
            name, error = next(iter(made.errors.items()))
            raise ArchiveError(f"no final set could be made: {name}: {error}", where=f"app {app_id}", hint=error.hint)
        home = repository(engine.fleet)
        tried = verify(engine.fleet, home, home.find(f"{app_id}/{made.made.id}"), keys, progress)
    if tried.problem is not None:
        raise tried.problem
    if not tried.ok and tried.verification is not None:
        bad = {**tried.verification.unverified, **tried.verification.failures}
        name, why = next(reversed(bad.items()))
        raise ArchiveError(
            f"set {made.made.id} could not be verified: {name}: {why}",
            where=f"app {app_id}",
            hint=f"correct the cause, or go without: multidb {command} --no-backup",
        )
    return made.made.id


def _without_closed(engine: Engine, scope: Scope, done: BackupRun) -> Scope:
    """An unfinished clone has nothing to be kept, and is no fault of the run that was to make sets of everybody. One
    whose exchange could not be finished is."""
    unfinished = {
        app: closure for app, closure in closures(engine.state).items() if not (closure.whole or closure.exchange)
    }
    closed = [closure for app, closure in unfinished.items() if app in engine.project.apps]
    done.notes += [f"{closure.app}: no set is made, because {closure.why}" for closure in closed]
    left = frozenset(engine.project.apps) - {closure.app for closure in closed}
    return replace(scope, apps=left) if closed else scope


def _sort(engine: Engine, scope: Scope, problems: Mapping[str, MultidbError], done: BackupRun) -> None:
    """What could not be put right of an app that this run was not asked for is said, and is no failure of this run."""
    for name, error in problems.items():
        if name in engine.project.apps and not scope.wants(engine.project.apps[name]):
            done.notes.append(f"{name}: {error.sentence()}")
        else:
            done.errors[name] = error


def _catch_up(engine: Engine, scope: Scope, done: BackupRun, progress: Progress) -> None:
    copied, problems = catch_up(engine.fleet, progress)
    done.recovered += copied
    _sort(engine, scope, problems, done)


def _verify_new(
    engine: Engine,
    made: BackupResult,
    scheduled: bool,
    to: Sequence[str],
    keys: Identities | None,
    done: BackupRun,
    progress: Progress,
) -> None:
    """Tries the new set where it is kept first; the other targets have the same bytes, by their checksums, and get the
    same mark."""
    app = engine.project.apps[made.app]
    app_settings = settings(engine.project, app)
    always = app_settings.verify is not None and not app_settings.verify
    if made.made is None or not (always or (scheduled and verification_due(engine.fleet, app, utc_now()))):
        return
    first, *others = (name for name in (to or app_settings.to) if name not in made.errors)
    home = repository(engine.fleet, [first])
    tried = verify(engine.fleet, home, home.find(f"{made.app}/{made.made.id}"), keys, progress)
    if isinstance(tried.problem, WrongKey):
        done.notes.append(f"{made.app}: not verified, because there is no key here to read it with")
        return
    done.verified.append(tried)
    if tried.ok and tried.verification is not None:
        try:
            for home in (repository(engine.fleet, [name]) for name in others):
                home.mark(home.find(f"{made.app}/{made.made.id}"), tried.verification)
        except MultidbError as error:
            done.errors[made.app] = error


def _prune(engine: Engine, app_id: str, done: BackupRun) -> None:
    app_settings = settings(engine.project, engine.project.apps[app_id])
    try:
        home = repository(engine.fleet, app_settings.to)
        pruning = decide(home, {app_id: app_settings.keep}, utc_now())
        errors = carry_out(home, pruning)
    except MultidbError as error:
        errors = [error]
    else:
        done.pruned += pruning.going
        unreadable = (decision.copy for decision in pruning.decisions if decision.copy.backup_set is None)
        done.notes += [f"{copy.where}: {copy.problem}; it stays, and counts for nothing" for copy in unreadable]
    if errors:
        done.errors[app_id] = errors[0]


def _notes(made: BackupResult) -> list[str]:
    parts = made.made.all_parts if made.made is not None else {}
    return [f"{made.app}: {store}: {note}" for store, part in parts.items() for note in part.part.notes]


def _set_document(result: BackupResult, verdicts: dict[str, bool]) -> dict[str, Any]:
    assert result.made is not None
    parts = {name: _part_document(part) for name, part in result.made.all_parts.items()}
    return {
        "set": result.made.id,
        "app": result.app,
        "consistency": result.made.consistency.value,
        "seconds": result.seconds,
        "stores": {store: parts[store] for store in result.made.parts},
        "files": parts.get(FILES),
        "verified": verdicts.get(result.made.id),
    }


def _part_document(part: StoredPart) -> dict[str, Any]:
    return {
        "size": part.size,
        "stored_size": part.stored_size,
        "sha256": {file.name: file.sha256 for file in part.files},
        "counts": dict(part.part.measures.counts),
    }
