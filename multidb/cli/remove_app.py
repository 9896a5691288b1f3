"""`multidb remove-app`: an app's logins off, its data kept for a time of grace."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from multidb import removal
from multidb.backup.encryption import identities
from multidb.backup.run import final_set
from multidb.cli.options import AppArgument, IdentityOption, Run, YesOption, ask, duration, examples, with_run
from multidb.cli.output import Output
from multidb.closure import closures
from multidb.engine import Engine
from multidb.environment import standing
from multidb.errors import Refused, UsageError
from multidb.manifest import app_id
from multidb.model import Project
from multidb.orphans import left_of, orphan, orphans, vacant, ways_of_vacant, with_left
from multidb.renames import rename_of
from multidb.state_stores import open_state
from multidb.tombstone import Phase, Tombstone, tombstones

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    "remove-app",
    epilog=examples(
        "multidb remove-app lernmi",
        "multidb remove-app lernmi --grace 30d --yes",
        "multidb remove-app lernmi --no-backup",
    ),
)
@with_run("remove-app")
def remove_app(
    run: Run,
    name: AppArgument,
    grace: Annotated[str, typer.Option("--grace", help="How long its data is meant to stay: 12h, 7d, 4w.")] = "7d",
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Make a final set first, and verify it by restoring it.")
    ] = True,
    identity: IdentityOption = None,
    yes: YesOption = False,
) -> int:
    """Take an app out: a final verified backup, its entry out of the manifest, its logins off and its sessions ended.

    Its data, names and numbers are kept: `multidb undo-remove NAME` brings it back as it was, `multidb purge NAME`
    drops it for good. Interrupted anywhere, run it again.
    """
    output = run.output
    app, kept = app_id(name), duration(grace)
    engine = engine_of(run, output, app)
    if _begun(engine, app) is None:
        _require_logins(run, output, app)
        with output.working():
            there = standing(engine.fleet, app)
        for store, access in there.items():
            output.note(f"  {store}: {', '.join(access.names)}")
        if not ask(f"Turn off {app} on these servers? Its data stays for {grace}.", yes=yes):
            output.note("Nothing was changed.")
            return 3
    with output.working(), engine.state.lock_apps([app], f"multidb remove-app {app}"):
        engine = engine_of(run, output, app)  # what was read before may hold no longer
        begun, final = _begun(engine, app), ""
        with run.recorded(engine.state, [app]) as record:
            closure = closures(engine.state).get(app)
            if backup and begun is None and (closure is None or closure.exchange):  # an unfinished clone has no data
                keys, command = identities(identity, os.environ), f"remove-app {app}"
                final = final_set(engine, app, keys, output.progress, command=command)
                record.add("create", "set", final, app)
            stone = removal.remove(engine.fleet, app, grace=kept, backup=final, progress=output.progress)
            record.add("remove", "app", app, app)
    output.document(True, {"app": app, **stone.summary()})
    output.say(f"{app} is out: its logins are off, its data stays until {stone.until:%Y-%m-%d}.", style="green")
    if stone.backup:
        output.say(f"Its final set: {stone.backup}")
    output.say(f"Bring it back: multidb undo-remove {app} · end it for good: multidb purge {app}")
    return 0


def _begun(engine: Engine, app: str) -> Tombstone | None:
    """The tombstone of a removal that an earlier run has begun; None when the app is in use, also where that has only
    just begun again.

    Raises:
        UsageError: it is removed, or being purged.
    """
    begun = tombstones(engine.state).get(app)
    if begun is None or begun.phase is Phase.RESTORING:
        return None
    if begun.phase is not Phase.REMOVING:
        raise UsageError(
            f"app {app} is {begun.phase.value} already",
            hint=f"bring it back: multidb undo-remove {app}; end it for good: multidb purge {app}",
        )
    return begun


def _require_logins(run: Run, output: Output, app: str) -> None:
    """`UsageError` where what the servers have by that name was never an app's, so that nothing can be turned off."""
    if app in run.project().apps:
        return
    with output.working():
        fleet = run.fleet(output)
        things = {name: stores for name, stores in orphans(fleet).items() if name == app}
        if app in vacant(fleet, things):
            raise UsageError(
                f"{app} is no app: it is what apps shared, and all have left", where=app, hint=ways_of_vacant(app)
            )


def engine_of(run: Run, output: Output, app: str) -> Engine:
    """An engine for which the app is there, also when it was removed, or is on the servers only.

    Raises:
        UsageError: there is no such app.
        Refused: it is on its way to another name.
    """
    project = run.project()
    if (rename := rename_of(open_state(project), app)) is not None:
        raise Refused(
            f"app {app} is being renamed: {rename.old} is to be {rename.new}", where=f"app {app}", hint=rename.way_on
        )
    if app in project.removed:
        project = project.including(project.removed[app])
    elif app not in project.apps:
        with output.working():
            stores = orphans(run.fleet(output, project)).get(app)
        if stores is None:
            known = ", ".join(project.apps) or "none yet"
            raise UsageError(f"there is no app {app!r}", where=project.file, hint=f"apps: {known}")
        output.note(f"{app} is not in the manifest; what the servers have of it: {', '.join(stores)}", style="yellow")
        project = project.including(orphan(project, app, stores))
    return _with_left(run, output, project, app)


def _with_left(run: Run, output: Output, project: Project, app: str) -> Engine:
    """An engine for which the app has also those stores that its entry does not name, and whose servers know it: what
    ends an app ends it there, too."""
    engine = run.engine(output, project)
    with output.working():
        left = left_of(engine.fleet, project.apps[app])
    return run.engine(output, project.including(with_left(project.apps[app], left))) if left else engine
