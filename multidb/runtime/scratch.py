"""A second server beside one that has room for one database only: a backup is tried in it, or loaded into it before
its data takes the place of the first one's.

A scratch server is a server like any other, in ``.multidb/servers/scratch-<name>/``. The lock that its user holds tells
one in use from one that a killed run has left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from multidb import processes
from multidb.errors import Locked
from multidb.model import HostedServer, Server
from multidb.runtime.control import Control
from multidb.runtime.exchange import DATA, REPLACED, settle
from multidb.runtime.hosted import admin_ref, forget_ports
from multidb.runtime.operation import LOCK_TIMEOUT, clear_errors
from multidb.runtime.product import Products
from multidb.secrets import Secret, generate

__all__ = ["ScratchServers"]

_PREFIX: Final = "scratch-"
_COPY: Final = "copy-"
_STOP_TIMEOUT: Final = 60.0  # seconds until a process that does not leave is killed


class ScratchServers:
    """The scratch servers of one project.

    Args:
        servers: the folder that has a folder for each server.
    """

    def __init__(self, control: Control, servers: Path) -> None:
        self._control = control
        self._state = control.state
        self._servers = servers

    @contextlib.contextmanager
    def running(
        self, hosted: HostedServer, fill: Callable[[HostedServer, Secret], None] | None = None
    ) -> Iterator[Server]:
        """A new and empty scratch server of the server of `hosted`, with the same admin's password, while the block
        runs.

        Args:
            fill: puts data into its folder before it is started, with an admin's password of its own.
        """
        beside = self.beside(hosted)
        name, store = beside.name, beside.store
        with clear_errors(), self._state.machine_lock(name, "multidb"):
            try:
                with self._state.machine_lock("runtime", "multidb", LOCK_TIMEOUT):
                    self._remove(name)
                    admin = self._state.secrets.get(admin_ref(hosted.name, store)) if fill is None else generate()
                    if admin is not None:
                        self._state.secrets.put({admin_ref(name, store): admin})
                if fill is not None:
                    assert admin is not None
                    beside.folder.mkdir(parents=True)
                    fill(beside, admin)
                with self._state.machine_lock("runtime", "multidb", LOCK_TIMEOUT):
                    server = self._control.start(beside)
                yield dataclasses.replace(server, scratch=True)
            finally:
                self._remove(name)

    def beside(self, hosted: HostedServer) -> HostedServer:
        """Where the scratch server of the server of `hosted` is."""
        name = _PREFIX + hosted.name
        log = hosted.log.with_name(f"{name}.log")
        options = hosted.options.model_copy(update=dict.fromkeys(hosted.kind.ports if hosted.kind else ()))
        return dataclasses.replace(hosted, name=name, folder=self._servers / name, log=log, options=options)

    def copy(self, hosted: HostedServer) -> HostedServer:
        """Where a copy of the server of `hosted` is that is kept, and never started."""
        beside, name = self.beside(hosted), _COPY + hosted.name
        return dataclasses.replace(beside, name=name, folder=self._servers / name)

    def end_strays(self, name: str) -> None:
        """Ends what a killed run has left running in the folder of this name."""
        for pid, folder in self._control.ledger.strays(self._servers).items():
            if folder == str(self._servers / name):
                processes.stop(pid, _STOP_TIMEOUT)

    def adopt(self, hosted: HostedServer) -> None:
        """Gives the data of the scratch server of `hosted` to the server itself, which is started anew."""
        name, folder = hosted.name, hosted.folder
        with clear_errors(), self._state.machine_lock("runtime", "multidb", LOCK_TIMEOUT):
            settle(folder)
            for folder_name in (_PREFIX + name, name):
                self._control.stop(folder_name)
            if (folder / DATA).exists():
                (folder / DATA).rename(folder / REPLACED)
            (self._servers / (_PREFIX + name) / DATA).rename(folder / DATA)
            settle(folder)
            self._control.start(hosted)

    def clear(self) -> None:
        """Removes those that nobody uses any more."""
        for folder in sorted(self._servers.glob(f"{_PREFIX}*")):
            with contextlib.suppress(Locked), self._state.machine_lock(folder.name, "multidb"):
                self._remove(folder.name)

    def _remove(self, name: str) -> None:
        """The process, then the data, then what else is known of it."""
        self._control.stop(name)
        self.end_strays(name)
        shutil.rmtree(self._servers / name, ignore_errors=True)
        (self._servers.parent / "logs" / f"{name}.log").unlink(missing_ok=True)
        secrets = self._state.secrets
        secrets.delete(secrets.refs(f"@{name}"))
        Products(self._state).forget(name)
        forget_ports(self._state, name)
