"""A place that is made what another Qdrant has, again and again while that is written: only what differs is loaded.

Qdrant tells nobody of its changes. So every point of both sides is compared. What has to be known from one time to the
next (which moment points without one got, how each collection was made) is in the marks of the place's collections.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import Any
from urllib.parse import quote

from multidb.errors import Refused
from multidb.model import Progress, Server, listed
from multidb.provisioners.qdrant.backup.configuration import indexes, unkept
from multidb.provisioners.qdrant.backup.delta import Difference, differences
from multidb.provisioners.qdrant.backup.incoming import Incoming, obstacles
from multidb.provisioners.qdrant.backup.making import Maker
from multidb.provisioners.qdrant.backup.places import Collections, PlaceMark
from multidb.provisioners.qdrant.backup.points import Point, cosines, page_size, pages
from multidb.provisioners.qdrant.backup.source import CollectionsSource
from multidb.provisioners.qdrant.backup.stamp import now
from multidb.provisioners.qdrant.driver.transport import Transport
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.statements import Call, path_of

__all__ = ["Renewal"]


class Renewal:
    """One place, on one server.

    Args:
        marks: by name, the collections that it has.
        local: the server is local mode.
    """

    def __init__(
        self,
        server: Server,
        transport: Transport,
        maker: Maker,
        place: Collections,
        marks: Mapping[str, PlaceMark],
        *,
        local: bool,
    ) -> None:
        self._server = server
        self._transport = transport
        self._catalog = Catalog(server, transport)
        self._maker = maker
        self._place = place
        self._marks = {mark.type: mark for mark in marks.values()}
        self._local = local

    def renew(self, source: CollectionsSource, progress: Progress) -> int:
        """Makes the place what the source has now. How many points were not as they are there.

        Raises:
            Refused: the source has what cannot be the app's, or a collection that was copied is gone there.
        """
        incoming = self._incoming(source)
        if why := list(self._against(incoming)):
            raise Refused(
                listed(why, between="; "),
                where=f"source {source.text}",
                hint=f"put that right there; or give the import up: multidb import {self._place.app.id} --abort",
            )
        return sum(self._renewed(source, one, progress) for one in incoming)

    def unlike(self, source: CollectionsSource, progress: Progress) -> Iterator[str]:
        """What the place does not have as it is at the source now, in words. Nothing is changed."""
        incoming = self._incoming(source)
        yield from self._against(incoming)
        for one in incoming:
            mark, entry = self._marks.get(one.type), self._entry(source, one)
            if mark is None:
                yield f"collection {one.type}: it was made there meanwhile"
                continue
            if mark != self._due(source, one, entry) or self._is_made_otherwise(mark.collection, entry):
                yield f"collection {one.type}: it was changed there meanwhile"
            with self._compared(source, one, mark.collection, progress) as differing:
                if count := sum(1 for _ in differing):
                    yield f"points {one.type}: {count:,} are other ones"

    def _incoming(self, source: CollectionsSource) -> list[Incoming]:
        """What the source has now, whose points get the moment that those of the place have."""
        moments = (mark.moment for mark in self._marks.values() if mark.moment)
        source.stamp(self._place.app, next(moments, "") or now())
        return source.incoming(self._place.app)

    def _against(self, incoming: list[Incoming]) -> Iterator[str]:
        yield from obstacles(self._place.app, incoming)
        if gone := sorted(self._marks.keys() - {one.type for one in incoming}):
            yield f"what was copied as {listed(gone)} is not there any more"

    def _entry(self, source: CollectionsSource, one: Incoming) -> dict[str, Any]:
        return one.entry(local=source.local or self._local)

    def _due(self, source: CollectionsSource, one: Incoming, entry: Mapping[str, Any]) -> PlaceMark:
        """The mark of the collection when it is as at the source. Once it has begun to replace the live one, it goes on
        to do so, with the names that led there."""
        mark = self._marks.get(one.type)
        replacing = mark is not None and mark.replacing
        return PlaceMark(
            self._place.kind,
            self._place.owner,
            one.type,
            replacing,
            aliases=tuple(sorted({*one.aliases, *(mark.aliases if mark is not None and replacing else ())})),
            settings=entry["settings"],
            moment=source.stamp(self._place.app).moment,
            made_as=hashlib.sha256(json.dumps(entry["created"], sort_keys=True).encode()).hexdigest(),
        )

    def _renewed(self, source: CollectionsSource, one: Incoming, progress: Progress) -> int:
        mark, entry = self._marks.get(one.type), self._entry(source, one)
        due = self._due(source, one, entry)
        name = due.collection
        if mark is not None and mark.made_as != due.made_as:  # also where a run died before it had written that down
            self._maker.must(Call("DELETE", path_of(name), {}))
            mark = None
        if mark is None:
            self._maker.made(self._place, entry, self._place.app.id)
        if mark != due:
            self._maker.must(Call("PATCH", path_of(name), {"metadata": due.metadata}))
            self._marks[one.type] = due
        self._index(name, entry)
        changed = 0
        with self._compared(source, one, name, progress) as differing:
            while batch := list(islice(differing, page_size(one.details))):
                self._apply(name, batch)
                changed += len(batch)
        self._maker.require_kept(name, entry, source.product)
        return changed

    def _is_made_otherwise(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Whether it lacks something, or has an index that is gone at the source. More is fine."""
        if self._local:
            return False
        details = self._catalog.described([name])[name]
        return bool(indexes(details).keys() - entry["indexes"].keys() or unkept(entry, details))

    def _index(self, name: str, entry: Mapping[str, Any]) -> None:
        """Makes the payload indexes that are missing, and takes away those that are gone at the source."""
        self._maker.index(name, entry)
        there = {} if self._local else indexes(self._catalog.described([name])[name])
        for field in sorted(there.keys() - entry["indexes"].keys()):
            self._maker.must(Call("DELETE", f"{path_of(name)}/index/{quote(field, safe='')}?wait=true", {}))

    @contextmanager
    def _compared(
        self, source: CollectionsSource, one: Incoming, name: str, progress: Progress
    ) -> Iterator[Iterator[Difference]]:
        """What has to be done to the collection of the place, as both sides are read in the block."""
        tenant = self._place.app.tenant_id
        directions = cosines(one.details) if source.local or self._local else ()
        with ExitStack() as stack:
            there = stack.enter_context(closing(self._read(source, one, progress)))
            here = stack.enter_context(closing(pages(self._server, self._transport, name, page_size(one.details))))
            yield differences(there, (point for page in here for point in page.points), tenant, directions)

    def _read(self, source: CollectionsSource, one: Incoming, progress: Progress) -> Generator[Point, None, None]:
        app, count, total = self._place.app, 0, one.details.get("points_count")
        with closing(source.points(one, self._place.app)) as reading:
            for points, _ in reading:
                yield from points
                count += len(points)
                progress(app.id, f"comparing {one.type}", count, total)

    def _apply(self, name: str, batch: Sequence[Difference]) -> None:
        loaded = [difference.point for difference in batch if difference.point is not None]
        gone = [difference.id for difference in batch if difference.point is None]
        if loaded:
            self._maker.load(name, loaded)
        if gone:
            self._maker.must(Call("POST", f"{path_of(name)}/points/delete?wait=true", {"points": gone}))
