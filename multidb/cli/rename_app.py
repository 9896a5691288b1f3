"""`multidb rename-app`: an app under another name, with its data, its sets and its history."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import renaming
from multidb.alternation import require_not_rotating
from multidb.backup.cloning import shared_options
from multidb.backup.encryption import identities
from multidb.backup.journal import exclusively
from multidb.backup.live_data import require_unbound
from multidb.backup.places import require_not_following, require_settled
from multidb.backup.run import final_set
from multidb.backup.sets import declaration
from multidb.cli.entries import show_edit
from multidb.cli.env_files import write_env_files
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.options import AppArgument, IdentityOption, Run, examples, with_run
from multidb.cli.output import Output
from multidb.cli.plan_view import mention_lines, report_document, show_report
from multidb.cli.restore import Openings, audited
from multidb.cli.typed_name import agree_to_destroy
from multidb.closure import closures
from multidb.engine import Engine
from multidb.errors import MultidbError, PartlyApplied, Refused, UsageError
from multidb.fleet import Scope
from multidb.manifest import app_id
from multidb.mentions import mentions
from multidb.model import Progress, Project, listed
from multidb.orphans import orphan, orphans
from multidb.plan import conflict_error
from multidb.project import load_project
from multidb.renames import (
    Rename,
    RenamePhase,
    former_names,
    outdated_names,
    rename_of,
    renames,
    ways_of_outdated,
    write_rename,
)
from multidb.report import Report
from multidb.state import ProjectState
from multidb.state_stores import open_state
from multidb.tombstone import ways_of_removed

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_MOST = 5  # things that a sentence names


@app.command(
    "rename-app",
    epilog=examples(
        "multidb rename-app lernmi learn                       (asks for the old name)",
        "multidb rename-app lernmi learn --yes-destroy lernmi  (where nobody can be asked)",
        "multidb rename-app lernmi learn --abort               (back, while its data is not all there)",
    ),
)
@with_run("rename-app", verbose=True)
def rename_app(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    name: AppArgument,
    other: Annotated[str, typer.Argument(metavar="NEW", help="The name that it is to have.")],
    abort: Annotated[bool, typer.Option("--abort", help="Go back to the old name, and drop what was copied.")] = False,
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Make a final set first, and verify it by restoring it.")
    ] = True,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Go on although something of it cannot be copied.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Rename although text in it names what is called otherwise then.")
    ] = False,
    identity: IdentityOption = None,
    yes_destroy: Annotated[
        str | None, typer.Option("--yes-destroy", metavar="NAME", help="Do not ask; the old name is the answer.")
    ] = None,
) -> int:
    """Give an app another name: databases, roles, collections, keys, manifest entry, credentials and env file.

    Its data is copied to places under the new name and compared while the app's logins are off; then the names are
    exchanged, and what stands under the old one is dropped. Its sets stay its own. What names in its text a place that
    is called otherwise then is named before, and needs --accept. Interrupted anywhere, run it again, or go back with
    --abort.
    """
    request = _Request(run, app_id(name), app_id(other), backup, incomplete, accept, identity)
    begun, named = _begun(request), None
    if abort:
        return _go_back(request, begun)
    if begun is None:
        drafted = _drafted(request, run.project())
        named = _show(request, drafted)
        agree_to_destroy(
            request.old,
            yes_destroy,
            run.output,
            warning=f"When all of it is under the new name, what {request.old} has on the servers is deleted. "
            + ("A final set is made first." if backup else "No set is made of it."),
            command=f"{request.command} --yes-destroy {request.old}",
        )
    try:
        return _rename(request, named)
    except MultidbError:
        if (left := renames(request.state).get(request.old)) is not None:
            run.output.note(f"  {left.way_on}")
        raise


@dataclass(frozen=True, slots=True)
class _Request:
    run: Run
    old: str
    new: str
    backup: bool
    incomplete: bool
    accept: bool
    identity: Path | None

    @property
    def state(self) -> ProjectState:
        return open_state(self.run.project())

    @property
    def command(self) -> str:
        return f"multidb rename-app {self.old} {self.new}" + " --accept" * self.accept

    @property
    def output(self) -> Output:
        return self.run.output


def _begun(request: _Request) -> Rename | None:
    """The same rename, as an earlier run has left it.

    Raises:
        UsageError: the names are one; or it was done already.
        Refused: one of the names is in another rename.
    """
    state, old, new = request.state, request.old, request.new
    if old == new:
        raise UsageError(f"{old} is called so already", hint="name the new one")
    for app in (old, new):
        rename = rename_of(state, app)
        if rename is not None and (rename.old, rename.new) != (old, new):
            raise Refused(
                f"{rename.old} is being renamed to {rename.new}", where=f"app {rename.old}", hint=rename.way_on
            )
    begun = renames(state).get(old)
    project = request.run.project() if begun is None else None
    if project is not None and old not in project.apps and new in project.apps:
        done = [name for name in former_names(state) if (name.old, name.new) == (old, new)]
        if done:
            raise UsageError(
                f"app {old} is {new} since {max(done).when:%Y-%m-%d %H:%M} UTC", hint=f"multidb show {new}"
            )
    return begun


def _drafted(request: _Request, project: Project) -> renaming.Renaming:
    """The manifest with the new name; `UsageError` or `Refused` where it cannot be had."""
    old, new, run = request.old, request.new, request.run
    fleet = run.fleet(request.output, project)
    fleet.app(old)
    if new in project.removed:
        raise Refused(
            f"app {new} was {project.removed[new].where}, and what it had is still kept",
            hint=ways_of_removed(new),
        )
    if new in project.apps:
        raise Refused(f"there is an app {new}", where=project.apps[new].where, hint="choose another name")
    closure = closures(request.state).get(old)
    if closure is not None and closure.rename is None and not closure.exchange:  # an exchange is finished first
        raise Refused(closure.why, where=f"app {old}", hint=closure.way_on)
    return renaming.draft(project, old, new, lambda texts: load_project(run.file, run.overlay, texts))


def _engine(request: _Request, project: Project, *, lenient: bool = False) -> Engine:
    """An engine for which both names are there.

    Args:
        lenient: also where the manifest does not allow the new one any more, which is only to be dropped.
    """
    try:
        new = renaming.beside(_drafted(request, project).app)
    except (UsageError, Refused):
        if not lenient:
            raise
        new = orphan(project, request.new, project.apps[request.old].stores)
    return request.run.engine(request.output, project.including(new))


def _show(request: _Request, drafted: renaming.Renaming) -> list[str]:
    """What is going to be done, and whether it can be. Gives what names the old place in its text.

    Raises:
        Refused: something stands in the way, or has to be agreed to; nothing was changed.
        ServerError: a server of the app cannot be asked.
    """
    output, old, new = request.output, request.old, request.new
    require_not_rotating(request.state, old)
    require_not_following(request.state, old)
    project = request.run.project()
    engine = _engine(request, project)
    with output.working():
        _require_room(request, engine)
        named = mentions(engine, project.apps[old], declaration(project.apps[old]), drafted.app)
    for path, (before, after) in drafted.texts.items():
        show_edit(output, path, before, after)
    output.say(f"{old} becomes {new}:", style="bold")
    for store, names in renaming.renamed_names(project.apps[old], drafted.app).items():
        lines = [f"{kind.removeprefix(f'{store} ')} {was} -> {becomes}" for kind, was, becomes in names]
        output.say(f"  {store}: {', '.join(lines)}")
    output.say(
        f"Its logins are off while its data is copied and compared, and it gets new credentials, in apps/{new}/.env; "
        "variables that have its name in them get another. For a while its data is there twice."
    )
    for store, options in engine.project.apps[new].stores.items():
        if options != drafted.app.stores[store]:
            output.note(f"{store}: its number becomes another, in the manifest too")
    for other, place, values in _named_by_others(project, old):
        output.note(f"{other} names {listed(values)} under {place}, where {new} will not be heard")
    for line in mention_lines(named):
        output.say(line)
    output.say()
    if named and not request.accept:
        raise Refused(
            f"this would not be the same afterwards, and nothing would say so: {listed(named, _MOST)}",
            where=f"app {old}",
            hint=f"mend it first, so that it is right under both names; or rename it as it is: {request.command} "
            "--accept",
        )
    return named


def _named_by_others(project: Project, old: str) -> Iterator[tuple[str, str, list[str]]]:
    """What other apps name that begins with the app's name: whose it is, where it stands, and the names."""
    for other in project.apps.values():
        for store, options in shared_options(declaration(other)).items():
            for option, values in options.items():
                named = [str(value) for value in values if str(value).startswith(f"{old}:")]
                if named and other.id != old:
                    yield other.id, f"{store}.{option}", named


