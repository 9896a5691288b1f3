"""The sizes of earlier looks, one line of JSON each, so that growth can be told. Small, and safe to lose; it is kept
beside the state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate, takewhile

from pydantic import TypeAdapter

from multidb.document import in_future, parse
from multidb.errors import MachineError, MultidbError, UsageError
from multidb.state import ProjectState
from multidb.state_file import numbered
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
    """The looks of one project, oldest first."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state
        self._file = state.file(_NAME)

    def looks(self) -> tuple[list[Look], str]:
        """Every look that is kept; and a note, where the file was damaged and has been put aside."""
        try:
            return _parsed(self._file.read()), ""
        except MachineError as error:
            return [], f"{error}; growth is not told"
        except (ValueError, MultidbError) as wrong:
            try:
                return [], self._set_aside()
            except MultidbError as error:  # nothing can be written there now
                return [], f"{wrong if isinstance(wrong, MultidbError) else error}; growth is not told"

    def sizes(self, app: str, store: str) -> list[tuple[datetime, int]]:
        """How large the app was at each look, oldest first."""
        sizes = [(look.at, look.size(app, store)) for look in self.looks()[0]]
        return [(at, size) for at, size in sizes if size is not None]

    def add(self, look: Look) -> None:
        """Keeps the look, and drops the oldest when there are too many. What comes within a minute is not kept."""

        def changed(text: str | None) -> str | None:
            looks = [earlier for earlier in _parsed(text) if not in_future(earlier.at, look.at)]  # a clock was wrong
            return "".join(_newest([*looks, look])) if not looks or look.at - looks[-1].at >= _OFTEN else None

        self._change(changed)

    def rename(self, old: str, new: str) -> None:
        """What was seen of an app is of its new name from now on."""

        def changed(text: str | None) -> str | None:
            looks = _parsed(text)
            if not any(old in look.sizes for look in looks):
                return None
            return "".join(_newest(replace(look, sizes=_under(look.sizes, old, new)) for look in looks))

        self._change(changed)

    def _change(self, changed: Callable[[str | None], str | None]) -> None:
        try:
            self._file.change(changed)
        except MachineError:  # nothing is known of what is in it
            raise
        except (ValueError, UsageError):
            self._set_aside()
            self._file.change(changed)

    def _set_aside(self) -> str:
        """Puts a damaged file under another name; says so."""
        if self._state.is_shared:
            aside = self._file.set_aside(f"{_NAME}.damaged")
        else:  # it may hold what is no text
            path = self._state.folder / _NAME
            free = next(free for free in map(path.with_name, numbered(f"{_NAME}.damaged")) if not free.exists())
            try:
                path.rename(free)
            except OSError as error:
                raise UsageError(f"cannot be moved: {error.strerror}", where=str(path)) from None
            aside = free.name
        return f"{self._file.title} was damaged and is now {aside}; growth is counted from here on"


def _parsed(text: str | None) -> list[Look]:
    """`ValueError` for anything that was not written here."""
    return [Look.parse(line) for line in (text or "").splitlines()]


def _under(sizes: Mapping[str, Mapping[str, int]], old: str, new: str) -> dict[str, Mapping[str, int]]:
    return {new if app == old else app: stores for app, stores in sizes.items() if app != new or old not in sizes}


def _newest(looks: Iterable[Look]) -> list[str]:
    """The newest lines that fit, oldest first."""
    lines = [f"{look.line()}\n" for look in looks][-_MOST_LOOKS:]
    fitting = takewhile(lambda total: total <= _MOST_BYTES, accumulate(len(line) for line in reversed(lines)))
    return lines[-max(1, sum(1 for _ in fitting)) :]
