"""What is said of the apps: where they are, what they have there, what they get."""

from __future__ import annotations

from pydantic import AwareDatetime

from multidb.alternation import RotationPhase
from multidb.apps import Presence
from multidb.cli.documents.envelope import AppId, DocumentPart, ErrorDocument, ResultDocument, StoreName, Written
from multidb.model import Isolation, Status
from multidb.secrets import Alternate

__all__ = [
    "AnswerDocument",
    "AppSummaryDocument",
    "AppsDocument",
    "ConnectDocument",
    "CredentialUseDocument",
    "EnvDocument",
    "LogsDocument",
    "ShowDocument",
    "StandingDocument",
    "StoreAccessDocument",
]


class AppSummaryDocument(DocumentPart):
    """One app on one line."""

    app: AppId
    presence: Presence
    stores: list[StoreName]
    health: Status | None
    size: int | None
    """Bytes on all of its stores together."""
    verified_at: AwareDatetime | None
    """When the newest of its sets that were verified was made."""
    issued_at: AwareDatetime | None
    """When the oldest of its credentials was made."""
    note: str | None


class AppsDocument(ResultDocument):
    """Every app that there is or was."""

    apps: list[AppSummaryDocument]


class StoreAccessDocument(DocumentPart):
    """What an app has in one store."""

    isolation: Isolation
    why: str
    names: list[str]
    read_at: AwareDatetime
    """When the server was asked."""


class CredentialUseDocument(DocumentPart):
    """Sessions of one login from one address."""

    login: str
    sessions: int
    address: str | None
    since: AwareDatetime | None
    """When the oldest of them began."""


class StandingDocument(DocumentPart):
    """How an app's credentials stand on one store."""

    current: Alternate
    """Which of the two its variables have."""
    phase: RotationPhase | None
    """How far their rotation has come; null: they were never rotated."""
    since: AwareDatetime | None
    """When that phase began."""
    issued_at: AwareDatetime | None
    """When those were made that the app's variables have; null: before that was recorded."""
    former_used_by: list[CredentialUseDocument]


class ShowDocument(ResultDocument):
    """One app."""

    app: AppId
    tenant_id: str
    where: str
    """Its entry in the manifest."""
    stores: dict[str, StoreAccessDocument]
    credentials: dict[str, StandingDocument]
    """By store; who uses former ones is asked of the servers with `--live` only."""
    labels: dict[str, str]
    variables: dict[str, str]
    """Those of its env file, secrets as `***`."""


class EnvDocument(ResultDocument):
    """An app's variables; with `--write` the file that they were written to."""

    app: AppId
    variables: dict[str, str] | None = None
    """In clear with `--reveal`, or where one was asked for by name."""
    written: Written | None = None


class AnswerDocument(DocumentPart):
    """What came of one statement."""

    columns: list[str]
    rows: list[list[str]]
    note: str


class ConnectDocument(ResultDocument):
    """What a store has answered to the statements that came by a pipe."""

    answers: list[AnswerDocument]
    error: ErrorDocument | None = None
    """Only where a statement failed, which ended the run."""


class LogsDocument(ResultDocument):
    """The last lines of the servers' logs; with `--follow` one document for each line of one server."""

    logs: dict[str, list[str]] | None = None
    """By server."""
    server: str | None = None
    line: str | None = None
