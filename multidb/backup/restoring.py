"""Bringing a set back: every store is loaded into a new place and compared first; only then do the new places take the
old ones' place, one store after the other. Until then the app is as it was.

Single tables are loaded and compared the same way, with all of their set; then they alone go into the live place.

What is under way is in the journal. A run that dies while it loads is undone by the next; one that dies while places
are exchanged is finished by the next. Until then nobody can log in to the app.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from multidb.backup.app_files.locations import Location, StagedFiles
from multidb.backup.app_files.part import load as load_files
from multidb.backup.app_files.part import locations_of, names_in, occupied_names, staged
from multidb.backup.creation import targets_of
from multidb.backup.encryption import Identities
from multidb.backup.exchanging import close_for_exchange, naming_the_way_on, open_unchanged
from multidb.backup.journal import RESTORING, Journal
from multidb.backup.live_data import contexts_of, occupied, require_unbound_at, safety_set
from multidb.backup.places import (
    PreparedPlace,
    clear,
    compare,
    differences,
    durability,
    left_place,
    load,
    prepared_place,
    require_not_following,
    temporary_files,
)
from multidb.backup.rate import Rate
from multidb.backup.repository import Copy, Repository, utc_now
from multidb.backup.set_ids import made_at
from multidb.backup.sets import FILES, BackupSet
from multidb.backup.streams import StoreReader
from multidb.closure import closures, reopen_restored
from multidb.document import in_future
from multidb.engine import Engine
from multidb.errors import ArchiveError, MultidbError, NeedsServer, Refused, TargetError, UsageError
from multidb.fleet import Scope
from multidb.model import (
    App,
    Archive,
    Place,
    PlaceKind,
    Progress,
    TableArchive,
    listed,
)
from multidb.moves import require_not_moving
from multidb.report import Report

__all__ = [
    "Restored",
    "SetSource",
    "finish_restore",
    "require_parts",
    "restore",
    "restore_tables",
]

_LEARNT: Final = 12  # of an app's sets on each target, the newest
_LOADING, _EXCHANGING, _TABLES = "loading", "exchanging", "exchanging tables"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Args:
        stores: those that hold the set's data now.
        safety: the set that was made of what was there before; None when there was nothing.
        report: of the apply that made the privileges anew; None when that is left to the caller.
        tables: the only ones that were brought back; none: everything was.
        notes: what did not come back.
        files: the locations of the app's files that hold the set's now.
    """

    app: str
    set_id: str
    stores: tuple[str, ...]
    safety: BackupSet | None
    report: Report | None
    tables: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetSource:
    """A set to restore from: which, where it is, and the keys to it where it is encrypted."""

    home: Repository
    copy: Copy
    keys: Identities | None = None


def restore(
    engine: Engine,
    source: SetSource,
    app_id: str,
    *,
    stores: Sequence[str] | None = None,
    replace: bool = False,
    safety: bool = True,
    closed: bool = False,
    progress: Progress,
) -> Restored:
    """Makes `app_id`, an app of the manifest that has been applied, hold what the set holds. The caller holds
    `exclusively`.

    Args:
        stores: only these, and `FILES` for the app's files; None: all that the set has.
        replace: what the app has now may go.
        safety: make a set of it first.
        closed: nobody can log in to the app, nor will before this has succeeded. Then a store that has room for one
            place only, and nothing in it, is loaded where it is, without a scratch server; and owners, grants and
            logins, which are otherwise made anew afterwards, are the caller's to make.

    Raises:
        UsageError: the set has no such store, or the app does not use it; or no files, or the app has no such location.
        Refused: the app has data, and `replace` was not said; or something is bound to what it has now. Nothing was
            changed.
        ArchiveError: the set is damaged, does not fit, or no safety set could be made. Nothing was changed.
        ServerError: a server failed. While places are exchanged, the next run goes on.
    """
    copy = source.copy
    if copy.backup_set is None:
        raise ArchiveError(copy.problem, where=copy.where, hint="take another set")
    app = engine.project.apps[app_id]
    require_not_following(engine.state, app_id)
    if not closed:
        require_not_moving(engine.state, app_id)
    chosen = _chosen_stores(copy.backup_set, app, stores)
    locations = _chosen_files(engine, copy.backup_set, app, stores)
    taken, taken_files = occupied(engine, app, chosen), occupied_names(locations)
    free = set(chosen).difference(taken) if closed else ()
    work = _Restore(engine, source, app, chosen, progress, free, locations)
    if (taken or taken_files) and not replace:
        raise Refused(
            f"app {app_id} has data in {', '.join([*taken, *taken_files])}",
            where=copy.where,
            hint="add --replace (a safety set is made first), or restore beside it: --as OTHER",
        )
    work.require_unbound()
    if copy.owner == app_id and not closed:
        _learn(engine, source)
    before = None
    if (taken or taken_files) and safety:
        before = safety_set(engine, app_id, taken, progress, files=bool(taken_files))
    report = None
    if closed:
        work.run()
    else:
        with naming_the_way_on(engine, app_id):
            work.run()
            reopen_restored(engine.state, app_id)
            report = engine.apply(Scope(apps=frozenset({app_id})))
    if report is None or report.error() is None:
        Journal(engine.state).end(RESTORING, app_id)
    brought = [*work.stores, *([FILES] if locations else [])]
    notes = [f"{name}: {note}" for name in brought for note in copy.backup_set.all_parts[name].part.notes]
    notes += [f"{FILES}: {note}" for note in work.notes]
    return Restored(app_id, copy.id, tuple(work.stores), before, report, notes=tuple(notes), files=tuple(locations))


