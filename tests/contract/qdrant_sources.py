"""Collections that multidb has not made, on servers and in folders of local mode, for tests of imports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from multidb.model import SourceLocation
from multidb.secrets import Secret
from tests.contract.case_qdrant import ask, local_folder, opened, real_server
from tests.contract.qdrant_sets import put
from tests.support.case import RealServer

KINDS: dict[str, Any] = {
    "knowledge": {"size": 4, "distance": "dot"},
    "pages": {
        "vectors": {"title": {"size": 3, "distance": "dot"}, "body": {"size": 2, "distance": "euclid"}},
        "sparse": {"words": {"modifier": "idf"}},
    },
}
PAIRS = ("server to server", "local to local", "server to local", "local to server")
MADE: dict[str, dict[str, Any]] = {
    "old_knowledge": {"vectors": {"size": 4, "distance": "Dot"}},
    "old_Pages": {
        "vectors": {"title": {"size": 3, "distance": "Dot"}, "body": {"size": 2, "distance": "Euclid"}},
        "sparse_vectors": {"words": {"modifier": "idf"}},
    },
    "other": {"vectors": {"size": 2, "distance": "Dot"}},
}


@contextlib.contextmanager
def some_place(kind: str, folder: Path) -> Iterator[RealServer]:
    folder.mkdir()
    with real_server(folder, own=True) if kind == "server" else local_folder(folder) as real:
        yield real


def fill(real: RealServer) -> None:
    for name, body in MADE.items():
        create(real, name, body)
    put(real, "old_knowledge", [point(number) for number in range(1, 41)])
    full = {"tenant_id": "lernmi", "app_name": "old", "created_at": "2020-01-01T00:00:00Z"}
    odd = [
        {"id": 100, "vector": [1, 2, 3, 4], "payload": full},
        {
            "id": 101,
            "vector": [1, 2, 3, 4],
            "payload": {"tenant_id": "a customer", "text": "päß 漢字 \u0000", "n": 1e300},
        },
        {"id": 102, "vector": [1, 2, 3, 4], "payload": {"tenant_id": None, "created_at": []}},
        {"id": "6f1f4cf6-37c8-4f1d-8a9a-000000000001", "vector": [1, 2, 3, 4], "payload": {"deep": {"tenant_id": "x"}}},
    ]
    put(real, "old_knowledge", odd)
    words = {"indices": [7, 2], "values": [0.5, 0.25]}
    vectors: list[Any] = [{"title": [1, 2, 3], "body": [4, 5], "words": words}, {"title": [1, 0, 0]}, {}]
    put(real, "old_Pages", [{"id": n, "vector": vector, "payload": {"n": n}} for n, vector in enumerate(vectors, 1)])


def point(number: int) -> dict[str, Any]:
    return {"id": number, "vector": [number, 0.5, 0.25, 1], "payload": {"n": number}}


def create(real: RealServer, name: str, body: dict[str, Any]) -> None:
    if not real.server.endpoint.path:
        ask(real, "PUT", f"/collections/{quote(name)}", body).raise_for_status()
        return
    from qdrant_client import models

    vectors = body["vectors"]
    with opened(real.server.endpoint.path) as client:
        client.create_collection(
            name,
            vectors_config=models.VectorParams(**vectors)
            if "size" in vectors
            else {key: models.VectorParams(**value) for key, value in vectors.items()},
            sparse_vectors_config={
                key: models.SparseVectorParams(**value) for key, value in body.get("sparse_vectors", {}).items()
            }
            or None,
        )


def location(real: RealServer, key: str | None = None) -> SourceLocation:
    endpoint = real.server.endpoint
    if endpoint.path:
        return SourceLocation(endpoint.path, None, Path(endpoint.path))
    url = f"http://{endpoint.host}:{endpoint.port}"
    return SourceLocation(url, url, None, Secret(key) if key else real.admin)
