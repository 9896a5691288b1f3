"""What the manifest may say about Redis and Valkey: an app's place, and the server. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from multidb.model.options import ContainerOptions, Section, TextForm
from multidb.provisioners.redis.provision.profiles import PROFILES, ProfileName

__all__ = ["FIRST_DB", "STORE", "AppOptions", "MaxMemory", "ServerOptions", "memory_text"]

STORE: Final = "redis"
FIRST_DB = 1  # DB 0 is where every connection starts; it belongs to nobody
_CHANNEL = re.compile(r"[!-~]+")


def _memory_of(amount: str) -> int:
    """The bytes of ``512mb`` (powers of 1024) or ``512m`` (powers of 1000), as the server reads them."""
    digits = amount.rstrip("kKmMgGbB")
    unit = amount[len(digits) :].lower()
    factor: int = (1024 if unit.endswith("b") else 1000) ** " kmg".index(unit[:1] or " ")
    return int(digits) * factor


def memory_text(amount: int) -> str:
    """Bytes as the server's configuration has them, in the largest unit of which they are a whole number."""
    for power, unit in ((3, "gb"), (2, "mb"), (1, "kb")):
        if amount % 1024**power == 0:
            return f"{amount // 1024**power}{unit}"
    return str(amount)


MaxMemory = Annotated[
    int,
    TextForm(
        r"^[1-9][0-9]*([kKmMgG][bB]?)?$", "must be an amount of memory such as 512mb or 2gb", _memory_of, memory_text
    ),
]


class AppOptions(Section):
    """What an app may say under ``redis:``."""

    db: int | None = Field(
        default=None,
        description="The app's DB number, 1 or higher. Without it multidb chooses a free one and keeps to it.",
    )
    isolation: Literal["auto", "database", "prefix"] = Field(
        default="auto",
        description="database: a DB number of its own. prefix: keys that start with '<app>:', in DB 0, for clusters "
        "and servers with few DB numbers. auto: database, and prefix on a cluster.",
    )
    channels: tuple[str, ...] = Field(
        default=(),
        description="Pub/sub channel patterns beside '<app>:*'. Apps that name the same pattern hear each other.",
    )
    profile: ProfileName | None = Field(
        default=None,
        description="The library that the app uses: gives it the commands, the channels of its own and the variables "
        "that this one needs, and nothing that another app has too.",
    )
    scripts: bool = Field(
        default=False,
        description="Whether the app may run Lua scripts and functions (EVAL, EVALSHA, FCALL), as Celery, BullMQ, "
        "Sidekiq and locks of redis-py do. A script that writes and then does not end stops the server for all apps, "
        "and only killing the server ends it.",
    )

    @field_validator("db")
    @classmethod
    def _not_zero(cls, value: int | None) -> int | None:
        if value is not None and value < FIRST_DB:
            raise ValueError("must be 1 or higher: connections start in DB 0, so it is kept empty and is no app's own")
        return value

    @field_validator("channels")
    @classmethod
    def _plain_channels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not _CHANNEL.fullmatch(pattern):
                raise ValueError("must be channel patterns of printable ASCII without spaces, such as rq:pubsub:*")
            if pattern.startswith(("*", "?", "[", "\\", "_")):
                raise ValueError("must be channel patterns that start with a letter, such as rq:pubsub:*")
        return value

    @model_validator(mode="before")
    @classmethod
    def _scripts_of_the_profile(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("profile") is not None and "scripts" not in value:
            return {**value, "scripts": True}
        return value

    @model_validator(mode="after")
    def _what_the_profile_needs(self) -> AppOptions:
        if self.profile is None:
            return self
        if not self.scripts:
            raise ValueError(f"must be scripts: true, or none of it, with profile: {self.profile}, which runs scripts")
        if self.isolation == "prefix" and not PROFILES[self.profile].works_with_prefix:
            raise ValueError(f"must be isolation: database with profile: {self.profile}, whose keys have fixed names")
        return self

    @model_validator(mode="after")
    def _number_only_in_database_mode(self) -> AppOptions:
        if self.db is not None and self.isolation == "prefix":
            raise ValueError("must be isolation: database when db is given; with prefix every app lives in DB 0")
        return self


class ServerOptions(ContainerOptions):
    """What may stand under ``servers.redis``."""

    port: int | None = Field(default=None, ge=1, le=65535, description="TCP port; a free one is chosen without it.")
    databases: int = Field(default=64, ge=2, le=100_000, description="How many DB numbers the server has.")
    maxmemory: MaxMemory | None = Field(
        default=None, description="Memory limit, such as 512mb. It is shared by all apps."
    )
    default_user: Literal["close", "keep"] = Field(
        default="close",
        repr=False,  # a running server knows nothing of it
        description="What becomes of a default user that needs no password: it is turned off, or kept as it is "
        "(then the apps are not isolated).",
    )