def _require_room(request: _Request, engine: Engine) -> None:
    """Nothing stands on the servers that is called like the new one, and all of them can be asked."""
    fleet, old, new = engine.fleet, request.old, request.new
    if (things := orphans(request.run.fleet(request.output)).get(new)) is not None:
        outdated = outdated_names(engine.project.apps.keys() - {new}, former_names(request.state)).get(old)
        raise Refused(
            f"the servers have an app {new} that is in no manifest ({listed([*things])})",
            where=f"app {new}",
            hint=ways_of_outdated(outdated)
            if outdated is not None and outdated.new == new
            else f"turn it off: multidb remove-app {new}; or choose another name",
        )
    require_unbound(engine, engine.project.apps[old], list(engine.project.apps[old].stores))
    own = {*fleet.runtime.names_for(engine.project.apps[new])} - {*fleet.runtime.names_for(engine.project.apps[old])}
    plan = engine.plan(Scope(apps=frozenset({new})))
    if plan.conflicts:
        raise conflict_error(plan.conflicts, hint="choose another name; what stands there is left alone")
    errors = [error for server, error in plan.errors if server.server not in own]
    if errors:
        raise errors[0]


def _rename(request: _Request, named: Sequence[str] | None) -> int:
    run, output, old, new = request.run, request.output, request.old, request.new
    state = request.state
    keys = identities(request.identity, os.environ)
    with ExitStack() as stack:
        stack.enter_context(output.working())
        stack.enter_context(state.lock_apps([old, new], request.command))
        begun = _begun(request)  # what was read before may hold no longer
        record = stack.enter_context(run.recorded(state, [old, new]))
        final = ""
        if begun is None:
            require_not_rotating(state, old)
            engine = _engine(request, run.project())
            engine.fleet.start(old)
            if request.backup:
                final = final_set(engine, old, keys, output.progress, command=f"rename-app {old} {new}")
                record.add("create", "set", final, old)
        progress = stack.enter_context(exclusively(state, "rename-app", output.progress))
        if begun is not None and begun.phase is RenamePhase.ABORTING:
            raise Refused(f"{old} is on its way back", where=f"app {old}", hint=begun.way_on)
        notes: tuple[str, ...] = ()
        if begun is None or begun.phase is RenamePhase.COPYING:
            begun, notes = _copied(request, begun, final, progress)
        done, report = _exchanged(request, begun, progress)
        record.applied(report)
        record.add("rename", "app", f"{old} to {new}", new)
    openings = audited(done, new, output)
    return _tell(request, begun, report, notes, named, openings)


