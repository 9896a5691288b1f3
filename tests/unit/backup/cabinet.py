"""A store kept in a folder of files, so that processes at work on it can be killed.

An app's box is ``<app>.json`` (owner, login on or off) with its rows in ``<app>.rows``: ``<app>:key=value``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from multidb.errors import ArchiveError, NeedsServer, ServerDown
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Change,
    DerivedName,
    Endpoint,
    Facts,
    Inspection,
    Isolation,
    Measures,
    Owner,
    Part,
    Place,
    PlaceKind,
    Progress,
    Project,
    Provisioner,
    Resource,
    Server,
    Statement,
    StoreContext,
)
from multidb.model.options import ContainerOptions
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import Secret, SecretRef, SecretSpec, SecretStore
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime

FAULTS: dict[str, BaseException] = {}
"""By what is asked of an archive (``backup``, ``replace`` ...), perhaps with the app and store: its error."""
ONE_PLACE: set[str] = set()
"""Servers that have no room for a second place."""


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    colour: str = "red"


class ServerOptions(ContainerOptions):
    pass


@dataclass(frozen=True, kw_only=True)
class Box(Resource):
    kind: ClassVar[str] = "box"
    rank: ClassVar[int] = 10
    marked: ClassVar[bool] = True
    login: str = "on"


class Shelf:
    """The server: a folder."""

    def __init__(self, server: Server) -> None:
        self.root = Path(server.endpoint.path)
        if (self.root / "down").exists():
            raise ServerDown("nothing listens", where=str(server))

    def box(self, app: str) -> dict[str, str] | None:
        path = self.root / f"{app}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def put(self, app: str, box: Mapping[str, str]) -> None:
        path = self.root / f"{app}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(box))
        temporary.replace(path)

    def rows(self, place: str) -> Path:
        return self.root / f"{place}.rows"


class Session:
    def __init__(self, server: Server) -> None:
        self.shelf = Shelf(server)
        self.facts = Facts("Cabinet", "1.0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        found = []
        for want in inspection.desired:
            if box := self.shelf.box(want.name):
                owner = Owner(*box["owner"].split("/"))
                found.append(Box(name=want.name, app=want.app, owner=owner, login=box.get("login", "none")))
        return found

    @contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        yield

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            verb, app, what = statement.text.split()
            if verb == "drop":
                for path in self.shelf.root.glob(f"{what}.*"):  # also what a killed process had not put in place yet
                    path.unlink(missing_ok=True)
                yield index + 1
                continue
            box = self.shelf.box(app) or {}
            self.shelf.put(app, {**box, verb: what})
            yield index + 1

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        return {}

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        names = (app.id, f"{app.id}__{PlaceKind.SCRATCH}", f"{app.id}__{PlaceKind.NEW}")
        there = [name for name in names if list(self.shelf.root.glob(f"{name}.*"))]
        return [Statement(f"drop {app.id} {name}") for name in there]

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        return [Statement(f"login {app.id} off")]


class Archive:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.shelf = Shelf(server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        self._fault("backup", app.id)
        place = self.live(app, context)
        with writer.file("rows.txt") as file, self._open(place) as rows:
            while block := rows.read(1 << 16):
                file.write(block)
                self._fault("midway", app.id)
        return Part("cabinet 1", "Cabinet 1.0", "cabinet 1", True, self.measure(place), {"app": app.id})

    def live(self, app: App, context: StoreContext) -> Place:
        return Place(PlaceKind.LIVE, app, app.id)

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        self._fault("prepare", app.id)
        if self.server.name in ONE_PLACE:
            raise NeedsServer("holds one place", where=str(self.server))
        place = Place(kind, app, f"{app.id}__{kind}")
        self.shelf.rows(place.name).write_bytes(b"")
        return place

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        self._fault("restore", place.app.id)
        old, new = f"{part.details['app']}:".encode(), f"{place.app.id}:".encode()
        live = self.shelf.rows(place.name)
        # What is empty is filled as it stands; what is not, in one step.
        temporary = live if place.kind is PlaceKind.LIVE and self.is_empty(place) else live.with_suffix(".loading")
        with reader.file("rows.txt") as file, temporary.open("wb") as rows:
            for line in file:
                if not line.startswith(old):
                    raise ArchiveError("has a row of another app")
                rows.write(new + line.removeprefix(old))
        temporary.replace(live)

    def measure(self, place: Place) -> Measures:
        self._fault("measure", place.app.id)
        prefix, count, digest = f"{place.app.id}:".encode(), 0, 0
        with self._open(place) as rows:
            for line in rows:
                count += 1
                digest ^= int.from_bytes(hashlib.sha256(line.removeprefix(prefix)).digest(), "big")
        return Measures({"rows": count}, {"rows": f"{digest:064x}"})

    def is_empty(self, place: Place) -> bool:
        with self._open(place) as rows:
            return not rows.read(1)

    def replace(self, new: Place, context: StoreContext) -> None:
        self._fault("replace", new.app.id)
        box = self.shelf.box(new.app.id) or {}
        self.shelf.put(new.app.id, {**box, "login": "none"})  # made anew by apply
        self.shelf.rows(new.name).replace(self.shelf.rows(new.app.id))

    def find_tables(self, place: Place, names: Sequence[str]) -> Mapping[str, str]:
        return {name: "all rows" for name in names if name == "rows" and not self.is_empty(place)}

    def replace_tables(self, new: Place, tables: Sequence[str], part: Part) -> None:
        self._fault("replace tables", new.app.id)
        temporary = self.shelf.rows(new.name).with_suffix(".loading")
        temporary.write_bytes(self.shelf.rows(new.name).read_bytes())
        temporary.replace(self.shelf.rows(new.app.id))

    def discard(self, place: Place) -> None:
        if place.kind is PlaceKind.LIVE:
            raise ValueError("a live place stays")
        for suffix in (".rows", ".loading"):
            self.shelf.rows(place.name).with_suffix(suffix).unlink(missing_ok=True)

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        places = [Place(kind, app, f"{app.id}__{kind}") for kind in (PlaceKind.SCRATCH, PlaceKind.NEW)]
        return [place for place in places if list(self.shelf.root.glob(f"{place.name}.*"))]

    def _open(self, place: Place) -> Any:
        path = self.shelf.rows(place.name)
        return path.open("rb") if path.exists() else io.BytesIO()

    def _fault(self, what: str, app: str) -> None:
        for name in (what, f"{what} {app}", f"{what} {app} {self.server.store}"):
            if name in FAULTS:
                raise FAULTS[name]


def _desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    return [
        Box(
            name=app.id,
            app=app.id,
            owner=Owner(context.project, app.id),
            login="off" if app.id in context.closed else "on",
        )
        for app in apps
    ]


def _statements(change: Change, context: StoreContext) -> Sequence[Statement]:
    box = change.resource
    assert isinstance(box, Box)
    return [Statement(f"owner {box.name} {box.owner}"), Statement(f"login {box.name} {box.login}")]


def _env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    return {}


def _no_secrets(app: App) -> Sequence[SecretSpec]:
    return ()


def provisioner_of(name: str) -> Provisioner:
    """The same store under a name, so that an app can have several."""
    return Provisioner(
        name=name,
        title=name.capitalize(),
        app_options=Options,
        server_options=ServerOptions,
        derived_names=lambda app: (DerivedName(f"{name} box", app.id, 40),),
        secrets=_no_secrets,
        desired=_desired,
        statements=_statements,
        env=_env,
        isolation=lambda app, facts: (Isolation.ENFORCED, "a box has walls"),
        connect=lambda server, admin, application: Session(server),  # type: ignore[arg-type, return-value]
        processes=lambda hosting: (),  # `FolderRuntime` has its servers
        archive=lambda server, admin, application, take_offline: Archive(server),
    )


PROVISIONER = provisioner_of("cabinet")


class FolderRuntime(GivenRuntime):
    """A server for each store, each in its own folder."""

    def __init__(self, project: Project, folder: Path, stores: Sequence[str] = ("cabinet", "drawer")) -> None:
        self._folder = folder
        self._stores = stores
        for store in stores:
            (folder / store).mkdir(parents=True, exist_ok=True)
        super().__init__(RealServer(self.servers()[0], None, ServerOptions()))

    def servers(self) -> list[Server]:
        return [Server(store, store, Endpoint(path=str(self._folder / store))) for store in self._stores]

    def status(self) -> list[ServerStatus]:
        return [ServerStatus(each.name, each.store, ServerState.RUNNING, each) for each in self.servers()]


def write_rows(folder: Path, store: str, app: str, count: int, salt: str = "") -> None:
    """Gives an app so many rows."""
    (folder / store).mkdir(parents=True, exist_ok=True)
    with (folder / store / f"{app}.rows").open("w") as rows:
        rows.writelines(
            f"{app}:{salt}{number}={hashlib.sha256(f'{salt}{number}'.encode()).hexdigest()}\n"
            for number in range(count)
        )


def rows_of(folder: Path, store: str, app: str) -> bytes:
    path = folder / store / f"{app}.rows"
    return path.read_bytes() if path.exists() else b""
