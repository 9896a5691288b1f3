"""Collections that are elsewhere: on a server that is not the project's, or in a folder of the client's local mode.

Read with what a key that only reads may ask: what collections there are, what each is, and their points, page by page.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from multidb.errors import AuthenticationFailed, UsageError
from multidb.model import (
    App,
    Endpoint,
    ImportOptions,
    Measures,
    Server,
    SourceLocation,
    StoreContext,
    Survey,
    at_source,
    counted,
    listed,
)
from multidb.provisioners.qdrant.backup.incoming import Incoming, obstacles, type_of
from multidb.provisioners.qdrant.backup.points import Fingerprint, Point, joined, page_size, pages
from multidb.provisioners.qdrant.backup.snapshot_file import SnapshotSource
from multidb.provisioners.qdrant.backup.stamp import Stamp, now
from multidb.provisioners.qdrant.driver.transport import (
    Folder,
    Http,
    Transport,
    expect,
    ignore_known_warnings,
    not_qdrant,
)
from multidb.provisioners.qdrant.hosting.address import QdrantAddress
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.options import STORE, TENANT_FIELD
from multidb.provisioners.qdrant.provision.resources import OWN_PREFIX, collection_name
from multidb.provisioners.qdrant.provision.statements import Call, path_of

__all__ = ["CollectionsSource", "source"]

_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TENANT_INDEX: Final = {"type": "keyword", "is_tenant": True}


def source(location: SourceLocation, options: ImportOptions) -> CollectionsSource | SnapshotSource:
    """The source there, not opened yet: a folder is one of local mode, a file is a snapshot."""
    path = location.path
    return CollectionsSource(location, options) if path is None or path.is_dir() else SnapshotSource(path, options)


class CollectionsSource:
    """`multidb.model.ImportSource` for the collections of one Qdrant."""

    leaves_marks = False  # nothing is made there

    def __init__(self, location: SourceLocation, options: ImportOptions) -> None:
        self._location = location
        self._options = options
        self._stamp: Stamp | None = None
        self._fingerprints: dict[str, Measures] | None = {}

    def __enter__(self) -> Self:
        ignore_known_warnings()
        self._server = _server(self._location)
        self.local = bool(self._server.endpoint.path)
        with at_source(self._location, STORE):
            self._transport: Transport = Folder(self._server) if self.local else self._http()
            self._catalog = Catalog(self._server, self._transport)
            try:
                self.version = "" if self.local else self._version()
                self._names = self._catalog.names()
            except BaseException:
                self._transport.close()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._transport.close()

    @property
    def text(self) -> str:
        """Where it is, for messages."""
        return self._location.text

    @property
    def product(self) -> str:
        """What is read."""
        return "Qdrant local mode" if self.local else f"Qdrant {self.version}"

    # Before anything is copied

    def survey(self, app: App, context: StoreContext) -> Survey:
        """Exact counts, unless the source does not count exactly."""
        with at_source(self._location, STORE):
            chosen = self.incoming(app)
            counts = {f"points {one.type}": self._count(one.name) for one in chosen}
            foreign = {one.name: self._count(one.name, _foreign(app)) or 0 for one in chosen}
            aliases = self._catalog.aliases()
        estimated = {
            f"points {one.type}": int(one.details.get("points_count") or 0)
            for one in chosen
            if counts[f"points {one.type}"] is None
        }
        return Survey(
            product=self.product,
            counts={name: count for name, count in counts.items() if count is not None} | estimated,
            estimated=bool(estimated),
            renames={one.name: here for one in chosen if (here := collection_name(app.id, one.type)) != one.name},
            losses=tuple(self._losses(app, chosen, aliases, foreign)),
            obstacles=(*obstacles(app, chosen), *self._unknown(chosen)),
            following="",
        )

    def incoming(self, app: App) -> list[Incoming]:
        """The collections that are chosen, by the names that they get: those of now."""
        with at_source(self._location, STORE):
            self._names = self._catalog.names()
            chosen = [name for name in self._names if self._is_chosen(name)]
            described, aliases = self._catalog.described(chosen), self._catalog.aliases()
        return [
            Incoming(name, type_of(name, app, self._options), details, self._aliases_of(name, aliases, app))
            for name, details in described.items()
        ]

    def _is_chosen(self, name: str) -> bool:
        options = self._options
        return (
            not name.startswith(OWN_PREFIX)
            and name.startswith(options.prefix)
            and (not options.pattern or fnmatch.fnmatchcase(name, options.pattern))
        )

    def _aliases_of(self, name: str, aliases: Mapping[str, str], app: App) -> tuple[str, ...]:
        begin = self._options.prefix or f"{app.id}_"
        own = (alias for alias, target in aliases.items() if target == name and alias.startswith(begin))
        return tuple(sorted(f"{app.id}_{alias.removeprefix(begin)}" for alias in own))

    def _count(self, name: str, chosen: Mapping[str, Any] | None = None) -> int | None:
        """None where the source does not count exactly."""
        body = {"exact": True} | ({"filter": chosen} if chosen is not None else {})
        reply = self._transport.send(Call("POST", f"{path_of(name)}/points/count", body))
        if reply.status in (400, 403, 422):  # strict mode
            return None
        return int(expect(self._server, reply).result["count"])

    def _losses(
        self, app: App, chosen: Sequence[Incoming], aliases: Mapping[str, str], foreign: Mapping[str, int]
    ) -> Iterator[str]:
        names, kept = {one.name for one in chosen}, sum(len(one.aliases) for one in chosen)
        lost = sorted(alias for alias, target in aliases.items() if target in names)
        if len(lost) > kept:
            yield f"aliases that do not begin as the collections do, of {listed(lost, 6)}: no token opens them here"
        for name, points in foreign.items():
            if points:
                some = counted(points, "point has", "points have")
                yield f"{some} another tenant_id than {app.tenant_id} in {name}: it stays, as a customer's of the app"
        others = [name for name in self._names if name not in names and not name.startswith(OWN_PREFIX)]
        if others:
            yield f"{counted(len(others), 'collection')} that the options leave out ({listed(others, 6)})"
        if not self.local:
            yield "keys, tokens and snapshots: the app has its own"

    def _unknown(self, chosen: Sequence[Incoming]) -> Iterator[str]:
        if unknown := sorted(self._options.names.keys() - {one.name for one in chosen}):
            yield f"there is no collection {listed(unknown)} to be renamed: there are {listed(self._names, 12)}"

    # Copying and comparing

    def stamp(self, app: App, moment: str = "") -> Stamp:
        """What the points get of which it is not said yet; the moment is that of the first call."""
        if self._stamp is None or moment:
            self._stamp = Stamp(app.tenant_id, app.id, moment or now())
        return self._stamp

    def points(self, one: Incoming, app: App, offset: Any = None) -> Generator[tuple[list[Point], Any], None, None]:
        """The points in pages, stamped, and the offset of each page's successor; None after the last."""
        stamp = self.stamp(app)
        with at_source(self._location, STORE):
            read = pages(self._server, self._transport, one.name, page_size(one.details), offset)
            with closing(read) as reading:
                for page in reading:
                    yield [stamp.on(point) for point in page.points], page.following

    def keep(self, one: Incoming, fingerprint: Fingerprint | None) -> None:
        """What of a collection was copied; None: a part of it was copied before."""
        if fingerprint is None or self._fingerprints is None:
            self._fingerprints = None
        else:
            self._fingerprints[one.type] = self.measured(one, fingerprint)

    def measured(self, one: Incoming, fingerprint: Fingerprint) -> Measures:
        """As the app's server measures it."""
        return fingerprint.measures(one.type, one.details, local=self.local)

    def measure(self, app: App, context: StoreContext) -> Measures:
        measures = []
        for one in self.incoming(app):
            fingerprint = Fingerprint(app.tenant_id)
            for page, _ in self.points(one, app):
                fingerprint.add(page)
            measures.append(self.measured(one, fingerprint))
        return joined(measures)

    # While it is written

    def is_stopped_by_hand(self) -> bool:
        """No request stops the writers of a server: strict mode lets points be deleted, and keys stand in its
        configuration. A folder is held by whoever has it open."""
        return not self.local

    def stopping(self) -> str:
        if self.local:
            return "the folder is held until the command ends, and nobody else can open it; nothing of that lasts"
        return (
            "a Qdrant cannot stop its writers: stop them where they run, and for good, since what is written there "
            "after the comparison is lost; writers that go on are found by it, and nothing is exchanged"
        )

    def stop_writing(self) -> None:
        """Nothing to do: the folder is open already, and a server cannot."""

    def require_stopped(self) -> None:
        """What can be known is told by the comparison."""

    def allow_writing(self) -> None:
        """Nothing of it lasts."""

    def unfollow(self, mark: str) -> None:
        """Nothing was made there."""

    def left_behind(self, mark: str, *, stopped: bool) -> str:
        return ""

    def copied(self) -> Measures | None:
        return None if not self._fingerprints else joined(self._fingerprints.values())

    def _http(self) -> Http:
        key = self._location.password
        if key and not key.reveal().isascii():
            raise AuthenticationFailed("the api key has a character that no HTTP header can carry")
        return Http(self._server, key or None)

    def _version(self) -> str:
        described = self._transport.send(Call("GET", "/", {})).result
        described = described if isinstance(described, Mapping) else {}
        if "qdrant" not in str(described.get("title", "")).lower():
            raise not_qdrant(self._server, "what answers there is not a Qdrant")
        return str(described.get("version", "of an unknown version"))


def _foreign(app: App) -> dict[str, Any]:
    own = {"key": TENANT_FIELD, "match": {"value": app.tenant_id}}
    return {"must_not": [own, {"is_empty": {"key": TENANT_FIELD}}]}


def _server(location: SourceLocation) -> Server:
    if location.path is not None:
        if not (location.path / "meta.json").is_file():
            raise UsageError(
                "is no folder of Qdrant's local mode",
                where=str(location.path),
                hint="name such a folder (with its meta.json), or a server's address",
            )
        return Server("source", STORE, Endpoint(path=str(location.path)), external=True)
    refusal = QdrantAddress.refusal(location.url or "")
    if refusal is not None:
        raise UsageError(f"the address {refusal}", where="--from-qdrant", hint=f"such as {QdrantAddress.example()}")
    endpoint = QdrantAddress(url=location.url).endpoint(Path())
    return Server("source", STORE, replace(endpoint, user=""), external=True)
