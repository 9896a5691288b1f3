"""`multidb backup`: sets of apps, now or when they are due."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from multidb.backup.continuous.archiving import Round, archive_servers
from multidb.backup.encryption import identities
from multidb.backup.repository import utc_now
from multidb.backup.run import BackupRun, run_backups, run_catching_up
from multidb.backup.schedule import coming_due, due, freshness_now, next_due
from multidb.backup.verifying import Verified
from multidb.cli.expire import remove_expired, show_expired
from multidb.cli.notices import NotifyOption, tell
from multidb.cli.options import AppsArgument, IdentityOption, PartsOption, Run, examples, scope_of_sets, with_run
from multidb.cli.output import Output
from multidb.errors import ArchiveError, Locked, MultidbError, UsageError
from multidb.history import RunRecord
from multidb.model import Progress, counted, size_in_words, unwatched

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_FAILED: Final = 6
_BAD: Final = "DOES NOT VERIFY"
_LOOK_EVERY: Final = timedelta(minutes=1)  # the longest sleep: the manifest may have changed
_AFTER_FAILURE: Final = timedelta(minutes=15)


@app.command(
    epilog=examples(
        "multidb backup                        (every app)",
        "multidb backup lernmi beep-boop",
        "multidb backup lernmi --store postgres --to s3://offsite/digi",
        "multidb backup --due                  (for cron and systemd: what is due, verify, prune)",
        "multidb backup --watch                (for a container: the same, for ever)",
    )
)
@with_run("backup", verbose=True)
def backup(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    names: AppsArgument = None,
    stores: PartsOption = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Where to, instead of the manifest's targets; may be repeated.")
    ] = None,
    quiesce: Annotated[
        bool | None,
        typer.Option("--quiesce/--no-quiesce", help="Logins off meanwhile, so that all stores are of one moment."),
    ] = None,
    only_due: Annotated[bool, typer.Option("--due", help="Only what the manifest's schedule asks for now.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Until stopped: do what is due, expire clones.")] = False,
    identity: IdentityOption = None,
    notify: NotifyOption = False,
) -> int:
    """Make a set of each app: all of its stores, compressed, checksummed, perhaps encrypted, on every target.

    An app that fails costs no other its set; what failed is said line by line, with exit code 6. A second run at the
    same time says so and leaves (exit 3).
    """
    if watch and (run.json or names):
        raise UsageError("--watch takes no names and no --json", hint="multidb backup --watch")
    if watch:
        return _watch(run, identity, notify=notify)
    output = run.output
    archived: list[Round] = []
    if only_due:
        with output.working():
            archived = _archived(run, output, output.progress)
    done = _round(run, output, names, stores, to, quiesce, only_due, identity)
    done.archived += archived
    if notify:
        _tell(run, output)
    output.document(done.ok, done.document())
    _show(output, done, nothing="Nothing is due." if only_due else "There is no app.")
    return 0 if done.ok else _FAILED


def _archived(run: Run, output: Output, progress: Progress) -> list[Round]:
    """What servers have written, taken away before anything that may last. Another run that is at it does the same."""
    engine = run.engine(output)
    try:
        return archive_servers(engine, progress)
    except Locked as error:
        output.note(str(error))
        return []


def _round(
    run: Run,
    output: Output,
    names: Sequence[str] | None,
    stores: Sequence[str] | None,
    to: Sequence[str] | None,
    quiesce: bool | None,
    only_due: bool,
    identity: Path | None,
) -> BackupRun:
    engine = run.engine(output)
    keys = identities(identity, os.environ)
    asked, files = scope_of_sets(names, stores)
    engine.fleet.require(asked)
    if only_due:
        apps = [app.id for app in due(engine.fleet, utc_now()) if asked.wants(app)]
        if not apps:
            with output.working():
                return run_catching_up(engine, output.progress)
        asked, files = scope_of_sets(apps, stores)
    apps = [app.id for app in engine.project.apps.values() if asked.wants(app)]
    with output.working(), run.recorded(engine.state, apps) as record:
        done = run_backups(
            engine,
            asked,
            scheduled=only_due,
            to=to or (),
            quiesce=quiesce,
            files=files,
            keys=keys,
            progress=output.progress,
        )
        _record(record, done)
    return done


def _record(record: RunRecord, done: BackupRun) -> None:
    for result in done.made:
        if result.made is not None:
            record.add("create", "set", result.made.id, result.app)
    for copy in done.pruned:
        record.add("delete", "set", f"{copy.id} on {copy.target.name}", copy.app)
    errors = [*(error for result in done.made for error in result.errors.values()), *done.errors.values()]
    bad = [f"set {verified.copy.id} {_verdict(verified)}" for verified in done.verified if not verified.ok]
    record.error = next(iter(errors), ArchiveError(bad[0]) if bad else None)


def _tell(run: Run, output: Output) -> None:
    """Tells the receivers how each app's backups stand now, whatever this run was about."""
    engine = run.engine(output)
    fresh = freshness_now(engine.fleet)
    freshness_of = {app.id: fresh(app) for app in engine.project.apps.values()}
    known = {app: health for app, health in freshness_of.items() if health is not None}
    tell(output, engine.fleet, lambda notifier: notifier.about_backups(known))


