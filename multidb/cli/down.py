"""`multidb down`: stop the servers."""

from __future__ import annotations

import typer

from multidb.cli.options import DEFAULT_FILE, EnvOption, FileOption, JsonOption, Run, examples
from multidb.cli.status import show_servers

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb down",
    )
)
def down(file: FileOption = DEFAULT_FILE, env: EnvOption = None, as_json: JsonOption = False) -> int:
    """Stop exactly the servers that `up` started. Data stays."""
    run = Run("down", file, env, json=as_json)
    output = run.output
    with output.working():
        found = run.engine(output).runtime.down(output.progress)
    show_servers(output, found, ok=True)
    return 0
