"""What is said of usage, and by the service."""

from __future__ import annotations

from pydantic import AwareDatetime

from multidb.cli.documents.envelope import (
    AppId,
    DocumentPart,
    ErrorDocument,
    ResultDocument,
    ServerName,
    Size,
    StoreName,
)
from multidb.model.usage import Enforce
from multidb.usage.report import QuotaUse

__all__ = [
    "EnforcementDocument",
    "GrowthDocument",
    "LargestDocument",
    "QueryDocument",
    "QuotaDocument",
    "ServeDocument",
    "ServerUsageDocument",
    "StoreTotalDocument",
    "StoreUsageDocument",
    "UsageDocument",
]


class LargestDocument(DocumentPart):
    """One of the largest things of an app."""

    name: str
    size: Size


class QueryDocument(DocumentPart):
    """A query that took much time."""

    text: str
    calls: int
    mean_seconds: float
    total_seconds: float


class GrowthDocument(DocumentPart):
    """By how much an app has grown, or, below zero, shrunk."""

    size: Size
    since: AwareDatetime


class QuotaDocument(DocumentPart):
    """What an app may use."""

    size: Size
    enforce: Enforce
    share: float | None
    """How much of it is used, 1 being all."""


class StoreUsageDocument(DocumentPart):
    """What one app uses of one store."""

    server: ServerName
    size: int | None
    estimated: bool
    """Whether the size was reckoned from a sample."""
    connections: int | None
    connection_limit: int | None
    counts: dict[str, float]
    largest: list[LargestDocument]
    slow: list[QueryDocument]
    growth: GrowthDocument | None
    quota: QuotaDocument | None
    standing: QuotaUse
    read_only: bool
    """Whether it is read-only now because of its quota."""
    notes: list[str]


class StoreTotalDocument(DocumentPart):
    """What all apps have on one store together."""

    apps: int
    size: Size
    connections: int


class ServerUsageDocument(DocumentPart):
    """One server's own figures."""

    server: ServerName
    store: StoreName
    size: int | None
    connections: int | None
    connection_limit: int | None
    notes: list[str]
    error: ErrorDocument | None


class EnforcementDocument(DocumentPart):
    """Who is read-only because of a quota; each by store."""

    read_only: dict[str, list[AppId]]
    """From now on."""
    lifted: dict[str, list[AppId]]
    """No longer."""
    standing: dict[str, list[AppId]]
    """All that are."""
    powerless: dict[str, list[AppId]]
    """Those that should be, on servers that cannot do that for one app."""
    errors: dict[str, ErrorDocument]


class UsageDocument(ResultDocument):
    """What each app uses."""

    project: str
    looked_at: AwareDatetime
    apps: dict[str, dict[str, StoreUsageDocument]]
    """By app and store."""
    totals: dict[str, StoreTotalDocument]
    """By store."""
    servers: list[ServerUsageDocument]
    notes: list[str]
    enforced: EnforcementDocument | None = None
    """With `--enforce`."""


class ServeDocument(ResultDocument):
    """With `--show-token` the token, with `--check` what would be served and where."""

    token: str | None = None
    """In clear."""
    project: str | None = None
    address: str | None = None
    """A URL, or a socket's path."""
