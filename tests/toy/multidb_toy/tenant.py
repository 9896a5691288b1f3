"""What the app itself can do: its health, and every wall tried with its own key."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from multidb.errors import NotAllowed, UsageError
from multidb.model import Column, Health, Outcome, Probe, Question, QuestionRows, Status, Tenant
from multidb.secrets import Secret
from multidb_toy.connection import Connection

__all__ = ["answer", "check_health", "check_question", "probe"]

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


def check_question(words: Sequence[str]) -> None:
    """See `multidb.model.Querying`: a question is the keys whose texts are asked for."""
    if not words or not all(words):
        raise UsageError("a question names keys", hint="multidb query --box greeting")


@contextmanager
def answer(tenant: Tenant, question: Question) -> Iterator[QuestionRows]:
    """See `multidb.model.Querying`."""
    with _connected(tenant) as connection:
        box = tenant.app.id
        there = set(question.words).intersection(connection.ask("KEYS $box", box=box))
        rows = [(key, connection.ask("GET $box $key", box=box, key=key)) for key in sorted(there)]
        yield QuestionRows((Column("key"), Column("text")), iter([rows]))


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
