"""`multidb show`: one app, as its servers were last read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from multidb.access import StoreAccess, recorded_access
from multidb.answers import AppAnswer
from multidb.cli.options import AppArgument, Run, examples, with_run
from multidb.cli.output import Output

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

    What its servers are is said as the last plan or apply has read it, and when that was; --live asks them, also who
    still uses former credentials.
    """
    output = run.output
    entry, access = _app_and_access(run, output, name, live)
    variables = {key: str(value) for key, value in entry.env.items()}
    credentials, uses = _credentials(run, output, entry, live=live)
    document: dict[str, Any] = {
        "app": entry.app,
        "tenant_id": entry.tenant_id,
        "where": entry.where,
        "stores": {
            store: {"isolation": has.isolation, "why": has.why, "names": list(has.names), "read_at": has.read}
            for store, has in access.items()
        },
        "credentials": credentials,
        "labels": dict(entry.labels),
        "variables": variables,
    }
    output.document(True, document)
    output.say(f"{entry.app}  (tenant {entry.tenant_id}, {entry.where})", style="bold")
    rows = [(store, has.isolation, has.why) for store, has in access.items()]
    output.table(("store", "isolation", ""), rows, {"enforced": "green", "partial": "yellow", "naming-only": "red"})
    if access and not live:
        read = datetime.fromisoformat(min(has.read for has in access.values()))
        # In the words of moment_in_words, whose package takes longer to import than all that is shown here.
        output.say(f"as read on {read:%Y-%m-%d %H:%M:%S} UTC; multidb show {entry.app} --live asks now")
    output.say()
    for store, has in access.items():
        output.say(f"  {store}: {', '.join(has.names)}")
    output.say()
    for store, stands in credentials.items():
        output.say(f"  credentials on {store}: {_age(stands, uses.get(store))}")
    if credentials:
        output.say()
    for key, value in variables.items():
        output.say(f"  {key}={value}", verbatim=True)
    return 0


def _credentials(run: Run, output: Output, entry: AppAnswer, *, live: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """By store how its credentials stand, as JSON values, and who uses those that are to be turned off, in words."""
    recorded = None if live else run.answers.standings(entry.app, [store for store, _ in entry.servers])
    if recorded is not None:
        return recorded, {}
    from multidb.rotation_state import recorded_standings, standings, use_in_words

    with output.working():
        stand = (standings if live else recorded_standings)(run.fleet(output), entry.app)
    uses = {store: use_in_words(one.use) for store, one in stand.items() if one.use is not None}
    return {store: one.document() for store, one in stand.items()}, uses


def _age(stands: Mapping[str, Any], use: str | None) -> str:
    """How old they are, and what is left to do of their rotation."""
    age = _made(datetime.fromisoformat(stands["issued_at"])) if stands["issued_at"] else "of unknown age"
    second = ", the second of two" if stands["current"] == "second" else ""
    if stands["phase"] in (None, "done"):
        return f"{age}{second}"
    return f"{age}{second}; their rotation is {stands['phase']}" + (f"; the other ones: {use}" if use else "")


def _made(issued: datetime) -> str:
    days = max((datetime.now(UTC) - issued).days, 0)
    return f"made {issued:%Y-%m-%d}, {days} day{'' if days == 1 else 's'} ago" if days else "made in the last 24 hours"


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
