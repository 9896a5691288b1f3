"""`multidb rotate --admin`: new passwords for the admins of the servers that multidb runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from multidb.admin_credentials import AdminChange, AdminPhase, admin_changes
from multidb.admin_rotation import AdminRotation
from multidb.cli.env_files import write_env_files
from multidb.cli.options import Run, ask
from multidb.cli.output import Output
from multidb.cli.rotation_options import RotationOptions, Step
from multidb.engine import Engine
from multidb.environment import environment
from multidb.errors import MultidbError, UsageError
from multidb.model import listed

__all__ = ["rotate_admins"]


@dataclass(slots=True)
class _RotatedServer:
    """What came of it for one server."""

    server: str
    step: Step
    error: MultidbError | None = None


def rotate_admins(run: Run, asked: RotationOptions, app: str | None, *, yes: bool) -> int:
    """Replaces the passwords of servers' admins, as far as `asked` says and somebody agrees to.

    Args:
        app: an app that was named, which does not go together with it.

    Returns:
        The exit code.

    Raises:
        Refused: another run is at it; or as `AdminRotation`.
        ServerError: a server of these does not run or does not let multidb in; nothing was changed.
        UsageError: the options do not go together.
    """
    if app is not None:
        raise UsageError("--admin is about servers, and an app was named", hint="name a store: --admin --store STORE")
    if asked.force and asked.step is not Step.FINISH:
        raise UsageError("--force is for the step that ends a former key", hint="add --finish, or leave it out")
    output = run.output
    with run.engine(output).state.lock("admin-rotation", "multidb rotate --admin"):
        engine = run.engine(output)  # what was read before may hold no longer
        rotation = AdminRotation(engine, asked.stores, lambda apps: _write(engine, output, apps))
        steps = {name: step for name in rotation.servers if (step := _step(rotation, name, asked)) is not None}
        _show_plan(output, rotation, steps)
        if steps and asked.step is not Step.AUTO and not ask(_question(rotation, steps), yes=yes):
            output.note("Nothing was changed.")
            return 3
        done = []
        with output.working():
            for name, step in steps.items():
                done.append(_take(run, engine, rotation, name, step, force=asked.force))
    documents = [_document(engine, rotation, one) for one in done]
    left = [_left_out(name, why) for name, why in rotation.left_out.items()]
    output.document(
        not any(one.error for one in done), {"apps": [], "servers": [*documents, *left], "certificates": []}
    )
    for line, style in _lines(rotation, done, admin_changes(engine.state)):
        output.say(line, style=style)
    return next((one.error.exit_code for one in done if one.error is not None), 0)


def _step(rotation: AdminRotation, name: str, asked: RotationOptions) -> Step | None:
    """What is to be done of one server; None: nothing. Where one step is enough, both are done at once."""
    step = _next(rotation.change(name), asked)
    return Step.NOW if step is Step.PREPARE and not rotation.in_two_steps(name) else step


def _next(change: AdminChange | None, asked: RotationOptions) -> Step | None:
    """The step that follows what is recorded."""
    now, under_way = datetime.now(UTC), change is not None and change.under_way
    if asked.step in (Step.FINISH, Step.ABORT):
        return asked.step if under_way else None
    assert change is not None or not under_way
    if under_way and change is not None:
        begun = change.phase in (AdminPhase.CHANGING, AdminPhase.REVERTING)
        if asked.step is not Step.AUTO:
            return asked.step if begun or asked.step is Step.NOW else Step.FINISH
        waits = change.phase is AdminPhase.CHANGED and now - change.since < asked.after
        return Step.PREPARE if begun else None if waits else Step.FINISH
    if asked.older_than is None:
        return None if asked.step is Step.AUTO else asked.step
    # One whose age is not known is older than what has been recorded since.
    due = change is None or now - change.since >= asked.older_than
    return (Step.NOW if asked.step is Step.NOW else Step.PREPARE) if due else None


def _question(rotation: AdminRotation, steps: dict[str, Step]) -> str:
    restarted = [name for name, step in steps.items() if _restarts(rotation, name, step)]
    cut_off = f" and start {listed(restarted)} anew" if restarted else ""
    return f"Replace the admin's password on {listed(list(steps))}{cut_off}?"


def _restarts(rotation: AdminRotation, name: str, step: Step) -> bool:
    finishing = step in (Step.FINISH, Step.NOW)
    return (step is not Step.FINISH and rotation.restarts(name, finishing=False)) or (
        finishing and rotation.restarts(name, finishing=True)
    )


def _show_plan(output: Output, rotation: AdminRotation, steps: dict[str, Step]) -> None:
    for name, step in steps.items():
        output.note(f"{name}: {_planned(step)}")
        for statement in rotation.statements(name) if step in (Step.PREPARE, Step.NOW) else ():
            output.note(f"  {statement.text}")
        if _restarts(rotation, name, step):
            output.note("  the server is started anew: whoever is connected is cut off for a moment", style="yellow")


def _planned(step: Step) -> str:
    match step:
        case Step.FINISH:
            return "the former password is ended, and tried"
        case Step.ABORT:
            return "back to the former password"
    return "a new password for its admin, tried before the former one is ended"


def _take(run: Run, engine: Engine, rotation: AdminRotation, name: str, step: Step, *, force: bool) -> _RotatedServer:
    """One server's step. What is wrong with it is in the result, and costs no other server its own."""
    done = _RotatedServer(name, step)
    try:
        with run.recorded(engine.state, ()) as record:
            match step:
                case Step.FINISH:
                    rotation.finish(name, force=force)
                case Step.ABORT:
                    rotation.revert(name)
                case _:
                    rotation.take(name)
                    if step is Step.NOW:
                        rotation.finish(name, force=True)
            record.add(step.value, "admin password", f"of server {name}")
    except MultidbError as error:
        done.error = error
    return done


