"""For tests of points in time: moments, and what a copy of a server has left."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import psutil

from multidb.processes import MARK
from tests.support.command import Folder


def now() -> str:
    """This moment, with nothing else that happens in it."""
    time.sleep(0.1)
    moment = datetime.now(UTC).isoformat(sep=" ")
    time.sleep(0.1)
    return moment


def scratch_processes(folder: Folder) -> list[int]:
    """Whatever belongs to a server that was brought up aside."""
    where = str(folder.path / ".multidb" / "servers" / "scratch-postgres")
    pids = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == where and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
        except psutil.Error:
            continue
    return pids
