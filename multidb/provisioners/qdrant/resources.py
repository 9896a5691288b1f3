"""What an app gets on Qdrant, as values: options, names, resources, environment. Pure; imports no driver.

Settings of a collection are compared only where the manifest gives them: what it leaves out is the server's default,
which differs from server to server. Qdrant merges a PATCH, so a setting taken out of the manifest keeps its last value.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from multidb.container import ContainerOptions
from multidb.errors import Refused
from multidb.model import App, DerivedName, Endpoint, Facts, Isolation, Owner, Resource, StoreContext
from multidb.secrets import Secret, SecretRef, SecretSpec

__all__ = [
    "TENANT_FIELD",
    "OWN_PREFIX",
    "REGISTRY_MARK",
    "RENEW_DAYS",
    "STORE",
    "UNLIMITED_BATCH",
    "Admission",
    "ApiKey",
    "AppOptions",
    "Collection",
    "CollectionOptions",
    "PayloadIndex",
    "QdrantFacts",
    "Registry",
    "ServerOptions",
    "SparseVector",
    "Token",
    "Vector",
    "admission_claim",
    "admission_id",
    "collection_name",
    "derived_names",
    "desired",
    "env",
    "isolation",
    "live_collection",
    "live_index",
    "live_registry",
    "live_token",
    "owner_of",
    "registry_name",
    "secrets",
    "token_ref",
]

STORE: Final = "qdrant"
TENANT_FIELD: Final = "tenant_id"
REGISTRY_MARK: Final = "-"  # stands for the project as a whole where an app's id would stand
OWN_PREFIX: Final = "multidb__"  # of the collections that multidb keeps for itself; no app's name may begin so
UNLIMITED_BATCH: Final = 2**31  # points in one upsert: what takes a limit away, since Qdrant cannot unset one
RENEW_DAYS: Final = 30  # a token with less left than this is minted anew
_DEFAULT_SIZE: Final = 1536
_LONGEST_NAME: Final = 200  # bytes; a collection is a directory, and its snapshots add to the name
_DAY: Final = 86_400

Settings = tuple[tuple[str, bool | int | float | str | None], ...]
TypeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
VectorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Distance = Literal["cosine", "dot", "euclid", "manhattan"]
Datatype = Literal["float32", "float16", "uint8"]
IndexType = Literal["keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid"]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VectorOptions(_Options):
    """One named vector of a collection."""

    size: Size = Field(description="Number of dimensions, 1 to 65536.")
    distance: Distance = Field(default="cosine", description="How two vectors are compared.")
    datatype: Datatype | None = Field(
        default=None, description="How components are stored; the server's default is float32."
    )
    on_disk: bool | None = Field(default=None, description="Keep the vectors on disk instead of in memory.")


class SparseOptions(_Options):
    """One named sparse vector of a collection."""

    modifier: Literal["idf"] | None = Field(default=None, description="`idf` weighs terms by how rare they are (BM25).")
    on_disk: bool | None = Field(default=None, description="Keep the sparse index on disk instead of in memory.")


class HnswOptions(_Options):
    """The vector index. `m: 0` with `payload_m: 16` builds one graph per tenant and none over all."""

    m: int | None = Field(default=None, ge=0, description="Edges per node of the graph over all points.")
    payload_m: int | None = Field(default=None, ge=0, description="Edges per node of the graphs inside one tenant.")
    ef_construct: int | None = Field(default=None, ge=4, description="Neighbours considered while the graph is built.")
    full_scan_threshold: int | None = Field(
        default=None, ge=10, description="Kilobytes below which a full scan is used."
    )
    on_disk: bool | None = Field(default=None, description="Keep the graph on disk instead of in memory.")


class QuantizationOptions(_Options):
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


class StrictOptions(_Options):
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


class CollectionOptions(_Options):
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


class AppOptions(_Options):
    """What stands under ``apps.<app>.qdrant``."""

    collections: Mapping[TypeName, CollectionOptions] = Field(
        default_factory=lambda: {"knowledge": CollectionOptions(size=_DEFAULT_SIZE)},
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
    token_days: int = Field(
        default=365,
        gt=RENEW_DAYS,
        le=3650,
        description=f"Life of an app's token; renewed when {RENEW_DAYS} days are left.",
    )
    backup: Literal["snapshot", "points"] = Field(
        default="snapshot",
        description="What a backup holds: the server's own snapshots (fast; for this version and the next minor one), "
        "or points as lines of JSON (for any version and local mode).",
    )
    share_api_key: bool = Field(
        default=False,
        description="Give every app the server's own api key where tokens cannot be limited. No isolation at all.",
    )


@dataclass(frozen=True, slots=True)
class QdrantFacts(Facts):
    """What a Qdrant really is.

    Args:
        local: the client's local mode: a folder, no server, no authentication, no payload indexes, no limits.
        api_key: the server asks for a key.
        rbac: the server limits tokens to collections (``service.jwt_rbac``).
        short_key: the api key, which signs the tokens, has fewer than 32 bytes.
    """

    local: bool = False
    api_key: bool = False
    rbac: bool = False
    short_key: bool = False


@dataclass(frozen=True, slots=True)
class Vector:
    """A dense vector of a collection; `name` is empty for the unnamed one."""

    name: str
    size: int
    distance: str
    datatype: str = "float32"

    def __str__(self) -> str:
        label = f"{self.name}: " if self.name else ""
        kind = "" if self.datatype == "float32" else f" {self.datatype}"
        return f"{label}{self.size} {self.distance}{kind}"


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A sparse vector of a collection."""

    name: str
    modifier: str = "none"

    def __str__(self) -> str:
        return self.name if self.modifier == "none" else f"{self.name} ({self.modifier})"


