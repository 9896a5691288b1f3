"""How quickly the command line answers: what needs no server, a plan and a look at the health of four apps on four
stores, and `add-app` on all four with the servers up."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.ground import Result, admin, open_engine, project, quiet, taking_turns
from multidb.access import StoreAccess, record_access
from multidb.project import load_project
from multidb.provisioners import INCLUDED, known_stores, provisioner
from multidb.provisioners.qdrant.provision.resources import token_ref
from multidb.secrets import generate
from multidb.state import ProjectState

RUNS = 9
_MAIN = "from multidb.cli import main; main()"
_LIBRARIES = "import typer, pydantic, yaml"
_BARE = """
import json, os
import neo4j, psycopg, redis
places = json.loads(os.environ["PLACES"])
host, port, user, password = places["postgres"]
with psycopg.connect(host=host, port=port, user=user, password=password, dbname="postgres") as connection:
    connection.execute("SELECT 1").fetchall()
host, port, user, password = places["redis"]
redis.Redis(host=host, port=port, username=user or None, password=password).ping()
host, port, user, password = places["neo4j"]
with neo4j.GraphDatabase.driver(f"bolt://{host}:{port}", auth=(user, password)) as driver:
    driver.execute_query("RETURN 1")
"""
_BARE_QDRANT = """
import urllib3
host, port, user, password = places["qdrant"]
assert urllib3.request("GET", f"http://{host}:{port}/collections", headers={"api-key": password}).status == 200
"""
_BARE_QDRANT_LOCAL = """
import qdrant_client
client = qdrant_client.QdrantClient(path=os.environ["QDRANT_FOLDER"])
client.get_collections()
client.close()
"""


def measure() -> list[Result]:
    return [_help(), *_completion(), *_without_servers(), *_with_servers(), _add_app()]


def _python(code: str, *arguments: str, folder: Path | None = None, **variables: str) -> None:
    command, env = [sys.executable, "-c", code, *arguments], {**os.environ, **variables}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed multidb is compiled, as the floor's libraries are
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _help() -> Result:
    def ours() -> None:
        _python("from multidb.cli import main; main()", "--help")

    mine, bare = taking_turns(RUNS, ours, lambda: _python("import typer"))
    return Result("multidb --help", mine, bare, 'python -c "import typer"', "at most 2")


def _completion() -> list[Result]:
    """Processor time of what a person waits for after a TAB, with ten apps and with a thousand."""
    found = []
    for apps in (10, 1000):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            (folder / "multidb.yaml").write_text(json.dumps({**_external(), "apps": _named(apps)}))
            for line in ("plan --ch", "env ", "restore ", "plan --store "):
                ours = partial(_python, _MAIN, folder=folder, **_tab(line))
                what = f"completion of `multidb {line}`, {apps} apps"
                found.append(
                    _in_turns(what, ours, lambda: _python("import typer"), "at most 0.15 s", 'python -c "import typer"')
                )
    return found


def _tab(line: str) -> dict[str, str]:
    """The environment in which a shell asks for the end of a line."""
    return {"_MULTIDB_COMPLETE": "bash", "_MULTIDB_LINE": f"multidb {line}"}


def _without_servers() -> list[Result]:
    """Processor time of commands that the manifest and the records answer, for four apps on four stores: once what they
    find is kept, and the first time after the manifest was changed."""
    found, floor_is = [], f'python -c "{_LIBRARIES}"'
    asked = [line.split() for line in ("--version", "validate", "env app0", "show app0")]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "multidb.yaml").write_text(json.dumps(_external()))
        _record(folder)
        for arguments in asked:
            for when in ("", ", first time") if arguments[1:] or arguments == ["validate"] else ("",):

                def ours(arguments: list[str] = arguments) -> None:
                    _python(_MAIN, *arguments, folder=folder)

                def forget(when: str = when) -> None:
                    if when:
                        shutil.rmtree(folder / ".multidb" / "answers", ignore_errors=True)

                ours()
                what = f"multidb {arguments[0]}, four apps on four stores{when}"
                found.append(_in_turns(what, ours, lambda: _python(_LIBRARIES), "at most 1.5", floor_is, forget))
    return found


def _with_servers() -> list[Result]:
    """Processor time of commands that ask every server."""
    entries = "".join(f"  app{number}: {{}}\n" for number in range(4))
    with project(entries, servers="{neo4j: {isolation: label}}") as folder:
        engine = open_engine(folder)
        engine.apply()
        places = {store: admin(engine, store) for store in INCLUDED}
        (local,) = (server.endpoint.path for server in engine.fleet.runtime.servers() if server.store == "qdrant")
        variables = {"PLACES": json.dumps(places), "QDRANT_FOLDER": str(local or "")}
        four = _BARE + (_BARE_QDRANT_LOCAL if local else _BARE_QDRANT)
        others = [store for store in INCLUDED if store != "qdrant"]
        floor_is = "the drivers, a connection and one question to each of the servers"
        return [
            _in_turns(
                f"multidb {line}, four apps on {on}",
                partial(_python, _MAIN, *line.split(), *options, folder=folder),
                partial(_python, floor, folder=folder, **variables),
                "at most 1.3",
                floor_is,
            )
            for on, floor, options in (
                ("four stores" + (", Qdrant in local mode" if local else ""), four, []),
                ("Postgres, Neo4j and Valkey", _BARE, [word for store in others for word in ("--store", store)]),
            )
            for line in ("plan --check", "health")
        ]


def _in_turns(
    what: str,
    ours: Callable[[], object],
    floor: Callable[[], object],
    promise: str,
    floor_is: str,
    before: Callable[[], object] = lambda: None,
) -> Result:
    pairs = []
    ours(), floor()  # what is compiled once is not measured
    for _ in range(RUNS):
        before()
        pairs.append((*_times(ours), *_times(floor)))
    mine, waited, bare, bare_waited = (statistics.median(side) for side in zip(*pairs, strict=True))
    note = f"{mine:.2f} s; by the clock {waited / bare_waited:.2f}"
    return Result(f"{what}, processor time", mine, bare, floor_is, promise, note)


def _external() -> dict[str, object]:
    """A manifest of four apps on four stores whose servers nobody asks."""
    schemes = {"postgres": "postgresql", "neo4j": "bolt", "qdrant": "http", "redis": "redis"}
    return {
        "version": 1,
        "project": "bench",
        "runtime": "external",
        "external": {store: {"url": f"{scheme}://127.0.0.1:1"} for store, scheme in schemes.items()},
        "servers": {"neo4j": {"isolation": "database"}},
        "apps": _named(4),
    }


def _named(apps: int) -> dict[str, object]:
    return {f"app{number}": {} for number in range(apps)}


def _times(work: Callable[[], object]) -> tuple[float, float]:
    """The processor's seconds that the processes of `work` take, and the clock's."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after, waited = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, waited