def _copied(request: _Request, begun: Rename | None, final: str, progress: Progress) -> tuple[Rename, tuple[str, ...]]:
    """All of the data under the new name, and what of it could not be brought there."""
    output, old, new = request.output, request.old, request.new
    engine = _engine(request, request.run.project())
    engine.fleet.start(old)
    finish_interrupted(engine, identities(request.identity, os.environ), output, held=[old, new])
    if begun is None:
        require_settled(engine.state, old)
        _require_room(request, engine)
        now = datetime.now(UTC)
        begun = Rename(old, new, RenamePhase.COPYING, now.replace(microsecond=0), final)
        write_rename(engine.state, begun)
    notes = renaming.copy_over(engine, begun, progress)
    if notes and not request.incomplete:
        raise Refused(
            f"not all of {old} can be copied: {listed(list(notes))}",
            where=f"app {old}",
            hint=f"go on without: {request.command} --incomplete; or go back: {request.command} --abort",
        )
    return begun, notes


def _exchanged(request: _Request, begun: Rename, progress: Progress) -> tuple[Engine, Report]:
    """The new name in use, and nothing left of the old one."""
    run, output, old, new = request.run, request.output, request.old, request.new
    project = run.project()
    if begun.phase in (RenamePhase.COPYING, RenamePhase.EXCHANGING):
        progress(new, "exchanging the names")
        begun = renaming.exchange(run.fleet(output, project), begun)
        project = run.project()
    engine = run.engine(output, project)
    engine.fleet.start(new)
    report = engine.apply(Scope(apps=frozenset({new})))
    if (error := report.error()) is not None:
        show_report(output, report)
        raise PartlyApplied(error.message, where=error.where, hint=f"correct the cause, then: {begun.command}")
    write_env_files(engine.fleet, output, [new])
    for target, problem in renaming.mark_targets(engine.fleet).items():
        output.note(f"{target}: does not know the new name yet: {problem}", style="yellow")
    with_old = project.including(project.removed[old]) if old in project.removed else project
    renaming.drop(run.fleet(output, with_old), begun, progress)
    return run.engine(output), report


