"""A person's way to an app's keys: valkey-cli or redis-cli, or a prompt where there is neither."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import ResponseError

from multidb.errors import NotAllowed, UsageError
from multidb.model import AppAccess, AppClient, PromptAnswer, Tenant
from multidb.provisioners.redis.driver.batch_connection import BatchConnection, as_app
from multidb.provisioners.redis.driver.connection import explained

__all__ = ["client"]


def client(tenant: Tenant, access: AppAccess) -> AppClient:
    """The app's login, in its own DB.

    Raises:
        UsageError: a login that only reads, or one for migrations, was asked for; there is none.
    """
    if access is not AppAccess.WORK:
        raise access.refusal("login on Redis", tenant.app.id)
    env = tenant.env
    arguments = ["-h", str(env["REDIS_HOST"]), "-p", str(env["REDIS_PORT"]), "-n", str(env["REDIS_DB"])]
    arguments += ["--user", str(env["REDIS_USER"]), "--no-auth-warning"]
    if tenant.server.endpoint.tls:
        arguments.append("--tls")
        if "REDIS_CA_FILE" in env:
            arguments += ["--cacert", str(env["REDIS_CA_FILE"])]

    @contextmanager
    def prompt() -> Iterator[Callable[[str], PromptAnswer]]:
        with explained(tenant.server), as_app(tenant) as connection:
            yield lambda statement: _answer(connection, tenant, statement)

    password = {"REDISCLI_AUTH": env["REDIS_PASSWORD"]}
    return AppClient(prompt, ("valkey-cli", "redis-cli"), tuple(arguments), password, unset=("REDISCLI_",))


def _answer(connection: BatchConnection, tenant: Tenant, statement: str) -> PromptAnswer:
    where = f"app {tenant.app.id}"
    try:
        words = shlex.split(statement)
    except ValueError as error:
        raise UsageError(f"is not a command: {error}", where=where) from None
    try:
        return PromptAnswer(rows=[[line] for line in _lines(connection.ask(*words))])
    except ResponseError as error:
        raise NotAllowed(str(error), where=where) from None


def _lines(answer: Any, depth: int = 0) -> Iterator[str]:
    """As redis-cli writes it, near enough for eyes."""
    indent = "  " * depth
    match answer:
        case None:
            yield f"{indent}(nil)"
        case bytes():
            yield f"{indent}{answer.decode(errors='backslashreplace')}"
        case dict():
            for key, value in answer.items():
                yield from _lines(key, depth)
                yield from _lines(value, depth + 1)
        case list() | tuple() | set():
            if not answer:
                yield f"{indent}(empty)"
            for number, line in enumerate(answer, 1):
                first, *rest = _lines(line, depth + 1)
                yield f"{indent}{number}) {first.strip()}"
                yield from rest
        case _:
            yield f"{indent}{answer}"
