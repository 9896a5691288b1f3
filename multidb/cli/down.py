"""`multidb down`: stop the servers."""

from __future__ import annotations

from typing import Annotated

import typer

from multidb.cli.options import Run, examples, with_run
from multidb.cli.status import show_servers
from multidb.cli.typed_name import agree_to_destroy
from multidb.errors import UsageError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb down",
        "multidb down --volumes                     (asks for the project's name)",
        "multidb down --volumes --yes-destroy digi  (where nobody can be asked)",
    )
)
@with_run("down")
def down(
    run: Run,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Delete the containers' volumes as well, with all data of all apps.")
    ] = False,
    yes_destroy: Annotated[
        str | None,
        typer.Option("--yes-destroy", metavar="PROJECT", help="Do not ask; the project's name is the answer."),
    ] = None,
) -> int:
    """Stop exactly the servers that `up` started. Data stays, unless --volumes asks for its end and is confirmed."""
    output = run.output
    fleet = run.fleet(output, run.project(offline=True))
    if yes_destroy is not None and not volumes:
        raise UsageError(
            "--yes-destroy goes with --volumes", hint="multidb down stops the servers and keeps their data"
        )
    if volumes:
        project = fleet.project.name
        agree_to_destroy(
            project,
            yes_destroy,
            output,
            warning=f"This deletes the volumes of {project}: all data of all of its apps. It cannot be undone.",
            command=f"multidb down --volumes --yes-destroy {project}",
        )
    with output.working():
        statuses = fleet.runtime.down(output.progress, erase=volumes)
    show_servers(output, statuses, ok=True, nothing="No server was running.")
    return 0
