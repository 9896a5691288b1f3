"""`multidb add-app`: an app, from nothing to credentials in one command; or more for one that is there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidb import manifest
from multidb.cli.add_app_options import AddAppOptions, collections_of, new_entry, stores_of
from multidb.cli.entries import Draft, draft_entry, show_draft, take_back, write_draft
from multidb.cli.env_files import following_servers, write_env_files
from multidb.cli.options import Run, YesOption, ask, examples, with_run
from multidb.cli.plan_view import report_document, show_plan, show_report
from multidb.cli.server_wide import left_open
from multidb.engine import Engine
from multidb.errors import Conflict, Refused, StalePlan
from multidb.fleet import Scope
from multidb.model import listed
from multidb.plan import LOST, Plan, refuse_conflicts
from multidb.provisioners import INCLUDED
from multidb.report import Report
from multidb.runtime import ServerState

if TYPE_CHECKING:
    from multidb.cli.output import Output

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    "add-app",
    epilog=examples(
        "multidb add-app lernmi",
        "multidb add-app beep-boop --stores postgres,redis --yes",
        "multidb add-app digi_core --collection knowledge:1536:cosine --extension vector",
        "multidb add-app lernmi --extension pg_trgm    (one more, for an app that is there)",
    ),
)
@with_run("add-app", verbose=True)
def add_app(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The app; beep-boop means beep_boop.")],
    stores: Annotated[
        list[str] | None,
        typer.Option(
            "--stores",
            "--store",
            help="Which stores, comma-separated; may be repeated. Default: all that the project has servers of.",
        ),
    ] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", help="A Qdrant collection as type:size:distance; may be repeated."),
    ] = None,
    extensions: Annotated[
        list[str] | None, typer.Option("--extension", help="A Postgres extension; may be repeated.")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant-id", help="Its tenant id; default: its name.")] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take over what exists under its names.")] = False,
    no_apply: Annotated[bool, typer.Option("--no-apply", help="Only write the manifest entry.")] = False,
    yes: YesOption = False,
) -> int:
    """Add an app: manifest entry, a place on every store, credentials and env file. Run again, it changes nothing.

    For an app that is there the options are laid over its entry: stores and extensions are added to those that it has,
    none is taken away. The edit and the plan are shown and asked for; where nothing can be made, nothing is written.
    """
    output = run.output
    new = manifest.app_id(name)
    asked = AddAppOptions(
        new, stores_of(stores), tuple(dict.fromkeys(extensions or ())), collections_of(collections or ()), tenant
    )
    draft = draft_entry(run, new, partial(new_entry, asked), asked.over)
    _tell_entry(run, draft, asked)
    if not no_apply:
        return _bring_up(run, draft, adopt=adopt, yes=yes)
    write_draft(run, draft)
    if draft.before == draft.after:
        output.say(f"{new} is in {draft.project.apps[new].where} already; nothing to do.")
    else:
        output.say(f"Wrote {draft.path}. Next: multidb apply {new}")
    output.document(True, {"app": new, "applied": False, "manifest": draft.document()})
    return 0


def _bring_up(run: Run, draft: Draft, *, adopt: bool, yes: bool) -> int:
    output, new = run.output, draft.app
    engine = run.engine(output, draft.project)
    with engine.fleet.keeping_open():
        with output.working(), following_servers(engine.fleet, output):
            own = _start_shared(engine, new)
        scope = _scope(engine, new, adopt=adopt)
        with output.working():
            planned = _without(engine.plan(scope), own)
        if not _agreed(output, draft, planned, own, yes=yes):
            output.note("Nothing was changed.")
            return 3
        recorded = planned.changes or own or draft.before != draft.after
        with run.recorded(engine.state, [new], planned.digest) if recorded else nullcontext() as record:
            engine, report = _made(run, draft, engine, scope, planned, own, yes=yes)
            if record is not None:
                record.applied(report)
        with output.working():
            left = left_open(engine, new)
        code = show_report(output, report)
        for server, things in left.items():
            output.note(
                f"{server}: {things}: open, and left so, because others may use the server; "
                "multidb apply closes it, and asks first",
                style="yellow",
            )
        env_files = write_env_files(engine.fleet, output, [new], report)
    skipped = {server.server: server.skipped for server in report.plan.servers if server.skipped}
    document: dict[str, Any] = {
        "app": new,
        "applied": code == 0,
        "manifest": draft.document(),
        "plan": report.plan.document(),
        "skipped": skipped,
        **report_document(report),
    }
    output.document(code == 0, {**document, "written": [str(path) for path in env_files]})
    if code == 0:
        _tell_end(output, draft, report, skipped)
    elif report.done:
        output.note(f"  To go on with {new} alone: multidb apply --app {new}")
    return code


def _made(
    run: Run, draft: Draft, engine: Engine, scope: Scope, planned: Plan, own: frozenset[str], *, yes: bool
) -> tuple[Engine, Report]:
    """Writes the entry and makes what it asks for, with the engine of the manifest as it is then. Where nothing could
    be made, the entry is taken back."""
    written = write_draft(run, draft)
    if written is not draft.project:  # another run has added something else meanwhile
        engine = run.engine(run.output, written)
    try:
        report = _applied(engine, run.output, scope, planned, own, yes=yes)
    except Refused:
        take_back(run, draft)
        raise
    if not report.done and report.error() is not None:
        take_back(run, draft)
    return engine, report


def _start_shared(engine: Engine, new: str) -> frozenset[str]:
    """Starts the servers that any app may use, and gives the names of those that would serve this one alone, have no
    address yet and are started when somebody has agreed."""
    fleet = engine.fleet
    names = fleet.runtime.names_for(fleet.app(new))
    shared = fleet.runtime.names_for(replace(fleet.app(new), id=f"{new}_"))  # the id of no app
    missing = {status.name for status in fleet.runtime.missing() if status.state is not ServerState.SKIPPED}
    own = frozenset(name for name in names if name in missing and name not in shared)
    if others := [name for name in names if name not in own]:
        fleet.runtime.up(fleet.progress, others)
    return own


def _scope(engine: Engine, new: str, *, adopt: bool) -> Scope:
    """The app alone, and nothing that somebody else may lose something by."""
    return engine.fleet.sparing_others(Scope(apps=frozenset({new}), adopt=frozenset({new} if adopt else ())))


def _without(plan: Plan, servers: frozenset[str]) -> Plan:
    return replace(plan, servers=tuple(server for server in plan.servers if server.server not in servers))


def _agreed(output: Output, draft: Draft, planned: Plan, own: frozenset[str], *, yes: bool) -> bool:
    """Whether what is shown may be done.

    Raises:
        Conflict: something is in the way.
        MultidbError: nothing of it can be made here; or nobody can be asked.
    """
    new = draft.app
    show_draft(output, draft)
    if planned.changes or len(planned.errors) > 1:  # one error alone is raised
        show_plan(output, planned)
    for server in sorted(own):
        output.say(f"{server}: a server of its own for {new}, started for it, with all that {new} has there")
    _refuse(draft, planned, own)
    nothing = not planned.changes and not own and draft.before == draft.after
    return nothing or ask("Apply these changes?", yes=yes)


def _refuse(draft: Draft, planned: Plan, own: frozenset[str]) -> None:
    """Raises what makes it of no use to ask."""
    new = draft.app
    try:
        naming = {"rename": "add it under another name"} if draft.added else {}
        refuse_conflicts(planned, adopt="the same again with --adopt", **naming)
    except Conflict as conflict:
        lost = any(field.old == LOST for change in planned.conflicts for field in change.fields)
        if draft.added and lost:
            conflict.hint = f"write its entry first, with --no-apply; then {conflict.hint}"
        elif draft.before != draft.after and all(
            change.live and change.desired and change.live.owner == change.desired.owner for change in planned.conflicts
        ):
            conflict.hint = f"the same again, without what cannot be changed; or change {new} in the manifest to fit it"
        raise
    if own or planned.changes:
        return
    if planned.errors:
        raise planned.errors[0][1]
    if any(not server.skipped for server in planned.servers):
        return
    reasons = listed([f"{server.server} ({server.skipped})" for server in planned.servers])
    raise Refused(
        f"none of its servers can be had here: {reasons}" if reasons else "no server that runs serves it",
        where=f"app {new}",
        hint="name others: --stores; or only write its entry: --no-apply",
    )


def _applied(engine: Engine, output: Output, scope: Scope, planned: Plan, own: frozenset[str], *, yes: bool) -> Report:
    """Makes what was agreed to, and what goes onto servers of the app's own, which are started for it. Where nobody was
    asked, what is to be done is decided when a server's lock is held, however many runs wait for their turn."""
    with output.working():
        if own:
            for new in scope.apps or ():
                engine.fleet.start(new)
            shown, planned = {server.server: server for server in planned.servers}, engine.plan(scope)
            for server in planned.servers:
                if not yes and server.server in shown and not shown[server.server].covers(server):
                    raise StalePlan(
                        "it has changed since the plan was made",
                        where=f"server {server.server}",
                        hint="run the command again",
                    )
        return engine.apply(scope, planned, agreed=not yes)


def _tell_entry(run: Run, draft: Draft, asked: AddAppOptions) -> None:
    """What a person may have meant otherwise."""
    output, new, having = run.output, draft.app, draft.project.apps[draft.app].stores
    if draft.added and not asked.stores:
        missing = [store for store in INCLUDED if store not in having]
        if missing:
            output.note(f"{new} uses {listed([*having])}: the manifest names no server of {listed(missing)}")
    elif not draft.added and asked.stores and (more := [store for store in having if store not in asked.stores]):
        output.note(f"{new} keeps {listed(more)} too: add-app takes nothing away; its entry in {draft.path} does")


def _tell_end(output: Output, draft: Draft, report: Report, skipped: Mapping[str, str]) -> None:
    new = draft.app
    for server, reason in skipped.items():
        output.note(f"{server}: not made here: {reason}", style="yellow")
    if not report.done and draft.before == draft.after:
        left = f", but for {listed([*skipped])}" if skipped else ""
        output.say(f"{new} is as the manifest says{left}; nothing to do.", style="green")
    output.say(f"Next: multidb show {new} · its variables are in apps/{new}/.env (multidb env {new})")
