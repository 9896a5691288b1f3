"""`multidb usage`: what each app uses of the shared servers, against its limits and quotas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.progress_bar import ProgressBar
from rich.text import Text

from multidb.cli.options import AppOrAllArgument, Run, StoresOption, examples, scope, with_run
from multidb.cli.output import Output
from multidb.cli.terminal import Grid
from multidb.model import counted, size_in_words
from multidb.usage import Enforcement, QuotaUse, StoreTotal, StoreUsage, UsageReport, enforce, look

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_BAR = 8  # columns
_STYLES = {QuotaUse.NONE: "", QuotaUse.WITHIN: "green", QuotaUse.NEAR: "yellow", QuotaUse.OVER: "bold red"}


class Order(StrEnum):
    """By what the rows are sorted."""

    MANIFEST = "manifest"
    SIZE = "size"
    GROWTH = "growth"
    QUOTA = "quota"
    CONNECTIONS = "connections"


_ORDERS: Mapping[Order, Callable[[StoreUsage], float]] = {
    Order.MANIFEST: lambda used: 0,
    Order.SIZE: lambda used: -(used.usage.size or 0),
    Order.GROWTH: lambda used: -used.growth.size if used.growth is not None else 0,
    Order.QUOTA: lambda used: -(used.share or 0),
    Order.CONNECTIONS: lambda used: -(used.usage.connections or 0),
}


@app.command(
    epilog=examples(
        "multidb usage",
        "multidb usage --sort size",
        "multidb usage lernmi --store postgres --slow",
        "multidb usage --enforce         (for cron; read-only where a quota says so, and back)",
    )
)
@with_run("usage", verbose=True)
def usage(
    run: Run,
    name: AppOrAllArgument = None,
    stores: StoresOption = None,
    enforced: Annotated[
        bool,
        typer.Option(
            "--enforce",
            help="Make apps read-only that are over a quota with enforce: read-only, and let go those below 90 %. "
            "Applies the manifest to these apps.",
        ),
    ] = False,
    slow: Annotated[bool, typer.Option("--slow", help="Also the queries that took the most time.")] = False,
    order: Annotated[
        Order, typer.Option("--sort", help="The largest first; default: as in the manifest.")
    ] = Order.MANIFEST,
) -> int:
    """Show connections, sizes and growth per app and store.

    A bar is the part of the app's quota that is used; without a quota, the app's part of what all apps have on the
    store.

    Exit 1: an app is over its quota. 4: a server could not be asked. With --enforce also the exit codes of apply.
    """
    output = run.output
    engine, asked = run.engine(output), scope([name] if name else None, stores)
    with output.working():
        report = look(engine.fleet, asked)
        done = enforce(engine, report, partial(run.recorded, engine.state)) if enforced else None
    document = report.document()
    if done is not None:
        document["enforced"] = done.document()
    failed = next(iter(done.errors.values()), None) if done is not None else None
    code = failed.exit_code if failed is not None else report.exit_code
    output.document(code == 0, document)
    _show(output, report, slow=slow, order=order)
    if done is not None:
        _show_enforced(output, done)
    return code


def _show(output: Output, report: UsageReport, *, slow: bool, order: Order) -> None:
    if report.stores:
        output.show(_table(report, order))
    elif not report.errors:
        output.say("There is nothing to look at. Next: multidb add-app NAME")
    for used in report.stores:
        subject = f"{used.app} {used.store}"
        if used.standing in (QuotaUse.NEAR, QuotaUse.OVER) and used.share is not None and used.quota is not None:
            word = "is over its quota of" if used.standing is QuotaUse.OVER else "has nearly used up its quota of"
            output.say(f"{subject} {word} {size_in_words(used.quota.size)}", style=_STYLES[used.standing])
        if output.verbose:
            _show_details(output, subject, used)
        if slow:
            for query in used.usage.slow:
                calls = counted(query.calls, "call")
                figures = f"{calls}, mean {query.mean * 1000:.1f} ms, {query.total:.1f} s in all"
                output.say(f"{subject}: {figures}: {' '.join(query.text.split())}", verbatim=True)
    if slow and not any(used.usage.slow for used in report.stores):
        output.say("No server told of slow queries (Postgres does with pg_stat_statements).", style="dim")
    since = {used.growth.since for used in report.stores if used.growth is not None}
    notes = [f"Growth since {moment.astimezone():%d %b %H:%M}." for moment in since]
    for note in dict.fromkeys([*notes, *report.notes, *_notes(report)]):
        output.say(note, style="dim")
    for server, error in report.errors:
        output.say(f"{server}: {error.sentence(where=False)}", style="red")


def _notes(report: UsageReport) -> Iterable[str]:
    """Of apps only where they are the same for all: what is special to one is in --json."""
    for server in report.servers:
        yield from (f"{server.server}: {note}" for note in server.usage.notes) if server.usage else ()


def _show_details(output: Output, subject: str, used: StoreUsage) -> None:
    counts = ", ".join(f"{name} {_count(name, value)}" for name, value in used.usage.counts.items())
    largest = ", ".join(f"{' '.join(name.split())} {size_in_words(size)}" for name, size in used.usage.largest)
    for what, text in (("counts", counts), ("largest", largest), ("notes", "; ".join(used.usage.notes))):
        if text:
            output.say(f"{subject}: {what}: {text}", style="dim")


def _count(name: str, value: float) -> str:
    """With its unit, where it is not a plain number."""
    match name:
        case "temp_bytes":
            return size_in_words(value)
        case "query_time":
            return f"{value:.1f} s"
        case "cache_hit":
            return f"{value:.1%}"
    return f"{value:.0f}"


def _table(report: UsageReport, order: Order) -> Grid:
    read_only = any(used.read_only for used in report.stores)
    columns = ("app", "store", "size", "", "", "growth", "connections", *(("",) if read_only else ()))
    table, totals = Grid(*columns, right=("size",)), report.totals
    for used in sorted(report.stores, key=_ORDERS[order]):
        style = _STYLES[used.standing]
        share, of = (used.share, "quota") if used.share is not None else (_part(used, totals), "all apps")
        table.add_row(
            used.app,
            used.store,
            _size(used),
            _bar(share, style) if share is not None else "",
            Text(f"{share:.0%} of {of}" if share is not None else "", style),
            _growth(used),
            _connections(used),
            *((Text("read-only" if used.read_only else "", "bold red"),) if read_only else ()),
        )
    for store, total in totals.items():
        if total.apps > 1:
            size, connections = size_in_words(total.size), str(total.connections or "")
            cells = (f"all {total.apps} apps", store, size, "", "", "", connections, *(("",) if read_only else ()))
            table.add_row(*(Text(cell, "bold") for cell in cells))
    return table


def _bar(share: float, style: str) -> ProgressBar:
    return ProgressBar(total=1, completed=share, width=_BAR, complete_style=style, finished_style=style)


def _part(used: StoreUsage, totals: Mapping[str, StoreTotal]) -> float | None:
    """The app's part of what all apps have on the store; None for one app alone, of which that says nothing."""
    total = totals[used.store]
    return used.usage.size / total.size if used.usage.size is not None and total.size and total.apps > 1 else None


def _size(used: StoreUsage) -> str:
    if used.usage.size is None:
        return "?"
    return ("~" if used.usage.estimated else "") + size_in_words(used.usage.size)


def _growth(used: StoreUsage) -> str:
    if used.growth is None:
        return ""
    return ("+" if used.growth.size >= 0 else "") + size_in_words(used.growth.size)


def _connections(used: StoreUsage) -> str:
    now, limit = used.usage.connections, used.usage.connection_limit
    if now is None:
        return ""
    return f"{now} of {limit}" if limit is not None else str(now)


def _show_enforced(output: Output, done: Enforcement) -> None:
    for style, verb, apps in (
        ("yellow", "is read-only from now on", done.read_only),
        ("green", "may write again", done.lifted),
        ("yellow", "should be read-only, which its server cannot do for one app; nothing was changed", done.powerless),
    ):
        for store, names in sorted(apps.items()):
            for name in sorted(names):
                output.say(f"{name} {store} {verb}", style=style)
    for store, error in done.errors.items():
        output.note(f"{store}: {error}; multidb plan shows what is left", style="red")
