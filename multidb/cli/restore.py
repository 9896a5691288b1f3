"""`multidb restore`: a set brought back, into its app or into another."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer

from multidb.backup.app_files.own import beside, make_own
from multidb.backup.cloning import entry_for, shared_options
from multidb.backup.continuous.kept import KEPT, discard_copy, kept_copy
from multidb.backup.continuous.moments import FOLDER as MOMENTS
from multidb.backup.continuous.moments import (
    KeepCopy,
    Nearest,
    archived_place,
    moment_of,
    nearest_sets,
    set_of_moment,
)
from multidb.backup.continuous.origins import foreign_address
from multidb.backup.creation import repository
from multidb.backup.encryption import Identities, identities
from multidb.backup.exchanging import naming_the_way_on
from multidb.backup.journal import exclusively
from multidb.backup.repository import Copy
from multidb.backup.restoring import Restored, SetSource, require_parts, restore_tables
from multidb.backup.restoring import restore as bring_back
from multidb.backup.set_ids import made_at
from multidb.backup.sets import FILES, BackupSet, declaration
from multidb.cli.entries import draft_entry, write_draft
from multidb.cli.env_files import write_env_files
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.options import IdentityOption, PartsOption, Run, SetArgument, examples, scope_of_sets, with_run
from multidb.cli.output import Output
from multidb.cli.plan_view import report_document, show_report
from multidb.closure import Closure, close, closures, is_restoring
from multidb.engine import Engine
from multidb.errors import ArchiveError, PartlyApplied, Refused, ServerError, UsageError
from multidb.fleet import Scope
from multidb.manifest import app_id
from multidb.mentions import mentions
from multidb.model import Project, Server, listed, moment_in_words
from multidb.orphans import orphans
from multidb.plan import conflict_error
from multidb.provisioners import known_stores, provisioner
from multidb.report import Report

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_MOST = 5  # things that a sentence names


@app.command(
    epilog=examples(
        "multidb restore lernmi --replace                       (its newest set, into lernmi)",
        "multidb restore 20261121T140501Z-1a2b3c --replace",
        "multidb restore lernmi --as lernmi_old                 (beside it, as an app of its own)",
        "multidb restore lernmi --store postgres --replace",
        "multidb restore lernmi --store files --replace         (its files alone)",
        "multidb restore lernmi --at '2026-11-28 10:31' --replace    (as it was then, in UTC)",
        "multidb restore lernmi --at '2026-11-28 10:31+02:00' --as lernmi_then --keep-copy",
        "multidb restore lernmi --until '2026-11-28 10:40+02:00' --as lernmi_then --replace",
        "multidb restore lernmi --at '2026-11-28 10:31' --from barman:/var/lib/barman/main --replace",
        "multidb restore lernmi --table orders --table 'shop.\"Odd name\"' --replace",
    )
)
@with_run("restore", verbose=True)
def restore(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    name: SetArgument,
    of: Annotated[str | None, typer.Option("--app", help="Only among the sets of this app.", metavar="NAME")] = None,
    as_other: Annotated[
        str | None, typer.Option("--as", help="Into another app, which is added if it is not there.", metavar="OTHER")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="As of this moment, out of the archive of its server; in UTC.", metavar="MOMENT"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", help="As of this later moment, from the copy that --keep-copy kept.", metavar="MOMENT"),
    ] = None,
    keep_copy: Annotated[
        bool | None,
        typer.Option(
            "--keep-copy/--no-keep-copy",
            help="Keep the copy of the server for --until (which keeps it, too).",
        ),
    ] = None,
    stores: PartsOption = None,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", help="Only this table of Postgres; may be repeated.", metavar="[SCHEMA.]TABLE"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="What the app has now may go.")] = False,
    safety_set: Annotated[
        bool, typer.Option("--safety-set/--no-safety-set", help="Make a set of what the app has now first.")
    ] = True,
    targets: Annotated[
        list[str] | None,
        typer.Option("--from", help="Only sets on this target; with --at, also barman:FOLDER.", metavar="TARGET"),
    ] = None,
    identity: IdentityOption = None,
) -> int:
    """Bring a set back. All of it is loaded beside the app's data and compared before anything of it is replaced.

    Until then the app is as it was; an app that has data is refused without --replace. Owners, grants and logins are
    made anew from the manifest; files get the owner of their folder. Interrupted anywhere, the next run of a backup
    command undoes or finishes it. The app's logins are off while its data is exchanged, and until that is finished.

    With --table the tables go into the app's own database in one transaction, with their rows, indexes, constraints,
    triggers and sequences; the app waits for them meanwhile. Foreign keys of other tables that refer to them are kept
    and verified; views of them are refused.

    With --at, SET is an app. Its server is brought up aside as of that moment, from what backup.<store>.continuous has
    archived, and the app is read out of it; stores without such an archive are left as they are, and their nearest set
    is named. A moment without a zone is in UTC.

    To look at several moments, the earliest first: --at with --keep-copy keeps the copy for a day, and --until rolls it
    on to a later one, without reading the base backup again.

    With --from barman:FOLDER the moment comes out of what Barman has archived of the server (its folder has base and
    wals in it), which nobody has signed: what lies there is trusted.
    """
    output = run.output
    engine = run.engine(output)
    scope_of_sets(None, stores)
    if tables:
        _require_tables(stores, as_other)
    keys = identities(identity, os.environ)
    if at is None and until is None and keep_copy is not None:
        raise UsageError("--keep-copy is of a copy as of a moment", hint="multidb restore APP --at MOMENT --keep-copy")
    if at is not None or until is not None:
        moment = _Moment.of(at, until, keep_copy)
        chosen = _at(run, engine, name, moment, as_other, keys, stores, tables, targets, replace, safety_set)
        with output.working():
            engine, done = _brought_back(run, engine, chosen)
        return _show(engine, output, chosen, done)
    if (foreign := foreign_address(targets)) is not None:
        raise UsageError(
            f"{foreign} has moments and no sets", where="--from", hint=f"multidb restore {name} --at MOMENT"
        )
    copy = repository(engine.fleet, targets).find(name if of is None or of == name else f"{app_id(of)}/{name}")
    if copy.backup_set is None:
        raise ArchiveError(copy.problem, where=copy.where, hint="take another set")
    into = app_id(as_other) if as_other else copy.owner
    if into not in engine.project.apps and as_other is None:
        raise UsageError(
            f"app {into} is not in the manifest",
            where=str(run.file),
            hint=f"bring it back: multidb undo-remove {into}, multidb add-app {into}; or restore it --as OTHER",
        )
    chosen = _Chosen(
        into, keys, stores, tables, targets, replace, safety_set, copy.owner, copy.backup_set.declaration, copy
    )
    with output.working():
        engine, done = _brought_back(run, engine, chosen)
    return _show(engine, output, chosen, done)


@dataclass(frozen=True, slots=True)
class _Moment:
    """The moment that was asked for.

    Args:
        copy: what becomes of the copy of the server.
        discard: the copy that was kept goes at the end.
    """

    when: datetime
    copy: KeepCopy
    discard: bool = False

    @classmethod
    def of(cls, at: str | None, until: str | None, keep: bool | None) -> _Moment:
        """`UsageError` where both are given."""
        if at is not None and until is not None:
            raise UsageError(
                "--at and --until are two moments", hint="first --at MOMENT --keep-copy, then --until LATER"
            )
        if until is not None:
            return cls(moment_of(until, "--until"), KeepCopy.GO_ON, keep is False)
        assert at is not None
        return cls(moment_of(at), KeepCopy.YES if keep else KeepCopy.NO)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is brought back, and into which app; the rest is as for the command.

    Args:
        owner: the app whose data it is.
        declaration: the entry of the manifest that goes with it.
        copy: the set; None: it is made of `moment` first.
        nearest: what there is of the stores that no moment can be had of.
    """

    into: str
    keys: Identities | None
    stores: Sequence[str] | None
    tables: Sequence[str] | None
    targets: Sequence[str] | None
    replace: bool
    safety_set: bool
    owner: str
    declaration: Mapping[str, Any]
    copy: Copy | None
    moment: _Moment | None = None
    nearest: Sequence[Nearest] = ()


