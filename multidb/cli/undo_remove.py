"""`multidb undo-remove`: an app that was taken out, back as it was."""

from __future__ import annotations

from typing import Any

import typer

from multidb import removal
from multidb.cli.env_files import write_env_files
from multidb.cli.options import AppArgument, Run, examples, with_run
from multidb.cli.plan_view import report_document, show_report
from multidb.cli.remove_app import engine_of
from multidb.fleet import Scope
from multidb.manifest import app_id

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command("undo-remove", epilog=examples("multidb undo-remove lernmi"))
@with_run("undo-remove")
def undo_remove(run: Run, name: AppArgument) -> int:
    """Bring a removed app back: its entry in the manifest, its logins with the credentials that it had, its data."""
    output = run.output
    app = app_id(name)
    state = engine_of(run, output, app).state
    with output.working(), state.lock_apps([app], f"multidb undo-remove {app}"):
        fleet = engine_of(run, output, app).fleet
        removal.the_removed(fleet, app)
        with run.recorded(state, [app]) as record:
            removal.restoring(fleet, app)
            engine = run.engine(output)
            engine.fleet.start(app)
            report = engine.apply(Scope(apps=frozenset({app})))
            record.applied(report)
            if report.error() is None:
                write_env_files(engine.fleet, output, [app])
                removal.restored(engine.fleet, app)
                record.add("restore", "app", app, app)
    code = show_report(output, report)
    if code == 0:
        output.say(f"{app} is back as it was.", style="green")
    document: dict[str, Any] = {"app": app, **report_document(report)}
    output.document(code == 0, document)
    if code:
        output.note(f"  To go on: multidb undo-remove {app}")
    return code
