"""An app's collections coming and going: server snapshots where there are any, points as lines of JSON elsewhere.

A snapshot is the faster of the two and keeps the built index; only a server of the same version, or of the next minor
one, takes it. Points go from any version to any other, and between servers and local mode
(``servers.qdrant.backup: points``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, BinaryIO, Final, Self

from multidb import __version__
from multidb.errors import ArchiveError, ServerError, WrongVersion
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Checkpoint,
    ImportSource,
    Lag,
    Measures,
    Owner,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
    Survey,
    unwatched,
)
from multidb.provisioners.qdrant.backup.configuration import (
    alike,
    creation,
    indexes,
    settings,
)
from multidb.provisioners.qdrant.backup.entries import POINTS, SNAPSHOT, entries_of
from multidb.provisioners.qdrant.backup.intake import Intake
from multidb.provisioners.qdrant.backup.making import Maker, mark_of, not_the_apps
from multidb.provisioners.qdrant.backup.places import Collections, PlaceMark
from multidb.provisioners.qdrant.backup.points import (
    Fingerprint,
    joined,
    page_size,
    pages,
    read_lines,
    with_tenant,
    write_lines,
)
from multidb.provisioners.qdrant.backup.renewal import Renewal
from multidb.provisioners.qdrant.backup.snapshot_file import SnapshotSource
from multidb.provisioners.qdrant.backup.snapshots import WORK_SECONDS, Snapshot, Snapshots
from multidb.provisioners.qdrant.backup.source import CollectionsSource
from multidb.provisioners.qdrant.driver.connection import open_transport
from multidb.provisioners.qdrant.driver.transport import Http, Reply, Transport, expect
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.live import UNLOADED
from multidb.provisioners.qdrant.provision.options import TENANT_FIELD, ServerOptions
from multidb.provisioners.qdrant.provision.resources import (
    OWN_PREFIX,
    QdrantFacts,
    admitted_names,
    collection_name,
    owner_of,
    registry_name,
)
from multidb.provisioners.qdrant.provision.statements import Call, admit, dismissal, path_of
from multidb.secrets import Secret

__all__ = ["QdrantArchive"]

_CHUNK: Final = 1 << 20
_AT_ONCE: Final = 500  # points whose tenants are changed together


class QdrantArchive:
    """`multidb.model.Archive` for one Qdrant."""

    def __init__(self, server: Server, admin: Secret | None, application: str) -> None:
        self._server = server
        self._admin = admin
        self._transport: Transport
        self._facts: QdrantFacts
        self._catalog: Catalog

    def __enter__(self) -> Self:
        self._transport, self._facts = open_transport(self._server, self._admin)
        self._catalog = Catalog(self._server, self._transport)
        self._maker = Maker(self._server, self._must, self._catalog, local=self._facts.local)
        return self

    def __exit__(self, *exc: object) -> None:
        self._transport.close()

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        """A file for each collection that bears the app's mark. What is measured is what is in the files, also while
        the app writes; they are of one moment where the server's counters of operations say that it wrote nothing."""
        owner = Owner(context.project, app.id)
        options = ServerOptions.of(context.options)
        as_points = self._facts.local or options.backup == "points"
        aliases, before = self._catalog.aliases(), self._catalog.operations()
        collections = self._live(owner)
        measures = Measures({}, {})
        entries = []
        for kind, (name, details) in collections.items():
            self._require_whole(name, details, as_points=as_points)
            entry: dict[str, object] = {"type": kind, "file": f"{kind}.snapshot"}
            entry["created"] = creation(details, local=self._facts.local)
            entry |= {"indexes": indexes(details), "settings": settings(details)}
            entry["aliases"] = sorted(alias for alias, collection in aliases.items() if collection == name)
            if as_points:
                entry["file"] = f"{kind}.jsonl"
                with writer.file(str(entry["file"])) as out:
                    fingerprint = self._scanned(name, details, app, progress, out)
            else:
                apart = PlaceMark(PlaceKind.SCRATCH, owner, kind)
                with self._snapshots.taken(name) as snapshot:
                    with writer.file(str(entry["file"])) as out:
                        entry["sha256"] = self._snapshots.copied(name, snapshot, out.write, progress)
                    fingerprint = self._scanned_snapshot(
                        name, details, app, progress, snapshot, before.get(name), apart
                    )
            measures = joined([measures, self._measures(kind, details, fingerprint)])
            entries.append(entry)
        after = self._catalog.operations()
        names = [name for name, _ in collections.values()]
        return Part(
            format=POINTS if as_points else SNAPSHOT,
            server=f"{self._facts.product} {self._facts.version}",
            client=f"multidb {__version__}",
            consistent=self._facts.local or all(_same_count(before, after, name) for name in names),
            measures=measures,
            details={"app": app.id, "tenant": app.tenant_id, "collections": entries},
        )

    def live(self, app: App, context: StoreContext) -> Place:
        """The app's marked collections."""
        return Collections.at(PlaceKind.LIVE, app, context.project)

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        """A place without collections; `restore` makes them as the set has them."""
        place = Collections.at(kind, app, context.project)
        self.discard(place)
        return place

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        """Makes each collection and fills it from its file. A `tenant_id` that is the app's own becomes that of
        `place.app`; those of its customers stay."""
        self._require_loadable(part)
        old_app, old_tenant = str(part.details["app"]), str(part.details["tenant"])
        for entry in entries_of(part):
            name = self._maker.made(Collections.of(place), entry, old_app)
            progress(str(self._server.name), f"loading {name}")
            with reader.file(str(entry["file"])) as source:
                if part.format == SNAPSHOT:
                    self._snapshots.recover(name, _chunks(source), str(entry["sha256"]))
                    self._retenanted(name, old_tenant, place.app.tenant_id)
                else:
                    self._maker.index(name, entry)
                    self._loaded(name, source, str(entry["file"]), old_tenant, place.app.tenant_id)
            self._maker.index(name, entry)
            self._maker.require_kept(name, entry, part.server)

    def measure(self, place: Place) -> Measures:
        """Counts and fingerprints, by the types of content."""
        return joined(
            self._measures(kind, details, self._scanned(name, details, place.app, unwatched))
            for kind, (name, details) in self._collections(place).items()
        )

    def is_empty(self, place: Place) -> bool:
        """Whether no collection has a point. Of one that the server could not load, nobody can say that."""
        there = self._collections(place).values()
        return not any(UNLOADED in details or self._has_points(name) for name, details in there)

    def replace(self, new: Place, context: StoreContext) -> None:
        """Takes over collection by collection; each changes in one step on a server. Meanwhile the app's token is
        refused, so that it never sees some of them old and some new; what an interruption leaves undone is gone on
        with by the next `prepare` or `discard` of the place. A live collection that the set does not have is kept."""
        owner = Owner(context.project, new.app.id)
        self._require_ours(owner)
        self._mark(new, replacing=True)
        admitted = self._dismiss(owner)
        self._take_over(new)
        if admitted:
            for token in admitted_names(owner.app, context):
                self._must(admit(registry_name(owner.project), token))

    def discard(self, place: Place) -> None:
        """Removes a place; one that has begun to replace the live collections does that first."""
        if place.kind is PlaceKind.LIVE:
            raise ValueError("a live place is not discarded")
        if any(mark.replacing for mark in self._marks(place).values()):
            self._take_over(place)
        self._drop(place)

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        """The places whose marked collections are still there."""
        owner = Owner(context.project, app.id)
        kinds = sorted({mark.kind for mark, _ in self._marked().values() if mark.owner == owner})
        return [Collections.at(kind, app, context.project) for kind in kinds]

    # Collections from elsewhere

    def survey(self, app: App, context: StoreContext, source: ImportSource) -> Survey:
        """What the source says, and what this server has against a snapshot."""
        survey = source.survey(app, context)
        if isinstance(source, SnapshotSource) and self._facts.local:
            no = "local mode takes no snapshot: recover it on a server elsewhere, and import from its URL"
            return replace(survey, obstacles=(*survey.obstacles, no))
        return survey

    def bring_in(self, place: Place, source: ImportSource, done: Checkpoint, progress: Progress) -> None:
        """Collection by collection, with checkpoints in between and after 10,000 points."""
        there = {mark.type: name for name, mark in self._marks(place).items()}
        intake = Intake(self._server, self._transport, self._maker, Collections.of(place), there)
        if isinstance(source, SnapshotSource):
            intake.recover(source, self._snapshots, done, progress)
        elif isinstance(source, CollectionsSource):
            intake.copy(source, done, progress, local=self._facts.local)
        else:
            raise TypeError(f"{type(source).__name__} is no source of collections")

    def follow(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Nothing follows by itself."""
        self.catch_up(place, source, mark, progress)

    def catch_up(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Every point of both sides is compared, once, and what differs is loaded."""
        self.renewal(place).renew(_compared(source), progress)

    def lag(self, place: Place, source: ImportSource, mark: str) -> Lag:
        """Only a comparison tells."""
        return Lag(None)

    def drain(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """As `catch_up`, which finds little then."""
        self.catch_up(place, source, mark, progress)

    def unlike(self, place: Place, source: ImportSource) -> Sequence[str]:
        """Every point of both sides is compared once more: whoever still writes there is found so."""
        return list(self.renewal(place).unlike(_compared(source), unwatched))

    def detach(self, place: Place, mark: str) -> None:
        """Nothing was attached."""

    def renewal(self, place: Place) -> Renewal:
        """What makes the place as its source is."""
        collections, marks = Collections.of(place), self._marks(place)
        return Renewal(self._server, self._transport, self._maker, collections, marks, local=self._facts.local)

    # What is where

    def _live(self, owner: Owner) -> dict[str, tuple[str, Mapping[str, Any]]]:
        prefix = f"{owner.app}_"
        described = self._catalog.described([name for name in self._catalog.names() if name.startswith(prefix)])
        return {
            name.removeprefix(prefix): (name, details)
            for name, details in described.items()
            if owner_of(details) == owner
        }

    def _marked(self) -> dict[str, tuple[PlaceMark, Mapping[str, Any]]]:
        described = self._catalog.described([name for name in self._catalog.names() if name.startswith(OWN_PREFIX)])
        marks = {name: (PlaceMark.read(details), details) for name, details in described.items()}
        return {name: (mark, details) for name, (mark, details) in marks.items() if mark is not None}

    def _marks(self, place: Place) -> dict[str, PlaceMark]:
        """The collections of a scratch or new place."""
        marked, owner = self._marked().items(), Collections.of(place).owner
        return {name: mark for name, (mark, _) in marked if (mark.kind, mark.owner) == (place.kind, owner)}

    def _collections(self, place: Place) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Type -> (collection, what the server says of it)."""
        if place.kind is PlaceKind.LIVE:
            return self._live(Collections.of(place).owner)
        marks = self._marks(place)
        described = self._catalog.described(sorted(marks))
        return {marks[name].type: (name, details) for name, details in described.items()}

    # Measuring

    def _scanned(
        self, name: str, details: Mapping[str, Any], app: App, progress: Progress, out: BinaryIO | None = None
    ) -> Fingerprint:
        """Reads every point once, and writes it to `out` where there is one."""
        fingerprint = Fingerprint(app.tenant_id)
        total = details.get("points_count")
        with closing(pages(self._server, self._transport, name, page_size(details))) as reading:
            for page in reading:
                fingerprint.add(page.points)
                if out is not None:
                    write_lines(out, page.points)
                progress(self._server.name, f"reading {name}", fingerprint.count, total)
        return fingerprint

    def _scanned_snapshot(
        self,
        name: str,
        details: Mapping[str, Any],
        app: App,
        progress: Progress,
        snapshot: Snapshot,
        before: int | None,
        apart: PlaceMark,
    ) -> Fingerprint:
        """What is in a snapshot: read from its collection, or from a copy where that was written meanwhile."""
        fingerprint = self._scanned(name, details, app, progress)
        if before is not None and self._catalog.operations().get(name) == before:
            return fingerprint
        copy = apart.collection
        self._must(Call("DELETE", path_of(copy), {}))
        self._must(Call("PUT", path_of(copy), {**creation(details), "metadata": apart.metadata}))
        try:
            with snapshot.bytes() as chunks:
                self._snapshots.recover(copy, chunks, snapshot.sha256)
            return self._scanned(copy, details, app, progress)
        finally:
            self._must(Call("DELETE", path_of(copy), {}))

    def _measures(self, kind: str, details: Mapping[str, Any], fingerprint: Fingerprint) -> Measures:
        return fingerprint.measures(kind, details, local=self._facts.local)

    def _has_points(self, name: str) -> bool:
        """Read, not counted: an exact count is refused where `search_allow_exact` is false."""
        body = {"limit": 1, "with_payload": False, "with_vector": False}
        return bool(self._must(Call("POST", f"{path_of(name)}/points/scroll", body)).result["points"])

    def _require_whole(self, name: str, details: Mapping[str, Any], *, as_points: bool) -> None:
        """Refuses what a set would hold only a part of: shards with keys of their own, which neither a snapshot nor
        points bring back, and, by snapshots, shards that are on other nodes only."""
        if self._facts.local:
            return
        shards = self._must(Call("GET", f"{path_of(name)}/cluster", {})).result
        local, remote = ({shard["shard_id"] for shard in shards[key]} for key in ("local_shards", "remote_shards"))
        if details["config"]["params"].get("sharding_method") == "custom" and local | remote:
            raise ArchiveError(
                f"collection {name} lies in shards with keys of their own, which no set holds",
                where=str(self._server),
                hint="make a collection with sharding_method auto and move the points there",
            )
        if not as_points and remote - local:
            raise ArchiveError(
                f"collection {name} has shards on other nodes, which are not in this node's snapshot",
                where=str(self._server),
                hint="make sets of points, which come from all nodes: servers.qdrant.backup: points",
            )

    # Loading

    def _require_loadable(self, part: Part) -> None:
        """Refuses a part that this server cannot take, before anything is made."""
        other = "make the set with servers.qdrant.backup: points, which every version and local mode take"
        if part.format not in (SNAPSHOT, POINTS):
            raise ArchiveError(f"a part of the format {part.format!r} is not known here", hint="upgrade multidb")
        if part.format == POINTS:
            return
        if self._facts.local:
            raise WrongVersion("local mode takes no snapshot of a server", where=str(self._server), hint=other)
        made, here = _minor(part.server), _minor(self._facts.version)
        if not made <= here <= (made[0], made[1] + 1):
            raise WrongVersion(
                f"the snapshot is of {part.server}; Qdrant {self._facts.version} takes those of its own minor version "
                "and of the one before",
                where=str(self._server),
                hint=f"restore it on a server of that version; or {other}",
            )

    def _loaded(self, name: str, source: BinaryIO, file: str, old: str, new: str) -> None:
        size = page_size(self._catalog.described([name])[name])
        for batch in read_lines(source, file, size):
            points = [with_tenant(point, old, new) for point in batch]
            self._maker.load(name, points)

    def _retenanted(self, name: str, old: str, new: str) -> None:
        """As `with_tenant`, where the points are."""
        if old == new:
            return
        target, several = f"{path_of(name)}/points", {"key": f"{TENANT_FIELD}[]", "match": {"value": old}}
        mine = {"must": [{"key": TENANT_FIELD, "match": {"value": old}}], "must_not": [several]}
        self._must(Call("POST", f"{target}/payload?wait=true", {"payload": {TENANT_FIELD: new}, "filter": mine}))
        asked = {"limit": _AT_ONCE, "with_payload": [TENANT_FIELD], "filter": {"must": [several]}}
        following: Any = None
        while True:
            page = self._must(Call("POST", f"{target}/scroll", {**asked, "offset": following})).result
            operations = [
                {"set_payload": {"payload": with_tenant(point, old, new)["payload"], "points": [point["id"]]}}
                for point in page["points"]
            ]
            if operations:
                self._must(Call("POST", f"{target}/batch?wait=true", {"operations": operations}))
            following = page["next_page_offset"]
            if following is None:
                return

    # Replacing

    def _require_ours(self, owner: Owner) -> None:
        """Refuses to load over a collection of the app's name that is not the app's."""
        new = [mark for mark, _ in self._marked().values() if mark.owner == owner and mark.kind is PlaceKind.NEW]
        for name, details in self._catalog.described([collection_name(owner.app, mark.type) for mark in new]).items():
            if owner_of(details) != owner:
                raise not_the_apps(self._server, name, owner)

    def _mark(self, place: Place, *, replacing: bool) -> None:
        """Also writes down the names that lead to the live collections now, which would go with them."""
        aliases = self._catalog.aliases()
        for name, mark in self._marks(place).items():
            live = collection_name(mark.owner.app, mark.type)
            held = (*mark.aliases, *(alias for alias, collection in aliases.items() if collection == live))
            marked = replace(mark, replacing=replacing, aliases=tuple(sorted(set(held))))
            self._must(Call("PATCH", path_of(name), {"metadata": marked.metadata}))

    def _dismiss(self, owner: Owner) -> bool:
        """Shuts the app out; whether it was in."""
        registry = registry_name(owner.project)
        if not self._facts.rbac or not self._catalog.admitted(registry, owner.app):
            return False
        self._must(dismissal(registry, owner.app))
        return True

    def _take_over(self, place: Place) -> None:
        """Gives each live collection what the place has. May be repeated until the place is gone. Whatever it fails by
        is the server's failure: some collections may be exchanged, and no refusal leaves anything half done."""
        described = self._catalog.described(sorted(self._marks(place)))
        try:
            for name, details in described.items():
                mark = PlaceMark.read(details)
                assert mark is not None
                self._become(name, details, mark)
        except ArchiveError as error:
            message = f"{error.where}: {error.message}" if error.where else error.message
            raise ServerError(message, where=str(self._server), hint="look into the server's log") from None
        self._mark(place, replacing=False)  # from here on the live ones may change, and must not be overwritten again
        self._drop(place)

    def _become(self, name: str, details: Mapping[str, Any], mark: PlaceMark) -> None:
        live = collection_name(mark.owner.app, mark.type)
        there = self._catalog.described([live]).get(live)
        metadata = mark_of(mark.owner) | mark.settings.get("metadata", {})
        if there is None or self._facts.local or UNLOADED in there or not alike(there, details, mark.settings):
            self._must(Call("DELETE", path_of(live), {}))
            made = creation(details, local=self._facts.local)
            self._must(Call("PUT", path_of(live), {**made, "metadata": metadata}))
        if self._facts.local:
            with closing(pages(self._server, self._transport, name, page_size(details))) as reading:
                for page in reading:
                    if page.points:
                        self._must(Call("PUT", f"{path_of(live)}/points", {"points": page.points}))
        else:
            with self._snapshots.taken(name) as snapshot, snapshot.bytes() as chunks:
                self._snapshots.recover(live, chunks, snapshot.sha256)
        self._must(Call("PATCH", path_of(live), {**mark.settings, "metadata": metadata}))
        self._point_aliases(live, mark.aliases)

    def _point_aliases(self, live: str, aliases: Sequence[str]) -> None:
        """Makes the aliases that the set has, but none that leads somewhere else by now."""
        held = {**self._catalog.aliases(), **dict.fromkeys(self._catalog.names(), "")}
        actions = [
            {"create_alias": {"collection_name": live, "alias_name": alias}} for alias in aliases if alias not in held
        ]
        if actions:
            self._must(Call("POST", "/collections/aliases", {"actions": actions}))

    def _drop(self, place: Place) -> None:
        for name in self._marks(place):
            if not self._facts.local:
                self._snapshots.forget_uploaded(name)  # of a run that was killed
            self._must(Call("DELETE", path_of(name), {}))

    # Sending

    @property
    def _snapshots(self) -> Snapshots:
        assert isinstance(self._transport, Http)
        return Snapshots(self._server, self._transport, self._catalog)

    def _must(self, call: Call) -> Reply:
        return expect(self._server, self._transport.send(call, seconds=WORK_SECONDS))


def _compared(source: ImportSource) -> CollectionsSource:
    if not isinstance(source, CollectionsSource):
        raise TypeError(f"{type(source).__name__} is no source that is compared point by point")
    return source


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


def _same_count(before: Mapping[str, int], after: Mapping[str, int], name: str) -> bool:
    return name in before and before[name] == after.get(name)


def _minor(version: str) -> tuple[int, int]:
    major, minor = (int(number) for number in re.findall(r"\d+", version)[:2])
    return major, minor
