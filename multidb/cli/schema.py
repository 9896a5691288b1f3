"""`multidb schema`: the manifest's JSON Schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from multidb import manifest
from multidb.cli.options import Run, examples, with_run
from multidb.project import store_schemas
from multidb.secret_stores import secret_options

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb schema > multidb.schema.json",
        "multidb schema --overlay > multidb.overlay.schema.json   (for multidb.prod.yaml and its like)",
        "and as the manifest's first line:  # yaml-language-server: $schema=multidb.schema.json",
    )
)
@with_run("schema", file=None, env=False)
def schema(
    run: Run,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="That of the files laid over the manifest by --env, where all is optional."),
    ] = False,
) -> int:
    """Print the manifest's JSON Schema (draft 2020-12), with which editors complete and check it."""
    document = manifest.schema(store_schemas(), secret_options(), overlay=overlay)
    run.output.document(True, {"schema": document})
    if not run.json:
        typer.echo(json.dumps(document, indent=2))
    return 0
