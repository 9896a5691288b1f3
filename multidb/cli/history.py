"""`multidb history`: what was done, by whom, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from multidb.cli.options import AppOrAllArgument, Run, YesOption, ask, duration, examples, with_run
from multidb.cli.output import Output
from multidb.errors import Refused
from multidb.history import Chain, RecordedRun, RunHistory, RunOutcome
from multidb.manifest import app_id
from multidb.model import counted, time_in_words
from multidb.run_summary import outcome_in_words, took, what_was_done
from multidb.state import ProjectState
from multidb.state_stores import open_state

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_STYLES = {
    RunOutcome.DONE: "green",
    RunOutcome.RUNNING: "",
    RunOutcome.PARTLY: "yellow",
    RunOutcome.UNFINISHED: "bold yellow",
    RunOutcome.INTERRUPTED: "yellow",
    RunOutcome.FAILED: "red",
}


@app.command(
    epilog=examples(
        "multidb history",
        "multidb history lernmi --since 3d",
        "multidb history --limit 1 -v            (each change of the last run)",
        "multidb history --begin-anew            (where a line of it is lost for good)",
        "multidb history --json | jq '.runs[] | select(.outcome != \"done\")'",
    )
)
@with_run("history", verbose=True)
def history(
    run: Run,
    name: AppOrAllArgument = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only runs that began in the last 12h, 3d, 2w.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The last N of them.")] = 20,
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="Put what there is aside, under another name, and begin a new one.")
    ] = False,
    yes: YesOption = False,
) -> int:
    """Show what was done with this project: each run that changed something, the newest first.

    Each with who ran it, where and when (UTC), what it changed, and what came of it. A run that was killed has begun
    and not ended. Exit 1: a line of the history is missing, or was altered.
    """
    output = run.output
    about = app_id(name) if name else None
    now, length = datetime.now(UTC), duration(since) if since else None
    state = open_state(run.project())
    kept = RunHistory(state)
    aside = _begun_anew(run, kept, state, yes=yes) if begin_anew else None
    chosen = [
        recorded
        for recorded in kept.runs()
        if (about is None or recorded.is_about(about)) and (length is None or now - recorded.begun <= length)
    ]
    shown, chain = chosen[: -limit - 1 : -1], kept.verify()
    document = {
        "runs": [recorded.document() for recorded in shown],
        "left_out": len(chosen) - len(shown),
        "lines": chain.lines,
        "digest": chain.digest or None,
        "problems": list(chain.problems),
        "set_aside": aside,
    }
    output.document(chain.whole, document)
    _show(output, shown, len(chosen) - len(shown))
    _show_chain(output, kept, chain)
    return 0 if chain.whole else 1


def _begun_anew(run: Run, kept: RunHistory, state: ProjectState, *, yes: bool) -> str:
    """Puts the history aside, and says so in the first line of the new one."""
    if not ask(f"Put {kept.title} aside and begin a new history?", yes=yes):
        raise Refused("nothing was changed")
    aside = kept.begin_anew()
    with run.recorded(state, ()) as record:
        record.add("set aside", "history", aside)
    run.output.say(f"What there was is {aside} now, in the same place.")
    return aside


def _show(output: Output, runs: Sequence[RecordedRun], left_out: int) -> None:
    if not runs:
        output.say("No run is recorded.")
        return
    rows = [
        (
            recorded.command,
            f"{recorded.begun:%Y-%m-%d %H:%M:%S}",
            _took(recorded),
            recorded.who,
            outcome_in_words(recorded.outcome),
            what_was_done(recorded),
        )
        for recorded in runs
    ]
    columns = ("command", "begun (UTC)", "took", "by", "outcome", "what")
    output.table(columns, rows, {outcome_in_words(outcome): style for outcome, style in _STYLES.items()})
    if output.verbose:
        for recorded in runs:
            _show_details(output, recorded)
    if left_out:
        output.say(f"{left_out} more: --limit {len(runs) + left_out}", style="dim")


def _took(recorded: RecordedRun) -> str:
    length = took(recorded)
    return time_in_words(length) if length is not None else ""


def _show_details(output: Output, recorded: RecordedRun) -> None:
    output.say(f"{recorded.run}: multidb {' '.join(recorded.arguments)}", style="bold")
    for line in _details(recorded):
        output.say(f"  {line}")


def _details(recorded: RecordedRun) -> Iterator[str]:
    if recorded.job:
        yield f"job {recorded.job}"
    if recorded.plan:
        yield f"plan {recorded.plan}"
    for change in recorded.changes:
        where = f" on {change.server}" if change.server else ""
        yield f"{change.action} {change.kind} {change.name}{where}"
    if recorded.changes_left_out:
        yield f"and {recorded.changes_left_out} more that were not written down"


def _show_chain(output: Output, kept: RunHistory, chain: Chain) -> None:
    if chain.whole and chain.lines:
        output.say(f"{counted(chain.lines, 'line')}, all as written; the last is {chain.digest[:16]}.", style="dim")
    for problem in chain.problems:
        output.note(f"{kept.title}: {problem}", style="bold red")
    if chain.problems:
        output.note(f"  {chain.way_on()}")
