"""Sets on targets: writing one to several at once, finding them, reading them, removing them."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from multidb.backup.encryption import Identities
from multidb.backup.names import NAMES, names_in, names_text
from multidb.backup.set_ids import is_set_id, made_at
from multidb.backup.sets import LARGEST, MANIFEST, VERIFIED, BackupSet, Reason, Verification
from multidb.backup.streams import StoreReader, Upload
from multidb.backup.targets import Target
from multidb.document import APP_ID, in_future
from multidb.errors import ArchiveError, MultidbError, TargetError, UsageError
from multidb.renames import FormerName, owner_of

__all__ = ["Copy", "Destinations", "HalfMade", "Repository"]

_AT_ONCE: Final = 8  # manifests read side by side
_PARSING: Final = threading.Lock()  # a hostile document takes many times its size of memory until it is refused
_ABANDONED: Final = timedelta(days=1)  # nobody takes longer for one set
_APP: Final = re.compile(APP_ID)

_Stored = tuple[Target, str, str, bool]  # where, app, set id, whether a verification is beside it


@dataclass(frozen=True, slots=True)
class Copy:
    """One set as it lies on one target. `problem` is set instead of `backup_set` when its manifest cannot be read.

    Args:
        app: what its app was called when it was made.
        owner: what that app is called now.
        names: the names that apps had before, as far as whoever found it knows.
    """

    target: Target
    app: str
    id: str
    backup_set: BackupSet | None
    verification: Verification | None = None
    problem: str = ""
    owner: str = ""
    names: frozenset[FormerName] = frozenset()

    def __post_init__(self) -> None:
        if not self.owner:
            object.__setattr__(self, "owner", self.app)

    @property
    def verified(self) -> bool:
        """Whether this very set was restored once, and came out as it was measured."""
        return self.tried is not None and self.tried.ok

    @property
    def tried(self) -> Verification | None:
        """What came of trying this very set; None when nobody has, or what lies beside it is about another."""
        mark = self.verification
        return (
            mark if self.backup_set is not None and mark is not None and mark.digest == self.backup_set.digest else None
        )

    @property
    def usual(self) -> bool:
        """Whether it is what somebody means who names the app alone: whole, and not what a restore put aside."""
        return self.backup_set is not None and self.backup_set.complete and self.backup_set.reason is not Reason.SAFETY

    @property
    def where(self) -> str:
        """App, id and target, for messages."""
        return f"{self.target.name.rstrip('/')} {self.app}/{self.id}"


@dataclass(frozen=True, slots=True)
class HalfMade:
    """Files of what was never finished, or is half removed: no manifest is beside them."""

    target: Target
    folder: str
    id: str

    def abandoned(self, now: datetime) -> bool:
        """Whether it is too old to be on its way still."""
        return abs(made_at(self.id) - now) > _ABANDONED  # one that is dated in the future was begun by a wrong clock


class Destinations:
    """Several targets written as one. One that fails is left out from then on, and the others go on."""

    def __init__(self, targets: Sequence[Target], folder: str) -> None:
        self._folder = folder
        self.alive: dict[str, Target] = {target.name: target for target in targets}
        self.failed: dict[str, MultidbError] = {}

    def create(self, path: str) -> Upload:
        """A file that goes to every target that has not failed yet. `ArchiveError` when none is left."""
        uploads: dict[str, Upload] = {}
        for name, target in list(self.alive.items()):
            with self._blaming(name):
                uploads[name] = target.create(f"{self._folder}/{path}")
        return _FanOut(self, uploads)

    def write(self, path: str, text: str) -> None:
        """Writes a small file, whole, on every target."""
        upload = self.create(path)
        try:
            upload.write(text.encode())
            upload.commit()
        except BaseException:
            upload.abort()
            raise

    def on_all(self, uploads: dict[str, Upload], act: Callable[[Upload], None]) -> None:
        """Does `act` with each upload, drops those that fail; `ArchiveError` when none is left."""
        for name, upload in list(uploads.items()):
            with self._blaming(name):
                act(upload)
            if name in self.failed:
                uploads.pop(name).abort()
        if not uploads:
            raise ArchiveError("; ".join(str(error) for error in self.failed.values()))

    @contextlib.contextmanager
    def _blaming(self, name: str) -> Iterator[None]:
        try:
            yield
        except ArchiveError as error:
            self.failed[name] = error
            self.alive.pop(name, None)


class _FanOut:
    """One file on its way to several targets."""

    def __init__(self, destinations: Destinations, uploads: dict[str, Upload]) -> None:
        self._destinations = destinations
        self._uploads = uploads
        self._on_all(lambda upload: None)

    def write(self, data: bytes) -> None:
        self._on_all(lambda upload: upload.write(data))

    def commit(self) -> None:
        self._on_all(lambda upload: upload.commit())

    def abort(self) -> None:
        for upload in self._uploads.values():
            upload.abort()

    def _on_all(self, act: Callable[[Upload], None]) -> None:
        self._destinations.on_all(self._uploads, act)


class Repository:
    """The sets of one project on some targets.

    Args:
        names: what is known here of the names that apps had before, beside what stands on the targets.
    """

    def __init__(self, project: str, targets: Sequence[Target], names: Iterable[FormerName] = ()) -> None:
        self.project = project
        self.targets = tuple(targets)
        self._names = frozenset(names)

    def copies(self, apps: Iterable[str] | None = None, most: int | None = None) -> list[Copy]:
        """Every set, once per target that has it, newest first. A target that cannot be read is an `ArchiveError`.

        Args:
            apps: only theirs, also what they have from under an earlier name.
            most: of each app so many of the newest on each target; None: all.
        """
        app_ids = None if apps is None else set(apps)
        stored: list[_Stored] = []
        names = self._names
        for target in self.targets:
            try:
                sets, marked = self._contents(target)
                names |= {name for app in marked for name in self._names_on(target, app)}
                stored += [(target, app, set_id, VERIFIED in files) for app, set_id, files in sets if MANIFEST in files]
            except TargetError as error:
                # The others may have older sets only: nobody goes on with them without having said so.
                if others := [other.name for other in self.targets if other is not target]:
                    error.hint = f"{error.hint or 'correct that'}; or go without it: --from {others[0]}"
                raise
        owners = {(app, set_id): owner_of(app, made_at(set_id), names) for _, app, set_id, _ in stored}
        if app_ids is not None:
            stored = [entry for entry in stored if owners[entry[1], entry[2]] in app_ids]
        if most is not None:
            stored = _newest(stored, owners, most)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            unsorted = list(pool.map(lambda entry: self._copy(*entry), stored))
        copies = [replace(copy, owner=owners[copy.app, copy.id], names=names) for copy in unsorted]
        return sorted(copies, key=lambda copy: copy.id, reverse=True)

    def on(self, target: Target) -> Repository:
        """Those of one target alone."""
        return Repository(self.project, [target], self._names)

    def half_made(self) -> list[HalfMade]:
        """What looks like a set and has no manifest: being made, given up, or half removed."""
        return [
            HalfMade(target, f"{self.project}/{app}/{set_id}", set_id)
            for target in self.targets
            for app, set_id, files in self._contents(target, unfinished=True)[0]
            if MANIFEST not in files
        ]

    def find(self, name: str) -> Copy:
        """The set called `name`: its id, the beginning of it, ``APP/ID``, or an app for its newest set
        (of all its stores, and not one that a restore has put aside). APP is what its app is called now, or was when
        it was made.

        Raises:
            UsageError: there is none, or several.
        """
        app, _, prefix = name.rpartition("/")
        copies = [copy for copy in self.copies() if app in ("", copy.app, copy.owner)]
        matching = [copy for copy in copies if copy.id.startswith(prefix)]
        if not matching and not app:
            meant = prefix.replace("-", "_")
            of_app = [copy for copy in copies if copy.owner == meant]
            of_app = of_app or [copy for copy in copies if copy.app == meant]
            usual, now = [copy for copy in of_app if copy.usual], utc_now()
            known = [
                copy for copy in usual if not in_future(made_at(copy.id), now)
            ]  # of the others nobody knows the age
            matching = known[:1] or usual[:1] or of_app[:1]
        if not matching:
            raise UsageError(f"there is no backup set {name!r}", hint="multidb backups list shows those there are")
        if len({(copy.app, copy.id) for copy in matching}) > 1:
            several = ", ".join(sorted({f"{copy.app}/{copy.id}" for copy in matching})[:4])
            raise UsageError(f"{name!r} may be several sets: {several}", hint="write more of the id")
        return next((copy for copy in matching if copy.backup_set), matching[0])

    def reader(
        self, copy: Copy, store: str, keys: Identities | None, counted: Callable[[int], None] = lambda size: None
    ) -> StoreReader:
        """The files of one store of a set, or those of `FILES`."""
        assert copy.backup_set is not None
        folder = copy.backup_set.folder

        def open_stored(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
            return copy.target.open(f"{folder}/{path}")

        return StoreReader(copy.backup_set.all_parts[store].files, open_stored, keys, copy.where, counted)

    def mark(self, copy: Copy, verification: Verification) -> None:
        """Writes down beside the set what came of trying it."""
        folder = f"{self.project}/{copy.app}/{copy.id}"
        Destinations([copy.target], folder).write(VERIFIED, verification.to_json())

    def mark_names(self, target: Target) -> None:
        """Writes down beside the apps' sets what they were called before, as far as it is known here and does not stand
        there already. `ArchiveError` when the target does not let it be done."""
        for app in sorted({name.new for name in self._names}):
            own = {name for name in self._names if name.new == app}
            there = set(self._names_on(target, app))
            if own - there:
                destinations = Destinations([target], f"{self.project}/{app}")
                destinations.write(NAMES, names_text(app, own | there))

    def _names_on(self, target: Target, app: str) -> tuple[FormerName, ...]:
        """What stands there of the names that the app had before; nothing where nothing does."""
        try:
            return names_in(_read(target, f"{self.project}/{app}/{NAMES}"), app)
        except ArchiveError:
            return ()

    def remove(self, target: Target, folder: str) -> None:
        """Removes a set or what is left of one. Its manifest goes first: half removed, it is no set any more."""
        target.delete(f"{folder}/{MANIFEST}")
        for path, _ in list(target.list(folder)):
            target.delete(path)
        target.sweep(folder)

    def _contents(
        self, target: Target, *, unfinished: bool = False
    ) -> tuple[list[tuple[str, str, set[str]]], list[str]]:
        """App, set id and file names of every folder that is named like a set; and the apps of which it says what they
        were called before."""
        files: dict[tuple[str, str], set[str]] = {}
        marked: list[str] = []
        paths = [path for path, _ in target.list(self.project)]
        for path in [*paths, *(target.unfinished(self.project) if unfinished else ())]:
            parts = PurePosixPath(path).parts[1:]
            if len(parts) >= 3 and _APP.fullmatch(parts[0]) and is_set_id(parts[1]):
                files.setdefault((parts[0], parts[1]), set()).add("/".join(parts[2:]))
            elif len(parts) == 2 and _APP.fullmatch(parts[0]) and parts[1] == NAMES:
                marked.append(parts[0])
        return [(app, set_id, names) for (app, set_id), names in files.items()], marked

    def _copy(self, target: Target, app: str, set_id: str, marked: bool) -> Copy:
        folder = f"{self.project}/{app}/{set_id}"
        where = f"{target.name.rstrip('/')} {app}/{set_id}"
        try:
            text = _read(target, f"{folder}/{MANIFEST}")
            with _PARSING:
                backup_set = BackupSet.from_json(text, where)
            if (backup_set.project, backup_set.app, backup_set.id) != (self.project, app, set_id):
                raise ArchiveError(f"is the manifest of {backup_set.folder}", where=where)
        except ArchiveError as error:
            return Copy(target, app, set_id, None, problem=error.message)
        mark = None
        if marked:
            with contextlib.suppress(ArchiveError):  # then it counts as not verified
                mark = Verification.from_json(_read(target, f"{folder}/{VERIFIED}"))
        return Copy(target, app, set_id, backup_set, mark)


def _newest(stored: Iterable[_Stored], owners: Mapping[tuple[str, str], str], most: int) -> list[_Stored]:
    """The newest of each app on each target.

    Args:
        owners: by app and set id, what the app is called now.
    """
    groups: dict[tuple[str, str], list[_Stored]] = {}
    for entry in stored:
        groups.setdefault((entry[0].name, owners[entry[1], entry[2]]), []).append(entry)
    return [entry for entries in groups.values() for entry in sorted(entries, key=lambda entry: entry[2])[-most:]]


def _read(target: Target, path: str) -> bytes:
    with target.open(path) as file:
        return file.read(LARGEST + 1)


def exact_now() -> datetime:
    """Now, in UTC, to the microsecond: for what has to be told from what was made in the same second."""
    return datetime.now(UTC)


def utc_now() -> datetime:
    """Now, in UTC, without the parts of a second."""
    return exact_now().replace(microsecond=0)