def _at(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    engine: Engine,
    name: str,
    at: _Moment,
    as_other: str | None,
    keys: Identities | None,
    stores: Sequence[str] | None,
    tables: Sequence[str] | None,
    targets: Sequence[str] | None,
    replace: bool,
    safety_set: bool,
) -> _Chosen:
    app = engine.fleet.app(app_id(name))
    with run.output.working():
        nearest = nearest_sets(engine, app, at.when, targets) if stores is None and not tables else []
    into = app_id(as_other) if as_other else app.id
    return _Chosen(
        into, keys, stores, tables, targets, replace, safety_set, app.id, declaration(app), None, at, nearest
    )


def _stores_with_tables() -> list[str]:
    return [store for store in known_stores() if provisioner(store).tables]


def _require_tables(stores: Sequence[str] | None, as_other: str | None) -> None:
    """`UsageError` where single tables are asked for and these options go to where there are none."""
    with_tables = _stores_with_tables()
    if as_other or not {*with_tables}.issuperset(stores or ()):
        titles = " or ".join(provisioner(store).title for store in with_tables)
        raise UsageError(f"--table goes into the app's own {titles}", hint="leave out --as and --store")


def _holding_tables(chosen: _Chosen, backup_set: BackupSet) -> str:
    """The one of the stores whose tables are in the set; the first where it has none of them, to be told so."""
    stores = chosen.stores or _stores_with_tables()
    return next((store for store in stores if store in backup_set.parts), stores[0])


