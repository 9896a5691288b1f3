"""Collections made as a set, or another Qdrant, describes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from multidb.errors import Conflict, ServerError, WrongVersion
from multidb.model import Owner, PlaceKind, Server, listed
from multidb.provisioners.qdrant.backup.configuration import index_calls, indexes, unkept, without_limits
from multidb.provisioners.qdrant.backup.entries import renamed
from multidb.provisioners.qdrant.backup.places import Collections, PlaceMark
from multidb.provisioners.qdrant.driver.transport import Reply
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.resources import collection_name, owner_of
from multidb.provisioners.qdrant.provision.statements import Call, path_of

__all__ = ["Maker", "mark_of", "not_the_apps"]

_LATE: Final = 10.0  # seconds in which a server that goes on has done what it was asked for
_TOO_LARGE: Final = ("larger than allowed", "answers 413")


class Maker:
    """Makes collections on one server.

    Args:
        must: sends a call that has to succeed.
        local: it is local mode, which keeps no payload indexes.
    """

    def __init__(self, server: Server, must: Callable[[Call], Reply], catalog: Catalog, *, local: bool) -> None:
        self._server = server
        self._catalog = catalog
        self._local = local
        self.must = must

    def made(self, place: Collections, entry: Mapping[str, Any], old_app: str) -> str:
        """The collection of the place for one entry of a part, made unless it is there."""
        kept = entry.get("settings") or {}
        created = {**entry["created"], **without_limits(kept)}
        owner = place.owner
        if place.kind is PlaceKind.LIVE:
            name = collection_name(owner.app, str(entry["type"]))
            there = self._catalog.described([name]).get(name)
            if there is not None and owner_of(there) != owner:
                raise not_the_apps(self._server, name, owner)
            if there is None:
                self.must(Call("PUT", path_of(name), {**created, "metadata": mark_of(owner)}))
            return name
        aliases = renamed(entry["aliases"], old_app, place.app.id)
        mark = PlaceMark(place.kind, owner, str(entry["type"]), aliases=aliases, settings=kept)
        self._make_anew(mark, Call("PUT", path_of(mark.collection), {**created, "metadata": mark.metadata}))
        return mark.collection

    def _make_anew(self, mark: PlaceMark, making: Call) -> None:
        """Makes a collection of a place, in the stead of one that an earlier run has asked for: a server that stood
        still carries that out when it goes on, which may be after the place was emptied."""
        until = time.monotonic() + _LATE
        while True:
            try:
                self.must(making)
            except ServerError as error:
                if "already exists" not in error.message or time.monotonic() > until:
                    raise
            else:
                return
            details = self._catalog.described([mark.collection]).get(mark.collection)
            # Taken in late, a snapshot has the mark of the collection that it was made of.
            if details is not None and (PlaceMark.read(details) or owner_of(details)):
                self.must(Call("DELETE", path_of(mark.collection), {}))
            time.sleep(_LATE / 100)

    def load(self, name: str, points: Sequence[Any]) -> None:
        """Writes points, in as many requests as they take: a server limits the size of one (32 MB, if nobody has said
        otherwise), and a point may have got its payload in several."""
        try:
            self.must(Call("PUT", f"{path_of(name)}/points?wait=true", {"points": points}))
        except ServerError as error:
            if not _is_too_large(error):
                raise
            if len(points) < 2:
                self._load_in_pieces(name, points[0], error)
                return
            half = len(points) // 2
            self.load(name, points[:half])
            self.load(name, points[half:])

    def _load_in_pieces(self, name: str, point: Mapping[str, Any], error: ServerError) -> None:
        payload = point.get("payload") or {}
        if not payload:
            raise error
        self.must(Call("PUT", f"{path_of(name)}/points?wait=true", {"points": [{**point, "payload": {}}]}))
        self._add(name, point["id"], payload)

    def _add(self, name: str, point: Any, payload: Mapping[str, Any]) -> None:
        """Adds to a point's payload."""
        try:
            body = {"payload": payload, "points": [point]}
            self.must(Call("POST", f"{path_of(name)}/points/payload?wait=true", body))
        except ServerError as error:
            if not _is_too_large(error):
                raise
            if len(payload) < 2:
                raise ServerError(
                    f"point {point} of {name}: {next(iter(payload))!r} alone is more than one request may have",
                    where=str(self._server),
                    hint="raise the server's service.max_request_size_mb, then run the command again",
                ) from None
            keys, half = list(payload), len(payload) // 2
            for some in (keys[:half], keys[half:]):
                self._add(name, point, {key: payload[key] for key in some})

    def index(self, name: str, entry: Mapping[str, Any]) -> None:
        """Makes the payload indexes that the entry has and the collection has not."""
        schema = {} if self._local else entry.get("indexes") or {}
        if schema:
            there = indexes(self._catalog.described([name])[name])
            for body in index_calls(schema, there):
                self.must(Call("PUT", f"{path_of(name)}/index?wait=true", body))

    def require_kept(self, name: str, entry: Mapping[str, Any], product: str) -> None:
        """`WrongVersion` where the server does not keep all that the entry says.

        Args:
            product: whose entry it is.
        """
        lost = [] if self._local else unkept(entry, self._catalog.described([name])[name])
        if lost:
            raise WrongVersion(
                f"collection {name} of {product} has what this server does not keep: {listed(lost)}",
                where=str(self._server),
                hint="restore it on a server of that version",
            )


def _is_too_large(error: ServerError) -> bool:
    return any(words in error.message for words in _TOO_LARGE)


def not_the_apps(server: Server, name: str, owner: Owner) -> Conflict:
    """Of a collection of the app's name that does not carry its mark."""
    return Conflict(
        f"collection {name} is not {owner.app}'s by its mark",
        where=str(server),
        hint=f"take it over first: multidb apply --adopt {owner.app}",
    )


def mark_of(owner: Owner) -> dict[str, Any]:
    """The owner mark, as metadata of a collection."""
    return {"multidb": {"project": owner.project, "app": owner.app}}
