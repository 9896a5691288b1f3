"""`multidb rotate`: new credentials for an app while it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb.alternation import RotationPhase, alternations
from multidb.cli.env_files import by_hand, write_variables
from multidb.cli.options import AppOrAllArgument, Run, StoresOption, YesOption, ask, duration, examples, scope, with_run
from multidb.cli.output import Output
from multidb.cli.rotation_options import RotationOptions, Step
from multidb.credentials import CredentialAge, credential_ages
from multidb.engine import Engine
from multidb.errors import MultidbError, Refused, UsageError
from multidb.model import App, listed
from multidb.project import is_current
from multidb.rotation import Rotation
from multidb.rotation_state import StoreUse, UnknownUse, uses_in_words

app = typer.Typer(rich_markup_mode=None, add_completion=False)


Ages = Mapping[tuple[str, str], CredentialAge]
"""By app and store."""


@dataclass(slots=True)
class _Done:
    """What came of it for one app."""

    app: str
    step: Step | None = None  # None: nothing was to be done
    stores: Sequence[str] = ()  # those whose credentials are rotated
    left_out: Mapping[str, str] = field(default_factory=dict)  # by store, why not
    both_work: bool = False  # its former credentials and those that it has now
    uses: Mapping[str, StoreUse] = field(default_factory=dict)
    written: Path | None = None  # its env file, where that is new
    by_hand: bool = False  # a person writes that
    error: MultidbError | None = None


@app.command(
    epilog=examples(
        "multidb rotate lernmi",
        "multidb rotate lernmi --finish      (once the app has read the new ones)",
        "multidb rotate lernmi --now         (after a leak)",
        "multidb rotate --auto --after 1h    (what is due; for a timer)",
        "multidb rotate --older-than 90d",
        "multidb rotate --admin --store postgres      (its admin's password)",
        "multidb rotate --certificates      (of servers in containers, with tls: own)",
    )
)
@with_run("rotate")
def rotate(  # noqa: PLR0913 (an option is an argument)
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
    certificates: Annotated[
        bool, typer.Option("--certificates", help="The certificates of servers in containers, with deploy: {tls: own}.")
    ] = False,
    authority: Annotated[
        bool, typer.Option("--authority", help="With --certificates: another authority, too; after a leak of its key.")
    ] = False,
    yes: YesOption = False,
) -> int:
    """Give an app new credentials on its stores while it works: new ones beside the old, and later the old ones off.

    After the first step both work, and apps/NAME/.env has the new ones: restart or reload the app. Then --finish turns
    the old ones off, ends their sessions, and tries that they are refused. Interrupted anywhere, run it again.

    With --admin it is the password of each server's admin, or its api key, that is replaced: at once where the server
    takes another one while it runs, else in the same two steps. Apps keep their credentials and their sessions.

    With --certificates the servers in containers get new ones now, which `multidb up` makes by itself when they are
    due. Those that can take one while they run refuse nobody; the others are started anew.
    """
    output = run.output
    chosen = {Step.PREPARE: prepare, Step.FINISH: finish, Step.ABORT: abort, Step.NOW: now, Step.AUTO: auto}
    steps = [step for step, is_chosen in chosen.items() if is_chosen]
    if len(steps) > 1:
        raise UsageError(f"--{steps[0]} and --{steps[1]} are two steps", hint="name one of them")
    in_scope = scope([name] if name else None, stores)
    if certificates or authority:
        from multidb.cli.certificate_rotation import rotate_certificates

        _require_alone(authority=authority, certificates=certificates, others=admin or force or bool(steps or name))
        return rotate_certificates(run, in_scope.stores, authority=authority, yes=yes)
    asked = RotationOptions(
        steps[0] if steps else Step.PREPARE,
        in_scope.stores,
        force,
        duration(after),
        duration(older_than) if older_than else None,
    )
    if admin:
        from multidb.cli.admin_rotation import rotate_admins  # most runs are of apps, and go without it

        return rotate_admins(run, asked, name, yes=yes)
    engine = run.engine(output)
    _require_entry(engine, name)
    engine.fleet.require(in_scope)
    apps = [entry for entry in engine.project.apps.values() if in_scope.wants(entry)]
    _require_sense(asked, name)
    named = name is not None
    foreign = by_hand(engine.fleet, [entry.id for entry in apps]) if _is_asked_of_all(asked, named=named) else []
    for app_id in foreign:
        output.note(_left_alone(app_id), style="yellow")
    if not _agreed(asked, apps, foreign, yes=yes):
        output.note("Nothing was changed.")
        return 3
    with output.working():
        done = _rotated(run, output, engine, [entry.id for entry in apps], asked, yes=yes)
    if name is not None and done[0].error is not None:
        raise done[0].error
    ages = credential_ages(engine.state, apps)
    documents = [_document(engine, one, ages) for one in done]
    output.document(not any(one.error for one in done), {"apps": documents, "servers": [], "certificates": []})
    _show(output, done, asked.step)
    return next((one.error.exit_code for one in done if one.error is not None), 0)


def _require_entry(engine: Engine, name: str | None) -> None:
    """`UsageError` where a rotation is under way of an app that the manifest has no more, and never had removed."""
    project = engine.project
    half = {app for (app, _), entry in alternations(engine.state).items() if entry.under_way}
    if name in half - project.apps.keys() - project.removed.keys():
        raise UsageError(
            f"app {name} is not in the manifest any more, and both of its credentials work",
            where=project.file,
            hint=f"put its entry back, then finish it: multidb rotate {name} --finish; or turn both off: multidb "
            f"remove-app {name}",
        )


def _require_alone(*, authority: bool, certificates: bool, others: bool) -> None:
    """`UsageError` where the options for certificates do not go together with the others."""
    if not certificates:
        raise UsageError("--authority is of certificates", hint="multidb rotate --certificates --authority")
    if others:
        raise UsageError(
            "--certificates is about servers, and is one step",
            hint="name a store at most: --certificates --store STORE",
        )


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


def _is_asked_of_all(asked: RotationOptions, *, named: bool) -> bool:
    """Whether somebody is asked, and not each app looked at by itself, as a timer's run does."""
    return named or asked.step not in (Step.AUTO, Step.PREPARE)


