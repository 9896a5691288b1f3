"""The environment of an app: the variables with which it reaches its stores, and what it has there.

The one maker of it; `multidb env`, `show`, `add-app` and the env files all come from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from multidb.deployment import named
from multidb.errors import MultidbError
from multidb.fleet import Fleet, Scope
from multidb.model import App, Isolation, Resource, Server, StoreContext
from multidb.provisioners import provisioner
from multidb.secrets import Secret

__all__ = ["Environment", "environment", "environments", "names_of"]


@dataclass(frozen=True, slots=True)
class Environment:
    """How one app reaches its stores.

    Args:
        env: the variables of its env file, secrets included.
        isolation: by store, how real the wall is, and why it is no more than that.
        names: by store, what the app has there (``role lernmi_user``).
    """

    app: str
    env: Mapping[str, str | Secret]
    isolation: Mapping[str, tuple[Isolation, str]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def environment(fleet: Fleet, app: str, stores: Iterable[str] | None = None) -> Environment:
    """The environment of an app, on these stores or on all that it has.

    Raises:
        UsageError: no such app, or it has no credentials yet.
        ServerError: a server has to be asked for something and does not answer.
    """
    ((_, found),) = environments(fleet, [app], stores)
    if isinstance(found, MultidbError):
        raise found
    return found


def environments(
    fleet: Fleet, apps: Sequence[str], stores: Iterable[str] | None = None
) -> Iterator[tuple[str, Environment | MultidbError]]:
    """As `environment`, for each of many apps, or why it has none. A server is asked once, however many it serves.

    Raises:
        UsageError: no such app.
    """
    entries = [fleet.app(name) for name in apps]
    chosen = None if stores is None else frozenset(stores)
    serving: dict[tuple[str, str | None], list[Server]] = {}
    for server in fleet.runtime.servers():
        serving.setdefault((server.store, server.app), []).append(server)

    def servers_of(app: App) -> list[Server]:
        having = [store for store in app.stores if chosen is None or store in chosen]
        return [each for store in having for user in (None, app.id) for each in serving.get((store, user), ())]

    asked = {server.name: server for app in entries for server in servers_of(app)}
    contexts = fleet.contexts(list(asked.values()))
    for app in entries:
        try:
            yield app.id, _environment(fleet, app, [(each, contexts[each.name]) for each in servers_of(app)])
        except MultidbError as error:
            yield app.id, error


def names_of(fleet: Fleet, app: str) -> dict[str, tuple[str, ...]]:
    """What the app has, by store, as it is to be: ``role lernmi_user``. Needs none of its credentials.

    Raises:
        UsageError: no such app.
        ServerError: a server does not answer.
    """
    entry, found = fleet.app(app), {}
    servers = fleet.servers(Scope(apps=frozenset({app})))
    contexts = fleet.contexts(servers)
    for server in servers:
        context = contexts[server.name]
        if isinstance(context, MultidbError):
            raise context
        found[server.store] = _names(entry, provisioner(server.store).desired([entry], context))
    return found


def _environment(
    fleet: Fleet,
    app: App,
    servers: Sequence[tuple[Server, StoreContext | MultidbError]],
) -> Environment:
    """As it is seen by the app, which may not be how we see it."""
    env: dict[str, str | Secret] = {**named(fleet.project, app)}
    isolation: dict[str, tuple[Isolation, str]] = {}
    having: dict[str, tuple[str, ...]] = {}
    for server, context in servers:
        if isinstance(context, MultidbError):
            raise context
        store = provisioner(server.store)
        env |= store.env(app, context, fleet.runtime.app_endpoint(server), fleet.secret)
        isolation[server.store] = store.isolation(app, context.facts)
        having[server.store] = _names(app, store.desired([app], context))
    return Environment(app.id, env, isolation, having)


def _names(app: App, desired: Iterable[Resource]) -> tuple[str, ...]:
    return tuple(f"{each.kind} {each.name}" for each in desired if each.app == app.id and not each.edge)
