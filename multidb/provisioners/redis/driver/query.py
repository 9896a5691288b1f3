"""A question to an app's keys: one command, by a user that the server lets read only."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from multidb.errors import NotAllowed, ServerError, UsageError
from multidb.model import Batch, Column, ColumnType, Question, QuestionRows, Tenant
from multidb.provisioners.redis.driver.batch_connection import as_app
from multidb.provisioners.redis.driver.connection import ask, ask_lines, explained, open_client
from multidb.provisioners.redis.provision.readers import LONGEST, expired, reader_name, rule_of
from multidb.provisioners.redis.provision.resources import RedisFacts, by_prefix
from multidb.secrets import Secret, generate, redact

__all__ = ["answer", "check", "reader"]

_AFTERWARDS: Final = 60.0  # seconds beyond a question's time until its user counts as left behind
_AT_A_TIME: Final = 1_000  # rows
_COLUMN: Final = (Column("answer", ColumnType.ANY),)


def check(words: Sequence[str]) -> None:
    """Whether it is one command."""
    if not _command(words):
        raise UsageError("there is no command in the question", hint="multidb query --redis DBSIZE")


def _command(words: Sequence[str]) -> list[str]:
    """The words of the command: of a single argument as redis-cli takes a line, of several as they are."""
    if len(words) != 1:
        return list(words)
    try:
        return shlex.split(words[0])
    except ValueError as error:
        raise UsageError(f"the question is not a command: {error}", hint="close its quotes") from None


@contextlib.contextmanager
def reader(tenant: Tenant, question: Question, admin: Secret | None) -> Iterator[Tenant]:
    """The app with a login that reads, made by the admin and deleted at the end."""
    app, server = tenant.app, tenant.server
    if tenant.context.facts is None:
        raise NotAllowed(
            "an app has no login that only reads, and multidb's admin, who would make one, is not let in",
            where=str(server),
            hint="multidb doctor",
        )
    facts, number = RedisFacts.of(tenant.context.facts), tenant.context.numbers[app.id]
    prefix = by_prefix(app, facts)
    until = time.time() + min(question.timeout or LONGEST, LONGEST) + _AFTERWARDS
    name = reader_name(tenant.context.project, app.id, int(until), secrets.token_hex(8))
    password = generate()
    digest = hashlib.sha256(password.reveal().encode()).hexdigest()
    rule = rule_of((f"{app.id}:*",) if prefix else ("*",), number, prefix, facts)
    with explained(server), open_client(server, admin, "multidb query") as client:
        if left := expired(ask_lines(client, "ACL", "USERS")):
            ask(client, "ACL", "DELUSER", *left)
        ask(client, "ACL", "SETUSER", name, *rule, f"#{digest}")
        try:
            yield replace(tenant, env={**tenant.env, "REDIS_USER": name, "REDIS_PASSWORD": password})
        finally:
            with contextlib.suppress(RedisError):  # past its time it goes with the next question
                ask(client, "ACL", "DELUSER", name)


@contextlib.contextmanager
def answer(tenant: Tenant, question: Question) -> Iterator[QuestionRows]:
    """What the server answers: a row, or of a list a row for each of its elements."""
    words = _command(question.words)
    with explained(tenant.server), as_app(tenant, question.timeout) as connection:
        try:
            answered = connection.ask(*words)
        except ResponseError as error:
            raise _refused(tenant, str(error)) from None
    yield QuestionRows(_COLUMN, _batches(answered))


def _refused(tenant: Tenant, message: str) -> ServerError:
    if message.startswith("NOPERM"):  # of a user that is gone by now, and whose name is another for each question
        what = message.partition(" permissions to ")[2]
        message = f"a question may not {what}" if what else "a question may not send that"
    return NotAllowed(redact(message), where=f"app {tenant.app.id}")


def _batches(answered: Any) -> Iterator[Batch]:
    elements = answered if isinstance(answered, list) else [answered]
    for start in range(0, len(elements), _AT_A_TIME):
        yield [[_plain(element)] for element in elements[start : start + _AT_A_TIME]]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return [_plain(element) for element in value] if isinstance(value, list) else value
