"""A server as it is run in a container: what a store says it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from multidb.model.core import Facts, Statement, serves
from multidb.model.project import ServerSpec
from multidb.secrets import SecretRef

__all__ = ["Container", "Containers", "Pooler", "SecretVariable", "one_per_app", "poolers", "scratch", "shared"]

_SCRATCH: Final = "scratch"


@dataclass(frozen=True, slots=True)
class SecretVariable:
    """How a server in a container is told its admin's password: an environment variable and its form.

    Args:
        form: the value with ``{}`` where the password stands (``neo4j/{}``).
    """

    name: str
    form: str = "{}"


@dataclass(frozen=True, slots=True)
class Pooler:
    """What stands before a shared server and keeps its connections, where the manifest has the profile of its name.

    Args:
        name: service, host and profile.
        image: what it is made of where ``deploy.<name>_image`` does not say otherwise.
        oldest: the oldest image that will do, and why, for the manifest's reference.
        secret: the variable that holds its password in the deployment's env file.
        files: files that are mounted, relative to the compose file, and the template of each.
        users: whom it runs as, the first that there is.
        tls_files: files that it needs beside certificate and key where it speaks TLS, and the template of each.
        start_timeout: seconds until it has to be healthy once it was started.
        takes_certificate: run in its container, has it take another certificate, key and authority while it runs, from
            where its start puts them; empty where only a start does.
    """

    name: str
    image: str
    oldest: str
    port: int
    secret: str
    files: Mapping[str, str] = field(hash=False)
    users: tuple[str, ...] = ()
    tls_files: Mapping[str, str] = field(default_factory=dict, hash=False)
    start_timeout: float = 150.0
    takes_certificate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """One server of a compose file.

    Args:
        name: service and host name, unique in the project: ``postgres``, ``neo4j-lernmi``.
        app: the only app that it serves; None when it is shared, by `apps` where not by all that use the store.
        scratch: it serves no app: sets of apps whose own servers have room for one place only are tried in it.
        ports: the ports inside by the name of the server option, the one for clients first: ``{"port": 6333, ...}``.
        published: the ports on this machine's loopback address, by the same names; empty when none is published.
        admin: the admin's login, empty where the store has none.
        memory: bytes that the container may take at most.
        facts: what is known of such a server before it has been asked, as the store's pure functions want it.
        files: files that are mounted, relative to the compose file, and the template of each.
        scripts: programs for the project's folder, by their path in it, and the template of each.
        pooler: what can stand before it.
        settings: what the store's own template needs beside this.
        users: whom its image runs the server as, the first that there is; none where it stays root.
        tls_files: files that it needs beside certificate and key where it speaks TLS, and the template of each.
        start_timeout: seconds until it has to be healthy once it was started.
        trust: a client's options for checking its certificate; ``{}`` stands for the file of the authority.
        admin_at_start: each of its starts gives its admin the password of its environment.
        alternate: where it takes a second password of its admin's, if it can.
        two_passwords: it is to take a second one now, since one is replacing the other.
        takes_certificate: what has it take another certificate and key, from where its start puts its own copy, while
            it runs; empty where only a start does.
    """

    name: str
    store: str
    image: str
    ports: Mapping[str, int]
    secret: SecretVariable
    memory: int
    admin: str = ""
    database: str = ""
    cpus: float | None = None
    app: str | None = None
    apps: frozenset[str] | None = None
    scratch: bool = False
    published: Mapping[str, int] = field(default_factory=dict)
    facts: Facts | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    pooler: Pooler | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    tls_files: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 150.0
    trust: Mapping[str, str] = field(default_factory=lambda: {"ca_file": "{}"})
    admin_at_start: bool = False
    alternate: SecretVariable | None = None
    two_passwords: bool = False
    takes_certificate: tuple[Statement, ...] = ()

    @property
    def server(self) -> str:
        """What multidb calls the server: its name, with the app's id as it is written in the manifest."""
        return self.name if self.app is None else self.name.removesuffix(self.app.replace("_", "-")) + self.app

    def serves(self, app: str) -> bool:
        """Whether the app, which uses its store, has a place in it."""
        return not self.scratch and serves(app, self.app, self.apps)

    @property
    def admin_ref(self) -> SecretRef:
        """Under which name multidb keeps the admin's password."""
        return SecretRef(f"@{self.server}", self.store, "admin")

    @property
    def variable(self) -> str:
        """The name under which the admin's password stands in the deployment's env file."""
        suffix = _SCRATCH if self.scratch else self.name.removeprefix(self.store).removeprefix("-")
        return "_".join(filter(None, (self.secret.name, suffix.upper().replace("-", "_"))))

    @property
    def alternate_variable(self) -> str:
        """The name under which its second password stands there."""
        return self.variable.replace(self.secret.name, self.alternate.name) if self.alternate else ""

    @property
    def volume(self) -> str:
        """The volume that holds its data."""
        return f"{self.name}-data"


Containers = Callable[[ServerSpec, Sequence[str], bool], Sequence[Container]]
"""(what the manifest says, ids of the apps that it is for, a server per app is asked for) -> the servers to run."""


def poolers(containers: Iterable[Container], profiles: Collection[str]) -> dict[str, tuple[Pooler, Container]]:
    """The poolers that the manifest's `profiles` ask for, by name, each with the server that it stands before."""
    standing = ((container.pooler, container) for container in containers if container.pooler is not None)
    return {pooler.name: (pooler, container) for pooler, container in standing if pooler.name in profiles}


def shared(container: Container, spec: ServerSpec) -> list[Container]:
    """One server for all apps, published on the ports that the manifest says."""
    return [replace(container, published=_published(container, spec))]


def one_per_app(container: Container, apps: Sequence[str], spec: ServerSpec) -> list[Container]:
    """A server for each app, called ``<name>-<app>``, published on ports that count up from those of the manifest."""
    step, published = len(container.ports), _published(container, spec)
    return [
        replace(
            container,
            name=f"{container.name}-{app.replace('_', '-')}",
            app=app,
            published={option: port + position * step for option, port in published.items()},
        )
        for position, app in enumerate(apps)
    ]


def _published(container: Container, spec: ServerSpec) -> dict[str, int]:
    return {option: spec.options.port_of(option) or port for option, port in container.ports.items()}


def scratch(first: Container) -> Container:
    """The scratch server beside servers of one app each, published below the ports of the `first` of them: those above
    it are taken by the apps that are still to come."""
    step = len(first.ports)
    published = {option: port - step for option, port in first.published.items()}
    return replace(first, name=f"{_SCRATCH}-{first.store}", app=None, scratch=True, published=published)
