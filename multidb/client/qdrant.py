"""A Qdrant client that cannot forget its tenant.

The server keeps apps apart; inside an app's collection, the app's own customers are told apart by the payload field
``tenant_id``, which the server does not ask for. A `TenantCollection` writes it to every point and adds it to every
filter, so that no call through it reads, overwrites or deletes a point of another tenant::

    with connect() as qdrant:                                # the app's environment
        docs = qdrant.collection("knowledge", tenant="acme")
        docs.upsert([PointStruct(id=1, vector=[...], payload={"text": "..."})])
        docs.search([...], limit=5)
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from qdrant_client import QdrantClient, models

__all__ = ["TENANT_FIELD", "AppQdrant", "TenantCollection", "connect"]

TENANT_FIELD: Final = "tenant_id"


class AppQdrant:
    """An app's Qdrant. Closes its connection at the end of a ``with`` block.

    Args:
        client: an open client, which holds the app's own token.
        prefix: what the names of the app's collections begin with (`QDRANT_COLLECTION_PREFIX`).
        tenant: the tenant when none is named (`APP_TENANT_ID`).
    """

    def __init__(self, client: QdrantClient, prefix: str, tenant: str) -> None:
        self.client = client
        self._prefix = prefix
        self._tenant = tenant

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def collection(self, kind: str = "knowledge", tenant: str | None = None) -> TenantCollection:
        """The app's collection for one type of content, as one tenant sees it."""
        return TenantCollection(self.client, f"{self._prefix}{kind}", self._tenant if tenant is None else tenant)


class TenantCollection:
    """One tenant's points in one collection; those of others are as if they were not there.

    Args:
        client: an open client.
        name: the collection.
        tenant: the value of ``tenant_id``; `ValueError` when it is empty, since that would be nobody's.
    """

    def __init__(self, client: QdrantClient, name: str, tenant: str) -> None:
        if not tenant:
            raise ValueError("the tenant must not be empty")
        self._client = client
        self.name = name
        self.tenant = tenant

    def upsert(self, points: Iterable[models.PointStruct], *, wait: bool = True) -> None:
        """Writes points as this tenant's, whatever ``tenant_id`` they carry.

        Point ids are shared by all tenants of a collection: a point that has the id of another tenant's is not written
        (random UUIDs never meet).
        """
        stamped = [
            point.model_copy(update={"payload": {**(point.payload or {}), TENANT_FIELD: self.tenant}})
            for point in points
        ]
        if stamped:
            self._client.upsert(self.name, stamped, wait=wait, update_filter=self._mine())

    def search(
        self, query: Any, *, limit: int = 10, where: models.Filter | None = None, **options: Any
    ) -> list[models.ScoredPoint]:
        """The nearest points to `query` (a vector, a sparse vector, a point id ...).

        `options` go to ``query_points`` as they are (``using``, ``with_vectors``, ``score_threshold`` ...).

        Raises:
            ValueError: `prefetch` or `lookup_from` is among the options; both read past the filter.
        """
        if past := sorted({"prefetch", "lookup_from", "query_filter"} & options.keys()):
            raise ValueError(f"{past[0]} reads past the tenant's filter; use `where`, or the plain client with care")
        response = self._client.query_points(
            self.name, query=query, query_filter=self._mine(where), limit=limit, **options
        )
        return list(response.points)

    def scroll(
        self, *, limit: int = 100, where: models.Filter | None = None, offset: Any = None, with_vectors: bool = False
    ) -> tuple[list[models.Record], Any]:
        """One page of points and the offset of the next one; that is None at the end."""
        return self._client.scroll(
            self.name, scroll_filter=self._mine(where), limit=limit, offset=offset, with_vectors=with_vectors
        )

    def retrieve(self, ids: Sequence[int | str], *, with_vectors: bool = False) -> list[models.Record]:
        """The tenant's points among `ids`."""
        if not ids:
            return []
        return self.scroll(limit=len(ids), where=_any_of(ids), with_vectors=with_vectors)[0]

    def count(self, where: models.Filter | None = None) -> int:
        """How many points the tenant has, exactly."""
        return self._client.count(self.name, count_filter=self._mine(where), exact=True).count

    def delete(
        self, ids: Sequence[int | str] | None = None, *, where: models.Filter | None = None, wait: bool = True
    ) -> None:
        """Deletes the tenant's points among `ids`, or those that fit `where`.

        Raises:
            ValueError: neither or both are given; to delete all of a tenant's points, say ``where=Filter()``.
        """
        if (ids is None) == (where is None):
            raise ValueError("give either ids or where")
        chosen = _any_of(ids) if ids is not None else where
        self._client.delete(self.name, models.FilterSelector(filter=self._mine(chosen)), wait=wait)

    def _mine(self, where: models.Filter | None = None) -> models.Filter:
        """`where`, and the tenant. Nested, because a ``should`` beside ``must`` would loosen neither."""
        tenant = models.FieldCondition(key=TENANT_FIELD, match=models.MatchValue(value=self.tenant))
        return models.Filter(must=[tenant] if where is None else [tenant, where])


def connect(env: Mapping[str, str] | None = None, **options: Any) -> AppQdrant:
    """Opens the Qdrant of an app's environment: a server, or a folder of local mode.

    Args:
        env: the variables of ``multidb env``; the process's own by default.
        options: passed to `qdrant_client.QdrantClient` (``timeout``, ``prefer_grpc`` ...).

    Raises:
        KeyError: a variable is missing.
    """
    env = os.environ if env is None else env
    prefix, tenant = env["QDRANT_COLLECTION_PREFIX"], env["APP_TENANT_ID"]
    if path := env.get("QDRANT_PATH"):
        return AppQdrant(QdrantClient(path=path, **options), prefix, tenant)
    if authority := env.get("QDRANT_CA_FILE"):
        options = {"verify": ssl.create_default_context(cafile=authority), **options}
    with warnings.catch_warnings():
        # The address and whether it is encrypted are the operator's choice, made in the manifest.
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        client = QdrantClient(
            url=env["QDRANT_URL"],
            grpc_port=int(env.get("QDRANT_GRPC_PORT") or 6334),
            api_key=env.get("QDRANT_API_KEY") or None,
            check_compatibility=False,
            **options,
        )
    return AppQdrant(client, prefix, tenant)


def _any_of(ids: Sequence[int | str]) -> models.Filter:
    return models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
