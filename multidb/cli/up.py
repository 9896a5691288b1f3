"""`multidb up`: start the servers."""

from __future__ import annotations

from typing import Annotated

import typer

from multidb.cli.env_files import following_servers
from multidb.cli.options import Run, examples, with_run
from multidb.cli.status import show_servers
from multidb.runtime import ServerState

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb up",
        "multidb up --server postgres",
        "multidb up --switch qdrant",
    )
)
@with_run("up")
def up(
    run: Run,
    servers: Annotated[
        list[str] | None, typer.Option("--server", help="Only this server; may be repeated.", metavar="NAME")
    ] = None,
    switch: Annotated[
        list[str] | None,
        typer.Option(
            "--switch",
            help="Take what this machine has now for this store, where the project has had another product (a Qdrant "
            "server or its local mode, Valkey or Redis). No data is converted or deleted. May be repeated.",
            metavar="STORE",
        ),
    ] = None,
) -> int:
    """Start the servers of the manifest and wait until each answers. Run twice, it changes nothing.

    It says before what it has to fetch from the network for that. A server that cannot be had on this machine is
    skipped with a line that says why; the others work without it. One that the project has had before is missed
    instead: exit 4.
    """
    output = run.output
    fleet = run.fleet(output, run.project(offline=True))
    if switch:
        fleet.runtime.switch(switch)
    for what in fleet.runtime.to_fetch(servers):
        output.note(f"Fetching {what}")
    with output.working(), following_servers(fleet, output):
        statuses = fleet.runtime.up(output.progress, servers)
    ok = all(status.state is not ServerState.FAILED for status in statuses)
    show_servers(output, statuses, ok)
    return 0 if ok else 4