def _learn(engine: Engine, source: SetSource) -> None:
    """Writes down what the targets tell of the app's sets where nothing is known of any: on a machine that has made
    none of them. What is known is not replaced by what lies there."""
    journal, app = Journal(engine.state), source.copy.owner
    if "when" in journal.known(app):
        return
    copies = [source.copy]
    with suppress(ArchiveError):  # then it is the one set that has been read
        copies += source.home.copies([app], _LEARNT)
    sets = [copy for copy in copies if copy.usual and not in_future(made_at(copy.id), utc_now())]
    if sets:
        newest = max(copy.id for copy in sets)
        journal.learn(app, newest=newest, when=made_at(newest).isoformat())
    verified = {copy.id: copy.tried.when for copy in sets if copy.tried is not None and copy.tried.ok}
    if verified:
        newest = max(verified)
        journal.learn(app, verified=verified[newest].isoformat(), verified_set=newest)


def restore_tables(
    engine: Engine,
    source: SetSource,
    store: str,
    names: Sequence[str],
    *,
    replace: bool = False,
    safety: bool = True,
    progress: Progress,
) -> Restored:
    """Makes single tables of the set's own app what they are in the set, all of them in one step. The caller holds
    `exclusively`.

    Args:
        store: where they are.
        names: as the set's manifest writes them; without a schema where it is the usual one.
        replace: tables that the app has now may go.
        safety: make a set of what the app has in that store first, where there is such a table.

    Raises:
        UsageError: the set has no such table, or the store has no tables. Nothing was changed.
        Refused: there is such a table, and `replace` was not said; or something is made of it. Nothing was changed.
        ArchiveError: as for `restore`; or what the app has now does not fit the tables. Nothing was changed.
        ServerError: a server failed. The next run says what came of it.
    """
    copy = source.copy
    if copy.backup_set is None:
        raise ArchiveError(copy.problem, where=copy.where, hint="take another set")
    app = engine.project.apps[copy.owner]
    require_not_moving(engine.state, copy.owner)
    work = _Restore(engine, source, app, _chosen_stores(copy.backup_set, app, [store]), progress)
    there = work.tables_there(store, names)
    if there and not replace:
        raise Refused(
            f"app {app.id} has {listed(there)}", where=copy.where, hint="add --replace (a safety set is made first)"
        )
    before = safety_set(engine, app.id, [store], progress) if there and safety else None
    tables = work.run_tables(store, names)
    report = engine.apply(Scope(apps=frozenset({app.id})))
    if report.error() is None:
        Journal(engine.state).end(RESTORING, app.id)
    return Restored(app.id, copy.id, (store,), before, report, tuple(tables))