def _show(output: Output, done: BackupRun, nothing: str) -> None:
    for line in (*done.recovered, *done.notes):
        output.note(line)
    verified = {verified.copy.id: _verdict(verified) for verified in done.verified}
    rows = [
        (
            result.app,
            result.made.id,
            size_in_words(result.made.size),
            size_in_words(result.made.stored_size),
            f"{result.seconds:.0f} s",
            result.made.consistency.value,
            verified.get(result.made.id, ""),
        )
        for result in done.made
        if result.made is not None
    ]
    if rows:
        columns = ("app", "set", "data", "stored", "time", "consistency", "")
        output.table(columns, rows, {"verified": "green", "not verified": "yellow", _BAD: "red"})
    elif not done.made:
        output.say(nothing)
    for line in (*_failures(done), *_not_archived(done.archived)):
        output.note(line, style="red")
    for archived in done.archived:
        if archived.began:
            output.note(f"{archived.server}: its archive begins anew, and has no moment from before: {archived.began}")
        if archived.base:
            output.note(f"{archived.server}: base backup {archived.base}")
    if done.pruned:
        output.note(f"Removed {counted(len(done.pruned), 'set that needs', 'sets that need')} not stay.")


def _verdict(tried: Verified) -> str:
    if tried.ok:
        return "verified"
    return _BAD if tried.verification is not None and tried.verification.failures else "not verified"


def _failures(done: BackupRun) -> Iterator[str]:
    """One line for each thing that went wrong."""
    for result in done.made:
        for name, error in result.errors.items():
            yield f"{result.app}: {name}: {_with_hint(error)}"
        if result.errors and result.made is not None:
            targets = " ".join(f"--to {name}" for name in result.errors)
            yield f"{result.app}: to bring the set there: multidb backups copy {result.app}/{result.made.id} {targets}"
    for tried in done.verified:
        if tried.problem is not None:
            yield f"{tried.copy.owner}: not verified: {tried.problem}"
        elif tried.verification is not None:
            yield from (f"{tried.copy.owner}: {store}: {why}" for store, why in tried.verification.failures.items())
            for store, why in tried.verification.unverified.items():
                yield f"{tried.copy.owner}: {store}: not verified: {why}"
    for app_id, error in done.errors.items():
        yield f"{app_id}: {_with_hint(error)}"


def _with_hint(error: MultidbError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def _not_archived(rounds: Sequence[Round]) -> Iterator[str]:
    for archived in rounds:
        if (error := archived.error) is not None:
            yield f"{archived.server}: not archived: {_with_hint(error)}"


def _watch(run: Run, identity: Path | None, *, notify: bool) -> int:
    """Until SIGTERM or SIGINT. What fails is said, and tried again a little later."""
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    output = run.output
    # A set may take hours, and what servers write is taken away meanwhile.
    beside = threading.Thread(target=by_turns, args=((partial(_archive, run, output),), output, ended), daemon=True)
    beside.start()
    by_turns((partial(_expire, run, output), partial(_back_up, run, output, identity, notify=notify)), output, ended)
    return 0


def by_turns(works: Sequence[Callable[[], timedelta]], output: Output, ended: threading.Event) -> None:
    """Does each again when the time is over that it said it can wait, whatever the others said."""
    turns = dict.fromkeys(works, 0.0)
    while not ended.is_set():
        for work, turn in turns.items():
            if turn <= time.monotonic() and not ended.is_set():
                turns[work] = _attempted(output, work).total_seconds() + time.monotonic()
        ended.wait(max(0.0, min(turns.values()) - time.monotonic()))


def _attempted(output: Output, work: Callable[[], timedelta]) -> timedelta:
    """Does it, or says why not; gives how long it can wait until the next time."""
    try:
        return work()
    except Locked as error:
        output.note(str(error))
        return _LOOK_EVERY
    except MultidbError as error:
        output.note(f"Error: {error}", style="red")
        return _AFTER_FAILURE


def _archive(run: Run, output: Output) -> timedelta:
    rounds = _archived(run, output, unwatched)  # bars are the other work's
    for line in _not_archived(rounds):
        output.note(line, style="red")
    return _LOOK_EVERY


def _expire(run: Run, output: Output) -> timedelta:
    done = remove_expired(run, output)
    show_expired(output, done)
    return _AFTER_FAILURE if done.failed else _LOOK_EVERY


def _back_up(run: Run, output: Output, identity: Path | None, *, notify: bool) -> timedelta:
    done = _round(run, output, None, None, None, None, True, identity)
    if notify:
        _tell(run, output)
    if done.made or done.recovered or done.errors:
        _show(output, done, nothing="")
    engine, now = run.engine(output), utc_now()
    if not done.ok:
        return min(_AFTER_FAILURE, (coming_due(engine.fleet, now) or now + _AFTER_FAILURE) - now)
    return min(_LOOK_EVERY, max(next_due(engine.fleet, now) - now, timedelta(seconds=1)))
