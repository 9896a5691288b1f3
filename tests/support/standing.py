"""A server that stands still: its process is there, and none of its threads runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def standing(pid: int) -> Iterator[None]:
    """Stops the process for the block. The signal has no effect yet when it is sent: a thread that runs on another
    processor may answer once more."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10
        while not all(state == "T" for state in _states(pid)):
            assert time.monotonic() < deadline, "it runs on"
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            yield task.read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:  # a thread that has ended
            continue