def _record(folder: Path) -> None:
    """Writes down what an apply would have: addresses, numbers and credentials."""
    apps, state = load_project(folder / "multidb.yaml").apps.values(), ProjectState(folder)
    with state.change("numbers") as numbers:
        numbers["redis"] = {app.id: number for number, app in enumerate(apps, 1)}
    specs = [spec.ref for store in known_stores() for app in apps for spec in provisioner(store).secrets(app)]
    state.secrets.put({ref: generate() for ref in [*specs, *(token_ref(app.id) for app in apps)]})
    for store in INCLUDED:
        access = StoreAccess("enforced", "kept for a benchmark", ("its place",), "2026-11-28T20:00:00+00:00")
        record_access(state.folder, store, {app.id: access for app in apps}, [app.id for app in apps])


def _add_app() -> Result:
    with project("  first: {}\n") as folder:
        open_engine(folder).apply()
        manifest = folder / "multidb.yaml"
        manifest.write_text(manifest.read_text() + "  second: {}\n")
        engine = open_engine(folder)
        engine.fleet.runtime.up(quiet)  # Neo4j's own instance start is apart,
        engine.plan()  # and so is its warming up: a JVM's first answers are slow
        started = time.perf_counter()
        _python("from multidb.cli import main; main()", "add-app", "second", "--yes", folder=folder)
        ours = time.perf_counter() - started
    return Result(
        "add-app on all four stores, servers up and asked once before (seconds against 3)",
        ours,
        3,
        "3 s",
        "under 1",
        f"{ours:.1f} s",
    )
