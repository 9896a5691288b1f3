"""What the manifest says of deployment, backups, quotas and notices, the same for every store; and what the options of
each store are built on.

The models that check the manifest are the values that everything behind it works with; lengths of time and sizes are
parsed when they are read, and written back in the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from multidb.model.figures import bytes_of, duration_of, duration_text, memory_of, memory_text
from multidb.secret_source import SecretSource

__all__ = [
    "Account",
    "AppBackup",
    "AppDeploy",
    "AppQuota",
    "Backup",
    "Certificates",
    "ContainerOptions",
    "Continuous",
    "Deploy",
    "Duration",
    "Encrypt",
    "IMAGE",
    "Keep",
    "Memory",
    "Notify",
    "PROFILES",
    "Proxy",
    "Rotate",
    "Rotating",
    "RuntimeKind",
    "Section",
    "Size",
    "StoreOwned",
    "TextForm",
    "Webhook",
    "image_option",
]


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a value stands in the manifest: as a text, which `read` parses and `write` gives back.

    Args:
        pattern: of the text.
        sentence: what a person reads when it has not that form; begins with "must be".
    """

    pattern: str
    sentence: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            self.read,
            core_schema.str_schema(pattern=self.pattern),
            serialization=core_schema.plain_serializer_function_ser_schema(self.write),
        )

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"errorMessage": self.sentence, "pattern": self.pattern, "type": "string"}


Duration = Annotated[
    timedelta,
    TextForm(
        r"^[1-9][0-9]{0,6}(ms|s|m|min|h|d|w)$",
        "must be a duration such as 30s, 2min, 24h or 7d",
        duration_of,
        duration_text,
    ),
]
Size = Annotated[
    int,
    TextForm(
        r"^[1-9][0-9]*(\.[0-9]+)? ?([kKMGT]i?)?B$",
        "must be a size such as 500MB or 5GB",
        bytes_of,
        "{}B".format,
    ),
]
Memory = Annotated[
    int,
    TextForm(r"^[1-9][0-9]*[mMgG]$", "must be an amount of memory such as 512m or 2g", memory_of, memory_text),
]


def _matching(pattern: str, sentence: str) -> Any:
    """A text of the given form; `sentence` ("must be ...") is what a person reads when it is not."""
    return Field(pattern=pattern, json_schema_extra={"errorMessage": sentence})


Recipient = Annotated[
    str,
    _matching(r"^(age1[a-z0-9]{20,}|ssh-(ed25519|rsa) .{40,})$", "must be a public key of age (age1...) or ssh"),
]
Account = Annotated[
    str,
    _matching(r"^[^\x00-\x1f\x7f]{1,255}$", "must be the name of an account, as its server has it"),
]
IMAGE = r"^[a-z0-9][A-Za-z0-9._/@:-]*$"  # a container's image, with or without a tag or a digest
_PORT = _matching(r"^(([0-9.]+:)?[0-9]{1,5}:)?[0-9]{1,5}(/(tcp|udp))?$", "must be a port such as 8000, or 8080:80")
Port = Annotated[
    str,
    _PORT,
    BeforeValidator(
        lambda value: str(value) if isinstance(value, int) and not isinstance(value, bool) else value,
        json_schema_input_type=Annotated[str, _PORT] | int,
    ),
]


class StoreOwned:
    """What a store has made, or the manifest for it: the layers above hand it on without looking into it."""

    __slots__ = ()

    @classmethod
    def of(cls, value: object) -> Self:
        """It, as the store's own again. `TypeError` where it is another store's, or there is none."""
        if not isinstance(value, cls):
            raise TypeError(f"{value!r} is no {cls.__module__}.{cls.__qualname__}")
        return value


class Section(BaseModel, StoreOwned):
    """A mapping of the manifest; a key that it does not know is a mistake. The options that an app may have of a store
    are one, too: each store has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class RuntimeKind(StrEnum):
    """Where a project's servers come from, as the manifest says. What follows from it stands here, so that nothing else
    has to compare names."""

    EMBEDDED = "embedded"
    COMPOSE = "compose"
    EXTERNAL = "external"

    @property
    def starts_servers(self) -> bool:
        """Whether the servers are the project's own: multidb starts and stops them, and nobody else uses them."""
        return self is not RuntimeKind.EXTERNAL

    @property
    def in_containers(self) -> bool:
        """Whether the servers run in the containers of the rendered compose files."""
        return self is RuntimeKind.COMPOSE

    @property
    def configures_servers(self) -> bool:
        """Whether a server's configuration is multidb's alone: no template, image or environment has a part in it."""
        return self is RuntimeKind.EMBEDDED

    @property
    def takes_offline(self) -> bool:
        """Whether a server can be stopped for a moment, for work on its files (`Runtime.take_offline`)."""
        return self is RuntimeKind.EMBEDDED


