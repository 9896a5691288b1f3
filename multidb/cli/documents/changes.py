"""What is said of changes: plans and what was made of them, of resources, credentials, names and files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue

from multidb.admin_credentials import AdminPhase
from multidb.alternation import RotationPhase
from multidb.cli.documents.envelope import (
    AppId,
    DocumentPart,
    ErrorDocument,
    Hint,
    ResultDocument,
    ServerName,
    StoreName,
    Written,
)
from multidb.deployment import FileState
from multidb.model import Action, Cause, Isolation

__all__ = [
    "AddAppDocument",
    "AppliedChanges",
    "AppliedServerDocument",
    "ApplyDocument",
    "ChangeDocument",
    "ChangeFailureDocument",
    "ChangedDocument",
    "FieldDocument",
    "IsolationDocument",
    "ManifestEditDocument",
    "MoveDocument",
    "PlanDocument",
    "PlannedChanges",
    "PlannedDocument",
    "PlannedMoveDocument",
    "PlannedServerDocument",
    "RecoverDocument",
    "RenameAppDocument",
    "RenderDocument",
    "RenderedDocument",
    "RotateDocument",
    "RotatedAppDocument",
    "RotatedServerDocument",
    "StatementDocument",
    "StoreCredentialsDocument",
    "WarningDocument",
]


class FieldDocument(DocumentPart):
    """One thing that is otherwise than the manifest says."""

    field: str
    old: JsonValue
    new: JsonValue


class StatementDocument(DocumentPart):
    """A statement as it is sent. Secrets stand in it as parameters."""

    text: str
    scope: str
    """The database that it is run in; empty where that makes no difference."""


class ChangeDocument(DocumentPart):
    """A change of one thing on a server."""

    action: Action
    store: StoreName
    server: ServerName
    kind: str
    """What it is, such as `role`, `database`, `collection`."""
    name: str
    app: str | None
    """Whose it is; null: the server's as a whole."""
    fields: list[FieldDocument]
    statements: list[StatementDocument]
    cause: Cause | None
    """What has changed since it was last as it was asked for: what is asked for (`manifest`), the server, and not by
    multidb (`server`), or `both`; null where that is not known."""
    reason: str | None = None
    """Why it is a conflict."""


class IsolationDocument(DocumentPart):
    """How real the wall around an app is."""

    level: Isolation
    why: str


class PlannedServerDocument(DocumentPart):
    """One server as it was read."""

    server: ServerName
    store: StoreName
    version: str
    digest: str
    """The same where the same would be done."""
    isolation: dict[str, IsolationDocument]
    """By app."""
    error: ErrorDocument | None
    """Why it could not be read."""
    skipped: str | None
    """Why this machine cannot have it."""
    unread: dict[str, ErrorDocument]
    """By app, why its place could not be read."""
    notes: list[str]


class PlannedMoveDocument(DocumentPart):
    """An app that has another place on a server than the manifest gives it. No apply moves it; its own command does."""

    app: AppId
    store: StoreName
    server: ServerName
    from_: Annotated[str, Field(alias="from")]
    """Where it is, such as `database brain`."""
    to: str
    """Where the manifest has it."""
    size: int | None
    """Bytes that it has there; null where nobody looked."""
    obstacles: list[str]
    """What stands against it."""
    mentions: list[str]
    """What would be otherwise afterwards without failing, such as text that names the old place: to be agreed to."""
    command: str
    """What moves it."""


class WarningDocument(DocumentPart):
    """What no apply sets right."""

    subject: str
    message: str
    hint: Hint


class PlannedChanges(DocumentPart):
    project: str
    digest: str
    """SHA-256; the same where the same would be done."""
    counts: dict[Action, int]
    servers: list[PlannedServerDocument]
    changes: list[ChangeDocument]
    left: list[ChangeDocument]
    """What differs and is left as it is, by the mode of its app."""
    moves: list[PlannedMoveDocument]
    """The apps that are to go elsewhere with their data."""
    warnings: list[WarningDocument]


class PlannedDocument(PlannedChanges):
    """A plan inside another document."""


class PlanDocument(PlannedChanges, ResultDocument):
    """What would change on the servers."""


class ChangedDocument(DocumentPart):
    """A change, by what it changes."""

    action: Action
    kind: str
    name: str
    app: str | None


class ChangeFailureDocument(DocumentPart):
    """A change that failed, and why."""

    change: ChangedDocument
    error: ErrorDocument


class AppliedServerDocument(DocumentPart):
    """What was done on one server."""

    server: ServerName
    store: StoreName
    done: list[ChangedDocument]
    failed: ChangedDocument | None
    """The first that failed."""
    failures: list[ChangeFailureDocument]
    not_tried: list[ChangedDocument]
    error: ErrorDocument | None