def finish_restore(
    engine: Engine, app_id: str, note: Mapping[str, Any], keys: Identities | None, progress: Progress
) -> str:
    """Undoes or finishes the restore that a note of the journal tells of. Says which. The caller holds `exclusively`.

    Raises:
        MultidbError: it cannot be finished now (a server is down, the key is missing).
    """
    app = engine.project.apps[app_id]
    if note["phase"] == _EXCHANGING:
        _interrupted(engine, app, note, keys, progress).finish()
        reopen_restored(engine.state, app_id)
        done = f"finished the restore of {note['set']}, which was interrupted"
    else:  # the set is not asked for: it may be gone, and its target out of reach
        for server, context in contexts_of(engine, app, note["stores"], app.where).values():
            clear(engine.fleet, server, app, context)
        if note["phase"] == _LOADING:
            if note.get("closing"):
                open_unchanged(engine, app_id)
            return "undid a restore that was interrupted before it changed anything"
        done = f"ended a restore of tables of {note['set']}, which was interrupted: all of them are new, or none"
    error = engine.apply(Scope(apps=frozenset({app_id}))).error()  # a clone's logins stay off until it is finished
    if error is not None:
        raise error
    return done


def _interrupted(
    engine: Engine, app: App, note: Mapping[str, Any], keys: Identities | None, progress: Progress
) -> _Restore:
    """The restore that died while places were exchanged.

    Raises:
        ArchiveError, TargetError: its set cannot be read.
    """
    home = Repository(engine.project.name, targets_of(engine.fleet, [note["target"]]))
    try:
        copy = home.find(f"{note['of']}/{note['set']}")
    except UsageError as error:
        raise ArchiveError(
            f"the set {note['of']}/{note['set']}, with which a restore is to be finished, is not there",
            where=f"app {app.id}, target {note['target']}",
            hint=f"where it is there (a folder may be another machine's): multidb backup {app.id}; or bring another "
            "set back: multidb restore SET --replace --no-safety-set",
        ) from error
    if copy.backup_set is None:
        raise ArchiveError(copy.problem, where=copy.where, hint="restore another set: multidb backups list")
    locations = locations_of(engine.project, app, note.get(FILES, ()))
    return _Restore(engine, SetSource(home, copy, keys), app, note["stores"], progress, locations=locations)


