"""`multidb clone`: a preview environment from an app's live data."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import files
from multidb.backup.app_files.own import beside
from multidb.backup.cloning import Cloned, copy_into, entry_for, expires_at, masked_store
from multidb.backup.journal import exclusively
from multidb.backup.labels import CLONE_OF, EXPIRES
from multidb.backup.sets import declaration
from multidb.cli.env_files import write_env_files
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.options import AppArgument, Run, duration, examples, with_run
from multidb.cli.output import Output
from multidb.cli.restore import audited, ensure_copy, mentions_of_copy, ready, tell_unshared
from multidb.closure import Closure
from multidb.engine import Engine
from multidb.errors import Refused, UsageError
from multidb.fleet import Scope
from multidb.manifest import app_id
from multidb.model import moment_in_words

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb clone lernmi lernmi_pr42 --ttl 3d",
        "multidb clone lernmi lernmi_pr42 --ttl 3d --mask mask.sql",
        "multidb expire                        (removes the clones whose time is up)",
    )
)
@with_run("clone", verbose=True)
def clone(
    run: Run,
    name: AppArgument,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The new app.")],
    ttl: Annotated[str | None, typer.Option("--ttl", help="How long it stays: 12h, 3d, 2w. Default: for good.")] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="SQL that is run in the clone's database first.", metavar="FILE.sql")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="What a clone of before has now may go.")] = False,
    safety_set: Annotated[
        bool, typer.Option("--safety-set/--no-safety-set", help="Make a set of what it has now first.")
    ] = True,
    share: Annotated[
        bool, typer.Option("--share-channels", help="It hears its original's Redis channels, and publishes to them.")
    ] = False,
) -> int:
    """Make an app like another, with the data that it has now, isolated as any: for a preview, for CI.

    Nobody can log in to it before its data is there and masked, whatever else is run meanwhile. Interrupted, or with
    --mask corrected, run it again. A clone that is finished is made anew with --replace. Channels that the original has
    under `redis.channels` are not the clone's, so that what it publishes stays with it.
    """
    output = run.output
    source, new = app_id(name), app_id(other)
    sql = files.read_text(mask) if mask else ""
    if sql is None:
        raise UsageError("there is no such file", where=str(mask), hint="--mask takes a file of SQL")
    engine = run.engine(output)
    engine.fleet.require(Scope(apps=frozenset({source})))
    labels = {CLONE_OF: source}
    if ttl:
        labels[EXPIRES] = (datetime.now(UTC) + duration(ttl)).isoformat(timespec="seconds")
    if new in engine.project.apps and engine.project.apps[new].labels.get(CLONE_OF) != source:
        raise Refused(
            f"app {new} is no clone of {source}", where=engine.project.apps[new].where, hint="give it another name"
        )
    original = declaration(engine.project.apps[source])
    entry = entry_for(original, new, shared=share)
    with ExitStack() as stack:
        stack.enter_context(output.working())
        progress = stack.enter_context(exclusively(engine.state, "clone", output.progress))
        finish_interrupted(engine, None, output)
        stack.enter_context(engine.state.lock_apps([source, new], f"multidb clone {source} {new}"))
        record = stack.enter_context(run.recorded(engine.state, [new]))
        own = {**beside(original, new), "labels": {**entry.get("labels", {}), **labels}}
        if sql:
            masked_store(engine.project.apps[source])
        project, added = ensure_copy(run, engine, output, {**entry, **own}, Closure(new, source, bool(sql)))
        if added and not share:
            tell_unshared(output, source, new, original)
        engine = run.engine(output, project)
        engine.fleet.require(Scope(apps=frozenset({source})))
        expires_at(engine.project.apps[new])  # a time that cannot be read is refused before anything is made
        record.applied(ready(engine, new))
        done = copy_into(engine, source, new, mask=sql, replace=replace, safety=safety_set, progress=progress)
        record.add("replace", "data", f"that of {source}", new)
    return _show(engine, output, source, new, done)


def _show(engine: Engine, output: Output, source: str, new: str, done: Cloned) -> int:
    """Writes the clone's env file, looks whether its walls are whole, and says what it is. Gives the exit code."""
    written = write_env_files(engine.fleet, output, [new])
    openings = audited(engine, new, output)
    app = engine.project.apps[new]
    original = declaration(engine.project.apps[source])
    named = mentions_of_copy(engine, new, source, original, list(app.stores), output)
    kept = done.safety.id if done.safety else None
    for note in done.notes:
        output.note(note)
    document: dict[str, Any] = {
        "app": new,
        "of": source,
        "expires_at": app.labels.get(EXPIRES),
        "safety_set": kept,
        "mentions": named,
        "written": [str(path) for path in written],
    }
    output.document(not openings.own, {**document, **openings.document()})
    ends = expires_at(app)
    output.say(
        f"{new} has what {source} has.{f' It goes after {moment_in_words(ends)}: multidb expire.' if ends else ''}",
        style="green",
    )
    if kept:
        output.say(f"What it had before is in set {kept}.")
    output.say(f"Next: multidb show {new} · its variables are in apps/{new}/.env")
    return 1 if openings.own else 0