def _left_alone(app_id: str) -> str:
    return (
        f"apps/{app_id}/.env: multidb did not write it and leaves it alone, so new credentials get there by hand only "
        f"(multidb env {app_id})"
    )


def _agreed(asked: RotationOptions, apps: Sequence[App], foreign: Sequence[str], *, yes: bool) -> bool:
    """Whether somebody said yes to what turns credentials off, or leaves an env file as it is. A timer's step is asked
    of nobody."""
    if asked.step is Step.PREPARE and foreign:
        return ask(f"Make new credentials of {listed(foreign)}, which nobody finds in that file?", yes=yes)
    if asked.step in (Step.PREPARE, Step.AUTO) or (asked.step is Step.ABORT and not asked.force):
        return True
    which = "new" if asked.step is Step.ABORT else "former"
    ended = " and end their sessions" if asked.force or asked.step is Step.NOW else ""
    stores = f" on {listed(sorted(asked.stores))}" if asked.stores else ""
    return ask(f"Turn off the {which} credentials of {listed([entry.id for entry in apps])}{stores}{ended}?", yes=yes)


def _rotated(
    run: Run, output: Output, engine: Engine, names: Sequence[str], asked: RotationOptions, *, yes: bool
) -> list[_Done]:
    """The step of each app, taken for all together. What is wrong with one is in its result."""
    results = {name: _Done(name) for name in names}
    with ExitStack() as locks:
        for name, done in results.items():
            with _noted(done):
                locks.enter_context(engine.state.lock_apps([name], f"multidb rotate {name}"))
        if not is_current(engine.project, engine.state):  # what was read before may hold no longer
            engine = run.engine(output)
        locks.enter_context(engine.fleet.keeping_open())
        rotation = _decide(engine, output, results, asked, yes=yes)
        taken = [name for name, done in results.items() if done.step is not None and done.error is None]
        if taken:
            with run.recorded(engine.state, taken) as record:
                for step in dict.fromkeys(results[name].step for name in taken):
                    _take(rotation, step, {name: results[name] for name in taken if results[name].step is step}, asked)
                for name in taken:
                    done = results[name]
                    done.error = rotation.errors.get(name)
                    if done.error is None and done.step is not None:
                        record.add(done.step.value, "credentials", name, name)
                record.error = next((done.error for done in results.values() if done.error is not None), None)
    return list(results.values())


@contextmanager
def _noted(done: _Done) -> Iterator[None]:
    """What goes wrong in the block is this app's."""
    try:
        yield
    except MultidbError as error:
        done.error = error


def _decide(
    engine: Engine, output: Output, results: Mapping[str, _Done], asked: RotationOptions, *, yes: bool
) -> Rotation:
    """Notes what is to be done of each app, and gives the rotation that does it. Where an age decides, it has to be
    that of credentials which can be rotated at all: which those are, only the servers tell, so they are asked where
    something seems due."""
    apps = engine.project.apps.values()
    ages, now = credential_ages(engine.state, [app for app in apps if app.id in results]), datetime.now(UTC)
    for done in results.values():
        if done.error is None:
            with _noted(done):
                done.step = _step(engine, done.app, asked, ages, now)
    due = [done for done in results.values() if done.step is not None]
    rotation = Rotation(engine, [done.app for done in due], asked.stores, partial(_write, engine, output, results))
    foreign = [] if yes or _is_asked_of_all(asked, named=len(results) == 1) else by_hand(engine.fleet, results)
    for done in due:
        done.left_out, done.stores = rotation.left_out.get(done.app, {}), rotation.stores_of(done.app)
        under_way = any(age.is_under_way for (app, _), age in ages.items() if app == done.app)
        by_age = asked.step is Step.AUTO or asked.older_than is not None
        if done.step in (Step.PREPARE, Step.NOW) and not under_way and by_age:
            entry = engine.fleet.app(done.app)
            unable = done.app in rotation.unable and asked.stores is None
            able = done.app not in rotation.errors
            if unable or (able and _due(entry, engine.project.oldest(entry), done.stores, asked, ages, now) is None):
                done.step = None
                continue
        done.error = rotation.errors.get(done.app)
        if done.error is None and done.app in foreign:
            done.error = Refused(
                "multidb did not write its env file and leaves it alone, so nobody would give it the new credentials",
                where=f"apps/{done.app}/.env",
                hint=f"rotate it by hand: multidb rotate {done.app}; or move the file away, then: multidb apply",
            )
    return rotation


