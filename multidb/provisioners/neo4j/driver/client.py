"""A person's way into an app's graph: cypher-shell, or a prompt where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import neo4j

from multidb.errors import NotAllowed, UsageError
from multidb.model import AppAccess, AppClient, PromptAnswer, Tenant, counted
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, Bolt, as_the_app, explain, words_of

__all__ = ["client"]

_MOST: Final = 1_000  # rows that are shown of one answer


def client(tenant: Tenant, access: AppAccess) -> AppClient:
    """The app's login, on its own database; to read only: in transactions that the server lets read only.

    Raises:
        UsageError: migrations are to be run; they have no login of their own.
    """
    if access is AppAccess.MIGRATION:
        hint = "leave --migrate out: the app's login may change its schema"
        raise UsageError("an app has no login on Neo4j for migrations", where=f"app {tenant.app.id}", hint=hint)
    read_only = access is AppAccess.READ_ONLY
    env = tenant.env
    user, database, uri = str(env["NEO4J_USER"]), str(env["NEO4J_DATABASE"]), str(env["NEO4J_URI"])
    arguments = ["--address", uri, "--username", user, "--database", database]
    if read_only:
        arguments += ["--access-mode", "read"]

    @contextmanager
    def prompt() -> Iterator[Callable[[str], PromptAnswer]]:
        with as_the_app(tenant, application="multidb connect") as bolt:
            mode = neo4j.READ_ACCESS if read_only else neo4j.WRITE_ACCESS
            yield lambda statement: _answer(bolt, tenant, database, mode, statement)

    password = {"NEO4J_PASSWORD": env["NEO4J_PASSWORD"]}
    return AppClient(prompt, ("cypher-shell",), tuple(arguments), password, unset=("NEO4J_",))


def _answer(bolt: Bolt, tenant: Tenant, database: str, mode: str, statement: str) -> PromptAnswer:
    try:
        with bolt.session(database, default_access_mode=mode) as session:
            # What the person typed runs with the app's own login.
            result = session.run(statement.rstrip().removesuffix(";"))
            columns = tuple(result.keys())
            rows = [[str(value) for value in record.values()] for record in result.fetch(_MOST)]
            counters = result.consume().counters
    except neo4j.exceptions.ClientError as error:
        raise NotAllowed(words_of(error), where=f"app {tenant.app.id}") from None
    except DRIVER_ERRORS as error:
        raise explain(error, tenant.server, f"app {tenant.app.id}") from None
    changed = "changed the graph" if counters.contains_updates else ""
    return PromptAnswer(columns, rows, changed or counted(len(rows), "row"))
