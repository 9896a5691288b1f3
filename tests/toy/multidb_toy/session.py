"""The effects of the admin: what is there, the lock, and what the statements do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from multidb.errors import Locked, ServerError, StatementFailed
from multidb.model import (
    App,
    AppUsage,
    CredentialUse,
    Facts,
    Finding,
    Hole,
    Inspection,
    Level,
    Owner,
    Resource,
    Search,
    Searched,
    Server,
    ServerUsage,
    Statement,
    StoreContext,
)
from multidb.secrets import Alternate, Secret, SecretStore
from multidb_toy.connection import Connection
from multidb_toy.resources import Box, digest_of

__all__ = ["ToySession", "connect", "owner_of"]


def connect(server: Server, admin: Secret | None) -> Connection:
    """The admin's login on the server."""
    at = server.endpoint
    key, start = admin or Secret(""), server.start_hint
    return Connection(at.host, at.port, at.user, key, where=str(server), timeout=server.timeout, start=start)


def owner_of(box: Mapping[str, Any]) -> tuple[str, str]:
    """Project and app of a box's mark; empty where it has none of this form."""
    project, _, app = str(box["owner"]).partition("/")
    return project, app.partition("/")[0]


class ToySession:
    """See `multidb.model.Session`."""

    def __init__(self, server: Server, admin: Secret | None) -> None:
        self._name, self._where = server.name, str(server)
        self._connection = connect(server, admin)
        self.facts = Facts("Toy", self._connection.version)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        boxes = self._connection.ask("LIST")
        return [
            Box(
                name=each.name,
                app=each.app,
                owner=Owner(*owner_of(boxes[each.name])),
                colour=boxes[each.name]["colour"],
                opened_by=_opened_by(inspection, each.name, boxes[each.name]["digest"]),
                sealed=boxes[each.name]["sealed"],
            )
            for each in inspection.desired
            if each.name in boxes
        ]

    @contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        try:
            self._connection.ask("HOLD $project $holder", project=project, holder=holder)
        except ServerError as error:
            if not error.message.startswith("held by"):
                raise
            raise Locked(error.message, where=self._where, hint="wait for it") from None
        yield  # the server lets go when the connection ends

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            binds = {name: value.reveal() for name, ref in statement.binds if (value := secrets.get(ref)) is not None}
            try:
                self._connection.ask(statement.text, **binds)
            except ServerError as error:
                raise StatementFailed(error.message, index=index, durable=index, where=self._where) from None
            yield index + 1

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        return (Finding(Level.OK, self._name, "the admin may make boxes and give out keys"),)

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        boxes = self._connection.ask("LIST")
        used = {
            app.id: AppUsage(size=boxes[app.id]["size"], counts={"values": boxes[app.id]["count"]})
            for app in apps
            if app.id in boxes
        }
        return ServerUsage(size=sum(box["size"] for box in boxes.values()), apps=used)

    def search(self, inspection: Inspection) -> Search:
        boxes = self._connection.ask("LIST")
        apps = {app.id for app in inspection.apps}
        holes = [
            Hole("box of nobody", f"box {name}", "Nobody knows who has its key.", (f"SHUT {name}",), account=name)
            for name, box in boxes.items()
            if box["digest"] and name not in apps and owner_of(box)[0] == ""
        ]
        return Search(tuple(holes), (Searched("LIST", len(boxes), "boxes that open and are nobody's"),))

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        return {}  # a box has one key, which is not rotated

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for name, box in self._connection.ask("LIST").items():
            project, app = owner_of(box)
            if project == context.project and app not in known:
                found.setdefault(app, []).append(f"box {name}")
        return found

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        box = self._connection.ask("LIST").get(app.id)
        ours = box is not None and owner_of(box) == (context.project, app.id)
        return [Statement(f"SHUT {app.id}")] if ours and box["digest"] else []

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        boxes = self._connection.ask("LIST")
        return [Statement(f"DROP {name}") for name in boxes if owner_of(boxes[name]) == (context.project, app.id)]


def _opened_by(inspection: Inspection, app: str, digest: str) -> str:
    """Whether what opens the box is what multidb gave."""
    if not digest:
        return "off"
    held = inspection.secrets.get(digest_of(app))
    return "lost" if held is None else "current" if held.reveal() == digest else "other"
