"""`multidb show`: one app, as its servers were last read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidb.access import StoreAccess, recorded_access
from multidb.answers import AppAnswer
from multidb.cli.options import AppArgument, Run, examples, with_run
from multidb.cli.output import Output

if TYPE_CHECKING:
    from multidb.rotation import Standing

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb show lernmi",
        "multidb show lernmi --live --json",
    )
)
@with_run("show")
def show(
    run: Run,
    name: AppArgument,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the servers now, instead of saying what the last plan or apply read.")
    ] = False,
) -> int:
    """Show an app: its stores, the names it has there, how it connects and how isolated it is. No secret is shown.

    What its servers are is said as the last plan or apply has read it, and when that was; --live asks them, and says
    how old its credentials are and who still uses former ones.
    """
    output = run.output
    entry, access = _app_and_access(run, output, name, live)
    variables = {key: str(value) for key, value in entry.env.items()}
    credentials = _credentials(run, output, entry.app) if live else {}
    document: dict[str, Any] = {
        "app": entry.app,
        "tenant_id": entry.tenant_id,
        "where": entry.where,
        "stores": {
            store: {"isolation": has.isolation, "why": has.why, "names": list(has.names), "read_at": has.read}
            for store, has in access.items()
        },
        "credentials": {store: stands.document() for store, stands in credentials.items()} if live else None,
        "labels": dict(entry.labels),
        "variables": variables,
    }
    output.document(True, document)
    output.say(f"{entry.app}  (tenant {entry.tenant_id}, {entry.where})", style="bold")
    rows = [(store, has.isolation, has.why) for store, has in access.items()]
    output.table(("store", "isolation", ""), rows, {"enforced": "green", "partial": "yellow", "naming-only": "red"})
    if access and not live:
        output.say(f"as read on {min(has.read for has in access.values())}; multidb show {entry.app} --live asks now")
    output.say()
    for store, has in access.items():
        output.say(f"  {store}: {', '.join(has.names)}")
    output.say()
    for store, stands in credentials.items():
        output.say(f"  credentials on {store}: {_age(stands)}")
    if credentials:
        output.say()
    for key, value in variables.items():
        output.say(f"  {key}={value}", verbatim=True)
    return 0


def _credentials(run: Run, output: Output, name: str) -> dict[str, Standing]:
    from multidb.rotation import standings

    with output.working():
        return standings(run.fleet(output), name)


def _age(stands: Standing) -> str:
    """How old they are, and what is left to do of their rotation."""
    from datetime import UTC, datetime

    from multidb.model import time_in_words
    from multidb.rotation import use_in_words

    age = f"made {time_in_words(datetime.now(UTC) - stands.issued)} ago" if stands.issued else "of unknown age"
    if stands.alternation is None or not stands.alternation.under_way:
        return age
    use = f"; the other ones: {use_in_words(stands.use)}" if stands.use is not None else ""
    return f"{age}; their rotation is {stands.alternation.phase.value}{use}"


def _app_and_access(run: Run, output: Output, name: str, live: bool) -> tuple[AppAnswer, dict[str, StoreAccess]]:
    """What is kept and recorded of the app; what is not, is made and asked for."""
    answers = run.answers
    entry = None if live else answers.app(name)
    access = None if entry is None else _recorded(run, entry)
    if entry is not None and access is not None:
        return entry, access
    from multidb.environment import standing
    from multidb.manifest import app_id

    fleet = run.fleet(output)
    with output.working():
        asked = standing(fleet, app_id(name)) if live else None
        entry = answers.of_app(fleet, app_id(name))
        access = asked or _recorded(run, entry) or standing(fleet, app_id(name))
    return entry, access


def _recorded(run: Run, entry: AppAnswer) -> dict[str, StoreAccess] | None:
    """By store, what was read of its servers; None where one of them was not."""
    folder = run.file.parent / ".multidb"
    access = {store: recorded_access(folder, server).get(entry.app) for store, server in entry.servers}
    recorded = {store: has for store, has in access.items() if has is not None}
    return recorded if len(recorded) == len(access) else None
