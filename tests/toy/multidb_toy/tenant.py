"""What the app itself can do: its health, and every wall tried with its own key."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from multidb.errors import NotAllowed
from multidb.model import Health, Outcome, Probe, Status, Tenant
from multidb.secrets import Secret
from multidb_toy.connection import Connection

__all__ = ["check_health", "probe"]

_KEY = "__multidb__"


def check_health(tenant: Tenant, may_write: bool) -> Health:
    """See `multidb.model.Provisioner`."""
    began, box = time.monotonic(), tenant.app.id
    with _connected(tenant) as connection:
        connection.ask("KEYS $box", box=box)
        if may_write:
            connection.ask("PUT $box $key $value", box=box, key=_KEY, value="x")
            connection.ask("DEL $box $key", box=box, key=_KEY)
    return Health(Status.HEALTHY, "wrote and read" if may_write else "read", time.monotonic() - began)


def probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterator[Probe]:
    """See `multidb.model.Provisioner`. Reading its own box is the control of reading another's."""
    app = attacker.app.id
    with _connected(attacker) as connection:
        control = _tried(connection, "KEYS $box", box=app)
        for victim in victims:
            got = _tried(connection, "KEYS $box", box=victim.app.id)
            broken = control is Outcome.REFUSED
            yield Probe(app, victim.app.id, "look in", Outcome.REFUSED, Outcome.BROKEN if broken else got)
        yield Probe(app, None, "list all boxes", Outcome.REFUSED, _tried(connection, "LIST"))


def _tried(connection: Connection, text: str, **binds: str) -> Outcome:
    try:
        connection.ask(text, **binds)
    except NotAllowed:
        return Outcome.REFUSED
    return Outcome.ALLOWED


def _connected(tenant: Tenant) -> Connection:
    host, _, port = str(tenant.env["TOY_ADDRESS"]).rpartition(":")
    key = tenant.env["TOY_KEY"]
    assert isinstance(key, Secret)
    server = tenant.server
    return Connection(
        host, int(port), tenant.app.id, key, where=str(server), timeout=server.timeout, start=server.start_hint
    )
