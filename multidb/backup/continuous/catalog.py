"""What is archived of a server, read from a target: streams, their base backups, and the window of moments that an app
can be brought back to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, BinaryIO, Final, Literal, cast

from pydantic import Field, JsonValue, TypeAdapter

from multidb.backup.continuous.layout import (
    BASE,
    POSITIONS,
    LogFile,
    base_folder,
    mac_of,
    server_folder,
    signed,
    verified,
)
from multidb.backup.encryption import Identities
from multidb.backup.set_ids import is_set_id
from multidb.backup.sets import FileDocument, StoredFile
from multidb.backup.streams import unpacked
from multidb.backup.targets import Target
from multidb.document import Unreadable, parse
from multidb.errors import ArchiveError
from multidb.model import BaseBackup, time_in_words
from multidb.secrets import Secret
from multidb.validation import Document, Moment, validated

__all__ = [
    "Archived",
    "Base",
    "LogPosition",
    "Positions",
    "Stream",
    "Window",
    "archived",
    "archived_in",
    "base_text",
    "positions_text",
    "read_positions",
    "thinned",
]

_LARGEST: Final = 32 * 1024**2  # bytes of a document that is read
_DENSE: Final = timedelta(hours=1)  # so long every position is kept
_SPARSE: Final = timedelta(minutes=15)  # between two older ones
_HINT: Final = "take the archive of another target: --from"


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Whatever was committed until `when` stands in the log's files up to `file`."""

    when: datetime
    file: str


@dataclass(frozen=True, slots=True)
class Positions:
    """What of a server's log a stream has.

    Args:
        identity: of the server's data.
        until: whatever was committed until then is there.
        entries: how far the log goes at some moments, the oldest first.
    """

    identity: str
    until: datetime
    entries: tuple[LogPosition, ...]


@dataclass(frozen=True, slots=True)
class Base:
    """A base backup as it lies on a target.

    Args:
        files: what it consists of.
        problem: why it cannot be used; then the rest says nothing.
    """

    id: str
    base: BaseBackup | None
    files: tuple[StoredFile, ...] = ()
    problem: str = ""

    @property
    def stored_size(self) -> int:
        return sum(file.stored_size for file in self.files)


@dataclass(frozen=True, slots=True)
class Window:
    """The moments that can be gone back to without a gap: both are ends of it."""

    since: datetime
    until: datetime

    def __str__(self) -> str:
        length = time_in_words(self.until - self.since)
        return f"{self.first:%Y-%m-%d %H:%M:%S} to {self.until:%Y-%m-%d %H:%M:%S} UTC ({length})"

    @property
    def first(self) -> datetime:
        """The first whole second in it, as it is said."""
        return (self.since + timedelta(microseconds=999_999)).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream on one target.

    Args:
        log: the files of the log, by the server's names for them.
        log_size: bytes that they take there.
        problem: why nothing of it can be used.
    """

    target: Target
    id: str
    folder: str
    positions: Positions | None
    bases: tuple[Base, ...]
    log: Mapping[str, LogFile] = field(default_factory=dict)
    log_size: int = 0
    problem: str = ""

    @property
    def usable(self) -> tuple[Base, ...]:
        """The base backups that can be used, the oldest first."""
        return tuple(base for base in self.bases if base.base is not None)

    @property
    def window(self) -> Window | None:
        """None: there is no whole moment in it yet."""
        ends = [base.base.ended for base in self.usable if base.base is not None]
        if self.positions is None or not ends:
            return None
        since = min(ends)
        return Window(since, self.positions.until) if since <= self.positions.until else None

    @property
    def stored_size(self) -> int:
        return self.log_size + sum(base.stored_size for base in self.bases)

    @contextlib.contextmanager
    def open_log(self, file: LogFile, key: Secret, keys: Identities | None) -> Iterator[BinaryIO]:
        """The plain bytes of a file of the log; a block that ends well has read what the project has signed.

        Raises:
            ArchiveError: it is missing, damaged, signed by nobody, or encrypted for another key.
        """
        where = f"{self.target.name.rstrip('/')} {self.folder}/{file.path}"
        with (
            self.target.open(f"{self.folder}/{file.path}") as stored,
            unpacked(stored, keys if file.encrypted else None, where, encrypted=file.encrypted) as plain,
        ):
            reading = _Signed(plain, file, key, self.folder)
            yield cast("BinaryIO", reading)
            if not reading.whole():
                raise ArchiveError("was not written by this project, or not whole", where=where, hint=_HINT)


class _Signed:
    """Plain bytes, fed to what signs them as they are read."""

    def __init__(self, plain: BinaryIO, file: LogFile, key: Secret, folder: str) -> None:
        self._plain = plain
        self._expected = file.mac
        self._mac = mac_of(key, f"{folder}/{file.name}")

    def read(self, size: int = -1) -> bytes:
        data = self._plain.read(size)
        self._mac.update(data)
        return data

    def whole(self) -> bool:
        while self.read(1 << 20):
            pass
        return self._mac.hexdigest() == self._expected


@dataclass(frozen=True, slots=True)
class Archived:
    """All that is archived of a server on one target, the newest stream first."""

    target: Target
    server: str
    streams: tuple[Stream, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """The newest first."""
        return tuple(stream.window for stream in self.streams if stream.window is not None)


def archived(target: Target, project: str, server: str, key: Secret | None) -> Archived:
    """What a target has of a server. What the project has not signed is there with that problem.

    Args:
        key: what it is signed with; None: nothing of it can be used.

    Raises:
        ArchiveError: the target cannot be read.
    """
    return Archived(target, server, archived_in(target, server_folder(project, server), key))


def archived_in(target: Target, top: str, key: Secret | None) -> tuple[Stream, ...]:
    """The streams in a server's folder, as `archived` has them."""
    logs: dict[str, dict[str, LogFile]] = {}
    sizes: dict[str, int] = {}
    bases: dict[str, set[str]] = {}
    for path, size in target.list(top):
        stream, _, rest = path.removeprefix(f"{top}/").partition("/")
        if not is_set_id(stream):
            continue
        logs.setdefault(stream, {})
        if (file := LogFile.of(rest)) is not None:
            logs[stream][file.name] = file
            sizes[stream] = sizes.get(stream, 0) + size
        elif rest.startswith("base/") and rest.endswith(f"/{BASE}") and is_set_id(rest.split("/")[1]):
            bases.setdefault(stream, set()).add(rest.split("/")[1])
    streams = []
    for stream in sorted(logs, reverse=True):
        folder = f"{top}/{stream}"
        positions, problem = _positions(target, folder, key)
        own = tuple(_base(target, top, stream, base, key) for base in sorted(bases.get(stream, ())))
        streams.append(Stream(target, stream, folder, positions, own, logs[stream], sizes.get(stream, 0), problem))
    return tuple(streams)


