"""Data that is elsewhere, brought into an app: every store's is copied into a new place and compared with its source
first; only then do the new places take the old ones' place, one store after the other. Until then the app is as it was.

What is under way is in the journal, with what of it is copied. A run that dies while it copies is gone on with by the
same command, or cleared away by the next one of another kind; one that dies while places are exchanged is finished by
whichever comes next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from multidb.backup.exchanging import close_for_exchange, naming_the_way_on, open_unchanged
from multidb.backup.journal import IMPORTING, Journal
from multidb.backup.live_data import contexts_of, occupied, require_unbound, safety_set
from multidb.backup.places import (
    PreparedPlace,
    clear,
    differences,
    durability,
    left_place,
    prepared_place,
    require_not_following,
    temporary_files,
)
from multidb.backup.sets import BackupSet
from multidb.closure import closures, reopen_restored
from multidb.engine import Engine
from multidb.errors import ArchiveError, MultidbError, NeedsServer, Refused, UsageError
from multidb.fleet import Scope
from multidb.model import (
    App,
    Archive,
    ImportArchive,
    ImportOptions,
    ImportSource,
    Measures,
    PartlyKnownSource,
    PlaceKind,
    Progress,
    Server,
    SourceLocation,
    StoreContext,
    Survey,
    listed,
)
from multidb.moves import require_not_moving
from multidb.provisioners import provisioner
from multidb.report import Report

__all__ = [
    "ImportRequest",
    "Imported",
    "abort_import",
    "bring_in",
    "changed_words",
    "finish_import",
    "importing_app",
    "is_exchanging",
    "is_going_on",
    "source_of",
    "surveys",
]

_COPYING: Final = "copying"
_EXCHANGING: Final = "exchanging"
_MOST: Final = 10  # differences that an error names


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What is to be imported.

    Args:
        app: of the manifest, and applied.
        sources: by store, where its data is.
        replace: what the app has now may go.
        safety: make a set of it first.
        accept: take what was copied although the source was changed meanwhile.
    """

    app: str
    sources: Mapping[str, SourceLocation]
    options: ImportOptions
    replace: bool = False
    safety: bool = True
    accept: bool = False

    @property
    def note(self) -> dict[str, Any]:
        """By what the journal knows the same request again."""
        sources = {store: location.text for store, location in self.sources.items()}
        return {"sources": sources, "options": json.loads(json.dumps(asdict(self.options)))}


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Args:
        safety: the set that was made of what was there before; None when there was nothing.
        differences: by store, what of the source has changed while it was copied, and was accepted.
        report: of the apply that made the privileges anew.
    """

    app: str
    stores: tuple[str, ...]
    safety: BackupSet | None
    differences: Mapping[str, Sequence[str]]
    report: Report


def surveys(engine: Engine, request: ImportRequest, progress: Progress) -> dict[str, Survey]:
    """By store, what there is to import and what stands against it. Changes nothing anywhere.

    Raises:
        MultidbError: a source or a server of the app cannot be asked.
    """
    app, direct, by_store = importing_app(engine, request), _direct(engine, request), {}
    for store, (server, context) in contexts_of(engine, app, list(request.sources), app.where).items():
        progress(app.id, f"looking at {request.sources[store].text}")
        with source_of(request, store) as source, engine.fleet.archive(server) as archive:
            survey = _importing(archive, store).survey(app, context, source)
            against = []
            if not request.replace and store not in direct and not archive.is_empty(archive.live(app, context)):
                against.append(f"app {app.id} has data in {store}: add --replace (a safety set is made first)")
        try:
            require_unbound(engine, app, [store])
        except Refused as error:
            against.append(error.sentence())
        by_store[store] = replace(survey, obstacles=(*survey.obstacles, *against))
    return by_store


def bring_in(engine: Engine, request: ImportRequest, progress: Progress) -> Imported:
    """Makes the app hold what its sources hold. The caller holds `exclusively` and the app's lock. An earlier run of
    the same is gone on with; one that has begun to exchange places is begun anew.

    Raises:
        Refused: the app has data, and `replace` was not said; something is bound to what it has now; or a source was
            changed while it was copied. Nothing was changed.
        ArchiveError: a source's data is damaged or does not fit, or no safety set could be made. Nothing was changed.
        ServerError: a server failed; the same again goes on.
    """
    app, stores = importing_app(engine, request), list(request.sources)
    taken = occupied(engine, app, stores)
    direct = _direct(engine, request)
    if (refused := [store for store in taken if store not in direct]) and not request.replace:
        raise Refused(
            f"app {app.id} has data in {listed(refused)}",
            where=app.where,
            hint="add --replace (a safety set is made first), or import it into another app",
        )
    require_not_following(engine.state, app.id)
    require_not_moving(engine.state, app.id)
    require_unbound(engine, app, stores)
    work = _Import(engine, request, app, progress)
    if not is_going_on(engine, request) or is_exchanging(engine, request):
        work.begin()
    with naming_the_way_on(engine, app.id):
        before, other = work.run(taken)
        reopen_restored(engine.state, app.id)
        report = engine.apply(Scope(apps=frozenset({app.id})))
    if report.error() is None:
        Journal(engine.state).end(IMPORTING, app.id)
    return Imported(app.id, tuple(stores), before, other, report)


def is_going_on(engine: Engine, request: ImportRequest) -> bool:
    """Whether an earlier run has begun this very import and not ended it."""
    note = Journal(engine.state).open(IMPORTING).get(request.app)
    return note is not None and all(note.get(name) == value for name, value in request.note.items())


def is_exchanging(engine: Engine, request: ImportRequest) -> bool:
    """Whether an earlier run of this import has copied everything and died while places were exchanged: whoever
    clears up after interrupted runs finishes it."""
    note = Journal(engine.state).open(IMPORTING).get(request.app)
    return note is not None and note["phase"] == _EXCHANGING and is_going_on(engine, request)


def finish_import(engine: Engine, app_id: str, note: Mapping[str, Any], progress: Progress) -> str:
    """Clears away what an interrupted import has left, or finishes it. Says which. The caller holds `exclusively`.

    Raises:
        MultidbError: it cannot be finished now.
    """
    app = engine.project.apps[app_id]
    contexts = contexts_of(engine, app, list(note["sources"]), app.where)
    if note["phase"] == _COPYING:
        _clear(engine, app, contexts)
        if note.get("closing"):
            open_unchanged(engine, app_id)
        if note.get("direct"):
            return f"gave up an interrupted import; what it has copied into {listed(note['direct'])} is there"
        return "removed what an interrupted import left; the app is as it was"
    for store, (server, context) in contexts.items():
        if store in note.get("exchanged", ()):  # the app may have written to it since
            continue
        progress(app_id, f"{store}: finishing an import")
        digest = note["measures"][store] if store in note["passing"] else None
        if not _moved_in(engine, app, server, context, digest):
            raise Refused(
                f"what was imported into {store} is lost, and other stores of app {app_id} have theirs already",
                where=app.where,
                hint="run the same import again, with --replace --no-safety-set: multidb import "
                f"{app_id} --from-{store} ...",
            )
    _clear(engine, app, contexts)
    reopen_restored(engine.state, app_id)
    if (error := engine.apply(Scope(apps=frozenset({app_id}))).error()) is not None:
        raise error
    return f"finished the import into {listed(list(contexts))}, which was interrupted"


def abort_import(engine: Engine, app_id: str, progress: Progress) -> str:
    """Gives up an import that has begun and not ended. Says what was done. The caller holds `exclusively`.

    Raises:
        UsageError: there is none.
        MultidbError: it cannot be given up now.
    """
    journal = Journal(engine.state)
    note = journal.open(IMPORTING).get(app_id)
    if note is None:
        raise UsageError(f"no import into app {app_id} is under way", hint=f"multidb show {app_id}")
    done = finish_import(engine, app_id, note, progress)
    journal.end(IMPORTING, app_id)
    return done


@dataclass(frozen=True, slots=True)
class _Copy:
    """One store's data, copied."""

    source: ImportSource
    context: StoreContext
    prepared: PreparedPlace