class ContainerOptions(Section):
    """The part of ``servers.<store>`` that is the same for every store. Each has its own, with a default everywhere."""

    image: str | None = Field(
        default=None,
        pattern=IMAGE,
        json_schema_extra={"errorMessage": "must be an image such as postgres:18, or one with a digest (@sha256:...)"},
        description="Container image instead of the official one, best with a version or a digest.",
    )
    memory: Memory | None = Field(
        default=None, description="The most memory that the container may take, such as 512m or 2g."
    )
    cpus: float | None = Field(
        default=None, gt=0, le=1024, description="The most processors that the container may use, such as 1.5."
    )

    @classmethod
    def of(cls, value: object) -> Self:
        """As `StoreOwned.of`; the defaults where the manifest says nothing of the server (None)."""
        return cls() if value is None else super().of(value)

    def port_of(self, name: str) -> int | None:
        """The port that the manifest fixes by this option (``port``, ``grpc_port``); None where one is chosen."""
        port: int | None = getattr(self, name)
        return port

    def unfit(self, runtime: RuntimeKind) -> Mapping[str, str]:
        """Options that cannot be kept with this runtime: by name, why not."""
        return {}


class Keep(Section):
    """How many backup sets stay."""

    last: int = Field(default=3, ge=1, description="The newest sets, whatever their age.")
    daily: int = Field(default=7, ge=0, description="One set for each of so many days.")
    weekly: int = Field(default=4, ge=0, description="One set for each of so many weeks.")
    monthly: int = Field(default=0, ge=0, description="One set for each of so many months.")


class Encrypt(Section):
    """For whom sets are encrypted. They can be read only with the secret key of one of them."""

    recipients: tuple[Recipient, ...] = Field(
        min_length=1, description="Public keys of age (age1...) or ssh. The secret key is never in the manifest."
    )


class Backup(Section):
    """When backups are made, where they go and how long they stay."""

    every: Duration = Field(default=timedelta(hours=24), description="The longest time between two backups.")
    to: tuple[str, ...] = Field(
        default=("backups/",),
        min_length=1,
        description="Where sets go, each to all of them: folders (relative to the manifest), s3://bucket/prefix, or "
        "any other URL that fsspec knows. Credentials come from the environment.",
    )
    quiesce: bool = Field(
        default=False, description="Turn the app's logins off meanwhile, so that all of its stores are of one moment."
    )
    encrypt: Encrypt | None = Field(default=None, description="Encrypt sets; default: they are not encrypted.")
    keep: Keep = Field(default=Keep(), description="How many sets stay.")
    verify: Literal["always", "daily", "weekly", "monthly", "never"] = Field(
        default="weekly", description="How often a set is verified by restoring it."
    )

    def continuous(self, store: str) -> Continuous:
        """What is said of the continuous archiving of a store's servers; its defaults where nothing is."""
        options: Continuous = getattr(self, store, None) or Continuous()
        return options


class Continuous(Section):
    """Continuous archiving of a store's servers: what they write is taken away as it comes, for an app to be brought
    back as of any moment."""

    continuous: bool = Field(
        default=False,
        description="Archive what the servers write, all apps' at once, to the targets of backup.to: multidb restore "
        "APP --at MOMENT brings one app back. The runs of multidb backup --due, or --watch, do it.",
    )
    base_every: Duration = Field(
        default=timedelta(days=1), description="The longest time between two base backups, which a restore begins with."
    )
    keep: Duration = Field(default=timedelta(days=7), description="How far back an app can be brought, at least.")
    lag: Duration = Field(
        default=timedelta(minutes=15),
        description="How old the newest moment in the archive may be before multidb health says so.",
    )


class Certificates(Section):
    """One certificate for every server, made elsewhere."""

    cert: str = Field(
        min_length=1,
        description="Certificate in PEM, with its chain. It names every server as the apps call it, and localhost and "
        "127.0.0.1, by which multidb connects.",
    )
    key: str = Field(min_length=1, description="Its private key in PEM, without a passphrase.")
    ca: str = Field(min_length=1, description="The certificate of the authority that apps trust, in PEM.")


class Proxy(Section):
    """The reverse proxy that speaks TLS before `multidb serve`."""

    name: str = Field(
        default="localhost",
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
        json_schema_extra={"errorMessage": "must be a host name such as multidb.example.com, in small letters"},
        description="The name by which browsers reach it. A public one gets a certificate from Let's Encrypt, and is "
        "published to the world; localhost one that the proxy signs itself, and is published on this machine only.",
    )
    subnet: IPv4Network = Field(
        default=IPv4Network("172.31.86.0/28"),
        description="Network between proxy and multidb in containers; another where this machine uses it already.",
    )
    image: str = Field(
        default="caddy:2.11.7",
        pattern=IMAGE,
        json_schema_extra={"errorMessage": "must be an image of Caddy 2"},
        description="The proxy's image: Caddy 2.",
    )

    @field_validator("subnet")
    @classmethod
    def _room(cls, subnet: IPv4Network) -> IPv4Network:
        if not 16 <= subnet.prefixlen <= 29:
            raise ValueError("must be a network of /16 to /29, such as 172.31.86.0/28")
        return subnet

    @property
    def address(self) -> str:
        """The proxy's own in its network, whose first address is the gateway's."""
        return str(self.subnet[2])

    @property
    def others(self) -> str:
        """The part of the network from which every other container gets its address, so that none gets the proxy's:
        the engine gives the first free one, and multidb is started before its proxy."""
        return str(list(self.subnet.subnets())[1])


