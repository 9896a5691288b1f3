"""What a store can do whose servers write everything that they change to a log of their own before they do it (WAL),
so that one can be brought to any moment: a *base backup* of the whole server, and the log from then on.

Continuous archiving takes both away from the server as they come; bringing a server up aside as of a moment is a
`RevivableKind`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, Self, runtime_checkable

from multidb.model.archive import ArchiveWriter
from multidb.model.core import App, Progress
from multidb.model.hosting import HostedServer, ServerKind
from multidb.secrets import Secret

__all__ = [
    "BaseBackup",
    "BaseFiles",
    "ContinuousArchive",
    "ForeignArchive",
    "ForeignBase",
    "LogState",
    "Received",
    "RevivableKind",
    "Revival",
]


@dataclass(frozen=True, slots=True)
class LogState:
    """What a server keeps of its log for who takes it away.

    Args:
        behind: bytes that were written and not taken yet.
        left: bytes that may still be written until it drops some that were not taken; None: nobody knows.
        lost: it has dropped some already.
    """

    behind: int
    left: int | None
    lost: bool


@dataclass(frozen=True, slots=True)
class Received:
    """What came of taking the log away once.

    Args:
        when: by the server's clock; whatever was committed until then has been taken.
        snapshot: which transactions had ended, in the server's own words; the same words again: nothing has changed.
        files: the names of the log's files, whole, in their order; none: nothing has changed since the last time.
        beside: the names of files that say how those of the log follow one another.
        end: where the log was taken to, in the server's own words.
    """

    when: datetime
    snapshot: str
    files: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    end: str = ""


@dataclass(frozen=True, slots=True)
class BaseBackup:
    """A whole server as its files were while it went on working. The log from `first` on makes it whole, and the first
    moment that it can be brought to is `ended`.

    Args:
        product: what it is of (``PostgreSQL 18.6``).
        first: the first of the log's files that it needs.
        began, ended: by the server's clock.
        details: what the store needs to bring it up.
    """

    product: str
    first: str
    began: datetime
    ended: datetime
    details: Mapping[str, object]


class ContinuousArchive(Protocol):
    """The log and the base backups of one server, with the admin's login. A context manager; used by one thread.

    Everything here may be interrupted anywhere and started again.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def identity(self) -> str:
        """What tells the server's data from that of any other, also one that had its name before."""

    def begin(self, name: str) -> bool:
        """Has the server keep its log from now on until it was taken, under the name, and no more of it than it has
        room for. Whether that is new: what was written before cannot be had.

        Raises:
            Refused, NotAllowed, WrongVersion: it cannot be had of this server; says what has to be changed there.
        """

    def end(self, name: str) -> None:
        """The server need not keep anything under the name any more. One that is not there is fine."""

    def state(self, name: str) -> LogState | None:
        """What it keeps under the name; None: nothing."""

    def receive(self, name: str, folder: Path, snapshot: str) -> Received:
        """Puts into the folder whatever of the log was not acknowledged yet, up to now, in whole files.

        Args:
            snapshot: as `Received` had it the last time; empty: never.

        Raises:
            ArchiveError: it could not be taken, also because the disk is full.
            ServerError: the server cannot be asked.
        """

    def acknowledge(self, name: str, received: Received) -> None:
        """What was received is kept elsewhere now: the server may forget it."""

    def next_file(self, name: str) -> Collection[str]:
        """The names that the file of the log may have that follows the file `name`."""

    def details(self) -> Mapping[str, object]:
        """What `BaseBackup.details` has of the server as it is now, for an archive that does not say it."""

    def base(self, writer: ArchiveWriter, progress: Progress) -> BaseBackup:
        """Writes a base backup. Streams: memory does not grow with the data, and no disk is needed.

        Raises:
            ArchiveError: it could not be made.
            Refused: the server has files elsewhere.
        """


@dataclass(frozen=True, slots=True)
class ForeignBase:
    """A base backup that another tool has made.

    Args:
        id: as the tool calls it.
        problem: why it cannot be read; empty: it can be.
    """

    id: str
    base: BaseBackup
    problem: str = ""


class ForeignArchive(Protocol):
    """An archive of one server that another tool has made. Signed by nobody: whoever names it trusts it."""

    def bases(self) -> Sequence[ForeignBase]:
        """Its base backups, the oldest first.

        Raises:
            ArchiveError: there is no such archive.
            TargetError: it cannot be read.
        """

    def files(self, base: ForeignBase, until: datetime) -> tuple[BaseFiles, str]:
        """What is needed of it to go from a base backup to a moment, and the name of the last of the log's files. How
        far the log goes is known to nobody before it was replayed."""


class BaseFiles(Protocol):
    """What was archived, as it is read back."""

    def names(self) -> Sequence[str]:
        """The files of the base backup, in the order in which they were written."""

    def file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """One of them, to be read from start to end."""

    def log(self) -> Iterator[tuple[str, AbstractContextManager[BinaryIO]]]:
        """The files of the log that the moment needs, by their names, each to be read before the next is asked for."""


@dataclass(frozen=True, slots=True)
class Revival:
    """What a server is brought up from, and to which moment.

    Args:
        moment: the last moment whose changes it has.
        last: the name of the last of the log's files that the moment needs.
        app: whose data is meant: the only place that anybody can get to.
        keep: another copy stays at the moment, which nobody can get to, so that it can be rolled on to a later one.
        known: whether the log is known to reach to the moment; else that has to come of replaying it.
        go_on: from the copy that an earlier one has kept: of the same base backup and app, and of no later moment.
    """

    base: BaseBackup
    files: BaseFiles
    moment: datetime
    last: str
    app: App
    keep: bool = False
    go_on: bool = False
    known: bool = True


@runtime_checkable
class RevivableKind(ServerKind, Protocol):
    """A kind that can be brought up aside as of a moment."""

    def copying(self, hosted: HostedServer, product: str) -> RevivableKind:
        """The kind that a copy of a server of this product (`BaseBackup.product`) is of: the same one, or one whose
        program is of another version.

        Raises:
            WrongVersion: this machine has no program for it.
        """

    def revive(
        self,
        hosted: HostedServer,
        admin: Secret,
        revival: Revival,
        progress: Progress,
        waiting: HostedServer | None = None,
    ) -> None:
        """Fills `hosted.folder`, which is empty, so that `prepare` starts what the server was at that moment: with this
        password of the admin's, with nobody else's way in, and with nothing at work in it that the server had at work.
        Files of other apps may be there without their contents.

        Args:
            waiting: for the copy that is kept at the moment; its folder is empty, or has the one to go on from.

        Raises:
            ArchiveError: what was archived does not make a server.
            RuntimeUnavailable, WrongVersion: this machine has no program for it.
            TargetError: the disk is too small.
        """

    def forget(self, hosted: HostedServer) -> None:
        """Removes what `revive` has put elsewhere than in `hosted.folder`. Nothing there is fine."""