class _Import:
    def __init__(self, engine: Engine, request: ImportRequest, app: App, progress: Progress) -> None:
        self._engine = engine
        self._request = request
        self._app = app
        self._progress = progress
        self._journal = Journal(engine.state)
        self._contexts = contexts_of(engine, app, list(request.sources), app.where)

    @property
    def direct(self) -> frozenset[str]:
        """The stores whose data is copied into the live place, which was empty and is the only one."""
        return frozenset(self._noted.get("direct", ()))

    def begin(self) -> None:
        _clear(self._engine, self._app, self._contexts)
        self._note(**self._request.note, phase=_COPYING, closing=False, done={}, direct=[], measures={}, exchanged=[])

    def run(self, taken: Sequence[str]) -> tuple[BackupSet | None, dict[str, Sequence[str]]]:
        """Copies everything, compares, then exchanges. The set that was made of what was there (`taken`), and what was
        accepted."""
        exchanged: list[str] = []
        copies: dict[str, _Copy] = {}
        try:
            with ExitStack() as stack, self._given_up(copies, exchanged):
                for store in self._contexts:
                    copies[store] = self._copied(stack, store)
                measures, other = self._compared(copies)
                require_unbound(self._engine, self._app, list(copies))
                before = None
                if (own := [store for store in taken if store not in self.direct]) and self._request.safety:
                    before = safety_set(self._engine, self._app.id, own, self._progress)
                passing = [store for store, copy in copies.items() if not copy.prepared.lasting]
                self._close()
                self._note(phase=_EXCHANGING, measures=measures, passing=passing)
                for store in sorted(copies, key=lambda store: durability(copies[store].prepared)):
                    self._progress(self._app.id, f"{store}: replacing")
                    copies[store].prepared.replace_live()
                    exchanged.append(store)
                    self._note(exchanged=exchanged)
        except (ArchiveError, Refused, UsageError):
            if not exchanged and self._noted["phase"] == _COPYING and self._is_open() and not self.direct:
                with suppress(MultidbError):  # what was refused is what is told; the next run clears the note away
                    self._journal.end(IMPORTING, self._app.id)
            raise
        return before, other

    def _close(self) -> None:
        if self._app.id not in closures(self._engine.state):
            self._note(closing=True)
            close_for_exchange(self._engine, self._app, list(self._contexts), "an import")

    def _is_open(self) -> bool:
        """Whether what this run has closed is open again."""
        if not self._noted.get("closing"):
            return True
        try:
            open_unchanged(self._engine, self._app.id)
        except MultidbError:
            return False
        return True

    @contextmanager
    def _given_up(self, copies: Mapping[str, _Copy], exchanged: Collection[str]) -> Iterator[None]:
        """What was copied does not stay where it can be of no use any more: where nothing was exchanged, and the
        journal knows that nothing is going to be."""
        try:
            yield
        except (ArchiveError, Refused, UsageError):
            if not exchanged:
                with suppress(MultidbError):  # a disk that is full; what went wrong first is what is told
                    self._note(phase=_COPYING)
            for copy in copies.values():
                copy.prepared.kept = copy.prepared.kept and self._noted["phase"] != _COPYING
            raise

    def _copied(self, stack: ExitStack, store: str) -> _Copy:
        server, context = self._contexts[store]
        source = stack.enter_context(source_of(self._request, store))
        done = _StoreCheckpoint(self._journal, self._app.id, store)
        left = bool(done.done()) and self._is_left(server, context)
        if not left and store not in self.direct:
            done.clear()
        prepared = stack.enter_context(self._place(store, server, context, left=left))
        self._progress(self._app.id, f"importing {store}")
        archive = _importing(prepared.archive, store)
        try:
            with temporary_files():
                archive.bring_in(prepared.place, source, done, self._progress)
        finally:
            prepared.kept = prepared.lasting and bool(done.done())
        return _Copy(source, context, prepared)

    @contextmanager
    def _place(self, store: str, server: Server, context: StoreContext, *, left: bool) -> Iterator[PreparedPlace]:
        """A place beside the live one; the live one itself where there is room for no other and nothing is in it."""
        beside = prepared_place(
            self._engine.fleet, PlaceKind.NEW, server, self._app, context, self._progress, left=left
        )
        with ExitStack() as stack:
            try:
                prepared = stack.enter_context(beside)
            except NeedsServer as error:
                archive = stack.enter_context(self._engine.fleet.archive(server))
                live = archive.live(self._app, context)
                if store not in self.direct and not archive.is_empty(live):
                    raise Refused(
                        f"{server} has room for one place only, and app {self._app.id} has data there",
                        where=error.where,
                        hint="import it into an app that has nothing there, or where multidb may start a second server",
                    ) from None
                self._note(direct=sorted({*self.direct, store}))
                prepared = PreparedPlace(archive, live, lambda: None, lasting=True)
            yield prepared

    def _is_left(self, server: Server, context: StoreContext) -> bool:
        with self._engine.fleet.archive(server) as archive:
            return left_place(archive, PlaceKind.NEW, self._app, context) is not None

    def _compared(self, copies: Mapping[str, _Copy]) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
        """Digests of what is there now, and what of the sources is not as it was copied, by store.

        Raises:
            ArchiveError: what was copied is not what the source had.
            Refused: a source was changed meanwhile, and that was not accepted.
        """
        digests: dict[str, str] = {}
        changed: dict[str, Sequence[str]] = {}
        for store, copy in copies.items():
            self._progress(self._app.id, f"comparing {store}")
            with temporary_files():
                there = copy.prepared.archive.measure(copy.prepared.place)
            _require_same(copy.source.copied(), there, self._request.sources[store])
            now = copy.source.measure(self._app, copy.context)
            known = now.counts or now.fingerprints  # of a file that only loading it tells of, nothing is
            if known and (other := list(differences(now, _comparable(there, copy.source), "the source"))):
                changed[store] = other
            digests[store] = _digest(there)
        if changed and not self._request.accept:
            raise Refused(
                f"the source was changed while it was copied: {changed_words(changed)}",
                where=self._app.where,
                hint="nothing was changed; stop what writes there and run the command again, or take what was copied: "
                "--accept-differences",
            )
        return digests, changed

    @property
    def _noted(self) -> Mapping[str, Any]:
        return self._journal.open(IMPORTING).get(self._app.id, {})

    def _note(self, **facts: Any) -> None:
        self._journal.begin(IMPORTING, self._app.id, {**self._noted, **facts})


