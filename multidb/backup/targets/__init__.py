"""Where sets are kept: a folder, S3-compatible storage, or whatever fsspec has a file system for.

A target knows files by their paths and nothing of sets. Credentials come from the environment or the usual
configuration files of the storage, never from the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from multidb.backup.streams import Upload
from multidb.document import Unreadable, inside
from multidb.errors import ArchiveError, TargetError, UsageError
from multidb.model import PROGRESS_TIMEOUT

__all__ = ["MOST_FILES", "Target", "open_target", "safe", "within"]

MOST_FILES: Final = 2_000_000  # files that a listing is followed for


class Target(Protocol):
    """Files under paths with ``/``. Used by any thread. What goes wrong is an `ArchiveError` that names the target.

    Every path that it is given goes through `safe`, and every path that it finds through `within`: what lies on storage
    is data, its names too.
    """

    @property
    def name(self) -> str:
        """As the manifest has it; no secret in it."""

    def create(self, path: str) -> Upload:
        """Begins a file; it appears under `path` when it is committed, whole, in place of one that was there."""

    def resume(self, path: str) -> Upload:
        """Begins a file that an earlier run may have begun; the same bytes are written, from the start. A target that
        keeps parts of unfinished files is not sent those that it has, and giving up leaves them to a later run.
        """

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """The file at `path`. `ArchiveError` when it is not there."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Path and size of every finished file whose path begins with the folder `prefix`, in any order."""

    def unfinished(self, prefix: str) -> Iterator[str]:
        """Paths, in the folder `prefix`, of what unfinished files have left; `list` does not have them."""

    def delete(self, path: str) -> None:
        """Removes a file; one that is gone is fine."""

    def sweep(self, prefix: str) -> None:
        """Removes what unfinished files in the folder `prefix` have left, and the folder when it is empty."""


def open_target(address: str, root: Path, progress_timeout: float = PROGRESS_TIMEOUT) -> Target:
    """The target that the manifest calls `address`: a folder (relative to `root`), ``s3://bucket/prefix``, or any
    other URL that fsspec knows. Touches nothing yet.

    Args:
        progress_timeout: seconds without an answer after which the storage is given up.

    Raises:
        UsageError: the package for this kind of storage is not installed, or the address makes no sense.
    """
    from multidb.backup.targets.timeout import TimedTarget

    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", address)
    if scheme is None or scheme[1] == "file":
        from multidb.backup.targets.folder import FolderTarget

        folder = FolderTarget(address, Path(root, address.removeprefix("file://")), Path(root))
        return TimedTarget(folder, progress_timeout)
    if "@" in address.partition("://")[2].partition("/")[0]:
        raise UsageError(
            "a target's address has no user or password in it",
            where=address.partition("://")[0] + "://",
            hint="give credentials by the environment or the storage's own configuration file",
        )
    if scheme[1] == "s3":
        from multidb.backup.targets.s3 import S3Target

        return S3Target(address, progress_timeout)  # which tells for itself what moves from what stands still
    from multidb.backup.targets.remote import RemoteTarget

    return TimedTarget(RemoteTarget(address), progress_timeout)


def safe(path: str, where: str) -> str:
    """`path`, when it stays inside the target.

    Args:
        where: the target, for the error.

    Raises:
        ArchiveError: it does not.
    """
    try:
        return inside(path)
    except Unreadable as wrong:
        raise ArchiveError(str(wrong), where=where, hint="take another set") from None


def within(files: Iterable[tuple[str, int]], prefix: str, where: str) -> Iterator[tuple[str, int]]:
    """The paths and sizes of a listing that are in the folder `prefix`, as was asked. What storage lists beside them,
    or under names that no file of a set has, is passed over.

    Raises:
        TargetError: the listing does not end.
    """
    for number, (path, size) in enumerate(files):
        if number >= MOST_FILES:
            raise TargetError(
                f"has more than {MOST_FILES:,} files in {prefix}", where=f"target {where}", hint="name another target"
            )
        try:
            asked_for = inside(path).startswith(f"{prefix}/")
        except Unreadable:
            continue
        if asked_for:
            yield path, size
