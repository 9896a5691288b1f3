"""Statements as transactions: which go together, what is sent for them, and which was refused, and why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from multidb.errors import (
    ServerError,
)
from multidb.model import (
    Statement,
)
from multidb.provisioners.postgres.driver.connection import Answer, Connection
from multidb.provisioners.postgres.driver.refusals import Refusal, way_on
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import PostgresFacts
from multidb.secrets import SecretStore

__all__ = ["HELD", "Batch", "batches", "filled", "hint_for", "retryable", "send", "side_by_side_batches"]

Batch: TypeAlias = tuple[int, Sequence[Statement]]
"""Statements that are sent as one, and the position of the first."""

_BATCH = 500  # statements in one transaction, so that a thousand apps show progress and fit the server's lock table
_SIDE_BY_SIDE = 16  # insides, after which progress is shown and a stop is heeded
_RETRYABLE = frozenset({"40P01", "40001", "55006"})
HELD = "55P03"
"""The SQLSTATE of a lock that somebody holds."""
_SOMEBODY_ELSE = frozenset({"42710", "42P04", "23505"})
_DENIED = frozenset({"42501", "01006", "01007"})


def batches(statements: Sequence[Statement]) -> Iterator[Batch]:
    """The statements in pieces that are sent as one."""
    start = 0
    for position in range(1, len(statements) + 1):
        if position == len(statements) or _parted(statements[start:position], statements[position]):
            yield start, statements[start:position]
            start = position


def _parted(batch: Sequence[Statement], following: Statement) -> bool:
    last = batch[-1]
    if not (last.atomic and following.atomic and last.scope == following.scope):
        return True
    if last.scope and last.app != following.app:  # what is refused of one app undoes nothing of another
        return True
    # A long piece ends where the next thing begins, so that a thing is never parted from its mark.
    return len(batch) >= _BATCH and following.text.startswith(("CREATE ", "COMMENT ON DATABASE "))


def side_by_side_batches(pieces: Iterable[Batch]) -> Iterator[Sequence[Batch]]:
    """Neighbours that may be sent at the same time, each being for the inside of a database of its own; any other is by
    itself."""
    group: list[Batch] = []
    for piece in pieces:
        scope = piece[1][0].scope
        taken = {batch[0].scope for _, batch in group}
        if group and (not scope or "" in taken or scope in taken or len(group) == _SIDE_BY_SIDE):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def filled(statement: Statement, secrets: SecretStore) -> str:
    """The text with its parameters put in. Only for the connection: it is never shown and never part of an error."""
    text = statement.text
    for parameter, ref in statement.binds:
        value = secrets.get(ref)
        if value is None:
            raise ServerError(f"the secret {ref} is missing", hint="multidb apply --regenerate APP makes new ones")
        text = text.replace(f":'{parameter}'", literal(value.reveal()))
    return text


def send(
    connection: Connection, texts: Sequence[str], meanwhile: Callable[[], None], *, atomic: bool
) -> tuple[int, Refusal] | None:
    """Sends the texts, as one transaction when `atomic`. None when they are durable, else which failed and why."""
    if not atomic:
        answer = connection.send(texts[0], None, meanwhile)
        problem = _refused(answer, texts[0])
        return (0, problem) if problem is not None else None
    answer = connection.send(";\n".join(["BEGIN", *texts]), None, meanwhile)
    if answer.refusal is not None:
        connection.send("ROLLBACK")
        return _place(answer, answer.refusal, texts), answer.refusal
    if answer.warnings:  # libpq does not tell which statement gave them
        connection.send("ROLLBACK")
        return _send_singly(connection, texts, meanwhile)
    return _commit(connection, texts)


def _send_singly(
    connection: Connection, texts: Sequence[str], meanwhile: Callable[[], None]
) -> tuple[int, Refusal] | None:
    """The same transaction, one round trip for each statement."""
    connection.send("BEGIN")
    for index, text in enumerate(texts):
        problem = _refused(connection.send(text, None, meanwhile), text)
        if problem is not None:
            connection.send("ROLLBACK")
            return index, problem
    return _commit(connection, texts)


def _commit(connection: Connection, texts: Sequence[str]) -> tuple[int, Refusal] | None:
    # A message of its own, since a grant that granted nothing is a success to the server, and has to be seen before.
    refusal = connection.send("COMMIT").refusal
    return (len(texts) - 1, refusal) if refusal is not None else None


def _refused(answer: Answer, text: str) -> Refusal | None:
    if answer.refusal is not None:
        return answer.refusal
    # What is done to all objects of a schema also meets those of extensions, which belong to others and are no concern.
    return answer.warnings[0] if answer.warnings and " ON ALL " not in text else None


def _place(answer: Answer, refusal: Refusal, texts: Sequence[str]) -> int:
    """Which of the texts, sent after a BEGIN, was refused."""
    if answer.done == 0 and refusal.position is not None:  # the server reads the whole message before it begins
        starts = itertools.accumulate((len(text) + 2 for text in texts), initial=len("BEGIN;\n"))
        return max(sum(start < refusal.position for start in starts) - 1, 0)
    return max(answer.done - 1, 0)


def retryable(refusal: Refusal) -> bool:
    """Whether the same may go well a moment later."""
    return refusal.sqlstate in _RETRYABLE or (
        refusal.sqlstate == "XX000" and "concurrently" in refusal.message  # "tuple concurrently updated"
    )


def hint_for(refusal: Refusal, facts: PostgresFacts) -> str:
    """What to do about a refusal."""
    if (way := way_on(refusal.advice)) is not None:
        return way
    if refusal.sqlstate in _SOMEBODY_ELSE:
        return "somebody else is creating the same at this moment; run the command again"
    if refusal.sqlstate in _DENIED:
        return (
            f"let a superuser give the admin login {facts.admin} that right (on what another role owns: "
            f"GRANT OWNER TO {identifier(facts.admin)}), or use a superuser"
        )
    if refusal.sqlstate == HELD:
        return "an app holds a lock on it; wait for its transaction to end, then run the command again"
    return "correct the cause, then run the command again; what is done stays done"
