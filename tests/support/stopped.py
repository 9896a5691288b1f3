"""A multidb that stops at a step of its work, to be killed there or to go on when something has happened meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from tests.support.command import Folder, started


@dataclass(frozen=True)
class Stopped:
    """A command that stands at a step."""

    process: ForkServerProcess
    streams: tempfile.TemporaryDirectory[str]

    def end(self) -> tuple[int, str]:
        """Waits for its end: its exit code, and what it has said."""
        self.process.join(900)
        code = self.process.exitcode
        assert code is not None, "it goes on"
        self.process.close()
        with self.streams as name:
            return code, "".join((Path(name) / stream).read_text() for stream in ("out", "err"))


def stopped_at(folder: Folder, step: str, *command: str) -> Stopped | None:
    """A command that has come to a step and stands there, with nothing done of what comes then; None where it has ended
    before.

    Args:
        step: the function that it stops before it calls, ``module:name``, with ``#2`` at the end for the second call.
    """
    streams = tempfile.TemporaryDirectory(prefix="multidb-stopped-")
    process = started(folder.path, command, Path(streams.name), before=partial(stop_before, step))
    seen = psutil.Process(process.pid)
    while process.exitcode is None:
        if seen.status() == psutil.STATUS_STOPPED:
            return Stopped(process, streams)
        process.join(0.01)
    process.close()
    streams.cleanup()
    return None


def stop_before(step: str) -> None:
    """Has this process stop itself where the step is called."""
    place, _, number = step.partition("#")
    signal_at(int(number or 1), [place], signal.SIGSTOP)


def signal_at(number: int, places: Sequence[str], sent: signal.Signals) -> None:
    """Has this process send itself a signal before the call of that number of any of these functions."""
    left = number

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), sent)
            return work(*arguments, **options)

        return called

    for place in places:
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner: Any = import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        work = getattr(owner, name)
        called = counted(work)
        setattr(owner, name, called)
        for importer in [each for key, each in sys.modules.items() if key.startswith("multidb.")]:
            if getattr(importer, name, None) is work:  # it calls the function by a name of its own
                setattr(importer, name, called)


def kill(stopped: Stopped) -> None:
    stopped.process.kill()
    stopped.end()


def go_on(stopped: Stopped) -> tuple[int, str]:
    """To its end: its exit code, and what it has said."""
    assert stopped.process.pid is not None
    os.kill(stopped.process.pid, signal.SIGCONT)
    return stopped.end()
