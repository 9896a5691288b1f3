"""Servers that stand still for a moment, so that their store's own tool can work on their files.

Which ones do is in the state, written before the stop and taken out after the start: a killed run leaves them stopped,
and `resume` finds them there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from multidb.model import Offline, Progress
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.launch import Site
from multidb.runtime.processes import Ledger, Process
from multidb.runtime.seats import Seat
from multidb.runtime.starting import start_one
from multidb.runtime.together import PATIENCE, clear_errors
from multidb.state import ProjectState

__all__ = ["Outages"]

_SECTION: Final = "offline"


class Outages:
    """The outages of one project.

    Args:
        stop: ends a recorded process and forgets it.
    """

    def __init__(
        self,
        state: ProjectState,
        ledger: Ledger,
        progress: Progress,
        stop: Callable[[Process, Progress], ServerStatus],
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._progress = progress
        self._stop = stop

    @contextlib.contextmanager
    def of(self, seat: Seat, tool: Callable[[Site, Progress], Offline]) -> Iterator[Offline]:
        """The server at `seat` is stopped while the block runs, and its `tool` has its files.

        Raises:
            Locked: another is offline, or an ``up`` or ``down`` is under way and does not end.
            ServerError: it was not running, or does not start again.
        """
        site = seat.site
        with self._state.lock("runtime", "multidb", PATIENCE):
            with clear_errors():
                offline = tool(site, self._progress)
                with self._state.change(_SECTION) as section:
                    section[site.name] = True
                process = self._ledger.read().get(site.name)
                if process is not None:
                    self._stop(process, self._progress)
            try:
                yield offline
            finally:
                with clear_errors():
                    start_one(self._state, self._ledger, self._progress, seat)
                    self.forget([site.name])

    def left(self) -> list[str]:
        """The servers that are offline: nobody works on them any more, if the caller knows that nobody works."""
        return list(self._state.read(_SECTION))

    def forget(self, names: Sequence[str]) -> None:
        """These are offline no more."""
        with self._state.change(_SECTION) as section:
            for name in names:
                section.pop(name, None)

    def settle(self, statuses: Sequence[ServerStatus]) -> None:
        """Forgets those that run."""
        self.forget([status.name for status in statuses if status.state is ServerState.RUNNING])
