"""One apply in a process of its own, or with the argument ``rotate`` one rotation after the other, to be killed by the
contract suite. Says "ready" just before it begins."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from multidb.engine import Engine
from multidb.environment import environment
from multidb.files import write_text
from multidb.fleet import Fleet
from multidb.model import App, Project, RuntimeKind, ServerSpec
from multidb.secrets import revealed
from multidb.state import ProjectState
from tests.support.given_runtime import GivenRuntime
from tests.support.rotating import OneRotation

document = json.loads(Path(sys.argv[1]).read_text())
module = import_module(f"tests.contract.case_{document['server']['store']}")  # one store only: this starts quickly
case = next(case for case in module.CASES if case.name == document["case"])
store = case.provisioner.name
settings = case.provisioner.app_options(**case.app_options)
project = Project(
    name="contract",
    runtime=RuntimeKind.EMBEDDED,
    apps={app: App(app, app.replace("_", "-"), {store: settings}) for app in document["apps"]},
    servers=(ServerSpec(store, store, case.provisioner.server_options(**document["options"])),),
    root=document["root"],
)
runtime = GivenRuntime(GivenRuntime.load(document, project.servers[0].options))
engine = Engine(Fleet(project, ProjectState(Path(document["root"])), runtime=runtime, command="test"))
if sys.argv[2:] != ["rotate"]:
    print("ready", flush=True)
    engine.apply()
    sys.exit()
(app,) = document["apps"]


def write() -> bool:
    variables = {name: revealed(value) for name, value in environment(engine.fleet, app).env.items()}
    write_text(Path(document["root"]) / f"{app}.json", json.dumps(variables))
    return True


print("ready", flush=True)
while True:
    OneRotation(engine, app, write).prepare()
    OneRotation(engine, app, write).finish(force=True)
