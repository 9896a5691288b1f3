"""An app's data in another app that is made for the time: a preview environment, isolated like any app.

Until the data is in and masked the clone is closed (`multidb.closure`): no login of it is on, whatever else is run in
between. A run that fails leaves it so, and the same command again goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from multidb.backup.app_files.part import locations_of, occupied_names
from multidb.backup.creation import make_sets, repository, turn_off
from multidb.backup.exchanging import naming_the_way_on
from multidb.backup.journal import RESTORING, Journal
from multidb.backup.labels import CLONE_OF, EXPIRES
from multidb.backup.live_data import occupied, require_unbound, safety_set
from multidb.backup.places import require_not_following
from multidb.backup.restoring import SetSource, restore
from multidb.backup.sets import FILES, BackupSet
from multidb.closure import Closure, close, closures, reopen
from multidb.document import moment
from multidb.engine import Engine
from multidb.errors import ArchiveError, Refused, UsageError
from multidb.fleet import Scope
from multidb.model import App, Progress, ScriptArchive, listed
from multidb.provisioners import known_stores, provisioner
from multidb.report import Report

__all__ = [
    "Cloned",
    "carry",
    "copy_into",
    "entry_for",
    "expired",
    "expires_at",
    "masked_store",
    "shared_options",
]


@dataclass(frozen=True, slots=True)
class Cloned:
    """What a clone has come to.

    Args:
        report: of the apply that turned its logins on.
        safety: the set of what it had before; None when there was nothing, or it was not to be kept.
        notes: what of its original it does not have.
    """

    report: Report
    safety: BackupSet | None
    notes: tuple[str, ...] = ()


def entry_for(declaration: Mapping[str, Any], name: str = "", *, shared: bool = False) -> dict[str, Any]:
    """A manifest entry like the app's, without what only one app can have: its tenant, its numbers, its files, whose
    clone it is, and what was there before multidb.

    Args:
        name: the app that it is to be of, where that is another one.
        shared: with what lets apps reach each other (`shared_options`); without it, the new app reaches nobody.
    """
    own = ("tenant_id", "backup", "deploy", "mode", FILES)
    entry = {name: value for name, value in declaration.items() if name not in own}
    entry["labels"] = {name: text for name, text in entry.get("labels", {}).items() if name not in (CLONE_OF, EXPIRES)}
    unshared = {} if shared else shared_options(declaration)
    for store in known_stores():
        options = entry.get(store)
        if isinstance(options, dict):
            numbered = provisioner(store).allocate is not None
            kept = {option: value for option, value in options.items() if not (numbered and type(value) is int)}
            others = provisioner(store).own_options(options, name) if name else {}
            # Said as nothing, since what is left out would come from the manifest's defaults.
            entry[store] = kept | dict(others) | {option: [] for option in unshared.get(store, ())}
    return {name: value for name, value in entry.items() if value != {}}


def shared_options(declaration: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By store, the options of an app's entry through which it reaches other apps, as far as it has any."""
    shared = {}
    for store in known_stores():
        options = declaration.get(store)
        names = provisioner(store).shared_options
        if isinstance(options, dict) and (having := {name: options[name] for name in names if options.get(name)}):
            shared[store] = having
    return shared


def expired(apps: Mapping[str, App], now: datetime) -> list[App]:
    """The clones whose time is up. What multidb did not make as a clone never is one."""
    return [app for app in apps.values() if CLONE_OF in app.labels and (expires_at(app) or now) < now]


def copy_into(
    engine: Engine,
    source: str,
    other: str,
    *,
    mask: str = "",
    replace: bool = False,
    safety: bool = True,
    progress: Progress,
) -> Cloned:
    """Gives `other`, an app of the manifest that has been applied, what `source` has now. The caller holds
    `exclusively`.

    Args:
        mask: SQL that is run in the clone's Postgres database before anybody may log in to it.
        replace: what the clone has now may go, unless that was never finished.
        safety: make a set of it first.

    Raises:
        Refused: the clone has data, and `replace` was not said; or it was begun with a mask, and none is given now.
            Nothing was changed.
        ArchiveError: no safety set could be made. Nothing was changed.
        MultidbError: it could not be done; once it has begun, the clone's logins are off, and the same again goes on.
    """
    app = engine.project.apps[other]
    before = _ready_to_go(engine, app, source, mask, replace=replace, safety=safety, progress=progress)
    with naming_the_way_on(engine, app.id):
        notes = carry(engine, source, app, progress)
    if mask:
        progress(app.id, "masking")
        _mask(engine, app, mask)
    with naming_the_way_on(engine, app.id):
        reopen(engine.state, app.id)
        report = engine.apply(Scope(apps=frozenset({app.id})))
        if (error := report.error()) is not None:
            raise error
    return Cloned(report, before, notes)


