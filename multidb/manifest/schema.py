"""The sections of the manifest as pydantic models, and the JSON Schema made from them.

Which stores there are, and what can be said about each, is handed in as `StoreSchema` values: this package knows no
store by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from multidb.document import APP_ID
from multidb.model import Address, App, AppMode, DerivedName, Provisioner, RuntimeKind
from multidb.model.container import Pooler
from multidb.model.file_options import AppFiles
from multidb.model.options import (
    IMAGE,
    PROFILES,
    Account,
    AppBackup,
    AppDeploy,
    AppQuota,
    Backup,
    ContainerOptions,
    Continuous,
    Deploy,
    Duration,
    Notify,
    Rotating,
    Section,
    Size,
    image_option,
)
from multidb.model.secret_options import INCLUDED_SECRETS, SecretsSection, SecretStoreSpec
from multidb.model.state_options import FOLDER, is_state_address

__all__ = ["APP_ID", "VERSION", "AppEntry", "Head", "Shape", "StoreSchema", "schema", "secret_store_spec", "shape_of"]

VERSION: Final = 1
_TENANT: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """What the manifest has to know about a store.

    Args:
        app_options: frozen model of ``apps.<app>.<store>``; unknown keys forbidden.
        server_options: frozen model of ``servers.<store>``; every field has a default.
        derived_names: the names that an app takes on the server.
        reserved: names that the server keeps for itself, as shell patterns (``pg_*``).
        own: accounts that multidb or the server makes for itself, as shell patterns: nobody's to know.
        address: model of ``external.<store>``; None where its servers cannot be others' own.
        runtimes: those that can serve it.
        usual: an app that names no stores has it.
        check: what only a look at all apps can tell; yields the app and what is wrong with it.
        keeps_state: a project's state can be kept on one of its servers.
        poolers: what can stand before its servers in containers; a profile each.
        profiles: what an app's option ``profile`` of the store may be.
        continuous: what its servers write can be archived as it comes.
    """

    name: str
    app_options: type[Section]
    server_options: type[ContainerOptions]
    derived_names: Callable[[App], Sequence[DerivedName]]
    reserved: tuple[str, ...] = ()
    check: Callable[[Sequence[App]], Iterable[tuple[App, str]]] | None = None
    own: tuple[str, ...] = ()
    address: type[Address] | None = None
    runtimes: frozenset[RuntimeKind] = frozenset(RuntimeKind)
    usual: bool = True
    keeps_state: bool = False
    poolers: tuple[Pooler, ...] = ()
    profiles: tuple[str, ...] = ()
    continuous: bool = False

    @classmethod
    def of(cls, provisioner: Provisioner, *, usual: bool = True) -> Self:
        """What a provisioner says of itself."""
        return cls(
            name=provisioner.name,
            app_options=provisioner.app_options,
            server_options=provisioner.server_options,
            derived_names=provisioner.derived_names,
            reserved=provisioner.reserved,
            check=provisioner.check,
            own=provisioner.own,
            address=provisioner.address,
            runtimes=provisioner.runtimes,
            usual=usual,
            keeps_state=provisioner.state_store is not None,
            poolers=provisioner.poolers,
            profiles=provisioner.profiles,
            continuous=provisioner.continuous is not None,
        )


def _state_address(value: str) -> str:
    if not is_state_address(value):
        raise ValueError("must be .multidb/, s3://BUCKET/PREFIX or postgres")
    return value


def _or_empty(model: Any) -> BeforeValidator:
    """Lets nothing at all (``lernmi:``) mean the same as ``{}``."""
    return BeforeValidator(lambda value: {} if value is None else value, json_schema_input_type=model | None)


def _nullable(model: Any) -> Any:
    return Annotated[model, _or_empty(model)]


AppQuotaOrSize = Annotated[
    AppQuota,
    BeforeValidator(
        lambda value: value if isinstance(value, dict) else {"size": value}, json_schema_input_type=Size | AppQuota
    ),
]


class AppEntry(Section):
    """One app. Everything has a default: an empty entry is an app with every store."""

    tenant_id: str | None = Field(
        default=None,
        pattern=_TENANT,
        json_schema_extra={"errorMessage": "must be 1 to 63 letters, digits, '.', '_' or '-', such as digi-core"},
        description="What the app is called in data that tenants share. Default: the app's id.",
    )
    profile: str | None = Field(
        default=None,
        description="The library or application that the app is made of: the profile of each of its stores that knows "
        "it. An option beside it says otherwise.",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Free words for people and scripts.")
    backup: Annotated[AppBackup, _or_empty(AppBackup)] = Field(default=AppBackup(), description="Backups of this app.")
    deploy: Annotated[AppDeploy, _or_empty(AppDeploy)] = Field(default=AppDeploy(), description="The app's container.")
    files: AppFiles = Field(
        default_factory=dict,
        description="Files that belong to the app's sets: folders and files in the manifest's folder, SQLite databases "
        "among them ([uploads/, data/facts.db]); or, by a name of their own, also absolute paths and URLs "
        "({models: s3://bucket/models}).",
    )
    rotate: Rotating = Field(
        default=None,
        description="How old this app's credentials may become, or never: it cannot take new ones while it runs. "
        "Default: as the manifest says for every app.",
    )


class Head(Section):
    """What a manifest says beside its apps."""

    version: Literal[1] = Field(description="The version of the manifest's format.")
    project: str = Field(
        pattern=r"^[a-z][a-z0-9_-]{0,38}[a-z0-9]$",
        json_schema_extra={"errorMessage": "must be 2 to 40 characters a-z, 0-9, _ or -, beginning with a letter"},
        description="Names the owner of everything that multidb makes on the servers. Do not change it later.",
    )
    runtime: Literal["embedded", "compose", "external"] = Field(
        default="embedded", description="Where the servers come from: processes, Docker, or servers that exist already."
    )
    state: Annotated[str, AfterValidator(_state_address)] = Field(
        default=FOLDER,
        description="Where multidb remembers what is the project's: .multidb/ on this machine, s3://BUCKET/PREFIX, or "
        "postgres, in a database of its own there. The same place is the same project, from every machine.",
    )
    include: tuple[str, ...] = Field(
        default=(), description="Files with more apps, such as apps/*/app.yaml. Each maps app ids to entries."
    )
    deploy: Annotated[Deploy, _or_empty(Deploy)] = Field(default=Deploy(), description="Layout of compose files.")
    backup: Annotated[Backup, _or_empty(Backup)] = Field(default=Backup(), description="Backups of every app.")
    rotate: Rotating = Field(
        default=None, description="How old every app's credentials may become, or never; default: nothing is due."
    )
    notify: Annotated[Notify, _or_empty(Notify)] = Field(default=Notify(), description="Who is told of trouble.")
    progress_timeout: Duration = Field(
        default=timedelta(minutes=10),
        description="Work that waits for a server or a target ends after so long without a byte, a row, an answer or "
        "another sign of work; default: ten minutes. What makes progress is not ended.",
    )


class _Defaults(GenerateJsonSchema):
    """Writes a default as it would stand in the manifest."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        default = super().default_schema(schema)
        form = schema["schema"].get("serialization", {})
        if default.get("default") is not None and form.get("type") == "function-plain":
            default["default"] = cast("Any", form)["function"](schema["default"])
        return default


