"""`multidb show`: one app, as its servers have it."""

from __future__ import annotations

from typing import Any

import typer

from multidb.cli.options import DEFAULT_FILE, AppArgument, EnvOption, FileOption, JsonOption, Run, examples
from multidb.environment import environment
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
        found = environment(fleet, app_id(name))
    entry = fleet.project.apps[found.app]
    variables = {key: str(value) for key, value in found.env.items()}
    document: dict[str, Any] = {
        "app": entry.id,
        "tenant_id": entry.tenant_id,
        "where": entry.where,
        "stores": {
            store: {
                "isolation": found.isolation[store][0].value,
                "why": found.isolation[store][1],
                "names": list(found.names[store]),
            }
            for store in found.isolation
        },
        "labels": plain(entry.labels),
        "env": variables,
    }
    output.document(True, document)
    output.say(f"{entry.id}  (tenant {entry.tenant_id}, {entry.where})", style="bold")
    rows = [(store, level.value, why) for store, (level, why) in found.isolation.items()]
    output.table(("store", "isolation", ""), rows, {"enforced": "green", "partial": "yellow", "naming-only": "red"})
    output.say()
    for store, names in found.names.items():
        output.say(f"  {store}: {', '.join(names)}")
    output.say()
    for key, value in variables.items():
        output.say(f"  {key}={value}")
    return 0
