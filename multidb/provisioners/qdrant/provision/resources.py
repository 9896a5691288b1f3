"""What an app gets on Qdrant, as values: names, resources, environment. Pure; imports no driver.

Settings of a collection are compared only where the manifest gives them: what it leaves out is the server's default,
which differs from server to server. Qdrant merges a PATCH, so a setting taken out of the manifest keeps its last value.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from multidb.errors import Refused
from multidb.model import Alternates, App, DerivedName, Facts, Owner, Resource, StoreContext
from multidb.provisioners.qdrant.provision.options import (
    DEFAULT_SIZE,
    STORE,
    TENANT_FIELD,
    AppOptions,
    CollectionOptions,
    ServerOptions,
)
from multidb.secrets import Alternate, SecretRef, SecretSpec

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
    "admission_key",
    "admitted_names",
    "alternates",
    "app_of",
    "collection",
    "collection_name",
    "derived_names",
    "given",
    "desired",
    "owner_of",
    "registry_name",
    "rotates",
    "secrets",
    "token_name",
    "token_ref",
]

REGISTRY_MARK: Final = "-"  # stands for the project as a whole where an app's id would stand
OWN_PREFIX: Final = "multidb__"  # of the collections that multidb keeps for itself; no app's name may begin so
UNLIMITED_BATCH: Final = 2**31  # points in one upsert: what takes a limit away, since Qdrant cannot unset one
_LONGEST_NAME: Final = 200  # bytes; a collection is a directory, and its snapshots add to the name

Settings = tuple[tuple[str, bool | int | float | str | None], ...]


@dataclass(frozen=True, slots=True)
class QdrantFacts(Facts):
    """What a Qdrant really is.

    Args:
        local: the client's local mode: a folder, no server, no authentication, no payload indexes, no limits.
        api_key: the server asks for a key.
        rbac: the server limits tokens to collections (``service.jwt_rbac``).
        short_key: the api key, which signs the tokens, has fewer than 32 bytes.
        rotated: of apps that have a token of a rotation, every token that is let in: the registry, and what the token
            is called there.
    """

    local: bool = False
    api_key: bool = False
    rbac: bool = False
    short_key: bool = False
    rotated: tuple[tuple[str, str], ...] = ()


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
    """The entry of one of an app's tokens in the registry; `admitted` is false of one that is to be gone."""

    kind: ClassVar[str] = "token admission"
    rank: ClassVar[int] = 25

    registry: str
    token: str = field(default="", compare=False)  # what the token is called there
    admitted: bool = True


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
    token: str = field(default="", compare=False)  # what it is called in the registry
    alternate: Alternate = field(default=Alternate.FIRST, compare=False)


@dataclass(frozen=True, kw_only=True)
class ApiKey(Resource):
    """The server's own key in the hands of an app, where `share_api_key` says so."""

    kind: ClassVar[str] = "shared api key"
    rank: ClassVar[int] = 30

    value: str = "current"  # "other": the server has another key by now
    alternate: Alternate = field(default=Alternate.FIRST, compare=False)


def collection_name(app_id: str, type_name: str) -> str:
    """The collection of an app for one type of content."""
    return f"{app_id}_{type_name}"


def token_ref(app_id: str, alternate: Alternate = Alternate.FIRST) -> SecretRef:
    """Where the key that the app uses is kept, by which of its two it comes with."""
    return SecretRef(app_id, STORE, "token" if alternate is Alternate.FIRST else "token_b")


def registry_name(project: str) -> str:
    """The collection with the project's admissions."""
    return f"{OWN_PREFIX}tokens__{project}"


def token_name(app_id: str, of_app: Alternates, alternate: Alternate) -> str:
    """What one of an app's tokens is called in the registry: as the app, for the token that it begins with; one of a
    rotation bears its serial (``lernmi.second.1764412800000``). So no token that was ever turned off is let in by the
    entry of a later one."""
    serial = of_app.serials.get(alternate)
    if serial is None and alternate is Alternate.FIRST:
        return app_id
    return f"{app_id}.{alternate.value}.{serial or 0}"


def app_of(token: str) -> str:
    """The app of a token, by what it is called in the registry. No id has a dot."""
    return token.partition(".")[0]


def admitted_names(app_id: str, context: StoreContext) -> tuple[str, ...]:
    """What the tokens are called by which the app is to be let in."""
    of_app = context.alternates_of(app_id)
    return tuple(token_name(app_id, of_app, alternate) for alternate in Alternate if alternate in of_app.working)


