"""A thousand apps fit into little memory: loaded, planned against real servers, and applied where that is quick."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from multidb.provisioners.postgres.provision.options import ServerOptions
from tests.contract.case_redis import real_server, valkey_binary
from tests.support.case import RealServer
from tests.support.command import REPOSITORY
from tests.support.given_runtime import GivenRuntime
from tests.support.postgres_servers import SUPERUSER, cluster

pytestmark = pytest.mark.server

LIMIT = 200  # MB, what is promised for 1,000 apps
APPS = 1000

# A process of its own: what others have allocated before is not the engine's. getrusage() would not do: its maximum
# outlives exec, and so is that of the test run which started the process (Linux, fs/exec.c).
_RUN = """
import json, re, sys
from pathlib import Path
from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.project import load_project
from multidb.provisioners import provisioner
from tests.support.given_runtime import GivenRuntime
document = json.loads(Path(sys.argv[1]).read_text())
project = load_project(Path(document["root"]) / "multidb.yaml")
store = document["server"]["store"]
real = GivenRuntime.load(document, provisioner(store).server_options(**document["options"]))
engine = Engine(Fleet(project, runtime=GivenRuntime(real)))
plan = engine.plan()
assert not plan.errors, plan.errors
apps = {change.resource.app for change in plan.changes} - {None}
assert len(apps) == len(project.apps), len(apps)
if sys.argv[2] == "apply":
    assert engine.apply(plan=plan).error() is None
    assert engine.plan().in_sync
json.dumps(plan.document())
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[RealServer]:
    with cluster(18) as made:
        yield RealServer(made.server(SUPERUSER), made.admin(SUPERUSER), ServerOptions())


def _valkey(folder: Path) -> AbstractContextManager[RealServer]:
    return real_server(folder, binary=valkey_binary, settings=["databases 1100"])


@pytest.mark.parametrize(("store", "serve", "how"), [("postgres", _postgres, "plan"), ("redis", _valkey, "apply")])
def test_a_thousand_apps_fit_into_little_memory(
    tmp_path: Path, store: str, serve: Callable[[Path], AbstractContextManager[RealServer]], how: str
) -> None:
    apps = "".join(f"  app_{number}: {{stores: [{store}]}}\n" for number in range(APPS))
    (tmp_path / "multidb.yaml").write_text(f"version: 1\nproject: many\nruntime: embedded\napps:\n{apps}")
    with serve(tmp_path) as real:
        spec = tmp_path / "spec.json"
        GivenRuntime.save(spec, store, real, [], tmp_path)
        ran = subprocess.run(
            [sys.executable, "-c", _RUN, str(spec), how],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < LIMIT, f"{ran.stdout.strip()} MB"
