"""`multidb up`: start the servers."""

from __future__ import annotations

from typing import Annotated

import typer

from multidb.cli.env_files import following_servers
from multidb.cli.options import DEFAULT_FILE, EnvOption, FileOption, JsonOption, Run, examples
from multidb.cli.status import show_servers
from multidb.runtime import ServerState

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb up",
        "multidb up --server postgres",
    )
)
def up(
    file: FileOption = DEFAULT_FILE,
    env: EnvOption = None,
    servers: Annotated[
        list[str] | None, typer.Option("--server", help="Only this server; may be repeated.", metavar="NAME")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Start the servers of the manifest and wait until each answers. Run twice, it changes nothing.

    A server that cannot be had on this machine is skipped with a line that says why; the others work without it.
    """
    run = Run("up", file, env, json=as_json)
    output = run.output
    engine = run.engine(output)
    with output.working(), following_servers(engine, output):
        found = engine.runtime.up(output.progress, servers)
    ok = all(status.state is not ServerState.FAILED for status in found)
    show_servers(output, found, ok)
    return 0 if ok else 4
