"""`multidb audit`: proves that the apps are kept from each other, or shows where they are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from multidb import files
from multidb.audit import ALL_PAIRS, Audit, audit, markdown, remember
from multidb.cli.notices import NotifyOption, tell
from multidb.cli.options import (
    DEFAULT_FILE,
    AppOrAllArgument,
    EnvOption,
    FileOption,
    JsonOption,
    Run,
    StoresOption,
    VerboseOption,
    examples,
    scope,
)
from multidb.cli.output import Output
from multidb.errors import Locked, UsageError
from multidb.fleet import Fleet

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_STYLES = {
    "enforced": "green",
    "partial": "yellow",
    "naming-only": "red",
    "breach": "bold red",
    "hole": "bold red",
    "not proved": "bold yellow",
}
_MOST_SHOWN = 20  # findings of one kind; --json and --report have them all


@app.command(
    "audit",
    epilog=examples(
        "multidb audit",
        "multidb audit lernmi --store postgres",
        "multidb audit --report audit.md     (for an auditor)",
        "multidb audit --notify              (for cron)",
        "multidb audit --all-pairs           (also where there are hundreds of apps)",
    ),
)
def audit_command(
    name: AppOrAllArgument = None,
    file: FileOption = DEFAULT_FILE,
    env: EnvOption = None,
    stores: StoresOption = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help=f"Try every pair, also where there are more than {ALL_PAIRS}.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Draw the same pairs again. Default: other pairs every day.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.md", help="Also write it down for an auditor.")
    ] = None,
    notify: NotifyOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Try what would reach another app, with each app's own credentials, and search the servers for holes.

    No app's data is read or changed: what would write or destroy is asked for as a dry run, in a transaction that is
    rolled back, or as a change of nothing. Every probe is first tried on the app's own things; one that does not work
    there proves nothing. Exit 0: every wall that is promised was proved. 1: a breach, a hole, or something not proved.
    4: only that a server could not be asked.
    """
    run = Run("audit", file, env, as_json, verbose)
    output = run.output
    fleet, wanted = run.fleet(output), scope([name] if name else None, stores)
    most = len(fleet.project.apps) ** 2 if all_pairs else ALL_PAIRS
    with output.working():
        found = audit(fleet, wanted, seed=seed, most=most)
    if wanted.apps is None and wanted.stores is None:
        _remember(fleet, found, output)
    if notify:
        tell(output, fleet, lambda notifier: notifier.about_audit(found, wanted))
    if report is not None:
        files.write_text(report, markdown(found))
    output.document(found.ok, found.document())
    _show(output, found)
    if report is not None:
        output.note(f"Written: {report}")
    return found.exit_code


def _remember(fleet: Fleet, found: Audit, output: Output) -> None:
    try:
        remember(fleet.state, found)
    except (Locked, UsageError) as error:  # what was found is shown, whether or not it can be kept
        output.note(f"{error.sentence()}; the page and the metrics do not know of this audit")


def _show(output: Output, found: Audit) -> None:
    if not found.apps:
        output.say("There is nothing to audit. Next: multidb add-app NAME")
        return
    output.table(
        ("app", *found.stores),
        [(each, *(found.verdict(each, store) for store in found.stores)) for each in found.apps],
        _STYLES,
    )
    for style, line in _findings(found):
        output.say(line, style=style)
    for style, line in (*_notes(found), *_known(found)):
        output.say(line, style=style)
    for store, pairs in found.pairs.items():
        output.say(f"{store}: {pairs}", style="dim")
    if output.verbose:
        for each in found.servers:
            for catalog in each.search.catalogs:
                searched = f"{catalog.catalog} ({catalog.objects}): {catalog.looked_for}"
                output.say(f"searched on {each.server}: {searched}", style="dim")
        for (store, probe), count in found.exceptions.items():
            output.say(f"open where no wall is promised: {store}: {probe} ({count})", style="dim")
    open_ones = f", {len(found.gaps)} open where no wall is promised (docs/security.md)" if found.gaps else ""
    output.say(f"{len(found.tried)} probes{open_ones}. Nothing was changed and no app's data was read.", style="dim")
    verdict, style = _verdict(found)
    output.say(verdict, style=style)


def _verdict(found: Audit) -> tuple[str, str]:
    if not found.ok:
        return "Not every wall was proved.", "bold red"
    if found.unread:
        return "Every wall was proved that could be looked at. Not proved: what could not be read.", "bold yellow"
    return "Every wall that is promised was proved.", "green"


def _findings(found: Audit) -> Iterator[tuple[str, str]]:
    """What is wrong, worst first, each line with its style."""
    for each in found.breaches[:_MOST_SHOWN]:
        yield "bold red", f"breach on {each.server}: {each.act} worked{each.said}"
    for hole in found.holes[:_MOST_SHOWN]:
        yield "red", f"hole on {hole.server}: {hole.hole.name}, {hole.hole.subject}. {hole.hole.message}"
        yield from (("", f"    {line}") for statement in hole.hole.closes for line in statement.splitlines())
    for each in found.broken[:_MOST_SHOWN]:
        yield "yellow", f"broken probe on {each.server}: {each.act}: {each.probe.detail}"
    for gap in found.untried[:_MOST_SHOWN]:
        yield "yellow", f"not tried: {gap}"
    for server, unread in found.unread[:_MOST_SHOWN]:
        yield "yellow", f"not proved: {unread.catalog} on {server}: {unread.why}"
    for subject, error in found.errors[:_MOST_SHOWN]:
        yield "yellow", f"not asked: {subject}: {error.sentence(where=False)}"
    for kind in (found.breaches, found.holes, found.broken, found.untried, found.unread, found.errors):
        if len(kind) > _MOST_SHOWN:
            yield "dim", _more(len(kind))


def _notes(found: Audit) -> Iterator[tuple[str, str]]:
    for server, remark in found.remarks[:_MOST_SHOWN]:
        yield "", f"note on {server}: {remark.subject}: {remark.message}"
    if len(found.remarks) > _MOST_SHOWN:
        yield "dim", _more(len(found.remarks))


def _known(found: Audit) -> Iterator[tuple[str, str]]:
    """What the accounts could do that the manifest names as known."""
    for server, known in found.known:
        for could in known.could[:_MOST_SHOWN] or ("nothing that would be a hole",):
            yield "dim", f"known on {server}: {known.account}: {could}"
        if len(known.could) > _MOST_SHOWN:
            yield "dim", _more(len(known.could))


def _more(count: int) -> str:
    return f"{count - _MOST_SHOWN} more; --json and --report have them all"
