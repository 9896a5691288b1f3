"""`multidb apps`: every app that there is, in one list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from multidb.apps import AppSummary, Presence, summaries
from multidb.cli.options import Run, examples, with_run
from multidb.model import size_in_words, time_in_words

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_STYLES = {
    "healthy": "green",
    "degraded": "yellow",
    "unhealthy": "bold red",
    Presence.REMOVED.value: "dim",
    Presence.ORPHAN.value: "yellow",
}


@app.command(epilog=examples("multidb apps", "multidb apps --recorded", "multidb apps --json | jq -r '.apps[].app'"))
@with_run("apps")
def apps(
    run: Run,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Ask no server: what the manifest and the records know.")
    ] = False,
) -> int:
    """List the apps: those of the manifest, removed ones that are still kept, and orphans on the servers.

    With each its stores, its health, its size on all of them, the age of its newest set that was verified, and of its
    credentials.
    """
    output = run.output
    fleet = run.fleet(output)
    with output.working():
        listed = summaries(fleet, recorded=recorded)
    output.document(True, {"apps": [summary.document() for summary in listed]})
    if not listed:
        output.say("There is no app yet. Next: multidb add-app NAME")
        return 0
    now = datetime.now(UTC)
    columns = ("app", "", "stores", "health", "size", "verified", "credentials", "")
    output.table(columns, [_row(summary, now) for summary in listed], _STYLES)
    return 0


def _row(summary: AppSummary, now: datetime) -> tuple[str, ...]:
    return (
        summary.app,
        "" if summary.presence is Presence.MANIFEST else summary.presence.value,
        ", ".join(summary.stores),
        summary.health.value if summary.health is not None else "",
        size_in_words(summary.size) if summary.size is not None else "",
        _ago(summary.verified, now),
        _ago(summary.issued, now),
        summary.note,
    )


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return ""
    return "in the future" if moment > now else f"{time_in_words(now - moment)} ago"
