"""Sets of apps in Qdrant, kept in memory."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from multidb.model import Archive, Part
from multidb.provisioners.qdrant import PROVISIONER
from tests.contract.case_qdrant import ask, opened
from tests.contract.qdrant_driver import Driver
from tests.support.case import RealServer


class Files:
    """The files of a part, in memory: what a set's writer and reader do with them."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    @contextlib.contextmanager
    def _write(self, name: str) -> Iterator[BinaryIO]:
        buffer = io.BytesIO()
        yield buffer
        self.held[name] = buffer.getvalue()

    def names(self) -> Sequence[str]:
        return list(self.held)

    def file(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return contextlib.nullcontext(io.BytesIO(self.held[name])) if name in self.held else self._write(name)


def quiet(*words: object) -> None:
    """Nobody watches."""


def archive(real: RealServer) -> Archive:
    assert PROVISIONER.archive
    return PROVISIONER.archive(real.server, real.admin, "test", None)


def put(real: RealServer, name: str, points: list[dict[str, Any]]) -> None:
    if not real.server.endpoint.path:
        ask(real, "PUT", f"/collections/{name}/points?wait=true", {"points": points}).raise_for_status()
        return
    from qdrant_client import models

    with opened(real.server.endpoint.path) as client:
        client.upsert(name, [models.PointStruct(**point) for point in points])


def contents(real: RealServer, name: str) -> list[dict[str, Any]]:
    """Every point. Local mode makes vectors of cosine distance one long, or not, as it likes."""
    if real.server.endpoint.path:
        with opened(real.server.endpoint.path) as client:
            records, _ = client.scroll(name, limit=1000, with_vectors=True)
            points = [record.model_dump(include={"id", "vector", "payload"}) for record in records]
        points = [{**point, "vector": one_long(point["vector"])} for point in points]
    else:
        found = ask(real, "POST", f"/collections/{name}/points/scroll", {"limit": 7, "with_vector": True}).json()
        points = found["result"]["points"]
        while found["result"]["next_page_offset"] is not None:
            offset = found["result"]["next_page_offset"]
            body = {"limit": 7, "with_vector": True, "offset": offset}
            found = ask(real, "POST", f"/collections/{name}/points/scroll", body).json()
            points += found["result"]["points"]
    return sorted((rounded(point) for point in points), key=lambda point: str(point["id"]))


def one_long(vector: Any) -> Any:
    if not isinstance(vector, list):
        return vector
    length = math.hypot(*vector)
    return [component / length for component in vector]


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items() if key not in ("indices", "values")} | (
            {"pairs": sorted(zip(value["indices"], map(rounded, value["values"]), strict=True))}
            if "indices" in value
            else {}
        )
    return [rounded(each) for each in value] if isinstance(value, list) else value


def saved(driver: Driver) -> tuple[Part, Files]:
    context, files = driver.context(), Files()
    with archive(driver.real) as open_:
        return open_.backup(driver.apps[0], context, files, quiet), files
