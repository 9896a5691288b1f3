"""Collections from elsewhere on their way into an app's place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from multidb.model import Checkpoint, Progress, Server
from multidb.provisioners.qdrant.backup.making import Maker
from multidb.provisioners.qdrant.backup.places import Collections
from multidb.provisioners.qdrant.backup.points import Fingerprint, page_size, pages
from multidb.provisioners.qdrant.backup.snapshot_file import SnapshotSource
from multidb.provisioners.qdrant.backup.snapshots import Snapshots
from multidb.provisioners.qdrant.backup.source import CollectionsSource
from multidb.provisioners.qdrant.backup.stamp import Stamp
from multidb.provisioners.qdrant.backup.transfer import Transfer, begun
from multidb.provisioners.qdrant.driver.transport import Transport
from multidb.provisioners.qdrant.provision.statements import Call, path_of

__all__ = ["Intake"]


class Intake:
    """One place that takes in collections.

    Args:
        there: by type, the collections that it has already.
    """

    def __init__(
        self, server: Server, transport: Transport, maker: Maker, place: Collections, there: Mapping[str, str]
    ) -> None:
        self._server = server
        self._transport = transport
        self._maker = maker
        self._place = place
        self._there = there

    def copy(self, source: CollectionsSource, done: Checkpoint, progress: Progress, *, local: bool) -> None:
        """Points of another Qdrant, as requests have them.

        Args:
            local: this is local mode.
        """
        app, before = self._place.app, done.done()
        source.stamp(app, begun(done))
        for one in source.incoming(app):
            entry = one.entry(local=source.local or local)
            name = self._there.get(one.type) or self._maker.made(self._place, entry, app.id)
            self._maker.index(name, entry)
            for points in Transfer(source, one, app, done, progress).batches(before):
                self._maker.load(name, points)
            self._maker.require_kept(name, entry, source.product)

    def recover(self, source: SnapshotSource, snapshots: Snapshots, done: Checkpoint, progress: Progress) -> None:
        """A snapshot, whole, in each run anew: what is in it is told only by what it becomes. Its points are read as
        they come, and then get what they lack."""
        app, one = self._place.app, source.incoming(self._place.app)
        stamp, entry = Stamp(app.tenant_id, app.id, begun(done)), one.entry(local=False)
        name = self._there.get(one.type) or self._maker.made(self._place, entry, app.id)
        progress(app.id, f"recovering {one.type}")
        with source.chunks() as chunks:
            snapshots.recover(name, chunks, source.sha256)
        fingerprint = Fingerprint(app.tenant_id)
        with closing(pages(self._server, self._transport, name, page_size(one.details))) as reading:
            for page in reading:
                fingerprint.add(stamp.on(point) for point in page.points)
                progress(app.id, f"reading {one.type}", fingerprint.count)
        source.keep(fingerprint.measures(one.type, one.details, local=False))
        self._fill(name, stamp)
        self._maker.index(name, entry)
        self._maker.require_kept(name, entry, source.product)

    def _fill(self, name: str, stamp: Stamp) -> None:
        for field, value in stamp.fields.items():
            body = {"payload": {field: value}, "filter": {"must": [{"is_empty": {"key": field}}]}}
            self._maker.must(Call("POST", f"{path_of(name)}/points/payload?wait=true", body))
