"""`multidb status`: the servers, and whether they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from multidb.cli.options import DEFAULT_FILE, EnvOption, FileOption, JsonOption, Run, examples
from multidb.cli.output import Output
from multidb.runtime import ServerState, ServerStatus

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_STYLES = {"running": "green", "stopped": "yellow", "skipped": "yellow", "failed": "red"}


@app.command(
    epilog=examples(
        "multidb status",
        "multidb status --json",
    )
)
def status(file: FileOption = DEFAULT_FILE, env: EnvOption = None, as_json: JsonOption = False) -> int:
    """Show the servers of the manifest. Exit 1 when one that should run does not."""
    run = Run("status", file, env, json=as_json)
    output = run.output
    with output.working():
        found = run.fleet(output).runtime.status()
    ok = all(each.state in (ServerState.RUNNING, ServerState.SKIPPED) for each in found)
    show_servers(output, found, ok)
    return 0 if ok else 1


def show_servers(
    output: Output,
    found: Sequence[ServerStatus],
    ok: bool,
    nothing: str = "No servers: no app of the manifest uses a store yet. Next: multidb add-app NAME",
) -> None:
    """The servers as a table, or as the command's JSON document; `nothing` is said where there are none."""
    servers = [
        {
            "name": each.name,
            "store": each.store,
            "state": each.state.value,
            "address": str(each.server.endpoint) if each.server else None,
            "pid": each.pid,
            "message": each.message,
        }
        for each in found
    ]
    output.document(ok, {"servers": servers})
    if not found:
        output.say(nothing)
        return
    rows = [(each.name, each.state.value, _address(each), each.message) for each in found]
    output.table(("server", "state", "address", ""), rows, _STYLES)


def _address(status: ServerStatus) -> str:
    """Where the server is; a folder as one would type it here."""
    if status.server is None:
        return ""
    place = Path(status.server.endpoint.path)
    here = Path.cwd()
    return str(place.relative_to(here)) if place.is_relative_to(here) else str(status.server.endpoint)
