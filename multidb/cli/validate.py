"""`multidb validate`: the manifest, every problem at once; and the servers that it names, where that is wanted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from multidb.cli.options import Run, examples, with_run

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb validate",
        "multidb validate --connect              (also asks each server)",
        "multidb validate -f staging.yaml --json",
    )
)
@with_run("validate")
def validate(
    run: Run,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect", help="Also ask each server: what it is, and whether its admin may do what the apps want."
        ),
    ] = False,
) -> int:
    """Check the manifest and say every problem at once, each as file:line:column. Reads no server without --connect.

    With --connect the servers are asked once the manifest has no problems. Nothing is changed or started. Exit 4 when
    one cannot be reached, is too old, or has an admin who may do too little.
    """
    output, answers = run.output, run.answers
    if connect:
        return _with_servers(run)
    project = answers.project() or answers.of_project(run.project(offline=True))
    output.document(True, {"project": project.project, "runtime": project.runtime, "apps": list(project.apps)})
    for sentence in project.returned:
        output.note(sentence, style="yellow")
    _say(run, project.project, len(project.apps))
    return 0


def _with_servers(run: Run) -> int:
    from multidb.cli.connections import connection_documents, show_connections
    from multidb.connections import first_problem, try_connections

    output, fleet = run.output, run.fleet(run.output)
    project = fleet.project
    with output.working():
        connections = try_connections(fleet)
    problem = first_problem(connections)
    document: dict[str, Any] = {"project": project.name, "runtime": project.runtime, "apps": list(project.apps)}
    output.document(problem is None, {**document, "servers": connection_documents(connections)})
    _say(run, project.name, len(project.apps))
    show_connections(output, connections)
    if not connections:
        output.say("No servers to ask: the manifest names none, and no app uses one yet. Next: multidb add-app NAME")
    return problem.exit_code if problem is not None else 0


def _say(run: Run, project: str, count: int) -> None:
    apps = f"{count} app{'' if count == 1 else 's'}"
    run.output.say(f"{run.file}: project {project}, {apps}, no problems", style="green")
