"""Servers that stand still for a moment, so that their store's own tool can work on their files.

Which ones do is in the state, written before the stop and taken out after the start: a killed run leaves them stopped,
and `resume` finds them there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from multidb.model import HostedServer, Offline, Progress
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.control import Control
from multidb.runtime.operation import LOCK_TIMEOUT, clear_errors

__all__ = ["OfflineServers"]

_SECTION: Final = "offline"


class OfflineServers:
    """The servers of one project that are offline."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._state = control.state

    @contextlib.contextmanager
    def of(self, hosted: HostedServer, tool: Callable[[HostedServer, Progress], Offline]) -> Iterator[Offline]:
        """The server is stopped while the block runs, and its `tool` has its files.

        Raises:
            Locked: another is offline, or an ``up`` or ``down`` is under way and does not end.
            ServerError: it does not start again.
        """
        with self._state.machine_lock("runtime", "multidb", LOCK_TIMEOUT):
            with clear_errors():
                offline = tool(hosted, self._control.progress)
                with self._state.change(_SECTION) as section:
                    section[hosted.name] = True
                self._control.stop(hosted.name)
            try:
                yield offline
            finally:
                with clear_errors():
                    self._control.start(hosted)
                    self.forget([hosted.name])

    def left(self) -> list[str]:
        """The servers that are offline: nobody works on them any more, if the caller knows that nobody works."""
        return list(self._state.read(_SECTION))

    def forget(self, names: Sequence[str]) -> None:
        """Takes these servers out of the record of those that are offline."""
        with self._state.change(_SECTION) as section:
            for name in names:
                section.pop(name, None)

    def settle(self, statuses: Sequence[ServerStatus]) -> None:
        """Takes those that run out of the record."""
        self.forget([status.name for status in statuses if status.state is ServerState.RUNNING])
