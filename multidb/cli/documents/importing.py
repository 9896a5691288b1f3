"""What is said of servers that exist already, for a manifest to take over."""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime

from multidb.cli.documents.changes import AppliedServerDocument
from multidb.cli.documents.envelope import (
    AppId,
    DocumentPart,
    ErrorDocument,
    ResultDocument,
    ServerName,
    SetId,
    StoreName,
    Written,
)

__all__ = [
    "ExistingPlaceDocument",
    "ImportDocument",
    "ImportedDataDocument",
    "LagDocument",
    "ScannedServerDocument",
    "SurveyDocument",
]


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


class SurveyDocument(DocumentPart):
    """One store's data elsewhere, before anything is changed."""

    store: StoreName
    source: str
    """Its address without a password, or a path."""
    product: str
    counts: dict[str, int]
    estimated: bool
    """Whether some of the counts are estimates."""
    size: int | None
    """Bytes at the source."""
    renames: dict[str, str]
    """By name there, the name in the app's place, where they differ."""
    losses: list[str]
    """What does not come along."""
    obstacles: list[str]
    """Why it cannot be imported."""
    warnings: list[str]
    """What is to be thought about before."""
    following: str | None
    """Why changes that are made meanwhile cannot be followed; null: they can."""


class LagDocument(DocumentPart):
    """How far a copy that follows its source is behind it."""

    store: StoreName
    size: int | None
    """Bytes of changes; null: it is brought up to date by `--cutover`, and not by itself."""
    as_of: AwareDatetime | None
    """Where there is no size: it has every change up to this moment."""
    problem: str | None
    """Why it does not come nearer; null: it does."""


class ImportedDataDocument(DocumentPart):
    """Data from elsewhere, for an app."""

    app: AppId
    sources: list[SurveyDocument]
    imported: bool
    """Whether the app has it now."""
    seconds: float | None
    safety_set: SetId | None
    """The set of what the app had before."""
    differences: dict[StoreName, list[str]]
    """What had changed at the source when it was copied, and was accepted."""
    changes: list[AppliedServerDocument]
    """Of the apply that followed."""
    written: Written
    breaches: list[str]
    """What is open in the app's own walls."""
    open_elsewhere: list[str]
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""
    following: list[LagDocument]
    """Of copies that follow their sources from now on."""
    downtime: float | None
    """With `--cutover`: seconds in which nobody could write."""
    stopping: dict[StoreName, str]
    """With `--cutover`: how writing was stopped at the source, whether that lasts, and what undoes it."""
    left: list[str]
    """What could not be taken away at the source."""
    aborted: str | None
    """With `--abort`: what was done."""


class ImportDocument(ResultDocument):
    """Apps that are on servers already; or data from elsewhere, for one."""

    entries: dict[AppId, dict[str, Any]]
    """By app, what the manifest would say of it."""
    managed: list[AppId]
    """Apps of the manifest that have a place of their own already."""
    servers: list[ScannedServerDocument]
    accounts: dict[StoreName, list[str]]
    """By store, who may use places of the entries, beside apps' own."""
    written: Written
    data: ImportedDataDocument | None
    """With an app's name; then there is nothing in the others."""
