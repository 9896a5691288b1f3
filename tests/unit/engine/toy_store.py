"""A fifth store, kept in a dictionary: proof that a store is a folder and one registry line, and the engine's fixture.

The "server" is a `Shelf`: named boxes with a colour, each with its owner. It can be told to fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from multidb.errors import Locked, ServerDown, StatementFailed, UsageError
from multidb.model import (
    Action,
    App,
    Change,
    DerivedName,
    Endpoint,
    Facts,
    Inspection,
    Isolation,
    Owner,
    Provisioner,
    Resource,
    Server,
    Statement,
    StoreContext,
)
from multidb.secrets import Secret, SecretRef, SecretSpec, SecretStore


class ToyOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    colour: str = "red"


class ToyServer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Box(Resource):
    kind: ClassVar[str] = "box"
    rank: ClassVar[int] = 10
    marked: ClassVar[bool] = True
    colour: str
    key_held: str = "current"


@dataclass
class Shelf:
    """The server's memory."""

    boxes: dict[str, Box] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    fail_on: str = ""
    ignore: str = ""  # a statement it answers with success and does not carry out
    goes_down_after: str = ""  # the last statement that it carries out
    numberless: str = ""  # an app that no number is left for
    down: bool = False
    locked_by: str = ""
    looks: list[bool] = field(default_factory=list)  # how each inspection was asked for: deep or not
    meet: threading.Barrier | None = None  # inspections wait here for each other


SHELF = Shelf()


def _key(app: str) -> SecretRef:
    return SecretRef(app, "toy", "key")


def secrets(app: App) -> Sequence[SecretSpec]:
    print_of_key = SecretRef(app.id, "toy", "print")
    return (
        SecretSpec(_key(app.id)),
        SecretSpec(print_of_key, source=_key(app.id), derive=lambda key: f"print-of-{key}"),
    )


def desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    return [
        Box(name=app.id, app=app.id, owner=Owner(context.project, app.id), colour=app.stores["toy"].colour)
        for app in apps
    ]


def statements(change: Change, context: StoreContext) -> Sequence[Statement]:
    box = change.resource
    assert isinstance(box, Box)
    found = []
    if change.action is Action.CREATE:
        found.append(Statement(f"MAKE {box.name} {box.owner}"))
    if change.action is Action.UPDATE and change.changed("owner"):
        found.append(Statement(f"OWN {box.name} {box.owner}"))
    if change.changed("colour"):
        found.append(Statement(f"PAINT {box.name} {box.colour}"))
    if change.changed("key_held"):
        found.append(Statement(f"LOCK {box.name} $print", binds=(("print", SecretRef(box.name, "toy", "print")),)))
    return found


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    return {"TOY_BOX": app.id, "TOY_PLACE": str(endpoint), "TOY_KEY": secret(_key(app.id))}


class ToySession:
    def __init__(self, server: Server, name: str) -> None:
        if SHELF.down:
            raise ServerDown("nothing listens", where=str(server), hint="start it")
        self.facts = Facts("Toy", "1.0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        if SHELF.down:
            raise ServerDown("closed the connection", where="shelf", hint="start it")
        if SHELF.meet is not None:
            SHELF.meet.wait(timeout=5)
        SHELF.looks.append(inspection.deep)
        return [self._seen(SHELF.boxes[r.name], inspection) for r in inspection.desired if r.name in SHELF.boxes]

    def _seen(self, box: Box, inspection: Inspection) -> Box:
        held = inspection.secrets.get(SecretRef(box.name, "toy", "print"))
        key = "lost" if held is None else "current" if held.reveal() == SHELF.keys.get(box.name) else "other"
        return Box(name=box.name, app=box.app, owner=box.owner, colour=box.colour, key_held=key)

    @contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        if SHELF.locked_by:
            raise Locked(f"another run works here: {SHELF.locked_by}")
        yield

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            if SHELF.fail_on and SHELF.fail_on in statement.text:
                raise StatementFailed("the shelf is full", index=index, durable=index, where="shelf")
            bound = {name: secrets.get(ref) for name, ref in statement.binds}
            SHELF.sent.append(statement.text)
            if statement.text != SHELF.ignore:
                self._do(statement.text.split(), bound)
            SHELF.down = SHELF.down or statement.text == SHELF.goes_down_after
            yield index + 1

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        return [Statement(f"SHUT {app.id} now")] if SHELF.keys.get(app.id) else []

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        box = SHELF.boxes.get(app.id)
        ours = box is not None and box.owner == Owner(context.project, app.id)
        return [Statement(f"DROP {app.id} now")] if ours else []

    def _do(self, words: list[str], bound: Mapping[str, Secret | None]) -> None:
        verb, name, what = words
        box = SHELF.boxes.get(name)
        match verb:
            case "MAKE":
                SHELF.boxes[name] = Box(name=name, app=name, owner=Owner(*what.split("/")), colour="bare")
            case "OWN" if box:
                SHELF.boxes[name] = Box(name=name, app=name, owner=Owner(*what.split("/")), colour=box.colour)
            case "PAINT" if box:
                SHELF.boxes[name] = Box(name=name, app=name, owner=box.owner, colour=what)
            case "SHUT":
                SHELF.keys[name] = ""
            case "DROP":
                SHELF.boxes.pop(name, None)
            case "LOCK":
                key = bound["print"]
                assert key is not None
                SHELF.keys[name] = key.reveal()


def allocate(apps: Sequence[App], facts: Facts, recorded: Mapping[str, int]) -> Mapping[str, int]:
    """A number for each app: its own again, else one that nobody ever had."""
    if any(app.id == SHELF.numberless for app in apps):
        raise UsageError("there is no number left")
    numbers = {app.id: recorded[app.id] for app in apps if app.id in recorded}
    for app in apps:
        if app.id not in numbers:
            numbers[app.id] = max([0, *recorded.values(), *numbers.values()]) + 1
    return numbers


def _connect(server: Server, admin: Secret | None, application: str) -> Any:
    return ToySession(server, application)


PROVISIONER = Provisioner(
    name="toy",
    title="Toy",
    app_options=ToyOptions,
    server_options=ToyServer,
    derived_names=lambda app: (DerivedName("toy box", app.id, 40, f"the box of {app.id}"),),
    secrets=secrets,
    desired=desired,
    statements=statements,
    env=env,
    isolation=lambda app, facts: (Isolation.ENFORCED, "a box has walls"),
    connect=_connect,
    allocate=allocate,
)
