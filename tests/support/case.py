"""What a store hands to the contract suite: how to get a real server, how to break things by hand, how to attack.

One suite (test_contract.py) runs every store through the same promises. A store adds a `StoreCase` per server it can be
tried on (Postgres 15 and 18, Redis 7 and Valkey 9) in its ``case_<store>.py``; it writes no test of those promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multidb.model import Endpoint, Provisioner, Server
from multidb.secrets import Secret
from tests.support.load import LoadClient

NOT_LET_IN = "(?i)not permitted to log in|authentication failed|WRONGPASS|user is disabled|unauthori[sz]ed"
"""What a server says to a credential that does not work, as a pattern."""


@dataclass(frozen=True)
class RealServer:
    """A real server that the test session started (or was pointed at), and its admin's password."""

    server: Server
    admin: Secret | None
    options: Any  # the store's server options that fit it
    pid: int | None = None  # None: not ours to stop or kill
    kill: Callable[[], None] | None = None  # SIGKILL, for tests of a server that goes away
    restart: Callable[[], None] | None = None


@dataclass(frozen=True)
class Tenant:
    """One app as an attacker or a victim knows it: its id and its environment, exactly as `multidb env` renders it."""

    app: str
    env: Mapping[str, str]


@dataclass(frozen=True)
class Drift:
    """One thing changed by hand on the server that multidb must see and repair.

    `damage` gets the server and the app's id; it must really change something (the suite checks that the plan is no
    longer empty, that the change names one of `fields`, and that after apply the plan is empty again).
    """

    name: str
    damage: Callable[[RealServer, str], None]
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Threat:
    """One attack of app A on app B, with A's own credentials.

    `attempt(attacker, victim)` performs the attack and returns normally when it *succeeded*; it raises `Refused` when
    the server refused it. `control(attacker)` does the same to the attacker's own things and must succeed, so that a
    broken probe cannot pass for a wall. `control` is None only where the act is forbidden to everyone (CREATE ROLE).
    """

    name: str
    attempt: Callable[[Tenant, Tenant], None]
    control: Callable[[Tenant], None] | None


@dataclass(frozen=True)
class Lesser:
    """An admin of the server who may do too little.

    Args:
        login: makes it, for the block.
        lacks: what is said of it.
        work: whether an apply would fail by it; else it only costs something.
    """

    name: str
    login: Callable[[RealServer], AbstractContextManager[tuple[Server, Secret]]]
    lacks: str
    work: bool = True


class Refused(Exception):
    """The server said no, in so many words (not: the probe broke)."""


@dataclass(frozen=True)
class StoreCase:
    """A store on one real server.

    Args:
        name: "postgres-18"; the parameter id in the test names.
        start: starts the server in a folder and stops it at the end; used once per test session. It calls
            ``pytest.skip`` with a plain reason when the real server cannot be had.
        app_options: keyword arguments of the app's options in the tests (extensions, collections ...).
        use: writes something to the app's store with the app's credentials and reads it back; raises when it cannot.
        squat: makes, by hand and without a mark, what the app would get (a database, a collection, an ACL user), with
            a little data in it where the store has data.
        squatted: whether what `squat` made is still there, unharmed.
        remove: removes by hand everything that multidb made for the app (tests clean up after themselves).
        attackable: False where the store has no walls on this server (Qdrant's local mode, Neo4j Community); the
            threats are then run and *expected to succeed*, so that the printed isolation is proved honest.
        typed: statements for a prompt, as the app ``{app}``, and what their answers contain; none: it has no prompt.
        refused: a statement that the server does not let an app do.
        session: opens a session with the app's credentials, as what asks something of it and raises once it was ended;
            None: the store has no sessions, or does not rotate credentials.
        clients: apps at work that read their variables again as their libraries want it, by name; none: the store does
            not rotate credentials.
        lesser: admins who may do too little; none: a login of the server may do everything, or nothing.
        instance: one server per app; the suite then never puts two apps on it.
        rare: what it would try of its own, two others try together; run with --all only.
    """

    name: str
    provisioner: Provisioner
    start: Callable[[Path], AbstractContextManager[RealServer]]
    use: Callable[[Tenant], None]
    squat: Callable[[RealServer, str], None]
    squatted: Callable[[RealServer, str], bool]
    remove: Callable[[RealServer, str], None]
    app_options: Mapping[str, Any] = field(default_factory=dict)
    drifts: Sequence[Drift] = ()
    threats: Sequence[Threat] = ()
    attackable: bool = True
    typed: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""
    session: Callable[[Tenant], AbstractContextManager[Callable[[], object]]] | None = None
    clients: Mapping[str, LoadClient] = field(default_factory=dict)
    lesser: Sequence[Lesser] = ()
    instance: bool = False
    rare: bool = False
    down: Endpoint | None = None  # an address where nothing listens, if not simply another port
