"""The record of a project's server processes, by which they are found again and never mistaken for another process.

The *record* in the project's state has process id and time of start. The *mark* (`multidb.processes`) is what a
recycled process id does not have, and what a run that was killed between start and record leaves behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from multidb.processes import mark, running
from multidb.state import ProjectState

__all__ = ["Ledger", "Process"]

_SECTION = "processes"
_SAME_START = 1.0  # seconds; a time of start is read with a coarse clock


@dataclass(frozen=True, slots=True)
class Process:
    """A server process that `up` started. `started` is in seconds since 1970, as psutil tells it.

    `options` is the text of the server options it was started with, to tell whether they have changed since.
    """

    name: str
    store: str
    folder: str
    pid: int
    started: float
    ports: Mapping[str, int] = field(default_factory=dict)
    options: str = ""

    def alive(self) -> bool:
        """Whether this very process still runs (not another one that got its number)."""
        process = running(self.pid)
        if process is None:
            return False
        with contextlib.suppress(psutil.Error):
            return mark(process) == self.folder or abs(process.create_time() - self.started) < _SAME_START
        return False

    def before_boot(self) -> bool:
        """Whether the machine has been started anew since."""
        return self.started < psutil.boot_time() - _SAME_START


class Ledger:
    """The project's record of the server processes that `up` started, one per server name."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state

    def read(self) -> dict[str, Process]:
        """Every recorded process, alive or not. An entry that makes no sense is as good as none."""
        processes = {}
        for name, entry in self._state.read(_SECTION).items():
            with contextlib.suppress(TypeError):
                processes[name] = Process(**entry)
        return processes

    def record(self, process: Process) -> None:
        with self._state.change(_SECTION) as section:
            section[process.name] = asdict(process)

    def forget(self, name: str) -> None:
        with self._state.change(_SECTION) as section:
            section.pop(name, None)

    def strays(self, servers: Path) -> dict[int, str]:
        """Marked processes of the folder `servers` that nobody recorded: what a killed `up` had just started.

        Returns:
            the mark (the server's folder) by process id; of a process and its children only the process.
        """
        recorded = {process.pid for process in self.read().values()}
        marked: dict[int, str] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked_folder = mark(process)
                if marked_folder and Path(marked_folder).parent == servers and process.status() != psutil.STATUS_ZOMBIE:
                    marked[process.pid] = marked_folder
        strays = {}
        for pid, folder in marked.items():
            with contextlib.suppress(psutil.Error):
                ancestors = {parent.pid for parent in psutil.Process(pid).parents()}
                if not ({pid} | ancestors) & recorded and not ancestors & set(marked):
                    strays[pid] = folder
        return strays
