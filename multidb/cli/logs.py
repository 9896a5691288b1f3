"""`multidb logs`: what the servers say."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from multidb.cli.options import LongFileOption, Run, examples, with_run
from multidb.cli.output import Output
from multidb.errors import UsageError
from multidb.fleet import Fleet

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb logs",
        "multidb logs postgres --lines 200",
        "multidb logs neo4j-lernmi -f",
    )
)
@with_run("logs", file=LongFileOption)
def logs(
    run: Run,
    server: Annotated[
        str | None, typer.Argument(metavar="SERVER", help="The server, as `multidb status` calls it; default: all.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="So many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line; Ctrl-C ends it.")] = False,
) -> int:
    """Show the last lines of a server's log, or of every server's. With --follow, --json prints one document a line."""
    output = run.output
    fleet = run.fleet(output, run.project(offline=True))
    known = sorted({name for app in fleet.project.apps.values() for name in fleet.runtime.names_for(app)})
    if server is not None and known and server not in known:
        raise UsageError(f"there is no server {server!r}", where=str(run.file), hint=f"servers: {', '.join(known)}")
    if follow and server is None and len(known) > 1:
        raise UsageError("--follow shows one server", hint=f"name it: multidb logs {known[0]} --follow")
    if follow:
        return _follow(output, fleet, server or next(iter(known), "all"), lines)
    tails: dict[str, list[str]] = {}
    for name in [server] if server is not None else known or ["all"]:
        lead = "" if server is not None else f"{name} | "
        tails[name] = []
        for line in fleet.runtime.logs(name, lines, follow=False):
            if run.json:
                tails[name].append(line)
            else:
                output.say(lead + line, verbatim=True)
    output.document(True, {"logs": tails})
    return 0


def _follow(output: Output, fleet: Fleet, server: str, lines: int) -> int:
    """Each line as it comes, until Ctrl-C, which ends it without a word."""
    with suppress(KeyboardInterrupt):
        for line in fleet.runtime.logs(server, lines, follow=True):
            output.line(True, {"server": server, "line": line})
            output.say(line, verbatim=True)
            sys.stdout.flush()  # who reads a pipe wants it now
    return 0