def base_text(base: BaseBackup, files: tuple[StoredFile, ...], key: Secret, folder: str) -> str:
    """The text of a ``base.json``."""
    document = {
        "format": "multidb base 1",
        "product": base.product,
        "first": base.first,
        "began": base.began.isoformat(),
        "ended": base.ended.isoformat(),
        "details": dict(base.details),
        "files": [
            {
                "name": file.name,
                "stored": file.stored,
                "bytes": file.size,
                "plain_sha256": file.plain_sha256,
                "stored_bytes": file.stored_size,
                "sha256": file.sha256,
            }
            for file in files
        ],
    }
    return signed(document, key, f"{folder}/{BASE}")


def positions_text(positions: Positions, key: Secret, folder: str) -> str:
    """The text of a ``positions.json``."""
    document = {
        "format": "multidb positions 1",
        "identity": positions.identity,
        "until": positions.until.isoformat(),
        "entries": [{"when": entry.when.isoformat(), "file": entry.file} for entry in positions.entries],
    }
    return signed(document, key, f"{folder}/{POSITIONS}")


def read_positions(target: Target, folder: str, key: Secret) -> Positions:
    """What stands in a stream's folder. `ArchiveError` where there is nothing that the project has signed."""
    document = validated(_document(target, f"{folder}/{POSITIONS}", key), _POSITIONS)
    entries = tuple(LogPosition(entry.when, entry.file) for entry in document.entries)
    return Positions(document.identity, document.until, entries)


def thinned(entries: Sequence[LogPosition], now: datetime) -> tuple[LogPosition, ...]:
    """All of the last hour; of the time before, one for each quarter of an hour."""
    kept: list[LogPosition] = []
    for entry in entries:
        recent = now - entry.when <= _DENSE
        if recent or not kept or entry.when - kept[-1].when >= _SPARSE:
            kept.append(entry)
    return tuple(kept)


def _positions(target: Target, folder: str, key: Secret | None) -> tuple[Positions | None, str]:
    if key is None:
        return None, "the key that signed it is not among the project's secrets"
    try:
        return read_positions(target, folder, key), ""
    except ArchiveError as error:
        return None, error.message
    except Unreadable as wrong:
        return None, f"{POSITIONS} {wrong}"


def _base(target: Target, top: str, stream: str, base_id: str, key: Secret | None) -> Base:
    folder = f"{top}/{base_folder(stream, base_id)}"
    if key is None:
        return Base(base_id, None, problem="the key that signed it is not among the project's secrets")
    try:
        document = validated(_document(target, f"{folder}/{BASE}", key), _BASE)
    except ArchiveError as error:
        return Base(base_id, None, problem=error.message)
    except Unreadable as wrong:
        return Base(base_id, None, problem=f"{BASE} {wrong}")
    files = tuple(
        StoredFile(file.name, file.stored, file.size, file.plain_sha256, file.stored_size, file.sha256)
        for file in document.files
    )
    base = BaseBackup(document.product, document.first, document.began, document.ended, document.details)
    return Base(base_id, base, files)


def _document(target: Target, path: str, key: Secret) -> dict[str, Any]:
    with target.open(path) as file:
        text = file.read(_LARGEST + 1)
    return verified(parse(text, _LARGEST), key, path)


class _PositionDocument(Document):
    when: Moment
    file: str = Field(pattern=r"^[0-9A-F]{24}$")


class _PositionsDocument(Document):
    format: Literal["multidb positions 1"]
    identity: str
    until: Moment
    entries: list[_PositionDocument]


class _BaseDocument(Document):
    format: Literal["multidb base 1"]
    product: str
    first: str = Field(pattern=r"^[0-9A-F]{24}$")
    began: Moment
    ended: Moment
    details: dict[str, JsonValue]
    files: list[FileDocument]


_POSITIONS: Final = TypeAdapter(_PositionsDocument)
_BASE: Final = TypeAdapter(_BaseDocument)
