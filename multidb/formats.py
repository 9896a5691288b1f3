"""The versions of what multidb keeps in files, and how a document of an earlier one becomes one of today's. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from multidb.document import Unreadable

__all__ = ["PLAN", "SECRETS", "SET", "STATE", "VERIFICATION", "Format", "NewerVersion", "Step"]

Step: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes of a document of one version one of the next. It changes nothing in what it is given, and asks nobody."""


class NewerVersion(Unreadable):
    """It was written by a newer multidb."""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of document.

    Args:
        version: the one that is written; the first is 1.
        steps: from each earlier version to the next, the one from 1 to 2 first.
    """

    version: int
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if len(self.steps) != self.version - 1:
            raise ValueError(f"version {self.version} takes {self.version - 1} steps, not {len(self.steps)}")

    def upgraded(self, document: dict[str, Any], version: object) -> dict[str, Any]:
        """The document as it would be written now.

        Args:
            version: which it says that it is of.

        Raises:
            NewerVersion: it is of one that only a newer multidb knows.
            Unreadable: it has no version.
        """
        if type(version) is not int or version < 1:
            raise Unreadable("has no version")
        if version > self.version:
            raise NewerVersion(
                f"is of version {version}, which a newer multidb has written; this one reads up to {self.version}"
            )
        for step in self.steps[version - 1 :]:
            document = step(document)
        return document


def _with_files(document: dict[str, Any]) -> dict[str, Any]:
    """Sets had nothing of an app beside its stores."""
    return {**document, "format": "multidb set 2", "files": None}


STATE = Format(1)  # .multidb/state.json
SECRETS = Format(1)  # .multidb/secrets.json
SET = Format(2, (_with_files,))  # manifest.json of a backup set
VERIFICATION = Format(1)  # verified.json beside it
PLAN = Format(1)  # multidb plan --out
