"""A second server beside one that has room for one database only: a backup is tried in it, or loaded into it before
its data takes the place of the first one's.

A spare is a server like any other, in ``.multidb/servers/spare-<name>/``. The lock that its user holds tells one in
use from one that a killed run has left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from multidb.errors import Locked
from multidb.model import Progress, Server
from multidb.runtime import ServerStatus
from multidb.runtime.processes import Ledger, Process
from multidb.runtime.seats import Seat, admin_ref
from multidb.runtime.starting import start_one
from multidb.runtime.together import PATIENCE, clear_errors
from multidb.state import ProjectState

__all__ = ["Spares", "settle"]

_PREFIX: Final = "spare-"
_DATA: Final = "data"
_REPLACED: Final = "data.replaced"


class Spares:
    """The spares of one project.

    Args:
        servers: the folder that has a folder for each server.
        stop: ends a recorded process and forgets it.
    """

    def __init__(
        self,
        state: ProjectState,
        ledger: Ledger,
        servers: Path,
        progress: Progress,
        stop: Callable[[Process, Progress], ServerStatus],
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._servers = servers
        self._progress = progress
        self._stop_process = stop

    @contextlib.contextmanager
    def running(self, seat: Seat) -> Iterator[Server]:
        """A new and empty spare of the server at `seat`, with the same admin's password, while the block runs."""
        beside = self.beside(seat)
        name, store = beside.site.name, beside.site.store
        with clear_errors(), self._state.lock(name, "multidb"):
            try:
                with self._state.lock("runtime", "multidb", PATIENCE):
                    self._remove(name, store)
                    admin = self._state.secrets.get(admin_ref(seat.site.name, store))
                    if admin is not None:
                        self._state.secrets.put({admin_ref(name, store): admin})
                    server = self._start(beside)
                yield dataclasses.replace(server, spare=True)
            finally:
                self._remove(name, store)

    def beside(self, seat: Seat) -> Seat:
        """Where the spare of the server at `seat` is."""
        name = _PREFIX + seat.site.name
        log = seat.site.log.with_name(f"{name}.log")
        options = seat.site.options.model_copy(update={"port": None})
        site = dataclasses.replace(seat.site, name=name, folder=self._servers / name, log=log, options=options)
        return dataclasses.replace(seat, site=site)

    def adopt(self, seat: Seat) -> None:
        """Gives the data of the spare of `seat` to the server itself, which is started anew."""
        name, folder = seat.site.name, seat.site.folder
        with clear_errors(), self._state.lock("runtime", "multidb", PATIENCE):
            settle(folder)
            for each in (_PREFIX + name, name):
                self._stop(each)
            if (folder / _DATA).exists():
                (folder / _DATA).rename(folder / _REPLACED)
            (self._servers / (_PREFIX + name) / _DATA).rename(folder / _DATA)
            settle(folder)
            self._start(seat)

    def clear(self) -> None:
        """Removes those that nobody uses any more."""
        for folder in sorted(self._servers.glob(f"{_PREFIX}*")):
            with contextlib.suppress(Locked), self._state.lock(folder.name, "multidb"):
                self._remove(folder.name, folder.name.removeprefix(_PREFIX).partition("-")[0])

    def _start(self, seat: Seat) -> Server:
        return start_one(self._state, self._ledger, self._progress, seat)

    def _stop(self, name: str) -> None:
        process = self._ledger.read().get(name)
        if process is not None:
            self._stop_process(process, self._progress)

    def _remove(self, name: str, store: str) -> None:
        """The process, then the data, then what else is known of it."""
        self._stop(name)
        shutil.rmtree(self._servers / name, ignore_errors=True)
        (self._servers.parent / "logs" / f"{name}.log").unlink(missing_ok=True)
        self._state.secrets.delete([admin_ref(name, store)])
        with self._state.change("ports") as remembered:
            remembered.pop(name, None)


def settle(folder: Path) -> None:
    """Finishes an exchange of data in a server's folder that was interrupted: what was moved away comes back when
    nothing has taken its place, and goes when something has."""
    data, replaced = folder / _DATA, folder / _REPLACED
    if not replaced.exists():
        return
    if data.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(data)
