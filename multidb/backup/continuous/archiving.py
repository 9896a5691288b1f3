"""Taking away what servers have written since the last time: one round, for a timer, cron or the sidecar.

No process of ours stays at a server between two rounds: it keeps its log until it was taken. A round takes what there
is, brings it to every target, and only then lets the server forget it. Interrupted anywhere, the next one does again
what was not acknowledged.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from multidb.age_keys import recipient_problem
from multidb.backup.continuous.catalog import LogPosition, Positions, base_text, positions_text, read_positions, thinned
from multidb.backup.continuous.kept import expire_copies
from multidb.backup.continuous.lag import SECTION
from multidb.backup.continuous.layout import BASE, POSITIONS, base_folder, log_path, mac_of, server_folder, slot
from multidb.backup.continuous.pruning import prune
from multidb.backup.creation import targets_of
from multidb.backup.places import temporary_files
from multidb.backup.repository import Destinations, exact_now
from multidb.backup.set_ids import new_id
from multidb.backup.streams import StoreWriter
from multidb.document import Unreadable, moment
from multidb.engine import Engine
from multidb.errors import ArchiveError, MultidbError, TargetError, UsageError
from multidb.fleet import Scope
from multidb.model import ContinuousArchive, Progress, Project, Received, Server
from multidb.model.options import Continuous
from multidb.secrets import Secret, SecretRef, generate
from multidb.state import ProjectState

__all__ = ["Round", "archive_servers", "archived_servers", "signing_key"]

_EARLY: Final = 0.02  # of an interval: a timer that fires a moment early must not lose a whole turn
_CHUNK: Final = 1 << 20
_NEXT: Final = "put that right; the server keeps its log until then, and the next run takes it: multidb backup --due"


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round at one server.

    Args:
        files: of its log, how many were archived.
        base: the base backup that was made; empty: none was due.
        began: why its archive has no moment from before; empty: it goes on.
        removed: files that need not stay any more.
    """

    server: str
    files: int = 0
    base: str = ""
    began: str = ""
    removed: int = 0
    error: MultidbError | None = None

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "server": self.server,
            "files": self.files,
            "base": self.base or None,
            "began": self.began or None,
            "removed": self.removed,
            "error": self.error.document() if self.error is not None else None,
        }


def archived_servers(engine: Engine) -> list[Server]:
    """The servers that the manifest wants archived, and that have an address."""
    backup = engine.project.backup
    return [server for server in engine.fleet.servers(Scope()) if backup.continuous(server.store).continuous]


def signing_key(state: ProjectState, server: Server) -> Secret | None:
    """What signs the archive of a server; None: it has none yet."""
    return state.secrets.get(_key_ref(server))


def archive_servers(engine: Engine, progress: Progress) -> list[Round]:
    """One round at every server that the manifest wants archived, and an end of it where it does not any more. What
    fails at one costs the others nothing.

    Raises:
        Locked: another round is under way.
    """
    state, project = engine.state, engine.project
    expire_copies(engine, exact_now())
    noted = set(state.read(SECTION))
    desired = {server.name for server in archived_servers(engine)}
    if not noted | desired:
        return []
    rounds = []
    with state.lock("continuous", "multidb, archiving"):
        for server in engine.fleet.servers(Scope(idle=True)):
            if server.name in desired:
                rounds.append(_Archiving(engine, server, project.backup.continuous(server.store), progress).round())
            elif server.name in noted:
                rounds.append(_ended(engine, server))
    return rounds


def _ended(engine: Engine, server: Server) -> Round:
    """What is archived stays; the server need not keep anything for it any more."""
    try:
        archive = engine.fleet.continuous(server)
        if archive is not None:
            with archive:
                archive.end(slot(engine.project.name))
        with engine.state.change(SECTION) as section:
            section.pop(server.name, None)
        shutil.rmtree(_spool(engine.state, server.name), ignore_errors=True)
    except MultidbError as error:
        return Round(server.name, error=error)
    return Round(server.name)