def _tell(
    request: _Request,
    begun: Rename,
    report: Report,
    notes: Sequence[str],
    named: Sequence[str] | None,
    openings: Openings,
) -> int:
    output, old, new = request.output, request.old, request.new
    document: dict[str, Any] = {
        "app": new,
        "was": old,
        "aborted": False,
        "final_set": begun.final_set or None,
        "notes": list(notes),
        "mentions": list(named) if named is not None else None,
        **report_document(report),
    }
    output.document(not openings.own, {**document, **openings.document()})
    output.say(f"{old} is {new}: its data, its sets and its history are there, with new credentials.", style="green")
    for note in notes:
        output.note(note)
    if begun.final_set:
        output.say(f"Its final set under the old name: {begun.final_set}")
    folder = request.run.file.parent / "apps" / old
    if folder.is_dir():
        output.note(f"{folder} has files of yours, which stay there")
    output.say(f"Next: multidb show {new} · its variables are in apps/{new}/.env · what is rendered: multidb render")
    return 1 if openings.own else 0


def _go_back(request: _Request, begun: Rename | None) -> int:
    run, output, old, new = request.run, request.output, request.old, request.new
    if begun is None:
        raise UsageError(
            f"{old} is not being renamed to {new}", hint=f"what is there: multidb apps; rename it: {request.command}"
        )
    with ExitStack() as stack:
        stack.enter_context(output.working())
        stack.enter_context(request.state.lock_apps([old, new], f"{request.command} --abort"))
        progress = stack.enter_context(exclusively(request.state, "rename-app", output.progress))
        begun = _begun(request)
        if begun is not None:
            record = stack.enter_context(run.recorded(request.state, [old, new]))
            record.add("abort", "rename", f"of {old} to {new}", old)
            engine = _abortable(request)
            finish_interrupted(engine, None, output, held=[old, new])
            renaming.abort(engine, begun, progress)
    output.document(True, {"app": old, "was": None, "aborted": True})
    output.say(f"{old} is back, with the credentials that it had; nothing is left of {new}.", style="green")
    return 0


def _abortable(request: _Request) -> Engine:
    """An engine with both names, as far as there still is something of both."""
    project = request.run.project()
    if request.old not in project.apps:
        return request.run.engine(request.output, project)  # which `abort` refuses, or has nothing left to do
    if request.new in project.removed:  # an earlier run was dropping it
        return request.run.engine(request.output, project.including(project.removed[request.new]))
    return _engine(request, project, lenient=True)
