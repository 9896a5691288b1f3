"""`multidb render`: the files by which the project is run in containers."""

from __future__ import annotations

from typing import Annotated

import typer

from multidb.cli.options import Run, examples, with_run
from multidb.deployment import FileState
from multidb.model import counted
from multidb.project import load_deployment

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb render",
        "multidb render --check                 (CI: exit 1 when a file is not what the manifest says)",
        "multidb render --env prod",
    )
)
@with_run("render")
def render(
    run: Run,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 when a file is missing or different.")
    ] = False,
) -> int:
    """Write the compose, env and init files of the manifest: all of them, or none. Run twice, it changes nothing.

    Templates come with multidb; one of the same name in the project's templates/ folder takes its place.
    """
    output = run.output
    deployment = load_deployment(run.file, run.overlay, offline=check)
    rendered = deployment.files(new_secrets=not check)
    states = deployment.compare(rendered)
    written = [] if check else deployment.write(rendered)
    stale = [path for path, state in states.items() if state is not FileState.CURRENT]
    ok = not (check and stale)
    files = [{"path": path, "state": str(state), "secret": rendered[path].private} for path, state in states.items()]
    output.document(ok, {"files": files, "written": written})
    for path in stale:
        output.say(f"{states[path]:<10} {path}" if check else f"wrote      {path}")
    if check:
        are = "is" if len(states) == 1 else "are"
        summary = f"{len(states) - len(stale)} of {counted(len(states), 'file')} {are} current"
        output.note(summary if ok else f"{summary}; write the others: multidb render")
    elif not written:
        output.note(f"Nothing to write: {counted(len(states), 'file is', 'files are')} current.")
    return 0 if ok else 1
