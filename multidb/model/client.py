"""How a person works in an app's place on a store: with the store's own program, or at a prompt of multidb's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum

from multidb.errors import UsageError
from multidb.secrets import Secret

__all__ = ["AppAccess", "AppClient", "PromptAnswer"]


class AppAccess(Enum):
    """What an app's place is entered for: the app's everyday work, to read only, or to change its schema."""

    WORK = "work"
    READ_ONLY = "read-only"
    MIGRATION = "migration"

    def refusal(self, credential: str, app: str) -> UsageError:
        """That an app has no such credential (``login on Redis``) to read only, or for migrations."""
        asked, option = ("only reads", "--read-only") if self is AppAccess.READ_ONLY else ("migrates", "--migrate")
        return UsageError(f"an app has no {credential} that {asked}", where=f"app {app}", hint=f"leave {option} out")


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """What came of one statement.

    Args:
        columns: headings; none: each row is one text.
        note: what there is to say beside the rows (``3 rows changed``).
    """

    columns: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class AppClient:
    """An app's own login on a store, for a person.

    Args:
        programs: the store's own, the best first; none: there is only the prompt.
        arguments: what they are started with; never a secret.
        env: what they are told otherwise, secrets included.
        unset: how variables of the caller's begin that would make the program somebody else.
        prompt: opens a connection as the app and gives what answers one statement. Both raise `MultidbError`.
    """

    prompt: Callable[[], AbstractContextManager[Callable[[str], PromptAnswer]]]
    programs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str | Secret] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
