"""The variables of an app: the one place that makes them, whoever asks and whatever is known of the servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from multidb.errors import UsageError
from multidb.model import App, Endpoint, Project, StoreContext
from multidb.provisioners import provisioner
from multidb.secrets import Secret, SecretRef

__all__ = ["Reached", "compose_project", "identity", "variables"]


@dataclass(frozen=True, slots=True)
class Reached:
    """A server as an app reaches it.

    Args:
        context: what its store is told, from the manifest and the records.
        ask: gives what its store is told once the server was asked; None where `context` is all that there will be.
    """

    store: str
    endpoint: Endpoint
    context: StoreContext
    ask: Callable[[], StoreContext] | None = None


def compose_project(project: Project, app: str) -> str:
    """What Compose calls the containers of an app that has a compose file of its own."""
    return f"{project.name}-{app}"


def identity(app: App) -> dict[str, str | Secret]:
    """Who the app is: what it is told wherever its servers are."""
    return {"APP_NAME": app.id, "APP_TENANT_ID": app.tenant_id}


def variables(
    project: Project, app: App, servers: Iterable[Reached], secret: Callable[[SecretRef], Secret]
) -> dict[str, str | Secret]:
    """The variables with which an app reaches these servers, secrets included; a server is asked only where the
    manifest and the records do not tell.

    Raises:
        UsageError: it has no credentials yet.
        ServerError: a server has to be asked and does not answer.
    """
    values = identity(app)
    if project.runtime.in_containers and project.deploy.strategy != "single":
        values["COMPOSE_PROJECT_NAME"] = compose_project(project, app.id)
    for server in servers:
        store, context = provisioner(server.store), server.context
        if server.ask is not None and context.facts is None and store.env_asks(app, context):
            context = server.ask()
        try:
            values |= store.env(app, context, server.endpoint, secret)
        except (UsageError, LookupError):  # no credential or number is recorded; the server may need none
            if server.ask is None or context is not server.context:
                raise
            values |= store.env(app, server.ask(), server.endpoint, secret)
    return values
