"""`multidb validate`: the manifest, every problem at once."""

from __future__ import annotations

import typer

from multidb.cli.options import Run, examples, with_run

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb validate",
        "multidb validate -f staging.yaml --json",
    )
)
@with_run("validate")
def validate(run: Run) -> int:
    """Check the manifest and say every problem at once, each as file:line:column. Reads no server."""
    output, answers = run.output, run.answers
    project = answers.project() or answers.of_project(run.project())
    output.document(True, {"project": project.project, "runtime": project.runtime, "apps": list(project.apps)})
    for sentence in project.returned:
        output.note(sentence, style="yellow")
    count = len(project.apps)
    output.say(
        f"{run.file}: project {project.project}, {count} app{'' if count == 1 else 's'}, no problems", style="green"
    )
    return 0