def _write(engine: Engine, output: Output, apps: Sequence[str]) -> bool:
    """Writes the apps' variables where they read them; whether anything of that was new."""
    for app in apps:
        environment(engine.fleet, app)  # here, what is wrong with it is no note
    return bool(write_env_files(engine.fleet, output, apps))


def _document(engine: Engine, rotation: AdminRotation, done: _RotatedServer) -> dict[str, Any]:
    change = admin_changes(engine.state).get(done.server)
    return {
        "server": done.server,
        "step": done.step.value,
        "phase": change.phase.value if change is not None else None,
        "since": change.since.isoformat(timespec="seconds") if change is not None else None,
        "restarted": done.error is None and _restarts(rotation, done.server, done.step),
        "left_out": None,
        "error": done.error.document() if done.error is not None else None,
    }


def _left_out(name: str, why: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("step", "phase", "since", "error"))
    return {"server": name, **nothing, "restarted": False, "left_out": why}


def _lines(
    rotation: AdminRotation, done: Sequence[_RotatedServer], changes: dict[str, AdminChange]
) -> Iterator[tuple[str, str | None]]:
    """What there is to say of it, each line with its style."""
    for one in done:
        change = changes.get(one.server)
        if one.error is not None:
            yield f"{one.server}: {one.error.sentence()}", "red"
        elif one.step is Step.ABORT:
            yield f"{one.server}: its admin has the password of before; the other one is refused.", "green"
        elif change is not None and change.under_way:
            yield f"{one.server}: its admin has a new password; the former one is taken, too.", "green"
            yield f"Next: multidb rotate --admin --store {change.store} --finish, which starts it anew.", None
        else:
            yield f"{one.server}: its admin has a new password; the former one was tried, and is refused.", "green"
    for name, why in rotation.left_out.items():
        yield f"left as it is: {name}: {why}", "yellow"
    if not done:
        yield "Nothing is to be done.", None
