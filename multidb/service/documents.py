"""The answers of ``/health/databases`` as types, for the OpenAPI description; `HealthReport` makes what is sent."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["AppHealth", "FailureDocument", "HealthDocument", "Live", "OneAppHealth"]

StatusWord = Literal["healthy", "degraded", "unhealthy"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StoreHealth(_Document):
    """One app's place on one store, tried with the app's own credentials."""

    status: StatusWord
    message: str = Field(examples=["wrote and read"])
    hint: str | None = Field(examples=[None], description="What to do about it; null when there is nothing to do.")
    latency_ms: float | None = Field(examples=[3.2], description="Null when nothing was answered.")
    server: str = Field(examples=["server-1"])
    reached: bool | None = Field(description="Whether the server answered; null where it was not asked.")


class BackupHealth(_Document):
    """Whether the app's newest backup is as new as it has to be."""

    status: StatusWord
    message: str
    hint: str | None


class AppHealth(_Document):
    """One app: the worst of its stores and its backup."""

    status: StatusWord
    stores: dict[str, StoreHealth]
    backup: BackupHealth | None = None


class _HealthDocument(_Document):
    version: Literal[1]
    command: Literal["health"]
    ok: bool = Field(description="Whether the status is healthy.")
    status: StatusWord
    project: str = Field(examples=["digi"])
    checked_at: AwareDatetime = Field(description="When the check began, in UTC.")
    seconds: float = Field(description="How long the whole check took.")


class HealthDocument(_HealthDocument):
    """Every app; the status is the worst of them."""

    apps: dict[str, AppHealth]


class OneAppHealth(_HealthDocument):
    """One app; the status is that app's."""

    apps: dict[str, AppHealth] = Field(min_length=1, max_length=1)


class Error(_Document):
    code: str
    message: str
    where: str | None = None
    hint: str | None = None


class FailureDocument(_Document):
    """Why there is no answer."""

    version: Literal[1]
    command: str
    ok: Literal[False]
    error: Error


class Live(_Document):
    """The service runs; nothing is said of the databases."""

    status: Literal["alive"]