def _brought_back(run: Run, engine: Engine, chosen: _Chosen) -> tuple[Engine, Restored]:
    """Brings the set back, into an app that is made for it where there is none. Gives the engine that has that app."""
    output, into, declared = run.output, chosen.into, chosen.declaration
    with ExitStack() as stack:
        progress = stack.enter_context(exclusively(engine.state, "restore", output.progress))
        known = into in engine.project.apps
        begun = is_restoring(engine.state, into)  # what it has then is of a restore that nobody has seen yet
        if known:
            engine.fleet.start(into)
        finish_interrupted(engine, chosen.keys, output)
        copy, targets = chosen.copy, chosen.targets
        if copy is None:
            assert chosen.moment is not None
            app = engine.fleet.app(chosen.owner)
            making = set_of_moment(
                engine,
                app,
                chosen.moment.when,
                targets=targets,
                keys=chosen.keys,
                progress=progress,
                copy=chosen.moment.copy,
            )
            copy, targets = stack.enter_context(making), [MOMENTS]
        assert copy.backup_set is not None
        stack.enter_context(engine.state.lock_apps([into], f"multidb restore of {into}"))
        record = stack.enter_context(run.recorded(engine.state, [into]))
        require_parts(copy.backup_set, chosen.stores)
        project, closing = None, Closure(into, chosen.owner, False, restore=_again(chosen, copy))
        if not known:
            entry = {**entry_for(declared, into), **beside(declared, into)}
            project, added = ensure_copy(run, engine, output, entry, closing)
            if added:
                tell_unshared(output, chosen.owner, into, declared)
        elif begun:
            close(engine.state, closing)
        engine = run.engine(output, project)
        engine.fleet.require(Scope(apps=frozenset({into})))
        record.applied(ready(engine, into, chosen.stores if known else None))
        source = SetSource(repository(engine.fleet, targets), copy, chosen.keys)
        bringing = (
            partial(restore_tables, engine, source, _holding_tables(chosen, copy.backup_set), chosen.tables)
            if chosen.tables
            else partial(bring_back, engine, source, into, stores=chosen.stores)
        )
        done = bringing(replace=chosen.replace or begun, safety=chosen.safety_set and not begun, progress=progress)
        assert done.report is not None
        if chosen.moment is not None and chosen.moment.discard:
            discard_copy(engine, _server(engine, chosen))
        for what in done.tables or [*done.stores, *([FILES] if done.files else [])]:
            record.add("replace", "table" if done.tables else "data", f"{what} as of set {done.set_id}", into)
        record.applied(done.report)
    return engine, done


