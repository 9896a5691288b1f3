"""A question to an app's graph: by the app's own login, in a transaction that the server lets read only."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, Final

import neo4j
import neo4j.spatial
import neo4j.time
from neo4j import exceptions

from multidb.errors import Cancelled, NotAllowed, ServerSlow, UsageError
from multidb.model import Batch, Column, ColumnType, Question, QuestionRows, Tenant
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, as_the_app, explain, words_of

__all__ = ["answer", "check"]

_AT_A_TIME: Final = 500  # records
_TIMED_OUT: Final = "Neo.ClientError.Transaction.TransactionTimedOut"  # and what some versions put behind it
_GLANCE: Final = 0.2  # seconds between two looks whether somebody still waits


def check(words: Sequence[str]) -> None:
    """Whether it is one statement, in quotes."""
    if len(words) != 1 or not words[0].strip():
        hint = "put it in quotes: multidb query --cypher 'MATCH (n) RETURN count(n)'"
        raise UsageError("a question in Cypher is one argument", hint=hint)


@contextlib.contextmanager
def answer(tenant: Tenant, question: Question) -> Iterator[QuestionRows]:
    """The records of the statement."""
    where = f"app {tenant.app.id}"
    if "NEO4J_LABEL" in tenant.env:
        raise NotAllowed(
            "it shares its database with other apps (isolation: label), so all of them would answer",
            where=where,
            hint=f"ask with its label: multidb connect {tenant.app.id} --store neo4j --read-only",
        )
    database = str(tenant.env["NEO4J_DATABASE"])
    # What the person typed runs with the app's own login; READ_ACCESS is told to the server, which refuses writes.
    statement = neo4j.Query(question.words[0].rstrip().removesuffix(";"), timeout=question.timeout)
    with (
        as_the_app(tenant, application="multidb query") as bolt,
        _ended_by(question.cancelled, bolt.close),
        _explained(tenant, question),
        bolt.session(database, default_access_mode=neo4j.READ_ACCESS, fetch_size=_AT_A_TIME) as session,
    ):
        result = session.run(statement)
        columns = tuple(Column(name, ColumnType.ANY) for name in result.keys())  # noqa: SIM118
        yield QuestionRows(columns, _batches(tenant, question, result))


def _batches(tenant: Tenant, question: Question, result: neo4j.Result) -> Iterator[Batch]:
    with _explained(tenant, question):
        while records := result.fetch(_AT_A_TIME):
            yield [[_plain(value) for value in record.values()] for record in records]


@contextlib.contextmanager
def _explained(tenant: Tenant, question: Question) -> Iterator[None]:
    where = f"app {tenant.app.id}"
    try:
        yield
    except exceptions.ClientError as error:
        if (error.code or "").startswith(_TIMED_OUT):
            raise ServerSlow(words_of(error), where=where, hint="give it longer: --timeout 10m") from None
        if isinstance(error, exceptions.AuthError):
            raise explain(error, tenant.server, where) from None
        raise NotAllowed(words_of(error), where=where) from None
    except DRIVER_ERRORS as error:
        if question.cancelled.is_set():
            raise Cancelled("nobody waits for the answer", where=where) from None
        raise explain(error, tenant.server, where) from None


@contextlib.contextmanager
def _ended_by(cancelled: Event, end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` from another thread when nobody waits any more: the driver's calls can't be woken otherwise."""
    over = Event()

    def watch() -> None:
        while not over.wait(_GLANCE):
            if cancelled.is_set():
                end()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _plain(value: Any) -> Any:
    """As JSON has it: nodes and relationships by what they are and have, times as ISO 8601 writes them."""
    match value:
        case neo4j.graph.Node():
            return {"labels": sorted(value.labels), "properties": _plain(dict(value.items()))}
        case neo4j.graph.Relationship():
            return {"type": value.type, "properties": _plain(dict(value.items()))}
        case neo4j.graph.Path():
            return {"nodes": _plain(list(value.nodes)), "relationships": _plain(list(value.relationships))}
        case neo4j.spatial.Point():
            return {"srid": value.srid, "coordinates": list(value)}
        case neo4j.time.Duration():  # which is a tuple, too
            return value.iso_format()
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray():
            return bytes(value).hex()
        case None | bool() | int() | str():
            return value
    spelled = getattr(value, "iso_format", None)
    return str(spelled() if spelled is not None else value)
