"""`multidb serve`: health, metrics and a page over HTTP."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multidb.cli.options import Run, examples, with_run
from multidb.distribution import add_command
from multidb.errors import UsageError

_HOST, _PORT = "127.0.0.1", 8642

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class AccessLogForm(StrEnum):
    """How each request is written to stdout."""

    TEXT = "text"
    JSON = "json"
    NONE = "none"


class DegradedStatus(StrEnum):
    """With which HTTP status a degraded app is answered."""

    OK = "200"
    UNAVAILABLE = "503"


@app.command(
    epilog=examples(
        "multidb serve                                        (then open http://127.0.0.1:8642/)",
        "multidb serve --show-token                           (the password that the page asks for)",
        "multidb serve --check                                (whether it could, before a service is restarted)",
        "multidb serve --socket /run/multidb.sock             (curl --unix-socket /run/multidb.sock http://localhost/)",
        "multidb serve --host 0.0.0.0 --token-file /run/secrets/multidb-token",
        "multidb serve --trusted-proxy 127.0.0.1 --access-log json --degraded-status 503",
    )
)
@with_run("serve")
def serve(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = _HOST,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = _PORT,
    socket: Annotated[
        Path | None,
        typer.Option("--socket", help="Unix socket to listen on instead, mode 0600; who may open it needs no token."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with the token that callers need; else MULTIDB_TOKEN in the environment; else the project's.",
        ),
    ] = None,
    show_token: Annotated[
        bool, typer.Option("--show-token", help="Print the token that callers need, and serve nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether it could serve: manifest, token, address; serve nothing.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", min=0, help="Seconds between two health checks; 0: only when asked.")
    ] = 30.0,
    look_only: Annotated[
        bool, typer.Option("--look-only", help="Health checks write nothing on the servers, not even a probe.")
    ] = False,
    degraded_status: Annotated[
        DegradedStatus,
        typer.Option("--degraded-status", help="HTTP status of /health/databases where an app is degraded."),
    ] = DegradedStatus.OK,
    access_log: Annotated[
        AccessLogForm,
        typer.Option("--access-log", help="A line on stdout for each request: Common Log Format, or JSON."),
    ] = AccessLogForm.TEXT,
    rate: Annotated[
        int,
        typer.Option("--rate", min=0, help="Requests that each client may make in a minute; 0: as many as it likes."),
    ] = 600,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy",
            metavar="ADDRESS",
            help="Address or network of a proxy in front, whose X-Forwarded-For tells who its client is. May be "
            "repeated; with --socket every caller is believed.",
        ),
    ] = None,
) -> int:
    """Serve each app's health as JSON, metrics for Prometheus and a page for people. Read only; ends with SIGTERM.

    /health/databases, /health/databases/APP, /health/live, /metrics, / and /openapi.json. All but /health/live need the
    token, as a bearer token or as the password that a browser asks for. The project's own is made with the first start.
    """
    try:
        from multidb.service.clients import network_from
        from multidb.service.serving import ServeOptions, place, project_token, token_from
        from multidb.service.serving import serve as run_service
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package {error.name} is not installed",
            where="multidb serve",
            hint=add_command("[serve]"),
        ) from None
    if socket is not None and (host, port) != (_HOST, _PORT):
        raise UsageError("--socket takes the place of --host and --port", hint="leave one of them out")
    if run.json and not (check or show_token):
        raise UsageError(
            "--json goes with --check or --show-token", hint="what the service knows as JSON: GET /health/databases"
        )
    token = token_from(token_file, os.environ.get("MULTIDB_TOKEN"))
    if show_token:
        shown = (token or project_token(run.engine(run.output).state)).reveal()
        run.output.document(True, {}, in_clear={"token": shown})
        if not run.json:
            typer.echo(shown)
        return 0
    settings = ServeOptions(host, port, socket, token, may_write=not look_only)
    settings = replace(
        settings,
        intervals=replace(settings.intervals, health=every),
        trusted=tuple(network_from(text) for text in trusted_proxy or ()),
        rate=rate,
        access_log=access_log.value,
        degraded=int(degraded_status),
    )
    if check:
        project, address = place(run.engine(run.output), settings)
        run.output.document(True, {"project": project, "address": address})
        run.output.say(f"Nothing keeps {project} from being served on {address}.", style="green")
        return 0
    run_service(lambda: run.engine(run.output), settings, run.output.note)
    return 0
