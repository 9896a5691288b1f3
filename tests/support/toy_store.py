"""A fifth store, kept in a dictionary: proof that a store is a folder and one registry line, and the engine's fixture.

The "server" is a `Shelf`: named boxes with a colour, each with its owner. It can be told to fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from multidb.errors import (
    AuthenticationFailed,
    Locked,
    ServerDown,
    ServerError,
    ServerSlow,
    StatementFailed,
    UsageError,
)
from multidb.model import (
    Action,
    App,
    AppUsage,
    Change,
    DerivedName,
    Endpoint,
    Facts,
    Health,
    Hole,
    Inspection,
    Isolation,
    Outcome,
    Owner,
    Probe,
    Provisioner,
    Remark,
    Resource,
    Search,
    Searched,
    Server,
    ServerUsage,
    Statement,
    Status,
    StoreContext,
    Tenant,
)
from multidb.model.options import ContainerOptions
from multidb.secrets import Secret, SecretRef, SecretSpec, SecretStore


class ToyOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    colour: str = "red"


class ToyServer(ContainerOptions):
    pass


@dataclass(frozen=True, kw_only=True)
class Box(Resource):
    kind: ClassVar[str] = "box"
    rank: ClassVar[int] = 10
    marked: ClassVar[bool] = True
    colour: str
    key_held: str = "current"
    sealed: bool = False  # nothing more may be put in


@dataclass
class Shelf:
    """The server's memory."""

    boxes: dict[str, Box] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    fail_on: str = ""
    goes_on: bool = False  # whether it can be asked for other things after that
    closed: dict[str, ServerError] = field(default_factory=dict)  # apps whose box cannot be looked at
    ignore: str = ""  # a statement it answers with success and does not carry out
    goes_down_after: str = ""  # the last statement that it carries out
    numberless: str = ""  # an app that no number is left for
    down: bool = False
    locked_by: str = ""
    logins: int = 0  # sessions of the admin that were opened
    looks: list[bool] = field(default_factory=list)  # how each inspection was asked for: deep or not
    meet: threading.Barrier | None = None  # inspections wait here for each other
    found: dict[str, Health | Exception] = field(default_factory=dict)  # what the check of an app's box finds
    together: threading.Barrier | None = None  # checks wait here for each other
    silent: set[str] = field(default_factory=set)  # servers, and apps, whose checks wait for `patience` in vain
    patience: float = 0.2  # seconds
    lag: float = 0.0  # seconds that a check takes which is answered
    tried: list[tuple[str, str]] = field(default_factory=list)  # app and server of each check and each attacker
    at_once: int = 0  # attackers that are at work now
    most_at_once: int = 0
    open_to: dict[str, str] = field(default_factory=dict)  # a box that one other app can look into
    clumsy: set[str] = field(default_factory=set)  # attackers whose probes do not even work on their own box
    shy: set[str] = field(default_factory=set)  # attackers that try nothing, or not this one: ``ann>bob``
    unlocked: set[str] = field(default_factory=set)  # boxes that stand open to everybody
    dusty: set[str] = field(default_factory=set)  # boxes beside which lies what nobody has marked
    weights: dict[str, int] = field(default_factory=dict)  # what is in each box
    used: dict[str, AppUsage] = field(default_factory=dict)  # what a box is said to use, instead
    level: Isolation = Isolation.ENFORCED
    seals: bool = True  # whether a box can be sealed


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
        Box(
            name=app.id,
            app=app.id,
            owner=Owner(context.project, app.id),
            colour=app.stores["toy"].colour,
            sealed=SHELF.seals and app.id in context.read_only,
        )
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
    if change.action is Action.UPDATE and change.changed("sealed"):
        found.append(Statement(f"SEAL {box.name} {'shut' if box.sealed else 'open'}"))
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
        SHELF.logins += 1
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
        inspection.unread.update({app.id: SHELF.closed[app.id] for app in inspection.apps if app.id in SHELF.closed})
        return [self._seen(SHELF.boxes[r.name], inspection) for r in inspection.desired if r.name in SHELF.boxes]

    def _seen(self, box: Box, inspection: Inspection) -> Box:
        held = inspection.secrets.get(SecretRef(box.name, "toy", "print"))
        key = "lost" if held is None else "current" if held.reveal() == SHELF.keys.get(box.name) else "other"
        return replace(box, key_held=key)

    @contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        if SHELF.locked_by:
            raise Locked(f"another run works here: {SHELF.locked_by}")
        yield

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            if SHELF.fail_on and SHELF.fail_on in statement.text:
                raise StatementFailed(
                    "the shelf is full", index=index, durable=index, where="shelf", refused=SHELF.goes_on
                )
            bound = {name: secrets.get(ref) for name, ref in statement.binds}
            SHELF.sent.append(statement.text)
            if statement.text != SHELF.ignore:
                self._do(statement.text.split(), bound)
            SHELF.down = SHELF.down or statement.text == SHELF.goes_down_after
            yield index + 1

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        owners = {box.name: box.owner for box in SHELF.boxes.values()}
        return {
            owner.app: [f"box {name}"]
            for name, owner in owners.items()
            if owner is not None and owner.project == context.project and owner.app not in known
        }

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        return [Statement(f"SHUT {app.id} now")] if SHELF.keys.get(app.id) else []

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        box = SHELF.boxes.get(app.id)
        ours = box is not None and box.owner == Owner(context.project, app.id)
        return [Statement(f"DROP {app.id} now")] if ours else []

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        weights = {app.id: SHELF.weights[app.id] for app in apps if app.id in SHELF.weights}
        used = {app: AppUsage(size=weight, connections=1, connection_limit=4) for app, weight in weights.items()}
        used |= SHELF.used
        return ServerUsage(size=sum(weights.values()), connections=len(used), connection_limit=10, apps=used)

    def search(self, inspection: Inspection) -> Search:
        known = {app.id for app in inspection.apps}
        shared = inspection.context.server is not None and inspection.context.server.app is None
        strangers = [name for name in SHELF.boxes if shared and name not in known]
        found = (
            *(
                Hole("unlocked box", f"box {app}", "Anybody can look in.", (f"SHUT {app}",), app)
                for app in sorted(known & SHELF.unlocked)
            ),
            *(
                Hole("box of nobody", f"box {name}", "Who put it here?", (f"DROP {name}",), account=name)
                for name in strangers
            ),
        )
        remarks = [Remark(f"dust under {app}", "nobody sweeps here", app) for app in sorted(known & SHELF.dusty)]
        return Search(found, (Searched("the shelf", len(SHELF.boxes), "boxes that are open"),), tuple(remarks))

    def _do(self, words: list[str], bound: Mapping[str, Secret | None]) -> None:
        verb, name, what = words
        box = SHELF.boxes.get(name)
        match verb:
            case "MAKE":
                SHELF.boxes[name] = Box(name=name, app=name, owner=Owner(*what.split("/")), colour="bare")
            case "OWN" if box:
                SHELF.boxes[name] = replace(box, owner=Owner(*what.split("/")))
            case "PAINT" if box:
                SHELF.boxes[name] = replace(box, colour=what)
            case "SEAL" if box:
                SHELF.boxes[name] = replace(box, sealed=what == "shut")
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


