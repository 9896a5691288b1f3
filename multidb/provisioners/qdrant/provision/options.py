"""What the manifest may say about Qdrant: collections under an app, and the server. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from multidb.model.options import ContainerOptions, Section

__all__ = [
    "DEFAULT_SIZE",
    "RENEW_DAYS",
    "STORE",
    "TENANT_FIELD",
    "VERSION",
    "AppOptions",
    "CollectionOptions",
    "ServerOptions",
]

STORE: Final = "qdrant"
TENANT_FIELD: Final = "tenant_id"
RENEW_DAYS: Final = 30  # a token with less left than this is minted anew
DEFAULT_SIZE: Final = 1536
VERSION: Final = "1.18.3"

TypeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
VectorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Version = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}$",
        json_schema_extra={"errorMessage": "must be a version such as 1.18.3"},
    ),
]
Download = Annotated[
    str,
    Field(
        pattern=r"^(never|https?://[^\s@?#]+)$",
        json_schema_extra={
            "errorMessage": "must be never, or the http:// or https:// address of a mirror, without a login"
        },
    ),
]
Distance = Literal["cosine", "dot", "euclid", "manhattan"]
Datatype = Literal["float32", "float16", "uint8"]
IndexType = Literal["keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid"]


class VectorOptions(Section):
    """One named vector of a collection."""

    size: Size = Field(description="Number of dimensions, 1 to 65536.")
    distance: Distance = Field(default="cosine", description="How two vectors are compared.")
    datatype: Datatype | None = Field(
        default=None, description="How components are stored; the server's default is float32."
    )
    on_disk: bool | None = Field(default=None, description="Keep the vectors on disk instead of in memory.")


class SparseOptions(Section):
    """One named sparse vector of a collection."""

    modifier: Literal["idf"] | None = Field(default=None, description="`idf` weighs terms by how rare they are (BM25).")
    on_disk: bool | None = Field(default=None, description="Keep the sparse index on disk instead of in memory.")


class HnswOptions(Section):
    """The vector index. `m: 0` with `payload_m: 16` builds one graph per tenant and none over all."""

    m: int | None = Field(default=None, ge=0, description="Edges per node of the graph over all points.")
    payload_m: int | None = Field(default=None, ge=0, description="Edges per node of the graphs inside one tenant.")
    ef_construct: int | None = Field(default=None, ge=4, description="Neighbours considered while the graph is built.")
    full_scan_threshold: int | None = Field(
        default=None, ge=10, description="Kilobytes below which a full scan is used."
    )
    on_disk: bool | None = Field(default=None, description="Keep the graph on disk instead of in memory.")


class QuantizationOptions(Section):
    """Compressed copies of the vectors, for speed and memory."""

    type: Literal["none", "scalar", "binary"] = Field(description="Kind of compression; `none` switches it off.")
    always_ram: bool | None = Field(default=None, description="Keep the compressed vectors in memory.")
    quantile: float | None = Field(
        default=None, ge=0.5, le=1.0, description="Scalar only: share of values kept in range."
    )

    @model_validator(mode="after")
    def _fitting(self) -> QuantizationOptions:
        if self.quantile is not None and self.type != "scalar":
            raise ValueError("quantile must only be given with type: scalar")
        if self.always_ram is not None and self.type == "none":
            raise ValueError("always_ram must not be given with type: none")
        return self


class StrictOptions(Section):
    """Limits that the server enforces on every request to the collection (strict mode)."""

    enabled: bool = Field(default=True, description="False keeps the limits but does not enforce them.")
    max_query_limit: int | None = Field(default=None, ge=1, description="Largest `limit` of a search.")
    max_timeout: int | None = Field(default=None, ge=1, description="Longest `timeout` of a request, in seconds.")
    unindexed_filtering_retrieve: bool | None = Field(
        default=None, description="False: searches may only filter by an index."
    )
    unindexed_filtering_update: bool | None = Field(
        default=None, description="False: updates may only filter by an index."
    )
    search_max_hnsw_ef: int | None = Field(default=None, ge=0, description="Largest `hnsw_ef` of a search.")
    search_allow_exact: bool | None = Field(default=None, description="False: no exact (full scan) searches.")
    search_max_oversampling: float | None = Field(default=None, ge=0, description="Largest oversampling of a search.")
    search_max_batchsize: int | None = Field(default=None, ge=1, description="Most searches in one batch.")
    upsert_max_batchsize: int | None = Field(default=None, ge=1, description="Most points in one upsert.")
    max_collection_vector_size_bytes: int | None = Field(default=None, ge=1, description="Most bytes of vectors.")
    max_collection_payload_size_bytes: int | None = Field(default=None, ge=1, description="Most bytes of payload.")
    max_points_count: int | None = Field(default=None, ge=1, description="Most points.")
    read_rate_limit: int | None = Field(default=None, ge=1, description="Most reads per minute and replica.")
    write_rate_limit: int | None = Field(default=None, ge=1, description="Most writes per minute and replica.")
    filter_max_conditions: int | None = Field(default=None, ge=0, description="Most conditions in one filter.")
    condition_max_size: int | None = Field(default=None, ge=0, description="Most values in one condition.")


class CollectionOptions(Section):
    """One collection, `<app>_<type>`."""

    size: Size | None = Field(
        default=None, description="Number of dimensions of its one unnamed vector; 1536 by default."
    )
    distance: Distance = Field(default="cosine", description="How two vectors are compared.")
    datatype: Datatype | None = Field(
        default=None, description="How components are stored; the server's default is float32."
    )
    on_disk: bool | None = Field(default=None, description="Keep the vectors on disk instead of in memory.")
    vectors: Mapping[VectorName, VectorOptions] = Field(default={}, description="Named vectors, instead of `size`.")
    sparse: Mapping[VectorName, SparseOptions] = Field(default={}, description="Named sparse vectors.")
    on_disk_payload: bool | None = Field(default=None, description="Keep payloads on disk instead of in memory.")
    hnsw: HnswOptions = Field(default_factory=HnswOptions, description="The vector index.")
    quantization: QuantizationOptions | None = Field(default=None, description="Compressed copies of the vectors.")
    strict: StrictOptions | None = Field(default=None, description="Limits enforced by the server.")
    indexes: Mapping[str, IndexType] = Field(
        default={},
        description="Payload fields to index beside `tenant_id`; the app's token cannot make indexes itself.",
    )
    segments: int = Field(
        default=1, ge=0, description="Segments the optimizer aims for; 1 is right for many small collections."
    )
    wal_capacity_mb: int = Field(
        default=1, ge=1, description="Size of a write-ahead log segment; set at creation only."
    )
    shard_number: int | None = Field(default=None, ge=1, description="Shards; cannot be changed later.")
    replication_factor: int | None = Field(default=None, ge=1, description="Copies of each shard, in a cluster.")

    @model_validator(mode="after")
    def _fitting(self) -> CollectionOptions:
        if self.vectors and (self.size is not None or self.on_disk is not None or self.datatype is not None):
            raise ValueError("size, datatype and on_disk must be given inside each of `vectors`, not beside them")
        if both := sorted(self.vectors.keys() & self.sparse.keys()):
            raise ValueError(f"{both[0]} must be either in `vectors` or in `sparse`")
        if TENANT_FIELD in self.indexes:
            raise ValueError(f"{TENANT_FIELD} must not be listed in `indexes`: every collection has it")
        return self


class AppOptions(Section):
    """What stands under ``apps.<app>.qdrant``."""

    collections: Mapping[TypeName, CollectionOptions] = Field(
        default_factory=lambda: {"knowledge": CollectionOptions(size=DEFAULT_SIZE)},
        min_length=1,
        description="Collections by type; `knowledge` of lernmi is the collection `lernmi_knowledge`.",
    )


class ServerOptions(ContainerOptions):
    """What stands under ``servers.qdrant``."""

    port: int | None = Field(
        default=None, ge=1, le=65_535, description="HTTP port; a free one is chosen and kept if not given."
    )
    grpc_port: int | None = Field(default=None, ge=1, le=65_535, description="gRPC port; chosen likewise.")
    binary: str | None = Field(default=None, description="Qdrant's server program, if it is not on the PATH.")
    version: Version = Field(
        default=VERSION,
        description="Version of the embedded server that is fetched where there is no program, and of the container.",
    )
    download: Download | None = Field(
        default=None,
        repr=False,  # a running server knows nothing of it
        description="Where the embedded server is fetched from: a mirror of "
        "https://github.com/qdrant/qdrant/releases/download (from there if nothing is said), or `never`.",
    )
    token_days: int = Field(
        default=365,
        gt=RENEW_DAYS,
        le=3650,
        description=f"Life of an app's token; renewed when {RENEW_DAYS} days are left.",
    )
    backup: Literal["snapshot", "points"] = Field(
        default="snapshot",
        repr=False,  # a running server knows nothing of it
        description="What a backup holds: the server's own snapshots (fast; for this version and the next minor one), "
        "or points as lines of JSON (for any version and local mode).",
    )
    share_api_key: bool = Field(
        default=False,
        description="Give every app the server's own api key where tokens cannot be limited. No isolation at all.",
    )
