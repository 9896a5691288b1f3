"""Statements sent to a Postgres server: those of one database in order, the insides of different ones side by side."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence

from multidb.concurrency import side_by_side
from multidb.errors import NotAllowed, ServerError, StatementFailed
from multidb.model import Server, Statement
from multidb.provisioners.postgres.driver.blocking import Blocker, BlockerSearch, BlockersOfSession
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.driver.refusals import Refusal
from multidb.provisioners.postgres.provision import admitted, interior
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.resources import PostgresFacts
from multidb.provisioners.postgres.provision.script import printable
from multidb.provisioners.postgres.provision.transactions import (
    HELD,
    Batch,
    batches,
    filled,
    hint_for,
    retryable,
    send,
    side_by_side_batches,
)
from multidb.secrets import SecretStore, redact

__all__ = ["Sender"]

_WORKERS = 4  # more gain nothing: the server does the work
_ATTEMPTS = 6
_SCRIPTS_FIND = ("$user", "public")  # as a session has it where nobody says otherwise


class Sender:
    """Sends statements as the admin.

    Args:
        main: the connection to the maintenance database, which holds the lock of the project.
        open_: opens a connection into a database; as `PostgresSession` does.
        search: looks who keeps a statement waiting.
        answers: whether the server can be asked for other things after an error met in one of its databases.
    """

    def __init__(
        self,
        server: Server,
        facts: PostgresFacts,
        main: Connection,
        open_: Callable[..., Connection],
        search: BlockerSearch,
        answers: Callable[[ServerError], bool],
    ) -> None:
        self._server = server
        self._facts = facts
        self._main = main
        self._open = open_
        self._search = search
        self._answers = answers

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """Sends the statements in order; neighbours that may share a transaction do, and those for the insides of
        different databases are sent side by side. Yields how many are durable.

        Raises:
            StatementFailed: at the first failure that a few retries do not cure. Its transaction is rolled back; what
                was sent beside it may have been done.
        """
        for group in side_by_side_batches(batches(statements)):
            errors = side_by_side(lambda piece: self._error_of(piece, secrets), group, at_once=_WORKERS)
            for piece, error in zip(group, errors, strict=True):
                if error is not None:
                    raise self._placed(error, piece) from None
                yield piece[0] + len(piece[1])

    def _error_of(self, piece: Batch, secrets: SecretStore) -> ServerError | None:
        """Sends the statements; why they are not durable, or None."""
        try:
            self._run_batch(*piece, secrets)
        except ServerError as error:
            return error
        return None

    def _placed(self, error: ServerError, piece: Batch) -> StatementFailed:
        """The error as one of the statements, which is one app's alone where the server goes on."""
        if isinstance(error, StatementFailed):
            return error
        start, batch = piece
        return StatementFailed(
            error.message,
            index=start,
            durable=start,
            where=error.where,
            hint=error.hint,
            refused=bool(batch[0].scope) and self._answers(error),
        )

    def _run_batch(self, start: int, batch: Sequence[Statement], secrets: SecretStore) -> None:
        texts = [self._text(statement, start + n, start, secrets) for n, statement in enumerate(batch)]
        scope, ending = batch[0].scope, batch[0].app if batch[0].ends_sessions else ""
        path = _SCRIPTS_FIND if any(text.startswith("CREATE EXTENSION ") for text in texts) else ()
        inside = self._open(scope, reading=False, search_path=path, patient=True) if scope else None
        with inside or contextlib.nullcontext(self._main) as connection:
            blockers = BlockersOfSession(self._search, connection.process, ending)
            if scope:
                for text in texts:
                    admitted.require(text)
                self._refuse_event_triggers(connection, scope)
            for attempt in itertools.count(1):
                problem = send(connection, texts, blockers, atomic=batch[0].atomic)
                if problem is None:
                    return
                index, refusal = problem
                again = retryable(refusal) or (bool(ending) and refusal.sqlstate == HELD)
                if attempt == _ATTEMPTS or not again:
                    raise self._failed(batch[index], start + index, start, refusal, blockers.last_seen)
                time.sleep(random.uniform(0.5, 1.0) * 0.05 * 2**attempt)  # noqa: S311

    def _text(self, statement: Statement, index: int, durable: int, secrets: SecretStore) -> str:
        try:
            return filled(statement, secrets)
        except ServerError as error:
            raise StatementFailed(
                error.message,
                index=index,
                durable=durable,
                where=str(self._server),
                hint=error.hint,
                refused=True,
            ) from None

    def _refuse_event_triggers(self, connection: Connection, database: str) -> None:
        """`NotAllowed` when a statement there would run, as the admin, a function of somebody who may do less."""
        if connection.quiets_event_triggers:
            return
        triggers = json.loads(connection.ask(interior.EVENT_TRIGGERS, (), self._server.timeout))
        if triggers:
            trigger, owner = triggers[0]
            raise NotAllowed(
                f"the event trigger {trigger} of database {database} would run a function of {owner} as the admin",
                where=str(self._server),
                hint=f"let a superuser disable it there: ALTER EVENT TRIGGER {printable(identifier(trigger))} DISABLE",
            )

    def _failed(
        self, statement: Statement, index: int, durable: int, refusal: Refusal, blockers: Sequence[Blocker]
    ) -> StatementFailed:
        place = f" in database {statement.scope}" if statement.scope else ""
        message, hint = refusal.message, hint_for(refusal, self._facts)
        if refusal.sqlstate == HELD and blockers:
            message, hint = blockers[0].sentence(statement.app), blockers[0].way_out(statement.app)
        return StatementFailed(
            redact(f"{message}{place}, at: {statement.text}"),
            index=index,
            durable=durable,
            where=str(self._server),
            hint=hint,
            refused=not refusal.sqlstate.startswith("57P"),  # the server, or this session, is being ended
        )
