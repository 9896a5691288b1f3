"""An app moves to where the manifest has it: its data is copied to the new place while its logins are off, compared and
exchanged; then what the old place had is dropped, and the logins come on.

Every step is written down before it is taken (`multidb.moves`), and every step may be repeated, so that a run which was
interrupted anywhere is finished by the same command; until all of the data is there it can be aborted as well. Whoever
calls these functions holds `exclusively` and the app's lock.
"""

from __future__ import annotations

from dataclasses import replace

from multidb import removal
from multidb.backup import cloning
from multidb.backup.live_data import contexts_of, require_unbound
from multidb.backup.places import clear, require_not_following
from multidb.engine import Engine
from multidb.errors import Refused, ServerError
from multidb.fleet import Scope
from multidb.model import App, Move, MovingSession, Progress, Project, Server
from multidb.moves import MovePhase, PendingMove, write_move
from multidb.plan import conflict_error
from multidb.provisioners import provisioner
from multidb.report import Report

__all__ = ["abort", "copy_over", "destination", "drop", "finish", "gone_on", "origin", "require_room", "survey"]

_ROUNDS = 5  # of dropping what is left; each finds what another session made meanwhile


def origin(project: Project, move: PendingMove) -> App:
    """The app with the place that it comes from."""
    return _placed(project, move, destination=False)


def destination(project: Project, move: PendingMove) -> App:
    """The app with the place that it goes to, whatever the manifest says by now."""
    return _placed(project, move, destination=True)


def _placed(project: Project, move: PendingMove, *, destination: bool) -> App:
    place = provisioner(move.store).placed
    assert place is not None
    return place(project.apps[move.app], move.destination if destination else move.there)


def require_room(engine: Engine, move: PendingMove) -> None:
    """Looks whether nothing stands where the app goes, before anything is changed.

    Raises:
        Conflict: something does.
        ServerError: the server cannot be asked.
    """
    plan = engine.plan(replace(_scope(move), moving=frozenset({move.app})))
    if plan.conflicts:
        raise conflict_error(
            plan.conflicts, hint="let the manifest name another place; what stands there is left alone"
        )
    if plan.errors:
        raise plan.errors[0][1]


def survey(engine: Engine, move: PendingMove) -> Move:
    """What stands against the move now, and what it would change.

    Raises:
        ServerError: the server cannot be asked.
    """
    there, app = origin(engine.project, move), destination(engine.project, move)
    server = _server(engine, move)
    with engine.fleet.open(server) as session:
        assert isinstance(session, MovingSession)
        return session.survey(there, app, engine.fleet.context(server, session))


def gone_on(engine: Engine, move: PendingMove) -> PendingMove:
    """The move of an earlier run, as the server knows it: where nothing is left at the old place, it is done, and the
    state that says otherwise is an old copy. What the app has is at the new place, and only there."""
    if move.phase is MovePhase.COPYING and not _at_origin(engine, move):
        move = replace(move, phase=MovePhase.OPENING)
        write_move(engine.state, move)
    return move


def _at_origin(engine: Engine, move: PendingMove) -> bool:
    """Whether the app has anything where it comes from."""
    server = _server(engine, move)
    with engine.fleet.open(server) as session:
        assert isinstance(session, MovingSession)
        places = origin(engine.project, move), destination(engine.project, move)
        return bool(session.leaving(*places, engine.fleet.context(server, session)))


def copy_over(engine: Engine, reading: Engine, move: PendingMove, progress: Progress) -> tuple[PendingMove, list[str]]:
    """Gives the new place all that the old one has, and compares it. The app's logins are off from here on.

    Args:
        engine: of a project with the app where it goes.
        reading: of one with the app where it comes from.

    Returns:
        How far it has come then; and what the new place does not have.

    Raises:
        Refused: something has come to stand against it.
        MultidbError: it could not be done; the same again begins anew.
    """
    require_not_following(engine.state, move.app)
    removal.suspend(reading.fleet, move.app, progress, command=move.command)
    require_unbound(reading, reading.project.apps[move.app], [move.store])  # whatever came until its logins were off
    error = engine.apply(_scope(move)).error()
    if error is not None:
        raise error
    _require_free(engine, move)
    notes = cloning.carry(
        engine, move.app, engine.project.apps[move.app], progress, reading=reading, stores=[move.store]
    )
    _require_free(engine, move)
    move = replace(move, phase=MovePhase.DROPPING)
    write_move(engine.state, move)
    return move, list(notes)


