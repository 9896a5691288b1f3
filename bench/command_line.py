"""How quickly the command line answers: `--help`, and `add-app` on all four stores with the servers up."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.ground import Result, open_engine, project, quiet, taking_turns

RUNS = 9


def measure() -> list[Result]:
    return [_help(), _add_app()]


def _python(code: str, *arguments: str, folder: Path | None = None) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _help() -> Result:
    def ours() -> None:
        _python("from multidb.cli import main; main()", "--help")

    mine, bare = taking_turns(RUNS, ours, lambda: _python("import typer"))
    return Result("multidb --help", mine, bare, 'python -c "import typer"', "at most 2")


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