class Shape:
    """The models of one set of stores.

    Args:
        secrets: the kinds of secret stores, with the options of each.

    Attributes:
        head: everything but the apps.
        entry: one entry under ``apps``, with the options of every store.
    """

    def __init__(
        self, stores: Mapping[str, StoreSchema], secrets: Mapping[str, type[Section]] = INCLUDED_SECRETS
    ) -> None:
        self.stores = stores
        names: Any = cast("Any", Literal)[tuple(stores)] if stores else str
        dictionary: Any = dict
        self.entry = _model(
            "AppEntry",
            AppEntry,
            {
                "stores": (
                    cast("Any", tuple)[names, ...],
                    Field(
                        default=tuple(name for name, store in stores.items() if store.usual),
                        min_length=1,
                        description="The stores that the app uses; default: all that come with multidb.",
                    ),
                ),
                "quota": (
                    _nullable(dictionary[names, AppQuotaOrSize]),
                    Field(
                        default_factory=dict,
                        description="The most that the app should keep in a store: 5GB, or a size and what to do.",
                    ),
                ),
                "mode": (
                    _modes(stores),
                    Field(
                        default_factory=dict,
                        description="How far the manifest decides, for all of the app's stores or by store. "
                        "authoritative (default): all is made as it says. additive: what is missing is made and "
                        "granted, what multidb has not made is left. observe: what differs is said, no more.",
                    ),
                ),
                **{
                    name: (
                        _nullable(store.app_options),
                        Field(default=None, description=f"Options for {name}."),
                    )
                    for name, store in stores.items()
                },
            },
        )
        sections: dict[str, dict[str, Any]] = {
            "servers": {name: store.server_options for name, store in stores.items()},
            "external": {name: store.address for name, store in stores.items() if store.address is not None},
            "defaults": dict.fromkeys(stores, dict[str, Any]),
        }
        self.head = _model(
            "Manifest",
            Head,
            {
                **{name: _section(name, models, filled=name == "servers") for name, models in sections.items()},
                "deploy": _deploy([pooler for store in stores.values() for pooler in store.poolers]),
                "backup": _backup([name for name, store in stores.items() if store.continuous]),
                "known": _known(stores),
                "secrets": _secrets(secrets),
            },
        )

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON Schema of a whole manifest (draft 2020-12)."""
        dictionary: Any = dict
        apps: tuple[Any, Any] = (
            _nullable(dictionary[str, _nullable(self.entry)]),
            Field(
                default_factory=dict,
                description="The apps by id: a-z, 0-9 and _, 2 to 31 characters, beginning with a letter.",
                json_schema_extra={"propertyNames": {"pattern": f"^{APP_ID}$"}},
            ),
        )
        whole = _model("Manifest", self.head, {"apps": apps}).model_json_schema(schema_generator=_Defaults)
        defaults = whole["$defs"].get("Defaults", {}).get("properties", {})
        for name, store in self.stores.items():
            form = f"#/$defs/{name}-default-{{model}}"
            options = _partial(store.app_options.model_json_schema(ref_template=form, schema_generator=_Defaults))
            for model, definition in options.pop("$defs", {}).items():
                whole["$defs"][f"{name}-default-{model}"] = definition
            nothing = {"type": "null"}
            defaults[name] = {"anyOf": [options, nothing], "description": f"Options of {name} for every app."}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **whole,
            "title": "multidb manifest",
            "description": "Apps, and the isolated place that each has on shared database servers.",
        }


def shape_of(stores: Mapping[str, StoreSchema], secrets: Mapping[str, type[Section]] = INCLUDED_SECRETS) -> Shape:
    """The models of these stores, made once: to make them takes longer than to read a manifest, which a command does
    several times."""
    return _shape(tuple(stores.items()), tuple(secrets.items()))


@lru_cache(maxsize=8)
def _shape(stores: tuple[tuple[str, StoreSchema], ...], secrets: tuple[tuple[str, type[Section]], ...]) -> Shape:
    return Shape(dict(stores), dict(secrets))


def schema(
    stores: Mapping[str, StoreSchema],
    secrets: Mapping[str, type[Section]] = INCLUDED_SECRETS,
    *,
    overlay: bool = False,
) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the manifest, for editors and for the manifest reference.

    Args:
        secrets: the kinds of secret stores that there are, with the options of each.
        overlay: of a file such as ``multidb.prod.yaml``, which says only what differs: nothing has to be there.
    """
    document = Shape(stores, secrets).document
    if not overlay:
        return document
    partial: dict[str, Any] = _partial(document)
    return {**partial, "title": "multidb overlay", "description": "What an environment changes in the manifest."}


