"""`multidb show`: one app, as its servers have it."""

from __future__ import annotations

from typing import Any

import typer

from multidb.cli.options import DEFAULT_FILE, AppArgument, EnvOption, FileOption, JsonOption, Run, examples
from multidb.environment import environment, standing
from multidb.manifest import app_id
from multidb.plan import plain

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb show lernmi",
        "multidb show lernmi --json",
    )
)
def show(name: AppArgument, file: FileOption = DEFAULT_FILE, env: EnvOption = None, as_json: JsonOption = False) -> int:
    """Show an app: its stores, the names it has there, how it connects and how isolated it is. No secret is shown."""
    run = Run("show", file, env, json=as_json)
    output = run.output
    fleet = run.fleet(output)
    with output.working():
        accesses = standing(fleet, app_id(name))
        variables = {key: str(value) for key, value in environment(fleet, app_id(name)).env.items()}
    entry = fleet.app(app_id(name))
    document: dict[str, Any] = {
        "app": entry.id,
        "tenant_id": entry.tenant_id,
        "where": entry.where,
        "stores": {
            store: {"isolation": access.isolation.value, "why": access.why, "names": list(access.names)}
            for store, access in accesses.items()
        },
        "labels": plain(entry.labels),
        "env": variables,
    }
    output.document(True, document)
    output.say(f"{entry.id}  (tenant {entry.tenant_id}, {entry.where})", style="bold")
    rows = [(store, access.isolation.value, access.why) for store, access in accesses.items()]
    output.table(("store", "isolation", ""), rows, {"enforced": "green", "partial": "yellow", "naming-only": "red"})
    output.say()
    for store, access in accesses.items():
        output.say(f"  {store}: {', '.join(access.names)}")
    output.say()
    for key, value in variables.items():
        output.say(f"  {key}={value}")
    return 0