@dataclass(frozen=True, kw_only=True)
class Collection(Resource):
    """A collection. Its vectors are what they are; the settings can be changed while it is in use."""

    kind: ClassVar[str] = "collection"
    rank: ClassVar[int] = 10
    marked: ClassVar[bool] = True
    immutable: ClassVar[frozenset[str]] = frozenset({"vectors", "sparse", "shard_number"})
    ways_out: ClassVar[str] = (
        "Either put the old values back in the manifest, or add a collection of another type and move the points; "
        "multidb never makes a collection anew over its data"
    )

    vectors: tuple[Vector, ...] = ()
    sparse: tuple[SparseVector, ...] = ()
    shard_number: int | None = None
    vectors_on_disk: Settings = ()
    sparse_on_disk: Settings = ()
    params: Settings = ()
    hnsw: Settings = ()
    quantization: Settings = ()
    strict: Settings = ()
    optimizers: Settings = ()
    growth: str = "free"  # "restricted": the server refuses new points; reading, changing and deleting stays
    wal_capacity_mb: int | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Registry(Resource):
    """The collection in which a project keeps who is admitted. A token is refused as soon as its app is not in it, and
    no app's token opens it."""

    kind: ClassVar[str] = "token registry"
    rank: ClassVar[int] = 5
    marked: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Admission(Resource):
    """An app's entry in the registry."""

    kind: ClassVar[str] = "token admission"
    rank: ClassVar[int] = 25

    registry: str


@dataclass(frozen=True, kw_only=True)
class PayloadIndex(Resource):
    """An index over one payload field. `is_tenant` also lays a tenant's points side by side on disk."""

    kind: ClassVar[str] = "payload index"
    rank: ClassVar[int] = 20

    collection: str
    field_name: str
    schema: str
    is_tenant: bool = False


@dataclass(frozen=True, kw_only=True)
class Token(Resource):
    """An app's JWT. It exists in the secret store only; the server knows it by its signature.

    A lost token loses nothing: another one with the same rights is signed with the api key.
    """

    kind: ClassVar[str] = "token"
    rank: ClassVar[int] = 30

    collections: tuple[str, ...]
    registry: str = ""  # where its admission is asked for; empty: nowhere, and nothing but a new api key revokes it
    access: str = "prw"  # read and write points; no indexes, snapshots or collections
    signature: str = "current"  # "other": signed with a key that the server no longer has
    expiry: str = "ahead"  # otherwise the day, when that is less than RENEW_DAYS away, or "never"
    days: int = field(default=365, compare=False)


@dataclass(frozen=True, kw_only=True)
class ApiKey(Resource):
    """The server's own key in the hands of an app, where `share_api_key` says so."""

    kind: ClassVar[str] = "shared api key"
    rank: ClassVar[int] = 30

    value: str = "current"  # "other": the server has another key by now


