"""What is said of servers, of the manifest that names them, and of this machine."""

from __future__ import annotations

from pydantic import Field, JsonValue

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
from multidb.model import Level
from multidb.runtime import ServerState

__all__ = [
    "AskedServerDocument",
    "CompletionDocument",
    "DiagnosedDocument",
    "DoctorDocument",
    "InitDocument",
    "RestartDocument",
    "SchemaDocument",
    "ServerStatusDocument",
    "ServersDocument",
    "ValidateDocument",
]


class DiagnosedDocument(DocumentPart):
    """One thing that was looked at."""

    level: Level
    subject: str
    message: str
    hint: Hint


class AskedServerDocument(DocumentPart):
    """One server that was asked."""

    server: ServerName
    store: StoreName
    where: str
    """What the manifest says of it, as file:line:column."""
    address: str | None
    """Null where it has none yet."""
    product: str | None
    """With its version; null where it could not be asked."""
    ok: bool
    """Whether nothing is known to be in the way of an apply."""
    findings: list[DiagnosedDocument]
    """What its admin may do there, and what not."""
    error: ErrorDocument | None
    """Why it could not be asked, or why it cannot have the apps of the manifest."""
    skipped: str | None
    """Why this machine cannot have it."""


class InitDocument(ResultDocument):
    """A manifest to start from."""

    written: Written
    ignored: list[str]
    """The lines that were added to `.gitignore`."""
    servers: list[AskedServerDocument] | None = None
    """Those that exist already, each as it was tried."""


class ServerStatusDocument(DocumentPart):
    """One server, and whether it runs."""

    server: ServerName
    store: StoreName
    state: ServerState
    address: str | None
    pid: int | None
    """Its process on this machine; null where there is none, as of containers."""
    message: str


class ServersDocument(ResultDocument):
    """The servers of the manifest."""

    servers: list[ServerStatusDocument]


class RestartDocument(ServersDocument):
    """Servers that were stopped and started again."""

    cut_off: list[str]
    """Apps with a place on a server that was stopped: their connections ended."""


class DoctorDocument(ResultDocument):
    """What stands in the way."""

    findings: list[DiagnosedDocument]


class ValidateDocument(ResultDocument):
    """A manifest without problems."""

    project: str
    runtime: str
    apps: list[AppId]
    servers: list[AskedServerDocument] | None = None
    """With `--connect`, each as it was asked."""


class SchemaDocument(ResultDocument):
    """The manifest's JSON Schema."""

    schema_: dict[str, JsonValue] = Field(alias="schema")


class CompletionDocument(ResultDocument):
    """The script by which a shell completes; with `--install` where it was written."""

    shell: str
    script: str | None = None
    written: Written | None = None
    to_do: str | None = None
    """What is left to do there."""
