"""What is said of a question to many apps."""

from __future__ import annotations

from typing import Any

from multidb.cli.documents.envelope import AppId, DocumentPart, ErrorDocument, ResultDocument, ServerName, StoreName
from multidb.model import ColumnType
from multidb.query.execution import AppStatus

__all__ = ["AppAnswerDocument", "ColumnDocument", "QuestionDocument"]


class ColumnDocument(DocumentPart):
    """A column of one app's answer. No two of an answer have the same name."""

    name: str
    type: ColumnType


class AppAnswerDocument(DocumentPart):
    """What one app has answered."""

    app: AppId
    server: ServerName | None
    status: AppStatus
    """`missing`: it has no such table, schema or collection; `incomplete`: some rows came before something failed."""
    row_count: int
    """How many rows were taken."""
    limited: bool
    """Whether there are more than the limit."""
    seconds: float
    columns: list[ColumnDocument] | None
    """Null where the rows were written elsewhere; none where it has not answered."""
    rows: list[list[Any]] | None
    """Each a value for each column."""
    error: ErrorDocument | None
    """Why it has not answered, or not to the end; of one that is missing, what it does not have."""
    skipped: str | None
    """Why its server was not asked."""


class QuestionDocument(ResultDocument):
    """A question, and the answer of each app in the order of the manifest."""

    project: str
    store: StoreName
    question: list[str]
    """As it was typed."""
    limit: int | None
    """Of rows of each app; null: none."""
    answers: list[AppAnswerDocument]
    table: str | None
    """With `--into`, the table that has the rows."""
