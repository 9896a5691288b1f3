"""A project with a real Qdrant, and points that its apps write themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import httpx
import pytest

from tests.support.command import Folder, project_folder

_COMPONENTS = 16
_MANIFEST = """\
version: 1
project: with_qdrant
runtime: embedded
servers: {{qdrant: {{binary: {binary}}}}}
defaults: {{qdrant: {{collections: {{notes: {{size: {components}}}}}}}}}
apps: {{ann: {{stores: [qdrant]}}, bob: {{stores: [qdrant]}}}}
backup: {{to: [sets/], verify: never}}
"""


@contextmanager
def qdrant_folder(prefix: str) -> Iterator[Folder]:
    """A project of two apps with a collection ``notes``; its server is not started yet."""
    binary = os.environ.get("MULTIDB_TEST_QDRANT", "")
    if not binary.startswith("/"):
        pytest.skip("no Qdrant server: set MULTIDB_TEST_QDRANT to its binary")
    with project_folder(prefix, _MANIFEST.format(binary=binary, components=_COMPONENTS)) as made:
        yield made


def put_points(folder: Folder, app: str, first: int, number: int) -> None:
    """The app writes points with these ids."""
    random = Random(first)
    points = [
        {
            "id": first + n,
            "vector": [random.random() for _ in range(_COMPONENTS)],
            "payload": {"tenant_id": app, "text": random.randbytes(500).hex()},
        }
        for n in range(number)
    ]
    _ask(folder, app, "PUT", "?wait=true", {"points": points})


def count(folder: Folder, app: str) -> int:
    """How many points the app finds."""
    counted: int = _ask(folder, app, "POST", "/count", {"exact": True})["count"]
    return counted


def _ask(folder: Folder, app: str, verb: str, rest: str, body: Any) -> Any:
    variables = folder.variables(app)
    url = f"{variables['QDRANT_URL']}/collections/{app}_notes/points{rest}"
    headers = {"api-key": variables["QDRANT_API_KEY"]}
    reply = httpx.request(verb, url, json=body, headers=headers, timeout=60, trust_env=False)
    assert reply.status_code == 200, reply.text
    return reply.json()["result"]
