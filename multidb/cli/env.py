"""`multidb env`: the variables with which an app reaches its stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from multidb.cli.options import AppArgument, Run, StoresOption, examples, with_run
from multidb.errors import Conflict, UsageError
from multidb.render.env import PRIVATE, PUBLIC, EnvFormat, env_text, is_ours
from multidb.secrets import revealed

if TYPE_CHECKING:
    from multidb.answers import AppAnswer
    from multidb.environment import Environment

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_FORMATS: Final = f"How to print them: {', '.join(EnvFormat)}."


@app.command(
    epilog=examples(
        "multidb env lernmi --reveal > .env",
        'eval "$(multidb env lernmi --format export --reveal)"',
        "multidb env lernmi --format k8s-secret --reveal | kubectl apply -f -",
        "multidb env lernmi DATABASE_URL",
        "multidb env lernmi --write",
        "multidb env lernmi --format external-secret --to lernmi.yaml",
        "multidb env lernmi --format github --reveal | gh secret set --env-file -",
    )
)
@with_run("env")
def env(
    run: Run,
    name: AppArgument,
    variable: Annotated[
        str | None, typer.Argument(metavar="VARIABLE", help="Print the value of this one and nothing else.")
    ] = None,
    stores: StoresOption = None,
    form: Annotated[EnvFormat, typer.Option("--format", metavar="FORMAT", help=_FORMATS)] = EnvFormat.DOTENV,
    reveal: Annotated[bool, typer.Option("--reveal", help="Print secret values instead of ***.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write apps/NAME/.env (mode 0600) instead.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write this file in the --format, secrets in clear.")
    ] = None,
) -> int:
    """Print the variables with which an app reaches its stores. Secrets show as *** unless --reveal is given.

    With a VARIABLE its value alone is printed, in clear, since it was asked for by name. No server has to be up; one
    that was never started has no address, and that is an error (exit 4).

    Formats external-secret and vault name secrets where they are kept, docker-secret in the environment of `docker
    compose`; the others have their values.
    """
    if variable is not None and (write or to is not None):
        raise UsageError(
            f"one variable is printed, not written: {variable}", hint=f"multidb env {name} {variable} > FILE"
        )
    if to is not None:
        return _write(run, name, stores, form, to)
    if write:
        if form is not EnvFormat.DOTENV:
            raise UsageError(
                f"--write alone writes apps/{name}/.env, which is no {form}",
                hint=f"say which file: multidb env {name} --format {form} --write --to FILE",
            )
        from multidb.cli.env_files import write_env_files
        from multidb.environment import environment
        from multidb.manifest import app_id

        fleet = run.fleet(run.output)
        environment(fleet, app_id(name))  # here, what is wrong with it is the answer
        written = write_env_files(fleet, run.output, [app_id(name)])
        run.output.document(True, {"app": app_id(name), "written": [str(path) for path in written]})
        return 0
    if form.refers and variable is None:
        _, text = _referring(run, name, stores, form)
        if not run.json:
            typer.echo(text, nl=False)
            return 0
    variables = _variables(run, name, stores)
    if variable is not None:
        values = {variable: _value(variables, variable)}
    else:
        values = {key: revealed(value) if reveal else str(value) for key, value in variables.env.items()}
    run.output.document(True, {"app": variables.app}, in_clear={"variables": values})
    if not run.json:
        masked = env_text(variables.app, variables.env, form, masked=not reveal)
        typer.echo(values[variable] if variable is not None else masked, nl=variable is not None)
    return 0


def _write(run: Run, name: str, stores: list[str] | None, form: EnvFormat, to: Path) -> int:
    """Writes what the form has to say to a file, which nobody else has written."""
    from multidb import files

    if form is EnvFormat.DOTENV and to.suffix in (".yaml", ".yml"):
        raise UsageError(
            "a file of this name would have the form dotenv, which is no YAML",
            where=str(to),
            hint=f"say which form: multidb env {name} --format k8s-secret --to {to}",
        )
    if form.refers:
        app, text = _referring(run, name, stores, form)
    else:
        variables = _variables(run, name, stores)
        app, text = variables.app, env_text(variables.app, variables.env, form, elsewhere=True)
    before = files.read_text(to)
    if before is not None and before != text and not is_ours(before):
        raise Conflict(
            "is there already, and multidb did not write it", where=str(to), hint="move it away, or name another file"
        )
    files.write_text(to, text, mode=PRIVATE if form.has_secrets else PUBLIC)
    run.output.document(True, {"app": app, "written": [str(to)]})
    run.output.note(f"Wrote {to}" + (", with secrets in it: keep it out of Git" if form.has_secrets else ""))
    return 0


def _referring(run: Run, name: str, stores: list[str] | None, form: EnvFormat) -> tuple[str, str]:
    """The app, and the text that names its secrets where they are kept."""
    from multidb.answers import parted
    from multidb.environment import environment
    from multidb.manifest import app_id
    from multidb.secret_stores.references import reference_text

    fleet = run.fleet(run.output)
    with run.output.working():
        answer = environment(fleet, app_id(name), stores)
    env = {variable: parted(value, answer.secrets) for variable, value in answer.env.items()}
    return answer.app, reference_text(answer.app, env, form, fleet.project.secrets)


def _value(variables: AppAnswer | Environment, name: str) -> str:
    value = variables.env.get(name)
    if value is None:
        from difflib import get_close_matches

        near = get_close_matches(name, variables.env, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"it has no variable {name}", where=f"app {variables.app}", hint=f"{meant}all: multidb env {variables.app}"
        )
    return revealed(value)


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