class _Archiving:
    """One round at one server."""

    def __init__(self, engine: Engine, server: Server, options: Continuous, progress: Progress) -> None:
        self._engine = engine
        self._state = engine.state
        self._server = server
        self._options = options
        self._progress = progress
        self._slot = slot(engine.project.name)
        self._folder = server_folder(engine.project.name, server.name)
        self._done = Round(server.name)

    def round(self) -> Round:
        """Whatever goes wrong is in the answer, and in the state for `multidb health`."""
        try:
            with temporary_files():
                self._work()
            with self._state.change(SECTION) as section:
                section.get(self._server.name, {}).pop("failed", None)
        except (MultidbError, OSError) as error:
            problem = error if isinstance(error, MultidbError) else _unusable(error)
            problem.hint = problem.hint or _NEXT
            self._done = replace(self._done, error=problem)
            with suppress(MultidbError), self._state.change(SECTION) as section:
                if (note := section.get(self._server.name)) is not None:
                    note["failed"] = {"when": exact_now().isoformat(), "message": problem.sentence()}
        return self._done

    def _work(self) -> None:
        self._recipients = _recipients(self._engine.project, self._server)
        self._targets = targets_of(self._engine.fleet, self._engine.project.backup.to)
        self._key = self._signing_key()
        archive = self._engine.fleet.continuous(self._server)
        assert archive is not None  # the manifest takes the option for no other store
        with archive:
            identity = archive.identity()
            new = archive.begin(self._slot)
            note = self._note()
            if note is None:
                note = self._begin(identity, "")
            elif note["identity"] != identity:
                note = self._begin(identity, "the server has other data than before")
            elif new:
                note = self._begin(identity, "the server had dropped some of its log before it was taken")
            elif note["last"] and not self._is_everywhere(note):
                note = self._begin(identity, "a target does not have what was archived before")
            note = self._take(archive, note)
            if self._base_due(note):
                # It is none without the log up to its end, which a round that goes on after this one has to take, too.
                note = {**note, "snapshot": ""}
                self._remember(note)
                base = self._base(archive, note)
                note = self._take(archive, note)
                self._remember({**note, "base": base.isoformat(), "base_id": self._done.base})
                removed = [
                    prune(target, self._folder, note["stream"], self._key, self._options.keep, exact_now())
                    for target in self._targets
                ]
                self._done = replace(self._done, removed=sum(removed))

    # ---------------------------------------------------------------------------------------------------------------

    def _signing_key(self) -> Secret:
        ref = _key_ref(self._server)
        key = self._state.secrets.get(ref)
        if key is None:
            key = generate()
            self._state.secrets.put({ref: key})
        return key

    def _note(self) -> dict[str, Any] | None:
        note = self._state.read(SECTION).get(self._server.name)
        return dict(note) if note is not None else None

    def _is_everywhere(self, note: Mapping[str, Any]) -> bool:
        """Whether each target has the stream and its base backup; one may be new, or another disk."""
        for target in self._targets:
            try:
                read_positions(target, f"{self._folder}/{note['stream']}", self._key)
                if note.get("base_id") is not None:
                    path = f"{self._folder}/{base_folder(note['stream'], note['base_id'])}/{BASE}"
                    with target.open(path):
                        pass
            except TargetError:
                raise
            except (ArchiveError, Unreadable):
                return False
        return True

    def _begin(self, identity: str, why: str) -> dict[str, Any]:
        """A new stream: what was written before is not in it."""
        now = exact_now()
        note = {"stream": new_id(now), "identity": identity, "last": "", "snapshot": "", "since": now.isoformat()}
        self._remember(note)
        shutil.rmtree(_spool(self._state, self._server.name), ignore_errors=True)
        self._done = replace(self._done, began=why)
        return note

    def _take(self, archive: ContinuousArchive, note: dict[str, Any]) -> dict[str, Any]:
        """Brings to the targets what the server has written, and lets it forget that."""
        spool = _spool(self._state, self._server.name)
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        received = archive.receive(self._slot, spool, note["snapshot"])
        if note["last"] and received.files and not _follows(archive, note["last"], received.files[0]):
            note = {**note, **_renewed()}
            self._done = replace(self._done, began="some of the server's log was taken by somebody else, or lost")
        folder = f"{self._folder}/{note['stream']}"
        names = (*received.beside, *received.files)
        for number, name in enumerate(names):
            self._progress(self._server.name, "archiving", float(number), float(len(names)))
            self._ship(spool / name, folder)
        self._write_positions(folder, note, received)
        last = max(received.files, default=note["last"])
        note = {**note, "last": last, "snapshot": received.snapshot, "when": received.when.isoformat()}
        self._remember(note)  # before the server forgets it: what comes after that would look like a gap
        archive.acknowledge(self._slot, received)
        for name in names:
            (spool / name).unlink(missing_ok=True)
        self._done = replace(self._done, files=self._done.files + len(received.files))
        return note

    def _remember(self, note: Mapping[str, Any]) -> None:
        with self._state.change(SECTION) as section:
            section[self._server.name] = dict(note)

    def _ship(self, path: Path, folder: str) -> None:
        mac = mac_of(self._key, f"{folder}/{path.name}")
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                mac.update(data)
            file.seek(0)
            destinations = Destinations(self._targets, folder)
            writer = StoreWriter("log", destinations.create, self._recipients)
            with writer.file(log_path(path.name, mac.hexdigest())) as out:
                shutil.copyfileobj(file, out, _CHUNK)
        _require_all(destinations)

    def _write_positions(self, folder: str, note: Mapping[str, Any], received: Received) -> None:
        known = read_positions(self._targets[0], folder, self._key).entries if note["last"] else ()
        entries = [*known, LogPosition(received.when, max(received.files))] if received.files else list(known)
        positions = Positions(note["identity"], received.when, thinned(entries, received.when))
        destinations = Destinations(self._targets, folder)
        destinations.write(POSITIONS, positions_text(positions, self._key, folder))
        _require_all(destinations)

    def _base_due(self, note: Mapping[str, Any]) -> bool:
        last = note.get("base")
        return last is None or exact_now() - moment(last) >= self._options.base_every * (1 - _EARLY)

    def _base(self, archive: ContinuousArchive, note: Mapping[str, Any]) -> datetime:
        begun = exact_now()
        base_id = new_id(begun)
        folder = f"{self._folder}/{base_folder(note['stream'], base_id)}"
        self._progress(self._server.name, "base backup")
        destinations = Destinations(self._targets, folder)
        writer = StoreWriter("data", destinations.create, self._recipients)
        base = archive.base(writer, self._progress)
        _require_all(destinations)
        destinations.write(BASE, base_text(base, tuple(writer.files), self._key, folder))
        _require_all(destinations)
        self._done = replace(self._done, base=base_id)
        return begun


