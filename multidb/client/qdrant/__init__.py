"""Qdrant's clients, that cannot forget their tenant.

The server keeps apps apart; inside an app's collection, the app's own customers are told apart by the payload field
``tenant_id``, which the server does not ask for. A `TenantQdrant` is the library's `QdrantClient` in all but this: it
puts the tenant into every filter and every payload, whatever it is given, names collections by their type, and refuses
what would lead past the tenant::

    qdrant = connect().qdrant
    qdrant.upsert("knowledge", [PointStruct(id=1, vector=[...], payload={"text": "..."})])
    qdrant.query_points("knowledge", query=[...], limit=5)
    qdrant.for_tenant("acme").count("knowledge")

It guards against code that forgets, not against code that reaches for what begins with an underscore.
"""

from __future__ import annotations

import copy
import os
import ssl
import warnings
from typing import Any, Final, NoReturn, Self

from qdrant_client import AsyncQdrantClient, QdrantClient, models

from multidb.client.errors import CallRefused
from multidb.client.qdrant.boundary import AsyncBoundary, Boundary, QdrantConnection
from multidb.client.qdrant.rules import REFUSED
from multidb.client.qdrant.tenant import TENANT_FIELD, Tenancy
from multidb.client.retries import Retries
from multidb.client.source import Source

__all__ = ["TENANT_FIELD", "AsyncTenantQdrant", "TenantQdrant", "models"]


_GRPC_ROOTS: Final = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


class _Past(property):
    """A property of the library that leads past the tenant."""

    def __init__(self, name: str) -> None:
        def refuse(client: object) -> NoReturn:
            raise CallRefused(f"{name} is refused: {REFUSED[name]}")

        super().__init__(refuse, doc="Refused.")


class _OneTenant:
    """What both clients are beside the library's own."""

    _client: Any
    _parent: Any

    http = _Past("http")
    grpc_points = _Past("grpc_points")
    grpc_collections = _Past("grpc_collections")
    init_options = _Past("init_options")

    @property
    def tenant(self) -> str:
        """Whose points it reads and writes."""
        tenant: str = self._client.tenancy.tenant
        return tenant

    def for_tenant(self, tenant: str) -> Self:
        """The same connection as another tenant of the app; it is closed with the client that it comes from.

        Raises:
            CallRefused: `tenant` is empty.
        """
        other, boundary = copy.copy(self), self._client
        tenancy = Tenancy(boundary.tenancy.app, boundary.tenancy.prefix, tenant)
        other._client = type(boundary)(boundary.connection, tenancy)
        other._parent = self._parent or self
        return other


class TenantQdrant(_OneTenant, QdrantClient):
    """One tenant's view of an app's collections.

    Args:
        source: the app's variables.
        grpc: whether calls go by gRPC where they can.
        read_only: refuses what writes.
        options: passed to `qdrant_client.QdrantClient` (``timeout``, ``headers`` ...).
    """

    def __init__(
        self, source: Source, retries: Retries, *, grpc: bool = False, read_only: bool = False, **options: Any
    ) -> None:
        with warnings.catch_warnings():
            _quiet()
            super().__init__(**_options(source, grpc), **options)
        local = "QDRANT_PATH" in source
        connection = QdrantConnection(self._client, source, retries, local=local, read_only=read_only)
        self._client = Boundary(connection, _tenancy(source))
        self._parent: TenantQdrant | None = None

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Closes the connection; that of another tenant's client stays open until its own is closed."""
        if getattr(self, "_parent", self) is None:
            super().close(grpc_grace=grpc_grace, **kwargs)

    def migrate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise CallRefused(f"migrate is refused: {REFUSED['migrate']}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncTenantQdrant(_OneTenant, AsyncQdrantClient):
    """`TenantQdrant` with methods to await."""

    def __init__(
        self, source: Source, retries: Retries, *, grpc: bool = False, read_only: bool = False, **options: Any
    ) -> None:
        with warnings.catch_warnings():
            _quiet()
            super().__init__(**_options(source, grpc), **options)
        local = "QDRANT_PATH" in source
        connection = QdrantConnection(self._client, source, retries, local=local, read_only=read_only)
        self._client = AsyncBoundary(connection, _tenancy(source))
        self._parent: AsyncTenantQdrant | None = None

    async def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Closes the connection; that of another tenant's client stays open until its own is closed."""
        if getattr(self, "_parent", self) is None:
            await super().close(grpc_grace=grpc_grace, **kwargs)

    async def migrate(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        """Refused."""
        raise CallRefused(f"migrate is refused: {REFUSED['migrate']}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _tenancy(source: Source) -> Tenancy:
    return Tenancy(source.app, source["QDRANT_COLLECTION_PREFIX"], source["APP_TENANT_ID"])


def _options(source: Source, grpc: bool) -> dict[str, Any]:
    """What the library is told of the server. The token is asked for with each request, so that a rotation needs no
    other client."""
    if path := source.get("QDRANT_PATH"):
        return {"path": path}
    options: dict[str, Any] = {
        "url": source["QDRANT_URL"],
        "grpc_port": int(source.get("QDRANT_GRPC_PORT") or 6334),
        "prefer_grpc": grpc,
        "check_compatibility": False,
    }
    if grpc and "QDRANT_CA_FILE" in source and not os.environ.get(_GRPC_ROOTS):
        raise CallRefused(
            f"qdrant-client takes no authority for gRPC: set {_GRPC_ROOTS} to {source['QDRANT_CA_FILE']}, "
            "or leave out grpc=True"
        )
    if "QDRANT_API_KEY" in source:
        options["auth_token_provider"] = lambda: source.get("QDRANT_API_KEY")
    if authority := source.get("QDRANT_CA_FILE"):
        options["verify"] = ssl.create_default_context(cafile=authority)
    return options


def _quiet() -> None:
    """Which address it is, and whether it is encrypted, is the operator's choice, made in the manifest."""
    for message in ("Api key is used with an insecure connection", "Auth token provider is used with an insecure"):
        warnings.filterwarnings("ignore", message=message)
