"""In what one collection differs from another, told by going through both in the order of their ids. Pure.

Every Qdrant, and local mode, gives points in that order: numbers first, then UUIDs. So both sides are read once, and
nothing of them is kept, however many there are. Points that are written meanwhile are seen as they were or as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from multidb.errors import ArchiveError
from multidb.provisioners.qdrant.backup.points import Point, are_alike, digests

__all__ = ["Difference", "differences"]

_LAST: Final = (2, 0)  # behind every id


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to be done so that one point is the same on both sides.

    Args:
        point: what is to be loaded; None: the point is to be taken away.
    """

    id: int | str
    point: Point | None


def differences(
    there: Iterable[Point], here: Iterable[Point], tenant: str, directions: Collection[str] = ()
) -> Iterator[Difference]:
    """What has to be done to `here`, in the order of ids. Each may be done as soon as it is told.

    Args:
        tenant: the `tenant_id` of the app whose points these are.
        directions: the vectors of which only the direction counts, by name.

    Raises:
        ArchiveError: the points of a side do not come in the order of their ids.
    """
    ours = _ranked(here)
    rank, point = next(ours, (_LAST, None))
    for other, theirs in _ranked(there):
        while rank < other and point is not None:
            yield Difference(point["id"], None)
            rank, point = next(ours, (_LAST, None))
        if rank == other and point is not None:
            if not _is_same(theirs, point, tenant, directions):
                yield Difference(theirs["id"], theirs)
            rank, point = next(ours, (_LAST, None))
        else:
            yield Difference(theirs["id"], theirs)
    while point is not None:
        yield Difference(point["id"], None)
        rank, point = next(ours, (_LAST, None))


def _is_same(one: Point, other: Point, tenant: str, directions: Collection[str]) -> bool:
    content, vectors = digests(one, tenant)
    content_here, vectors_here = digests(other, tenant)
    if content != content_here:
        return False
    return vectors == vectors_here or (bool(directions) and are_alike(one, other, directions))


def _ranked(points: Iterable[Point]) -> Iterator[tuple[tuple[int, int], Point]]:
    before = (-1, 0)
    for point in points:
        rank = _rank(point["id"])
        if rank <= before:
            raise _out_of_order(point["id"])
        yield rank, point
        before = rank


def _rank(identity: Any) -> tuple[int, int]:
    if isinstance(identity, int):
        return 0, identity
    try:
        return 1, UUID(str(identity)).int
    except ValueError:
        raise _out_of_order(identity) from None


def _out_of_order(identity: Any) -> ArchiveError:
    return ArchiveError(
        f"points do not come in the order of their ids, at {str(identity)[:100]!r}",
        hint="stop its writers, and import it without --live",
    )
