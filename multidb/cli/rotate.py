"""`multidb rotate`: new credentials for an app while it works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb.alternation import RotationPhase, alternations
from multidb.cli.admin_rotation import RotationOptions, Step, rotate_admins
from multidb.cli.env_files import write_env_files
from multidb.cli.options import AppOrAllArgument, Run, StoresOption, YesOption, ask, duration, examples, scope, with_run
from multidb.cli.output import Output
from multidb.closure import closures
from multidb.credentials import issued_at
from multidb.engine import Engine
from multidb.environment import environment
from multidb.errors import MultidbError, Refused, UsageError
from multidb.model import App, listed
from multidb.project import is_current
from multidb.rotation import Rotation, StoreUse, UnknownUse, uses_in_words

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(slots=True)
class _Done:
    """What came of it for one app."""

    app: str
    step: Step | None = None  # None: nothing was to be done
    rotation: Rotation | None = None
    both_work: bool = False  # its former credentials and those that it has now
    uses: dict[str, StoreUse] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    error: MultidbError | None = None


@app.command(
    epilog=examples(
        "multidb rotate lernmi",
        "multidb rotate lernmi --finish      (once the app has read the new ones)",
        "multidb rotate lernmi --now         (after a leak)",
        "multidb rotate --auto --after 1h    (what is due; for a timer)",
        "multidb rotate --older-than 90d",
        "multidb rotate --admin --store postgres      (its admin's password)",
    )
)
@with_run("rotate")
def rotate(
    run: Run,
    name: AppOrAllArgument = None,
    stores: StoresOption = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make new credentials; both work. Done where no step is named.")
    ] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Turn the old ones off; refused while in use.")] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Go back to the old ones; then --finish ends the new.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Both steps at once; sessions of the old ones are ended.")] = False,
    auto: Annotated[bool, typer.Option("--auto", help="The next step of each app for which it is time.")] = False,
    after: Annotated[
        str, typer.Option("--after", help="With --auto: how long both work at least, such as 30min or 1h.")
    ] = "1h",
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Only credentials of at least this age, such as 90d.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Finish also while the old ones are in use.")] = False,
    admin: Annotated[
        bool, typer.Option("--admin", help="Not apps' credentials, but the passwords of the servers' admins.")
    ] = False,
    yes: YesOption = False,
) -> int:
    """Give an app new credentials on its stores while it works: new ones beside the old, and later the old ones off.

    After the first step both work, and apps/NAME/.env has the new ones: restart or reload the app. Then --finish turns
    the old ones off, ends their sessions, and tries that they are refused. Interrupted anywhere, run it again.

    With --admin it is the password of each server's admin, or its api key, that is replaced: at once where the server
    takes another one while it runs, else in the same two steps. Apps keep their credentials and their sessions.
    """
    output = run.output
    chosen = {Step.PREPARE: prepare, Step.FINISH: finish, Step.ABORT: abort, Step.NOW: now, Step.AUTO: auto}
    steps = [step for step, is_chosen in chosen.items() if is_chosen]
    if len(steps) > 1:
        raise UsageError(f"--{steps[0]} and --{steps[1]} are two steps", hint="name one of them")
    in_scope = scope([name] if name else None, stores)
    asked = RotationOptions(
        steps[0] if steps else Step.PREPARE,
        in_scope.stores,
        force,
        duration(after),
        duration(older_than) if older_than else None,
    )
    if admin:
        return rotate_admins(run, asked, name, yes=yes)
    engine = run.engine(output)
    engine.fleet.require(in_scope)
    apps = [entry for entry in engine.project.apps.values() if in_scope.wants(entry)]
    _require_sense(asked, name)
    if not _agreed(output, asked, apps, yes=yes):
        output.note("Nothing was changed.")
        return 3
    done = []
    with output.working():
        for entry in apps:
            done.append(_rotated(run, output, engine, entry.id, asked))
            error = done[-1].error
            if error is not None and name is not None:
                raise error
    documents = [_document(engine, one) for one in done]
    output.document(not any(one.error for one in done), {"apps": documents, "servers": []})
    _show(output, done, asked.step)
    return next((one.error.exit_code for one in done if one.error is not None), 0)


def _require_sense(asked: RotationOptions, name: str | None) -> None:
    """`UsageError` where the options do not go together, or would rotate what nobody named."""
    if asked.force and asked.step not in (Step.FINISH, Step.ABORT, Step.AUTO):
        raise UsageError("--force is for a step that turns credentials off", hint="add --finish, --abort or --auto")
    if asked.older_than is not None and asked.step not in (Step.PREPARE, Step.NOW, Step.AUTO):
        raise UsageError(f"--older-than says nothing to --{asked.step}", hint="leave it out")
    if name is None and asked.step is not Step.AUTO and asked.older_than is None:
        raise UsageError(
            "this is for one app", hint="name it: multidb rotate NAME; or the age that is due: --older-than 90d"
        )


def _agreed(output: Output, asked: RotationOptions, apps: Sequence[App], *, yes: bool) -> bool:
    """Whether somebody said yes to what turns credentials off. A timer's step is asked of nobody."""
    if asked.step in (Step.PREPARE, Step.AUTO) or (asked.step is Step.ABORT and not asked.force):
        return True
    which = "new" if asked.step is Step.ABORT else "former"
    ended = " and end their sessions" if asked.force or asked.step is Step.NOW else ""
    stores = f" on {listed(sorted(asked.stores))}" if asked.stores else ""
    return ask(f"Turn off the {which} credentials of {listed([entry.id for entry in apps])}{stores}{ended}?", yes=yes)


