"""The ground of the benchmarks: a project on real embedded servers in a temporary folder, and fair timing."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.project import load_project
from multidb.secrets import Secret


@dataclass(frozen=True)
class Result:
    """One measurement: ours and the floor's seconds (medians of the same number of runs), and what was promised."""

    name: str
    ours: float
    floor: float
    floor_is: str
    promise: str
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.floor

    def row(self) -> str:
        return f"| {self.name} | {self.ratio:.2f} | {self.floor_is} | {self.promise} | {self.note} |"


@contextmanager
def project(apps: str, *, servers: str = "{}", defaults: str = "{}") -> Iterator[Path]:
    """A folder with a manifest of the given apps (YAML, one line each) and its servers running."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        write_manifest(folder, apps, servers=servers, defaults=defaults)
        engine = open_engine(folder)
        engine.fleet.runtime.up(quiet)
        try:
            yield folder
        finally:
            engine.fleet.runtime.down(quiet)


def write_manifest(folder: Path, apps: str, *, servers: str = "{}", defaults: str = "{}") -> None:
    text = f"version: 1\nproject: bench\nruntime: embedded\nservers: {servers}\ndefaults: {defaults}\napps:\n{apps}"
    (folder / "multidb.yaml").write_text(text)


def open_engine(folder: Path) -> Engine:
    return Engine(Fleet(load_project(folder / "multidb.yaml")))


def apps(prefix: str, count: int, entry: str) -> str:
    return "".join(f"  {prefix}{number:04}: {entry}\n" for number in range(count))


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    """Progress that nobody watches."""


def median(runs: int, work: Callable[[], object]) -> float:
    """The median of the seconds that `work` takes."""
    times = []
    for _ in range(runs):
        gc.collect()
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def taking_turns(runs: int, ours: Callable[[], object], floor: Callable[[], object]) -> tuple[float, float]:
    """Medians of both, measured in turns so that a slow moment of the machine hits both."""
    pairs = [(median(1, ours), median(1, floor)) for _ in range(runs)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def connect_to_each(engine: Engine, databases: Iterable[str], threads: int) -> None:
    """A bare client: one connection, and one question, to each of the databases."""
    import psycopg

    host, port, user, password = admin(engine, "postgres")

    def visit(name: str) -> None:
        with psycopg.connect(host=host, port=port, user=user, password=password, dbname=name) as connection:
            connection.execute("SELECT 1")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(visit, databases))


def admin(engine: Engine, store: str) -> tuple[str, int, str, str]:
    """Host, port, user and password of the admin of the only server of `store`."""
    server = next(server for server in engine.fleet.runtime.servers() if server.store == store)
    secret = engine.fleet.runtime.admin(server) or Secret("")
    return server.endpoint.host, server.endpoint.port, server.endpoint.user, secret.reveal()