def collection_name(app_id: str, type_name: str) -> str:
    """The collection of an app for one type of content."""
    return f"{app_id}_{type_name}"


def token_ref(app_id: str) -> SecretRef:
    """Where the key that the app uses is kept."""
    return SecretRef(app_id, STORE, "token")


def registry_name(project: str) -> str:
    """The collection with the project's admissions."""
    return f"{OWN_PREFIX}tokens__{project}"


def admission_id(registry: str, app_id: str) -> str:
    """The point that stands for an app in a registry."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{registry}/{app_id}"))


def derived_names(app: App) -> Sequence[DerivedName]:
    """The collections' names; `digi` with `core_docs` and `digi_core` with `docs` meet here."""
    return [
        DerivedName("qdrant collection", collection_name(app.id, kind), _LONGEST_NAME, f"collection {kind} of {app.id}")
        for kind in _options(app).collections
    ]


def secrets(app: App) -> Sequence[SecretSpec]:
    """None: the one secret of an app is a token, which is signed when it is needed and never random."""
    return ()


def desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    """What the manifest wants for `apps`: collections, their indexes, and a token each where tokens can be limited.

    Local mode keeps no payload index and no setting, so none are wanted there.

    Raises:
        Refused: the only key to the server opens every app's collections, and nobody allowed it to be shared.
    """
    facts: QdrantFacts = context.facts
    options: ServerOptions = context.options or ServerOptions()
    found: list[Resource] = []
    registry = registry_name(context.project)
    if facts.rbac and apps:
        found.append(Registry(name=registry, owner=Owner(context.project, REGISTRY_MARK)))
    for app in apps:
        owner = Owner(context.project, app.id)
        for kind, wanted in _options(app).collections.items():
            name = collection_name(app.id, kind)
            collection = _collection(name, owner, wanted, plain=facts.local)
            found.append(_restricted(collection) if app.id in context.restricted and not facts.local else collection)
            if not facts.local:
                found += _indexes(name, app.id, wanted)
        if facts.rbac:
            names = tuple(sorted(collection_name(app.id, kind) for kind in _options(app).collections))
            found.append(Admission(name=app.id, app=app.id, registry=registry))
            found.append(Token(name=app.id, app=app.id, collections=names, registry=registry, days=options.token_days))
        elif facts.api_key:
            _require_sharing(options, context)
            found.append(ApiKey(name=app.id, app=app.id))
    return found


def owner_of(details: Mapping[str, Any]) -> Owner | None:
    """The mark of a collection, from what the server says of it."""
    mark = (details["config"].get("metadata") or {}).get("multidb")
    if not isinstance(mark, Mapping) or not mark.get("project") or not mark.get("app"):
        return None
    return Owner(str(mark["project"]), str(mark["app"]))


def admission_claim(registry: str, app_id: str) -> dict[str, Any]:
    """The claim by which the server asks the registry for every request of an app."""
    return {"collection": registry, "matches": [{"key": "app", "value": app_id}]}


def live_collection(name: str, details: Mapping[str, Any], wanted: Collection | None) -> Collection:
    """A collection as the server describes it (``GET /collections/<name>``), with the settings that `wanted` has."""
    config = details["config"]
    params = config["params"]
    dense = _by_name(params.get("vectors"))
    sparse = params.get("sparse_vectors") or {}
    found = Collection(
        name=name,
        app=wanted.app if wanted else None,
        owner=owner_of(details),
        vectors=tuple(sorted((_live_vector(key, value) for key, value in dense.items()), key=lambda v: v.name)),
        sparse=tuple(SparseVector(key, value.get("modifier") or "none") for key, value in sorted(sparse.items())),
    )
    if wanted is None:
        return found
    sparse_places = {key: (value.get("index") or {}).get("on_disk") or False for key, value in sparse.items()}
    return dataclasses.replace(
        found,
        shard_number=params.get("shard_number") if wanted.shard_number is not None else None,
        vectors_on_disk=_like(wanted.vectors_on_disk, {k: v.get("on_disk") or False for k, v in dense.items()}),
        sparse_on_disk=_like(wanted.sparse_on_disk, sparse_places),
        params=_like(wanted.params, params),
        hnsw=_like(wanted.hnsw, {"on_disk": False} | _given(config["hnsw_config"])),
        quantization=_like(wanted.quantization, _live_quantization(config.get("quantization_config"))),
        strict=_like(wanted.strict, config.get("strict_mode_config") or {}),
        optimizers=_like(wanted.optimizers, config["optimizer_config"]),
        growth=_growth(config.get("strict_mode_config") or {}),
        wal_capacity_mb=wanted.wal_capacity_mb,
    )


