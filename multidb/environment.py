"""The environment of an app on the servers that its project really has: its variables there, and what it has there.

`multidb env`, `show`, `add-app` and the env files all come from here. The variables (see `multidb.variables`) come from
the manifest and the records, as far as these can tell; then no server is asked, and no driver is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from multidb.access import StoreAccess, access_of, record_access
from multidb.errors import MultidbError, ServerDown
from multidb.fleet import Fleet, Scope
from multidb.model import App, Endpoint, Facts, Server, StoreContext, listed
from multidb.provisioners import provisioner
from multidb.runtime import ServerState
from multidb.secrets import Secret, SecretRef
from multidb.variables import Reached, variables

__all__ = ["Environment", "environment", "environments", "standing"]


@dataclass(frozen=True, slots=True)
class Environment:
    """How one app reaches its stores.

    Args:
        env: the variables of its env file, secrets included.
        servers: those that it uses, as (store, server).
        secrets: those that are in the variables.
        asked: whether a server was asked for something that is in them.
    """

    app: str
    env: Mapping[str, str | Secret]
    servers: tuple[tuple[str, str], ...]
    secrets: Mapping[SecretRef, Secret]
    asked: bool


def environment(fleet: Fleet, app: str, stores: Iterable[str] | None = None) -> Environment:
    """The environment of an app, on these stores or on all that it has.

    Raises:
        UsageError: no such app, or it has no credentials yet.
        ServerError: a server has no address yet; or has to be asked for something and does not answer.
    """
    ((_, variables),) = environments(fleet, [app], stores)
    if isinstance(variables, MultidbError):
        raise variables
    return variables


def environments(
    fleet: Fleet, apps: Sequence[str], stores: Iterable[str] | None = None
) -> Iterator[tuple[str, Environment | MultidbError]]:
    """As `environment`, for each of many apps, or why it has none. A server that has to be asked is asked once,
    however many apps it serves.

    Raises:
        UsageError: no such app.
    """
    entries = [fleet.app(name) for name in apps]
    servers = _servers_of(fleet, entries, stores)
    endpoints, contexts = fleet.runtime.app_endpoints(), _Contexts(fleet)
    unknown = _without_address(fleet, apps, stores)
    for app in entries:
        if app.id in unknown:
            yield app.id, unknown[app.id]
            continue
        reached = [contexts.reached(server, endpoints[server.name]) for server in servers[app.id]]
        secrets = _Secrets(fleet)
        try:
            values = variables(fleet.project, app, reached, secrets)
        except MultidbError as error:
            yield app.id, error
        else:
            names = tuple((server.store, server.name) for server in servers[app.id])
            yield app.id, Environment(app.id, values, names, secrets.used, contexts.asked(servers[app.id]))


def standing(fleet: Fleet, app: str) -> dict[str, StoreAccess]:
    """What the app has, by store. Its servers are asked what they are; none of its credentials is needed.

    Raises:
        UsageError: no such app.
        ServerError: a server does not answer.
    """
    entry, accesses = fleet.app(app), {}
    servers = _servers_of(fleet, [entry], None)[app]
    contexts = fleet.contexts(servers)
    for server in servers:
        context, store = contexts[server.name], provisioner(server.store)
        if isinstance(context, MultidbError):
            raise context
        access = access_of({app: store.isolation(entry, Facts.of(context.facts))}, store.desired([entry], context))
        record_access(fleet.state.folder, server.name, access, fleet.project.apps)
        accesses[server.store] = access[app]
    return accesses


def _without_address(fleet: Fleet, apps: Sequence[str], stores: Iterable[str] | None) -> dict[str, ServerDown]:
    """By app, what is wrong with servers of its that were never started: half of an env file would be taken for all.
    What cannot be had on this machine is left out."""
    scope = Scope(apps=frozenset(apps), stores=None if stores is None else frozenset(stores))
    names: dict[str, list[str]] = {}
    for status, users in fleet.missing(scope):
        for app in users if status.state is not ServerState.SKIPPED else ():
            names.setdefault(app.id, []).append(status.name)
    return {
        app: ServerDown(
            f"{listed(unknown)} {'was' if len(unknown) == 1 else 'were'} never started, so there is no address yet",
            where=f"app {app}",
            hint=f"start what is missing: multidb up; or name what there is: multidb env {app} --store NAME",
        )
        for app, unknown in names.items()
    }


def _servers_of(fleet: Fleet, apps: Sequence[App], stores: Iterable[str] | None) -> dict[str, list[Server]]:
    """By app, its servers with an address, in the order of its stores."""
    chosen = None if stores is None else frozenset(stores)
    serving: dict[tuple[str, str | None], list[Server]] = {}
    for server in fleet.runtime.servers():
        serving.setdefault((server.store, server.app), []).append(server)
    return {
        app.id: [
            server
            for store in app.stores
            if chosen is None or store in chosen
            for user in (None, app.id)
            for server in serving.get((store, user), ())
            if server.serves(app.id)
        ]
        for app in apps
    }


class _Contexts:
    """What the stores of some servers are told, each found out once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: dict[str, StoreContext] = {}
        self._asked: dict[str, StoreContext | MultidbError] = {}

    def reached(self, server: Server, endpoint: Endpoint) -> Reached:
        """The server at its address for apps."""
        if server.name not in self._known:
            self._known[server.name] = self._fleet.known_context(server)
        return Reached(server.store, endpoint, self._known[server.name], partial(self._ask, server))

    def asked(self, servers: Iterable[Server]) -> bool:
        """Whether one of them was asked."""
        return any(server.name in self._asked for server in servers)

    def _ask(self, server: Server) -> StoreContext:
        """With what the server says of itself. `MultidbError` where it cannot be asked."""
        if server.name not in self._asked:
            self._asked |= self._fleet.contexts([server])
        context = self._asked[server.name]
        if isinstance(context, MultidbError):
            raise context
        return context


class _Secrets:
    """The secrets of a project, and which of them were asked for."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.used: dict[SecretRef, Secret] = {}

    def __call__(self, ref: SecretRef) -> Secret:
        self.used[ref] = self._fleet.secret(ref)
        return self.used[ref]
