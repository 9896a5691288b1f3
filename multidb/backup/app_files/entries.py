"""What a location has, one entry after the other, and the measures of it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO, Final

from multidb.document import Unreadable, inside, printable
from multidb.model import Measures, counted

__all__ = ["MODE", "FileEntry", "FileKind", "Omissions", "Tally", "link_stays_inside", "merged"]

MODE: Final = 0o644
"""Of a file in storage that has no permissions."""


class FileKind(StrEnum):
    FOLDER = "folder"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One thing in a location.

    Args:
        path: relative to the location; empty for what is the location itself.
        mode: its permissions, without what would give a program another's power.
        modified: seconds since 1970.
        target: where a link leads.
        open: the bytes of a file, of which `size` are read; None for what is no file.
    """

    path: str
    kind: FileKind
    size: int = 0
    mode: int = MODE
    modified: float = 0.0
    target: str = ""
    open: Callable[[], AbstractContextManager[BinaryIO]] | None = field(default=None, compare=False, repr=False)


class Tally:
    """Counts and digests the entries of one location, which come in one order whoever lists them.

    Args:
        name: of the location in the set.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self._files = self._bytes = 0

    def add(self, entry: FileEntry, sha256: str = "") -> None:
        """One entry more.

        Args:
            sha256: of a file's bytes.
        """
        line = [entry.path, entry.kind.value, entry.mode if entry.kind is not FileKind.LINK else 0, entry.target]
        self._digest.update(json.dumps([*line, sha256]).encode() + b"\n")
        if entry.kind is FileKind.FILE:
            self._files += 1
            self._bytes += entry.size

    def measures(self) -> Measures:
        """Of what was added."""
        counts = {f"files {self._name}": self._files, f"bytes {self._name}": self._bytes}
        return Measures(counts, {f"files {self._name}": self._digest.hexdigest()})


class Omissions:
    """What of a location is in no set, by the reason, and one of the names."""

    def __init__(self) -> None:
        self._reasons: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, path: str) -> None:
        """One more, for a reason that goes after "1 file" and "3 files"."""
        number, first = self._reasons.get(reason, (0, printable(path)))
        self._reasons[reason] = number + 1, first

    def notes(self, name: str) -> list[str]:
        """A sentence for each reason."""
        return [
            f"{printable(name)}: {counted(number, 'entry', 'entries')} {reason} (such as {first})"
            for reason, (number, first) in self._reasons.items()
        ]


def link_stays_inside(path: str, target: str) -> bool:
    """Whether a link at `path` leads to something in its location, whatever other links of it lead to: it goes up
    only at its beginning, out of folders that are real ones."""
    steps = target.split("/")
    up = next((number for number, step in enumerate(steps) if step != ".."), len(steps))
    if up > path.count("/"):
        return False
    rest = "/".join(steps[up:])
    if not rest:
        return up > 0
    try:
        return inside(rest) == rest
    except Unreadable:
        return False


def merged(measures: Mapping[str, Measures]) -> Measures:
    """Of several locations together."""
    counts = {name: count for one in measures.values() for name, count in one.counts.items()}
    fingerprints = {name: digest for one in measures.values() for name, digest in one.fingerprints.items()}
    return Measures(counts, fingerprints)