_DESCRIPTIONS: Final = {
    "servers": "The shared servers: one for each store.",
    "external": "Servers that exist already: where they are and how to log in.",
    "defaults": "Options that hold for every app that does not say otherwise.",
}


def _section(name: str, models: Mapping[str, Any], *, filled: bool) -> tuple[Any, Any]:
    """A section with one field per store; `filled`: a store that it leaves out has its defaults."""
    default = {store: {"default_factory": model} if filled else {"default": None} for store, model in models.items()}
    section = _model(
        name.capitalize(),
        Section,
        {store: (_nullable(model), Field(**cast("Any", default[store]))) for store, model in models.items()},
    )
    return _nullable(section), Field(default_factory=section, description=_DESCRIPTIONS[name])


def _modes(stores: Iterable[str]) -> Any:
    """A mode for every store, or a mapping of stores to modes."""
    names: Any = cast("Any", Literal)[tuple(stores)] if stores else str
    dictionary: Any = dict
    by_store: Any = dictionary[names, AppMode]
    return Annotated[
        by_store,
        BeforeValidator(
            lambda value: dict.fromkeys(stores, value) if isinstance(value, str) else {} if value is None else value,
            json_schema_input_type=AppMode | by_store | None,
        ),
    ]


def _deploy(poolers: Sequence[Pooler]) -> tuple[Any, Any]:
    """The section ``deploy``, with a profile and an image for each pooler."""
    base = Deploy.model_fields["profiles"]
    profiles: Any = cast("Any", Literal)[tuple(sorted([*PROFILES, *(pooler.name for pooler in poolers)]))]
    images = {
        image_option(pooler.name): (
            str,
            Field(
                default=pooler.image,
                pattern=IMAGE,
                json_schema_extra={"errorMessage": f"must be an image such as {pooler.image}"},
                description=f"The pooler's image; {pooler.oldest}.",
            ),
        )
        for pooler in poolers
    }
    section = _model(
        "Deploy",
        Deploy,
        {"profiles": (cast("Any", tuple)[profiles, ...], Field(default=(), description=base.description)), **images},
    )
    return _nullable(section), Field(default_factory=section, description="Layout of compose files.")


