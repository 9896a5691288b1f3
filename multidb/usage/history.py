"""The sizes of earlier looks, one line of JSON each, so that growth can be told. Small, and safe to lose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate, takewhile
from pathlib import Path

from pydantic import TypeAdapter

from multidb import files
from multidb.document import in_future, parse
from multidb.errors import Locked, UsageError
from multidb.state import ProjectState
from multidb.validation import Count, Document, Moment, validated

__all__ = ["History", "Look"]

_NAME = "usage.jsonl"
_MOST_BYTES = 1_000_000
_LARGEST_LINE = 64 * 1024**2  # bytes
_MOST_LOOKS = 2_000
_OFTEN = timedelta(minutes=1)  # looks nearer than this to the one before are not kept


class _LookDocument(Document):
    at: Moment
    sizes: dict[str, dict[str, Count]]


_LOOK = TypeAdapter(_LookDocument)


@dataclass(frozen=True, slots=True)
class Look:
    """When it was, and the bytes that were found, by app and store."""

    at: datetime
    sizes: Mapping[str, Mapping[str, int]]

    def size(self, app: str, store: str) -> int | None:
        """Bytes of the app on the store; None where they were not known."""
        return self.sizes.get(app, {}).get(store)

    def line(self) -> str:
        """The look as one line of the history file."""
        sizes = {app: dict(stores) for app, stores in self.sizes.items()}
        return json.dumps({"at": self.at.isoformat(timespec="seconds"), "sizes": sizes}, separators=(",", ":"))

    @classmethod
    def parse(cls, line: str) -> Look:
        """`ValueError` for anything that `line` did not write."""
        document = validated(parse(line, _LARGEST_LINE), _LOOK)
        return cls(document.at, document.sizes)


class History:
    """The looks of one project, oldest first, in ``.multidb/usage.jsonl``."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state
        self._path = state.folder / _NAME

    def looks(self) -> tuple[list[Look], str]:
        """Every look that is kept; and a note, where the file was damaged and has been moved aside."""
        try:
            with self._state.turn("usage"):
                return self._read()
        except (Locked, UsageError) as error:  # nothing can be written there now; what it holds can be read
            try:
                text = files.read_text(self._path) or ""
                return [Look.parse(line) for line in text.splitlines()], ""
            except (ValueError, UsageError):
                return [], f"{error}; growth is not told"

    def sizes(self, app: str, store: str) -> list[tuple[datetime, int]]:
        """How large the app was at each look, oldest first."""
        sizes = [(look.at, look.size(app, store)) for look in self.looks()[0]]
        return [(at, size) for at, size in sizes if size is not None]

    def add(self, look: Look) -> None:
        """Keeps the look, and drops the oldest when there are too many. What comes within a minute is not kept."""
        with self._state.turn("usage"):
            looks, _ = self._read()
            looks = [earlier for earlier in looks if not in_future(earlier.at, look.at)]  # a clock was wrong then
            if not looks or look.at - looks[-1].at >= _OFTEN:
                files.write_text(self._path, "".join(_newest([*looks, look])), mode=files.PRIVATE)

    def rename(self, old: str, new: str) -> None:
        """What was seen of an app is of its new name from now on."""
        with self._state.turn("usage"):
            looks, _ = self._read()
            if any(old in look.sizes for look in looks):
                renamed = [replace(look, sizes=_under(look.sizes, old, new)) for look in looks]
                files.write_text(self._path, "".join(_newest(renamed)), mode=files.PRIVATE)

    def _read(self) -> tuple[list[Look], str]:
        try:
            text = files.read_text(self._path) or ""
            return [Look.parse(line) for line in text.splitlines()], ""
        except (ValueError, UsageError):
            return [], self._move_aside()

    def _move_aside(self) -> str:
        aside = _free(self._path.with_name(f"{_NAME}.damaged"))
        try:
            self._path.rename(aside)
        except OSError as error:
            raise UsageError(f"cannot be moved: {error.strerror}", where=str(self._path)) from None
        return f"{self._path} was damaged and is now {aside.name}; growth is counted from here on"


def _under(sizes: Mapping[str, Mapping[str, int]], old: str, new: str) -> dict[str, Mapping[str, int]]:
    return {new if app == old else app: stores for app, stores in sizes.items() if app != new or old not in sizes}


def _newest(looks: Iterable[Look]) -> list[str]:
    """The newest lines that fit, oldest first."""
    lines = [f"{look.line()}\n" for look in looks][-_MOST_LOOKS:]
    fitting = takewhile(lambda total: total <= _MOST_BYTES, accumulate(len(line) for line in reversed(lines)))
    return lines[-max(1, sum(1 for _ in fitting)) :]


def _free(path: Path) -> Path:
    """`path`, or with a number where that is taken."""
    return next(
        candidate
        for number in range(10_000)
        if not (candidate := path.with_name(f"{path.name}{number or ''}")).exists()
    )
