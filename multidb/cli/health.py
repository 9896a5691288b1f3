"""`multidb health`: every app's every store, tried as the app would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from multidb.backup.schedule import freshness_now
from multidb.cli.notices import NotifyOption, teller
from multidb.cli.options import AppOrAllArgument, Run, StoresOption, examples, scope, with_run
from multidb.cli.output import Output
from multidb.cli.terminal import Grid
from multidb.errors import UsageError
from multidb.fleet import Fleet, Scope
from multidb.health import HealthReport, check, health_junit
from multidb.model import AppMode, Health, Status, counted, listed

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class HealthForm(StrEnum):
    """How `multidb health` prints its result."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


_STYLES = {Status.HEALTHY: "green", Status.DEGRADED: "yellow", Status.UNHEALTHY: "bold red"}


@app.command(
    epilog=examples(
        "multidb health",
        "multidb health lernmi --read-only",
        "multidb health --watch --every 5",
        "multidb health --watch --json | jq .status",
        "multidb health --notify               (for cron)",
        "multidb health --format junit         (for CI)",
        "multidb health --watch --notify       (where nothing else looks)",
    )
)
@with_run("health", forms=HealthForm)
def health(
    run: Run,
    name: AppOrAllArgument = None,
    stores: StoresOption = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only look; without it each check also writes, reads and removes.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.2, metavar="SECONDS", help="With --watch: from one round to the next.")
    ] = 2.0,
    notify: NotifyOption = False,
) -> int:
    """Try each app's stores with the app's own credentials. Leaves nothing behind.

    Exit 0: every app is healthy. 1: one is degraded (it works, and something needs you) or unhealthy. 4: no server
    that was asked has answered. With --watch the last round decides, and --json prints one document a line.
    """
    output = run.output
    fleet, asked = run.fleet(output), scope([name] if name else None, stores)
    telling = teller(output, fleet) if notify else None

    def notify_about(report: HealthReport) -> None:
        if telling is not None:
            telling(lambda notifier: notifier.about_health(report, asked))

    if watch and run.form == HealthForm.JUNIT:
        raise UsageError("--watch goes on, and --format junit is one document", hint="multidb health --watch --json")
    if watch:
        return _watch(fleet, asked, output, every, notify_about, may_write=not read_only)
    with output.working():
        report = _checked(fleet, asked, may_write=not read_only)
    notify_about(report)
    output.document(report.exit_code == 0, report.document())
    output.show(_drawn(report))
    for app, untried in _untried(fleet, asked, report).items():
        output.note(f"{app}: not tried on {listed(untried)}, where it is only observed and multidb has no login of it")
    if run.form == HealthForm.JUNIT:
        output.write(health_junit(report))
    return report.exit_code


def _untried(fleet: Fleet, scope: Scope, report: HealthReport) -> dict[str, list[str]]:
    """By app, the stores on which it is only observed, where nothing is known with which it could be tried."""
    tried = {(check.app, check.store) for check in report.checks}
    untried: dict[str, list[str]] = {}
    for app in filter(scope.wants, fleet.project.apps.values()):
        for store in [store for store in app.stores if scope.stores is None or store in scope.stores]:
            if app.mode(store) is AppMode.OBSERVE and (app.id, store) not in tried:
                untried.setdefault(app.id, []).append(store)
    return untried


def _checked(fleet: Fleet, scope: Scope, *, may_write: bool) -> HealthReport:
    freshness = freshness_now(fleet) if scope.stores is None else None
    return check(fleet, scope, may_write=may_write, freshness=freshness)


def _watch(
    fleet: Fleet,
    scope: Scope,
    output: Output,
    every: float,
    notify: Callable[[HealthReport], None],
    *,
    may_write: bool,
) -> int:
    """Rounds until Ctrl-C, which ends them without a word. Gives the exit code of the last."""
    from multidb.health_history import HealthHistory  # a single round is not written down

    code, history = 0, HealthHistory(fleet.state)
    try:
        with _screen(output) as show:
            for report in _rounds(fleet, scope, every, may_write):
                code = report.exit_code
                history.add(report)
                show(report)
                notify(report)
    except KeyboardInterrupt:
        pass
    return code


@contextmanager
def _screen(output: Output) -> Iterator[Callable[[HealthReport], None]]:
    """Shows one round after the other: in its place on a terminal, below it elsewhere, a line each as JSON."""
    if output.json:
        yield lambda report: output.line(report.exit_code == 0, report.document())
    elif output.out.is_terminal and not output.out.is_dumb_terminal:
        from rich.live import Live  # with half of rich, which a table does without

        with Live(console=output.out, auto_refresh=False) as live:
            yield lambda report: live.update(_round(report), refresh=True)
    else:
        yield lambda report: output.show(_round(report))


def _round(report: HealthReport) -> RenderableType:
    local = report.checked_at.astimezone()
    footer = f"{local:%H:%M:%S}, {counted(len(report.checks), 'check')} in {report.seconds:.2f} s; Ctrl-C ends"
    return Group(_drawn(report), Text(footer, "dim"))


def _rounds(fleet: Fleet, scope: Scope, every: float, may_write: bool) -> Iterator[HealthReport]:
    while True:
        began = time.monotonic()
        yield _checked(fleet, scope, may_write=may_write)
        time.sleep(max(0.0, began + every - time.monotonic()))


def _drawn(report: HealthReport) -> RenderableType:
    """A row for each app and a column for each store; below, what a person has to know of whatever is not well."""
    if not report.checks:
        return Text("There is nothing to check. Next: multidb add-app NAME")
    stores = tuple(dict.fromkeys(check.store for check in report.checks))
    table = Grid("app", "status", *stores, *(("backup",) if report.backups else ()))
    states = {(check.app, check.store): check.health for check in report.checks}
    for app in report.apps:
        cells = [_cell(states.get((app, store))) for store in stores]
        backup = [_cell(report.backups.get(app))] if report.backups else []
        status = report.status_of(app)
        table.add_row(Text(app), Text(status.value, _STYLES[status]), *cells, *backup)
    return Group(table, *_remarks(report))


def _cell(health: Health | None) -> Text:
    if health is None:
        return Text("")
    took = f" {health.latency * 1000:.0f} ms" if health.latency is not None else ""
    word = "ok" if health.status is Status.HEALTHY else health.status.value
    return Text(f"{word}{took}", _STYLES[health.status])


def _remarks(report: HealthReport) -> Iterator[Text]:
    """One line for each thing that is wrong, however many apps it is wrong for."""
    subjects: dict[Health, list[str]] = {}
    every = [(f"{check.app} {check.store}", check.health) for check in report.checks]
    for subject, health in (*every, *((f"{app} backup", health) for app, health in report.backups.items())):
        if health.status is not Status.HEALTHY:
            same = Health(health.status, health.message, fix=health.fix)
            subjects.setdefault(same, []).append(subject)
    for health, names in subjects.items():
        fix = f"; {health.fix}" if health.fix else ""
        yield Text(f"{listed(names)}: {health.message}{fix}", _STYLES[health.status])