def _step(engine: Engine, name: str, asked: RotationOptions, ages: Ages, now: datetime) -> Step | None:
    """What is to be done of the app now; None: nothing.

    Raises:
        Refused: the manifest says that it keeps its credentials.
    """
    entry = engine.fleet.app(name)
    stores = [store for store in entry.stores if asked.stores is None or store in asked.stores]
    entries = [one for store in stores if (one := ages[name, store].alternation) is not None]
    under_way = [one for one in entries if one.under_way]
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
    return _due(entry, engine.project.oldest(entry), stores, asked, ages, now)


def _due(
    entry: App, every: timedelta | None, stores: Sequence[str], asked: RotationOptions, ages: Ages, now: datetime
) -> Step | None:
    """The step that begins a rotation, where one is due or nobody asks for an age."""
    begins = Step.NOW if asked.step is Step.NOW else Step.PREPARE
    oldest = asked.older_than
    if asked.step is Step.AUTO and oldest is None:
        oldest = every
        if oldest is None:
            return None
    if oldest is None:
        return begins
    issued = [ages[entry.id, store].issued for store in stores]
    # One whose age is not known is older than what has been recorded since.
    return begins if any(when is None or now - when >= oldest for when in issued) else None


def _take(rotation: Rotation, step: Step | None, results: Mapping[str, _Done], asked: RotationOptions) -> None:
    """Takes a step of these apps, and notes what came of it."""
    uses: Mapping[str, Mapping[str, StoreUse]] = {}
    match step:
        case Step.PREPARE:
            rotation.prepare(results)
            both_work = frozenset(results)
        case Step.NOW:
            rotation.prepare(results)
            both_work, uses = frozenset(), rotation.finish(results, force=True)
        case Step.ABORT:
            given_out = rotation.revert(results)
            both_work = frozenset() if asked.force else given_out
            uses = rotation.finish([app for app in results if app not in both_work], force=True)
        case _:
            both_work, uses = frozenset(), rotation.finish(results, force=asked.force, after=asked.after)
    for app, done in results.items():
        done.both_work, done.uses = app in both_work, uses.get(app, {})


def _write(
    engine: Engine, output: Output, results: Mapping[str, _Done], apps: Sequence[str]
) -> dict[str, bool | MultidbError]:
    """Writes apps' variables where they read them; by app whether any of that was new."""
    outcomes = write_variables(engine.fleet, output, apps)
    for app, outcome in outcomes.items():
        if isinstance(outcome, Path):
            results[app].written = outcome
    for app in by_hand(engine.fleet, apps):
        results[app].by_hand = True
    return {app: one if isinstance(one, MultidbError) else one is not None for app, one in outcomes.items()}


def _document(engine: Engine, done: _Done, ages: Ages) -> dict[str, Any]:
    stores: dict[str, Any] = {}
    for store in engine.project.apps[done.app].stores:
        issued, alternation = ages[done.app, store].issued, ages[done.app, store].alternation
        use = done.uses.get(store)
        sessions = None if use is None or isinstance(use, UnknownUse) else sum(one.sessions for one in use)
        stores[store] = {
            "phase": alternation.phase.value if alternation is not None else None,
            "since": alternation.since.isoformat(timespec="seconds") if alternation is not None else None,
            "issued_at": issued.isoformat(timespec="seconds") if issued is not None else None,
            "ended_sessions": sessions,
            "left_out": done.left_out.get(store),
        }
    return {
        "app": done.app,
        "step": done.step.value if done.step is not None else None,
        "stores": stores,
        "written": [str(done.written)] if done.written is not None else [],
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
    if done.step is None:
        return
    stores = listed(list(done.stores), 9)
    if done.step is Step.PREPARE:
        yield f"{done.app} has new credentials on {stores}; the former ones work, too.", "green"
    elif done.both_work:
        yield f"{done.app} has its former credentials again on {stores}; the new ones work, too.", "green"
    else:
        yield f"{done.app}: its other credentials are off on {stores}; they were tried, and are refused.", "green"
    for store, why in done.left_out.items():
        yield f"  left as it is: {store}: {why}", "yellow"
    for store, use in done.uses.items():
        if use and not isinstance(use, UnknownUse):
            yield f"  ended: {uses_in_words(store, use)}", "yellow"
    read = f"let it read apps/{done.app}/.env"
    if done.by_hand:
        read = (
            f"give it by hand what multidb env {done.app} prints (multidb did not write its env file), let it read that"
        )
    if done.both_work:
        yield f"Next: {read} (restart or reload it), then: multidb rotate {done.app} --finish", None
    elif done.step is Step.NOW:
        yield f"Next: {read} (restart or reload it); until then it is refused.", None
