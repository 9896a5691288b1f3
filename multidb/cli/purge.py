"""`multidb purge`: a removed app, gone for good."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from multidb import removal
from multidb.backup.app_files.own import locations_left
from multidb.cli.options import Run, examples, with_run
from multidb.cli.output import Output
from multidb.cli.remove_app import engine_of
from multidb.cli.typed_name import agree_to_destroy
from multidb.document import printable
from multidb.engine import Engine
from multidb.errors import Refused
from multidb.manifest import app_id
from multidb.model import listed
from multidb.tombstone import Tombstone, tombstones

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb purge                             (lists what was removed)",
        "multidb purge lernmi                      (asks for its name)",
        "multidb purge lernmi --yes-destroy lernmi (where nobody can be asked)",
    )
)
@with_run("purge")
def purge(
    run: Run,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The removed app; none: list them.")] = None,
    yes_destroy: Annotated[
        str | None, typer.Option("--yes-destroy", metavar="NAME", help="Do not ask; the app's name is the answer.")
    ] = None,
) -> int:
    """Drop everything that a removed app has on the servers, and its credentials. Its backup sets stay.

    What carries no mark of ours is never touched. Interrupted anywhere, run it again.
    """
    output = run.output
    if name is None:
        _list(output, tombstones(run.fleet(output).state))
        return 0
    app = app_id(name)
    engine = engine_of(run, output, app)
    stone = _removed(run, engine, app)
    backup = stone.backup if stone else ""
    kept = f"its final set {backup}" if backup else "no final set that is known here"
    agree_to_destroy(
        app,
        yes_destroy,
        output,
        warning=f"This deletes everything that {app} has on the servers. It cannot be undone; there is {kept}.",
        command=f"multidb purge {app} --yes-destroy {app}",
    )
    with output.working(), engine.state.lock_apps([app], f"multidb purge {app}"):
        engine = engine_of(run, output, app)  # what was read before may hold no longer
        _removed(run, engine, app)
        with run.recorded(engine.state, [app]) as record:
            removal.purge(engine.fleet, app, output.progress)
            record.add("purge", "app", app, app)
    output.document(True, {"app": app, "final_set": backup or None})
    output.say(f"{app} is gone from the servers.", style="green")
    left = locations_left(engine.project, app)
    if left:
        output.note(f"Its files stay: {listed([printable(location) for location in left])}")
    return 0


def _removed(run: Run, engine: Engine, app: str) -> Tombstone | None:
    """The tombstone of an app that may be purged; None where it is on the servers only. `Refused` when it is in use."""
    stone = tombstones(engine.state).get(app)
    if stone is None and app in run.project().apps:
        raise Refused(
            f"app {app} is in use", where=engine.project.file, hint=f"take it out first: multidb remove-app {app}"
        )
    return stone


def _list(output: Output, stones: dict[str, Tombstone]) -> None:
    now = datetime.now(UTC)
    output.document(True, {"removed": {app: stone.summary() for app, stone in stones.items()}})
    if not stones:
        output.say("No app was removed.")
        return
    rows = [
        (
            app,
            stone.phase.value,
            f"{stone.since:%Y-%m-%d}",
            f"{stone.until:%Y-%m-%d}" + (" (over)" if stone.until < now else ""),
            stone.backup or "none",
        )
        for app, stone in stones.items()
    ]
    output.table(("app", "", "since", "kept until", "final set"), rows)
