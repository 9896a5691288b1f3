"""What a server of this machine is, and what each kind of server must know to be started.

A *launch* is everything that the operating system is told to start a server. A *kind* makes it of a hosted server, and
knows how to ask whether it answers.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from multidb.account import Account
from multidb.model.archive import Offline
from multidb.model.core import PROGRESS_TIMEOUT, App, Endpoint, Progress, Server, serves
from multidb.model.options import ContainerOptions
from multidb.secrets import Secret

__all__ = ["FetchedKind", "HostedServer", "Hosting", "Launch", "OfflineKind", "RecoverableKind", "ServerKind"]


@dataclass(frozen=True, slots=True)
class HostedServer:
    """One server on this machine that the manifest asks for.

    Args:
        project: the project's name, for folders that have to be outside of it.
        folder: absolute; everything that the server keeps, and nothing of another server.
        app, apps: whom it serves, as in `Server`.
        ports: as named in ``ServerKind.ports``; empty until chosen.
        kind: None when no process belongs to it; `note` then says why.
        folder_product: a folder stands in for the server, and is called this; empty: none does.
        stand_in: what takes its place, told why, where it cannot be had and the project never had it; None: nothing.
        one_place: it has room for the data of one app only, so that a set of that app is tried in a scratch server
            beside it.
        other_admin: a second password of the admin's that it is to take, where it can, while one is replaced.
        others: the servers that the same apps have where the manifest wants another isolation, each with those that it
            is instead of. While one of them has data, and none of those has, this one is not begun.
    """

    name: str
    store: str
    project: str
    folder: Path
    log: Path
    options: ContainerOptions
    app: str | None = None
    apps: frozenset[str] | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    progress_timeout: float = PROGRESS_TIMEOUT  # seconds: see `Project.progress_timeout`
    kind: ServerKind | None = None
    note: str = ""
    folder_product: str = ""
    stand_in: Callable[[str], HostedServer] | None = field(default=None, compare=False)
    one_place: bool = False
    other_admin: Secret | None = field(default=None, compare=False)
    others: Sequence[HostedServer] = field(default=(), compare=False)

    @property
    def local(self) -> Server | None:
        """The folder that stands in for the server, where one does."""
        if not self.folder_product:
            return None
        return Server(self.name, self.store, Endpoint(path=str(self.folder)), apps=self.apps)

    def serves(self, app: str) -> bool:
        """Whether the app, which uses its store, has its place here."""
        return serves(app, self.app, self.apps)

    def server(self, numbers: Mapping[str, int]) -> Server:
        """The server as reached on these ports."""
        assert self.kind is not None
        endpoint = self.kind.endpoint(dataclasses.replace(self, ports=numbers))
        return Server(self.name, self.store, endpoint, app=self.app, apps=self.apps)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server. `argv` holds no secret: everybody on the machine can read it.

    Args:
        folder: the working folder.
        account: None: as whoever runs multidb.
        stop_signal: what makes it save everything and leave, without waiting for its clients.
    """

    argv: Sequence[str]
    folder: Path
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM


class ServerKind(Protocol):
    """One kind of server. Its methods are called from one thread per server."""

    ports: Sequence[str]
    """The ports it listens on, each by the name of the server option that sets it."""
    at_once: int
    """How many servers of the kind may start side by side."""
    start_timeout: float
    """Seconds from start to the first answer after which something must be wrong."""
    one_major: bool
    """Whether its data is read by its own major version only."""

    def missing(self) -> str | None:
        """Why it cannot be had on this machine; None when it can. Quick, and changes nothing."""

    def product(self, hosted: HostedServer) -> str | None:
        """The product and version that would be started now, as `probe` will call it; None when it cannot be told."""

    def wrote(self, hosted: HostedServer) -> str | None:
        """The product and major version that the data itself names; None where it names none."""

    def way_back(self, product: str) -> str:
        """What to do to have `product` again, which wrote the data, or to do without it."""

    def initialised(self, hosted: HostedServer) -> bool:
        """Whether there is a data folder already, with the admin's password in it."""

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        """Makes everything ready in `hosted.folder`; may be repeated after an interruption at any point.

        Raises:
            RuntimeUnavailable: it cannot be had here; the message says why.
            MultidbError: its folder cannot be used.
        """

    def endpoint(self, hosted: HostedServer) -> Endpoint:
        """Where it listens, once its ports are known."""

    def probe(self, server: Server, admin: Secret) -> str | None:
        """Logs in as the admin. Its product and version; None while it does not answer yet.

        Raises:
            AuthenticationFailed: it answers, and refuses the admin's password.
            ServerError: it answers, and says what keeps it from letting anybody work; waiting for it helps only where
                somebody was faster than the admin.
        """


@runtime_checkable
class RecoverableKind(ServerKind, Protocol):
    """A kind whose admin's password somebody else may change, and that can be given the right one from outside."""

    def forget_logins(self, hosted: HostedServer) -> None:
        """Has the next `prepare` take every login away and make the admin's anew; no other data. The server is stopped.
        What is taken away is kept aside until `forgotten`."""

    def forgotten(self, hosted: HostedServer) -> None:
        """The server has come up without the former logins: they need not be kept any more."""


@runtime_checkable
class OfflineKind(ServerKind, Protocol):
    """A kind with a tool of its own for the files of a server that is stopped."""

    def offline(self, hosted: HostedServer, progress: Progress) -> Offline:
        """The tool, for the files of the server, which is stopped."""


@runtime_checkable
class FetchedKind(ServerKind, Protocol):
    """A kind whose program is fetched from the network before its first start, for all projects of the user."""

    def to_fetch(self, hosted: HostedServer) -> str:
        """What the next `prepare` fetches, from where and how much, for people; empty where all is there. Quick, and
        changes nothing.

        Raises:
            RuntimeUnavailable: it cannot be had.
        """


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a store may know when it says which servers it needs on this machine.

    Args:
        root: the manifest's folder.
        apps: those that the servers are for, in the order of the manifest.
        options: their server options.
        server: the server that the apps share (None), or the one that serves this app only, without its kind.
        product: what the server of this name said of itself when it last came up; None where it never did.
        skipped: why the last ``up`` could not have the server of this name; None where it could.
        switched: its servers may be another product from now on.
    """

    root: Path
    apps: Sequence[App]
    options: ContainerOptions
    server: Callable[[str | None], HostedServer]
    product: Callable[[str], str | None]
    skipped: Callable[[str], str | None]
    switched: bool = False
