"""200,000 vectors of 384 (MULTIDB_BENCH_POINTS) in Qdrant, kept as a set, proved and brought back: against scrolling
through them, and against the bare calls that make, fetch and upload a snapshot. On a server where `qdrant` is on the
PATH; else in local mode, whose library holds every vector of the folder in the memory of the process."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct

from bench.apart import apart, backed_up, restored, verified
from bench.backup_ground import somewhere
from bench.ground import Result, admin, apps, median, open_engine, project
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.secrets import Secret

POINTS, SIZE, BATCH = int(os.environ.get("MULTIDB_BENCH_POINTS", "200000")), 384, 1000
NAME = "app0000_knowledge"


def measure() -> list[Result]:
    entry = f"{{stores: [qdrant], qdrant: {{collections: {{knowledge: {{size: {SIZE}}}}}}}}}"
    with project(apps("app", 1, entry)) as folder, somewhere() as sets:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        [server] = engine.fleet.runtime.servers()
        local = bool(server.endpoint.path)
        apart(_filled, folder)
        backup = apart(backed_up, folder, sets)
        scroll = apart(_scrolled, folder).seconds
        proof = apart(verified, folder, sets)
        restore = apart(restored, folder, sets)
        apart(_counted, folder)
        snapshot = None if local else _snapshot(engine, sets / "floor.snapshot")
    what = f"{POINTS:,} vectors of {SIZE} in Qdrant{' (local mode)' if local else ''}"
    floor = "one scroll through them with the client library"
    results = [
        Result(f"backup of {what}", backup.seconds, scroll, floor, "", backup.note),
        Result(f"proof of a set of {what}", proof.seconds, scroll, floor, "", proof.note),
        Result(f"restore of {what}, compared", restore.seconds, scroll, floor, "", restore.note),
    ]
    if snapshot is not None:
        made, loaded = snapshot
        results += [
            Result(f"backup of {what}", backup.seconds, made, "a snapshot, made and fetched, not measured", ""),
            Result(f"restore of {what}, compared", restore.seconds, loaded, "the snapshot uploaded, not compared", ""),
        ]
    return results


def _filled(folder: Path) -> None:
    randomly = random.Random(7)
    with _client(folder) as client:
        for start in range(0, POINTS, BATCH):
            points = [
                PointStruct(
                    id=number, vector=[randomly.random() for _ in range(SIZE)], payload={"text": f"line {number}"}
                )
                for number in range(start, min(start + BATCH, POINTS))
            ]
            client.upsert(NAME, points, wait=True)


def _scrolled(folder: Path) -> None:
    with _client(folder) as client:
        offset = None
        while True:
            _, offset = client.scroll(NAME, limit=BATCH, offset=offset, with_payload=True, with_vectors=True)
            if offset is None:
                return


def _counted(folder: Path) -> None:
    with _client(folder) as client:
        assert client.count(NAME, exact=True).count == POINTS


def _snapshot(engine: Engine, file: Path) -> tuple[float, float]:
    """The seconds of a snapshot's making and fetching, and of its upload into the collection."""
    host, port, _, key = admin(engine, "qdrant")
    url = f"http://{host}:{port}/collections/{NAME}/snapshots"
    headers = {"api-key": key, "accept-encoding": "identity"}
    with httpx.Client(headers=headers, timeout=3600) as client:

        def made() -> None:
            name = client.post(url, params={"wait": "true"}).raise_for_status().json()["result"]["name"]
            with client.stream("GET", f"{url}/{name}") as answer, file.open("wb") as out:
                for chunk in answer.iter_raw(1 << 20):
                    out.write(chunk)
            client.delete(f"{url}/{name}").raise_for_status()

        def loaded() -> None:
            with file.open("rb") as source:
                parameters = {"priority": "snapshot", "wait": "true"}
                client.post(f"{url}/upload", params=parameters, files={"snapshot": source}).raise_for_status()

        return median(1, made), median(1, loaded)


@contextmanager
def _client(folder: Path) -> Iterator[QdrantClient]:
    """The app's own client; a local folder is let go of at the end."""
    (tenant,), _ = open_engine(folder).fleet.tenants(Scope())
    endpoint, key = tenant.server.endpoint, tenant.env.get("QDRANT_API_KEY")
    if endpoint.path:
        client = QdrantClient(path=endpoint.path)
    else:
        secret = key.reveal() if isinstance(key, Secret) else key
        client = QdrantClient(host=endpoint.host, port=endpoint.port, api_key=secret, https=endpoint.tls, timeout=600)
    try:
        yield client
    finally:
        client.close()
