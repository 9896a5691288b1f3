"""`multidb connect`: a person in an app's place on one of its stores."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer

from multidb.cli.options import AppArgument, Run, examples, with_run
from multidb.cli.output import Output
from multidb.errors import MultidbError, ServerDown, ServerSlow, UsageError
from multidb.fleet import Fleet, Scope
from multidb.manifest import app_id
from multidb.model import AppAccess, AppClient, PromptAnswer, Tenant, listed
from multidb.provisioners import known_stores, provisioner
from multidb.secrets import Secret, revealed
from multidb.variables import identity

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb connect lernmi                             (psql, as the app)",
        "multidb connect lernmi --store redis",
        "multidb connect lernmi --read-only",
        "echo 'SELECT 1' | multidb connect lernmi",
        "multidb connect lernmi -- psql -c 'SELECT 1'",
        "multidb connect lernmi -- ./worker.py              (any program, with the app's variables)",
        "multidb connect lernmi --migrate -- ./manage.py migrate",
    )
)
@with_run("connect")
def connect(
    run: Run,
    name: AppArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="A program to run instead, with the app's variables."),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Which of its stores; default: its first.", metavar="STORE")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="With a login that only reads.")] = False,
    migrate: Annotated[
        bool,
        typer.Option("--migrate", help="With the login that may change the schema, and no limits of time."),
    ] = False,
    prompt: Annotated[bool, typer.Option("--prompt", help="The prompt of multidb, also where there is psql.")] = False,
) -> int:
    """Open a client as the app: the store's own program where there is one, else a prompt. What comes by a pipe is run
    statement by statement, and the first that fails ends it (exit 1).

    The password goes through the environment of the program, never through its arguments. With a COMMAND after --, that
    runs with the variables of the app's env file and those of the store's client.
    """
    output = run.output
    fleet = run.fleet(output)
    entry = fleet.app(app_id(name))
    chosen = _chosen(store, entry.stores)
    access = _access(read_only=read_only, migrate=migrate)
    with output.working():
        tenant, variables = _tenant(fleet, entry.id, chosen, everything=bool(command))
    client = _client(tenant, access)
    if command:
        _become(command, {**variables, **client.env}, client.unset)
    program = next(filter(None, map(shutil.which, client.programs)), None)
    if program is not None and not (prompt or run.json) and sys.stdin.isatty():
        output.note(f"{entry.id} on {tenant.server.name}, by {program}", style="dim")
        _become([program, *client.arguments], client.env, client.unset)
    return _prompt(output, tenant, client)


def _chosen(store: str | None, stores: Collection[str]) -> str:
    if store is None:
        return next(name for name in known_stores() if name in stores)
    if store not in stores:
        raise UsageError(f"it has no store {store!r}", hint=f"its stores: {listed(list(stores))}")
    return store


def _tenant(fleet: Fleet, name: str, store: str, *, everything: bool) -> tuple[Tenant, Mapping[str, str | Secret]]:
    """The app on the store, and its variables there or, where `everything` is asked for, on all of its stores."""
    stores = None if everything else frozenset({store})
    tenants, errors = fleet.tenants(Scope(apps=frozenset({name}), stores=stores))
    of_store = [tenant for tenant in tenants if tenant.server.store == store]
    if not of_store:
        raise next(iter(errors.values()), None) or UsageError(
            f"there is no address for {store} yet", where=f"app {name}", hint="start its server: multidb up"
        )
    variables = identity(of_store[0].app)
    for tenant in tenants:
        variables |= tenant.env
    return of_store[0], variables


def _access(*, read_only: bool, migrate: bool) -> AppAccess:
    if read_only and migrate:
        raise UsageError("--read-only and --migrate do not go together", hint="leave one of them out")
    return AppAccess.READ_ONLY if read_only else AppAccess.MIGRATION if migrate else AppAccess.WORK


def _client(tenant: Tenant, access: AppAccess) -> AppClient:
    make = provisioner(tenant.server.store).client
    if make is None:
        raise UsageError(
            f"{tenant.server.store} has no client that multidb knows",
            where=f"app {tenant.app.id}",
            hint=f"its variables: multidb env {tenant.app.id}",
        )
    return make(tenant, access)


def _become(command: Sequence[str], variables: Mapping[str, str | Secret], unset: tuple[str, ...]) -> NoReturn:
    """Goes on as `command`, in this process, so that signals and the terminal are its own."""
    exported = {name: revealed(value) for name, value in variables.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), {**inherited, **exported})  # noqa: S606  # what the person typed, as typed
    except OSError as error:
        raise UsageError(
            f"cannot run {command[0]}: {error.strerror}", hint="name a program that is on the PATH, after --"
        ) from None


def _prompt(output: Output, tenant: Tenant, client: AppClient) -> int:
    end = provisioner(tenant.server.store).statement_end
    by_hand = sys.stdin.isatty()
    if by_hand:
        ends = f"{end} ends a statement" if end else "each line is a statement"
        output.note(f"{tenant.app.id} on {tenant.server.name}. {ends}, Ctrl-D leaves.", style="dim")
    answers: list[dict[str, Any]] = []
    with client.prompt() as ask:
        for statement in _statements(_lines(tenant) if by_hand else sys.stdin, end):
            try:
                answer = ask(statement)
            except (ServerDown, ServerSlow):
                raise
            except MultidbError as error:
                if not by_hand:
                    output.document(False, {"answers": answers, "error": error.document()})
                    output.note(f"Error: {error}", style="red")
                    return 1
                output.note(f"Error: {error}", style="red")
            else:
                answers.append({"columns": answer.columns, "rows": answer.rows, "note": answer.note})
                _show(output, answer)
    output.document(True, {"answers": answers})
    return 0


def _lines(tenant: Tenant) -> Iterator[str]:
    """What is typed, with a history while it lasts."""
    import readline  # noqa: F401  # lets `input` edit its line

    while True:
        try:
            yield input(f"{tenant.app.id}/{tenant.server.store}> ")
        except EOFError:
            sys.stderr.write("\n")
            return


def _statements(lines: Iterable[str], end: str) -> Iterator[str]:
    """The statements in the lines: each line, or each run of lines up to one that has `end` as its last."""
    begun: list[str] = []
    for line in lines:
        begun.append(line.rstrip("\n"))
        if not end or line.rstrip().endswith(end):
            if any(part.strip() for part in begun):
                yield "\n".join(begun)
            begun.clear()
    if any(part.strip() for part in begun):
        yield "\n".join(begun)


def _show(output: Output, answer: PromptAnswer) -> None:
    if answer.columns:
        output.table(answer.columns, [list(row) for row in answer.rows])
    else:
        for row in answer.rows:
            output.say("  ".join(row), verbatim=True)
    if answer.note:
        output.note(answer.note, style="dim")
