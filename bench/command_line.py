"""How quickly the command line answers: what needs no server, and `add-app` on all four stores with the servers up."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.ground import Result, open_engine, project, quiet, taking_turns
from multidb.project import load_project
from multidb.provisioners import STORES, provisioner
from multidb.provisioners.qdrant.provision.resources import token_ref
from multidb.secrets import generate
from multidb.state import ProjectState

RUNS = 9
_MAIN = "from multidb.cli import main; main()"
_LIBRARIES = "import typer, pydantic, yaml"
_MODEL = f"{_LIBRARIES}\nclass Model(pydantic.BaseModel):\n    name: str"


def measure() -> list[Result]:
    return [_help(), *_without_servers(), _add_app()]


def _python(code: str, *arguments: str, folder: Path | None = None) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _help() -> Result:
    def ours() -> None:
        _python("from multidb.cli import main; main()", "--help")

    mine, bare = taking_turns(RUNS, ours, lambda: _python("import typer"))
    return Result("multidb --help", mine, bare, 'python -c "import typer"', "at most 2")


def _without_servers() -> list[Result]:
    """Processor time of commands that the manifest and the records answer, for four apps on four stores."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "multidb.yaml").write_text(json.dumps(_external()))
        _record(folder)
        for arguments in (["--version"], ["validate"], ["env", "app0"]):
            for code in (_LIBRARIES, _MODEL):
                pairs = [
                    (
                        _processor_time(lambda: _python(_MAIN, *arguments, folder=folder)),  # noqa: B023
                        _processor_time(lambda: _python(code)),  # noqa: B023
                    )
                    for _ in range(RUNS)
                ]
                ours, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
                floor_is = f'python -c "{_LIBRARIES}"' + ("" if code == _LIBRARIES else " and one model of one field")
                what = f"multidb {arguments[0]}, four apps on four stores, processor time"
                found.append(Result(what, ours, floor, floor_is, "at most 1.5", f"{ours:.2f} s"))
    return found


def _external() -> dict[str, object]:
    """A manifest of four apps on four stores whose servers nobody asks."""
    schemes = {"postgres": "postgresql", "neo4j": "bolt", "qdrant": "http", "redis": "redis"}
    return {
        "version": 1,
        "project": "bench",
        "runtime": "external",
        "external": {store: {"url": f"{scheme}://127.0.0.1:1"} for store, scheme in schemes.items()},
        "servers": {"neo4j": {"isolation": "database"}},
        "apps": {f"app{number}": {} for number in range(4)},
    }


def _processor_time(work: Callable[[], object]) -> float:
    """The processor's seconds that the processes of `work` take."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _record(folder: Path) -> None:
    """Writes down what an apply would have: addresses, numbers and credentials."""
    apps, state = load_project(folder / "multidb.yaml").apps.values(), ProjectState(folder)
    with state.change("numbers") as numbers:
        numbers["redis"] = {app.id: number for number, app in enumerate(apps, 1)}
    specs = [spec.ref for store in STORES for app in apps for spec in provisioner(store).secrets(app)]
    state.secrets.put({ref: generate() for ref in [*specs, *(token_ref(app.id) for app in apps)]})


def _add_app() -> Result:
    with project("  first: {}\n") as folder:
        open_engine(folder).apply()
        manifest = folder / "multidb.yaml"
        manifest.write_text(manifest.read_text() + "  second: {}\n")
        engine = open_engine(folder)
        engine.fleet.runtime.up(quiet)  # Neo4j's own instance start is apart,
        engine.plan()  # and so is its warming up: a JVM's first answers are slow
        started = time.perf_counter()
        _python("from multidb.cli import main; main()", "add-app", "second", folder=folder)
        ours = time.perf_counter() - started
    return Result(
        "add-app on all four stores, servers up and asked once before (seconds against 3)",
        ours,
        3,
        "3 s",
        "under 1",
        f"{ours:.1f} s",
    )