def drop(engine: Engine, move: PendingMove, progress: Progress) -> PendingMove:
    """Drops what the app has at the old place.

    Raises:
        ServerError: a server did not let it be done; the same again finishes.
    """
    there, app = origin(engine.project, move), destination(engine.project, move)
    _leave(engine, move, (there, app), progress)
    move = replace(move, phase=MovePhase.OPENING)
    write_move(engine.state, move)
    return move


def finish(engine: Engine, move: PendingMove) -> Report:
    """Turns the logins on; where something fails, the same again finishes. What is left is `end_move`, once the app's
    variables are written.

    Args:
        engine: of a project with the app where it is now.
    """
    return engine.apply(Scope(apps=frozenset({move.app})))


def abort(engine: Engine, reading: Engine, move: PendingMove, progress: Progress) -> Report:
    """Drops what the new place has, and turns the logins on at the old one. What is left is `end_move`.

    Args:
        engine, reading: as for `copy_over`.

    Raises:
        Refused: the new place has all of the data, or what the old one had is going, or is gone.
        MultidbError: it could not be done; the same again goes on.
    """
    if move.phase in (MovePhase.DROPPING, MovePhase.OPENING):
        raise Refused(
            "its new place has all of its data already, and the old one's is going",
            where=f"app {move.app}",
            hint=f"finish it: {move.command}; then let the manifest say what it said, and move it back",
        )
    if move.phase is not MovePhase.RETURNING:
        if not _at_origin(engine, move):
            raise Refused(
                "nothing of it is at its old place any more: what it has is at the new one",
                where=f"app {move.app}",
                hint=f"finish it: multidb move {move.app}",
            )
        move = replace(move, phase=MovePhase.ABORTING)
        write_move(engine.state, move)
        app = destination(engine.project, move)
        contexts = contexts_of(engine, app, [move.store], f"app {app.id}")
        for server, context in contexts.values():
            clear(engine.fleet, server, app, context)
        _leave(engine, move, (app, origin(engine.project, move)), progress)
        move = replace(move, phase=MovePhase.RETURNING)
        write_move(engine.state, move)
    return finish(reading, move)


def _scope(move: PendingMove) -> Scope:
    return Scope(frozenset({move.app}), frozenset({move.store}))


def _server(engine: Engine, move: PendingMove) -> Server:
    (server,) = engine.fleet.servers(_scope(move))
    return server


def _require_free(engine: Engine, move: PendingMove) -> None:
    if obstacles := survey(engine, move).obstacles:
        raise Refused("; ".join(obstacles), where=f"app {move.app}", hint=move.way_on)


def _leave(engine: Engine, move: PendingMove, places: tuple[App, App], progress: Progress) -> None:
    """Drops what the app has at the first place, and not at the second."""
    server = _server(engine, move)
    progress(server.name, f"dropping what {move.app} has at its {'new' if move.is_aborting else 'old'} place")
    with engine.fleet.locked(server) as session:
        assert isinstance(session, MovingSession)
        context = engine.fleet.context(server, session)
        for _round in range(_ROUNDS):
            left = session.leaving(*places, context)
            if not left:
                return
            for _ in session.run(left, engine.state.secrets):
                pass
        what = "; ".join(statement.text for statement in session.leaving(*places, context)[:3])
    if what:
        raise ServerError(
            f"something of {move.app} stays, whatever is dropped: {what}", where=str(server), hint="drop it by hand"
        )
