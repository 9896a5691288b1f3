"""A read-only question to apps' places on a store, and the rows that answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event
from typing import Any, TypeAlias

from multidb.model.core import Tenant
from multidb.secrets import Secret

__all__ = ["Batch", "Column", "ColumnType", "Question", "QuestionRows", "Querying"]

Batch: TypeAlias = Sequence[Sequence[Any]]
"""Some rows. A value is None, a text as the server writes it, or a plain JSON value."""


class ColumnType(StrEnum):
    """What the values of a column are, as far as the store tells."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    FLOAT = "float"
    DECIMAL = "decimal"
    DATE = "date"
    TIMESTAMP = "timestamp"
    INSTANT = "timestamp with time zone"
    JSON = "json"
    TEXT = "text"
    ANY = "any"  # each value by itself


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer."""

    name: str
    type: ColumnType = ColumnType.TEXT


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Args:
        words: as they were typed; what they mean is the store's.
        timeout: seconds that one app's answer may take in all; None: as long as it makes progress.
        cancelled: set when nobody waits for the answer any more.
    """

    words: tuple[str, ...]
    timeout: float | None = None
    cancelled: Event = field(default_factory=Event, compare=False)


@dataclass(frozen=True, slots=True)
class QuestionRows:
    """One app's answer: its columns, and its rows as they come."""

    columns: tuple[Column, ...]
    batches: Iterator[Batch]


@dataclass(frozen=True, slots=True)
class Querying:
    """How apps' places on a store are asked.

    Args:
        language: what questions are written in, as one word of small letters: the flag of `multidb query` for it.
        check: (words) -> `UsageError` where they are no question for this store. Asks no server.
        answer: (tenant, question) -> the app's answer, for a ``with`` block. The server refuses whatever writes. Raises
            `Missing` where what is asked for is not in the app's place, `NotAllowed` for what the server refuses, and
            `ServerError`, also while the rows come.
        example: what may be asked, for help.
        columns: (tenant, question) -> the columns that an answer will have, without running it; None: the store has no
            way to tell. Raises as `answer`.
        reader: (tenant, admin's password) -> the app as it comes with a login that can only read, made for as long as
            the block lasts. None: the app has one that does not change, or reads in transactions that cannot write.
    """

    language: str
    check: Callable[[Sequence[str]], None]
    answer: Callable[[Tenant, Question], AbstractContextManager[QuestionRows]]
    example: str
    columns: Callable[[Tenant, Question], tuple[Column, ...]] | None = None
    reader: Callable[[Tenant, Question, Secret | None], AbstractContextManager[Tenant]] | None = None
