"""What a CI job waits for: `multidb up && multidb apply --yes` in an empty folder, one app on all four stores, against
the same server programs started bare, side by side, until each takes connections. All that is fetched or made once per
machine is there already (Neo4j's jars and its cache of classes); Qdrant is in its folder, without a server.

The floor makes an empty Postgres too. Its Neo4j has made its databases before, so it has less to do than ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.ground import Result, open_engine, project, quiet
from multidb.runtime.ledger import Ledger
from multidb.state import ProjectState

RUNS = 5
_MAIN = "from multidb.cli import main; main()"
_MANIFEST = "version: 1\nproject: job\nruntime: embedded\napps:\n  ann: {}\n"
_LONGEST = 120.0  # seconds for one server


@dataclass(frozen=True)
class BareServer:
    """How one server was started, to start it once more without anything around it."""

    store: str
    command: list[str]
    folder: str
    user: int
    group: int
    port: int

    def start(self) -> subprocess.Popen[bytes]:
        """Gives its process once it takes connections."""
        if self.store == "postgres":
            data = Path(self.folder) / "bare"
            self._spawn([str(Path(self.command[0]).with_name("initdb")), "-D", str(data), "-U", "postgres"]).wait()
            shutil.rmtree(data)
        process, deadline = self._spawn(self.command), time.monotonic() + _LONGEST
        while not self._answers():
            assert time.monotonic() < deadline, self.store
            time.sleep(0.02)
        return process

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self.folder, user=self.user, group=self.group, stdout=null, stderr=null)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


def measure() -> list[Result]:
    os.environ["MULTIDB_QDRANT_DOWNLOAD"] = "never"
    with project("  ann: {}\n") as folder:
        servers = _servers(folder)
        open_engine(folder).fleet.runtime.down(quiet)
        pairs = [(_job(), _bare(servers)) for _ in range(RUNS)]
    ours, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
    what = "`multidb up && multidb apply --yes` in an empty folder, one app on all four stores"
    floor_is = "initdb, then the same server programs started bare, side by side, until each takes connections"
    return [Result(what, ours, floor, floor_is, "under 20 s", f"{ours:.1f} s")]


def _servers(folder: Path) -> list[BareServer]:
    """The servers of the project that run."""
    found = []
    for record in Ledger(ProjectState(folder)).read().values():
        process = psutil.Process(record.pid)
        user, group = process.uids().real, process.gids().real
        found.append(BareServer(record.store, process.cmdline(), process.cwd(), user, group, record.ports["port"]))
    return found


def _job() -> float:
    """The seconds of the two commands."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        Path(name).chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        (Path(name) / "multidb.yaml").write_text(_MANIFEST)
        began = time.perf_counter()
        try:
            for command in ("up", "apply --yes"):
                _multidb(name, command)
            return time.perf_counter() - began
        finally:
            _multidb(name, "down")


def _multidb(folder: str, command: str) -> None:
    subprocess.run([sys.executable, "-c", _MAIN, *command.split()], cwd=folder, check=True, capture_output=True)


def _bare(servers: list[BareServer]) -> float:
    """The seconds until all of them take connections."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(servers)) as pool:
        processes = list(pool.map(BareServer.start, servers))
    took = time.perf_counter() - began
    for process in processes:
        process.send_signal(signal.SIGINT)  # which ends each of them, Postgres at once
        process.wait(_LONGEST)
    return took