def _renewed() -> dict[str, Any]:
    now = exact_now()
    return {"stream": new_id(now), "last": "", "since": now.isoformat(), "base": None, "base_id": None}


def _follows(archive: ContinuousArchive, last: str, first: str) -> bool:
    """Whether nothing is missing between two files of the log; the same again, and earlier ones, are no gap."""
    return first <= last or first in archive.next_file(last)


def _require_all(destinations: Destinations) -> None:
    """A stream is whole on each target, or the server keeps what is missing."""
    if destinations.failed:
        raise next(iter(destinations.failed.values()))


def _recipients(project: Project, server: Server) -> tuple[str, ...]:
    """For whom the archive is encrypted: it holds what all apps of the server write.

    Raises:
        UsageError: an app's sets are encrypted, and the archive would not be; or a recipient is no key.
    """
    shared = project.backup.encrypt
    if shared is None:
        for app in project.apps_with(server.store):
            if server.serves(app.id) and app.backup.encrypt is not None:
                raise UsageError(
                    f"the sets of app {app.id} are encrypted, and its server's archive would hold the same in plain",
                    where=project.file,
                    hint="encrypt for everybody: backup: {encrypt: {recipients: [...]}}",
                )
        return ()
    for recipient in shared.recipients:
        if problem := recipient_problem(recipient):
            raise UsageError(f"backup.encrypt: {recipient[:20]!r} {problem}", where=project.file)
    return shared.recipients


def _spool(state: ProjectState, server: str) -> Path:
    """Where the server's log is until it is on the targets."""
    return state.folder.resolve() / "continuous" / server


def _key_ref(server: Server) -> SecretRef:
    return SecretRef(f"@{server.name}", server.store, "archive")


def _unusable(error: OSError) -> MultidbError:
    return TargetError(
        f"cannot be written: {error.strerror or type(error).__name__}",
        where=str(error.filename) if error.filename else None,
        hint="free space or correct the permissions; the next run goes on",
    )