class _Restore:
    """One set, whose manifest was read, on its way into one app.

    Args:
        free: stores whose live place is empty and stays so until it is loaded: no scratch server is started for them.
        locations: where the set's files go; none: they stay where they are.
    """

    def __init__(
        self,
        engine: Engine,
        source: SetSource,
        app: App,
        stores: Sequence[str],
        progress: Progress,
        free: Collection[str] = (),
        locations: Mapping[str, Location] | None = None,
    ) -> None:
        assert source.copy.backup_set is not None
        self._engine = engine
        self._home = source.home
        self._copy = source.copy
        self._backup_set = source.copy.backup_set
        self._app = app
        self._keys = source.keys
        self._progress = progress
        self._locations = locations or {}
        brought = [*stores, *([FILES] if self._locations else [])]
        self._rate = Rate(progress, app.id, sum(self._backup_set.all_parts[name].size for name in brought))
        self._journal = Journal(engine.state)
        self._contexts_of = contexts_of(engine, app, stores, source.copy.where)
        self.stores = list(stores)
        self._free = free
        self._closing = False  # by this restore, and not by an earlier one that has left the app half exchanged
        self._changed = False  # whatever the journal says: a full disk lets nothing be written down
        self.notes: list[str] = []

    def run(self) -> None:
        """Loads everything, then exchanges. Interrupted before the exchange, nothing has changed."""
        self._note(_LOADING)
        exchanging = False
        try:
            with ExitStack() as stack:
                prepared = {store: self._loaded(stack, store) for store in self.stores}
                new_files = self._loaded_files(stack)
                self.require_unbound()  # of all stores, before one of them has its new place
                exchanging = True
                with self._taken_back(prepared):
                    self._close()
                    for place in prepared.values():
                        if place is not None:
                            place.kept = True
                    lasting = [store for store, place in prepared.items() if place is not None and place.lasting]
                    self._note(_EXCHANGING, lasting=lasting, exchanged=[])
                    self._exchange(prepared)
                    self._exchange_files(new_files)
        except Refused:
            if not exchanging:  # nothing was changed, and nothing is left
                self._journal.end(RESTORING, self._app.id)
            raise

    @contextmanager
    def _taken_back(self, prepared: Mapping[str, PreparedPlace | None]) -> Iterator[None]:
        """Where the block fails before the first place was exchanged, nothing was changed, and no later run tries it
        again. Where a server fails, the next run finishes what may have been done, as it does where nobody can write
        down that there is nothing to finish."""
        try:
            yield
        except (ArchiveError, Refused, UsageError):
            if not self._free and not self._changed and self._is_given_up():
                for place in filter(None, prepared.values()):
                    place.kept = False
                if self._closing:
                    with suppress(MultidbError):  # what was refused is what is told; the next run tries again
                        open_unchanged(self._engine, self._app.id)
            raise

    def _is_given_up(self) -> bool:
        """Whether the journal knows that nothing is to be exchanged; before it does, nothing that was loaded may go."""
        try:
            self._note(_LOADING, closing=self._closing)
        except MultidbError:
            return False
        return True

    def _close(self) -> None:
        """Files need no login to be written: for them alone, none is turned off."""
        if self.stores and self._app.id not in closures(self._engine.state):
            self._closing = True
            self._note(_LOADING, closing=True)
            close_for_exchange(self._engine, self._app, self.stores, "a restore")

    def require_unbound(self) -> None:
        require_unbound_at(self._engine, self._app, self._contexts_of)

    def finish(self) -> None:
        """Goes on where a run died while it exchanged places: what is loaded takes the live place, the rest is loaded
        again. What was exchanged already is left alone: it may be open again, and written to."""
        note = self._journal.open(RESTORING)[self._app.id]
        lasting, exchanged = note.get("lasting", ()), note.get("exchanged", ())
        for store in self.stores:
            if store in exchanged or self._moved_in(store, lasting=store in lasting):
                continue
            with ExitStack() as stack:
                self._exchange({store: self._loaded(stack, store)})
        if FILES not in exchanged:
            with ExitStack() as stack:
                self._exchange_files(self._loaded_files(stack))
        self.clear()  # what was loaded for a place that holds the same already

    def tables_there(self, store: str, names: Sequence[str]) -> list[str]:
        """Those of the tables that the app has now."""
        with self._live(store) as (archive, place):
            return list(_of_tables(archive, store).find_tables(place, names).values())

    def run_tables(self, store: str, names: Sequence[str]) -> list[str]:
        """Loads all of the store, then puts these tables into the live place. Says their full names."""
        self._note(_LOADING)
        try:
            with ExitStack() as stack:
                # a place for trying it out: it is not going to be the live one
                scratch = self._loaded(stack, store, PlaceKind.SCRATCH)
                assert scratch is not None  # a store with tables has room for another place
                archive = _of_tables(scratch.archive, store)
                meant = archive.find_tables(scratch.place, names)
                if missing := [name for name in names if name not in meant]:
                    raise UsageError(f"the set has no table {listed(missing)}", where=self._backup_set.folder)
                tables = list(dict.fromkeys(meant.values()))
                self._note(_TABLES)
                self._progress(self._app.id, f"{store}: replacing {listed(tables)}")
                archive.replace_tables(scratch.place, tables, self._backup_set.parts[store].part)
        except (ArchiveError, Refused, UsageError):  # no server failed, so nothing is left and nothing was changed
            self._journal.end(RESTORING, self._app.id)
            raise
        return tables

    def clear(self) -> None:
        """Removes the places that a run which died has left."""
        for server, context in self._contexts_of.values():
            clear(self._engine.fleet, server, self._app, context)

    def _loaded(self, stack: ExitStack, store: str, kind: PlaceKind = PlaceKind.NEW) -> PreparedPlace | None:
        """A place with the set's data beside the live one; None where there is room for the live one only."""
        server, context = self._contexts_of[store]
        self._rate.doing = f"restoring {store}"
        self._progress(self._app.id, self._rate.doing)
        beside = prepared_place(
            self._engine.fleet, kind, server, self._app, context, self._progress, scratch=store not in self._free
        )
        try:
            prepared = stack.enter_context(beside)
        except NeedsServer:
            self._reader(store).check()
            return None
        load(prepared, self._backup_set.parts[store], self._reader(store), self._progress)
        return prepared

    def _loaded_files(self, stack: ExitStack) -> dict[str, StagedFiles]:
        """New files beside those that are there."""
        if not self._locations:
            return {}
        stored = self._backup_set.files
        assert stored is not None
        self._rate.doing = f"restoring {FILES}"
        self._progress(self._app.id, self._rate.doing)
        new = stack.enter_context(staged(self._locations, self._engine.state))
        load_files(stored, self._reader(FILES), new)
        return new

    def _exchange(self, prepared: Mapping[str, PreparedPlace | None]) -> None:
        """First what a killed run would lose: the store that is loaded in one transaction, those on a scratch
        server."""
        for store in sorted(prepared, key=lambda store: durability(prepared[store])):
            self._progress(self._app.id, f"{store}: replacing")
            beside = prepared[store]
            if beside is not None:
                beside.replace_live()
            else:
                self._load_live(store)
            self._changed = True
            self._note_exchanged(store)

    def _load_live(self, store: str) -> None:
        """Loads the store where the app has it."""
        with self._live(store) as (archive, place), temporary_files():
            archive.restore(place, self._backup_set.parts[store].part, self._reader(store), self._progress)
            if store in self._free:
                compare(self._backup_set.parts[store], archive, place)

    def _exchange_files(self, new: Mapping[str, StagedFiles]) -> None:
        try:
            for name, location in self._locations.items():
                self.notes += location.exchange(new[name])
                self._changed = True
        except TargetError:  # of storage, which may have some of the new, or a full disk
            self._changed = True
            raise
        self._note_exchanged(FILES)

    def _moved_in(self, store: str, *, lasting: bool) -> bool:
        """Whether the live place is the one that was loaded, maybe since this very call.

        Args:
            lasting: whether what was loaded is still there when it was not exchanged.
        """
        server, context = self._contexts_of[store]
        with self._engine.fleet.archive(server) as archive:
            place = left_place(archive, PlaceKind.NEW, self._app, context)
            if place is None:
                return lasting or self._same(store, archive, archive.live(self._app, context))
            if lasting or self._same(store, archive, place):
                archive.replace(place, context)
                return True
        return False

    def _same(self, store: str, archive: Archive, place: Place) -> bool:
        return not any(differences(self._backup_set.parts[store].part.measures, archive.measure(place)))

    @contextmanager
    def _live(self, store: str) -> Iterator[tuple[Archive, Place]]:
        server, context = self._contexts_of[store]
        with self._engine.fleet.archive(server) as archive:
            yield archive, archive.live(self._app, context)

    def _reader(self, store: str) -> StoreReader:
        return self._home.reader(self._copy, store, self._keys, self._rate)

    def _note(self, phase: str, **facts: Sequence[str] | bool) -> None:
        note = {"set": self._copy.id, "of": self._copy.app, "target": self._copy.target.name}
        files = {FILES: list(self._locations)} if self._locations else {}
        self._journal.begin(RESTORING, self._app.id, {**note, "stores": self.stores, **files, **facts, "phase": phase})

    def _note_exchanged(self, name: str) -> None:
        """Writes down that a store, or the files, are the app's from here on."""
        note = self._journal.open(RESTORING)[self._app.id]
        exchanged = [*note.get("exchanged", ()), name]
        self._journal.begin(RESTORING, self._app.id, {**note, "exchanged": exchanged})


