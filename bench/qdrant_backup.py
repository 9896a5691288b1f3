"""Backup of 200,000 vectors of 384 (MULTIDB_BENCH_POINTS) in Qdrant, against scrolling through them and no more."""

from __future__ import annotations

import os
import random

from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct

from bench.backup_ground import back_up, peak, restore_beside, somewhere
from bench.ground import Result, apps, open_engine, project, taking_turns
from multidb.engine import Scope
from multidb.model import Tenant

POINTS, SIZE, BATCH, RUNS = int(os.environ.get("MULTIDB_BENCH_POINTS", "200000")), 384, 1000, 1


def measure() -> list[Result]:
    entry = f"{{stores: [qdrant], qdrant: {{collections: {{knowledge: {{size: {SIZE}}}}}}}}}"
    with project(apps("app", 1, entry)) as folder, somewhere() as sets:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        (tenant,), _ = engine.tenants(Scope())
        name = "app0000_knowledge"
        randomly = random.Random(7)
        with _client(tenant) as client:
            for start in range(0, POINTS, BATCH):
                vectors = [[randomly.random() for _ in range(SIZE)] for _ in range(BATCH)]
                points = [
                    PointStruct(id=start + number, vector=vector, payload={"text": f"line {start + number}"})
                    for number, vector in enumerate(vectors)
                ]
                client.upsert(name, points, wait=True)

        def floor() -> None:
            with _client(tenant) as client:
                offset = None
                while True:
                    _, offset = client.scroll(name, limit=BATCH, offset=offset, with_payload=True, with_vectors=True)
                    if offset is None:
                        return

        ours, bare = taking_turns(RUNS, lambda: back_up(engine, sets), floor)
        copy = back_up(engine, sets)
        back, again = taking_turns(RUNS, lambda: restore_beside(engine, copy), floor)
    return [
        Result(f"backup of {POINTS} vectors of {SIZE}", ours, bare, "one scroll through them", "", peak()),
        Result(f"restore of {POINTS} vectors of {SIZE}, measured", back, again, "one scroll through them", "", peak()),
    ]


class _client:  # noqa: N801  used as a function
    """The app's own client; a local folder is let go of at the end."""

    def __init__(self, tenant: Tenant) -> None:
        endpoint = tenant.server.endpoint
        key = tenant.env.get("QDRANT_API_KEY")
        if endpoint.path:
            self._client = QdrantClient(path=endpoint.path)
        else:
            secret = key if key is None or isinstance(key, str) else key.reveal()
            self._client = QdrantClient(host=endpoint.host, port=endpoint.port, api_key=secret, https=endpoint.tls)

    def __enter__(self) -> QdrantClient:
        return self._client

    def __exit__(self, *exc: object) -> None:
        self._client.close()
