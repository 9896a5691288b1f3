"""An app's data coming and going: read and written as the app's own box, with no more power than that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from multidb.errors import ArchiveError, Conflict, ServerError
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Measures,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
)
from multidb.secrets import Secret
from multidb_toy.connection import Connection
from multidb_toy.session import connect

__all__ = ["ToyArchive"]

_FILE = "values.jsonl"
_FORMAT = "toy values 1"


class ToyArchive:
    """See `multidb.model.Archive`. A scratch box has no key, so no app can open it; its mark has a third part."""

    def __init__(self, server: Server, admin: Secret | None) -> None:
        self._server, self._admin = server, admin
        self._connection = connect(server, admin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        place = self.live(app, context)
        with self._inside(place) as box, writer.file(_FILE) as file:
            for key in box.ask("KEYS $box", box=place.name):
                line = json.dumps([key, box.ask("GET $box $key", box=place.name, key=key)])
                file.write(line.encode() + b"\n")
        version = self._connection.version
        return Part(_FORMAT, f"Toy {version}", f"multidb-toy {version}", False, self.measure(place))

    def live(self, app: App, context: StoreContext) -> Place:
        return Place(PlaceKind.LIVE, app, app.id)

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        place = _place(kind, app)
        mark, box = _mark(place, context), self._boxes().get(place.name)
        if box is not None and box["owner"] != mark:
            raise Conflict(f"box {place.name} is not multidb's", where=str(self._server), hint="move it away")
        self.discard(place)
        self._connection.ask("MAKE $box $mark", box=place.name, mark=mark)
        return place

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        if part.format != _FORMAT:
            raise ArchiveError(f"cannot read {part.format}", hint="take another set")
        if not self.is_empty(place):
            raise ArchiveError(f"box {place.name} is not empty", where=str(self._server))
        with self._inside(place) as box, reader.file(_FILE) as file:
            for line in file:
                key, value = _checked(line)
                box.ask("PUT $box $key $value", box=place.name, key=key, value=value)

    def measure(self, place: Place) -> Measures:
        total, count = 0, 0
        with self._inside(place) as box:
            for key in box.ask("KEYS $box", box=place.name):
                value = box.ask("GET $box $key", box=place.name, key=key)
                total ^= int.from_bytes(hashlib.sha256(json.dumps([key, value]).encode()).digest(), "big")
                count += 1
        return Measures({"values": count}, {"values": f"{total:064x}"})

    def is_empty(self, place: Place) -> bool:
        return place.name not in (boxes := self._boxes()) or boxes[place.name]["count"] == 0

    def replace(self, new: Place, context: StoreContext) -> None:
        self._connection.ask("MOVE $new $live", new=new.name, live=new.app.id)

    def discard(self, place: Place) -> None:
        if place.kind is PlaceKind.LIVE:
            raise ValueError("a live place stays")
        self._connection.ask("DROP $box", box=place.name)

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        boxes = self._boxes()
        places = [_place(kind, app) for kind in (PlaceKind.SCRATCH, PlaceKind.NEW)]
        return [each for each in places if each.name in boxes and boxes[each.name]["owner"] == _mark(each, context)]

    def _boxes(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._connection.ask("LIST")
        return found

    def _inside(self, place: Place) -> Connection:
        connection = connect(self._server, self._admin)
        try:
            connection.ask("BECOME $box", box=place.name)
        except ServerError:
            connection.close()
            raise
        return connection


def _place(kind: PlaceKind, app: App) -> Place:
    return Place(kind, app, f"{app.id}__{kind}")


def _mark(place: Place, context: StoreContext) -> str:
    return f"{context.project}/{place.app.id}/{place.kind}"


def _checked(line: bytes) -> tuple[str, str]:
    """A line of a set. What an app has written is data: nothing but two texts."""
    try:
        key, value = json.loads(line)
    except ValueError:
        raise ArchiveError("has a line that is no value") from None
    if not isinstance(key, str) or not isinstance(value, str):
        raise ArchiveError("has a line that is no value")
    return key, value