class _StoreCheckpoint:
    """The checkpoint of one store, in the journal."""

    def __init__(self, journal: Journal, app: str, store: str) -> None:
        self._journal = journal
        self._app = app
        self._store = store

    def done(self) -> frozenset[str]:
        return frozenset(self._note["done"].get(self._store, ()))

    def add(self, part: str) -> None:
        self._set([*self._note["done"].get(self._store, ()), part])

    def clear(self) -> None:
        self._set([])

    @property
    def _note(self) -> dict[str, Any]:
        return self._journal.open(IMPORTING)[self._app]

    def _set(self, parts: list[str]) -> None:
        note = self._note
        self._journal.begin(IMPORTING, self._app, {**note, "done": {**note["done"], self._store: parts}})


def changed_words(changed: Mapping[str, Sequence[str]]) -> str:
    """What is not as it was, by store, for a message."""
    return "; ".join(f"{store}: {listed(list(other), _MOST, between='; ')}" for store, other in changed.items())


def importing_app(engine: Engine, request: ImportRequest) -> App:
    """The app of the manifest. `UsageError` where it is not there, or does not use one of the stores."""
    app = engine.fleet.app(request.app)
    for store in request.sources:
        if store not in app.stores:
            raise UsageError(
                f"app {app.id} does not use {store}", where=app.where, hint=f"leave out --from-{store}, or add it there"
            )
    return app


