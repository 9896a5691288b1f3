"""A whole manifest, checked: the apps, and what it says of the servers that they have their places on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from multidb.model.address import Address
from multidb.model.core import PROGRESS_TIMEOUT, App
from multidb.model.options import Backup, ContainerOptions, Deploy, Notify, Rotate, Rotating, RuntimeKind
from multidb.model.secret_options import SecretStoreSpec
from multidb.model.state_options import FOLDER

__all__ = ["Project", "ServerSpec"]


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What the manifest says of one server; or of several, where the store has one for each app.

    Args:
        name: the server's; those of one app each are called ``<name>-<app>``.
        address: where it is, when it exists already.
        known: the accounts that an operator knows beside the apps' own: what one of them could do is no hole.
        apps: the ids of those that have their place there; None: all that use the store.
        where: file:line:column of what the manifest says of it, or of its runtime where it says nothing.
    """

    name: str
    store: str
    options: ContainerOptions
    address: Address | None = None
    known: frozenset[str] = frozenset()
    apps: frozenset[str] | None = None
    where: str = field(default="", compare=False)

    def serves(self, app: str) -> bool:
        """Whether the app, which uses its store, has its place there."""
        return self.apps is None or app in self.apps

    def own_server(self, app: str) -> str:
        """What the server is called that the app has to itself, where the store has one for each app."""
        return f"{self.name}-{app}"

    def owner(self, server: str) -> str | None:
        """The app that has the server of this name to itself; None: the name is no such one."""
        app = server.removeprefix(self.own_server(""))
        return app if app and app != server else None


@dataclass(frozen=True, slots=True)
class Project:
    """A whole manifest, checked. `servers` are in the order of their stores; a store may have several."""

    name: str
    runtime: RuntimeKind
    apps: Mapping[str, App]
    servers: tuple[ServerSpec, ...]
    root: str = "."  # folder of the manifest
    file: str = "multidb.yaml"
    deploy: Deploy = field(default_factory=Deploy)
    backup: Backup = field(default_factory=Backup)
    backup_declared: bool = False  # whether the manifest speaks of backups
    rotate: Rotating = None  # how old credentials may become
    notify: Notify = field(default_factory=Notify)
    removed: Mapping[str, App] = field(default_factory=dict)
    """Apps that were taken out and may still come back: their names, numbers and data are kept."""
    returned: Mapping[str, str] = field(default_factory=dict)
    """Those of them that the manifest has an entry for all the same, and where; nothing is made of it."""
    secrets: SecretStoreSpec = field(default_factory=SecretStoreSpec)
    progress_timeout: float = PROGRESS_TIMEOUT
    """Seconds without progress after which a server or a target that work waits for counts as standing still."""
    state: str = FOLDER
    """Where its state is kept (`multidb.model.state_options`)."""
    include: tuple[str, ...] = ()
    """Patterns of the files with more apps, as the manifest names them."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The files that it was read from, each with the digest of what was in it (`multidb.document.digest`)."""

    def oldest(self, app: App) -> timedelta | None:
        """How old the app's credentials may become; None: the manifest does not say, or says never."""
        rotate = app.rotate if app.rotate is not None else self.rotate
        return rotate.every if isinstance(rotate, Rotate) else None

    def never_rotates(self, app: App) -> bool:
        """Whether the manifest says that the app keeps its credentials."""
        return (app.rotate if app.rotate is not None else self.rotate) == "never"

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores that there are servers of, each once."""
        return tuple(dict.fromkeys(spec.store for spec in self.servers))

    def including(self, app: App) -> Project:
        """The same project with one of its removed apps as if it were not."""
        removed = {name: removed for name, removed in self.removed.items() if name != app.id}
        return dataclasses.replace(self, apps={**self.apps, app.id: app}, removed=removed)

    def spec_of(self, server: str, store: str, app: str | None = None) -> ServerSpec | None:
        """What the manifest says of the server of this name, or of the one that `app` has to itself; None: nothing."""
        specs = [spec for spec in self.servers if spec.store == store]
        named = (spec for spec in specs if spec.name == server)
        return next(named, next((spec for spec in specs if app is None or spec.serves(app)), None))

    def apps_with(self, store: str) -> tuple[App, ...]:
        """The apps that use `store`, in the order of the manifest."""
        return tuple(app for app in self.apps.values() if store in app.stores)

    def apps_on(self, spec: ServerSpec) -> tuple[App, ...]:
        """The apps that have their place on it, in the order of the manifest."""
        return tuple(app for app in self.apps_with(spec.store) if spec.serves(app.id))

    def needs(self, spec: ServerSpec) -> bool:
        """Whether it serves an app of the manifest, or keeps what a removed one has."""
        apps = (*self.apps.values(), *self.removed.values())
        return any(spec.store in app.stores and spec.serves(app.id) for app in apps)
