"""`multidb restart`: stop the servers and start them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from multidb.cli.env_files import following_servers
from multidb.cli.options import Run, examples, with_run
from multidb.cli.status import server_documents, show_server_table
from multidb.fleet import Fleet
from multidb.model import listed
from multidb.runtime import Restarted, ServerState

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_NAMED = 6  # apps in one line


@app.command(
    epilog=examples(
        "multidb restart",
        "multidb restart postgres",
        "multidb restart neo4j-lernmi redis",
    )
)
@with_run("restart")
def restart(
    run: Run,
    servers: Annotated[
        list[str] | None,
        typer.Argument(metavar="SERVER", help="These servers, as `multidb status` calls them; default: all."),
    ] = None,
) -> int:
    """Stop the servers that `up` started and start them again, with the options that the manifest has now. Data stays.

    Apps lose their connections for that time, and are named. A server that is known not to come up again (its program
    is gone, its port taken) is left running: exit 4.
    """
    output = run.output
    fleet = run.fleet(output)
    with output.working(), following_servers(fleet, output):
        restarted = fleet.runtime.restart(output.progress, servers)
    statuses = [server.status for server in restarted]
    ok = all(status.state is not ServerState.FAILED for status in statuses)
    cut_off = _cut_off(fleet, restarted)
    output.document(ok, {"servers": server_documents(statuses), "cut_off": cut_off})
    show_server_table(output, statuses)
    if cut_off:
        output.say(f"Cut off meanwhile: {listed(cut_off, _NAMED)}")
    return 0 if ok else 4


def _cut_off(fleet: Fleet, restarted: Sequence[Restarted]) -> list[str]:
    """The apps with a place on a server that was stopped."""
    stopped = {server.status.name for server in restarted if server.stopped}
    return [app.id for app in fleet.project.apps.values() if stopped.intersection(fleet.runtime.names_for(app))]