def _of_tables(archive: Archive, store: str) -> TableArchive:
    if not isinstance(archive, TableArchive):
        raise UsageError(f"{store} has no tables to be restored alone", hint=f"all of it: --store {store}")
    return archive


def require_parts(backup_set: BackupSet, stores: Sequence[str] | None) -> None:
    """`UsageError` where the set has not all of these, which may be `FILES`."""
    for store in stores or ():
        if store not in backup_set.all_parts:
            raise UsageError(
                f"the set has no {store}", where=backup_set.folder, hint=f"it has {', '.join(backup_set.all_parts)}"
            )


def _chosen_stores(backup_set: BackupSet, app: App, stores: Sequence[str] | None) -> list[str]:
    require_parts(backup_set, stores)
    chosen = list(backup_set.all_parts) if stores is None else list(stores)
    for store in chosen:
        if store not in app.stores and store != FILES:
            raise UsageError(f"app {app.id} does not use {store}", where=app.where, hint="leave it out: --store ...")
    return [store for store in chosen if store != FILES]


def _chosen_files(engine: Engine, backup_set: BackupSet, app: App, stores: Sequence[str] | None) -> dict[str, Location]:
    """Where the set's files go."""
    if backup_set.files is None or (stores is not None and FILES not in stores):
        return {}
    return locations_of(engine.project, app, names_in(backup_set.files))
