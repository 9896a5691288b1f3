"""Removing what no moment that is to be kept needs any more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from multidb.backup.continuous.catalog import Base, Stream, archived_in
from multidb.backup.continuous.layout import BASE, base_folder, place_of
from multidb.backup.set_ids import is_set_id
from multidb.backup.targets import Target
from multidb.secrets import Secret

__all__ = ["needed", "prune"]


def prune(target: Target, folder: str, current: str, key: Secret, keep: timedelta, now: datetime) -> int:
    """Removes from a server's folder on one target what is older than `keep`. Never what a moment since then needs: the
    newest base backup from before it stays, with the log from there on. A stream that is not `current` goes once all of
    it is older.

    Returns:
        how many files were removed.

    Raises:
        ArchiveError: the target does not let it be done; the next time goes on.
    """
    archived = archived_in(target, folder, key)
    removed = 0
    for stream in archived:
        for path in list(_unneeded(target, folder, stream, stream.id == current, now - keep)):
            target.delete(path)
            removed += 1
        target.sweep(stream.folder)
    return removed


def needed(bases: tuple[Base, ...], horizon: datetime) -> tuple[Base, ...]:
    """Those of the base backups without which a moment since `horizon` could not be had, the oldest first."""
    before = [base for base in bases if base.base is not None and base.base.ended <= horizon]
    after = [base for base in bases if base.base is not None and base.base.ended > horizon]
    return (*before[-1:], *after)


def _unneeded(target: Target, folder: str, stream: Stream, current: bool, horizon: datetime) -> Iterator[str]:
    """Paths in the order in which they may go: half removed, a base backup is none any more."""
    over = stream.positions is not None and stream.positions.until < horizon
    if not current and (over or not stream.usable):
        yield from (f"{folder}/{base_folder(stream.id, base.id)}/{BASE}" for base in stream.bases)
        yield from (path for path, _ in target.list(stream.folder))
        return
    kept = needed(stream.bases, horizon)
    for base in stream.usable:
        if base not in kept:
            yield f"{folder}/{base_folder(stream.id, base.id)}/{BASE}"
    names = {base.id for base in kept} | {base.id for base in stream.bases if base.base is None}
    first = min((place_of(base.base.first) for base in kept if base.base is not None), default="")
    for path, _ in target.list(stream.folder):
        kind, _, rest = path.removeprefix(f"{stream.folder}/").partition("/")
        of_base = rest.partition("/")[0]
        if kind == "base" and is_set_id(of_base) and of_base not in names:
            yield path
    for file in stream.log.values():
        if file.is_segment and file.place < first:
            yield f"{stream.folder}/{file.path}"
