"""`multidb status`: the servers, and whether they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from multidb.cli.options import Run, examples, with_run
from multidb.cli.output import Output
from multidb.runtime import ServerState, ServerStatus

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_NO_SERVERS = "No servers: no app of the manifest uses a store yet. Next: multidb add-app NAME"
_STYLES = {"running": "green", "stopped": "yellow", "skipped": "yellow", "failed": "red"}


@app.command(
    epilog=examples(
        "multidb status",
        "multidb status --json",
    )
)
@with_run("status")
def status(run: Run) -> int:
    """Show the servers of the manifest. Exit 1 when one that should run does not."""
    output = run.output
    with output.working():
        statuses = run.fleet(output, run.project(offline=True)).runtime.status()
    ok = all(status.state in (ServerState.RUNNING, ServerState.SKIPPED) for status in statuses)
    show_servers(output, statuses, ok)
    return 0 if ok else 1


def show_servers(
    output: Output,
    statuses: Sequence[ServerStatus],
    ok: bool,
    nothing: str = _NO_SERVERS,
) -> None:
    """The servers as a table, or as the command's JSON document; `nothing` is said where there are none."""
    output.document(ok, {"servers": server_documents(statuses)})
    show_server_table(output, statuses, nothing)


def server_documents(statuses: Sequence[ServerStatus]) -> list[dict[str, Any]]:
    """The servers as JSON documents have them."""
    return [
        {
            "server": status.name,
            "store": status.store,
            "state": status.state.value,
            "address": str(status.server.endpoint) if status.server else None,
            "pid": status.pid,
            "message": status.message,
        }
        for status in statuses
    ]


def show_server_table(output: Output, statuses: Sequence[ServerStatus], nothing: str = _NO_SERVERS) -> None:
    """The servers as a table; `nothing` is said where there are none."""
    if not statuses:
        output.say(nothing)
        return
    rows = [(status.name, status.state.value, _address(status), status.message) for status in statuses]
    output.table(("server", "state", "address", ""), rows, _STYLES)


def _address(status: ServerStatus) -> str:
    """Where the server is; a folder as one would type it here."""
    if status.server is None:
        return ""
    place = Path(status.server.endpoint.path)
    here = Path.cwd()
    return str(place.relative_to(here)) if place.is_relative_to(here) else str(status.server.endpoint)