def live_registry(wanted: Registry, details: Mapping[str, Any]) -> Registry:
    """The registry as the server describes it."""
    return dataclasses.replace(wanted, owner=owner_of(details))


def live_index(wanted: PayloadIndex, details: Mapping[str, Any]) -> PayloadIndex | None:
    """The index as the server describes it in its collection's details; None when there is none."""
    found = details.get("payload_schema", {}).get(wanted.field_name)
    if found is None:
        return None
    is_tenant = bool((found.get("params") or {}).get("is_tenant"))
    return dataclasses.replace(wanted, schema=str(found["data_type"]), is_tenant=is_tenant)


def live_token(wanted: Token, claims: Mapping[str, Any], *, signed: bool, now: float) -> Token:
    """The stored token as its claims tell. `signed`: with the server's present key. `now`: seconds since 1970."""
    collections, access = _granted(claims.get("access"))
    return dataclasses.replace(
        wanted,
        collections=collections,
        registry=_admission_asked(claims, wanted),
        access=access,
        signature="current" if signed else "other",
        expiry=_expiry(claims.get("exp"), now, wanted.days),
    )


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    """The app's variables. `QDRANT_COLLECTION_PREFIX` and a type make a collection's name."""
    first = next(iter(_options(app).collections))
    found: dict[str, str | Secret] = {}
    if endpoint.path:
        found["QDRANT_PATH"] = endpoint.path
    else:
        options: ServerOptions = context.options or ServerOptions()
        scheme = "https" if endpoint.tls else "http"
        found["QDRANT_URL"] = f"{scheme}://{endpoint.host}:{endpoint.port}"
        found["QDRANT_HOST"] = endpoint.host
        found["QDRANT_PORT"] = str(endpoint.port)
        found["QDRANT_GRPC_PORT"] = endpoint.params.get("grpc_port") or str(options.grpc_port or 6334)
        if context.facts is None or context.facts.api_key:
            found["QDRANT_API_KEY"] = secret(token_ref(app.id))
        if "ca_file" in endpoint.params:
            found["QDRANT_CA_FILE"] = endpoint.params["ca_file"]
    found[f"QDRANT_COLLECTION_{app.id.upper()}"] = collection_name(app.id, first)
    found["QDRANT_COLLECTION_PREFIX"] = f"{app.id}_"  # the last word, also for an app called prefix
    return found


def isolation(app: App, facts: QdrantFacts) -> tuple[Isolation, str]:
    """How far `app` is kept from others, and why. Inside an app, `tenant_id` is a convention that its code keeps."""
    if facts.local:
        return Isolation.NAMING_ONLY, "local mode is a folder without authentication; whoever opens it sees every app"
    if facts.rbac:
        warning = "; the api key is shorter than 32 bytes and could be guessed from a token" if facts.short_key else ""
        return (
            Isolation.ENFORCED,
            f"a token for its own collections; of others it shows names only (telemetry){warning}",
        )
    if facts.api_key:
        return Isolation.NAMING_ONLY, "every app holds the server's api key (share_api_key); set service.jwt_rbac: true"
    return Isolation.NAMING_ONLY, "the server asks for no key; set service.api_key and service.jwt_rbac: true"


def _options(app: App) -> AppOptions:
    options = app.stores[STORE]
    assert isinstance(options, AppOptions)
    return options


def _require_sharing(options: ServerOptions, context: StoreContext) -> None:
    if not options.share_api_key:
        raise Refused(
            "this Qdrant has an api key but JWT RBAC is off: the only key there is for an app opens every app",
            where=f"server {context.server}" if context.server else None,
            hint="set service.jwt_rbac: true on the server (QDRANT__SERVICE__JWT_RBAC=true) and restart it; "
            "or accept that there is no wall: servers.qdrant.share_api_key: true",
        )


