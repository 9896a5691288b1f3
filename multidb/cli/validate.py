"""`multidb validate`: the manifest, every problem at once."""

from __future__ import annotations

import typer

from multidb.cli.options import DEFAULT_FILE, EnvOption, FileOption, JsonOption, Run, examples
from multidb.project import load_project

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb validate",
        "multidb validate -f staging.yaml --json",
    )
)
def validate(file: FileOption = DEFAULT_FILE, env: EnvOption = None, as_json: JsonOption = False) -> int:
    """Check the manifest and say every problem at once, each as file:line:column. Reads no server."""
    output = Run("validate", file, env, json=as_json).output
    project = load_project(file, env)
    output.document(True, {"project": project.name, "runtime": project.runtime, "apps": list(project.apps)})
    for app, where in project.returned.items():
        output.note(f"{where}: app {app} was {project.removed[app].where}; nothing is made of it", style="yellow")
    count = len(project.apps)
    output.say(f"{file}: project {project.name}, {count} app{'' if count == 1 else 's'}, no problems", style="green")
    return 0