class AppliedChanges(ResultDocument):
    servers: list[AppliedServerDocument]
    error: ErrorDocument | None = None
    """Only where something was left undone."""


class ApplyDocument(AppliedChanges):
    """What was planned, and what was done of it."""

    plan: PlannedDocument


class ManifestEditDocument(DocumentPart):
    """An edit of the manifest, or of a file that it includes."""

    file: str
    added: bool
    """The app is new; else its entry was changed."""
    lines: list[str]
    """What was taken out (``-``) and put in (``+``), between the lines around it."""


class AddAppDocument(ResultDocument):
    """An app that was added or changed; without `--no-apply` also what was made for it."""

    app: AppId
    applied: bool
    manifest: ManifestEditDocument
    skipped: dict[str, str] | None = None
    """By server that cannot be had on this machine, why."""
    plan: PlannedDocument | None = None
    servers: list[AppliedServerDocument] | None = None
    written: Written | None = None
    error: ErrorDocument | None = None


class StoreCredentialsDocument(DocumentPart):
    """An app's credentials on one store."""

    phase: RotationPhase | None
    """How far their rotation has come; null: they were never rotated."""
    since: AwareDatetime | None
    """When that phase began."""
    issued_at: AwareDatetime | None
    """When those were made that the app's variables have; null: before that was recorded."""
    ended_sessions: int | None
    """How many sessions of the other ones were ended just now; null: none was to be, or the store has none."""
    left_out: str | None
    """Why they are not rotated there."""


class RotatedAppDocument(DocumentPart):
    """What came of a rotation of one app."""

    app: AppId
    step: Literal["prepare", "finish", "abort", "now"] | None
    """What was done; null: nothing was to be done."""
    stores: dict[str, StoreCredentialsDocument]
    written: Written
    error: ErrorDocument | None


class RotatedServerDocument(DocumentPart):
    """What came of a rotation of a server's admin's password."""

    server: ServerName
    step: Literal["prepare", "finish", "abort", "now"] | None
    """What was done; null: nothing was to be done."""
    phase: AdminPhase | None
    """How far its rotation has come; null: there was none, or it was taken back."""
    since: AwareDatetime | None
    """When that phase began."""
    restarted: bool
    """Whether the server was started anew."""
    left_out: str | None
    """Why it is not rotated."""
    error: ErrorDocument | None


class RotatedCertificateDocument(DocumentPart):
    """A new certificate of a server in a container, of a pooler before one, or of the authority."""

    name: str
    """Of the container; `authority`."""
    until: AwareDatetime | None
    """When it ends."""
    restarted: bool
    """Whether what has it was started anew."""
    error: str | None
    """Why it did not take it; `multidb up` tries again."""


class RotateDocument(ResultDocument):
    """New credentials of apps; with `--admin`, new passwords of the servers' admins; with `--certificates`, theirs."""

    apps: list[RotatedAppDocument]
    servers: list[RotatedServerDocument]
    certificates: list[RotatedCertificateDocument]


class RenameAppDocument(ResultDocument):
    """An app under another name; with `--abort`, back under its own."""

    app: AppId
    was: str | None
    """What it was called before; null where it was aborted."""
    aborted: bool
    final_set: str | None = None
    """The last set under the old name; null: none was made."""
    notes: list[str] | None = None
    """What of it could not be copied."""
    mentions: list[str] | None = None
    """What names in its text a place that is called otherwise now, where this run has looked."""
    servers: list[AppliedServerDocument] | None = None
    error: ErrorDocument | None = None
    breaches: list[str] | None = None
    """What is open in the app's own walls."""
    open_elsewhere: list[str] | None = None
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class MoveDocument(ResultDocument):
    """An app that is where the manifest has it, with its data; with `--abort`, where it was."""

    app: AppId
    moved: bool
    """False: it was there already, or is back."""
    aborted: bool
    from_: Annotated[str | None, Field(alias="from")]
    """The place that it had, where this run has read it."""
    to: str | None
    seconds: float | None
    """For how long its logins were off; null where an earlier run turned them off."""
    mentions: list[str]
    """What names the old place in its text, or has stayed behind."""
    final_set: str | None
    """The set of the old place that was made first; null: none was made."""
    notes: list[str]
    """What of it could not be copied."""
    servers: list[AppliedServerDocument] | None = None
    error: ErrorDocument | None = None
    breaches: list[str] | None = None
    """What is open in the app's own walls."""
    open_elsewhere: list[str] | None = None
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class RenderedDocument(DocumentPart):
    """One file of the deployment."""

    path: str
    state: FileState
    """What was there before."""
    secret: bool
    """Whether only its owner may read it."""


class RenderDocument(ResultDocument):
    """The files by which the project is run in containers."""

    files: list[RenderedDocument]
    written: Written


class RecoverDocument(AppliedChanges):
    """A server that multidb is back in."""

    server: ServerName
