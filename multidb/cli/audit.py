"""`multidb audit`: proves that the apps are kept from each other, or shows where they are not."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from multidb import files
from multidb.audit import ALL_PAIRS, Audit, audit, audit_junit, audit_sarif, markdown, remember
from multidb.cli.notices import NotifyOption, tell
from multidb.cli.options import AppOrAllArgument, Run, StoresOption, examples, scope, with_run
from multidb.cli.output import Output
from multidb.errors import Locked, UsageError
from multidb.fleet import Fleet
from multidb.model import Project, counted

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class AuditForm(StrEnum):
    """How `multidb audit` prints its result."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"


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
        "multidb audit --format sarif        (for code scanning; or junit)",
        "multidb audit --all-pairs           (also where there are hundreds of apps)",
    ),
)
@with_run("audit", verbose=True, forms=AuditForm)
def audit_command(
    run: Run,
    name: AppOrAllArgument = None,
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
) -> int:
    """Try what would reach another app, with each app's own credentials, and search the servers for holes.

    No app's data is read or changed: what would write or destroy is asked for as a dry run, in a transaction that is
    rolled back, or as a change of nothing. Every probe is first tried on the app's own things; one that does not work
    there proves nothing. Exit 0: every wall that is promised was proved. 1: a breach, a hole, or something not proved.
    4: only that a server could not be asked.
    """
    output = run.output
    fleet, asked = run.fleet(output), scope([name] if name else None, stores)
    most = len(fleet.project.apps) ** 2 if all_pairs else ALL_PAIRS
    with output.working():
        result = audit(fleet, asked, seed=seed, most=most)
    if asked.apps is None and asked.stores is None:
        _remember(fleet, result, output)
    if notify:
        tell(output, fleet, lambda notifier: notifier.about_audit(result, asked))
    if report is not None:
        files.write_text(report, markdown(result))
    output.document(result.ok, result.document())
    _show(output, result)
    if run.form == AuditForm.SARIF:
        output.write(audit_sarif(result, _places(fleet.project)))
    elif run.form == AuditForm.JUNIT:
        output.write(audit_junit(result))
    if report is not None:
        output.note(f"Written: {report}")
    return result.exit_code


def _places(project: Project) -> dict[str | None, tuple[str, int]]:
    """By app where it stands in the manifest, whose path is taken from the folder that the command was started in, as
    code scanning takes it from the repository's."""
    places: dict[str | None, tuple[str, int]] = {None: (_uri(Path(project.file)), 1)}
    for app in project.apps.values():
        name, line, *_ = [*app.where.split(":"), ""]
        places[app.id] = (_uri(Path(name)), int(line) if line.isdigit() else 1)
    return places


def _uri(path: Path) -> str:
    here = Path.cwd()
    if path.is_absolute() and not path.is_relative_to(here):
        return path.as_uri()
    return quote((path.relative_to(here) if path.is_absolute() else path).as_posix())


def _remember(fleet: Fleet, result: Audit, output: Output) -> None:
    try:
        remember(fleet.state, result)
    except (Locked, UsageError) as error:  # what was found is shown, whether or not it can be kept
        output.note(f"{error.sentence()}; the page and the metrics do not know of this audit")


def _show(output: Output, result: Audit) -> None:
    if not result.apps:
        output.say("There is nothing to audit. Next: multidb add-app NAME")
        return
    output.table(
        ("app", *result.stores),
        [(app, *(result.verdict(app, store) for store in result.stores)) for app in result.apps],
        _STYLES,
    )
    for style, line in _findings(result):
        output.say(line, style=style)
    for style, line in (*_notes(result), *_known(result)):
        output.say(line, style=style)
    for store, pairs in result.pairs.items():
        output.say(f"{store}: {pairs}", style="dim")
    if output.verbose:
        for server in result.servers:
            for catalog in server.search.catalogs:
                searched = f"{catalog.catalog} ({catalog.objects}): {catalog.looked_for}"
                output.say(f"searched on {server.server}: {searched}", style="dim")
        for (store, probe), count in result.exceptions.items():
            output.say(f"open where no wall is promised: {store}: {probe} ({count})", style="dim")
    open_ones = f", {len(result.gaps)} open where no wall is promised (docs/security.md)" if result.gaps else ""
    output.say(
        f"{counted(len(result.tried), 'probe')}{open_ones}. Nothing was changed and no app's data was read.",
        style="dim",
    )
    verdict, style = _verdict(result)
    output.say(verdict, style=style)


def _verdict(result: Audit) -> tuple[str, str]:
    if not result.ok:
        return "Not every wall was proved.", "bold red"
    if result.unread:
        return "Every wall was proved that could be looked at. Not proved: what could not be read.", "bold yellow"
    return "Every wall that is promised was proved.", "green"


def _findings(result: Audit) -> Iterator[tuple[str, str]]:
    """What is wrong, worst first, each line with its style."""
    for attempt in result.breaches[:_MOST_SHOWN]:
        yield "bold red", f"breach on {attempt.server}: {attempt.act} worked{attempt.detail}"
    for hole in result.holes[:_MOST_SHOWN]:
        yield "red", f"hole on {hole.server}: {hole.hole.name}, {hole.hole.subject}. {hole.hole.message}"
        yield from (("", f"    {line}") for statement in hole.hole.closes for line in statement.splitlines())
    for attempt in result.broken[:_MOST_SHOWN]:
        yield "yellow", f"broken probe on {attempt.server}: {attempt.act}: {attempt.probe.detail}"
    for gap in result.untried[:_MOST_SHOWN]:
        yield "yellow", f"not tried: {gap}"
    for server, unread in result.unread[:_MOST_SHOWN]:
        yield "yellow", f"not proved: {unread.catalog} on {server}: {unread.why}"
    for subject, error in result.errors[:_MOST_SHOWN]:
        yield "yellow", f"not asked: {subject}: {error.sentence(where=False)}"
    for kind in (result.breaches, result.holes, result.broken, result.untried, result.unread, result.errors):
        if len(kind) > _MOST_SHOWN:
            yield "dim", _more(len(kind))


def _notes(result: Audit) -> Iterator[tuple[str, str]]:
    for server, remark in result.remarks[:_MOST_SHOWN]:
        yield "", f"note on {server}: {remark.subject}: {remark.message}"
    if len(result.remarks) > _MOST_SHOWN:
        yield "dim", _more(len(result.remarks))


def _known(result: Audit) -> Iterator[tuple[str, str]]:
    """What the accounts could do that the manifest names as known."""
    for server, known in result.known:
        for could in known.could[:_MOST_SHOWN] or ("nothing that would be a hole",):
            yield "dim", f"known on {server}: {known.account}: {could}"
        if len(known.could) > _MOST_SHOWN:
            yield "dim", _more(len(known.could))


def _more(count: int) -> str:
    return f"{count - _MOST_SHOWN} more; --json and --report have them all"
