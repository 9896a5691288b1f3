"""The points of one collection on their way from a source, and how far they have come."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Final

from multidb.model import App, Checkpoint, Progress
from multidb.provisioners.qdrant.backup.incoming import Incoming
from multidb.provisioners.qdrant.backup.points import Fingerprint, Point
from multidb.provisioners.qdrant.backup.source import CollectionsSource
from multidb.provisioners.qdrant.backup.stamp import now

__all__ = ["POINTS", "Transfer", "begun"]

POINTS: Final = 10_000  # between two checkpoints
_BEGUN: Final = "begun "


def begun(done: Checkpoint) -> str:
    """The moment when the first of the runs began: what ``created_at`` gets, also in the runs after it."""
    for part in done.done():
        if part.startswith(_BEGUN):
            return part.removeprefix(_BEGUN)
    moment = now()
    done.add(f"{_BEGUN}{moment}")
    return moment


class Transfer:
    """One collection's points."""

    def __init__(
        self, source: CollectionsSource, incoming: Incoming, app: App, done: Checkpoint, progress: Progress
    ) -> None:
        self._source = source
        self._incoming = incoming
        self._app = app
        self._done = done
        self._progress = progress
        self._name = incoming.type

    def batches(self, before: Collection[str]) -> Iterator[list[Point]]:
        """The points that are not done, some at a time; each batch is in place when the next is asked for.

        Args:
            before: the parts that earlier runs have done.
        """
        if f"whole {self._name}" in before:
            self._source.keep(self._incoming, None)
            return
        count, offset = self._reached(before)
        fingerprint = None if count else Fingerprint(self._app.tenant_id)
        noted, total = count, self._incoming.details.get("points_count")
        for points, following in self._source.points(self._incoming, self._app, offset):
            if points:
                yield points
            count += len(points)
            if fingerprint is not None:
                fingerprint.add(points)
            if following is not None and count - noted >= POINTS:
                self._done.add(f"points {count} of {self._name}, next {json.dumps(following)}")
                noted = count
            self._progress(self._app.id, f"loading {self._name}", count, total)
        self._done.add(f"whole {self._name}")
        self._source.keep(self._incoming, fingerprint)

    def _reached(self, before: Collection[str]) -> tuple[int, int | str | None]:
        """How many points are there, and the offset of the next one."""
        reached: tuple[int, int | str | None] = (0, None)
        for part in before:
            what, _, following = part.partition(f" of {self._name}, next ")
            if following and what.startswith("points "):
                reached = max(reached, (int(what.removeprefix("points ")), json.loads(following)), key=lambda it: it[0])
        return reached