def _rotated(run: Run, output: Output, engine: Engine, name: str, asked: RotationOptions) -> _Done:
    """One app's step. What is wrong with it is in the result."""
    done = _Done(name)
    try:
        with engine.state.lock_apps([name], f"multidb rotate {name}"):
            if not is_current(engine.project, engine.state):  # what was read before may hold no longer
                engine = run.engine(output)
            done.step = _step(engine, name, asked)
            if done.step is not None and not _is_due_where_it_rotates(engine, name, asked, done.step):
                done.step = None
            if done.step is not None:
                with run.recorded(engine.state, [name]) as record:
                    _take(engine, output, done, asked)
                    record.add(done.step.value, "credentials", name, name)
    except MultidbError as error:
        done.error = error
    return done


def _step(engine: Engine, name: str, asked: RotationOptions) -> Step | None:
    """What is to be done of the app now; None: nothing.

    Raises:
        Refused: the manifest says that it keeps its credentials.
    """
    entry, now = engine.fleet.app(name), datetime.now(UTC)
    known = alternations(engine.state)
    stores = [store for store in entry.stores if asked.stores is None or store in asked.stores]
    under_way = [known[name, store] for store in stores if (name, store) in known and known[name, store].under_way]
    if asked.step in (Step.FINISH, Step.ABORT):
        return asked.step if under_way else None
    if engine.project.never_rotates(entry) and asked.step is not Step.NOW:
        if asked.step is Step.AUTO or asked.older_than is not None:
            return None
        raise Refused(
            "the manifest says rotate: never",
            where=entry.where,
            hint=f"take that out; or, after a leak: multidb rotate {name} --now",
        )
    if asked.step is Step.AUTO and under_way:
        phases = {one.phase for one in under_way}
        making = RotationPhase.PREPARING in phases
        waiting = RotationPhase.FINISHING not in phases and any(now - one.since < asked.after for one in under_way)
        return Step.PREPARE if making else None if waiting else Step.FINISH
    return _due(engine, entry, stores, asked, now)


def _due(engine: Engine, entry: App, stores: Sequence[str], asked: RotationOptions, now: datetime) -> Step | None:
    """The step that begins a rotation, where one is due or nobody asks for an age."""
    begins = Step.NOW if asked.step is Step.NOW else Step.PREPARE
    oldest = asked.older_than
    if asked.step is Step.AUTO and oldest is None:
        oldest = engine.project.oldest(entry)
        if oldest is None:
            return None
    if oldest is None:
        return begins
    issued = [issued_at(engine.state, entry.id, store) for store in stores]
    # One whose age is not known is older than what has been recorded since.
    return begins if any(when is None or now - when >= oldest for when in issued) else None