def _backup(stores: Iterable[str]) -> tuple[Any, Any]:
    """The section ``backup``, with continuous archiving for each store whose servers have a log."""
    section: Any = _model(
        "Backup",
        Backup,
        {
            store: (
                Annotated[Continuous, _or_empty(Continuous)],
                Field(default=Continuous(), description=f"Continuous archiving of {store}."),
            )
            for store in stores
        },
    )
    return Annotated[section, _or_empty(section)], Field(default=section(), description="Backups of every app.")


def _known(stores: Iterable[str]) -> tuple[Any, Any]:
    """The section ``known``, with a list of accounts per store."""
    accounts: Any = Annotated[
        cast("Any", tuple)[Account, ...],
        BeforeValidator(
            lambda value: () if value is None else value,
            json_schema_input_type=cast("Any", tuple)[Account, ...] | None,
        ),
    ]
    section = _model(
        "Known",
        Section,
        {
            store: (accounts, Field(default=(), max_length=1000, description=f"Accounts on {store}."))
            for store in stores
        },
    )
    about = (
        "Accounts that an operator knows beside the apps' own, by store: what one of them could do is in the audit's "
        "report, and is no hole."
    )
    return _nullable(section), Field(default_factory=section, description=about)


def _secrets(kinds: Mapping[str, type[Section]]) -> tuple[Any, Any]:
    """The section ``secrets``: the name of a kind that needs no options, or a kind with its options."""
    section: Any = _model(
        "Secrets",
        SecretsSection,
        {
            kind: (cast("Any", options) | None, Field(default=None, description=(options.__doc__ or "").split("\n")[0]))
            for kind, options in kinds.items()
        },
    )
    simple = tuple(kind for kind, options in kinds.items() if not any(map(_required, options.model_fields.values())))
    names: Any = cast("Any", Literal)[simple]

    def options_of(value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            return value
        if value not in (None, *kinds):
            raise ValueError(f"must be one of {', '.join(kinds)}")
        return {value or "file": {}}

    form = Annotated[section, BeforeValidator(options_of, json_schema_input_type=names | section | None)]
    about = "Where the credentials are kept that multidb makes; default: file, in .multidb/secrets.json."
    return form, Field(default_factory=lambda: section(file={}), description=about)


def secret_store_spec(value: object, kinds: Mapping[str, type[Section]] = INCLUDED_SECRETS) -> SecretStoreSpec:
    """What the value says of where secrets are kept, as it could stand in a manifest.

    Raises:
        ValueError: it says none; with a sentence for each mistake.
    """
    form, _ = _secrets(kinds)
    try:
        section: SecretsSection = TypeAdapter(form).validate_python(value)
    except ValidationError as error:
        mistakes = [
            ".".join(map(str, ("secrets", *mistake["loc"]))) + ": " + mistake["msg"].removeprefix("Value error, ")
            for mistake in error.errors(include_url=False, include_input=False)
        ]
        raise ValueError("; ".join(mistakes)) from None
    return section.spec


def _required(field: FieldInfo) -> bool:
    return field.is_required()


def _model(name: str, base: type[BaseModel], fields: Mapping[str, Any]) -> type[BaseModel]:
    return cast("type[BaseModel]", cast("Any", create_model)(name, __base__=base, **fields))


def _partial(part: Any, *, names: bool = False) -> Any:
    """A schema without its demands for completeness. `names`: the keys of `part` are property names, not keywords."""
    if isinstance(part, dict):
        return {
            key: _partial(value, names=not names and key in ("properties", "$defs"))
            for key, value in part.items()
            if names or key != "required"
        }
    return [_partial(item) for item in part] if isinstance(part, list) else part
