"""What every document has: its envelope, its errors, the kinds of its texts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AppId",
    "EnvelopeDocument",
    "ErrorDocument",
    "FailedRunDocument",
    "Hint",
    "DocumentPart",
    "ProblemDocument",
    "ResultDocument",
    "ServerName",
    "SetId",
    "Size",
    "StoreName",
    "TargetName",
    "Written",
]

AppId = Annotated[str, Field(description="An app.")]
ServerName = Annotated[str, Field(description="A server, as `multidb status` calls it.")]
StoreName = Annotated[str, Field(description="A store, such as `postgres`.")]
SetId = Annotated[str, Field(description="A backup set.")]
TargetName = Annotated[str, Field(description="Where sets are kept, as the manifest writes it.")]
Size = Annotated[int, Field(description="Bytes.")]
Hint = Annotated[str | None, Field(description="What to do next, with the command to run; null: nothing.")]
Written = Annotated[list[str], Field(description="The files that were written.")]


class DocumentPart(BaseModel):
    """What a document is made of; a key that has no type here is a fault."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ProblemDocument(DocumentPart):
    """One mistake in a manifest. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    message: str
    suggestion: str | None


class ErrorDocument(DocumentPart):
    """What went wrong, of the whole run or of one app, store, server or set."""

    code: str
    """One word for programs, such as `usage`, `manifest`, `refused`, `conflict`, `locked`, `server-down`, `archive`."""
    message: str
    where: str | None
    """A place to go to: a file with its line, an app, a server with its address."""
    hint: Hint
    problems: list[ProblemDocument] | None = None
    """Each mistake by itself, where the manifest is wrong."""


class EnvelopeDocument(DocumentPart):
    version: Literal[1]
    """Of this shape."""
    command: str
    """The command, with that of its group: `backups list`."""


class ResultDocument(EnvelopeDocument):
    ok: bool
    """Whether all is as it should be; the exit code says how it is not."""


class FailedRunDocument(EnvelopeDocument):
    """A run that came to no result."""

    ok: Literal[False]
    error: ErrorDocument
