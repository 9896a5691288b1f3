"""Verifies sets: each store's part is restored into a scratch place that no app can reach, measured, and compared with
what was measured when the set was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from multidb import __version__
from multidb.backup.app_files.part import load, names_in, tried
from multidb.backup.creation import ServerContexts
from multidb.backup.encryption import Identities
from multidb.backup.journal import VERIFYING, Journal
from multidb.backup.places import load as load_part
from multidb.backup.places import prepared_place
from multidb.backup.rate import Rate
from multidb.backup.repository import Copy, Repository, utc_now
from multidb.backup.sets import FILES, BackupSet, StoredPart, Verification
from multidb.errors import (
    ArchiveError,
    MultidbError,
    NeedsServer,
    NotAllowed,
    Refused,
    ServerError,
    TargetError,
    UsageError,
    WrongKey,
    WrongVersion,
)
from multidb.fleet import Fleet, Scope
from multidb.model import App, PlaceKind, Progress, Server, StoreContext
from multidb.provisioners import known_stores, provisioner

__all__ = ["Verified", "app_of", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of trying one copy of a set.

    Args:
        problem: why it could not even be tried; nothing is written down then.
    """

    copy: Copy
    verification: Verification | None = None
    problem: MultidbError | None = None

    @property
    def ok(self) -> bool:
        """Whether every store was restored and came out as it was measured."""
        return self.verification is not None and self.verification.ok


def verify(
    fleet: Fleet,
    home: Repository,
    copy: Copy,
    keys: Identities | None,
    progress: Progress,
    *,
    remember: bool = True,
) -> Verified:
    """Restores one copy of a set into scratch places, and writes down beside it what came of it.

    Servers or targets that are down, a key that is missing and a state that cannot be written say nothing about the
    set: they are its `problem`, and its mark stays as it was. The caller holds `exclusively`.

    Args:
        remember: whether it counts as a proof of the app's sets; a set that is made of a moment says nothing of them.
    """
    if copy.backup_set is None:
        return Verified(copy, problem=ArchiveError(copy.problem, where=copy.where, hint="take another set"))
    journal = Journal(fleet.state)
    try:
        trial = _Trial(fleet, home, copy, copy.backup_set, keys, progress)
        journal.begin(VERIFYING, trial.app.id, {"stores": trial.places()})
        try:
            trial.run()
        except ArchiveError:  # no server failed, so the scratch places are gone
            journal.end(VERIFYING, trial.app.id)
            raise
        journal.end(VERIFYING, trial.app.id)
        verification = Verification(
            copy.id, copy.backup_set.digest, utc_now(), __version__, trial.failures, trial.unverified
        )
        home.mark(copy, verification)
        if remember:
            _remember(journal, copy, verification)
    except (ServerError, ArchiveError, UsageError) as problem:  # of the last kind, what cannot be written down
        return Verified(copy, problem=problem)
    return Verified(copy, verification)


class _Trial:
    """One set being tried, store by store."""

    def __init__(
        self,
        fleet: Fleet,
        home: Repository,
        copy: Copy,
        backup_set: BackupSet,
        keys: Identities | None,
        progress: Progress,
    ) -> None:
        self._fleet = fleet
        self._home = home
        self._copy = copy
        self._backup_set = backup_set
        self._keys = keys
        self._progress = progress
        self.app = fleet.project.apps.get(copy.owner) or app_of(backup_set)
        self._rate = Rate(progress, copy.owner, backup_set.size)
        self._contexts_of = ServerContexts(fleet, Scope(stores=frozenset(backup_set.parts)))
        self.failures: dict[str, str] = {}
        self.unverified: dict[str, str] = {}

    def places(self) -> list[str]:
        """The stores that there is a server for."""
        return [store for store in self._backup_set.parts if self._server_context(store) is not None]

    def run(self) -> None:
        expected = set(self._backup_set.declaration.get("stores", ())) if self._backup_set.complete else set()
        for store in sorted(expected - set(self._backup_set.parts) - set(self._backup_set.absent)):
            self.failures[store] = "the set has nothing of it"
        for store in self._backup_set.parts:
            self._attempt(store, partial(self._try, store))
        if self._backup_set.files is not None:
            self._attempt(FILES, partial(self._try_files, self._backup_set.files))
        elif self._backup_set.complete and self._backup_set.declaration.get(FILES):
            self.failures[FILES] = "the set has nothing of them"

    def _attempt(self, name: str, trial: Callable[[], None]) -> None:
        try:
            trial()
        except (TargetError, WrongKey):
            raise
        except ArchiveError as error:
            self.failures[name] = str(error)

    def _try_files(self, stored: StoredPart) -> None:
        self._rate.doing = f"verifying {FILES}"
        self._progress(self._copy.owner, self._rate.doing)
        reader = self._home.reader(self._copy, FILES, self._keys, self._rate)
        with tried(names_in(stored), self._fleet.state) as new:
            load(stored, reader, new)

    def _try(self, store: str) -> None:
        self._rate.doing = f"verifying {store}"
        self._progress(self._copy.owner, self._rate.doing)
        reader = self._home.reader(self._copy, store, self._keys, self._rate)
        part = self._backup_set.parts[store]
        server_context = self._server_context(store)
        if server_context is None:
            reader.check()
            self.unverified[store] = "there is no server here to restore it on; its files are as they were written"
            return
        server, context = server_context
        try:
            with prepared_place(self._fleet, PlaceKind.SCRATCH, server, self.app, context, self._progress) as scratch:
                load_part(scratch, part, reader, self._progress)
        except (NeedsServer, NotAllowed, Refused, WrongVersion) as error:  # of this server, not of the set
            reader.check()
            self.unverified[store] = f"{error}; its files are as they were written"

    def _server_context(self, store: str) -> tuple[Server, StoreContext] | None:
        try:
            return self._contexts_of.of(self.app, store)
        except ServerError:
            if self._copy.owner in self._fleet.project.apps:  # then its server should be there
                raise
            return None


def app_of(backup_set: BackupSet) -> App:
    """The app as it was when the set was made.

    Raises:
        ArchiveError: its declaration is not what this multidb understands.
    """
    entry: Mapping[str, Any] = backup_set.declaration
    try:
        stores = {
            store: provisioner(store).app_options.model_validate(entry.get(store) or {})
            for store in entry.get("stores", ())
            if store in known_stores()
        }
    except ValidationError as error:
        raise ArchiveError(
            f"its declaration of the app is not understood: {error.errors()[0]['msg']}", where=backup_set.folder
        ) from None
    return App(backup_set.app, entry.get("tenant_id", backup_set.app), stores)


def _remember(journal: Journal, copy: Copy, verification: Verification) -> None:
    if verification.ok:
        newest = max(journal.known(copy.owner).get("verified_set", ""), copy.id)
        journal.learn(copy.owner, verified=verification.when.isoformat(), verified_set=newest, bad=None)
    elif verification.failures:
        first = next(iter(verification.failures.items()))
        journal.learn(copy.owner, bad={"id": copy.id, "message": f"{first[0]}: {first[1]}"})
    elif journal.known(copy.owner).get("bad", {}).get("id", copy.id) <= copy.id:  # nothing is known to be wrong with it
        journal.learn(copy.owner, tried=verification.when.isoformat(), bad=None)