def source_of(request: ImportRequest, store: str) -> ImportSource:
    """One of its sources, not entered yet. `UsageError` where the store takes no data from elsewhere."""
    made = provisioner(store).source
    if made is None:
        raise UsageError(f"nothing can be imported into {store}", hint=f"leave out --from-{store}")
    return made(request.sources[store], request.options)


def _importing(archive: Archive, store: str) -> ImportArchive:
    if not isinstance(archive, ImportArchive):
        raise UsageError(f"nothing can be imported into {store}", hint=f"leave out --from-{store}")
    return archive


def _require_same(copied: Measures | None, there: Measures, location: SourceLocation) -> None:
    """`ArchiveError` where a copy is not what was at the source in the moment of the copy."""
    if copied is not None and (other := list(differences(copied, there, "the source"))):
        raise ArchiveError(
            f"what was copied is not what the source had: {listed(other, _MOST, between='; ')}",
            where=location.text,
            hint="nothing was changed; run the command again",
        )


def _comparable(there: Measures, source: ImportSource) -> Measures:
    """What of a copy its source can tell, too."""
    if not isinstance(source, PartlyKnownSource):
        return there
    return Measures({name: count for name, count in there.counts.items() if source.knows(name)})


def _digest(measures: Measures) -> str:
    text = json.dumps([dict(measures.counts), dict(measures.fingerprints)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _moved_in(engine: Engine, app: App, server: Server, context: StoreContext, digest: str | None) -> bool:
    """Whether the live place holds what was imported, maybe since this very call.

    Args:
        digest: of what was imported, where its place was on a scratch server, which is gone when it was not adopted.
    """
    with engine.fleet.archive(server) as archive:
        if (place := left_place(archive, PlaceKind.NEW, app, context)) is not None:
            archive.replace(place, context)
            return True
        return digest is None or _digest(archive.measure(archive.live(app, context))) == digest


def _direct(engine: Engine, request: ImportRequest) -> frozenset[str]:
    """The stores into whose live place an earlier run of this import has begun to copy."""
    note = Journal(engine.state).open(IMPORTING).get(request.app, {})
    return frozenset(note.get("direct", ())) if is_going_on(engine, request) else frozenset()


def _clear(engine: Engine, app: App, contexts: Mapping[str, tuple[Server, StoreContext]]) -> None:
    for server, context in contexts.values():
        clear(engine.fleet, server, app, context)