def _again(chosen: _Chosen, copy: Copy) -> str:
    """The command that brings the same into the same app."""
    what = [copy.id]
    if (moment := chosen.moment) is not None:
        option = "--until" if moment.copy is KeepCopy.GO_ON else "--at"
        what = [chosen.owner, option, moment.when.isoformat()]
    targets = [word for target in chosen.targets or () for word in ("--from", target)]
    stores = [word for store in chosen.stores or () for word in ("--store", store)]
    return shlex.join(["multidb", "restore", *what, "--as", chosen.into, *targets, *stores])


def _show(engine: Engine, output: Output, chosen: _Chosen, done: Restored) -> int:
    """Writes the app's env file, looks whether its walls are whole, and says what came of it. Gives the exit code."""
    assert done.report is not None
    code = show_report(output, done.report)
    written = write_env_files(engine.fleet, output, [done.app])
    openings = audited(engine, done.app, output)
    was = chosen.copy.backup_set.declaration if chosen.copy is not None and chosen.copy.backup_set is not None else {}
    named = mentions_of_copy(engine, done.app, chosen.owner, was, done.stores if not done.tables else (), output)
    kept = _kept_until(engine, chosen)
    document = {
        "app": done.app,
        "set": done.set_id,
        "stores": list(done.stores),
        "tables": list(done.tables),
        "files": list(done.files),
        "safety_set": done.safety.id if done.safety else None,
        "notes": list(done.notes),
        "mentions": named,
        "at": chosen.moment.when.isoformat() if chosen.moment is not None else None,
        "kept_until": kept.isoformat() if kept is not None else None,
        "nearest": [_nearest_document(nearest) for nearest in chosen.nearest],
        **report_document(done.report),
        "written": [str(path) for path in written],
        **openings.document(),
    }
    output.document(code == 0 and not openings.own, document)
    made = moment_in_words(chosen.moment.when if chosen.moment is not None else made_at(done.set_id))
    brought = done.tables or [*done.stores, *done.files]
    output.say(f"{done.app}: {', '.join(brought)} as of {made}.", style="green")
    for note in (*done.notes, *map(str, chosen.nearest)):
        output.note(note)
    if kept is not None:
        output.note(
            f"The copy of its server is kept until {moment_in_words(kept)}, to be rolled on: multidb restore "
            f"{chosen.owner} --until MOMENT; multidb backups prune removes it."
        )
    if done.safety:
        output.say(f"What it had before is in set {done.safety.id}.")
    return code or (1 if openings.own else 0)


def _server(engine: Engine, chosen: _Chosen) -> Server:
    """The one that a copy was brought up of."""
    return archived_place(engine, engine.fleet.app(chosen.owner), foreign_address(chosen.targets))[0]


def _kept_until(engine: Engine, chosen: _Chosen) -> datetime | None:
    if chosen.moment is None or chosen.moment.copy is KeepCopy.NO or chosen.moment.discard:
        return None
    kept = kept_copy(engine.state, _server(engine, chosen))
    return kept.since + KEPT if kept is not None else None


def _nearest_document(nearest: Nearest) -> dict[str, Any]:
    return {
        "store": nearest.store,
        "set": nearest.copy.id if nearest.copy is not None else None,
        "seconds_before": nearest.away.total_seconds() if nearest.copy is not None else None,
    }


@dataclass(frozen=True, slots=True)
class Openings:
    """What an audit found open after an app's privileges were made anew, a line each.

    Args:
        own: in the app's own walls, which is a reason to say that it did not go well.
        elsewhere: on the server as a whole, or of other apps; it was there before and is only said.
    """

    own: tuple[str, ...]
    elsewhere: tuple[str, ...]

    def document(self) -> dict[str, list[str]]:
        """Plain JSON values."""
        return {"breaches": list(self.own), "open_elsewhere": list(self.elsewhere)}


