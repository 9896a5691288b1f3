"""What is said of removed apps."""

from __future__ import annotations

from pydantic import AwareDatetime

from multidb.cli.documents.changes import AppliedChanges
from multidb.cli.documents.envelope import AppId, DocumentPart, ResultDocument
from multidb.tombstone import Phase

__all__ = ["PurgeDocument", "RemoveAppDocument", "RemovedDocument", "UndoRemoveDocument"]


class RemovedDocument(DocumentPart):
    """An app that was removed."""

    phase: Phase
    since: AwareDatetime
    until: AwareDatetime
    """How long its data is meant to stay."""
    final_set: str | None
    """The set that was made before."""


class RemoveAppDocument(RemovedDocument, ResultDocument):
    """An app that is out."""

    app: AppId


class UndoRemoveDocument(AppliedChanges):
    """An app that is back."""

    app: AppId


class PurgeDocument(ResultDocument):
    """An app that is gone for good; without a name all that were removed."""

    app: str | None = None
    final_set: str | None = None
    removed: dict[str, RemovedDocument] | None = None
    """By app."""