def admission_id(registry: str, token: str) -> str:
    """The point that stands for a token in a registry."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{registry}/{token}"))


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
            described = collection(name, owner, collection_options, plain=facts.local)
            resources.append(
                _made_read_only(described) if app.id in context.read_only and not facts.local else described
            )
            if not facts.local:
                resources += _indexes(name, app.id, collection_options)
        if facts.rbac and app.id not in context.closed:  # else a token would open nothing, and none could be tried
            resources += _tokens(app, context, registry, options.token_days)
        elif not facts.rbac and facts.api_key:
            _require_sharing(options, context)
            resources.append(ApiKey(name=app.id, app=app.id, alternate=context.alternates_of(app.id).current))
    return resources


def _tokens(app: App, context: StoreContext, registry: str, days: int) -> Iterable[Admission | Token]:
    """The app's token: two while it is rotated, and after that one that is not let in any more."""
    of_app = context.alternates_of(app.id)
    collections = tuple(sorted(collection_name(app.id, kind) for kind in _options(app).collections))
    for alternate in of_app.made:
        name = app.id if alternate is Alternate.FIRST else f"{app.id} ({alternate.value})"
        token, works = token_name(app.id, of_app, alternate), alternate in of_app.working
        yield Admission(name=name, app=app.id, registry=registry, token=token, admitted=works)
        if works:
            yield Token(
                name=name,
                app=app.id,
                collections=collections,
                registry=registry,
                days=days,
                token=token,
                alternate=alternate,
            )


def owner_of(details: Mapping[str, Any]) -> Owner | None:
    """The mark of a collection, from what the server says of it."""
    mark = (details["config"].get("metadata") or {}).get("multidb")
    project, app = (mark.get("project"), mark.get("app")) if isinstance(mark, Mapping) else (None, None)
    if not (isinstance(project, str) and isinstance(app, str) and project and app):
        return None
    return Owner(project, app)


def admission_claim(registry: str, token: str) -> dict[str, Any]:
    """The claim by which the server asks the registry for every request with a token."""
    return {"collection": registry, "matches": [{"key": admission_key(token), "value": token}]}


def admission_key(token: str) -> str:
    """The field of an entry in which a token's name is looked for. An app's first token, and no other, asks for the
    app's name, so that must not stand in the entries of the others."""
    return "app" if app_of(token) == token else "token"


def alternates(facts: Facts, project: str) -> dict[str, Alternates]:
    """By app that has a token of a rotation, which of its two are let in: of two, either may be the one in its
    variables."""
    tokens: dict[str, list[str]] = {}
    for registry, token in QdrantFacts.of(facts).rotated:
        if registry == registry_name(project):
            tokens.setdefault(app_of(token), []).append(token)
    return {app: _let_in(names) for app, names in sorted(tokens.items())}


def _let_in(tokens: Iterable[str]) -> Alternates:
    serials: dict[Alternate, int] = {}
    working = set()
    for token in tokens:
        _, of, serial = (*token.split("."), "", "")[:3]
        alternate = Alternate.SECOND if of == Alternate.SECOND.value else Alternate.FIRST
        working.add(alternate)
        if serial.isdecimal():
            serials[alternate] = max(int(serial), serials.get(alternate, 0))
    current = Alternate.FIRST if Alternate.FIRST in working else Alternate.SECOND
    return Alternates(current, frozenset(working), tuple(Alternate), serials)


def rotates(app: App, facts: Facts) -> str:
    """Why the app's token cannot be replaced while it works; nothing where it can."""
    facts = QdrantFacts.of(facts)
    if facts.rbac:
        return ""
    if facts.local:
        return "local mode is a folder, where nobody is asked for a credential: there is none to replace"
    if facts.api_key:
        return "its credential is the server's own api key (share_api_key), which all apps have; set jwt_rbac: true"
    return "the server asks for no key: there is no credential to replace"


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


def collection(name: str, owner: Owner, options: CollectionOptions, *, plain: bool) -> Collection:
    """A collection as the manifest describes it; `plain`: without its settings, which local mode has not."""
    described = Collection(
        name=name,
        app=owner.app,
        owner=owner,
        vectors=tuple(_vectors(options)),
        sparse=tuple(SparseVector(key, value.modifier or "none") for key, value in sorted(options.sparse.items())),
    )
    if plain:
        return described
    places = {key: value.on_disk for key, value in options.vectors.items()} or {"": options.on_disk}
    return dataclasses.replace(
        described,
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
    return tuple(sorted(given(values).items()))


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are said."""
    return {key: value for key, value in values.items() if value is not None}


def _made_read_only(collection: Collection) -> Collection:
    limits: dict[str, Any] = {"enabled": True, "upsert_max_batchsize": 0}
    strict = tuple((key, limits.get(key, value)) for key, value in collection.strict)
    return dataclasses.replace(collection, strict=strict, read_only=True)