def audited(engine: Engine, app: str, output: Output) -> Openings:
    """What is open around an app whose privileges were made anew, said in red where it is the app's own."""
    from multidb.audit import audit

    with output.working():
        result = audit(engine.fleet, Scope(apps=frozenset({app})))
    lines = [
        *((f"{breach.store}: {breach.act}: allowed", breach.probe.wall) for breach in result.breaches),
        *((f"{hole.server}: {hole.hole.subject}: {hole.hole.message}", hole.hole.app) for hole in result.holes),
    ]
    own = tuple(line for line, whose in lines if whose == app)
    elsewhere = tuple(line for line, whose in lines if whose != app)
    for line in own:
        output.note(line, style="red")
    for line in elsewhere:
        output.note(line)
    if elsewhere:
        output.note(f"That is not of {app}. What closes it: multidb audit")
    return Openings(own, elsewhere)


def ensure_copy(
    run: Run, engine: Engine, output: Output, entry: Mapping[str, Any], closing: Closure
) -> tuple[Project, bool]:
    """Adds an app that is to get another's data to the manifest's text, if it is not in it; asks nobody. One that is
    added has a folder for its files, and is known for unfinished from here on, with no login on, unless a server has
    something of it already.

    Returns:
        The project with the app, as the manifest says it now; and whether the app was added.

    Raises:
        Refused: a server has no room for it. The manifest is as it was, as after anything that `draft_entry` raises.
    """
    new = closing.app
    draft = draft_entry(run, new, lambda project: entry, lambda project, existing: {})
    if not draft.added:
        output.note(f"{new} is in {draft.project.apps[new].where} already")
        return draft.project, False
    untouched = new not in orphans(engine.fleet)
    _require_room(run.engine(output, draft.project), new)
    project = write_draft(run, draft)
    output.note(f"Added {new} to {run.file}")
    make_own(project, new)
    if untouched:
        close(engine.state, closing)
    return project, True


def _require_room(engine: Engine, app: str) -> None:
    """`Refused` where nothing can be made of the app on a server, or what stands there by its names is not its own."""
    planned = engine.plan(Scope(frozenset({app})))
    for _, error in planned.errors:
        if isinstance(error, Refused):
            raise error
    foreign = [
        conflict
        for conflict in planned.conflicts
        if conflict.live and conflict.desired and conflict.live.owner != conflict.desired.owner
    ]
    if foreign:
        raise conflict_error(foreign, hint="give the new app another name; nothing was changed")


def tell_unshared(output: Output, source: str, new: str, declaration: Mapping[str, Any]) -> None:
    """Says what of an app's entry its double was not given, because they would reach each other by it."""
    for store, options in shared_options(declaration).items():
        for name, values in options.items():
            output.note(
                f"{new} does not share {store}.{name} of {source} ({listed(values)}); put them into its entry if it is "
                "meant to"
            )


def mentions_of_copy(
    engine: Engine, app: str, source: str, declaration: Mapping[str, Any], stores: Sequence[str], output: Output
) -> list[str]:
    """What an app has been given whose text names the place of the app that it is of, which is said; nobody may be able
    to tell, which is said as well."""
    inside = engine.project.apps[app]
    try:
        with output.working():
            named = mentions(engine, inside, declaration, inside, stores)
    except ServerError as error:
        output.note(f"nobody can say what of {app} names the place of {source} in its text: {error}", style="yellow")
        return []
    if named:
        output.note(
            f"this of {app} names in its text what {source} had, which is called otherwise in {app}: "
            f"{listed(named, _MOST)}; mend it in {app}",
            style="yellow",
        )
    return named


def ready(engine: Engine, app: str, parts: Sequence[str] | None = None) -> Report:
    """The app's place has to be there before something is brought into it. Gives what had to be done for that.

    Args:
        parts: only of these stores, since the servers of others may be gone; None: of all.

    Raises:
        MultidbError: it could not be made. Of an app that is closed until the data is there, it names the command
            that goes on.
    """
    with naming_the_way_on(engine, app):
        engine.fleet.start(app)
        report = engine.apply(Scope(frozenset({app}), None if parts is None else frozenset(parts)))
        if (error := report.error()) is not None:
            if isinstance(error, PartlyApplied):  # an apply makes the place, and brings nothing into it
                error.hint = f"correct the cause{'' if app in closures(engine.state) else '; run the command again'}"
            raise error
    return report