PROFILES = ("backup", "monitoring", "proxy", "serve")
"""What can run beside the servers, whatever stores there are."""


class Deploy(Section):
    """How servers and apps are laid out in compose files. A manifest's has an image for each pooler of a store, too."""

    strategy: Literal["single", "separate", "hybrid"] = Field(
        default="hybrid",
        description="single: one compose file. separate: one per app. hybrid: the servers in one, each app in its own.",
    )
    profiles: tuple[str, ...] = Field(default=(), description="Optional services that run beside the servers.")
    expose: Literal["loopback", "none"] = Field(
        default="loopback",
        description="loopback: the servers' ports are published on 127.0.0.1. none: they are reached in their own "
        "network only.",
    )
    tls: Literal["none", "own"] | Certificates = Field(
        default="none",
        json_schema_extra={"errorMessage": "must be none, own, or {cert: FILE, key: FILE, ca: FILE}"},
        description="none: plain connections. own: an authority that multidb makes, and a certificate from it for each "
        "server. {cert, key, ca}: given files, relative to the manifest. Servers refuse plain connections then.",
    )
    backup_image: str = Field(
        default="multidb",
        pattern=IMAGE,
        json_schema_extra={"errorMessage": "must be an image, with multidb as its entrypoint"},
        description="The image of the services that run multidb, which is its entrypoint. There is no official one: "
        "`docker build -t multidb .` in multidb's repository makes it.",
    )
    proxy: Proxy = Field(default_factory=Proxy, description="The proxy of the profile proxy.")

    def image_of(self, pooler: str, usual: str) -> str:
        """The image of the pooler so called; `usual` where nobody has said one."""
        image: str = getattr(self, image_option(pooler), usual)
        return image


def image_option(pooler: str) -> str:
    """The option of ``deploy`` that has the image of the pooler so called."""
    return f"{pooler}_image"


class Webhook(Section):
    """An address that is told when something is wrong, and when it is well again."""

    url: SecretSource = Field(description="Where its address is read from; whoever has the address can use it.")
    form: Literal["json", "slack"] = Field(
        default="json", description="json: one document. slack: a text, as Slack, Mattermost and Rocket.Chat take it."
    )


class Notify(Section):
    """Who is told when an app is unhealthy, a wall is open, a server has drifted, a backup is late or credentials are
    too old."""

    webhooks: tuple[Webhook, ...] = Field(default=(), max_length=8, description="Addresses that are told.")
    heartbeat: SecretSource | None = Field(
        default=None,
        description="Where the address is read from that is called after every check of the apps' health, whatever "
        "it found: the service behind it says when the calls stop.",
    )
    about: tuple[Literal["unhealthy", "breach", "drift", "backup", "quota", "credentials"], ...] = Field(
        default=("unhealthy", "breach", "drift", "backup", "quota", "credentials"), description="What is told."
    )
    remind: Duration = Field(
        default=timedelta(hours=24), description="How often it is said again as long as nothing changes."
    )


class Rotate(Section):
    """How old credentials may become."""

    every: Duration = Field(
        description="The age at which credentials are due: multidb rotate --auto replaces them, and health says so."
    )


Rotating = Annotated[
    Rotate | Literal["never"] | None,
    Field(json_schema_extra={"errorMessage": "must be never, or an age such as {every: 90d}"}),
]


class AppBackup(Section):
    """What differs for this app from the manifest's backup section."""

    every: Duration | None = Field(default=None, description="The longest time between two backups of this app.")
    to: tuple[str, ...] | None = Field(default=None, description="Where this app's sets are written.")
    keep: Keep | None = Field(default=None, description="How many sets of this app stay.")
    verify: Literal["always", "daily", "weekly", "monthly", "never"] | None = Field(
        default=None, description="How often a set of this app is verified by restoring it."
    )
    quiesce: bool | None = Field(default=None, description="Whether this app's logins are off meanwhile.")
    encrypt: Encrypt | None = Field(default=None, description="For whom this app's sets are encrypted.")


class AppQuota(Section):
    """The most that the app should keep in one store."""

    size: Size = Field(description="The bytes that its data may take: 500MB, 5GiB.")
    enforce: Literal["warn", "read-only"] = Field(
        default="warn",
        description="warn: multidb usage and the metrics show it. read-only: multidb usage --enforce also lets the app "
        "only read and delete, until it is below 90 %, on servers that can do that.",
    )


class AppDeploy(Section):
    """How the app's own container is run."""

    image: str | None = Field(default=None, min_length=1, description="The container image.")
    ports: tuple[Port, ...] = Field(default=(), description="Published ports: 8000, or host:container.")
    command: str | tuple[str, ...] | None = Field(default=None, description="What runs instead of the image's command.")
