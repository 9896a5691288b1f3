"""What a moment is come to from: of what multidb has archived, or of what another tool has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from multidb.backup.continuous.archiving import signing_key
from multidb.backup.continuous.catalog import Archived, Base, Stream, archived
from multidb.backup.continuous.kept import KeptCopy
from multidb.backup.continuous.layout import base_folder, place_of
from multidb.backup.creation import targets_of
from multidb.backup.encryption import Identities
from multidb.backup.streams import StoreReader
from multidb.engine import Engine
from multidb.errors import MultidbError, UsageError
from multidb.model import BaseBackup, BaseFiles, Server, moment_in_words
from multidb.provisioners import known_stores, provisioner
from multidb.secrets import Secret

__all__ = [
    "ForeignAddress",
    "Origin",
    "archived_origin",
    "foreign_address",
    "foreign_origin",
    "windows_of",
]


@dataclass(frozen=True, slots=True)
class ForeignAddress:
    """Where another tool's archive is: ``barman:/var/lib/barman/main``."""

    tool: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.tool}:{self.folder}"


def foreign_address(targets: Sequence[str] | None) -> ForeignAddress | None:
    """The one of another tool among addresses of targets; None: there is none.

    Raises:
        UsageError: it stands beside others.
    """
    for address in targets or ():
        tool, _, folder = address.partition(":")
        if folder and any(tool in provisioner(store).foreign_archives for store in known_stores()):
            if len(targets or ()) > 1:
                raise UsageError(f"{address} is an archive of its own", where="--from", hint=f"--from {address} alone")
            return ForeignAddress(tool, Path(folder).absolute())
    return None


def windows_of(engine: Engine, server: Server, targets: Sequence[str] | None = None) -> list[Archived]:
    """What each target has of a server."""
    key = signing_key(engine.state, server)
    addresses = targets or engine.project.backup.to
    return [archived(target, engine.project.name, server.name, key) for target in targets_of(engine.fleet, addresses)]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a moment is come to from.

    Args:
        stream, id: what tells the base backup from any other.
        last: the last of the log's files that is needed.
    """

    stream: str
    id: str
    base: BaseBackup
    files: BaseFiles
    last: str


def archived_origin(
    engine: Engine,
    server: Server,
    moment: datetime,
    targets: Sequence[str] | None,
    kept: KeptCopy | None,
    keys: Identities | None,
) -> Origin | None:
    """The stream that has the moment, and the newest base backup from before it; those of the copy that is gone on
    from."""
    for there in windows_of(engine, server, targets):
        for stream in there.streams:
            window = stream.window
            if window is not None and window.since <= moment <= window.until:
                bases = [base for base in stream.usable if base.base is not None and base.base.ended <= moment]
                if kept is not None:
                    bases = [base for base in bases if (stream.id, base.id) == (kept.stream, kept.base)]
                if bases:
                    base, key = bases[-1], signing_key(engine.state, server)
                    assert key is not None
                    assert base.base is not None
                    source = _ArchivedFiles(stream, base, moment, key, keys)
                    return Origin(stream.id, base.id, base.base, source, source.last)
    return None


def foreign_origin(
    engine: Engine, server: Server, address: ForeignAddress, moment: datetime, kept: KeptCopy | None
) -> Origin:
    """The newest base backup of another tool from before the moment. `UsageError` where there is none."""
    details: Mapping[str, object] = {}
    with suppress(MultidbError):  # it may be gone for good
        live = engine.fleet.continuous(server)
        if live is not None:
            with live:
                details = live.details()
    archive = provisioner(server.store).foreign_archives[address.tool](address.folder, details)
    bases = archive.bases()
    before = [base for base in bases if not base.problem and base.base.ended <= moment]
    if kept is not None:
        before = [base for base in before if (str(address), base.id) == (kept.stream, kept.base)]
    if not before:
        problems = [f"{base.id}: {base.problem}" for base in bases if base.problem]
        first = next((base.base.ended for base in bases if not base.problem), None)
        hint = (
            f"its first moment is {moment_in_words(first)}"
            if first is not None
            else "it has no base backup to begin with"
        )
        raise UsageError(
            f"{address} has no base backup from before {moment_in_words(moment)} that can be read",
            where="--at",
            hint="; ".join((hint, *problems[-2:])),
        )
    files, last = archive.files(before[-1], moment)
    return Origin(str(address), before[-1].id, before[-1].base, files, last)


class _ArchivedFiles:
    """What is read of a target to bring a server up (`BaseFiles`)."""

    def __init__(self, stream: Stream, base: Base, moment: datetime, key: Secret, keys: Identities | None) -> None:
        self._stream = stream
        self._base = base
        self._key = key
        self._keys = keys
        folder = f"{stream.folder.rpartition('/')[0]}/{base_folder(stream.id, base.id)}"
        where = f"{stream.target.name.rstrip('/')} {folder}"

        def open_stored(path: str) -> AbstractContextManager[BinaryIO]:
            return stream.target.open(f"{folder}/{path}")

        self._reader = StoreReader(base.files, open_stored, keys, where)
        assert stream.positions is not None
        entries = stream.positions.entries
        enough = [entry.file for entry in entries if entry.when >= moment]
        self.last = enough[0] if enough else max((entry.file for entry in entries), key=place_of)

    def names(self) -> Sequence[str]:
        return self._reader.names()

    def file(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self._reader.file(name)

    def log(self) -> Iterator[tuple[str, AbstractContextManager[BinaryIO]]]:
        assert self._base.base is not None
        first, last = place_of(self._base.base.first), place_of(self.last)
        for name, file in sorted(self._stream.log.items()):
            if not file.is_segment or first <= file.place <= last:
                yield name, self._stream.open_log(file, self._key, self._keys)
