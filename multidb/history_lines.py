"""The lines of a project's history, where its state is: added one after the other, each holding on to the last.

In a folder they are in one file, ``history/runs.jsonl``. In a place that has no file to add to, a line is added by
writing what it is added to once more; so there they are in segments of some size, ``runs.jsonl``,
``runs-000002.jsonl`` and on. ``head.json`` has the number and the SHA-256 of the last line, and the segment that it is
in. It is written after the line; a line beyond it is one whose run was killed just then, and sound.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from multidb import files
from multidb.concurrency import side_by_side
from multidb.document import Unreadable, digest, parse
from multidb.errors import UsageError
from multidb.state import ProjectState
from multidb.state_file import StateFile, numbered, until_written, write_new
from multidb.state_store import StateStore
from multidb.validation import Count, Document, Sha256, validated

__all__ = [
    "HEAD",
    "LONGEST_LINE",
    "NOTHING",
    "FolderLines",
    "HistoryHead",
    "HistoryLines",
    "SharedLines",
    "link_of",
    "opened",
]

HEAD: Final = "history/head.json"
NOTHING: Final = "0" * 64  # what the first line follows on
LONGEST_LINE: Final = 4 * 1024**2  # bytes
_VERSION: Final = 1
_SEGMENT: Final = 128 * 1024  # bytes, with which no more is added to one: it would be written anew for each line
_AT_ONCE: Final = 8  # segments that are read side by side


class HistoryHead(Document):
    """What `HEAD` says of the last line; of number 0 where there is none."""

    version: Literal[1] = 1
    number: Count = 0
    digest: Sha256 = NOTHING
    segment: Count = 1

    @classmethod
    def parse(cls, text: str | None) -> HistoryHead:
        """What a text of `text` says; that there is no line for anything else."""
        with suppress(Unreadable):
            if text:
                return validated(parse(text, LONGEST_LINE), cls)
        return cls()

    def text(self) -> str:
        """As it is written down."""
        segment = {"segment": self.segment} if self.segment > 1 else {}
        return json.dumps({"version": _VERSION, "number": self.number, "digest": self.digest, **segment}) + "\n"

    def after(self, last: bytes, entry: Mapping[str, Any], segment: int = 1) -> tuple[str, HistoryHead]:
        """The line that says `entry` and comes next, and the head that belongs to it.

        Args:
            last: the last line that stands there. One that is another than it was is known by what follows on the one
                that it was.
        """
        before = link_of(last)[0] or 0
        previous = self.digest if self.number >= before else digest(last)
        number, at = max(self.number, before) + 1, datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"version": _VERSION, "number": number, "previous": previous, "at": at, **entry})
        return line, HistoryHead(number=number, digest=digest(line.encode()), segment=segment)


class HistoryLines(Protocol):
    """Where the lines are."""

    @property
    def title(self) -> str:
        """What a person calls the place."""

    def add(self, entry: Mapping[str, Any]) -> None:
        """Adds a line. Whole or not at all, and kept when this returns.

        Raises:
            Locked: others have been adding some for a minute.
            UsageError: it cannot be written.
            StateUnavailable: the place cannot be reached, or does not let us write.
        """

    def head(self) -> HistoryHead:
        """What is known of the last line."""

    def lines(self) -> Iterator[bytes]:
        """Every line, the first one first, without its end."""

    def set_aside(self, name: str) -> str:
        """Puts all of it under another name, or that with a number where it is taken; gives the name."""


def opened(state: ProjectState) -> HistoryLines:
    """Where the lines of this project's history are."""
    return SharedLines(state.store) if state.is_shared else FolderLines(state)


def link_of(line: bytes) -> tuple[int | None, str]:
    """A line's number, and the digest of the line that it follows on; None for one that is none of ours."""
    with suppress(ValueError):
        match json.loads(line):
            case {"number": int(number), "previous": str(previous)} if number > 0:
                return number, previous
    return None, ""


