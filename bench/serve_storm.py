"""`/health/databases` of 100 apps on four stores from its cache, asked over 32 connections by another process. Promised
are 1,000 requests a second on one core, so a millisecond of the service's processor time each."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import uvicorn

from bench.ground import Result
from multidb.health import Checked, HealthReport
from multidb.model import App, Health, Project, RuntimeKind, ServerSpec, Status
from multidb.model.options import ContainerOptions
from multidb.service.application import Intervals, Service, application

APPS = 100
STORES = ("postgres", "neo4j", "qdrant", "redis")
REQUESTS = 4_000
CONNECTIONS = 32
RUNS = 5
_REQUEST = b"GET /health/databases HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def measure() -> list[Result]:
    with _served() as (port, process):
        spent = sorted(_spent(port, process) for _ in range(RUNS))[RUNS // 2]
    note = f"{REQUESTS / spent:,.0f} requests a second of processor time"
    name = f"/health/databases of {APPS} apps from its cache"
    return [Result(name, spent, REQUESTS / 1000, "1 ms of one core each", "at most 1", note)]


def _spent(port: int, process: psutil.Process) -> float:
    """Seconds of processor time that the service takes for the requests; it has one event loop, so one core."""
    before = process.cpu_times()
    asyncio.run(_storm(port))
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system


async def _storm(port: int) -> None:
    each = REQUESTS // CONNECTIONS
    await asyncio.gather(*(_ask(port, each) for _ in range(CONNECTIONS)))


async def _ask(port: int, times: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    for _ in range(times):
        writer.write(_REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.close()


@contextmanager
def _served() -> Iterator[tuple[int, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,))
        process.start()
        try:
            time.sleep(1)
            yield listener.getsockname()[1], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.join()


def _serve(listener: socket.socket) -> None:
    service = Service(_sources(), ThreadPoolExecutor(5), intervals=Intervals(0, 0, 0, 0, 0), fresh=600)
    app = application(service, token=None, loopback_only=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none")).run(sockets=[listener])


def _sources() -> Any:
    apps = [f"app_{number}" for number in range(APPS)]
    well = Health(Status.HEALTHY, "wrote and read", 0.0032)
    report = HealthReport("bench", tuple(Checked(app, store, store, well) for app in apps for store in STORES))
    stores: dict[str, Any] = dict.fromkeys(STORES)
    specs = tuple(ServerSpec(store, store, ContainerOptions()) for store in STORES)
    project = Project("bench", RuntimeKind.EMBEDDED, {app: App(app, app, stores) for app in apps}, specs)
    nothing = dict.fromkeys(("drift", "audit", "usage", "backups"), lambda: None)
    return SimpleNamespace(project=project, health=lambda: report, **nothing)
