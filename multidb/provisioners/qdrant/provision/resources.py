"""What an app gets on Qdrant, as values: names, resources, environment. Pure; imports no driver.

Settings of a collection are compared only where the manifest gives them: what it leaves out is the server's default,
which differs from server to server. Qdrant merges a PATCH, so a setting taken out of the manifest keeps its last value.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from multidb.errors import Refused
from multidb.model import App, DerivedName, Endpoint, Facts, Isolation, Owner, Resource, StoreContext
from multidb.provisioners.qdrant.provision.options import (
    DEFAULT_SIZE,
    RENEW_DAYS,
    STORE,
    TENANT_FIELD,
    AppOptions,
    CollectionOptions,
    ServerOptions,
)
from multidb.secrets import Secret, SecretRef, SecretSpec

__all__ = [
    "OWN_PREFIX",
    "REGISTRY_MARK",
    "UNLIMITED_BATCH",
    "Admission",
    "ApiKey",
    "Collection",
    "PayloadIndex",
    "QdrantFacts",
    "Registry",
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

REGISTRY_MARK: Final = "-"  # stands for the project as a whole where an app's id would stand
OWN_PREFIX: Final = "multidb__"  # of the collections that multidb keeps for itself; no app's name may begin so
UNLIMITED_BATCH: Final = 2**31  # points in one upsert: what takes a limit away, since Qdrant cannot unset one
_LONGEST_NAME: Final = 200  # bytes; a collection is a directory, and its snapshots add to the name
_DAY: Final = 86_400

Settings = tuple[tuple[str, bool | int | float | str | None], ...]


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
    read_only: bool = False  # the server refuses new points; reading, changing and deleting stays
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
    facts = QdrantFacts.of(context.facts)
    options = ServerOptions.of(context.options)
    resources: list[Resource] = []
    registry = registry_name(context.project)
    if facts.rbac and apps:
        resources.append(Registry(name=registry, owner=Owner(context.project, REGISTRY_MARK)))
    for app in apps:
        owner = Owner(context.project, app.id)
        for kind, collection_options in _options(app).collections.items():
            name = collection_name(app.id, kind)
            collection = _collection(name, owner, collection_options, plain=facts.local)
            resources.append(
                _made_read_only(collection) if app.id in context.read_only and not facts.local else collection
            )
            if not facts.local:
                resources += _indexes(name, app.id, collection_options)
        if facts.rbac and app.id not in context.closed:  # else a token would open nothing, and none could be tried
            names = tuple(sorted(collection_name(app.id, kind) for kind in _options(app).collections))
            resources.append(Admission(name=app.id, app=app.id, registry=registry))
            resources.append(
                Token(name=app.id, app=app.id, collections=names, registry=registry, days=options.token_days)
            )
        elif not facts.rbac and facts.api_key:
            _require_sharing(options, context)
            resources.append(ApiKey(name=app.id, app=app.id))
    return resources


def owner_of(details: Mapping[str, Any]) -> Owner | None:
    """The mark of a collection, from what the server says of it."""
    mark = (details["config"].get("metadata") or {}).get("multidb")
    project, app = (mark.get("project"), mark.get("app")) if isinstance(mark, Mapping) else (None, None)
    if not (isinstance(project, str) and isinstance(app, str) and project and app):
        return None
    return Owner(project, app)


def admission_claim(registry: str, app_id: str) -> dict[str, Any]:
    """The claim by which the server asks the registry for every request of an app."""
    return {"collection": registry, "matches": [{"key": "app", "value": app_id}]}


def live_collection(name: str, details: Mapping[str, Any], desired: Collection | None) -> Collection:
    """A collection as the server describes it (``GET /collections/<name>``), with the settings that `desired` has."""
    config = details["config"]
    params = config["params"]
    dense = _by_name(params.get("vectors"))
    sparse = params.get("sparse_vectors") or {}
    collection = Collection(
        name=name,
        app=desired.app if desired else None,
        owner=owner_of(details),
        vectors=tuple(sorted((_live_vector(key, value) for key, value in dense.items()), key=lambda v: v.name)),
        sparse=tuple(SparseVector(key, value.get("modifier") or "none") for key, value in sorted(sparse.items())),
    )
    if desired is None:
        return collection
    sparse_places = {key: (value.get("index") or {}).get("on_disk") or False for key, value in sparse.items()}
    return dataclasses.replace(
        collection,
        shard_number=params.get("shard_number") if desired.shard_number is not None else None,
        vectors_on_disk=_like(desired.vectors_on_disk, {k: v.get("on_disk") or False for k, v in dense.items()}),
        sparse_on_disk=_like(desired.sparse_on_disk, sparse_places),
        params=_like(desired.params, params),
        hnsw=_like(desired.hnsw, {"on_disk": False} | _given(config["hnsw_config"])),
        quantization=_like(desired.quantization, _live_quantization(config.get("quantization_config"))),
        strict=_like(desired.strict, config.get("strict_mode_config") or {}),
        optimizers=_like(desired.optimizers, config["optimizer_config"]),
        read_only=_is_read_only(config.get("strict_mode_config") or {}),
        wal_capacity_mb=desired.wal_capacity_mb,
    )


def live_registry(desired: Registry, details: Mapping[str, Any]) -> Registry:
    """The registry as the server describes it."""
    return dataclasses.replace(desired, owner=owner_of(details))


def live_index(desired: PayloadIndex, details: Mapping[str, Any]) -> PayloadIndex | None:
    """The index as the server describes it in its collection's details; None when there is none."""
    index = details.get("payload_schema", {}).get(desired.field_name)
    if index is None:
        return None
    is_tenant = bool((index.get("params") or {}).get("is_tenant"))
    return dataclasses.replace(desired, schema=str(index["data_type"]), is_tenant=is_tenant)


