"""The toy store of `tests/toy` with its server kept in a dictionary: a `Shelf` of boxes, which can be told to fail."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

from multidb_toy import PROVISIONER as STORE
from multidb_toy.resources import Box, digest_of

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
    App,
    AppUsage,
    CredentialUse,
    Facts,
    Finding,
    Health,
    Hole,
    Inspection,
    Isolation,
    Level,
    Outcome,
    Owner,
    Probe,
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
from multidb.secrets import Alternate, Secret, SecretStore


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
    fault: Exception | None = None  # instead of the refusal of `fail_on`
    goes_down_after: str = ""  # the last statement that it carries out
    numberless: str = ""  # an app that no number is left for
    down: bool = False
    slow: bool = False  # whether the admin's sessions get no answer
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


def digest(key: Secret) -> str:
    """What the shelf has of a key."""
    return hashlib.sha256(key.reveal().encode()).hexdigest()


def _desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    boxes = STORE.desired(apps, context)
    return boxes if SHELF.seals else [replace(box, sealed=False) for box in boxes]


class ToySession:
    def __init__(self, server: Server, name: str) -> None:
        if SHELF.down:
            raise ServerDown("nothing listens", where=str(server), hint="start it")
        if SHELF.slow:
            raise ServerSlow("does not answer the admin", where=str(server), hint="look at it")
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
            SHELF.meet.wait(timeout=60)
        SHELF.looks.append(inspection.deep)
        inspection.unread.update({app.id: SHELF.closed[app.id] for app in inspection.apps if app.id in SHELF.closed})
        return [self._seen(SHELF.boxes[r.name], inspection) for r in inspection.desired if r.name in SHELF.boxes]

    def _seen(self, box: Box, inspection: Inspection) -> Box:
        held, key = inspection.secrets.get(digest_of(box.name)), SHELF.keys.get(box.name)
        if key == "":
            return replace(box, opened_by="off")
        return replace(box, opened_by="lost" if held is None else "current" if held.reveal() == key else "other")

    @contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        if SHELF.locked_by:
            raise Locked(f"another run works here: {SHELF.locked_by}")
        yield

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            if SHELF.fail_on and SHELF.fail_on in statement.text:
                if SHELF.fault is not None:
                    raise SHELF.fault
                raise StatementFailed(
                    "the shelf is full", index=index, durable=index, where="shelf", refused=SHELF.goes_on
                )
            bound = {name: secrets.get(ref) for name, ref in statement.binds}
            SHELF.sent.append(statement.text)
            if statement.text != SHELF.ignore:
                self._do(statement.text.split(), bound)
            SHELF.down = SHELF.down or statement.text == SHELF.goes_down_after
            yield index + 1

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        return {}

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        owners = {box.name: box.owner for box in SHELF.boxes.values()}
        return {
            owner.app: [f"box {name}"]
            for name, owner in owners.items()
            if owner is not None and owner.project == context.project and owner.app not in known
        }

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        return [Statement(f"SHUT {app.id}")] if SHELF.keys.get(app.id) else []

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        box = SHELF.boxes.get(app.id)
        ours = box is not None and box.owner == Owner(context.project, app.id)
        return [Statement(f"DROP {app.id}")] if ours else []

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        return (Finding(Level.OK, "toy", "may make boxes"),)

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
        verb, name, *what = words
        box = SHELF.boxes.get(name)
        match verb:
            case "MAKE":
                SHELF.boxes[name] = Box(name=name, app=name, owner=Owner(*what[0].split("/")), colour="bare")
            case "OWN" if box:
                SHELF.boxes[name] = replace(box, owner=Owner(*what[0].split("/")))
            case "PAINT" if box:
                SHELF.boxes[name] = replace(box, colour=what[0])
            case "SEAL" if box:
                SHELF.boxes[name] = replace(box, sealed=what[0] == "shut")
            case "SHUT":
                SHELF.keys[name] = ""
            case "DROP":
                SHELF.boxes.pop(name, None)
            case "LOCK":
                key = bound["digest"]
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
        SHELF.together.wait(timeout=60)
    if {server.name, app} & SHELF.silent:
        time.sleep(SHELF.patience)
        raise ServerSlow("does not answer", where=str(server), hint="look at it")
    key = tenant.env["TOY_KEY"]
    assert isinstance(key, Secret)
    if SHELF.keys.get(app) != digest(key):
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


PROVISIONER = replace(
    STORE,
    desired=_desired,
    isolation=lambda app, facts: (SHELF.level, "a box has walls"),
    connect=_connect,
    check_health=check_health,
    probe=probe,
    archive=None,
    allocate=allocate,
    processes=lambda hosting: (),
)
