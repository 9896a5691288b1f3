"""`multidb backups`: the sets that there are: list, show, verify, copy, prune."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import files
from multidb.backup.continuous.archiving import archived_servers
from multidb.backup.continuous.catalog import Archived, Stream
from multidb.backup.continuous.kept import discard_copies, kept_copies
from multidb.backup.continuous.moments import FOLDER as MOMENTS
from multidb.backup.continuous.moments import moment_of, newest_of, set_of_moment
from multidb.backup.continuous.origins import windows_of
from multidb.backup.copying import copy_set, settle
from multidb.backup.creation import repository, targets_of
from multidb.backup.encryption import Identities, identities
from multidb.backup.journal import Journal, exclusively
from multidb.backup.pruning import Pruning, carry_out, decide
from multidb.backup.repository import Copy, Repository, utc_now
from multidb.backup.sets import FILES, StoredPart
from multidb.backup.settings import settings
from multidb.backup.verifying import Verified, verify
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.known_names import LISTED
from multidb.cli.options import AppsArgument, IdentityOption, Run, SetArgument, YesOption, ask, examples, with_run
from multidb.cli.output import Output
from multidb.engine import Engine
from multidb.errors import MultidbError, UsageError, one_line
from multidb.history import RunRecord
from multidb.manifest import app_id
from multidb.model import Progress, moment_in_words, size_in_words, time_in_words

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    help="The backup sets that there are.",
    epilog=examples("multidb backups list", "multidb backups verify lernmi", "multidb backups prune --yes"),
)

_NOT_SOUND, _FAILED = 1, 6

FromOption = Annotated[
    list[str] | None, typer.Option("--from", help="Only this target, as the manifest writes it; may be repeated.")
]
SetsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="SET", help="A set's id or its beginning, APP/ID, or an app for its newest."),
]


@app.command("list", epilog=examples("multidb backups list", "multidb backups list lernmi --json"))
@with_run("backups list")
def list_sets(
    run: Run,
    names: AppsArgument = None,
    targets: FromOption = None,
) -> int:
    """List the sets: age, size, and whether each was verified by restoring it. Half-made ones are not sets.

    Of servers whose log is archived, also the moments that an app can be brought back to (restore --at).

    Exit 1: a set cannot be read. It is listed with the reason, kept by `prune`, and counts for nothing.
    """
    output = run.output
    engine = run.engine(output)
    now = utc_now()
    with output.working():
        copies = repository(engine.fleet, targets).copies([app_id(name) for name in names] if names else None)
        archives = [there for server in archived_servers(engine) for there in windows_of(engine, server, targets)]
    if not names and not targets:
        _remember(engine.state.folder, copies)
    readable = all(copy.backup_set for copy in copies)
    archived = [_archive_document(there, stream) for there in archives for stream in there.streams]
    output.document(readable, {"sets": [_document(copy, now) for copy in copies], "archives": archived})
    rows = [
        (
            copy.owner,
            copy.id,
            time_in_words(now - copy.backup_set.made) if copy.backup_set else "?",
            size_in_words(copy.backup_set.stored_size) if copy.backup_set else "?",
            ", ".join(copy.backup_set.all_parts) if copy.backup_set else copy.problem,
            _proof(copy),
            copy.target.name,
        )
        for copy in copies
    ]
    if rows:
        columns = ("app", "set", "age", "stored", "stores", "verified", "target")
        output.table(columns, rows, {"yes": "green", "FAILED": "red", "no": "yellow"})
    else:
        output.say("There is no backup set yet. Make one: multidb backup")
    _show_archives(output, archives)
    return 0 if readable else _NOT_SOUND


def _show_archives(output: Output, archives: Sequence[Archived]) -> None:
    rows = [
        (
            there.server,
            moment_in_words(stream.window.first) if stream.window else stream.problem or "no moment yet",
            moment_in_words(stream.window.until) if stream.window else "",
            str(len(stream.usable)),
            size_in_words(stream.stored_size),
            there.target.name,
        )
        for there in archives
        for stream in there.streams
    ]
    if rows:
        output.table(("server", "any moment from", "to", "bases", "stored", "target"), rows, {})


def _archive_document(there: Archived, stream: Stream) -> dict[str, Any]:
    window = stream.window
    return {
        "server": there.server,
        "target": there.target.name,
        "stream": stream.id,
        "since": window.since.isoformat() if window is not None else None,
        "until": window.until.isoformat() if window is not None else None,
        "bases": [base.id for base in stream.usable],
        "stored_size": stream.stored_size,
        "problem": stream.problem or None,
    }


def _remember(state: Path, copies: Sequence[Copy]) -> None:
    """Writes down for completion what lies on targets that it cannot look into while a person waits."""
    listed: dict[str, list[str]] = {}
    for copy in copies:
        if "://" in copy.target.name:
            listed.setdefault(copy.target.name, []).append(f"{copy.owner}/{copy.id}")
    if state.is_dir():
        with suppress(UsageError):  # then they are not offered
            files.write_text(state.joinpath(*LISTED), json.dumps(listed) + "\n", mode=files.PRIVATE)


@app.command("show", epilog=examples("multidb backups show lernmi", "multidb backups show 20261121T140501Z-1a2b3c"))
@with_run("backups show")
def show_set(
    run: Run,
    name: SetArgument,
    targets: FromOption = None,
) -> int:
    """Show a set: what is in it, of which versions, how many of what."""
    output = run.output
    copy = repository(run.fleet(output), targets).find(name)
    backup_set = copy.backup_set
    output.document(backup_set is not None, {"set": _document(copy, utc_now())})
    if backup_set is None:
        output.say(f"{copy.where}: {copy.problem}", style="red")
        return _NOT_SOUND
    output.say(
        f"{copy.owner}  {copy.id}  ({copy.target.name}, {backup_set.reason.value}, {backup_set.consistency.value})",
        style="bold",
    )
    if copy.owner != copy.app:
        output.say(f"  made when it was called {copy.app}")
    if backup_set.recipients:
        output.say(f"  encrypted for {', '.join(backup_set.recipients)}")
    output.say(f"  verified: {_proof(copy)}")
    for store, stored in backup_set.all_parts.items():
        part = stored.part
        sizes = f"{size_in_words(stored.size)} ({size_in_words(stored.stored_size)} stored)"
        output.say(f"{store}: {part.server}, {part.format}, {sizes}")
        for what, count in sorted(part.measures.counts.items()):
            output.say(f"  {one_line(what)}: {count:,}")
        for note in part.notes if store == FILES else ():
            output.say(f"  {one_line(note)}")
    return 0


@app.command(
    "verify",
    epilog=examples(
        "multidb backups verify                (each app's newest set)",
        "multidb backups verify lernmi --identity key.txt",
        "multidb backups verify --all",
        "multidb backups verify lernmi --at newest             (a moment, out of the archive of its server)",
    ),
)
@with_run("backups verify")
def verify_sets(
    run: Run,
    names: SetsArgument = None,
    targets: FromOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every set there is.")] = False,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", help="No set, but the apps as of this moment, in UTC, or newest; names are apps.", metavar="MOMENT"
        ),
    ] = None,
    identity: IdentityOption = None,
) -> int:
    """Verify sets: restore each into a place that no app can reach, compare what is there then, remove it.

    With --at the app's server is brought up aside as of that moment, from its archive, and what is read out of it is
    restored and compared in the same way.

    Exit 1: a set is not what was backed up, or could not be verified here. Exit 6: it could not be tried.
    """
    output = run.output
    engine = run.engine(output)
    keys = identities(identity, os.environ)
    home = repository(engine.fleet, targets)
    with output.working(), exclusively(engine.state, "backups verify", output.progress) as progress:
        finish_interrupted(engine, keys, output)
        if at is not None:
            tried = _tried_moments(engine, names, at, targets, keys, progress)
        else:
            tried = [verify(engine.fleet, home, copy, keys, progress) for copy in _chosen(home, names, every)]
    output.document(all(verified.ok for verified in tried), {"sets": [_verdict(verified) for verified in tried]})
    for verified in tried:
        mark = verified.verification
        if verified.ok:
            output.say(f"{verified.copy.where}: verified", style="green")
        elif verified.problem is not None:
            about_the_set = verified.problem.where in (None, verified.copy.where)
            why = verified.problem.message if about_the_set else str(verified.problem)  # a server's
            output.say(f"{verified.copy.where}: could not be tried: {why}", style="red")
            if verified.problem.hint:
                output.note(f"  {verified.problem.hint}")
        elif mark is not None:
            for store, why in mark.failures.items():
                output.say(f"{verified.copy.where}: {store}: {why}", style="red")
            for store, why in mark.unverified.items():
                output.say(f"{verified.copy.where}: {store}: not verified: {why}", style="yellow")
    if not tried:
        output.say("There is no backup set yet. Make one: multidb backup")
    if any(verified.problem is not None for verified in tried):
        return _FAILED
    return 0 if all(verified.ok for verified in tried) else _NOT_SOUND


def _tried_moments(
    engine: Engine,
    names: Sequence[str] | None,
    at: str,
    targets: Sequence[str] | None,
    keys: Identities | None,
    progress: Progress,
) -> list[Verified]:
    tried = []
    if not names:
        raise UsageError("--at needs the names of apps", hint="multidb backups verify APP --at newest")
    for app in (engine.fleet.app(app_id(name)) for name in names):
        moment = newest_of(engine, app, targets) if at == "newest" else moment_of(at)
        with set_of_moment(engine, app, moment, targets=targets, keys=keys, progress=progress) as copy:
            home = repository(engine.fleet, [MOMENTS])
            tried.append(verify(engine.fleet, home, copy, None, progress, remember=False))
    return tried


@app.command(
    "copy",
    epilog=examples(
        "multidb backups copy lernmi --to s3://offsite/digi   (its newest set)",
        "multidb backups copy 20261121T140501Z-1a2b3c --to /mnt/nas/digi",
    ),
)
@with_run("backups copy")
def copy_sets(
    run: Run,
    names: SetsArgument = None,
    targets: FromOption = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", help="The target that is to have it; may be repeated.")
    ] = None,
) -> int:
    """Bring sets to another target, such as one that was away when they were made. Asks no server.

    Interrupted, run it again: files that are there stay, and S3 is sent only the parts that it lacks. A set is listed
    there when all of it is there.
    """
    output = run.output
    if not to:
        raise UsageError("nothing says where to", hint="multidb backups copy [SET] --to TARGET")
    engine = run.engine(output)
    home = repository(engine.fleet, targets)
    failed: list[MultidbError] = []
    copied: list[dict[str, str]] = []
    with output.working(), exclusively(engine.state, "backups copy", output.progress) as progress:
        for copy, target in itertools.product(_chosen(home, names, every=False), targets_of(engine.fleet, to)):
            try:
                new = copy_set(copy, target, progress)
                settle(Journal(engine.state), copy.owner, copy.id, [target.name])
            except MultidbError as error:
                failed.append(error)
                continue
            copied += [{**_name(copy), "target": target.name}] if new else []
            output.say(f"{copy.owner}/{copy.id}: {target.name} has it {'now' if new else 'already'}", style="green")
    output.document(not failed, {"copied": copied, "failed": [error.document() for error in failed]})
    for problem in failed:
        output.note(problem.sentence(), style="red")
    return _FAILED if failed else 0


@app.command(
    "prune",
    epilog=examples("multidb backups prune --dry-run", "multidb backups prune lernmi", "multidb backups prune --yes"),
)
@with_run("backups prune")
def prune_sets(
    run: Run,
    names: AppsArgument = None,
    targets: FromOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: YesOption = False,
) -> int:
    """Remove the sets that the manifest's `keep` does not want, what unfinished runs left, and copies of servers that
    `restore --keep-copy` has kept.

    Counts sets that were verified; an app that has none of these keeps them all. The last good set always stays.
    """
    output = run.output
    engine = run.engine(output)
    app_ids = [app_id(name) for name in names] if names else list(engine.project.apps)
    keep = {app: settings(engine.project, _app(engine, app)).keep for app in app_ids}
    home = repository(engine.fleet, targets)
    with exclusively(engine.state, "backups prune"):
        with output.working():
            pruning = decide(home, keep, utc_now())
        for decision in pruning.decisions:
            word = "keep  " if decision.keep else "remove"
            output.say(f"{word}  {decision.copy.where}  {decision.why}")
        for half in pruning.half_made:
            output.say(f"remove  {half.target.name} {half.folder}  unfinished")
        copies = {} if names else kept_copies(engine)
        for name, kept in copies.items():
            output.say(f"remove  the copy of server {name}, kept at {moment_in_words(kept.at)}")
        todo = len(pruning.going) + len(pruning.half_made) + len(copies)
        agreed = bool(todo) and not dry_run and ask(f"Remove {todo} of them?", yes=yes)
        errors: list[MultidbError] = []
        if agreed:
            with run.recorded(engine.state, {copy.app for copy in pruning.going}) as record:
                errors = carry_out(home, pruning) + discard_copies(engine, copies)
                _record(record, pruning, errors)
    document = {
        "agreed": agreed,
        "remove": [_name(copy) for copy in pruning.going],
        "keep": [
            {
                **_name(decision.copy),
                "why": decision.why,
            }
            for decision in pruning.decisions
            if decision.keep
        ],
        "unfinished": [{"target": half.target.name, "folder": half.folder} for half in pruning.half_made],
        "copies": sorted(copies),
        "failed": [error.document() for error in errors],
    }
    output.document(not errors, document)
    for error in errors:
        output.note(str(error), style="red")
    if not todo:
        output.note("Nothing to remove.")
    elif not agreed:
        output.note("Nothing was removed.")
    return _FAILED if errors else 0 if agreed or dry_run or not todo else 3


def _record(record: RunRecord, pruning: Pruning, errors: Sequence[MultidbError]) -> None:
    record.error = next(iter(errors), None)
    if errors:  # which of them it was is not known
        record.add("delete", "sets", f"all but {len(errors)} of {len(pruning.going) + len(pruning.half_made)}")
        return
    for copy in pruning.going:
        record.add("delete", "set", f"{copy.id} on {copy.target.name}", copy.app)
    for half in pruning.half_made:
        record.add("delete", "unfinished set", f"{half.folder} on {half.target.name}")


def _chosen(home: Repository, names: Sequence[str] | None, every: bool) -> list[Copy]:
    if names:
        return [home.find(name) for name in names]
    copies = home.copies()
    if every:
        return copies
    newest: dict[str, Copy] = {}
    for copy in copies:
        newest.setdefault(copy.owner, copy)
    return list(newest.values())


def _app(engine: Engine, name: str) -> Any:
    if name not in engine.project.apps:
        known = ", ".join(engine.project.apps)
        raise UsageError(f"there is no app {name!r}, so nothing says which of its sets stay", hint=f"apps: {known}")
    return engine.project.apps[name]


def _name(copy: Copy) -> dict[str, str]:
    renamed = {"made_as": copy.app} if copy.owner != copy.app else {}
    return {"app": copy.owner, "set": copy.id, "target": copy.target.name, **renamed}


def _document(copy: Copy, now: datetime) -> dict[str, Any]:
    backup_set = copy.backup_set
    mark = copy.verification
    return {
        **_name(copy),
        "verified": copy.verified,
        "tried_at": mark.when.isoformat() if mark else None,
        "problem": copy.problem or None,
        **(
            {
                "made_at": backup_set.made.isoformat(),
                "age_seconds": (now - backup_set.made).total_seconds(),
                "reason": backup_set.reason.value,
                "consistency": backup_set.consistency.value,
                "complete": backup_set.complete,
                "encrypted": bool(backup_set.recipients),
                "stores": {store: _part_document(part) for store, part in backup_set.parts.items()},
                "files": _part_document(backup_set.files) if backup_set.files is not None else None,
            }
            if backup_set
            else {}
        ),
    }


def _part_document(part: StoredPart) -> dict[str, Any]:
    return {
        "size": part.size,
        "stored_size": part.stored_size,
        "counts": dict(part.part.measures.counts),
    }


def _verdict(verified: Verified) -> dict[str, Any]:
    mark = verified.verification
    return {
        **_name(verified.copy),
        "verified": verified.ok,
        "failures": dict(mark.failures) if mark else {},
        "unverified": dict(mark.unverified) if mark else {},
        "error": verified.problem.document() if verified.problem else None,
    }


def _proof(copy: Copy) -> str:
    if copy.verified:
        return "yes"
    return "FAILED" if copy.verification and copy.verification.failures else "no"
