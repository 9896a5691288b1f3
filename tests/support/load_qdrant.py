"""Apps on Qdrant that go on while their tokens are rotated: a client has the token that it was made with, so there is a
new one for other variables, and the former is closed when its last request is over."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from typing import Any

from tests.support.case import Tenant
from tests.support.load import Exchanged, Load, repeat_awaiting

_VECTOR = [0.4, 0.3, 0.2, 0.1]


def _options(tenant: Tenant, *, grpc: bool) -> dict[str, Any]:
    env = tenant.env
    return {
        "url": env["QDRANT_URL"],
        "grpc_port": int(env["QDRANT_GRPC_PORT"]),
        "api_key": env["QDRANT_API_KEY"],
        "prefer_grpc": grpc,
        "timeout": 30,
        "check_compatibility": False,
        "trust_env": False,
    }


def _collection(tenant: Tenant) -> str:
    return f"{tenant.env['QDRANT_COLLECTION_PREFIX']}knowledge"


def _opened(tenant: Tenant, *, grpc: bool) -> Any:
    import qdrant_client

    options = _options(tenant, grpc=grpc)
    if grpc:
        del options["trust_env"]  # gRPC does not know it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a token over plain HTTP, on this machine
        return qdrant_client.QdrantClient(**options)


def _point(of: str) -> tuple[str, Any]:
    from qdrant_client import models

    identity = str(uuid.uuid4())
    payload = {"tenant_id": of, "app_name": of, "load": True}
    return identity, models.PointStruct(id=identity, vector=_VECTOR, payload=payload)


def _works(load: Load, *, grpc: bool) -> None:
    """A point written, found and deleted again."""
    tenant = load.variables()
    clients = Exchanged(_opened(tenant, grpc=grpc), lambda client: client.close())
    collection, app = _collection(tenant), tenant.app

    def request() -> None:
        identity, point = _point(app)
        with clients.use() as client:
            client.upsert(collection, [point], wait=True)
            (kept,) = client.retrieve(collection, [identity])
            assert kept.payload["tenant_id"] == app
            client.delete(collection, [identity], wait=True)

    load.repeat(request, 3, lambda other: clients.exchange(_opened(other, grpc=grpc)))


def rest(load: Load) -> None:
    _works(load, grpc=False)


def grpc(load: Load) -> None:
    _works(load, grpc=True)


def asynchronous(load: Load) -> None:
    asyncio.run(_asynchronous(load))


async def _asynchronous(load: Load) -> None:
    import qdrant_client

    tenant = load.variables()
    collection, app = _collection(tenant), tenant.app

    def opened(tenant: Tenant) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return qdrant_client.AsyncQdrantClient(**_options(tenant, grpc=False))

    async def request(client: Any) -> None:
        identity, point = _point(app)
        await client.upsert(collection, [point], wait=True)
        (kept,) = await client.retrieve(collection, [identity])
        assert kept.payload["tenant_id"] == app
        await client.delete(collection, [identity], wait=True)

    await repeat_awaiting(load, opened, request, lambda client: client.close())


CLIENTS = {"qdrant over REST": rest, "qdrant over gRPC": grpc, "qdrant asynchronous": asynchronous}
