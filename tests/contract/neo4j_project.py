"""A project on a Neo4j server."""

from __future__ import annotations

from pathlib import Path

from multidb.engine import Engine
from multidb.fleet import Fleet, Scope
from multidb.model import (
    App,
    Hole,
    Inspection,
    Project,
    RuntimeKind,
    ServerSpec,
)
from multidb.provisioners.neo4j import PROVISIONER
from multidb.provisioners.neo4j.provision.options import AppOptions, ServerOptions
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime


def engine_of(real: RealServer, folder: Path, *apps: str, project: str = "digi", isolation: str = "auto") -> Engine:
    described = Project(
        name=project,
        runtime=RuntimeKind.EMBEDDED,
        apps={app: App(app, app, {"neo4j": AppOptions()}) for app in apps},
        servers=(ServerSpec("neo4j", "neo4j", ServerOptions.model_validate({"isolation": isolation})),),
        root=str(folder),
    )
    return Engine(Fleet(described, ProjectState(folder), runtime=GivenRuntime(real), command="test"))


def applied(engine: Engine) -> Engine:
    report = engine.apply()
    assert report.error() is None, report.error()
    assert engine.plan().in_sync
    return engine


def holes(engine: Engine) -> list[Hole]:
    (server,) = engine.fleet.servers(Scope())
    with engine.fleet.open(server) as session:
        context, apps = engine.fleet.context(server, session), engine.fleet.apps_of(server)
        inspection = Inspection(context, apps, PROVISIONER.desired(apps, context), engine.state.secrets)
        return [*session.search(inspection).holes]
