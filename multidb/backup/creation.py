"""Making sets: every store of an app, one after the other, to all targets at once; apps side by side.

What fails costs its own app its set and nothing else. What is half-made is taken away, at the latest by the next run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from multidb import __version__
from multidb.backup.app_files.locations import Location
from multidb.backup.app_files.part import locations_of, names_in, write
from multidb.backup.journal import COPYING, MAKING, PAUSED, RESTORING, Journal
from multidb.backup.places import temporary_files
from multidb.backup.rate import Rate
from multidb.backup.repository import Copy, Destinations, Repository, exact_now, utc_now
from multidb.backup.set_ids import new_id
from multidb.backup.sets import FILES, MANIFEST, BackupSet, Reason, StoredPart, declaration
from multidb.backup.settings import Settings, settings
from multidb.backup.streams import StoreWriter
from multidb.backup.targets import Target, open_target
from multidb.closure import closures
from multidb.concurrency import side_by_side
from multidb.document import printable
from multidb.engine import Engine
from multidb.errors import ArchiveError, MultidbError, Refused, ServerDown, ServerError
from multidb.fleet import Fleet, Scope
from multidb.model import App, Archive, OfflineArchive, Progress, Server, StoreContext, listed
from multidb.moves import MovePhase, PendingMove
from multidb.provisioners import provisioner
from multidb.renames import former_names
from multidb.runtime import ServerState

__all__ = ["ServerContexts", "BackupResult", "make_sets", "pausing", "repository", "targets_of", "turn_off", "turn_on"]

_APPS_AT_ONCE: Final = 4
_CHANGING: Final = threading.Lock()  # servers are changed by one app at a time, as by one run at a time
_STOPPING: Final = threading.Lock()  # one server at a time is offline, and no app waits for that with its logins off


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What came of one app's backup.

    Args:
        made: the set; None when there is none.
        errors: by store or target, what went wrong. With a set there, it is only that some target does not have it.
    """

    app: str
    made: BackupSet | None = None
    errors: Mapping[str, MultidbError] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is a set, on every target."""
        return self.made is not None and not self.errors


class ServerContexts:
    """The servers that a run works on within a scope, each asked once for what it is, however many apps are on it."""

    def __init__(self, fleet: Fleet, scope: Scope) -> None:
        self.scope = scope
        self._fleet = fleet
        self._servers = fleet.servers(scope)
        self._contexts = fleet.contexts(self._servers)
        self._missing = fleet.runtime.missing()

    def of(self, app: App, store: str) -> tuple[Server, StoreContext] | None:
        """The app's server for a store; None where this machine cannot have it, so that the app has nothing there.

        Raises:
            ServerError, Refused: it cannot be asked.
        """
        for server in self._servers:
            if server.store == store and server.serves(app.id):
                context = self._contexts[server.name]
                if isinstance(context, MultidbError):
                    raise context
                return server, context
        names = set(self._fleet.runtime.names_for(app))
        for status in self._missing:
            if status.store == store and status.name in names:
                if status.state is ServerState.SKIPPED:
                    return None
                raise status.not_running()
        raise ServerDown("is not running", where=f"{store} of {app.id}", hint="start it: multidb up")


def targets_of(fleet: Fleet, addresses: Sequence[str]) -> list[Target]:
    """The targets with these addresses."""
    root, limit = Path(fleet.project.root), fleet.project.progress_timeout
    return [open_target(address, root, limit) for address in dict.fromkeys(addresses)]


def repository(fleet: Fleet, addresses: Sequence[str] | None = None) -> Repository:
    """The sets of the project, on these targets or on all that the manifest names."""
    if addresses is None:
        apps = fleet.project.apps.values()
        addresses = [*fleet.project.backup.to, *(target for app in apps for target in settings(fleet.project, app).to)]
    return Repository(fleet.project.name, targets_of(fleet, addresses), former_names(fleet.state))


def make_sets(
    engine: Engine,
    scope: Scope,
    *,
    to: Sequence[str] = (),
    quiesce: bool | None = None,
    reason: Reason = Reason.ASKED,
    remember: bool = True,
    files: bool | None = None,
    progress: Progress,
) -> list[BackupResult]:
    """A set of every app in scope. The caller holds `exclusively`.

    Args:
        to: the targets' addresses instead of those in the manifest.
        quiesce: whether logins are off meanwhile; None: as the manifest says.
        remember: whether they count as backups of the app; without, they are not encrypted, and no server is stopped
            for them.
        files: whether the apps' files belong to it; None: where all of their stores do.

    Raises:
        UsageError: an app or a store that is not there, a target that makes no sense. Nothing was made.
    """
    apps = [app for app in engine.project.apps.values() if scope.wants(app)]
    pairs = [(app, settings(engine.project, app)) for app in apps]
    if not remember:
        pairs = [(app, replace(own, recipients=())) for app, own in pairs]
    places = {app.id: targets_of(engine.fleet, to or own.to) for app, own in pairs}
    with_files = scope.stores is None if files is None else files
    locations = {app.id: locations_of(engine.project, app) for app in apps} if with_files else {}
    server_contexts = ServerContexts(engine.fleet, scope)

    def make(pair: tuple[App, Settings]) -> BackupResult:
        app, own = pair
        paused = own.quiesce if quiesce is None else quiesce
        maker = _Maker(engine, server_contexts, app, own, places[app.id], progress, paused=paused, may_stop=remember)
        if not remember:
            return maker.make(reason, locations.get(app.id, {}))
        made = BackupResult(app.id)
        try:
            made = maker.make(reason, locations.get(app.id, {}))
            if made.made is not None:
                _mark_names(engine, app, [target for target in places[app.id] if target.name not in made.errors])
            _remember(Journal(engine.state), made, [target.name for target in places[app.id]])
        except MultidbError as error:  # of what is written down; what other apps have is told all the same
            made = replace(made, errors={**made.errors, "state": error})
        return made

    return side_by_side(make, pairs, at_once=_APPS_AT_ONCE)


class _Maker:
    """One app's set."""

    def __init__(
        self,
        engine: Engine,
        server_contexts: ServerContexts,
        app: App,
        settings: Settings,
        targets: Sequence[Target],
        progress: Progress,
        *,
        paused: bool,
        may_stop: bool,
    ) -> None:
        self._engine = engine
        self._contexts_of = server_contexts
        self._app = app
        self._settings = settings
        self._targets = targets
        self._progress = progress
        self._paused = paused
        self._may_stop = may_stop
        self._journal = Journal(engine.state)
        self._absent: dict[str, str] = {}
        stores = server_contexts.scope.stores
        self._stores = [store for store in app.stores if stores is None or store in stores]
        known = self._journal.known(app.id).get("sizes", {})
        self._rate = Rate(progress, app.id, sum(known.get(store, 0) for store in self._stores))

    def make(self, reason: Reason, locations: Mapping[str, Location]) -> BackupResult:
        if (unfinished := self._unfinished()) is not None:
            return BackupResult(self._app.id, errors={"backup": unfinished})
        try:
            self._require_files(locations, reason)
        except ArchiveError as error:
            return BackupResult(self._app.id, errors={FILES: error})
        begun = exact_now()
        set_id = new_id(begun)
        folder = f"{self._engine.project.name}/{self._app.id}/{set_id}"
        errors: dict[str, MultidbError] = {}
        destinations = Destinations(self._targets, folder)
        self._journal.begin(MAKING, self._app.id, {"folder": folder, "to": [target.name for target in self._targets]})
        finished: BackupSet | None = None
        try:
            with pausing(self._engine, self._app, self._progress) if self._paused else contextlib.nullcontext():
                parts = self._parts(destinations, errors, enough=bool(locations))
                files = self._files(locations, destinations, errors)
            if not errors:
                finished = self._finished(set_id, parts, files, reason)
                text = finished.to_json()
                BackupSet.from_json(text, folder)  # what could not be read back would be no set
                destinations.write(MANIFEST, text)
        except MultidbError as error:
            finished = None
            errors.setdefault("backup", error)
        finally:
            half_made = [target for target in self._targets if finished is None or target.name in destinations.failed]
            if self._cleared(folder, half_made):
                with contextlib.suppress(MultidbError):  # a note that stays is the next run's; a whole set stays then
                    self._journal.end(MAKING, self._app.id)
        if finished is not None or not destinations.alive:
            errors = dict(destinations.failed)
        return BackupResult(self._app.id, finished, errors, (exact_now() - begun).total_seconds())

    def _unfinished(self) -> MultidbError | None:
        """Why there is no sense in a set of what the app has now."""
        where = f"app {self._app.id}"
        if self._app.id in self._journal.open(RESTORING):
            return Refused(
                "a restore of it is unfinished", where=where, hint="multidb restore SET --replace --no-safety-set"
            )
        closure = closures(self._engine.state).get(self._app.id)
        if closure is None or closure.whole or (closure.move is not None and self._comes_from(closure.move)):
            return None
        return Refused(closure.why, where=where, hint=closure.way_on)

    def _comes_from(self, move: PendingMove) -> bool:
        """Whether the set is one of the place that the app comes from, which is whole."""
        placed = provisioner(move.store).placed
        return move.phase is MovePhase.COPYING and placed is not None and placed(self._app, move.there) == self._app

    def _require_files(self, locations: Mapping[str, Location], reason: Reason) -> None:
        """Refuses a set without files that the newest one has: their folder is not mounted, or on another machine. It
        would count as whole, and the sets that have them would go in their time.

        Raises:
            ArchiveError: they are not there; or the newest set cannot be understood.
        """
        missing: list[str] = []
        for name, location in locations.items():
            with contextlib.suppress(ArchiveError):  # said when it is read
                missing += [name] if location.is_missing() else []
        if not missing or reason is Reason.SAFETY:  # which is one of what is there
            return
        home = Repository(self._engine.project.name, self._targets, former_names(self._engine.state))
        usual: list[Copy] = []
        for target in self._targets:
            with contextlib.suppress(ArchiveError):  # said when it is written
                usual += [copy for copy in home.on(target).copies([self._app.id]) if copy.usual]
        newest = max(usual, key=lambda copy: copy.id, default=None)
        if newest is None or newest.backup_set is None or newest.backup_set.files is None:
            return
        had = set(missing).intersection(names_in(newest.backup_set.files))
        if not had:
            return
        raise ArchiveError(
            f"not there, but in set {newest.id}: {listed([printable(name) for name in missing if name in had])}",
            where=f"app {self._app.id}",
            hint=f"make the set where they are, or bring them back: multidb restore {newest.app}/{newest.id} "
            f"--store {FILES} --replace; has the app none any more, make it an empty one",
        )

    def _files(
        self, locations: Mapping[str, Location], destinations: Destinations, errors: dict[str, MultidbError]
    ) -> StoredPart | None:
        """The app's files. They come last: what a store has been told of a file that is there is better than of one
        that is not there yet."""
        if not locations or errors:
            return None
        self._rate.doing = FILES
        self._progress(self._app.id, f"{FILES}: reading")
        writer = StoreWriter(FILES, destinations.create, self._settings.recipients, self._rate)
        try:
            with temporary_files():
                return StoredPart(write(locations, writer), tuple(writer.files))
        except MultidbError as error:
            errors[FILES] = error
            return None

    def _parts(
        self, destinations: Destinations, errors: dict[str, MultidbError], *, enough: bool
    ) -> dict[str, StoredPart]:
        """Those of its stores.

        Args:
            enough: there is something in the set without them.
        """
        parts = {}
        for store in self._stores:
            try:
                if part := self._part(store, destinations):
                    parts[store] = part
            except MultidbError as error:
                errors[store] = error
                break  # a set without one of its stores is none; the time for the others would be lost
        if not parts and not errors and not enough:
            errors["backup"] = ArchiveError(
                "none of its stores is to be had here", where=f"app {self._app.id}", hint="multidb status says why"
            )
        return parts

    def _part(self, store: str, destinations: Destinations) -> StoredPart | None:
        server_context = self._contexts_of.of(self._app, store)
        if server_context is None:
            self._absent[store] = "this machine cannot have such a server"
            return None
        server, context = server_context
        self._rate.doing = store
        self._progress(self._app.id, f"{store}: reading")
        writer = StoreWriter(store, destinations.create, self._settings.recipients, self._rate)
        opened = self._engine.fleet.archive(server, may_stop=self._may_stop)
        with opened as archive, temporary_files(), self._holding_up(archive, context):
            part = archive.backup(self._app, context, writer, self._progress)
        stored = StoredPart(part, tuple(writer.files))
        if not stored.size and any(part.measures.counts.values()):
            raise ArchiveError(
                "the store has data, and none was written", where=str(server), hint=f"multidb backup {self._app.id}"
            )
        return stored

    @contextlib.contextmanager
    def _holding_up(self, archive: Archive, context: StoreContext) -> Iterator[None]:
        """The app's logins are off during the block, where the server is going to be stopped in it."""
        if not isinstance(archive, OfflineArchive) or not archive.goes_offline(self._app, context, self._progress):
            yield
            return
        off = contextlib.nullcontext() if self._paused else pausing(self._engine, self._app, self._progress)
        with _STOPPING, off:
            yield

    def _finished(
        self, set_id: str, parts: Mapping[str, StoredPart], files: StoredPart | None, reason: Reason
    ) -> BackupSet:
        return BackupSet(
            id=set_id,
            project=self._engine.project.name,
            app=self._app.id,
            finished=utc_now(),
            multidb=__version__,
            parts=parts,
            declaration=declaration(self._app),
            recipients=self._settings.recipients,
            absent=self._absent,
            complete=self._stores == list(self._app.stores) and (files is not None or not self._app.files),
            quiesced=self._paused,
            reason=reason,
            files=files,
        )

    def _cleared(self, folder: str, targets: Sequence[Target]) -> bool:
        """Takes away what is half-made. Where a target cannot even do that, the note stays, and the next run tries."""
        home = Repository(self._engine.project.name, targets)
        gone = True
        for target in targets:
            try:
                home.remove(target, folder)
            except ArchiveError:
                gone = False
        return gone


