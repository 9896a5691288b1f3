"""`multidb schema`: the manifest's JSON Schema."""

from __future__ import annotations

import json

import typer

from multidb import manifest
from multidb.cli.options import examples
from multidb.engine import store_schemas
from multidb.runtime.external import ExternalServer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb schema > multidb.schema.json",
        "and as the manifest's first line:  # yaml-language-server: $schema=multidb.schema.json",
    )
)
def schema() -> int:
    """Print the manifest's JSON Schema (draft 2020-12), with which editors complete and check it."""
    typer.echo(json.dumps(manifest.schema(store_schemas(), external=ExternalServer), indent=2))
    return 0