class FolderLines:
    """In the project's folder. What was moved here from elsewhere may be in several segments."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state
        self._head = state.folder / HEAD
        self.title = str(self._head.parent)

    def add(self, entry: Mapping[str, Any]) -> None:
        with self._state.turn("history"):
            head = self.head()
            path = self._path(head.segment)
            last, end = files.last_line(path, LONGEST_LINE)
            line, after = head.after(last, entry, head.segment)
            files.append_line(path, line, end)
            files.write_text(self._head, after.text(), mode=files.PRIVATE)

    def head(self) -> HistoryHead:
        return HistoryHead.parse(files.read_text(self._head))

    def lines(self) -> Iterator[bytes]:
        for segment in range(1, self.head().segment + 1):
            yield from files.lines(self._path(segment), LONGEST_LINE)

    def set_aside(self, name: str) -> str:
        with self._state.turn("history"):
            aside = next(name for name in numbered(name) if not (self._state.folder / name).exists())
            try:
                self._head.parent.rename(self._state.folder / aside)
            except OSError as error:
                raise UsageError(f"cannot be moved: {error.strerror}", where=self.title) from None
        return aside

    def _path(self, segment: int) -> Path:
        return self._state.folder / _segment(segment)


class SharedLines:
    """In a place of several machines.

    Args:
        size: bytes with which a segment is full.
    """

    def __init__(self, store: StateStore, size: int = _SEGMENT) -> None:
        self._store = store
        self._size = size
        self.title = f"the history beside {store.title}"

    def add(self, entry: Mapping[str, Any]) -> None:
        until_written(lambda: self._added(entry), self.title, "added a line")

    def head(self) -> HistoryHead:
        return HistoryHead.parse(self._store.read_file(HEAD).text)

    def lines(self) -> Iterator[bytes]:
        segment = self.head().segment
        known = range(1, segment + 1)
        for text in side_by_side(self._text, known, at_once=_AT_ONCE):
            yield from _lines(text or "")
        while text := self._text(segment := segment + 1):  # begun by a run that was killed before it could say so
            yield from _lines(text)

    def set_aside(self, name: str) -> str:
        head = self._store.read_file(HEAD)
        aside = next(name for name in numbered(name) if write_new(self._store, f"{name}/head.json", head.text or ""))
        segment = 0
        while (kept := self._store.read_file(_segment(segment := segment + 1))).text is not None:
            write_new(self._store, _segment(segment, aside), kept.text)
            self._store.write_file(_segment(segment), "", kept.version)
        self._store.write_file(HEAD, "", head.version)
        return aside

    def _added(self, entry: Mapping[str, Any]) -> bool:
        head = self.head()
        segment, last = head.segment, b""
        kept = self._store.read_file(_segment(segment))
        while len(kept.text or "") >= self._size:
            last = _last(kept.text, last)
            segment += 1
            kept = self._store.read_file(_segment(segment))
        line, after = head.after(_last(kept.text, last), entry, segment)
        if not self._store.write_file(_segment(segment), f"{kept.text or ''}{line}\n", kept.version):
            return False
        StateFile(self._store, HEAD).change(lambda text: _newer(text, after))
        return True

    def _text(self, segment: int) -> str | None:
        return self._store.read_file(_segment(segment)).text


def _newer(text: str | None, after: HistoryHead) -> str | None:
    """The head's new text; None where that is further on already."""
    return after.text() if HistoryHead.parse(text).number < after.number else None


def _segment(number: int, folder: str = "history") -> str:
    return f"{folder}/runs.jsonl" if number == 1 else f"{folder}/runs-{number:06}.jsonl"


def _lines(text: str) -> list[bytes]:
    return text.removesuffix("\n").encode().split(b"\n") if text else []


def _last(text: str | None, otherwise: bytes) -> bytes:
    return _lines(text)[-1] if text else otherwise