def check_health(tenant: Tenant, may_write: bool) -> Health:
    app, server = tenant.app.id, tenant.server
    SHELF.tried.append((app, server.name))
    if SHELF.together is not None:
        SHELF.together.wait(timeout=5)
    if {server.name, app} & SHELF.silent:
        time.sleep(SHELF.patience)
        raise ServerSlow("does not answer", where=str(server), hint="look at it")
    key = tenant.env["TOY_KEY"]
    assert isinstance(key, Secret)
    if SHELF.keys.get(app) != f"print-of-{key.reveal()}":
        raise AuthenticationFailed("wrong key", where=str(server), hint=f"multidb apply --app {app}")
    time.sleep(SHELF.lag)
    found = SHELF.found.get(app, Health(Status.HEALTHY, "put in and took out" if may_write else "looked in", 0.001))
    if isinstance(found, Exception):
        raise found
    return found


def probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterator[Probe]:
    app = attacker.app.id
    if app in SHELF.shy:
        return
    SHELF.tried.append((app, attacker.server.name))
    SHELF.at_once += 1
    SHELF.most_at_once = max(SHELF.at_once, SHELF.most_at_once)
    time.sleep(0.002)
    try:
        for victim in [each.app.id for each in victims if f"{app}>{each.app.id}" not in SHELF.shy]:
            broken = app in SHELF.clumsy
            got = Outcome.ALLOWED if SHELF.open_to.get(victim) == app else Outcome.REFUSED
            promised = Outcome.ALLOWED if SHELF.level is Isolation.NAMING_ONLY else Outcome.REFUSED
            yield Probe(app, victim, "look in", promised, Outcome.BROKEN if broken else got, "it is a box")
            if isinstance(error := SHELF.found.get(app), Exception):
                raise error
        yield Probe(app, None, "move the shelf", Outcome.REFUSED, Outcome.REFUSED)
    finally:
        SHELF.at_once -= 1


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
    isolation=lambda app, facts: (SHELF.level, "a box has walls"),
    connect=_connect,
    check_health=check_health,
    probe=probe,
    allocate=allocate,
    processes=lambda hosting: (),
)