def live_token(desired: Token, claims: Mapping[str, Any], *, signed: bool, now: float) -> Token:
    """The stored token as its claims tell. `signed`: with the server's present key. `now`: seconds since 1970."""
    collections, access = _granted(claims.get("access"))
    return dataclasses.replace(
        desired,
        collections=collections,
        registry=_admission_asked(claims, desired),
        access=access,
        signature="current" if signed else "other",
        expiry=_expiry(claims.get("exp"), now, desired.days),
    )


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    """The app's variables. `QDRANT_COLLECTION_PREFIX` and a type make a collection's name."""
    first = next(iter(_options(app).collections))
    variables: dict[str, str | Secret] = {}
    if endpoint.path:
        variables["QDRANT_PATH"] = endpoint.path
    else:
        options = ServerOptions.of(context.options)
        scheme = "https" if endpoint.tls else "http"
        variables["QDRANT_URL"] = f"{scheme}://{endpoint.host}:{endpoint.port}"
        variables["QDRANT_HOST"] = endpoint.host
        variables["QDRANT_PORT"] = str(endpoint.port)
        variables["QDRANT_GRPC_PORT"] = endpoint.params.get("grpc_port") or str(options.grpc_port or 6334)
        if context.facts is None or QdrantFacts.of(context.facts).api_key:
            variables["QDRANT_API_KEY"] = secret(token_ref(app.id))
        if "ca_file" in endpoint.params:
            variables["QDRANT_CA_FILE"] = endpoint.params["ca_file"]
    variables[f"QDRANT_COLLECTION_{app.id.upper()}"] = collection_name(app.id, first)
    variables["QDRANT_COLLECTION_PREFIX"] = f"{app.id}_"  # the last word, also for an app called prefix
    return variables


def isolation(app: App, facts: Facts) -> tuple[Isolation, str]:
    """How far `app` is kept from others, and why. Inside an app, `tenant_id` is a convention that its code keeps."""
    facts = QdrantFacts.of(facts)
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
    options = AppOptions.of(app.stores[STORE])
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


def _collection(name: str, owner: Owner, options: CollectionOptions, *, plain: bool) -> Collection:
    collection = Collection(
        name=name,
        app=owner.app,
        owner=owner,
        vectors=tuple(_vectors(options)),
        sparse=tuple(SparseVector(key, value.modifier or "none") for key, value in sorted(options.sparse.items())),
    )
    if plain:
        return collection
    places = {key: value.on_disk for key, value in options.vectors.items()} or {"": options.on_disk}
    return dataclasses.replace(
        collection,
        shard_number=options.shard_number,
        vectors_on_disk=_settings(places),
        sparse_on_disk=_settings({key: value.on_disk for key, value in options.sparse.items()}),
        params=_settings(
            {"on_disk_payload": options.on_disk_payload, "replication_factor": options.replication_factor}
        ),
        hnsw=_settings(options.hnsw.model_dump()),
        quantization=_settings(options.quantization.model_dump()) if options.quantization else (),
        strict=_settings(options.strict.model_dump()) if options.strict else (),
        optimizers=_settings({"default_segment_number": options.segments}),
        wal_capacity_mb=options.wal_capacity_mb,
    )


def _vectors(options: CollectionOptions) -> Iterable[Vector]:
    for name, vector in sorted(options.vectors.items()):
        yield Vector(name, vector.size, vector.distance, vector.datatype or "float32")
    if not options.vectors and (options.size is not None or not options.sparse):
        yield Vector("", options.size or DEFAULT_SIZE, options.distance, options.datatype or "float32")


def _indexes(collection: str, app_id: str, options: CollectionOptions) -> Iterable[PayloadIndex]:
    for name, schema in {TENANT_FIELD: "keyword", **options.indexes}.items():
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


def _like(desired: Settings, there: Mapping[str, Any]) -> Settings:
    return tuple((key, there.get(key)) for key, _ in desired)


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


def _made_read_only(collection: Collection) -> Collection:
    limits: dict[str, Any] = {"enabled": True, "upsert_max_batchsize": 0}
    strict = tuple((key, limits.get(key, value)) for key, value in collection.strict)
    return dataclasses.replace(collection, strict=strict, read_only=True)


def _is_read_only(strict: Mapping[str, Any]) -> bool:
    return bool(strict.get("enabled")) and strict.get("upsert_max_batchsize") == 0


def _admission_asked(claims: Mapping[str, Any], desired: Token) -> str:
    """The registry that a token with these claims depends on; a condition other than ours counts as none."""
    asked = claims.get("value_exists")
    return desired.registry if asked == admission_claim(desired.registry, desired.name) else ""


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
