"""`multidb env`: the variables with which an app reaches its stores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from multidb.cli.options import AppArgument, Run, StoresOption, examples, with_run
from multidb.render.env import EnvFormat, env_text

if TYPE_CHECKING:
    from multidb.answers import AppAnswer
    from multidb.environment import Environment

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb env lernmi --reveal > .env",
        'eval "$(multidb env lernmi --format export --reveal)"',
        "multidb env lernmi --format k8s-secret --reveal | kubectl apply -f -",
        "multidb env lernmi --write",
    )
)
@with_run("env")
def env(
    run: Run,
    name: AppArgument,
    stores: StoresOption = None,
    form: Annotated[EnvFormat, typer.Option("--format", help="How to print them.")] = EnvFormat.DOTENV,
    reveal: Annotated[bool, typer.Option("--reveal", help="Print secret values instead of ***.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write apps/NAME/.env (mode 0600) instead.")] = False,
) -> int:
    """Print the variables with which an app reaches its stores. Secrets show as *** unless --reveal is given."""
    if write:
        from multidb.cli.env_files import write_env_files
        from multidb.manifest import app_id

        write_env_files(run.fleet(run.output), run.output, [app_id(name)])
        return 0
    variables = _variables(run, name, stores)
    form = EnvFormat.JSON if run.json else form
    text = env_text(variables.app, variables.env, form, masked=not reveal)
    typer.echo(
        text if form is not EnvFormat.JSON else json.dumps(json.loads(text), indent=2), nl=form is EnvFormat.JSON
    )
    return 0


def _variables(run: Run, name: str, stores: list[str] | None) -> AppAnswer | Environment:
    """Those that are kept of the app, or what the manifest and the records say now."""
    answers, output = run.answers, run.output
    kept = None if stores else answers.app(name)
    if kept is not None:
        return kept
    from multidb.environment import environment
    from multidb.manifest import app_id

    fleet = run.fleet(output)
    with output.working():
        return environment(fleet, app_id(name), stores) if stores else answers.of_app(fleet, app_id(name))
