"""The root of the command line: what stands before the command."""

from __future__ import annotations

import typer

from multidb import DISTRIBUTION, __version__
from multidb.cli.command_line import RootCommand

__all__ = ["app"]

app = typer.Typer(
    cls=RootCommand,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="One manifest, many apps, each in its own isolated place on shared Postgres, Neo4j, Qdrant and Redis servers.",
    epilog="Start with: multidb init, multidb add-app NAME. An app is named by NAME or by --app NAME, and every "
    "command takes -y/--yes. Exit codes: 0 done, 1 not as wanted, 2 usage or manifest, "
    "3 refused, 4 server, 5 applied in part, 6 backup.",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"multidb {__version__} ({DISTRIBUTION})")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options that stand before the command."""