def _collection(name: str, owner: Owner, wanted: CollectionOptions, *, plain: bool) -> Collection:
    found = Collection(
        name=name,
        app=owner.app,
        owner=owner,
        vectors=tuple(_vectors(wanted)),
        sparse=tuple(SparseVector(key, value.modifier or "none") for key, value in sorted(wanted.sparse.items())),
    )
    if plain:
        return found
    places = {key: value.on_disk for key, value in wanted.vectors.items()} or {"": wanted.on_disk}
    return dataclasses.replace(
        found,
        shard_number=wanted.shard_number,
        vectors_on_disk=_settings(places),
        sparse_on_disk=_settings({key: value.on_disk for key, value in wanted.sparse.items()}),
        params=_settings({"on_disk_payload": wanted.on_disk_payload, "replication_factor": wanted.replication_factor}),
        hnsw=_settings(wanted.hnsw.model_dump()),
        quantization=_settings(wanted.quantization.model_dump()) if wanted.quantization else (),
        strict=_settings(wanted.strict.model_dump()) if wanted.strict else (),
        optimizers=_settings({"default_segment_number": wanted.segments}),
        wal_capacity_mb=wanted.wal_capacity_mb,
    )


def _vectors(wanted: CollectionOptions) -> Iterable[Vector]:
    for name, vector in sorted(wanted.vectors.items()):
        yield Vector(name, vector.size, vector.distance, vector.datatype or "float32")
    if not wanted.vectors and (wanted.size is not None or not wanted.sparse):
        yield Vector("", wanted.size or _DEFAULT_SIZE, wanted.distance, wanted.datatype or "float32")


def _indexes(collection: str, app_id: str, wanted: CollectionOptions) -> Iterable[PayloadIndex]:
    for name, schema in {TENANT_FIELD: "keyword", **wanted.indexes}.items():
        yield PayloadIndex(
            name=f"{collection}/{name}",
            app=app_id,
            collection=collection,
            field_name=name,
            schema=schema,
            is_tenant=name == TENANT_FIELD,
        )


def _settings(values: Mapping[str, Any]) -> Settings:
    return tuple(sorted(_given(values).items()))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _like(wanted: Settings, there: Mapping[str, Any]) -> Settings:
    return tuple((key, there.get(key)) for key, _ in wanted)


def _by_name(vectors: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Dense vectors by name. The server shows the unnamed vector as its bare parameters."""
    if not vectors:
        return {}
    return {"": vectors} if isinstance(vectors.get("size"), int) else vectors


def _live_vector(name: str, params: Mapping[str, Any]) -> Vector:
    return Vector(name, params["size"], str(params["distance"]).lower(), params.get("datatype") or "float32")


def _live_quantization(config: Mapping[str, Any] | None) -> dict[str, Any]:
    for kind, values in (config or {}).items():
        return {**values, "type": kind}
    return {"type": "none"}


def _restricted(collection: Collection) -> Collection:
    limits: dict[str, Any] = {"enabled": True, "upsert_max_batchsize": 0}
    strict = tuple((key, limits.get(key, value)) for key, value in collection.strict)
    return dataclasses.replace(collection, strict=strict, growth="restricted")


def _growth(strict: Mapping[str, Any]) -> str:
    return "restricted" if strict.get("enabled") and strict.get("upsert_max_batchsize") == 0 else "free"


def _admission_asked(claims: Mapping[str, Any], wanted: Token) -> str:
    """The registry that a token with these claims depends on; a condition other than ours counts as none."""
    asked = claims.get("value_exists")
    return wanted.registry if asked == admission_claim(wanted.registry, wanted.name) else ""


def _granted(access: object) -> tuple[tuple[str, ...], str]:
    """(collections, level) of an ``access`` claim. A token without that claim may do everything."""
    if not isinstance(access, list):
        return (), "everything" if access in (None, "m") else str(access)
    entries = [entry for entry in access if isinstance(entry, Mapping)]
    levels = sorted({str(entry.get("access")) for entry in entries})
    return tuple(sorted(str(entry.get("collection")) for entry in entries)), "+".join(levels)


def _expiry(exp: object, now: float, days: int) -> str:
    if not isinstance(exp, int | float):
        return "never"
    left = (exp - now) / _DAY
    if RENEW_DAYS <= left <= days + 1:
        return "ahead"
    return datetime.fromtimestamp(exp, UTC).date().isoformat()