def _is_due_where_it_rotates(engine: Engine, name: str, asked: RotationOptions, step: Step) -> bool:
    """Whether a step that an age begins is begun by a store whose credentials can be rotated at all: which those are,
    only the servers tell, so they are asked where something seems due."""
    entry, now = engine.fleet.app(name), datetime.now(UTC)
    known = alternations(engine.state)
    under_way = any(one.under_way for (app, _), one in known.items() if app == name)
    if step not in (Step.PREPARE, Step.NOW) or under_way or (asked.step is not Step.AUTO and asked.older_than is None):
        return True
    try:
        stores = Rotation(engine, name, asked.stores, lambda: False).stores
    except Refused:
        if asked.stores is not None or name in closures(engine.state):
            raise
        return False  # none of its stores has what could be rotated
    return _due(engine, entry, stores, asked, now) is not None


def _take(engine: Engine, output: Output, done: _Done, asked: RotationOptions) -> None:
    """Takes the step of `done`, and notes in it what came of it."""
    write = partial(_write, engine, output, done)
    rotation = done.rotation = Rotation(engine, done.app, asked.stores, write)
    match done.step:
        case Step.PREPARE:
            rotation.prepare()
            done.both_work = True
        case Step.NOW:
            rotation.prepare()
            done.uses = rotation.finish(force=True)
        case Step.ABORT:
            done.both_work = rotation.revert() and not asked.force
            if not done.both_work:
                done.uses = rotation.finish(force=True)
        case Step.FINISH:
            done.uses = rotation.finish(force=asked.force, after=asked.after)


def _write(engine: Engine, output: Output, done: _Done) -> bool:
    """Writes the app's variables where it reads them; whether anything of that was new."""
    environment(engine.fleet, done.app)  # here, what is wrong with it is no note
    written = write_env_files(engine.fleet, output, [done.app])
    done.written += [path for path in written if path not in done.written]
    return bool(written)


def _document(engine: Engine, done: _Done) -> dict[str, Any]:
    known = alternations(engine.state)
    entry = engine.project.apps[done.app]
    stores: dict[str, Any] = {}
    for store in entry.stores:
        issued, alternation = issued_at(engine.state, done.app, store), known.get((done.app, store))
        use = done.uses.get(store)
        sessions = None if use is None or isinstance(use, UnknownUse) else sum(one.sessions for one in use)
        stores[store] = {
            "phase": alternation.phase.value if alternation is not None else None,
            "since": alternation.since.isoformat(timespec="seconds") if alternation is not None else None,
            "issued_at": issued.isoformat(timespec="seconds") if issued is not None else None,
            "ended_sessions": sessions,
            "left_out": done.rotation.left_out.get(store) if done.rotation is not None else None,
        }
    return {
        "app": done.app,
        "step": done.step.value if done.step is not None else None,
        "stores": stores,
        "written": [str(path) for path in done.written],
        "error": done.error.document() if done.error is not None else None,
    }


def _show(output: Output, done: Sequence[_Done], step: Step) -> None:
    for one in done:
        for line, style in _lines(one):
            output.say(line, style=style)
    if not any(one.step is not None or one.error is not None for one in done):
        output.say("No rotation is under way." if step in (Step.FINISH, Step.ABORT) else "Nothing is due.")


def _lines(done: _Done) -> Iterator[tuple[str, str | None]]:
    """What there is to say of one app, each line with its style."""
    if done.error is not None:
        yield f"{done.app}: {done.error.sentence()}", "red"
        return
    if done.rotation is None:
        return
    stores = listed(list(done.rotation.stores), 9)
    if done.step is Step.PREPARE:
        yield f"{done.app} has new credentials on {stores}; the former ones work, too.", "green"
    elif done.both_work:
        yield f"{done.app} has its former credentials again on {stores}; the new ones work, too.", "green"
    else:
        yield f"{done.app}: its other credentials are off on {stores}; they were tried, and are refused.", "green"
    for store, why in done.rotation.left_out.items():
        yield f"  left as it is: {store}: {why}", "yellow"
    for store, use in done.uses.items():
        if use and not isinstance(use, UnknownUse):
            yield f"  ended: {uses_in_words(store, use)}", "yellow"
    env_file = f"apps/{done.app}/.env"
    if done.both_work:
        yield f"Next: let it read {env_file} (restart or reload it), then: multidb rotate {done.app} --finish", None
    elif done.step is Step.NOW:
        yield f"Next: let it read {env_file} (restart or reload it); until then it is refused.", None
