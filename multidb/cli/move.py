"""`multidb move`: an app goes where the manifest has it, with its data."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import moving
from multidb.alternation import require_not_rotating
from multidb.backup.encryption import Identities, identities
from multidb.backup.journal import exclusively
from multidb.backup.live_data import require_unbound
from multidb.backup.places import require_not_following, require_settled
from multidb.backup.run import final_set
from multidb.cli.env_files import write_env_files
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.options import AppArgument, IdentityOption, Run, examples, with_run
from multidb.cli.output import Output
from multidb.cli.plan_view import move_lines, report_document, show_report
from multidb.cli.restore import audited
from multidb.cli.typed_name import agree_to_destroy
from multidb.closure import closures
from multidb.engine import Engine
from multidb.errors import MultidbError, PartlyApplied, Refused, UsageError
from multidb.fleet import Scope
from multidb.manifest import app_id
from multidb.model import Move, Progress, listed
from multidb.moves import MovePhase, PendingMove, end_move, moves, write_move
from multidb.provisioners import provisioner
from multidb.report import Report
from multidb.state import ProjectState
from multidb.state_stores import open_state

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_MOST = 5  # things that a sentence names


@app.command(
    "move",
    epilog=examples(
        "multidb move brain                      (asks for the app's name)",
        "multidb move brain --yes-destroy brain  (where nobody can be asked)",
        "multidb move brain --abort              (back, while its data is not all there)",
    ),
)
@with_run("move", verbose=True)
def move(
    run: Run,
    name: AppArgument,
    abort: Annotated[bool, typer.Option("--abort", help="Go back to the old place, and drop what was copied.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Move although text in it names what is called otherwise then.")
    ] = False,
    backup: Annotated[
        bool, typer.Option("--backup/--no-backup", help="Make a final set first, and verify it by restoring it.")
    ] = True,
    identity: IdentityOption = None,
    yes_destroy: Annotated[
        str | None, typer.Option("--yes-destroy", metavar="NAME", help="Do not ask; the app's name is the answer.")
    ] = None,
) -> int:
    """Move an app to where the manifest has it: from a database of its own into a schema, and back.

    Its data is copied to the new place and compared while the app's logins are off; then what the old place had is
    dropped, and the logins come on, with the credentials that they had and new addresses in the env file. What names
    the old place in its text is named before, and needs --accept. Interrupted anywhere, run it again, or go back with
    --abort. An app that is where the manifest has it stays there.
    """
    request = _MoveRequest(run, app_id(name), accept, backup, identity)
    begun = moves(request.state).get(request.app)
    if abort:
        return _go_back(request, begun)
    if begun is None:
        planned = _planned(request)
        if planned is None:
            run.output.document(True, _document(request, None, None, (), aborted=False, begun=None))
            run.output.say(f"{request.app} is where the manifest has it.", style="green")
            return 0
        _require_possible(request, planned)
        agree_to_destroy(
            request.app,
            yes_destroy,
            run.output,
            warning=f"When all of it is in {planned.destination_title}, what {request.app} has in "
            f"{planned.source_title} is deleted. "
            + ("A final set is made first." if backup else "No set is made of it."),
            command=f"{request.command} --yes-destroy {request.app}",
        )
    try:
        return _move(request)
    except MultidbError:
        if (left := moves(request.state).get(request.app)) is not None:
            run.output.note(f"  {left.way_on}")
        raise


@dataclass(frozen=True, slots=True)
class _MoveRequest:
    run: Run
    app: str
    accept: bool
    backup: bool
    identity: Path | None

    @property
    def state(self) -> ProjectState:
        return open_state(self.run.project())

    @property
    def command(self) -> str:
        return f"multidb move {self.app}" + " --accept" * self.accept

    @property
    def output(self) -> Output:
        return self.run.output

    def engines(self, pending: PendingMove) -> tuple[Engine, Engine]:
        """For the app where it goes, and where it comes from."""
        project = self.run.project()
        if self.app not in project.apps:
            raise Refused(
                f"app {self.app} is on its way, and not in the manifest any more",
                where=f"app {self.app}",
                hint=f"put its entry back, then {pending.way_on}",
            )
        there, app = moving.origin(project, pending), moving.destination(project, pending)
        return (
            self.run.engine(self.output, project.including(app)),
            self.run.engine(self.output, project.including(there)),
        )


def _planned(request: _MoveRequest) -> Move | None:
    """The move that the manifest asks for; None: the app is where it is to be.

    Raises:
        ServerError: nobody can say, since a server cannot be read.
    """
    engine = request.run.engine(request.output)
    engine.fleet.app(request.app)
    with request.output.working():
        plan = engine.plan(Scope(apps=frozenset({request.app})))
    if not plan.moves and plan.errors:
        raise plan.errors[0][1]
    return plan.moves[0][1] if plan.moves else None


def _require_possible(request: _MoveRequest, planned: Move) -> None:
    """Says what is to be done; `Refused` where something stands against it, or has to be agreed to."""
    output, app = request.output, request.app
    for line in move_lines(planned):
        output.say(line)
    output.say(
        "Its logins are off meanwhile, in all of its stores; for a while its data is there twice. It keeps its "
        "credentials, and its address becomes another: restart it afterwards. What its own code names by the old "
        "place, nobody sees from here."
    )
    if planned.obstacles:
        raise Refused("; ".join(planned.obstacles), where=f"app {app}", hint="end that, then run the command again")
    if planned.mentions and not request.accept:
        raise Refused(
            "this would not be the same afterwards, and nothing would say so: " + listed(list(planned.mentions), _MOST),
            where=f"app {app}",
            hint=f"mend it first, so that it is right in both places; or move it as it is: {request.command} --accept",
        )
    if (closure := closures(request.state).get(app)) is not None and not closure.exchange:  # which is finished first
        raise Refused(closure.why, where=f"app {app}", hint=closure.way_on)
    require_not_rotating(request.state, app)
    require_not_following(request.state, app)


def _pending(request: _MoveRequest, planned: Move) -> PendingMove:
    now = datetime.now(UTC).replace(microsecond=0)
    return PendingMove(request.app, _store(planned), MovePhase.COPYING, planned.there, planned.destination, now)


def _store(planned: Move) -> str:
    """The store whose options say where the app is."""
    return next(store for store in planned.app.stores if provisioner(store).placed is not None)


def _move(request: _MoveRequest) -> int:
    run, output, name = request.run, request.output, request.app
    keys = identities(request.identity, os.environ)
    seconds: float | None = None
    notes: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(output.working())
        stack.enter_context(request.state.lock_apps([name], request.command))
        begun = moves(request.state).get(name)  # what was read before may hold no longer
        record = stack.enter_context(run.recorded(request.state, [name]))
        new = begun is None
        if begun is None:
            begun = _prepared(request, keys)
            if begun.final_set:
                record.add("create", "set", begun.final_set, name)
        progress = stack.enter_context(exclusively(request.state, "move", output.progress))
        if new:
            _begin(request, begun, keys)
        if begun.is_aborting:
            raise Refused(f"{name} is on its way back", where=f"app {name}", hint=begun.way_on)
        _require_same(request, begun)
        engine, reading = request.engines(begun)
        if not new:
            begun = moving.gone_on(engine, begun)
        planned = moving.survey(engine, begun) if begun.phase is MovePhase.COPYING else None
        if begun.phase is MovePhase.COPYING:
            finish_interrupted(engine, keys, output, held=[name])
            closed = time.monotonic()
            begun, notes = moving.copy_over(engine, reading, begun, progress)
        else:
            closed = None
        report = _finished(request, engine, begun, progress)
        seconds = None if closed is None else round(time.monotonic() - closed, 1)
        write_env_files(engine.fleet, output, [name])
        end_move(request.state, name)
        record.applied(report)
        record.add("move", "app", name, name)
    openings = audited(run.engine(output), name, output)
    document = _document(request, planned, seconds, notes, aborted=False, begun=begun)
    output.document(not openings.own, {**document, **report_document(report), **openings.document()})
    off = f" Its logins were off for {seconds:.0f} s." if seconds is not None else ""
    output.say(f"{name} is where the manifest has it, with all of its data.{off}", style="green")
    for note in notes:
        output.note(note)
    if begun.final_set:
        output.say(f"Its final set of the old place: {begun.final_set}")
    output.say(f"Next: restart it with its new addresses, in apps/{name}/.env · multidb health {name}")
    return 1 if openings.own else 0


def _prepared(request: _MoveRequest, keys: Identities | None) -> PendingMove:
    """A move that is to begin: what stands against it is found before, and its final set is made."""
    output, name = request.output, request.app
    planned = _planned(request)
    if planned is None:
        raise UsageError(f"app {name} is where the manifest has it", hint=f"multidb show {name}")
    pending = _pending(request, planned)
    engine, reading = request.engines(pending)
    engine.fleet.start(name)
    require_unbound(reading, reading.project.apps[name], [pending.store])
    moving.require_room(engine, pending)
    if request.backup:
        final = final_set(reading, name, keys, output.progress, command=f"move {name}")
        pending = replace(pending, final_set=final)
    return pending


def _begin(request: _MoveRequest, pending: PendingMove, keys: Identities | None) -> None:
    """Writes the move down: the app's logins go off from here on. What an earlier run has left half done where the
    app is now is finished before; nobody would look for it there any more."""
    _, reading = request.engines(pending)
    finish_interrupted(reading, keys, request.output, held=[request.app])
    require_settled(request.state, request.app)
    write_move(request.state, pending)


def _require_same(request: _MoveRequest, begun: PendingMove) -> None:
    """`Refused` where the manifest says by now that the app goes elsewhere."""
    project = request.run.project()
    if request.app in project.apps and moving.destination(project, begun) != project.apps[request.app]:
        raise Refused(
            "the manifest gives it another place than the one that it is on its way to",
            where=f"app {request.app}",
            hint="let the manifest say what it said when the move began, then "
            + (f"{begun.way_on}" if begun.phase is MovePhase.COPYING else f"finish it: {begun.command}"),
        )


def _finished(request: _MoveRequest, engine: Engine, begun: PendingMove, progress: Progress) -> Report:
    if begun.phase is MovePhase.DROPPING:
        begun = moving.drop(engine, begun, progress)
    progress(request.app, "turning its logins on")
    report = moving.finish(engine, begun)
    if (error := report.error()) is not None:
        show_report(request.output, report)
        raise PartlyApplied(error.message, where=error.where, hint=f"correct the cause, then: {begun.command}")
    return report


def _go_back(request: _MoveRequest, begun: PendingMove | None) -> int:
    run, output, name = request.run, request.output, request.app
    if begun is None:
        raise UsageError(f"{name} is not being moved", hint=f"what is to be done: multidb plan {name}")
    with ExitStack() as stack:
        stack.enter_context(output.working())
        stack.enter_context(request.state.lock_apps([name], f"multidb move {name} --abort"))
        progress = stack.enter_context(exclusively(request.state, "move", output.progress))
        begun = moves(request.state).get(name)
        if begun is not None:
            record = stack.enter_context(run.recorded(request.state, [name]))
            record.add("abort", "move", f"of {name}", name)
            engine, reading = request.engines(begun)
            finish_interrupted(engine, None, output, held=[name])
            report = moving.abort(engine, reading, begun, progress)
            if (error := report.error()) is not None:
                show_report(output, report)
                raise PartlyApplied(error.message, where=error.where, hint=f"multidb move {name} --abort")
            end_move(request.state, name)
    output.document(True, _document(request, None, None, (), aborted=True, begun=begun))
    output.say(
        f"{name} is where it was, with the credentials that it had. The manifest still has it elsewhere: multidb plan",
        style="green",
    )
    return 0


def _document(
    request: _MoveRequest,
    planned: Move | None,
    seconds: float | None,
    notes: Sequence[str],
    *,
    aborted: bool,
    begun: PendingMove | None,
) -> dict[str, Any]:
    return {
        "app": request.app,
        "moved": begun is not None and not aborted,
        "aborted": aborted,
        "from": planned.source_title if planned is not None else None,
        "to": planned.destination_title if planned is not None else None,
        "seconds": seconds,
        "mentions": list(planned.mentions) if planned is not None else [],
        "final_set": (begun.final_set if begun is not None else "") or None,
        "notes": list(notes),
    }