def _mark_names(engine: Engine, app: App, targets: Sequence[Target]) -> None:
    """What the app was called before, on targets that were away when it was renamed, or are new."""
    names = former_names(engine.state)
    if any(name.new == app.id for name in names):
        for target in targets:
            with contextlib.suppress(ArchiveError):  # the set is whole without; the next one tries again
                Repository(engine.project.name, [target], names).mark_names(target)


def _remember(journal: Journal, made: BackupResult, targets: Sequence[str]) -> None:
    if made.errors:
        name, error = next(iter(made.errors.items()))
        journal.learn(made.app, failed={"when": utc_now().isoformat(), "message": f"{name}: {error}"})
    if made.made is None:
        return
    if made.errors:
        source = next(name for name in targets if name not in made.errors)
        journal.begin(COPYING, made.app, {"id": made.made.id, "from": source, "to": list(made.errors)})
    if made.made.complete:
        sizes = {name: part.size for name, part in made.made.all_parts.items()}
        journal.learn(made.app, newest=made.made.id, when=made.made.made.isoformat(), sizes=sizes)
        if not made.errors:
            journal.learn(made.app, failed=None)


@contextlib.contextmanager
def pausing(engine: Engine, app: App, progress: Progress) -> Iterator[None]:
    """The app's logins are off while the block runs, and on again afterwards, as the manifest has them.

    Raises:
        MultidbError: they could not be turned off, or not on again; then the next run tries, as does
            ``multidb apply --app APP``. Where the block has failed as well, its error is raised: it came first.
    """
    Journal(engine.state).begin(PAUSED, app.id, {})
    try:
        progress(app.id, "turning its logins off")
        turn_off(engine, app)
        yield
    except BaseException:
        progress(app.id, "turning its logins on")
        with contextlib.suppress(MultidbError):
            turn_on(engine, app.id)
        raise
    progress(app.id, "turning its logins on")
    turn_on(engine, app.id)


def turn_off(engine: Engine, app: App, stores: Collection[str] | None = None) -> None:
    """The app's logins are refused and its sessions ended, on every server; or on those of these stores."""
    for server in engine.fleet.servers(Scope(frozenset({app.id}), None if stores is None else frozenset(stores))):
        with _CHANGING:
            engine.fleet.suspend(app, server)


def turn_on(engine: Engine, app_id: str) -> None:
    """The logins of a paused app as the manifest has them, and the note of it taken out."""
    if app_id in engine.project.apps:  # removed meanwhile: its logins are meant to be off
        with _CHANGING:
            error = engine.apply(Scope(apps=frozenset({app_id}))).error()
        if error is not None:
            raise ServerError(
                f"its logins are still off: {error}", where=f"app {app_id}", hint=f"multidb apply --app {app_id}"
            )
    Journal(engine.state).end(PAUSED, app_id)
