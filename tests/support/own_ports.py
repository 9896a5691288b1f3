"""Ports of one worker of a run: two that start servers at the same moment never choose the same one."""

from __future__ import annotations

import os

from multidb import ports


def keep_apart() -> None:
    """Leaves this process, and whatever is forked from it, the worker's share of the ports that may be chosen."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first, size = ports.FIRST, (ports.LAST + 1 - ports.FIRST) // count
    ports.FIRST, ports.LAST = first + number * size, first + (number + 1) * size - 1
