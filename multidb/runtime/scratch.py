"""A second server beside one that has room for one database only: a backup is tried in it, or loaded into it before
its data takes the place of the first one's.

A scratch server is a server like any other, in ``.multidb/servers/scratch-<name>/``. The lock that its user holds tells
one in use from one that a killed run has left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from multidb.errors import Locked
from multidb.model import Seat, Server
from multidb.runtime.control import Control
from multidb.runtime.exchange import DATA, REPLACED, settle
from multidb.runtime.product import Products
from multidb.runtime.seats import admin_ref
from multidb.runtime.together import LOCK_TIMEOUT, clear_errors

__all__ = ["ScratchServers"]

_PREFIX: Final = "scratch-"


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
    def running(self, seat: Seat) -> Iterator[Server]:
        """A new and empty scratch server of the server at `seat`, with the same admin's password, while the block
        runs."""
        beside = self.beside(seat)
        name, store = beside.site.name, beside.site.store
        with clear_errors(), self._state.lock(name, "multidb"):
            try:
                with self._state.lock("runtime", "multidb", LOCK_TIMEOUT):
                    self._remove(name)
                    admin = self._state.secrets.get(admin_ref(seat.site.name, store))
                    if admin is not None:
                        self._state.secrets.put({admin_ref(name, store): admin})
                    server = self._control.start(beside)
                yield dataclasses.replace(server, scratch=True)
            finally:
                self._remove(name)

    def beside(self, seat: Seat) -> Seat:
        """Where the scratch server of the server at `seat` is."""
        name = _PREFIX + seat.site.name
        log = seat.site.log.with_name(f"{name}.log")
        options = seat.site.options.model_copy(update=dict.fromkeys(seat.kind.ports if seat.kind else ()))
        site = dataclasses.replace(seat.site, name=name, folder=self._servers / name, log=log, options=options)
        return dataclasses.replace(seat, site=site)

    def adopt(self, seat: Seat) -> None:
        """Gives the data of the scratch server of `seat` to the server itself, which is started anew."""
        name, folder = seat.site.name, seat.site.folder
        with clear_errors(), self._state.lock("runtime", "multidb", LOCK_TIMEOUT):
            settle(folder)
            for folder_name in (_PREFIX + name, name):
                self._control.stop(folder_name)
            if (folder / DATA).exists():
                (folder / DATA).rename(folder / REPLACED)
            (self._servers / (_PREFIX + name) / DATA).rename(folder / DATA)
            settle(folder)
            self._control.start(seat)

    def clear(self) -> None:
        """Removes those that nobody uses any more."""
        for folder in sorted(self._servers.glob(f"{_PREFIX}*")):
            with contextlib.suppress(Locked), self._state.lock(folder.name, "multidb"):
                self._remove(folder.name)

    def _remove(self, name: str) -> None:
        """The process, then the data, then what else is known of it."""
        self._control.stop(name)
        shutil.rmtree(self._servers / name, ignore_errors=True)
        (self._servers.parent / "logs" / f"{name}.log").unlink(missing_ok=True)
        secrets = self._state.secrets
        secrets.delete([ref for ref in secrets.refs() if ref.owner == f"@{name}"])
        Products(self._state).forget(name)
        with self._state.change("ports") as remembered:
            remembered.pop(name, None)