def carry(
    engine: Engine,
    source: str,
    app: App,
    progress: Progress,
    *,
    reading: Engine | None = None,
    stores: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Gives `app`, which was applied and is closed (`multidb.closure`), all that `source` has now, and compares it. It
    stays closed. The caller holds `exclusively`.

    Args:
        reading: an engine by which `source` is read, where that is another: of a project in which an app has the place
            that it comes from.
        stores: only what it has in these, and no files; None: all that it has.

    Returns:
        What of `source` it does not have.

    Raises:
        MultidbError: it could not be done; the same again begins anew.
    """
    work = (engine.state.folder / "clones").resolve()  # targets are relative to the manifest, this is not
    shutil.rmtree(work, ignore_errors=True)  # of a run that died
    try:
        scope = Scope(frozenset({source}), frozenset(app.stores if stores is None else stores))
        files = (
            stores is None and bool(app.files) and app.files != engine.project.apps[source].files
        )  # a rename leaves them where they are
        (made,) = make_sets(reading or engine, scope, to=[str(work)], remember=False, files=files, progress=progress)
        if made.made is None:
            name, error = next(iter(made.errors.items()))
            raise ArchiveError(f"{source} could not be read: {name}: {error}", where=f"app {source}", hint=error.hint)
        home = repository(engine.fleet, [str(work)])
        set_source = SetSource(home, home.find(f"{source}/{made.made.id}"))
        done = restore(engine, set_source, app.id, replace=True, safety=False, closed=True, progress=progress)
        if (problem := engine.apply(Scope(apps=frozenset({app.id}))).error()) is not None:  # its places and rights
            raise problem
        Journal(engine.state).end(RESTORING, app.id)
        return done.notes
    finally:
        with suppress(OSError):
            shutil.rmtree(work)


def _ready_to_go(
    engine: Engine, app: App, source: str, mask: str, *, replace: bool, safety: bool, progress: Progress
) -> BackupSet | None:
    """Closes the clone, and turns off what is on. Says the set of what it had before, if it was to be kept."""
    if mask:
        masked_store(app)
    begun = closures(engine.state).get(app.id)
    if begun is not None and (begun.rename is not None or begun.move is not None or begun.exchange):
        raise Refused(begun.why, where=f"app {app.id}", hint=begun.way_on)
    if begun is not None and begun.masked and not mask:
        raise Refused(
            "this clone was begun with --mask, and has data that is not masked",
            where=f"app {app.id}",
            hint=begun.way_on,
        )
    require_not_following(engine.state, app.id)
    before = None
    if begun is None:  # else what it has is of a clone that nobody has seen yet
        taken = occupied(engine, app, list(app.stores))
        taken_files = occupied_names(locations_of(engine.project, app))
        if (taken or taken_files) and not replace:
            raise Refused(
                f"app {app.id} has data in {listed([*taken, *taken_files])}",
                where=app.where,
                hint="add --replace (a safety set is made first), or give the clone another name",
            )
        require_unbound(engine, app, list(app.stores))
        if (taken or taken_files) and safety:
            before = safety_set(engine, app.id, taken, progress, files=bool(taken_files))
    close(engine.state, Closure(app.id, source, bool(mask)))
    turn_off(engine, app)
    return before


def masked_store(app: App) -> str:
    """The store of the app whose data a masking script changes; `UsageError` where it has none."""
    able = [store for store in known_stores() if provisioner(store).scripts]
    chosen = next((store for store in able if store in app.stores), None)
    if chosen is None:
        titles = " or ".join(provisioner(store).title for store in able)
        raise UsageError(
            f"masking SQL is for {titles}, which this app does not use", where=f"app {app.id}", hint="leave --mask out"
        )
    return chosen


def _mask(engine: Engine, app: App, sql: str) -> None:
    (server,) = engine.fleet.servers(Scope(frozenset({app.id}), frozenset({masked_store(app)})))
    with engine.fleet.archive(server) as archive:
        assert isinstance(archive, ScriptArchive)
        try:
            archive.run_script(app, sql)
        except ArchiveError as error:
            raise ArchiveError(
                f"the masking SQL failed: {error.message}",
                where=f"app {app.id}",
                hint="its logins are off; correct the SQL, then run the same command again",
            ) from None


def expires_at(app: App) -> datetime | None:
    """When a clone is to go; None: it stays. `UsageError` where its label is no time."""
    text = app.labels.get(EXPIRES)
    try:
        return moment(text) if text else None
    except ValueError:
        raise UsageError(
            f"its label {EXPIRES} is no time: {text!r}",
            where=app.where or f"app {app.id}",
            hint="write it as 2026-11-30T12:00:00+00:00, or take the label away and the app stays",
        ) from None
