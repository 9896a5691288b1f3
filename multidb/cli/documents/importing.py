"""What is said of servers that exist already, for a manifest to take over."""

from __future__ import annotations

from typing import Any

from multidb.cli.documents.envelope import (
    AppId,
    DocumentPart,
    ErrorDocument,
    ResultDocument,
    ServerName,
    StoreName,
    Written,
)

__all__ = ["ExistingPlaceDocument", "ImportDocument", "ScannedServerDocument"]


class ExistingPlaceDocument(DocumentPart):
    """Something on a server that holds data, or lets somebody have some."""

    kind: str
    name: str
    app: AppId | None
    """The app whose place it is or would be."""
    reason: str | None
    """Why it can be no app's."""
    accounts: list[str]
    """Those that may use it, beside an app's own."""
    notes: list[str]
    """What of it an entry does not say."""


class ScannedServerDocument(DocumentPart):
    """One server, and what is there."""

    server: ServerName
    store: StoreName
    product: str | None
    places: list[ExistingPlaceDocument]
    error: ErrorDocument | None
    skipped: str | None


class ImportDocument(ResultDocument):
    """Apps that are on servers already."""

    entries: dict[AppId, dict[str, Any]]
    """By app, what the manifest would say of it."""
    managed: list[AppId]
    """Apps of the manifest that have a place of their own already."""
    servers: list[ScannedServerDocument]
    accounts: dict[StoreName, list[str]]
    """By store, who may use places of the entries, beside apps' own."""
    written: Written
